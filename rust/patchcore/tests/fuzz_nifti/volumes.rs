//! Creates intact files: both versions, both byte orders, every element type, plain or gzip, with several gzip members,
//! single or in pairs.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::inflate::{crc32, gunzip};
use crate::mutate::Random;

/// A file as stored, and the second file if it is a pair.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) header: Vec<u8>,
    pub(crate) data: Option<Vec<u8>>,
    /// The content before compression.
    pub(crate) plain: (Vec<u8>, Option<Vec<u8>>),
    pub(crate) zipped: bool,
    pub(crate) version: usize,
    pub(crate) big: bool,
}

/// The two parts of a file, inflated by the reference; `None` for a part that cannot be inflated.
pub(crate) struct Inflated(Vec<Option<Vec<u8>>>);

impl Inflated {
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().flatten().map(Vec::len).sum()
    }

    pub(crate) fn readable(self) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let mut parts = self.0.into_iter().collect::<Option<Vec<_>>>()?.into_iter();
        Some((parts.next()?, parts.next()))
    }
}

const MAGIC: [u8; 2] = [0x1F, 0x8B];

fn inflated(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.starts_with(&MAGIC) { gunzip(bytes) } else { Some(bytes.to_vec()) }
}

fn put(bytes: &mut [u8], at: usize, little: &[u8], big: bool) {
    bytes[at..at + little.len()].copy_from_slice(little);
    if big {
        bytes[at..at + little.len()].reverse();
    }
}

impl File {
    /// Create a small random label map, stored in a random way.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let (version, big, pair) = (1 + random.below(2), random.below(2) == 1, random.below(5) == 0);
        let shape = [1 + random.below(9), 1 + random.below(9), 1 + random.below(7)];
        let (code, width) =
            [(2i16, 1usize), (4, 2), (8, 4), (16, 4), (64, 8), (256, 1), (512, 2), (768, 4), (1024, 8), (1280, 8)]
                [random.below(10)]; // one entry per type that holds one real number
        let mut voxels = Vec::new();
        let busy = random.below(4);
        for _ in 0..shape.iter().product::<usize>() {
            let label = if random.below(4) <= busy { random.below(4) as i64 } else { 0 };
            let little = match code {
                16 => (label as f32).to_le_bytes().to_vec(),
                64 => (label as f64).to_le_bytes().to_vec(),
                _ => label.to_le_bytes()[..width].to_vec(),
            };
            let from = voxels.len();
            voxels.resize(from + width, 0);
            put(&mut voxels[from..], 0, &little, big);
        }
        let header = header(random, version, big, pair, shape, code, width);
        let plain = if pair { (header, Some(voxels)) } else { ([header, voxels].concat(), None) };
        let zipped = random.below(2) == 1;
        Self::pack(plain, zipped, version, big, random)
    }

    /// Create a file from its content before compression.
    pub(crate) fn pack(
        plain: (Vec<u8>, Option<Vec<u8>>),
        zipped: bool,
        version: usize,
        big: bool,
        random: &mut Random,
    ) -> Self {
        let (header, data) = if zipped {
            (zip(&plain.0, random), plain.1.as_ref().map(|bytes| zip(bytes, random)))
        } else {
            plain.clone()
        };
        Self { header, data, plain, zipped, version, big }
    }

    /// Both parts of the file, inflated by the reference.
    pub(crate) fn inflated(&self) -> Inflated {
        // Voxels have no magic number, so they are gzip if the header is gzip.
        let zipped = self.header.starts_with(&MAGIC);
        let data = self.data.as_ref().map(|data| if zipped { gunzip(data) } else { Some(data.clone()) });
        Inflated(std::iter::once(inflated(&self.header)).chain(data).collect())
    }
}

fn header(
    random: &mut Random,
    version: usize,
    big: bool,
    pair: bool,
    shape: [usize; 3],
    code: i16,
    width: usize,
) -> Vec<u8> {
    let one = version == 1;
    let extension = 16 * random.below(3);
    let size = if one { 348 } else { 540 };
    let mut bytes = vec![0; if pair { size } else { size + 4 + extension }];
    let offset = if pair { 0 } else { bytes.len() };
    let mut set = |at: usize, little: &[u8]| put(&mut bytes, at, little, big);
    set(0, &(size as i32).to_le_bytes());
    let axes = if random.below(4) == 0 { 4 } else { 3 };
    for (n, value) in [axes, shape[0], shape[1], shape[2], 1, 1, 1, 1].into_iter().enumerate() {
        if one {
            set(40 + 2 * n, &(value as i16).to_le_bytes());
        } else {
            set(16 + 8 * n, &(value as i64).to_le_bytes());
        }
    }
    set(if one { 70 } else { 12 }, &code.to_le_bytes());
    set(if one { 72 } else { 14 }, &(8 * width as i16).to_le_bytes());
    let mut float = |at_1: usize, at_2: usize, n: usize, value: f64| {
        if one { set(at_1 + 4 * n, &(value as f32).to_le_bytes()) } else { set(at_2 + 8 * n, &value.to_le_bytes()) }
    };
    for n in 0..4 {
        float(76, 104, n, [1.0, 0.7, 0.8, 2.5][n]);
    }
    let (slope, inter) = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (1.0, -1.0), (f64::NAN, f64::NAN)][random.below(5)];
    float(112, 176, 0, slope);
    float(116, 184, 0, inter);
    if one {
        float(108, 0, 0, offset as f64);
    }
    for n in 0..3 {
        float(256, 352, n, [0.5, -0.5, 0.5][n]);
        float(268, 376, n, -7.0);
        float(280, 400, 5 * n, [0.7, -0.8, 2.5][n]);
        float(280, 400, 4 * n + 3, 10.0);
    }
    if !one {
        set(168, &(offset as i64).to_le_bytes());
    }
    for (at_1, at_2) in [(252, 344), (254, 348)] {
        let given = random.below(2) as i32;
        if one { set(at_1, &(given as i16).to_le_bytes()) } else { set(at_2, &given.to_le_bytes()) }
    }
    if one {
        bytes[123] = 2;
        bytes[344..348].copy_from_slice(if pair { b"ni1\0" } else { b"n+1\0" });
    } else {
        put(&mut bytes, 500, &2i32.to_le_bytes(), big);
        bytes[4..12].copy_from_slice(if pair { b"ni2\0\r\n\x1a\n" } else { b"n+2\0\r\n\x1a\n" });
    }
    bytes
}

/// Compress to gzip with one to three members and with the optional header fields that writers use.
fn zip(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    let members = 1 + random.below(3);
    for part in bytes.chunks(bytes.len().div_ceil(members).max(1)) {
        let level = [0, 1, 6, 9][random.below(4)];
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(part).unwrap();
        let zipped = encoder.finish().unwrap();
        let flags = random.below(32) as u8 & 0b1_1110;
        let mut head = zipped[..10].to_vec();
        head[3] = flags;
        if flags & 4 != 0 {
            head.extend_from_slice(&[3, 0, b'x', b'y', b'z']);
        }
        for flag in [8, 16] {
            if flags & flag != 0 {
                head.extend_from_slice(b"name\0");
            }
        }
        if flags & 2 != 0 {
            let sum = crc32(&head) as u16;
            head.extend_from_slice(&sum.to_le_bytes());
        }
        out.extend_from_slice(&head);
        out.extend_from_slice(&zipped[10..]);
    }
    out.extend(std::iter::repeat_n(0, random.below(2) * random.below(600)));
    out
}
