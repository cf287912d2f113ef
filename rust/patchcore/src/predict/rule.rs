//! Chooses the class of every voxel from its probabilities.

use crate::{Error, Result};

/// How a class is chosen.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Regions in painting order: their class index, and the classes whose probabilities they sum. Without regions the
    /// most likely class is chosen; a tie gives the lower index.
    pub regions: Option<Vec<(u8, Vec<usize>)>>,
    /// Class index of the lesions, and the probability above which a voxel is one, whatever the other classes say.
    pub threshold: Option<(u8, f32)>,
    /// Classes whose summed probability is written as the probability of a lesion.
    pub lesion: Vec<usize>,
}

impl Rule {
    /// Check that the rule names only classes that exist.
    ///
    /// # Errors
    /// [`Error::Argument`] otherwise, or if there are no or too many channels.
    pub fn check(&self, channels: usize) -> Result<()> {
        let regions = self.regions.iter().flatten();
        let own = regions.clone().map(|(own, _)| usize::from(*own)).chain(self.threshold.map(|(own, _)| own.into()));
        let mut named = regions.flat_map(|(_, members)| members).chain(&self.lesion).copied().chain(own);
        if channels == 0 || channels > 256 || named.any(|class| class >= channels) {
            return Err(Error::Argument(format!(
                "{channels} channels and {self:?}; expected 1 to 256 channels, and only their numbers in the rule"
            )));
        }
        Ok(())
    }

    /// Choose the class of every voxel: `shares` has one row of probabilities per class, background first.
    ///
    /// `best` is scratch memory. The rows and `out` have the same length.
    pub(super) fn choose(&self, shares: &[&[f32]], best: &mut Vec<f32>, out: &mut [u8]) {
        if let Some(regions) = &self.regions {
            self.paint(regions, shares, best, out);
            return;
        }
        let lesion = self.threshold.map(|(index, least)| (usize::from(index), least));
        if let ([background, only], None) = (shares, lesion) {
            for ((out, a), b) in out.iter_mut().zip(*background).zip(*only) {
                *out = u8::from(b > a);
            }
            return;
        }
        best.clear();
        best.resize(out.len(), f32::NEG_INFINITY);
        out.fill(0);
        for (class, share) in shares.iter().enumerate() {
            if lesion.is_some_and(|(index, _)| index == class) {
                continue;
            }
            for ((out, best), &share) in out.iter_mut().zip(best.iter_mut()).zip(*share) {
                let larger = share > *best;
                *out = if larger { class as u8 } else { *out };
                *best = if larger { share } else { *best };
            }
        }
        if let Some((index, least)) = lesion {
            for (out, &share) in out.iter_mut().zip(shares[index]) {
                *out = if share > least { index as u8 } else { *out };
            }
        }
    }

    fn paint(&self, regions: &[(u8, Vec<usize>)], shares: &[&[f32]], sum: &mut Vec<f32>, out: &mut [u8]) {
        out.fill(0);
        for (own, members) in regions {
            let least = self.threshold.filter(|(index, _)| index == own).map_or(0.5, |(_, least)| least);
            total(shares, members, sum, out.len());
            for (out, &sum) in out.iter_mut().zip(sum.iter()) {
                *out = if sum > least { *own } else { *out };
            }
        }
    }

    /// Write the probability of a lesion, in steps of 1/65535.
    pub(super) fn probability(&self, shares: &[&[f32]], sum: &mut Vec<f32>, out: &mut [u16]) {
        total(shares, &self.lesion, sum, out.len());
        for (out, &sum) in out.iter_mut().zip(sum.iter()) {
            // `as` saturates.
            *out = (sum * 65535.0).round_ties_even() as u16;
        }
    }
}

/// Sum the rows of some classes.
fn total(shares: &[&[f32]], members: &[usize], sum: &mut Vec<f32>, length: usize) {
    sum.clear();
    sum.resize(length, 0.0);
    for &class in members {
        for (sum, &share) in sum.iter_mut().zip(shares[class]) {
            *sum += share;
        }
    }
}
