//! Who gets which shard. Pure: the same arguments give the same answer.
//!
//! Rules, the first ones never bent: only kinds of node that store for others; never two copies
//! of a shard on one device or with one owner; no more than a device has free. Then: copies in
//! different address ranges (what shares one often shares a house or a provider); devices by their
//! free space, so that all fill up at the same pace; near ones a little before far ones.
//!
//! Among the possible devices, weighted rendezvous hashing chooses: each draws a number from a
//! hash of the seed, the shard and the device, scaled by its weight, and the smallest numbers win.

use std::collections::HashSet;

use ioex_base::{ContentAddress, NodeKind, Uid};

use crate::limits::REPLICAS_MAX;

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
    /// Bytes that it can still take.
    pub free_bytes: u64,
    /// Round-trip time in milliseconds, if it was measured.
    pub rtt_ms: Option<f64>,
}

/// What a placement could not give for one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Index of the shard.
    pub shard: usize,
    /// Copies that were asked for.
    pub wanted: usize,
    /// Copies that found a device.
    pub got: usize,
    /// How many of these share their address range with another copy.
    pub same_domain: usize,
}

/// Which devices hold which shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// For each shard, in the order of the shards, its devices.
    pub assignments: Vec<Vec<Uid>>,
    /// The shards that did not get what was asked for; empty when all did.
    pub shortfalls: Vec<Shortfall>,
}

/// A substitute for a device that lost its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The device.
    pub uid: Uid,
    /// Whether it shares its address range with a copy that is left.
    pub same_domain: bool,
}

/// Assigns `replicas` devices (at most [`REPLICAS_MAX`]) to each of `shards` (address and length
/// in bytes).
///
/// `seed` must be fresh for each placement and unknown beforehand: with a known one, a node could
/// choose an identity that draws certain shards.
#[must_use]
pub fn place(shards: &[(ContentAddress, u64)], holders: &[Holder], replicas: usize, seed: u64) -> Placement {
    let wanted = replicas.min(usize::from(REPLICAS_MAX));
    let mut candidates = candidates(holders, seed);
    let mut placement = Placement::default();
    for (index, (address, bytes)) in shards.iter().enumerate() {
        let mut taken = Taken::default();
        let mut same_domain = 0;
        let draws: Vec<f64> = candidates.iter().map(|c| c.draw(seed, address)).collect();
        while taken.uids.len() < wanted {
            let Some((at, shares)) = choose(&candidates, &draws, *bytes, &taken) else { break };
            let Some(chosen) = candidates.get_mut(at) else { break };
            chosen.free_bytes = chosen.free_bytes.saturating_sub(*bytes);
            taken.add(chosen.holder);
            same_domain += usize::from(shares);
        }
        let got = taken.uids.len();
        if got < wanted || same_domain > 0 {
            placement.shortfalls.push(Shortfall { shard: index, wanted, got, same_domain });
        }
        placement.assignments.push(taken.uids);
    }
    placement
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
    let mut taken = Taken::default();
    for uid in keep {
        match holders.iter().find(|h| h.uid == *uid) {
            Some(holder) => taken.add(holder),
            None => taken.uids.push(*uid),
        }
    }
    let failed: HashSet<&Uid> = failed.iter().collect();
    let mut candidates = candidates(holders, seed);
    candidates.retain(|c| !failed.contains(&c.holder.uid));
    let draws: Vec<f64> = candidates.iter().map(|c| c.draw(seed, &shard.0)).collect();
    let (at, same_domain) = choose(&candidates, &draws, shard.1, &taken)?;
    candidates.get(at).map(|c| Replacement { uid: c.holder.uid, same_domain })
}

/// Devices that have a copy of the shard at hand.
#[derive(Default)]
struct Taken<'h> {
    uids: Vec<Uid>,
    owners: Vec<&'h str>,
    domains: Vec<&'h str>,
}

impl<'h> Taken<'h> {
    fn add(&mut self, holder: &'h Holder) {
        self.uids.push(holder.uid);
        self.owners.push(&holder.owner);
        self.domains.push(&holder.domain);
    }

    fn excludes(&self, holder: &Holder) -> bool {
        self.uids.contains(&holder.uid) || self.owners.contains(&holder.owner.as_str())
    }

    fn shares_domain(&self, holder: &Holder) -> bool {
        self.domains.contains(&holder.domain.as_str())
    }
}

struct Candidate<'h> {
    holder: &'h Holder,
    free_bytes: u64,
}

impl Candidate<'_> {
    /// An exponentially distributed number with the weight as its rate: of several, the smallest
    /// belongs to each with a probability proportional to its weight.
    fn draw(&self, seed: u64, address: &ContentAddress) -> f64 {
        let uniform =
            (mix(seed, address.as_bytes(), self.holder.uid.as_bytes()) >> 11) as f64 / (1u64 << 53) as f64;
        let rtt = self.holder.rtt_ms.filter(|ms| ms.is_finite() && *ms >= 0.0).unwrap_or(RTT_HALVING_MS);
        let weight = self.free_bytes as f64 / (1.0 + rtt / RTT_HALVING_MS);
        -(1.0 - uniform).ln() / weight.max(f64::MIN_POSITIVE)
    }
}

/// Devices that may hold shards, each once, at most [`HOLDERS_MAX`], in an order of the seed's.
fn candidates(holders: &[Holder], seed: u64) -> Vec<Candidate<'_>> {
    let mut seen = HashSet::new();
    let mut out: Vec<Candidate<'_>> = holders
        .iter()
        .filter(|h| h.kind.stores_for_others() && seen.insert(h.uid))
        .map(|holder| Candidate { holder, free_bytes: holder.free_bytes })
        .collect();
    out.sort_unstable_by_key(|c| (mix(seed, &[0; 32], c.holder.uid.as_bytes()), c.holder.uid));
    out.truncate(HOLDERS_MAX);
    out
}

/// The best possible candidate: one of another address range if there is any.
fn choose(
    candidates: &[Candidate<'_>],
    draws: &[f64],
    bytes: u64,
    taken: &Taken<'_>,
) -> Option<(usize, bool)> {
    let possible = |c: &Candidate<'_>| c.free_bytes >= bytes && !taken.excludes(c.holder);
    candidates
        .iter()
        .zip(draws)
        .enumerate()
        .filter(|(_, (c, _))| possible(c))
        .map(|(at, (c, draw))| (taken.shares_domain(c.holder), *draw, at))
        .min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))
        .map(|(shares, _, at)| (at, shares))
}

/// SplitMix64's finaliser over the seed and the beginnings of two hashes. Addresses and
/// identities are random already and the seed is secret beforehand, so that no more is needed.
fn mix(seed: u64, address: &[u8; 32], uid: &[u8; 32]) -> u64 {
    let head = |bytes: &[u8; 32]| bytes.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head));
    [head(address), head(uid)].into_iter().fold(finalise(seed), |state, word| finalise(state ^ word))
}

fn finalise(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
