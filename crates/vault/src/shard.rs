//! Filling shards with encrypted chunks.

use ioex_base::ContentAddress;

use crate::{limits::SHARD_MIN_BYTES, manifest::ShardRef, owner::Secrets};

/// A finished shard, ready to be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its index in the manifest's list of shards.
    pub index: u32,
    /// BLAKE3 of `bytes`.
    pub address: ContentAddress,
    /// Between [`SHARD_MIN_BYTES`] and
    /// [`SHARD_MAX_BYTES`](ioex_base::limits::SHARD_MAX_BYTES) of them, all alike to whoever lacks the
    /// manifest.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({} {}, {} bytes)", self.index, self.address.short(), self.bytes.len())
    }
}

/// How long a shard with `bytes` bytes of chunks becomes: Padmé (Nikitin et al., "Reducing
/// metadata leakage from encrypted files", 2019), at least [`SHARD_MIN_BYTES`].
///
/// The length then tells O(log log) bits, about five for the largest shards, for at most 12% more
/// and for full shards under 3% more. What is at most a power of two stays so.
#[must_use]
pub fn padded_bytes(bytes: usize) -> usize {
    if bytes <= SHARD_MIN_BYTES {
        return SHARD_MIN_BYTES;
    }
    let exponent = bytes.ilog2();
    let significant = exponent.ilog2() + 1;
    let mask = (1usize << exponent.saturating_sub(significant)) - 1;
    bytes.saturating_add(mask) & !mask
}

/// A shard that is being filled.
pub(crate) struct OpenShard {
    index: u32,
    max_bytes: usize,
    bytes: Vec<u8>,
}

impl OpenShard {
    /// A shard with at most `max_bytes` of chunks, at most the largest shard: padding comes on top
    /// and never goes past the next power of two.
    pub(crate) fn new(index: u32, max_bytes: usize) -> Self {
        Self { index, max_bytes, bytes: Vec::new() }
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn has_room_for(&self, sealed: &[u8]) -> bool {
        self.bytes.len().saturating_add(sealed.len()) <= self.max_bytes
    }

    /// Appends a chunk and returns its offset.
    pub(crate) fn push(&mut self, sealed: &[u8]) -> u32 {
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(sealed);
        offset
    }

    pub(crate) fn finish(mut self, secrets: &Secrets) -> (Shard, ShardRef) {
        let to = padded_bytes(self.bytes.len());
        secrets.pad(&mut self.bytes, to);
        let address = ContentAddress::of(&self.bytes);
        let reference = ShardRef { address, bytes: self.bytes.len() as u32 };
        (Shard { index: self.index, address, bytes: self.bytes }, reference)
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::limits::SHARD_MAX_BYTES;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn padding_follows_padme() {
        for (bytes, padded) in [
            (0, 16_384),
            (1, 16_384),
            (16_384, 16_384),
            (16_385, 17_408),
            (1_000_000, 1_015_808),
            (4_194_303, 4_194_304),
            (4_194_304, 4_194_304),
        ] {
            assert_eq!(padded_bytes(bytes), padded, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn padding_is_bounded(bytes in 1..=SHARD_MAX_BYTES as usize) {
            let padded = padded_bytes(bytes);
            prop_assert!(padded >= bytes && padded as u64 <= SHARD_MAX_BYTES);
            prop_assert!(padded <= SHARD_MIN_BYTES || (padded - bytes) * 100 <= bytes * 12);
            prop_assert_eq!(padded_bytes(padded), padded);
        }
    }
}
