//! Reads windows from shards. Reads of neighbouring chunks are merged. Each chunk is decoded into a buffer of the
//! thread, and then clipped, scaled and written to the window while it is in the processor's cache.

// Inlining is needed so that one loop can be compiled for several vector widths: see `place`.
#![allow(clippy::inline_always)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::array::{Shard, StoredArray};
use super::cache::ChunkCache;
use super::decode::{BytePlanes, Decoded};
use super::layout::{CHUNK, CHUNK_VOXELS, Element, MISSING};
use crate::windows::extract::{Intensity, check_range};
use crate::windows::pixel::{As, Intensities, Label, Pixel, Raw, Scale};
use crate::{Error, Result, pool};

/// If the gap between two chunks is at most this many bytes, one read covers both chunks and the gap.
const GAP_BYTES: u64 = 16 << 10;
/// The most bytes of one read, unless a single chunk is larger.
const MOST_READ_BYTES: u64 = 4 << 20;

/// A requested window: its array and the index of its first voxel.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a, T> {
    /// The array to read.
    pub array: &'a StoredArray<T>,
    /// Array index of the window's first voxel; it may lie outside the array.
    pub corner: [i64; 3],
}

/// Options for reading a batch.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Shape of a window [voxels].
    pub size: [usize; 3],
    /// Number of threads; `None` uses all cores. The result does not depend on it.
    pub threads: Option<usize>,
    /// Cache for decoded chunks.
    pub cache: Option<&'a ChunkCache>,
}

/// Requested label windows and their output buffer.
#[derive(Debug)]
pub struct Labels<'w, 'a, 'o> {
    /// The requested windows.
    pub windows: &'w [Wanted<'a, u8>],
    /// Output buffer: all windows one after the other, C order.
    pub out: &'o mut [u8],
}

/// Read a batch of image windows into `out`, one after the other in C order. HU are clipped and scaled according to
/// [`Intensity`]. If `labels` are given, also read windows of class indices; labels outside their array are 0.
///
/// `intensity` has one entry for all windows, or one entry per window. Either all entries scale, or none does.
///
/// # Errors
/// [`Error::Window`] if a buffer has the wrong size, the number of intensities is wrong or a range is invalid;
/// [`Error::Corrupt`] with the file for a damaged chunk; [`Error::Io`].
pub fn read_windows<O: Intensities>(
    windows: &[Wanted<'_, i16>],
    intensity: &[Intensity],
    out: &mut [O],
    labels: Option<Labels<'_, '_, '_>>,
    reading: Reading<'_>,
) -> Result<()> {
    let (mut ranges, mut paddings) = (Vec::new(), Vec::new());
    for one in intensity {
        match *one {
            Intensity::Scaled(range) => {
                check_range(range)?;
                ranges.push(As::<_, O>(Scale::<i16, f32>::new(range), PhantomData));
            }
            Intensity::Raw(padding) => {
                paddings.push(As::<_, O>(Raw::<i16> { padding, voxel: PhantomData }, PhantomData));
            }
        }
    }
    let count = intensity.len();
    if (count != 1 && count != windows.len()) || !(ranges.is_empty() || paddings.is_empty()) {
        return Err(Error::Window(format!(
            "{count} intensities for {} windows; expected one in total or one per window, all scaled or all raw",
            windows.len()
        )));
    }
    let mut images = || {
        if ranges.is_empty() {
            fill_windows(windows, |n| paddings[if count == 1 { 0 } else { n }], out, reading)
        } else {
            fill_windows(windows, |n| ranges[if count == 1 { 0 } else { n }], out, reading)
        }
    };
    let labels = || {
        labels.map_or(Ok(()), |labels| fill_windows(labels.windows, |_| Label::<u8>(PhantomData), labels.out, reading))
    };
    if reading.threads == Some(1) {
        return images().and_then(|()| labels());
    }
    let (images, labels) = pool::install(reading.threads, || rayon::join(images, labels));
    images.and(labels)
}

/// Chunks of one window that are processed by one thread.
struct Job<'a> {
    window: usize,
    chunks: Chunks<'a>,
}

enum Chunks<'a> {
    /// Chunks to read together: number in the shard and array index of the first voxel of each chunk, in file order.
    Stored { at: [usize; 3], shard: &'a Shard, chunks: Vec<(usize, [usize; 3])> },
    /// Decoded chunks from the cache, with the array index of the first voxel of each chunk.
    Cached(Vec<(Arc<[u8]>, [usize; 3])>),
}

