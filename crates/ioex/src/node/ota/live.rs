//! A package as this node exchanges it with others just now: who has what, who is served, who is told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ioex_base::Uid;
use ioex_net::{
    PathKind,
    door::Refusal,
    proto::{Joined, NEWS_MAX, News, No, ShardAsk, ShardWant},
    updates::Serving,
};
use ioex_ota::{
    swarm::{Bits, Failure, Kind, NEIGHBOURS_MAX, Role, ServeId, Turn, Uplink, WAIT_MAX_MS, Want},
    tills::{VoucherName, Withheld},
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{package::Package, shelf::Shelf, tills::Counter};
use crate::node::lock;

/// When a guest that owes a receipt is to ask again, in ms.
const RECEIPT_WAIT_MS: u32 = 500;
/// When a guest is to ask again for which nothing is left of the owner's cap, in ms.
const CAP_WAIT_MS: u32 = 60_000;

/// Monotonic milliseconds of this process.
pub(super) fn now_ms() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Whether a peer on this path is in the same local network.
pub(super) fn kind_of(path: &PathKind, origin: bool) -> Kind {
    let near = |ip: std::net::IpAddr| match ip.to_canonical() {
        std::net::IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    match path {
        _ if origin => Kind::Origin,
        PathKind::Direct(addr) if near(addr.ip()) => Kind::Lan,
        _ => Kind::Wan,
    }
}

/// Somebody who is told what this node has. What it was not told yet waits until there is room.
struct Teller {
    to: mpsc::Sender<News>,
    behind: Vec<u32>,
}

impl Teller {
    /// False when it is gone.
    fn flush(&mut self) -> bool {
        while !self.behind.is_empty() {
            let count = self.behind.len().min(NEWS_MAX);
            match self.to.try_send(News { have: self.behind[..count].to_vec() }) {
                Ok(()) => drop(self.behind.drain(..count)),
                Err(mpsc::error::TrySendError::Full(_)) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
        }
        !self.to.is_closed()
    }
}

/// Which half of a relation: they came to this node, or this node went to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// They joined here.
    Came,
    /// This node joined there.
    Went,
}

struct State {
    have: Bits,
    uplink: Uplink,
    turns: HashMap<ServeId, oneshot::Sender<Result<u32, Failure>>>,
    tellers: HashMap<(Uid, Side), Teller>,
    /// Who came, and how often: a second connection may begin before the first one ends.
    guests: HashMap<Uid, u32>,
    sent_bytes: u64,
}

/// One package in exchange.
pub(crate) struct Live {
    pub(crate) package: Package,
    shelf: Shelf,
    /// What guests with a voucher get and owe.
    counter: Arc<Counter>,
    state: Mutex<State>,
    /// Guests that a download may ask, too.
    newcomers: Mutex<Vec<Uid>>,
    pub(super) stirred: Notify,
}

impl Live {
    pub(super) fn new(
        package: Package,
        shelf: Shelf,
        counter: Arc<Counter>,
        slots: u16,
    ) -> Result<Arc<Self>, String> {
        let have = package.held(&shelf);
        let role = if package.origin { Role::Origin } else { Role::Device };
        let uplink = Uplink::new(&package.sizes(), &have, role, slots).map_err(|e| e.to_string())?;
        let (turns, tellers, guests) = (HashMap::new(), HashMap::new(), HashMap::new());
        let state = State { have, uplink, turns, tellers, guests, sent_bytes: 0 };
        Ok(Arc::new(Self {
            package,
            shelf,
            counter,
            state: Mutex::new(state),
            newcomers: Mutex::default(),
            stirred: Notify::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What is here.
    pub(crate) fn have(&self) -> Bits {
        self.lock().have.clone()
    }

    /// Bytes that went out.
    #[cfg(feature = "super")]
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.lock().sent_bytes
    }

    /// How many are served at once from now on.
    pub(crate) fn set_slots(&self, slots: u16) {
        self.lock().uplink.set_slots(slots);
        self.turn();
    }

    /// A shard is on the shelf now.
    pub(super) fn gained(&self, shard: u32) {
        let mut state = self.lock();
        if !state.have.insert(shard) {
            return;
        }
        state.uplink.gained(shard);
        state.tellers.retain(|_, teller| {
            teller.behind.push(shard);
            teller.flush()
        });
        drop(state);
        self.turn();
    }

    /// Tells those who were behind.
    pub(super) fn flush(&self) {
        self.lock().tellers.retain(|_, teller| teller.flush());
    }

    /// Tells a peer from now on. What came between its first answer and now is not lost: `known` is
    /// what it was told then.
    pub(super) fn tell(&self, peer: Uid, side: Side, known: &Bits, to: mpsc::Sender<News>) {
        let mut state = self.lock();
        let behind = state.have.minus(known).iter().collect();
        let mut teller = Teller { to, behind };
        if teller.flush() {
            state.tellers.insert((peer, side), teller);
        }
    }

    pub(super) fn untell(&self, peer: Uid, side: Side) {
        self.lock().tellers.remove(&(peer, side));
    }

    /// Whether somebody came and is still here.
    pub(super) fn is_guest(&self, peer: &Uid) -> bool {
        self.lock().guests.contains_key(peer)
    }

    /// Guests since the last call.
    pub(super) fn newcomers(&self) -> Vec<Uid> {
        std::mem::take(&mut *lock(&self.newcomers))
    }

    /// Somebody came.
    pub(super) fn joined(&self, peer: Uid, has: &[u8], to: mpsc::Sender<News>) -> Result<Joined, No> {
        let has = Bits::from_bytes(self.package.shards().len(), has).map_err(|_| No::BadRequest)?;
        let mut state = self.lock();
        if !state.uplink.joined(peer, &has) {
            return Err(No::Busy { after_ms: u32::try_from(WAIT_MAX_MS).unwrap_or(u32::MAX) });
        }
        *state.guests.entry(peer).or_default() += 1;
        let have = state.have.clone();
        state.tellers.insert((peer, Side::Came), Teller { to, behind: Vec::new() });
        drop(state);
        let mut newcomers = lock(&self.newcomers);
        // Only a download asks for them.
        if newcomers.len() < NEIGHBOURS_MAX && !newcomers.contains(&peer) {
            newcomers.push(peer);
        }
        drop(newcomers);
        self.stirred.notify_one();
        Ok(Joined { have: have.to_bytes(), origin: self.package.origin, certificate: Vec::new() })
    }

    pub(super) fn news(&self, peer: &Uid, news: &News) {
        let mut state = self.lock();
        for shard in &news.have {
            state.uplink.has(peer, *shard);
        }
        drop(state);
        self.turn();
    }

    pub(super) fn parted(&self, peer: &Uid) {
        let mut state = self.lock();
        let last = state.guests.get_mut(peer).is_none_or(|count| {
            *count -= 1;
            *count == 0
        });
        if last {
            state.guests.remove(peer);
            self.counter.went(peer, &self.package.address);
            state.tellers.remove(&(*peer, Side::Came));
            for id in state.uplink.left(peer) {
                state.turns.remove(&id);
            }
        }
        drop(state);
        self.turn();
    }

    /// Gives turns to whoever has one now.
    fn turn(&self) {
        let mut state = self.lock();
        for turn in state.uplink.next(now_ms()) {
            let (id, told) = match turn {
                Turn::Serve { id, shard, .. } => (id, Ok(shard)),
                Turn::Refuse { id, why, .. } => (id, Err(why)),
            };
            let waits = state.turns.remove(&id);
            // Whoever went away meanwhile frees its place.
            if waits.is_none_or(|waits| waits.send(told).is_err()) && told.is_ok() {
                state.uplink.ended(id, false, now_ms());
            }
        }
    }

    /// What a guest's credential leaves of its wish, and the voucher under which that is counted.
    fn allowed(&self, peer: &Uid, want: Want) -> Result<(Want, Option<VoucherName>), No> {
        let allowed = self.counter.allows(peer, &self.package.address).map_err(|why| match why {
            Withheld::Owes => No::Busy { after_ms: RECEIPT_WAIT_MS },
            Withheld::UsedUp => (&Refusal::NoAuthority).into(),
        })?;
        let shards = allowed.shards;
        let want = match want {
            Want::Shard(shard) if !shards.contains(&shard) => return Err((&Refusal::Exceeds).into()),
            Want::Shard(shard) => Want::Shard(shard),
            Want::LeastServed(bits) => {
                let mut inside = Bits::none(self.package.shards().len());
                for shard in bits.iter().filter(|shard| shards.contains(shard)) {
                    inside.insert(shard);
                }
                Want::LeastServed(inside)
            }
        };
        Ok((want, allowed.voucher))
    }

    /// Waits for a guest's turn.
    pub(super) async fn serve(self: Arc<Self>, peer: Uid, ask: ShardAsk) -> Result<Serving, No> {
        let want = match ask.want {
            ShardWant::One(shard) => Want::Shard(shard),
            ShardWant::Least(bits) => {
                let bits = Bits::from_bytes(self.package.shards().len(), &bits);
                Want::LeastServed(bits.map_err(|_| No::BadRequest)?)
            }
        };
        let (want, voucher) = self.allowed(&peer, want)?;
        let (tell, mut told) = oneshot::channel();
        let id = {
            let mut state = self.lock();
            let id = state.uplink.ask(&peer, want, now_ms()).map_err(refusal)?;
            state.turns.insert(id, tell);
            id
        };
        let mut place = Place { live: self.clone(), id, peer, voucher, bytes: 0, left: u64::MAX };
        self.turn();
        // What becomes ready, or waits too long, is answered by the same rule, which has to be asked then.
        let told = loop {
            let now = now_ms();
            let wake = self.lock().uplink.wake_ms_of(id, now).unwrap_or(now);
            let pause = Duration::from_millis(wake.saturating_sub(now) + 1);
            match tokio::time::timeout(pause, &mut told).await {
                Ok(told) => break told.map_err(|_| No::Failed)?,
                Err(_) => self.turn(),
            }
        };
        let shard = told.map_err(refusal)?;
        let known = *self.package.shards().get(shard as usize).ok_or(No::Failed)?;
        if !self.counter.spend(known.bytes) {
            return Err(No::Busy { after_ms: CAP_WAIT_MS });
        }
        let shelf = self.shelf.clone();
        let opened = tokio::task::spawn_blocking(move || shelf.open_shard(&known.address)).await;
        let file = opened.map_err(|_| No::Failed)?.map_err(|_| No::Failed)?.ok_or(No::NotFound)?;
        (place.left, place.bytes) = (u64::from(known.bytes), known.bytes);
        let note = Box::new(move |sent: u64| place.sent(sent));
        Ok(Serving { shard, file, bytes: known.bytes, note })
    }
}

/// A place in the queue, or at being served. Given back when dropped.
struct Place {
    live: Arc<Live>,
    id: ServeId,
    peer: Uid,
    /// Under which it is counted.
    voucher: Option<VoucherName>,
    /// The shard's length.
    bytes: u32,
    /// Bytes that have not gone yet.
    left: u64,
}

impl Place {
    fn sent(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.live.lock().sent_bytes += bytes;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.live.lock();
        state.turns.remove(&self.id);
        if self.left == 0 {
            if let Some(voucher) = &self.voucher {
                self.live.counter.sent(&self.peer, &self.live.package.address, voucher, self.bytes);
            }
            state.uplink.ended(self.id, true, now_ms());
        } else {
            state.uplink.cancel(self.id);
        }
        drop(state);
        self.live.turn();
    }
}

fn refusal(why: Failure) -> No {
    let short = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
    match why {
        Failure::Busy { after_ms } => No::Busy { after_ms: short(after_ms) },
        Failure::Nothing { after_ms } => No::Nothing { after_ms: short(after_ms) },
        Failure::Wrong | Failure::Broken => No::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_the_local_network() {
        let direct = |addr: &str| kind_of(&PathKind::Direct(addr.parse().unwrap()), false);
        for near in [
            "10.1.2.3:4",
            "192.168.0.9:4",
            "127.0.0.1:4",
            "[fe80::1]:4",
            "[fd00::1]:4",
            "[::ffff:10.0.0.1]:4",
        ] {
            assert_eq!(direct(near), Kind::Lan, "{near}");
        }
        for far in ["203.0.113.7:4", "100.64.0.1:4", "[2001:db8::1]:4"] {
            assert_eq!(direct(far), Kind::Wan, "{far}");
        }
        let near = PathKind::Direct("10.1.2.3:4".parse().unwrap());
        assert_eq!(kind_of(&near, true), Kind::Origin, "the maker's node is spared wherever it is");
    }
}
