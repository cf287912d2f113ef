//! Inflating and measuring in turns, some planes at a time: what was just inflated is still in the core's own cache when
//! its spans are looked for. A second thread for that was slower: it took every byte through another core's cache.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
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

/// A header of each version.
const VERSION_1_BYTES: u64 = 348;
const VERSION_2_BYTES: u64 = 540;
/// Compressed bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Inflated bytes that are looked at at once, about: they fit a core's cache.
const CHUNK_BYTES: usize = 768 << 10;
/// Room for voxels before any has arrived.
const FIRST_BYTES: usize = 64 << 10;
/// Deflate cannot shrink data further than this; a header that promises more voxels is lying.
const MOST_INFLATION: u64 = 1032;
/// Zeros after the voxels, up to this many bytes, are padding. Anything else means that the header describes another
/// volume than the file holds.
const MOST_PADDING: u64 = 4 << 10;

/// Bytes after the header of a pair that are read, to reach the gzip checksum.
const MOST_EXTENSIONS: u64 = 64 << 20;

/// The system's number for "is a directory".
const EISDIR: i32 = 21;

/// How a file may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// As its first bytes say.
    Any,
    /// As gzip.
    Gzip,
    /// As it is.
    None,
}

/// A file, inflated where it is gzip.
struct Part<'a> {
    reader: Box<dyn Read + Send + 'a>,
    /// Bytes of the file as it is stored.
    length: u64,
    gzipped: bool,
}

/// A NIfTI volume whose header was read: voxels follow from `reader`.
pub(super) struct Opened<'a> {
    pub(super) header: Header,
    pub(super) reader: Box<dyn Read + Send + 'a>,
}

/// Read and check the header of a `.nii`, `.nii.gz` or `.hdr`/`.img` pair.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Header`], [`Error::Unsupported`] and [`Error::Corrupt`] as
/// [`parse_header`], or if the file is shorter than the header says.
pub fn read_header(path: &Path) -> Result<Header> {
    open(path).map(|opened| opened.header)
}

/// Find the components of a label map in a file, without ever holding it whole.
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

/// Find the components of a label map in a file that lies in memory; as [`components_of_file`] does.
///
/// `header` holds a `.nii` or `.nii.gz` whole, or the `.hdr` of a pair whose `.img` is `data`; both are gzip, or none.
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
    Ok((joiner.finish()?, header))
}

/// Read all voxels of a file, as they are stored but in this machine's byte order: to its last byte.
///
/// Returns them in words, so that they are aligned for every element type; the first axis is the fastest.
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

/// A reader that fails once it is asked to stop.
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

/// Turn the elements in `words` to the other byte order.
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

/// Some planes of voxels; words, so that they are aligned for every element type.
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
    let bytes = usize::try_from(bytes).map_err(|_| Error::Memory(format!("one plane needs {bytes} bytes")))?;
    let mut filled = 0;
    while filled < bytes {
        // Doubled as bytes arrive: a header alone takes no memory.
        let wanted = bytes.min((2 * filled).max(FIRST_BYTES).max(8 * words.len()));
        if 8 * words.len() < wanted {
            let more = wanted.div_ceil(8) - words.len();
            let none = |_| Error::Memory(format!("no memory for {wanted} bytes of voxels"));
            words.try_reserve_exact(more).map_err(none)?;
            words.resize(wanted.div_ceil(8), 0);
        }
        // SAFETY: the vector holds at least `wanted` initialised bytes, and any byte pattern is a valid u64.
        let buffer = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), wanted) };
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => {
                let (before, total) = progress();
                let found = before + filled as u64;
                return Err(Error::Corrupt(format!("ends after {found} of {total} bytes of voxels")));
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(describe(error)),
        }
    }
    Ok(())
}

/// Inflate a gzip file with zlib-rs and forget what it holds: the peer of everything that reads one.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Corrupt`] if it is damaged, [`Error::Interrupted`] if asked to stop.
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

