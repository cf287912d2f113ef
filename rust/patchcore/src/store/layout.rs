//! Describes how an array is divided into shards and chunks.

use crate::{Error, Result};

/// Voxels of a chunk along each axis: 27 KiB of int16. Compared with chunks of 32³, chunks of 24³ decode a sixth fewer
/// voxels around a window, with 1 % more bytes on disk. Smaller chunks cost more per chunk than they save.
pub const CHUNK: [usize; 3] = [24, 24, 24];
/// Number of voxels of a chunk.
pub(super) const CHUNK_VOXELS: usize = CHUNK[0] * CHUNK[1] * CHUNK[2];

/// An element type that a store can contain.
pub trait Element: Copy + Default + PartialEq + Send + Sync + 'static {
    /// The values as little-endian bytes.
    fn bytes_of(values: &[Self]) -> &[u8];
    /// Combine the low and the high byte. A one-byte type ignores `high`.
    fn join(low: u8, high: u8) -> Self;
}

macro_rules! element {
    ($($type:ty),*) => { $(impl Element for $type {
        fn bytes_of(values: &[Self]) -> &[u8] {
            const { assert!(cfg!(target_endian = "little"), "stores are little-endian") };
            // SAFETY: an integer has no padding, so every byte may be read.
            unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
        }
        #[inline(always)]
        #[allow(clippy::inline_always)] // must be inlined into loops that are compiled for several vector widths
        fn join(low: u8, high: u8) -> Self {
            (u16::from(high) << 8 | u16::from(low)) as $type
        }
    })* };
}
element!(u8, i16);

/// The most shards of an array. Each shard takes some memory, and wrong metadata could state any number.
const MOST_SHARDS: usize = 1 << 20;

/// The shape of an array and the shape of its shards [voxels].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(super) shape: [usize; 3],
    pub(super) shard: [usize; 3],
}

impl Layout {
    /// Create a layout and check both shapes.
    ///
    /// # Errors
    /// [`Error::Argument`] if an edge is 0 or too large, if the shard is not a multiple of [`CHUNK`], or if there are
    /// too many chunks or shards.
    pub fn new(shape: [usize; 3], shard: [usize; 3]) -> Result<Self> {
        let sane = |n: usize| n > 0 && n < 1 << 24;
        if !shape.iter().all(|&n| sane(n))
            || !(0..3).all(|axis| sane(shard[axis]) && shard[axis].is_multiple_of(CHUNK[axis]))
        {
            return Err(Error::Argument(format!(
                "array shape {shape:?} with shard shape {shard:?}; expected edges from 1 to 2^24 - 1, and shard edges \
                 that are multiples of {CHUNK:?}"
            )));
        }
        let chunks = (0..3).try_fold(1usize, |product, axis| product.checked_mul(shard[axis] / CHUNK[axis]));
        if chunks.is_none_or(|chunks| chunks > 1 << 24) {
            return Err(Error::Argument(format!("shard shape {shard:?} has too many chunks; expected at most 2^24")));
        }
        let shards = (0..3).try_fold(1usize, |product, axis| product.checked_mul(shape[axis].div_ceil(shard[axis])));
        if shards.is_none_or(|shards| shards > MOST_SHARDS) {
            return Err(Error::Argument(format!(
                "array shape {shape:?} with shard shape {shard:?} has too many shards; expected at most 2^20"
            )));
        }
        Ok(Self { shape, shard })
    }

    /// Number of voxels of the array along each axis.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of voxels of a shard along each axis.
    #[must_use]
    pub fn shard(&self) -> [usize; 3] {
        self.shard
    }

    /// Number of shards along each axis.
    #[must_use]
    pub fn shards(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shape[axis].div_ceil(self.shard[axis]))
    }

    /// The number of a shard in C order.
    pub(super) fn shard_number(&self, [i, j, k]: [usize; 3]) -> u32 {
        let [_, b, c] = self.shards();
        ((i * b + j) * c + k) as u32
    }

    /// Number of chunks of a shard along each axis.
    pub(super) fn chunks_a_shard(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shard[axis] / CHUNK[axis])
    }

    /// Path of a shard's file, relative to the array's folder.
    #[must_use]
    pub fn file(&self, [i, j, k]: [usize; 3]) -> String {
        format!("c/{i}/{j}/{k}")
    }

    /// Number of entries in a shard's index.
    pub(super) fn chunk_count(&self) -> usize {
        self.chunks_a_shard().iter().product()
    }

    /// Number of bytes of a shard's index: offset and length of each chunk, and a checksum.
    pub(super) fn index_bytes(&self) -> usize {
        16 * self.chunk_count() + 4
    }
}

/// Offset and length of a chunk that is not stored, because all its voxels have the fill value.
pub(super) const MISSING: u64 = u64::MAX;
