//! Volumes in memory as planes, in the order in which their memory is walked.

use super::{LabelPlanes, Planes};
use crate::view::{Kind, View};
use crate::{Error, Result};

/// Far beyond int16, and finite.
const MOST_VALUE: f32 = 1e6;

/// An array of intensities or class indices, of any kind, byte order and strides.
#[derive(Debug)]
pub struct ArrayPlanes<'a> {
    view: View<'a>,
    order: [usize; 3],
    /// A value is its stored element times the first plus the second.
    scaling: (f32, f32),
    /// What NaN is taken for.
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
    /// Walk an array along its axes `order`, slowest first.
    #[must_use]
    pub fn new(view: View<'a>, order: [usize; 3], nan: f32) -> Self {
        Self { view, order, scaling: (1.0, 0.0), nan, next_plane: 0 }
    }

    /// Intensities are the elements times `slope` plus `intercept`. Class indices are not scaled.
    #[must_use]
    pub fn scaled(self, slope: f32, intercept: f32) -> Self {
        Self { scaling: (slope, intercept), ..self }
    }

    /// Convert a plane whose rows lie dense in this machine's byte order, in vectors; whether it is one.
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
                // SAFETY: the row's elements are the view's, of this size, one behind the other; they may be unaligned.
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
                let told = move |stored: $type| {
                    let value = scale($value(stored) as f32);
                    // What is infinite would be no number in every sum that passes it over.
                    if value.is_nan() { nan } else { value.clamp(-MOST_VALUE, MOST_VALUE) }
                };
                if !self.dense_rows(plane, out, told) {
                    self.rows(plane, out, move |element| told(<$type>::from_ne_bytes(element.bytes())));
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
    /// Its bytes in this machine's order.
    #[inline]
    fn bytes<const N: usize>(self) -> [u8; N] {
        // SAFETY: the address is that of an element of the view, which has N bytes and may be unaligned.
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
        // Most are not scaled, and are spared the product: it would cost integers half as much again.
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
