//! Matrices of grey level × size: runs (GLRLM), zones by size (GLSZM) and by distance (GLDZM), dependences (NGLDM).

use std::collections::BTreeMap;

use super::{Features, Levels, Region, Step, directions, index, mean_of, moved, named, neighbours, place};

const RUNS: [&str; 16] = [
    "sre",
    "lre",
    "lgre",
    "hgre",
    "srlge",
    "srhge",
    "lrlge",
    "lrhge",
    "glnu",
    "glnu_norm",
    "rlnu",
    "rlnu_norm",
    "r_perc",
    "gl_var",
    "rl_var",
    "rl_entr",
];
const ZONES: [&str; 16] = [
    "sze",
    "lze",
    "lgze",
    "hgze",
    "szlge",
    "szhge",
    "lzlge",
    "lzhge",
    "glnu",
    "glnu_norm",
    "zsnu",
    "zsnu_norm",
    "z_perc",
    "gl_var",
    "zs_var",
    "zs_entr",
];
const DISTANCES: [&str; 16] = [
    "sde",
    "lde",
    "lgze",
    "hgze",
    "sdlge",
    "sdhge",
    "ldlge",
    "ldhge",
    "glnu",
    "glnu_norm",
    "zdnu",
    "zdnu_norm",
    "z_perc",
    "gl_var",
    "zd_var",
    "zd_entr",
];
const DEPENDENCES: [&str; 17] = [
    "lde",
    "hde",
    "lgce",
    "hgce",
    "ldlge",
    "ldhge",
    "hdlge",
    "hdhge",
    "glnu",
    "glnu_norm",
    "dcnu",
    "dcnu_norm",
    "dc_perc",
    "gl_var",
    "dc_var",
    "dc_entr",
    "dc_energy",
];

/// How often a grey level occurs with a size, and the number of voxels that were looked at.
#[derive(Default, Clone)]
struct Matrix {
    counts: BTreeMap<(u32, u32), f64>,
    voxels: f64,
}

impl Matrix {
    fn add(&mut self, level: u32, size: u32) {
        *self.counts.entry((level, size)).or_default() += 1.0;
    }

    fn sum<'a>(matrices: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut total = Self::default();
        for matrix in matrices {
            total.voxels += matrix.voxels;
            for (&key, &count) in &matrix.counts {
                *total.counts.entry(key).or_default() += count;
            }
        }
        total
    }

    /// The features in the order of the names above, the energy last; None if nothing was counted.
    fn features(&self) -> Option<Vec<f64>> {
        let total: f64 = self.counts.values().sum();
        if total == 0.0 {
            return None;
        }
        let mean = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
            self.counts.iter().map(|(&(i, j), count)| of(f64::from(i), f64::from(j)) * count / total).sum()
        };
        let (mut by_level, mut by_size) = (BTreeMap::<u32, f64>::new(), BTreeMap::<u32, f64>::new());
        for (&(level, size), &count) in &self.counts {
            *by_level.entry(level).or_default() += count;
            *by_size.entry(size).or_default() += count;
        }
        let squares = |counts: &BTreeMap<u32, f64>| counts.values().map(|count| count * count).sum::<f64>();
        let (levels, sizes) = (squares(&by_level), squares(&by_size));
        let (level, size) = (mean(&|i, _| i), mean(&|_, j| j));
        let shares = || self.counts.values().map(|count| count / total);
        Some(vec![
            mean(&|_, j| 1.0 / (j * j)),
            mean(&|_, j| j * j),
            mean(&|i, _| 1.0 / (i * i)),
            mean(&|i, _| i * i),
            mean(&|i, j| 1.0 / (i * i * j * j)),
            mean(&|i, j| i * i / (j * j)),
            mean(&|i, j| j * j / (i * i)),
            mean(&|i, j| i * i * j * j),
            levels / total,
            levels / (total * total),
            sizes / total,
            sizes / (total * total),
            total / self.voxels,
            mean(&|i, _| (i - level).powi(2)),
            mean(&|_, j| (j - size).powi(2)),
            -shares().map(|p| p * p.log2()).sum::<f64>(),
            shares().map(|p| p * p).sum(),
        ])
    }
}

fn mean_features<'a>(matrices: impl IntoIterator<Item = &'a Matrix>, count: usize) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = matrices.into_iter().filter_map(Matrix::features).collect();
    mean_of(&rows, count)
}

/// Add the features of matrices of the slices (averaged and merged) and of one in space.
fn add_slices(found: &mut Features, family: &str, names: &[&str], flat: &[Matrix], space: &Matrix) {
    named(found, family, names, "2D", &mean_features(flat, names.len()));
    named(found, family, names, "2_5D", &mean_features([&Matrix::sum(flat)], names.len()));
    named(found, family, names, "3D", &mean_features([space], names.len()));
}

