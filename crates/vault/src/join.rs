//! From shards that are all here back to the stream, in its order: for an installer, which writes from
//! front to back and keeps no second copy.

use std::{io, ops::Range};

use crate::{
    chunk::{ChunkError, Decoder},
    manifest::{ChunkId, ChunkRef, Manifest},
};

/// Why the stream does not come.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A shard cannot be read, or there is no memory.
    #[error("cannot read a shard: {0}")]
    Io(#[from] io::Error),
    /// A shard was verified, and yet holds something else than the manifest says.
    #[error("the manifest does not fit its shards: {0}")]
    Chunk(#[from] ChunkError),
    /// The place to go on from lies behind the end.
    #[error("the stream has {length} bytes, there is no byte {at}")]
    Behind {
        /// Its length in bytes.
        length: u64,
        /// From where it should go on.
        at: u64,
    },
}

/// Reads a stream chunk by chunk. Holds one chunk in memory.
pub struct Joiner<'a> {
    manifest: &'a Manifest,
    decoder: Decoder,
    /// Place in the manifest's order.
    next: usize,
    /// Bytes of the next chunk that are not wanted.
    skip: usize,
}

impl<'a> Joiner<'a> {
    /// Begins at byte `at` of the stream.
    ///
    /// # Errors
    /// [`JoinError::Behind`], [`JoinError::Io`] when the decompressor gets no memory.
    pub fn new(manifest: &'a Manifest, at: u64) -> Result<Self, JoinError> {
        let mut left = at;
        let mut next = 0;
        while left > 0 {
            let length = manifest.size_bytes;
            let chunk = manifest.order.get(next).and_then(|i| manifest.chunks.get(*i as usize));
            let Some(chunk) = chunk else { return Err(JoinError::Behind { length, at }) };
            let Some(rest) = left.checked_sub(u64::from(chunk.plain_bytes)) else { break };
            left = rest;
            next += 1;
        }
        let skip = usize::try_from(left).unwrap_or(usize::MAX);
        Ok(Self { manifest, decoder: Decoder::new()?, next, skip })
    }

    /// The next bytes, or nothing at the end. `read` gives what lies in a range of a shard, by its index.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn next(
        &mut self,
        read: impl FnOnce(u32, Range<u64>) -> io::Result<Vec<u8>>,
    ) -> Result<Option<&[u8]>, JoinError> {
        let Some(chunk) = self.manifest.order.get(self.next) else { return Ok(None) };
        let Some(chunk) = self.manifest.chunks.get(*chunk as usize) else { return Ok(None) };
        let from = u64::from(chunk.offset);
        let sealed = read(chunk.shard, from..from + u64::from(chunk.stored_bytes))?;
        let plain = self.decoder.decode_sealed(chunk, &sealed)?;
        self.next += 1;
        let skip = std::mem::take(&mut self.skip);
        Ok(Some(plain.get(skip..).unwrap_or_default()))
    }

    /// The chunk that comes next, for who may have it elsewhere; then [`Joiner::pass`] goes on behind it.
    #[must_use]
    pub fn coming(&self) -> Option<(&'a ChunkRef, usize)> {
        let chunk = self.manifest.order.get(self.next)?;
        Some((self.manifest.chunks.get(*chunk as usize)?, self.skip))
    }

    /// Leaves the next chunk out, because it came from elsewhere.
    pub fn pass(&mut self) {
        self.next += 1;
        self.skip = 0;
    }
}

impl Manifest {
    /// Where in the stream each chunk first stands, in bytes from its beginning.
    pub fn offsets(&self) -> impl Iterator<Item = (ChunkId, u32, u64)> + '_ {
        let mut at = 0;
        let mut seen = vec![false; self.chunks.len()];
        self.order.iter().filter_map(move |index| {
            let chunk = self.chunks.get(*index as usize)?;
            let begin = at;
            at += u64::from(chunk.plain_bytes);
            let before = seen.get_mut(*index as usize).map(|seen| std::mem::replace(seen, true));
            (before == Some(false)).then_some((chunk.id, chunk.plain_bytes, begin))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OwnerKey, Packer, Shard, testing::package_details};

    fn packed(bytes: &[u8]) -> (Vec<Shard>, Manifest) {
        let mut packer = Packer::for_package(&OwnerKey::from_bytes([1; 32]), bytes).unwrap();
        let shards: Vec<Shard> = packer.by_ref().collect::<Result<_, _>>().unwrap();
        let manifest = packer.finish(package_details()).unwrap();
        (shards, manifest)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        // A part that comes twice.
        bytes.copy_within(0..1_500_000, len - 1_600_000);
        bytes
    }

    #[test]
    fn a_stream_comes_back_from_any_byte_on() {
        let bytes = noise(5_000_000);
        let (shards, manifest) = packed(&bytes);
        assert!(shards.len() >= 4, "several shards");
        assert!(shards.iter().all(|shard| shard.bytes.len() <= crate::limits::PACKAGE_SHARD_BYTES));
        let read = |shard: u32, range: Range<u64>| {
            Ok(shards[shard as usize].bytes[range.start as usize..range.end as usize].to_vec())
        };
        for at in [0, 1, 999_999, 4_999_999, 5_000_000] {
            let mut joiner = Joiner::new(&manifest, at).unwrap();
            let mut out = Vec::new();
            while let Some(plain) = joiner.next(read).unwrap() {
                out.extend_from_slice(plain);
            }
            assert!(out == bytes[at as usize..], "from byte {at}");
        }
        assert!(matches!(Joiner::new(&manifest, 5_000_001), Err(JoinError::Behind { .. })));
    }

    #[test]
    fn offsets_say_where_a_chunk_stands_first() {
        let bytes = noise(5_000_000);
        let (_, manifest) = packed(&bytes);
        let mut joiner = Joiner::new(&manifest, 0).unwrap();
        let mut at = 0;
        let mut first = std::collections::HashMap::new();
        while let Some((chunk, _)) = joiner.coming() {
            first.entry(chunk.id).or_insert(at);
            at += u64::from(chunk.plain_bytes);
            joiner.pass();
        }
        assert_eq!(at, 5_000_000);
        assert_eq!(manifest.offsets().count(), first.len());
        assert!(manifest.offsets().all(|(id, _, begin)| first[&id] == begin));
    }
}
