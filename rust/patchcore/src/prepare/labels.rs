//! Prepares the label map of a case. Resampled planes are kept as spans. A lesion that vanished by resampling is put
//! back into the spans, as one voxel. Then the spans are painted and written, slab by slab.
//!
//! A lesion is *shown* if a new lesion voxel overlaps one of its old voxels. Every lesion is checked, at every ratio of
//! spacings: on a finer grid, too, all new voxels of a thin lesion may have a larger share of background.

use std::ops::Range;
use std::path::Path;

use super::slabs::Slabs;
use super::{Placement, Source, Walked};
use crate::components::{Joiner, Walk};
use crate::decode::Decoder;
use crate::nifti::{FilePlanes, components_of_file};
use crate::pool::{self, Interrupt};
use crate::resample::{Kernel, LabelPlanes, resample_labels};
use crate::slab::{Connectivity, Line, Slab, Span, Sums};
use crate::store::Layout;
use crate::{Components, Error, Result, SpanTable};

/// Ratios that differ by less give the same grid.
const SAME_RATIO: f64 = 1e-9;
/// Squared distances that differ by less are equal [new voxels].
const SAME_DISTANCE: f64 = 1e-9;
/// Edges of voxels that differ by less coincide [new voxels].
const SAME_EDGE: f64 = 1e-6;

/// The classes that are learned, and the definition of a lesion.
#[derive(Debug, Clone, Copy)]
pub struct LabelPlan<'a> {
    /// Stored labels of the classes. The first has class index 1. Every other label becomes background.
    pub classes: &'a [i64],
    /// The label with components that are lesions.
    pub lesion_label: i64,
    /// Connectivity of the components.
    pub connectivity: Connectivity,
    /// Volume of an old voxel [mm³].
    pub voxel_mm3: f64,
    /// Smaller components of the old label map are specks, not lesions [mm³].
    pub min_volume_mm3: f64,
}

/// The label map that was written.
#[derive(Debug)]
pub struct PreparedLabels {
    /// Spans of the lesions, canonical axes.
    pub spans: SpanTable,
    /// Spans of the other classes. The component column holds the class index.
    pub class_spans: SpanTable,
    /// Number of voxels of each class.
    pub class_voxels: Vec<u64>,
    /// For each component in `spans`: whether it belongs to a lesion, and not only to specks. The volume on the old grid
    /// decides, so that resampling turns no lesion into a speck.
    pub is_lesion: Vec<bool>,
    /// Number of lesions that were shown by no voxel of the new grid and were given one.
    pub kept_lesions: usize,
}

