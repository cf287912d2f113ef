//! The inner loops of the norm. All processors round alike, because no product is fused into a sum.

// Code that is inlined into a function is compiled for the processor features of that function.
#![allow(clippy::inline_always)]

use super::{Moments, Part};
use crate::dispatch::dispatch;

/// Number of values in a block of sums: 16 KiB.
const BLOCK: usize = 4096;
/// Number of sums that fit into registers.
const TILE: usize = 32;

/// Mean and standard deviation⁻¹ of each channel of a sample, repeated to the length of a row.
pub(super) struct Rows {
    pub(super) mean: Vec<f32>,
    pub(super) scale: Vec<f32>,
}

dispatch! {
    /// Moments of each channel; a row has `lanes` values.
    pub(super) fn moments(values: &[f32], channels: usize, lanes: usize) -> Moments = moments_of, moments_of
}
dispatch! {
    /// `out = leaky((x - mean) · scale + residual)`.
    pub(super) fn apply(x: &[f32], residual: Option<&[f32]>, rows: &Rows, slope: f32, out: &mut [f32])
        = apply_of, apply_of
}
dispatch! {
    /// Sums per channel of the gradient before the activation, and of that times x̂.
    pub(super) fn gradient_sums(part: Part<'_>, rows: &Rows, slope: f32, channels: usize) -> [Vec<f64>; 2]
        = gradient_sums_of, gradient_sums_of
}
dispatch! {
    /// The gradients of x and of the residual, given the means of what [`gradient_sums`] adds up.
    pub(super) fn apply_gradient(
        part: Part<'_>, rows: &Rows, means: &[Vec<f32>; 2], slope: f32,
        of_x: &mut [f32], of_residual: Option<&mut [f32]>
    ) = apply_gradient_of, apply_gradient_of
}

/// Number of values of a block: whole rows.
fn block(lanes: usize) -> usize {
    lanes * (BLOCK / lanes).max(1)
}

/// Add up the values of a row per channel.
fn folded<T: Copy + Into<f64>>(row: &[T], channels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; channels];
    for voxel in row.chunks(channels) {
        for (sum, &value) in sums.iter_mut().zip(voxel) {
            *sum += value.into();
        }
    }
    sums
}

/// A tile of a row, filled up with zeros.
fn tile(row: &[f32], at: usize) -> [f32; TILE] {
    let mut tile = [0.0; TILE];
    let width = TILE.min(row.len() - at);
    tile[..width].copy_from_slice(&row[at..at + width]);
    tile
}

/// `sums[n] = Σ term(row[n], centre[n])` over the rows of a block.
#[inline(always)]
fn column_sums(block: &[f32], centre: &[f32], term: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let lanes = centre.len();
    let mut sums = vec![0.0; lanes];
    for (n, sums) in sums.chunks_mut(TILE).enumerate() {
        let centre = tile(centre, n * TILE);
        let mut sum = [0.0; TILE];
        for row in block.chunks(lanes) {
            // Only the last row may be shorter.
            let Some(values) = row.get(n * TILE..) else { break };
            if let Some(values) = values.first_chunk::<TILE>() {
                for n in 0..TILE {
                    sum[n] += term(values[n], centre[n]);
                }
            } else {
                for (n, &value) in values.iter().enumerate() {
                    sum[n] += term(value, centre[n]);
                }
            }
        }
        sums.copy_from_slice(&sum[..sums.len()]);
    }
    sums
}

#[inline(always)]
fn moments_of(values: &[f32], channels: usize, lanes: usize) -> Moments {
    let zeros = vec![0.0; lanes];
    let mut all = Moments::none(channels);
    for block in values.chunks(block(lanes)) {
        let count = (block.len() / channels) as f64;
        let sums = folded(&column_sums(block, &zeros, |value, _| value), channels);
        let mean: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
        let centre: Vec<f32> = mean.iter().map(|&mean| mean as f32).cycle().take(lanes).collect();
        let squares = folded(&column_sums(block, &centre, |value, mean| (value - mean) * (value - mean)), channels);
        all = all.join(&Moments { count, mean, squares });
    }
    all
}

#[inline(always)]
fn leaky(value: f32, slope: f32) -> f32 {
    if value > 0.0 { value } else { value * slope }
}

