//! Converts voxels to HU: unscaled int16 voxels stay int16, all others become float32.

use super::Limits;
use crate::view::Kind;

/// How voxels are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) kind: Kind,
    pub(super) swapped: bool,
    /// Slope and intercept: HU = stored value · slope + intercept.
    pub(super) scaling: (f64, f64),
}

impl Format {
    #[allow(clippy::float_cmp)]
    fn is_plain(self) -> bool {
        self.scaling == (1.0, 0.0)
    }

    pub(super) fn is_int16(self) -> bool {
        self.kind == Kind::I16 && self.is_plain()
    }
}

/// Sampled voxels.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// Voxels of an unscaled int16 image.
    Int16(Vec<i16>),
    /// Voxels of any other image.
    Float32(Vec<f32>),
}

/// A voxel in HU.
pub(super) trait Value: Copy + 'static {
    const NAME: &'static str;
    fn decode(bytes: &[u8], format: Format, out: &mut Vec<Self>);
    /// The bytes of `values` in memory, little-endian.
    fn bytes(values: &[Self]) -> &[u8];
    fn counts(limits: Limits) -> Counts<Self>;
    fn sample(values: Vec<Self>) -> Sample;
    fn to_f64(self) -> f64;
    /// The nearest integer HU, with halves rounded to even. `None` if the value is NaN or infinite.
    fn rounded(self) -> Option<i32>;
    /// Add `values` to `counts`.
    fn tally(values: &[Self], counts: &mut Counts<Self>);
}

/// Extremes and outliers.
pub(super) struct Counts<T> {
    low: T,
    high: T,
    limits: (T, T),
    pub(super) not_finite: u64,
    pub(super) below: u64,
    pub(super) above: u64,
}

impl<T: Value> Counts<T> {
    pub(super) fn add(&mut self, values: &[T]) {
        // The counts of one chunk fit into small integers, which vectorise.
        for part in values.chunks(1 << 14) {
            T::tally(part, self);
        }
    }

    pub(super) fn range(&self) -> (f64, f64) {
        (self.low.to_f64(), self.high.to_f64())
    }
}

// patchcore is built for little-endian machines only, so bytes in memory equal bytes in a file.
const _: () = assert!(cfg!(target_endian = "little"));

impl Value for i16 {
    const NAME: &'static str = "int16";

    fn decode(bytes: &[u8], format: Format, out: &mut Vec<Self>) {
        out.clear();
        let words = bytes.as_chunks::<2>().0.iter();
        if format.swapped {
            out.extend(words.map(|&word| i16::from_be_bytes(word)));
        } else {
            out.extend(words.map(|&word| i16::from_le_bytes(word)));
        }
    }

    fn bytes(values: &[Self]) -> &[u8] {
        // SAFETY: every byte of an i16 is initialised, and bytes need no alignment.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), 2 * values.len()) }
    }

    fn counts(limits: Limits) -> Counts<Self> {
        // Limits are rounded inwards: an integer is below `lowest` exactly if it is below `lowest` rounded up.
        let low = limits.lowest.ceil().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16;
        let high = limits.highest.floor().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16;
        Counts { low: i16::MAX, high: i16::MIN, limits: (low, high), not_finite: 0, below: 0, above: 0 }
    }

    fn sample(values: Vec<Self>) -> Sample {
        Sample::Int16(values)
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn rounded(self) -> Option<i32> {
        Some(i32::from(self))
    }

    fn tally(values: &[Self], counts: &mut Counts<Self>) {
        let (mut low, mut high) = (counts.low, counts.high);
        for &value in values {
            low = low.min(value);
            high = high.max(value);
        }
        (counts.low, counts.high) = (low, high);
        let limits = counts.limits;
        if low < limits.0 {
            counts.below += values.iter().filter(|&&value| value < limits.0).count() as u64;
        }
        if high > limits.1 {
            counts.above += values.iter().filter(|&&value| value > limits.1).count() as u64;
        }
    }
}

impl Value for f32 {
    const NAME: &'static str = "float32";

    fn decode(bytes: &[u8], format: Format, out: &mut Vec<Self>) {
        out.clear();
        macro_rules! convert {
            ($type:ty, $size:literal) => {{
                let words = bytes.as_chunks::<$size>().0.iter();
                #[allow(clippy::cast_lossless)]
                if format.swapped {
                    out.extend(words.map(|&word| <$type>::from_be_bytes(word) as f32));
                } else {
                    out.extend(words.map(|&word| <$type>::from_le_bytes(word) as f32));
                }
            }};
        }
        match format.kind {
            Kind::Bool => out.extend(bytes.iter().map(|&byte| f32::from(u8::from(byte != 0)))),
            Kind::U8 => convert!(u8, 1),
            Kind::I8 => convert!(i8, 1),
            Kind::U16 => convert!(u16, 2),
            Kind::I16 => convert!(i16, 2),
            Kind::U32 => convert!(u32, 4),
            Kind::I32 => convert!(i32, 4),
            Kind::U64 => convert!(u64, 8),
            Kind::I64 => convert!(i64, 8),
            Kind::F32 => convert!(f32, 4),
            Kind::F64 => convert!(f64, 8),
        }
        if !format.is_plain() {
            let (slope, intercept) = (format.scaling.0 as f32, format.scaling.1 as f32);
            for value in out {
                // Two roundings, as in NumPy (product, then sum). The compiler does not fuse the two operations.
                *value = *value * slope + intercept;
            }
        }
    }

    fn bytes(values: &[Self]) -> &[u8] {
        // SAFETY: every byte of an f32 is initialised, and bytes need no alignment.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), 4 * values.len()) }
    }

    fn counts(limits: Limits) -> Counts<Self> {
        let limits = (limits.lowest as f32, limits.highest as f32);
        Counts { low: f32::INFINITY, high: f32::NEG_INFINITY, limits, not_finite: 0, below: 0, above: 0 }
    }

    fn sample(values: Vec<Self>) -> Sample {
        Sample::Float32(values)
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn rounded(self) -> Option<i32> {
        self.is_finite().then(|| self.round_ties_even() as i32)
    }

    fn tally(values: &[Self], counts: &mut Counts<Self>) {
        let (mut low, mut high) = (counts.low, counts.high);
        let (mut not_finite, mut below, mut above) = (0u32, 0u32, 0u32);
        for &value in values {
            low = if value < low { value } else { low };
            high = if value > high { value } else { high };
            not_finite += u32::from(!value.is_finite());
            below += u32::from(value < counts.limits.0);
            above += u32::from(value > counts.limits.1);
        }
        (counts.low, counts.high) = (low, high);
        counts.not_finite += u64::from(not_finite);
        counts.below += u64::from(below);
        counts.above += u64::from(above);
    }
}
