use ioex_base::{NodeKind, Uid, wire};
use proptest::prelude::*;

use super::*;
use crate::place::Holder;

fn rs(k: u8, m: u8, o: u8, n: u8) -> Redundancy {
    Redundancy::new(k, m, o, n).unwrap()
}

fn holder(n: usize, owner: usize) -> Holder {
    Holder {
        uid: Uid::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()),
        kind: NodeKind::Peer,
        owner: format!("owner {owner}"),
        domain: format!("domain {n}"),
        firmware: String::new(),
        free_bytes: HOLDER_FREE_MIN_BYTES,
        rtt_ms: None,
    }
}

fn many(owners: usize) -> Vec<Holder> {
    (0..owners).map(|n| holder(n, n)).collect()
}

fn chosen(wanted: Wanted, owners: usize) -> Redundancy {
    choose(wanted, &many(owners)).unwrap().redundancy
}

#[test]
fn the_bytes_are_frozen() {
    assert_eq!(wire::encode(&rs(20, 32, 60, 80)), [20, 32, 60, 80]);
    assert_eq!(wire::encode(&Redundancy::replicas(3).unwrap()), [1, 3, 3, 3]);
    assert_eq!(wire::encode(&Wanted::Auto), [0]);
    assert_eq!(wire::encode(&Wanted::Exact(rs(2, 3, 4, 5))), [1, 2, 3, 4, 5]);
    assert_eq!(wire::decode::<Wanted>(&[1, 2, 3, 4, 5], 5), Ok(Wanted::Exact(rs(2, 3, 4, 5))));
    assert_eq!(wire::decode::<Wanted>(&[0], 5), Ok(Wanted::Auto));
}

#[test]
fn only_rising_numbers_within_the_bound_are_a_redundancy() {
    for bad in [[0, 1, 1, 1], [2, 1, 3, 4], [1, 3, 2, 4], [1, 2, 4, 3], [0; 4]] {
        let [k, m, o, n] = bad;
        assert_eq!(Redundancy::new(k, m, o, n), Err(InvalidRedundancy::Order { k, m, o, n }));
        assert!(wire::decode::<Redundancy>(&bad, 4).is_err(), "nor from outside");
    }
    let over = REDUNDANCY_MAX + 1;
    assert_eq!(Redundancy::new(1, 1, 1, over), Err(InvalidRedundancy::TooMany(over)));
    assert!(wire::decode::<Redundancy>(&[1, 1, 1, over], 4).is_err());
    assert_eq!(Redundancy::replicas(0), Err(InvalidRedundancy::Copies(0)));
    assert_eq!(Redundancy::replicas(REPLICAS_MAX + 1), Err(InvalidRedundancy::Copies(REPLICAS_MAX + 1)));
}

#[test]
fn texts_say_what_they_mean() {
    for text in ["replicas=3", "replicas=1", "rs=20/32/60/80", "rs=1/2/3/3", "rs=1/13/41/61"] {
        assert_eq!(text.parse::<Redundancy>().unwrap().to_string(), text);
        assert_eq!(text.parse::<Wanted>().unwrap().to_string(), text);
    }
    assert_eq!(" rs = 2/ 3/4 /5".parse(), Ok(rs(2, 3, 4, 5)));
    assert_eq!("auto".parse(), Ok(Wanted::Auto));
    assert_eq!(Wanted::default().to_string(), "auto");
    assert_eq!("rs=1/3/3/3".parse::<Redundancy>().unwrap().to_string(), "replicas=3");
}

