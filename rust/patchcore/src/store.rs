//! Stores volumes as sharded, compressed, checksummed Zarr v3 arrays, and reads windows from them.
//!
//! The format is plain Zarr, which zarr-python and tensorstore can open. A shard consists of chunks of 24³ voxels. Each
//! chunk is compressed by Blosc (byte shuffle, lz4hc) and followed by a crc32c. The shard ends with an index that has
//! its own crc32c. Numbers are little-endian. The caller writes the metadata (`zarr.json`); this module handles the
//! shard files. One file is one shard; it is written as a whole and read by position.

mod array;
mod blosc;
mod cache;
mod decode;
mod foreign;
mod layout;
mod read;
mod write;

pub use array::{KnownShard, StoredArray, Verified};
pub use cache::ChunkCache;
pub use foreign::ForeignArray;
pub use layout::{CHUNK, Element, Layout};
pub use read::{Labels, Reading, Wanted, read_windows};
pub use write::{write_region, write_shard};
