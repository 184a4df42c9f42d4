use ioex_base::Uid;

use super::{
    lab::{Index, Manner, Spec, World},
    *,
};
use crate::policy::Policy;

/// 100 MB in shards of 1 MiB, the last one shorter.
fn package() -> Vec<u32> {
    let (whole, rest) = (100_000_000 / (1 << 20), 100_000_000 % (1 << 20));
    let mut sizes = vec![1 << 20; whole];
    sizes.push(rest as u32);
    sizes
}

const PACKAGE: f64 = 100_000_000.0;

/// Bytes per second.
const fn mbit(n: u64) -> u64 {
    n * 125_000
}

fn uid(n: u32) -> Uid {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    Uid::from_bytes(bytes)
}

/// A node that behaves.
fn spec(role: Role, up: u64) -> Spec {
    let slots = if role == Role::Origin { 4 } else { Policy::default().upload_slots };
    Spec { role, up, down: mbit(1_000), slots, manner: Manner::Honest }
}

/// An origin with 100 Mbit/s and devices with `up`, each connected to all; node 0 is the origin, and
/// node 1 behaves as `first` says.
fn mesh_with(devices: u32, up: u64, seed: u64, first: Manner) -> World {
    let mut world = World::new(&package(), 10, seed, Rules::default());
    world.add(uid(0), spec(Role::Origin, mbit(100))).unwrap();
    for n in 1..=devices {
        let manner = if n == 1 { first } else { Manner::Honest };
        world.add(uid(n), Spec { manner, ..spec(Role::Device, up) }).unwrap();
    }
    let all = devices as Index + 1;
    for a in 0..all {
        for b in a + 1..all {
            world.connect(a, b, false);
        }
    }
    world
}

fn mesh(devices: u32, up: u64, seed: u64) -> World {
    mesh_with(devices, up, seed, Manner::Honest)
}

/// Runs until all of `devices` are done; returns the seconds.
fn run(world: &mut World, devices: impl Iterator<Item = Index> + Clone) -> f64 {
    while !devices.clone().all(|device| world.done_ms(device).is_some()) {
        world.step();
        assert!(world.now_ms() < 600_000, "the swarm stands still");
    }
    let last = devices.filter_map(|device| world.done_ms(device)).max().unwrap();
    last as f64 / 1_000.0
}

fn copies(world: &World) -> f64 {
    world.sent_bytes(0) as f64 / PACKAGE
}

/// Seconds below which no schedule gets the package to `devices`, when the origin sends at most
/// `origin_copies`: the origin's link for one copy, and the devices' links for what the origin does not send.
fn limit(devices: f64, up: u64, origin_copies: f64) -> f64 {
    let once = PACKAGE / mbit(100) as f64;
    let together = devices * PACKAGE / (mbit(100) as f64 + devices * up as f64);
    let alone = (devices - origin_copies) * PACKAGE / (devices * up as f64);
    once.max(together).max(alone)
}

fn reaches(devices: u32, up: u64, origin_copies: f64) {
    for seed in 1..=3 {
        let mut world = mesh(devices, up, seed);
        let seconds = run(&mut world, 1..devices as Index + 1);
        let limit = limit(f64::from(devices), up, origin_copies);
        let wasted: u64 = (1..=devices as Index).map(|device| world.swarm(device).totals().wasted).sum();
        eprintln!(
            "{devices} devices, seed {seed}: {seconds:.1} s of {limit:.1} s ({:.2}), {:.2} copies, {:.2}% wasted",
            seconds / limit,
            copies(&world),
            wasted as f64 / PACKAGE / f64::from(devices) * 100.0,
        );
        assert!(seconds <= 1.5 * limit, "{seconds} s, limit {limit} s");
        assert!(copies(&world) <= origin_copies, "{} copies", copies(&world));
    }
}

#[test]
fn eight_devices_come_close_to_the_limit() {
    reaches(8, mbit(100), 1.2);
    reaches(8, mbit(20), 1.2);
}

#[test]
fn thirty_two_devices_come_close_to_the_limit() {
    reaches(32, mbit(100), 1.5);
    reaches(32, mbit(20), 1.5);
}

