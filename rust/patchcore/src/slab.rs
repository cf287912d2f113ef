//! Finds the spans of one slab of planes, and joins them into components within the slab.
//!
//! Walk coordinates: a *plane* is an index along the slowest axis of memory, a *row* is an index along the middle axis,
//! a *line* is `plane · rows + row`, and spans lie along the fastest axis.

use std::cmp::Ordering;

use crate::scan::{Word, stretches};
use crate::view::{Kind, View};
use crate::{Error, Result, decode::Decoder};

/// Which voxels are neighbours: voxels that share a face (6), a face or an edge (18), or a face, an edge or a corner
/// (26).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connectivity {
    /// Faces.
    Six,
    /// Faces and edges.
    Eighteen,
    /// Faces, edges and corners.
    #[default]
    TwentySix,
}

impl Connectivity {
    /// How far beyond its ends a span reaches on a neighbouring line. The first number is for lines that differ in one
    /// walk coordinate, the second for lines that differ in two (`None`: such lines are not neighbours).
    fn reach(self) -> (u32, Option<u32>) {
        match self {
            Connectivity::Six => (0, None),
            Connectivity::Eighteen => (1, Some(0)),
            Connectivity::TwentySix => (1, Some(1)),
        }
    }
}

impl TryFrom<u32> for Connectivity {
    type Error = Error;

    fn try_from(neighbours: u32) -> Result<Self> {
        match neighbours {
            6 => Ok(Connectivity::Six),
            18 => Ok(Connectivity::Eighteen),
            26 => Ok(Connectivity::TwentySix),
            other => Err(Error::Argument(format!("connectivity {other}; legal: 6, 18, 26"))),
        }
    }
}

/// A maximal stretch of one label along a line: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) label: i64,
}

/// A line with at least one span: its number, and the index of its first span.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) first: u32,
}

/// The shape in walk order: planes, rows, voxels per line.
pub(crate) type WalkShape = [usize; 3];

/// Sums over the spans of a component, in walk coordinates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) label: i64,
    pub(crate) voxels: u64,
    pub(crate) spans: u64,
    pub(crate) coordinates: [u64; 3],
    pub(crate) low: [u32; 3],
    pub(crate) high: [u32; 3],
    /// Smallest C-order index of the component's voxels.
    pub(crate) first: u64,
}

impl Sums {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.voxels += other.voxels;
        self.spans += other.spans;
        self.first = self.first.min(other.first);
        for axis in 0..3 {
            self.coordinates[axis] += other.coordinates[axis];
            self.low[axis] = self.low[axis].min(other.low[axis]);
            self.high[axis] = self.high[axis].max(other.high[axis]);
        }
    }
}

/// The spans of consecutive planes, joined into components.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    pub(crate) lines: Vec<Line>,
    pub(crate) spans: Vec<Span>,
    /// While joining: the parent of each span. Afterwards: the component of each span within the slab.
    pub(crate) component: Vec<u32>,
    pub(crate) sums: Vec<Sums>,
}

/// Receives stretches and cuts them into spans, one or more per line.
struct Collector<'a> {
    decoder: &'a Decoder,
    slab: Slab,
    length: usize,
    /// The last non-zero bits that were decoded, and their label.
    bits: u64,
    label: i64,
    /// The label of zero bits: background, unless the file has an intercept.
    label_of_zero: i64,
    /// The current line, and where it starts in stretch coordinates.
    line: u64,
    line_start: usize,
    open_line: u64,
    error: Option<Error>,
}

