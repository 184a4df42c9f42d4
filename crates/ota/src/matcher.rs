//! The matcher: a super node with a maker's order.
//!
//! It knows who is on the roster and who has the package, and answers one question: from whom may
//! I fetch? It matches and never schedules: which shard comes from which of its providers when is the
//! device's own plan. Several matchers can serve one order; each draws serials of its own under its
//! own key. When none answers, devices go on among themselves, unpaid.
//!
//! # Providers
//! Devices that have the package, devices that are fetching it just now and have a part of it, and origins: at
//! most [`ORIGINS_PER_MATCH_MAX`] in a match, one at least while any has room. All are drawn at random. Every
//! voucher of a match covers the whole package, so that each shard can come from each of them. With the vouchers
//! comes a [`Pass`], with which a device goes on among others, unpaid, when no matcher answers.
//!
//! # What bounds fraud
//! Decision 8 of the design: payable traffic is bounded by demand. A voucher says who may fetch from whom, not
//! what is paid: an order pays each shard once for each device on its roster, when receipts are
//! settled ([`crate::settlement`]), whatever vouchers there are. Providers are drawn by the matcher; a pair
//! cannot choose each other. One device is matched at most [`MATCHES_PER_DEVICE_MAX`] times at once, and once more for
//! each [`MATCH_AGAIN_SECONDS`] that pass.

use std::collections::{BTreeMap, HashMap, HashSet};

use ioex_base::{ContentAddress, NodeKey, Sealed, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::{
    pass::{PASS_LIFE_SECONDS, Pass},
    release::Version,
    swarm::{Choice, NEIGHBOURS_MAX, REQUESTERS_MAX},
    voucher::{OrderId, VOUCHER_LIFE_SECONDS, Voucher},
};

/// Most devices on a roster, from the paper's case of a million with room.
pub const ROSTER_MAX: usize = 4_000_000;

/// How many providers a device is given at most at once: enough that rarest first works in a large swarm,
/// few enough that their vouchers are made in a fraction of a millisecond.
pub const PROVIDERS_PER_MATCH: usize = 16;

/// How many of them are origins at most: a quarter.
pub const ORIGINS_PER_MATCH_MAX: usize = PROVIDERS_PER_MATCH / 4;

/// How often one device gets vouchers from one matcher within [`MATCH_AGAIN_SECONDS`].
pub const MATCHES_PER_DEVICE_MAX: u8 = 8;

/// After this time one of its matches counts no more, in seconds: a device on a bad line, or one that lost what it had,
/// is not left to its peers for ever.
pub const MATCH_AGAIN_SECONDS: u64 = VOUCHER_LIFE_SECONDS;

/// How many devices one device is matched with as provider at the same time before others are preferred.
pub const OPEN_PER_PROVIDER_MAX: u16 = 32;
const _: () = assert!(OPEN_PER_PROVIDER_MAX as usize + PROVIDERS_PER_MATCH <= NEIGHBOURS_MAX);

/// How many devices one origin is matched with at the same time.
pub const OPEN_PER_ORIGIN_MAX: u16 = REQUESTERS_MAX as u16;

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
    /// This device had its share of vouchers for now.
    #[error("this device was matched {MATCHES_PER_DEVICE_MAX} times lately; it goes on among its peers")]
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

/// What a device needs to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// From whom, each with a sealed [`Voucher`] over the whole package.
    pub providers: Vec<(Uid, Vec<u8>)>,
    /// A sealed [`Pass`].
    pub pass: Vec<u8>,
}

/// What the matcher knows of a device on the roster.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Those that count.
    matches: u8,
    /// Since when the oldest of them does; absent when it was never matched.
    since: Option<UnixSeconds>,
    done: bool,
    /// Its matches that were not reported, at most [`MATCHES_PER_DEVICE_MAX`].
    open: Vec<OpenKey>,
}

impl Seen {
    /// One match less for each [`MATCH_AGAIN_SECONDS`] that passed.
    fn forget(&mut self, now: UnixSeconds) {
        let Some(since) = self.since else { return };
        let passed = now.since(since) / MATCH_AGAIN_SECONDS;
        self.matches = self.matches.saturating_sub(u8::try_from(passed).unwrap_or(u8::MAX));
        self.since = Some(since.plus(passed * MATCH_AGAIN_SECONDS));
    }
}

