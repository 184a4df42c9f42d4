//! A manifest as it travels: raw, a good one with changes, and any tail that its author signed.

#![no_main]

use std::sync::LazyLock;

use ioex_fuzz::{NOW, patched, signer};
use ioex_vault::{BackupDetails, OwnerKey, Packer, Policy, ReaderSeed, open_manifest, seal_manifest};
use libfuzzer_sys::fuzz_target;

/// The author (32) and the signature (64) stand behind the version.
const TAIL_AT: usize = 1 + 32 + 64;

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut packer = Packer::new(&OwnerKey::from_bytes([2; 32]), &b"some bytes"[..]).unwrap();
    packer.by_ref().for_each(|shard| drop(shard.unwrap()));
    let details = BackupDetails {
        name: "a.txt".to_owned(),
        created: NOW,
        expires: NOW.plus(1_000),
        policy: Policy::Replicas(3),
        placer: signer().uid(),
        reader_seed: ReaderSeed([3; 32]),
    };
    let manifest = packer.finish(details).unwrap();
    seal_manifest(&manifest, &signer(), &[signer().uid()]).unwrap()
});

/// `tail` as the author would sign it.
fn signed(tail: &[u8]) -> Vec<u8> {
    let (key, author) = (signer(), signer().uid());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[1]).update(author.as_bytes()).update(tail);
    let mut message = b"ioex 2026 sealed manifest v1\0".to_vec();
    message.extend_from_slice(hasher.finalize().as_bytes());
    let mut out = vec![1];
    out.extend_from_slice(author.as_bytes());
    out.extend_from_slice(&key.sign(&message));
    out.extend_from_slice(tail);
    out
}

fuzz_target!(|data: &[u8]| {
    let reader = signer();
    let _ = open_manifest(data, &reader);
    let changed = patched(&SAMPLE, data);
    assert_eq!(open_manifest(&changed, &reader).is_ok(), changed == *SAMPLE, "a change went unnoticed");
    let _ = open_manifest(&signed(data), &reader);
    let _ = open_manifest(&signed(&patched(&SAMPLE[TAIL_AT..], data)), &reader);
});
