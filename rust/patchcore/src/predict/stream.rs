//! The label map of a scan while its windows arrive.

use std::collections::VecDeque;
use std::ops::Range;

use rayon::prelude::*;

use super::interpolation::zeros;
use super::{Interpolation, Ring, Rule};
use crate::windows::blend::Layout;
use crate::{Error, Result, pool};

/// Number of planes that are interpolated at once, per thread.
const PLANES_A_THREAD: usize = 4;
/// Number of voxels that are decided at once: their probabilities stay in the cache.
const PIECE: usize = 4096;

/// One model of a prediction: its windows and its training grid.
#[derive(Debug)]
pub struct Model {
    /// The open planes.
    pub ring: Ring,
    /// The way to the scan's grid.
    pub interpolation: Interpolation,
    /// Number of planes of the training grid.
    pub planes: usize,
    /// Share in the mean of the models; the shares of all models sum to 1.
    pub share: f32,
}

impl Model {
    /// Prepare a model. `ratio` is the scan's spacing divided by the training spacing.
    ///
    /// # Errors
    /// As [`Ring::new`] and [`Interpolation::new`].
    pub fn new(
        layout: Layout,
        importance: Vec<f32>,
        out_shape: [usize; 3],
        ratio: [f64; 3],
        share: f32,
    ) -> Result<Self> {
        Ok(Self {
            ring: Ring::new(layout, importance)?,
            interpolation: Interpolation::new(layout.channels, layout.shape, out_shape, ratio)?,
            planes: layout.shape[0],
            share,
        })
    }
}

/// What a prediction returns, in C order of the scan's grid.
#[derive(Debug, Default)]
pub struct Output {
    /// The class index of every voxel.
    pub classes: Vec<u8>,
    /// The probability of a lesion in steps of 1/65535; empty if it was not asked for.
    pub probability: Vec<u16>,
}

/// Turns the windows of one scan into class indices.
#[derive(Debug)]
pub struct Stream {
    channels: usize,
    shape: [usize; 3],
    rule: Rule,
    models: Vec<Model>,
    /// With several models: means of the planes that some model has not reached, (channels, rows, columns) each.
    sums: VecDeque<Vec<f32>>,
    /// The first plane that is not decided.
    next: usize,
    out: Output,
    threads: Option<usize>,
}

impl Stream {
    /// Begin a scan of `shape`. With `keep_probability`, the probability of a lesion is returned, too.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no model or the rule names a class that does not exist; [`Error::Memory`].
    pub fn new(
        channels: usize,
        shape: [usize; 3],
        rule: Rule,
        models: Vec<Model>,
        keep_probability: bool,
        threads: Option<usize>,
    ) -> Result<Self> {
        rule.check(channels)?;
        if models.is_empty() {
            return Err(Error::Argument("no model; expected at least one".into()));
        }
        let voxels = shape.iter().try_fold(1usize, |product, &edge| product.checked_mul(edge));
        let classes = zeros(voxels, "the label map")?;
        let probability = if keep_probability { zeros(voxels, "the map of probabilities")? } else { Vec::new() };
        let out = Output { classes, probability };
        Ok(Self { channels, shape, rule, models, sums: VecDeque::new(), next: 0, out, threads })
    }

    /// Add a batch of windows of one model, in ascending order along axis 0. Without `predictions` they are background.
    ///
    /// # Errors
    /// [`Error::Window`] if the windows are out of order or a length does not match; [`Error::Argument`] if the model
    /// does not exist; [`Error::Memory`].
    pub fn add(&mut self, model: usize, corners: &[[i64; 3]], predictions: Option<&[f32]>) -> Result<()> {
        self.check_model(model)?;
        let each = predictions.map(|values| values.len() / corners.len().max(1));
        if predictions.is_some_and(|values| values.len() != corners.len() * each.unwrap_or_default()) {
            return Err(Error::Window("the predictions are not divided evenly among the windows".into()));
        }
        let threads = self.threads;
        pool::install(threads, || {
            let mut start = 0;
            for run in corners.chunk_by(|a, b| a[0] == b[0]) {
                let low = usize::try_from(run[0][0].max(0)).unwrap_or_default().min(self.models[model].planes);
                self.settle(model, low)?;
                let part = predictions.zip(each).map(|(values, each)| &values[start * each..][..run.len() * each]);
                self.models[model].ring.add(run, part)?;
                start += run.len();
            }
            Ok(())
        })
    }

