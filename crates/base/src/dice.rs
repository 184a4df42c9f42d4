//! Numbers for choosing, not for secrets: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

/// A sequence that follows from its seed; nobody foresees it who does not know that.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence that begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number; all are equally likely.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0. The bias of the multiplication is `bound` / 2^64.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from((u128::from(self.roll()) * bound as u128) >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_splitmix64() {
        // The first numbers of the authors' program for the seed 1234567.
        let mut dice = Dice::new(1_234_567);
        let first = [dice.roll(), dice.roll(), dice.roll()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut dice = Dice::new(1);
        let mut seen = [0u32; 5];
        (0..5_000).for_each(|_| seen[dice.below(5)] += 1);
        assert!(seen.iter().all(|count| (850..1_150).contains(count)), "{seen:?}");
        assert_eq!((dice.below(0), dice.below(1)), (0, 0));
    }
}