/// Spans on the new grid, for each plane along the slowest axis. Planes are in canonical direction.
struct NewSpans {
    planes: Vec<Vec<NewSpan>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NewSpan {
    row: u32,
    start: u32,
    end: u32,
    class: u8,
}

/// Resample a label map to the training grid and write it to an array of a store.
///
/// # Errors
/// Any error while reading `source`, [`Error::NonIntegralLabel`], [`Error::Argument`] if `layout` does not match the
/// kept part, if there are too many classes or if the lesion label is not one of them, [`Error::Io`] if the store
/// cannot be written, [`Error::Memory`], [`Error::Interrupted`].
pub fn prepare_labels(
    source: &Source<'_>,
    placement: &Placement,
    plan: LabelPlan<'_>,
    folder: &Path,
    layout: &Layout,
    threads: Option<usize>,
    interrupt: &Interrupt,
) -> Result<PreparedLabels> {
    let lesion = plan.classes.iter().position(|&label| label == plan.lesion_label);
    let (Some(lesion), Ok(_)) = (lesion, u8::try_from(plan.classes.len())) else {
        let what = format!("classes {:?} with lesion label {}", plan.classes, plan.lesion_label);
        return Err(Error::Argument(format!("{what}; expected at most 255 classes, including the lesion label")));
    };
    let lesion = lesion as u8 + 1;
    let walked = placement.walk(&source.walk()?, [Kernel::Linear; 3], false)?;
    pool::install(threads, || {
        let mut spans = NewSpans::resampled(source, &walked, plan.classes, interrupt)?;
        let finds_all = placement.ratio.iter().all(|&ratio| (ratio - 1.0).abs() < SAME_RATIO);
        let old = if finds_all && plan.min_volume_mm3 <= 0.0 {
            None
        } else {
            Some(OldLesions::find(source, placement, &walked, plan, interrupt)?)
        };
        let mut kept_lesions = 0;
        if let Some(old) = old.as_ref().filter(|_| !finds_all) {
            // All lesions are checked before any is put back, so that their order does not matter.
            let lost = old.lost(&spans, lesion);
            kept_lesions = lost.len();
            for voxel in lost {
                spans.set(voxel, lesion);
            }
        }
        spans.write(&walked, folder, layout, interrupt)?;
        let mut class_voxels = vec![0; plan.classes.len()];
        for span in spans.planes.iter().flatten() {
            class_voxels[usize::from(span.class) - 1] += u64::from(span.end - span.start);
        }
        let components = spans.components(lesion, &walked, plan.connectivity)?;
        let is_lesion = match old.filter(|_| plan.min_volume_mm3 > 0.0) {
            Some(old) => old.shown_by(&components),
            None => vec![true; components.len()],
        };
        let class_spans = spans.of_classes(lesion, &walked, plan.classes.len());
        Ok(PreparedLabels { spans: SpanTable::new(&components)?, class_spans, class_voxels, is_lesion, kept_lesions })
    })
}

/// Returns old planes as class indices, painted from their spans.
struct ClassPlanes<'a, F> {
    walked: &'a Walked,
    classes: &'a [i64],
    next: F,
}

impl<F: FnMut() -> Result<Slab>> LabelPlanes for ClassPlanes<'_, F> {
    fn next(&mut self, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        let (rows, length) = (self.walked.bands.rows.input(), self.walked.bands.columns.input());
        let slab = (self.next)()?;
        for (at, line) in slab.lines.iter().enumerate() {
            let row = line.number as usize % rows;
            let row = if self.walked.flipped[1] { rows - 1 - row } else { row };
            let out = &mut out[row * length..][..length];
            for span in &slab.spans[slab.line_range(at)] {
                let Some(class) = self.classes.iter().position(|&label| label == span.label) else { continue };
                let (mut start, mut end) = (span.start as usize, span.end as usize);
                if self.walked.flipped[2] {
                    (start, end) = (length - end, length - start);
                }
                out[start..end].fill(class as u8 + 1);
            }
        }
        Ok(())
    }
}

impl NewSpans {
    fn resampled(source: &Source<'_>, walked: &Walked, classes: &[i64], interrupt: &Interrupt) -> Result<Self> {
        match *source {
            Source::File(path) => {
                let mut file = FilePlanes::open(path, walked.stored_flipped, 0.0)?;
                let (slope, intercept) = file.header.scaling;
                let decoder =
                    Decoder::new(file.header.kind, file.header.swapped, Some(classes)).scaled(slope, intercept);
                let spans = Self::collected(walked, classes, interrupt, || file.next_spans(&decoder))?;
                file.finish()?;
                Ok(spans)
            }
            Source::Array(view) => {
                let order = view.walk_order();
                let decoder = Decoder::new(view.kind(), view.is_swapped(), Some(classes));
                let mut plane = 0;
                Self::collected(walked, classes, interrupt, || {
                    plane += 1;
                    Slab::find(&view, order, plane - 1..plane, &decoder)
                })
            }
        }
    }

