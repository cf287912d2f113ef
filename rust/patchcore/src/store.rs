//! The store: volumes as sharded, compressed, checksummed Zarr v3 arrays, and windows out of them.
//!
//! What is written is plain Zarr, which zarr-python and tensorstore open: shards of 24³ chunks, each Blosc (byte shuffle,
//! lz4hc) and then crc32c, an index with a crc32c of its own at the end of each shard, little-endian. Metadata
//! (`zarr.json`) is the caller's; here are the shard files. One file is one shard, written whole, and read by position.

mod array;
mod blosc;
mod cache;
mod decode;
mod foreign;
mod layout;
mod read;
mod write;

pub use array::{StoredArray, Verified};
pub use cache::ChunkCache;
pub use foreign::ForeignArray;
pub use layout::{CHUNK, Element, Layout};
pub use read::{Labels, Reading, Wanted, read_windows};
pub use write::{write_region, write_shard};
