//! Draws the windows for training. Lesions of every size, and cases with few or many lesions, are drawn often enough.
//!
//! A draw for a lesion picks a case (∝ lesions^α, so that one patient with 80 metastases does not dominate), one of its
//! lesions, one voxel of the lesion, and a window that contains the voxel at any position. A small lesion is therefore
//! as likely as a large one, and it is not always in the middle of the window. Shares of the draws can be reserved for
//! the voxels of an organ, for given points (hard negatives, by their weights) and for cases without lesions. The other
//! windows are uniform over the volume. Voxels are found in the spans by binary search; no volume is read.

use crate::philox::{MAX_STEP, Purpose, Stream};
use crate::{Error, Result};

/// The lesions of one case as spans, sorted by lesion.
#[derive(Debug, Clone, Copy)]
pub struct LesionSpans<'a> {
    /// Lesion index of each span, in `0..lesion_count`, never decreasing.
    pub lesion: &'a [i32],
    /// First voxel of each span.
    pub origin: &'a [[i32; 3]],
    /// Number of voxels in each span.
    pub length: &'a [i32],
    /// The array axis along which the spans lie.
    pub axis: usize,
    /// Number of lesions. Every lesion has at least one span.
    pub lesion_count: usize,
}

/// Spans, checked and indexed for drawing.
#[derive(Debug)]
struct Index {
    axis: usize,
    origin: Vec<[i32; 3]>,
    /// Running sum of voxels, including the span itself.
    voxels_up_to: Vec<u64>,
    /// Index of the first span of each lesion, and a last entry with the number of spans.
    first_span: Vec<usize>,
    /// Bounding box of each lesion: its first voxel, and one past its last voxel.
    boxes: Vec<[[i64; 3]; 2]>,
}

impl Index {
    fn new(shape: [i64; 3], spans: LesionSpans<'_>) -> Result<Self> {
        let count = spans.lesion.len();
        let wrong = |what: String| Err(Error::Argument(what));
        if shape.iter().any(|&n| n < 1) {
            return wrong(format!("shape {shape:?}; expected at least 1 voxel per axis"));
        }
        if spans.origin.len() != count || spans.length.len() != count {
            let (origins, lengths) = (spans.origin.len(), spans.length.len());
            return wrong(format!(
                "{count} span lesions, {origins} origins and {lengths} lengths; expected equal numbers"
            ));
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
                    "span {index} (origin {origin:?}, length {length}, axis {}) is empty or leaves the volume of shape \
                     {shape:?}",
                    spans.axis
                ));
            }
            match usize::try_from(lesion) {
                Ok(lesion) if lesion + 1 == first_span.len() => {}
                Ok(lesion) if lesion == first_span.len() && lesion < spans.lesion_count => first_span.push(index),
                _ => {
                    let last = i128::try_from(spans.lesion_count).map_or(0, |count| count - 1);
                    return wrong(format!(
                        "span {index} belongs to lesion {lesion}; expected spans sorted by lesion, and at least one \
                         span for every lesion from 0 to {last}"
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

    /// Whether a lesion has a voxel in the box from `low` (inclusive) to `high` (exclusive).
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

    /// Draw a voxel of a lesion uniformly, in O(log spans).
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

/// One case: its lesions and optionally an organ, checked and indexed for drawing.
#[derive(Debug)]
pub struct Case {
    shape: [i64; 3],
    lesions: Index,
    organ: Option<Index>,
    other_lesions: bool,
}

impl Case {
    /// Check and index the spans of a case.
    ///
    /// # Errors
    /// [`Error::Argument`] if columns differ in length, spans are unsorted, empty or leave the volume, or a lesion has
    /// no span.
    pub fn new(shape: [i64; 3], spans: LesionSpans<'_>) -> Result<Self> {
        Ok(Self { shape, lesions: Index::new(shape, spans)?, organ: None, other_lesions: false })
    }

    /// The same case with the spans of an organ. The lesion index of these spans must be 0.
    ///
    /// # Errors
    /// As [`Case::new`].
    pub fn with_organ(mut self, spans: LesionSpans<'_>) -> Result<Self> {
        let organ = Index::new(self.shape, spans).map_err(|error| Error::Argument(format!("organ: {error}")))?;
        self.organ = (organ.lesion_count() > 0).then_some(organ);
        Ok(self)
    }

    /// The same case, with or without lesions that another sampler draws: with them, it is no case without lesions.
    #[must_use]
    pub fn with_other_lesions(mut self, has: bool) -> Self {
        self.other_lesions = has;
        self
    }

    /// Number of lesions.
    #[must_use]
    pub fn lesion_count(&self) -> usize {
        self.lesions.lesion_count()
    }
}

/// Share of the windows for each kind of draw. The remaining windows are drawn anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shares {
    /// Share of windows around a lesion.
    pub lesion: f64,
    /// Share of windows around a voxel of the organ, in cases that have the organ.
    pub organ: f64,
    /// Share of windows around a hard point.
    pub hard: f64,
    /// Share of windows anywhere in a case without lesions.
    pub lesion_free: f64,
}

/// A point around which windows are drawn, and its weight relative to the other points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HardPoint {
    /// Index of the case.
    pub case: usize,
    /// Voxel index of the point.
    pub voxel: [i64; 3],
    /// Weight of the point; must not be negative.
    pub weight: f64,
}

/// What a window was drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// No particular target: anywhere in the case.
    Anywhere = 0,
    /// A lesion.
    Lesion = 1,
    /// A voxel of the organ.
    Organ = 2,
    /// A hard point.
    Hard = 3,
    /// A case without lesions.
    LesionFree = 4,
}

/// One drawn window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Index of the case.
    pub case: usize,
    /// First voxel of the window; negative if the case is smaller than the window.
    pub corner: [i64; 3],
    /// What the window was drawn for.
    pub kind: Kind,
    /// The lesion that the window was drawn for.
    pub lesion: Option<usize>,
    /// The voxel that the window was drawn to contain.
    pub voxel: Option<[i64; 3]>,
}

