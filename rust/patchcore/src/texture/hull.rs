//! The convex hull of points with whole coordinates.
//!
//! Points are moved by at most 1 / 8192 of a unit, at random but always alike, so that no four lie in one plane: what
//! side of a plane a point lies on is then decided exactly, in whole numbers.

use super::mesh::{Triangle, Vertex};

const FINE: i64 = 1 << 16;
const JITTER: u64 = 16;

/// Mm per unit of the hull's vertices, for vertices of which one unit has this many mm.
pub(super) fn finer(scale: [f64; 3]) -> [f64; 3] {
    scale.map(|edge| edge / FINE as f64)
}

/// A face with its corners anticlockwise, seen from outside.
struct Face {
    corners: [usize; 3],
    alive: bool,
}

/// Return the faces of the convex hull, in units of [`finer`], and the points that are its corners; empty if there are
/// fewer than four points.
pub(super) fn hull(points: &[Vertex]) -> (Vec<Triangle>, Vec<Vertex>) {
    if points.len() < 4 {
        return (Vec::new(), points.to_vec());
    }
    let fine: Vec<Vertex> = points.iter().enumerate().map(|(at, point)| moved(*point, at as u64)).collect();
    let outside = |face: &[usize; 3], point: Vertex| volume(fine[face[0]], fine[face[1]], fine[face[2]], point) > 0;
    let mut faces: Vec<Face> = [[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]]
        .into_iter()
        .map(|corners| {
            let other = 6 - corners.iter().sum::<usize>();
            let flipped = [corners[0], corners[2], corners[1]];
            Face { corners: if outside(&corners, fine[other]) { flipped } else { corners }, alive: true }
        })
        .collect();
    for (at, &point) in fine.iter().enumerate().skip(4) {
        let seen: Vec<usize> =
            (0..faces.len()).filter(|&face| faces[face].alive && outside(&faces[face].corners, point)).collect();
        if seen.is_empty() {
            continue;
        }
        // The edges between faces that are seen and faces that are not: each is in one seen face, in one direction.
        let mut edges = std::collections::BTreeSet::new();
        for &face in &seen {
            faces[face].alive = false;
            let [a, b, c] = faces[face].corners;
            for (from, to) in [(a, b), (b, c), (c, a)] {
                if !edges.remove(&(to, from)) {
                    edges.insert((from, to));
                }
            }
        }
        faces.retain(|face| face.alive);
        faces.extend(edges.into_iter().map(|(from, to)| Face { corners: [from, to, at], alive: true }));
    }
    let mut corners: Vec<usize> = faces.iter().flat_map(|face| face.corners).collect();
    corners.sort_unstable();
    corners.dedup();
    let triangles = faces.iter().map(|face| face.corners.map(|at| fine[at])).collect();
    (triangles, corners.into_iter().map(|at| points[at]).collect())
}

fn moved(point: Vertex, at: u64) -> Vertex {
    let mut state = at;
    point.map(|edge| {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        edge * FINE + ((bits ^ (bits >> 31)) % JITTER) as i64 - JITTER as i64 / 2
    })
}

/// Six times the volume of a tetrahedron; positive if the last point lies outside of the face of the others.
fn volume(a: Vertex, b: Vertex, c: Vertex, point: Vertex) -> i128 {
    let [u, v, w] = [b, c, point].map(|other| [0, 1, 2].map(|axis| i128::from(other[axis] - a[axis])));
    let normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    normal[0] * w[0] + normal[1] * w[1] + normal[2] * w[2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texture::mesh::volume_and_area;

    #[test]
    fn a_cube_with_points_within_and_on_its_faces() {
        let mut points = Vec::new();
        for x in 0..=4 {
            for y in 0..=4 {
                points.extend((0..=4).map(|z| [x, y, z]));
            }
        }
        let (faces, corners) = hull(&points);
        let (volume, area) = volume_and_area(&faces, finer([1.0; 3]));
        assert!((volume - 64.0).abs() < 0.05, "{volume}");
        assert!((area - 96.0).abs() < 0.05, "{area}");
        for corner in [[0, 0, 0], [4, 4, 4], [0, 4, 0]] {
            assert!(corners.contains(&corner));
        }
        assert!(!corners.contains(&[2, 2, 2]));
    }
}