#[test]
fn wrong_texts_are_answered_with_what_to_write() {
    for text in ["", "3", "copies=3", "rs=20/32/60", "rs=1/2/3/4/5", "replicas", "Auto"] {
        let error = text.parse::<Wanted>().unwrap_err().to_string();
        assert!(error.contains("replicas=3") && error.contains("rs=20/32/60/80"), "{error}");
    }
    for text in ["replicas=", "replicas=x", "rs=20/32/sixty/80", "replicas=300", "rs=-1/2/3/4"] {
        assert!(matches!(text.parse::<Redundancy>(), Err(ParseRedundancyError::Number(_))), "{text}");
    }
    let error = "rs=20/60/32/80".parse::<Redundancy>().unwrap_err().to_string();
    assert!(error.contains("20/60/32/80"), "{error}");
    assert!("replicas=17".parse::<Redundancy>().unwrap_err().to_string().contains("16"));
}

#[test]
fn ratios_and_losses() {
    let code = rs(20, 32, 60, 80);
    assert_eq!((code.overhead(), code.tolerated_losses()), (3.0, 40));
    let copies = Redundancy::replicas(3).unwrap();
    assert_eq!((copies.overhead(), copies.tolerated_losses()), (3.0, 2));
    assert_eq!((copies.k(), copies.m(), copies.o(), copies.n()), (1, 3, 3, 3));
    assert!(copies.is_whole_copies() && !code.is_whole_copies());
}

#[test]
fn a_short_group_bears_as_many_losses_as_a_full_one() {
    let full = rs(20, 32, 60, 80);
    assert_eq!(full.short(20), full);
    assert_eq!(full.short(7), rs(7, 19, 47, 67));
    assert_eq!((full.parity_for(7), full.shards_for(7)), (60, 67));
    assert_eq!(full.short(1), rs(1, 13, 41, 61));
    assert_eq!((full.parity_for(1), full.shards_for(1)), (0, 1), "one shard is copied, not encoded");
    let copies = Redundancy::replicas(3).unwrap();
    assert_eq!((copies.short(1), copies.parity_for(1), copies.shards_for(1)), (copies, 0, 1));
}

#[test]
fn index_objects_are_whole_copies_with_a_bound() {
    assert_eq!(rs(20, 32, 60, 80).for_index(), Redundancy::replicas(16).unwrap());
    assert_eq!(rs(3, 8, 8, 8).for_index(), Redundancy::replicas(6).unwrap());
    let copies = Redundancy::replicas(3).unwrap();
    assert_eq!(copies.for_index(), copies);
}

#[test]
fn a_whole_group_fits_memory() {
    assert_eq!(Redundancy::replicas(5).unwrap().shard_bytes(), SHARD_MAX_BYTES);
    assert_eq!(rs(3, 8, 8, 8).shard_bytes(), SHARD_MAX_BYTES);
    assert_eq!(rs(20, 32, 60, 80).shard_bytes(), 1_258_240);
    assert_eq!(rs(20, 32, 60, REDUNDANCY_MAX).shard_bytes(), CODED_SHARD_MIN_BYTES);
}

/// The table of `docs/sim-vault.md`: owners, then the scheme.
#[test]
fn every_small_network_has_a_scheme_of_its_own() {
    for (owners, scheme) in [
        (1, "replicas=1"),
        (2, "replicas=2"),
        (3, "replicas=3"),
        (4, "replicas=3"),
        (7, "replicas=3"),
        (8, "rs=2/5/6/8"),
        (12, "rs=3/7/9/12"),
        (16, "rs=4/9/12/16"),
        (40, "rs=10/21/30/40"),
        (79, "rs=19/39/57/76"),
        (80, "rs=20/40/60/80"),
        (100_000, "rs=20/40/60/80"),
    ] {
        assert_eq!(chosen(Wanted::Auto, owners).to_string(), scheme, "{owners} owners");
    }
    assert_eq!(choose(Wanted::Auto, &[]), None);
}

#[test]
fn only_owners_that_store_for_others_and_have_room_count() {
    let mut holders = many(6);
    holders[0].kind = NodeKind::Phone;
    holders[1].kind = NodeKind::Bootstrap;
    holders[2].free_bytes = HOLDER_FREE_MIN_BYTES - 1;
    holders[3].owner = "owner 4".into();
    assert_eq!(owners(&holders), 2);
    assert_eq!(choose(Wanted::Auto, &holders).unwrap().redundancy, Redundancy::replicas(2).unwrap());
    assert_eq!(choose(Wanted::Auto, &holders[..3]), None);
}

