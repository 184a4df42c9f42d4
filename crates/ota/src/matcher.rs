//! The matcher: a super node with a maker's order.
//!
//! It knows who is on the roster and who has the package, and answers one question: from whom may
//! I fetch? It matches and never schedules: which shard comes from which of its providers when is the
//! device's own plan. Several matchers can serve one order; each draws serials of its own under its
//! own key. When none answers, devices go on among themselves, unpaid.
//!
//! # What bounds fraud
//! Decision 8 of the design: payable traffic is bounded by demand. Whatever a device claims, an order pays one
//! fetch for each device on its roster: [`Matcher::matched`] gives out vouchers over each shard of the
//! package at most [`VOUCHERS_PER_SHARD_MAX`] times for one device (so that a provider which
//! vanished can be replaced), and [`Matcher::report`] counts one of them. Providers are drawn by
//! the matcher, at random; a pair cannot choose each other.

use std::collections::{BTreeMap, HashMap, HashSet};

use ioex_base::{ContentAddress, NodeKey, Sealed, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::{
    release::Version,
    voucher::{OrderId, VOUCHER_LIFE_SECONDS, Voucher},
};

/// Most devices on a roster, from the paper's case of a million with room.
pub const ROSTER_MAX: usize = 4_000_000;

/// How many providers a device is given at once: enough to keep several streams busy, few enough
/// that their vouchers are made in a fraction of a millisecond.
pub const PROVIDERS_PER_MATCH: usize = 4;

/// How often one device gets vouchers for the whole package from one matcher.
pub const MATCHES_PER_DEVICE_MAX: u8 = 8;

/// How often one shard can be vouched for to one device: every match covers each shard with one provider.
pub const VOUCHERS_PER_SHARD_MAX: u8 = MATCHES_PER_DEVICE_MAX;

/// How many devices one provider is matched with at the same time before others are preferred.
pub const OPEN_PER_PROVIDER_MAX: u16 = 16;

/// What a maker orders, signed with the maker's key. The roster travels beside it; here is its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub id: OrderId,
    /// The matcher it is given to.
    pub matcher: Uid,
    /// The version.
    pub version: Version,
    /// The vault manifest of the package.
    pub manifest: ContentAddress,
    /// How many shards that manifest has, at least 1.
    pub shards: u32,
    /// How many devices are to be updated at most.
    pub quantity: u32,
    /// See [`roster_hash`].
    pub roster: ContentAddress,
    /// Until when.
    pub expires: UnixSeconds,
}

impl Sealed for Order {
    const CONTEXT: &'static str = "ioex 2026 update order";
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 192;
}

/// BLAKE3 over the UIDs of a roster, sorted, each once.
#[must_use]
pub fn roster_hash(roster: &HashSet<Uid>) -> ContentAddress {
    let mut sorted: Vec<&Uid> = roster.iter().collect();
    sorted.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for uid in sorted {
        hasher.update(uid.as_bytes());
    }
    hasher.finalize().into()
}

/// Why there is no match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// Not on the roster.
    #[error("this device is not on the order's roster")]
    NotOnRoster,
    /// The order is over.
    #[error("the order has ended")]
    Ended,
    /// As many devices as ordered have been updated.
    #[error("as many devices as ordered have been updated")]
    Quantity,
    /// This device had its share of vouchers.
    #[error("this device was matched {MATCHES_PER_DEVICE_MAX} times; it goes on among its peers")]
    Often,
    /// Nobody has it.
    #[error("nobody is known to have the package just now: ask again in a while")]
    NoProvider,
}

/// Why an order is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrder {
    /// For another matcher.
    #[error("the order is for another matcher, {0}")]
    Matcher(Uid),
    /// A roster that is not the one ordered.
    #[error("the roster is not the one that the order names")]
    Roster,
    /// Too many devices.
    #[error("the roster has {0} devices, at most {ROSTER_MAX} are taken")]
    TooMany(usize),
    /// Nothing to fetch or nobody to fetch.
    #[error("the order has no shards or no devices")]
    Empty,
}

