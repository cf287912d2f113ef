//! Copies voxels from a volume to a window so that both are accessed one cache line at a time.
//!
//! The window is in C order. If the last axis of the volume is its fastest axis, rows are converted directly. If
//! another axis is the fastest (Fortran order, as in `NIfTI` files), lines along that axis are converted into a small
//! buffer. The buffer is then written transposed, [`TILE`] elements of a row at a time.

use std::ops::Range;

use super::pixel::Pixel;
use crate::view::View;

/// Elements of an output row per transposed tile: a cache line of float32.
const TILE: usize = 16;
/// Voxels of a line per transposed tile.
const LINE: usize = 128;

/// Prefetch the row that is this many rows ahead of the current row.
const AHEAD: isize = 8;
const CACHE_LINE: usize = 64;
/// At most this many bytes of a row are prefetched. For longer rows the processor's own prefetching is better.
const LONGEST_PREFETCH: usize = 1024;

/// A part of a window along its first axis, and its output buffer.
pub(super) struct Slab<'a, Out> {
    pub(super) volume: View<'a>,
    /// Volume index of the window's first voxel.
    pub(super) corner: [i64; 3],
    pub(super) window: [usize; 3],
    /// First plane of the window in this slab. The length of `out` gives the number of planes.
    pub(super) first: usize,
    /// Whole planes, C order.
    pub(super) out: &'a mut [Out],
}

impl<Out> Slab<'_, Out> {
    /// The part of the slab that lies in the volume, in slab indices. If it is empty along one axis, all axes are
    /// empty.
    fn inside(&self) -> [Range<usize>; 3] {
        let [_, rows, columns] = self.window;
        let planes = self.out.len() / (rows * columns).max(1);
        let size = [planes, rows, columns];
        let corner = self.slab_corner();
        let inside: [Range<usize>; 3] = std::array::from_fn(|axis| {
            let clip = |bound: i64| bound.clamp(0, size[axis] as i64) as usize;
            clip(corner[axis].saturating_neg())..clip((self.volume.shape()[axis] as i64).saturating_sub(corner[axis]))
        });
        if inside.iter().any(Range::is_empty) { [0..0, 0..0, 0..0] } else { inside }
    }

    fn slab_corner(&self) -> [i64; 3] {
        [self.corner[0].saturating_add(self.first as i64), self.corner[1], self.corner[2]]
    }

    /// Convert a slab index to a volume index. The slab index must lie inside the volume.
    fn volume_index(&self, index: [usize; 3]) -> [usize; 3] {
        let corner = self.slab_corner();
        std::array::from_fn(|axis| (corner[axis] + index[axis] as i64) as usize)
    }
}

/// Fill a slab. Returns whether `pixel` could convert every voxel.
pub(super) fn fill<P: Pixel>(pixel: P, slab: &mut Slab<'_, P::Out>) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { fill_avx2(pixel, slab) };
    }
    fill_any::<P, { cfg!(not(target_arch = "x86_64")) }>(pixel, slab)
}

/// [`fill_any`], compiled for AVX2, which has twice the vector width.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fill_avx2<P: Pixel>(pixel: P, slab: &mut Slab<'_, P::Out>) -> bool {
    fill_any::<P, true>(pixel, slab)
}

/// Fill a slab. There is a copy of this code for each pair of element types, so vector code is generated only if
/// `VECTORS`: not a second time for the few x86-64 processors without AVX2.
#[inline(always)]
pub(super) fn fill_any<P: Pixel, const VECTORS: bool>(pixel: P, slab: &mut Slab<'_, P::Out>) -> bool {
    debug_assert_eq!(slab.volume.kind().size(), size_of::<P::In>());
    let inside = slab.inside();
    pad(pixel.padding(), &inside, slab);
    let mut note = P::Note::default();
    let strides: [isize; 3] = std::array::from_fn(|axis| slab.volume.stride(axis));
    let is_long = |axis: usize| inside[axis].len() > 1;
    let unit = size_of::<P::In>();
    let by_rows = !is_long(2) || strides[2].unsigned_abs() <= unit;
    let fastest = (0..2).filter(|&axis| is_long(axis)).min_by_key(|&axis| strides[axis].unsigned_abs());
    match fastest {
        Some(fast) if !by_rows && strides[fast].unsigned_abs() < strides[2].unsigned_abs() => {
            transposed::<P, VECTORS>(pixel, fast, &inside, slab, &mut note);
        }
        _ => rows::<P, VECTORS>(pixel, &inside, slab, &mut note),
    }
    P::accepts(note)
}

/// Write the padding around the part that lies inside the volume.
#[inline(never)]
fn pad<Out: Copy>(padding: Out, inside: &[Range<usize>; 3], slab: &mut Slab<'_, Out>) {
    let [_, rows, columns] = slab.window;
    if rows * columns == 0 {
        return;
    }
    for (i, plane) in slab.out.chunks_exact_mut(rows * columns).enumerate() {
        if !inside[0].contains(&i) {
            plane.fill(padding);
            continue;
        }
        plane[..inside[1].start * columns].fill(padding);
        plane[inside[1].end * columns..].fill(padding);
        if inside[2] == (0..columns) {
            continue;
        }
        for j in inside[1].clone() {
            let row = &mut plane[j * columns..(j + 1) * columns];
            row[..inside[2].start].fill(padding);
            row[inside[2].end..].fill(padding);
        }
    }
}

