//! The elements of a mask's surface under each convention, as runs along the fastest axis.

use super::Convention;
use super::area;
use super::nearest::Cuboid;
use super::rows::{Rows, sweep};
use super::vtk::Triangle;

/// Equal elements that follow each other along the fastest axis of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The lowest corner of the first element, on the lattice, in array axes.
    low: [i32; 3],
    count: u32,
    /// Of a face, the array axis that it is normal to, and [`HIGH_INSIDE`]; of a corner, its code.
    kind: u8,
}

/// The voxel above a face along its normal is inside.
const HIGH_INSIDE: u8 = 4;
/// The bits of a face's kind that hold its axis.
const AXIS: u8 = 3;

/// The surface of a mask.
#[derive(Debug)]
pub(super) struct Surface {
    pub(super) runs: Vec<Run>,
    /// The array axis along which runs lie.
    fast: usize,
    /// Lattice steps per voxel.
    pub(super) steps: i32,
    convention: Convention,
    /// Weight of an element of each kind [mm², or 1].
    weights: Vec<f64>,
    spacing: [f64; 3],
}

impl Surface {
    pub(super) fn new(rows: &Rows, spacing: [f64; 3], convention: Convention) -> Self {
        let mut surface =
            Self { runs: Vec::new(), fast: rows.walk.order[2], steps: 1, convention, weights: vec![1.0], spacing };
        match convention {
            Convention::Mesh => {
                // Faces lie between voxels, and the centres of their triangles at thirds of an edge.
                surface.steps = 6;
                // Each of the two triangles of a face has half of its area.
                surface.weights =
                    [0, 1, 2].map(|axis| spacing[(axis + 1) % 3] * spacing[(axis + 2) % 3] / 2.0).to_vec();
                surface.add_faces(rows);
            }
            Convention::Surfel => {
                surface.weights = area::areas_mm2(rows.walk.order.map(|axis| spacing[axis])).to_vec();
                surface.add_corners(rows);
            }
            Convention::Voxel => surface.add_border_voxels(rows),
        }
        surface
    }

    /// Every face between a voxel inside and a voxel outside.
    fn add_faces(&mut self, rows: &Rows) {
        let walk = rows.walk;
        let mut add = |place: [i64; 3], normal: usize, count: u32, high_inside: bool| {
            // A face lies half a voxel below the centre of its voxel along its normal, and so do its low corners.
            let low = walk.to_array(place.map(|at| (6 * at - 3) as i32));
            let kind = walk.order[normal] as u8 | if high_inside { HIGH_INSIDE } else { 0 };
            self.runs.push(Run { low, count, kind });
        };
        for plane in rows.low[0]..=rows.low[0] + rows.size[0] as i64 {
            for row in rows.low[1]..=rows.low[1] + rows.size[1] as i64 {
                let own = rows.row(plane, row);
                for &[start, end] in own {
                    add([plane, row, i64::from(start)], 2, 1, true);
                    add([plane, row, i64::from(end)], 2, 1, false);
                }
                for (normal, other) in [(0, rows.row(plane - 1, row)), (1, rows.row(plane, row - 1))] {
                    sweep([own, other], |from, to, bits| {
                        if bits != 0b11 {
                            add([plane, row, i64::from(from)], normal, to - from, bits == 0b01);
                        }
                    });
                }
            }
        }
    }

    /// Every corner between eight voxels of which some are inside and some outside. Voxels outside of the array are
    /// outside of the mask.
    fn add_corners(&mut self, rows: &Rows) {
        for plane in rows.low[0]..=rows.low[0] + rows.size[0] as i64 {
            for row in rows.low[1]..=rows.low[1] + rows.size[1] as i64 {
                // Corner (plane, row, x) lies below the voxel (plane, row, x) along every axis.
                let around = [(1, 1), (1, 0), (0, 1), (0, 0)].map(|(p, r)| rows.row(plane - p, row - r));
                let mut add = |x: u32, count: u32, before: u32, after: u32| {
                    let code = (0..4)
                        .fold(0, |code, at| code | (before >> at & 1) << (2 * at) | (after >> at & 1) << (2 * at + 1));
                    if count > 0 && code != 0 && code != 0xFF {
                        let low = rows.walk.to_array([plane, row, i64::from(x)].map(|at| at as i32));
                        self.runs.push(Run { low, count, kind: code as u8 });
                    }
                };
                let (mut before, mut end) = (0, 0);
                sweep(around, |from, to, bits| {
                    if from > end {
                        // No voxel lies between the last stretch and this one.
                        add(end, 1, before, 0);
                        before = 0;
                    }
                    add(from, 1, before, bits);
                    add(from + 1, to - from - 1, bits, bits);
                    (before, end) = (bits, to);
                });
                add(end, 1, before, 0);
            }
        }
    }

