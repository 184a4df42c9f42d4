//! What a device asks from whom.

use ioex_base::Uid;

use super::{Bits, Choice, Failure, InvalidPackage, Kind, NEIGHBOURS_MAX, Want, checked};
use crate::policy::{SLOW_AFTER_SECONDS, is_slow};

/// Pause after a provider was busy without saying for how long, and after a stream broke, in ms; doubled with each
/// further failure.
const PAUSE_FIRST_MS: u64 = 250;
/// Longest pause after failures, in ms.
const PAUSE_MAX_MS: u64 = 30_000;
/// A provider that owes and sends nothing for this long does not count as one that has anything: what only it has
/// is asked from the origin. Longer than honest ones let wait ([`super::QUEUE_MAX_MS`]).
const DISTRUST_MS: u64 = 6_000;
/// Nor does one that was asked for this long and only said that it is busy.
const REFUSES_MS: u64 = 2 * DISTRUST_MS;
const _: () = assert!(DISTRUST_MS > super::QUEUE_MAX_MS);
/// How long a provider that was too slow is left alone, in ms.
const SLOW_PAUSE_MS: u64 = 60_000;
/// Weight of the newest measurement in a provider's rate, in percent.
const RATE_NEW_PERCENT: u64 = 40;

/// Names an ask in what a provider answers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// One question to one neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its name.
    pub id: AskId,
    /// Whom to ask.
    pub peer: Uid,
    /// For what.
    pub want: Want,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask.
    Ask(Ask),
    /// An ask is over; tell its provider, and drop what still comes.
    Cancel {
        /// Which one.
        id: AskId,
        /// At whom.
        peer: Uid,
    },
}

/// What can be switched off, to see what it is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Rarest first, else by number.
    pub rarest_first: bool,
    /// The origin chooses, else the device does.
    pub least_served: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { rarest_first: true, least_served: true }
    }
}

/// Bytes that came, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Verified, from the origin.
    pub origin: u64,
    /// Verified, from the local network.
    pub lan: u64,
    /// Verified, from other devices.
    pub wan: u64,
    /// Wrong, cut off, or had already.
    pub wasted: u64,
}

impl Totals {
    /// All of them: what the budget counts.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.origin + self.lan + self.wan + self.wasted
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) uid: Uid,
    pub(super) kind: Kind,
    pub(super) has: Bits,
    /// Asks that are open.
    pub(super) open: usize,
    /// Bytes per second, its queue included; 0 while unknown.
    pub(super) rate: u64,
    /// Failures since something came.
    pub(super) failures: u32,
    pub(super) not_before_ms: u64,
    /// Sent wrong bytes.
    pub(super) banned: bool,
    /// Since when an origin leaves to others what is wanted.
    pub(super) declined_ms: Option<u64>,
    /// It owes and is silent for so long that what it has does not count.
    pub(super) distrusted: bool,
    /// When it last sent something, or began to owe.
    last_byte_ms: u64,
    /// Since when it is asked and has sent nothing, whatever it answered.
    asked_since_ms: Option<u64>,
    last_got_ms: u64,
    watch_from_ms: u64,
    watch_bytes: u64,
}

impl Peer {
    /// Whether it owes something and has sent nothing for [`DISTRUST_MS`].
    pub(super) fn is_silent(&self, now_ms: u64) -> bool {
        self.open > 0 && now_ms.saturating_sub(self.last_byte_ms) >= DISTRUST_MS
    }

    /// Whether what it has is counted in `copies`.
    pub(super) fn counts(&self) -> bool {
        self.kind != Kind::Origin && !self.banned && !self.distrusted
    }
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: AskId,
    pub(super) peer: Uid,
    /// Known once it was asked for or the provider chose.
    pub(super) shard: Option<u32>,
    asked_ms: u64,
    pub(super) last_ms: u64,
    pub(super) bytes: u64,
    /// What it may bring.
    owed_bytes: u64,
}

