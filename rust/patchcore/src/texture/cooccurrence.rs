//! Grey level co-occurrences (GLCM): how often two grey levels lie side by side.

use std::collections::BTreeMap;

use super::{Features, Levels, Step, directions, mean_of, moved, named};

const NAMES: [&str; 25] = [
    "joint_max",
    "joint_avg",
    "joint_var",
    "joint_entr",
    "diff_avg",
    "diff_var",
    "diff_entr",
    "sum_avg",
    "sum_var",
    "sum_entr",
    "energy",
    "contrast",
    "dissimilarity",
    "inv_diff",
    "inv_diff_norm",
    "inv_diff_mom",
    "inv_diff_mom_norm",
    "inv_var",
    "corr",
    "auto_corr",
    "clust_tend",
    "clust_shade",
    "clust_prom",
    "info_corr1",
    "info_corr2",
];

/// Counts of pairs of levels, in both orders.
type Table = BTreeMap<(u32, u32), f64>;

pub(super) fn features(levels: &Levels) -> Features {
    let mut found = Features::new();
    let flat: Vec<Vec<Table>> = directions(true).into_iter().map(|step| by_slice(levels, step)).collect();
    let slices = 0..levels.shape[2];
    let rows = |tables: &mut dyn Iterator<Item = Table>| -> Vec<f64> {
        let each: Vec<Vec<f64>> = tables.filter_map(|table| of_table(&table, levels.most as usize)).collect();
        mean_of(&each, NAMES.len())
    };
    let mut add = |how: &str, values: &[f64]| named(&mut found, "cm", &NAMES, how, values);
    add("2D_avg", &rows(&mut flat.iter().flatten().cloned()));
    add("2D_comb", &rows(&mut slices.map(|slice| sum(flat.iter().map(|direction| &direction[slice])))));
    add("2_5D_avg", &rows(&mut flat.iter().map(sum)));
    add("2_5D_comb", &rows(&mut std::iter::once(sum(flat.iter().flatten()))));
    let space: Vec<Table> = directions(false).into_iter().map(|step| sum(&by_slice(levels, step))).collect();
    add("3D_avg", &rows(&mut space.iter().cloned()));
    add("3D_comb", &rows(&mut std::iter::once(sum(&space))));
    found
}

fn by_slice(levels: &Levels, step: Step) -> Vec<Table> {
    let mut tables = vec![Table::new(); levels.shape[2]];
    for (place, level) in levels.voxels() {
        let other = levels.at(moved(place, step, 1));
        if other > 0 {
            let table = &mut tables[place[2] as usize];
            *table.entry((level, other)).or_default() += 1.0;
            *table.entry((other, level)).or_default() += 1.0;
        }
    }
    tables
}

fn sum<'a>(tables: impl IntoIterator<Item = &'a Table>) -> Table {
    let mut total = Table::new();
    for table in tables {
        for (&pair, &count) in table {
            *total.entry(pair).or_default() += count;
        }
    }
    total
}

fn entropy(values: &[f64]) -> f64 {
    -values.iter().filter(|p| **p > 0.0).map(|p| p * p.log2()).sum::<f64>()
}

/// Mean and variance of a distribution over whole numbers from `first` on.
fn moments(values: &[f64], first: f64) -> (f64, f64) {
    let mean: f64 = values.iter().enumerate().map(|(k, p)| (first + k as f64) * p).sum();
    (mean, values.iter().enumerate().map(|(k, p)| (first + k as f64 - mean).powi(2) * p).sum())
}

fn of_table(table: &Table, most: usize) -> Option<Vec<f64>> {
    let total: f64 = table.values().sum();
    if total == 0.0 {
        return None;
    }
    let pairs: Vec<(usize, usize, f64)> =
        table.iter().map(|(&(i, j), count)| (i as usize, j as usize, count / total)).collect();
    let (mut margin, mut difference, mut added) = (vec![0.0; most], vec![0.0; most], vec![0.0; 2 * most - 1]);
    for &(i, j, p) in &pairs {
        margin[i - 1] += p;
        difference[i.abs_diff(j)] += p;
        added[i + j - 2] += p;
    }
    let all = |of: &dyn Fn(f64, f64) -> f64| -> f64 { pairs.iter().map(|&(i, j, p)| of(i as f64, j as f64) * p).sum() };
    let (mean, variance) = moments(&margin, 1.0);
    let (diff_avg, diff_var) = moments(&difference, 0.0);
    let (sum_avg, sum_var) = moments(&added, 2.0);
    let probabilities: Vec<f64> = pairs.iter().map(|&(_, _, p)| p).collect();
    let joint = entropy(&probabilities);
    let levels = most as f64;
    let cluster = |power: i32| all(&|i, j| (i + j - 2.0 * mean).powi(power));
    let own = entropy(&margin);
    let cross = -pairs.iter().map(|&(i, j, p)| p * (margin[i - 1] * margin[j - 1]).log2()).sum::<f64>();
    // Both margins are the same, because pairs are counted in both directions.
    let independent = 2.0 * own;
    Some(vec![
        probabilities.iter().copied().fold(0.0, f64::max),
        mean,
        variance,
        joint,
        diff_avg,
        diff_var,
        entropy(&difference),
        sum_avg,
        sum_var,
        entropy(&added),
        probabilities.iter().map(|p| p * p).sum(),
        all(&|i, j| (i - j).powi(2)),
        diff_avg,
        all(&|i, j| 1.0 / (1.0 + (i - j).abs())),
        all(&|i, j| 1.0 / (1.0 + (i - j).abs() / levels)),
        all(&|i, j| 1.0 / (1.0 + (i - j).powi(2))),
        all(&|i, j| 1.0 / (1.0 + ((i - j) / levels).powi(2))),
        all(&|i, j| if i < j { 2.0 / (i - j).powi(2) } else { 0.0 }),
        if variance > 0.0 { all(&|i, j| (i - mean) * (j - mean)) / variance } else { f64::NAN },
        all(&|i, j| i * j),
        cluster(2),
        cluster(3),
        cluster(4),
        if own > 0.0 { (joint - cross) / own } else { f64::NAN },
        (1.0 - (-2.0 * (independent - joint)).exp()).max(0.0).sqrt(),
    ])
}
