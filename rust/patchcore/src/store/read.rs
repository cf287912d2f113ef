//! Windows out of shards: positioned reads merged over neighbouring chunks, each chunk decoded into the thread's own buffer
//! and from there clipped, scaled and placed while it is in the cache.

use std::fs::File;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::blosc;
use super::layout::{CHUNK, CHUNK_VOXELS, Element, Layout, MISSING};
use crate::pool::Interrupt;
use crate::windows::extract::{Intensity, check_range};
use crate::windows::pixel::{Label, Pixel, Raw, Scale};
use crate::{Error, Result, pool};

/// Bytes between two chunks that are read along rather than asked for anew.
const GAP_BYTES: u64 = 16 << 10;
/// Bytes read at once at most, unless a single chunk has more.
const MOST_READ_BYTES: u64 = 4 << 20;

/// An array of a store, open for reading.
#[derive(Debug)]
pub struct StoredArray<T> {
    folder: PathBuf,
    layout: Layout,
    fill: T,
    shards: Vec<OnceLock<Option<Shard>>>,
}

#[derive(Debug)]
struct Shard {
    file: File,
    /// Offset and length of each chunk.
    index: Vec<(u64, u64)>,
    /// One bit a chunk: its checksum was compared.
    verified: Vec<AtomicU64>,
}

/// What a look at every chunk has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Shard files that are there.
    pub shards: u64,
    /// Chunks that are there.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl<T: Element> StoredArray<T> {
    /// Open the array in a folder. Shards are opened when they are first needed, and stay open.
    #[must_use]
    pub fn new(folder: PathBuf, layout: Layout, fill: T) -> Self {
        let shards = layout.shards().iter().product();
        Self { folder, layout, fill, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    /// Voxels along each axis.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape
    }

    /// Read every chunk that is there and compare its checksum.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the first damaged chunk, which it names; [`Error::Io`], [`Error::Interrupted`].
    pub fn verify(&self, interrupt: &Interrupt) -> Result<Verified> {
        let mut seen = Verified::default();
        let [a, b, c] = self.layout.shards();
        let (mut bytes, mut chunk) = (Vec::new(), vec![self.fill; CHUNK_VOXELS]);
        for number in 0..a * b * c {
            let at = [number / (b * c), number / c % b, number % c];
            let Some(shard) = self.shard(at)? else { continue };
            seen.shards += 1;
            for (index, &(offset, length)) in shard.index.iter().enumerate() {
                if offset == MISSING {
                    continue;
                }
                interrupt.check()?;
                bytes.resize(length as usize, 0);
                read_exact(&shard.file, &mut bytes, offset).map_err(|error| self.at_shard(at, error))?;
                shard.verified[index / 64].fetch_and(!(1 << (index % 64)), Ordering::Relaxed);
                shard.decode(index, &bytes, &mut chunk).map_err(|error| self.at_shard(at, error))?;
                seen.chunks += 1;
                seen.bytes += length;
            }
        }
        Ok(seen)
    }

    /// The shard at a place in the grid of shards; none where no file is: all of it has the fill value.
    fn shard(&self, at: [usize; 3]) -> Result<Option<&Shard>> {
        let [_, b, c] = self.layout.shards();
        let slot = &self.shards[(at[0] * b + at[1]) * c + at[2]];
        if let Some(shard) = slot.get() {
            return Ok(shard.as_ref());
        }
        let path = self.folder.join(self.layout.file(at));
        let opened = Shard::open(&path, &self.layout).map_err(|error| self.at_shard(at, error))?;
        Ok(slot.get_or_init(|| opened).as_ref())
    }

    /// Say which shard an error was met in.
    fn at_shard(&self, at: [usize; 3], error: Error) -> Error {
        let file = self.folder.join(self.layout.file(at));
        match error {
            Error::Corrupt(what) => Error::Corrupt(format!("{}: {what}", file.display())),
            Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Error::Corrupt(format!("{}: the shard ends early", file.display()))
            }
            other => other,
        }
    }
}

fn read_exact(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    Ok(file.read_exact_at(bytes, offset)?)
}

