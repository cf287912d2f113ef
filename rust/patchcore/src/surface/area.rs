//! The area of the surface within one cell of eight voxel centres, as marching cubes draws it.
//!
//! A cell has 256 codes, but the area depends only on the shape of the set: it stays the same when the cell is turned or
//! mirrored, or when inside and outside are exchanged. This leaves 13 shapes. Each consists of triangles with corners in
//! the middle of edges; a triangle's normal has one, two or three components that are not zero, and these are equal.

use std::sync::LazyLock;

/// Which components of a normal are not zero, and how long it is, in eighths of a cell.
type Part = ([u8; 3], u8);

/// One code of each shape, and its triangles. Bit `4·i + 2·j + k` of a code is the voxel (i, j, k) of the cell.
const SHAPES: [(u8, &[Part]); 13] = [
    (0b1000_0000, &[([1, 1, 1], 1)]),
    (0b1100_0000, &[([1, 1, 0], 4)]),
    (0b0110_0000, &[([1, 1, 1], 2)]),
    (0b1110_0000, &[([1, 0, 0], 4), ([1, 1, 1], 3)]),
    (0b1111_0000, &[([1, 0, 0], 8)]),
    (0b0110_1000, &[([1, 1, 1], 3)]),
    (0b1110_1000, &[([1, 1, 1], 6)]),
    (0b0001_1000, &[([1, 1, 1], 2)]),
    (0b1001_1000, &[([0, 1, 1], 4), ([1, 1, 1], 1)]),
    (0b1101_1000, &[([1, 1, 1], 4), ([0, 1, 1], 2), ([1, 0, 1], 2)]),
    (0b0111_1000, &[([1, 0, 0], 4), ([1, 1, 1], 4)]),
    (0b0011_1100, &[([1, 1, 0], 8)]),
    (0b1001_0110, &[([1, 1, 1], 4)]),
];

/// The triangles of every code: for each set of non-zero components (bits), the sum of the normals' lengths.
static PARTS: LazyLock<Box<[[u8; 8]; 256]>> = LazyLock::new(|| {
    let mut parts = Box::new([[0; 8]; 256]);
    for (code, shape) in SHAPES {
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for flips in 0..8 {
                let turned = turned(code, axes, flips);
                let mut own = [0; 8];
                for (nonzero, length) in shape {
                    let bits: usize = (0..3).map(|axis| usize::from(nonzero[axes[axis]]) << axis).sum();
                    own[bits] += length;
                }
                parts[usize::from(turned)] = own;
                parts[usize::from(!turned)] = own;
            }
        }
    }
    parts
});

/// The code of a cell whose axis `n` was axis `axes[n]`, with the axes of the bits of `flips` mirrored.
fn turned(code: u8, axes: [usize; 3], flips: u8) -> u8 {
    (0..8u8)
        .filter(|&to| {
            let to = to ^ flips;
            let mut from = 0;
            for (axis, &old) in axes.iter().enumerate() {
                from |= (to >> (2 - axis) & 1) << (2 - old);
            }
            code >> from & 1 == 1
        })
        .fold(0, |turned, bit| turned | 1 << bit)
}

/// Area of the surface for each code [mm²], for cells of this size [mm]; 0 for codes without a surface.
pub(super) fn areas_mm2(cell: [f64; 3]) -> [f64; 256] {
    let [a, b, c] = cell;
    let faces = [b * c, a * c, a * b];
    let unit: [f64; 8] = std::array::from_fn(|bits| {
        (0..3).filter(|axis| bits >> axis & 1 == 1).map(|axis| faces[axis] * faces[axis]).sum::<f64>().sqrt() / 8.0
    });
    std::array::from_fn(|code| PARTS[code].iter().zip(unit).map(|(&length, unit)| f64::from(length) * unit).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_with_a_surface_has_an_area() {
        let areas = areas_mm2([1.0, 2.0, 3.0]);
        assert!((1..255).all(|code| areas[code] > 0.0));
        assert!(areas[0] == 0.0 && areas[255] == 0.0);
    }

    #[test]
    fn a_plane_has_the_area_of_a_face() {
        let areas = areas_mm2([1.0, 2.0, 3.0]);
        for (code, area) in [(0b1111_0000, 6.0), (0b1100_1100, 3.0), (0b1010_1010, 2.0)] {
            assert!((areas[code] - area).abs() < 1e-12, "{code:08b}");
        }
        // A diagonal plane that cuts two edges in their middle.
        assert!((areas[0b0011_1111] - areas[0b1100_0000]).abs() < 1e-12);
    }
}
