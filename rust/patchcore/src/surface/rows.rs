//! A mask as intervals: for each row of its bounding box, the sorted and separate stretches of voxels that belong to it.

use crate::Result;
use crate::components::{Components, Joiner, Walk};
use crate::slab::{Connectivity, Line, Slab, Span};

/// One stretch of a mask along a row: `start..end`.
pub(crate) type Interval = [u32; 2];

/// The intervals of a mask, in walk coordinates: planes, rows, voxels along a row.
#[derive(Debug, Clone)]
pub struct Rows {
    pub(crate) walk: Walk,
    /// The first plane and row of the bounding box, and its numbers of planes and rows.
    pub(crate) low: [i64; 2],
    pub(crate) size: [usize; 2],
    /// For each row of the box, the index of its first interval; at the end, the number of intervals.
    first: Vec<u32>,
    intervals: Vec<Interval>,
}

impl Rows {
    /// The mask of those components for which `keep` is true.
    #[must_use]
    pub fn of(components: &Components, keep: impl Fn(usize) -> bool) -> Self {
        let kept = components.spans().filter(|&(_, _, component)| keep(component as usize));
        Self::from_places(
            components.walk,
            &kept.map(|(line, span, _)| (line, span.start, span.end)).collect::<Vec<_>>(),
        )
    }

    /// The mask of stretches: line, start and end of each, in walk order.
    pub(crate) fn from_places(walk: Walk, places: &[(u64, u32, u32)]) -> Self {
        let lines = walk.walk_shape()[1] as u64;
        let (mut low, mut high) = ([i64::MAX; 2], [-1; 2]);
        for &(line, _, _) in places {
            for (axis, at) in [line / lines, line % lines].into_iter().enumerate() {
                low[axis] = low[axis].min(at as i64);
                high[axis] = high[axis].max(at as i64);
            }
        }
        if places.is_empty() {
            low = [0; 2];
        }
        let size = [0, 1].map(|axis| (high[axis] - low[axis] + 1).max(0) as usize);
        let mut rows = Self { walk, low, size, first: vec![0], intervals: Vec::with_capacity(places.len()) };
        for &(line, start, end) in places {
            let [plane, row] = [(line / lines) as i64 - low[0], (line % lines) as i64 - low[1]];
            let at = plane as usize * size[1] + row as usize;
            let new_row = rows.first.len() <= at + 1;
            rows.first.resize(rows.first.len().max(at + 1), rows.intervals.len() as u32);
            match rows.intervals.last_mut() {
                // Two labels of one mask may touch.
                Some(last) if !new_row && last[1] == start => last[1] = end,
                _ => rows.intervals.push([start, end]),
            }
            rows.first.truncate(at + 1);
            rows.first.push(rows.intervals.len() as u32);
        }
        rows.first.resize(size[0] * size[1] + 1, rows.intervals.len() as u32);
        rows
    }

    /// The components of the mask.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] if there are too many.
    pub(crate) fn components(&self, connectivity: Connectivity) -> Result<Components> {
        let mut slab = Slab::default();
        let lines = self.walk.walk_shape()[1] as u64;
        for plane in self.low[0]..self.low[0] + self.size[0] as i64 {
            for row in self.low[1]..self.low[1] + self.size[1] as i64 {
                let intervals = self.row(plane, row);
                if !intervals.is_empty() {
                    slab.lines.push(Line { number: plane as u64 * lines + row as u64, first: slab.spans.len() as u32 });
                    slab.spans.extend(intervals.iter().map(|&[start, end]| Span { start, end, label: 1 }));
                }
            }
        }
        slab.join(self.walk.walk_shape(), self.walk.strides(), connectivity);
        let mut joiner = Joiner::new(self.walk, connectivity);
        joiner.push(slab, 0);
        joiner.finish()
    }

    /// Whether the mask has no voxel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// The intervals of a row; none outside the bounding box.
    #[inline]
    pub(crate) fn row(&self, plane: i64, row: i64) -> &[Interval] {
        let (plane, row) = (plane - self.low[0], row - self.low[1]);
        if plane < 0 || row < 0 || plane >= self.size[0] as i64 || row >= self.size[1] as i64 {
            return &[];
        }
        let at = plane as usize * self.size[1] + row as usize;
        &self.intervals[self.first[at] as usize..self.first[at + 1] as usize]
    }
}

/// Walk along `K` rows at once, and call `visit(from, to, bits)` for every stretch in which no row changes and at least
/// one row belongs to its mask. Bit `k` says whether row `k` does.
#[inline]
pub(crate) fn sweep<const K: usize>(rows: [&[Interval]; K], mut visit: impl FnMut(u32, u32, u32)) {
    let ends = rows.map(<[Interval]>::as_flattened);
    let mut at = [0usize; K];
    let (mut bits, mut from) = (0u32, 0u32);
    loop {
        let mut next = u32::MAX;
        for (ends, at) in ends.iter().zip(at) {
            next = next.min(ends.get(at).copied().unwrap_or(u32::MAX));
        }
        if next == u32::MAX {
            return;
        }
        if bits != 0 {
            visit(from, next, bits);
        }
        for row in 0..K {
            if ends[row].get(at[row]) == Some(&next) {
                bits ^= 1 << row;
                at[row] += 1;
            }
        }
        from = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_visits_every_stretch_in_which_a_row_is_set() {
        let mut seen = Vec::new();
        sweep([&[[1, 4], [6, 7]], &[[2, 4], [7, 9]]], |from, to, bits| seen.push((from, to, bits)));
        assert_eq!(seen, [(1, 2, 0b01), (2, 4, 0b11), (6, 7, 0b01), (7, 9, 0b10)]);
    }
}
