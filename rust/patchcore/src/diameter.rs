//! The longest axial diameter: the largest distance between two voxel centres of a lesion within one axial slice.
//!
//! The two ends lie on the convex hull of the slice, and so among the first and last voxel of its rows. So each lesion
//! is laid out as a table of (first, last) per slice and row; slices come largest bounding box first, until no
//! remaining one can beat the best.

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

/// How slices, rows and columns of an axial slice lie among the walk axes (0 plane, 1 row, 2 along the span).
#[derive(Debug, Clone, Copy)]
pub(crate) struct AxialLayout {
    pub(crate) slice: usize,
    pub(crate) row: usize,
    pub(crate) column: usize,
    /// Whether (row, column) are (u, v) of the metric, or (v, u).
    pub(crate) row_is_u: bool,
}

/// A span in walk coordinates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) plane: u32,
    pub(crate) row: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// First and last column of a row; empty while `first > last`.
type Extent = (u32, u32);
const EMPTY: Extent = (u32::MAX, 0);

/// Working memory, kept from lesion to lesion.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    table: Vec<Extent>,
    cells: Vec<(u32, u32, u32, u32)>,
    rows: Vec<(u32, Extent)>,
    hull: Vec<(i64, i64)>,
    bounds: Vec<(f64, usize)>,
}

/// The diameter in mm of one lesion from its spans.
pub(crate) fn longest_axial_diameter_mm(
    spans: &[Placed],
    sums: &Sums,
    layout: AxialLayout,
    metric: PlaneMetric,
    scratch: &mut Scratch,
) -> f64 {
    if sums.voxels == 1 {
        return 0.0;
    }
    let slices = (sums.high[layout.slice] - sums.low[layout.slice]) as usize + 1;
    let rows = (sums.high[layout.row] - sums.low[layout.row]) as usize + 1;
    let dense = (slices as u64) * (rows as u64) <= 4 * sums.voxels + 1024;
    let mut best = 0.0;
    if dense {
        fill_table(spans, sums, layout, rows, slices, &mut scratch.table);
        let table = std::mem::take(&mut scratch.table);
        scratch.bounds.clear();
        for (slice, extents) in table.chunks_exact(rows).enumerate() {
            let bound = slice_bound(extents.iter().enumerate().map(|(row, &extent)| (row as u32, extent)), metric);
            scratch.bounds.push((bound, slice));
        }
        scratch.bounds.sort_by(|a, b| b.0.total_cmp(&a.0));
        for at in 0..scratch.bounds.len() {
            let (bound, slice) = scratch.bounds[at];
            if bound <= best {
                break;
            }
            scratch.rows.clear();
            let extents = &table[slice * rows..(slice + 1) * rows];
            let filled = extents.iter().enumerate().filter(|(_, extent)| extent.0 <= extent.1);
            scratch.rows.extend(filled.map(|(row, &extent)| (row as u32, extent)));
            best = slice_diameter_squared(&scratch.rows, layout, metric, &mut scratch.hull).max(best);
        }
        scratch.table = table;
    } else {
        // A thin lesion that runs obliquely: its table would be far larger than itself.
        collect_cells(spans, layout, &mut scratch.cells);
        let cells = std::mem::take(&mut scratch.cells);
        for slice in cells.chunk_by(|a, b| a.0 == b.0) {
            scratch.rows.clear();
            for row in slice.chunk_by(|a, b| a.1 == b.1) {
                let first = row.iter().map(|cell| cell.2).min().unwrap_or(0);
                let last = row.iter().map(|cell| cell.3).max().unwrap_or(0);
                scratch.rows.push((row[0].1, (first, last)));
            }
            best = slice_diameter_squared(&scratch.rows, layout, metric, &mut scratch.hull).max(best);
        }
        scratch.cells = cells;
    }
    best.sqrt()
}

/// Per span: its walk coordinates as (first, last) along each walk axis.
fn corners(span: &Placed) -> [(u32, u32); 3] {
    [(span.plane, span.plane), (span.row, span.row), (span.start, span.end - 1)]
}

fn fill_table(spans: &[Placed], sums: &Sums, layout: AxialLayout, rows: usize, slices: usize, table: &mut Vec<Extent>) {
    table.clear();
    table.resize(slices * rows, EMPTY);
    let (low_slice, low_row) = (sums.low[layout.slice], sums.low[layout.row]);
    for span in spans {
        let corners = corners(span);
        let (from, to) = corners[layout.slice];
        let row = (corners[layout.row].0 - low_row) as usize;
        let (first, last) = corners[layout.column];
        for slice in from..=to {
            let cell = &mut table[(slice - low_slice) as usize * rows + row];
            *cell = (cell.0.min(first), cell.1.max(last));
        }
    }
}

fn collect_cells(spans: &[Placed], layout: AxialLayout, cells: &mut Vec<(u32, u32, u32, u32)>) {
    cells.clear();
    for span in spans {
        let corners = corners(span);
        let (first, last) = corners[layout.column];
        let (from, to) = corners[layout.slice];
        cells.extend((from..=to).map(|slice| (slice, corners[layout.row].0, first, last)));
    }
    cells.sort_unstable();
}

/// An upper bound of the squared diameter from the slice's bounding box.
fn slice_bound(rows: impl Iterator<Item = (u32, Extent)>, metric: PlaneMetric) -> f64 {
    let (mut low_row, mut high_row, mut low, mut high) = (u32::MAX, 0, u32::MAX, 0);
    for (row, (first, last)) in rows {
        if first <= last {
            (low_row, high_row) = (low_row.min(row), high_row.max(row));
            (low, high) = (low.min(first), high.max(last));
        }
    }
    if low > high {
        return 0.0;
    }
    let (du, dv) = (f64::from(high_row - low_row), f64::from(high - low));
    // Row and column may stand for either in-plane axis: take the worse of both, a bound is all that is needed.
    let bound = |u: f64, v: f64| metric.uu * u * u + metric.uv.abs() * u * v + metric.vv * v * v;
    bound(du, dv).max(bound(dv, du)) * (1.0 + 1e-12)
}

/// The squared diameter of one slice, from the extents of its rows in ascending order.
fn slice_diameter_squared(
    rows: &[(u32, Extent)],
    layout: AxialLayout,
    metric: PlaneMetric,
    hull: &mut Vec<(i64, i64)>,
) -> f64 {
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
            let squared = if layout.row_is_u { metric.squared(row, column) } else { metric.squared(column, row) };
            best = best.max(squared);
        }
    }
    best
}

/// The spans of each component, in walk order: `starts[n]..starts[n + 1]` of `spans`.
pub(crate) fn spans_by_component(components: &Components) -> (Vec<usize>, Vec<Placed>) {
    let rows = components.walk.walk_shape()[1] as u64;
    let mut starts = Vec::with_capacity(components.sums.len() + 1);
    let mut total = 0;
    for sums in &components.sums {
        starts.push(total);
        total += sums.spans as usize;
    }
    starts.push(total);
    let mut next = starts.clone();
    let mut placed = vec![Placed { plane: 0, row: 0, start: 0, end: 0 }; total];
    for (slab, numbers) in components.slabs.iter().zip(&components.numbers) {
        for at in 0..slab.lines.len() {
            let number = slab.lines[at].number;
            let (plane, row) = ((number / rows) as u32, (number % rows) as u32);
            for index in slab.line_range(at) {
                let slot = &mut next[numbers[slab.component[index] as usize] as usize];
                let span = slab.spans[index];
                placed[*slot] = Placed { plane, row, start: span.start, end: span.end };
                *slot += 1;
            }
        }
    }
    (starts, placed)
}
