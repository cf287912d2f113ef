//! Which windows are trained on: lesions of every size and cases of every lesion count get their share.
//!
//! A draw picks a case (∝ lesions^α, so that one patient with 80 metastases does not rule), one of its lesions, one of
//! that lesion's voxels, and a window that contains the voxel anywhere: a small lesion is as likely as a large one, and
//! it is not always in the middle. The other draws are uniform over the volume. Voxels are found in the lesions' spans
//! by binary search; no volume is read.

use crate::philox::{MAX_STEP, Purpose, Stream};
use crate::{Error, Result};

/// The lesions of one case as spans, sorted by lesion.
#[derive(Debug, Clone, Copy)]
pub struct LesionSpans<'a> {
    /// Index of each span's lesion, in `0..lesion_count`, never decreasing.
    pub lesion: &'a [i32],
    /// First voxel of each span.
    pub origin: &'a [[i32; 3]],
    /// Voxels of each span.
    pub length: &'a [i32],
    /// The array axis that spans lie along.
    pub axis: usize,
    /// Number of lesions; each has a span.
    pub lesion_count: usize,
}

/// One case, checked and indexed for drawing.
#[derive(Debug)]
pub struct Case {
    shape: [i64; 3],
    axis: usize,
    origin: Vec<[i32; 3]>,
    /// Voxels of all spans up to and including each one.
    voxels_up_to: Vec<u64>,
    /// Where each lesion's spans begin, and a last entry where they end.
    first_span: Vec<usize>,
}

impl Case {
    /// Check and index the spans of a case.
    ///
    /// # Errors
    /// [`Error::Argument`] if columns differ in length, spans are unsorted, empty or leave the volume, or a lesion has
    /// no span.
    pub fn new(shape: [i64; 3], spans: LesionSpans<'_>) -> Result<Self> {
        let count = spans.lesion.len();
        let wrong = |what: String| Err(Error::Argument(what));
        if shape.iter().any(|&n| n < 1) {
            return wrong(format!("shape {shape:?}; every axis has at least 1 voxel"));
        }
        if spans.origin.len() != count || spans.length.len() != count {
            let (origins, lengths) = (spans.origin.len(), spans.length.len());
            return wrong(format!("{count} span lesions, {origins} origins and {lengths} lengths; one each a span"));
        }
        if spans.axis > 2 {
            return wrong(format!("span axis {}; legal: 0, 1, 2", spans.axis));
        }
        let mut first_span = Vec::with_capacity(spans.lesion_count.min(count) + 1);
        let mut voxels_up_to = Vec::with_capacity(count);
        let mut voxels = 0u64;
        for (index, ((&lesion, origin), &length)) in spans.lesion.iter().zip(spans.origin).zip(spans.length).enumerate()
        {
            let inside = (0..3).all(|axis| {
                let (start, length) = (i64::from(origin[axis]), if axis == spans.axis { i64::from(length) } else { 1 });
                start >= 0 && length >= 1 && start + length <= shape[axis]
            });
            if !inside {
                return wrong(format!(
                    "span {index} (origin {origin:?}, length {length}, axis {}) leaves the volume of shape {shape:?}",
                    spans.axis
                ));
            }
            match usize::try_from(lesion) {
                Ok(lesion) if lesion + 1 == first_span.len() => {}
                Ok(lesion) if lesion == first_span.len() && lesion < spans.lesion_count => first_span.push(index),
                _ => {
                    let last = i128::try_from(spans.lesion_count).map_or(0, |count| count - 1);
                    return wrong(format!(
                        "span {index} belongs to lesion {lesion}; spans are sorted by lesion, every lesion from 0 to \
                         {last} has one"
                    ));
                }
            }
            voxels += length as u64;
            voxels_up_to.push(voxels);
        }
        if first_span.len() != spans.lesion_count {
            return wrong(format!("lesion {} of {} has no span", first_span.len(), spans.lesion_count));
        }
        first_span.push(count);
        Ok(Self { shape, axis: spans.axis, origin: spans.origin.to_vec(), voxels_up_to, first_span })
    }

    /// Number of lesions.
    #[must_use]
    pub fn lesion_count(&self) -> usize {
        self.first_span.len() - 1
    }

    /// A uniformly drawn voxel of a lesion, in O(log spans).
    fn draw_voxel(&self, lesion: usize, stream: &mut Stream) -> [i64; 3] {
        let spans = self.first_span[lesion]..self.first_span[lesion + 1];
        let before = spans.start.checked_sub(1).map_or(0, |previous| self.voxels_up_to[previous]);
        let voxels = self.voxels_up_to[spans.end - 1] - before;
        let rank = before + stream.below(voxels);
        let span = spans.start + self.voxels_up_to[spans].partition_point(|&up_to| up_to <= rank);
        let start = span.checked_sub(1).map_or(0, |previous| self.voxels_up_to[previous]);
        let mut voxel = self.origin[span].map(i64::from);
        voxel[self.axis] += (rank - start) as i64;
        voxel
    }
}

