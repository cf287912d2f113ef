//! One axis of a resampling as a banded matrix: every new voxel is a weighted sum of neighbouring old voxels.
//!
//! Prefilter, interpolation and anti-aliasing are linear, so they are combined into one set of weights per axis. The
//! loop over the voxels is then the same short sum for all of them. The prefilter of the B-spline has infinite reach,
//! but it falls by a factor of 0.268 per voxel: a dozen voxels represent it to one part in 10⁷.

use crate::{Error, Result};

/// How values between voxels are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Linear interpolation between the two neighbours. Beyond the outermost voxel centres the edge value is used.
    Linear,
    /// The cubic B-spline through all voxels, mirrored at the outermost voxel centres.
    Cubic,
}

/// The pole of the cubic B-spline's prefilter, √3 − 2.
const POLE: f64 = -0.267_949_192_431_122_7;
/// Number of voxels after which the prefilter is cut off.
const PREFILTER_REACH: i64 = 13;
/// Weights below this share of the sum are dropped. This changes 4000 HU by less than 0.05.
const LEAST_WEIGHT: f64 = 1e-6;
/// A Gaussian is cut off at this many standard deviations.
const GAUSSIAN_REACH: f64 = 4.0;
/// The number of taps is a multiple of this, so that sums run over whole vectors.
pub(super) const LANES: usize = 8;

/// The new voxels of one axis as weighted sums of old voxels.
#[derive(Debug, Clone)]
pub struct Band {
    /// Number of old voxels.
    pub(super) input: usize,
    /// First old voxel for each new voxel.
    pub(super) starts: Vec<usize>,
    /// `taps` weights for each new voxel. The last weights may be 0 and then refer to voxels beyond the axis.
    pub(super) weights: Vec<f32>,
    pub(super) taps: usize,
    /// Whether the new voxels equal the old voxels.
    pub(super) identity: bool,
}

impl Band {
    /// Compute the weights of an axis. The grids are aligned at their edges: new voxel j has its centre at
    /// `(j + 0.5) · ratio − 0.5` old voxels.
    ///
    /// `ratio` is the new spacing divided by the old spacing. With `antialias`, an axis that becomes coarser is first
    /// blurred by a Gaussian with the difference of the point spreads of both voxels, σ² = (ratio² − 1) / (8 ln 2)
    /// (Cardoso et al., MICCAI 2015).
    ///
    /// # Errors
    /// [`Error::Argument`] if a number is not positive and finite, or the ratio or a number of voxels is out of range.
    pub fn new(input: usize, output: usize, ratio: f64, kernel: Kernel, antialias: bool) -> Result<Self> {
        let sane = ratio.is_finite() && ratio > 1e-3 && ratio < 1e3;
        if !sane || input == 0 || output == 0 || input > 1 << 24 || output > 1 << 24 {
            return Err(Error::Argument(format!(
                "cannot resample {input} voxels to {output} with a spacing ratio of {ratio}; expected 1 to 2^24 voxels \
                 and a ratio between 0.001 and 1000"
            )));
        }
        #[allow(clippy::float_cmp)]
        if ratio == 1.0 && output <= input {
            let weights = (0..output * LANES).map(|at| f32::from(u8::from(at % LANES == 0))).collect();
            return Ok(Self { input, starts: (0..output).collect(), weights, taps: LANES, identity: output == input });
        }
        let gaussian = if antialias && ratio > 1.0 { gaussian_of(ratio) } else { vec![1.0] };
        let mut rows: Vec<(usize, Vec<f64>)> =
            (0..output).map(|at| row_of((at as f64 + 0.5) * ratio - 0.5, input, kernel, &gaussian)).collect();
        // Because of mirroring at the far edge, a later voxel can need older planes than the voxel before it. Planes
        // are released in order, so the starts are made ascending.
        let mut least = usize::MAX;
        for (start, weights) in rows.iter_mut().rev() {
            least = least.min(*start);
            weights.splice(0..0, std::iter::repeat_n(0.0, *start - least));
            *start = least;
        }
        let longest = rows.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1);
        let taps = longest.next_multiple_of(LANES);
        let mut weights = crate::error::room(output.checked_mul(taps), "resampling weights")?;
        for (_, row) in &rows {
            weights.extend(row.iter().map(|&weight| weight as f32));
            weights.extend(std::iter::repeat_n(0.0, taps - row.len()));
        }
        let starts = rows.into_iter().map(|(start, _)| start).collect();
        Ok(Self { input, starts, weights, taps, identity: false })
    }

    /// Number of old voxels.
    #[must_use]
    pub fn input(&self) -> usize {
        self.input
    }

    /// The largest number of old voxels that one new voxel needs.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// Number of new voxels.
    #[must_use]
    pub fn output(&self) -> usize {
        self.starts.len()
    }

    /// The old voxels that new voxel `at` needs.
    #[must_use]
    pub fn needs(&self, at: usize) -> std::ops::Range<usize> {
        self.starts[at]..(self.starts[at] + self.taps).min(self.input)
    }

    /// The same axis, restricted to the new voxels in `range`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the range is empty or leaves the axis.
    pub fn part(mut self, range: std::ops::Range<usize>) -> Result<Self> {
        if range.is_empty() || range.end > self.output() {
            return Err(Error::Argument(format!(
                "the range {range:?} is empty or leaves the {} new voxels",
                self.output()
            )));
        }
        self.identity &= range.len() == self.output();
        self.weights.truncate(range.end * self.taps);
        self.weights.drain(..range.start * self.taps);
        self.starts.truncate(range.end);
        self.starts.drain(..range.start);
        Ok(self)
    }

    /// The same axis with both old and new voxels in reverse order.
    #[must_use]
    pub fn reversed(self) -> Self {
        if self.identity {
            return self;
        }
        let mut starts = Vec::with_capacity(self.starts.len());
        let mut weights = Vec::with_capacity(self.weights.len());
        for at in (0..self.output()).rev() {
            let needed = self.needs(at);
            starts.push(self.input - needed.end);
            // Weights beyond the axis are 0, and stay at the end.
            weights.extend(self.weights[at * self.taps..][..needed.len()].iter().rev());
            weights.resize(starts.len() * self.taps, 0.0);
        }
        Self { starts, weights, ..self }
    }

    /// The first old voxel of new voxel `at`, and its weights without the zeros at the end.
    pub(crate) fn row(&self, at: usize) -> (usize, &[f32]) {
        let weights = &self.weights[at * self.taps..][..self.taps];
        let count = weights.iter().rposition(|&weight| weight != 0.0).map_or(1, |last| last + 1);
        (self.starts[at], &weights[..count])
    }
}

