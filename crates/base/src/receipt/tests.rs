use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::{NodeKey, Sealed, wire};

const DOMAIN: Domain = Domain { chain: 31_337, contract: Address([0x22; 20]) };

fn receipt() -> Receipt {
    Receipt {
        order: [4; 16],
        serial: 77,
        requester: Uid::from_bytes([2; 32]),
        provider: Uid::from_bytes([3; 32]),
        manifest: ContentAddress::from_bytes([5; 32]),
        total: 100_000_000,
        shards: 96,
        bitmap: [6; 32],
        time: UnixSeconds(1_800_000_000),
    }
}

fn key() -> ReceiptKey {
    ReceiptKey::from_secret(&[0x11; 32]).unwrap()
}

/// Computed by the Python package `eth-account` 0.14.0 from the same type, domain, message and key:
/// `encode_typed_data(full_message=…)`, then `Account.from_key(…).sign_message(…)`.
#[test]
fn another_implementation_computes_and_signs_the_same() {
    let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
    let receipt = receipt();
    assert_eq!(key().address().to_string(), "0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a");
    assert_eq!(hex(&DOMAIN.separator()), "90322926bd4c42d317341aef2368799e452817f7ccb67eb7e1981097177d6434");
    assert_eq!(
        hex(&receipt.struct_hash()),
        "d5648d737cbb0df56c935b668c4e74729d94944203eb246d555dc08b8f3b0173"
    );
    assert_eq!(
        hex(&receipt.digest(&DOMAIN)),
        "986c51a84aa51ba82d106707e71f81581af209a9e135cefdd6d357c2f584bae3"
    );
    let signature = key().sign(&receipt.digest(&DOMAIN));
    assert_eq!(
        hex(&signature.to_bytes()),
        "4937556b26276ff875436081cd0e6de47de28a6860137c9f16643efefc2c3366\
         3c1ebd4ea42ddd93840ff842f2e2a90bc9877c880e9dffe18436f4487d45bd9f1b"
    );
    assert_eq!(signature.signer(&receipt.digest(&DOMAIN)), Ok(key().address()));
}

/// The curve's order less s is a signature, too, for whoever does not look.
#[test]
fn the_malleable_signature_is_refused() {
    const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let digest = receipt().digest(&DOMAIN);
    let mut bytes = key().sign(&digest).to_bytes();
    let order = HEXLOWER.decode(ORDER.as_bytes()).unwrap();
    let mut borrow = 0;
    for i in (0..32).rev() {
        let left = i16::from(order[i]) - i16::from(bytes[32 + i]) - borrow;
        borrow = i16::from(left < 0);
        bytes[32 + i] = u8::try_from(left.rem_euclid(256)).unwrap();
    }
    bytes[64] ^= 27 ^ 28;
    assert_eq!(ReceiptSignature::from_bytes(&bytes).signer(&digest), Err(SignatureError::HighS));
    for v in [0, 1, 26, 29, 255] {
        bytes[64] = v;
        assert_eq!(ReceiptSignature::from_bytes(&bytes).signer(&digest), Err(SignatureError::Malformed));
    }
    assert_eq!(
        ReceiptSignature::from_bytes(&[0; RECEIPT_SIGNATURE_BYTES]).signer(&digest),
        Err(SignatureError::Malformed)
    );
}

#[test]
fn every_field_and_the_contract_are_signed() {
    let base = receipt();
    let digest = base.digest(&DOMAIN);
    let changed = [
        Receipt { order: [5; 16], ..base.clone() },
        Receipt { serial: 78, ..base.clone() },
        Receipt { requester: base.provider, ..base.clone() },
        Receipt { provider: base.requester, ..base.clone() },
        Receipt { manifest: ContentAddress::from_bytes([6; 32]), ..base.clone() },
        Receipt { total: 1, ..base.clone() },
        Receipt { shards: 1, ..base.clone() },
        Receipt { bitmap: [7; 32], ..base.clone() },
        Receipt { time: UnixSeconds(0), ..base.clone() },
    ];
    assert!(changed.iter().all(|other| other.digest(&DOMAIN) != digest));
    assert_ne!(base.digest(&Domain { chain: 1, ..DOMAIN }), digest);
    assert_ne!(base.digest(&Domain { contract: Address([0; 20]), ..DOMAIN }), digest);
}

