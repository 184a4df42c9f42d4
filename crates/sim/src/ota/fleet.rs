//! A million devices as flows.
//!
//! Every device is one: its link, when it is on, its place in the real [`Rollout`]. What is not exact is how
//! its bytes come to it: all devices that are on and have something send together at the efficiency
//! that the exact swarm reached, those that fetch share that equally up to their own links, and what is in
//! circulation grows no faster than it did there.

use ioex_base::{ContentAddress, DAY_SECONDS, Uid, UnixSeconds};
use ioex_ota::{
    rollout::{Admission, Results, Rollout, Step, WHOLE_PER_MYRIAD},
    swarm::{REQUESTERS_MAX, SPARE_PERMILLE, SPARE_PERMILLE_PER_DEVICE},
};
use serde::Serialize;

use super::{PACKAGE_BYTES, RELAYED_PAIRS, link, mbit, swarm};
use crate::rng::Rng;

/// The clock's step, in seconds.
const STEP_SECONDS: u64 = 10;
/// It begins at eight in the evening, when most are on.
const BEGIN_HOUR: u64 = 20;
/// After so many days it ends, whoever is missing.
const DAYS: u64 = 14;
/// How many bootstraps relay.
pub const BOOTSTRAPS: f64 = 100.0;
/// What the paper's table pays for a million downloads of 100 MB, in US dollars (Amazon and Azure).
pub const PAPER_DOLLARS: f64 = 14_000.0;

/// One million.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// How many devices.
    pub devices: usize,
    /// Days and shares in ten-thousandths.
    pub steps: &'static [(u64, u16)],
    /// Whether relays carry packages.
    pub relays: bool,
}

/// All of them.
#[must_use]
pub fn scenarios(devices: usize) -> Vec<Scenario> {
    const ONCE: &[(u64, u16)] = &[(0, WHOLE_PER_MYRIAD)];
    const STAGED: &[(u64, u16)] = &[(0, 100), (1, 1_000), (2, 5_000), (3, WHOLE_PER_MYRIAD)];
    vec![
        Scenario { name: "everybody at once", devices, steps: ONCE, relays: false },
        Scenario { name: "everybody at once, over relays too", devices, steps: ONCE, relays: true },
        Scenario { name: "1 %, 10 %, 50 %, 100 % on four days", devices, steps: STAGED, relays: false },
    ]
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// How many devices.
    pub devices: usize,
    /// Hours until 50, 95 and 99 % had it; absent if the time did not suffice.
    pub hours: [Option<f64>; 3],
    /// Bytes from the maker at most: what its origin sends, and what its matcher answers.
    pub maker_bytes: f64,
    /// What these cost at the paper's price, in US dollars.
    pub dollars: f64,
    /// Bytes over each bootstrap's relay.
    pub relay_bytes: f64,
    /// Mbit/s over each bootstrap's relay in the worst step.
    pub relay_mbit: f64,
    /// Part of the fleet that had it, by the quarter hour.
    pub curve: Vec<f64>,
}

/// When a device is on. Shares and spans are those of the population `homes` of `docs/sim-vault.md`.
#[derive(Clone, Copy)]
enum Habit {
    Always,
    Day,
    /// Three hours on, seven off, beginning at this second.
    Sometimes(u64),
}

impl Habit {
    fn draw(rng: &mut Rng) -> Self {
        match rng.unit() {
            at if at < 0.7 => Self::Always,
            at if at < 0.9 => Self::Day,
            _ => Self::Sometimes(rng.word() % 36_000),
        }
    }

    fn on(self, second: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Day => (8..23).contains(&((second / 3_600 + BEGIN_HOUR) % 24)),
            Self::Sometimes(phase) => (second + phase) % 36_000 < 10_800,
        }
    }
}

struct Device {
    habit: Habit,
    up: u64,
    down: u64,
    from: u64,
    got: f64,
}

