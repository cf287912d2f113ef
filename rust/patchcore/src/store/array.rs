//! Reads the shards of an array: a shard is opened when it is first needed, and the checksum of a chunk is compared
//! when the chunk is first read.
//!
//! Which shards exist is known when the array is opened. Shards are opened relative to the folder that was opened then,
//! so an array that is replaced or deleted meanwhile is never mixed with its successor, and a shard that is gone is an
//! error, not air.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Resource, getrlimit};

use super::decode::{BytePlanes, Decoded, decode};
use super::layout::{CHUNK_VOXELS, Element, Layout, MISSING};
use crate::pool::Interrupt;
use crate::{Error, Result};

/// The most bytes of a chunk: its Blosc frame and its checksum.
const MOST_CHUNK_BYTES: u64 = 2 * CHUNK_VOXELS as u64 + 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Number of shard files and folders of arrays that this process keeps open.
static OPEN_FILES: AtomicUsize = AtomicUsize::new(0);

/// A shard as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownShard {
    /// Size of its file.
    pub bytes: u64,
    /// The checksum of its index; `None` if it is not known.
    pub checksum: Option<u32>,
}

/// An array of a store, open for reading.
#[derive(Debug)]
pub struct StoredArray<T> {
    folder: PathBuf,
    /// The folder that was opened, even if another one has its name by now. `None` if too many files are open: then it
    /// is opened again for each shard, and must be the same folder.
    opened: Option<OwnedFd>,
    /// Device and inode of the folder.
    place: (u64, u64),
    /// By number of the shard; `None` if all its voxels have the fill value.
    known: Vec<Option<KnownShard>>,
    pub(super) layout: Layout,
    pub(super) fill: T,
    /// A number that is unique for each array of the process.
    pub(super) id: u64,
    shards: Vec<OnceLock<Shard>>,
}

