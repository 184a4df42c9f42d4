//! Which shards: one bit each.

/// A set of shards of a package with a known number of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Bits {
    len: usize,
    words: Vec<u64>,
}

/// Bytes that are no set of shards of this package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{got} bytes are no set of {len} shards")]
pub struct MalformedBits {
    /// How many shards there are.
    pub len: usize,
    /// How many bytes came.
    pub got: usize,
}

impl Bits {
    /// None of `len` shards.
    #[must_use]
    pub fn none(len: usize) -> Self {
        Self { len, words: vec![0; len.div_ceil(64)] }
    }

    /// All of `len` shards.
    #[must_use]
    pub fn all(len: usize) -> Self {
        let mut all = Self { len, words: vec![u64::MAX; len.div_ceil(64)] };
        if !len.is_multiple_of(64)
            && let Some(last) = all.words.last_mut()
        {
            *last = (1 << (len % 64)) - 1;
        }
        all
    }

    /// Reads the wire form: shard `n` is bit `n % 8` of byte `n / 8`, bits beyond the last shard are 0.
    ///
    /// # Errors
    /// [`MalformedBits`] for another length or a bit beyond the last shard.
    pub fn from_bytes(len: usize, bytes: &[u8]) -> Result<Self, MalformedBits> {
        let malformed = MalformedBits { len, got: bytes.len() };
        if bytes.len() != len.div_ceil(8) {
            return Err(malformed);
        }
        let mut bits = Self::none(len);
        for (i, &byte) in bytes.iter().enumerate() {
            bits.words[i / 8] |= u64::from(byte) << (8 * (i % 8));
        }
        if bits.minus(&Self::all(len)).is_empty() { Ok(bits) } else { Err(malformed) }
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        bytes.take(self.len.div_ceil(8)).collect()
    }

    /// How many shards the package has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Whether all are in it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() == self.len
    }

    /// How many are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether a shard is in it; none beyond the last one is.
    #[must_use]
    pub fn contains(&self, shard: u32) -> bool {
        let shard = shard as usize;
        shard < self.len && self.words[shard / 64] >> (shard % 64) & 1 == 1
    }

    /// Takes one in. Returns whether it was not in it; a shard beyond the last one is ignored.
    pub fn insert(&mut self, shard: u32) -> bool {
        let new = (shard as usize) < self.len && !self.contains(shard);
        if new {
            self.words[shard as usize / 64] |= 1 << (shard % 64);
        }
        new
    }

    /// Takes one out. Returns whether it was in it.
    pub fn remove(&mut self, shard: u32) -> bool {
        let had = self.contains(shard);
        if had {
            self.words[shard as usize / 64] &= !(1 << (shard % 64));
        }
        had
    }

    /// Adds all of `other`, of the same package.
    pub fn add(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    /// What is in this one and in `other`.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        Self { len: self.len, words }
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & !b).collect();
        Self { len: self.len, words }
    }

    /// All that are in it, upwards.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            let first = u32::try_from(i * 64).unwrap_or(u32::MAX);
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    first + bit
                })
            })
        })
    }
}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bits({} of {})", self.count(), self.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_comes_back_from_its_bytes(len in 1_usize..300, picks in prop::collection::vec(0_u32..300, 0..60)) {
            let mut bits = Bits::none(len);
            let mut plain = std::collections::BTreeSet::new();
            for pick in picks {
                let new = (pick as usize) < len && plain.insert(pick);
                prop_assert_eq!(bits.insert(pick), new);
            }
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), plain.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(bits.count(), plain.len());
            prop_assert_eq!(Bits::from_bytes(len, &bits.to_bytes()), Ok(bits.clone()));
            prop_assert!(Bits::all(len).minus(&bits).and(&bits).is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(len in 0_usize..300, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(bits) = Bits::from_bytes(len, &bytes) {
                prop_assert_eq!(bits.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn bits_beyond_the_last_shard_are_refused() {
        assert!(Bits::from_bytes(9, &[0xff, 0x01]).unwrap().is_full());
        assert_eq!(Bits::from_bytes(9, &[0xff, 0x02]), Err(MalformedBits { len: 9, got: 2 }));
        assert_eq!(Bits::from_bytes(9, &[0xff]), Err(MalformedBits { len: 9, got: 1 }));
        assert!(Bits::all(128).is_full() && !Bits::none(1).is_full());
    }
}
