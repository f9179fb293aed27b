//! The two random generators that data orders come from: our own, and numpy's.
//!
//! Both are small enough to save with a checkpoint, so that a resumed run sees the same order.

use serde::{Deserialize, Serialize};

/// A source of uniform bits, and what is drawn from them.
pub trait Random {
    /// The next 32 uniform bits.
    fn next_u32(&mut self) -> u32;

    /// A uniform number in `0..=max`: bits are drawn until, masked to the width of `max`, they
    /// are small enough. This is numpy's `random_interval`.
    fn up_to(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// Shuffles in place (Fisher–Yates from the last item down, as numpy's legacy `shuffle`).
    ///
    /// Items beyond the first 2³² stay where they are; no data set here is that long.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        let last = u32::try_from(items.len().saturating_sub(1)).unwrap_or(u32::MAX);
        for i in (1..=last).rev() {
            let j = self.up_to(i);
            items.swap(i as usize, j as usize);
        }
    }

    /// A random order of `0..n`.
    fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, any seed is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next uniform number in [0, 1), in steps of 2⁻⁵³.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Random for SplitMix64 {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }
}

/// Words of state of [`Mt19937`].
const N: usize = 624;
/// Distance between the words that are mixed.
const M: usize = 397;

/// The Mersenne Twister MT19937 (Matsumoto, Nishimura 1998), seeded as `numpy.random.seed(int)`
/// does: with it [`Random::permutation`] is `numpy.random.permutation`, which orders MLX-LM's
/// batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "MtState")]
pub struct Mt19937 {
    /// 624 words.
    key: Vec<u32>,
    /// The next word to hand out; 624 asks for the next round.
    pos: usize,
}

/// A saved [`Mt19937`], not yet checked.
#[derive(Deserialize)]
struct MtState {
    key: Vec<u32>,
    pos: usize,
}

impl TryFrom<MtState> for Mt19937 {
    type Error = String;

    fn try_from(state: MtState) -> Result<Self, String> {
        if state.key.len() != N || state.pos > N {
            return Err(format!("not an MT19937 state: it has {N} words and a position in them"));
        }
        Ok(Self { key: state.key, pos: state.pos })
    }
}

impl Mt19937 {
    /// The generator that `numpy.random.seed(seed)` makes.
    pub fn new(seed: u32) -> Self {
        let mut key = Vec::with_capacity(N);
        let mut word = seed;
        for i in 1..=N as u32 {
            key.push(word);
            word = (word ^ (word >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i);
        }
        Self { key, pos: N }
    }

    /// Replaces all words by the next round's.
    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.key[i] & 0x8000_0000) | (self.key[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.key[i] = self.key[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.pos = 0;
    }
}

impl Random for Mt19937 {
    fn next_u32(&mut self) -> u32 {
        if self.pos >= N {
            self.twist();
        }
        let mut y = self.key[self.pos];
        self.pos += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn splitmix64_gives_the_published_numbers() {
        let mut rng = SplitMix64::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn mt19937_gives_the_published_numbers() {
        // The C++ standard requires 4123659995 as the 10000th number of mt19937 (seed 5489).
        let mut rng = Mt19937::new(5489);
        assert_eq!(rng.next_u32(), 3_499_211_612);
        let last = (2..=10_000).map(|_| rng.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn permutation_is_numpys() {
        // numpy.random.seed(0); numpy.random.permutation(10); numpy.random.permutation(7)
        let mut rng = Mt19937::new(0);
        assert_eq!(rng.permutation(10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!(rng.permutation(7), [3, 1, 2, 6, 5, 0, 4]);
        assert!(rng.permutation(0).is_empty());
    }

    #[test]
    fn a_saved_state_goes_on_where_it_was_and_a_broken_one_is_refused() {
        let mut rng = Mt19937::new(7);
        rng.permutation(1000);
        let saved = serde_json::to_string(&rng).unwrap();
        let mut restored: Mt19937 = serde_json::from_str(&saved).unwrap();
        assert_eq!(restored.permutation(50), rng.permutation(50));
        assert!(serde_json::from_str::<Mt19937>(r#"{"key":[1,2],"pos":0}"#).is_err());
    }

    #[test]
    fn up_to_reaches_both_ends_evenly() {
        let mut rng = SplitMix64::new(1);
        let mut seen = [0u32; 5];
        for _ in 0..5000 {
            seen[rng.up_to(4) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (900..1100).contains(&n)), "{seen:?}");
    }
}
