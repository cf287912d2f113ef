//! Blends overlapping windows, and keeps only the planes that a later window can still touch.

use rayon::prelude::*;

use crate::windows::blend::{Layout, add_window};
use crate::{Error, Result, error};

/// The open planes of a blended volume.
#[derive(Debug)]
pub struct Ring {
    layout: Layout,
    importance: Vec<f32>,
    /// Number of planes that are held: plane p is at place p modulo this number.
    depth: usize,
    /// The first plane that is not final.
    first: usize,
    /// Weighted sums, (channels, depth, j, k).
    sum: Vec<f32>,
    /// Sums of the weights, (depth, j, k).
    weight: Vec<f32>,
}

impl Ring {
    /// Make room for the open planes of a volume.
    ///
    /// # Errors
    /// [`Error::Window`] if an edge or the number of channels is 0 or `importance` does not have one weight per voxel of
    /// a window; [`Error::Memory`].
    pub fn new(layout: Layout, importance: Vec<f32>) -> Result<Self> {
        let Layout { channels, shape, window } = layout;
        let voxels = window.iter().try_fold(1usize, |product, &edge| product.checked_mul(edge));
        if channels == 0 || shape.contains(&0) || window.contains(&0) || voxels != Some(importance.len()) {
            return Err(Error::Window(format!(
                "{} weights for {layout:?}; expected positive sizes and one weight per voxel of a window",
                importance.len()
            )));
        }
        let depth = window[0].min(shape[0]);
        let held = depth.checked_mul(shape[1]).and_then(|n| n.checked_mul(shape[2]));
        let total = held.and_then(|held| held.checked_mul(channels));
        let mut sum = error::room(total, "the open planes of a prediction")?;
        let mut weight = error::room(held, "the weights of the open planes")?;
        sum.resize(total.unwrap_or_default(), 0.0);
        weight.resize(held.unwrap_or_default(), 0.0);
        Ok(Self { layout, importance, depth, first: 0, sum, weight })
    }

    /// Number of values of a plane that [`Ring::take`] writes.
    pub(super) fn plane_len(&self) -> usize {
        self.layout.channels * self.plane()
    }

    fn plane(&self) -> usize {
        self.layout.shape[1] * self.layout.shape[2]
    }

    /// The first plane that is not final.
    #[must_use]
    pub fn first(&self) -> usize {
        self.first
    }

    /// Add windows whose corners have the same first index. Every plane that they touch must be open. Without
    /// `predictions`, channel 0 is 1 and the others are 0 in all of them.
    ///
    /// # Errors
    /// [`Error::Window`] if a window touches a plane that is final, or a length does not match.
    pub(super) fn add(&mut self, corners: &[[i64; 3]], predictions: Option<&[f32]>) -> Result<()> {
        let (layout, window) = (self.layout, self.importance.len());
        let channels = layout.channels;
        if let Some(found) = predictions.map(<[f32]>::len).filter(|&found| found != corners.len() * channels * window) {
            let expected = corners.len() * channels * window;
            return Err(Error::Window(format!("predictions has {found} elements; expected {expected}")));
        }
        let (first, depth) = (self.first, self.depth);
        let Some(low) = corners.first().map(|corner| corner[0]) else { return Ok(()) };
        // After this, the window ends within the `depth` planes from `first`.
        let end = low.saturating_add(layout.window[0] as i64).min(layout.shape[0] as i64);
        if low.max(0) < first as i64 || end > (first + depth) as i64 {
            return Err(Error::Window(format!(
                "a window starts at plane {low}, but planes below {first} are final; add windows in ascending order \
                 along axis 0"
            )));
        }
        let plane = self.plane();
        let importance = &self.importance;
        let add = |place: usize, channel: Option<usize>, out: &mut [f32]| {
            let number = first + (place + depth - first % depth) % depth;
            for (at, &corner) in corners.iter().enumerate() {
                let prediction = match (channel, predictions) {
                    (Some(channel), Some(values)) => Some(&values[(at * channels + channel) * window..][..window]),
                    (Some(channel), None) if channel > 0 => continue,
                    _ => None,
                };
                add_window(layout, corner, prediction, importance, number, out);
            }
        };
        let sums = self.sum.par_chunks_exact_mut(plane).enumerate();
        let sums = sums.map(|(at, out)| (at % depth, Some(at / depth), out));
        let weights = self.weight.par_chunks_exact_mut(plane).enumerate().map(|(at, out)| (at, None, out));
        sums.chain(weights).for_each(|(place, channel, out)| add(place, channel, out));
        Ok(())
    }

    /// Take the next plane, which is final: the weighted mean of every channel, (channels, j, k).
    ///
    /// # Errors
    /// [`Error::Window`] if no window covers one of its voxels.
    pub(super) fn take(&mut self, out: &mut [f32]) -> Result<()> {
        let (plane, depth) = (self.plane(), self.depth);
        let place = self.first % depth;
        let weight = &mut self.weight[place * plane..][..plane];
        let uncovered = weight.iter().filter(|&&weight| weight <= 0.0).count();
        if uncovered > 0 {
            return Err(Error::Window(format!(
                "{uncovered} of {plane} voxels of plane {} are covered by no window; add windows that cover the whole \
                 volume",
                self.first
            )));
        }
        for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
            let sum = &mut self.sum[(channel * depth + place) * plane..][..plane];
            for ((out, sum), weight) in out.iter_mut().zip(&mut *sum).zip(&*weight) {
                *out = *sum / weight;
            }
            sum.fill(0.0);
        }
        weight.fill(0.0);
        self.first += 1;
        Ok(())
    }
}
