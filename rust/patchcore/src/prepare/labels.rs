//! Prepares the label map of a case. Resampled planes are kept as spans. A lesion that vanished by resampling is put
//! back into the spans. Then the spans are painted and written, slab by slab.

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

/// A lesion with at least this many new voxels cannot vanish unless it is thin: some new voxel lies completely, or
/// almost completely, within it.
const SMALL_VOXELS: f64 = 8.0;

/// The classes that are learned, and the definition of a lesion.
#[derive(Debug, Clone, Copy)]
pub struct LabelPlan<'a> {
    /// Stored labels of the classes. The first has class index 1. Every other label becomes background.
    pub classes: &'a [i64],
    /// The label with components that are lesions.
    pub lesion_label: i64,
    /// Connectivity of the components.
    pub connectivity: Connectivity,
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
    /// Number of lesions that had no voxel on the new grid and were given the voxel at their centre.
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
        let small = small_lesions(source, placement, &walked, plan, interrupt)?;
        // Check all lesions before any is put back, so that their order does not matter.
        let lost: Vec<&Small> = small.iter().filter(|small| !spans.shows(small, lesion, &walked)).collect();
        let kept_lesions = lost.len();
        for small in lost {
            spans.keep(small, lesion, &walked);
        }
        spans.write(&walked, folder, layout, interrupt)?;
        let mut class_voxels = vec![0; plan.classes.len()];
        for span in spans.planes.iter().flatten() {
            class_voxels[usize::from(span.class) - 1] += u64::from(span.end - span.start);
        }
        let components = spans.components(lesion, &walked, plan.connectivity)?;
        let class_spans = spans.of_classes(lesion, &walked, plan.classes.len());
        Ok(PreparedLabels { spans: SpanTable::new(&components)?, class_spans, class_voxels, kept_lesions })
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

    /// Whether a lesion has a voxel within its bounding box on the new grid.
    fn shows(&self, small: &Small, lesion: u8, walked: &Walked) -> bool {
        let [low, high] = [small.low, small.high].map(|at| walked.canonical.map(|axis| at[axis]));
        self.planes[low[0]..high[0]].iter().flatten().any(|span| {
            let (row, start, end) = (span.row as usize, span.start as usize, span.end as usize);
            span.class == lesion && (low[1]..high[1]).contains(&row) && start < high[2] && end > low[2]
        })
    }

    /// Assign the voxel at its centre to a lesion.
    fn keep(&mut self, small: &Small, lesion: u8, walked: &Walked) {
        let centre = walked.canonical.map(|axis| small.centre[axis]);
        let (row, at) = (centre[1] as u32, centre[2] as u32);
        let plane = &mut self.planes[centre[0]];
        let mut parts = vec![NewSpan { row, start: at, end: at + 1, class: lesion }];
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

/// A lesion that may vanish: its bounding box and centre on the kept part of the new grid, canonical axes.
struct Small {
    low: [usize; 3],
    high: [usize; 3],
    centre: [usize; 3],
}

fn small_lesions(
    source: &Source<'_>,
    placement: &Placement,
    walked: &Walked,
    plan: LabelPlan<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Small>> {
    if placement.ratio.iter().all(|&ratio| ratio <= 1.0) {
        return Ok(Vec::new());
    }
    let selected = [plan.lesion_label];
    let components = match source {
        Source::File(path) => components_of_file(path, Some(&selected), plan.connectivity, interrupt)?.0,
        Source::Array(view) => {
            let decoder = Decoder::new(view.kind(), view.is_swapped(), Some(&selected));
            Components::of_view(view, &decoder, plan.connectivity, None, interrupt)?
        }
    };
    let most = SMALL_VOXELS.max(SMALL_VOXELS * placement.ratio.iter().product::<f64>());
    let walk = components.walk;
    // A lesion may also vanish if it is thin along an axis that becomes coarser: it may lie between two new planes.
    let thin = |sums: &Sums| {
        let [low, high] = [sums.low, sums.high].map(|at| walk.to_array(at));
        (0..3).any(|axis| {
            let (stored, ratio) = (placement.axes[axis], placement.ratio[axis]);
            ratio > 1.0 && f64::from(high[stored] - low[stored] + 1) < ratio + 1.0
        })
    };
    let small = components.sums.iter().filter(|sums| (sums.voxels as f64) < most || thin(sums));
    Ok(small.filter_map(|sums| small_of(sums, walk, placement, walked)).collect())
}

/// Compute the position of a small lesion; `None` if its centre lies outside the kept part.
fn small_of(sums: &Sums, walk: Walk, placement: &Placement, walked: &Walked) -> Option<Small> {
    let [low, high] = [sums.low, sums.high].map(|at| walk.to_array(at));
    let centre = walk.to_array(sums.coordinates.map(|sum| sum as f64 / sums.voxels as f64));
    let mut small = Small { low: [0; 3], high: [0; 3], centre: [0; 3] };
    for axis in 0..3 {
        let stored = placement.axes[axis];
        let last = walked.stored_shape[stored] as f64 - 1.0;
        let turned = |at: f64| if placement.flipped[axis] { last - at } else { at };
        let new = |at: f64| ((turned(at) + 0.5) / placement.ratio[axis]).floor() as usize;
        let ends = [new(f64::from(low[stored])), new(f64::from(high[stored]))];
        let part = &placement.part[axis];
        let most = placement.shape[axis] - 1;
        let at = new(centre[stored]).min(most);
        if !part.contains(&at) {
            return None;
        }
        small.low[axis] = ends[0].min(ends[1]).min(most).max(part.start) - part.start;
        small.high[axis] = (ends[0].max(ends[1]) + 1).min(part.end) - part.start;
        small.centre[axis] = at - part.start;
    }
    Some(small)
}
