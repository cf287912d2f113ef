//! Resamples a volume to another spacing: separable, plane by plane, in bounded memory.
//!
//! Coordinates follow the memory order: planes, rows, voxels. Each old plane is first resampled in-plane, as soon as it
//! is read: across its rows first, which vectorises, then along its rows. Only the few planes that the next new plane
//! needs are kept in memory.

mod array;
mod band;
mod labels;
mod sums;

use std::collections::VecDeque;

use rayon::prelude::*;

pub use array::ArrayPlanes;
pub use band::{Band, Kernel};
pub use labels::{LabelPlanes, resample_labels};

use crate::pool::Interrupt;
use crate::{Error, Result, error};
pub(crate) use sums::weighted;
use sums::{along, weighted_rounded};

/// A volume that returns its planes one after the other.
pub trait Planes: Sync {
    /// Load planes. Every plane up to the last needed plane is loaded or skipped exactly once, in ascending order.
    ///
    /// # Errors
    /// Any error while reading the planes.
    fn load(&mut self, planes: std::ops::Range<usize>) -> Result<()>;

    /// Skip planes that are not needed.
    ///
    /// # Errors
    /// Any error while reading the planes.
    fn skip(&mut self, planes: std::ops::Range<usize>) -> Result<()> {
        let _ = planes;
        Ok(())
    }

    /// Write a plane that the last call of `load` loaded to `out`, as float32, row after row.
    fn write(&self, plane: usize, out: &mut [f32]);
}

/// The three axes of a resampling, slowest first.
#[derive(Debug, Clone)]
pub struct Bands {
    /// The axis across planes.
    pub planes: Band,
    /// The axis across rows.
    pub rows: Band,
    /// The axis along a row.
    pub columns: Band,
}

impl Bands {
    /// Number of new planes that are computed at once.
    pub(crate) fn batch(&self, threads: usize) -> usize {
        (4 * threads).min(self.planes.output())
    }

    /// The most bytes that [`resample`] needs for its planes with `threads` threads, without the memory of `source` and
    /// `emit`.
    #[must_use]
    pub fn bytes(&self, threads: usize) -> usize {
        let new = self.rows.output() * self.columns.output();
        let batch = self.batch(threads);
        let total = self.planes.output();
        let needed = |from: usize| self.planes.needs((from + batch).min(total) - 1).end - self.planes.needs(from).start;
        let kept = (0..total).step_by(batch.max(1)).map(needed).max().unwrap_or(0) + batch;
        4 * kept * new + 2 * batch * new + 4 * threads * self.rows.input * self.columns.input
    }

    /// Resample one plane to the new rows and columns.
    pub(crate) fn within_plane(&self, plane: &[f32], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let (length, new) = (self.columns.input, self.columns.output());
        // Padding weights of 0 may refer to voxels beyond the row.
        scratch.resize(length + self.columns.taps, 0.0);
        for (row, out) in out.chunks_exact_mut(new).enumerate() {
            let (start, weights) = self.rows.row(row);
            let whole = if self.columns.identity { &mut *out } else { &mut scratch[..length] };
            if self.rows.identity {
                whole.copy_from_slice(&plane[row * length..][..length]);
            } else {
                with_rows(plane[start * length..].chunks_exact(length), weights, |rows| weighted(rows, weights, whole));
            }
            if !self.columns.identity {
                along(scratch, &self.columns.starts, &self.columns.weights, self.columns.taps, out);
            }
        }
    }
}

/// Collect the rows that belong to the weights. There may be fewer rows than weights if the last weights are 0.
fn with_rows<'a>(rows: impl Iterator<Item = &'a [f32]>, weights: &[f32], then: impl FnOnce(&[&'a [f32]])) {
    const MOST: usize = 64;
    let mut few: [&[f32]; MOST] = [&[]; MOST];
    if weights.len() <= MOST {
        let mut count = 0;
        for (place, row) in few.iter_mut().zip(rows.take(weights.len())) {
            (*place, count) = (row, count + 1);
        }
        then(&few[..count]);
    } else {
        then(&rows.take(weights.len()).collect::<Vec<_>>());
    }
}

/// The in-plane resampled planes that the next new plane needs.
struct Kept {
    planes: VecDeque<Vec<f32>>,
    /// Number of the first of these planes.
    first: usize,
    spare: Vec<Vec<f32>>,
}

/// Resample a volume of intensities. `emit` receives the new planes in order, a few at a time, row after row.
///
/// Values are rounded to the nearest integer and clipped to the range of int16.
///
/// This function runs in the rayon pool in which it is called.
///
/// # Errors
/// The errors of `source` and `emit`, [`Error::Memory`], [`Error::Interrupted`].
pub fn resample(
    source: &mut impl Planes,
    bands: &Bands,
    interrupt: &Interrupt,
    mut emit: impl FnMut(usize, &[i16]) -> Result<()>,
) -> Result<()> {
    let size = bands.rows.output() * bands.columns.output();
    let batch = bands.batch(rayon::current_num_threads());
    let mut kept = Kept { planes: VecDeque::new(), first: 0, spare: Vec::new() };
    let mut out: Vec<i16> = error::room(size.checked_mul(batch), "resampled planes")?;
    let total = bands.planes.output();
    for from in (0..total).step_by(batch) {
        let to = (from + batch).min(total);
        let needed = bands.planes.needs(from).start..bands.planes.needs(to - 1).end;
        advance(source, bands, &mut kept, needed, batch, interrupt)?;
        out.clear();
        out.resize(size * (to - from), 0);
        out.par_chunks_exact_mut(size).enumerate().for_each(|(at, out)| combine(bands, &kept, from + at, out));
        emit(from, &out)?;
    }
    Ok(())
}

/// Read planes until all planes in `needed` are available, and release the planes before them.
fn advance(
    source: &mut impl Planes,
    bands: &Bands,
    kept: &mut Kept,
    needed: std::ops::Range<usize>,
    batch: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let size = bands.rows.output() * bands.columns.output();
    while kept.first < needed.start {
        if let Some(plane) = kept.planes.pop_front() {
            kept.spare.push(plane);
            kept.first += 1;
        } else {
            // Planes that no new plane needs must still be skipped in the source.
            source.skip(kept.first..needed.start)?;
            kept.first = needed.start;
        }
    }
    loop {
        interrupt.check()?;
        let next = kept.first + kept.planes.len();
        if next >= needed.end {
            return Ok(());
        }
        let range = next..needed.end.min(next + batch);
        source.load(range.clone())?;
        let mut fresh = Vec::new();
        for _ in range.clone() {
            let mut plane = kept.spare.pop().unwrap_or_default();
            plane
                .try_reserve_exact(size.saturating_sub(plane.len()))
                .map_err(|_| Error::Memory("not enough memory for a plane".into()))?;
            plane.resize(size, 0.0);
            fresh.push(plane);
        }
        let source = &*source;
        fresh.par_iter_mut().enumerate().for_each_init(
            || (vec![0.0; bands.rows.input * bands.columns.input], Vec::new()),
            |(plane, scratch), (at, out)| {
                source.write(range.start + at, plane);
                bands.within_plane(plane, scratch, out);
            },
        );
        kept.planes.extend(fresh);
    }
}

fn combine(bands: &Bands, kept: &Kept, at: usize, out: &mut [i16]) {
    let (start, weights) = bands.planes.row(at);
    let planes = kept.planes.iter().skip(start - kept.first).map(Vec::as_slice);
    with_rows(planes, weights, |planes| weighted_rounded(planes, weights, out));
}
