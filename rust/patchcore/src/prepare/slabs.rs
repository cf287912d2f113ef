//! Collects planes until they fill a slab of shards, and then writes the slab.

use std::path::Path;

use super::{Walked, canonical_view};
use crate::pool::Interrupt;
use crate::store::{Element, Layout, write_region};
use crate::{Error, Result, error};

/// Receives the planes of an array in reading order and writes full slabs.
pub(super) struct Slabs<'a, T> {
    folder: &'a Path,
    layout: &'a Layout,
    walked: &'a Walked,
    fill: T,
    /// Whether the first plane is the last plane of the canonical axis.
    flipped: bool,
    /// Number of values per plane.
    plane: usize,
    planes: Vec<T>,
    taken: usize,
    pub(super) written: u64,
}

impl<'a, T: Element + crate::view::Element> Slabs<'a, T> {
    pub(super) fn new(
        folder: &'a Path,
        layout: &'a Layout,
        walked: &'a Walked,
        fill: T,
        flipped: bool,
    ) -> Result<Self> {
        if layout.shape() != walked.shape {
            return Err(Error::Argument(format!(
                "the array has shape {:?}; expected the shape of the kept part, {:?}",
                layout.shape(),
                walked.shape
            )));
        }
        let thickest = layout.shard()[walked.canonical[0]].min(walked.shape[walked.canonical[0]]);
        let plane = walked.canonical[1..].iter().map(|&axis| walked.shape[axis]).product::<usize>();
        let planes = error::room(plane.checked_mul(thickest), "a slab of the store")?;
        Ok(Self { folder, layout, walked, fill, flipped, plane, planes, taken: 0, written: 0 })
    }

    /// Add planes, and write the shards that are complete.
    pub(super) fn push(&mut self, values: &[T], interrupt: &Interrupt) -> Result<()> {
        let axis = self.walked.canonical[0];
        let (length, thickness) = (self.walked.shape[axis], self.layout.shard()[axis]);
        for values in values.chunks_exact(self.plane) {
            self.planes.extend_from_slice(values);
            let at = if self.flipped { length - 1 - self.taken } else { self.taken };
            self.taken += 1;
            let full = if self.flipped { at.is_multiple_of(thickness) } else { (at + 1).is_multiple_of(thickness) };
            if !full && self.taken < length {
                continue;
            }
            let mut start = [0; 3];
            start[axis] = at / thickness * thickness;
            let count = self.planes.len() / self.plane;
            let view = canonical_view(&self.planes, count, self.walked, self.flipped)?;
            self.written += write_region(self.folder, self.layout, &view, start, self.fill, interrupt)?;
            self.planes.clear();
        }
        Ok(())
    }
}
