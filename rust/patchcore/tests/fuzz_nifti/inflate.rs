//! A slow gzip reader that follows RFC 1951 and 1952 exactly, one bit at a time, with its own checksum.

/// Inflate all members; `None` if any byte is invalid.
pub(crate) fn gunzip(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let mut from = 10;
        let head = bytes.get(..10)?;
        if head[0..3] != [0x1F, 0x8B, 8] {
            return None;
        }
        let flags = head[3];
        if flags & 4 != 0 {
            from += 2 + usize::from(u16::from_le_bytes(bytes.get(from..from + 2)?.try_into().ok()?));
        }
        for flag in [8, 16] {
            if flags & flag != 0 {
                from += bytes.get(from..)?.iter().position(|&byte| byte == 0)? + 1;
            }
        }
        if flags & 2 != 0 {
            from += 2;
        }
        let start = out.len();
        let mut bits = Bits { bytes: bytes.get(from..)?, at: 0 };
        while !block(&mut bits, &mut out, start)? {}
        let end = from + bits.at.div_ceil(8);
        let tail = bytes.get(end..end + 8)?;
        if tail[..4] != crc32(&out[start..]).to_le_bytes() || tail[4..] != ((out.len() - start) as u32).to_le_bytes() {
            return None;
        }
        bytes = &bytes[end + 8..];
        let padding = bytes.iter().take_while(|&&byte| byte == 0).count();
        bytes = &bytes[padding..];
        if bytes.is_empty() {
            return Some(out);
        }
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<usize> {
        let mut value = 0;
        for place in 0..count {
            value |= usize::from(self.bytes.get(self.at / 8)? >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Some(value)
    }
}

/// A canonical Huffman code: the number of codes of each length, and the symbols in order.
struct Huffman {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Huffman {
    fn new(lengths: &[usize]) -> Self {
        let mut counts = [0; 16];
        for &length in lengths {
            counts[length] += 1;
        }
        counts[0] = 0;
        let symbols = (1..16).flat_map(|n| (0..lengths.len()).filter(move |&s| lengths[s] == n)).collect();
        Self { counts, symbols }
    }

    fn next(&self, bits: &mut Bits<'_>) -> Option<usize> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for length in 1..16 {
            code |= bits.take(1)?;
            let count = self.counts[length];
            if code < first + count {
                return self.symbols.get(index + (code - first)).copied();
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

fn block(bits: &mut Bits<'_>, out: &mut Vec<u8>, start: usize) -> Option<bool> {
    let last = bits.take(1)? == 1;
    let (literals, distances) = match bits.take(2)? {
        0 => {
            bits.at = bits.at.div_ceil(8) * 8;
            let (length, complement) = (bits.take(16)?, bits.take(16)?);
            if length != complement ^ 0xFFFF {
                return None;
            }
            let from = bits.at / 8;
            out.extend_from_slice(bits.bytes.get(from..from + length)?);
            bits.at += 8 * length;
            return Some(last);
        }
        1 => {
            let lengths: Vec<usize> = (0..288)
                .map(|symbol| match symbol {
                    144..256 => 9,
                    256..280 => 7,
                    _ => 8,
                })
                .collect();
            (Huffman::new(&lengths), Huffman::new(&[5; 30]))
        }
        2 => dynamic(bits)?,
        _ => return None,
    };
    loop {
        match literals.next(bits)? {
            256 => return Some(last),
            literal @ 0..256 => out.push(literal as u8),
            symbol => {
                let length = match symbol - 257 {
                    n @ 0..8 => n + 3,
                    28 => 258,
                    n @ 8..28 => {
                        let extra = n / 4 - 1;
                        ((4 + n % 4) << extra) + 3 + bits.take(extra)?
                    }
                    _ => return None,
                };
                let distance = match distances.next(bits)? {
                    n @ 0..4 => n + 1,
                    n @ 4..30 => {
                        let extra = n / 2 - 1;
                        ((2 + n % 2) << extra) + 1 + bits.take(extra)?
                    }
                    _ => return None,
                };
                if distance > out.len() - start {
                    return None;
                }
                for _ in 0..length {
                    out.push(out[out.len() - distance]);
                }
            }
        }
    }
}

fn dynamic(bits: &mut Bits<'_>) -> Option<(Huffman, Huffman)> {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let (literals, distances, codes) = (bits.take(5)? + 257, bits.take(5)? + 1, bits.take(4)? + 4);
    let mut lengths = [0; 19];
    for &place in &ORDER[..codes] {
        lengths[place] = bits.take(3)?;
    }
    let code = Huffman::new(&lengths);
    let mut lengths: Vec<usize> = Vec::new();
    while lengths.len() < literals + distances {
        let (value, times) = match code.next(bits)? {
            16 => (*lengths.last()?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            value => (value, 1),
        };
        lengths.extend(std::iter::repeat_n(value, times));
    }
    if lengths.len() > literals + distances {
        return None;
    }
    Some((Huffman::new(&lengths[..literals]), Huffman::new(&lengths[literals..])))
}

/// The checksum of gzip, computed one bit at a time.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}
