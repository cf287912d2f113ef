//! The inner loops of resampling, compiled once for processors with AVX2 and FMA and once for all processors.

// Code that is inlined into a function is compiled for the processor features of that function.
#![allow(clippy::inline_always)]

use crate::dispatch::dispatch;

dispatch! {
    /// `out[n] = Σ weights[t] · rows[t][n]`; every row is at least as long as `out`.
    pub(crate) fn weighted(rows: &[&[f32]], weights: &[f32], out: &mut [f32])
        = weighted_of::<true>, weighted_of::<false>
}
dispatch! {
    /// `out[j] = Σ weights[j · taps + t] · row[starts[j] + t]`; the row has at least `taps` values from the last start.
    pub(crate) fn along(row: &[f32], starts: &[usize], weights: &[f32], taps: usize, out: &mut [f32])
        = along_of::<true>, along_of::<false>
}
dispatch! {
    /// `out[n] = Σ weights[t] · rows[t][n]`, rounded to the nearest int16.
    pub(crate) fn weighted_rounded(rows: &[&[f32]], weights: &[f32], out: &mut [i16])
        = weighted_rounded_of::<true>, weighted_rounded_of::<false>
}

/// Number of sums that fit into registers.
const PIECE: usize = 64;

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the FMA instruction, `mul_add` is a slow function call.
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn piece_of<const FUSED: bool>(rows: &[&[f32]], weights: &[f32], at: usize, length: usize) -> [f32; PIECE] {
    let mut sum = [0f32; PIECE];
    if length == PIECE {
        for (row, &weight) in rows.iter().zip(weights) {
            let Some(values) = row[at..].first_chunk::<PIECE>() else { continue };
            for n in 0..PIECE {
                sum[n] = multiply_add::<FUSED>(values[n], weight, sum[n]);
            }
        }
    } else {
        for (row, &weight) in rows.iter().zip(weights) {
            for (sum, &value) in sum.iter_mut().zip(&row[at..at + length]) {
                *sum = multiply_add::<FUSED>(value, weight, *sum);
            }
        }
    }
    sum
}

#[inline(always)]
fn weighted_of<const FUSED: bool>(rows: &[&[f32]], weights: &[f32], out: &mut [f32]) {
    for (piece, out) in out.chunks_mut(PIECE).enumerate() {
        let sum = piece_of::<FUSED>(rows, weights, piece * PIECE, out.len());
        out.copy_from_slice(&sum[..out.len()]);
    }
}

#[inline(always)]
fn weighted_rounded_of<const FUSED: bool>(rows: &[&[f32]], weights: &[f32], out: &mut [i16]) {
    for (piece, out) in out.chunks_mut(PIECE).enumerate() {
        let sum = piece_of::<FUSED>(rows, weights, piece * PIECE, out.len());
        for (out, &value) in out.iter_mut().zip(&sum) {
            // `as` saturates.
            *out = value.round_ties_even() as i16;
        }
    }
}

#[inline(always)]
fn along_of<const FUSED: bool>(row: &[f32], starts: &[usize], weights: &[f32], taps: usize, out: &mut [f32]) {
    const LANES: usize = super::band::LANES;
    for ((out, &start), weights) in out.iter_mut().zip(starts).zip(weights.chunks_exact(taps)) {
        let mut sums = [0f32; LANES];
        for (values, weights) in row[start..].as_chunks::<LANES>().0.iter().zip(weights.as_chunks::<LANES>().0) {
            for n in 0..LANES {
                sums[n] = multiply_add::<FUSED>(values[n], weights[n], sums[n]);
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        *out = ((a + e) + (c + g)) + ((b + f) + (d + h));
    }
}
