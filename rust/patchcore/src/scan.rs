//! Finds stretches of equal words in memory, at memory bandwidth.
//!
//! Label maps are constant almost everywhere. Therefore two loops alternate. The first loop compares 256 bytes at a
//! time with the current value and moves on while they are equal. The second loop builds a bit mask of the positions
//! where a word differs from the previous word. Words are compared as bits; the bits are decoded once per stretch.

/// An unsigned word of a label map.
pub(crate) trait Word: Copy + Eq + Send + Sync + 'static {
    const ZERO: Self;
    /// The word repeated through 8 bytes.
    fn pattern(self) -> u64;
    fn bits(self) -> u64;
    /// Bit k is set where `words[at + k] != words[at + k - 1]`, for 64 words; `at` ≥ 1.
    fn change_mask(words: &[Self], at: usize) -> u64 {
        let mut mask = 0;
        for (k, pair) in words[at - 1..at + 64].windows(2).enumerate() {
            mask |= u64::from(pair[0] != pair[1]) << k;
        }
        mask
    }
}

macro_rules! words {
    ($($type:ty, $repeat:expr, { $($mask:tt)* });*) => { $(impl Word for $type {
        const ZERO: Self = 0;
        #[inline]
        fn pattern(self) -> u64 { u64::from(self).wrapping_mul($repeat) }
        #[inline]
        fn bits(self) -> u64 { u64::from(self) }
        $($mask)*
    })* };
}
words!(
    u8, 0x0101_0101_0101_0101, {
        #[cfg(target_arch = "x86_64")]
        // These are unaligned loads.
        #[allow(clippy::cast_ptr_alignment)]
        #[inline]
        fn change_mask(words: &[Self], at: usize) -> u64 {
            use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8};
            let (now, before) = (&words[at..at + 64], &words[at - 1..at + 63]);
            let mut same = 0u64;
            for k in 0..4 {
                // SAFETY: SSE2 is part of x86-64, and both slices hold 64 bytes.
                let bits = unsafe {
                    let a = _mm_loadu_si128(now.as_ptr().add(16 * k).cast::<__m128i>());
                    let b = _mm_loadu_si128(before.as_ptr().add(16 * k).cast::<__m128i>());
                    _mm_movemask_epi8(_mm_cmpeq_epi8(a, b))
                };
                same |= u64::from(bits as u16) << (16 * k);
            }
            !same
        }
    };
    u16, 0x0001_0001_0001_0001, {
        #[cfg(target_arch = "x86_64")]
        // These are unaligned loads.
        #[allow(clippy::cast_ptr_alignment)]
        #[inline]
        fn change_mask(words: &[Self], at: usize) -> u64 {
            use std::arch::x86_64::{
                __m128i, _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16,
            };
            let (now, before) = (&words[at..at + 64], &words[at - 1..at + 63]);
            let mut same = 0u64;
            for k in 0..4 {
                // SAFETY: SSE2 is part of x86-64, and both slices hold 64 words, 16 of which are read here.
                let bits = unsafe {
                    let equal = |offset: usize| {
                        let a = _mm_loadu_si128(now.as_ptr().add(offset).cast::<__m128i>());
                        let b = _mm_loadu_si128(before.as_ptr().add(offset).cast::<__m128i>());
                        _mm_cmpeq_epi16(a, b)
                    };
                    _mm_movemask_epi8(_mm_packs_epi16(equal(16 * k), equal(16 * k + 8)))
                };
                same |= u64::from(bits as u16) << (16 * k);
            }
            !same
        }
    };
    u32, 0x0000_0001_0000_0001, {};
    u64, 1, {}
);

/// Bytes compared at once while nothing changes.
const BLOCK: usize = 256;

// This function must be inlined into the function that enables AVX2; otherwise it is compiled without AVX2.
#[allow(clippy::inline_always)]
#[inline(always)]
fn uniform_bytes_generic(bytes: &[u8], pattern: u64) -> usize {
    let mut uniform = 0;
    for block in bytes.chunks_exact(BLOCK) {
        let mut difference = 0;
        for word in block.as_chunks::<8>().0 {
            difference |= u64::from_ne_bytes(*word) ^ pattern;
        }
        if difference != 0 {
            break;
        }
        uniform += BLOCK;
    }
    uniform
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn uniform_bytes_avx2(bytes: &[u8], pattern: u64) -> usize {
    uniform_bytes_generic(bytes, pattern)
}

/// Number of leading bytes, in whole blocks, that repeat `pattern`.
#[inline]
fn uniform_bytes(bytes: &[u8], pattern: u64) -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { uniform_bytes_avx2(bytes, pattern) };
    }
    uniform_bytes_generic(bytes, pattern)
}

fn as_bytes<W: Word>(words: &[W]) -> &[u8] {
    // SAFETY: words are unsigned integers, and every byte of an integer may be read.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// Call `emit(start, end, word)` for each maximal stretch of equal words, in order. The stretches cover all of `words`.
pub(crate) fn stretches<W: Word>(words: &[W], mut emit: impl FnMut(usize, usize, W)) {
    let count = words.len();
    let Some(&first) = words.first() else { return };
    let (mut current, mut start, mut at) = (first, 0, 1);
    let mut quiet = true;
    while at + 64 <= count {
        if quiet {
            at += uniform_bytes(as_bytes(&words[at..]), current.pattern()) / size_of::<W>();
            if at + 64 > count {
                break;
            }
        }
        let mut mask = W::change_mask(words, at);
        quiet = mask == 0;
        while mask != 0 {
            let change = at + mask.trailing_zeros() as usize;
            emit(start, change, current);
            (start, current) = (change, words[change]);
            mask &= mask - 1;
        }
        at += 64;
    }
    for (change, &word) in words.iter().enumerate().skip(at) {
        if word != current {
            emit(start, change, current);
            (start, current) = (change, word);
        }
    }
    emit(start, count, current);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive<W: Word>(words: &[W]) -> Vec<(usize, usize, u64)> {
        let mut found: Vec<(usize, usize, u64)> = Vec::new();
        for (at, word) in words.iter().enumerate() {
            match found.last_mut() {
                Some(last) if last.2 == word.bits() => last.1 = at + 1,
                _ => found.push((at, at + 1, word.bits())),
            }
        }
        found
    }

    fn fast<W: Word>(words: &[W]) -> Vec<(usize, usize, u64)> {
        let mut found = Vec::new();
        stretches(words, |start, end, word| found.push((start, end, word.bits())));
        found
    }

    /// Long constant parts between short changes, as in label maps.
    fn bursts() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec((0u8..4, prop_oneof![1usize..4, 1usize..900]), 0..40)
            .prop_map(|runs| runs.into_iter().flat_map(|(value, n)| std::iter::repeat_n(value, n)).collect())
    }

    proptest! {
        #[test]
        fn fast_equals_naive(bytes in bursts(), offset in 0usize..9) {
            let bytes = &bytes[offset.min(bytes.len())..];
            prop_assert_eq!(fast(bytes), naive(bytes));
            let wide: Vec<u16> = bytes.iter().map(|&b| u16::from(b) << 7).collect();
            prop_assert_eq!(fast(&wide), naive(&wide));
            let wide: Vec<u32> = bytes.iter().map(|&b| u32::from(b) << 25).collect();
            prop_assert_eq!(fast(&wide), naive(&wide));
            let wide: Vec<u64> = bytes.iter().map(|&b| u64::from(b) << 60).collect();
            prop_assert_eq!(fast(&wide), naive(&wide));
        }
    }
}
