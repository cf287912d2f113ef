//! Two label maps on one grid, compared span by span: which components overlap, and by how much.

mod dilate;
mod nearest;

use std::collections::HashMap;

use rayon::prelude::*;

use crate::components::Components;
use crate::pool::{self, Interrupt};
use crate::slab::{Connectivity, Span};
use crate::surface::{Convention, Distances, Rows, distances};
use crate::{Error, Result};

/// The voxels that two objects share: index of the first, index of the second, number of voxels.
pub type Overlap = (u32, u32, u64);

/// Numbers of true and of predicted components that are each taken as one mask.
pub type Group = (Vec<usize>, Vec<usize>);

/// The components of a true and of a predicted mask.
#[derive(Debug)]
pub struct Pair {
    truth: Components,
    prediction: Components,
    parts: [Parts; 2],
    on_specks: Vec<u64>,
}

/// The spans of each component: where they begin in `places`.
#[derive(Debug)]
struct Parts {
    first: Vec<usize>,
    /// Line, start and end of each span, grouped by component, in walk order.
    places: Vec<(u64, u32, u32)>,
}

impl Parts {
    fn of(components: &Components) -> Self {
        let mut first = vec![0; components.len() + 1];
        for (number, sums) in components.sums.iter().enumerate() {
            first[number + 1] = first[number] + sums.spans as usize;
        }
        let mut next = first.clone();
        let mut places = vec![(0, 0, 0); first[components.len()]];
        for (line, span, component) in components.spans() {
            let at = &mut next[component as usize];
            places[*at] = (line, span.start, span.end);
            *at += 1;
        }
        Self { first, places }
    }

    fn of_component(&self, component: usize) -> &[(u64, u32, u32)] {
        &self.places[self.first[component]..self.first[component + 1]]
    }
}

impl Pair {
    /// Compare components of two masks that were walked in the same order. Components of fewer than `min_voxels` voxels
    /// (specks) are dropped on both sides.
    ///
    /// # Errors
    /// [`Error::Argument`] if shapes or orders differ.
    pub fn new(truth: Components, prediction: Components, min_voxels: u64) -> Result<Self> {
        if truth.walk.shape != prediction.walk.shape || truth.walk.order != prediction.walk.order {
            return Err(Error::Argument(format!(
                "the label maps have shapes {:?} and {:?}; expected one shape and one order of axes",
                truth.walk.shape, prediction.walk.shape
            )));
        }
        let prediction = prediction.with_at_least(min_voxels);
        let mut on_specks = vec![0; prediction.len()];
        for (number, component, voxels) in overlaps(&truth, &prediction, |_, a| a, |_, b| b) {
            if truth.voxels(number as usize) < min_voxels {
                on_specks[component as usize] += voxels;
            }
        }
        let truth = truth.with_at_least(min_voxels);
        let parts = [Parts::of(&truth), Parts::of(&prediction)];
        Ok(Self { truth, prediction, parts, on_specks })
    }

    /// For each predicted component, the voxels that it shares with true components that were dropped as specks.
    #[must_use]
    pub fn on_specks(&self) -> &[u64] {
        &self.on_specks
    }

    /// The components of the true mask.
    #[must_use]
    pub fn truth(&self) -> &Components {
        &self.truth
    }

    /// The components of the predicted mask.
    #[must_use]
    pub fn prediction(&self) -> &Components {
        &self.prediction
    }

    /// All pairs of components that share a voxel, sorted.
    #[must_use]
    pub fn overlaps(&self) -> Vec<Overlap> {
        overlaps(&self.truth, &self.prediction, |_, number| number, |_, number| number)
    }