/// Shards that the one who stalls got from the origin come a second time; nobody waits for it.
#[test]
fn nobody_waits_for_a_provider_that_stalls() {
    for seed in 1..=8 {
        let mut world = mesh_with(8, mbit(100), seed, Manner::Stalls);
        let seconds = run(&mut world, 2..9);
        eprintln!("seed {seed}: {seconds:.1} s, {:.2} copies", copies(&world));
        // It took an eighth of the first copy, which the origin gives again once nobody counts on it
        // any more, and the others have one uplink less.
        assert!(seconds <= 1.5 * limit(7.0, mbit(100), 1.2) + LOST_AFTER_MS as f64 / 1_000.0, "{seconds} s");
        assert!(copies(&world) <= 1.5, "{} copies", copies(&world));
    }
}

#[test]
fn who_sends_wrong_bytes_is_asked_no_more() {
    let mut world = mesh_with(8, mbit(100), 1, Manner::Lies);
    let seconds = run(&mut world, 2..9);
    eprintln!("{seconds:.1} s, {:.2} copies", copies(&world));
    assert!(seconds <= 1.5 * limit(7.0, mbit(100), 1.2) + LOST_AFTER_MS as f64 / 1_000.0, "{seconds} s");
    for device in 2..9 {
        let swarm = world.swarm(device);
        assert!(swarm.is_banned(&uid(1)), "{device}");
        // What was being sent when the first shard turned out to be wrong, and no more.
        assert!(swarm.totals().wasted <= 6 * (1 << 20), "{:?}", swarm.totals());
    }
}

#[test]
fn an_origin_that_dies_after_one_copy_is_not_missed() {
    let mut world = mesh(8, mbit(20), 1);
    while copies(&world) < 1.03 {
        world.step();
    }
    let mut union = Bits::none(package().len());
    (1..9).for_each(|device| union.add(world.swarm(device).have()));
    assert!(union.is_full(), "the first copy is spread over all");
    assert!((1..9).all(|device| world.done_ms(device).is_none()));
    world.leave(0);
    let seconds = run(&mut world, 1..9);
    assert!(seconds <= 1.5 * limit(8.0, mbit(20), 1.0), "{seconds} s");
}

/// Who comes when everything is over gets it from the others.
#[test]
fn late_devices_are_served_by_devices() {
    let mut world = mesh(8, mbit(100), 1);
    run(&mut world, 1..9);
    let before = world.sent_bytes(0);
    let late = world.add(uid(99), spec(Role::Device, mbit(100))).unwrap();
    (0..9).for_each(|other| assert!(world.connect(late, other, other == 3)));
    run(&mut world, late..late + 1);
    assert_eq!(world.sent_bytes(0), before);
    let totals = world.swarm(late).totals();
    // One of eight, and more than its share.
    assert!(2 * totals.wan < 7 * totals.lan && totals.origin == 0, "{totals:?}");
}

#[test]
fn the_local_network_is_asked_first_and_the_origin_last() {
    let mut swarm = Swarm::new(&[100; 8], &Bits::none(8), 10_000, 3).unwrap();
    for (n, kind) in [(1, Kind::Origin), (2, Kind::Wan), (3, Kind::Lan)] {
        assert!(swarm.joined(uid(n), kind, &Bits::all(8), 0));
    }
    let asked: Vec<Uid> = asks(&swarm.next(0)).iter().map(|ask| ask.peer).collect();
    assert_eq!(asked, [uid(3), uid(3), uid(2), uid(2)], "two each, of those whose pace is not known");
}

/// One device and nobody else: the origin gives it what it gave to others before.
#[test]
fn a_lonely_device_gets_everything_from_the_origin() {
    let mut world = mesh(2, mbit(100), 1);
    run(&mut world, 1..3);
    let late = world.add(uid(99), spec(Role::Device, mbit(100))).unwrap();
    assert!(world.connect(late, 0, false));
    let begin = world.now_ms();
    run(&mut world, late..late + 1);
    let seconds = (world.now_ms() - begin) as f64 / 1_000.0;
    assert!(seconds <= 1.5 * 8.0 + 1.0, "{seconds} s");
}

/// A swarm of `sizes.len()` shards without any, and one device that has all.
fn alone(sizes: &[u32], budget: u64) -> Swarm {
    let mut swarm = Swarm::new(sizes, &Bits::none(sizes.len()), budget, 1).unwrap();
    assert!(swarm.joined(uid(1), Kind::Wan, &Bits::all(sizes.len()), 0));
    swarm
}

fn asks(actions: &[Action]) -> Vec<Ask> {
    let ask = |action: &Action| match action {
        Action::Ask(ask) => Some(ask.clone()),
        Action::Cancel { .. } => None,
    };
    actions.iter().filter_map(ask).collect()
}