    fn collected(
        walked: &Walked,
        classes: &[i64],
        interrupt: &Interrupt,
        next: impl FnMut() -> Result<Slab>,
    ) -> Result<Self> {
        let [count, _, length] = walked.canonical.map(|axis| walked.shape[axis]);
        let mut planes: Vec<Vec<NewSpan>> = Vec::with_capacity(count);
        let mut source = ClassPlanes { walked, classes, next };
        resample_labels(&mut source, &walked.bands, classes.len() as u8, interrupt, |_, plane| {
            let mut spans = Vec::new();
            for (row, line) in plane.chunks_exact(length).enumerate() {
                let mut end = 0;
                for stretch in line.chunk_by(|a, b| a == b) {
                    let start = end;
                    end += stretch.len();
                    if stretch[0] != 0 {
                        let (row, start, end) = (row as u32, start as u32, end as u32);
                        spans.push(NewSpan { row, start, end, class: stretch[0] });
                    }
                }
            }
            planes.push(spans);
            Ok(())
        })?;
        if walked.flipped[0] {
            planes.reverse();
        }
        Ok(Self { planes })
    }

    /// Assign a voxel, in walk coordinates of the kept part, to a class.
    fn set(&mut self, [plane, row, at]: [u32; 3], class: u8) {
        let plane = &mut self.planes[plane as usize];
        let mut parts = vec![NewSpan { row, start: at, end: at + 1, class }];
        plane.retain(|&span| {
            let over = span.row == row && span.start <= at && at < span.end;
            if over {
                parts.extend([NewSpan { end: at, ..span }, NewSpan { start: at + 1, ..span }]);
            }
            !over
        });
        plane.extend(parts.into_iter().filter(|part| part.start < part.end));
        plane.sort_unstable();
    }

    fn write(&self, walked: &Walked, folder: &Path, layout: &Layout, interrupt: &Interrupt) -> Result<()> {
        let [_, rows, columns] = walked.canonical.map(|axis| walked.shape[axis]);
        let mut slabs = Slabs::new(folder, layout, walked, 0u8, false)?;
        let mut plane = crate::error::room(rows.checked_mul(columns), "a plane of labels")?;
        for spans in &self.planes {
            plane.clear();
            plane.resize(rows * columns, 0);
            for span in spans {
                let start = span.row as usize * columns;
                plane[start + span.start as usize..start + span.end as usize].fill(span.class);
            }
            slabs.push(&plane, interrupt)?;
        }
        Ok(())
    }

    /// The spans of all classes except the lesion class, ascending.
    fn of_classes(&self, lesion: u8, walked: &Walked, classes: usize) -> SpanTable {
        let walk = Walk { order: walked.canonical, shape: walked.shape };
        let mut table = SpanTable { axis: walked.canonical[2], ..SpanTable::default() };
        for class in (1..=classes as u8).filter(|&class| class != lesion) {
            let mut voxels = 0;
            for (plane, spans) in self.planes.iter().enumerate() {
                for span in spans.iter().filter(|span| span.class == class) {
                    table.component.push(i32::from(class));
                    table.origin.extend(walk.to_array([plane as u32, span.row, span.start]).map(|n| n as i32));
                    table.length.push((span.end - span.start) as i32);
                    voxels += i64::from(span.end - span.start);
                }
            }
            table.voxel_count.push(voxels);
        }
        table
    }

    fn components(&self, lesion: u8, walked: &Walked, connectivity: Connectivity) -> Result<Components> {
        let walk = Walk { order: walked.canonical, shape: walked.shape };
        let rows = walk.walk_shape()[1] as u64;
        let mut slab = Slab::default();
        for (number, spans) in self.planes.iter().enumerate() {
            for span in spans.iter().filter(|span| span.class == lesion) {
                let line = number as u64 * rows + u64::from(span.row);
                let continued = slab.lines.last().is_some_and(|last| last.number == line);
                if !continued {
                    slab.lines.push(Line { number: line, first: slab.spans.len() as u32 });
                }
                match slab.spans.last_mut() {
                    // A voxel that was put back directly after a span extends this span.
                    Some(last) if continued && last.end == span.start => last.end = span.end,
                    _ => slab.spans.push(Span { start: span.start, end: span.end, label: i64::from(lesion) }),
                }
            }
        }
        if slab.spans.len() >= u32::MAX as usize {
            return Err(Error::Unsupported("the label map has 2^32 - 1 or more spans".into()));
        }
        slab.join(walk.walk_shape(), walk.strides(), connectivity);
        let mut joiner = Joiner::new(walk, connectivity);
        joiner.push(slab, 0);
        joiner.finish()
    }
}