#[test]
fn what_cannot_be_had_is_said() {
    let note = |wanted: &str, owners: usize| {
        let choice = choose(wanted.parse().unwrap(), &many(owners)).unwrap();
        (choice.redundancy.to_string(), choice.notes.join("\n"))
    };
    let (got, said) = note("rs=20/32/60/80", 8);
    assert_eq!(got, "rs=2/5/6/8");
    assert!(said.contains("8 owners lend") && said.contains("loss of 4 devices rather than 40"), "{said}");
    let (got, said) = note("replicas=3", 2);
    assert_eq!(got, "replicas=2");
    assert!(said.contains("loss of 1 device rather than 2"), "{said}");
    let (got, said) = note("replicas=3", 1);
    assert_eq!(got, "replicas=1");
    assert!(said.contains("1 owner lends") && said.contains("loss of no device"), "{said}");
    let (got, said) = note("rs=20/32/60/80", 70);
    assert_eq!(got, "rs=20/32/60/70");
    assert!(said.contains("as complete as asked for"), "{said}");
    assert_eq!(note("rs=10/14/20/24", 8).0, "rs=3/6/6/8", "no dearer than asked for");
    assert_eq!(note("rs=20/32/60/80", 4).0, "replicas=3");
    assert_eq!(note("replicas=3", 3).1, "");
    assert_eq!(note("auto", 80).1, "");
    let (_, said) = note("auto", 8);
    assert!(said.contains("8 owners lend free space: rs=2/5/6/8 bears the loss of 4 devices"), "{said}");
}

#[test]
fn what_could_not_be_had_is_still_the_goal() {
    let goal = |wanted: &str, owners: usize| {
        let choice = choose(wanted.parse().unwrap(), &many(owners)).unwrap();
        (choice.redundancy.to_string(), choice.goal.to_string())
    };
    let pair = |now: &str, goal: &str| (now.to_owned(), goal.to_owned());
    assert_eq!(goal("auto", 1), pair("replicas=1", "replicas=3"));
    assert_eq!(goal("auto", 4), pair("replicas=3", "replicas=3"));
    assert_eq!(goal("auto", 8), pair("rs=2/5/6/8", "rs=2/5/6/8"));
    assert_eq!(goal("replicas=1", 5), pair("replicas=1", "replicas=1"));
    assert_eq!(goal("replicas=4", 2), pair("replicas=2", "replicas=4"));
    // A code becomes copies that cost the same, and one that is a code all the same stays it.
    assert_eq!(goal("rs=4/6/8/10", 1), pair("replicas=1", "replicas=2"));
    assert_eq!(goal("rs=20/32/60/80", 2), pair("replicas=2", "replicas=3"));
    assert_eq!(goal("rs=20/32/60/80", 8), pair("rs=2/5/6/8", "rs=2/5/6/8"));
}

#[test]
fn groups_of_copies_are_raised_and_never_lowered() {
    let copies = |n| Redundancy::replicas(n).unwrap();
    assert_eq!(copies(1).raised(copies(4)), copies(4));
    assert_eq!(copies(4).raised(copies(1)), copies(4));
    assert_eq!(copies(1).raised(rs(2, 5, 6, 8)), copies(3));
    assert_eq!(copies(1).raised(rs(1, 2, 3, 3)), rs(1, 2, 3, 3));
    let code = rs(2, 5, 6, 8);
    assert_eq!(code.raised(copies(9)), code);
    assert_eq!(code.short(1).raised(code), code.short(1), "a short group has more already");
    assert_eq!(rs(1, 1, 96, 96).raised(copies(16)), rs(1, 1, 96, 96));
    assert_eq!(rs(2, 2, 96, 96).as_copies(), copies(16));
}