/// The receiving half of a node, for one package.
#[derive(Debug)]
pub struct Swarm {
    pub(super) rules: Rules,
    pub(super) sizes: Vec<u32>,
    pub(super) have: Bits,
    /// What is missing, in an order of this node's own: it breaks ties.
    pub(super) missing: Vec<u32>,
    /// How many open asks each shard has.
    pub(super) asked: Vec<u8>,
    /// How many devices that may be asked have it; origins do not count.
    pub(super) copies: Vec<u16>,
    pub(super) peers: Vec<Peer>,
    pub(super) open: Vec<Open>,
    pub(super) choice: Choice,
    /// What all open asks may bring.
    pub(super) owed_bytes: u64,
    pub(super) mean_bytes: u64,
    pub(super) last_got_ms: u64,
    /// Since when there is room for asks and nobody to ask.
    pub(super) starved_ms: Option<u64>,
    budget_bytes: u64,
    totals: Totals,
    next_id: u64,
    cancels: Vec<Action>,
    /// Bytes per second over all neighbours.
    pub(super) rate: u64,
    window_from_ms: u64,
    window_bytes: u64,
}

impl Swarm {
    /// A download of a package whose shards have these lengths in bytes and of which some are
    /// there. `budget_bytes` is what may come over the network for it ([`crate::policy::Attempt::Now`]).
    ///
    /// # Errors
    /// [`InvalidPackage`].
    pub fn new(sizes: &[u32], have: &Bits, budget_bytes: u64, seed: u64) -> Result<Self, InvalidPackage> {
        checked(sizes)?;
        let mut own = Bits::none(sizes.len());
        own.add(have);
        let mut choice = Choice::new(seed);
        let mut missing: Vec<u32> = Bits::all(sizes.len()).minus(&own).iter().collect();
        for place in (1..missing.len()).rev() {
            missing.swap(place, choice.below(place + 1));
        }
        let all: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
        Ok(Self {
            rules: Rules::default(),
            sizes: sizes.to_vec(),
            have: own,
            missing,
            asked: vec![0; sizes.len()],
            copies: vec![0; sizes.len()],
            peers: Vec::new(),
            open: Vec::new(),
            choice,
            owed_bytes: 0,
            mean_bytes: (all / sizes.len() as u64).max(1),
            last_got_ms: 0,
            starved_ms: None,
            budget_bytes,
            totals: Totals::default(),
            next_id: 0,
            cancels: Vec::new(),
            rate: 0,
            window_from_ms: 0,
            window_bytes: 0,
        })
    }

