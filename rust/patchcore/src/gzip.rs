//! Reads gzip: zlib-rs inflates the data, crc32fast computes the checksum.
//!
//! flate2's own `GzDecoder` uses one library for both, and its checksum takes as long as inflating. Label maps inflate
//! a hundredfold; crc32fast folds 512 bits at a time and halves the time to read them.

use std::io::{BufRead, Error, ErrorKind, Read, Result};

use flate2::bufread::DeflateDecoder;

/// The first two bytes of a gzip file.
pub(crate) const MAGIC: [u8; 2] = [0x1F, 0x8B];

/// Compression method: deflate.
const DEFLATE: u8 = 8;
/// Flags of the header, RFC 1952 section 2.3.1.
const HEADER_CHECKSUM: u8 = 2;
const EXTRA_FIELD: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xE0;

/// Reads the members of a gzip file one after the other. Zeros after the last member are padding, as in the `gzip`
/// program.
pub(crate) struct Gunzip<R> {
    state: State<R>,
    checksum: crc32fast::Hasher,
    /// Number of inflated bytes of the current member.
    length: u64,
}

enum State<R> {
    Header(R),
    Data(DeflateDecoder<R>),
    Ended,
}

impl<R: BufRead> Gunzip<R> {
    pub(crate) fn new(stored: R) -> Self {
        Self { state: State::Header(stored), checksum: crc32fast::Hasher::new(), length: 0 }
    }

    /// Read the bytes after a member's data: checksum and length, then the next member or the end of the file.
    fn end_member(&mut self, mut stored: R) -> Result<State<R>> {
        let mut trailer = [0; 8];
        stored.read_exact(&mut trailer)?;
        let (checksum, length) = trailer.split_at(4);
        if self.checksum.clone().finalize().to_le_bytes() != checksum {
            return Err(damaged("the checksum does not match"));
        }
        if (self.length as u32).to_le_bytes() != length {
            return Err(damaged("the length does not match"));
        }
        loop {
            let ahead = stored.fill_buf()?;
            let zeros = ahead.iter().take_while(|&&byte| byte == 0).count();
            if ahead.is_empty() {
                return Ok(State::Ended);
            }
            if zeros == 0 {
                return Ok(State::Header(stored));
            }
            stored.consume(zeros);
        }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Header(mut stored) => {
                    read_header(&mut stored)?;
                    (self.checksum, self.length) = (crc32fast::Hasher::new(), 0);
                    State::Data(DeflateDecoder::new(stored))
                }
                State::Data(mut data) => {
                    let count = match data.read(buffer) {
                        Ok(0) if !buffer.is_empty() => {
                            self.state = self.end_member(data.into_inner())?;
                            continue;
                        }
                        read => {
                            self.state = State::Data(data);
                            read?
                        }
                    };
                    self.checksum.update(&buffer[..count]);
                    self.length += count as u64;
                    return Ok(count);
                }
                State::Ended => return Ok(0),
            }
        }
    }
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// Read the header of a member completely.
fn read_header(stored: &mut impl BufRead) -> Result<()> {
    let mut fixed = [0; 10];
    stored.read_exact(&mut fixed)?;
    let flags = fixed[3];
    if fixed[..2] != MAGIC || fixed[2] != DEFLATE || flags & RESERVED != 0 {
        return Err(damaged("the gzip header is missing or invalid"));
    }
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&fixed);
    if flags & EXTRA_FIELD != 0 {
        let mut length = [0; 2];
        stored.read_exact(&mut length)?;
        checksum.update(&length);
        let mut extra = vec![0; u16::from_le_bytes(length).into()];
        stored.read_exact(&mut extra)?;
        checksum.update(&extra);
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            skip_text(stored, &mut checksum)?;
        }
    }
    if flags & HEADER_CHECKSUM != 0 {
        let mut stated = [0; 2];
        stored.read_exact(&mut stated)?;
        if checksum.finalize().to_le_bytes()[..2] != stated {
            return Err(damaged("the checksum of the gzip header does not match"));
        }
    }
    Ok(())
}

/// Skip a zero-terminated text of any length.
fn skip_text(stored: &mut impl BufRead, checksum: &mut crc32fast::Hasher) -> Result<()> {
    loop {
        let ahead = stored.fill_buf()?;
        if ahead.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let end = ahead.iter().position(|&byte| byte == 0);
        let count = end.map_or(ahead.len(), |at| at + 1);
        checksum.update(&ahead[..count]);
        stored.consume(count);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder, bufread::MultiGzDecoder};
    use proptest::prelude::*;

    use super::*;

    fn gunzip(stored: &[u8]) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        Gunzip::new(stored).read_to_end(&mut data).map(|_| data)
    }

    fn member(data: &[u8], fields: u8) -> Vec<u8> {
        let mut builder = GzBuilder::new();
        if fields & 1 != 0 {
            builder = builder.filename("volume.nii");
        }
        if fields & 2 != 0 {
            builder = builder.comment("a comment");
        }
        if fields & 4 != 0 {
            builder = builder.extra([1, 2, 3, 0, 5]);
        }
        let mut writer = builder.write(Vec::new(), Compression::fast());
        writer.write_all(data).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn a_header_checksum_counts() {
        let plain = member(b"voxels", 0);
        let mut header = plain[..10].to_vec();
        header[3] = HEADER_CHECKSUM;
        let checksum = crc32fast::hash(&header).to_le_bytes();
        let with = |low: u8| [&header[..], &[low, checksum[1]], &plain[10..]].concat();
        assert_eq!(gunzip(&with(checksum[0])).unwrap(), b"voxels");
        assert!(gunzip(&with(checksum[0] ^ 1)).is_err());
    }

    proptest! {
        #[test]
        fn members_follow_each_other_and_padding_ends_them(
            parts in prop::collection::vec((prop::collection::vec(0u8..3, 0..3000), 0u8..8), 1..4),
            padding in 0usize..600,
        ) {
            let mut stored: Vec<u8> = parts.iter().flat_map(|(data, fields)| member(data, *fields)).collect();
            stored.resize(stored.len() + padding, 0);
            let expected: Vec<u8> = parts.into_iter().flat_map(|(data, _)| data).collect();
            prop_assert_eq!(gunzip(&stored).unwrap(), expected);
        }

        #[test]
        fn what_is_damaged_is_refused_or_read_as_flate2_reads_it(
            data in prop::collection::vec(0u8..3, 1..2000), fields in 0u8..8, at in 0usize..2000, bit in 0u32..8, cut: bool,
        ) {
            let mut stored = member(&data, fields);
            let at = at % stored.len();
            if cut { stored.truncate(at) } else { stored[at] ^= 1 << bit }
            let mut theirs = Vec::new();
            let read = MultiGzDecoder::new(&stored[..]).read_to_end(&mut theirs);
            match gunzip(&stored) {
                Ok(ours) => prop_assert_eq!((read.is_ok() || stored.is_empty(), ours), (true, theirs)),
                Err(_) => prop_assert!(read.is_err()),
            }
        }
    }
}
