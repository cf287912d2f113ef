//! A borrowed 3D array of any element type, strides and byte order.

use std::marker::PhantomData;

use crate::{Error, Result};

/// The element types that a label map can have. `Bool` treats every non-zero byte as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Kind {
    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Kind::Bool | Kind::U8 | Kind::I8 => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }
}

/// An element type that [`View::from_slice`] accepts.
pub trait Element: Copy + Sync {
    /// The [`Kind`] of this element type.
    const KIND: Kind;
}

macro_rules! elements {
    ($($type:ty => $kind:ident),*) => { $(impl Element for $type { const KIND: Kind = Kind::$kind; })* };
}
elements!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64, f32 => F32, f64 => F64);

/// A borrowed 3D array. Axis order is the array's own (i, j, k); strides are in bytes and may be negative or zero.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    data: *const u8,
    shape: [usize; 3],
    strides: [isize; 3],
    kind: Kind,
    swapped: bool,
    lifetime: PhantomData<&'a [u8]>,
}

// SAFETY: a view only ever reads the memory it borrows.
unsafe impl Send for View<'_> {}
// SAFETY: as above; no interior mutability.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// Borrow foreign memory.
    ///
    /// # Safety
    /// Every element addressed by `shape` and `strides` from `data` must be readable for `'a`. The element at
    /// (i, j, k) is the `kind.size()` bytes at `data + i·strides[0] + j·strides[1] + k·strides[2]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if an axis is longer than 2³² − 2 or the number of voxels overflows.
    pub unsafe fn from_raw(
        data: *const u8,
        shape: [usize; 3],
        strides: [isize; 3],
        kind: Kind,
        swapped: bool,
    ) -> Result<Self> {
        check_shape(shape)?;
        Ok(Self { data, shape, strides, kind, swapped, lifetime: PhantomData })
    }

    /// Borrow a C-contiguous slice (last axis fastest).
    ///
    /// # Errors
    /// [`Error::Argument`] if the slice's length is not the product of `shape`.
    pub fn from_slice<T: Element>(values: &'a [T], shape: [usize; 3]) -> Result<Self> {
        let voxels = check_shape(shape)?;
        if values.len() as u64 != voxels {
            return Err(Error::Argument(format!("{} values do not fill shape {shape:?}", values.len())));
        }
        let size = size_of::<T>() as isize;
        let strides = [(shape[1] * shape[2]) as isize * size, shape[2] as isize * size, size];
        // SAFETY: the slice holds exactly the elements that the C-order strides address.
        unsafe { Self::from_raw(values.as_ptr().cast(), shape, strides, T::KIND, false) }
    }

    /// The same memory with its axes in another order: axis `n` of the result is axis `axes[n]` of this view.
    #[must_use]
    pub fn permuted(mut self, axes: [usize; 3]) -> Self {
        self.shape = axes.map(|axis| self.shape[axis]);
        self.strides = axes.map(|axis| self.strides[axis]);
        self
    }

    /// A part of the view: `size` elements along each axis, starting at `start`.
    ///
    /// # Panics
    /// If the part does not lie within the view.
    #[must_use]
    pub fn part(mut self, start: [usize; 3], size: [usize; 3]) -> Self {
        assert!((0..3).all(|axis| start[axis] + size[axis] <= self.shape[axis]), "the part must lie within the view");
        self.data = self.at(start);
        self.shape = size;
        self
    }

    /// The same memory with one axis reversed.
    #[must_use]
    pub fn flipped(mut self, axis: usize) -> Self {
        let last = self.shape[axis].saturating_sub(1) as isize;
        self.data = self.data.wrapping_offset(last * self.strides[axis]);
        self.strides[axis] = -self.strides[axis];
        self
    }

    /// Voxels along each axis.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The element type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether elements are stored in the opposite byte order to this machine's.
    #[must_use]
    pub fn is_swapped(&self) -> bool {
        self.swapped
    }

    /// The axes from slowest to fastest in memory; ties keep array order.
    #[must_use]
    pub fn walk_order(&self) -> [usize; 3] {
        let mut axes = [0, 1, 2];
        // An axis of length 1 has an arbitrary stride. It is sorted to the slow end, so that lines stay long.
        axes.sort_by_key(|&axis| {
            let long = self.shape[axis] > 1;
            (long, if long { std::cmp::Reverse(self.strides[axis].unsigned_abs()) } else { std::cmp::Reverse(0) })
        });
        axes
    }

    /// Whether the planes along the first axis of `order` are contiguous in memory, without gaps.
    pub(crate) fn is_dense(&self, order: [usize; 3]) -> bool {
        let [slow, mid, fast] = order;
        let size = self.kind.size() as isize;
        let fits = |axis: usize, stride: isize| self.shape[axis] <= 1 || self.strides[axis] == stride;
        fits(fast, size)
            && fits(mid, size * self.shape[fast] as isize)
            && fits(slow, size * (self.shape[fast] * self.shape[mid]) as isize)
            && self.is_aligned()
    }

    /// Whether lines along `fast` can be borrowed as slices.
    pub(crate) fn has_dense_lines(&self, fast: usize) -> bool {
        (self.shape[fast] <= 1 || self.strides[fast] == self.kind.size() as isize) && self.is_aligned()
    }

    fn is_aligned(&self) -> bool {
        let size = self.kind.size();
        (self.data as usize).is_multiple_of(size)
            && self.strides.iter().zip(self.shape).all(|(stride, n)| n <= 1 || stride.unsigned_abs() % size == 0)
    }

    /// Pointer to an element.
    pub(crate) fn at(&self, index: [usize; 3]) -> *const u8 {
        let offset: isize = index.iter().zip(self.strides).map(|(&i, stride)| i as isize * stride).sum();
        self.data.wrapping_offset(offset)
    }

    /// Bytes from one element to the next along `axis`.
    pub(crate) fn stride(&self, axis: usize) -> isize {
        self.strides[axis]
    }
}

/// Check that a shape can be indexed, and return its number of voxels.
pub(crate) fn check_shape(shape: [usize; 3]) -> Result<u64> {
    if let Some(axis) = shape.iter().position(|&n| n >= u32::MAX as usize) {
        return Err(Error::Unsupported(format!("axis {axis} has {} voxels; expected at most 2^32 - 2", shape[axis])));
    }
    shape
        .iter()
        .try_fold(1u64, |product, &n| product.checked_mul(n as u64))
        .filter(|&voxels| voxels <= i64::MAX as u64 / 8)
        .ok_or_else(|| Error::Unsupported(format!("shape {shape:?} has more voxels than can be addressed")))
}