/// A sampled Gaussian with odd length and sum 1.
fn gaussian_of(ratio: f64) -> Vec<f64> {
    let variance = (ratio * ratio - 1.0) / (8.0 * std::f64::consts::LN_2);
    let reach = (GAUSSIAN_REACH * variance.sqrt()).ceil() as i64;
    let values: Vec<f64> = (-reach..=reach).map(|n| (-((n * n) as f64) / (2.0 * variance)).exp()).collect();
    let sum: f64 = values.iter().sum();
    values.into_iter().map(|value| value / sum).collect()
}

/// The first old voxel for position `centre`, and the weights from this voxel on.
fn row_of(centre: f64, input: usize, kernel: Kernel, gaussian: &[f64]) -> (usize, Vec<f64>) {
    let base = centre.floor() as i64;
    let (mut first, mut weights) = match kernel {
        Kernel::Linear => (base, vec![1.0 - (centre - base as f64), centre - base as f64]),
        Kernel::Cubic => {
            // Weights of the spline coefficients, combined with the prefilter that computes coefficients from voxels.
            let gain = -6.0 * POLE / (1.0 - POLE * POLE);
            let first = base - 1 - PREFILTER_REACH;
            let weights = (first..=base + 2 + PREFILTER_REACH)
                .map(|n| {
                    (base - 1..=base + 2)
                        .map(|m| cubic_spline(centre - m as f64) * gain * POLE.powi((m - n).unsigned_abs() as i32))
                        .sum()
                })
                .collect();
            (first, weights)
        }
    };
    if gaussian.len() > 1 {
        weights = convolve(&weights, gaussian);
        first -= gaussian.len() as i64 / 2;
    }
    let mut folded = std::collections::BTreeMap::new();
    for (n, weight) in weights.iter().enumerate() {
        *folded.entry(fold(first + n as i64, input as i64, kernel)).or_insert(0.0) += weight;
    }
    let kept = |weight: &f64| weight.abs() >= LEAST_WEIGHT;
    let low = folded.iter().find(|(_, weight)| kept(weight)).map_or(0, |(&at, _)| at);
    let high = folded.iter().rev().find(|(_, weight)| kept(weight)).map_or(0, |(&at, _)| at);
    let row: Vec<f64> = (low..=high).map(|at| folded.get(&at).copied().unwrap_or(0.0)).collect();
    let sum: f64 = row.iter().sum();
    (low as usize, row.into_iter().map(|weight| weight / sum).collect())
}

