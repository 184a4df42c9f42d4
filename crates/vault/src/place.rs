//! Who gets which shard. Pure: the same arguments give the same answer.
//!
//! Rules, the first ones never bent: only kinds of node that store for others; never two shards of
//! a group, nor two copies of a shard, on one device or with one owner; no more than a device has
//! free. Then: not so much of a group on one version of firmware that a bad update loses it; shards
//! in different address ranges (what shares one often shares a house or a provider); devices by
//! their free space, so that all fill up at the same pace; near ones a little before far ones.
//!
//! Among the possible devices, weighted rendezvous hashing chooses: each draws a number from a
//! hash of the seed, the shard and the device, scaled by its weight, and the smallest numbers win.

use std::collections::{HashMap, HashSet};

use ioex_base::{ContentAddress, Dice, NodeKind, Uid};

use crate::{limits::REPLICAS_MAX, redundancy::Redundancy};

/// Most holders that are looked at for one placement: enough to spread a file, few enough that
/// placing the largest one takes seconds. Of more, the seed chooses.
pub const HOLDERS_MAX: usize = 1_024;

/// Round-trip time in milliseconds at which a device counts half of what one next door does. A
/// device whose time is unknown counts as this far.
const RTT_HALVING_MS: f64 = 250.0;

/// A device that might hold shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// Its identity.
    pub uid: Uid,
    /// What kind of node it is.
    pub kind: NodeKind,
    /// Whose it is; two devices of one owner fail together.
    pub owner: String,
    /// Its address range, the text of a /24 or of an IPv6 /48.
    pub domain: String,
    /// The version of its program; devices of one version may fail together. Empty if unknown.
    pub firmware: String,
    /// Bytes that it can still take.
    pub free_bytes: u64,
    /// Round-trip time in milliseconds, if it was measured.
    pub rtt_ms: Option<f64>,
}

/// What a placement could not give for one shard's copies, or for a group whose shards lie on one
/// device each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Index of the shard; of the first one without a device for a group.
    pub shard: usize,
    /// Devices that were asked for.
    pub wanted: usize,
    /// Devices that were found.
    pub got: usize,
    /// How many of these share their address range with another one.
    pub same_domain: usize,
    /// By how many a version of firmware has more of them than may fail together.
    pub same_firmware: usize,
}

/// Which devices hold which shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// For each shard, in the order of the shards, its devices.
    pub assignments: Vec<Vec<Uid>>,
    /// What was not got as asked for; empty when all was.
    pub shortfalls: Vec<Shortfall>,
}

/// A device for a shard or copy that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The device.
    pub uid: Uid,
    /// Whether it shares its address range with one that is left.
    pub same_domain: bool,
}

/// Assigns `replicas` devices (at most [`REPLICAS_MAX`]) to each of `shards` (address and length
/// in bytes).
///
/// `seed` must be fresh for each placement and unknown beforehand: with a known one, a node could
/// choose an identity that draws certain shards.
#[must_use]
pub fn place(shards: &[(ContentAddress, u64)], holders: &[Holder], replicas: usize, seed: u64) -> Placement {
    Placer::new(holders, seed).copies(shards, replicas.min(usize::from(REPLICAS_MAX)))
}

/// A device for the shard's copy that was lost, given the devices that `keep` one and those that
/// `failed`. Devices that hold the shard but are not among `holders` count by identity only.
#[must_use]
pub fn replace(
    shard: (ContentAddress, u64),
    keep: &[Uid],
    failed: &[Uid],
    holders: &[Holder],
    seed: u64,
) -> Option<Replacement> {
    let ask = Ask { key: shard.0, bytes: shard.1, count: 1, firmware_max: keep.len().max(1) };
    Placer::new(holders, seed).pick(&ask, keep, failed).devices.pop()
}

/// Places many groups on the same devices and remembers what they have left.
///
/// `holders` are all devices that are known, also full ones and ones that are away: only so is it
/// known whose the devices are that hold something already. At most [`HOLDERS_MAX`] of those with
/// free space are candidates, chosen by the seed; it must be fresh, as for [`place`].
#[derive(Clone, Debug)]
pub struct Placer {
    /// In the order of their identities, each once.
    devices: Vec<Device>,
    /// Indexes into `devices`.
    candidates: Vec<u32>,
    seed: u64,
}

