//! The owner's secret and what follows from it.

use std::fmt;

use zeroize::Zeroizing;

use crate::manifest::{ChunkId, ChunkKey, Codec};

const CHUNK_ID_CONTEXT: &str = "ioex 2026 vault v1 chunk id";
const CHUNK_KEY_CONTEXT: &str = "ioex 2026 vault v1 chunk key";
const GEAR_CONTEXT: &str = "ioex 2026 vault v1 gear table";
const PADDING_CONTEXT: &str = "ioex 2026 vault v1 shard padding";

/// A gear table for content-defined chunking.
pub(crate) type Gear = [u64; 256];

/// An owner's secret for packing. Wiped from memory when dropped, never printed.
///
/// It is needed to pack only: whoever restores needs the manifest and nothing else. Backups packed
/// under the same key share their equal chunks; without the key nobody can tell whether a stored
/// chunk is a piece of a file that they know.
#[derive(Clone)]
pub struct OwnerKey(Zeroizing<[u8; 32]>);

impl OwnerKey {
    /// The key with these secret bytes.
    #[must_use]
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut())?;
        Ok(Self(secret))
    }

    /// The secret bytes, for a file that only the owner may read.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    pub(crate) fn secrets(&self) -> Secrets {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, self.0.as_ref()));
        Secrets {
            chunk_id: derive(CHUNK_ID_CONTEXT),
            chunk_key: derive(CHUNK_KEY_CONTEXT),
            padding: derive(PADDING_CONTEXT),
        }
    }

    /// A gear table of the owner's own. Replacing the whole table, rather than mixing one 64-bit
    /// seed into the public one, leaves nothing of the public table's structure by which cuts in
    /// known content could be recognised.
    pub(crate) fn gear(&self) -> Box<Gear> {
        let mut reader = blake3::Hasher::new_derive_key(GEAR_CONTEXT).update(self.0.as_ref()).finalize_xof();
        let mut gear = Box::new([0; 256]);
        for value in gear.iter_mut() {
            let mut bytes = [0; 8];
            reader.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        gear
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerKey(..)")
    }
}

/// Keys for one purpose each.
pub(crate) struct Secrets {
    chunk_id: Zeroizing<[u8; 32]>,
    chunk_key: Zeroizing<[u8; 32]>,
    padding: Zeroizing<[u8; 32]>,
}

impl Secrets {
    /// The name of a plaintext chunk among its owner's chunks.
    pub(crate) fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        let mut id = [0; 16];
        blake3::Hasher::new_keyed(&self.chunk_id).update(plain).finalize_xof().fill(&mut id);
        ChunkId(id)
    }

    /// The key under which `payload`, the chunk as its codec wrote it, is encrypted.
    ///
    /// It hashes exactly what the cipher will read, so that one key never meets two inputs
    /// whatever the compressor does: another level, or a release of it that writes other bytes for
    /// the same plaintext, gives another key.
    pub(crate) fn chunk_key(&self, codec: Codec, payload: &[u8]) -> ChunkKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.chunk_key);
        hasher.update(&[codec.number()]).update(payload);
        ChunkKey(*hasher.finalize().as_bytes())
    }

    /// Fills the end of a shard with what nobody can tell from ciphertext. Depends on what stands
    /// before it, so that the same chunks give the same shard and no two shards share padding.
    pub(crate) fn pad(&self, shard: &mut Vec<u8>, to_bytes: usize) {
        let from = shard.len();
        let mut reader = blake3::Hasher::new_keyed(&self.padding).update(shard).finalize_xof();
        shard.resize(to_bytes.max(from), 0);
        reader.fill(shard.get_mut(from..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// Frozen: another derivation would end sharing of chunks with older restore points.
    #[test]
    fn golden_derivations() {
        let key = OwnerKey::from_bytes([7; 32]);
        let secrets = key.secrets();
        assert_eq!(HEXLOWER.encode(&secrets.chunk_id(b"chunk").0), "39f8de89f123f184b19b5f894c755386");
        assert_eq!(
            HEXLOWER.encode(&secrets.chunk_key(Codec::Raw, b"chunk").0),
            "b055b9e6273da73d8db43e21c9c7a955792e6af05e8dfbc114d8d1e495f770c5"
        );
        let gear = key.gear();
        assert_eq!((gear[0], gear[255]), (11_953_287_318_870_619_217, 16_063_272_586_511_356_036));
        let mut shard = b"shard".to_vec();
        secrets.pad(&mut shard, 13);
        assert_eq!(HEXLOWER.encode(&shard), "736861726469cd2ce05c09a489");
    }

    #[test]
    fn keys_differ_by_owner_codec_and_payload() {
        let (a, b) = (OwnerKey::from_bytes([1; 32]).secrets(), OwnerKey::from_bytes([2; 32]).secrets());
        let key = a.chunk_key(Codec::Raw, b"x");
        assert_ne!(key, b.chunk_key(Codec::Raw, b"x"));
        assert_ne!(key, a.chunk_key(Codec::Zstd, b"x"));
        assert_ne!(key, a.chunk_key(Codec::Raw, b"y"));
        assert_ne!(a.chunk_id(b"x"), b.chunk_id(b"x"));
        assert_eq!(format!("{:?} {key:?}", OwnerKey::from_bytes([1; 32])), "OwnerKey(..) ChunkKey(..)");
    }
}