/// The cubic B-spline at a distance.
fn cubic_spline(distance: f64) -> f64 {
    let d = distance.abs();
    if d < 1.0 {
        2.0 / 3.0 - d * d * (1.0 - d / 2.0)
    } else if d < 2.0 {
        (2.0 - d).powi(3) / 6.0
    } else {
        0.0
    }
}

fn convolve(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; a.len() + b.len() - 1];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            out[i + j] += x * y;
        }
    }
    out
}

/// The voxel that is used for position `at`, which may lie outside the axis.
fn fold(at: i64, input: i64, kernel: Kernel) -> i64 {
    match kernel {
        Kernel::Linear => at.clamp(0, input - 1),
        Kernel::Cubic if input == 1 => 0,
        Kernel::Cubic => {
            let period = 2 * (input - 1);
            let at = at.rem_euclid(period);
            at.min(period - at)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_gaussian_widens_a_voxel_to_the_new_spacing() {
        for (ratio, variance) in [(2.0, 0.541_010_640_333_616), (2.5, 0.946_768_620_583_382)] {
            let weights = gaussian_of(ratio);
            let middle = weights.len() / 2;
            assert_eq!(weights.len() % 2, 1);
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for step in 1..=middle.min(2) {
                let squared = (step * step) as f64;
                for other in [middle - step, middle + step] {
                    let fall = (weights[middle] / weights[other]).ln();
                    assert!((fall - squared / (2.0 * variance)).abs() < 1e-9, "{ratio} {step} {fall}");
                }
            }
        }
    }

    fn apply(band: &Band, values: &[f64]) -> Vec<f64> {
        (0..band.output())
            .map(|at| {
                let (start, weights) = band.row(at);
                weights.iter().zip(start..).map(|(&w, n)| f64::from(w) * values.get(n).copied().unwrap_or(0.0)).sum()
            })
            .collect()
    }

    #[test]
    fn a_spline_goes_through_its_voxels() {
        let values: Vec<f64> = (0..40).map(|n| f64::from((n * 37) % 101)).collect();
        // A third of the spacing: every third new centre, starting with the second, is an old centre.
        let fine = apply(&Band::new(40, 120, 1.0 / 3.0, Kernel::Cubic, false).unwrap(), &values);
        for (n, value) in values.iter().enumerate() {
            assert!((fine[3 * n + 1] - value).abs() < 1e-3, "{n}: {} {value}", fine[3 * n + 1]);
        }
    }

    proptest! {
        #[test]
        fn a_part_is_a_part_and_the_reverse_is_the_reverse(
            input in 1usize..90, ratio in 0.2f64..6.0, cubic: bool, antialias: bool, from in 0.0f64..1.0, to in 0.0f64..1.0,
        ) {
            let kernel = if cubic { Kernel::Cubic } else { Kernel::Linear };
            let output = ((input as f64 / ratio + 0.5).floor() as usize).max(1);
            let band = Band::new(input, output, ratio, kernel, antialias).unwrap();
            let values: Vec<f64> = (0..input).map(|n| ((n * 37) % 101) as f64).collect();
            let whole = apply(&band, &values);
            let start = (from * output as f64) as usize;
            let end = (start + 1 + (to * (output - start) as f64) as usize).min(output);
            let part = band.clone().part(start..end).unwrap();
            prop_assert_eq!(&apply(&part, &values), &whole[start..end]);
            let mirrored: Vec<f64> = values.iter().rev().copied().collect();
            let mut back = apply(&part.reversed(), &mirrored);
            back.reverse();
            for (a, b) in back.iter().zip(&whole[start..end]) {
                prop_assert!((a - b).abs() < 1e-3, "{} {}", a, b);
            }
        }

        #[test]
        fn constants_stay_and_straight_lines_too_away_from_the_edges(
            input in 1usize..90, ratio in 0.2f64..6.0, cubic: bool, antialias: bool,
        ) {
            let kernel = if cubic { Kernel::Cubic } else { Kernel::Linear };
            let output = ((input as f64 / ratio + 0.5).floor() as usize).max(1);
            let band = Band::new(input, output, ratio, kernel, antialias).unwrap();
            for value in apply(&band, &vec![7.0; input]) {
                prop_assert!((value - 7.0).abs() < 1e-4);
            }
            let line: Vec<f64> = (0..input).map(|n| n as f64).collect();
            for (at, value) in apply(&band, &line).into_iter().enumerate() {
                let centre = (at as f64 + 0.5) * ratio - 0.5;
                let reach = 15.0 + 4.0 * ratio;
                if centre >= reach && centre <= input as f64 - 1.0 - reach {
                    prop_assert!((value - centre).abs() < 1e-3, "{at}: {value} {centre}");
                }
            }
        }
    }
}