    /// The components of the true mask, dilated `iterations` times: for each component its group, and all pairs of a
    /// group and a predicted component that share a voxel. Components whose dilations touch (26 neighbours) form one
    /// group. In each iteration, a mask grows by all voxels that share a face or an edge with it.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub fn dilated(&self, iterations: usize) -> Result<(Vec<u32>, Vec<Overlap>)> {
        let mut rows = Rows::of(&self.truth, |_| true);
        for _ in 0..iterations {
            rows = dilate::dilated(&rows);
        }
        let grown = rows.components(Connectivity::TwentySix)?;
        let mut groups = vec![0; self.truth.len()];
        for (group, component, _) in overlaps(&grown, &self.truth, |_, number| number, |_, number| number) {
            groups[component as usize] = group;
        }
        Ok((groups, overlaps(&grown, &self.prediction, |_, number| number, |_, number| number)))
    }

    /// For each true component, the number of predicted voxels that are nearer to it than to any other one.
    ///
    /// Distances are measured in units of `spacing`. Between equally near components, that with the nearest voxel of
    /// smaller last, middle and first index is chosen, as scipy's distance transform does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an axis with more than 2.7·10⁶ voxels, [`Error::Interrupted`] if asked to stop.
    pub fn nearest_voxels(&self, spacing: [f64; 3], interrupt: &Interrupt) -> Result<Vec<u64>> {
        nearest::nearest_voxels(&self.truth, &self.prediction, spacing, interrupt)
    }

    /// For each group of true and predicted components and each convention, what `keep` keeps of the distances between
    /// their surfaces. Many groups are measured in parallel, a single one with several threads.
    ///
    /// # Errors
    /// As [`Pair::distances`].
    #[allow(clippy::too_many_arguments)]
    pub fn distances_of<T: Send>(
        &self,
        groups: &[Group],
        spacing: [f64; 3],
        conventions: &[Convention],
        tolerances_mm: &[f64],
        threads: Option<usize>,
        interrupt: &Interrupt,
        keep: impl Fn(&Distances) -> T + Sync,
    ) -> Result<Vec<Vec<T>>> {
        let measured = |(truth, prediction): &Group, threads: Option<usize>| -> Result<Vec<T>> {
            conventions
                .iter()
                .map(|&convention| {
                    self.distances(truth, prediction, spacing, convention, tolerances_mm, threads, interrupt)
                        .map(|found| keep(&found))
                })
                .collect()
        };
        if groups.len() < 2 || threads == Some(1) {
            return groups.iter().map(|group| measured(group, threads)).collect();
        }
        pool::install(threads, || groups.par_iter().map(|group| measured(group, Some(1))).collect())
    }

    /// The distances between the surfaces of some true and some predicted components, each taken as one mask.
    ///
    /// # Errors
    /// As [`distances`]; [`Error::Argument`] for a component that does not exist.
    #[allow(clippy::too_many_arguments)]
    pub fn distances(
        &self,
        truth: &[usize],
        prediction: &[usize],
        spacing: [f64; 3],
        convention: Convention,
        tolerances_mm: &[f64],
        threads: Option<usize>,
        interrupt: &Interrupt,
    ) -> Result<Distances> {
        let rows = |which: usize, components: &Components, chosen: &[usize]| -> Result<Rows> {
            if let Some(&number) = chosen.iter().find(|&&number| number >= components.len()) {
                return Err(Error::Argument(format!("component {number} of {}", components.len())));
            }
            let mut places: Vec<_> =
                chosen.iter().flat_map(|&number| self.parts[which].of_component(number)).copied().collect();
            places.sort_unstable();
            Ok(Rows::from_places(components.walk, &places))
        };
        let (first, second) = (rows(0, &self.truth, truth)?, rows(1, &self.prediction, prediction)?);
        distances(&first, &second, spacing, convention, tolerances_mm, threads, interrupt)
    }
}

/// The voxels that objects of two walked label maps share. `first` and `second` name the object of a span, from its
/// label and the number of its component.
pub fn overlaps(
    truth: &Components,
    prediction: &Components,
    first: impl Fn(i64, u32) -> u32,
    second: impl Fn(i64, u32) -> u32,
) -> Vec<Overlap> {
    let mut shared: HashMap<(u32, u32), u64> = HashMap::new();
    let mut open = ((u32::MAX, u32::MAX), 0);
    for_each_overlap(truth, prediction, |a, b, voxels| {
        let key = (first(a.0.label, a.1), second(b.0.label, b.1));
        if key != open.0 {
            if open.1 > 0 {
                *shared.entry(open.0).or_default() += open.1;
            }
            open = (key, 0);
        }
        open.1 += voxels;
    });
    if open.1 > 0 {
        *shared.entry(open.0).or_default() += open.1;
    }
    let mut found: Vec<Overlap> = shared.into_iter().map(|((a, b), voxels)| (a, b, voxels)).collect();
    found.sort_unstable();
    found
}

/// Call `visit(a, b, voxels)` for each pair of spans that share voxels; a span comes with the number of its component.
fn for_each_overlap(truth: &Components, prediction: &Components, mut visit: impl FnMut((Span, u32), (Span, u32), u64)) {
    let (mut left, mut right) = (truth.spans().peekable(), prediction.spans().peekable());
    while let (Some(&(line_a, a, in_a)), Some(&(line_b, b, in_b))) = (left.peek(), right.peek()) {
        if line_a == line_b && a.start < b.end && b.start < a.end {
            visit((a, in_a), (b, in_b), u64::from(a.end.min(b.end) - a.start.max(b.start)));
        }
        if (line_a, a.end) <= (line_b, b.end) {
            left.next();
        } else {
            right.next();
        }
    }
}
