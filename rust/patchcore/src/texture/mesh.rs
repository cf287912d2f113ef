//! The surface of a mask as triangles: marching cubes at level 0.5 through the voxel centres (Lorensen and Cline, 1987).
//!
//! The triangles of each of the 256 cubes are derived once: on every face the crossings of its edges are joined, so
//! that voxels that touch across a diagonal are connected; closed rings of crossings are cut into triangles.

use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A vertex in half voxels; voxel centres have even coordinates.
pub(super) type Vertex = [i64; 3];

/// Triangles with their corners anticlockwise, seen from outside.
pub(super) type Triangle = [Vertex; 3];

/// An edge of a cube: its lower corner and its axis; also the place of its middle.
type Crossing = Vertex;

static CUBES: OnceLock<Vec<Vec<Triangle>>> = OnceLock::new();

/// Return the triangles of the surface of a mask (x, y, z), z fastest.
pub(super) fn surface(shape: [usize; 3], mask: &[bool]) -> Vec<Triangle> {
    let cubes = CUBES.get_or_init(|| (0..256).map(|bits| cube(bits as u8)).collect());
    let inside = |place: [i64; 3]| {
        (0..3).all(|axis| place[axis] >= 0 && place[axis] < shape[axis] as i64)
            && mask[(place[0] as usize * shape[1] + place[1] as usize) * shape[2] + place[2] as usize]
    };
    let mut found = Vec::new();
    for x in -1..shape[0] as i64 {
        for y in -1..shape[1] as i64 {
            // Corners of one column of cubes move up by one voxel at a time.
            let mut upper = 0u8;
            for z in -1..shape[2] as i64 {
                let mut bits = upper >> 4;
                for corner in 4..8 {
                    let place = corner_of(corner);
                    bits |= u8::from(inside([x + place[0], y + place[1], z + place[2]])) << corner;
                }
                upper = bits;
                for triangle in &cubes[usize::from(bits)] {
                    found.push(triangle.map(|vertex| [vertex[0] + 2 * x, vertex[1] + 2 * y, vertex[2] + 2 * z]));
                }
            }
        }
    }
    found
}

/// Corners 4 to 7 are the upper ones along z.
fn corner_of(number: u8) -> Vertex {
    [i64::from(number & 1), i64::from(number >> 1 & 1), i64::from(number >> 2 & 1)]
}

fn number_of(corner: Vertex) -> u8 {
    (corner[0] + 2 * corner[1] + 4 * corner[2]) as u8
}

/// The triangles of a cube; bit n says that corner n is inside.
fn cube(bits: u8) -> Vec<Triangle> {
    let inside = |corner: Vertex| bits >> number_of(corner) & 1 == 1;
    let mut joined: BTreeMap<Crossing, Vec<Crossing>> = BTreeMap::new();
    for axis in 0..3 {
        for side in 0..2 {
            let (u, v) = ((axis + 1) % 3, (axis + 2) % 3);
            let corners: Vec<Vertex> = [(0, 0), (1, 0), (1, 1), (0, 1)]
                .into_iter()
                .map(|(a, b)| {
                    let mut corner = [0; 3];
                    (corner[axis], corner[u], corner[v]) = (side, a, b);
                    corner
                })
                .collect();
            // Going round the face, each stretch of corners outside begins and ends at a crossing: these two are joined.
            let middle = |at: usize| {
                let (a, b) = (corners[at % 4], corners[(at + 1) % 4]);
                [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
            };
            for begin in (0..4).filter(|&at| inside(corners[at]) && !inside(corners[(at + 1) % 4])) {
                let length = (1..4).take_while(|step| !inside(corners[(begin + step) % 4])).count();
                let (a, b) = (middle(begin), middle(begin + length));
                joined.entry(a).or_default().push(b);
                joined.entry(b).or_default().push(a);
            }
        }
    }
    let mut triangles = Vec::new();
    while let Some((&start, _)) = joined.iter().next() {
        let mut ring = vec![start];
        let mut here = start;
        while let Some(next) = joined.get_mut(&here).and_then(Vec::pop) {
            if let Some(back) = joined.get_mut(&next)
                && let Some(at) = back.iter().position(|other| *other == here)
            {
                back.swap_remove(at);
            }
            if next == start {
                break;
            }
            ring.push(next);
            here = next;
        }
        joined.retain(|_, others| !others.is_empty());
        if points_inwards(&ring, &inside) {
            ring.reverse();
        }
        triangles.extend(fullest(&ring).1);
    }
    triangles
}

/// The triangles into which a ring is cut so that they enclose the most, and six times what they enclose.
///
/// A ring of five or more crossings does not lie in one plane. The largest volume is that of IBSI's reference values.
fn fullest(ring: &[Crossing]) -> (i64, Vec<Triangle>) {
    let Some(last) = ring.len().checked_sub(1).filter(|last| *last >= 2) else {
        return (0, Vec::new());
    };
    (1..last)
        .map(|at| {
            let (first, last) = (ring[0], ring[last]);
            let (before, mut triangles) = fullest(&ring[..=at]);
            let (after, others) = fullest(&ring[at..]);
            triangles.extend(others);
            triangles.push([first, ring[at], last]);
            (before + after + determinant(first, ring[at], last), triangles)
        })
        .max_by_key(|(volume, _)| *volume)
        .unwrap_or_default()
}

fn determinant(a: Vertex, b: Vertex, c: Vertex) -> i64 {
    a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])
}