/// A provider and how many devices were sent to it lately.
#[derive(Clone, Debug)]
struct Provider {
    uid: Uid,
    open: u16,
}

/// Providers of one kind.
#[derive(Clone, Debug, Default)]
struct Pool {
    list: Vec<Provider>,
    place: HashMap<Uid, usize>,
}

impl Pool {
    fn add(&mut self, uid: Uid) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.place.entry(uid) {
            entry.insert(self.list.len());
            self.list.push(Provider { uid, open: 0 });
        }
    }

    fn remove(&mut self, uid: &Uid) {
        let Some(place) = self.place.remove(uid) else { return };
        self.list.swap_remove(place);
        if let Some(moved) = self.list.get(place) {
            self.place.insert(moved.uid, place);
        }
    }

    fn release(&mut self, uid: &Uid) {
        if let Some(&place) = self.place.get(uid) {
            self.list[place].open = self.list[place].open.saturating_sub(1);
        }
    }

    /// Up to `most` different ones, with room if any has, but never `not`. Of two drawn at random the less busy one
    /// is taken, which keeps the busiest close to the mean (Mitzenmacher, "The power of two choices", 2001).
    fn draw(&mut self, most: usize, open_max: u16, not: &Uid, choice: &mut Choice) -> Vec<Uid> {
        let count = self.list.len();
        let mut chosen: Vec<usize> = Vec::with_capacity(most);
        if count <= most {
            chosen.extend((0..count).filter(|&place| self.list[place].uid != *not));
            chosen.retain(|&place| self.list[place].open < open_max);
        } else {
            // Collisions are rare with many providers and harmless with few: fewer are given then.
            for _ in 0..3 * most {
                let (a, b) = (choice.below(count), choice.below(count));
                let place = if self.list[a].open <= self.list[b].open { a } else { b };
                let provider = &self.list[place];
                if provider.open < open_max && provider.uid != *not && !chosen.contains(&place) {
                    chosen.push(place);
                    if chosen.len() == most {
                        break;
                    }
                }
            }
        }
        let take = |place: usize| {
            self.list[place].open += 1;
            self.list[place].uid
        };
        chosen.into_iter().map(take).collect()
    }
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
    origins: Pool,
    devices: Pool,
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
            origins: Pool::default(),
            devices: Pool::default(),
            open: BTreeMap::new(),
            serial: first_serial,
            done: 0,
        })
    }

    /// An origin: a node of the maker's kind, which has the whole package.
    pub fn add_origin(&mut self, uid: Uid) {
        self.devices.remove(&uid);
        self.origins.add(uid);
    }

    /// A device that has the package or a part of it. One that is matched or reports that it is done is added by itself.
    pub fn add_provider(&mut self, uid: Uid) {
        if !self.origins.place.contains_key(&uid) {
            self.devices.add(uid);
        }
    }

    /// A provider that went away.
    pub fn remove_provider(&mut self, uid: &Uid) {
        self.origins.remove(uid);
        self.devices.remove(uid);
    }

    /// How many devices reported that they are done.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Providers, vouchers and a pass for a device, which from now on counts as one that has a part: also one that
    /// reported that it was done, since who asks again has lost what it had. `random` draws the providers.
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn matched(&mut self, requester: &Uid, random: u64, now: UnixSeconds) -> Result<Match, NoMatch> {
        self.forget(now);
        if now > self.order.expires {
            return Err(NoMatch::Ended);
        }
        let was_done = self.roster.get(requester).is_some_and(|seen| seen.done);
        // The place of one that was done is its own.
        if self.done - u32::from(was_done) >= self.order.quantity {
            return Err(NoMatch::Quantity);
        }
        let seen = self.roster.get_mut(requester).ok_or(NoMatch::NotOnRoster)?;
        seen.forget(now);
        if seen.matches >= MATCHES_PER_DEVICE_MAX {
            return Err(NoMatch::Often);
        }
        let chosen = self.draw(requester, random);
        if chosen.is_empty() {
            return Err(NoMatch::NoProvider);
        }
        let expires = now.plus(VOUCHER_LIFE_SECONDS);
        let first = self.serial;
        let providers = chosen.iter().map(|uid| (*uid, self.vouch(requester, uid, expires))).collect();
        let pass = self.pass(requester, now).unwrap_or_default();
        self.open.insert((expires, first), Open { requester: *requester, providers: chosen });
        if let Some(seen) = self.roster.get_mut(requester) {
            if seen.matches == 0 {
                seen.since = Some(now);
            }
            seen.matches += 1;
            seen.open.push((expires, first));
            self.done -= u32::from(std::mem::take(&mut seen.done));
        }
        self.add_provider(*requester);
        Ok(Match { providers, pass })
    }

    /// Whether this device was matched since this matcher began.
    #[must_use]
    pub fn was_matched(&self, requester: &Uid) -> bool {
        self.roster.get(requester).is_some_and(|seen| seen.since.is_some())
    }

    /// A pass alone, for a device on the roster.
    #[must_use]
    pub fn pass(&self, requester: &Uid, now: UnixSeconds) -> Option<Vec<u8>> {
        self.roster.get(requester)?;
        let expires = now.plus(PASS_LIFE_SECONDS);
        Some(Pass { manifest: self.order.manifest, requester: *requester, expires }.seal(&self.key))
    }

    /// The outcome of a match, told by the requester. One that is done is a provider, one that failed is none: what it
    /// was done with before counts no more, and it may be matched again.
    pub fn report(&mut self, requester: &Uid, end: End) {
        let Some(seen) = self.roster.get_mut(requester) else { return };
        for key in std::mem::take(&mut seen.open) {
            let providers = self.open.remove(&key).map(|open| open.providers).unwrap_or_default();
            self.release(&providers);
        }
        let Some(seen) = self.roster.get_mut(requester) else { return };
        match end {
            End::Done if !seen.done => {
                seen.done = true;
                self.done += 1;
                self.add_provider(*requester);
            }
            End::Failed => {
                self.done -= u32::from(std::mem::take(&mut seen.done));
                self.devices.remove(requester);
            }
            _ => {}
        }
    }

    /// Matches that nobody reported and whose vouchers ended.
    fn forget(&mut self, now: UnixSeconds) {
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.key().0 < now) {
            let (key, open) = entry.remove_entry();
            if let Some(seen) = self.roster.get_mut(&open.requester) {
                seen.open.retain(|other| *other != key);
                // It never told how its download went: it may be gone.
                if !seen.done && seen.open.is_empty() {
                    self.devices.remove(&open.requester);
                }
            }
            self.release(&open.providers);
        }
    }

    fn release(&mut self, providers: &[Uid]) {
        for uid in providers {
            self.origins.release(uid);
            self.devices.release(uid);
        }
    }

    /// Up to [`PROVIDERS_PER_MATCH`] providers: as many devices as there are with room, and origins.
    fn draw(&mut self, requester: &Uid, random: u64) -> Vec<Uid> {
        let mut choice = Choice::new(random);
        let mut chosen =
            self.origins.draw(ORIGINS_PER_MATCH_MAX, OPEN_PER_ORIGIN_MAX, requester, &mut choice);
        let devices = PROVIDERS_PER_MATCH - chosen.len();
        chosen.extend(self.devices.draw(devices, OPEN_PER_PROVIDER_MAX, requester, &mut choice));
        chosen
    }

    /// A voucher over the whole package.
    fn vouch(&mut self, requester: &Uid, provider: &Uid, expires: UnixSeconds) -> Vec<u8> {
        let voucher = Voucher {
            order: self.order.id,
            serial: self.serial,
            requester: *requester,
            provider: *provider,
            manifest: self.order.manifest,
            first_shard: 0,
            shards: self.order.shards,
            expires,
        };
        self.serial += 1;
        voucher.sign(&self.key)
    }
}

#[cfg(test)]
mod tests;
