//! Finds the components of a whole array: slabs are processed in parallel and joined across their seams.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::decode::Decoder;
use crate::pool::{self, Interrupt};
use crate::slab::{Connectivity, Line, Slab, Span, Sums, WalkShape, touching_planes};
use crate::view::View;
use crate::{Error, Result};

/// The order in which an array is walked: array axes from slowest to fastest in memory, and the shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) order: [usize; 3],
    /// Array shape.
    pub(crate) shape: [usize; 3],
}

impl Walk {
    pub(crate) fn walk_shape(&self) -> WalkShape {
        self.order.map(|axis| self.shape[axis])
    }

    /// C-order strides, in voxels, of the walk axes.
    pub(crate) fn strides(&self) -> [u64; 3] {
        let [_, b, c] = self.shape.map(|n| n as u64);
        self.order.map(|axis| [b * c, c, 1][axis])
    }

    /// Convert walk coordinates to array coordinates.
    pub(crate) fn to_array<T: Copy + Default>(self, walked: [T; 3]) -> [T; 3] {
        let mut array = [T::default(); 3];
        for (position, &axis) in self.order.iter().enumerate() {
            array[axis] = walked[position];
        }
        array
    }
}

/// All spans of an array, and the component of each span.
#[derive(Debug)]
pub struct Components {
    pub(crate) walk: Walk,
    pub(crate) slabs: Vec<Slab>,
    /// For each slab and each slab component: the number of the component, 0-based, ordered by smallest C-order index.
    pub(crate) numbers: Vec<Vec<u32>>,
    pub(crate) sums: Vec<Sums>,
    /// Whether a label was nearly an integer, and was rounded.
    pub rounded: bool,
}

impl Components {
    /// Number of components.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// Whether there are no components.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Call `visit(component, plane, row, span)` for every span, in walk order.
    #[inline]
    pub(crate) fn for_each_span(&self, mut visit: impl FnMut(usize, u32, u32, Span)) {
        let rows = self.walk.walk_shape()[1] as u64;
        for (slab, numbers) in self.slabs.iter().zip(&self.numbers) {
            for (at, line) in slab.lines.iter().enumerate() {
                let (plane, row) = ((line.number / rows) as u32, (line.number % rows) as u32);
                for index in slab.line_range(at) {
                    visit(numbers[slab.component[index] as usize] as usize, plane, row, slab.spans[index]);
                }
            }
        }
    }

    /// The label of a component.
    #[must_use]
    pub fn label(&self, number: usize) -> i64 {
        self.sums[number].label
    }

    /// The number of voxels of a component.
    #[must_use]
    pub fn voxels(&self, number: usize) -> u64 {
        self.sums[number].voxels
    }

    /// The number of voxels of each component, with its label.
    #[must_use]
    pub fn label_voxels(&self) -> Vec<(i64, u64)> {
        self.sums.iter().map(|sums| (sums.label, sums.voxels)).collect()
    }

