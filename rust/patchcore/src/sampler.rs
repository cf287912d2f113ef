//! Which windows are trained on: lesions of every size and cases of every lesion count get their share.
//!
//! A draw picks a case (∝ lesions^α, so that one patient with 80 metastases does not rule), one of its lesions, one of
//! that lesion's voxels, and a window that contains the voxel anywhere: a small lesion is as likely as a large one, and
//! it is not always in the middle. Shares of the draws can be for an organ's voxels, for given points (hard negatives, by
//! their weights) and for cases without lesions; the rest are uniform over the volume. Voxels are found in spans by binary
//! search; no volume is read.

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

/// Spans, checked and indexed for drawing.
#[derive(Debug)]
struct Index {
    axis: usize,
    origin: Vec<[i32; 3]>,
    /// Voxels of all spans up to and including each one.
    voxels_up_to: Vec<u64>,
    /// Where each lesion's spans begin, and a last entry where they end.
    first_span: Vec<usize>,
    /// The first voxel of each lesion's box, and the one after its last.
    boxes: Vec<[[i64; 3]; 2]>,
}

impl Index {
    fn new(shape: [i64; 3], spans: LesionSpans<'_>) -> Result<Self> {
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
        let mut boxes = vec![[[i64::MAX; 3], [0; 3]]; spans.lesion_count];
        for ((&lesion, origin), &length) in spans.lesion.iter().zip(spans.origin).zip(spans.length) {
            let [low, high] = &mut boxes[lesion as usize];
            for axis in 0..3 {
                let (start, length) = (i64::from(origin[axis]), if axis == spans.axis { i64::from(length) } else { 1 });
                (low[axis], high[axis]) = (low[axis].min(start), high[axis].max(start + length));
            }
        }
        Ok(Self { axis: spans.axis, origin: spans.origin.to_vec(), voxels_up_to, first_span, boxes })
    }

    fn lesion_count(&self) -> usize {
        self.first_span.len() - 1
    }

    /// Whether a lesion has a voxel between two corners.
    fn meets(&self, lesion: usize, low: [i64; 3], high: [i64; 3]) -> bool {
        let [first, last] = self.boxes[lesion];
        if (0..3).any(|axis| first[axis] >= high[axis] || last[axis] <= low[axis]) {
            return false;
        }
        (self.first_span[lesion]..self.first_span[lesion + 1]).any(|span| {
            let before = span.checked_sub(1).map_or(0, |previous| self.voxels_up_to[previous]);
            let length = (self.voxels_up_to[span] - before) as i64;
            (0..3).all(|axis| {
                let start = i64::from(self.origin[span][axis]);
                start < high[axis] && start + (if axis == self.axis { length } else { 1 }) > low[axis]
            })
        })
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

/// One case, checked and indexed for drawing.
#[derive(Debug)]
pub struct Case {
    shape: [i64; 3],
    lesions: Index,
    organ: Option<Index>,
}

impl Case {
    /// Check and index the spans of a case.
    ///
    /// # Errors
    /// [`Error::Argument`] if columns differ in length, spans are unsorted, empty or leave the volume, or a lesion has
    /// no span.
    pub fn new(shape: [i64; 3], spans: LesionSpans<'_>) -> Result<Self> {
        Ok(Self { shape, lesions: Index::new(shape, spans)?, organ: None })
    }

    /// The same case with the spans of an organ, all numbered 0.
    ///
    /// # Errors
    /// As [`Case::new`].
    pub fn with_organ(mut self, spans: LesionSpans<'_>) -> Result<Self> {
        let organ = Index::new(self.shape, spans).map_err(|error| Error::Argument(format!("organ: {error}")))?;
        self.organ = (organ.lesion_count() > 0).then_some(organ);
        Ok(self)
    }

    /// Number of lesions.
    #[must_use]
    pub fn lesion_count(&self) -> usize {
        self.lesions.lesion_count()
    }
}

/// What share of the windows is drawn for what; the rest are drawn anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shares {
    /// For a lesion.
    pub lesion: f64,
    /// For a voxel of an organ, of a case that has it.
    pub organ: f64,
    /// For one of the given points.
    pub hard: f64,
    /// Anywhere in a case without lesions.
    pub lesion_free: f64,
}

/// A place that windows are to be drawn around, and how much more often than one of weight 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HardPoint {
    /// Index of the case.
    pub case: usize,
    /// The voxel.
    pub voxel: [i64; 3],
    /// Not negative.
    pub weight: f64,
}