/// Draws windows from a set of cases.
#[derive(Debug)]
pub struct Sampler {
    cases: Vec<Case>,
    window: [i64; 3],
    seed: u64,
    shares: Shares,
    /// Running sum of lesions^α, including the case itself.
    weight_up_to: Vec<f64>,
    with_organ: Vec<usize>,
    lesion_free: Vec<usize>,
    hard: Vec<HardPoint>,
    hard_up_to: Vec<f64>,
}

impl Sampler {
    /// Create a sampler over `cases`. For a lesion window, the case is chosen ∝ lesions^α.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no case, a share is outside [0, 1], the shares add up to more than 1, `alpha` is
    /// negative or not finite, a hard point lies outside its case or has an invalid weight, or a share is positive but
    /// no case can provide such windows. [`Error::Window`] if an edge of the window is smaller than 1.
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
            return wrong("there are no cases to draw windows from".into());
        }
        if window.iter().any(|&n| n < 1) {
            return Err(Error::Window(format!("window size {window:?}; expected at least 1 voxel per edge")));
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
            return wrong(format!("the shares add up to {sum}; expected at most 1"));
        }
        if !alpha.is_finite() || alpha < 0.0 {
            return wrong(format!("alpha {alpha}; legal: any finite number from 0 up"));
        }
        for (number, point) in hard.iter().enumerate() {
            let inside = cases
                .get(point.case)
                .is_some_and(|case| (0..3).all(|axis| (0..case.shape[axis]).contains(&point.voxel[axis])));
            if !inside || !point.weight.is_finite() || point.weight < 0.0 {
                return wrong(format!(
                    "hard point {number} (case {}, voxel {:?}, weight {}); expected an existing case, a voxel within \
                     it and a finite weight from 0 up",
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
        let with_organ = of(&|case| case.organ.is_some());
        let lesion_free = of(&|case| case.lesion_count() == 0 && !case.other_lesions);
        let nothing = [
            (organ, with_organ.is_empty(), "organ_share", "no case has the organ"),
            (
                hard_share,
                hard_up_to.last().is_none_or(|&total| total <= 0.0),
                "hard_share",
                "no hard point has a positive weight",
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

    /// Draw the window for a step and a position in the global batch. The result is a pure function of step, position
    /// and seed.
    ///
    /// If no case has a lesion, lesion windows are drawn anywhere instead.
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

    /// The lesions of a case that have at least one voxel in the window at `corner`.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such case.
    pub fn lesions_in(&self, case: usize, corner: [i64; 3]) -> Result<Vec<usize>> {
        let number = self.cases.len();
        let index = self
            .cases
            .get(case)
            .ok_or_else(|| Error::Argument(format!("case index {case}; there are {number} cases")))?;
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

    /// Draw a window that contains `voxel`, uniformly from all such windows that lie in the volume. Along an axis that
    /// is shorter than the window, the window must contain the whole axis instead.
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

/// Draw an index in proportion to the weights. `up_to` holds the running sums of the weights.
fn chosen(up_to: &[f64], total: f64, stream: &mut Stream) -> usize {
    let share = stream.uniform() * total;
    // If rounding made the product equal to the total, the index would be past the last entry.
    up_to.partition_point(|&up_to| up_to <= share.min(total.next_down()))
}

/// The lowest and highest corner along one axis for which the window lies in the volume, or contains the whole volume
/// if the volume is smaller.
fn corner_range(extent: i64, window: i64) -> (i64, i64) {
    ((extent - window).min(0), (extent - window).max(0))
}
