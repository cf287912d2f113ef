//! Decodes the Blosc frame of a chunk into its low bytes and its high bytes.
//!
//! The low bytes of a CT are noise, so Blosc stores them uncompressed; they are used directly from the read buffer. The
//! high bytes are LZ4. The byte shuffle is not undone here, but when voxels are written to a window. Frames with other
//! settings are decoded by C Blosc.

use std::os::raw::{c_char, c_int};

use lz4_sys as _; // linked for the function declared below

use super::blosc;
use super::layout::{CHUNK_VOXELS, Element};
use crate::{Error, Result};

unsafe extern "C" {
    // Declared in lz4.h. lz4-sys compiles it but has no binding for it.
    fn LZ4_decompress_safe_partial(
        source: *const c_char,
        out: *mut c_char,
        source_bytes: c_int,
        wanted_bytes: c_int,
        out_bytes: c_int,
    ) -> c_int;
}

const HEADER_BYTES: usize = 16;
const FLAG_SHUFFLE: u8 = 1;
const FLAG_WHOLE: u8 = 1 << 4;
const FORMAT_LZ4: u8 = 1;

/// Buffers for a decoded chunk.
#[derive(Debug)]
pub(super) struct BytePlanes {
    low: Vec<u8>,
    high: Vec<u8>,
    /// For frames with other settings.
    whole: Vec<u8>,
}

impl BytePlanes {
    pub(super) fn new() -> Self {
        Self { low: vec![0; CHUNK_VOXELS], high: vec![0; CHUNK_VOXELS], whole: Vec::new() }
    }
}

/// The bytes of a chunk's voxels. `high` is empty for one-byte elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoded<'a> {
    pub(super) low: &'a [u8],
    pub(super) high: &'a [u8],
}

/// Decode at least the first `needed` voxels of a frame.
///
/// # Errors
/// [`Error::Corrupt`] if the frame is not valid Blosc data of a chunk with elements `T`.
pub(super) fn decode<'a, T: Element>(
    frame: &'a [u8],
    needed: usize,
    planes: &'a mut BytePlanes,
) -> Result<Decoded<'a>> {
    let bytes = size_of::<T>();
    let Some(mut streams) = streams_of(frame, bytes) else {
        planes.whole.resize(CHUNK_VOXELS * bytes, 0);
        blosc::decompress(frame, &mut planes.whole)?;
        if bytes == 1 {
            return Ok(Decoded { low: &planes.whole, high: &[] });
        }
        for (n, pair) in planes.whole.as_chunks::<2>().0.iter().enumerate() {
            (planes.low[n], planes.high[n]) = (pair[0], pair[1]);
        }
        return Ok(Decoded { low: &planes.low, high: &planes.high });
    };
    let low = stream(&mut streams, needed, &mut planes.low)?;
    let high = if bytes == 1 { &[] } else { stream(&mut streams, needed, &mut planes.high)? };
    Ok(Decoded { low, high })
}

/// The streams of a frame with one LZ4 block, shuffled and split as written by this crate. `None` for any other frame.
fn streams_of(frame: &[u8], element_bytes: usize) -> Option<&[u8]> {
    let header = frame.first_chunk::<{ HEADER_BYTES + 4 }>()?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let [version, codec_version, flags, typesize] = [header[0], header[1], header[2], header[3]];
    let flags_wanted = if element_bytes > 1 { FLAG_SHUFFLE } else { 0 };
    // For one-byte elements, the split flag makes no difference.
    let flags = if element_bytes > 1 { flags } else { flags & !(FLAG_WHOLE | FLAG_SHUFFLE) };
    let bytes = CHUNK_VOXELS * element_bytes;
    let ours = version == 2
        && codec_version == 1
        && flags == (FORMAT_LZ4 << 5 | flags_wanted)
        && usize::from(typesize) == element_bytes
        && (word(4), word(8), word(12)) == (bytes, bytes, frame.len());
    frame.get(word(16)..).filter(|_| ours && word(16) >= HEADER_BYTES + 4)
}

/// Take the next stream. If it is uncompressed, return it directly; otherwise decode it to `out`.
fn stream<'a>(rest: &mut &'a [u8], needed: usize, out: &'a mut [u8]) -> Result<&'a [u8]> {
    let broken = || Error::Corrupt("the Blosc data cannot be decompressed".into());
    let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
    let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| broken())?;
    let (data, behind) = behind.split_at_checked(length).ok_or_else(broken)?;
    *rest = behind;
    if length == CHUNK_VOXELS {
        return Ok(data);
    }
    // SAFETY: the source is `data`, and at most `out.len()` bytes are written.
    let written = unsafe {
        LZ4_decompress_safe_partial(
            data.as_ptr().cast(),
            out.as_mut_ptr().cast(),
            length as c_int,
            needed.min(CHUNK_VOXELS) as c_int,
            out.len() as c_int,
        )
    };
    if usize::try_from(written).is_ok_and(|written| written >= needed.min(CHUNK_VOXELS)) {
        Ok(out)
    } else {
        Err(broken())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn voxels(kind: u8, seed: u64) -> Vec<i16> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32
        };
        (0..CHUNK_VOXELS)
            .map(|n| match kind {
                0 => -1024,
                1 => (next() % 100) as i16 - 50,
                2 => next() as i16,
                3 => (n / 700) as i16 * 300,
                _ => (next() % 7 / 6) as i16,
            })
            .collect()
    }

    fn joined<T: Element>(found: Decoded<'_>, count: usize) -> Vec<T> {
        (0..count).map(|n| T::join(found.low[n], found.high.get(n).copied().unwrap_or(0))).collect()
    }

    proptest! {
        #[test]
        fn frames_are_what_blosc_makes_of_them(kind in 0u8..5, seed: u64, needed in 1..=CHUNK_VOXELS) {
            let expected = voxels(kind, seed);
            let mut frame = Vec::new();
            blosc::compress(i16::bytes_of(&expected), 2, &mut frame).unwrap();
            let mut planes = BytePlanes::new();
            // Noise cannot be compressed; all other frames take the quick way.
            prop_assert!(kind == 2 || streams_of(&frame, 2).is_some());
            let found = decode::<i16>(&frame, needed, &mut planes).unwrap();
            prop_assert_eq!(&joined::<i16>(found, needed), &expected[..needed]);

            let expected: Vec<u8> = expected.iter().map(|&value| value as u8).collect();
            frame.clear();
            blosc::compress(&expected, 1, &mut frame).unwrap();
            prop_assert!(kind == 1 || kind == 2 || streams_of(&frame, 1).is_some());
            let found = decode::<u8>(&frame, needed, &mut planes).unwrap();
            prop_assert_eq!(&joined::<u8>(found, needed), &expected[..needed]);
        }

        #[test]
        fn broken_frames_are_refused_or_read(kind in 0u8..5, seed: u64, at in 0.0f64..1.0, byte: u8, cut in 0.0f64..1.5) {
            let mut frame = Vec::new();
            blosc::compress(i16::bytes_of(&voxels(kind, seed)), 2, &mut frame).unwrap();
            let at = (at * frame.len() as f64) as usize;
            frame[at] = byte;
            frame.truncate((cut * frame.len() as f64) as usize);
            let mut planes = BytePlanes::new();
            if let Ok(found) = decode::<i16>(&frame, CHUNK_VOXELS, &mut planes) {
                prop_assert_eq!((found.low.len(), found.high.len()), (CHUNK_VOXELS, CHUNK_VOXELS));
            }
        }
    }
}