/// The output of one window. Several threads write to it, each only the voxels of its own chunks.
#[derive(Clone, Copy)]
struct Out<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: jobs write voxels of different chunks, so no element is written by two jobs.
unsafe impl<T: Send> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Out<T> {}

impl<T> Out<T> {
    fn new(out: &mut [T]) -> Self {
        Self { start: out.as_mut_ptr(), length: out.len() }
    }
}

/// Fill a batch of windows. This function runs in the rayon pool in which it is called.
fn fill_windows<P: Pixel<In: Element>>(
    windows: &[Wanted<'_, P::In>],
    pixel: impl Fn(usize) -> P + Sync,
    out: &mut [P::Out],
    reading: Reading<'_>,
) -> Result<()> {
    let size = reading.size;
    let voxels = size.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).filter(|&n| n > 0);
    let expected = voxels.and_then(|n| n.checked_mul(windows.len()));
    let (Some(voxels), true) = (voxels, expected == Some(out.len())) else {
        return Err(Error::Window(format!(
            "{} windows of {size:?} and a buffer of {} elements; expected a buffer with the size of all windows",
            windows.len(),
            out.len()
        )));
    };
    let mut outs: Vec<&mut [P::Out]> = out.chunks_exact_mut(voxels).collect();
    if reading.threads == Some(1) {
        return windows.iter().zip(outs).enumerate().try_for_each(|(number, (window, out))| {
            let pixel = pixel(number);
            let jobs = Plan { number, window, reading, pixel, out }.jobs()?;
            let out = Out::new(out);
            jobs.iter().try_for_each(|job| run(window, pixel, job, out, reading))
        });
    }
    let planned: Vec<Result<Vec<Job<'_>>>> = (windows.par_iter().zip(&mut outs).enumerate())
        .map(|(number, (window, out))| Plan { number, window, reading, pixel: pixel(number), out }.jobs())
        .collect();
    let jobs: Vec<Job<'_>> = planned.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let outs: Vec<Out<P::Out>> = outs.into_iter().map(Out::new).collect();
    // Collect all results first, so that the reported error is always the first one, whichever thread found it.
    let done: Vec<Result<()>> = jobs
        .par_iter()
        .map(|job| run(&windows[job.window], pixel(job.window), job, outs[job.window], reading))
        .collect();
    done.into_iter().collect()
}

/// Finds the chunks that must be read for a window. Voxels without a stored chunk are written at once: padding, and
/// voxels with the fill value.
struct Plan<'w, 'a, 'o, P: Pixel> {
    number: usize,
    window: &'w Wanted<'a, P::In>,
    reading: Reading<'w>,
    pixel: P,
    out: &'o mut [P::Out],
}

