//! Resamples class indices: the membership of each class is interpolated linearly, then the largest one is chosen.
//!
//! On a coarser grid this preserves the volume of lesions that are a few voxels wide; nearest neighbour drops or
//! doubles them by chance. The chosen class always has a share in the voxel, so no new class can appear.

use rayon::prelude::*;

use super::{Bands, sums};
use crate::pool::Interrupt;
use crate::{Error, Result, error};

/// A label map that returns its planes one after the other.
pub trait LabelPlanes {
    /// Read the next plane to `out`: class indices, row after row.
    ///
    /// # Errors
    /// Any error while reading the plane.
    fn next(&mut self, out: &mut [u8]) -> Result<()>;
}

/// A smaller difference between memberships is rounding error and counts as a tie.
const TIE: f32 = 1e-4;

/// One old plane on the new rows and columns: the membership of each class, or `None` if the plane has no voxel of the
/// class.
type Memberships = Vec<Option<Vec<f32>>>;

/// Resample class indices 0…`classes`. `emit` receives the new planes in order.
///
/// On a tie the higher class index is chosen. Ties are common at a ratio of 2; if background were chosen, a small
/// lesion would lose a fifth to a half of its volume.
///
/// # Errors
/// The errors of `source` and `emit`, [`Error::Argument`] for an index above `classes`, [`Error::Memory`],
/// [`Error::Interrupted`].
pub fn resample_labels(
    source: &mut impl LabelPlanes,
    bands: &Bands,
    classes: u8,
    interrupt: &Interrupt,
    mut emit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let size = bands.rows.output() * bands.columns.output();
    let mut kept: std::collections::VecDeque<Memberships> = std::collections::VecDeque::new();
    let mut first = 0;
    let old = bands.rows.input * bands.columns.input;
    let mut plane: Vec<u8> = error::room(Some(old), "a plane of labels")?;
    plane.resize(old, 0);
    let mut out = vec![0u8; size];
    for at in 0..bands.planes.output() {
        interrupt.check()?;
        let needed = bands.planes.needs(at);
        while first + kept.len() < needed.end {
            source.next(&mut plane)?;
            if let Some(&bad) = plane.iter().find(|&&index| index > classes) {
                return Err(Error::Argument(format!(
                    "class index {bad} is larger than the number of classes, {classes}"
                )));
            }
            kept.push_back(memberships(&plane, bands, classes));
        }
        while first < needed.start {
            kept.pop_front();
            first += 1;
        }
        choose(&kept, bands, at, first, &mut out);
        emit(at, &out)?;
    }
    Ok(())
}

fn memberships(plane: &[u8], bands: &Bands, classes: u8) -> Memberships {
    (1..=classes)
        .into_par_iter()
        .map(|class| {
            plane.contains(&class).then(|| {
                let member: Vec<f32> = plane.iter().map(|&index| f32::from(u8::from(index == class))).collect();
                let mut out = vec![0.0; bands.rows.output() * bands.columns.output()];
                bands.within_plane(&member, &mut Vec::new(), &mut out);
                out
            })
        })
        .collect()
}

/// Choose the class of every voxel. The share of background is 1 minus the shares of all classes.
fn choose(kept: &std::collections::VecDeque<Memberships>, bands: &Bands, at: usize, first: usize, out: &mut [u8]) {
    out.fill(0);
    let (start, weights) = bands.planes.row(at);
    let near: Vec<(f32, &Memberships)> = weights.iter().copied().zip(kept.iter().skip(start - first)).collect();
    let classes = kept.front().map_or(0, Vec::len);
    let (mut taken, mut best) = (vec![0f32; out.len()], vec![0f32; out.len()]);
    let mut shares = vec![0f32; out.len()];
    for class in 0..classes {
        let (weights, planes): (Vec<f32>, Vec<&[f32]>) = near
            .iter()
            .filter_map(|&(weight, old)| old[class].as_deref().filter(|_| weight > 0.0).map(|plane| (weight, plane)))
            .unzip();
        if planes.is_empty() {
            continue;
        }
        sums::weighted(&planes, &weights, &mut shares);
        for (((&share, taken), best), out) in shares.iter().zip(&mut taken).zip(&mut best).zip(&mut *out) {
            *taken += share;
            if share > TIE && share >= *best - TIE {
                (*best, *out) = (share.max(*best), class as u8 + 1);
            }
        }
    }
    for ((&taken, &best), out) in taken.iter().zip(&best).zip(out) {
        if 1.0 - taken > best + TIE {
            *out = 0;
        }
    }
}
