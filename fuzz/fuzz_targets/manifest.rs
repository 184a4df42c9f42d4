//! A decrypted manifest: raw, and a good one with changes.

#![no_main]

use std::sync::LazyLock;

use ioex_fuzz::{NOW, patched, signer};
use ioex_vault::{BackupDetails, Manifest, OwnerKey, Packer, Policy, ReaderSeed};
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // Several chunks, one of them twice, in more than one shard.
    let mut file = vec![7; 3 << 20];
    let mut noise = blake3::Hasher::new().finalize_xof();
    noise.fill(&mut file[1 << 20..]);
    let twice = file.repeat(2);
    let mut packer = Packer::new(&OwnerKey::from_bytes([2; 32]), &twice[..]).unwrap();
    packer.by_ref().for_each(|shard| drop(shard.unwrap()));
    let details = BackupDetails {
        name: "a.txt".to_owned(),
        created: NOW,
        expires: NOW.plus(1_000),
        policy: Policy::Replicas(3),
        placer: signer().uid(),
        reader_seed: ReaderSeed([3; 32]),
    };
    packer.finish(details).unwrap().encode()
});

fn check(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    assert_eq!(manifest.check(), Ok(()));
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
    let _ = manifest.stored_bytes();
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&patched(&SAMPLE, data));
});
