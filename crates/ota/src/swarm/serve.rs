//! What a node sends, and to whom first.

use std::collections::{BTreeMap, HashMap};

use ioex_base::Uid;

use super::{
    ASKS_PER_REQUESTER_MAX, Bits, Failure, InvalidPackage, LOST_AFTER_MS, NEIGHBOURS_MAX, QUEUE_MAX_MS,
    RELAY_MS, REQUESTERS_MAX, SPARE_PERMILLE, SPARE_PERMILLE_PER_DEVICE, WAIT_MAX_MS, WAITING_AT_ORIGIN_MAX,
    WAITING_MAX, Want, checked,
};

/// Shortest time after which a busy provider wants to be asked again, in ms.
const RETRY_MIN_MS: u64 = 100;
/// Longest one.
const RETRY_MAX_MS: u64 = 10_000;
/// After how long an origin wants to be asked again for shards that others have, in ms.
const NOTHING_RETRY_MS: u64 = 1_000;
/// A shard that was sent so often is no more urgent than one that was sent oftener.
const OFTEN: u32 = 4;
/// Weight of the newest measurement of the time per shard, in percent.
const PACE_NEW_PERCENT: u64 = 20;

/// What the node is in this swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The maker's: it spares its uplink.
    Origin,
    /// Anybody else.
    Device,
}

/// Names an ask at its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServeId(pub u64);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send this shard; [`Uplink::ended`] when that is over.
    Serve {
        /// The ask.
        id: ServeId,
        /// To whom.
        peer: Uid,
        /// Which shard.
        shard: u32,
    },
    /// Answer that there is nothing; the ask is over.
    Refuse {
        /// The ask.
        id: ServeId,
        /// To whom.
        peer: Uid,
        /// [`Failure::Busy`] or [`Failure::Nothing`].
        why: Failure,
    },
}

#[derive(Debug)]
struct Requester {
    has: Bits,
    waiting: usize,
    serving: usize,
    /// Bytes that it was sent, or is being sent.
    given: u64,
}

#[derive(Debug)]
struct Waiting {
    id: ServeId,
    peer: Uid,
    want: Want,
    since_ms: u64,
}

#[derive(Debug)]
struct Serving {
    peer: Uid,
    shard: u32,
}

/// The sending half of a node, for one package.
#[derive(Debug)]
pub struct Uplink {
    role: Role,
    sizes: Vec<u32>,
    have: Bits,
    slots: usize,
    /// How often each shard was sent or is being sent.
    served: Vec<u32>,
    /// How often each shard is being sent just now.
    busy: Vec<u16>,
    /// How many of those connected have it.
    holders: Vec<u16>,
    /// When it was last begun.
    begun_ms: Vec<u64>,
    requesters: HashMap<Uid, Requester>,
    waiting: Vec<Waiting>,
    serving: BTreeMap<ServeId, Serving>,
    next_id: u64,
    /// Bytes sent beyond the first copy out of the allowance.
    spare_bytes: u64,
    /// Time per shard, in ms; 0 while unknown.
    pace_ms: u64,
    last_end_ms: u64,
}

impl Uplink {
    /// For a package whose shards have these lengths in bytes, of which this node has some.
    /// `slots` asks are served at the same time ([`crate::policy::Policy::upload_slots`]).
    ///
    /// # Errors
    /// [`InvalidPackage`].
    pub fn new(sizes: &[u32], have: &Bits, role: Role, slots: u16) -> Result<Self, InvalidPackage> {
        checked(sizes)?;
        let count = sizes.len();
        let mut own = Bits::none(count);
        own.add(have);
        Ok(Self {
            role,
            sizes: sizes.to_vec(),
            have: own,
            slots: usize::from(slots),
            served: vec![0; count],
            busy: vec![0; count],
            holders: vec![0; count],
            begun_ms: vec![0; count],
            requesters: HashMap::new(),
            waiting: Vec::new(),
            serving: BTreeMap::new(),
            next_id: 0,
            spare_bytes: 0,
            pace_ms: 0,
            last_end_ms: 0,
        })
    }

    /// A node connected and said what it has. Returns whether there is room for it.
    pub fn joined(&mut self, peer: Uid, has: &Bits) -> bool {
        let most = if self.role == Role::Origin { REQUESTERS_MAX } else { NEIGHBOURS_MAX };
        self.left(&peer);
        if self.requesters.len() >= most {
            return false;
        }
        let mut own = Bits::none(self.sizes.len());
        own.add(has);
        own.iter().for_each(|shard| self.holders[shard as usize] += 1);
        self.requesters.insert(peer, Requester { has: own, waiting: 0, serving: 0, given: 0 });
        true
    }

