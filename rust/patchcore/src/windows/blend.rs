//! Blends the predictions of overlapping windows: a weighted mean at each voxel.

use std::ops::Range;

use rayon::prelude::*;

use crate::{Error, Result, pool};

/// A channel of a volume is divided into parts of about this many bytes for parallel work.
const LEAST_BYTES: usize = 1 << 20;

/// The shapes of a volume (channels, i, j, k) and of its windows (window, channels, i, j, k), C order.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Number of channels of a prediction.
    pub channels: usize,
    /// Number of voxels of the volume along each axis.
    pub shape: [usize; 3],
    /// Number of voxels of a window along each axis.
    pub window: [usize; 3],
}

impl Layout {
    fn volume_len(&self) -> usize {
        self.shape.iter().product()
    }

    fn window_len(&self) -> usize {
        self.window.iter().product()
    }
}

/// Add weighted predictions: `sum[c, v] += importance[v'] · predictions[w, c, v']` and `weight[v] += importance[v']`
/// for every voxel v' of every window that lies on a voxel v of the volume.
///
/// Windows are added in order at each voxel, so the result does not depend on `threads` or on the batches of windows.
///
/// # Errors
/// [`Error::Window`] if the length of a buffer does not match `layout` and the number of corners.
pub fn accumulate(
    layout: Layout,
    corners: &[[i64; 3]],
    predictions: &[f32],
    importance: &[f32],
    sum: &mut [f32],
    weight: &mut [f32],
    threads: Option<usize>,
) -> Result<()> {
    let (volume, window) = (layout.volume_len(), layout.window_len());
    let expected = [
        ("predictions", predictions.len(), corners.len() * layout.channels * window),
        ("importance", importance.len(), window),
        ("sum", sum.len(), layout.channels * volume),
        ("weight", weight.len(), volume),
    ];
    if let Some((name, found, expected)) = expected.into_iter().find(|(_, found, expected)| found != expected) {
        return Err(Error::Window(format!("{name} has {found} elements; expected {expected} for {layout:?}")));
    }
    if volume == 0 || window == 0 {
        return Ok(());
    }
    let plane = layout.shape[1] * layout.shape[2];
    let planes = (LEAST_BYTES / size_of::<f32>()).div_ceil(plane);
    // The weight map is treated as one more channel with all predictions equal to 1.
    let channels = sum.chunks_exact_mut(volume).enumerate().map(|(channel, out)| (Some(channel), out));
    let jobs: Vec<_> = channels
        .chain([(None, weight)])
        .flat_map(|(channel, out)| {
            let slabs = out.chunks_mut(planes * plane).enumerate();
            slabs.map(move |(number, out)| (channel, number * planes, out))
        })
        .collect();
    let run = |(channel, first, out): (Option<usize>, usize, &mut [f32])| {
        for (number, &corner) in corners.iter().enumerate() {
            let prediction =
                channel.map(|channel| &predictions[(number * layout.channels + channel) * window..][..window]);
            add_window(layout, corner, prediction, importance, first, out);
        }
    };
    if threads == Some(1) {
        jobs.into_iter().for_each(run);
    } else {
        pool::install(threads, || jobs.into_par_iter().for_each(run));
    }
    Ok(())
}

/// Add the part of one window that lies in the planes of `out`; `first` is the first of these planes.
pub(crate) fn add_window(
    layout: Layout,
    corner: [i64; 3],
    prediction: Option<&[f32]>,
    importance: &[f32],
    first: usize,
    out: &mut [f32],
) {
    let [_, height, depth] = layout.shape;
    let [_, rows, columns] = layout.window;
    let corner = [corner[0].saturating_sub(first as i64), corner[1], corner[2]];
    let extent = [out.len() / (height * depth), height, depth];
    let inside: [Range<usize>; 3] = std::array::from_fn(|axis| {
        let clip = |bound: i64| bound.clamp(0, layout.window[axis] as i64) as usize;
        clip(corner[axis].saturating_neg())..clip((extent[axis] as i64).saturating_sub(corner[axis]))
    });
    if inside.iter().any(Range::is_empty) {
        return;
    }
    let at = |axis: usize, index: usize| (corner[axis] + index as i64) as usize;
    for i in inside[0].clone() {
        for j in inside[1].clone() {
            let source = (i * rows + j) * columns;
            let source = source + inside[2].start..source + inside[2].end;
            let start = (at(0, i) * height + at(1, j)) * depth + at(2, inside[2].start);
            let row = &mut out[start..start + source.len()];
            let weights = &importance[source.clone()];
            if let Some(prediction) = prediction {
                for ((total, weight), value) in row.iter_mut().zip(weights).zip(&prediction[source]) {
                    *total += weight * value;
                }
            } else {
                for (total, weight) in row.iter_mut().zip(weights) {
                    *total += weight;
                }
            }
        }
    }
}

/// Divide every channel of `sum` by `weight`, in place.
///
/// # Errors
/// [`Error::Window`] if the lengths do not match or if a voxel was covered by no window; `sum` is then unchanged.
pub fn finish(sum: &mut [f32], weight: &[f32], threads: Option<usize>) -> Result<()> {
    if weight.is_empty() || !sum.len().is_multiple_of(weight.len()) {
        return Err(Error::Window(format!(
            "{} sums and {} weights; expected the number of sums to be a multiple of the number of weights",
            sum.len(),
            weight.len()
        )));
    }
    let uncovered = weight.iter().filter(|&&weight| weight <= 0.0).count();
    if uncovered > 0 {
        let total = weight.len();
        return Err(Error::Window(format!(
            "{uncovered} of {total} voxels are covered by no window; add windows that cover the whole volume"
        )));
    }
    let piece = LEAST_BYTES / size_of::<f32>();
    let divide = |channel: &mut [f32]| {
        channel.par_chunks_mut(piece).zip(weight.par_chunks(piece)).for_each(|(sum, weight)| {
            for (sum, weight) in sum.iter_mut().zip(weight) {
                *sum /= weight;
            }
        });
    };
    pool::install(threads, || sum.chunks_exact_mut(weight.len()).for_each(divide));
    Ok(())
}