/// Whether the normal of a ring of crossings points to the corners inside.
fn points_inwards(ring: &[Crossing], inside: &dyn Fn(Vertex) -> bool) -> bool {
    let mut normal = [0; 3]; // by Newell's sum
    let mut outwards = [0; 3];
    for (at, a) in ring.iter().enumerate() {
        let b = ring[(at + 1) % ring.len()];
        for axis in 0..3 {
            let (u, v) = ((axis + 1) % 3, (axis + 2) % 3);
            normal[axis] += (a[u] - b[u]) * (a[v] + b[v]);
            if a[axis] == 1 {
                let mut lower = a.map(|edge| edge / 2);
                lower[axis] = 0;
                outwards[axis] += if inside(lower) { 1 } else { -1 };
            }
        }
    }
    (0..3).map(|axis| normal[axis] * outwards[axis]).sum::<i64>() < 0
}

/// Return volume and area of a closed surface; `scale` is mm per unit of the vertices.
pub(super) fn volume_and_area(triangles: &[Triangle], scale: [f64; 3]) -> (f64, f64) {
    let (mut volume, mut area) = (0.0, 0.0);
    for triangle in triangles {
        let [a, b, c] = triangle.map(|vertex| [0, 1, 2].map(|axis| vertex[axis] as f64 * scale[axis]));
        let normal = cross(minus(b, a), minus(c, a));
        volume += dot(a, normal) / 6.0;
        area += dot(normal, normal).sqrt() / 2.0;
    }
    (volume.abs(), area)
}

pub(super) fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(super) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cube_is_cut_into_closed_rings_with_outward_normals() {
        for bits in 1..255u8 {
            assert!(!cube(bits).is_empty(), "{bits}");
        }
        assert!(cube(0).is_empty() && cube(255).is_empty());
        // One voxel: an octahedron with corners half a voxel away.
        let surface = surface([1, 1, 1], &[true]);
        assert_eq!(surface.len(), 8);
        let (volume, area) = volume_and_area(&surface, [0.5; 3]);
        assert!((volume - 1.0 / 6.0).abs() < 1e-12);
        assert!((area - 3f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn surfaces_of_random_masks_are_closed() {
        let mut state = 1u64;
        for _ in 0..20 {
            let mask: Vec<bool> = (0..125)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    state >> 62 == 0
                })
                .collect();
            let mut edges: BTreeMap<(Vertex, Vertex), i64> = BTreeMap::new();
            for triangle in surface([5, 5, 5], &mask) {
                for at in 0..3 {
                    *edges.entry((triangle[at], triangle[(at + 1) % 3])).or_default() += 1;
                }
            }
            for (&(a, b), &count) in &edges {
                assert_eq!(edges.get(&(b, a)), Some(&count), "an edge is not shared in both directions");
            }
        }
    }
}
