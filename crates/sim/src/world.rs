//! Devices, groups, and the virtual clock.

use anyhow::{Context, Result};
use ioex_base::{ContentAddress, DAY_SECONDS, NodeKind, Uid, UnixSeconds};
use ioex_vault::{
    Holder, Placer, Redundancy, Wanted, choose,
    health::{DeviceHealth, DeviceState, Observation, Rules},
    proof::LEAF_BYTES,
};

use crate::{
    churn::{DAY, DROPPED, HOUR, Population, Rhythm, minute_of_day},
    queue::{Event, Queue},
    rng::Rng,
    tally::Tally,
};

/// Minute 0 of the simulation.
const START: UnixSeconds = UnixSeconds(1_800_000_000);
/// What each device lends at first, in bytes: between these, evenly.
const LENT_BYTES: [u64; 2] = [20 << 30, 200 << 30];
/// Devices to one address range.
const DEVICES_PER_DOMAIN: usize = 4;
/// Versions of firmware, with the share of devices that have it or an older one.
const FIRMWARE: [(&str, f64); 3] = [("1", 0.1), ("2", 0.4), ("3", 1.0)];
/// Groups that are looked at each day.
const LOOKS_PER_DAY: usize = 300;
/// What a question, its answer's frame and the packets around both take beside leaf and siblings, in bytes.
const AUDIT_OVERHEAD_BYTES: u64 = 200;
/// Siblings in the proof for a shard of the large scheme (1.2 MiB, 1,229 leaves).
const AUDIT_SIBLINGS: u64 = 11;

/// A network that is simulated.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its devices.
    pub population: Population,
    /// The redundancy that its owners ask for.
    pub wanted: Wanted,
    /// The numbers of the rules.
    pub rules: Rules,
    /// How many devices, each of an owner of its own.
    pub devices: usize,
    /// How many groups, all placed at the beginning.
    pub groups: usize,
    /// For how many days.
    pub days: u32,
    /// Says everything that happens.
    pub seed: u64,
}

/// Bytes that audits move per device and day: what is asked does not depend on what happens.
#[must_use]
pub fn audit_bytes_per_device_day(rules: &Rules) -> f64 {
    let bytes = LEAF_BYTES + 32 * AUDIT_SIBLINGS + AUDIT_OVERHEAD_BYTES;
    f64::from(rules.audits_per_device_day) * bytes as f64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A device goes on or off. `mark` is its turn.
    Switch,
    /// A device is away for long. `mark` is its generation.
    Absence,
    /// It is back. `mark` is its turn.
    Return,
    /// It leaves for good. `mark` is its generation, as below.
    Leave,
    /// Another one takes its place.
    Arrive,
    DiskLoss,
    Cheat,
    /// Time to see whether it counts as gone.
    Gone,
    /// Its next audit. Only devices that miss something have it: the others pass theirs.
    Audit,
    /// A group's repair has its turn.
    Repair,
    /// A look at some groups.
    Look,
}

/// A place in the network that one device after the other takes.
pub(crate) struct Device {
    pub(crate) uid: Uid,
    rhythm: Rhythm,
    /// Whether a device is there at all.
    pub(crate) present: bool,
    pub(crate) online: bool,
    /// Counts the devices that were here.
    pub(crate) generation: u32,
    /// Counts changes of plan, so that events of an old one are known.
    turn: u32,
    pub(crate) health: DeviceHealth,
    /// Groups and shard indexes that it took.
    pub(crate) holds: Vec<(u32, u8)>,
    /// Index into [`DROPPED`], once it cheats.
    pub(crate) drops: Option<usize>,
    /// When it dropped its first shard.
    pub(crate) dropped_since: u32,
    /// Its place in the tally.
    pub(crate) notice: Option<usize>,
    pub(crate) audited: bool,
    pub(crate) last_audit: UnixSeconds,
}

/// A record of who holds what.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) index: u8,
    pub(crate) device: u32,
    pub(crate) generation: u32,
    /// The truth: the bytes are not there any more.
    pub(crate) bad: bool,
    /// What is known: it failed an audit.
    pub(crate) faulty: bool,
}

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) held: Vec<Held>,
    pub(crate) lost: bool,
    pub(crate) repair_waits: bool,
}