    fn check_model(&self, model: usize) -> Result<()> {
        if model < self.models.len() {
            return Ok(());
        }
        Err(Error::Argument(format!("model {model} of {}; expected a lower number", self.models.len())))
    }

    /// The first plane of the scan that a model has not reached. The model with the lowest one should go on.
    #[must_use]
    pub fn reached(&self) -> Vec<usize> {
        self.models.iter().map(|model| model.interpolation.next()).collect()
    }

    /// Settle all planes and return the result.
    ///
    /// # Errors
    /// [`Error::Window`] if a voxel is covered by no window.
    pub fn finish(mut self) -> Result<Output> {
        pool::install(self.threads, || {
            for model in 0..self.models.len() {
                let planes = self.models[model].planes;
                self.settle(model, planes)?;
            }
            Ok(std::mem::take(&mut self.out))
        })
    }

    /// Bring the final planes of a model below `until` to the scan's grid.
    fn settle(&mut self, model: usize, until: usize) -> Result<()> {
        let batch = PLANES_A_THREAD * rayon::current_num_threads();
        while self.models[model].ring.first() < until {
            let one = &mut self.models[model];
            let count = batch.min(until - one.ring.first());
            let plane = one.ring.plane_len();
            let mut taken: Vec<f32> = zeros(plane.checked_mul(count), "final planes")?;
            for out in taken.chunks_exact_mut(plane) {
                one.ring.take(out)?;
            }
            one.interpolation.push(&taken.chunks_exact(plane).collect::<Vec<_>>())?;
            self.decide(model)?;
        }
        Ok(())
    }

    /// Decide the planes of the scan for which every model has what it needs.
    fn decide(&mut self, model: usize) -> Result<()> {
        let ready = self.models[model].interpolation.ready();
        if ready.is_empty() {
            return Ok(());
        }
        let end = ready.end;
        if self.models.len() == 1 {
            let interpolation = &self.models[model].interpolation;
            each_piece(&self.rule, self.channels, self.shape, &ready, &mut self.out, |at, part, shares| {
                interpolation.row(at, part, shares);
            });
            self.next = end;
        } else {
            self.add_planes(model, &ready)?;
        }
        self.models[model].interpolation.advance(end);
        if self.models.len() > 1 {
            let done = self.next..self.reached().into_iter().min().unwrap_or_default();
            let plane = self.shape[1] * self.shape[2];
            let (sums, first) = (&self.sums, self.next);
            each_piece(&self.rule, self.channels, self.shape, &done, &mut self.out, |at, part, shares| {
                for (channel, share) in shares.iter_mut().enumerate() {
                    share.clear();
                    share.extend_from_slice(&sums[at - first][channel * plane..][part.clone()]);
                }
            });
            self.sums.drain(..done.len());
            self.next = done.end;
        }
        Ok(())
    }

    /// Add the share of one model to the means of some planes.
    fn add_planes(&mut self, model: usize, planes: &Range<usize>) -> Result<()> {
        let plane = self.shape[1] * self.shape[2];
        while self.next + self.sums.len() < planes.end {
            self.sums.push_back(zeros(plane.checked_mul(self.channels), "the planes that models share")?);
        }
        let Model { interpolation, share: weight, .. } = &self.models[model];
        let (channels, first) = (self.channels, self.next);
        self.sums.par_iter_mut().enumerate().for_each_init(Vec::new, |shares, (at, sum)| {
            if !planes.contains(&(first + at)) {
                return;
            }
            shares.resize(channels, Vec::new());
            for start in (0..plane).step_by(PIECE) {
                let part = start..(start + PIECE).min(plane);
                interpolation.row(first + at, part.clone(), shares);
                for (channel, share) in shares.iter().enumerate() {
                    for (sum, share) in sum[channel * plane..][part.clone()].iter_mut().zip(share) {
                        *sum += weight * share;
                    }
                }
            }
        });
        Ok(())
    }
}