/// Runs one, with what the exact run measured.
#[must_use]
pub fn run(scenario: &Scenario, measured: &swarm::Outcome, seed: u64) -> Outcome {
    let mut rng = Rng::new(seed ^ 0x000f_1ee7);
    let rollout = Rollout {
        steps: scenario
            .steps
            .iter()
            .map(|&(day, per_myriad)| Step { from: UnixSeconds(day * DAY_SECONDS + 1), per_myriad })
            .collect(),
        ..Rollout::at_once("2.0.0", 0)
    };
    let mut devices: Vec<Device> = (0..scenario.devices)
        .map(|n| {
            let uid = Uid::from_bytes(*ContentAddress::of(&n.to_le_bytes()).as_bytes());
            let from = match rollout.admits(&uid, Results::default(), UnixSeconds(0)) {
                Admission::At(at) => at.0,
                Admission::Yes => 0,
                _ => u64::MAX,
            };
            let (up, down) = link(&mut rng);
            Device { habit: Habit::draw(&mut rng), up, down, from, got: 0.0 }
        })
        .collect();
    let package = PACKAGE_BYTES as f64;
    let (mut done, mut circulating, mut peak) = (0, 0.0_f64, 0.0_f64);
    let mut hours = [None; 3];
    let mut curve = Vec::new();
    for second in (0..DAYS * DAY_SECONDS).step_by(STEP_SECONDS as usize) {
        if second % 900 == 0 {
            curve.push(done as f64 / devices.len() as f64);
        }
        let (mut sending, mut fetching, mut links) = (0.0, 0_u64, 0.0);
        for device in devices.iter().filter(|device| device.habit.on(second)) {
            if device.got > 0.0 {
                sending += device.up as f64;
            }
            if device.got < package && device.from <= second {
                fetching += 1;
                links += device.down as f64;
            }
        }
        if fetching > 0 {
            // At the beginning the origin alone, later as fast as the exact swarm grew and its links allow.
            let origin = mbit(1_000) as f64;
            let able = (origin + sending * measured.efficiency.min(1.0)).min(links);
            let grows = origin
                + circulating * ((measured.growth * STEP_SECONDS as f64).exp() - 1.0) / STEP_SECONDS as f64;
            let rate = able.min(grows);
            let share = rate / fetching as f64;
            let mut moved = 0.0;
            for device in devices.iter_mut().filter(|device| device.habit.on(second)) {
                if device.got < package && device.from <= second {
                    let bytes = share.min(device.down as f64) * STEP_SECONDS as f64;
                    let bytes = bytes.min(package - device.got);
                    device.got += bytes;
                    moved += bytes;
                    done += u64::from(device.got >= package);
                }
            }
            circulating += moved;
            peak = peak.max(moved / STEP_SECONDS as f64);
        }
        for (part, at) in [0.5, 0.95, 0.99].into_iter().zip(&mut hours) {
            if at.is_none() && done as f64 >= part * devices.len() as f64 {
                *at = Some((second + STEP_SECONDS) as f64 / 3_600.0);
            }
        }
        if done as usize == devices.len() {
            break;
        }
    }
    curve.push(done as f64 / devices.len() as f64);
    let spare = SPARE_PERMILLE + SPARE_PERMILLE_PER_DEVICE * REQUESTERS_MAX as u64;
    let origin_bytes = package * (1.0 + spare as f64 / 1_000.0);
    let maker_bytes = origin_bytes + measured.match_bytes * devices.len() as f64;
    let price = PAPER_DOLLARS / 1e6 / package;
    let relayed = if scenario.relays { RELAYED_PAIRS } else { 0.0 };
    Outcome {
        name: scenario.name,
        devices: devices.len(),
        hours,
        maker_bytes,
        dollars: maker_bytes * price,
        relay_bytes: circulating * relayed / BOOTSTRAPS,
        relay_mbit: peak * relayed / BOOTSTRAPS / 125_000.0,
        curve,
    }
}