impl<'a, P: Pixel<In: Element>> Plan<'_, 'a, '_, P> {
    fn jobs(self) -> Result<Vec<Job<'a>>> {
        let (array, corner, size) = (self.window.array, self.window.corner, self.reading.size);
        let layout = &array.layout;
        let inside: [Range<usize>; 3] = std::array::from_fn(|axis| {
            let low = corner[axis].clamp(0, layout.shape[axis] as i64);
            let end = corner[axis].saturating_add(size[axis] as i64);
            low as usize..end.clamp(low, layout.shape[axis] as i64) as usize
        });
        let mut padded = (0..3).any(|axis| inside[axis].len() < size[axis]);
        if padded {
            self.out.fill(self.pixel.padding());
        }
        let mut jobs = Vec::new();
        if inside.iter().any(Range::is_empty) {
            return Ok(jobs);
        }
        let mut missing = Vec::new();
        let over = |range: &Range<usize>, edge: usize| range.start / edge..range.end.div_ceil(edge);
        let shards: [Range<usize>; 3] = std::array::from_fn(|axis| over(&inside[axis], layout.shard[axis]));
        for i in shards[0].clone() {
            for j in shards[1].clone() {
                for k in shards[2].clone() {
                    self.plan_shard([i, j, k], &inside, &mut jobs, &mut missing)?;
                }
            }
        }
        // The fill value is converted like any other voxel.
        let value = self.pixel.convert(array.fill);
        if value == self.pixel.padding() {
            if !missing.is_empty() && !padded {
                self.out.fill(value);
                padded = true;
            }
            if padded {
                return Ok(jobs);
            }
        }
        for chunk in missing {
            let meeting = Meeting { window: corner, size, shape: layout.shape, chunk };
            meeting.each_row(|to, _, length| self.out[to..to + length].fill(value));
        }
        Ok(jobs)
    }

    /// List the chunks of one shard that must be read, and the first voxels of missing chunks.
    fn plan_shard(
        &self,
        at: [usize; 3],
        inside: &[Range<usize>; 3],
        jobs: &mut Vec<Job<'a>>,
        missing: &mut Vec<[usize; 3]>,
    ) -> Result<()> {
        let array = self.window.array;
        let layout = &array.layout;
        let counts = layout.chunks_a_shard();
        let shard = array.shard(at)?;
        let chunks: [Range<usize>; 3] = std::array::from_fn(|axis| {
            let first = at[axis] * layout.shard[axis];
            let range = inside[axis].start.max(first)..inside[axis].end.min(first + layout.shard[axis]);
            (range.start - first) / CHUNK[axis]..(range.end - first).div_ceil(CHUNK[axis])
        });
        let (mut found, mut cached) = (Vec::new(), Vec::new());
        for i in chunks[0].clone() {
            for j in chunks[1].clone() {
                for k in chunks[2].clone() {
                    let local = [i, j, k];
                    let corner = std::array::from_fn(|axis| at[axis] * layout.shard[axis] + local[axis] * CHUNK[axis]);
                    let chunk = (i * counts[1] + j) * counts[2] + k;
                    if shard.is_none_or(|shard| shard.index[chunk].0 == MISSING) {
                        missing.push(corner);
                        continue;
                    }
                    let key = (array.id, layout.shard_number(at), chunk as u32);
                    match self.reading.cache.and_then(|cache| cache.get(key)) {
                        Some(bytes) => cached.push((bytes, corner)),
                        None => found.push((chunk, corner)),
                    }
                }
            }
        }
        if !cached.is_empty() {
            jobs.push(Job { window: self.number, chunks: Chunks::Cached(cached) });
        }
        let Some(shard) = shard else { return Ok(()) };
        found.sort_unstable_by_key(|&(chunk, _)| shard.index[chunk].0);
        let mut rest = found.into_iter().peekable();
        while let Some(first) = rest.next() {
            let (start, length) = shard.index[first.0];
            let mut end = start + length;
            let mut chunks = vec![first];
            while let Some(next) = rest.next_if(|&(chunk, _)| {
                let (offset, length) = shard.index[chunk];
                offset >= end && offset - end <= GAP_BYTES && offset + length - start <= MOST_READ_BYTES
            }) {
                end = shard.index[next.0].0 + shard.index[next.0].1;
                chunks.push(next);
            }
            jobs.push(Job { window: self.number, chunks: Chunks::Stored { at, shard, chunks } });
        }
        Ok(())
    }
}

/// A window and a chunk of one array.
struct Meeting {
    /// Array index of the window's first voxel, and the window's size.
    window: [i64; 3],
    size: [usize; 3],
    /// Shape of the array.
    shape: [usize; 3],
    /// Array index of the chunk's first voxel.
    chunk: [usize; 3],
}

impl Meeting {
    /// Number of leading voxels of the chunk that the window needs.
    fn needed(&self) -> usize {
        let end = self.window[0].saturating_add(self.size[0] as i64).min(self.shape[0] as i64);
        let planes = (end - self.chunk[0] as i64).clamp(0, CHUNK[0] as i64) as usize;
        planes * CHUNK[1] * CHUNK[2]
    }

    /// Call `row(to, from, length)` for each part of a chunk row that lies in the window and in the array: start in the
    /// window, start in the chunk, number of voxels.
    #[inline(always)]
    fn each_row(&self, mut row: impl FnMut(usize, usize, usize)) {
        let &Self { window, size, shape, chunk } = self;
        let common: [Range<i64>; 3] = std::array::from_fn(|axis| {
            let first = chunk[axis] as i64;
            let end = (first + CHUNK[axis] as i64).min(shape[axis] as i64);
            first.max(window[axis])..end.min(window[axis].saturating_add(size[axis] as i64))
        });
        if common.iter().any(Range::is_empty) {
            return;
        }
        let length = (common[2].end - common[2].start) as usize;
        let inner = |axis: usize, at: i64| (at - chunk[axis] as i64) as usize;
        let outer = |axis: usize, at: i64| (at - window[axis]) as usize;
        for i in common[0].clone() {
            for j in common[1].clone() {
                let to = (outer(0, i) * size[1] + outer(1, j)) * size[2] + outer(2, common[2].start);
                let from = (inner(0, i) * CHUNK[1] + inner(1, j)) * CHUNK[2] + inner(2, common[2].start);
                row(to, from, length);
            }
        }
    }
}

