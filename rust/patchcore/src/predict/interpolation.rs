//! Brings planes of probabilities from the training grid to the scan's grid, linearly.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::resample::{Band, Bands, Kernel, weighted};
use crate::{Error, Result, error};

/// Planes of the training grid, interpolated within the plane, that the next planes of the scan need.
#[derive(Debug)]
pub struct Interpolation {
    channels: usize,
    bands: Bands,
    /// Each entry is one plane: (channels, rows of the scan, columns of the scan).
    kept: VecDeque<Vec<f32>>,
    /// Number of the first of these planes.
    first: usize,
    /// The next plane of the scan.
    next: usize,
    spare: Vec<Vec<f32>>,
}

impl Interpolation {
    /// Prepare for planes of a training grid of `shape` that end on a scan's grid of `out_shape`.
    ///
    /// `ratio` is the scan's spacing divided by the training spacing, per axis. The grids are aligned at their edges.
    ///
    /// # Errors
    /// As [`Band::new`].
    pub fn new(channels: usize, shape: [usize; 3], out_shape: [usize; 3], ratio: [f64; 3]) -> Result<Self> {
        let band = |axis: usize| Band::new(shape[axis], out_shape[axis], ratio[axis], Kernel::Linear, false);
        let bands = Bands { planes: band(0)?, rows: band(1)?, columns: band(2)? };
        Ok(Self { channels, bands, kept: VecDeque::new(), first: 0, next: 0, spare: Vec::new() })
    }

    /// Number of voxels of a plane of the scan.
    pub(super) fn plane(&self) -> usize {
        self.bands.rows.output() * self.bands.columns.output()
    }

    /// The next plane of the scan.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// Add the next planes of the training grid, each (channels, j, k).
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(super) fn push(&mut self, planes: &[&[f32]]) -> Result<()> {
        let size = self.channels * self.plane();
        let mut fresh = Vec::new();
        for _ in planes {
            let mut plane = self.spare.pop().unwrap_or_default();
            plane
                .try_reserve_exact(size.saturating_sub(plane.len()))
                .map_err(|_| Error::Memory("not enough memory for a plane of probabilities".into()))?;
            plane.resize(size, 0.0);
            fresh.push(plane);
        }
        let (bands, old) = (&self.bands, self.bands.rows.input() * self.bands.columns.input());
        let jobs: Vec<(&[f32], &mut [f32])> = fresh
            .iter_mut()
            .zip(planes)
            .flat_map(|(out, plane)| plane.chunks_exact(old).zip(out.chunks_exact_mut(size / self.channels)))
            .collect();
        jobs.into_par_iter().for_each_init(Vec::new, |scratch, (plane, out)| bands.within_plane(plane, scratch, out));
        self.kept.extend(fresh);
        Ok(())
    }

    /// The planes of the scan that can be computed now.
    pub(super) fn ready(&self) -> std::ops::Range<usize> {
        let held = self.first + self.kept.len();
        let mut end = self.next;
        while end < self.bands.planes.output() && self.needs(end).end <= held {
            end += 1;
        }
        self.next..end
    }

    /// The planes of the training grid with a weight above 0 for a plane of the scan.
    fn needs(&self, at: usize) -> std::ops::Range<usize> {
        let (start, weights) = self.bands.planes.row(at);
        start..start + weights.len()
    }

    /// Compute the probabilities of a part of one plane of the scan: `shares` receives one row per channel.
    pub(super) fn row(&self, at: usize, part: std::ops::Range<usize>, shares: &mut [Vec<f32>]) {
        let (start, weights) = self.bands.planes.row(at);
        let plane = self.plane();
        for (channel, share) in shares.iter_mut().enumerate() {
            share.resize(part.len(), 0.0);
            let row = |n: usize| &self.kept[start + n - self.first][channel * plane..][part.clone()];
            // A linear interpolation has at most two weights.
            match weights {
                [one] => weighted(&[row(0)], &[*one], share),
                _ => weighted(&[row(0), row(1)], weights, share),
            }
        }
    }

    /// Go on to a later plane of the scan, and forget the planes of the training grid that it does not need.
    pub(super) fn advance(&mut self, next: usize) {
        self.next = next;
        let keep = if next < self.bands.planes.output() { self.needs(next).start } else { usize::MAX };
        while self.first < keep && !self.kept.is_empty() {
            self.spare.extend(self.kept.pop_front());
            self.first += 1;
        }
    }
}

/// Return a zeroed vector.
pub(super) fn zeros<T: Clone + Default>(count: Option<usize>, what: &str) -> Result<Vec<T>> {
    let mut values = error::room(count, what)?;
    values.resize(count.unwrap_or_default(), T::default());
    Ok(values)
}
