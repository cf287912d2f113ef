//! Statistics of intensities, of grey levels, and of the volume above an intensity.

use super::{Bins, Features};

/// Statistics of intensities.
pub(super) fn statistics(values: &[f64]) -> Features {
    let one = Sorted::new(values);
    let energy: f64 = values.iter().map(|value| value * value).sum();
    let mut found = one.summary();
    found.extend(one.spreads());
    found.push(("energy", energy));
    found.push(("rms", (energy / values.len() as f64).sqrt()));
    found.into_iter().map(|(name, value)| (format!("stat_{name}"), value)).collect()
}

/// Statistics of grey levels and of their histogram.
pub(super) fn histogram(levels: &[f64], most: u32) -> Features {
    let one = Sorted::new(levels);
    let mut counts = vec![0.0; most as usize];
    for &level in levels {
        counts[level as usize - 1] += 1.0;
    }
    let total = levels.len() as f64;
    let largest = counts.iter().copied().fold(0.0, f64::max);
    // Of several most frequent levels the one nearest to the mean.
    let mode = (0..counts.len())
        .filter(|&at| counts[at] >= largest)
        .map(|at| at as f64 + 1.0)
        .min_by(|a, b| (a - one.mean).abs().total_cmp(&(b - one.mean).abs()))
        .unwrap_or(f64::NAN);
    let shares = || counts.iter().map(|count| count / total).filter(|share| *share > 0.0);
    let mut found = one.summary();
    found.push(("mode", mode));
    found.extend(one.spreads());
    found.push(("entropy", -shares().map(|share| share * share.log2()).sum::<f64>()));
    found.push(("uniformity", shares().map(|share| share * share).sum()));
    let gradients = gradients(&counts);
    // The first of equal gradients.
    let extreme = |better: &dyn Fn(f64, f64) -> bool| {
        let mut best = (f64::NAN, f64::NAN);
        for (at, &gradient) in gradients.iter().enumerate() {
            if best.0.is_nan() || better(gradient, best.0) {
                best = (gradient, at as f64 + 1.0);
            }
        }
        best
    };
    let (steepest, falling) = (extreme(&|a, b| a > b), extreme(&|a, b| a < b));
    found.extend([
        ("max_grad", steepest.0),
        ("max_grad_g", steepest.1),
        ("min_grad", falling.0),
        ("min_grad_g", falling.1),
    ]);
    found.into_iter().map(|(name, value)| (format!("ih_{name}"), value)).collect()
}

fn gradients(counts: &[f64]) -> Vec<f64> {
    let last = counts.len() - 1;
    (0..counts.len())
        .map(|at| match at {
            _ if last == 0 => 0.0,
            0 => counts[1] - counts[0],
            at if at == last => counts[last] - counts[last - 1],
            at => (counts[at + 1] - counts[at - 1]) / 2.0,
        })
        .collect()
}

/// The volume above an intensity, in steps of one: of grey levels that were given, else of the unit of the image.
pub(super) fn volumes(values: &[f64], range: Option<(f64, f64)>, bins: Bins) -> Features {
    let sorted = Sorted::new(values);
    let (low, high) = match range {
        Some((low, high)) if bins != Bins::Levels => (low.ceil(), high.floor()),
        _ => (sorted.at(0.0).floor(), sorted.at(1.0).ceil()),
    };
    let total = sorted.values.len() as f64;
    let steps = (high - low).max(0.0);
    let above = |step: f64| 1.0 - sorted.values.partition_point(|value| *value < low + step) as f64 / total;
    // The first step that is at least this share of the way.
    let volume = |share: f64| above((share * steps - 1e-9).ceil());
    // The first step with at most this share of the volume above it: shares fall from step to step.
    let intensity = |share: f64| {
        let (mut first, mut last) = (0.0, steps + 1.0);
        while first < last {
            let middle = f64::midpoint(first, last).floor();
            if above(middle) <= share {
                last = middle;
            } else {
                first = middle + 1.0;
            }
        }
        low + first
    };
    let (v10, v90, i10, i90) = (volume(0.1), volume(0.9), intensity(0.1), intensity(0.9));
    [("v10", v10), ("v90", v90), ("i10", i10), ("i90", i90), ("diff_v10_v90", v10 - v90), ("diff_i10_i90", i10 - i90)]
        .into_iter()
        .map(|(name, value)| (format!("ivh_{name}"), value))
        .collect()
}

/// Values in ascending order, their mean and their variance.
struct Sorted {
    values: Vec<f64>,
    mean: f64,
    variance: f64,
}

impl Sorted {
    fn new(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Self { values, mean, variance }
    }

    /// The quantile, interpolated linearly between values.
    fn at(&self, share: f64) -> f64 {
        let place = share * (self.values.len() - 1) as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(self.values.len() - 1);
        self.values[below] + (place - below as f64) * (self.values[above] - self.values[below])
    }

    /// The standardised central moment; 0 if all values are equal.
    fn moment(&self, power: i32) -> f64 {
        if self.variance == 0.0 {
            return if power == 4 { 3.0 } else { 0.0 };
        }
        let sum: f64 = self.values.iter().map(|value| (value - self.mean).powi(power)).sum();
        sum / self.values.len() as f64 / self.variance.powf(f64::from(power) / 2.0)
    }

    fn summary(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("mean", self.mean),
            ("var", self.variance),
            ("skew", self.moment(3)),
            ("kurt", self.moment(4) - 3.0),
            ("median", self.at(0.5)),
            ("min", self.at(0.0)),
            ("p10", self.at(0.1)),
            ("p90", self.at(0.9)),
            ("max", self.at(1.0)),
        ]
    }

    fn spreads(&self) -> Vec<(&'static str, f64)> {
        let (low, high, median) = (self.at(0.1), self.at(0.9), self.at(0.5));
        let (first, third) = (self.at(0.25), self.at(0.75));
        let mean_distance = |values: &[f64], from: f64| {
            values.iter().map(|value| (value - from).abs()).sum::<f64>() / values.len() as f64
        };
        let central: Vec<f64> = self.values.iter().copied().filter(|value| low <= *value && *value <= high).collect();
        let centre = central.iter().sum::<f64>() / central.len() as f64;
        vec![
            ("iqr", third - first),
            ("range", self.at(1.0) - self.at(0.0)),
            ("mad", mean_distance(&self.values, self.mean)),
            ("rmad", mean_distance(&central, centre)),
            ("medad", mean_distance(&self.values, median)),
            ("cov", self.variance.sqrt() / self.mean),
            ("qcod", (third - first) / (third + first)),
        ]
    }
}