    /// Every span with its line (plane · rows + row) and the number of its component, in walk order.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u64, Span, u32)> + '_ {
        self.slabs.iter().zip(&self.numbers).flat_map(|(slab, numbers)| {
            (0..slab.lines.len()).flat_map(move |at| {
                let line = slab.lines[at].number;
                slab.line_range(at).map(move |index| (line, slab.spans[index], numbers[slab.component[index] as usize]))
            })
        })
    }

    /// Find the components of a label map in memory.
    ///
    /// Memory grows with the number of spans, not with the number of voxels. The result does not depend on `threads` or
    /// on the order of the axes in memory.
    ///
    /// # Errors
    /// [`Error::NonIntegralLabel`] for a fractional label, [`Error::Interrupted`] if asked to stop.
    pub fn of_view(
        view: &View<'_>,
        decoder: &Decoder,
        connectivity: Connectivity,
        threads: Option<usize>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        Self::of_view_in(view.walk_order(), view, decoder, connectivity, threads, interrupt)
    }

    /// As [`Components::of_view`], with spans along the last axis of `order`: two label maps can only be compared span by
    /// span if they are walked in the same order.
    ///
    /// # Errors
    /// As [`Components::of_view`].
    pub fn of_view_in(
        order: [usize; 3],
        view: &View<'_>,
        decoder: &Decoder,
        connectivity: Connectivity,
        threads: Option<usize>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let walk = Walk { order, shape: view.shape() };
        let [planes, rows, length] = walk.walk_shape();
        if planes * rows * length == 0 {
            return Joiner::new(walk, connectivity).finish();
        }
        // Slabs are small enough to react to Ctrl-C and to balance the cores, and large enough to keep seams rare.
        let plane_bytes = rows * length * view.kind().size();
        let slab_planes = (SLAB_BYTES / plane_bytes.max(1)).clamp(1, planes);
        let starts: Vec<usize> = (0..planes).step_by(slab_planes).collect();
        let find = |start: usize| -> Result<Slab> {
            interrupt.check()?;
            let mut slab = Slab::find(view, walk.order, start..(start + slab_planes).min(planes), decoder)?;
            slab.join(walk.walk_shape(), walk.strides(), connectivity);
            Ok(slab)
        };
        let small = planes * plane_bytes < SMALL_BYTES;
        let slabs = if small || threads == Some(1) {
            starts.into_iter().map(find).collect::<Result<Vec<_>>>()?
        } else {
            pool::install(threads, || starts.into_par_iter().map(find).collect::<Result<Vec<_>>>())?
        };
        interrupt.check()?;
        let found = Self::join_seams(walk, slabs, slab_planes, connectivity)?;
        Ok(Self { rounded: decoder.rounded(), ..found })
    }

    /// The same spans, with all components of one label joined to one: each label is one object, wherever it lies.
    #[must_use]
    pub fn joined_by_label(mut self) -> Self {
        let mut at_label: HashMap<i64, u32> = HashMap::new();
        let mut merged: Vec<Sums> = Vec::new();
        // Components are ordered by their smallest index, so the first one of a label decides the order of the labels.
        let joined: Vec<u32> = self
            .sums
            .iter()
            .map(|sums| {
                let next = merged.len() as u32;
                let number = *at_label.entry(sums.label).or_insert(next);
                if number == next {
                    merged.push(*sums);
                } else {
                    merged[number as usize].merge(sums);
                }
                number
            })
            .collect();
        for numbers in &mut self.numbers {
            for number in numbers {
                *number = joined[*number as usize];
            }
        }
        self.sums = merged;
        self
    }

    /// The components of at least `voxels` voxels, numbered again. The spans of the others are dropped.
    #[must_use]
    pub fn with_at_least(mut self, voxels: u64) -> Self {
        if self.sums.iter().all(|sums| sums.voxels >= voxels) {
            return self;
        }
        let mut kept = 0;
        let renumbered: Vec<Option<u32>> = self
            .sums
            .iter()
            .map(|sums| {
                (sums.voxels >= voxels).then(|| {
                    kept += 1;
                    kept - 1
                })
            })
            .collect();
        for (slab, numbers) in self.slabs.iter_mut().zip(&mut self.numbers) {
            let mut fewer = Slab::default();
            for at in 0..slab.lines.len() {
                let first = fewer.spans.len() as u32;
                for index in slab.line_range(at) {
                    if renumbered[numbers[slab.component[index] as usize] as usize].is_some() {
                        fewer.spans.push(slab.spans[index]);
                        fewer.component.push(slab.component[index]);
                    }
                }
                if fewer.spans.len() as u32 > first {
                    fewer.lines.push(Line { number: slab.lines[at].number, first });
                }
            }
            *slab = fewer;
            // The numbers of dropped components are not used any more.
            for number in numbers {
                *number = renumbered[*number as usize].unwrap_or(0);
            }
        }
        self.sums.retain(|sums| sums.voxels >= voxels);
        self
    }

    fn join_seams(walk: Walk, slabs: Vec<Slab>, slab_planes: usize, connectivity: Connectivity) -> Result<Self> {
        let mut joiner = Joiner::new(walk, connectivity);
        for (index, slab) in slabs.into_iter().enumerate() {
            joiner.push(slab, index * slab_planes);
        }
        joiner.finish()
    }
}

/// Approximate bytes per slab.
pub(crate) const SLAB_BYTES: usize = 4 << 20;
/// Arrays with fewer bytes are processed on one thread: a second thread would not be faster.
const SMALL_BYTES: usize = 1 << 18;

/// Receives slabs in order and joins each slab with the previous one.
pub(crate) struct Joiner {
    walk: Walk,
    connectivity: Connectivity,
    slabs: Vec<Slab>,
    offsets: Vec<usize>,
    parent: Vec<usize>,
}

impl Joiner {
    pub(crate) fn new(walk: Walk, connectivity: Connectivity) -> Self {
        Self { walk, connectivity, slabs: Vec::new(), offsets: Vec::new(), parent: Vec::new() }
    }

    /// Add a slab that is already joined within itself. Its first plane is `plane`.
    pub(crate) fn push(&mut self, slab: Slab, plane: usize) {
        let offset = self.parent.len();
        self.parent.extend(offset..offset + slab.sums.len());
        if let (Some(below), Some(&below_offset)) = (self.slabs.last(), self.offsets.last()) {
            let parent = &mut self.parent;
            touching_planes(below, &slab, plane, self.walk.walk_shape(), self.connectivity, |i, j| {
                union(parent, below_offset + below.component[i] as usize, offset + slab.component[j] as usize);
            });
        }
        self.slabs.push(slab);
        self.offsets.push(offset);
    }

