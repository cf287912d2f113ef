//! Inflates and measures a file in turns, a few planes at a time. Data that was just inflated is still in the core's
//! own cache when its spans are searched. Searching on a second thread was slower, because every byte had to move to
//! the cache of another core.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::header::{Header, is_version_2, parse_header};
use crate::components::{Components, Joiner, Walk};
use crate::decode::Decoder;
use crate::gzip::{Gunzip, MAGIC};
use crate::pool::Interrupt;
use crate::slab::{Connectivity, Slab};
use crate::view::View;
use crate::{Error, Result};

/// Bytes of a header of version 1 and of version 2.
const VERSION_1_BYTES: u64 = 348;
const VERSION_2_BYTES: u64 = 540;
/// Compressed bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Approximate number of inflated bytes that are processed at once. They fit into the cache of a core.
const CHUNK_BYTES: usize = 768 << 10;
/// Initial buffer size, before any voxels were read.
const FIRST_BYTES: usize = 64 << 10;
/// The highest compression ratio of deflate. A header that states more voxels than this allows is wrong.
const MOST_INFLATION: u64 = 1032;
/// Up to this many zero bytes after the voxels are padding. Anything else means that the header does not describe the
/// volume in the file.
const MOST_PADDING: u64 = 4 << 10;

/// For a `.hdr`/`.img` pair: the most bytes that are read after the header to reach the gzip checksum.
const MOST_EXTENSIONS: u64 = 64 << 20;

/// The operating system's error number for "is a directory".
const EISDIR: i32 = 21;

/// How a file may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// Gzip or plain, decided by the first bytes.
    Any,
    /// Always gzip.
    Gzip,
    /// Never compressed.
    None,
}

/// A file; its data is inflated if it is gzip.
struct Part<'a> {
    reader: Box<dyn Read + Send + 'a>,
    /// Number of bytes of the file as stored.
    length: u64,
    gzipped: bool,
}

/// A NIfTI volume with a header that was already read. `reader` returns the voxels.
pub(super) struct Opened<'a> {
    pub(super) header: Header,
    pub(super) reader: Box<dyn Read + Send + 'a>,
}

/// Read and check the header of a `.nii`, `.nii.gz` or `.hdr`/`.img` pair.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; the errors of [`parse_header`]; [`Error::Corrupt`] or [`Error::Header`] if
/// the file is shorter than the header says or its gzip data is damaged; [`Error::Unsupported`] if it is not a regular
/// file.
pub fn read_header(path: &Path) -> Result<Header> {
    open(path).map(|opened| opened.header)
}

/// Find the components of a label map in a file, without loading the whole volume into memory.
///
/// # Errors
/// As [`read_header`]; [`Error::Corrupt`] if the file ends early or fails its checksum,
/// [`Error::NonIntegralLabel`] for a fractional label, [`Error::Interrupted`] if asked to stop.
pub fn components_of_file(
    path: &Path,
    selected: Option<&[i64]>,
    connectivity: Connectivity,
    interrupt: &Interrupt,
) -> Result<(Components, Header)> {
    components_of_opened(open(path)?, selected, connectivity, interrupt)
}

/// Find the components of a label map in the bytes of a file, like [`components_of_file`].
///
/// `header` holds a complete `.nii` or `.nii.gz`, or the `.hdr` of a pair with `data` as the `.img`. In a pair both
/// parts are gzip, or neither is.
///
/// # Errors
/// As [`components_of_file`].
pub fn components_of_bytes(
    header: &[u8],
    data: Option<&[u8]>,
    selected: Option<&[i64]>,
    connectivity: Connectivity,
    interrupt: &Interrupt,
) -> Result<(Components, Header)> {
    let packing = if header.starts_with(&MAGIC) { Packing::Gzip } else { Packing::None };
    let opened = open_parts(
        || part_of(header, header.len() as u64, Packing::Any),
        || data.map(|data| part_of(data, data.len() as u64, packing)),
    )?;
    components_of_opened(opened, selected, connectivity, interrupt)
}

