//! Instance norm in channels-last memory, together with the residual and the leaky `ReLU` that follow it.
//!
//! `out = leaky(x̂ + residual)`, where x̂ is x with mean 0 and variance 1 in each channel of each sample. The voxels are
//! read once for the sums and once for the result; a network that calls one function for each operation reads and
//! writes them three times as often. Sums are made in blocks that fit into the first cache, and blocks are joined in
//! float64 in their order, so the result depends neither on the number of threads nor on a large offset of the values.

mod loops;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use self::loops::{Rows, apply, apply_gradient, gradient_sums, moments};
use crate::{Error, Result, openmp};

/// Number of values in a piece of work.
const PIECE: usize = 1 << 16;
/// Loops run over rows of about this many values, so that they are vectorised for few channels, too.
const ROW: usize = 128;

/// What is normalised, and what follows.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// Number of samples; each is normalised on its own.
    pub samples: usize,
    /// Number of channels of a voxel; they are adjacent in memory.
    pub channels: usize,
    /// Slope of the leaky `ReLU` for negative values, 0 or more; 1 for none.
    pub slope: f32,
    /// Number of threads to use at most.
    pub threads: usize,
}

/// Number of voxels, mean and sum of squared deviations per channel.
struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    fn none(channels: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    /// Join two sets of voxels (Chan, Golub and `LeVeque` 1979).
    fn join(mut self, other: &Self) -> Self {
        self.count += other.count;
        let share = other.count / self.count;
        for (channel, mean) in self.mean.iter_mut().enumerate() {
            let difference = other.mean[channel] - *mean;
            *mean += difference * share;
            self.squares[channel] += other.squares[channel] + difference * difference * (1.0 - share) * other.count;
        }
        self
    }
}

/// A part of one sample: its values and, for a gradient, what came out there and the gradient of that.
#[derive(Clone, Copy)]
struct Part<'a> {
    x: &'a [f32],
    out: &'a [f32],
    gradient: &'a [f32],
}

/// How an array is divided into pieces: none reaches from one sample into the next.
#[derive(Clone, Copy)]
struct Division {
    per_sample: usize,
    piece: usize,
}

impl Division {
    fn per_sample(self) -> usize {
        self.per_sample.div_ceil(self.piece)
    }

    fn sample(self, n: usize) -> usize {
        n / self.per_sample()
    }

    fn range(self, n: usize) -> Range<usize> {
        let start = self.sample(n) * self.per_sample + n % self.per_sample() * self.piece;
        start..(start + self.piece).min((self.sample(n) + 1) * self.per_sample)
    }

    fn parts(self, values: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
        values.chunks_mut(self.per_sample).flat_map(move |sample| sample.chunks_mut(self.piece))
    }
}

impl Norm {
    /// Normalise, add the residual, activate.
    ///
    /// # Arguments
    /// - `x`, `residual`, `out`: (samples, voxels, channels), C order.
    /// - `statistics`: receives mean and standard deviation⁻¹, (samples, 2, channels).
    /// - `eps`: added to the variance.
    ///
    /// # Errors
    /// [`Error::Window`] if the lengths do not agree.
    pub fn forward(
        &self,
        x: &[f32],
        residual: Option<&[f32]>,
        out: &mut [f32],
        statistics: &mut [f32],
        eps: f64,
    ) -> Result<()> {
        let others = [out.len(), residual.map_or(x.len(), <[f32]>::len)];
        let division = self.division(x.len(), &others, statistics.len())?;
        let count = self.samples * division.per_sample();
        let sums = self.each((0..count).collect(), |n| moments(&x[division.range(n)], self.channels, self.lanes()));
        let samples = sums.chunks(division.per_sample()).zip(statistics.chunks_mut(2 * self.channels));
        for (sums, statistics) in samples {
            let all = sums.iter().fold(Moments::none(self.channels), Moments::join);
            for channel in 0..self.channels {
                statistics[channel] = all.mean[channel] as f32;
                statistics[self.channels + channel] = (1.0 / (all.squares[channel] / all.count + eps).sqrt()) as f32;
            }
        }
        let rows = self.rows(statistics);
        self.each(division.parts(out).enumerate().collect(), |(n, out)| {
            let residual = residual.map(|values| &values[division.range(n)]);
            apply(&x[division.range(n)], residual, &rows[division.sample(n)], self.slope, out);
        });
        Ok(())
    }