/// The gradient before the activation. What came out of it has the sign of what went in.
#[inline(always)]
fn before(out: f32, gradient: f32, slope: f32) -> f32 {
    if out > 0.0 { gradient } else { gradient * slope }
}

#[inline(always)]
fn apply_of(x: &[f32], residual: Option<&[f32]>, rows: &Rows, slope: f32, out: &mut [f32]) {
    let lanes = rows.mean.len();
    for (row, (out, x)) in out.chunks_mut(lanes).zip(x.chunks(lanes)).enumerate() {
        let count = out.len();
        let (x, mean, scale) = (&x[..count], &rows.mean[..count], &rows.scale[..count]);
        if let Some(residual) = residual {
            let residual = &residual[row * lanes..][..count];
            for n in 0..count {
                out[n] = leaky((x[n] - mean[n]) * scale[n] + residual[n], slope);
            }
        } else {
            for n in 0..count {
                out[n] = leaky((x[n] - mean[n]) * scale[n], slope);
            }
        }
    }
}

#[inline(always)]
fn gradient_sums_of(part: Part<'_>, rows: &Rows, slope: f32, channels: usize) -> [Vec<f64>; 2] {
    let lanes = rows.mean.len();
    let size = block(lanes);
    let mut sums = [vec![0.0; lanes], vec![0.0; lanes]];
    for start in (0..part.x.len()).step_by(size) {
        let end = part.x.len().min(start + size);
        for at in (0..lanes).step_by(TILE) {
            let (mean, scale) = (tile(&rows.mean, at), tile(&rows.scale, at));
            let (mut one, mut two) = ([0f32; TILE], [0f32; TILE]);
            let mut add = |n: usize, x: f32, out: f32, gradient: f32| {
                let inner = before(out, gradient, slope);
                one[n] += inner;
                two[n] += inner * ((x - mean[n]) * scale[n]);
            };
            for first in (start + at..end).step_by(lanes) {
                let range = first..end.min(first + TILE.min(lanes - at));
                let (x, out, gradient) = (&part.x[range.clone()], &part.out[range.clone()], &part.gradient[range]);
                let tiles = (x.first_chunk::<TILE>(), out.first_chunk::<TILE>(), gradient.first_chunk::<TILE>());
                if let (Some(x), Some(out), Some(gradient)) = tiles {
                    for n in 0..TILE {
                        add(n, x[n], out[n], gradient[n]);
                    }
                } else {
                    for n in 0..x.len() {
                        add(n, x[n], out[n], gradient[n]);
                    }
                }
            }
            for (sums, tile) in sums.iter_mut().zip([one, two]) {
                for (sum, &value) in sums[at..].iter_mut().zip(&tile) {
                    *sum += f64::from(value);
                }
            }
        }
    }
    sums.map(|sums| folded(&sums, channels))
}

#[inline(always)]
fn apply_gradient_of(
    part: Part<'_>,
    rows: &Rows,
    means: &[Vec<f32>; 2],
    slope: f32,
    of_x: &mut [f32],
    mut of_residual: Option<&mut [f32]>,
) {
    let lanes = rows.mean.len();
    for start in (0..of_x.len()).step_by(lanes) {
        let range = start..of_x.len().min(start + lanes);
        let count = range.len();
        let (x, out, gradient) = (&part.x[range.clone()], &part.out[range.clone()], &part.gradient[range.clone()]);
        let (mean, scale) = (&rows.mean[..count], &rows.scale[..count]);
        let (one, two) = (&means[0][..count], &means[1][..count]);
        let of_x = &mut of_x[range.clone()];
        let of_one = |n: usize, inner: f32| (inner - one[n] - (x[n] - mean[n]) * scale[n] * two[n]) * scale[n];
        if let Some(of_residual) = &mut of_residual {
            let of_residual = &mut of_residual[range];
            for n in 0..count {
                of_residual[n] = before(out[n], gradient[n], slope);
                of_x[n] = of_one(n, of_residual[n]);
            }
        } else {
            for n in 0..count {
                of_x[n] = of_one(n, before(out[n], gradient[n], slope));
            }
        }
    }
}
