//! Local intensity: means within a ball of 1 mL.

use super::{Features, Region, index, moved, place};

/// Radius of a ball of 1 mL, mm.
const RADIUS_MM: f64 = 6.203_504_908_994;

/// The mean around the brightest voxel of the region, and the largest mean around any of its voxels.
pub(super) fn features(region: &Region<'_>, used: &[bool]) -> Features {
    // Sums and numbers of voxels along z up to each voxel, without it: a row of the ball is one difference. Voxels
    // without an intensity do not count.
    let depth = region.shape[2];
    let sums: Vec<(f64, u32)> = region
        .image
        .chunks(depth)
        .flat_map(|row| {
            let mut sum = (0.0, 0);
            std::iter::once(sum)
                .chain(row.iter().map(move |value| {
                    if value.is_finite() {
                        sum = (sum.0 + value, sum.1 + 1);
                    }
                    sum
                }))
                .collect::<Vec<_>>()
        })
        .collect();
    let rows = rows_of_ball(region.spacing);
    let mean = |at: usize| {
        let here = place(region.shape, at);
        let (mut total, mut count) = (0.0, 0);
        for &(x, y, reach) in &rows {
            let Some(row) = index(region.shape, moved([here[0], here[1], 0], [x, y, 0], 1)) else { continue };
            let row = row / depth;
            let low = (here[2] - reach).max(0) as usize;
            let high = (here[2] + reach + 1).min(depth as isize) as usize;
            let (begin, end) = (sums[row * (depth + 1) + low], sums[row * (depth + 1) + high]);
            total += end.0 - begin.0;
            count += end.1 - begin.1;
        }
        total / f64::from(count)
    };
    let voxels = || (0..used.len()).filter(|&at| used[at]);
    let brightest = voxels().map(|at| region.image[at]).fold(f64::NEG_INFINITY, f64::max);
    let (mut local, mut global) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for at in voxels() {
        let around = mean(at);
        global = global.max(around);
        if region.image[at] >= brightest {
            local = local.max(around);
        }
    }
    vec![("loc_peak_loc".into(), local), ("loc_peak_glob".into(), global)]
}

/// For each row of a ball along z: its place, and how far it reaches to both sides.
fn rows_of_ball(spacing: [f64; 3]) -> Vec<(isize, isize, isize)> {
    let reach = spacing.map(|edge| (RADIUS_MM / edge).floor() as isize);
    let mut rows = Vec::new();
    for x in -reach[0]..=reach[0] {
        for y in -reach[1]..=reach[1] {
            let left = RADIUS_MM.powi(2) - (x as f64 * spacing[0]).powi(2) - (y as f64 * spacing[1]).powi(2);
            if left >= 0.0 {
                rows.push((x, y, (left.sqrt() / spacing[2]).floor() as isize));
            }
        }
    }
    rows
}
