//! Computes the features of the Image Biomarker Standardisation Initiative (IBSI, reference manual 11) of one region.
//!
//! Names are IBSI's tags. Texture is computed within axial slices, averaged over them (`2D`) or merged (`2_5D`), and in
//! three dimensions (`3D`); matrices of directions are averaged (`avg`) or merged (`comb`). A feature that is not
//! defined, such as the correlation of one grey value, is NaN.

mod cooccurrence;
mod hull;
mod intensity;
mod mesh;
mod neighbours;
mod peaks;
mod shape;
mod sizes;
mod spatial;

use crate::error::{Error, Result, room};

/// Largest number of grey levels.
pub const MOST_LEVELS: u32 = 2048;

/// Features in the order of IBSI's tables.
pub type Features = Vec<(String, f64)>;

/// How intensities become grey levels, which are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bins {
    /// Intensities are grey levels already: whole numbers from 1.
    Levels,
    /// Bins of this width, from the lower end of the range on, or else from the smallest intensity.
    Width(f64),
    /// This number of bins between the smallest and the largest intensity.
    Count(u32),
}

/// A region and the image around it, (x, y, z), z fastest; slices are planes of equal z.
#[derive(Debug)]
pub struct Region<'a> {
    /// Number of voxels along each axis.
    pub shape: [usize; 3],
    /// Intensities of all voxels.
    pub image: &'a [f64],
    /// Which voxels belong to the region.
    pub mask: &'a [bool],
    /// Voxel size along each axis, mm.
    pub spacing: [f64; 3],
}

/// The grey levels of the voxels that are used; 0: not used.
pub(crate) struct Levels {
    shape: [usize; 3],
    level: Vec<u32>,
    most: u32,
}

type Step = [isize; 3];

impl Levels {
    fn at(&self, place: [isize; 3]) -> u32 {
        index(self.shape, place).map_or(0, |at| self.level[at])
    }

    fn voxels(&self) -> impl Iterator<Item = ([isize; 3], u32)> {
        let shape = self.shape;
        self.level
            .iter()
            .enumerate()
            .filter(|(_, level)| **level > 0)
            .map(move |(at, &level)| (place(shape, at), level))
    }
}

fn index(shape: [usize; 3], place: [isize; 3]) -> Option<usize> {
    let inside = (0..3).all(|axis| place[axis] >= 0 && (place[axis] as usize) < shape[axis]);
    inside.then(|| ((place[0] as usize * shape[1]) + place[1] as usize) * shape[2] + place[2] as usize)
}

fn place(shape: [usize; 3], at: usize) -> [isize; 3] {
    let plane = shape[1] * shape[2];
    [(at / plane) as isize, (at % plane / shape[2]) as isize, (at % shape[2]) as isize]
}

fn moved(place: [isize; 3], step: Step, times: isize) -> [isize; 3] {
    [place[0] + times * step[0], place[1] + times * step[1], place[2] + times * step[2]]
}

/// One of each pair of opposite steps to a neighbour, within a slice or in space.
fn directions(flat: bool) -> Vec<Step> {
    neighbours(flat).into_iter().filter(|step| *step > [0, 0, 0]).collect()
}

/// All steps to a neighbour that shares at least a corner.
fn neighbours(flat: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for x in -1..=1 {
        for y in -1..=1 {
            for z in -1..=1 {
                if [x, y, z] != [0, 0, 0] && !(flat && z != 0) {
                    steps.push([x, y, z]);
                }
            }
        }
    }
    steps
}

/// Return the mean of each feature over several matrices; values that are not defined do not count.
fn mean_of(rows: &[Vec<f64>], count: usize) -> Vec<f64> {
    (0..count)
        .map(|feature| {
            let known: Vec<f64> = rows.iter().map(|row| row[feature]).filter(|value| !value.is_nan()).collect();
            if known.is_empty() { f64::NAN } else { known.iter().sum::<f64>() / known.len() as f64 }
        })
        .collect()
}

