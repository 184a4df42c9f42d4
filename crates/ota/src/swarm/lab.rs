//! A network with a virtual clock in which swarms run: for tests and for `cargo xtask sim ota`.
//!
//! What decides is the code of a node, [`Swarm`] and [`Uplink`]. What is modelled is the rest: links
//! with a rate up and down, shared equally by what is sent at the same time; messages that take one step;
//! bytes that are verified the moment they are there. Time advances in steps.

use std::collections::{BTreeMap, HashMap, HashSet};

use ioex_base::Uid;

use super::{
    Action, AskId, Bits, Failure, InvalidPackage, Kind, Role, Rules, ServeId, Swarm, Turn, Uplink, Want,
};

/// How a node behaves as a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Honest,
    /// Takes asks and sends nothing.
    Stalls,
    /// Sends something else.
    Lies,
}

/// A node's link and part.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// What it is.
    pub role: Role,
    /// Bytes per second that it can send.
    pub up: u64,
    /// Bytes per second that it can receive.
    pub down: u64,
    /// How many it serves at the same time.
    pub slots: u16,
    /// How it behaves.
    pub manner: Manner,
}

/// Names a node of the world.
pub type Index = usize;

enum News {
    Ask(AskId, Want),
    Cancel(AskId),
    Have(u32),
    Refused(AskId, Failure),
}

struct Message {
    from: Index,
    to: Index,
    news: News,
}

struct Flow {
    id: ServeId,
    to: Index,
    ask: AskId,
    shard: u32,
    left: u64,
    began: bool,
}

struct Node {
    spec: Spec,
    uid: Uid,
    swarm: Swarm,
    uplink: Uplink,
    neighbours: Vec<Index>,
    asks: BTreeMap<ServeId, (Index, AskId)>,
    flows: Vec<Flow>,
    online: bool,
    done_ms: Option<u64>,
    sent: u64,
    stirred: bool,
    sending: bool,
    wake_ms: u64,
    /// What it may receive still in the step `down_step`.
    down_left: u64,
    down_step: u64,
}

/// Nodes, links and a clock.
pub struct World {
    sizes: Vec<u32>,
    step_ms: u64,
    now_ms: u64,
    steps: u64,
    seed: u64,
    rules: Rules,
    nodes: Vec<Node>,
    index: HashMap<Uid, Index>,
    inbox: Vec<Message>,
    stirred: Vec<Index>,
    sending: Vec<Index>,
    wakes: BTreeMap<u64, Vec<Index>>,
    relayed: HashSet<(Index, Index)>,
    relayed_bytes: u64,
}

impl World {
    /// An empty one for a package whose shards have these lengths.
    #[must_use]
    pub fn new(sizes: &[u32], step_ms: u64, seed: u64, rules: Rules) -> Self {
        Self {
            sizes: sizes.to_vec(),
            step_ms,
            now_ms: 0,
            steps: 0,
            seed,
            rules,
            nodes: Vec::new(),
            index: HashMap::new(),
            inbox: Vec::new(),
            stirred: Vec::new(),
            sending: Vec::new(),
            wakes: BTreeMap::new(),
            relayed: HashSet::new(),
            relayed_bytes: 0,
        }
    }

