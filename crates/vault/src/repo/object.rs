//! Small things that are stored as shards of their own: segments and the roots of restore points.
//!
//! An object is one chunk in one padded shard, packed as every other chunk is. What refers to it
//! carries its key, so that whoever holds the reference reads it and nobody else does.

use std::io;

use ioex_base::{ContentAddress, limits::SHARD_MAX_BYTES};
use serde::{Deserialize, Serialize};

use crate::{
    chunk::{ChunkError, Decoder, Encoder},
    limits::CHUNK_MAX_BYTES,
    manifest::{ChunkId, ChunkKey, ChunkRef, Codec, ShardRef},
    owner::Secrets,
    shard::OpenShard,
};

/// Longest object in bytes: that of a chunk.
pub const OBJECT_MAX_BYTES: usize = CHUNK_MAX_BYTES;

/// Where an object lies and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its shard.
    pub shard: ShardRef,
    stored_bytes: u32,
    plain_bytes: u32,
    codec: Codec,
    key: ChunkKey,
}

/// Bytes that are not the object that was referred to.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Other bytes than the reference says.
    #[error("the object {0} is damaged")]
    Address(ContentAddress),
    /// Right bytes that cannot be read.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The decompressor has no memory.
    #[error("cannot read an object: {0}")]
    Io(#[from] io::Error),
}

/// Packs `plain`, at most [`OBJECT_MAX_BYTES`] of it, into a shard of its own.
///
/// # Errors
/// When it is too long, or the compressor fails.
pub(crate) fn seal(secrets: &Secrets, plain: &[u8]) -> io::Result<(ObjectRef, Vec<u8>)> {
    if plain.len() > OBJECT_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an object is too long"));
    }
    let mut encoder = Encoder::new()?;
    let encoded = encoder.encode(secrets, plain)?;
    let mut open = OpenShard::new(0, SHARD_MAX_BYTES as usize);
    open.push(encoded.sealed);
    let (codec, key, stored_bytes) = (encoded.codec, encoded.key, encoded.sealed.len() as u32);
    let (shard, reference) = open.finish(secrets);
    let plain_bytes = plain.len() as u32;
    Ok((ObjectRef { shard: reference, stored_bytes, plain_bytes, codec, key }, shard.bytes))
}

impl ObjectRef {
    /// The object in its shard's bytes.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub fn open(&self, shard: &[u8]) -> Result<Vec<u8>, ObjectError> {
        if shard.len() != self.shard.bytes as usize || ContentAddress::of(shard) != self.shard.address {
            return Err(ObjectError::Address(self.shard.address));
        }
        let chunk = ChunkRef {
            shard: 0,
            offset: 0,
            stored_bytes: self.stored_bytes,
            plain_bytes: self.plain_bytes,
            codec: self.codec,
            key: self.key.clone(),
            id: ChunkId([0; 16]),
        };
        Ok(Decoder::new()?.decode(&chunk, shard)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OwnerKey, testing::noise};

    #[test]
    fn objects_round_trip_and_damage_is_noticed() {
        let secrets = OwnerKey::from_bytes([3; 32]).secrets();
        for plain in [vec![], b"short".to_vec(), noise(100_000, 1), vec![7; OBJECT_MAX_BYTES]] {
            let (reference, mut shard) = seal(&secrets, &plain).unwrap();
            assert_eq!(reference.open(&shard).unwrap(), plain);
            shard[0] ^= 1;
            assert!(matches!(reference.open(&shard), Err(ObjectError::Address(_))));
        }
        assert!(seal(&secrets, &vec![0; OBJECT_MAX_BYTES + 1]).is_err());
    }
}
