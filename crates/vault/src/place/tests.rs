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
        firmware: String::new(),
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
    assert_eq!(
        placement.shortfalls[0],
        Shortfall { shard: 0, wanted: 3, got: 2, same_domain: 0, same_firmware: 0 }
    );
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

fn code(k: u8, m: u8, o: u8, n: u8) -> Redundancy {
    Redundancy::new(k, m, o, n).unwrap()
}

/// Many devices, so many that their numbers need two bytes.
fn crowd(count: usize) -> Vec<Holder> {
    let one = |n: usize| Holder {
        uid: Uid::from_bytes(*blake3::hash(&(n as u64).to_le_bytes()).as_bytes()),
        ..holder(0, &format!("owner {n}"), &format!("domain {n}"), 1 << 40)
    };
    (0..count).map(one).collect()
}

fn by_uid<'h>(holders: &'h [Holder], uid: &Uid) -> &'h Holder {
    holders.iter().find(|h| h.uid == *uid).unwrap()
}

#[test]
fn every_shard_of_a_group_goes_to_another_owner() {
    let mut holders = crowd(100);
    for pair in holders.chunks_mut(2) {
        pair[1].owner = pair[0].owner.clone();
    }
    let placement = Placer::new(&holders, 1).group(code(10, 14, 30, 40), &shards(40, MB));
    assert_eq!(placement.shortfalls, []);
    assert!(placement.assignments.iter().all(|uids| uids.len() == 1));
    let owners: HashSet<_> =
        placement.assignments.iter().flatten().map(|uid| &by_uid(&holders, uid).owner).collect();
    assert_eq!(owners.len(), 40);
}

#[test]
fn whole_copies_go_to_as_many_devices_as_the_policy_says() {
    let mut placer = Placer::new(&separate(8, 1 << 40), 1);
    let placement = placer.group(Redundancy::replicas(5).unwrap(), &shards(1, MB));
    assert_eq!(placement.assignments.iter().map(Vec::len).collect::<Vec<_>>(), [5]);
    assert_eq!(placement.shortfalls, []);
}

#[test]
fn with_too_few_owners_parity_goes_without() {
    let placement = Placer::new(&separate(5, 1 << 40), 1).group(code(3, 5, 8, 8), &shards(8, MB));
    let placed: Vec<usize> = placement.assignments.iter().map(Vec::len).collect();
    assert_eq!(placed, [1, 1, 1, 1, 1, 0, 0, 0]);
    let short = Shortfall { shard: 5, wanted: 8, got: 5, same_domain: 0, same_firmware: 0 };
    assert_eq!(placement.shortfalls, [short]);
}

#[test]
fn a_group_takes_as_much_as_its_longest_shard_everywhere() {
    let mut holders = separate(4, 10 * MB);
    holders[0].free_bytes = 3 * MB;
    let mut group = shards(3, MB);
    group[1].1 = 4 * MB;
    let mut placer = Placer::new(&holders, 1);
    let first = placer.group(code(2, 3, 3, 3), &group);
    assert!(first.assignments.iter().all(|uids| uids.len() == 1 && uids[0] != holders[0].uid));
    assert_eq!(placer.group(code(2, 3, 3, 3), &group).shortfalls, [], "twice four fit into ten");
    assert_eq!(placer.group(code(2, 3, 3, 3), &group).shortfalls[0].got, 0, "thrice do not");
    placer.set_free_bytes(&holders[1].uid, 4 * MB);
    assert_eq!(placer.group(code(2, 3, 3, 3), &group).assignments[0], [holders[1].uid]);
}

