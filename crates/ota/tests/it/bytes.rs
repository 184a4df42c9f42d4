//! Bytes from outside, and from a disk: whatever they are, they are read or refused.

use ioex_base::{Sealed, UnixSeconds, wire};
use ioex_ota::{
    Clock, Trust,
    matcher::Order,
    tuf::{Envelope, Role, Root, Targets},
    voucher::Voucher,
};
use proptest::prelude::*;

use crate::fleet::{Mirror, NOW, at, channel, device, publish, trust};

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for role in Role::ALL {
            Envelope::parse(role, &bytes).ok();
        }
        Trust::from_bytes(&bytes).ok();
        Trust::first(&bytes, UnixSeconds(0)).ok();
        wire::decode::<Voucher>(&bytes, Voucher::MAX_BYTES).ok();
        wire::decode::<Order>(&bytes, Order::MAX_BYTES).ok();
    }

    /// Metadata of which a few bytes changed passes no signature, and harms nothing.
    #[test]
    fn changed_metadata_is_refused(place in any::<prop::sample::Index>(), to: u8, own: u64, vouched: bool) {
        let mut channel = channel();
        publish(&mut channel, "1.1", |_| (), NOW);
        let mut mirror = Mirror::of(&channel);
        let first = trust(&channel);
        let place = place.index(mirror.targets.len());
        prop_assume!(mirror.targets[place] != to);
        mirror.targets[place] = to;
        let honest = mirror.check(&first, &device("1.0"), at(NOW));
        prop_assert!(matches!(honest.verdict, ioex_ota::Verdict::Refuse(_)));
        let clock = Clock { own: UnixSeconds(own), vouched };
        let outcome = mirror.check(&first, &device("1.0"), clock);
        prop_assert!(matches!(outcome.verdict, ioex_ota::Verdict::Refuse(_)));
        prop_assert_eq!(Trust::from_bytes(&outcome.trust.to_bytes()), Ok(outcome.trust));
    }
}

#[test]
fn a_root_or_targets_with_absurd_members_is_refused() {
    let absurd = [
        br#"{"signatures":[],"signed":{"_type":"root","spec_version":"2.0","version":1,"expires":"2030-01-01T00:00:00Z","keys":{},"roles":{}}}"#.as_slice(),
        br#"{"signatures":[],"signed":{"_type":"root","spec_version":"1.0","version":-1,"expires":"2030-01-01T00:00:00Z","keys":{},"roles":{}}}"#,
        br#"{"signatures":[],"signed":{"_type":"targets","spec_version":"1.0","version":1,"expires":"2030-01-01T00:00:00Z","keys":{},"roles":{}}}"#,
        br#"{"signatures":[],"signed":{"_type":"root","spec_version":"1.0","version":1,"expires":"yesterday","keys":{},"roles":{}}}"#,
    ];
    for bytes in absurd {
        assert!(Envelope::parse(Role::Root, bytes).unwrap().read::<Root>().is_err());
        assert!(Trust::first(bytes, UnixSeconds(0)).is_err());
    }
    // Half a number is none in canonical JSON: nothing signs it.
    let half = br#"{"signatures":[],"signed":{"_type":"targets","spec_version":"1.0","version":1.5}}"#;
    assert!(Envelope::parse(Role::Targets, half).unwrap().read::<Targets>().is_err());
}