#[inline(always)]
fn rows<P: Pixel, const VECTORS: bool>(
    pixel: P,
    inside: &[Range<usize>; 3],
    slab: &mut Slab<'_, P::Out>,
    note: &mut P::Note,
) {
    let [_, rows, columns] = slab.window;
    let stride = slab.volume.stride(2);
    for i in inside[0].clone() {
        for j in inside[1].clone() {
            let source = slab.volume.at(slab.volume_index([i, j, inside[2].start]));
            prefetch(source.wrapping_offset(AHEAD * slab.volume.stride(1)), stride * inside[2].len() as isize);
            let start = (i * rows + j) * columns;
            let row = &mut slab.out[start + inside[2].start..start + inside[2].end];
            // SAFETY: the row lies in the volume, so `source` and the following voxels belong to the view.
            unsafe { line::<P, VECTORS>(pixel, source, stride, row, note) };
        }
    }
}

/// Prefetch the cache lines of a row that is needed soon: rows are too short for the processor to predict the next one.
///
/// The address may be invalid: a prefetch never faults and returns no data.
#[inline(always)]
fn prefetch(source: *const u8, length: isize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..length.unsigned_abs().min(LONGEST_PREFETCH)).step_by(CACHE_LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(source.wrapping_offset(offset as isize * length.signum()).cast()) };
    }
}

/// Like [`rows`], but reads lines along the axis `fast` (0 or 1) into a buffer and writes the buffer transposed.
#[inline(always)]
fn transposed<P: Pixel, const VECTORS: bool>(
    pixel: P,
    fast: usize,
    inside: &[Range<usize>; 3],
    slab: &mut Slab<'_, P::Out>,
    note: &mut P::Note,
) {
    let [_, rows, columns] = slab.window;
    let other = 1 - fast;
    let steps = [rows * columns, columns];
    let stride = slab.volume.stride(fast);
    let mut buffer = [P::Out::default(); TILE * LINE];
    for column in inside[2].clone().step_by(TILE) {
        let width = TILE.min(inside[2].end - column);
        for begin in inside[fast].clone().step_by(LINE) {
            let length = LINE.min(inside[fast].end - begin);
            for across in inside[other].clone() {
                let mut index = [0, 0, column];
                index[fast] = begin;
                index[other] = across;
                for (k, lane) in buffer.chunks_exact_mut(LINE).take(width).enumerate() {
                    let source = slab.volume.at(slab.volume_index([index[0], index[1], column + k]));
                    // SAFETY: the line lies in the volume, so `source` and the following voxels belong to the view.
                    unsafe { line::<P, VECTORS>(pixel, source, stride, &mut lane[..length], note) };
                }
                let mut start = begin * steps[fast] + across * steps[other] + column;
                for i in 0..length {
                    let row = &mut slab.out[start..start + width];
                    if let Ok(row) = <&mut [P::Out; TILE]>::try_from(&mut *row) {
                        for (k, element) in row.iter_mut().enumerate() {
                            *element = buffer[k * LINE + i];
                        }
                    } else {
                        for (k, element) in row.iter_mut().enumerate() {
                            *element = buffer[k * LINE + i];
                        }
                    }
                    start += steps[fast];
                }
            }
        }
    }
}

/// Convert `out.len()` voxels that are `stride` bytes apart.
///
/// # Safety
/// The `out.len()` voxels at `source`, `source + stride`, and so on must be readable. They need not be aligned.
#[inline(always)]
unsafe fn line<P: Pixel, const VECTORS: bool>(
    pixel: P,
    source: *const u8,
    stride: isize,
    out: &mut [P::Out],
    note: &mut P::Note,
) {
    let unit = size_of::<P::In>() as isize;
    // A constant stride lets the compiler vectorise the loop.
    if VECTORS && stride == unit {
        // SAFETY: guaranteed by the caller.
        unsafe { line_of(pixel, source, unit, out, note) };
    } else if VECTORS && stride == -unit {
        // SAFETY: guaranteed by the caller.
        unsafe { line_of(pixel, source, -unit, out, note) };
    } else {
        // SAFETY: guaranteed by the caller.
        unsafe { line_of(pixel, source, stride, out, note) };
    }
}

/// Like [`line`], with a stride that the compiler may know.
///
/// # Safety
/// As [`line`].
#[inline(always)]
unsafe fn line_of<P: Pixel>(pixel: P, source: *const u8, stride: isize, out: &mut [P::Out], note: &mut P::Note) {
    let mut seen = *note;
    for (index, element) in out.iter_mut().enumerate() {
        // SAFETY: guaranteed by the caller.
        let voxel = unsafe { source.offset(index as isize * stride).cast::<P::In>().read_unaligned() };
        P::note(&mut seen, voxel);
        *element = pixel.convert(voxel);
    }
    *note = seen;
}

/// Fill a slab one voxel at a time. This simple version is the reference in tests of [`fill`], and finds the voxel that
/// could not be converted.
///
/// Returns the first voxel that `pixel` could not convert, and its position in the window.
pub(super) fn fill_naive<P: Pixel>(pixel: P, slab: &mut Slab<'_, P::Out>) -> Option<([usize; 3], P::In)> {
    let [_, rows, columns] = slab.window;
    let mut misfit = None;
    for index in 0..slab.out.len() {
        let offset = [slab.first + index / (rows * columns), index / columns % rows, index % columns];
        let voxel: [i128; 3] = std::array::from_fn(|axis| i128::from(slab.corner[axis]) + offset[axis] as i128);
        let is_inside = (0..3).all(|axis| (0..slab.volume.shape()[axis] as i128).contains(&voxel[axis]));
        slab.out[index] = if is_inside {
            let source = slab.volume.at(voxel.map(|v| v as usize));
            // SAFETY: the voxel lies in the volume.
            let value = unsafe { source.cast::<P::In>().read_unaligned() };
            let mut note = P::Note::default();
            P::note(&mut note, value);
            if !P::accepts(note) && misfit.is_none() {
                misfit = Some((offset, value));
            }
            pixel.convert(value)
        } else {
            pixel.padding()
        };
    }
    misfit
}