/// How a download ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything came and verified.
    Done,
    /// It failed.
    Failed,
}

/// By end and first serial.
type OpenKey = (UnixSeconds, u64);

/// What the matcher knows of a device on the roster.
#[derive(Clone, Debug, Default)]
struct Seen {
    matches: u8,
    done: bool,
    /// Its matches that were not reported, at most [`MATCHES_PER_DEVICE_MAX`].
    open: Vec<OpenKey>,
}

/// A provider and how many devices were sent to it lately.
#[derive(Clone, Debug)]
struct Provider {
    uid: Uid,
    open: u16,
}

/// A match that was not reported yet.
#[derive(Clone, Debug)]
struct Open {
    requester: Uid,
    providers: Vec<Uid>,
}

/// One order at work. All in memory: what was vouched for ends within the hour, and what was
/// reported is rebuilt from the receipts.
pub struct Matcher {
    key: NodeKey,
    order: Order,
    roster: HashMap<Uid, Seen>,
    providers: Vec<Provider>,
    place: HashMap<Uid, usize>,
    /// By end and first serial, so that what nobody reports is forgotten in order.
    open: BTreeMap<OpenKey, Open>,
    serial: u64,
    done: u32,
}

impl Matcher {
    /// Takes an order. `first_serial` is higher than any serial that this key used for the order before:
    /// the time in microseconds serves.
    ///
    /// # Errors
    /// [`InvalidOrder`].
    pub fn new(
        key: NodeKey,
        order: Order,
        roster: &HashSet<Uid>,
        first_serial: u64,
    ) -> Result<Self, InvalidOrder> {
        if order.matcher != key.uid() {
            return Err(InvalidOrder::Matcher(order.matcher));
        }
        if roster.len() > ROSTER_MAX {
            return Err(InvalidOrder::TooMany(roster.len()));
        }
        if roster_hash(roster) != order.roster {
            return Err(InvalidOrder::Roster);
        }
        if order.shards == 0 || order.quantity == 0 || roster.is_empty() {
            return Err(InvalidOrder::Empty);
        }
        Ok(Self {
            key,
            order,
            roster: roster.iter().map(|uid| (*uid, Seen::default())).collect(),
            providers: Vec::new(),
            place: HashMap::new(),
            open: BTreeMap::new(),
            serial: first_serial,
            done: 0,
        })
    }