impl Placer {
    /// For these devices.
    #[must_use]
    pub fn new(holders: &[Holder], seed: u64) -> Self {
        let (mut owners, mut domains, mut firmwares) = (Names::new(), Names::new(), Names::new());
        let mut devices: Vec<Device> = holders
            .iter()
            .map(|holder| Device {
                uid: holder.uid,
                stores: holder.kind.stores_for_others(),
                owner: number(&mut owners, &holder.owner),
                domain: number(&mut domains, &holder.domain),
                firmware: (!holder.firmware.is_empty()).then(|| number(&mut firmwares, &holder.firmware)),
                free_bytes: holder.free_bytes,
                nearness: nearness(holder.rtt_ms),
                slow: false,
            })
            .collect();
        devices.sort_by_key(|device| device.uid);
        devices.dedup_by_key(|device| device.uid);
        let mut placer = Self { devices, candidates: Vec::new(), seed };
        placer.reseed(seed);
        placer
    }

    /// Goes on with another seed, thus other candidates where there are more than [`HOLDERS_MAX`].
    pub fn reseed(&mut self, seed: u64) {
        self.seed = seed;
        self.candidates.clear();
        let possible = |(n, device): (usize, &Device)| {
            let n = u32::try_from(n).ok()?;
            (device.stores && device.free_bytes > 0).then_some(n)
        };
        self.candidates.extend(self.devices.iter().enumerate().filter_map(possible));
        if self.candidates.len() > HOLDERS_MAX {
            // By a hash of the seed's, computed once for each.
            let hashed = |n: &u32| (mix(seed, &[0; 32], self.devices[*n as usize].uid.as_bytes()), *n);
            let mut hashed: Vec<(u64, u32)> = self.candidates.iter().map(hashed).collect();
            hashed.select_nth_unstable(HOLDERS_MAX);
            self.candidates = hashed.iter().take(HOLDERS_MAX).map(|(_, n)| *n).collect();
            self.candidates.sort_unstable();
        }
    }

    /// Sets what a device has free, for example because it refused or lost a shard. Unknown
    /// devices are ignored; who becomes a candidate is decided by [`Self::reseed`].
    pub fn set_free_bytes(&mut self, uid: &Uid, free_bytes: u64) {
        if let Some(n) = self.find(uid) {
            self.devices[n as usize].free_bytes = free_bytes;
        }
    }

    /// Says whether a device was so slow that it comes after all others from now on. Unknown devices are
    /// ignored.
    pub fn set_slow(&mut self, uid: &Uid, slow: bool) {
        if let Some(n) = self.find(uid) {
            self.devices[n as usize].slow = slow;
        }
    }

    /// Whether a device was slow when it last got something.
    #[must_use]
    pub fn is_slow(&self, uid: &Uid) -> bool {
        self.find(uid).is_some_and(|n| self.devices[n as usize].slow)
    }

