//! What several tests need.

use ioex_base::{NodeKey, UnixSeconds, limits::SHARD_LIFE_SECONDS};

use crate::{BackupDetails, Policy, ReaderSeed};

/// What a manifest says of a package.
pub(crate) fn package_details() -> BackupDetails {
    let created = UnixSeconds(1_800_000_000);
    BackupDetails {
        name: "package".to_owned(),
        created,
        expires: created.plus(SHARD_LIFE_SECONDS),
        policy: Policy::Replicas(1),
        placer: NodeKey::from_seed([2; 32]).uid(),
        reader_seed: ReaderSeed([3; 32]),
    }
}

/// `len` bytes that no compressor shrinks, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}
