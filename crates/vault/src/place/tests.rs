use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const MB: u64 = 1 << 20;

fn holder(n: u8, owner: &str, domain: &str, free_bytes: u64) -> Holder {
    Holder {
        uid: Uid::from_bytes(*blake3::hash(&[n]).as_bytes()),
        kind: NodeKind::Peer,
        owner: owner.into(),
        domain: domain.into(),
        free_bytes,
        rtt_ms: Some(20.0),
    }
}

fn separate(count: u8, free_bytes: u64) -> Vec<Holder> {
    (0..count).map(|n| holder(n, &format!("owner {n}"), &format!("10.0.{n}.0/24"), free_bytes)).collect()
}

fn shards(count: u32, bytes: u64) -> Vec<(ContentAddress, u64)> {
    (0..count).map(|i| (ContentAddress::of(&i.to_le_bytes()), bytes)).collect()
}

#[test]
fn enough_separate_holders_give_all_that_is_wanted() {
    let placement = place(&shards(50, 4 * MB), &separate(8, 1 << 40), 3, 1);
    assert_eq!(placement.shortfalls, []);
    for uids in &placement.assignments {
        let different: HashSet<_> = uids.iter().collect();
        assert_eq!(different.len(), 3);
    }
}

#[test]
fn one_owner_never_gets_two_copies() {
    let mut holders = separate(4, 1 << 40);
    for h in &mut holders[1..] {
        h.owner = "the same".into();
    }
    let placement = place(&shards(20, MB), &holders, 3, 1);
    assert!(placement.assignments.iter().all(|uids| uids.len() == 2));
    assert_eq!(placement.shortfalls[0], Shortfall { shard: 0, wanted: 3, got: 2, same_domain: 0 });
    assert_eq!(placement.shortfalls.len(), 20);
}

#[test]
fn shared_ranges_are_the_last_resort_and_said() {
    let mut holders = separate(4, 1 << 40);
    holders[1].domain = holders[0].domain.clone();
    assert_eq!(place(&shards(20, MB), &holders, 3, 1).shortfalls, []);
    holders[2].domain = holders[0].domain.clone();
    let placement = place(&shards(20, MB), &holders, 3, 1);
    assert_eq!(placement.shortfalls.len(), 20);
    for (shortfall, uids) in placement.shortfalls.iter().zip(&placement.assignments) {
        assert_eq!((shortfall.got, shortfall.same_domain), (3, 1));
        assert!(uids.contains(&holders[3].uid), "the other range is always used");
    }
}

#[test]
fn phones_and_bootstraps_hold_nothing() {
    let mut holders = separate(4, 1 << 40);
    holders[0].kind = NodeKind::Phone;
    holders[1].kind = NodeKind::Bootstrap;
    holders[2].kind = NodeKind::Super;
    let placement = place(&shards(5, MB), &holders, 3, 1);
    for uids in &placement.assignments {
        assert_eq!(uids.len(), 2);
        assert!(!uids.contains(&holders[0].uid) && !uids.contains(&holders[1].uid));
    }
}

#[test]
fn nobody_gets_more_than_fits_and_the_rest_is_said() {
    let placement = place(&shards(10, 4 * MB), &separate(3, 9 * MB), 2, 1);
    let mut load: HashMap<Uid, u64> = HashMap::new();
    for uid in placement.assignments.iter().flatten() {
        *load.entry(*uid).or_default() += 4 * MB;
    }
    assert!(load.values().all(|bytes| *bytes <= 9 * MB), "{load:?}");
    let copies: usize = placement.assignments.iter().map(Vec::len).sum();
    assert_eq!(copies, 6, "two fit on each of three");
    let missing: usize = placement.shortfalls.iter().map(|s| s.wanted - s.got).sum();
    assert_eq!(copies + missing, 20);
}

#[test]
fn load_follows_free_space() {
    let mut holders = separate(10, 100 * 1024 * MB);
    holders[0].free_bytes *= 3;
    let placement = place(&shards(3_000, 4 * MB), &holders, 1, 7);
    let count = |h: &Holder| placement.assignments.iter().flatten().filter(|uid| **uid == h.uid).count();
    // Its share is 3 of 12: 750, with a standard deviation of 24.
    assert!((630..870).contains(&count(&holders[0])), "{}", count(&holders[0]));
    assert!(holders[1..].iter().all(|h| (160..340).contains(&count(h))));
}

