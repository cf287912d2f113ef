//! Converts one voxel for a window: scaled to [0, 1], unscaled, or checked as a label.

use half::{bf16, f16};

/// An element type in which intensities can be written.
pub trait Intensities: Copy + Default + PartialEq + Send + Sync + 'static {
    /// The nearest value of this type.
    fn of(value: f32) -> Self;
}

impl Intensities for f32 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }
}

impl Intensities for i16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value.round_ties_even() as i16
    }
}

impl Intensities for f16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Intensities for bf16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

/// The conversion `P` with its result written as `O`.
#[derive(Clone, Copy)]
pub(crate) struct As<P, O>(pub(crate) P, pub(crate) std::marker::PhantomData<fn() -> O>);

impl<P: Pixel<Out = f32>, O: Intensities> Pixel for As<P, O> {
    type In = P::In;
    type Out = O;
    type Note = P::Note;
    #[inline(always)]
    fn padding(self) -> O {
        O::of(self.0.padding())
    }
    #[inline(always)]
    fn convert(self, voxel: P::In) -> O {
        O::of(self.0.convert(voxel))
    }
}

/// Converts voxels of type `In` to elements of a window.
pub(crate) trait Pixel: Copy + Sync {
    type In: Copy;
    type Out: Copy + Default + PartialEq + Send;
    /// A summary of all converted voxels; it starts with its default value.
    type Note: Copy + Default;

    fn padding(self) -> Self::Out;
    fn convert(self, voxel: Self::In) -> Self::Out;
    fn note(_note: &mut Self::Note, _voxel: Self::In) {}
    /// Whether all voxels in the summary could be converted.
    fn accepts(_note: Self::Note) -> bool {
        true
    }
}

/// Clip to a range and scale to [0, 1]. NaN becomes the lower end, like padding.
#[derive(Clone, Copy)]
pub(crate) struct Scale<T, W> {
    low: W,
    factor: W,
    voxel: std::marker::PhantomData<fn() -> T>,
}

/// Convert values to the nearest float32 without scaling.
#[derive(Clone, Copy)]
pub(crate) struct Raw<T> {
    pub(crate) padding: f32,
    pub(crate) voxel: std::marker::PhantomData<fn() -> T>,
}

macro_rules! scale {
    ($work:ty: $($type:ty),*) => { $(
        impl Scale<$type, $work> {
            pub(crate) fn new([low, high]: [f64; 2]) -> Self {
                Self { low: low as $work, factor: (1.0 / (high - low)) as $work, voxel: std::marker::PhantomData }
            }
        }
        impl Pixel for Scale<$type, $work> {
            type In = $type;
            type Out = f32;
            type Note = ();
            #[inline(always)]
            fn padding(self) -> f32 {
                0.0
            }
            #[inline(always)]
            #[allow(clippy::cast_lossless)]
            fn convert(self, voxel: $type) -> f32 {
                let scaled = (voxel as $work - self.low) * self.factor;
                // In this form each comparison is one instruction, and NaN becomes 0 at the first one.
                let scaled = if scaled > 0.0 { scaled } else { 0.0 };
                (if scaled < 1.0 { scaled } else { 1.0 }) as f32
            }
        }
        impl Pixel for Raw<$type> {
            type In = $type;
            type Out = f32;
            type Note = ();
            #[inline(always)]
            fn padding(self) -> f32 {
                self.padding
            }
            #[inline(always)]
            #[allow(clippy::cast_lossless)]
            fn convert(self, voxel: $type) -> f32 {
                voxel as f32
            }
        }
    )* };
}
// float32 represents the first five types exactly, so their arithmetic uses float32.
scale!(f32: i8, u8, i16, u16, f32);
scale!(f64: i32, f64);

/// Convert a label of an integer type to uint8.
#[derive(Clone, Copy)]
pub(crate) struct Label<T>(pub(crate) std::marker::PhantomData<fn() -> T>);

macro_rules! label {
    ($($type:ty),*) => { $(impl Pixel for Label<$type> {
        type In = $type;
        type Out = u8;
        /// Bitwise OR of all voxels.
        type Note = $type;
        #[inline(always)]
        fn padding(self) -> u8 {
            0
        }
        #[inline(always)]
        fn convert(self, voxel: $type) -> u8 {
            voxel as u8
        }
        #[inline(always)]
        fn note(note: &mut $type, voxel: $type) {
            *note |= voxel;
        }
        fn accepts(note: $type) -> bool {
            u8::try_from(note).is_ok()
        }
    })* };
}
label!(u8, i8, u16, i16, u32, i32, u64, i64);

/// Convert a boolean, stored as a byte of any value, to 0 or 1.
#[derive(Clone, Copy)]
pub(crate) struct Truth;

impl Pixel for Truth {
    type In = u8;
    type Out = u8;
    type Note = ();
    #[inline(always)]
    fn padding(self) -> u8 {
        0
    }
    #[inline(always)]
    fn convert(self, voxel: u8) -> u8 {
        u8::from(voxel != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The nearest half-precision number, found by search. On a tie the even one is chosen.
    #[allow(clippy::float_cmp)] // halves are exact in float64
    fn half_of(value: f32) -> u16 {
        let of = |bits: u16| {
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3FF));
            if exponent == 0 { fraction * 2f64.powi(-24) } else { (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15) }
        };
        let size = f64::from(value.abs());
        let (mut low, mut high) = (0u16, 0x7C00u16);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if of(middle) <= size { low = middle } else { high = middle }
        }
        let (below, above) = (size - of(low), of(high) - size);
        let nearest = if below < above || (below == above && low % 2 == 0) { low } else { high };
        nearest | if value.is_sign_negative() { 0x8000 } else { 0 }
    }

    proptest! {
        #[test]
        fn halves_are_the_nearest(value in prop_oneof![0f32..1.0, -7e4f32..7e4, -1e-4f32..1e-4, any::<f32>()]) {
            prop_assume!(!value.is_nan());
            prop_assert_eq!(f16::of(value).to_bits(), half_of(value), "{}", value);
        }

        #[test]
        fn brain_floats_are_the_nearest(value in prop_oneof![0f32..1.0, any::<f32>()]) {
            prop_assume!(!value.is_nan() && value.abs() < 3e38);
            let found = f64::from(f32::from_bits(u32::from(bf16::of(value).to_bits()) << 16));
            let step = f64::from(f32::from_bits((value.to_bits() & 0xFFFF_0000) + 0x1_0000)) - f64::from(f32::from_bits(value.to_bits() & 0xFFFF_0000));
            prop_assert!((found - f64::from(value)).abs() <= step.abs() / 2.0);
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        assert_eq!((f16::of(f32::NAN).to_bits() & 0x7C00, bf16::of(f32::NAN).to_bits() & 0x7F80), (0x7C00, 0x7F80));
        assert_ne!((f16::of(f32::NAN).to_bits() & 0x3FF, bf16::of(f32::NAN).to_bits() & 0x7F), (0, 0));
        assert_eq!((i16::of(1e9), i16::of(-1e9), i16::of(f32::NAN), i16::of(2.5)), (i16::MAX, i16::MIN, 0, 2));
    }
}
