//! A grant that somebody shows: raw, and with any body that its issuer signed.

#![no_main]

use ioex_base::{Grant, Sealed, SignedGrant, wire};
use ioex_fuzz::{NOW, sealed, signer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bearer = signer().uid();
    if let Ok(grant) = wire::decode::<SignedGrant>(data, 4_096) {
        let _ = grant.check(&bearer, NOW);
    }
    let signed = SignedGrant { issuer: bearer, bytes: sealed(Grant::CONTEXT, Grant::VERSION, data) };
    if let Ok(grant) = signed.check(&bearer, NOW) {
        assert_eq!(SignedGrant::new(&grant, &signer()).check(&bearer, NOW), Ok(grant));
    }
});
