//! How an array is cut into shards and chunks.

use crate::{Error, Result};

/// Voxels of a chunk along each axis: 27 KiB of int16. Of a window's neighbourhood, chunks of 24³ decode a sixth less than
/// those of 32³, at 1 % more bytes; smaller ones lose more a chunk than they save.
pub const CHUNK: [usize; 3] = [24, 24, 24];
/// Voxels of a chunk.
pub(super) const CHUNK_VOXELS: usize = CHUNK[0] * CHUNK[1] * CHUNK[2];

/// What a store holds one of a voxel.
pub trait Element: Copy + Default + PartialEq + Send + Sync + 'static {
    /// As little-endian bytes.
    fn bytes_of(values: &[Self]) -> &[u8];
    /// From its bytes, the lowest first; one of a single byte has no `high`.
    fn join(low: u8, high: u8) -> Self;
}

macro_rules! element {
    ($($type:ty),*) => { $(impl Element for $type {
        fn bytes_of(values: &[Self]) -> &[u8] {
            const { assert!(cfg!(target_endian = "little"), "stores are little-endian") };
            // SAFETY: an integer has no padding, and any of its bytes may be read.
            unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
        }
        #[inline(always)]
        #[allow(clippy::inline_always)] // it has to become part of loops that are compiled for several vector widths
        fn join(low: u8, high: u8) -> Self {
            (u16::from(high) << 8 | u16::from(low)) as $type
        }
    })* };
}
element!(u8, i16);

/// Shards of an array at most: each takes some memory, and metadata may claim anything.
const MOST_SHARDS: usize = 1 << 20;

/// Shape of an array and of its shards, voxels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(super) shape: [usize; 3],
    pub(super) shard: [usize; 3],
}

impl Layout {
    /// Check an array's shape and that of its shards.
    ///
    /// # Errors
    /// [`Error::Argument`] if an edge is 0 or absurd, or a shard no multiple of [`CHUNK`].
    pub fn new(shape: [usize; 3], shard: [usize; 3]) -> Result<Self> {
        let sane = |n: usize| n > 0 && n < 1 << 24;
        if !shape.iter().all(|&n| sane(n))
            || !(0..3).all(|axis| sane(shard[axis]) && shard[axis].is_multiple_of(CHUNK[axis]))
        {
            return Err(Error::Argument(format!(
                "an array of {shape:?} in shards of {shard:?}; shards are multiples of {CHUNK:?}"
            )));
        }
        let chunks = (0..3).try_fold(1usize, |product, axis| product.checked_mul(shard[axis] / CHUNK[axis]));
        if chunks.is_none_or(|chunks| chunks > 1 << 24) {
            return Err(Error::Argument(format!("shards of {shard:?} hold too many chunks")));
        }
        let shards = (0..3).try_fold(1usize, |product, axis| product.checked_mul(shape[axis].div_ceil(shard[axis])));
        if shards.is_none_or(|shards| shards > MOST_SHARDS) {
            return Err(Error::Argument(format!("an array of {shape:?} in shards of {shard:?} has too many of them")));
        }
        Ok(Self { shape, shard })
    }

    /// Voxels of the array along each axis.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Voxels of a shard along each axis.
    #[must_use]
    pub fn shard(&self) -> [usize; 3] {
        self.shard
    }

    /// Shards along each axis.
    #[must_use]
    pub fn shards(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shape[axis].div_ceil(self.shard[axis]))
    }

    /// Number of a shard, C order.
    pub(super) fn shard_number(&self, [i, j, k]: [usize; 3]) -> u32 {
        let [_, b, c] = self.shards();
        ((i * b + j) * c + k) as u32
    }

    /// Chunks of a shard along each axis.
    pub(super) fn chunks_a_shard(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shard[axis] / CHUNK[axis])
    }

    /// Name of a shard's file below the array's folder.
    #[must_use]
    pub fn file(&self, [i, j, k]: [usize; 3]) -> String {
        format!("c/{i}/{j}/{k}")
    }

    /// Entries of a shard's index.
    pub(super) fn chunk_count(&self) -> usize {
        self.chunks_a_shard().iter().product()
    }

    /// Bytes of a shard's index: offset and length of each chunk, and a checksum.
    pub(super) fn index_bytes(&self) -> usize {
        16 * self.chunk_count() + 4
    }
}

/// Offset and length of a chunk that holds nothing but the fill value.
pub(super) const MISSING: u64 = u64::MAX;
