//! Damages files in random ways that follow from one seed.

use crate::volumes::File;

/// A random number generator: `SplitMix64`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}

/// Where a file was damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Nowhere.
    None,
    /// A header field got a value that is often wrong in practice.
    Field,
    /// Bytes of the volume, before compression if the file is compressed. A checksum cannot detect this damage.
    Plain,
    /// Bytes of the gzip stream.
    Packed,
    /// Parts of the gzip stream were moved, duplicated or removed. The result may be valid gzip of another volume.
    Spliced,
}

impl Damage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "intact",
            Self::Field => "field",
            Self::Plain => "bytes",
            Self::Packed => "gzip bytes",
            Self::Spliced => "gzip parts",
        }
    }
}

/// Return a damaged copy of a file, and the kind of damage.
pub(crate) fn damaged(file: &File, random: &mut Random) -> (File, Damage) {
    let mut file = file.clone();
    match random.below(if file.zipped { 100 } else { 55 }) {
        0..3 => (file, Damage::None),
        3..35 => {
            for _ in 0..=random.below(3) {
                set_field(&mut file.plain.0, file.version, file.big, random);
            }
            (File::pack(file.plain, file.zipped, file.version, file.big, random), Damage::Field)
        }
        35..55 => {
            let part = match &mut file.plain {
                (_, Some(data)) if random.below(2) == 0 => data,
                (header, _) => header,
            };
            if random.below(4) == 0 {
                splice(part, random);
            } else {
                hurt(part, random);
            }
            (File::pack(file.plain, file.zipped, file.version, file.big, random), Damage::Plain)
        }
        choice => {
            let spliced = choice >= 90;
            let part = match &mut file.data {
                Some(data) if random.below(2) == 0 => data,
                _ => &mut file.header,
            };
            if spliced {
                splice(part, random);
            } else {
                hurt(part, random);
            }
            (file, if spliced { Damage::Spliced } else { Damage::Packed })
        }
    }
}

/// Offsets and widths of the fields that decide how a file is read, for version 1 and 2.
const FIELDS: [&[(usize, usize)]; 2] = [
    &[
        (0, 4),
        (40, 2),
        (42, 2),
        (44, 2),
        (46, 2),
        (48, 2),
        (50, 2),
        (70, 2),
        (72, 2),
        (76, 4),
        (80, 4),
        (84, 4),
        (88, 4),
        (108, 4),
        (112, 4),
        (116, 4),
        (123, 1),
        (252, 2),
        (254, 2),
        (256, 4),
        (260, 4),
        (264, 4),
        (268, 4),
        (280, 4),
        (284, 4),
        (292, 4),
        (300, 4),
        (320, 4),
        (344, 4),
    ],
    &[
        (0, 4),
        (4, 8),
        (12, 2),
        (14, 2),
        (16, 8),
        (24, 8),
        (32, 8),
        (40, 8),
        (48, 8),
        (56, 8),
        (104, 8),
        (112, 8),
        (120, 8),
        (128, 8),
        (168, 8),
        (176, 8),
        (184, 8),
        (344, 4),
        (348, 4),
        (352, 8),
        (360, 8),
        (368, 8),
        (376, 8),
        (400, 8),
        (408, 8),
        (424, 8),
        (440, 8),
        (480, 8),
        (500, 4),
    ],
];

/// Integers that are valid, almost valid or completely wrong as field values.
const INTEGERS: [i64; 42] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    16,
    24,
    32,
    64,
    127,
    128,
    255,
    256,
    348,
    352,
    353,
    512,
    540,
    544,
    768,
    1024,
    1280,
    1536,
    1792,
    2048,
    2304,
    4096,
    32767,
    65535,
    65536,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x1_0000_0001,
    0x4000_0000_0000_0000,
    i64::MAX,
    i64::MIN,
    -1,
];

/// The same for floats.
const FLOATS: [f64; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-4,
    -1e-4,
    1e-30,
    1e-300,
    1e10,
    1e15,
    1e18,
    1e20,
    1e38,
    1e300,
    f64::MAX,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    352.0,
    351.5,
    544.0,
];

fn set_field(bytes: &mut [u8], version: usize, big: bool, random: &mut Random) {
    let fields = FIELDS[version - 1];
    let (at, width) = fields[random.below(fields.len())];
    let integer = INTEGERS[random.below(INTEGERS.len())];
    let float = FLOATS[random.below(FLOATS.len())];
    let mut value = match (random.below(3), width) {
        (0, 4) => (float as f32).to_le_bytes().to_vec(),
        (0, 8) => float.to_le_bytes().to_vec(),
        (1, _) => random.next().to_le_bytes()[..width].to_vec(),
        _ => integer.to_le_bytes()[..width].to_vec(),
    };
    if big {
        value.reverse();
    }
    bytes[at..at + width].copy_from_slice(&value);
}

/// Flip bits, set bytes, truncate or append.
fn hurt(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        // Headers and checksums are at the ends, so each end is as likely as the whole middle.
        let length = bytes.len();
        let at = match random.below(3) {
            0 => random.below(length.min(24)),
            1 => length - 1 - random.below(length.min(24)),
            _ => random.below(length),
        };
        match random.below(8) {
            0..4 => bytes[at] ^= 1 << random.below(8),
            4 | 5 => bytes[at] = [0, 0xFF, 1, 0x7F, 0x80, random.next() as u8][random.below(6)],
            6 => bytes.truncate(at),
            _ => {
                let more = random.below(40) * if random.below(8) == 0 { 200 } else { 1 };
                let byte = random.below(2) as u8 * random.next() as u8;
                bytes.extend(std::iter::repeat_n(byte, more));
            }
        }
    }
}

/// Remove, duplicate or move a part.
fn splice(bytes: &mut Vec<u8>, random: &mut Random) {
    let (mut from, mut to) = (random.below(bytes.len() + 1), random.below(bytes.len() + 1));
    if from > to {
        (from, to) = (to, from);
    }
    let stretch: Vec<u8> = match random.below(3) {
        0 => bytes.drain(from..to).collect(),
        1 => return drop(bytes.drain(from..to)),
        _ => bytes[from..to].to_vec(),
    };
    let at = random.below(bytes.len() + 1);
    bytes.splice(at..at, stretch);
}
