//! Which ask is next.

use ioex_base::Uid;

use super::{
    ASKS_PER_REQUESTER_MAX, Bits, Kind, Want,
    fetch::{Open, Peer, Swarm},
};

/// What is asked from all neighbours together lasts about this long at the rate that they reach, in ms.
const AHEAD_MS: u64 = 750;
/// Fewest shards that are asked for at the same time, so that several uplinks work for a device from
/// the start.
const AHEAD_MIN: u64 = 6;
/// Most.
const AHEAD_MAX: u64 = 32;
/// What is asked from one provider lasts about this long at its rate, in ms, beside one that is coming.
const PEER_AHEAD_MS: u64 = 500;
/// A provider that needs longer than this for a shard has one ask at a time.
const PEER_ALONE_MS: u64 = 4_000;
/// An ask without a byte for this long is made elsewhere, too, when there is nothing else to ask.
const SILENT_MS: u64 = 1_000;
/// One that will take longer than this is, too.
const LONG_MS: u64 = 2_000;
/// An ask that is silent for this long is made elsewhere even while there is something else to ask.
const STUCK_MS: u64 = 4_000;
/// Most asks for one shard at a time.
const ASKS_PER_SHARD_MAX: u8 = 2;
/// With room for asks and nobody to ask for this long, an origin is asked for what others have, too.
const STARVED_MS: u64 = 1_000;
/// After so long without a shard, an origin that leaves one to others is told which one is needed.
const PATIENCE_MS: u64 = 10_000;
/// An origin that leaves to others what no neighbour has, is told so after this time.
const INSIST_MS: u64 = 6_000;

impl Swarm {
    /// The next ask: what nobody was asked for, what others owe for too long, what only an origin has.
    pub(super) fn pick(&mut self, now_ms: u64) -> Option<(Uid, Want)> {
        if self.missing.is_empty() || !self.affords(self.largest()) {
            return None;
        }
        let at_devices = self.open.iter().filter(|open| self.kind(open) != Some(Kind::Origin)).count();
        let room = (at_devices as u64) < self.ahead();
        if room {
            if let Some(stuck) = self.again(now_ms, STUCK_MS) {
                return Some(stuck);
            }
            for kind in [Kind::Lan, Kind::Wan] {
                if let Some(fresh) = self.fresh(kind, now_ms) {
                    self.starved_ms = None;
                    return Some(fresh);
                }
            }
        }
        if let Some(asked) = self.at_origin(room, now_ms) {
            return Some(asked);
        }
        if room { self.again(now_ms, SILENT_MS) } else { None }
    }

    /// When time alone changes what is picked.
    pub(super) fn next_look_ms(&self, now_ms: u64) -> impl Iterator<Item = u64> {
        let spans = [SILENT_MS, STUCK_MS];
        let silent = self
            .open
            .iter()
            .flat_map(|open| spans.map(|span| open.last_ms + span))
            .filter(|&at| at > now_ms)
            .min();
        let declined = self.peers.iter().filter_map(|peer| peer.declined_ms).map(|at| at + INSIST_MS).min();
        let starved = self.starved_ms.map(|at| at + STARVED_MS).into_iter().chain(declined);
        let patience = self.last_got_ms + PATIENCE_MS;
        let slow = (!self.open.is_empty()).then_some(now_ms + PATIENCE_MS);
        silent.into_iter().chain(starved).chain([patience]).chain(slow)
    }

    /// How many shards are asked for at the same time.
    fn ahead(&self) -> u64 {
        (self.rate.saturating_mul(AHEAD_MS) / 1_000 / self.mean_bytes).clamp(AHEAD_MIN, AHEAD_MAX)
    }