fn components_of_opened(
    Opened { header, mut reader }: Opened<'_>,
    selected: Option<&[i64]>,
    connectivity: Connectivity,
    interrupt: &Interrupt,
) -> Result<(Components, Header)> {
    let (slope, intercept) = header.scaling;
    let decoder = Decoder::new(header.kind, header.swapped, selected).scaled(slope, intercept);
    // Voxels are stored with the first axis fastest.
    let walk = Walk { order: [2, 1, 0], shape: header.shape };
    let plane_bytes = header.shape[0] as u64 * header.shape[1] as u64 * header.kind.size() as u64;
    let planes_a_chunk = (CHUNK_BYTES as u64 / plane_bytes).max(1) as usize;
    let mut joiner = Joiner::new(walk, connectivity);
    let mut chunk = Chunk::default();
    for first_plane in (0..header.shape[2]).step_by(planes_a_chunk) {
        interrupt.check()?;
        chunk.first_plane = first_plane;
        chunk.planes = planes_a_chunk.min(header.shape[2] - first_plane);
        read_words(&mut reader, &mut chunk.words, chunk.planes as u64 * plane_bytes, || {
            (first_plane as u64 * plane_bytes, header.data_bytes())
        })?;
        joiner.push(find_in_chunk(&chunk, &header, walk, &decoder, connectivity)?, first_plane);
    }
    read_to_checksum(&mut reader)?;
    Ok((Components { rounded: decoder.rounded(), ..joiner.finish()? }, header))
}

/// Read all voxels of a file without scaling, in this machine's byte order. The file is read to its last byte.
///
/// Returns the voxels as 64-bit words, so that they are aligned for every element type. The first axis is the fastest.
///
/// # Errors
/// As [`read_header`]; [`Error::Corrupt`] if the file ends early or fails its checksum, [`Error::Memory`],
/// [`Error::Interrupted`] if asked to stop.
pub fn read_voxels(path: &Path, interrupt: &Interrupt) -> Result<(Vec<u64>, Header)> {
    let Opened { header, mut reader } = open(path)?;
    let mut words = Vec::new();
    let mut stopping = Stopping { reader: &mut *reader, interrupt };
    let read = read_words(&mut stopping, &mut words, header.data_bytes(), || (0, header.data_bytes()));
    interrupt.check()?;
    read?;
    read_to_checksum(&mut reader)?;
    if header.swapped {
        swap_bytes(&mut words, header.kind.size());
    }
    Ok((words, header))
}

/// A reader that returns an error after the interrupt was raised.
struct Stopping<'a> {
    reader: &'a mut (dyn Read + Send),
    interrupt: &'a Interrupt,
}

impl Read for Stopping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.interrupt.is_raised() {
            return Err(std::io::Error::other("interrupted"));
        }
        let most = buffer.len().min(CHUNK_BYTES);
        self.reader.read(&mut buffer[..most])
    }
}

/// Swap the byte order of the elements in `words`.
fn swap_bytes(words: &mut [u64], size: usize) {
    for word in words {
        *word = match size {
            2 => (*word >> 8) & 0x00FF_00FF_00FF_00FF | (*word << 8) & 0xFF00_FF00_FF00_FF00,
            4 => word.swap_bytes().rotate_left(32),
            8 => word.swap_bytes(),
            _ => *word,
        };
    }
}

/// A few planes of voxels, stored as 64-bit words, so that they are aligned for every element type.
#[derive(Default)]
struct Chunk {
    words: Vec<u64>,
    first_plane: usize,
    planes: usize,
}

fn find_in_chunk(
    chunk: &Chunk,
    header: &Header,
    walk: Walk,
    decoder: &Decoder,
    connectivity: Connectivity,
) -> Result<Slab> {
    let size = header.kind.size() as isize;
    let [x, y, _] = header.shape;
    let strides = [size, size * x as isize, size * (x * y) as isize];
    let shape = [x, y, chunk.planes];
    // SAFETY: the chunk holds `planes` planes, first axis fastest, and is aligned to 8 bytes.
    let view = unsafe { View::from_raw(chunk.words.as_ptr().cast(), shape, strides, header.kind, header.swapped) }?;
    let mut slab = Slab::find(&view, walk.order, 0..chunk.planes, decoder)?;
    let first_line = (chunk.first_plane * y) as u64;
    for line in &mut slab.lines {
        line.number += first_line;
    }
    slab.join(walk.walk_shape(), walk.strides(), connectivity);
    Ok(slab)
}