/// What a window was drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing: anywhere.
    Anywhere = 0,
    /// A lesion.
    Lesion = 1,
    /// A voxel of the organ.
    Organ = 2,
    /// A given point.
    Hard = 3,
    /// A case without lesions.
    LesionFree = 4,
}

/// One drawn window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Index of the case.
    pub case: usize,
    /// First voxel of the window; negative where the case is smaller than the window.
    pub corner: [i64; 3],
    /// What it was drawn for.
    pub kind: Kind,
    /// The lesion that it was drawn for.
    pub lesion: Option<usize>,
    /// The voxel that it was drawn to contain.
    pub voxel: Option<[i64; 3]>,
}

/// Draws windows of a set of cases.
#[derive(Debug)]
pub struct Sampler {
    cases: Vec<Case>,
    window: [i64; 3],
    seed: u64,
    shares: Shares,
    /// Sum of lesions^α over all cases up to and including each one.
    weight_up_to: Vec<f64>,
    with_organ: Vec<usize>,
    lesion_free: Vec<usize>,
    hard: Vec<HardPoint>,
    hard_up_to: Vec<f64>,
}

impl Sampler {
    /// A sampler over `cases`: windows for a lesion are drawn in cases chosen ∝ lesions^α.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no case, a share is outside [0, 1] or all are more than 1, `alpha` is negative or
    /// not finite, a hard point lies outside of its case, or a share is for what no case has.
    pub fn new(
        cases: Vec<Case>,
        window: [i64; 3],
        seed: u64,
        shares: Shares,
        alpha: f64,
        hard: Vec<HardPoint>,
    ) -> Result<Self> {
        let wrong = |what: String| Err(Error::Argument(what));
        if cases.is_empty() {
            return wrong("no cases to draw windows from".into());
        }
        if window.iter().any(|&n| n < 1) {
            return Err(Error::Window(format!("window size {window:?}; every edge is at least 1 voxel")));
        }
        let Shares { lesion, organ, hard: hard_share, lesion_free: free_share } = shares;
        let named = [
            ("lesion_share", lesion),
            ("organ_share", organ),
            ("hard_share", hard_share),
            ("lesion_free_share", free_share),
        ];
        for (name, share) in named {
            if !(0.0..=1.0).contains(&share) {
                return wrong(format!("{name} {share}; legal: 0 to 1"));
            }
        }
        let sum = lesion + organ + hard_share + free_share;
        if sum > 1.0 + 1e-9 {
            return wrong(format!("shares of {sum} in all; legal: at most 1"));
        }
        if !alpha.is_finite() || alpha < 0.0 {
            return wrong(format!("alpha {alpha}; legal: any finite number from 0"));
        }
        for (number, point) in hard.iter().enumerate() {
            let inside = cases
                .get(point.case)
                .is_some_and(|case| (0..3).all(|axis| (0..case.shape[axis]).contains(&point.voxel[axis])));
            if !inside || !point.weight.is_finite() || point.weight < 0.0 {
                return wrong(format!(
                    "hard point {number} (case {}, voxel {:?}, weight {}); expected a voxel within a case and a weight \
                     from 0",
                    point.case, point.voxel, point.weight
                ));
            }
        }
        let running = |weights: &mut dyn Iterator<Item = f64>| {
            let mut total = 0.0;
            weights
                .map(|weight| {
                    total += weight;
                    total
                })
                .collect::<Vec<f64>>()
        };
        let weight_up_to = running(&mut cases.iter().map(|case| match case.lesion_count() {
            0 => 0.0,
            count => (count as f64).powf(alpha),
        }));
        let hard_up_to = running(&mut hard.iter().map(|point| point.weight));
        let of = |wanted: &dyn Fn(&Case) -> bool| (0..cases.len()).filter(|&n| wanted(&cases[n])).collect::<Vec<_>>();
        let (with_organ, lesion_free) = (of(&|case| case.organ.is_some()), of(&|case| case.lesion_count() == 0));
        let nothing = [
            (organ, with_organ.is_empty(), "organ_share", "no case has the organ"),
            (
                hard_share,
                hard_up_to.last().is_none_or(|&total| total <= 0.0),
                "hard_share",
                "no hard point has a weight",
            ),
            (free_share, lesion_free.is_empty(), "lesion_free_share", "every case has a lesion"),
        ];
        for (share, empty, name, why) in nothing {
            if share > 0.0 && empty {
                return wrong(format!("{name} is {share}, but {why}"));
            }
        }
        Ok(Self { cases, window, seed, shares, weight_up_to, with_organ, lesion_free, hard, hard_up_to })
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
        let at = stream.uniform();
        let Shares { lesion, organ, hard, lesion_free } = self.shares;
        let within = |from: f64, share: f64| share > 0.0 && at >= from && at < from + share;
        let stream = &mut stream;
        Ok(if at < lesion && total > 0.0 {
            self.draw_lesion(stream, total)
        } else if within(lesion, organ) {
            self.draw_organ(stream)
        } else if within(lesion + organ, hard) {
            self.draw_hard(stream)
        } else if within(lesion + organ + hard, lesion_free) {
            let case = self.lesion_free[stream.below(self.lesion_free.len() as u64) as usize];
            self.draw_anywhere(case, Kind::LesionFree, stream)
        } else {
            let case = stream.below(self.cases.len() as u64) as usize;
            self.draw_anywhere(case, Kind::Anywhere, stream)
        })
    }

