use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn uid(n: u32) -> Uid {
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    Uid::from_bytes(bytes)
}

fn order(roster: &HashSet<Uid>, key: &NodeKey) -> Order {
    Order {
        id: OrderId([4; 16]),
        matcher: key.uid(),
        version: Version([2, 0, 0, 0]),
        manifest: ContentAddress::of(b"manifest"),
        shards: 25,
        quantity: 1_000,
        roster: roster_hash(roster),
        expires: NOW.plus(86_400),
    }
}

fn matcher(devices: u32) -> Matcher {
    let key = NodeKey::from_seed([1; 32]);
    let roster: HashSet<Uid> = (0..devices).map(uid).collect();
    Matcher::new(key.clone(), order(&roster, &key), &roster, 1).unwrap()
}

#[test]
fn every_voucher_covers_the_package_and_names_both_ends() {
    let mut matcher = matcher(100);
    (50..90).for_each(|n| matcher.add_provider(uid(n)));
    (90..100).for_each(|n| matcher.add_origin(uid(n)));
    let key = NodeKey::from_seed([1; 32]);
    let mut serials = HashSet::new();
    for requester in 0..20 {
        let given = matcher.matched(&uid(requester), u64::from(requester), NOW).unwrap();
        let providers: HashSet<Uid> = given.providers.iter().map(|(uid, _)| *uid).collect();
        assert_eq!((given.providers.len(), providers.len()), (PROVIDERS_PER_MATCH, PROVIDERS_PER_MATCH));
        let origins = (90..100).filter(|&n| providers.contains(&uid(n))).count();
        assert_eq!(origins, ORIGINS_PER_MATCH_MAX, "a quarter");
        for (provider, bytes) in &given.providers {
            let voucher = Voucher::check(bytes, &key.uid(), &uid(requester), provider, NOW).unwrap();
            assert_eq!((voucher.first_shard, voucher.shards), (0, 25));
            assert!(serials.insert(voucher.serial));
        }
        let manifest = ContentAddress::of(b"manifest");
        assert!(Pass::check(&given.pass, &key.uid(), &uid(requester), &manifest, NOW).is_ok());
    }
}

/// Who is fetching has a part, and is found by those who come later; until it fails or is silent.
#[test]
fn who_is_fetching_serves_what_it_has() {
    let mut matcher = matcher(100);
    matcher.add_origin(uid(99));
    for n in 0..10 {
        let given = matcher.matched(&uid(n), u64::from(n), NOW).unwrap();
        assert_eq!(given.providers.len(), n as usize + 1, "the origin and those who came before");
        assert_eq!(given.providers[0].0, uid(99));
    }
    matcher.report(&uid(3), End::Failed);
    matcher.report(&uid(4), End::Done);
    let given = matcher.matched(&uid(50), 1, NOW).unwrap();
    assert_eq!(given.providers.len(), 10);
    assert!(given.providers.iter().all(|(provider, _)| *provider != uid(3)));
    let later = NOW.plus(VOUCHER_LIFE_SECONDS + 1);
    let given = matcher.matched(&uid(51), 1, later).unwrap();
    let left: Vec<Uid> = given.providers.iter().map(|(provider, _)| *provider).collect();
    assert_eq!(left, [uid(99), uid(4)], "the others told nothing for an hour");
}

#[test]
fn an_origin_without_room_is_left_out() {
    let mut matcher = matcher(2_000);
    matcher.add_origin(uid(1_999));
    for n in 0..u32::from(OPEN_PER_ORIGIN_MAX) {
        let given = matcher.matched(&uid(n), u64::from(n), NOW).unwrap();
        assert_eq!(given.providers[0].0, uid(1_999));
    }
    let given = matcher.matched(&uid(1_998), 7, NOW).unwrap();
    assert!(given.providers.iter().all(|(provider, _)| *provider != uid(1_999)));
    assert!(given.providers.len() > 8);
}

#[test]
fn a_stranger_and_a_late_device_get_nothing() {
    let mut matcher = matcher(10);
    assert_eq!(matcher.matched(&uid(1), 0, NOW), Err(NoMatch::NoProvider));
    matcher.add_provider(uid(9));
    assert_eq!(matcher.matched(&uid(99), 0, NOW), Err(NoMatch::NotOnRoster));
    assert_eq!(matcher.matched(&uid(1), 0, NOW.plus(86_401)), Err(NoMatch::Ended));
    assert_eq!(matcher.matched(&uid(9), 0, NOW), Err(NoMatch::NoProvider), "nobody serves itself");
}