impl Collector<'_> {
    fn take(&mut self, start: usize, end: usize, bits: u64) {
        if bits == 0 {
            if self.label_of_zero == 0 {
                return;
            }
            (self.bits, self.label) = (0, self.label_of_zero);
        } else if bits != self.bits {
            match self.decoder.label(bits) {
                Ok(label) => (self.bits, self.label) = (bits, label),
                Err(error) => {
                    self.error.get_or_insert(error);
                    return;
                }
            }
        }
        if self.label == 0 {
            return;
        }
        if start >= self.line_start + self.length {
            let skipped = (start - self.line_start) / self.length;
            self.line += skipped as u64;
            self.line_start += skipped * self.length;
        }
        let mut from = start;
        loop {
            let line_end = self.line_start + self.length;
            self.push((from - self.line_start) as u32, (end.min(line_end) - self.line_start) as u32);
            if end <= line_end {
                return;
            }
            from = line_end;
            self.line += 1;
            self.line_start = line_end;
        }
    }

    #[inline]
    fn push(&mut self, start: u32, end: u32) {
        let spans = &mut self.slab.spans;
        if self.line != self.open_line {
            self.slab.lines.push(Line { number: self.line, first: spans.len() as u32 });
            self.open_line = self.line;
        } else if let Some(last) = spans.last_mut()
            && last.end == start
            && last.label == self.label
        {
            // Different bits can have the same label (True stored as 1 and as 255).
            last.end = end;
            return;
        }
        spans.push(Span { start, end, label: self.label });
    }
}

impl Slab {
    /// Find the spans of the planes `planes` of a view that is walked in `order`.
    pub(crate) fn find(
        view: &View<'_>,
        order: [usize; 3],
        planes: std::ops::Range<usize>,
        decoder: &Decoder,
    ) -> Result<Self> {
        match view.kind() {
            Kind::Bool | Kind::U8 | Kind::I8 => Self::find_words::<u8>(view, order, planes, decoder),
            Kind::U16 | Kind::I16 => Self::find_words::<u16>(view, order, planes, decoder),
            Kind::U32 | Kind::I32 | Kind::F32 => Self::find_words::<u32>(view, order, planes, decoder),
            Kind::U64 | Kind::I64 | Kind::F64 => Self::find_words::<u64>(view, order, planes, decoder),
        }
    }

    fn find_words<W: Word>(
        view: &View<'_>,
        order: [usize; 3],
        planes: std::ops::Range<usize>,
        decoder: &Decoder,
    ) -> Result<Self> {
        let [slow, mid, fast] = order;
        let (rows, length) = (view.shape()[mid], view.shape()[fast]);
        let first_line = (planes.start * rows) as u64;
        let mut collector = Collector {
            decoder,
            slab: Slab::default(),
            length,
            bits: 0,
            label: 0,
            label_of_zero: decoder.label(0)?,
            line: first_line,
            line_start: 0,
            open_line: u64::MAX,
            error: None,
        };
        let index = |plane: usize, row: usize| {
            let mut index = [0; 3];
            (index[slow], index[mid]) = (plane, row);
            index
        };
        if view.is_dense(order) {
            let start = view.at(index(planes.start, 0));
            // SAFETY: the planes are dense and aligned, so they are this many contiguous words.
            let words: &[W] = unsafe { std::slice::from_raw_parts(start.cast(), planes.len() * rows * length) };
            stretches(words, |from, to, word| collector.take(from, to, word.bits()));
        } else {
            let mut buffer = Vec::new();
            if !view.has_dense_lines(fast) {
                buffer.resize(length, W::ZERO);
            }
            for plane in planes {
                for row in 0..rows {
                    let start = view.at(index(plane, row));
                    let words: &[W] = if buffer.is_empty() {
                        // SAFETY: lines are dense and aligned.
                        unsafe { std::slice::from_raw_parts(start.cast(), length) }
                    } else {
                        let stride = view.stride(fast);
                        for (at, word) in buffer.iter_mut().enumerate() {
                            // SAFETY: the view guarantees that this element is readable; the read may be unaligned.
                            *word = unsafe { start.wrapping_offset(at as isize * stride).cast::<W>().read_unaligned() };
                        }
                        &buffer
                    };
                    (collector.line, collector.line_start) = ((plane * rows + row) as u64, 0);
                    stretches(words, |from, to, word| collector.take(from, to, word.bits()));
                }
            }
        }
        match collector.error {
            Some(error) => Err(error),
            None if collector.slab.spans.len() >= u32::MAX as usize => {
                Err(Error::Unsupported("one slab of planes has 2^32 - 1 or more spans".into()))
            }
            None => Ok(collector.slab),
        }
    }