    /// Devices for a group's shards (address and length in bytes). Whole copies: up to `n` devices
    /// for each of them. Otherwise one device for each shard, all of different owners; when there
    /// are too few, the later shards, which are parity, have none. Each takes up as much as the
    /// longest shard.
    pub fn group(&mut self, redundancy: Redundancy, shards: &[(ContentAddress, u64)]) -> Placement {
        if redundancy.is_whole_copies() {
            return self.copies(shards, usize::from(redundancy.n()));
        }
        let Some((key, _)) = shards.first() else { return Placement::default() };
        let ask = Ask {
            key: *key,
            bytes: shards.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0),
            count: shards.len(),
            firmware_max: firmware_max(redundancy),
        };
        let picked = self.pick(&ask, &[], &[]);
        let mut assignments: Vec<Vec<Uid>> = picked.devices.iter().map(|device| vec![device.uid]).collect();
        let first_without = if assignments.len() < shards.len() { assignments.len() } else { 0 };
        assignments.resize(shards.len(), Vec::new());
        Placement { assignments, shortfalls: picked.shortfall(first_without, &ask).into_iter().collect() }
    }

    /// Up to `count` devices for shards or copies of a group that are to be made anew, `bytes` long
    /// at most: none of the owners of those that `keep` one, and none of those to `avoid`. `group`
    /// is an address in the group, the same for all of them.
    pub fn more(
        &mut self,
        redundancy: Redundancy,
        group: (ContentAddress, u64),
        keep: &[Uid],
        avoid: &[Uid],
        count: usize,
    ) -> Vec<Replacement> {
        let ask = Ask { key: group.0, bytes: group.1, count, firmware_max: firmware_max(redundancy) };
        self.pick(&ask, keep, avoid).devices
    }

    /// How many devices that store for others are known, with room or without.
    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.iter().filter(|device| device.stores).count()
    }

    /// Whether no such device is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of these have less than `bytes` free.
    #[must_use]
    pub fn without_room(&self, bytes: u64) -> usize {
        self.devices.iter().filter(|device| device.stores && device.free_bytes < bytes).count()
    }

    /// How many devices [`Self::more`] would find now.
    #[must_use]
    pub fn room(
        &self,
        redundancy: Redundancy,
        group: (ContentAddress, u64),
        keep: &[Uid],
        avoid: &[Uid],
        count: usize,
    ) -> usize {
        let ask = Ask { key: group.0, bytes: group.1, count, firmware_max: firmware_max(redundancy) };
        self.look(&ask, keep, avoid).devices.len()
    }

    fn copies(&mut self, shards: &[(ContentAddress, u64)], count: usize) -> Placement {
        let mut placement = Placement::default();
        for (index, (key, bytes)) in shards.iter().enumerate() {
            let firmware_max = count.saturating_sub(1).max(1);
            let ask = Ask { key: *key, bytes: *bytes, count, firmware_max };
            let picked = self.pick(&ask, &[], &[]);
            placement.shortfalls.extend(picked.shortfall(index, &ask));
            placement.assignments.push(picked.devices.iter().map(|device| device.uid).collect());
        }
        placement
    }

    fn find(&self, uid: &Uid) -> Option<u32> {
        self.devices.binary_search_by_key(uid, |device| device.uid).ok().and_then(|n| u32::try_from(n).ok())
    }

    /// The best possible candidates for `ask`, which have so much less free afterwards.
    fn pick(&mut self, ask: &Ask, keep: &[Uid], avoid: &[Uid]) -> Picked {
        let picked = self.look(ask, keep, avoid);
        for device in &picked.devices {
            if let Some(n) = self.find(&device.uid) {
                let free = &mut self.devices[n as usize].free_bytes;
                *free = free.saturating_sub(ask.bytes);
            }
        }
        picked
    }

    /// The best possible candidates for `ask`.
    fn look(&self, ask: &Ask, keep: &[Uid], avoid: &[Uid]) -> Picked {
        let mut taken = Taken::default();
        let kept: Vec<u32> = keep.iter().filter_map(|uid| self.find(uid)).collect();
        kept.iter().for_each(|n| taken.add(&self.devices[*n as usize]));
        let avoid: HashSet<u32> = avoid.iter().filter_map(|uid| self.find(uid)).collect();
        let mut open: Vec<(bool, f64, u32)> = Vec::with_capacity(self.candidates.len());
        for n in self.candidates.iter().filter(|n| !avoid.contains(n)) {
            let device = &self.devices[*n as usize];
            if device.free_bytes >= ask.bytes && !taken.owners.contains(&device.owner) {
                open.push((device.slow, device.draw(self.seed, &ask.key), *n));
            }
        }
        open.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        let mut picked = Picked::default();
        for firmware_max in [ask.firmware_max, usize::MAX] {
            // Fewest in one address range first: none, then one, and so on.
            for domain_max in 1..=keep.len() + ask.count {
                let mut left = Vec::new();
                for (slow, draw, n) in open {
                    let device = &self.devices[n as usize];
                    if picked.devices.len() == ask.count {
                        return picked;
                    }
                    if taken.owners.contains(&device.owner) {
                        continue;
                    }
                    if taken.in_domain(device) >= domain_max || taken.of_firmware(device) >= firmware_max {
                        left.push((slow, draw, n));
                        continue;
                    }
                    picked.add(device, &taken, ask.firmware_max);
                    taken.add(device);
                }
                open = left;
                if picked.devices.len() == ask.count || open.is_empty() {
                    return picked;
                }
            }
        }
        picked
    }
}