#[derive(Debug)]
pub(super) struct Shard {
    /// Kept open unless too many files are open: then it is opened again for each read.
    file: Option<File>,
    identity: Identity,
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
    /// Open the array in a folder. Each shard is opened when it is first needed.
    ///
    /// `known` has one entry per shard of the layout, in C order: the shards as they were written. Without it, the shards
    /// that exist now are the ones that belong to the array.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be opened or a shard cannot be examined, [`Error::Argument`] for a `known` of
    /// another length.
    pub fn open(folder: PathBuf, layout: Layout, fill: T, known: Option<Vec<Option<KnownShard>>>) -> Result<Self> {
        let (opened, place) = open_folder(&folder)?;
        let [a, b, c] = layout.shards();
        let count = a * b * c;
        let known = match known {
            Some(known) if known.len() == count => known,
            Some(known) => {
                return Err(Error::Argument(format!("{} known shards; the layout has {count}", known.len())));
            }
            None => (0..count)
                .map(|number| {
                    match rustix::fs::statat(&opened, layout.file(position(number, b, c)), rustix::fs::AtFlags::empty())
                    {
                        Ok(found) => Ok(Some(KnownShard { bytes: found.st_size as u64, checksum: None })),
                        Err(rustix::io::Errno::NOENT) => Ok(None),
                        Err(error) => Err(std::io::Error::from(error).into()),
                    }
                })
                .collect::<Result<_>>()?,
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let shards = (0..count).map(|_| OnceLock::new()).collect();
        let opened = may_stay_open().then_some(opened);
        Ok(Self { folder, opened, place, known, layout, fill, id, shards })
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
            let at = position(number, b, c);
            let Some(shard) = self.shard(at)? else { continue };
            seen.shards += 1;
            for (index, &(offset, length)) in shard.index.iter().enumerate() {
                if offset == MISSING {
                    continue;
                }
                interrupt.check()?;
                bytes.resize(length as usize, 0);
                self.read_shard(at, shard, &mut bytes, offset)?;
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

    /// The shard at a position in the grid of shards. `None` if the array has no such shard: all its voxels then have
    /// the fill value.
    pub(super) fn shard(&self, at: [usize; 3]) -> Result<Option<&Shard>> {
        let number = self.layout.shard_number(at) as usize;
        let Some(known) = self.known[number] else { return Ok(None) };
        if let Some(shard) = self.shards[number].get() {
            return Ok(Some(shard));
        }
        let opened = self
            .open_file(at)
            .and_then(|file| Shard::open(file, known, &self.layout))
            .map_err(|error| self.at_shard(at, error))?;
        Ok(Some(self.shards[number].get_or_init(|| opened)))
    }

    fn open_file(&self, at: [usize; 3]) -> Result<File> {
        let again;
        let folder = if let Some(opened) = &self.opened {
            opened
        } else {
            let (opened, place) = open_folder(&self.folder)?;
            if place != self.place {
                return Err(Error::Corrupt("the array was replaced while it was in use".into()));
            }
            again = opened;
            &again
        };
        match openat(folder, self.layout.file(at), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(File::from(file)),
            Err(rustix::io::Errno::NOENT) => {
                Err(Error::Corrupt("the shard file is missing: it was deleted after it was written".into()))
            }
            Err(error) => Err(std::io::Error::from(error).into()),
        }
    }

    /// Read bytes of a shard.
    pub(super) fn read_shard(&self, at: [usize; 3], shard: &Shard, bytes: &mut [u8], offset: u64) -> Result<()> {
        let again;
        let file = if let Some(file) = &shard.file {
            file
        } else {
            again = self.open_file(at).map_err(|error| self.at_shard(at, error))?;
            let found = again.metadata()?;
            if identity(&found) != shard.identity {
                return Err(self.at_shard(at, Error::Corrupt("the shard file was replaced while it was in use".into())));
            }
            &again
        };
        read_exact(file, bytes, offset).map_err(|error| self.at_shard(at, error))
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

/// Open the folder of an array; return it with its device and inode.
fn open_folder(folder: &std::path::Path) -> Result<(OwnedFd, (u64, u64))> {
    let opened = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(std::io::Error::from)?;
    let found = rustix::fs::fstat(&opened).map_err(std::io::Error::from)?;
    Ok((opened, (found.st_dev, found.st_ino)))
}

/// Whether one more file may stay open; it is then counted.
fn may_stay_open() -> bool {
    // Half of the files that a process may open are left to everything else.
    let most = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize / 2);
    let stays = OPEN_FILES.fetch_add(1, Ordering::Relaxed) < most;
    if !stays {
        OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
    }
    stays
}

/// The position of a shard in the grid of shards.
fn position(number: usize, b: usize, c: usize) -> [usize; 3] {
    [number / (b * c), number / c % b, number % c]
}

/// What tells a file from one that replaced it: device, inode, time and size.
type Identity = (u64, u64, i64, i64, u64);

fn identity(file: &std::fs::Metadata) -> Identity {
    (file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.len())
}

fn read_exact(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    Ok(file.read_exact_at(bytes, offset)?)
}

impl Shard {
    fn open(file: File, known: KnownShard, layout: &Layout) -> Result<Self> {
        let found = file.metadata()?;
        let length = found.len();
        if length != known.bytes {
            return Err(Error::Corrupt(format!(
                "the shard file has {length} bytes; it was written with {}",
                known.bytes
            )));
        }
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
        if known.checksum.is_some_and(|known| known.to_le_bytes() != checksum) {
            return Err(Error::Corrupt("the shard file belongs to another version of the array".into()));
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
        Ok(Self { file: may_stay_open().then_some(file), identity: identity(&found), index, verified })
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

impl Drop for Shard {
    fn drop(&mut self) {
        if self.file.is_some() {
            OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<T> Drop for StoredArray<T> {
    fn drop(&mut self) {
        if self.opened.is_some() {
            OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
