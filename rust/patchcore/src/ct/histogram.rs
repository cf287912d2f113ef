//! Counts voxels by integer HU.

use super::values::Value;

// No scanner writes HU outside these limits. They bound the memory of the histogram.
const LOWEST: i32 = -32768;
const HIGHEST: i32 = 65535;

/// Voxel counts of consecutive integer HU, beginning at `start`. Empty if there are no voxels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// HU of the first count.
    pub start: i32,
    /// Number of voxels per HU. The first and the last count are not 0.
    pub counts: Vec<i64>,
}

/// A histogram while it is being filled.
#[derive(Default)]
pub(super) struct Counter {
    counts: Vec<i64>,
}

impl Counter {
    /// Count the values of a row for which the bit in `mask` is set.
    pub(super) fn add<T: Value>(&mut self, row: &[T], mask: &[u64]) {
        for (word, &bits) in mask.iter().enumerate() {
            let mut bits = bits;
            if bits == 0 {
                continue;
            }
            if self.counts.is_empty() {
                self.counts = vec![0; (HIGHEST - LOWEST + 1) as usize];
            }
            while bits != 0 {
                let at = 64 * word + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if let Some(hu) = row[at].rounded() {
                    self.counts[(hu.clamp(LOWEST, HIGHEST) - LOWEST) as usize] += 1;
                }
            }
        }
    }

    pub(super) fn finish(self) -> Histogram {
        let Some(first) = self.counts.iter().position(|&count| count != 0) else { return Histogram::default() };
        let last = self.counts.iter().rposition(|&count| count != 0).unwrap_or(first);
        Histogram { start: first as i32 + LOWEST, counts: self.counts[first..=last].to_vec() }
    }
}
