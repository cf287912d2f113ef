//! Computes the longest axial diameter: the largest distance between two voxel centres of a lesion within one axial
//! slice.
//!
//! The two end points lie on the convex hull of the slice, so each is the first or last voxel of a row. Each lesion is
//! stored as a table of (first, last) per slice and row. Slices are processed in descending order of their bounding
//! box, until no remaining slice can have a larger diameter.

use crate::components::Components;
use crate::slab::Sums;

/// Squared lengths of the in-plane steps and twice their dot product: |Δ|² = uu·Δu² + uv·Δu·Δv + vv·Δv².
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaneMetric {
    pub(crate) uu: f64,
    pub(crate) uv: f64,
    pub(crate) vv: f64,
}

impl PlaneMetric {
    fn squared(&self, u: i64, v: i64) -> f64 {
        let (u, v) = (u as f64, v as f64);
        self.uu * u * u + self.uv * u * v + self.vv * v * v
    }
}

/// The walk axes (0 plane, 1 row, 2 along the span) of the slices, rows and columns of axial slices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AxialLayout {
    pub(crate) slice: usize,
    pub(crate) row: usize,
    pub(crate) column: usize,
    /// Whether (row, column) are (u, v) of the metric; otherwise they are (v, u).
    pub(crate) row_is_u: bool,
}

/// First and last column of a row. The row is empty if `first > last`.
type Extent = (u32, u32);
const EMPTY: Extent = (u32::MAX, 0);

/// Slice, row, first and last column.
type Cell = (u32, u32, u32, u32);

/// How the extents of a component are stored.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Not stored: the component is not wanted, or has only one voxel. Its diameter is 0.
    Nowhere,
    /// A table that begins at `start`, with `rows` rows per slice.
    Table { start: usize, rows: usize },
    /// A list of cells, for a thin oblique component: its table would be far larger than the component.
    Cells(usize),
}

/// The extents of all components, by slice and row.
#[derive(Debug)]
pub(crate) struct Outlines {
    layout: AxialLayout,
    metric: PlaneMetric,
    places: Vec<Place>,
    tables: Vec<Extent>,
    cells: Vec<Vec<Cell>>,
}

/// Working memory, reused from component to component.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    rows: Vec<(u32, Extent)>,
    hull: Vec<(i64, i64)>,
    bounds: Vec<(f64, usize)>,
}

impl Outlines {
    /// Store the extents of the wanted components, in one pass over the spans.
    pub(crate) fn new(
        components: &Components,
        layout: AxialLayout,
        metric: PlaneMetric,
        wanted: impl Fn(&Sums) -> bool,
    ) -> Self {
        // A span along the axial axis fills one cell per slice; any other span fills one cell.
        let cells = |sums: &Sums| if layout.slice == 2 { sums.voxels } else { sums.spans };
        let (mut total, mut sparse) = (0, 0);
        let places: Vec<Place> = components
            .sums
            .iter()
            .map(|sums| {
                let [slices, rows] =
                    [layout.slice, layout.row].map(|axis| (sums.high[axis] - sums.low[axis]) as usize + 1);
                if sums.voxels == 1 || !wanted(sums) {
                    Place::Nowhere
                } else if (slices as u64) * (rows as u64) <= 8 * cells(sums) + 256 {
                    total += slices * rows;
                    Place::Table { start: total - slices * rows, rows }
                } else {
                    sparse += 1;
                    Place::Cells(sparse - 1)
                }
            })
            .collect();
        let mut outlines = Self { layout, metric, places, tables: vec![EMPTY; total], cells: vec![Vec::new(); sparse] };
        outlines.fill(components);
        outlines
    }

    fn fill(&mut self, components: &Components) {
        let layout = self.layout;
        components.for_each_span(|component, plane, row, span| {
            let corners = [(plane, plane), (row, row), (span.start, span.end - 1)];
            let (from, to) = corners[layout.slice];
            let own_row = corners[layout.row].0;
            let (first, last) = corners[layout.column];
            match self.places[component] {
                Place::Nowhere => {}
                Place::Table { start, rows } => {
                    let sums = &components.sums[component];
                    let cell = start
                        + (from - sums.low[layout.slice]) as usize * rows
                        + (own_row - sums.low[layout.row]) as usize;
                    for slice in 0..=(to - from) as usize {
                        let extent = &mut self.tables[cell + slice * rows];
                        *extent = (extent.0.min(first), extent.1.max(last));
                    }
                }
                Place::Cells(list) => {
                    self.cells[list].extend((from..=to).map(|slice| (slice, own_row, first, last)));
                }
            }
        });
        for list in &mut self.cells {
            list.sort_unstable();
        }
    }