#[test]
fn one_version_never_has_so_much_that_its_failure_loses_the_group() {
    // Nine in ten run the same version.
    let mut holders = crowd(100);
    for (n, h) in holders.iter_mut().enumerate() {
        h.firmware = if n < 90 { "2.0".into() } else { "1.9".into() };
    }
    let count = |placement: &Placement| {
        let same = |uid: &&Uid| by_uid(&holders, uid).firmware == "2.0";
        placement.assignments.iter().flatten().filter(same).count()
    };
    for seed in 0..20 {
        let mut placer = Placer::new(&holders, seed);
        let placement = placer.group(code(5, 8, 15, 15), &shards(15, MB));
        assert_eq!((count(&placement), placement.shortfalls.len()), (10, 0), "10 may be lost, 5 suffice");
        let placement = placer.group(Redundancy::replicas(3).unwrap(), &shards(1, MB));
        assert!(count(&placement) <= 2);
    }
    // Where there is no other choice, it is taken and said.
    let placement = Placer::new(&holders[..30], 1).group(code(5, 8, 15, 15), &shards(15, MB));
    assert_eq!((count(&placement), placement.shortfalls[0].same_firmware), (15, 5));
    assert_eq!(placement.shortfalls[0].got, 15);
}

#[test]
fn unknown_versions_are_not_taken_for_one() {
    let placement = Placer::new(&crowd(20), 1).group(code(5, 8, 15, 15), &shards(15, MB));
    assert_eq!(placement.shortfalls, []);
}

#[test]
fn shared_ranges_are_shared_evenly() {
    let mut holders = crowd(30);
    for (n, h) in holders.iter_mut().enumerate() {
        h.domain = if n < 24 { "one".into() } else { format!("{}", n % 3) };
    }
    let placement = Placer::new(&holders, 1).group(code(2, 3, 8, 8), &shards(8, MB));
    let mut domains: HashMap<&str, usize> = HashMap::new();
    for uid in placement.assignments.iter().flatten() {
        *domains.entry(&by_uid(&holders, uid).domain).or_default() += 1;
    }
    assert_eq!(domains.len(), 4);
    assert!(domains.values().all(|count| *count == 2), "{domains:?}");
    assert_eq!(placement.shortfalls[0].same_domain, 4);
}

#[test]
fn lost_shards_go_to_owners_that_have_none_of_the_group() {
    let mut holders = separate(8, 1 << 40);
    // A device that is kept may be full and still counts for its owner and range.
    holders[0].free_bytes = 0;
    holders[1].owner = holders[0].owner.clone();
    holders[2].domain = holders[0].domain.clone();
    let keep = [holders[0].uid, holders[3].uid];
    let avoid = [holders[4].uid];
    let group = shards(1, MB)[0];
    let mut placer = Placer::new(&holders, 9);
    let got = placer.more(code(2, 3, 8, 8), group, &keep, &avoid, 3);
    let (uids, all): (Vec<_>, HashSet<_>) =
        (got.iter().map(|r| r.uid).collect(), (5..8).map(|n| holders[n].uid).collect());
    assert_eq!(uids.iter().copied().collect::<HashSet<_>>(), all);
    assert!(got.iter().all(|r| !r.same_domain));
    let got = placer.more(code(2, 3, 8, 8), group, &[keep.to_vec(), uids].concat(), &avoid, 3);
    assert_eq!(got, [Replacement { uid: holders[2].uid, same_domain: true }]);
}

#[test]
fn of_a_crowd_the_seed_chooses_some() {
    let holders = crowd(3 * HOLDERS_MAX);
    let mut placer = Placer::new(&holders, 1);
    let used = |placer: &mut Placer| -> HashSet<Uid> {
        let placement = placer.copies(&shards(1_000, MB), 8);
        assert_eq!(placement.shortfalls, []);
        placement.assignments.into_iter().flatten().collect()
    };
    let first = used(&mut placer);
    assert!(first.len() <= HOLDERS_MAX && first.len() > HOLDERS_MAX * 9 / 10, "{}", first.len());
    placer.reseed(2);
    let second = used(&mut placer);
    let both = first.intersection(&second).count();
    // A third of a thousand, with a standard deviation of 12.
    assert!((250..430).contains(&both), "{both}");
    let mut again = Placer::new(&holders, 2);
    assert_eq!(used(&mut again), second, "what was placed before changes weights, not candidates");
}