    /// Adds a node; an origin has everything, a device nothing. It is connected to nobody yet.
    ///
    /// # Errors
    /// [`InvalidPackage`], for the world's lengths.
    pub fn add(&mut self, uid: Uid, spec: Spec) -> Result<Index, InvalidPackage> {
        let count = self.sizes.len();
        let have = if spec.role == Role::Origin { Bits::all(count) } else { Bits::none(count) };
        let seed = self.seed.wrapping_add((self.nodes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.index.insert(uid, self.nodes.len());
        self.nodes.push(Node {
            spec,
            uid,
            swarm: Swarm::new(&self.sizes, &have, u64::MAX / 2, seed)?.with_rules(self.rules),
            uplink: Uplink::new(&self.sizes, &have, spec.role, spec.slots)?,
            neighbours: Vec::new(),
            asks: BTreeMap::new(),
            flows: Vec::new(),
            online: true,
            done_ms: (spec.role == Role::Origin).then_some(0),
            sent: 0,
            stirred: false,
            sending: false,
            wake_ms: u64::MAX,
            down_left: 0,
            down_step: u64::MAX,
        });
        Ok(self.nodes.len() - 1)
    }

    /// Connects two nodes; `lan` if both are in the same local network. Returns whether both had room.
    pub fn connect(&mut self, a: Index, b: Index, lan: bool) -> bool {
        if a == b || self.nodes[a].neighbours.contains(&b) {
            return false;
        }
        for (at, other) in [(a, b), (b, a)] {
            let kind = match (self.nodes[other].spec.role, lan) {
                (Role::Origin, _) => Kind::Origin,
                (Role::Device, true) => Kind::Lan,
                (Role::Device, false) => Kind::Wan,
            };
            let (uid, has) = (self.nodes[other].uid, self.nodes[other].swarm.have().clone());
            let now = self.now_ms;
            let node = &mut self.nodes[at];
            let room = node.swarm.joined(uid, kind, &has, now) && node.uplink.joined(uid, &has);
            node.neighbours.push(other);
            if !room {
                self.part(a, b);
                return false;
            }
            self.stir(at);
        }
        true
    }

    /// What these two send each other goes over a relay, and is counted.
    pub fn relay(&mut self, a: Index, b: Index) {
        self.relayed.insert((a.min(b), a.max(b)));
    }

    /// Bytes that went over relays.
    #[must_use]
    pub fn relayed_bytes(&self) -> u64 {
        self.relayed_bytes
    }

    /// Ends the connection of two nodes.
    pub fn part(&mut self, a: Index, b: Index) {
        for (at, other) in [(a, b), (b, a)] {
            let uid = self.nodes[other].uid;
            let node = &mut self.nodes[at];
            node.swarm.left(&uid);
            node.uplink.left(&uid);
            node.asks.retain(|_, (to, _)| *to != other);
            node.flows.retain(|flow| flow.to != other);
            node.neighbours.retain(|neighbour| *neighbour != other);
            self.stir(at);
        }
    }

    /// Takes a node out of the network. What it has, it keeps.
    pub fn leave(&mut self, node: Index) {
        self.nodes[node].online = false;
        for other in self.nodes[node].neighbours.clone() {
            self.part(node, other);
        }
    }

    /// Puts a node back; it is connected to nobody.
    pub fn come_back(&mut self, node: Index) {
        self.nodes[node].online = true;
        self.stir(node);
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// When a node had everything.
    #[must_use]
    pub fn done_ms(&self, node: Index) -> Option<u64> {
        self.nodes[node].done_ms
    }

    /// How many shards a node has.
    #[must_use]
    pub fn shards(&self, node: Index) -> usize {
        self.nodes[node].swarm.have().count()
    }

    /// Bytes that a node sent, what nobody used included.
    #[must_use]
    pub fn sent_bytes(&self, node: Index) -> u64 {
        self.nodes[node].sent
    }

    /// With whom a node is connected.
    #[must_use]
    pub fn neighbours(&self, node: Index) -> &[Index] {
        &self.nodes[node].neighbours
    }

    /// The receiving half of a node.
    #[must_use]
    pub fn swarm(&self, node: Index) -> &Swarm {
        &self.nodes[node].swarm
    }

    /// Whether nothing is on its way and nobody waits: only the clock or a new connection changes anything.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.inbox.is_empty() && self.stirred.is_empty() && self.sending.is_empty() && self.wakes.is_empty()
    }

    /// Puts the clock forward over a quiet time.
    pub fn skip_to(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// One step. Returns who got the last shard in it.
    pub fn step(&mut self) -> Vec<Index> {
        self.now_ms += self.step_ms;
        self.steps += 1;
        for message in std::mem::take(&mut self.inbox) {
            self.deliver(message);
        }
        while let Some(entry) = self.wakes.first_entry().filter(|entry| *entry.key() <= self.now_ms) {
            let (at, nodes) = entry.remove_entry();
            for node in nodes {
                if self.nodes[node].wake_ms == at {
                    self.nodes[node].wake_ms = u64::MAX;
                    self.stir(node);
                }
            }
        }
        for node in std::mem::take(&mut self.stirred) {
            self.nodes[node].stirred = false;
            if self.nodes[node].online {
                self.think(node);
            }
        }
        self.transfer()
    }

    fn stir(&mut self, node: Index) {
        if !std::mem::replace(&mut self.nodes[node].stirred, true) {
            self.stirred.push(node);
        }
    }

    fn deliver(&mut self, Message { from, to, news }: Message) {
        if !self.nodes[to].online || !self.nodes[to].neighbours.contains(&from) {
            return;
        }
        let now = self.now_ms;
        let uid = self.nodes[from].uid;
        let node = &mut self.nodes[to];
        match news {
            News::Ask(ask, want) => match node.uplink.ask(&uid, want, now) {
                Ok(id) => {
                    node.asks.insert(id, (from, ask));
                }
                Err(why) => {
                    self.inbox.push(Message { from: to, to: from, news: News::Refused(ask, why) });
                    return;
                }
            },
            News::Cancel(ask) => {
                let found = node.asks.iter().find(|(_, asked)| **asked == (from, ask)).map(|(id, _)| *id);
                if let Some(id) = found {
                    node.asks.remove(&id);
                    node.flows.retain(|flow| flow.id != id);
                    node.uplink.cancel(id);
                }
            }
            News::Have(shard) => {
                node.swarm.has(&uid, shard);
                node.uplink.has(&uid, shard);
            }
            News::Refused(ask, why) => node.swarm.failed(ask, why, now),
        }
        self.stir(to);
    }

    /// Does what a node's two halves say.
    fn think(&mut self, at: Index) {
        let now = self.now_ms;
        if !self.nodes[at].swarm.is_complete() {
            for action in self.nodes[at].swarm.next(now) {
                let (peer, news) = match action {
                    Action::Ask(ask) => (ask.peer, News::Ask(ask.id, ask.want)),
                    Action::Cancel { id, peer } => (peer, News::Cancel(id)),
                };
                if let Some(&to) = self.index.get(&peer) {
                    self.inbox.push(Message { from: at, to, news });
                }
            }
        }
        self.turns(at);
        let node = &mut self.nodes[at];
        let wakes = [node.swarm.wake_ms(now), node.uplink.wake_ms(now)];
        let Some(wake) = wakes.into_iter().flatten().min() else { return };
        let wake = wake.max(now + 1);
        if wake < node.wake_ms {
            node.wake_ms = wake;
            self.wakes.entry(wake).or_default().push(at);
        }
    }

    fn turns(&mut self, at: Index) {
        let node = &mut self.nodes[at];
        for turn in node.uplink.next(self.now_ms) {
            match turn {
                Turn::Serve { id, shard, .. } => {
                    let Some(&(to, ask)) = node.asks.get(&id) else { continue };
                    let left = u64::from(self.sizes[shard as usize]);
                    node.flows.push(Flow { id, to, ask, shard, left, began: false });
                }
                Turn::Refuse { id, why, .. } => {
                    let Some((to, ask)) = node.asks.remove(&id) else { continue };
                    self.inbox.push(Message { from: at, to, news: News::Refused(ask, why) });
                }
            }
        }
        if !self.nodes[at].flows.is_empty() && !std::mem::replace(&mut self.nodes[at].sending, true) {
            self.sending.push(at);
        }
    }

    /// Moves the bytes of one step.
    fn transfer(&mut self) -> Vec<Index> {
        let mut done = Vec::new();
        let mut senders = std::mem::take(&mut self.sending);
        // Nobody is always first at the links of those who receive.
        if !senders.is_empty() {
            let turn = usize::try_from(self.steps).unwrap_or(0) % senders.len();
            senders.rotate_left(turn);
        }
        for &at in &senders {
            if self.nodes[at].online && self.nodes[at].spec.manner != Manner::Stalls {
                let step = self.nodes[at].spec.up * self.step_ms / 1_000;
                self.send(at, step, &mut done);
            }
        }
        for at in senders {
            self.nodes[at].sending = !self.nodes[at].flows.is_empty();
            if self.nodes[at].sending {
                self.sending.push(at);
            }
        }
        done
    }

    /// Lets a node send `budget` bytes, shared by what it sends; what ends makes room for what waits.
    fn send(&mut self, at: Index, mut budget: u64, done: &mut Vec<Index>) {
        let mut idle = 0;
        while budget > 0 && idle < self.nodes[at].flows.len() {
            let flows = self.nodes[at].flows.len() - idle;
            let share = budget.div_ceil(flows as u64);
            let place = idle;
            let flow = &self.nodes[at].flows[place];
            let (to, ask, shard, left, began) = (flow.to, flow.ask, flow.shard, flow.left, flow.began);
            if !began {
                self.nodes[at].flows[place].began = true;
                if !self.nodes[to].swarm.started(ask, shard, self.now_ms) {
                    self.stir(to);
                    self.finish(at, place, false);
                    continue;
                }
            }
            let bytes = left.min(share).min(self.receives(to)).min(budget);
            budget -= bytes;
            self.nodes[to].down_left -= bytes;
            self.nodes[at].sent += bytes;
            if !self.relayed.is_empty() && self.relayed.contains(&(at.min(to), at.max(to))) {
                self.relayed_bytes += bytes;
            }
            self.nodes[at].flows[place].left -= bytes;
            self.nodes[to].swarm.progress(ask, bytes, self.now_ms);
            if left > bytes {
                idle += 1;
                continue;
            }
            self.finish(at, place, true);
            if self.nodes[at].spec.manner == Manner::Lies {
                self.nodes[to].swarm.failed(ask, Failure::Wrong, self.now_ms);
            } else if let Some(shard) = self.nodes[to].swarm.got(ask, self.now_ms) {
                self.gained(to, shard, done);
            }
            self.stir(to);
        }
    }

    fn receives(&mut self, at: Index) -> u64 {
        let node = &mut self.nodes[at];
        if node.down_step != self.steps {
            node.down_step = self.steps;
            node.down_left = node.spec.down.saturating_mul(self.step_ms) / 1_000;
        }
        node.down_left
    }

    fn finish(&mut self, at: Index, place: usize, whole: bool) {
        let flow = self.nodes[at].flows.remove(place);
        self.nodes[at].asks.remove(&flow.id);
        self.nodes[at].uplink.ended(flow.id, whole, self.now_ms);
        self.turns(at);
    }

    fn gained(&mut self, at: Index, shard: u32, done: &mut Vec<Index>) {
        self.nodes[at].uplink.gained(shard);
        let neighbours = self.nodes[at].neighbours.iter();
        self.inbox.extend(neighbours.map(|&to| Message { from: at, to, news: News::Have(shard) }));
        if self.nodes[at].swarm.is_complete() && self.nodes[at].done_ms.is_none() {
            self.nodes[at].done_ms = Some(self.now_ms);
            done.push(at);
        }
    }
}