#[test]
fn the_budget_bounds_what_is_asked_for() {
    let mut swarm = alone(&[100; 10], 250);
    let first = asks(&swarm.next(0));
    assert_eq!(first.len(), 2);
    assert!(swarm.is_exhausted());
    swarm.failed(first[0].id, Failure::Busy { after_ms: 10 }, 0);
    assert_eq!(asks(&swarm.next(100)).len(), 1, "what brought nothing costs nothing");
    assert!(swarm.started(first[1].id, shard(&first[1]), 100));
    swarm.progress(first[1].id, 100, 110);
    assert_eq!(swarm.got(first[1].id, 110), Some(shard(&first[1])));
    let open = swarm.open[0].id;
    assert_eq!(asks(&swarm.next(120)), []);
    // What was under way when the attempt ends was paid for.
    swarm.progress(open, 70, 130);
    swarm.give_up();
    assert_eq!((swarm.totals().wan, swarm.totals().wasted, swarm.open.len()), (100, 70, 0));
}

/// Shards have many sizes, who may choose sends the largest, and nobody's bytes are of use.
#[test]
fn the_budget_holds_to_the_byte_with_shards_of_all_sizes() {
    for seed in 1..50_u64 {
        let sizes: Vec<u32> = (0..40).map(|n| 1_000 + 97 * ((n * seed as u32) % 41)).collect();
        let largest = (0..40).max_by_key(|&shard| sizes[shard as usize]).unwrap();
        let budget = 2 * sizes.iter().map(|&size| u64::from(size)).sum::<u64>();
        let mut swarm = Swarm::new(&sizes, &Bits::none(40), budget, seed).unwrap();
        let mut chosen = 0;
        for round in 0..200 {
            let (kind, now) =
                (if round % 2 == 0 { Kind::Origin } else { Kind::Wan }, 1_000 * u64::from(round));
            swarm.joined(uid(round), kind, &Bits::all(40), now);
            let asks = asks(&swarm.next(now));
            for ask in &asks {
                let shard = match ask.want {
                    Want::Shard(shard) => shard,
                    Want::LeastServed(_) => largest,
                };
                chosen += u32::from(matches!(ask.want, Want::LeastServed(_)));
                if swarm.started(ask.id, shard, now) {
                    swarm.progress(ask.id, sizes[shard as usize].into(), now);
                }
            }
            asks.iter().for_each(|ask| swarm.failed(ask.id, Failure::Wrong, now));
            assert_eq!(swarm.owed_bytes, 0, "seed {seed}");
        }
        let spent = swarm.totals().all();
        assert!(
            chosen > 0 && spent <= budget && spent + 5_000 > budget,
            "{spent} of {budget}, {chosen} chosen"
        );
        assert!(swarm.is_exhausted());
    }
}

fn shard(ask: &Ask) -> u32 {
    match ask.want {
        Want::Shard(shard) => shard,
        Want::LeastServed(_) => panic!("it names none"),
    }
}

#[test]
fn a_busy_provider_is_left_alone_and_another_one_asked() {
    let mut swarm = alone(&[100; 10], 10_000);
    for ask in asks(&swarm.next(0)) {
        swarm.failed(ask.id, Failure::Busy { after_ms: 1_000 }, 0);
    }
    assert_eq!(asks(&swarm.next(700)), []);
    swarm.joined(uid(2), Kind::Wan, &Bits::all(10), 700);
    assert!(asks(&swarm.next(700)).iter().all(|ask| ask.peer == uid(2)));
    assert!(swarm.wake_ms(700).unwrap() <= 1_250);
    assert!(asks(&swarm.next(1_300)).iter().any(|ask| ask.peer == uid(1)));
}