    /// How many asks a provider has at a time.
    fn allowance(&self, peer: &Peer) -> usize {
        if peer.rate == 0 {
            return 2;
        }
        if peer.distrusted || peer.rate.saturating_mul(PEER_ALONE_MS) / 1_000 < self.mean_bytes {
            return 1;
        }
        let ahead = peer.rate.saturating_mul(PEER_AHEAD_MS) / 1_000 / self.mean_bytes;
        usize::try_from(ahead).unwrap_or(usize::MAX).saturating_add(2).min(ASKS_PER_REQUESTER_MAX)
    }

    fn may_ask(&self, peer: &Peer, now_ms: u64) -> bool {
        !peer.banned && peer.not_before_ms <= now_ms && peer.open < self.allowance(peer)
    }

    fn kind(&self, open: &Open) -> Option<Kind> {
        self.peer(&open.peer).map(|peer| peer.kind)
    }

    /// The rarest shard that nobody was asked for and that somebody of this kind can send now.
    fn fresh(&mut self, kind: Kind, now_ms: u64) -> Option<(Uid, Want)> {
        let mut offered = Bits::none(self.sizes.len());
        for peer in self.peers.iter().filter(|peer| peer.kind == kind && self.may_ask(peer, now_ms)) {
            offered.add(&peer.has);
        }
        let mut open =
            self.missing.iter().filter(|&&shard| self.asked[shard as usize] == 0 && offered.contains(shard));
        let shard = if self.rules.rarest_first {
            open.min_by_key(|&&shard| self.copies[shard as usize])
        } else {
            open.next()
        };
        let shard = *shard?;
        self.holder(shard, kind, now_ms).map(|uid| (uid, Want::Shard(shard)))
    }

    /// Who of this kind is asked for a shard: least asked, then fastest, then anybody.
    fn holder(&mut self, shard: u32, kind: Kind, now_ms: u64) -> Option<Uid> {
        let mut best: Option<((usize, u64, u64), Uid)> = None;
        let turn = self.choice.next();
        for (place, peer) in self.peers.iter().enumerate() {
            let owes = || self.open.iter().any(|open| open.peer == peer.uid && open.shard == Some(shard));
            if peer.kind != kind || !peer.has.contains(shard) || !self.may_ask(peer, now_ms) || owes() {
                continue;
            }
            let tie = (place as u64 + 1).wrapping_mul(turn | 1) >> 32;
            let key = (peer.open, u64::MAX - peer.rate, tie);
            if best.as_ref().is_none_or(|(least, _)| key < *least) {
                best = Some((key, peer.uid));
            }
        }
        best.map(|(_, uid)| uid)
    }

    /// A shard that somebody owes for too long, from somebody else.
    fn again(&mut self, now_ms: u64, silent_ms: u64) -> Option<(Uid, Want)> {
        let late = |open: &Open| {
            let silent = now_ms.saturating_sub(open.last_ms) >= silent_ms;
            let rate = self.peer(&open.peer).map_or(0, |peer| peer.rate);
            let rest = open.shard.map_or(0, |shard| u64::from(self.sizes[shard as usize]));
            let long = rate > 0 && rest.saturating_sub(open.bytes) * 1_000 / rate >= LONG_MS;
            silent || (long && silent_ms < STUCK_MS)
        };
        let mut owed: Vec<(u64, u32)> = self
            .open
            .iter()
            .filter(|open| late(open))
            .filter_map(|open| open.shard.map(|shard| (open.last_ms, shard)))
            .filter(|(_, shard)| self.asked[*shard as usize] < ASKS_PER_SHARD_MAX)
            .collect();
        owed.sort_unstable();
        owed.into_iter().find_map(|(_, shard)| {
            [Kind::Lan, Kind::Wan]
                .into_iter()
                .find_map(|kind| self.holder(shard, kind, now_ms))
                .map(|uid| (uid, Want::Shard(shard)))
        })
    }

