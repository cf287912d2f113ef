//! Extracts a batch of windows: clips, scales and writes them in one pass, in parallel over windows and slabs of
//! windows.

use std::fmt::Display;
use std::marker::PhantomData;

use rayon::prelude::*;

use super::pixel::{As, Intensities, Label, Pixel, Raw, Scale, Truth};
use super::walk::{Slab, fill, fill_naive};
use crate::view::{Kind, View};
use crate::{Error, Result, pool};

/// A window is not divided into slabs with fewer planes than this.
const LEAST_PLANES: usize = 16;

/// How intensities are converted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Intensity {
    /// Clipped to `[low, high]` and scaled to [0, 1]. Padding and NaN become the lower end, 0.
    Scaled([f64; 2]),
    /// Not scaled: converted to the nearest value of the output type. The given value is the padding outside the
    /// volume.
    Raw(f32),
}

/// A batch of windows to fill: a volume and a corner for each window, and a C-order buffer (window, i, j, k).
#[derive(Debug)]
pub struct Target<'v, 'o, Out> {
    /// The volume of each window; volumes may repeat.
    pub volumes: &'v [View<'v>],
    /// Volume index of the first voxel of each window. It may lie outside the volume.
    pub corners: &'v [[i64; 3]],
    /// The output buffer, with exactly the size of all windows together.
    pub out: &'o mut [Out],
}

/// Reject an invalid HU range.
pub(crate) fn check_range([low, high]: [f64; 2]) -> Result<()> {
    if low.is_finite() && high.is_finite() && low < high {
        return Ok(());
    }
    Err(Error::Window(format!("HU range ({low}, {high}); expected two finite numbers, the lower first")))
}

enum Job<'a, O> {
    Image(Slab<'a, O>),
    Label(usize, Slab<'a, u8>),
}

/// Extract a batch of image windows with shape `size`, and label windows if `labels` are given.
///
/// Images may have kind I8, U8, I16, U16, I32, F32 or F64; labels may have any integer kind or Bool. Any strides and
/// alignment are supported, but only this machine's byte order. Results do not depend on `threads` (default: all
/// cores).
///
/// # Errors
/// [`Error::Window`] if a buffer or the number of volumes does not match the windows, or if the HU range is invalid;
/// [`Error::Unsupported`] for other kinds or byte orders, and for a label value that does not fit into uint8. After an
/// error the buffers contain unspecified values.
pub fn extract<O: Intensities>(
    images: Target<'_, '_, O>,
    intensity: Intensity,
    labels: Option<Target<'_, '_, u8>>,
    size: [usize; 3],
    threads: Option<usize>,
) -> Result<()> {
    if let Intensity::Scaled(range) = intensity {
        check_range(range)?;
    }
    let threads_used = threads.unwrap_or_else(|| pool::shared().current_num_threads()).max(1);
    let cuts = if threads_used == 1 { 1 } else { (4 * threads_used).div_ceil(images.corners.len().max(1)) };
    let planes = size[0].div_ceil(cuts).max(LEAST_PLANES.min(size[0]));
    let mut jobs = Vec::new();
    cut(images, size, planes, |_, slab| jobs.push(Job::Image(slab)))?;
    if let Some(labels) = labels {
        cut(labels, size, planes, |window, slab| jobs.push(Job::Label(window, slab)))?;
    }
    let run = |job: Job<'_, O>| match job {
        Job::Image(slab) => fill_image(intensity, slab),
        Job::Label(window, slab) => fill_label(window, slab),
    };
    if threads_used == 1 {
        return jobs.into_iter().try_for_each(run);
    }
    // Collect all results first, so that the reported error is always the first one, whichever thread found it.
    pool::install(threads, || jobs.into_par_iter().map(run).collect::<Vec<_>>()).into_iter().collect()
}

/// Divide each window of a batch into slabs of at most `planes` planes.
fn cut<'a, Out>(
    Target { volumes, corners, out }: Target<'a, 'a, Out>,
    size: [usize; 3],
    planes: usize,
    mut push: impl FnMut(usize, Slab<'a, Out>),
) -> Result<()> {
    let [_, rows, columns] = size;
    let voxels = size.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    let expected = voxels.and_then(|voxels| voxels.checked_mul(corners.len()));
    if expected != Some(out.len()) || volumes.len() != corners.len() {
        return Err(Error::Window(format!(
            "{} windows of {:?}, {} volumes and a buffer of {} elements; expected one volume per window and a buffer \
             with the size of all windows",
            corners.len(),
            size,
            volumes.len(),
            out.len()
        )));
    }
    let Some(voxels) = voxels.filter(|&voxels| voxels > 0) else {
        return Err(Error::Window(format!("window size {size:?}; expected at least 1 voxel per edge")));
    };
    let batch = volumes.iter().zip(corners).zip(out.chunks_exact_mut(voxels));
    for (window, ((&volume, &corner), window_out)) in batch.enumerate() {
        if volume.is_swapped() {
            return Err(Error::Unsupported(
                "the voxels are not in this machine's byte order; convert the array first".into(),
            ));
        }
        for (number, out) in window_out.chunks_mut(planes * rows * columns).enumerate() {
            push(window, Slab { volume, corner, window: size, first: number * planes, out });
        }
    }
    Ok(())
}

fn fill_image<O: Intensities>(intensity: Intensity, mut slab: Slab<'_, O>) -> Result<()> {
    macro_rules! by_kind {
        ($($kind:ident: $type:ty, $work:ty);*) => {
            match (slab.volume.kind(), intensity) {
                $(
                    (Kind::$kind, Intensity::Scaled(range)) => {
                        fill(As::<_, O>(Scale::<$type, $work>::new(range), PhantomData), &mut slab)
                    }
                    (Kind::$kind, Intensity::Raw(padding)) => {
                        fill(As::<_, O>(Raw::<$type> { padding, voxel: PhantomData }, PhantomData), &mut slab)
                    }
                )*
                (kind, _) => {
                    let what = format!("the image has kind {kind:?}; supported: I8, U8, I16, U16, I32, F32, F64");
                    return Err(Error::Unsupported(what));
                }
            }
        };
    }
    by_kind!(I8: i8, f32; U8: u8, f32; I16: i16, f32; U16: u16, f32; F32: f32, f32; I32: i32, f64; F64: f64, f64);
    Ok(())
}

fn fill_label(window: usize, mut slab: Slab<'_, u8>) -> Result<()> {
    macro_rules! by_kind {
        ($($kind:ident: $type:ty);*) => {
            match slab.volume.kind() {
                $(Kind::$kind => check_label(Label::<$type>(PhantomData), window, &mut slab),)*
                Kind::Bool => {
                    fill(Truth, &mut slab);
                    Ok(())
                }
                kind => Err(Error::Unsupported(format!("the label map has kind {kind:?}; supported: integers, Bool"))),
            }
        };
    }
    by_kind!(U8: u8; I8: i8; U16: u16; I16: i16; U32: u32; I32: i32; U64: u64; I64: i64)
}

fn check_label<P: Pixel<Out = u8, In: Display>>(pixel: P, window: usize, slab: &mut Slab<'_, u8>) -> Result<()> {
    if fill(pixel, slab) {
        return Ok(());
    }
    // The fast pass found a label that does not fit. The slow pass finds its value and position; if it does not, this
    // is a bug.
    let found = fill_naive(pixel, slab)
        .map_or_else(String::new, |([i, j, k], value)| format!("label {value} at ({i}, {j}, {k}) of "));
    Err(Error::Unsupported(format!("{found}window {window} does not fit into uint8; expected labels from 0 to 255")))
}

#[cfg(test)]
mod tests;
