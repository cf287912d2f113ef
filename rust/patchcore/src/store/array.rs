//! Reads the shards of an array: a shard is opened when it is first needed, and the checksum of a chunk is compared
//! when the chunk is first read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::decode::{BytePlanes, Decoded, decode};
use super::layout::{CHUNK_VOXELS, Element, Layout, MISSING};
use crate::pool::Interrupt;
use crate::{Error, Result};

/// The most bytes of a chunk: its Blosc frame and its checksum.
const MOST_CHUNK_BYTES: u64 = 2 * CHUNK_VOXELS as u64 + 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// An array of a store, open for reading.
#[derive(Debug)]
pub struct StoredArray<T> {
    folder: PathBuf,
    pub(super) layout: Layout,
    pub(super) fill: T,
    /// A number that is unique for each array of the process.
    pub(super) id: u64,
    shards: Vec<OnceLock<Option<Shard>>>,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) file: File,
    /// Offset and length of each chunk.
    pub(super) index: Vec<(u64, u64)>,
    /// One bit per chunk: whether its checksum was compared.
    verified: Vec<AtomicU64>,
}

/// The counts of a verification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Number of existing shard files.
    pub shards: u64,
    /// Number of stored chunks.
    pub chunks: u64,
    /// Number of bytes of these chunks.
    pub bytes: u64,
}

impl<T: Element> StoredArray<T> {
    /// Open the array in a folder. Each shard is opened when it is first needed, and stays open.
    #[must_use]
    pub fn new(folder: PathBuf, layout: Layout, fill: T) -> Self {
        let shards = layout.shards().iter().product();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { folder, layout, fill, id, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    /// Number of voxels along each axis.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape
    }

    /// Read every stored chunk and compare its checksum.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the first damaged chunk, with its file and number; [`Error::Io`], [`Error::Interrupted`].
    pub fn verify(&self, interrupt: &Interrupt) -> Result<Verified> {
        let mut seen = Verified::default();
        let [a, b, c] = self.layout.shards();
        let (mut bytes, mut planes) = (Vec::new(), BytePlanes::new());
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
                shard
                    .decode::<T>(index, &bytes, CHUNK_VOXELS, &mut planes)
                    .map_err(|error| self.at_shard(at, error))?;
                seen.chunks += 1;
                seen.bytes += length;
            }
        }
        Ok(seen)
    }

    /// The shard at a position in the grid of shards. `None` if there is no file: all its voxels then have the fill
    /// value.
    pub(super) fn shard(&self, at: [usize; 3]) -> Result<Option<&Shard>> {
        let [_, b, c] = self.layout.shards();
        let slot = &self.shards[(at[0] * b + at[1]) * c + at[2]];
        if let Some(shard) = slot.get() {
            return Ok(shard.as_ref());
        }
        let path = self.folder.join(self.layout.file(at));
        let opened = Shard::open(&path, &self.layout).map_err(|error| self.at_shard(at, error))?;
        Ok(slot.get_or_init(|| opened).as_ref())
    }

    /// Add the path of the shard to an error.
    pub(super) fn at_shard(&self, at: [usize; 3], error: Error) -> Error {
        let file = self.folder.join(self.layout.file(at));
        match error {
            Error::Corrupt(what) => Error::Corrupt(format!("{}: {what}", file.display())),
            Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Error::Corrupt(format!("{}: the shard file ends early", file.display()))
            }
            other => other,
        }
    }
}

pub(super) fn read_exact(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
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
        let data_bytes = length.checked_sub(index_bytes).ok_or_else(|| {
            Error::Corrupt(format!("the shard file has {length} bytes, fewer than its index of {index_bytes} bytes"))
        })?;
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
            // The length of a chunk is checked against the file, so that a damaged index cannot allocate much memory.
            if !missing
                && (length <= 4
                    || length > MOST_CHUNK_BYTES
                    || offset.checked_add(length).is_none_or(|end| end > data_bytes))
            {
                return Err(Error::Corrupt(format!("the index entry of chunk {} is invalid", index.len())));
            }
            index.push((offset, length));
        }
        let verified = (0..index.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Some(Self { file, index, verified }))
    }

    /// Decode the bytes of chunk `number`, at least its first `needed` voxels. The checksum is compared at the first
    /// call for the chunk.
    pub(super) fn decode<'a, T: Element>(
        &self,
        number: usize,
        bytes: &'a [u8],
        needed: usize,
        planes: &'a mut BytePlanes,
    ) -> Result<Decoded<'a>> {
        let (data, checksum) = bytes.split_at(bytes.len() - 4);
        let (word, bit) = (&self.verified[number / 64], 1u64 << (number % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            if crc32c::crc32c(data).to_le_bytes() != checksum {
                return Err(Error::Corrupt(format!("the checksum of chunk {number} does not match")));
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
        decode::<T>(data, needed, planes).map_err(|error| match error {
            Error::Corrupt(what) => Error::Corrupt(format!("chunk {number}: {what}")),
            other => other,
        })
    }
}
