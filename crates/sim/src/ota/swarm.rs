//! Some thousand devices, shard by shard, with the code of the real thing.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use ioex_ota::{
    Version,
    matcher::{End, Matcher, Order, roster_hash},
    policy::Policy,
    swarm::{
        Role, Rules,
        lab::{Index, Manner, Spec, World},
    },
    voucher::OrderId,
};
use serde::Serialize;

use super::{PACKAGE_BYTES, RELAYED_PAIRS, link, mbit};
use crate::rng::Rng;

/// Bytes of a shard.
const SHARD_BYTES: u64 = 1 << 20;
/// The clock's step, in ms.
const STEP_MS: u64 = 50;
/// Devices come in within this time, in ms: nobody hears of an update in the same instant.
const ARRIVAL_MS: u64 = 10_000;
/// After this long a run has failed, in ms.
const LONGEST_MS: u64 = 7_200_000;
/// The moment at which it begins.
const BEGIN: UnixSeconds = UnixSeconds(1_800_000_000);

/// One exact run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// How many devices.
    pub devices: usize,
    /// Rules of the swarm.
    pub rules: Rules,
    /// Whether pairs without a direct path use a relay; else they do not connect.
    pub relays: bool,
}

/// All of them; the first one measures what the million is computed with.
#[must_use]
pub fn scenarios(devices: usize) -> Vec<Scenario> {
    let all = Rules::default();
    vec![
        Scenario { name: "direct paths only", devices, rules: all, relays: false },
        Scenario { name: "relays carry packages", devices, rules: all, relays: true },
        Scenario {
            name: "direct, not rarest first",
            devices,
            rules: Rules { rarest_first: false, ..all },
            relays: false,
        },
        Scenario {
            name: "direct, device chooses at the origin",
            devices,
            rules: Rules { least_served: false, ..all },
            relays: false,
        },
    ]
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// How many devices.
    pub devices: usize,
    /// Seconds until 50, 95, 99 and 100 % of the devices had it.
    pub seconds: [f64; 4],
    /// Copies that the origin sent.
    pub origin_copies: f64,
    /// Share of all bytes that went over relays.
    pub relayed: f64,
    /// Share of the devices' uplinks that was used, until half of the devices had it.
    pub efficiency: f64,
    /// By which factor the bytes at devices grew in a second, at the beginning (natural logarithm).
    pub growth: f64,
    /// Bytes of a matcher's answer to a device.
    pub match_bytes: f64,
}

/// Runs one.
///
/// # Errors
/// When the rules refuse the package or the order, or nothing moves any more.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Outcome> {
    let mut rng = Rng::new(seed);
    let mut sizes = vec![SHARD_BYTES as u32; (PACKAGE_BYTES / SHARD_BYTES) as usize];
    sizes.push((PACKAGE_BYTES % SHARD_BYTES) as u32);
    let mut world = World::new(&sizes, STEP_MS, seed, scenario.rules);
    let name = |n: usize| Uid::from_bytes(*ContentAddress::of(&n.to_le_bytes()).as_bytes());
    let origin =
        Spec { role: Role::Origin, up: mbit(1_000), down: mbit(1_000), slots: 16, manner: Manner::Honest };
    world.add(name(0), origin)?;
    let mut ups = 0;
    let mut arrivals: Vec<(u64, Index)> = Vec::with_capacity(scenario.devices);
    let mut places: HashMap<Uid, Index> = HashMap::from([(name(0), 0)]);
    for n in 1..=scenario.devices {
        let (up, down) = link(&mut rng);
        ups += up;
        let slots = Policy::default().upload_slots;
        let place =
            world.add(name(n), Spec { role: Role::Device, up, down, slots, manner: Manner::Honest })?;
        places.insert(name(n), place);
        arrivals.push((rng.word() % ARRIVAL_MS, place));
    }
    arrivals.sort_unstable();
    let roster: HashSet<Uid> = (1..=scenario.devices).map(name).collect();
    let key = NodeKey::from_seed([1; 32]);
    let order = Order {
        id: OrderId([0; 16]),
        matcher: key.uid(),
        version: Version([2, 0, 0, 0]),
        manifest: ContentAddress::of(b"manifest"),
        shards: sizes.len() as u32,
        quantity: scenario.devices as u32,
        roster: roster_hash(&roster),
        expires: BEGIN.plus(86_400),
    };
    let mut matcher = Matcher::new(key, order, &roster, 1)?;
    matcher.add_origin(name(0));

    let mut coming = arrivals.into_iter().peekable();
    let mut done: Vec<u64> = Vec::with_capacity(scenario.devices);
    let (mut match_bytes, mut curve, mut at_half) = (0, Vec::new(), None);
    while done.len() < scenario.devices {
        anyhow::ensure!(world.now_ms() < LONGEST_MS, "{}: the swarm stands still", scenario.name);
        while let Some((_, place)) = coming.next_if(|(at, _)| *at <= world.now_ms()) {
            let now = BEGIN.plus(world.now_ms() / 1_000);
            let given = matcher.matched(&name(place), rng.word(), now).context("a device is matched")?;
            match_bytes += given.pass.len() + given.providers.iter().map(|(_, v)| v.len()).sum::<usize>();
            for (uid, _) in &given.providers {
                let other = places[uid];
                let direct = other == 0 || !rng.happens(RELAYED_PAIRS);
                if !direct && !scenario.relays {
                    continue;
                }
                if world.connect(place, other, false) && !direct {
                    world.relay(place, other);
                }
            }
        }
        for place in world.step() {
            matcher.report(&name(place), End::Done);
            done.push(world.now_ms());
        }
        if world.now_ms().is_multiple_of(1_000) && at_half.is_none() {
            let sent: u64 = (0..=scenario.devices).map(|n| world.sent_bytes(n)).sum();
            curve.push((world.now_ms(), sent));
            if done.len() * 2 >= scenario.devices {
                at_half = Some((world.now_ms(), sent - world.sent_bytes(0)));
            }
        }
    }
    let seconds = |part: f64| {
        let place = ((done.len() as f64 * part).ceil() as usize).clamp(1, done.len()) - 1;
        done[place] as f64 / 1_000.0
    };
    let all: u64 = (0..=scenario.devices).map(|n| world.sent_bytes(n)).sum();
    let (half_ms, half_bytes) = at_half.unwrap_or((world.now_ms(), all));
    Ok(Outcome {
        name: scenario.name,
        devices: scenario.devices,
        seconds: [seconds(0.5), seconds(0.95), seconds(0.99), seconds(1.0)],
        origin_copies: world.sent_bytes(0) as f64 / PACKAGE_BYTES as f64,
        relayed: world.relayed_bytes() as f64 / all as f64,
        efficiency: half_bytes as f64 / (ups as f64 * half_ms as f64 / 1_000.0),
        growth: growth(&curve, all),
        match_bytes: match_bytes as f64 / scenario.devices as f64,
    })
}

/// From a hundredth to a tenth of all bytes: how fast they multiplied.
fn growth(curve: &[(u64, u64)], all: u64) -> f64 {
    let when = |part: u64| curve.iter().find(|(_, sent)| *sent * 1_000 >= all * part);
    match (when(10), when(100)) {
        (Some((from, low)), Some((to, high))) if to > from => {
            (*high as f64 / *low as f64).ln() / ((to - from) as f64 / 1_000.0)
        }
        // Faster than the curve's marks.
        _ => 1.0,
    }
}