    /// The longest axial diameter of a component [mm].
    pub(crate) fn longest_axial_diameter_mm(&self, component: usize, sums: &Sums, scratch: &mut Scratch) -> f64 {
        let squared = match self.places[component] {
            Place::Nowhere => 0.0,
            Place::Table { start, rows } => {
                let slices = (sums.high[self.layout.slice] - sums.low[self.layout.slice]) as usize + 1;
                self.of_table(&self.tables[start..start + slices * rows], rows, scratch)
            }
            Place::Cells(list) => self.of_cells(&self.cells[list], scratch),
        };
        squared.sqrt()
    }

    fn of_table(&self, table: &[Extent], rows: usize, scratch: &mut Scratch) -> f64 {
        let filled = |slice: usize| {
            let extents = table[slice * rows..(slice + 1) * rows].iter().enumerate();
            extents.filter(|(_, extent)| extent.0 <= extent.1).map(|(row, &extent)| (row as u32, extent))
        };
        scratch.bounds.clear();
        let bounds = (0..table.len() / rows).map(|slice| (slice_bound(filled(slice), self.metric), slice));
        scratch.bounds.extend(bounds);
        scratch.bounds.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut best = 0.0;
        for at in 0..scratch.bounds.len() {
            let (bound, slice) = scratch.bounds[at];
            if bound <= best {
                break;
            }
            scratch.rows.clear();
            scratch.rows.extend(filled(slice));
            best = self.of_slice(&scratch.rows, &mut scratch.hull).max(best);
        }
        best
    }

    fn of_cells(&self, cells: &[Cell], scratch: &mut Scratch) -> f64 {
        let mut best = 0.0;
        for slice in cells.chunk_by(|a, b| a.0 == b.0) {
            scratch.rows.clear();
            for row in slice.chunk_by(|a, b| a.1 == b.1) {
                let first = row.iter().map(|cell| cell.2).min().unwrap_or(0);
                let last = row.iter().map(|cell| cell.3).max().unwrap_or(0);
                scratch.rows.push((row[0].1, (first, last)));
            }
            best = self.of_slice(&scratch.rows, &mut scratch.hull).max(best);
        }
        best
    }

    /// The squared diameter of one slice. `rows` are the extents of its rows, in ascending order.
    fn of_slice(&self, rows: &[(u32, Extent)], hull: &mut Vec<(i64, i64)>) -> f64 {
        hull.clear();
        // Andrew's monotone chain, once along the first voxels of the rows and once along the last.
        for side in 0..2 {
            let base = hull.len();
            for &(row, (first, last)) in rows {
                let point = (i64::from(row), i64::from(if side == 0 { first } else { last }));
                while hull.len() >= base + 2 {
                    let (a, b) = (hull[hull.len() - 2], hull[hull.len() - 1]);
                    let cross = (b.0 - a.0) * (point.1 - a.1) - (b.1 - a.1) * (point.0 - a.0);
                    if (side == 0 && cross > 0) || (side == 1 && cross < 0) {
                        break;
                    }
                    hull.pop();
                }
                hull.push(point);
            }
        }
        let mut best: f64 = 0.0;
        for (at, a) in hull.iter().enumerate() {
            for b in &hull[at + 1..] {
                let (row, column) = (b.0 - a.0, b.1 - a.1);
                let (u, v) = if self.layout.row_is_u { (row, column) } else { (column, row) };
                best = best.max(self.metric.squared(u, v));
            }
        }
        best
    }
}

/// An upper bound of the squared diameter, computed from the slice's bounding box.
fn slice_bound(rows: impl Iterator<Item = (u32, Extent)>, metric: PlaneMetric) -> f64 {
    let (mut low_row, mut high_row, mut low, mut high) = (u32::MAX, 0, u32::MAX, 0);
    for (row, (first, last)) in rows {
        (low_row, high_row) = (low_row.min(row), high_row.max(row));
        (low, high) = (low.min(first), high.max(last));
    }
    if low > high {
        return 0.0;
    }
    let (du, dv) = (f64::from(high_row - low_row), f64::from(high - low));
    // Row and column may be either in-plane axis. Take the larger of both values: only an upper bound is needed.
    let bound = |u: f64, v: f64| metric.uu * u * u + metric.uv.abs() * u * v + metric.vv * v * v;
    bound(du, dv).max(bound(dv, du)) * (1.0 + 1e-12)
}