#[test]
fn silence_is_answered_elsewhere_and_later_it_is_an_end() {
    let mut swarm = alone(&[100; 2], 10_000);
    let owed = asks(&swarm.next(0));
    assert_eq!(owed.len(), 2);
    swarm.joined(uid(2), Kind::Wan, &Bits::all(2), 0);
    assert_eq!(asks(&swarm.next(500)), []);
    let again = asks(&swarm.next(1_500));
    assert_eq!(again.iter().map(|ask| ask.peer).collect::<Vec<_>>(), [uid(2); 2]);
    assert!(swarm.started(again[0].id, shard(&again[0]), 1_600));
    assert_eq!(swarm.got(again[0].id, 1_700), Some(shard(&again[0])));
    let late = owed.iter().find(|ask| shard(ask) == shard(&again[0])).unwrap();
    assert!(swarm.next(1_700).contains(&Action::Cancel { id: late.id, peer: uid(1) }));
    swarm.failed(again[1].id, Failure::Broken, 1_800);
    // The one that is silent for 20 s is not asked for a minute.
    let actions = swarm.next(20_000);
    assert!(actions.iter().any(|action| matches!(action, Action::Cancel { peer, .. } if *peer == uid(1))));
    assert!(asks(&actions).iter().all(|ask| ask.peer == uid(2)));
}

/// The maker's node is stopped while it sends the last shards, and another matcher has them, too.
#[test]
fn another_origin_is_asked_for_what_a_silent_one_owes() {
    for begun in [false, true] {
        let mut swarm = Swarm::new(&[100; 2], &Bits::none(2), 10_000, 1).unwrap();
        swarm.joined(uid(1), Kind::Origin, &Bits::all(2), 0);
        let owed = asks(&swarm.next(0));
        assert_eq!(owed.len(), 2);
        if begun {
            assert!((0..2).all(|n| swarm.started(owed[n].id, n as u32, 10)));
        }
        swarm.joined(uid(2), Kind::Origin, &Bits::all(2), 0);
        assert_eq!(asks(&swarm.next(2_000)), [], "the first one may be slow");
        let again = asks(&swarm.next(6_100));
        assert_eq!(again.iter().map(|ask| ask.peer).collect::<Vec<_>>(), [uid(2); 2], "{begun}");
    }
}

#[test]
fn another_shard_than_the_one_asked_for_is_a_lie() {
    let mut swarm = alone(&[100; 4], 10_000);
    let ask = asks(&swarm.next(0)).remove(0);
    assert!(!swarm.started(ask.id, (shard(&ask) + 1) % 4, 10));
    assert!(swarm.is_banned(&uid(1)));
    swarm.left(&uid(1));
    assert!(!swarm.joined(uid(1), Kind::Wan, &Bits::all(4), 20), "it stays banned");
    assert_eq!(asks(&swarm.next(100_000)), []);
}

#[test]
fn rarest_first() {
    let mut swarm = Swarm::new(&[100; 8], &Bits::none(8), 10_000, 3).unwrap();
    let mut some = Bits::all(8);
    some.remove(5);
    for n in 1..4 {
        swarm.joined(uid(n), Kind::Wan, &some, 0);
    }
    swarm.joined(uid(4), Kind::Wan, &Bits::all(8), 0);
    assert_eq!(asks(&swarm.next(0))[0].want, Want::Shard(5));
}

#[test]
fn what_waits_at_a_provider_is_bounded_and_fair() {
    let mut uplink = Uplink::new(&[100; 64], &Bits::all(64), Role::Device, 1).unwrap();
    let none = Bits::none(64);
    assert!(uplink.ask(&uid(1), Want::Shard(0), 0).is_err(), "not connected");
    (1..4).for_each(|n| assert!(uplink.joined(uid(n), &none)));
    let mut ids = Vec::new();
    for shard in 0..ASKS_PER_REQUESTER_MAX as u32 - 1 {
        ids.push(uplink.ask(&uid(1), Want::Shard(shard), 0).unwrap());
    }
    assert!(matches!(uplink.next(0)[..], [Turn::Serve { .. }]));
    let last = uplink.ask(&uid(2), Want::Shard(60), 0).unwrap();
    assert!(uplink.ask(&uid(1), Want::Shard(8), 0).is_ok());
    assert!(matches!(uplink.ask(&uid(1), Want::Shard(9), 0), Err(Failure::Busy { .. })), "its share");
    assert!(matches!(uplink.ask(&uid(3), Want::Shard(9), 0), Err(Failure::Busy { .. })), "all places");
    assert!(matches!(uplink.ask(&uid(3), Want::Shard(64), 0), Err(Failure::Nothing { .. })));
    uplink.ended(ids[0], true, 10);
    let Turn::Serve { id, peer, .. } = uplink.next(10)[0] else { panic!() };
    assert_eq!((id, peer), (last, uid(2)), "who got least is next");
    uplink.left(&uid(2));
    assert!(matches!(uplink.next(20)[..], [Turn::Serve { peer, .. }] if peer == uid(1)));
    let over = uplink.next(WAIT_MAX_MS);
    assert_eq!(over.len(), WAITING_MAX - 2, "nobody waits for ever: {over:?}");
}

