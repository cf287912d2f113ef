//! Marks the voxels of lesions and the voxels within a distance of a lesion, with one bit per voxel around the lesions.
//!
//! A ball of voxels is described by a half-width along the first axis for each offset along the other two axes.
//! Therefore every row of lesion voxels is widened once per half-width, and then combined with the rows at all offsets
//! that have this half-width.

use crate::{Error, Result, error};

/// A stretch of lesion voxels along the first axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LesionSpan {
    /// First voxel of the span.
    pub origin: [usize; 3],
    /// Number of voxels.
    pub length: usize,
}

/// The rows of a volume that contain lesion voxels or voxels near them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Surroundings {
    shape: [usize; 3],
    /// First stored row (j) and plane (k).
    low: [usize; 2],
    /// Number of stored rows and planes.
    count: [usize; 2],
    /// 64-bit words per row.
    words: usize,
    within: Vec<u64>,
    around: Vec<u64>,
}

impl Surroundings {
    /// Mark the voxels of `spans`, and all voxels with a centre within `radius_mm` of the centre of a span voxel.
    ///
    /// # Errors
    /// [`Error::Argument`] if a span leaves the volume, or if the spacing or the radius is invalid; [`Error::Memory`].
    pub fn new(shape: [usize; 3], spans: &[LesionSpan], spacing: [f64; 3], radius_mm: f64) -> Result<Self> {
        let possible = spacing.iter().all(|&step| step > 0.0 && step.is_finite());
        if !(possible && radius_mm >= 0.0 && radius_mm.is_finite()) {
            return Err(Error::Argument(format!(
                "spacing {spacing:?} mm and radius {radius_mm} mm; expected a positive, finite spacing and a finite \
                 radius from 0 up"
            )));
        }
        for span in spans {
            let [i, j, k] = span.origin;
            if span.length == 0 || i.saturating_add(span.length) > shape[0] || j >= shape[1] || k >= shape[2] {
                return Err(Error::Argument(format!(
                    "the span at {:?} is empty or leaves shape {shape:?}",
                    span.origin
                )));
            }
        }
        let Some(first) = spans.first() else { return Ok(Self { shape, ..Self::default() }) };
        // A voxel at exactly the radius is included, whatever the rounding of its distance.
        let reach = radius_mm * (1.0 + 1e-9);
        let steps = [1, 2].map(|axis| (reach / spacing[axis]) as usize);
        let (mut low, mut high) = ([first.origin[1], first.origin[2]], [first.origin[1], first.origin[2]]);
        for span in spans {
            for axis in 0..2 {
                low[axis] = low[axis].min(span.origin[axis + 1]);
                high[axis] = high[axis].max(span.origin[axis + 1]);
            }
        }
        let low = [0, 1].map(|axis| low[axis].saturating_sub(steps[axis]));
        let count = [0, 1].map(|axis| (high[axis] + steps[axis] + 1).min(shape[axis + 1]) - low[axis]);
        let words = shape[0].div_ceil(64);
        let room = || -> Result<Vec<u64>> {
            let length = count[0].checked_mul(count[1]).and_then(|rows| rows.checked_mul(words));
            let mut bits = error::room(length, "the surroundings of lesions")?;
            bits.resize(length.unwrap_or(0), 0);
            Ok(bits)
        };
        let mut made = Self { shape, low, count, words, within: room()?, around: room()? };
        for span in spans {
            let row = made.row(span.origin[1] - low[0], span.origin[2] - low[1]);
            set_bits(&mut made.within[row], span.origin[0], span.origin[0] + span.length);
        }
        made.dilate(spacing, reach, steps);
        Ok(made)
    }

    fn row(&self, j: usize, k: usize) -> std::ops::Range<usize> {
        let start = (k * self.count[0] + j) * self.words;
        start..start + self.words
    }

