//! A reference to an object, from a root or a head: raw, a good one with changes, and one that says
//! anything of a shard that is the right one: `lie (2) | payload`.

#![no_main]

use std::sync::LazyLock;

use ioex_base::{ContentAddress, wire};
use ioex_fuzz::patched;
use ioex_vault::{
    ChunkKey, Codec, ShardRef,
    repo::{OBJECT_MAX_BYTES, ObjectRef, RecoveryKey, seal_object},
};
use libfuzzer_sys::fuzz_target;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const KEY: [u8; 32] = [4; 32];
const REFERENCE_MAX_BYTES: usize = 256;

static SAMPLE: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let keys = RecoveryKey::from_bytes([7; 32]).keys();
    let (reference, shard) = seal_object(&keys, &[9; 5_000]).unwrap();
    (wire::encode(&reference), shard)
});

fn check(bytes: &[u8], shard: &[u8]) {
    let Ok(reference) = wire::decode::<ObjectRef>(bytes, REFERENCE_MAX_BYTES) else { return };
    let again = wire::encode(&reference);
    assert_eq!(wire::decode::<ObjectRef>(&again, REFERENCE_MAX_BYTES).as_ref(), Ok(&reference));
    if let Ok(plain) = reference.open(shard) {
        assert!(plain.len() <= OBJECT_MAX_BYTES);
        assert_eq!(ContentAddress::of(shard), reference.shard.address);
    }
}

fn encrypt(payload: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEY).unwrap());
    let mut out = payload.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut out).unwrap();
    out
}

fuzz_target!(|data: &[u8]| {
    let (reference, shard) = &*SAMPLE;
    check(data, shard);
    check(&patched(reference, data), shard);
    let Some((lie, payload)) = data.split_first_chunk::<2>() else { return };
    let shard = encrypt(payload);
    let bytes = u32::try_from(shard.len()).unwrap();
    let lie = u32::from(u16::from_le_bytes(*lie));
    for (stored, plain, codec) in [
        (bytes, payload.len() as u32, Codec::Raw),
        (bytes, lie, Codec::Zstd),
        (bytes, u32::MAX - lie, Codec::Zstd),
        (lie, lie, Codec::Raw),
        (bytes.wrapping_add(lie), lie, Codec::Zstd),
    ] {
        let at = ShardRef { address: ContentAddress::of(&shard), bytes };
        check(&wire::encode(&(at, stored, plain, codec, ChunkKey(KEY))), &shard);
    }
});
