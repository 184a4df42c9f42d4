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
fn vouchers_cover_every_shard_once_and_name_both_ends() {
    let mut matcher = matcher(100);
    for n in 50..60 {
        matcher.add_provider(uid(n));
    }
    let key = NodeKey::from_seed([1; 32]);
    for requester in 0..20 {
        let vouchers = matcher.matched(&uid(requester), u64::from(requester), NOW).unwrap();
        let mut next = 0;
        for (provider, bytes) in &vouchers {
            let voucher = Voucher::check(bytes, &key.uid(), &uid(requester), provider, NOW).unwrap();
            assert_eq!(voucher.first_shard, next);
            next += voucher.shards;
        }
        assert_eq!(next, 25);
    }
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
    matcher.report(&uid(77), End::Done);
    assert_eq!(matcher.done(), 1, "strangers do not count");
}

#[test]
fn who_is_done_serves_and_load_is_spread() {
    let mut matcher = matcher(2_000);
    for n in 0..100 {
        matcher.add_provider(uid(n));
    }
    for n in 100..500 {
        matcher.matched(&uid(n), u64::from(n) << 20, NOW).unwrap();
    }
    let busiest = matcher.providers.iter().map(|provider| provider.open).max().unwrap();
    // The mean is 16; two choices keep the busiest near it.
    assert!((16..=20).contains(&busiest), "{busiest}");
    for n in 100..500 {
        matcher.report(&uid(n), End::Done);
    }
    assert!(matcher.providers.iter().all(|provider| provider.open == 0));
    assert_eq!(matcher.providers.len(), 500);
    matcher.remove_provider(&uid(3));
    assert_eq!(matcher.place.len(), 499);
    assert!(matcher.place.iter().all(|(uid, &place)| matcher.providers[place].uid == *uid));
}

#[test]
fn what_nobody_reports_is_forgotten() {
    let mut matcher = matcher(10);
    matcher.add_provider(uid(9));
    matcher.matched(&uid(1), 0, NOW).unwrap();
    assert_eq!(matcher.providers[0].open, 1);
    matcher.matched(&uid(2), 0, NOW.plus(VOUCHER_LIFE_SECONDS + 1)).unwrap();
    assert_eq!((matcher.providers[0].open, matcher.open.len()), (1, 1));
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
