//! Writes shards: the chunks of a shard are encoded in parallel and then written to one file.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rayon::prelude::*;

use super::blosc;
use super::layout::{CHUNK, CHUNK_VOXELS, Element, Layout, MISSING};
use crate::pool::Interrupt;
use crate::view::View;
use crate::{Error, Result};

/// Write one complete shard of an array and sync it to disk. Chunks with only `fill` are not stored.
///
/// `region` is the part of the array that the shard covers, in array order, with any strides. Returns the number of
/// bytes written. If no chunk is stored, no file is created.
///
/// # Errors
/// [`Error::Argument`] if the region does not match the shard, [`Error::Io`] if the shard cannot be written,
/// [`Error::Memory`], [`Error::Interrupted`].
pub fn write_shard<T: Element>(
    folder: &Path,
    layout: &Layout,
    shard: [usize; 3],
    region: &View<'_>,
    fill: T,
    interrupt: &Interrupt,
) -> Result<u64> {
    let shards = layout.shards();
    let expected: [usize; 3] = std::array::from_fn(|axis| {
        layout.shard[axis].min(layout.shape[axis].saturating_sub(shard[axis] * layout.shard[axis]))
    });
    if (0..3).any(|axis| shard[axis] >= shards[axis])
        || region.shape() != expected
        || region.kind().size() != size_of::<T>()
        || region.is_swapped()
    {
        return Err(Error::Argument(format!(
            "the region has shape {:?} for shard {shard:?} of {shards:?}; expected shape {expected:?}, the element \
             type of the array and this machine's byte order",
            region.shape()
        )));
    }
    let counts = layout.chunks_a_shard();
    let chunks: Vec<Vec<u8>> = (0..layout.chunk_count())
        .into_par_iter()
        .map_init(
            || vec![fill; CHUNK_VOXELS],
            |buffer, number| {
                interrupt.check()?;
                let at = [number / (counts[1] * counts[2]), number / counts[2] % counts[1], number % counts[2]];
                let mut out = Vec::new();
                if gather(region, std::array::from_fn(|axis| at[axis] * CHUNK[axis]), fill, buffer) {
                    blosc::compress(T::bytes_of(buffer), size_of::<T>(), &mut out)?;
                    let checksum = crc32c::crc32c(&out);
                    out.extend_from_slice(&checksum.to_le_bytes());
                    out.shrink_to_fit();
                }
                Ok(out)
            },
        )
        .collect::<Result<_>>()?;
    if chunks.iter().all(Vec::is_empty) {
        return Ok(0);
    }
    let mut index = Vec::with_capacity(layout.index_bytes());
    let mut offset = 0;
    for chunk in &chunks {
        let length = chunk.len() as u64;
        let (at, length) = if length == 0 { (MISSING, MISSING) } else { (offset, length) };
        index.extend_from_slice(&at.to_le_bytes());
        index.extend_from_slice(&length.to_le_bytes());
        offset += chunk.len() as u64;
    }
    let checksum = crc32c::crc32c(&index);
    index.extend_from_slice(&checksum.to_le_bytes());
    let path = folder.join(layout.file(shard));
    std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
    let mut file = File::create(&path)?;
    for chunk in &chunks {
        file.write_all(chunk)?;
    }
    file.write_all(&index)?;
    file.sync_all()?;
    Ok(offset + index.len() as u64)
}

/// Write the shards that a part of an array covers. Along each axis the part must begin at the start of a shard, and
/// must end at the end of a shard or of the array. Returns the number of bytes written.
///
/// # Errors
/// As [`write_shard`].
pub fn write_region<T: Element>(
    folder: &Path,
    layout: &Layout,
    view: &View<'_>,
    start: [usize; 3],
    fill: T,
    interrupt: &Interrupt,
) -> Result<u64> {
    let shard = layout.shard();
    if (0..3).any(|axis| !start[axis].is_multiple_of(shard[axis])) {
        return Err(Error::Argument(format!(
            "the region starts at {start:?}; expected multiples of the shard shape {shard:?}"
        )));
    }
    let counts: [usize; 3] = std::array::from_fn(|axis| view.shape()[axis].div_ceil(shard[axis]));
    let mut written = 0;
    for i in 0..counts[0] {
        for j in 0..counts[1] {
            for k in 0..counts[2] {
                let local = [i, j, k];
                let from: [usize; 3] = std::array::from_fn(|axis| local[axis] * shard[axis]);
                let size = std::array::from_fn(|axis| shard[axis].min(view.shape()[axis] - from[axis]));
                let at = std::array::from_fn(|axis| start[axis] / shard[axis] + local[axis]);
                written += write_shard(folder, layout, at, &view.part(from, size), fill, interrupt)?;
            }
        }
    }
    Ok(written)
}

/// Copy a chunk from a region. Voxels beyond the region get the fill value. Returns whether any voxel differs from
/// `fill`.
fn gather<T: Element>(region: &View<'_>, corner: [usize; 3], fill: T, chunk: &mut [T]) -> bool {
    let shape = region.shape();
    let size: [usize; 3] = std::array::from_fn(|axis| CHUNK[axis].min(shape[axis].saturating_sub(corner[axis])));
    if size.contains(&0) {
        return false;
    }
    if size != CHUNK {
        chunk.fill(fill);
    }
    let strides: [isize; 3] = std::array::from_fn(|axis| region.stride(axis));
    let start = region.at(corner);
    // Read along the axis with the smaller stride, so that memory is read one cache line at a time.
    let fast = if strides[0].unsigned_abs() < strides[2].unsigned_abs() { 0 } else { 2 };
    let slow = 2 - fast;
    let steps = [CHUNK[1] * CHUNK[2], CHUNK[2], 1];
    for a in 0..size[slow] {
        for b in 0..size[1] {
            let line = start.wrapping_offset(a as isize * strides[slow] + b as isize * strides[1]);
            let to = a * steps[slow] + b * steps[1];
            for n in 0..size[fast] {
                let address = line.wrapping_offset(n as isize * strides[fast]);
                // SAFETY: the index lies in the region, and its elements have the size of T; the read may be unaligned.
                chunk[to + n * steps[fast]] = unsafe { address.cast::<T>().read_unaligned() };
            }
        }
    }
    chunk.iter().any(|&value| value != fill)
}