    /// What is asked from an origin: what no neighbour has; what neighbours are too busy for; and in the end a
    /// certain shard, when it leaves that to neighbours who do not deliver.
    fn at_origin(&mut self, room: bool, now_ms: u64) -> Option<(Uid, Want)> {
        let origin = self
            .peers
            .iter()
            .filter(|peer| peer.kind == Kind::Origin && self.may_ask(peer, now_ms))
            .min_by_key(|peer| peer.open)
            .map(|peer| (peer.uid, peer.declined_ms))?;
        let (uid, declined_ms) = origin;
        // What another origin owes that is silent, such as one that was stopped, is owed no more.
        let silent: Vec<Uid> = self
            .peers
            .iter()
            .filter(|peer| peer.kind == Kind::Origin && peer.uid != uid && peer.is_silent(now_ms))
            .map(|peer| peer.uid)
            .collect();
        let counts = |open: &&Open| open.shard.is_none() && !silent.contains(&open.peer);
        let open = self.open.iter().filter(counts).count();
        let alone = self.unasked(true, &silent);
        let lonely = !self.peers.iter().any(|peer| peer.kind != Kind::Origin && !peer.banned);
        let waited = now_ms.saturating_sub(self.last_got_ms) >= PATIENCE_MS;
        let declined = declined_ms.map(|since| now_ms.saturating_sub(since));
        let any = declined.is_some() && (lonely || waited);
        let insists = declined.is_some_and(|span| span >= INSIST_MS) && !alone.is_empty();
        if any || insists || !self.rules.least_served {
            return self.certain(&uid, any, now_ms).map(|shard| (uid, Want::Shard(shard)));
        }
        if alone.is_empty() {
            self.needs_nothing(&uid);
        }
        if alone.count() > open {
            return Some((uid, Want::LeastServed(alone)));
        }
        if !room {
            return None;
        }
        let since = *self.starved_ms.get_or_insert(now_ms);
        let wanted = self.unasked(false, &silent);
        let starved = now_ms.saturating_sub(since) >= STARVED_MS;
        (starved && wanted.count() > open).then_some((uid, Want::LeastServed(wanted)))
    }

    /// What nobody was asked for who counts, which `silent` ones do not; `alone`: and what no neighbour has.
    fn unasked(&self, alone: bool, silent: &[Uid]) -> Bits {
        let mut wanted = Bits::none(self.sizes.len());
        for &shard in &self.missing {
            let place = shard as usize;
            if !(alone && self.copies[place] > 0)
                && (self.asked[place] == 0 || self.is_hopeless(shard, silent))
            {
                wanted.insert(shard);
            }
        }
        wanted
    }

    /// Whether only providers owe a shard that are not counted on any more.
    fn is_hopeless(&self, shard: u32, silent: &[Uid]) -> bool {
        let distrusted = |open: &Open| {
            silent.contains(&open.peer) || self.peer(&open.peer).is_some_and(|peer| peer.distrusted)
        };
        self.open.iter().filter(|open| open.shard == Some(shard)).all(distrusted)
    }

    /// Neighbours have everything that an origin left to them.
    fn needs_nothing(&mut self, origin: &Uid) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.uid == *origin) {
            peer.declined_ms = None;
        }
    }

    /// The shard that is needed most from `origin`: that nobody was asked for, or whose provider is stuck.
    /// Without `any`, of those that no neighbour has.
    fn certain(&self, origin: &Uid, any: bool, now_ms: u64) -> Option<u32> {
        let stuck = |shard: u32| {
            let mut asks = self.open.iter().filter(|open| open.shard == Some(shard));
            asks.all(|open| open.peer != *origin && now_ms.saturating_sub(open.last_ms) >= STUCK_MS)
        };
        let free = |shard: u32| self.asked[shard as usize] == 0 || stuck(shard);
        let alone = |shard: u32| any || self.copies[shard as usize] == 0;
        let needed = self.missing.iter().copied().filter(|&shard| alone(shard) && free(shard));
        needed.min_by_key(|&shard| self.copies[shard as usize])
    }
}