/// The lesions of the old grid, and where their voxels lie on the new grid.
struct OldLesions {
    components: Components,
    /// By position in the reading order.
    axes: [OldAxis; 3],
    /// Whether a component is a lesion, not a speck.
    is_lesion: Vec<bool>,
}

/// Converts old voxels of one axis to new voxels.
struct OldAxis {
    canonical: usize,
    flipped: bool,
    last: u32,
    ratio: f64,
    /// Number of voxels of the whole new grid.
    count: usize,
    part: Range<usize>,
}

impl OldAxis {
    /// New voxels of the kept part that overlap the old voxels `start..end`.
    fn overlapping(&self, start: u32, end: u32) -> Range<u32> {
        let (start, end) = if self.flipped { (self.last + 1 - end, self.last + 1 - start) } else { (start, end) };
        // Edges that coincide but for rounding do not overlap.
        let low = (f64::from(start) / self.ratio + SAME_EDGE).floor() as usize;
        let high = (f64::from(end) / self.ratio - SAME_EDGE).ceil() as usize;
        // Half an old voxel may lie beyond the last new voxel; it belongs to that voxel.
        let (low, high) = (low.min(self.count - 1), high.clamp(1, self.count));
        let clip = |at: usize| at.clamp(self.part.start, self.part.end) - self.part.start;
        clip(low) as u32..clip(high.max(low + 1)) as u32
    }

    /// The new voxel that contains the centre of an old voxel; `None` outside of the kept part.
    fn containing(&self, at: u32) -> Option<u32> {
        let at = if self.flipped { self.last - at } else { at };
        let new = (((f64::from(at) + 0.5) / self.ratio).floor() as usize).min(self.count - 1);
        self.part.contains(&new).then(|| (new - self.part.start) as u32)
    }
}

impl OldLesions {
    fn find(
        source: &Source<'_>,
        placement: &Placement,
        walked: &Walked,
        plan: LabelPlan<'_>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let selected = [plan.lesion_label];
        let components = match source {
            Source::File(path) => components_of_file(path, Some(&selected), plan.connectivity, interrupt)?.0,
            Source::Array(view) => {
                let decoder = Decoder::new(view.kind(), view.is_swapped(), Some(&selected));
                Components::of_view(view, &decoder, plan.connectivity, None, interrupt)?
            }
        };
        let stored = components.walk.walk_shape();
        let axes = std::array::from_fn(|place| {
            let axis = walked.canonical[place];
            OldAxis {
                canonical: axis,
                flipped: walked.flipped[place],
                last: (stored[place] - 1) as u32,
                ratio: placement.ratio[axis],
                count: placement.shape[axis],
                part: placement.part[axis].clone(),
            }
        });
        let volume_mm3 = |sums: &Sums| sums.voxels as f64 * plan.voxel_mm3;
        let is_lesion = components.sums.iter().map(|sums| volume_mm3(sums) >= plan.min_volume_mm3).collect();
        Ok(Self { components, axes, is_lesion })
    }

    /// Call `visit(component, ranges)` for every span: the new voxels, in walk coordinates, that it overlaps.
    fn for_each_overlap(&self, mut visit: impl FnMut(usize, [Range<u32>; 3])) {
        let [planes, rows, columns] = &self.axes;
        self.components.for_each_span(|component, plane, row, span| {
            let ranges = [
                planes.overlapping(plane, plane + 1),
                rows.overlapping(row, row + 1),
                columns.overlapping(span.start, span.end),
            ];
            visit(component, ranges);
        });
    }