/// Demand bounds what is payable: a device that asks for ever gets a bounded number of vouchers, and
/// counts once.
#[test]
fn an_order_pays_a_bounded_number_of_fetches_for_each_device() {
    let mut matcher = matcher(10);
    matcher.add_provider(uid(9));
    let matches = (0..100).filter(|&n| matcher.matched(&uid(1), n, NOW).is_ok()).count();
    assert_eq!(matches, usize::from(MATCHES_PER_DEVICE_MAX));
    for _ in 0..3 {
        matcher.report(&uid(1), End::Done);
    }
    assert_eq!(matcher.done(), 1);
    assert_eq!(matcher.matched(&uid(1), 0, NOW), Err(NoMatch::Often));
    assert_eq!(matcher.done(), 1, "a refusal takes nothing back");
    let later = NOW.plus(MATCH_AGAIN_SECONDS);
    let more = (0..100).filter(|&n| matcher.matched(&uid(1), n, later).is_ok()).count();
    assert_eq!(more, 1, "one more after an hour");
    matcher.report(&uid(1), End::Done);
    matcher.report(&uid(77), End::Done);
    assert_eq!(matcher.done(), 1, "strangers do not count");
}

/// A device whose disk was wiped has the same key, and the matcher knows it as one that is done.
#[test]
fn who_lost_what_it_had_is_matched_again_in_its_own_place() {
    let mut matcher = matcher(10);
    matcher.order.quantity = 1;
    matcher.add_provider(uid(9));
    matcher.matched(&uid(1), 0, NOW).unwrap();
    matcher.report(&uid(1), End::Done);
    assert_eq!(matcher.matched(&uid(2), 0, NOW), Err(NoMatch::Quantity));
    assert_eq!(matcher.matched(&uid(1), 0, NOW).unwrap().providers[0].0, uid(9));
    assert_eq!(matcher.done(), 0, "it has to be done anew");
    matcher.report(&uid(1), End::Done);
    assert_eq!(matcher.done(), 1);
}

#[test]
fn who_is_done_serves_and_load_is_spread() {
    let mut matcher = matcher(2_000);
    (0..400).for_each(|n| matcher.add_provider(uid(n)));
    for n in 400..800 {
        matcher.matched(&uid(n), u64::from(n) << 20, NOW).unwrap();
    }
    let busiest = matcher.devices.list.iter().map(|provider| provider.open).max().unwrap();
    // The mean is between 8 and 16; two choices keep the busiest near it.
    assert!((10..=20).contains(&busiest), "{busiest}");
    for n in 400..800 {
        matcher.report(&uid(n), End::Done);
    }
    assert!(matcher.devices.list.iter().all(|provider| provider.open == 0));
    assert_eq!(matcher.devices.list.len(), 800);
    matcher.remove_provider(&uid(3));
    assert_eq!(matcher.devices.place.len(), 799);
    assert!(matcher.devices.place.iter().all(|(uid, &place)| matcher.devices.list[place].uid == *uid));
}

#[test]
fn what_nobody_reports_is_forgotten() {
    let mut matcher = matcher(10);
    matcher.add_provider(uid(9));
    matcher.matched(&uid(1), 0, NOW).unwrap();
    assert_eq!(matcher.devices.list[0].open, 1);
    matcher.matched(&uid(2), 0, NOW.plus(VOUCHER_LIFE_SECONDS + 1)).unwrap();
    assert_eq!((matcher.devices.list[0].open, matcher.open.len()), (1, 1));
}

#[test]
fn the_order_ends_with_its_quantity() {
    let mut matcher = matcher(10);
    matcher.order.quantity = 1;
    matcher.add_provider(uid(9));
    matcher.report(&uid(1), End::Done);
    assert_eq!(matcher.matched(&uid(2), 0, NOW), Err(NoMatch::Quantity));
}

#[test]
fn a_roster_that_was_not_ordered_is_refused() {
    let key = NodeKey::from_seed([1; 32]);
    let roster: HashSet<Uid> = (0..3).map(uid).collect();
    let other: HashSet<Uid> = (0..4).map(uid).collect();
    let refused = Matcher::new(key.clone(), order(&roster, &key), &other, 1).err();
    assert_eq!(refused, Some(InvalidOrder::Roster));
}

#[test]
fn the_order_s_bytes_are_bounded() {
    let key = NodeKey::from_seed([1; 32]);
    let largest = Order {
        version: Version([u16::MAX; 4]),
        shards: u32::MAX,
        quantity: u32::MAX,
        expires: UnixSeconds(u64::MAX),
        ..order(&HashSet::from([uid(1)]), &key)
    };
    assert_eq!(Order::unseal(&largest.seal(&key), &key.uid()), Ok(largest));
}

/// A device that had the package and failed afterwards leaves its place to another one.
#[test]
fn who_fails_after_it_had_the_package_is_not_counted() {
    let key = NodeKey::from_seed([1; 32]);
    let roster: HashSet<Uid> = (0..3).map(uid).collect();
    let order = Order { quantity: 1, ..order(&roster, &key) };
    let mut matcher = Matcher::new(key, order, &roster, 1).unwrap();
    matcher.add_origin(uid(99));
    matcher.report(&uid(0), End::Done);
    assert_eq!(matcher.matched(&uid(1), 1, NOW).err(), Some(NoMatch::Quantity));
    for _ in 0..2 {
        matcher.report(&uid(0), End::Failed);
        assert_eq!(matcher.done(), 0);
    }
    assert!(matcher.matched(&uid(1), 1, NOW).is_ok());
    matcher.report(&uid(0), End::Done);
    assert_eq!(matcher.done(), 1);
}
