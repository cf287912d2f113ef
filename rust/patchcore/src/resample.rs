//! Resampling a volume to another spacing: separable, plane by plane, in bounded memory.
//!
//! Walk coordinates as in memory: planes of rows of voxels. Each plane is brought to the new grid within itself as soon
//! as it is there (columns first, which vectorises, then rows, which are shorter by then), and only the few planes that
//! the next new plane is made of are kept.

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
use sums::{along, weighted, weighted_rounded};

/// A volume that gives its planes one after the other.
pub trait Planes: Sync {
    /// Make planes ready. Every plane before the last one needed is loaded or skipped once, in ascending order.
    ///
    /// # Errors
    /// Whatever reading them fails with.
    fn load(&mut self, planes: std::ops::Range<usize>) -> Result<()>;

    /// Pass over planes that nobody needs.
    ///
    /// # Errors
    /// Whatever reading them fails with.
    fn skip(&mut self, planes: std::ops::Range<usize>) -> Result<()> {
        let _ = planes;
        Ok(())
    }

    /// Write a plane that was made ready by the last call of `load`, as float32, rows one behind the other.
    fn write(&self, plane: usize, out: &mut [f32]);
}

/// The three axes of a resampling, slowest first.
#[derive(Debug, Clone)]
pub struct Bands {
    /// Plane by plane.
    pub planes: Band,
    /// Row by row.
    pub rows: Band,
    /// Along a row.
    pub columns: Band,
}

impl Bands {
    /// New planes made at once.
    pub(crate) fn batch(&self, threads: usize) -> usize {
        (4 * threads).min(self.planes.output())
    }

    /// Bytes that [`resample`] takes for its planes on so many threads, at most, beside what `source` and `emit` keep.
    #[must_use]
    pub fn bytes(&self, threads: usize) -> usize {
        let new = self.rows.output() * self.columns.output();
        let batch = self.batch(threads);
        let total = self.planes.output();
        let needed = |from: usize| self.planes.needs((from + batch).min(total) - 1).end - self.planes.needs(from).start;
        let kept = (0..total).step_by(batch.max(1)).map(needed).max().unwrap_or(0) + batch;
        4 * kept * new + 2 * batch * new + 4 * threads * self.rows.input * self.columns.input
    }

    /// Bring one plane to the new rows and columns.
    fn within_plane(&self, plane: &[f32], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let (length, new) = (self.columns.input, self.columns.output());
        // Weights of 0 point beyond the row.
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

/// Gather the rows that weights belong to; there may be fewer, where the last weights are 0.
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

/// Planes on the new rows and columns, those that the next new plane needs.
struct Kept {
    planes: VecDeque<Vec<f32>>,
    /// Number of the first of them.
    first: usize,
    spare: Vec<Vec<f32>>,
}

/// Resample a volume of intensities; `emit` gets the new planes in order, some at a time, as rows one behind the other.
///
/// Values are rounded to the nearest and saturate at the ends of int16.
///
/// Runs in the rayon pool that it is called in.
///
/// # Errors
/// What `source` and `emit` fail with, [`Error::Memory`], [`Error::Interrupted`].
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

/// Take planes in until `needed` are there, and let those before go.
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
            // A plane that no new plane is made of still has to be read past.
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
                .map_err(|_| Error::Memory("no memory for a plane".into()))?;
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