/// Buffers of one thread.
struct Scratch {
    bytes: Vec<u8>,
    planes: BytePlanes,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch { bytes: Vec::new(), planes: BytePlanes::new() });
}

fn run<P: Pixel<In: Element>>(
    window: &Wanted<'_, P::In>,
    pixel: P,
    job: &Job<'_>,
    out: Out<P::Out>,
    reading: Reading<'_>,
) -> Result<()> {
    let array = window.array;
    let meeting =
        |chunk: [usize; 3]| Meeting { window: window.corner, size: reading.size, shape: array.layout.shape, chunk };
    let (at, shard, chunks) = match &job.chunks {
        Chunks::Cached(chunks) => {
            for (bytes, corner) in chunks {
                let (low, high) = bytes.split_at(CHUNK_VOXELS);
                place(pixel, Decoded { low, high }, &meeting(*corner), out);
            }
            return Ok(());
        }
        Chunks::Stored { at, shard, chunks } => (*at, shard, chunks),
    };
    SCRATCH.with_borrow_mut(|scratch| {
        let with_path = |error| array.at_shard(at, error);
        let start = shard.index[chunks[0].0].0;
        let (offset, length) = shard.index[chunks[chunks.len() - 1].0];
        let total = usize::try_from(offset + length - start)
            .map_err(|_| Error::Memory("the shard is too large for this machine".into()))?;
        if scratch.bytes.len() < total {
            let more = total - scratch.bytes.len();
            let none = |_| Error::Memory(format!("not enough memory for {total} bytes of chunks"));
            scratch.bytes.try_reserve(more).map_err(none)?;
            scratch.bytes.resize(total, 0);
        }
        let bytes = &mut scratch.bytes[..total];
        array.read_shard(at, shard, bytes, start)?;
        for &(number, corner) in chunks {
            let (offset, length) = shard.index[number];
            let from = (offset - start) as usize;
            let meeting = meeting(corner);
            let needed = if reading.cache.is_some() { CHUNK_VOXELS } else { meeting.needed() };
            let bytes = &bytes[from..from + length as usize];
            let decoded = shard.decode::<P::In>(number, bytes, needed, &mut scratch.planes).map_err(with_path)?;
            if let Some(cache) = reading.cache {
                cache.put((array.id, array.layout.shard_number(at), number as u32), [decoded.low, decoded.high]);
            }
            place(pixel, decoded, &meeting, out);
        }
        Ok(())
    })
}

/// Convert the voxels of a chunk that lie in a window.
fn place<P: Pixel<In: Element>>(pixel: P, chunk: Decoded<'_>, meeting: &Meeting, out: Out<P::Out>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn fast<P: Pixel<In: Element>>(pixel: P, chunk: Decoded<'_>, meeting: &Meeting, out: Out<P::Out>) {
            place_any(pixel, chunk, meeting, out);
        }
        // SAFETY: the processor has AVX2.
        return unsafe { fast(pixel, chunk, meeting, out) };
    }
    place_any(pixel, chunk, meeting, out);
}

#[inline(always)]
fn place_any<P: Pixel<In: Element>>(pixel: P, chunk: Decoded<'_>, meeting: &Meeting, out: Out<P::Out>) {
    meeting.each_row(|to, from, length| {
        debug_assert!(to + length <= out.length);
        // SAFETY: the row lies in the window, and no other chunk has voxels in this row part.
        let row = unsafe { std::slice::from_raw_parts_mut(out.start.add(to), length) };
        let low = &chunk.low[from..from + length];
        if size_of::<P::In>() == 1 {
            for (out, &low) in row.iter_mut().zip(low) {
                *out = pixel.convert(P::In::join(low, 0));
            }
        } else {
            let high = &chunk.high[from..from + length];
            for ((out, &low), &high) in row.iter_mut().zip(low).zip(high) {
                *out = pixel.convert(P::In::join(low, high));
            }
        }
    });
}
