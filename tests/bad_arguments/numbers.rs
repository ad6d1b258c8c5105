//! Arbitrary and extreme numbers.

use std::ops::Range;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Sizes around which something happens: blocks, words, limits of types, and what overflows when it
/// is multiplied.
const SIZES: [u64; 36] = [
    1 << 8,
    (1 << 8) + 4,
    (1 << 16) - 1,
    1 << 16,
    (1 << 16) + 1,
    (1 << 17) + 1,
    1 << 20,
    (1 << 20) + 1,
    (1 << 24) - 1,
    1 << 24,
    (1 << 24) + 5,
    (1 << 28) + 1,
    (1 << 29) - 64,
    (1 << 30) - 64,
    (1 << 30) - 2,
    (1 << 30) - 1,
    1 << 30,
    (1 << 31) - 2,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    (1 << 32) - 4,
    (1 << 32) - 1,
    1 << 32,
    (1 << 32) + 1,
    1 << 33,
    1 << 40,
    (1 << 53) + 1,
    1 << 61,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 31,
    u64::MAX - 3,
    u64::MAX - 1,
    u64::MAX,
];

const FLOATS: [f64; 26] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.0,
    8.0,
    64.0,
    1e4,
    65_504.0,
    65_520.0,
    1e6,
    1e10,
    1e-10,
    1e38,
    1e39,
    1e300,
    1e-300,
    5e-324,
    f64::MIN_POSITIVE,
    f64::MAX,
    f64::MIN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

/// A source of them, a function of its seed.
pub struct Numbers(SmallRng);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Uniform from 0 to `end − 1`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// Rows from one on, up to about so many; sometimes more than there are, or an end before the
    /// start.
    pub fn rows(&mut self, start: usize, most: usize) -> Range<usize> {
        match self.below(12) {
            0 => start..self.size(),
            _ => start..start.saturating_add(self.mild(most)),
        }
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub fn bits(&mut self) -> u64 {
        self.0.random()
    }

    /// Any: small ones, numbers of an everyday size, extremes, and random bits of a random length.
    pub fn u64(&mut self) -> u64 {
        match self.below(10) {
            0..=3 => self.below(10) as u64,
            4 | 5 => self.below(300) as u64,
            6 | 7 => self.pick(&SIZES),
            _ => self.bits() >> self.below(64),
        }
    }

    /// Any (on 32-bit targets what is left of it).
    pub fn size(&mut self) -> usize {
        self.u64() as usize
    }

    /// Mostly at most `most`; once in a while any.
    pub fn mild(&mut self, most: usize) -> usize {
        if self.once_in(12) { self.size() } else { self.below(most + 1) }
    }

    /// Mostly channels that kernels take.
    pub fn dim(&mut self) -> usize {
        if self.once_in(8) { self.size() } else { 4 * (1 + self.below(16)) }
    }

    pub fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    pub fn i64(&mut self) -> i64 {
        match self.below(4) {
            0 => self.pick(&[i64::MIN, i64::MIN + 1, -1, i64::MAX]),
            1 => (self.u64() as i64).wrapping_neg(),
            _ => self.u64() as i64,
        }
    }

    pub fn f64(&mut self) -> f64 {
        match self.below(6) {
            0 => self.pick(&FLOATS),
            1 => f64::from_bits(self.bits()),
            2 => self.0.random_range(-1e3..1e3),
            3 => self.0.random_range(0.0..1.0),
            _ => self.0.random_range(0.0..20.0),
        }
    }

    pub fn f32(&mut self) -> f32 {
        if self.once_in(4) { f32::from_bits(self.bits() as u32) } else { self.f64() as f32 }
    }

    /// Mostly numbers in [−4, 4): once in a while (not every time) with others among them.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        let wild = self.once_in(8);
        let value = |rng: &mut SmallRng| rng.random_range(-4.0f32..4.0);
        let mut values: Vec<f32> = (0..count).map(|_| value(&mut self.0)).collect();
        if wild && count > 0 {
            let at = self.below(count);
            values[at] = self.f32();
        }
        values
    }

    pub fn range(&mut self) -> Range<usize> {
        let (start, end) = (self.size(), self.size());
        // Reversed ones too.
        if self.once_in(3) { start..end } else { start.min(end)..start.max(end) }
    }

    pub fn bool(&mut self) -> bool {
        self.once_in(2)
    }
}
