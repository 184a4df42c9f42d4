use proptest::prelude::*;

use super::*;
use crate::manifest::sample;

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

fn sealed(recipients: &[Uid]) -> Vec<u8> {
    let fresh = Fresh { content_key: Zeroizing::new([0x11; 32]), ephemeral: Zeroizing::new([0x22; 32]) };
    seal_with(&sample(), &key(1), recipients, &fresh).unwrap()
}

/// Frozen: manifests that were sealed once must stay readable.
#[test]
fn golden_bytes() {
    let bytes = sealed(&[key(2).uid()]);
    assert_eq!(bytes[0], 1);
    assert_eq!(&bytes[1..33], key(1).uid().as_bytes());
    assert_eq!(bytes[HEAD_BYTES - 1], 1);
    assert_eq!(bytes.len(), HEAD_BYTES + WRAP_BYTES + sample().encode().len() + TAG_BYTES);
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        "ca627fda37f3415699f9007e9ba06abdfc401be1185f803fc2aaf1523614f4be"
    );
}

#[test]
fn each_recipient_reads_it_and_nobody_else() {
    let recipients = [key(2).uid(), key(3).uid(), key(2).uid(), key(1).uid()];
    let bytes = seal_manifest(&sample(), &key(1), &recipients).unwrap();
    for n in 1..=3 {
        assert_eq!(open_manifest(&bytes, &key(n)), Ok((sample(), key(1).uid())), "{n}");
    }
    assert_eq!(open_manifest(&bytes, &key(4)), Err(ManifestError::NotForYou));
    let other = seal_manifest(&sample(), &key(1), &recipients).unwrap();
    assert_ne!(bytes, other, "every sealing has its own keys");
}

#[test]
fn no_recipient_stands_in_the_bytes() {
    let bytes = sealed(&[key(2).uid(), key(3).uid()]);
    for n in 2..=3 {
        let (uid, point) = (key(n).uid(), montgomery(&key(n).uid()).unwrap());
        assert!(!bytes.windows(32).any(|w| w == uid.as_bytes() || w == point));
    }
}

#[test]
fn every_change_of_a_byte_is_noticed() {
    let bytes = sealed(&[key(2).uid()]);
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 1;
        let want = if i == 0 { ManifestError::Version { want: 1, got: 0 } } else { ManifestError::Damaged };
        assert_eq!(open_manifest(&bad, &key(2)), Err(want), "byte {i}");
        assert_eq!(open_manifest(&bytes[..i], &key(2)), Err(ManifestError::Damaged), "cut at {i}");
    }
}

/// Signing somebody else's ciphertext does not make one its author.
#[test]
fn another_name_cannot_be_put_on_it() {
    let mut bytes = sealed(&[key(2).uid()]);
    let thief = key(9);
    let signature = thief.sign(&signable(&thief.uid(), &bytes[1 + 32 + 64..]));
    bytes[1..33].copy_from_slice(thief.uid().as_bytes());
    bytes[33..97].copy_from_slice(&signature);
    assert_eq!(open_manifest(&bytes, &key(2)), Err(ManifestError::NotForYou));
}

#[test]
fn weak_and_impossible_recipients_are_refused() {
    let mut identity = [0; 32];
    identity[0] = 1;
    // The point of order two, the neutral one, one of order eight, and no point at all.
    let mut order_two = [0xff; 32];
    (order_two[0], order_two[31]) = (0xec, 0x7f);
    let order_eight = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ];
    let mut no_point = [0; 32];
    no_point[0] = 2;
    for bytes in [identity, order_two, order_eight, no_point, [0; 32]] {
        let weak = Uid::from_bytes(bytes);
        let got = seal_manifest(&sample(), &key(1), &[key(2).uid(), weak]);
        assert_eq!(got, Err(SealManifestError::Recipient(weak)));
    }
}

/// A sender that uses a point of small order as its fresh key gives every recipient the same
/// wrapping key; readers refuse it.
#[test]
fn a_weak_fresh_key_is_refused() {
    let mut bytes = sealed(&[key(2).uid()]);
    bytes[97..129].fill(0);
    let signature = key(1).sign(&signable(&key(1).uid(), &bytes[97..]));
    bytes[33..97].copy_from_slice(&signature);
    assert_eq!(open_manifest(&bytes, &key(2)), Err(ManifestError::NotForYou));
}

#[test]
fn the_number_of_recipients_is_bounded() {
    let uids: Vec<_> = (0..=RECIPIENTS_MAX as u8).map(|n| key(n).uid()).collect();
    let seal = |uids: &[Uid]| seal_manifest(&sample(), &key(1), uids).map(|_| ());
    assert_eq!(seal(&[]), Err(SealManifestError::Recipients { max: RECIPIENTS_MAX, got: 0 }));
    assert_eq!(
        seal(&uids),
        Err(SealManifestError::Recipients { max: RECIPIENTS_MAX, got: RECIPIENTS_MAX + 1 })
    );
    assert_eq!(seal(&uids[1..]), Ok(()));
}

#[test]
fn a_manifest_that_contradicts_itself_is_not_sealed() {
    let mut manifest = sample();
    manifest.size_bytes += 1;
    let got = seal_manifest(&manifest, &key(1), &[key(2).uid()]);
    assert!(matches!(got, Err(SealManifestError::Invalid(_))), "{got:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_handled(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let reader = key(2);
        let _ = open_manifest(&bytes, &reader);
        bytes.insert(0, VERSION);
        let _ = open_manifest(&bytes, &reader);
    }

    /// Signed by their author, so that what lies behind the signature is reached.
    #[test]
    fn any_signed_bytes_are_handled(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let author = key(1);
        let mut bytes = vec![VERSION];
        bytes.extend(author.uid().as_bytes());
        bytes.extend(author.sign(&signable(&author.uid(), &tail)));
        bytes.extend(&tail);
        prop_assert!(open_manifest(&bytes, &key(2)).is_err());
    }
}