#[test]
fn both_ends_sign_and_receipts_only_grow() {
    let (requester, provider) = (key(), ReceiptKey::of(&NodeKey::from_seed([9; 32])));
    let (first, second) = (requester.address(), provider.address());
    let mut signed = receipt().sign(&DOMAIN, &requester);
    assert_eq!(signed.check(&DOMAIN, &first, &second), Ok(()));
    let wrong = ReceiptError::Signer { want: second, got: first };
    assert_eq!(signed.check(&DOMAIN, &second, &second), Err(wrong));
    signed.countersign(&DOMAIN, &provider);
    assert_eq!(signed.check(&DOMAIN, &first, &second), Ok(()));
    assert!(signed.check(&DOMAIN, &first, &first).is_err(), "the provider's signature counts, too");

    let more = Receipt { total: receipt().total + 1, shards: 97, ..receipt() };
    assert_eq!(more.follows(&receipt()), Ok(()));
    let shrinks = ReceiptError::Shrinks { had: more.total, got: receipt().total };
    assert_eq!(receipt().follows(&more), Err(shrinks));
    assert_eq!(Receipt { serial: 1, ..more }.follows(&receipt()), Err(ReceiptError::Subject));
}

#[test]
fn a_receipt_key_belongs_to_the_node_that_certified_it() {
    let (node, other) = (NodeKey::from_seed([9; 32]), NodeKey::from_seed([8; 32]));
    let now = UnixSeconds(1_000_000);
    let key = ReceiptKey::of(&node);
    let bytes = key.certify(&node, now.plus(10));
    let good = Certificate { address: key.address(), expires: now.plus(10) };
    assert_eq!(Certificate::check(&bytes, &node.uid(), now), Ok(good));
    assert!(matches!(Certificate::check(&bytes, &other.uid(), now), Err(CertificateError::Seal(_))));
    let late = now.plus(11 + crate::CLOCK_SLACK_SECONDS);
    assert_eq!(Certificate::check(&bytes, &node.uid(), late), Err(CertificateError::Expired));
    let largest = Certificate { expires: UnixSeconds(u64::MAX), ..good };
    assert!(wire::encode(&largest).len() <= Certificate::MAX_BYTES);
    assert_ne!(ReceiptKey::of(&other).address(), key.address());
}

#[test]
fn the_bytes_are_frozen_and_bounded() {
    let mut largest = Receipt {
        serial: u64::MAX,
        total: u64::MAX,
        shards: u32::MAX,
        time: UnixSeconds(u64::MAX),
        ..receipt()
    }
    .sign(&DOMAIN, &key());
    largest.countersign(&DOMAIN, &key());
    assert!(wire::encode(&largest).len() <= SIGNED_RECEIPT_MAX_BYTES);
    let signed = receipt().sign(&DOMAIN, &key());
    let bytes = wire::encode(&signed);
    assert_eq!(wire::decode::<SignedReceipt>(&bytes, SIGNED_RECEIPT_MAX_BYTES), Ok(signed));
    assert_eq!(ContentAddress::of(&bytes).to_string(), GOLDEN);
    let node = NodeKey::from_seed([9; 32]);
    let certificate = ReceiptKey::of(&node).certify(&node, UnixSeconds(1_800_000_000));
    assert_eq!(ContentAddress::of(&certificate).to_string(), GOLDEN_CERTIFICATE);
}
const GOLDEN: &str = "az2sb746hq4cpghmhicjggitlnlnv5wdv77dnuqm7rztzbbnwwjq";
const GOLDEN_CERTIFICATE: &str = "slmkeucqe3ic4zsdqjhmfk7kxzlxxtl6n5ub4mjrosycqten2jfa";

proptest! {
    #[test]
    fn any_bytes_are_a_signature_or_none(
        bytes in prop::collection::vec(any::<u8>(), RECEIPT_SIGNATURE_BYTES),
        digest: [u8; 32],
    ) {
        let bytes: [u8; RECEIPT_SIGNATURE_BYTES] = bytes.try_into().unwrap();
        let signature = ReceiptSignature::from_bytes(&bytes);
        prop_assert_eq!(signature.to_bytes(), bytes);
        let _ = signature.signer(&digest);
    }
}
