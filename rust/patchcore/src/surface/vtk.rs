//! Distances from triangle centres to triangles with the rounding of VTK, for elements exactly at a tolerance.
//!
//! Whether an element at the tolerance counts as within it depends on the last bit of its distance. To give the same
//! normalised surface distance as `MeshMetrics`, such distances are computed in the same steps: corners as float32, the
//! centre as a weighted sum in the order of the corners, and the closest point of each triangle by projection.
//!
//! Source: vtkTriangle and vtkLine of VTK 9 (`EvaluateLocation`, `EvaluatePosition`, `DistanceToLine`).

pub(super) type Point = [f64; 3];
pub(super) type Triangle = [Point; 3];

/// The point with parametric coordinates (1/3, 1/3).
pub(super) fn centre(corners: &Triangle) -> Point {
    let third = 1.0 / 3.0;
    let rest = 1.0 - third - third;
    [0, 1, 2].map(|axis| corners[0][axis] * rest + corners[1][axis] * third + corners[2][axis] * third)
}

fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn squared(a: Point, b: Point) -> f64 {
    let apart = minus(a, b);
    dot(apart, apart)
}

/// Squared distance from a point to a line segment.
fn to_line(point: Point, from: Point, to: Point) -> f64 {
    let along = minus(to, from);
    let number = dot(along, minus(point, from));
    let length = dot(along, along);
    let tolerance = (1e-5 * number).abs();
    if length < tolerance || length <= 0.0 || number / length < 0.0 {
        return squared(from, point);
    }
    let share = number / length;
    if share > 1.0 {
        return squared(to, point);
    }
    squared([0, 1, 2].map(|axis| from[axis] + share * along[axis]), point)
}

/// Squared distance from a point to a triangle.
pub(super) fn to_triangle(point: Point, corners: &Triangle) -> f64 {
    let [third, first, second] = *corners;
    let (a, b) = (minus(third, second), minus(first, second));
    let normal = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    let (height, length) = (dot(normal, minus(point, first)), dot(normal, normal));
    let projected = [0, 1, 2].map(|axis| point[axis] - height * normal[axis] / length);
    let [u, v] = match (0..3).max_by(|&a, &b| normal[a].abs().total_cmp(&normal[b].abs())) {
        Some(0) => [1, 2],
        Some(1) => [0, 2],
        _ => [0, 1],
    };
    let part = |to: Point| [to[u] - third[u], to[v] - third[v]];
    let cross = |a: [f64; 2], b: [f64; 2]| a[0] * b[1] - b[0] * a[1];
    let (place, c1, c2) = (part(projected), part(first), part(second));
    let whole = cross(c1, c2);
    let (p, q) = (cross(place, c2) / whole, cross(c1, place) / whole);
    let weights = [1.0 - (p + q), p, q];
    if weights.iter().all(|weight| (0.0..=1.0).contains(weight)) {
        return squared(projected, point);
    }
    let corner = |at: Point, one: (Point, Point), two: (Point, Point)| {
        squared(point, at).min(to_line(point, one.0, one.1)).min(to_line(point, two.0, two.1))
    };
    match weights.map(|weight| weight < 0.0) {
        [_, true, true] => corner(third, (first, third), (third, second)),
        [true, _, true] => corner(first, (first, third), (first, second)),
        [true, true, _] => corner(second, (second, third), (first, second)),
        [true, ..] => to_line(point, first, second),
        [_, true, _] => to_line(point, second, third),
        _ => to_line(point, first, third),
    }
}
