//! Differences of grey levels to the mean of their neighbours (NGTDM).

use super::{Features, Levels, mean_of, moved, named, neighbours};

const NAMES: [&str; 5] = ["coarseness", "contrast", "busyness", "complexity", "strength"];
/// Coarseness of a region without differences.
const COARSEST: f64 = 1e6;

/// For each grey level the number of voxels with a neighbour, and the sum of their differences.
#[derive(Clone, Default)]
struct Table(Vec<(f64, f64)>);

pub(super) fn features(levels: &Levels) -> Features {
    let mut found = Features::new();
    let (flat, space) = (tables(levels, true), tables(levels, false));
    let rows = |tables: &[Table]| -> Vec<f64> {
        let each: Vec<Vec<f64>> = tables.iter().filter_map(of_table).collect();
        mean_of(&each, NAMES.len())
    };
    named(&mut found, "ngt", &NAMES, "2D", &rows(&flat));
    named(&mut found, "ngt", &NAMES, "2_5D", &rows(&[sum(&flat)]));
    named(&mut found, "ngt", &NAMES, "3D", &rows(&[sum(&space)]));
    found
}

/// A grey level, its share, and the sum of its differences.
type Level = (f64, f64, f64);

fn tables(levels: &Levels, flat: bool) -> Vec<Table> {
    let steps = neighbours(flat);
    let mut tables = vec![Table::default(); levels.shape[2]];
    for (place, level) in levels.voxels() {
        let (mut total, mut count) = (0u32, 0u32);
        for step in &steps {
            let other = levels.at(moved(place, *step, 1));
            total += other;
            count += u32::from(other > 0);
        }
        if count > 0 {
            let table = &mut tables[place[2] as usize].0;
            table.resize(levels.most as usize, (0.0, 0.0));
            let entry = &mut table[level as usize - 1];
            entry.0 += 1.0;
            entry.1 += (f64::from(level) - f64::from(total) / f64::from(count)).abs();
        }
    }
    tables
}

fn sum(tables: &[Table]) -> Table {
    let mut total = Vec::new();
    for Table(table) in tables {
        total.resize(total.len().max(table.len()), (0.0, 0.0));
        for (sum, entry) in total.iter_mut().zip(table) {
            *sum = (sum.0 + entry.0, sum.1 + entry.1);
        }
    }
    Table(total)
}

fn of_table(Table(table): &Table) -> Option<Vec<f64>> {
    let voxels: f64 = table.iter().map(|entry| entry.0).sum();
    if voxels == 0.0 {
        return None;
    }
    let present: Vec<Level> = table
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.0 > 0.0)
        .map(|(level, entry)| (level as f64 + 1.0, entry.0 / voxels, entry.1))
        .collect();
    let pairs = |of: &dyn Fn(&Level, &Level) -> f64| -> f64 {
        present.iter().flat_map(|a| present.iter().map(move |b| (a, b))).map(|(a, b)| of(a, b)).sum()
    };
    let weighted: f64 = present.iter().map(|(_, p, s)| p * s).sum();
    let differences: f64 = present.iter().map(|(_, _, s)| s).sum();
    let count = present.len() as f64;
    let contrast = if count > 1.0 {
        pairs(&|a, b| a.1 * b.1 * (a.0 - b.0).powi(2)) / (count * (count - 1.0)) * differences / voxels
    } else {
        0.0
    };
    let busy = pairs(&|a, b| (a.0 * a.1 - b.0 * b.1).abs());
    Some(vec![
        if weighted > 0.0 { (1.0 / weighted).min(COARSEST) } else { COARSEST },
        contrast,
        if busy > 0.0 { weighted / busy } else { 0.0 },
        pairs(&|a, b| (a.0 - b.0).abs() * (a.1 * a.2 + b.1 * b.2) / (a.1 + b.1)) / voxels,
        if differences > 0.0 { pairs(&|a, b| (a.1 + b.1) * (a.0 - b.0).powi(2)) / differences } else { 0.0 },
    ])
}