impl Shard {
    fn open(path: &Path, layout: &Layout) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let length = file.metadata()?.len();
        let index_bytes = layout.index_bytes() as u64;
        let data_bytes = length
            .checked_sub(index_bytes)
            .ok_or_else(|| Error::Corrupt(format!("{length} bytes are no shard: its index alone has {index_bytes}")))?;
        let mut bytes: Vec<u8> = crate::error::room(Some(layout.index_bytes()), "a shard's index")?;
        bytes.resize(layout.index_bytes(), 0);
        read_exact(&file, &mut bytes, data_bytes)?;
        let (entries, checksum) = bytes.split_at(16 * layout.chunk_count());
        if crc32c::crc32c(entries).to_le_bytes() != checksum {
            return Err(Error::Corrupt("the checksum of the shard's index does not match".into()));
        }
        let mut index = Vec::with_capacity(layout.chunk_count());
        for entry in entries.as_chunks::<16>().0 {
            let word = |from: usize| u64::from_le_bytes(std::array::from_fn(|n| entry[from + n]));
            let (offset, length) = (word(0), word(8));
            let missing = offset == MISSING && length == MISSING;
            // A chunk's length is bounded by the file's, so that no memory is taken for what is not there.
            if !missing && (length <= 4 || offset.checked_add(length).is_none_or(|end| end > data_bytes)) {
                return Err(Error::Corrupt(format!("chunk {} lies beyond the shard", index.len())));
            }
            index.push((offset, length));
        }
        let verified = (0..index.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Some(Self { file, index, verified }))
    }

    /// Decode the bytes of chunk `number`, checked when it is met for the first time.
    fn decode<T: Element>(&self, number: usize, bytes: &[u8], out: &mut [T]) -> Result<()> {
        let (data, checksum) = bytes.split_at(bytes.len() - 4);
        let (word, bit) = (&self.verified[number / 64], 1u64 << (number % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            if crc32c::crc32c(data).to_le_bytes() != checksum {
                return Err(Error::Corrupt(format!("the checksum of chunk {number} does not match")));
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        blosc::decompress(data, T::bytes_of_mut(out)).map_err(|error| match error {
            Error::Corrupt(what) => Error::Corrupt(format!("chunk {number}: {what}")),
            other => other,
        })
    }
}

/// A window that is wanted: of which array, and the index of its first voxel, anywhere.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a, T> {
    /// The array.
    pub array: &'a StoredArray<T>,
    /// Array index of the window's first voxel; may lie outside.
    pub corner: [i64; 3],
}

/// Chunks of one window that are read together.
struct Job<'a> {
    window: usize,
    shard_at: [usize; 3],
    shard: &'a Shard,
    /// Number in the shard, and array index of the first voxel, of each chunk; in the order of the file.
    chunks: Vec<(usize, [usize; 3])>,
}

/// One window's output, written by several threads, each its own chunks' voxels.
#[derive(Clone, Copy)]
struct Out<T> {
    start: *mut T,
    length: usize,
}

// SAFETY: jobs write voxels of different chunks, so that no element is written by two of them.
unsafe impl<T: Send> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Out<T> {}

/// Fill a batch of windows of one `size`; `out` holds them one behind the other, C order.
///
/// # Errors
/// [`Error::Window`] if `out` does not fit, [`Error::Corrupt`] for a damaged chunk, naming its file, [`Error::Io`].
fn fill_windows<P: Pixel<In: Element>>(
    windows: &[Wanted<'_, P::In>],
    size: [usize; 3],
    pixel: P,
    out: &mut [P::Out],
    threads: Option<usize>,
) -> Result<()> {
    let voxels = size.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).filter(|&n| n > 0);
    let expected = voxels.and_then(|n| n.checked_mul(windows.len()));
    let (Some(voxels), true) = (voxels, expected == Some(out.len())) else {
        return Err(Error::Window(format!(
            "{} windows of {size:?} and a buffer of {} elements; expected one that holds them all",
            windows.len(),
            out.len()
        )));
    };
    let mut outs: Vec<&mut [P::Out]> = out.chunks_exact_mut(voxels).collect();
    let run =
        |scratch: &mut Scratch<P::In>, job: &Job<'_>, out| scratch.run(&windows[job.window], size, pixel, job, out);
    if threads == Some(1) {
        let mut scratch = Scratch::new();
        return windows.iter().zip(outs).enumerate().try_for_each(|(number, (window, out))| {
            let jobs = plan(number, window, size, pixel, out)?;
            let out = Out::new(out);
            jobs.iter().try_for_each(|job| run(&mut scratch, job, out))
        });
    }
    pool::install(threads, || {
        let planned: Vec<Result<Vec<Job<'_>>>> = (windows.par_iter().zip(&mut outs).enumerate())
            .map(|(number, (window, out))| plan(number, window, size, pixel, out))
            .collect();
        let jobs: Vec<Job<'_>> = planned.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let outs: Vec<Out<P::Out>> = outs.into_iter().map(Out::new).collect();
        // All results are gathered first, so that the error told is the first one whatever thread met it.
        let done: Vec<Result<()>> =
            jobs.par_iter().map_init(Scratch::new, |scratch, job| run(scratch, job, outs[job.window])).collect();
        done.into_iter().collect()
    })
}

