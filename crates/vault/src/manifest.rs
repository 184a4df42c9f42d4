//! The manifest: all that is needed to get a file back, except the shards.
//!
//! Its bytes are a version number and one frozen layout per version (module `v1`); see
//! `docs/formats/vault.md`. It travels sealed to its recipients (module `envelope`).

mod check;
mod v1;

use std::fmt;

use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

pub use check::InvalidManifest;

use crate::limits::MANIFEST_MAX_BYTES;

/// How a chunk was made smaller before it was encrypted. The numbers are in stored data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    /// Not at all.
    Raw,
    /// Zstandard (RFC 8878), one frame.
    Zstd,
}

impl Codec {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }
}

/// How a file is protected against the loss of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// This many whole copies of each shard, on devices of different owners.
    Replicas(u8),
}

impl Policy {
    /// How many devices hold each shard.
    #[must_use]
    pub const fn replicas(self) -> u8 {
        match self {
            Self::Replicas(n) => n,
        }
    }
}

/// The key of one chunk. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkKey(pub [u8; 32]);

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkKey(..)")
    }
}

/// The name of a chunk's plaintext under its owner's key: how the next restore point finds it.
/// Sixteen bytes suffice, because nobody without the key can look for two chunks of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 16]);

/// Seed of a backup's reader key: who has it can let nodes read the backup's shards. Never
/// printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderSeed(pub [u8; 32]);

impl ReaderSeed {
    /// A new seed from the operating system's randomness; every backup has its own.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self(seed))
    }

    /// The key that signs fetch grants.
    #[must_use]
    pub fn key(&self) -> NodeKey {
        NodeKey::from_seed(self.0)
    }
}

impl fmt::Debug for ReaderSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReaderSeed(of {})", self.key().uid())
    }
}

/// One shard of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRef {
    /// BLAKE3 of its bytes.
    pub address: ContentAddress,
    /// Its length in bytes, padding included.
    pub bytes: u32,
}

/// One chunk of a file: where it lies and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// Index into [`Manifest::shards`].
    pub shard: u32,
    /// Where it begins in the shard, in bytes.
    pub offset: u32,
    /// Its length in the shard in bytes, tag included.
    pub stored_bytes: u32,
    /// Its length in the file in bytes.
    pub plain_bytes: u32,
    /// How it was compressed.
    pub codec: Codec,
    /// How it was encrypted.
    pub key: ChunkKey,
    /// Its name for later restore points.
    pub id: ChunkId,
}

/// What a backup is, apart from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupDetails {
    /// Name of the file, without directories.
    pub name: String,
    /// When the backup was made.
    pub created: UnixSeconds,
    /// Until when its shards are leased.
    pub expires: UnixSeconds,
    /// How it is protected.
    pub policy: Policy,
    /// Who placed it.
    pub placer: Uid,
    /// Its reader key.
    pub reader_seed: ReaderSeed,
}

/// Everything about one backup of one file.
///
/// The fields are open for reading and building; [`Manifest::check`] says whether they agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Name, dates, policy, keys.
    pub details: BackupDetails,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of the file.
    pub content: ContentAddress,
    /// The shards, each once.
    pub shards: Vec<ShardRef>,
    /// The chunks, each once.
    pub chunks: Vec<ChunkRef>,
    /// The file: indexes into `chunks`, in the order of the file. A chunk may come repeatedly.
    pub order: Vec<u32>,
}

/// Why bytes are no manifest that can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Written by a newer (or no) program.
    #[error("manifest version {got} is unknown, this program reads version {want}: update it")]
    Version {
        /// The version this program reads.
        want: u8,
        /// The version that came.
        got: u8,
    },
    /// Longer than any manifest may be.
    #[error("a manifest has at most {max} bytes, this one {got}")]
    TooLong {
        /// The bound in bytes.
        max: usize,
        /// What came, in bytes.
        got: usize,
    },
    /// Sealed to other nodes.
    #[error("this manifest is not for this node")]
    NotForYou,
    /// Cut, changed, or never a manifest.
    #[error("the manifest is damaged")]
    Damaged,
    /// Well formed, but its parts contradict each other.
    #[error("the manifest contradicts itself: {0}")]
    Invalid(#[from] InvalidManifest),
}

impl Manifest {
    /// The bytes of the newest format version. What [`Manifest::check`] accepts fits
    /// [`MANIFEST_MAX_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        v1::encode(self)
    }

    /// Reads and checks a manifest of any known version. Memory stays within a small multiple of
    /// the input's length.
    ///
    /// # Errors
    /// [`ManifestError::TooLong`], [`ManifestError::Version`], [`ManifestError::Damaged`],
    /// [`ManifestError::Invalid`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_MAX_BYTES {
            return Err(ManifestError::TooLong { max: MANIFEST_MAX_BYTES, got: bytes.len() });
        }
        let manifest = match bytes.split_first() {
            Some((&v1::VERSION, body)) => v1::decode(body)?,
            Some((&got, _)) => return Err(ManifestError::Version { want: v1::VERSION, got }),
            None => return Err(ManifestError::Damaged),
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether the parts agree with each other and stay within all bounds.
    ///
    /// # Errors
    /// [`InvalidManifest`], the cheapest rule first.
    pub fn check(&self) -> Result<(), InvalidManifest> {
        check::check(self)
    }

    /// The public reader key: the `reader` of the leases under which the shards lie.
    #[must_use]
    pub fn reader(&self) -> Uid {
        self.details.reader_seed.key().uid()
    }

    /// Sum of the shards' lengths in bytes: what one copy takes.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.shards.iter().map(|s| u64::from(s.bytes)).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
pub(crate) use v1::tests::sample;
