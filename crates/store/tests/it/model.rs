//! Any sequence of calls and restarts, against a model in memory.

use std::collections::BTreeMap;

use ioex_base::{ContentAddress, NodeKey, SealedHead, Uid, UnixSeconds, head_address};
use ioex_store::{HeadPut, LEASE_GRACE_SECONDS, Lease, PutStart, ShardStore, StoreError, Terms};
use proptest::prelude::*;

use crate::{NOW, charge};

#[derive(Clone, Debug)]
enum Step {
    /// Offer shard `n` for a placer and reader until some seconds later, without this many bytes.
    Put { n: u8, who: Who, life: u64, cut: usize },
    /// Offer the head `seq` of repository `n`.
    Head { n: u8, who: Who, life: u64, seq: u64 },
    /// Extend or add the lease on shard or head `n`.
    Renew { n: u8, who: Who, life: u64 },
    /// Give back the leases of a placer on shard or head `n`.
    Release { n: u8, placer: u8 },
    /// The owner deletes shard or head `n`.
    Remove { n: u8 },
    /// Expiry runs.
    Expire,
    /// Time passes.
    Wait(u64),
    /// The program ends and starts again.
    Reopen,
}

/// Placer and reader.
type Who = (u8, u8);

/// Names 0 to 5 are shards, 6 and 7 heads.
const SHARDS: u8 = 6;
const NAMES: u8 = 8;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || (0u8..2, 0u8..3);
    let life = || 1u64..200_000;
    let step = prop_oneof![
        6 => (0..SHARDS, who(), life(), 0usize..8)
            .prop_map(|(n, who, life, cut)| Step::Put { n, who, life, cut: cut.saturating_sub(5) }),
        3 => (SHARDS..NAMES, who(), life(), 0u64..5)
            .prop_map(|(n, who, life, seq)| Step::Head { n, who, life, seq }),
        2 => (0..NAMES, who(), life()).prop_map(|(n, who, life)| Step::Renew { n, who, life }),
        2 => (0..NAMES, 0u8..2).prop_map(|(n, placer)| Step::Release { n, placer }),
        2 => (0..NAMES).prop_map(|n| Step::Remove { n }),
        1 => Just(Step::Expire),
        2 => (0u64..300_000).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn content(n: u8) -> Vec<u8> {
    vec![n; 100 + usize::from(n) * 50]
}

fn repository(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

fn head(n: u8, seq: u64) -> Vec<u8> {
    SealedHead::sign(&repository(n), seq, &vec![n; 10 * usize::try_from(seq).unwrap()])
}

fn address(n: u8) -> ContentAddress {
    if n < SHARDS { ContentAddress::of(&content(n)) } else { head_address(&repository(n).uid()) }
}

fn terms((placer, reader): Who, now: u64, life: u64) -> Terms {
    Terms {
        placer: Uid::from_bytes([placer; 32]),
        reader: Uid::from_bytes([reader; 32]),
        stored: UnixSeconds(now),
        expires: UnixSeconds(now + life),
    }
}

/// What is held: length, number of a head, ends of leases.
#[derive(Default)]
struct Thing {
    len: usize,
    seq: u64,
    leases: BTreeMap<Who, u64>,
}

impl Thing {
    fn lease(&mut self, who: Who, end: u64) {
        let old = self.leases.entry(who).or_default();
        *old = (*old).max(end);
    }
    fn end(&self) -> u64 {
        self.leases.values().max().copied().unwrap_or_default()
    }
}

/// Room for some of the things, and for the store itself.
const SPACE: u64 = 5 * charge(300) + 64 * 1024;

fn used(model: &BTreeMap<u8, Thing>) -> u64 {
    model.values().map(|thing| charge(thing.len)).sum()
}

fn placed(model: &BTreeMap<u8, Thing>, placer: u8) -> u64 {
    let his = |thing: &&Thing| thing.leases.keys().any(|who| who.0 == placer);
    model.values().filter(his).map(|thing| thing.len as u64).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_store_does_what_the_model_does(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = ShardStore::open(dir.path(), SPACE).unwrap();
        let mut model: BTreeMap<u8, Thing> = BTreeMap::new();
        let mut now = NOW.0;
        for step in steps {
            match step {
                Step::Put { n, who, life, cut } => {
                    let bytes = content(n);
                    let lease = terms(who, now, life).lease(bytes.len() as u64);
                    let held = model.contains_key(&n);
                    match store.begin_put(address(n), lease) {
                        Ok(PutStart::AlreadyHeld) => prop_assert!(held),
                        Ok(PutStart::Write(mut put)) => {
                            prop_assert!(!held);
                            put.write(&bytes[cut..]).unwrap();
                            prop_assert_eq!(put.commit().is_ok(), cut == 0);
                        }
                        Err(StoreError::NoSpace { needed, free }) => {
                            prop_assert!(!held && needed > free);
                            prop_assert_eq!(free, SPACE - used(&model) - store.usage().kept_back_bytes);
                            continue;
                        }
                        Err(other) => panic!("{other}"),
                    }
                    if held || cut == 0 {
                        let thing = model.entry(n).or_default();
                        thing.len = bytes.len();
                        thing.lease(who, now + life);
                    }
                }
                Step::Head { n, who, life, seq } => {
                    let bytes = head(n, seq);
                    let known = model.get(&n).map(|thing| thing.seq);
                    let lease: Lease = terms(who, now, life).lease(0);
                    match store.put_head(&bytes, lease) {
                        Ok(HeadPut::Kept) => prop_assert!(known.is_none_or(|known| known < seq)),
                        Ok(HeadPut::Newer(newer)) => {
                            prop_assert!(known == Some(newer) && newer >= seq);
                            model.get_mut(&n).unwrap().lease(who, now + life);
                            continue;
                        }
                        Err(StoreError::NoSpace { needed, free }) => {
                            prop_assert!(known.is_none_or(|known| known < seq) && needed > free);
                            continue;
                        }
                        Err(other) => panic!("{other}"),
                    }
                    let thing = model.entry(n).or_default();
                    (thing.len, thing.seq) = (bytes.len(), seq);
                    thing.lease(who, now + life);
                }
                Step::Renew { n, who, life } => {
                    let max = 600;
                    let got = store.renew(&[address(n)], &terms(who, now, life), max).unwrap();
                    let already = placed(&model, who.0);
                    let may = model.get_mut(&n).filter(|thing| {
                        thing.leases.keys().any(|w| w.0 == who.0) || already + thing.len as u64 <= max
                    });
                    prop_assert_eq!(got, [may.is_some()]);
                    if let Some(thing) = may {
                        thing.lease(who, now + life);
                    }
                }
                Step::Release { n, placer } => {
                    let got = store.release(&Uid::from_bytes([placer; 32]), &[address(n)]).unwrap();
                    let before = model.get(&n).map_or(0, |thing| thing.leases.len());
                    if let Some(thing) = model.get_mut(&n) {
                        thing.leases.retain(|who, _| who.0 != placer);
                    }
                    let after = model.get(&n).map_or(0, |thing| thing.leases.len());
                    prop_assert_eq!(got.leases as usize, before - after);
                    let gone = before > 0 && after == 0;
                    prop_assert_eq!(got.deleted, if gone { vec![address(n)] } else { vec![] });
                    if gone {
                        model.remove(&n);
                    }
                }
                Step::Remove { n } => {
                    let got = store.remove(&address(n), UnixSeconds(now));
                    match model.get(&n).map(Thing::end) {
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
                    model.retain(|_, thing| thing.end() + LEASE_GRACE_SECONDS >= now);
                    let time = UnixSeconds(now);
                    prop_assert_eq!(store.remove_expired(time, Some(time)).removed.len(), before - model.len());
                }
                Step::Wait(seconds) => now += seconds,
                Step::Reopen => {
                    drop(store);
                    store = ShardStore::open(dir.path(), SPACE).unwrap();
                    prop_assert_eq!(store.report(), &Default::default());
                }
            }
            let usage = store.usage();
            prop_assert_eq!(usage.used_bytes, used(&model));
            prop_assert_eq!((usage.shards + usage.heads, usage.reserved_bytes), (model.len(), 0));
            for placer in 0..2 {
                prop_assert_eq!(store.placed_bytes(&Uid::from_bytes([placer; 32])), placed(&model, placer));
            }
            for (n, thing) in &model {
                let address = address(*n);
                prop_assert_eq!(store.verify(&address).unwrap(), thing.len as u64);
                prop_assert_eq!(store.leases(&address).len(), thing.leases.len());
                prop_assert_eq!(store.head_seq(&address), (*n >= SHARDS).then_some(thing.seq));
            }
        }
    }
}