pub(super) fn read_words(
    reader: &mut dyn Read,
    words: &mut Vec<u64>,
    bytes: u64,
    progress: impl Fn() -> (u64, u64),
) -> Result<()> {
    let bytes = usize::try_from(bytes)
        .map_err(|_| Error::Memory(format!("the voxels need {bytes} bytes, more than this machine can address")))?;
    let mut filled = 0;
    while filled < bytes {
        // The buffer doubles as bytes arrive, so a wrong header alone cannot allocate much memory.
        let wanted = bytes.min((2 * filled).max(FIRST_BYTES).max(8 * words.len()));
        if 8 * words.len() < wanted {
            let more = wanted.div_ceil(8) - words.len();
            let none = |_| Error::Memory(format!("not enough memory for {wanted} bytes of voxels"));
            words.try_reserve_exact(more).map_err(none)?;
            words.resize(wanted.div_ceil(8), 0);
        }
        // SAFETY: the vector holds at least `wanted` initialised bytes, and any byte pattern is a valid u64.
        let buffer = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), wanted) };
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => {
                let (before, total) = progress();
                let found = before + filled as u64;
                return Err(Error::Corrupt(format!("the file ends after {found} of {total} bytes of voxels")));
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(describe(error)),
        }
    }
    Ok(())
}

/// Inflate a gzip file with zlib-rs, discard the data and return its number of bytes. Benchmarks compare file readers
/// with this function.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Corrupt`] if it is damaged, [`Error::Interrupted`] if asked to
/// stop.
pub fn inflated_bytes(path: &Path, interrupt: &Interrupt) -> Result<u64> {
    let mut reader = MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, File::open(path)?));
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut total = 0;
    loop {
        interrupt.check()?;
        match reader.read(&mut buffer).map_err(describe)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

/// Read the bytes after the voxels. In a gzip file this reaches and compares the checksum. Bytes that are not padding
/// are an error.
pub(super) fn read_to_checksum(reader: &mut dyn Read) -> Result<()> {
    let mut rest = Vec::new();
    reader.take(MOST_PADDING + 1).read_to_end(&mut rest).map_err(describe)?;
    if rest.len() as u64 > MOST_PADDING || rest.iter().any(|&byte| byte != 0) {
        let more = if rest.len() as u64 > MOST_PADDING { "at least " } else { "" };
        return Err(Error::Header(format!(
            "{more}{} bytes follow the voxels that the header describes; the header is wrong or the file is damaged",
            rest.len()
        )));
    }
    Ok(())
}

/// Convert an I/O error. The inflater reports a damaged stream as an I/O error of one of these kinds.
fn describe(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            Error::Corrupt(format!("the gzip data is damaged: {error}"))
        }
        ErrorKind::UnexpectedEof => Error::Corrupt("the gzip data ends early".into()),
        _ => Error::Io(error),
    }
}

pub(super) fn open(path: &Path) -> Result<Opened<'static>> {
    let header_path = sibling(path, "img", "hdr");
    let data_path = sibling(&header_path, "hdr", "img");
    // Plain voxels have no magic number: labels may begin with the same bytes as gzip, and a broken gzip file must not
    // be read as labels. So the file name decides.
    let gzip = data_path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let packing = if gzip { Packing::Gzip } else { Packing::None };
    let data = || (data_path != header_path).then(|| open_file(&data_path, packing));
    open_parts(|| open_file(&header_path, Packing::Any), data)
}