    /// A node went. Its asks are over; those returned were being served.
    pub fn left(&mut self, peer: &Uid) -> Vec<ServeId> {
        let Some(gone) = self.requesters.remove(peer) else { return Vec::new() };
        gone.has.iter().for_each(|shard| self.holders[shard as usize] -= 1);
        self.waiting.retain(|waiting| waiting.peer != *peer);
        let cut: Vec<ServeId> =
            self.serving.iter().filter(|(_, serving)| serving.peer == *peer).map(|(id, _)| *id).collect();
        cut.iter().for_each(|id| self.end(*id, false));
        cut
    }

    /// A connected node has one more.
    pub fn has(&mut self, peer: &Uid, shard: u32) {
        if let Some(requester) = self.requesters.get_mut(peer)
            && requester.has.insert(shard)
        {
            self.holders[shard as usize] += 1;
        }
    }

    /// This node has one more.
    pub fn gained(&mut self, shard: u32) {
        self.have.insert(shard);
    }

    /// The owner changed the number of slots.
    pub fn set_slots(&mut self, slots: u16) {
        self.slots = usize::from(slots);
    }

    /// Whether anything is waiting or being served.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.serving.is_empty()
    }

    /// How often a shard was sent or is being sent.
    #[must_use]
    pub fn served(&self, shard: u32) -> u32 {
        self.served.get(shard as usize).copied().unwrap_or(0)
    }

    /// An ask came. It waits for its turn under the returned name.
    ///
    /// # Errors
    /// [`Failure::Busy`] or [`Failure::Nothing`], which is the answer.
    pub fn ask(&mut self, peer: &Uid, want: Want, now_ms: u64) -> Result<ServeId, Failure> {
        let after_ms = self.retry_ms();
        let Some(requester) = self.requesters.get(peer).filter(|_| self.slots > 0) else {
            return Err(Failure::Busy { after_ms: RETRY_MAX_MS });
        };
        let possible = match &want {
            Want::Shard(shard) => self.have.contains(*shard),
            Want::LeastServed(wanted) => wanted.len() == self.sizes.len(),
        };
        if !possible {
            return Err(Failure::Nothing { after_ms: NOTHING_RETRY_MS });
        }
        let most = if self.role == Role::Origin { WAITING_AT_ORIGIN_MAX } else { WAITING_MAX };
        let asks = requester.waiting + requester.serving;
        let long = self.role == Role::Device
            && !self.waiting.is_empty()
            && self.pace_ms * self.waiting.len() as u64 > QUEUE_MAX_MS;
        if long || self.waiting.len() >= most || asks >= ASKS_PER_REQUESTER_MAX {
            return Err(Failure::Busy { after_ms });
        }
        let id = ServeId(self.next_id);
        self.next_id += 1;
        self.waiting.push(Waiting { id, peer: *peer, want, since_ms: now_ms });
        if let Some(requester) = self.requesters.get_mut(peer) {
            requester.waiting += 1;
        }
        Ok(id)
    }

    /// The requester does not want it any more. Ends the ask, whether it waits or is being served.
    pub fn cancel(&mut self, id: ServeId) {
        if let Some(place) = self.waiting.iter().position(|waiting| waiting.id == id) {
            self.take(place);
        } else {
            self.end(id, false);
        }
    }

    /// Sending is over; `whole` says whether all of the shard went out.
    pub fn ended(&mut self, id: ServeId, whole: bool, now_ms: u64) {
        if !self.serving.contains_key(&id) {
            return;
        }
        if whole {
            // Between two ends while something was always being sent: how long a shard takes.
            let took = now_ms.saturating_sub(self.last_end_ms).clamp(1, RETRY_MAX_MS);
            self.pace_ms = match self.pace_ms {
                0 => took,
                pace => (pace * (100 - PACE_NEW_PERCENT) + took * PACE_NEW_PERCENT) / 100,
            };
            self.last_end_ms = now_ms;
        }
        self.end(id, whole);
    }

    /// What to send or answer now.
    pub fn next(&mut self, now_ms: u64) -> Vec<Turn> {
        let mut turns = Vec::new();
        while let Some(place) =
            self.waiting.iter().position(|waiting| now_ms.saturating_sub(waiting.since_ms) >= WAIT_MAX_MS)
        {
            let why = Failure::Busy { after_ms: self.retry_ms() };
            let waiting = self.take(place);
            turns.push(Turn::Refuse { id: waiting.id, peer: waiting.peer, why });
        }
        while self.serving.len() < self.slots {
            let Some(place) = self.first(now_ms) else { break };
            let waiting = self.take(place);
            let (id, peer) = (waiting.id, waiting.peer);
            turns.push(match self.choose(&waiting, now_ms) {
                Some(shard) => {
                    self.begin(id, peer, shard, now_ms);
                    Turn::Serve { id, peer, shard }
                }
                None => Turn::Refuse { id, peer, why: Failure::Nothing { after_ms: NOTHING_RETRY_MS } },
            });
        }
        turns
    }

    /// When [`Uplink::next`] has something to say although nothing happens.
    #[must_use]
    pub fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        self.waiting.iter().map(|waiting| self.wakes(waiting, now_ms)).min()
    }

    /// The same for one ask: when it may be answered, or ends.
    #[must_use]
    pub fn wake_ms_of(&self, id: ServeId, now_ms: u64) -> Option<u64> {
        self.waiting.iter().find(|waiting| waiting.id == id).map(|waiting| self.wakes(waiting, now_ms))
    }

    fn wakes(&self, waiting: &Waiting, now_ms: u64) -> u64 {
        let (ready, end) = (self.ready_ms(waiting), waiting.since_ms + WAIT_MAX_MS);
        if ready > now_ms { ready.min(end) } else { end }
    }

    /// The ask whose turn it is: requesters that are served least just now, then shards that were sent
    /// least, then requesters that got least, then who came first.
    fn first(&self, now_ms: u64) -> Option<usize> {
        let key = |waiting: &Waiting| {
            let requester = self.requesters.get(&waiting.peer);
            let sent = match waiting.want {
                Want::Shard(shard) => self.served(shard).min(OFTEN),
                Want::LeastServed(_) => 0,
            };
            let (serving, given) = requester.map_or((0, 0), |requester| (requester.serving, requester.given));
            (serving, sent, given, waiting.id)
        };
        let ready = self.waiting.iter().enumerate().filter(|(_, waiting)| self.ready_ms(waiting) <= now_ms);
        ready.min_by_key(|(_, waiting)| key(waiting)).map(|(place, _)| place)
    }

    /// When an ask may be answered: an origin that has just sent a shard gives whoever took it time to
    /// pass it on.
    fn ready_ms(&self, waiting: &Waiting) -> u64 {
        match waiting.want {
            Want::Shard(shard) if self.role == Role::Origin && self.served(shard) > 0 => {
                self.begun_ms[shard as usize] + RELAY_MS
            }
            _ => 0,
        }
    }

    /// Which shard answers an ask.
    fn choose(&self, waiting: &Waiting, now_ms: u64) -> Option<u32> {
        let wanted = match &waiting.want {
            Want::Shard(shard) => return Some(*shard),
            Want::LeastServed(wanted) => wanted.and(&self.have),
        };
        let has = self.requesters.get(&waiting.peer).map(|requester| &requester.has)?;
        let wanted = wanted.minus(has);
        // Neighbours in the package are seldom neighbours here, so that ties fall differently for each ask.
        let shift = waiting.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tie = |shard: u32| u64::from(shard).wrapping_add(shift).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let least = |shard: &u32| (self.served[*shard as usize], self.holders[*shard as usize], tie(*shard));
        wanted.iter().filter(|shard| self.gives(*shard, now_ms)).min_by_key(least)
    }

    /// Whether a shard is given to somebody who would take another one, too.
    fn gives(&self, shard: u32, now_ms: u64) -> bool {
        let place = shard as usize;
        if self.role == Role::Device || self.served[place] == 0 {
            return true;
        }
        if self.busy[place] > 0 {
            return false;
        }
        let lost = self.holders[place] == 0 && now_ms.saturating_sub(self.begun_ms[place]) >= LOST_AFTER_MS;
        lost || self.spare_bytes + u64::from(self.sizes[place]) <= self.spare_max_bytes()
    }

    fn spare_max_bytes(&self) -> u64 {
        let package: u64 = self.sizes.iter().map(|&size| u64::from(size)).sum();
        package * (SPARE_PERMILLE + SPARE_PERMILLE_PER_DEVICE * self.requesters.len() as u64) / 1_000
    }

    fn begin(&mut self, id: ServeId, peer: Uid, shard: u32, now_ms: u64) {
        let place = shard as usize;
        if self.served[place] > 0 {
            self.spare_bytes += u64::from(self.sizes[place]);
        }
        if self.serving.is_empty() {
            self.last_end_ms = now_ms;
        }
        self.served[place] += 1;
        self.busy[place] += 1;
        self.begun_ms[place] = now_ms;
        if let Some(requester) = self.requesters.get_mut(&peer) {
            requester.serving += 1;
            requester.given += u64::from(self.sizes[place]);
        }
        self.serving.insert(id, Serving { peer, shard });
    }

    fn end(&mut self, id: ServeId, whole: bool) {
        let Some(Serving { peer, shard }) = self.serving.remove(&id) else { return };
        let place = shard as usize;
        self.busy[place] -= 1;
        if !whole {
            self.served[place] -= 1;
        }
        if let Some(requester) = self.requesters.get_mut(&peer) {
            requester.serving -= 1;
        }
    }

    fn take(&mut self, place: usize) -> Waiting {
        let waiting = self.waiting.remove(place);
        if let Some(requester) = self.requesters.get_mut(&waiting.peer) {
            requester.waiting -= 1;
        }
        waiting
    }

    /// When a slot for one more can be expected.
    fn retry_ms(&self) -> u64 {
        (self.pace_ms * (self.waiting.len() as u64 / 2 + 1)).clamp(RETRY_MIN_MS, RETRY_MAX_MS)
    }
}