#[test]
fn the_origin_gives_each_shard_once_and_a_lost_one_again() {
    let mut uplink = Uplink::new(&[100; 4], &Bits::all(4), Role::Origin, 1).unwrap();
    (1..3).for_each(|n| assert!(uplink.joined(uid(n), &Bits::none(4))));
    let mut given = Bits::none(4);
    let mut ask = |n: u32, now: u64| {
        let id = uplink.ask(&uid(n), Want::LeastServed(Bits::all(4)), now).unwrap();
        let shard = match uplink.next(now)[..] {
            [Turn::Serve { shard, .. }] => Some(shard),
            _ => None,
        };
        uplink.ended(id, true, now);
        shard
    };
    for n in 0..4 {
        assert!(given.insert(ask(n % 2 + 1, 0).unwrap()), "each once");
    }
    assert_eq!(ask(1, 1_000), None);
    assert!(ask(1, LOST_AFTER_MS).is_some(), "nobody says that it has any");
    let certain = uplink.ask(&uid(2), Want::Shard(0), LOST_AFTER_MS).unwrap();
    let ready = uplink.wake_ms(LOST_AFTER_MS).unwrap_or(0).min(LOST_AFTER_MS + RELAY_MS);
    assert!(uplink.wake_ms_of(certain, LOST_AFTER_MS).is_some_and(|at| at <= ready), "nothing else wakes it");
    assert!(matches!(uplink.next(ready)[..], [Turn::Serve { id, shard: 0, .. }] if id == certain));
}

mod anything {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever neighbours say, in whatever order: no panic, every bound holds, and counts fit.
        #[test]
        fn neighbours_may_say_what_they_want(
            seed: u64,
            says in prop::collection::vec((0_u8..9, 0_u32..6, 0_u32..20, 0_u64..3_000), 1..200),
        ) {
            let sizes = [1_000_u32; 16];
            let mut swarm = Swarm::new(&sizes, &Bits::none(16), 40_000, seed).unwrap();
            let mut uplink = Uplink::new(&sizes, &Bits::all(16), Role::Origin, 2).unwrap();
            let mut open: Vec<Ask> = Vec::new();
            let mut now = 0;
            for (what, who, number, later) in says {
                now += later;
                let kind = [Kind::Lan, Kind::Wan, Kind::Origin][who as usize % 3];
                let id = AskId(u64::from(number));
                match what {
                    0 => { swarm.joined(uid(who), kind, &Bits::all(16), now); uplink.joined(uid(who), &Bits::none(16)); }
                    1 => { swarm.left(&uid(who)); uplink.left(&uid(who)); }
                    2 => { swarm.has(&uid(who), number); uplink.has(&uid(who), number); }
                    3 => { swarm.started(id, number, now); }
                    4 => { swarm.progress(id, 500, now); }
                    5 => { swarm.got(id, now); }
                    6 => swarm.failed(id, Failure::Busy { after_ms: later }, now),
                    7 => { let _ = uplink.ask(&uid(who), Want::Shard(number), now); uplink.ended(ServeId(u64::from(number)), true, now); }
                    _ => { let _ = uplink.ask(&uid(who), Want::LeastServed(Bits::all(16)), now); uplink.cancel(ServeId(u64::from(number))); }
                }
                for action in swarm.next(now) {
                    match action {
                        Action::Ask(ask) => open.push(ask),
                        Action::Cancel { id, .. } => open.retain(|ask| ask.id != id),
                    }
                }
                uplink.next(now);
                prop_assert!(swarm.open.len() <= 6 * ASKS_PER_REQUESTER_MAX);
                prop_assert!(swarm.totals().all() <= 40_000 + 500 * 200);
                let copies: usize = swarm.copies.iter().map(|&copies| copies as usize).sum();
                let held = swarm.peers.iter().filter(|peer| peer.counts());
                prop_assert_eq!(copies, held.map(|peer| peer.has.count()).sum::<usize>());
                for shard in 0..16 {
                    let asks = swarm.open.iter().filter(|open| open.shard == Some(shard)).count();
                    prop_assert_eq!(asks, swarm.asked[shard as usize] as usize);
                }
            }
        }
    }
}
