//! A repository's head, from whoever places or holds it: raw, and with any body that its repository
//! signed.

#![no_main]

use ioex_base::{HEAD_BODY_MAX_BYTES, SealedHead};
use ioex_fuzz::signer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(head) = SealedHead::open(data) {
        assert!(head.body.len() <= HEAD_BODY_MAX_BYTES);
    }
    let (seq, body) = data.split_first_chunk::<8>().unwrap_or((&[0; 8], data));
    let seq = u64::from_le_bytes(*seq);
    let bytes = SealedHead::sign(&signer(), seq, body);
    match SealedHead::open(&bytes) {
        Ok(head) => assert_eq!((head.repo, head.seq, head.body), (signer().uid(), seq, body)),
        Err(_) => assert!(body.len() > HEAD_BODY_MAX_BYTES),
    }
});