    /// A node that has the whole package: the maker's origin, or a device that reported so.
    pub fn add_provider(&mut self, uid: Uid) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.place.entry(uid) {
            entry.insert(self.providers.len());
            self.providers.push(Provider { uid, open: 0 });
        }
    }

    /// A provider that went away.
    pub fn remove_provider(&mut self, uid: &Uid) {
        let Some(place) = self.place.remove(uid) else { return };
        self.providers.swap_remove(place);
        if let Some(moved) = self.providers.get(place) {
            self.place.insert(moved.uid, place);
        }
    }

    /// How many devices reported that they are done.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Providers and vouchers for a device, together covering the package. `random` draws them.
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn matched(
        &mut self,
        requester: &Uid,
        random: u64,
        now: UnixSeconds,
    ) -> Result<Vec<(Uid, Vec<u8>)>, NoMatch> {
        self.forget(now);
        if now > self.order.expires {
            return Err(NoMatch::Ended);
        }
        if self.done >= self.order.quantity {
            return Err(NoMatch::Quantity);
        }
        let seen = self.roster.get(requester).ok_or(NoMatch::NotOnRoster)?;
        if seen.done || seen.matches >= MATCHES_PER_DEVICE_MAX {
            return Err(NoMatch::Often);
        }
        let chosen = self.draw(requester, random);
        if chosen.is_empty() {
            return Err(NoMatch::NoProvider);
        }
        let expires = now.plus(VOUCHER_LIFE_SECONDS);
        let first = self.serial;
        let vouchers = self.vouch(requester, &chosen, expires);
        let providers = chosen.iter().map(|&place| self.providers[place].uid).collect();
        for place in chosen {
            self.providers[place].open = self.providers[place].open.saturating_add(1);
        }
        self.open.insert((expires, first), Open { requester: *requester, providers });
        if let Some(seen) = self.roster.get_mut(requester) {
            seen.matches += 1;
            seen.open.push((expires, first));
        }
        Ok(vouchers)
    }

    /// The outcome of a match, told by the requester. One that is done becomes a provider.
    pub fn report(&mut self, requester: &Uid, end: End) {
        let Some(seen) = self.roster.get_mut(requester) else { return };
        for key in std::mem::take(&mut seen.open) {
            let providers = self.open.remove(&key).map(|open| open.providers).unwrap_or_default();
            self.release(&providers);
        }
        let Some(seen) = self.roster.get_mut(requester) else { return };
        if end == End::Done && !seen.done {
            seen.done = true;
            self.done += 1;
            self.add_provider(*requester);
        }
    }

    /// Matches that nobody reported and whose vouchers ended.
    fn forget(&mut self, now: UnixSeconds) {
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.key().0 < now) {
            let (key, open) = entry.remove_entry();
            if let Some(seen) = self.roster.get_mut(&open.requester) {
                seen.open.retain(|other| *other != key);
            }
            self.release(&open.providers);
        }
    }

    fn release(&mut self, providers: &[Uid]) {
        for uid in providers {
            if let Some(&place) = self.place.get(uid) {
                self.providers[place].open = self.providers[place].open.saturating_sub(1);
            }
        }
    }

    /// Up to [`PROVIDERS_PER_MATCH`] different providers. Of two drawn at random the less busy one is taken,
    /// which keeps the busiest close to the mean (Mitzenmacher, "The power of two choices", 2001).
    fn draw(&self, requester: &Uid, random: u64) -> Vec<usize> {
        let count = self.providers.len();
        let mut state = random;
        let mut next = || {
            // SplitMix64: a sequence from one number, for choosing, not for secrets.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let mut chosen: Vec<usize> = Vec::with_capacity(PROVIDERS_PER_MATCH);
        if count <= PROVIDERS_PER_MATCH {
            chosen.extend((0..count).filter(|&place| self.providers[place].uid != *requester));
            return chosen;
        }
        // Collisions are rare with many providers and harmless with few: fewer are given then.
        for _ in 0..3 * PROVIDERS_PER_MATCH {
            let mut draw = || usize::try_from(next() % count as u64).unwrap_or(0);
            let (a, b) = (draw(), draw());
            let place = if self.providers[a].open <= self.providers[b].open { a } else { b };
            let busy = self.providers[place].open >= OPEN_PER_PROVIDER_MAX && !chosen.is_empty();
            if !busy && !chosen.contains(&place) && self.providers[place].uid != *requester {
                chosen.push(place);
                if chosen.len() == PROVIDERS_PER_MATCH {
                    break;
                }
            }
        }
        chosen
    }

    /// The package cut into as many ranges as there are providers.
    fn vouch(&mut self, requester: &Uid, chosen: &[usize], expires: UnixSeconds) -> Vec<(Uid, Vec<u8>)> {
        let ranges = u32::try_from(chosen.len()).unwrap_or(1).min(self.order.shards);
        let mut vouchers = Vec::with_capacity(chosen.len());
        let mut first = 0;
        for (i, &place) in (0..ranges).zip(chosen) {
            let shards = (self.order.shards - first) / (ranges - i);
            let provider = self.providers[place].uid;
            let voucher = Voucher {
                order: self.order.id,
                serial: self.serial,
                requester: *requester,
                provider,
                manifest: self.order.manifest,
                first_shard: first,
                shards,
                expires,
            };
            self.serial += 1;
            first += shards;
            vouchers.push((provider, voucher.sign(&self.key)));
        }
        vouchers
    }
}

#[cfg(test)]
mod tests;