    /// The lesions of a case that have a voxel in a window.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such case.
    pub fn lesions_in(&self, case: usize, corner: [i64; 3]) -> Result<Vec<usize>> {
        let number = self.cases.len();
        let index = self.cases.get(case).ok_or_else(|| Error::Argument(format!("case {case} of {number}")))?;
        let high = std::array::from_fn(|axis| corner[axis].saturating_add(self.window[axis]));
        Ok((0..index.lesion_count()).filter(|&lesion| index.lesions.meets(lesion, corner, high)).collect())
    }

    fn draw_lesion(&self, stream: &mut Stream, total: f64) -> Draw {
        let case = chosen(&self.weight_up_to, total, stream);
        let lesion = stream.below(self.cases[case].lesion_count() as u64) as usize;
        let voxel = self.cases[case].lesions.draw_voxel(lesion, stream);
        Draw { lesion: Some(lesion), ..self.around(case, voxel, Kind::Lesion, stream) }
    }

    fn draw_organ(&self, stream: &mut Stream) -> Draw {
        let case = self.with_organ[stream.below(self.with_organ.len() as u64) as usize];
        match &self.cases[case].organ {
            Some(organ) => {
                let voxel = organ.draw_voxel(0, stream);
                self.around(case, voxel, Kind::Organ, stream)
            }
            None => self.draw_anywhere(case, Kind::Organ, stream),
        }
    }

    fn draw_hard(&self, stream: &mut Stream) -> Draw {
        let total = self.hard_up_to[self.hard_up_to.len() - 1];
        let point = self.hard[chosen(&self.hard_up_to, total, stream)];
        self.around(point.case, point.voxel, Kind::Hard, stream)
    }

    /// A window that contains a voxel, uniformly among those that do and lie in the volume or hold all of it.
    fn around(&self, case: usize, voxel: [i64; 3], kind: Kind, stream: &mut Stream) -> Draw {
        let corner = std::array::from_fn(|axis| {
            let (low, high) = corner_range(self.cases[case].shape[axis], self.window[axis]);
            stream.between((voxel[axis] - self.window[axis] + 1).max(low), voxel[axis].min(high))
        });
        Draw { case, corner, kind, lesion: None, voxel: Some(voxel) }
    }

    fn draw_anywhere(&self, case: usize, kind: Kind, stream: &mut Stream) -> Draw {
        let corner = std::array::from_fn(|axis| {
            let (low, high) = corner_range(self.cases[case].shape[axis], self.window[axis]);
            stream.between(low, high)
        });
        Draw { case, corner, kind, lesion: None, voxel: None }
    }
}

/// An entry drawn in proportion to its weight, given as running sums.
fn chosen(up_to: &[f64], total: f64, stream: &mut Stream) -> usize {
    let share = stream.uniform() * total;
    // Rounding of the product up to the total itself would point behind the last entry.
    up_to.partition_point(|&up_to| up_to <= share.min(total.next_down()))
}

/// Corners along one axis whose window lies in the volume or, where the volume is smaller, holds all of it.
fn corner_range(extent: i64, window: i64) -> (i64, i64) {
    ((extent - window).min(0), (extent - window).max(0))
}
