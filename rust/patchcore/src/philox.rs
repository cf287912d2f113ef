//! Generates counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011).
//!
//! A draw is a pure function of (seed, step, position, purpose, index). No state is kept between draws, so any number
//! of workers or ranks, and a training resumed at any step, get the same numbers without repeating the earlier draws.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Steps must be smaller than this: the counter has 56 bits for them.
pub const MAX_STEP: u64 = 1 << 56;

/// The use of a random number. Streams with different purposes are independent.
///
/// The values must never change, because they determine the numbers that a seed produces. Add new purposes at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Choosing a window.
    Window = 0,
    /// Augmenting a window.
    Augment = 1,
}

/// One block of Philox4x32-10.
#[must_use]
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k0, mut k1]) = (counter, key);
    for round in 0..ROUNDS {
        if round > 0 {
            k0 = k0.wrapping_add(WEYL[0]);
            k1 = k1.wrapping_add(WEYL[1]);
        }
        let left = u64::from(MULTIPLIERS[0]) * u64::from(a);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(c);
        (a, b, c, d) = ((right >> 32) as u32 ^ b ^ k0, right as u32, (left >> 32) as u32 ^ d ^ k1, left as u32);
    }
    [a, b, c, d]
}

/// The random numbers of one (seed, step, position, purpose), in order of their index.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    /// Counter words 1 to 3. Word 0 is the block number.
    rest: [u32; 3],
    next_block: u32,
    spare: Option<u64>,
}

impl Stream {
    /// The stream of a seed, a step below [`MAX_STEP`], a position in the global batch, and a purpose.
    ///
    /// Counter words, lowest first: block, position, step's low half, step's high 24 bits with the purpose above them.
    #[must_use]
    pub fn new(seed: u64, step: u64, position: u32, purpose: u8) -> Self {
        debug_assert!(step < MAX_STEP);
        let high = ((step >> 32) as u32 & 0x00FF_FFFF) | (u32::from(purpose) << 24);
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            rest: [position, step as u32, high],
            next_block: 0,
            spare: None,
        }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let [p, s, h] = self.rest;
        let [a, b, c, d] = block([self.next_block, p, s, h], self.key);
        self.next_block = self.next_block.wrapping_add(1);
        self.spare = Some(u64::from(c) | u64::from(d) << 32);
        u64::from(a) | u64::from(b) << 32
    }

    /// Uniform on [0, 1): the upper 53 bits of a draw, so every value is a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Unbiased uniform integer on `0..bound`, by Lemire's 128-bit multiplication with rejection ("Fast random integer
    /// generation in an interval", 2019): a rejected draw takes the next number of the same stream.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "cannot draw from an empty range");
        let mut product = u128::from(self.bits()) * u128::from(bound);
        if (product as u64) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u64) < threshold {
                product = u128::from(self.bits()) * u128::from(bound);
            }
        }
        (product >> 64) as u64
    }

    /// Unbiased uniform integer on `low..=high`.
    ///
    /// # Panics
    /// If `high < low`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        assert!(low <= high, "cannot draw from an empty range");
        let count = high.wrapping_sub(low) as u64;
        let offset = if count == u64::MAX { self.bits() } else { self.below(count + 1) };
        low.wrapping_add(offset as i64)
    }
}

/// Fill `out` with the first `out.len()` uniforms on [0, 1) of a stream.
pub fn uniforms(seed: u64, step: u64, position: u32, purpose: u8, out: &mut [f64]) {
    let mut stream = Stream::new(seed, step, position, purpose);
    out.fill_with(|| stream.uniform());
}
