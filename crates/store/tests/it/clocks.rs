//! Clocks that are wrong lose nothing.

use ioex_base::{ContentAddress, DAY_SECONDS, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_store::{
    CLOCK_SLOW_SECONDS, CLOCKS_APART_SECONDS, Expired, LEASE_GRACE_SECONDS, PutStart, ShardStore, lease_times,
};
use proptest::prelude::*;

use crate::{NOW, SPACE, lease, put, store};

const YEAR: u64 = 365 * DAY_SECONDS;

#[test]
fn a_jump_by_years_deletes_nothing() {
    let (_dir, store) = store();
    let address = put(&store, b"kept", lease(4, 1, 100));
    let (ten_years, past) = (NOW.plus(10 * YEAR), UnixSeconds(0));
    for (own, network) in [(ten_years, NOW), (NOW, ten_years), (past, NOW), (past, ten_years)] {
        let apart = own.0.abs_diff(network.0);
        let got = store.remove_expired(own, Some(network));
        assert_eq!(got, Expired { removed: vec![], apart: Some(apart) });
    }
    // Alone, a device cannot know, and there is nothing to warn of.
    assert_eq!(store.remove_expired(ten_years, None), Expired::default());
    assert_eq!(store.remove_expired(ten_years, Some(ten_years)).removed, [address]);
}

/// A device's day: how far its clock is off, whether it knows the network's time, and how far
/// that is off.
#[derive(Clone, Debug)]
struct Day {
    clock_off: i64,
    network_off: Option<i64>,
    stores: bool,
    wants_days: u64,
}

fn days() -> impl Strategy<Value = Vec<Day>> {
    let slow = i64::try_from(CLOCK_SLOW_SECONDS).unwrap();
    let year = i64::try_from(YEAR).unwrap();
    let clock = prop_oneof![
        5 => Just(0i64),
        2 => -slow..slow,
        // A clock that was set, or that a dead battery set back.
        1 => -20 * year..20 * year,
    ];
    // Honest bootstraps, whose newest record is some minutes old.
    let network = prop_oneof![1 => Just(None), 4 => (-1_800i64..60).prop_map(Some)];
    let day = (clock, network, any::<bool>(), 1u64..=90).prop_map(
        |(clock_off, network_off, stores, wants_days)| Day { clock_off, network_off, stores, wants_days },
    );
    prop::collection::vec(day, 1..60)
}

fn shifted(time: u64, by: i64) -> UnixSeconds {
    UnixSeconds(time.saturating_add_signed(by))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the device's clock does, nothing goes before its placer wanted; and what ended goes
    /// once both clocks are right.
    #[test]
    fn nothing_is_lost_to_a_wrong_clock(days in days()) {
        let dir = tempfile::tempdir().unwrap();
        let store = ShardStore::open(dir.path(), SPACE).unwrap();
        let mut wanted: Vec<(ContentAddress, u64)> = Vec::new();
        let mut truth = NOW.0;
        for (n, day) in days.iter().enumerate() {
            let own = shifted(truth, day.clock_off);
            let network = day.network_off.map(|off| shifted(truth, off));
            if day.stores {
                let until = truth + day.wants_days * DAY_SECONDS;
                // A device whose clock is far off, and that knows no better, may refuse.
                let believed = day.clock_off >= -i64::try_from(CLOCK_SLOW_SECONDS).unwrap();
                let times = lease_times(UnixSeconds(until), own, network);
                if let Some((stored, expires)) = times.filter(|_| believed || network.is_some()) {
                    let bytes = format!("shard {n}").into_bytes();
                    let lease = ioex_store::Lease { stored, expires, ..lease(bytes.len(), 1, 1) };
                    let PutStart::Write(mut put) = store.begin_put(ContentAddress::of(&bytes), lease).unwrap()
                    else { panic!("held") };
                    put.write(&bytes).unwrap();
                    put.commit().unwrap();
                    wanted.push((ContentAddress::of(&bytes), until));
                }
            }
            let expired = store.remove_expired(own, network);
            if day.clock_off.unsigned_abs() > CLOCKS_APART_SECONDS + 1_800 && network.is_some() {
                prop_assert!(expired.apart.is_some() && expired.removed.is_empty());
            }
            for (address, until) in &wanted {
                prop_assert!(store.contains(address) || truth >= *until, "lost {} s early", until - truth);
            }
            truth += DAY_SECONDS;
        }
        let end = UnixSeconds(truth).plus(SHARD_LIFE_SECONDS + CLOCK_SLOW_SECONDS + LEASE_GRACE_SECONDS + 1);
        store.remove_expired(end, Some(end));
        prop_assert!(store.addresses().is_empty());
    }
}