impl<T> Out<T> {
    fn new(out: &mut [T]) -> Self {
        Self { start: out.as_mut_ptr(), length: out.len() }
    }
}

/// List the reads of a window; what no chunk covers is written here: padding, and what only holds the fill value.
fn plan<'a, P: Pixel<In: Element>>(
    number: usize,
    window: &Wanted<'a, P::In>,
    size: [usize; 3],
    pixel: P,
    out: &mut [P::Out],
) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    let layout = &window.array.layout;
    let inside: [Range<usize>; 3] = std::array::from_fn(|axis| {
        let low = window.corner[axis].clamp(0, layout.shape[axis] as i64);
        let end = window.corner[axis].saturating_add(size[axis] as i64);
        low as usize..end.clamp(low, layout.shape[axis] as i64) as usize
    });
    if (0..3).any(|axis| inside[axis].len() < size[axis]) {
        out.fill(pixel.padding());
    }
    if inside.iter().any(Range::is_empty) {
        return Ok(jobs);
    }
    let over = |range: &Range<usize>, edge: usize| range.start / edge..range.end.div_ceil(edge);
    let shards: [Range<usize>; 3] = std::array::from_fn(|axis| over(&inside[axis], layout.shard[axis]));
    for i in shards[0].clone() {
        for j in shards[1].clone() {
            for k in shards[2].clone() {
                plan_shard(number, window, [i, j, k], &inside, size, pixel, out, &mut jobs)?;
            }
        }
    }
    Ok(jobs)
}

#[allow(clippy::too_many_arguments)]
fn plan_shard<'a, P: Pixel<In: Element>>(
    number: usize,
    window: &Wanted<'a, P::In>,
    at: [usize; 3],
    inside: &[Range<usize>; 3],
    size: [usize; 3],
    pixel: P,
    out: &mut [P::Out],
    jobs: &mut Vec<Job<'a>>,
) -> Result<()> {
    let layout = &window.array.layout;
    let counts = layout.chunks_a_shard();
    let shard = window.array.shard(at)?;
    let chunks: [Range<usize>; 3] = std::array::from_fn(|axis| {
        let first = at[axis] * layout.shard[axis];
        let range = inside[axis].start.max(first)..inside[axis].end.min(first + layout.shard[axis]);
        (range.start - first) / CHUNK[axis]..(range.end - first).div_ceil(CHUNK[axis])
    });
    let mut found: Vec<(usize, [usize; 3])> = Vec::new();
    for i in chunks[0].clone() {
        for j in chunks[1].clone() {
            for k in chunks[2].clone() {
                let local = [i, j, k];
                let corner = std::array::from_fn(|axis| at[axis] * layout.shard[axis] + local[axis] * CHUNK[axis]);
                let chunk = (i * counts[1] + j) * counts[2] + k;
                if shard.is_some_and(|shard| shard.index[chunk].0 != MISSING) {
                    found.push((chunk, corner));
                } else {
                    // The fill value is a voxel like any other.
                    let value = pixel.convert(window.array.fill);
                    let meeting = Meeting { window: window.corner, size, shape: layout.shape, chunk: corner };
                    meeting.each_row(|to, _, length| {
                        out[to..to + length].fill(value);
                    });
                }
            }
        }
    }
    let Some(shard) = shard else { return Ok(()) };
    found.sort_unstable_by_key(|&(chunk, _)| shard.index[chunk].0);
    let mut rest = found.into_iter().peekable();
    while let Some(first) = rest.next() {
        let (start, length) = shard.index[first.0];
        let mut end = start + length;
        let mut job = Job { window: number, shard_at: at, shard, chunks: vec![first] };
        while let Some(next) = rest.next_if(|&(chunk, _)| {
            let (offset, length) = shard.index[chunk];
            offset >= end && offset - end <= GAP_BYTES && offset + length - start <= MOST_READ_BYTES
        }) {
            end = shard.index[next.0].0 + shard.index[next.0].1;
            job.chunks.push(next);
        }
        jobs.push(job);
    }
    Ok(())
}

