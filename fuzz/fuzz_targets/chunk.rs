//! A chunk whose author made manifest and shard to harm whoever restores it: `lie (2) | payload`.

#![no_main]

use ioex_base::ContentAddress;
use ioex_fuzz::{NOW, folder, signer};
use ioex_vault::{
    BackupDetails, ChunkId, ChunkKey, ChunkRef, Codec, Manifest, Policy, ReaderSeed, Restorer, ShardRef,
};
use libfuzzer_sys::fuzz_target;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const KEY: [u8; 32] = [4; 32];
const TAG_BYTES: u32 = 16;

/// As `docs/formats/vault.md` has it: a nonce of zeros, no additional data.
fn encrypt(payload: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEY).unwrap());
    let mut out = payload.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut out).unwrap();
    out
}

fn manifest(shard: &[u8], plain_bytes: u32) -> Manifest {
    let bytes = u32::try_from(shard.len()).unwrap();
    let codec = if bytes == plain_bytes + TAG_BYTES { Codec::Raw } else { Codec::Zstd };
    Manifest {
        details: BackupDetails {
            name: "a".to_owned(),
            created: NOW,
            expires: NOW.plus(1),
            policy: Policy::Replicas(1),
            placer: signer().uid(),
            reader_seed: ReaderSeed([3; 32]),
        },
        size_bytes: u64::from(plain_bytes),
        content: ContentAddress::of(b""),
        shards: vec![ShardRef { address: ContentAddress::of(shard), bytes }],
        chunks: vec![ChunkRef {
            shard: 0,
            offset: 0,
            stored_bytes: bytes,
            plain_bytes,
            codec,
            key: ChunkKey(KEY),
            id: ChunkId([5; 16]),
        }],
        order: vec![0],
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((lie, payload)) = data.split_first_chunk::<2>() else { return };
    let shard = encrypt(payload);
    let claimed = payload.len() as u32 + u32::from(u16::from_le_bytes(*lie));
    let manifest = manifest(&shard, claimed);
    if manifest.check().is_err() {
        return;
    }
    let dir = folder();
    let part = dir.path().join("part");
    let mut restorer = Restorer::open(manifest, &part).unwrap();
    if restorer.accept_shard(0, &shard).is_ok() {
        assert_eq!(part.metadata().unwrap().len(), u64::from(claimed));
    }
});
