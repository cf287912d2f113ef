//! Morphology: volume, surface, axes, and how a region fills the boxes and bodies around it.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use super::mesh::{Vertex, dot, minus, surface, volume_and_area};
use super::{Features, Region, hull, place, spatial};
use crate::error::Result;

/// Terms of the series for the area of an ellipsoid, as IBSI counts them.
const TERMS: usize = 20;

pub(super) fn features(region: &Region<'_>, used: &[bool]) -> Result<Features> {
    let triangles = surface(region.shape, region.mask);
    let half = region.spacing.map(|edge| edge / 2.0);
    let (volume, area) = volume_and_area(&triangles, half);
    let voxels: Vec<usize> = (0..region.mask.len()).filter(|&at| region.mask[at]).collect();
    let places: Vec<[f64; 3]> = voxels.iter().map(|&at| mm(region, at)).collect();
    let centre = mean(places.iter().map(|place| (*place, 1.0)));
    let used: Vec<usize> = (0..used.len()).filter(|&at| used[at]).collect();
    let bright = mean(used.iter().map(|&at| (mm(region, at), region.image[at])));
    let shift = minus(centre, bright);
    let [major, minor, least] = axes(&places, centre);
    let [a, b, c] = [major, minor, least].map(|value| 2.0 * value.max(0.0).sqrt());
    let (faces, corners) = hull::hull(&outermost(triangles.iter().flatten().copied()));
    let (hull_volume, hull_area) = volume_and_area(&faces, hull::finer(half));
    let diameter = diameter(&corners, half);
    let sides = box_sides(&corners, half);
    let box_area = 2.0 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[2] * sides[0]);
    let ball = (36.0 * PI * volume * volume).cbrt();
    let intensity = used.iter().map(|&at| region.image[at]).sum::<f64>() / used.len() as f64;
    let (moran, geary) = spatial::correlation(region, &used)?;
    Ok([
        ("volume", volume),
        ("vol_approx", voxels.len() as f64 * region.spacing.iter().product::<f64>()),
        ("area_mesh", area),
        ("av", area / volume),
        ("comp_1", volume / (PI.sqrt() * area.powf(1.5))),
        ("comp_2", 36.0 * PI * volume * volume / area.powi(3)),
        ("sph_dispr", area / ball),
        ("sphericity", ball / area),
        ("asphericity", (area.powi(3) / (36.0 * PI * volume * volume)).cbrt() - 1.0),
        ("com", dot(shift, shift).sqrt()),
        ("diam", diameter),
        ("pca_maj_axis", 2.0 * a),
        ("pca_min_axis", 2.0 * b),
        ("pca_least_axis", 2.0 * c),
        ("pca_elongation", b / a),
        ("pca_flatness", c / a),
        ("vol_dens_aabb", volume / sides.iter().product::<f64>()),
        ("area_dens_aabb", area / box_area),
        ("vol_dens_aee", volume / (4.0 / 3.0 * PI * a * b * c)),
        ("area_dens_aee", area / ellipsoid_area(a, b, c)),
        ("vol_dens_conv_hull", volume / hull_volume),
        ("area_dens_conv_hull", area / hull_area),
        ("integ_int", intensity * volume),
        ("moran_i", moran),
        ("geary_c", geary),
    ]
    .into_iter()
    .map(|(name, value)| (format!("morph_{name}"), if value.is_finite() { value } else { f64::NAN }))
    .collect())
}

fn mm(region: &Region<'_>, at: usize) -> [f64; 3] {
    let place = place(region.shape, at);
    [0, 1, 2].map(|axis| place[axis] as f64 * region.spacing[axis])
}

fn mean(weighted: impl Iterator<Item = ([f64; 3], f64)>) -> [f64; 3] {
    let (mut sums, mut total) = ([0.0; 3], 0.0);
    for (place, weight) in weighted {
        total += weight;
        for axis in 0..3 {
            sums[axis] += weight * place[axis];
        }
    }
    sums.map(|sum| sum / total)
}

/// Eigenvalues of the covariance of places, the largest first, by Jacobi rotations.
fn axes(places: &[[f64; 3]], centre: [f64; 3]) -> [f64; 3] {
    let mut matrix = [[0.0; 3]; 3];
    for place in places {
        let from = minus(*place, centre);
        for row in 0..3 {
            for column in 0..3 {
                matrix[row][column] += from[row] * from[column] / (places.len() as f64 - 1.0);
            }
        }
    }
    for _ in 0..50 {
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            if matrix[p][q].abs() <= 1e-15 * (matrix[p][p].abs() + matrix[q][q].abs()) {
                continue;
            }
            let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
            let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
            let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
            let sine = tangent * cosine;
            let before = matrix;
            for k in 0..3 {
                matrix[k][p] = cosine * before[k][p] - sine * before[k][q];
                matrix[k][q] = sine * before[k][p] + cosine * before[k][q];
            }
            let half = matrix;
            for k in 0..3 {
                matrix[p][k] = cosine * half[p][k] - sine * half[q][k];
                matrix[q][k] = sine * half[p][k] + cosine * half[q][k];
            }
        }
    }
    let mut values = [matrix[0][0], matrix[1][1], matrix[2][2]];
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

/// The first and the last vertex of each row along z: no other one can be a corner of the hull.
fn outermost(vertices: impl Iterator<Item = Vertex>) -> Vec<Vertex> {
    let mut rows: BTreeMap<[i64; 2], (i64, i64)> = BTreeMap::new();
    for [x, y, z] in vertices {
        let row = rows.entry([x, y]).or_insert((z, z));
        *row = (row.0.min(z), row.1.max(z));
    }
    let mut found: Vec<Vertex> =
        rows.into_iter().flat_map(|([x, y], (low, high))| [[x, y, low], [x, y, high]]).collect();
    found.dedup();
    found
}

fn diameter(corners: &[Vertex], scale: [f64; 3]) -> f64 {
    let places: Vec<[f64; 3]> =
        corners.iter().map(|corner| [0, 1, 2].map(|axis| corner[axis] as f64 * scale[axis])).collect();
    let mut longest = 0.0f64;
    for (at, a) in places.iter().enumerate() {
        for b in &places[..at] {
            let between = minus(*a, *b);
            longest = longest.max(dot(between, between));
        }
    }
    longest.sqrt()
}

fn box_sides(corners: &[Vertex], scale: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|axis| {
        let edges = || corners.iter().map(|corner| corner[axis]);
        (edges().max().unwrap_or(0) - edges().min().unwrap_or(0)) as f64 * scale[axis]
    })
}

/// The area of an ellipsoid with semi-axes a ≥ b ≥ c, by a series of Legendre polynomials.
fn ellipsoid_area(a: f64, b: f64, c: f64) -> f64 {
    if a == 0.0 || b == 0.0 {
        return f64::NAN;
    }
    let alpha = (1.0 - (b / a).powi(2)).max(0.0).sqrt();
    let beta = (1.0 - (c / a).powi(2)).max(0.0).sqrt();
    // Polynomials multiplied by (alpha · beta) to their degree, so that nothing is divided by zero for a ball.
    let (half, product) = (f64::midpoint(alpha * alpha, beta * beta), alpha * beta);
    let (mut before, mut here, mut sum) = (0.0, 1.0, 0.0);
    for degree in 0..=TERMS {
        let n = degree as f64;
        sum += here / (1.0 - 4.0 * n * n);
        let next = ((2.0 * n + 1.0) * half * here - n * product * product * before) / (n + 1.0);
        (before, here) = (here, next);
    }
    4.0 * PI * a * b * sum
}