    /// Number the components by their smallest C-order index.
    pub(crate) fn finish(mut self) -> Result<Components> {
        let total = self.parent.len();
        if total >= u32::MAX as usize {
            return Err(Error::Unsupported(format!(
                "{total} separate components in all slabs; expected at most 2^32 - 2"
            )));
        }
        let mut merged: Vec<Sums> = Vec::new();
        let mut at_root = vec![u32::MAX; total];
        let mut members: Vec<u32> = Vec::with_capacity(total);
        let all = self.slabs.iter_mut().flat_map(|slab| std::mem::take(&mut slab.sums));
        for (index, sums) in all.enumerate() {
            let root = find(&mut self.parent, index);
            if at_root[root] == u32::MAX {
                at_root[root] = merged.len() as u32;
                merged.push(sums);
            } else {
                merged[at_root[root] as usize].merge(&sums);
            }
            members.push(at_root[root]);
        }
        let mut by_first: Vec<u32> = (0..merged.len() as u32).collect();
        // For C-ordered arrays they are already sorted.
        by_first.sort_by_key(|&index| merged[index as usize].first);
        let mut number = vec![0u32; merged.len()];
        for (rank, &index) in by_first.iter().enumerate() {
            number[index as usize] = rank as u32;
        }
        let numbers = self
            .offsets
            .iter()
            .enumerate()
            .map(|(slab, &offset)| {
                let end = self.offsets.get(slab + 1).copied().unwrap_or(total);
                members[offset..end].iter().map(|&member| number[member as usize]).collect()
            })
            .collect();
        let sums = by_first.iter().map(|&index| merged[index as usize]).collect();
        Ok(Components { walk: self.walk, slabs: self.slabs, numbers, sums, rounded: false })
    }
}

fn find(parent: &mut [usize], mut node: usize) -> usize {
    while parent[node] != node {
        parent[node] = parent[parent[node]];
        node = parent[node];
    }
    node
}

fn union(parent: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(parent, a), find(parent, b));
    parent[a.max(b)] = a.min(b);
}

/// The element types of a label image. Callers use the smallest type that can hold the largest component number.
pub trait Number: Copy + Send + Sync + Default {
    /// Convert a component number.
    fn from_number(number: u32) -> Self;
}

macro_rules! numbers {
    ($($type:ty),*) => { $(impl Number for $type {
        fn from_number(number: u32) -> Self { number as Self }
    })* };
}
numbers!(u8, u16, u32);

impl Components {
    /// The array axes from slowest to fastest: the memory order in which [`Components::paint`] writes.
    #[must_use]
    pub fn order(&self) -> [usize; 3] {
        self.walk.order
    }

    /// Write the component numbers 1…N into `out`. `out` must be zeroed and dense, with the array's shape and with its
    /// axes in the order of [`Components::order`].
    ///
    /// # Errors
    /// [`Error::Argument`] if `out` has another length, [`Error::Interrupted`] if asked to stop.
    pub fn paint<N: Number>(&self, out: &mut [N], threads: Option<usize>, interrupt: &Interrupt) -> Result<()> {
        let [planes, rows, length] = self.walk.walk_shape();
        if out.len() != planes * rows * length {
            return Err(Error::Argument(format!(
                "the output buffer has {} voxels; expected shape {:?}",
                out.len(),
                self.walk.shape
            )));
        }
        // Slabs write to disjoint parts of the output, in ascending order.
        let mut rest = out;
        let mut taken = 0;
        let mut parts = Vec::with_capacity(self.slabs.len());
        for (slab, numbers) in self.slabs.iter().zip(&self.numbers) {
            let Some(last) = slab.lines.last() else { continue };
            let end = (last.number as usize + 1) * length;
            let (part, others) = std::mem::take(&mut rest).split_at_mut(end - taken);
            parts.push((slab, numbers, taken, part));
            (rest, taken) = (others, end);
        }
        let paint = |(slab, numbers, offset, part): (&Slab, &Vec<u32>, usize, &mut [N])| -> Result<()> {
            interrupt.check()?;
            for at in 0..slab.lines.len() {
                let line = slab.lines[at].number as usize * length - offset;
                for index in slab.line_range(at) {
                    let span = slab.spans[index];
                    let number = N::from_number(numbers[slab.component[index] as usize] + 1);
                    part[line + span.start as usize..line + span.end as usize].fill(number);
                }
            }
            Ok(())
        };
        if threads == Some(1) || parts.len() < 2 {
            parts.into_iter().try_for_each(paint)
        } else {
            pool::install(threads, || parts.into_par_iter().try_for_each(paint))
        }
    }
}