#[test]
fn the_seed_decides_and_nothing_else() {
    let (shards, holders) = (shards(30, MB), separate(8, 1 << 40));
    let mut turned = holders.clone();
    turned.reverse();
    assert_eq!(place(&shards, &holders, 3, 5), place(&shards, &turned, 3, 5));
    assert_ne!(place(&shards, &holders, 3, 5), place(&shards, &holders, 3, 6));
}

#[test]
fn a_holder_listed_twice_counts_once() {
    let mut holders = separate(2, 1 << 40);
    holders.push(Holder { owner: "alias".into(), domain: "elsewhere".into(), ..holders[0].clone() });
    assert!(place(&shards(5, MB), &holders, 3, 1).assignments.iter().all(|uids| uids.len() == 2));
}

#[test]
fn odd_numbers_do_no_harm() {
    let mut holders = separate(4, 1 << 40);
    holders[0].rtt_ms = Some(f64::NAN);
    holders[1].rtt_ms = Some(-5.0);
    holders[2].rtt_ms = Some(f64::INFINITY);
    holders[3].rtt_ms = None;
    let placement = place(&shards(5, MB), &holders, usize::MAX, 1);
    assert!(placement.assignments.iter().all(|uids| uids.len() == 4));
    assert_eq!(placement.shortfalls[0].wanted, usize::from(REPLICAS_MAX));
    assert_eq!(place(&shards(2, MB), &[], 3, 1).assignments, [vec![], vec![]]);
    assert_eq!(place(&[], &holders, 3, 1), Placement::default());
}

#[test]
fn a_lost_copy_gets_another_owner() {
    let holders = separate(6, 1 << 40);
    let shard = shards(1, MB)[0];
    let (keep, failed) = ([holders[0].uid, holders[1].uid], [holders[2].uid]);
    let got = replace(shard, &keep, &failed, &holders, 3).unwrap();
    assert!(holders[3..].iter().any(|h| h.uid == got.uid) && !got.same_domain);

    let mut holders = holders;
    holders[3].owner = holders[0].owner.clone();
    holders[4].free_bytes = 0;
    holders[5].domain = holders[1].domain.clone();
    let got = replace(shard, &keep, &failed, &holders, 3);
    assert_eq!(got, Some(Replacement { uid: holders[5].uid, same_domain: true }));
    holders.pop();
    assert_eq!(replace(shard, &keep, &failed, &holders, 3), None);
}

proptest! {
    #[test]
    fn the_rules_hold_for_any_network(
        network in prop::collection::vec((0u8..6, 0u8..5, 0u64..40 * MB, 0u8..4), 0..20),
        count in 0u32..12,
        replicas in 0usize..6,
        seed: u64,
    ) {
        let holders: Vec<_> = network.iter().enumerate().map(|(n, (owner, domain, free, kind))| Holder {
            kind: [NodeKind::Bootstrap, NodeKind::Peer, NodeKind::Phone, NodeKind::Super][usize::from(*kind)],
            ..holder(n as u8, &owner.to_string(), &domain.to_string(), *free)
        }).collect();
        let by_uid: HashMap<Uid, &Holder> = holders.iter().map(|h| (h.uid, h)).collect();
        let shards = shards(count, 4 * MB);
        let placement = place(&shards, &holders, replicas, seed);
        prop_assert_eq!(placement.assignments.len(), shards.len());
        let mut load: HashMap<Uid, u64> = HashMap::new();
        for (index, uids) in placement.assignments.iter().enumerate() {
            let owners: HashSet<_> = uids.iter().map(|uid| &by_uid[uid].owner).collect();
            let domains: HashSet<_> = uids.iter().map(|uid| &by_uid[uid].domain).collect();
            prop_assert_eq!(owners.len(), uids.len());
            prop_assert!(uids.len() <= replicas);
            prop_assert!(uids.iter().all(|uid| by_uid[uid].kind.stores_for_others()));
            let short = placement.shortfalls.iter().find(|s| s.shard == index);
            prop_assert_eq!(short.is_some(), uids.len() < replicas || domains.len() < uids.len());
            for uid in uids {
                *load.entry(*uid).or_default() += 4 * MB;
            }
        }
        prop_assert!(load.iter().all(|(uid, bytes)| *bytes <= by_uid[uid].free_bytes));
    }
}
