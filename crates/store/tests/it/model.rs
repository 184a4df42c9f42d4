//! Any sequence of calls and restarts, against a model in memory.

use std::collections::BTreeMap;

use ioex_base::{ContentAddress, UnixSeconds};
use ioex_store::{LEASE_GRACE_SECONDS, PutStart, ShardStore, StoreError};
use proptest::prelude::*;

use crate::{NOW, charge, lease};

#[derive(Clone, Debug)]
enum Step {
    /// Offer shard `n` for a reader until some seconds later; send this many of its bytes.
    Put { n: u8, reader: u8, life: u64, cut: usize },
    /// The owner deletes shard `n`.
    Remove { n: u8 },
    /// Expiry runs.
    Expire,
    /// Time passes.
    Wait(u64),
    /// The program ends and starts again.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (0u8..6, 0u8..3, 1u64..200_000, 0usize..8);
    let step = prop_oneof![
        6 => put.prop_map(|(n, reader, life, cut)| Step::Put { n, reader, life, cut: cut.saturating_sub(5) }),
        2 => (0u8..6).prop_map(|n| Step::Remove { n }),
        1 => Just(Step::Expire),
        2 => (0u64..300_000).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn content(n: u8) -> Vec<u8> {
    vec![n; 100 + usize::from(n) * 50]
}

/// Room for four of the six shards.
const SPACE: u64 = 4 * charge(300);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_store_does_what_the_model_does(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = ShardStore::open(dir.path(), SPACE).unwrap();
        // Shard → reader → end.
        let mut model: BTreeMap<u8, BTreeMap<u8, u64>> = BTreeMap::new();
        let mut now = NOW.0;
        let used = |model: &BTreeMap<u8, BTreeMap<u8, u64>>| -> u64 { model.keys().map(|n| charge(content(*n).len())).sum() };
        for step in steps {
            match step {
                Step::Put { n, reader, life, cut } => {
                    let bytes = content(n);
                    let mut lease = lease(bytes.len(), reader, 0);
                    (lease.stored, lease.expires) = (UnixSeconds(now), UnixSeconds(now + life));
                    let held = model.contains_key(&n);
                    match store.begin_put(ContentAddress::of(&bytes), lease) {
                        Ok(PutStart::AlreadyHeld) => prop_assert!(held),
                        Ok(PutStart::Write(mut put)) => {
                            prop_assert!(!held);
                            put.write(&bytes[cut..]).unwrap();
                            prop_assert_eq!(put.commit().is_ok(), cut == 0);
                        }
                        Err(StoreError::NoSpace { needed, free }) => {
                            prop_assert!(!held && needed > free);
                            prop_assert_eq!(free, SPACE - used(&model));
                            continue;
                        }
                        Err(other) => panic!("{other}"),
                    }
                    if held || cut == 0 {
                        let end = model.entry(n).or_default().entry(reader).or_default();
                        *end = (*end).max(now + life);
                    }
                }
                Step::Remove { n } => {
                    let got = store.remove(&ContentAddress::of(&content(n)), UnixSeconds(now));
                    let end = model.get(&n).and_then(|leases| leases.values().max().copied());
                    match end {
                        None => prop_assert!(matches!(got, Err(StoreError::NotHeld(_)))),
                        Some(end) if now < end => {
 let refused = matches!(got, Err(StoreError::NotYet { until }) if until.0 == end);
 prop_assert!(refused);
 }
                        Some(_) => {
                            got.unwrap();
                            model.remove(&n);
                        }
                    }
                }
                Step::Expire => {
                    let before = model.len();
                    model.retain(|_, leases| leases.values().any(|end| end + LEASE_GRACE_SECONDS >= now));
                    prop_assert_eq!(store.remove_expired(UnixSeconds(now)).len(), before - model.len());
                }
                Step::Wait(seconds) => now += seconds,
                Step::Reopen => {
                    drop(store);
                    store = ShardStore::open(dir.path(), SPACE).unwrap();
                    prop_assert_eq!(store.report(), &Default::default());
                }
            }
            prop_assert_eq!(store.usage().used_bytes, used(&model));
            prop_assert_eq!((store.usage().shards, store.usage().reserved_bytes), (model.len(), 0));
            for (n, leases) in &model {
                let address = ContentAddress::of(&content(*n));
                store.verify(&address).unwrap();
                prop_assert_eq!(store.readers(&address).len(), leases.len());
            }
        }
    }
}