    fn dilate(&mut self, spacing: [f64; 3], reach: f64, steps: [usize; 2]) {
        let offsets = ball_rows(spacing, reach, steps);
        let mut widened = vec![0; self.words];
        for k in 0..self.count[1] {
            for j in 0..self.count[0] {
                let source = self.within[self.row(j, k)].to_vec();
                if source.iter().all(|&word| word == 0) {
                    continue;
                }
                let mut width = usize::MAX;
                for &(half, dj, dk) in &offsets {
                    if half != width {
                        width = half;
                        widen(&source, &mut widened, width, self.shape[0]);
                    }
                    let (Some(j), Some(k)) = (j.checked_add_signed(dj), k.checked_add_signed(dk)) else { continue };
                    if j < self.count[0] && k < self.count[1] {
                        let row = self.row(j, k);
                        for (target, &word) in self.around[row].iter_mut().zip(&widened) {
                            *target |= word;
                        }
                    }
                }
            }
        }
    }

    pub(super) fn check(&self, shape: [usize; 3]) -> Result<()> {
        if !self.within.is_empty() && self.shape != shape {
            return Err(Error::Argument(format!(
                "the lesions have shape {:?}, the image has shape {shape:?}",
                self.shape
            )));
        }
        Ok(())
    }

    /// The stored rows of a plane: row number (j), bits of the lesion voxels, and bits of the voxels around.
    pub(super) fn rows(&self, plane: usize) -> impl Iterator<Item = (usize, &[u64], &[u64])> {
        let held = plane.checked_sub(self.low[1]).filter(|&k| k < self.count[1]);
        held.into_iter().flat_map(move |k| {
            (0..self.count[0]).map(move |j| {
                let row = self.row(j, k);
                (self.low[0] + j, &self.within[row.clone()], &self.around[row])
            })
        })
    }
}

/// The rows of a ball: half-width along the first axis and offsets along the other axes, sorted by half-width.
fn ball_rows(spacing: [f64; 3], reach: f64, steps: [usize; 2]) -> Vec<(usize, isize, isize)> {
    let mut rows = Vec::new();
    let (most_j, most_k) = (steps[0] as isize, steps[1] as isize);
    for dk in -most_k..=most_k {
        for dj in -most_j..=most_j {
            let across = (dj as f64 * spacing[1]).powi(2) + (dk as f64 * spacing[2]).powi(2);
            let inside = |di: usize| ((di as f64 * spacing[0]).powi(2) + across).sqrt() <= reach;
            if !inside(0) {
                continue;
            }
            let mut half = ((reach * reach - across).max(0.0).sqrt() / spacing[0]) as usize;
            while half > 0 && !inside(half) {
                half -= 1;
            }
            while inside(half + 1) {
                half += 1;
            }
            rows.push((half, dj, dk));
        }
    }
    rows.sort_unstable();
    rows
}

/// Set the bits in `start..stop`.
fn set_bits(words: &mut [u64], start: usize, stop: usize) {
    let (first, last) = (start / 64, (stop - 1) / 64);
    for (number, word) in words.iter_mut().enumerate().take(last + 1).skip(first) {
        let low = if number == first { start % 64 } else { 0 };
        let high = if number == last { (stop - 1) % 64 } else { 63 };
        *word |= (u64::MAX >> (63 - high)) & (u64::MAX << low);
    }
}

/// Extend every stretch of set bits by `half` at both ends, limited to `length` bits.
fn widen(source: &[u64], out: &mut [u64], half: usize, length: usize) {
    out.fill(0);
    let mut at = 0;
    while let Some(start) = next_bit(source, at, true) {
        let stop = next_bit(source, start, false).unwrap_or(64 * source.len());
        set_bits(out, start.saturating_sub(half), (stop + half).min(length));
        at = stop;
    }
}

/// Index of the first bit equal to `value`, starting at `at`.
fn next_bit(words: &[u64], at: usize, value: bool) -> Option<usize> {
    let mut number = at / 64;
    let mut mask = u64::MAX << (at % 64);
    while number < words.len() {
        let word = if value { words[number] } else { !words[number] } & mask;
        if word != 0 {
            return Some(64 * number + word.trailing_zeros() as usize);
        }
        (number, mask) = (number + 1, u64::MAX);
    }
    None
}