    /// Join the slab's spans into components and sum over them. `strides` are the C-order strides of the walk axes.
    pub(crate) fn join(&mut self, shape: WalkShape, strides: [u64; 3], connectivity: Connectivity) {
        let mut parent: Vec<u32> = (0..self.spans.len() as u32).collect();
        let label = self.spans.first().map(|span| span.label);
        if self.spans.iter().all(|span| Some(span.label) == label) {
            self.join_neighbours::<false>(&mut parent, shape, connectivity);
        } else {
            self.join_neighbours::<true>(&mut parent, shape, connectivity);
        }
        self.sum_up(parent, shape, strides);
    }

    fn join_neighbours<const MANY: bool>(&self, parent: &mut [u32], shape: WalkShape, connectivity: Connectivity) {
        let rows = shape[1] as u64;
        let (near, far) = connectivity.reach();
        // Lines are in order, so a cursor that only moves forward finds the neighbours in the previous plane.
        let mut cursor = 0;
        for at in 0..self.lines.len() {
            let number = self.lines[at].number;
            let row = number % rows;
            if row > 0 && at > 0 && self.lines[at - 1].number == number - 1 {
                self.join_lines::<MANY>(parent, at - 1, at, near);
            }
            if number < rows {
                continue;
            }
            let below = number - rows;
            while self.lines[cursor].number + 1 < below {
                cursor += 1;
            }
            let mut neighbour = cursor;
            while self.lines[neighbour].number <= below + 1 && neighbour < at {
                let other = self.lines[neighbour].number;
                if other == below {
                    self.join_lines::<MANY>(parent, neighbour, at, near);
                } else if let Some(reach) = far
                    && ((other < below && row > 0) || (other > below && row + 1 < rows))
                {
                    self.join_lines::<MANY>(parent, neighbour, at, reach);
                }
                neighbour += 1;
            }
            // Flatten the trees here, so that the searches from the next lines are short.
            for index in self.line_range(at) {
                parent[index] = find(parent, index as u32);
            }
        }
    }

    /// The index range of the spans of line `lines[at]`.
    pub(crate) fn line_range(&self, at: usize) -> std::ops::Range<usize> {
        let end = self.lines.get(at + 1).map_or(self.spans.len(), |next| next.first as usize);
        self.lines[at].first as usize..end
    }

    #[inline]
    fn join_lines<const MANY: bool>(&self, parent: &mut [u32], earlier: usize, later: usize, reach: u32) {
        let (a, b) = (self.line_range(earlier), self.line_range(later));
        let (offset_a, offset_b) = (a.start as u32, b.start as u32);
        let meet = |i, j| union(parent, offset_a + i, offset_b + j);
        if MANY {
            touching(&self.spans[a], &self.spans[b], reach, meet);
        } else {
            touching_of_one_label(&self.spans[a], &self.spans[b], reach, meet);
        }
    }

    fn sum_up(&mut self, mut parent: Vec<u32>, shape: WalkShape, strides: [u64; 3]) {
        let rows = shape[1] as u64;
        for at in 0..self.lines.len() {
            let number = self.lines[at].number;
            let (plane, row) = (number / rows, number % rows);
            let line_first = plane * strides[0] + row * strides[1];
            for index in self.line_range(at) {
                let span = self.spans[index];
                // A root is the smallest index of its tree, so it has been met before its members.
                let component = if parent[index] as usize == index {
                    self.sums.push(Sums {
                        label: span.label,
                        voxels: 0,
                        spans: 0,
                        coordinates: [0; 3],
                        low: [u32::MAX; 3],
                        high: [0; 3],
                        first: u64::MAX,
                    });
                    self.sums.len() as u32 - 1
                } else {
                    // Parents precede their children and already hold component numbers.
                    parent[parent[index] as usize]
                };
                parent[index] = component;
                let sums = &mut self.sums[component as usize];
                let voxels = u64::from(span.end - span.start);
                sums.voxels += voxels;
                sums.spans += 1;
                sums.coordinates[0] += plane * voxels;
                sums.coordinates[1] += row * voxels;
                sums.coordinates[2] += (u64::from(span.start) + u64::from(span.end) - 1) * voxels / 2;
                let (low, high) = ([plane as u32, row as u32, span.start], [plane as u32, row as u32, span.end - 1]);
                for axis in 0..3 {
                    sums.low[axis] = sums.low[axis].min(low[axis]);
                    sums.high[axis] = sums.high[axis].max(high[axis]);
                }
                sums.first = sums.first.min(line_first + u64::from(span.start) * strides[2]);
            }
        }
        self.component = parent;
    }
}