    /// With some rules switched off.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        if !rules.rarest_first {
            self.missing.sort_unstable();
        }
        self
    }

    /// A neighbour connected and said what it has. Returns whether there is room for it.
    pub fn joined(&mut self, peer: Uid, kind: Kind, has: &Bits, now_ms: u64) -> bool {
        let banned = self.peer(&peer).is_some_and(|known| known.banned);
        self.left(&peer);
        if self.peers.iter().filter(|known| !known.banned).count() >= NEIGHBOURS_MAX || banned {
            return false;
        }
        let mut own = Bits::none(self.sizes.len());
        own.add(has);
        if kind != Kind::Origin {
            own.iter().for_each(|shard| self.copies[shard as usize] += 1);
        }
        self.peers.push(Peer {
            uid: peer,
            kind,
            has: own,
            open: 0,
            rate: 0,
            failures: 0,
            not_before_ms: now_ms,
            banned: false,
            declined_ms: None,
            distrusted: false,
            last_byte_ms: now_ms,
            asked_since_ms: None,
            last_got_ms: now_ms,
            watch_from_ms: now_ms,
            watch_bytes: 0,
        });
        true
    }

    /// A neighbour went: what it owed is asked elsewhere. One that sent wrong bytes stays banned.
    pub fn left(&mut self, peer: &Uid) {
        self.forsake(peer);
        let Some(place) = self.peers.iter().position(|known| known.uid == *peer) else { return };
        if !self.peers[place].banned {
            let gone = self.peers.swap_remove(place);
            self.uncount(&gone);
        }
    }

    /// A neighbour has one more.
    pub fn has(&mut self, peer: &Uid, shard: u32) {
        let Some(known) = self.peers.iter_mut().find(|known| known.uid == *peer) else { return };
        if known.has.insert(shard) && known.counts() {
            self.copies[shard as usize] += 1;
        }
    }

    /// What is there.
    #[must_use]
    pub fn have(&self) -> &Bits {
        &self.have
    }

    /// Whether everything is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Whether the budget does not suffice for what is missing. What is asked for still comes.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        let needed = self.missing.iter().filter(|&&shard| self.asked[shard as usize] == 0);
        needed.map(|&shard| u64::from(self.sizes[shard as usize])).any(|size| !self.affords(size))
    }

    /// Bytes that came.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a neighbour sent wrong bytes.
    #[must_use]
    pub fn is_banned(&self, peer: &Uid) -> bool {
        self.peer(peer).is_some_and(|known| known.banned)
    }

    /// An answer begins with the number of the shard. Returns whether its bytes are wanted; if not, the
    /// ask is over and its provider is to be told.
    pub fn started(&mut self, id: AskId, shard: u32, now_ms: u64) -> bool {
        let Some(place) = self.open.iter().position(|open| open.id == id) else { return false };
        let chosen = self.open[place].shard;
        if chosen.is_some_and(|asked| asked != shard) || shard as usize >= self.sizes.len() {
            self.failed(id, Failure::Wrong, now_ms);
            return false;
        }
        let coming =
            self.open.iter().any(|open| open.shard == Some(shard) && open.id != id && open.bytes > 0);
        if self.have.contains(shard) || (chosen.is_none() && coming) {
            self.close(id);
            return false;
        }
        self.open[place].last_ms = now_ms;
        if chosen.is_none() {
            let size = u64::from(self.sizes[shard as usize]);
            let open = &mut self.open[place];
            open.shard = Some(shard);
            self.owed_bytes = self.owed_bytes - open.owed_bytes + size;
            open.owed_bytes = size;
            self.asked[shard as usize] += 1;
            let peer = self.open[place].peer;
            if let Some(known) = self.peer_mut(&peer) {
                known.declined_ms = None;
            }
            // What only waits elsewhere need not wait any longer.
            self.cancel_others(shard, id);
        }
        true
    }

    /// Bytes of an answer came.
    pub fn progress(&mut self, id: AskId, bytes: u64, now_ms: u64) {
        let Some(open) = self.open.iter_mut().find(|open| open.id == id) else { return };
        open.bytes += bytes;
        open.last_ms = now_ms;
        let peer = open.peer;
        self.window_bytes += bytes;
        self.measure(now_ms);
        let Some(known) = self.peers.iter_mut().find(|known| known.uid == peer) else { return };
        known.watch_bytes += bytes;
        known.last_byte_ms = now_ms;
        known.asked_since_ms = None;
        if std::mem::replace(&mut known.distrusted, false) && known.counts() {
            known.has.iter().for_each(|shard| self.copies[shard as usize] += 1);
        }
    }

    /// The answer to an ask came whole and is the shard. Returns which one, if it was missing.
    pub fn got(&mut self, id: AskId, now_ms: u64) -> Option<u32> {
        let open = self.close(id)?;
        let shard = open.shard?;
        let size = u64::from(self.sizes[shard as usize]);
        self.last_got_ms = now_ms;
        let kind = self.credit(&open, size, now_ms);
        let Some(place) = self.missing.iter().position(|&missing| missing == shard) else {
            self.totals.wasted += size;
            return None;
        };
        match kind {
            Some(Kind::Origin) => self.totals.origin += size,
            Some(Kind::Lan) => self.totals.lan += size,
            Some(Kind::Wan) | None => self.totals.wan += size,
        }
        if self.rules.rarest_first {
            self.missing.swap_remove(place);
        } else {
            self.missing.remove(place);
        }
        self.have.insert(shard);
        self.cancel_others(shard, id);
        Some(shard)
    }

    /// An ask brought nothing.
    pub fn failed(&mut self, id: AskId, why: Failure, now_ms: u64) {
        let Some(open) = self.close(id) else { return };
        self.totals.wasted += open.bytes;
        let spread = self.choice.next() % 512;
        let Some(known) = self.peers.iter_mut().find(|known| known.uid == open.peer) else { return };
        known.failures = known.failures.saturating_add(1);
        let doubled = (PAUSE_FIRST_MS << (known.failures - 1).min(10)).min(PAUSE_MAX_MS);
        let pause = match why {
            Failure::Busy { after_ms } | Failure::Nothing { after_ms } => after_ms.min(PAUSE_MAX_MS),
            Failure::Broken | Failure::Wrong => doubled,
        };
        // Between three quarters and five quarters, so that those who were refused together do not come back together.
        known.not_before_ms = known.not_before_ms.max(now_ms + pause * 3 / 4 + pause * spread / 1024);
        match (why, open.shard) {
            (Failure::Nothing { .. }, Some(shard)) => {
                let counted = known.counts();
                if known.kind != Kind::Origin && known.has.remove(shard) && counted {
                    self.copies[shard as usize] -= 1;
                }
            }
            (Failure::Nothing { .. }, None) => known.declined_ms = known.declined_ms.or(Some(now_ms)),
            (Failure::Wrong, _) => self.ban(&open.peer),
            _ => {}
        }
    }

    /// What to do now. To be called after every event and at [`Swarm::wake_ms`].
    pub fn next(&mut self, now_ms: u64) -> Vec<Action> {
        self.measure(now_ms);
        self.replace_slow(now_ms);
        let mut actions = std::mem::take(&mut self.cancels);
        while let Some((peer, want)) = self.pick(now_ms) {
            let id = AskId(self.next_id);
            self.next_id += 1;
            self.begin(id, peer, &want, now_ms);
            actions.push(Action::Ask(Ask { id, peer, want }));
        }
        actions
    }

    /// When [`Swarm::next`] may have something to say although nothing happens.
    #[must_use]
    pub fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        if self.missing.is_empty() {
            return None;
        }
        let pauses = self.peers.iter().filter(|peer| !peer.banned).map(|peer| peer.not_before_ms);
        let silent =
            self.peers.iter().filter(|peer| peer.open > 0).map(|peer| peer.last_byte_ms + DISTRUST_MS);
        let pauses = pauses.chain(silent);
        let looks = self.next_look_ms(now_ms);
        pauses.chain(looks).filter(|&at| at > now_ms).min()
    }

    /// The largest shard that is missing, in bytes: what an ask brings at most.
    pub(super) fn largest(&self) -> u64 {
        self.missing.iter().map(|&shard| u64::from(self.sizes[shard as usize])).max().unwrap_or(0)
    }

    /// Whether the budget allows `size` more bytes.
    pub(super) fn affords(&self, size: u64) -> bool {
        self.totals.all() + self.owed_bytes + size <= self.budget_bytes
    }

    fn begin(&mut self, id: AskId, peer: Uid, want: &Want, now_ms: u64) {
        let shard = match want {
            Want::Shard(shard) => Some(*shard),
            Want::LeastServed(_) => None,
        };
        if let Some(shard) = shard {
            self.asked[shard as usize] += 1;
        }
        // Which one comes without a name is the provider's choice.
        let owed_bytes = shard.map_or_else(|| self.largest(), |shard| u64::from(self.sizes[shard as usize]));
        self.owed_bytes += owed_bytes;
        if let Some(known) = self.peer_mut(&peer) {
            if known.open == 0 {
                known.watch_from_ms = now_ms;
                known.watch_bytes = 0;
                known.last_got_ms = now_ms;
                known.last_byte_ms = now_ms;
            }
            known.open += 1;
            known.asked_since_ms = known.asked_since_ms.or(Some(now_ms));
        }
        self.open.push(Open { id, peer, shard, asked_ms: now_ms, last_ms: now_ms, bytes: 0, owed_bytes });
    }

    fn close(&mut self, id: AskId) -> Option<Open> {
        let place = self.open.iter().position(|open| open.id == id)?;
        let open = self.open.swap_remove(place);
        if let Some(shard) = open.shard {
            self.asked[shard as usize] -= 1;
        }
        self.owed_bytes -= open.owed_bytes;
        if let Some(known) = self.peer_mut(&open.peer) {
            known.open -= 1;
        }
        Some(open)
    }

    fn cancel_others(&mut self, shard: u32, but: AskId) {
        let others = |open: &&Open| open.shard == Some(shard) && open.id != but;
        let ids: Vec<AskId> = self.open.iter().filter(others).map(|open| open.id).collect();
        ids.into_iter().for_each(|id| self.cancel(id));
    }

    /// The attempt ends: what was under way was for nothing.
    pub fn give_up(&mut self) {
        let ids: Vec<AskId> = self.open.iter().map(|open| open.id).collect();
        ids.into_iter().for_each(|id| self.cancel(id));
        self.cancels.clear();
    }

    fn cancel(&mut self, id: AskId) {
        if let Some(open) = self.close(id) {
            self.totals.wasted += open.bytes;
            self.cancels.push(Action::Cancel { id, peer: open.peer });
        }
    }

    /// Notes that a provider delivered. Returns what it is.
    fn credit(&mut self, open: &Open, size: u64, now_ms: u64) -> Option<Kind> {
        let known = self.peer_mut(&open.peer)?;
        known.failures = 0;
        let took_ms = now_ms.saturating_sub(open.asked_ms.max(known.last_got_ms)).max(1);
        known.last_got_ms = now_ms;
        let sample = size * 1_000 / took_ms;
        known.rate = match known.rate {
            0 => sample,
            rate => (rate * (100 - RATE_NEW_PERCENT) + sample * RATE_NEW_PERCENT) / 100,
        };
        Some(known.kind)
    }

    /// The rate over all neighbours, in windows of a second.
    fn measure(&mut self, now_ms: u64) {
        let span = now_ms.saturating_sub(self.window_from_ms);
        if span >= 1_000 {
            self.rate = self.window_bytes * 1_000 / span;
            self.window_from_ms = now_ms;
            self.window_bytes = 0;
        }
    }

    /// Stops to count on providers that owe and are silent, and takes back what was asked from those that
    /// give too little.
    fn replace_slow(&mut self, now_ms: u64) {
        let others = self.peers.iter().filter(|peer| !peer.banned).count() > 1;
        let mut slow = Vec::new();
        for peer in &mut self.peers {
            let silent = peer.is_silent(now_ms);
            let refuses = peer.asked_since_ms.is_some_and(|at| now_ms.saturating_sub(at) >= REFUSES_MS);
            if (silent || refuses) && peer.counts() {
                peer.distrusted = true;
                peer.has.iter().for_each(|shard| self.copies[shard as usize] -= 1);
            }
            let span = now_ms.saturating_sub(peer.watch_from_ms);
            if peer.open == 0 || span < SLOW_AFTER_SECONDS * 1_000 {
                continue;
            }
            if is_slow(peer.watch_bytes, span / 1_000, others) {
                peer.not_before_ms = now_ms + SLOW_PAUSE_MS;
                peer.rate = 1;
                slow.push(peer.uid);
            }
            peer.watch_from_ms = now_ms;
            peer.watch_bytes = 0;
        }
        slow.iter().for_each(|uid| self.forsake(uid));
    }

    /// Ends all asks at a neighbour.
    fn forsake(&mut self, peer: &Uid) {
        let ids: Vec<AskId> =
            self.open.iter().filter(|open| open.peer == *peer).map(|open| open.id).collect();
        ids.into_iter().for_each(|id| self.cancel(id));
    }

    fn ban(&mut self, peer: &Uid) {
        self.forsake(peer);
        let Some(place) = self.peers.iter().position(|known| known.uid == *peer) else { return };
        if self.peers[place].counts() {
            self.peers[place].has.iter().for_each(|shard| self.copies[shard as usize] -= 1);
        }
        self.peers[place].banned = true;
        self.peers[place].has = Bits::none(0);
    }

    fn uncount(&mut self, peer: &Peer) {
        if peer.counts() {
            peer.has.iter().for_each(|shard| self.copies[shard as usize] -= 1);
        }
    }

    pub(super) fn peer(&self, uid: &Uid) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.uid == *uid)
    }

    fn peer_mut(&mut self, uid: &Uid) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.uid == *uid)
    }
}