proptest! {
    #[test]
    fn the_rules_hold_for_groups_in_any_network(
        network in prop::collection::vec((0u8..30, 0u8..20, 0u64..20 * MB, 0u8..4, 0u8..4), 0..60),
        numbers in prop::array::uniform4(2u8..40),
        groups in 1u32..4,
        seed: u64,
    ) {
        let holders: Vec<_> = network.iter().enumerate().map(|(n, (owner, domain, free, kind, firmware))| Holder {
            kind: [NodeKind::Bootstrap, NodeKind::Peer, NodeKind::Phone, NodeKind::Super][usize::from(*kind)],
            firmware: ["", "1", "2", "3"][usize::from(*firmware)].into(),
            ..holder(n as u8, &owner.to_string(), &domain.to_string(), *free)
        }).collect();
        let mut numbers = numbers;
        numbers.sort_unstable();
        let redundancy = code(numbers[0], numbers[1], numbers[2], numbers[3]);
        let mut placer = Placer::new(&holders, seed);
        let mut load: HashMap<Uid, u64> = HashMap::new();
        for group in 0..groups {
            let mut shards = shards(u32::from(redundancy.n()), 4 * MB);
            shards.iter_mut().for_each(|s| s.0 = ContentAddress::of(&[s.0.as_bytes(), &group.to_le_bytes()[..]].concat()));
            let placement = placer.group(redundancy, &shards);
            prop_assert_eq!(placement.assignments.len(), shards.len());
            let uids: Vec<Uid> = placement.assignments.concat();
            prop_assert!(placement.assignments.iter().all(|uids| uids.len() <= 1));
            let distinct = |of: fn(&Holder) -> &String| -> usize {
                uids.iter().map(|uid| of(by_uid(&holders, uid))).collect::<HashSet<_>>().len()
            };
            prop_assert_eq!(distinct(|h| &h.owner), uids.len());
            prop_assert!(uids.iter().all(|uid| by_uid(&holders, uid).kind.stores_for_others()));
            let most = ["1", "2", "3"].iter()
                .map(|f| uids.iter().filter(|uid| by_uid(&holders, uid).firmware == **f).count()).max();
            let over = most.unwrap_or(0) > firmware_max(redundancy);
            let shared = distinct(|h| &h.domain) < uids.len();
            prop_assert_eq!(placement.shortfalls.is_empty(), uids.len() == shards.len() && !over && !shared);
            // Whoever was left out could not have helped.
            for uid in &uids {
                *load.entry(*uid).or_default() += 4 * MB;
            }
            if uids.len() < shards.len() {
                let owners: HashSet<_> = uids.iter().map(|uid| &by_uid(&holders, uid).owner).collect();
                let left = holders.iter().find(|h| {
                    let free = h.free_bytes - load.get(&h.uid).copied().unwrap_or(0);
                    h.kind.stores_for_others() && !owners.contains(&h.owner) && free >= 4 * MB
                });
                prop_assert_eq!(left, None);
            }
        }
        prop_assert!(load.iter().all(|(uid, bytes)| *bytes <= by_uid(&holders, uid).free_bytes));
    }
}

#[test]
fn who_is_slow_comes_after_all_others_and_is_not_left_out() {
    let holders = separate(5, 1 << 40);
    let shards = shards(40, MB);
    let mut placer = Placer::new(&holders, 3);
    placer.set_slow(&holders[0].uid, true);
    assert!(placer.is_slow(&holders[0].uid) && !placer.is_slow(&holders[1].uid));
    let four = Redundancy::replicas(4).unwrap();
    for (address, bytes) in &shards {
        let chosen = placer.more(four, (*address, *bytes), &[], &[], 4);
        assert!(chosen.iter().all(|r| r.uid != holders[0].uid));
        let all = placer.more(four, (*address, *bytes), &[], &[], 5);
        assert_eq!(all.last().map(|r| r.uid), Some(holders[0].uid));
    }
    placer.set_slow(&holders[0].uid, false);
    let first =
        |(address, bytes): &(ContentAddress, u64)| placer.more(four, (*address, *bytes), &[], &[], 1)[0].uid;
    let chosen: Vec<Uid> = shards.iter().map(first).collect();
    assert!(chosen.contains(&holders[0].uid), "it is as good as the others again");
}
