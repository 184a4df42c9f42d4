//! An audit's proof as a device sends it: none passes for a leaf that is not the shard's.

#![no_main]

use ioex_base::ContentAddress;
use ioex_vault::proof::{LEAF_BYTES, PROOF_MAX_BYTES, Proof, leaves, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u16, u32)| {
    let (bytes, length, leaf) = input;
    let Ok(proof) = Proof::decode(bytes) else { return };
    assert!(bytes.len() <= PROOF_MAX_BYTES);
    let shard = vec![7; usize::from(length)];
    let address = ContentAddress::of(&shard);
    if verify(&address, u64::from(length), leaf, &proof) {
        assert!(leaf < leaves(u64::from(length)));
        let from = leaf as usize * LEAF_BYTES as usize;
        assert_eq!(proof.leaf, shard[from..shard.len().min(from + LEAF_BYTES as usize)]);
    }
});