    /// Every voxel of the mask with a face towards a voxel outside.
    fn add_border_voxels(&mut self, rows: &Rows) {
        for plane in rows.low[0]..rows.low[0] + rows.size[0] as i64 {
            for row in rows.low[1]..rows.low[1] + rows.size[1] as i64 {
                let own = rows.row(plane, row);
                let mut add = |from: u32, to: u32| {
                    if to > from {
                        let low = rows.walk.to_array([plane, row, i64::from(from)].map(|at| at as i32));
                        self.runs.push(Run { low, count: to - from, kind: 0 });
                    }
                };
                let [above, below] = [1, -1].map(|step| rows.row(plane + step, row));
                let [left, right] = [1, -1].map(|step| rows.row(plane, row + step));
                let mut at = 0;
                sweep([own, above, below, left, right], |from, to, bits| {
                    if bits & 1 == 0 {
                        return;
                    }
                    while own[at][1] <= from {
                        at += 1;
                    }
                    let [start, end] = own[at];
                    // The first and the last voxel of an interval have a neighbour outside along the row.
                    let (inner, outer) = (from.max(start + 1).min(to), to.min(end - 1).max(from));
                    if bits != 0b1_1111 || inner >= outer {
                        add(from, to);
                    } else {
                        add(from, inner);
                        add(outer, to);
                    }
                });
            }
        }
    }

    /// The part of space that a run takes, as a box on the lattice.
    pub(super) fn cuboid(&self, run: &Run) -> Cuboid {
        let mut high = run.low;
        if self.convention == Convention::Mesh {
            for (axis, high) in high.iter_mut().enumerate() {
                *high += if axis == usize::from(run.kind & AXIS) { 0 } else { self.steps };
            }
        }
        high[self.fast] += (run.count as i32 - 1) * self.steps;
        Cuboid { low: run.low, high }
    }

    /// Number of points at which distances are measured.
    pub(super) fn points(&self) -> usize {
        let per_element = if self.convention == Convention::Mesh { 2 } else { 1 };
        self.runs.iter().map(|run| run.count as usize).sum::<usize>() * per_element
    }

    /// Call `visit(point, weight, number)` for each point of a run. Faces have two points: the centres of their triangles.
    #[inline]
    pub(super) fn for_each_point(&self, run: &Run, mut visit: impl FnMut([i32; 3], f64, u32)) {
        let mesh = self.convention == Convention::Mesh;
        let weight = self.weights[usize::from(if mesh { run.kind & AXIS } else { run.kind })];
        let mut low = run.low;
        for number in 0..run.count {
            if mesh {
                for (which, third) in [(0, 2), (1, 4)] {
                    let mut point = low;
                    for (axis, value) in point.iter_mut().enumerate() {
                        *value += if axis == usize::from(run.kind & AXIS) { 0 } else { third };
                    }
                    visit(point, weight, 2 * number + which);
                }
            } else {
                visit(low, weight, number);
            }
            low[self.fast] += self.steps;
        }
    }

    /// The corners [mm] of a triangle of a run of faces, in the order of VTK's surface nets. The diagonal of a face runs
    /// from its corner at the high end of one axis to that of the other; even triangles lie at the low corner.
    pub(super) fn triangle(&self, run: &Run, number: u32) -> Triangle {
        let axis = usize::from(run.kind & AXIS);
        let (first, second) = [(1, 2), (0, 2), (0, 1)][axis];
        let mut low = run.low;
        low[self.fast] += (number / 2) as i32 * self.steps;
        let moved = |axes: &[usize]| {
            let mut corner = low;
            for &axis in axes {
                corner[axis] += self.steps;
            }
            // VTK keeps points as float32.
            [0, 1, 2].map(|axis| {
                let index = f64::from((corner[axis] + self.steps / 2) / self.steps);
                f64::from(((index - 0.5) * self.spacing[axis]) as f32)
            })
        };
        let (at_first, at_second) = (moved(&[first]), moved(&[second]));
        let high = number % 2 == 1;
        let last = if high { moved(&[first, second]) } else { moved(&[]) };
        // Seen from outside, all triangles turn the same way.
        let inside = run.kind & HIGH_INSIDE != 0;
        if ((axis != 1) == inside) == high { [at_first, at_second, last] } else { [at_second, at_first, last] }
    }

    /// The triangles of a run of which a bounding box lies within a squared distance of a point on the lattice.
    pub(super) fn triangles_near(&self, run: &Run, point: [i32; 3], limit_mm2: f64, mut visit: impl FnMut(Triangle)) {
        let scale = self.spacing.map(|mm| mm / f64::from(self.steps));
        for number in 0..run.count {
            let mut single = Run { count: 1, ..*run };
            single.low[self.fast] += number as i32 * self.steps;
            if self.cuboid(&single).squared_mm2(point, scale) <= limit_mm2 {
                visit(self.triangle(&single, 0));
                visit(self.triangle(&single, 1));
            }
        }
    }
}