    /// Compute the gradients of `x` and of the residual.
    ///
    /// # Arguments
    /// - `x`, `statistics`: as given to and received from [`Norm::forward`].
    /// - `out`: what [`Norm::forward`] returned; it may be `None` if the slope is 1.
    /// - `gradient`: that of `out`.
    /// - `of_x`, `of_residual`: receive the gradients.
    ///
    /// # Errors
    /// [`Error::Window`] if the lengths do not agree, or `out` is missing.
    pub fn backward(
        &self,
        x: &[f32],
        out: Option<&[f32]>,
        gradient: &[f32],
        statistics: &[f32],
        of_x: &mut [f32],
        of_residual: Option<&mut [f32]>,
    ) -> Result<()> {
        let active = self.slope.to_bits() != 1f32.to_bits();
        if active && out.is_none() {
            return Err(Error::Window("a gradient through an activation needs what came out of it".into()));
        }
        // Without an activation, the signs do not matter.
        let out = out.unwrap_or(gradient);
        let of_residual_length = of_residual.as_ref().map_or(x.len(), |values| values.len());
        let others = [out.len(), gradient.len(), of_x.len(), of_residual_length];
        let division = self.division(x.len(), &others, statistics.len())?;
        let count = self.samples * division.per_sample();
        let rows = self.rows(statistics);
        let part = |n: usize| {
            let range = division.range(n);
            Part { x: &x[range.clone()], out: &out[range.clone()], gradient: &gradient[range] }
        };
        let sums = self.each((0..count).collect(), |n| {
            gradient_sums(part(n), &rows[division.sample(n)], self.slope, self.channels)
        });
        let voxels = (division.per_sample / self.channels) as f64;
        let mean = |sums: &[[Vec<f64>; 2]], which: usize| {
            let total = |channel: usize| sums.iter().map(|sums| sums[which][channel]).sum::<f64>();
            self.row(&(0..self.channels).map(|channel| (total(channel) / voxels) as f32).collect::<Vec<_>>())
        };
        let means: Vec<[Vec<f32>; 2]> =
            sums.chunks(division.per_sample()).map(|sums| [mean(sums, 0), mean(sums, 1)]).collect();
        let of_residual: Vec<Option<&mut [f32]>> = match of_residual {
            Some(values) => division.parts(values).map(Some).collect(),
            None => (0..count).map(|_| None).collect(),
        };
        self.each(division.parts(of_x).zip(of_residual).enumerate().collect(), |(n, (of_x, of_residual))| {
            let sample = division.sample(n);
            apply_gradient(part(n), &rows[sample], &means[sample], self.slope, of_x, of_residual);
        });
        Ok(())
    }

    /// Check the lengths and divide the work.
    fn division(&self, length: usize, others: &[usize], statistics: usize) -> Result<Division> {
        let unit = self.samples * self.channels;
        let whole = unit > 0 && length > 0 && length.is_multiple_of(unit);
        if !whole || others.iter().any(|&other| other != length) || statistics != 2 * unit {
            let Self { samples, channels, .. } = self;
            let what = format!("{samples} samples of {channels} channels: {length} values, {others:?}, {statistics}");
            return Err(Error::Window(what));
        }
        let piece = self.lanes() * (PIECE / self.lanes()).max(1);
        Ok(Division { per_sample: length / self.samples, piece })
    }

    /// Number of values of a row: whole voxels.
    fn lanes(&self) -> usize {
        self.channels * (ROW / self.channels).max(1)
    }

    fn row(&self, values: &[f32]) -> Vec<f32> {
        values.iter().copied().cycle().take(self.lanes()).collect()
    }

    fn rows(&self, statistics: &[f32]) -> Vec<Rows> {
        let halves = statistics.chunks(2 * self.channels).map(|sample| sample.split_at(self.channels));
        halves.map(|(mean, scale)| Rows { mean: self.row(mean), scale: self.row(scale) }).collect()
    }

    /// Call a function on each item, in at most as many threads as asked for; the results are in the items' order.
    fn each<T: Send, R: Send>(&self, items: Vec<T>, call: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
        let threads = self.threads.min(items.len());
        if threads < 2 {
            return items.into_iter().map(call).collect();
        }
        let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
        openmp::each(threads, items.len(), &|n| {
            let item = items[n].lock().unwrap_or_else(PoisonError::into_inner).take();
            *results[n].lock().unwrap_or_else(PoisonError::into_inner) = item.map(&call);
        });
        results.into_iter().filter_map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}