/// A version that fails as a whole takes no more than what may be lost.
fn firmware_max(redundancy: Redundancy) -> usize {
    usize::from(redundancy.tolerated_losses()).max(1)
}

/// What [`Placer::pick`] looks for.
struct Ask {
    /// What the draw depends on.
    key: ContentAddress,
    /// What each device must have free.
    bytes: u64,
    count: usize,
    /// Most of them on one version of firmware, if it can be had.
    firmware_max: usize,
}

#[derive(Default)]
struct Picked {
    devices: Vec<Replacement>,
    same_domain: usize,
    same_firmware: usize,
}

impl Picked {
    fn add(&mut self, device: &Device, taken: &Taken, firmware_max: usize) {
        let same_domain = taken.in_domain(device) > 0;
        self.same_domain += usize::from(same_domain);
        self.same_firmware += usize::from(taken.of_firmware(device) >= firmware_max);
        self.devices.push(Replacement { uid: device.uid, same_domain });
    }

    fn shortfall(&self, shard: usize, ask: &Ask) -> Option<Shortfall> {
        let (wanted, got) = (ask.count, self.devices.len());
        let (same_domain, same_firmware) = (self.same_domain, self.same_firmware);
        (got < wanted || same_domain > 0 || same_firmware > 0).then_some(Shortfall {
            shard,
            wanted,
            got,
            same_domain,
            same_firmware,
        })
    }
}

/// A device as the placer sees it: names are numbers.
#[derive(Clone, Debug)]
struct Device {
    uid: Uid,
    stores: bool,
    owner: u32,
    domain: u32,
    firmware: Option<u32>,
    free_bytes: u64,
    /// 1 next door, half at [`RTT_HALVING_MS`].
    nearness: f64,
    /// See [`Placer::set_slow`].
    slow: bool,
}

impl Device {
    /// An exponentially distributed number with the weight as its rate: of several, the smallest
    /// belongs to each with a probability proportional to its weight.
    fn draw(&self, seed: u64, address: &ContentAddress) -> f64 {
        let uniform = (mix(seed, address.as_bytes(), self.uid.as_bytes()) >> 11) as f64 / (1u64 << 53) as f64;
        let weight = self.free_bytes as f64 * self.nearness;
        -(1.0 - uniform).ln() / weight.max(f64::MIN_POSITIVE)
    }
}

fn nearness(rtt_ms: Option<f64>) -> f64 {
    let rtt = rtt_ms.filter(|ms| ms.is_finite() && *ms >= 0.0).unwrap_or(RTT_HALVING_MS);
    1.0 / (1.0 + rtt / RTT_HALVING_MS)
}

type Names<'h> = HashMap<&'h str, u32>;

/// The number of a name, the next free one for a new name.
fn number<'h>(names: &mut Names<'h>, name: &'h str) -> u32 {
    let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
    *names.entry(name).or_insert(next)
}

/// Those that have a part of the group at hand.
#[derive(Default)]
struct Taken {
    owners: HashSet<u32>,
    domains: HashMap<u32, usize>,
    firmwares: HashMap<u32, usize>,
}

impl Taken {
    fn add(&mut self, device: &Device) {
        self.owners.insert(device.owner);
        *self.domains.entry(device.domain).or_default() += 1;
        if let Some(firmware) = device.firmware {
            *self.firmwares.entry(firmware).or_default() += 1;
        }
    }

    fn in_domain(&self, device: &Device) -> usize {
        self.domains.get(&device.domain).copied().unwrap_or(0)
    }

    /// An unknown version is nobody else's.
    fn of_firmware(&self, device: &Device) -> usize {
        device.firmware.and_then(|f| self.firmwares.get(&f)).copied().unwrap_or(0)
    }
}

/// The seed and the beginnings of two hashes, mixed by [`Dice`]. Addresses and
/// identities are random already and the seed is secret beforehand, so that no more is needed.
fn mix(seed: u64, address: &[u8; 32], uid: &[u8; 32]) -> u64 {
    let head = |bytes: &[u8; 32]| bytes.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head));
    let mixed = |state| Dice::new(state).roll();
    [head(address), head(uid)].into_iter().fold(mixed(seed), |state, word| mixed(state ^ word))
}

#[cfg(test)]
mod tests;