/// One drawn window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Index of the case.
    pub case: usize,
    /// First voxel of the window; negative where the case is smaller than the window.
    pub corner: [i64; 3],
    /// The lesion and the voxel of it that the window was drawn for; none where it was drawn uniformly.
    pub target: Option<(usize, [i64; 3])>,
}

/// Draws windows of a set of cases.
#[derive(Debug)]
pub struct Sampler {
    cases: Vec<Case>,
    window: [i64; 3],
    seed: u64,
    lesion_share: f64,
    /// Sum of lesions^α over all cases up to and including each one.
    weight_up_to: Vec<f64>,
}

impl Sampler {
    /// A sampler over `cases`: `lesion_share` of the windows are drawn for a lesion, in cases chosen ∝ lesions^α.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no case, a window edge is not positive, `lesion_share` is outside [0, 1] or
    /// `alpha` is negative or not finite.
    pub fn new(cases: Vec<Case>, window: [i64; 3], seed: u64, lesion_share: f64, alpha: f64) -> Result<Self> {
        if cases.is_empty() {
            return Err(Error::Argument("no cases to draw windows from".into()));
        }
        if window.iter().any(|&n| n < 1) {
            return Err(Error::Window(format!("window size {window:?}; every edge is at least 1 voxel")));
        }
        if !(0.0..=1.0).contains(&lesion_share) {
            return Err(Error::Argument(format!("lesion_share {lesion_share}; legal: 0 to 1")));
        }
        if !alpha.is_finite() || alpha < 0.0 {
            return Err(Error::Argument(format!("alpha {alpha}; legal: any finite number from 0")));
        }
        let weight_up_to = cases
            .iter()
            .scan(0.0, |sum, case| {
                // A case without lesions has no share whatever α is; 0⁰ would give it one.
                *sum += if case.lesion_count() == 0 { 0.0 } else { (case.lesion_count() as f64).powf(alpha) };
                Some(*sum)
            })
            .collect();
        Ok(Self { cases, window, seed, lesion_share, weight_up_to })
    }

    /// The window of a step and a position in the global batch: a pure function of these and the seed.
    ///
    /// Where no case has a lesion, every window is drawn uniformly.
    ///
    /// # Errors
    /// [`Error::Argument`] if `step` is not below 2⁵⁶.
    pub fn draw(&self, step: u64, position: u32) -> Result<Draw> {
        if step >= MAX_STEP {
            return Err(Error::Argument(format!("step {step}; legal: below 2^56")));
        }
        let mut stream = Stream::new(self.seed, step, position, Purpose::Window as u8);
        let total = self.weight_up_to[self.cases.len() - 1];
        let for_lesion = stream.uniform() < self.lesion_share && total > 0.0;
        Ok(if for_lesion { self.draw_lesion(&mut stream, total) } else { self.draw_anywhere(&mut stream) })
    }

    fn draw_lesion(&self, stream: &mut Stream, total: f64) -> Draw {
        let share = stream.uniform() * total;
        // Rounding of the product up to the total itself would point behind the last case.
        let case_index = self.weight_up_to.partition_point(|&up_to| up_to <= share.min(total.next_down()));
        let case = &self.cases[case_index];
        let lesion = stream.below(case.lesion_count() as u64) as usize;
        let voxel = case.draw_voxel(lesion, stream);
        let corner = std::array::from_fn(|axis| {
            let (low, high) = corner_range(case.shape[axis], self.window[axis]);
            stream.between(voxel[axis] - self.window[axis] + 1, voxel[axis]).clamp(low, high)
        });
        Draw { case: case_index, corner, target: Some((lesion, voxel)) }
    }

    fn draw_anywhere(&self, stream: &mut Stream) -> Draw {
        let case = stream.below(self.cases.len() as u64) as usize;
        let corner = std::array::from_fn(|axis| {
            let (low, high) = corner_range(self.cases[case].shape[axis], self.window[axis]);
            stream.between(low, high)
        });
        Draw { case, corner, target: None }
    }
}

/// Corners along one axis whose window lies in the volume or, where the volume is smaller, holds all of it.
fn corner_range(extent: i64, window: i64) -> (i64, i64) {
    ((extent - window).min(0), (extent - window).max(0))
}
