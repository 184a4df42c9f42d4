//! Receipts, their signatures, and certificates of receipt keys.

#![no_main]

use ioex_base::{
    Sealed,
    receipt::{Address, Certificate, Domain, SIGNED_RECEIPT_MAX_BYTES, SignedReceipt},
    wire,
};
use ioex_fuzz::{NOW, sealed, signer};
use libfuzzer_sys::fuzz_target;

const DOMAIN: Domain = Domain { chain: 1, contract: Address([1; 20]) };

fuzz_target!(|data: &[u8]| {
    if let Ok(signed) = wire::decode::<SignedReceipt>(data, SIGNED_RECEIPT_MAX_BYTES) {
        let again = wire::decode(&wire::encode(&signed), SIGNED_RECEIPT_MAX_BYTES);
        assert_eq!(again.as_ref(), Ok(&signed));
        if let Ok(signer) = signed.requester.signer(&signed.receipt.digest(&DOMAIN)) {
            let alone = SignedReceipt { provider: None, ..signed };
            assert_eq!(alone.check(&DOMAIN, &signer, &signer), Ok(()));
        }
    }
    let _ = Certificate::check(data, &signer().uid(), NOW);
    let bytes = sealed(Certificate::CONTEXT, Certificate::VERSION, data);
    let _ = Certificate::check(&bytes, &signer().uid(), NOW);
});