/// A network at a moment of its year.
pub struct World {
    pub(crate) network: Network,
    pub(crate) redundancy: Redundancy,
    pub(crate) rng: Rng,
    pub(crate) now: u32,
    queue: Queue<Kind>,
    pub(crate) devices: Vec<Device>,
    pub(crate) groups: Vec<Group>,
    pub(crate) placer: Placer,
    pub(crate) placements: u32,
    pub(crate) tally: Tally,
}

impl World {
    /// Sets the devices up and places all groups.
    ///
    /// # Errors
    /// When there are no devices.
    pub fn new(network: Network) -> Result<Self> {
        let mut rng = Rng::new(network.seed);
        let holders: Vec<Holder> = (0..network.devices).map(|n| holder(n, &mut rng)).collect();
        let redundancy = choose(network.wanted, &holders).context("a network without devices")?.redundancy;
        let devices = holders.iter().map(|holder| Device::new(holder.uid, &network.population, &mut rng));
        let mut world = Self {
            redundancy,
            devices: devices.collect(),
            groups: (0..network.groups).map(|_| Group::default()).collect(),
            placer: Placer::new(&holders, rng.word()),
            placements: 0,
            tally: Tally { lost_by_day: vec![0; network.days as usize + 1], ..Tally::default() },
            queue: Queue::until(network.days * DAY),
            now: 0,
            rng,
            network,
        };
        for device in 0..world.devices.len() as u32 {
            world.begin(device);
            world.plan_cheating(device);
        }
        for group in 0..world.groups.len() as u32 {
            world.place(group);
        }
        for day in 0..world.network.days {
            let at = day * DAY + world.rng.below(DAY as usize) as u32;
            world.push(at, Kind::Look, 0, 0);
        }
        Ok(world)
    }

    /// What was chosen.
    #[must_use]
    pub fn redundancy(&self) -> Redundancy {
        self.redundancy
    }

    /// Runs to the end of the last day.
    pub(crate) fn run(mut self) -> Tally {
        while let Some(event) = self.queue.pop() {
            self.now = event.at;
            self.happen(event);
        }
        let mut lost = 0;
        for day in &mut self.tally.lost_by_day {
            lost += *day;
            *day = lost;
        }
        self.tally.lost = lost;
        self.tally
    }

    /// The time as the rules see it.
    pub(crate) fn date(&self) -> UnixSeconds {
        date(self.now)
    }

    pub(crate) fn device(&self, device: u32) -> &Device {
        &self.devices[device as usize]
    }

    pub(crate) fn push(&mut self, at: u32, kind: Kind, id: u32, mark: u32) {
        self.queue.push(Event { at, kind, id, mark });
    }

    fn happen(&mut self, event: Event<Kind>) {
        let id = event.id;
        let valid = match event.kind {
            Kind::Repair | Kind::Look | Kind::Arrive => true,
            Kind::Gone => self.device(id).generation == event.mark,
            // Who left does nothing more, whatever was planned.
            _ if !self.device(id).present => false,
            Kind::Switch | Kind::Return => self.device(id).turn == event.mark,
            _ => self.device(id).generation == event.mark,
        };
        if !valid {
            return;
        }
        match event.kind {
            Kind::Switch | Kind::Return => {
                let online = event.kind == Kind::Return || !self.device(id).online;
                self.switch(id, online);
                self.plan_switch(id);
            }
            Kind::Absence => self.absence(id),
            Kind::Leave => self.leave(id),
            Kind::Arrive => self.arrive(id),
            Kind::DiskLoss => self.lose_shards(id, 1.0),
            Kind::Cheat => self.cheat(id),
            Kind::Gone => {
                if self.device(id).health.state(&self.network.rules, self.date()) == DeviceState::Gone {
                    self.look_at_all(id);
                }
            }
            Kind::Audit => self.audit(id),
            Kind::Repair => self.repair(id),
            Kind::Look => self.look_around(),
        }
    }