/// Call `meet(i, j)` for each pair of spans with the same label that overlap, or miss each other by less than `reach`.
#[inline]
fn touching(a: &[Span], b: &[Span], reach: u32, mut meet: impl FnMut(u32, u32)) {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let (left, right) = (a[i], b[j]);
        if left.start < right.end + reach && right.start < left.end + reach && left.label == right.label {
            meet(i as u32, j as u32);
        }
        // The span that ends first has no further partner, unless the other's successor starts within its reach.
        match left.end.cmp(&right.end) {
            Ordering::Less => i += 1,
            Ordering::Greater => j += 1,
            Ordering::Equal => {
                // Both spans end here: each may still reach the other's successor.
                if let Some(next) = b.get(j + 1)
                    && next.start < left.end + reach
                    && next.label == left.label
                {
                    meet(i as u32, j as u32 + 1);
                }
                if let Some(next) = a.get(i + 1)
                    && next.start < right.end + reach
                    && next.label == right.label
                {
                    meet(i as u32 + 1, j as u32);
                }
                i += 1;
                j += 1;
            }
        }
    }
}

/// [`touching`] for spans that all have the same label. Such spans are never adjacent on a line. Noise would cause
/// branch mispredictions, so both sides advance by arithmetic instead of branches.
#[inline]
fn touching_of_one_label(a: &[Span], b: &[Span], reach: u32, mut meet: impl FnMut(u32, u32)) {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let (left, right) = (a[i], b[j]);
        #[allow(clippy::needless_bitwise_bool)]
        let touch = (left.start < right.end + reach) & (right.start < left.end + reach);
        if touch {
            meet(i as u32, j as u32);
        }
        i += usize::from(left.end <= right.end);
        j += usize::from(right.end <= left.end);
    }
}

/// Call `meet(i, j)` with the indices of touching spans in two neighbouring planes: the last plane of `below` and the
/// first plane of `above`.
pub(crate) fn touching_planes(
    below: &Slab,
    above: &Slab,
    plane: usize,
    shape: WalkShape,
    connectivity: Connectivity,
    mut meet: impl FnMut(usize, usize),
) {
    let rows = shape[1] as u64;
    let (near, far) = connectivity.reach();
    let (below_start, above_start) = ((plane as u64 - 1) * rows, plane as u64 * rows);
    let from = below.lines.partition_point(|line| line.number < below_start);
    let to = above.lines.partition_point(|line| line.number < above_start + rows);
    let mut cursor = from;
    for later in 0..to {
        let row = above.lines[later].number - above_start;
        while cursor < below.lines.len() && below.lines[cursor].number - below_start + 1 < row {
            cursor += 1;
        }
        for earlier in cursor..below.lines.len() {
            let other = below.lines[earlier].number - below_start;
            if other > row + 1 {
                break;
            }
            let Some(reach) = (if other == row { Some(near) } else { far }) else { continue };
            let (a, b) = (below.line_range(earlier), above.line_range(later));
            let (offset_a, offset_b) = (a.start, b.start);
            touching(&below.spans[a], &above.spans[b], reach, |i, j| {
                meet(offset_a + i as usize, offset_b + j as usize);
            });
        }
    }
}

fn find(parent: &mut [u32], mut node: u32) -> u32 {
    while parent[node as usize] != node {
        let above = parent[parent[node as usize] as usize];
        parent[node as usize] = above;
        node = above;
    }
    node
}

#[inline]
fn union(parent: &mut [u32], a: u32, b: u32) {
    if parent[a as usize] == parent[b as usize] {
        return;
    }
    let (a, b) = (find(parent, a), find(parent, b));
    if a < b {
        parent[b as usize] = a;
    } else if b < a {
        parent[a as usize] = b;
    }
}