/// Read a batch of windows of HU, clipped and scaled as [`Intensity`] says, `out` as [`fill_windows`] has it.
///
/// Results do not depend on `threads` (default: all cores).
///
/// # Errors
/// [`Error::Window`] if `out` does not fit or the range is empty, [`Error::Corrupt`] for a damaged chunk, naming its
/// file, [`Error::Io`].
pub fn read_windows(
    windows: &[Wanted<'_, i16>],
    size: [usize; 3],
    intensity: Intensity,
    out: &mut [f32],
    threads: Option<usize>,
) -> Result<()> {
    match intensity {
        Intensity::Scaled(range) => {
            check_range(range)?;
            fill_windows(windows, size, Scale::<i16, f32>::new(range), out, threads)
        }
        Intensity::Raw(padding) => {
            fill_windows(windows, size, Raw::<i16> { padding, voxel: PhantomData }, out, threads)
        }
    }
}

/// Read a batch of windows of class indices; what lies outside is 0.
///
/// # Errors
/// As [`read_windows`].
pub fn read_label_windows(
    windows: &[Wanted<'_, u8>],
    size: [usize; 3],
    out: &mut [u8],
    threads: Option<usize>,
) -> Result<()> {
    fill_windows(windows, size, Label::<u8>(PhantomData), out, threads)
}

/// A window and a chunk of one array.
struct Meeting {
    /// Array index of the window's first voxel, and the window's size.
    window: [i64; 3],
    size: [usize; 3],
    /// The array's.
    shape: [usize; 3],
    /// Array index of the chunk's first voxel.
    chunk: [usize; 3],
}

impl Meeting {
    /// Call `row(to, from, length)` for each row of the chunk that lies in the window and in the array: where it begins
    /// in the window, where in the chunk, and its voxels.
    #[inline(always)]
    #[allow(clippy::inline_always)]
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

/// A thread's own buffers.
struct Scratch<T> {
    bytes: Vec<u8>,
    chunk: Vec<T>,
}

impl<T: Element> Scratch<T> {
    fn new() -> Self {
        Self { bytes: Vec::new(), chunk: vec![T::default(); CHUNK_VOXELS] }
    }

    fn run<P: Pixel<In = T>>(
        &mut self,
        window: &Wanted<'_, T>,
        size: [usize; 3],
        pixel: P,
        job: &Job<'_>,
        out: Out<P::Out>,
    ) -> Result<()> {
        let tell = |error| window.array.at_shard(job.shard_at, error);
        let entry = |at: usize| job.shard.index[job.chunks[at].0];
        let start = entry(0).0;
        let (offset, length) = entry(job.chunks.len() - 1);
        let total = usize::try_from(offset + length - start).map_err(|_| Error::Memory("a shard too large".into()))?;
        if self.bytes.len() < total {
            let more = total - self.bytes.len();
            self.bytes
                .try_reserve(more)
                .map_err(|_| Error::Memory(format!("no memory for {total} bytes of chunks")))?;
            self.bytes.resize(total, 0);
        }
        let bytes = &mut self.bytes[..total];
        read_exact(&job.shard.file, bytes, start).map_err(tell)?;
        for &(number, corner) in &job.chunks {
            let (offset, length) = job.shard.index[number];
            let from = (offset - start) as usize;
            job.shard.decode(number, &bytes[from..from + length as usize], &mut self.chunk).map_err(tell)?;
            let meeting = Meeting { window: window.corner, size, shape: window.array.layout.shape, chunk: corner };
            place(pixel, &self.chunk, &meeting, out);
        }
        Ok(())
    }
}

/// Convert what of a chunk lies in a window.
fn place<P: Pixel>(pixel: P, chunk: &[P::In], meeting: &Meeting, out: Out<P::Out>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn fast<P: Pixel>(pixel: P, chunk: &[P::In], meeting: &Meeting, out: Out<P::Out>) {
            place_any(pixel, chunk, meeting, out);
        }
        // SAFETY: the processor has AVX2.
        return unsafe { fast(pixel, chunk, meeting, out) };
    }
    place_any(pixel, chunk, meeting, out);
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn place_any<P: Pixel>(pixel: P, chunk: &[P::In], meeting: &Meeting, out: Out<P::Out>) {
    meeting.each_row(|to, from, length| {
        debug_assert!(to + length <= out.length);
        // SAFETY: the row lies in the window, and no other chunk has voxels in it.
        let row = unsafe { std::slice::from_raw_parts_mut(out.start.add(to), length) };
        for (out, &voxel) in row.iter_mut().zip(&chunk[from..from + length]) {
            *out = pixel.convert(voxel);
        }
    });
}
