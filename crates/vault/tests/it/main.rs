//! Whole files through packing, sealing, placing and restoring.

mod golden;
mod pack;
mod repo;
mod restore;

use std::path::PathBuf;

use ioex_base::{NodeKey, UnixSeconds};
use ioex_vault::{BackupDetails, Manifest, OwnerKey, Packer, Policy, ReaderSeed, Shard};

const MB: usize = 1 << 20;

fn owner() -> OwnerKey {
    OwnerKey::from_bytes([7; 32])
}

fn details() -> BackupDetails {
    BackupDetails {
        name: "file.bin".into(),
        created: UnixSeconds(1_000),
        expires: UnixSeconds(2_000),
        policy: Policy::Replicas(3),
        placer: NodeKey::from_seed([3; 32]).uid(),
        reader_seed: ReaderSeed([4; 32]),
    }
}

/// `len` bytes that no compressor shrinks, the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn pack_with(data: &[u8], previous: &[&Manifest]) -> (Manifest, Vec<Shard>) {
    let mut packer = Packer::new(&owner(), data).unwrap();
    for manifest in previous {
        packer = packer.with_previous(manifest);
    }
    let shards = packer.by_ref().map(Result::unwrap).collect();
    (packer.finish(details()).unwrap(), shards)
}

fn pack(data: &[u8]) -> (Manifest, Vec<Shard>) {
    pack_with(data, &[])
}

/// A directory with the places of one restore.
struct Places {
    dir: tempfile::TempDir,
    part: PathBuf,
    to: PathBuf,
}

impl Places {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (part, to) = (dir.path().join("file.bin.part"), dir.path().join("file.bin"));
        Self { dir, part, to }
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}