/// Read what follows the voxels: a gzip file's checksum is reached and compared, and what is no padding is refused.
pub(super) fn read_to_checksum(reader: &mut dyn Read) -> Result<()> {
    let mut rest = Vec::new();
    reader.take(MOST_PADDING + 1).read_to_end(&mut rest).map_err(describe)?;
    if rest.len() as u64 > MOST_PADDING || rest.iter().any(|&byte| byte != 0) {
        let more = if rest.len() as u64 > MOST_PADDING { "at least " } else { "" };
        return Err(Error::Header(format!(
            "{more}{} bytes follow the voxels that the header describes; the header is wrong, or the file damaged",
            rest.len()
        )));
    }
    Ok(())
}

/// The inflater reports a damaged stream through I/O errors of these kinds.
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
    // Voxels have no magic number: what begins like gzip may be labels, and what should be gzip must not pass for them.
    let gzip = data_path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let packing = if gzip { Packing::Gzip } else { Packing::None };
    let data = || (data_path != header_path).then(|| open_file(&data_path, packing));
    open_parts(|| open_file(&header_path, Packing::Any), data)
}

/// Read the header from the file that `first` opens, and go to the voxels: in the same, or in the one of `second`.
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
        // Extensions may follow; at the end is the checksum.
        std::io::copy(&mut opened.reader.take(MOST_EXTENSIONS), &mut std::io::sink()).map_err(describe)?;
        let missing = || Error::Header("the header says that voxels are in a second file (.img)".into());
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
            "shape {:?} needs {needed} bytes, the file has {length}; it ends early, or the header is damaged",
            header.shape
        )));
    }
    // The voxels of a single file begin behind its header: parse_header sees to that.
    let gap = header.data_offset - ahead;
    if std::io::copy(&mut reader.by_ref().take(gap), &mut std::io::sink()).map_err(describe)? < gap {
        return Err(Error::Corrupt("ends before its first voxel".into()));
    }
    Ok(Opened { header, reader })
}

/// Open a file that is one, inflated where it is gzip.
fn open_file(path: &Path, packing: Packing) -> Result<Part<'static>> {
    // Before opening: opening a pipe waits for its other end.
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(Error::Io(std::io::Error::from_raw_os_error(EISDIR)));
    }
    if !metadata.is_file() {
        return Err(Error::Unsupported("not a regular file, but a pipe or a device".into()));
    }
    part_of(BufReader::with_capacity(READ_BYTES, File::open(path)?), metadata.len(), packing)
}

fn part_of<'a>(mut stored: impl BufRead + Send + 'a, length: u64, packing: Packing) -> Result<Part<'a>> {
    let gzipped = packing != Packing::None && stored.fill_buf()?.starts_with(&MAGIC);
    if packing == Packing::Gzip && !gzipped {
        return Err(Error::Corrupt("the file of the voxels is no gzip, as its name says it is".into()));
    }
    let reader: Box<dyn Read + Send> = if gzipped { Box::new(Gunzip::new(stored)) } else { Box::new(stored) };
    Ok(Part { reader, length, gzipped })
}

/// `case.img.gz` for `case.hdr.gz` and so on; any other name as it is.
fn sibling(path: &Path, from: &str, to: &str) -> PathBuf {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return path.to_path_buf() };
    let lower = name.to_ascii_lowercase();
    for suffix in ["", ".gz"] {
        if lower.ends_with(&format!(".{from}{suffix}")) {
            let (stem, extension) = name.split_at(name.len() - from.len() - suffix.len());
            let upper = extension.starts_with(char::is_uppercase);
            let to = if upper { to.to_ascii_uppercase() } else { to.to_owned() };
            let plain = path.with_file_name(format!("{stem}{to}"));
            let zipped = path.with_file_name(format!("{stem}{to}.gz"));
            return if !plain.exists() && zipped.exists() { zipped } else { plain };
        }
    }
    path.to_path_buf()
}
