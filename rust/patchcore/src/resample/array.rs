//! Reads volumes in memory plane by plane, in memory order.

use super::{LabelPlanes, Planes};
use crate::view::{Kind, View};
use crate::{Error, Result};

/// Intensities are clipped to this: far outside int16, but finite.
const MOST_VALUE: f32 = 1e6;

/// An array of intensities or class indices, of any kind, byte order and strides.
#[derive(Debug)]
pub struct ArrayPlanes<'a> {
    view: View<'a>,
    order: [usize; 3],
    /// Slope and intercept: value = stored element · slope + intercept.
    scaling: (f32, f32),
    /// The value that replaces NaN.
    nan: f32,
    next_plane: usize,
}

macro_rules! by_kind {
    ($kind:expr, $convert:ident, $($name:ident: $type:ty),*) => {
        match $kind {
            Kind::Bool => $convert!(u8, |value: u8| u8::from(value != 0)),
            $(Kind::$name => $convert!($type, |value: $type| value),)*
        }
    };
}

impl<'a> ArrayPlanes<'a> {
    /// Walk an array along the axes `order`, slowest first.
    #[must_use]
    pub fn new(view: View<'a>, order: [usize; 3], nan: f32) -> Self {
        Self { view, order, scaling: (1.0, 0.0), nan, next_plane: 0 }
    }

    /// The same planes with intensity = element · `slope` + `intercept`. Class indices are not scaled.
    #[must_use]
    pub fn scaled(self, slope: f32, intercept: f32) -> Self {
        Self { scaling: (slope, intercept), ..self }
    }

    /// Convert a plane, vectorised, if its rows are dense and in this machine's byte order. Returns whether this was
    /// the case.
    fn dense_rows<I: Copy, T>(&self, plane: usize, out: &mut [T], convert: impl Fn(I) -> T + Copy) -> bool {
        let [slow, mid, fast] = self.order;
        if self.view.is_swapped() || self.view.stride(fast) != size_of::<I>() as isize {
            return false;
        }
        let length = self.view.shape()[fast];
        for (row, out) in out.chunks_exact_mut(length).enumerate() {
            let mut index = [0; 3];
            (index[slow], index[mid]) = (plane, row);
            let start = self.view.at(index).cast::<I>();
            for (at, out) in out.iter_mut().enumerate() {
                // SAFETY: the elements of the row belong to the view, have this size and are contiguous; the read may
                // be unaligned.
                *out = convert(unsafe { start.wrapping_add(at).read_unaligned() });
            }
        }
        true
    }

    /// Convert the elements of a plane, row by row.
    fn rows<T>(&self, plane: usize, out: &mut [T], convert: impl Fn(Element<'_, '_>) -> T + Copy) {
        let [slow, mid, fast] = self.order;
        let length = self.view.shape()[fast];
        for (row, out) in out.chunks_exact_mut(length).enumerate() {
            let mut index = [0; 3];
            (index[slow], index[mid]) = (plane, row);
            let start = self.view.at(index);
            let stride = self.view.stride(fast);
            for (at, out) in out.iter_mut().enumerate() {
                *out = convert(Element { view: &self.view, address: start.wrapping_offset(at as isize * stride) });
            }
        }
    }

    #[allow(clippy::cast_lossless, clippy::redundant_closure_call)]
    fn write_scaled(&self, plane: usize, out: &mut [f32], scale: impl Fn(f32) -> f32 + Copy) {
        let nan = self.nan;
        macro_rules! convert {
            ($type:ty, $value:expr) => {{
                let scaled = move |stored: $type| {
                    let value = scale($value(stored) as f32);
                    // An infinite value times a weight of 0 would make sums NaN, so values are clipped.
                    if value.is_nan() { nan } else { value.clamp(-MOST_VALUE, MOST_VALUE) }
                };
                if !self.dense_rows(plane, out, scaled) {
                    self.rows(plane, out, move |element| scaled(<$type>::from_ne_bytes(element.bytes())));
                }
            }};
        }
        by_kind!(self.view.kind(), convert, U8: u8, I8: i8, U16: u16, I16: i16, U32: u32, I32: i32, U64: u64, I64: i64, F32: f32, F64: f64);
    }
}

/// One element of a view.
#[derive(Clone, Copy)]
struct Element<'v, 'a> {
    view: &'v View<'a>,
    address: *const u8,
}

impl Element<'_, '_> {
    /// The bytes of the element in this machine's order.
    #[inline]
    fn bytes<const N: usize>(self) -> [u8; N] {
        // SAFETY: the address points to an element of the view with N bytes; the read may be unaligned.
        let mut bytes = unsafe { self.address.cast::<[u8; N]>().read_unaligned() };
        if self.view.is_swapped() {
            bytes.reverse();
        }
        bytes
    }
}

impl Planes for ArrayPlanes<'_> {
    fn load(&mut self, _planes: std::ops::Range<usize>) -> Result<()> {
        Ok(())
    }

    fn write(&self, plane: usize, out: &mut [f32]) {
        let (slope, intercept) = self.scaling;
        // Most arrays are not scaled. Skip the product for them: for integers it would take half as long again.
        #[allow(clippy::float_cmp)]
        if (slope, intercept) == (1.0, 0.0) {
            self.write_scaled(plane, out, |value| value);
        } else {
            self.write_scaled(plane, out, |value| value * slope + intercept);
        }
    }
}

impl LabelPlanes for ArrayPlanes<'_> {
    #[allow(clippy::redundant_closure_call)]
    fn next(&mut self, out: &mut [u8]) -> Result<()> {
        let plane = self.next_plane;
        self.next_plane += 1;
        match self.view.kind() {
            Kind::U8 => self.rows(plane, out, |element| element.bytes::<1>()[0]),
            Kind::Bool => self.rows(plane, out, |element| u8::from(element.bytes::<1>()[0] != 0)),
            other => return Err(Error::Unsupported(format!("class indices of kind {other:?}; expected uint8"))),
        }
        Ok(())
    }
}
