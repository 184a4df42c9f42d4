//! The super node's part: places, audits, assesses and repairs with the vault's own rules.

use ioex_base::{ContentAddress, Uid};
use ioex_vault::health::{
    AUDITS_PER_ROUND, Assessment, DeviceState, Observation, SUSPECT_FACTOR, Standing, Verdict, assess,
    audits, audits_due, standing,
};

use crate::{
    churn::{DAY, DROPPED, HOUR},
    world::{Held, Kind, World, device_of},
};

/// How long a repair waits for its turn and takes, in minutes.
const REPAIR_MINUTES: u32 = 12 * HOUR;
/// When a repair found too few shards online, it is tried again after this many minutes: at another
/// time of the day.
const UNREADABLE_AGAIN_MINUTES: u32 = 5 * HOUR;
/// When it found too few devices, after this many.
const CROWDED_AGAIN_MINUTES: u32 = DAY;
/// How often other devices are looked for when some do not answer.
const PLACE_TRIES: usize = 8;
/// Placements with the same candidates; a backup of 1.5 GB has as many groups.
const PLACEMENTS_PER_SEED: u32 = 64;

impl World {
    /// Places a group as a backup does: `n` devices are asked, it is complete with `o`.
    pub(crate) fn place(&mut self, group: u32) {
        self.refresh();
        let (address, bytes) = self.address(group);
        let data = usize::from(self.redundancy.k());
        let shards = vec![(address, bytes); self.redundancy.shards_for(data)];
        let placement = self.placer.group(self.redundancy, &shards);
        let copies = self.redundancy.is_whole_copies();
        let mut left = usize::from(self.redundancy.o());
        let mut failed = Vec::new();
        let mut missing = Vec::new();
        for (index, uids) in placement.assignments.iter().enumerate() {
            let index = if copies { 0 } else { index };
            for uid in uids {
                if left > 0 && self.answers(uid) {
                    self.hand_over(group, index, uid);
                    left -= 1;
                } else {
                    failed.push(*uid);
                    missing.push(index);
                }
            }
        }
        missing.truncate(left);
        self.hand_out(group, &missing, failed);
        self.look(group);
    }

    /// Looks at a group as the watch does, and puts its repair into the queue if it needs one.
    pub(crate) fn look(&mut self, group: u32) {
        let waits = self.groups[group as usize].repair_waits;
        if !waits && matches!(self.assess(group).verdict, Verdict::Repair { .. }) {
            self.plan_repair(group, REPAIR_MINUTES);
        }
    }

    /// Looks at all groups of a device.
    pub(crate) fn look_at_all(&mut self, device: u32) {
        for at in 0..self.device(device).holds.len() {
            let (group, _) = self.device(device).holds[at];
            self.look(group);
        }
    }

    fn plan_repair(&mut self, group: u32, minutes: u32) {
        self.groups[group as usize].repair_waits = true;
        self.push(self.now.saturating_add(minutes), Kind::Repair, group, 0);
    }

    fn standing(&self, held: &Held) -> Standing {
        let device = self.device(held.device);
        if device.generation != held.generation {
            return Standing::Lost;
        }
        standing(device.health.state(&self.network.rules, self.date()), held.faulty)
    }

    fn assess(&self, group: u32) -> Assessment {
        let held = &self.groups[group as usize].held;
        assess(self.redundancy, held.iter().map(|held| (usize::from(held.index), self.standing(held))))
    }

    /// A repair has its turn.
    pub(crate) fn repair(&mut self, group: u32) {
        self.groups[group as usize].repair_waits = false;
        let assessment = self.assess(group);
        let Verdict::Repair { missing } = &assessment.verdict else { return };
        if !assessment.is_readable(self.redundancy) {
            self.plan_repair(group, UNREADABLE_AGAIN_MINUTES);
            return;
        }
        self.refresh();
        let made = self.hand_out(group, missing, Vec::new()) as u64;
        if made > 0 {
            self.tally.repairs += 1;
            // Copies are read once each; a code reads `k` shards, however many it makes.
            let k = u64::from(self.redundancy.k());
            self.tally.moved += made + if k == 1 { made } else { k };
        }
        if (made as usize) < missing.len() {
            self.plan_repair(group, CROWDED_AGAIN_MINUTES);
        }
        // What can never count again need not be remembered.
        let mut held = std::mem::take(&mut self.groups[group as usize].held);
        held.retain(|h| !h.faulty && self.device(h.device).generation == h.generation);
        self.groups[group as usize].held = held;
    }

    /// Brings shards to devices that have none of the group; how many found one.
    fn hand_out(&mut self, group: u32, missing: &[usize], mut avoid: Vec<Uid>) -> usize {
        let held = &self.groups[group as usize].held;
        let living = held.iter().filter(|held| self.standing(held) != Standing::Lost);
        let mut keep: Vec<Uid> = living.map(|held| self.device(held.device).uid).collect();
        let what = self.address(group);
        let mut made = 0;
        for _ in 0..PLACE_TRIES {
            let count = missing.len() - made;
            let found = if count == 0 {
                break;
            } else {
                self.placer.more(self.redundancy, what, &keep, &avoid, count)
            };
            if found.is_empty() {
                break;
            }
            for device in found {
                if self.answers(&device.uid) {
                    self.hand_over(group, missing[made], &device.uid);
                    keep.push(device.uid);
                    made += 1;
                } else {
                    avoid.push(device.uid);
                }
            }
        }
        made
    }