fn any_redundancy() -> impl Strategy<Value = Redundancy> {
    prop::array::uniform4(1..=REDUNDANCY_MAX).prop_map(|mut numbers| {
        numbers.sort_unstable();
        let [k, m, o, n] = numbers;
        rs(k, m, o, n)
    })
}

proptest! {
    #[test]
    fn bytes_and_texts_come_back(redundancy in any_redundancy()) {
        prop_assert_eq!(wire::decode::<Redundancy>(&wire::encode(&redundancy), 4), Ok(redundancy));
        prop_assert_eq!(redundancy.to_string().parse(), Ok(redundancy));
        let bytes = wire::encode(&Wanted::Exact(redundancy));
        prop_assert_eq!(wire::decode::<Wanted>(&bytes, 5), Ok(Wanted::Exact(redundancy)));
    }

    #[test]
    fn any_bytes_are_a_valid_redundancy_or_refused(bytes: [u8; 4], text: String) {
        if let Ok(r) = wire::decode::<Redundancy>(&bytes, 4) {
            prop_assert!(1 <= r.k() && r.k() <= r.m() && r.m() <= r.o() && r.o() <= r.n());
            prop_assert!(r.n() <= REDUNDANCY_MAX);
        }
        let _ = text.parse::<Wanted>();
    }

    #[test]
    fn a_short_group_is_never_worse(full in any_redundancy(), data in 0usize..100) {
        let group = full.short(data);
        prop_assert_eq!(Redundancy::new(group.k(), group.m(), group.o(), group.n()), Ok(group));
        prop_assert_eq!(usize::from(group.k()), data.clamp(1, usize::from(full.k())));
        prop_assert_eq!(group.tolerated_losses(), full.tolerated_losses());
        prop_assert_eq!(group.m() - group.k(), full.m() - full.k());
        prop_assert_eq!(full.parity_for(data), group.parity_for(data));
        if !group.is_whole_copies() {
            prop_assert_eq!(full.shards_for(data), usize::from(group.n()));
        }
    }

    #[test]
    fn groups_fit_memory(r in any_redundancy()) {
        prop_assert!((CODED_SHARD_MIN_BYTES..=SHARD_MAX_BYTES).contains(&r.shard_bytes()));
        prop_assert!(r.is_whole_copies() || r.shard_bytes() * u64::from(r.n()) <= GROUP_MEMORY_BYTES);
        prop_assert_eq!(r.shard_bytes() % 64, 0);
    }

    #[test]
    fn nothing_asks_for_more_devices_than_owners(
        asked in any_redundancy(), owners in 1usize..120, auto: bool,
    ) {
        let wanted = if auto { Wanted::Auto } else { Wanted::Exact(asked) };
        let choice = choose(wanted, &many(owners)).unwrap();
        let got = choice.redundancy;
        prop_assert!(choice.goal.o() >= got.o() && choice.goal.k() == got.k());
        prop_assert!(got.is_whole_copies() || choice.goal == got);
        prop_assert!(usize::from(got.n()) <= owners);
        let dearest = if auto { f64::from(OVERHEAD_MAX) } else { asked.overhead() };
        prop_assert!(got.overhead() <= dearest + 1e-9);
        let full = if auto { owners >= 80 } else { got == asked };
        prop_assert_eq!(choice.notes.is_empty(), full);
        if !auto && owners >= usize::from(asked.n()) {
            prop_assert_eq!(got, asked);
        }
    }

    #[test]
    fn more_owners_never_give_less(asked in any_redundancy(), owners in 1usize..120, auto: bool) {
        let wanted = if auto { Wanted::Auto } else { Wanted::Exact(asked) };
        let (less, more) = (chosen(wanted, owners), chosen(wanted, owners + 1));
        prop_assert!(more.tolerated_losses() >= less.tolerated_losses(), "{less} {more}");
        prop_assert!(more.n() >= less.n());
    }
}