fn named(into: &mut Features, family: &str, names: &[&str], how: &str, values: &[f64]) {
    into.extend(names.iter().zip(values).map(|(name, &value)| (format!("{family}_{name}_{how}"), value)));
}

/// Compute all features of a region.
///
/// # Arguments
/// * `range` - Only voxels with intensities from the first to the second number are used, except for the shape.
/// * `bins` - How intensities become grey levels.
///
/// # Errors
/// [`Error::Argument`] if a size does not fit, no voxel is used, an intensity is not finite, or there are too many grey
/// levels; [`Error::Memory`] if the region does not fit into memory.
pub fn features(region: &Region<'_>, range: Option<(f64, f64)>, bins: Bins) -> Result<Features> {
    let count = region.shape.iter().try_fold(1usize, |product, &edge| product.checked_mul(edge));
    if count != Some(region.image.len()) || region.image.len() != region.mask.len() {
        return Err(Error::Argument(format!(
            "an image of {} and a mask of {} voxels do not have shape {:?}",
            region.image.len(),
            region.mask.len(),
            region.shape
        )));
    }
    if !region.spacing.iter().all(|edge| edge.is_finite() && *edge > 0.0) {
        return Err(Error::Argument(format!("spacing {:?}; expected three positive numbers, mm", region.spacing)));
    }
    let mut used = room(count, "the voxels of a region")?;
    used.extend(
        region
            .mask
            .iter()
            .zip(region.image)
            .map(|(&inside, &value)| inside && range.is_none_or(|(low, high)| low <= value && value <= high)),
    );
    let values: Vec<f64> = region.image.iter().zip(&used).filter(|(_, used)| **used).map(|(&value, _)| value).collect();
    if values.is_empty() {
        let what = if region.mask.contains(&true) { "no voxel with an intensity in the range" } else { "no voxel" };
        return Err(Error::Argument(format!("the region has {what}")));
    }
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::Argument(format!("the region has an intensity of {value}")));
    }
    let levels = levels_of(region, &used, &values, range, bins)?;
    let mut found = shape::features(region, &used)?;
    found.extend(peaks::features(region, &used));
    found.extend(intensity::statistics(&values));
    let grey: Vec<f64> = levels.level.iter().filter(|level| **level > 0).map(|&level| f64::from(level)).collect();
    found.extend(intensity::histogram(&grey, levels.most));
    found.extend(intensity::volumes(&values, range, bins));
    found.extend(cooccurrence::features(&levels));
    found.extend(sizes::features(&levels, region));
    found.extend(neighbours::features(&levels));
    found.extend(sizes::dependences(&levels));
    Ok(found)
}

fn levels_of(
    region: &Region<'_>,
    used: &[bool],
    values: &[f64],
    range: Option<(f64, f64)>,
    bins: Bins,
) -> Result<Levels> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let level = |value: f64| match bins {
        Bins::Levels => value,
        Bins::Width(width) => ((value - range.map_or(low, |range| range.0)) / width).floor() + 1.0,
        Bins::Count(count) if high > low => {
            (f64::from(count) * (value - low) / (high - low)).floor().min(f64::from(count) - 1.0) + 1.0
        }
        Bins::Count(_) => 1.0,
    };
    if matches!(bins, Bins::Width(width) if !(width > 0.0 && width.is_finite())) || bins == Bins::Count(0) {
        return Err(Error::Argument("the width and the number of bins must be positive".into()));
    }
    let (first, last) = (level(low), level(high));
    if first < 1.0 || last > f64::from(MOST_LEVELS) || (bins == Bins::Levels && values.iter().any(|v| v.fract() != 0.0))
    {
        return Err(Error::Argument(format!(
            "intensities from {low} to {high} give grey levels from {first} to {last}; expected whole numbers from 1 to \
             {MOST_LEVELS}"
        )));
    }
    let mut found = room(Some(used.len()), "the grey levels of a region")?;
    found.extend(used.iter().zip(region.image).map(|(&used, &value)| if used { level(value) as u32 } else { 0 }));
    Ok(Levels { shape: region.shape, level: found, most: last as u32 })
}