    /// A device begins: its plans for as long as it is there.
    fn begin(&mut self, id: u32) {
        let population = self.network.population;
        let generation = self.device(id).generation;
        let days = |days: f64| (days * f64::from(DAY)) as u32;
        let leaves = days(self.rng.exponential(population.lifetime_days));
        self.push(self.now.saturating_add(leaves), Kind::Leave, id, generation);
        let disk = days(self.rng.exponential(365.0 / population.disk_losses_per_year));
        self.push(self.now.saturating_add(disk), Kind::DiskLoss, id, generation);
        self.plan_absence(id);
        let rhythm = self.device(id).rhythm;
        let online = rhythm.begins_on(self.now, &mut self.rng);
        self.devices[id as usize].online = online;
        if !online {
            let (rules, date) = (self.network.rules, self.date());
            self.devices[id as usize].health.observe(&rules, Observation::Unreachable, date);
        }
        self.plan_switch(id);
    }

    fn plan_absence(&mut self, id: u32) {
        let days = self.rng.exponential(365.0 / self.network.population.absences_per_year);
        let at = self.now.saturating_add((days * f64::from(DAY)) as u32);
        self.push(at, Kind::Absence, id, self.device(id).generation);
    }

    fn plan_switch(&mut self, id: u32) {
        let device = &mut self.devices[id as usize];
        device.turn += 1;
        let (turn, online) = (device.turn, device.online);
        let at = device.rhythm.next(online, self.now, &mut self.rng);
        self.push(at, Kind::Switch, id, turn);
        self.expect_gone(id, at);
    }

    /// When it is silent until `until`: whether and when it will count as gone.
    fn expect_gone(&mut self, id: u32, until: u32) {
        let device = self.device(id);
        let Some(silent) = device.health.silent_since() else { return };
        let gone = silent.plus(self.network.rules.gone_after_seconds);
        if gone < date(until) {
            let at = u32::try_from(gone.since(START).div_ceil(60)).unwrap_or(u32::MAX).max(self.now);
            self.push(at, Kind::Gone, id, device.generation);
        }
    }

    fn switch(&mut self, id: u32, online: bool) {
        let (rules, date) = (self.network.rules, self.date());
        let device = &mut self.devices[id as usize];
        device.online = online;
        let what = if online { Observation::Answered } else { Observation::Unreachable };
        device.health.observe(&rules, what, date);
    }

    fn absence(&mut self, id: u32) {
        let days = 1.0 + self.rng.exponential(self.network.population.absence_days - 1.0);
        let back = self.now.saturating_add((days * f64::from(DAY)) as u32);
        self.switch(id, false);
        let device = &mut self.devices[id as usize];
        device.turn += 1;
        let turn = device.turn;
        self.push(back, Kind::Return, id, turn);
        self.expect_gone(id, back);
        self.plan_absence(id);
    }

    fn leave(&mut self, id: u32) {
        self.switch(id, false);
        let device = &mut self.devices[id as usize];
        device.present = false;
        device.turn += 1;
        self.expect_gone(id, u32::MAX);
        self.check_all(id);
        let gone = (self.network.rules.gone_after_seconds * u64::from(DAY) / DAY_SECONDS) as u32;
        let vacant = self.rng.exponential(self.network.population.vacant_days) * f64::from(DAY);
        // Whoever comes is another device; the old one is known to be gone by then.
        self.push(self.now.saturating_add(gone + 1).saturating_add(vacant as u32), Kind::Arrive, id, 0);
    }

    fn arrive(&mut self, id: u32) {
        let (uid, generation) = (self.device(id).uid, self.device(id).generation + 1);
        let turn = self.device(id).turn + 1;
        let mut device = Device::new(uid, &self.network.population, &mut self.rng);
        (device.generation, device.turn) = (generation, turn);
        self.devices[id as usize] = device;
        self.placer.set_free_bytes(&uid, LENT_BYTES[0]);
        self.begin(id);
    }

    fn plan_cheating(&mut self, id: u32) {
        if self.rng.happens(self.network.population.cheaters) {
            let days = self.rng.between(0.1, 0.7) * f64::from(self.network.days);
            self.push((days * f64::from(DAY)) as u32, Kind::Cheat, id, 0);
        }
    }

