//! Random numbers that are the same everywhere. A case is known by its seed and its index.

use crate::kit::splitmix64;

/// A stream of numbers.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of one case.
    pub fn of_case(seed: u64, index: u64) -> Self {
        let mut rng = Self(seed ^ index.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }

    /// 0 to `bound` - 1; 0 for a `bound` of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.next().checked_rem(bound as u64).unwrap_or(0) as usize
    }

    /// `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &'a [&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// A number as programs trip over: a border of its type, a power of two and its neighbours, small, or any.
    pub fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, u64::MAX]
                [self.below(12)],
            1 => (1_u64 << self.below(64)).wrapping_add(self.next() % 3).wrapping_sub(1),
            2 | 3 => self.next() % 64,
            4 => self.next() % 20_000,
            _ => self.next() >> self.below(64),
        }
    }

    /// `width` bytes to stand in the place of `old`: a number of [`Rng::number`], one more, one less, or a turned bit.
    pub fn field(&mut self, old: &[u8], width: usize) -> Vec<u8> {
        let mut bytes = [0; 8];
        let held = width.min(8).min(old.len());
        bytes[..held].copy_from_slice(&old[..held]);
        let old = u64::from_le_bytes(bytes);
        let new = match self.below(6) {
            0 => old.wrapping_add(1),
            1 => old.wrapping_sub(1),
            2 | 3 => old ^ (1 << self.below(width.clamp(1, 8) * 8)),
            _ => self.number(),
        };
        let mut new = new.to_le_bytes().to_vec();
        new.resize(width, 0);
        new
    }
}