    fn answers(&self, uid: &Uid) -> bool {
        let device = self.device(device_of(uid));
        device.present && device.online && !self.is_failed(device_of(uid))
    }

    fn is_failed(&self, device: u32) -> bool {
        self.device(device).health.state(&self.network.rules, self.date()) == DeviceState::Failed
    }

    fn hand_over(&mut self, group: u32, index: usize, uid: &Uid) {
        let (id, index) = (device_of(uid), index as u8);
        let drops = self.device(id).drops.map_or(0.0, |what| DROPPED[what]);
        let bad = self.rng.happens(drops);
        let device = &mut self.devices[id as usize];
        device.holds.push((group, index));
        let generation = device.generation;
        let held = Held { index, device: id, generation, bad, faulty: false };
        self.groups[group as usize].held.push(held);
        if bad {
            self.begin_audits(id);
        }
    }

    /// The same candidates serve for a while, as they do within one backup.
    fn refresh(&mut self) {
        self.placements += 1;
        if self.placements.is_multiple_of(PLACEMENTS_PER_SEED) {
            self.placer.reseed(self.rng.word());
        }
    }

    fn address(&self, group: u32) -> (ContentAddress, u64) {
        (ContentAddress::of(&group.to_le_bytes()), self.redundancy.shard_bytes())
    }

    /// From now on the device misses something. Audits of devices that miss nothing are not
    /// simulated, as they pass.
    pub(crate) fn begin_audits(&mut self, id: u32) {
        let round =
            DAY * u32::from(AUDITS_PER_ROUND) / u32::from(self.network.rules.audits_per_device_day.max(1));
        let (since, wait) = (self.rng.below(round as usize + 1) as u32, round);
        let date = self.date();
        let (cheats, first) = (self.device(id).drops, self.device(id).notice.is_none());
        if let (Some(what), true) = (cheats, first) {
            let device = &mut self.devices[id as usize];
            (device.notice, device.dropped_since) = (Some(self.tally.noticed[what].len()), self.now);
            self.tally.noticed[what].push((f64::INFINITY, f64::INFINITY));
        }
        let device = &mut self.devices[id as usize];
        if device.audited {
            return;
        }
        device.audited = true;
        // Its last audit was some time ago, when all was well.
        device.last_audit = ioex_base::UnixSeconds(date.0.saturating_sub(u64::from(since) * 60));
        let generation = device.generation;
        self.push(self.now + wait - since, Kind::Audit, id, generation);
    }

    pub(crate) fn audit(&mut self, id: u32) {
        if !self.device(id).present || self.is_failed(id) {
            return;
        }
        let (rules, date) = (self.network.rules, self.date());
        let device = self.device(id);
        let due = audits_due(&rules, &device.health, Some(device.last_audit), date);
        if device.online && due > 0 {
            self.devices[id as usize].last_audit = date;
            self.ask(id, due);
            if self.is_failed(id) {
                return;
            }
        }
        let per_day = u32::from(rules.audits_per_device_day) * u32::from(SUSPECT_FACTOR);
        let wait = DAY * u32::from(AUDITS_PER_ROUND) / per_day.max(1);
        self.push(self.now.saturating_add(wait.max(1)), Kind::Audit, id, self.device(id).generation);
    }

    fn ask(&mut self, id: u32, due: usize) {
        let (rules, date, generation) = (self.network.rules, self.date(), self.device(id).generation);
        // What failed an audit is not asked for again.
        let asked: Vec<(u32, usize)> = self
            .device(id)
            .holds
            .iter()
            .filter_map(|(group, index)| {
                let held = &self.groups[*group as usize].held;
                let own =
                    |h: &Held| (h.device, h.generation, h.index) == (id, generation, *index) && !h.faulty;
                held.iter().position(own).map(|at| (*group, at))
            })
            .collect();
        let lengths = vec![self.redundancy.shard_bytes(); asked.len()];
        let questions = audits(&lengths, due, || self.rng.word());
        let mut failed = Vec::new();
        for question in questions {
            let (group, at) = asked[question.shard];
            let held = &mut self.groups[group as usize].held[at];
            if held.bad && !held.faulty {
                held.faulty = true;
                failed.push(group);
                self.devices[id as usize].health.observe(&rules, Observation::Fault, date);
            }
        }
        if failed.is_empty() {
            return;
        }
        self.note_cheater(id);
        if self.is_failed(id) {
            let uid = self.device(id).uid;
            self.placer.set_free_bytes(&uid, 0);
            self.look_at_all(id);
        } else {
            failed.into_iter().for_each(|group| self.look(group));
        }
    }

    fn note_cheater(&mut self, id: u32) {
        let device = self.device(id);
        let (Some(what), Some(at)) = (device.drops, device.notice) else { return };
        let days = f64::from(self.now - device.dropped_since) / f64::from(DAY);
        let failed = self.is_failed(id);
        let (first, distrusted) = &mut self.tally.noticed[what][at];
        *first = first.min(days);
        if failed {
            *distrusted = distrusted.min(days);
        }
    }
}