/// Features of runs and of zones.
pub(super) fn features(levels: &Levels, region: &Region<'_>) -> Features {
    let mut found = Features::new();
    let flat: Vec<Vec<Matrix>> = directions(true).into_iter().map(|step| runs(levels, step)).collect();
    let merged: Vec<Matrix> =
        (0..levels.shape[2]).map(|slice| Matrix::sum(flat.iter().map(|direction| &direction[slice]))).collect();
    let by_direction: Vec<Matrix> = flat.iter().map(Matrix::sum).collect();
    let space: Vec<Matrix> = directions(false).into_iter().map(|step| Matrix::sum(&runs(levels, step))).collect();
    let count = RUNS.len();
    for (how, values) in [
        ("2D_avg", mean_features(flat.iter().flatten(), count)),
        ("2D_comb", mean_features(&merged, count)),
        ("2_5D_avg", mean_features(&by_direction, count)),
        ("2_5D_comb", mean_features([&Matrix::sum(&by_direction)], count)),
        ("3D_avg", mean_features(&space, count)),
        ("3D_comb", mean_features([&Matrix::sum(&space)], count)),
    ] {
        named(&mut found, "rlm", &RUNS, how, &values);
    }
    let (flat_sizes, flat_distances) = zones(levels, &edge_distances(region, true), true);
    let (sizes, distances) = zones(levels, &edge_distances(region, false), false);
    add_slices(&mut found, "szm", &ZONES, &flat_sizes, &Matrix::sum(&sizes));
    add_slices(&mut found, "dzm", &DISTANCES, &flat_distances, &Matrix::sum(&distances));
    found
}

/// Features of dependences: how many neighbours have the grey level of a voxel, itself included.
pub(super) fn dependences(levels: &Levels) -> Features {
    let of = |flat: bool| -> Vec<Matrix> {
        let steps = neighbours(flat);
        let mut matrices = vec![Matrix::default(); levels.shape[2]];
        for (place, level) in levels.voxels() {
            let alike = steps.iter().filter(|step| levels.at(moved(place, **step, 1)) == level).count();
            let matrix = &mut matrices[place[2] as usize];
            matrix.add(level, alike as u32 + 1);
            matrix.voxels += 1.0;
        }
        matrices
    };
    let mut found = Features::new();
    add_slices(&mut found, "ngl", &DEPENDENCES, &of(true), &Matrix::sum(&of(false)));
    found
}

/// The runs along a direction, by the slice in which they begin.
fn runs(levels: &Levels, step: Step) -> Vec<Matrix> {
    let mut matrices = vec![Matrix::default(); levels.shape[2]];
    for (place, level) in levels.voxels() {
        let matrix = &mut matrices[place[2] as usize];
        matrix.voxels += 1.0;
        if levels.at(moved(place, step, -1)) != level {
            let mut length = 1;
            while levels.at(moved(place, step, length)) == level {
                length += 1;
            }
            matrix.add(level, length as u32);
        }
    }
    matrices
}

/// The zones of equal grey level, by the slice of their first voxel: their sizes, and their distances to the edge.
fn zones(levels: &Levels, distance: &[u32], flat: bool) -> (Vec<Matrix>, Vec<Matrix>) {
    let steps = neighbours(flat);
    let (mut sizes, mut distances) =
        (vec![Matrix::default(); levels.shape[2]], vec![Matrix::default(); levels.shape[2]]);
    let mut seen = vec![false; levels.level.len()];
    let mut waiting = Vec::new();
    for (at, &level) in levels.level.iter().enumerate() {
        if level == 0 {
            continue;
        }
        let slice = at % levels.shape[2];
        sizes[slice].voxels += 1.0;
        distances[slice].voxels += 1.0;
        if seen[at] {
            continue;
        }
        seen[at] = true;
        waiting.push(at);
        let (mut size, mut nearest) = (0, u32::MAX);
        while let Some(next) = waiting.pop() {
            size += 1;
            nearest = nearest.min(distance[next]);
            let here = place(levels.shape, next);
            for step in &steps {
                if let Some(other) = index(levels.shape, moved(here, *step, 1))
                    && !seen[other]
                    && levels.level[other] == level
                {
                    seen[other] = true;
                    waiting.push(other);
                }
            }
        }
        sizes[slice].add(level, size);
        distances[slice].add(level, nearest);
    }
    (sizes, distances)
}

/// The number of steps across faces from each voxel of the region to the outside; 1 at the edge.
fn edge_distances(region: &Region<'_>, flat: bool) -> Vec<u32> {
    let steps: Vec<Step> = neighbours(flat)
        .into_iter()
        .filter(|step| step.iter().map(|edge| edge.unsigned_abs()).sum::<usize>() == 1)
        .collect();
    let mut distance = vec![0; region.mask.len()];
    let mut layer: Vec<usize> = (0..region.mask.len())
        .filter(|&at| {
            let here = place(region.shape, at);
            let outside =
                |step: &Step| index(region.shape, moved(here, *step, 1)).is_none_or(|other| !region.mask[other]);
            region.mask[at] && steps.iter().any(outside)
        })
        .collect();
    let mut number = 1;
    while !layer.is_empty() {
        for &at in &layer {
            distance[at] = number;
        }
        number += 1;
        let mut next = Vec::new();
        for &at in &layer {
            let here = place(region.shape, at);
            for step in &steps {
                if let Some(other) = index(region.shape, moved(here, *step, 1))
                    && region.mask[other]
                    && distance[other] == 0
                {
                    distance[other] = number;
                    next.push(other);
                }
            }
        }
        layer = next;
    }
    distance
}