    fn cheat(&mut self, id: u32) {
        let what = self.rng.below(DROPPED.len());
        self.devices[id as usize].drops = Some(what);
        self.lose_shards(id, DROPPED[what]);
    }

    /// Each shard of the device is gone with this probability.
    fn lose_shards(&mut self, id: u32, probability: f64) {
        let generation = self.device(id).generation;
        let mut lost = false;
        for at in 0..self.device(id).holds.len() {
            if self.rng.happens(probability) {
                let (group, index) = self.device(id).holds[at];
                let held = &mut self.groups[group as usize].held;
                let own = |h: &&mut Held| (h.device, h.generation, h.index) == (id, generation, index);
                held.iter_mut().filter(own).for_each(|h| h.bad = true);
                lost = true;
            }
        }
        if lost {
            self.check_all(id);
            self.begin_audits(id);
        }
    }

    /// Notes which of the device's groups are lost for good.
    fn check_all(&mut self, id: u32) {
        for at in 0..self.device(id).holds.len() {
            let (group, _) = self.device(id).holds[at];
            let (whole, _) = self.truth(group);
            let group = &mut self.groups[group as usize];
            if !group.lost && whole < usize::from(self.redundancy.k()) {
                group.lost = true;
                self.tally.lost_by_day[(self.now / DAY) as usize] += 1;
            }
        }
    }

    /// How many different shards of a group exist, and how many of them are online.
    fn truth(&self, group: u32) -> (usize, usize) {
        let (mut whole, mut online) = (0u128, 0u128);
        for held in &self.groups[group as usize].held {
            let device = self.device(held.device);
            if !held.bad && device.present && device.generation == held.generation {
                whole |= 1 << held.index;
                online |= u128::from(device.online) << held.index;
            }
        }
        (whole.count_ones() as usize, online.count_ones() as usize)
    }

    /// Looks at some groups, for the statistics only.
    fn look_around(&mut self) {
        let hour = (minute_of_day(self.now) / HOUR) as usize;
        for _ in 0..LOOKS_PER_DAY.min(self.groups.len()) {
            let group = self.rng.below(self.groups.len()) as u32;
            let (_, online) = self.truth(group);
            self.tally.looks[hour] += 1;
            self.tally.readable[hour] += u64::from(online >= usize::from(self.redundancy.k()));
            let lives = |h: &&Held| {
                let device = self.device(h.device);
                !h.bad && device.present && device.generation == h.generation
            };
            self.tally.stored += self.groups[group as usize].held.iter().filter(lives).count() as u64;
            self.tally.needed += u64::from(self.redundancy.k());
        }
    }
}

impl Device {
    fn new(uid: Uid, population: &Population, rng: &mut Rng) -> Self {
        Self {
            uid,
            rhythm: Rhythm::of(population, rng),
            present: true,
            online: false,
            generation: 0,
            turn: 0,
            health: DeviceHealth::new(),
            holds: Vec::new(),
            drops: None,
            dropped_since: 0,
            notice: None,
            audited: false,
            last_audit: START,
        }
    }
}

fn date(minute: u32) -> UnixSeconds {
    START.plus(u64::from(minute) * 60)
}

fn holder(n: usize, rng: &mut Rng) -> Holder {
    let mut bytes = *ContentAddress::of(&rng.word().to_le_bytes()).as_bytes();
    // The end says which device it is, so that it is found without a table.
    bytes[28..].copy_from_slice(&(n as u32).to_le_bytes());
    let version = rng.unit();
    let firmware = FIRMWARE.iter().find(|(_, share)| version < *share).map_or("", |(name, _)| *name);
    Holder {
        uid: Uid::from_bytes(bytes),
        kind: NodeKind::Peer,
        owner: n.to_string(),
        domain: (n / DEVICES_PER_DOMAIN).to_string(),
        firmware: firmware.to_owned(),
        free_bytes: rng.between(LENT_BYTES[0] as f64, LENT_BYTES[1] as f64) as u64,
        rtt_ms: Some(rng.between(5.0, 150.0)),
    }
}

/// The device behind an identity that [`holder`] made.
pub(crate) fn device_of(uid: &Uid) -> u32 {
    uid.as_bytes().last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