/// Read the header from the file that `first` opens, and move to the first voxel, in the same file or in the file that
/// `second` opens.
fn open_parts<'a>(
    first: impl FnOnce() -> Result<Part<'a>>,
    second: impl FnOnce() -> Option<Result<Part<'a>>>,
) -> Result<Opened<'a>> {
    let mut bytes = Vec::new();
    let mut opened = first()?;
    opened.reader.by_ref().take(VERSION_1_BYTES).read_to_end(&mut bytes).map_err(describe)?;
    if is_version_2(&bytes) {
        opened.reader.by_ref().take(VERSION_2_BYTES - VERSION_1_BYTES).read_to_end(&mut bytes).map_err(describe)?;
    }
    let header = parse_header(&bytes)?;
    let mut ahead = bytes.len() as u64;
    let Part { mut reader, length, gzipped } = if header.single_file {
        opened
    } else {
        ahead = 0;
        // Header extensions may follow. Reading to the end also checks the gzip checksum.
        std::io::copy(&mut opened.reader.take(MOST_EXTENSIONS), &mut std::io::sink()).map_err(describe)?;
        let missing =
            || Error::Header("the header says that the voxels are in a second file (.img), but there is none".into());
        second().ok_or_else(missing)??
    };
    let needed = header.data_offset.saturating_add(header.data_bytes());
    if gzipped && needed > length.saturating_mul(MOST_INFLATION).saturating_add(1024) {
        return Err(Error::Header(format!(
            "shape {:?} needs {needed} bytes, more than {length} bytes of gzip can hold; the header or the file is \
             damaged",
            header.shape
        )));
    }
    if !gzipped && needed > length {
        return Err(Error::Corrupt(format!(
            "shape {:?} needs {needed} bytes, but the file has {length}; the file ends early or the header is damaged",
            header.shape
        )));
    }
    // In a single file the voxels begin after the header; parse_header ensures this.
    let gap = header.data_offset - ahead;
    if std::io::copy(&mut reader.by_ref().take(gap), &mut std::io::sink()).map_err(describe)? < gap {
        return Err(Error::Corrupt("the file ends before the first voxel".into()));
    }
    Ok(Opened { header, reader })
}

/// Open a regular file; its data is inflated if it is gzip.
fn open_file(path: &Path, packing: Packing) -> Result<Part<'static>> {
    // Check before opening: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(Error::Io(std::io::Error::from_raw_os_error(EISDIR)));
    }
    if !metadata.is_file() {
        return Err(Error::Unsupported("a pipe or a device, not a regular file".into()));
    }
    part_of(BufReader::with_capacity(READ_BYTES, File::open(path)?), metadata.len(), packing)
}

fn part_of<'a>(mut stored: impl BufRead + Send + 'a, length: u64, packing: Packing) -> Result<Part<'a>> {
    let gzipped = packing != Packing::None && stored.fill_buf()?.starts_with(&MAGIC);
    if packing == Packing::Gzip && !gzipped {
        return Err(Error::Corrupt("the name of the voxel file ends with .gz, but the file is not gzip".into()));
    }
    let reader: Box<dyn Read + Send> = if gzipped { Box::new(Gunzip::new(stored)) } else { Box::new(stored) };
    Ok(Part { reader, length, gzipped })
}

/// The path of the other file of a pair, for example `case.img.gz` for `case.hdr.gz`. Any other path is returned
/// unchanged.
fn sibling(path: &Path, from: &str, to: &str) -> PathBuf {
    // Names are bytes: a name from an old disk is often not UTF-8.
    let Some(name) = path.file_name().map(OsStrExt::as_bytes) else { return path.to_path_buf() };
    for suffix in ["", ".gz"] {
        let ending = format!(".{from}{suffix}");
        let Some(start) = name.len().checked_sub(ending.len()) else { continue };
        if name[start..].eq_ignore_ascii_case(ending.as_bytes()) {
            let (stem, extension) = name.split_at(start + 1);
            let to = if extension[0].is_ascii_uppercase() { to.to_ascii_uppercase() } else { to.to_owned() };
            let named = |parts: [&[u8]; 3]| path.with_file_name(OsStr::from_bytes(&parts.concat()));
            let (plain, zipped) = (named([stem, to.as_bytes(), b""]), named([stem, to.as_bytes(), b".gz"]));
            return if !plain.exists() && zipped.exists() { zipped } else { plain };
        }
    }
    path.to_path_buf()
}
