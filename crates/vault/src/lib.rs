//! From a file to shards and back.
//!
//! An owner packs a file with an [`OwnerKey`]: [`Packer`] cuts it where its content says so,
//! compresses and encrypts each chunk, and yields *shards* of at most 4 MiB that look alike to
//! whoever holds them. At the end it gives a [`Manifest`], which says how the file is put together
//! and holds all keys: who has the manifest and the shards needs nothing else. The manifest travels
//! sealed to its recipients ([`seal_manifest`], [`open_manifest`]). [`place`] says which devices
//! should hold which shard, [`rank`] whom to ask first, and a [`Restorer`] turns the shards back
//! into the file, in any order, going on after a crash where it was.
//!
//! Shards protect each other in groups. A [`Redundancy`] says how, [`choose`] which one the devices
//! at hand allow, [`encode`] makes the parity and [`reconstruct`] what was lost, and a [`Placer`]
//! finds the devices for whole groups. [`health`] has the rules for watching over them, and
//! [`proof`] how a device shows that it still has a shard.
//!
//! Nothing here knows the network or reads a clock. The format is described, for other programs
//! too, in `docs/formats/vault.md`.
//!
//! ```
//! use ioex_base::{NodeKey, UnixSeconds, limits::SHARD_LIFE_SECONDS};
//! use ioex_vault::{
//!     BackupDetails, DEFAULT_REPLICAS, OwnerKey, Packer, Policy, ReaderSeed, Restorer,
//!     open_manifest, safe_file_name, seal_manifest,
//! };
//!
//! let device = NodeKey::from_seed([1; 32]);
//! let created = UnixSeconds(1_800_000_000);
//! let mut packer = Packer::new(&OwnerKey::generate()?, &b"some bytes"[..])?;
//! let shards: Vec<_> = packer.by_ref().collect::<Result<_, _>>()?;
//! let manifest = packer.finish(BackupDetails {
//!     name: safe_file_name("notes.txt")?.to_owned(),
//!     created,
//!     expires: created.plus(SHARD_LIFE_SECONDS),
//!     policy: Policy::Replicas(DEFAULT_REPLICAS),
//!     placer: device.uid(),
//!     reader_seed: ReaderSeed::generate()?,
//! })?;
//! let sealed = seal_manifest(&manifest, &device, &[device.uid()])?;
//!
//! # let dir = tempfile::tempdir()?;
//! let (manifest, author) = open_manifest(&sealed, &device)?;
//! assert_eq!(author, device.uid());
//! let mut restorer = Restorer::open(manifest, &dir.path().join("notes.txt.part"))?;
//! for index in restorer.missing() {
//!     restorer.accept_shard(index, &shards[index as usize].bytes)?;
//! }
//! restorer.finish(&dir.path().join("notes.txt"))?;
//! assert_eq!(std::fs::read(dir.path().join("notes.txt"))?, b"some bytes");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod aead;
mod bounded;
mod chunk;
mod chunker;
mod code;
mod envelope;
pub mod health;
mod join;
mod journal;
#[cfg(feature = "pack")]
pub mod lab;
pub mod limits;
mod manifest;
mod name;
mod owner;
mod pack;
mod parts;
mod place;
pub mod proof;
mod rank;
mod redundancy;
pub mod repo;
mod restore;
mod shard;
#[cfg(test)]
mod testing;

pub use chunk::ChunkError;
pub use code::{CodeError, encode, parity_bytes, reconstruct};
pub use envelope::{SEALED_MANIFEST_MAX_BYTES, SealManifestError, open_manifest, seal_manifest};
pub use join::{JoinError, Joiner};
pub use limits::DEFAULT_REPLICAS;
pub use manifest::{
    BackupDetails, ChunkId, ChunkKey, ChunkRef, Codec, InvalidManifest, Manifest, ManifestError, Policy,
    ReaderSeed, ShardRef,
};
pub use name::{NameError, safe_file_name};
pub use owner::OwnerKey;
pub use pack::{PackError, Packer};
pub use parts::{Parts, Place};
pub use place::{HOLDERS_MAX, Holder, Placement, Placer, Replacement, Shortfall, place, replace};
pub use rank::{Provider, rank};
pub use redundancy::{
    CODED_SHARD_MIN_BYTES, Choice, GROUP_MEMORY_BYTES, HOLDER_FREE_MIN_BYTES, INDEX_COPIES_MAX,
    InvalidRedundancy, OVERHEAD_MAX, ParseRedundancyError, REDUNDANCY_MAX, Redundancy, Wanted, choose,
    owners,
};
pub use restore::{RestoreError, Restorer, ShardError};
pub use shard::{Shard, padded_bytes};