    /// One voxel of the kept part, in walk coordinates, for each lesion that no voxel of the new grid shows: the one with
    /// the old lesion voxel that is nearest to the lesion's centre. A lesion whose nearest voxel was cropped has none.
    fn lost(&self, spans: &NewSpans, lesion: u8) -> Vec<[u32; 3]> {
        let mut shown: Vec<bool> = self.is_lesion.iter().map(|&is_lesion| !is_lesion).collect();
        self.for_each_overlap(|component, [planes, rows, columns]| {
            if shown[component] {
                return;
            }
            shown[component] = planes.into_iter().any(|plane| {
                let plane = &spans.planes[plane as usize];
                let first = plane.partition_point(|span| span.row < rows.start);
                plane[first..]
                    .iter()
                    .take_while(|span| span.row < rows.end)
                    .any(|span| span.class == lesion && span.start < columns.end && span.end > columns.start)
            });
        });
        if shown.iter().all(|&shown| shown) {
            return Vec::new();
        }
        let mut nearest: Vec<(f64, [u32; 3])> = vec![(f64::INFINITY, [0; 3]); shown.len()];
        self.components.for_each_span(|component, plane, row, span| {
            if shown[component] {
                return;
            }
            let sums = &self.components.sums[component];
            let centre = sums.coordinates.map(|sum| sum as f64 / sums.voxels as f64);
            for column in [centre[2].floor(), centre[2].ceil()] {
                let voxel = [plane, row, (column as u32).clamp(span.start, span.end - 1)];
                let squared =
                    |place: usize| ((f64::from(voxel[place]) - centre[place]) / self.axes[place].ratio).powi(2);
                let distance = squared(0) + squared(1) + squared(2);
                let (least, other) = nearest[component];
                // Of voxels that are equally near, the first in canonical order, whatever the order in memory.
                let first = || self.canonical_voxel(voxel) < self.canonical_voxel(other);
                if distance < least - SAME_DISTANCE || (distance <= least + SAME_DISTANCE && first()) {
                    nearest[component] = (distance, voxel);
                }
            }
        });
        let lost = nearest.into_iter().zip(shown).filter(|&(_, shown)| !shown);
        lost.filter_map(|((_, voxel), _)| {
            let [plane, row, column] = std::array::from_fn(|axis| self.axes[axis].containing(voxel[axis]));
            Some([plane?, row?, column?])
        })
        .collect()
    }

    /// An old voxel in canonical axis order and direction.
    fn canonical_voxel(&self, voxel: [u32; 3]) -> [u32; 3] {
        let mut canonical = [0; 3];
        for (place, axis) in self.axes.iter().enumerate() {
            canonical[axis.canonical] = if axis.flipped { axis.last - voxel[place] } else { voxel[place] };
        }
        canonical
    }

    /// For each component of the new grid: whether it overlaps a lesion of the old grid.
    fn shown_by(&self, new: &Components) -> Vec<bool> {
        let mut planes: Vec<Vec<(u32, u32, u32, usize)>> = vec![Vec::new(); new.walk.walk_shape()[0]];
        new.for_each_span(|component, plane, row, span| {
            planes[plane as usize].push((row, span.start, span.end, component));
        });
        let mut found = vec![false; new.len()];
        self.for_each_overlap(|component, [over, rows, columns]| {
            if !self.is_lesion[component] {
                return;
            }
            for plane in over {
                let plane = &planes[plane as usize];
                let first = plane.partition_point(|span| span.0 < rows.start);
                for &(_, start, end, component) in plane[first..].iter().take_while(|span| span.0 < rows.end) {
                    if start < columns.end && end > columns.start {
                        found[component] = true;
                    }
                }
            }
        });
        found
    }
}