/// Decide planes of the scan, piece by piece: `probabilities` fills one row per channel for a part of a plane.
fn each_piece(
    rule: &Rule,
    channels: usize,
    shape: [usize; 3],
    planes: &Range<usize>,
    out: &mut Output,
    probabilities: impl Fn(usize, Range<usize>, &mut [Vec<f32>]) + Sync,
) {
    let plane = shape[1] * shape[2];
    let range = planes.start * plane..planes.end * plane;
    let classes = out.classes[range.clone()].par_chunks_mut(plane);
    // A map that nobody asked for is empty: then every plane has an empty part of it.
    let maps: Vec<Option<&mut [u16]>> = if out.probability.is_empty() {
        planes.clone().map(|_| None).collect()
    } else {
        out.probability[range].chunks_mut(plane).map(Some).collect()
    };
    classes.zip(maps).zip(planes.clone()).for_each_init(
        || (vec![Vec::new(); channels], Vec::new()),
        |(shares, scratch), ((classes, mut map), at)| {
            for start in (0..plane).step_by(PIECE) {
                let part = start..(start + PIECE).min(plane);
                probabilities(at, part.clone(), shares);
                let rows: Vec<&[f32]> = shares.iter().map(Vec::as_slice).collect();
                rule.choose(&rows, scratch, &mut classes[part.clone()]);
                if let Some(map) = map.as_deref_mut() {
                    rule.probability(&rows, scratch, &mut map[part]);
                }
            }
        },
    );
}

/// Interpolate the values of a whole training grid, (channels, i, j, k), to a scan's grid and choose the class there.
///
/// # Errors
/// [`Error::Argument`] if the length does not match `shape`; as [`Interpolation::new`]; [`Error::Memory`].
pub fn labels_of(
    values: &[f32],
    channels: usize,
    shape: [usize; 3],
    out_shape: [usize; 3],
    ratio: [f64; 3],
    rule: &Rule,
    threads: Option<usize>,
) -> Result<Vec<u8>> {
    let plane = shape[1] * shape[2];
    if channels == 0 || plane * shape[0] == 0 || values.len() != channels * plane * shape[0] {
        let found = values.len();
        return Err(Error::Argument(format!("{found} values for {channels} channels of {shape:?}; expected one each")));
    }
    rule.check(channels)?;
    let mut interpolation = Interpolation::new(channels, shape, out_shape, ratio)?;
    let voxels = out_shape.iter().try_fold(1usize, |product, &edge| product.checked_mul(edge));
    let mut out = Output { classes: zeros(voxels, "the label map")?, probability: Vec::new() };
    pool::install(threads, || {
        let batch = PLANES_A_THREAD * rayon::current_num_threads();
        for start in (0..shape[0]).step_by(batch) {
            let range = start..(start + batch).min(shape[0]);
            let mut taken: Vec<f32> = zeros(Some(range.len() * channels * plane), "planes of probabilities")?;
            for (at, out) in range.zip(taken.chunks_exact_mut(channels * plane)) {
                for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
                    out.copy_from_slice(&values[(channel * shape[0] + at) * plane..][..plane]);
                }
            }
            interpolation.push(&taken.chunks_exact(channels * plane).collect::<Vec<_>>())?;
            let ready = interpolation.ready();
            each_piece(rule, channels, out_shape, &ready, &mut out, |at, part, shares| {
                interpolation.row(at, part, shares);
            });
            interpolation.advance(ready.end);
        }
        Ok(out.classes)
    })
}
