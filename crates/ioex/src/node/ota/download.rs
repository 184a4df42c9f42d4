//! Getting a package: from whom is [`Swarm`]'s rule, here the questions are asked.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use ioex_base::{ContentAddress, Uid};
use ioex_net::{
    LinkError, Mesh, PathKind,
    proto::{Join, No, ShardAsk, ShardHead, ShardWant},
    transfer::FetchError,
    updates::Exchange,
};
use ioex_ota::{
    policy::{EFFORT_MAX_TENTHS, Hold},
    swarm::{Action, Ask, AskId, Bits, Failure, NEIGHBOURS_MAX, Swarm, Want},
};
use ioex_vault::limits::PACKAGE_SHARD_BYTES;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    live::{Live, Side, kind_of, lock, now_ms},
    shelf::Shelf,
};

/// Longest shard of a package in bytes: padding of the largest one included.
const SHARD_BYTES_MAX: u32 = PACKAGE_SHARD_BYTES as u32;
/// Neighbours that are dialled at once.
const DIALS_AT_ONCE: usize = 16;
/// With fewer neighbours than this, more are looked for.
const NEIGHBOURS_WANTED: usize = 12;
/// How often more are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A neighbour that could not be reached is tried again after this time.
const DIAL_AGAIN_MS: u64 = 20_000;
/// Without any neighbour for so long, an attempt has failed.
const ALONE_MAX: Duration = Duration::from_secs(60);
/// Without a new shard for so long, an attempt has failed.
const STUCK_MAX: Duration = Duration::from_secs(300);
/// How often what passes without an event is looked at.
const TICK: Duration = Duration::from_millis(250);

/// A node that may be asked, and what it wants to see.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) uid: Uid,
    pub(crate) issuer: Uid,
    pub(crate) credential: Vec<u8>,
    /// Whether the matcher calls it the maker's.
    pub(crate) origin: bool,
}

/// Where candidates come from: matchers, the directory, guests.
pub(crate) trait Sources: Send + Sync + 'static {
    /// More of them. Called now and then while neighbours are few.
    fn more(&self) -> std::pin::Pin<Box<dyn Future<Output = Vec<Candidate>> + Send + '_>>;
    /// What lets this node in at a guest, without a matcher.
    fn pass_for(&self, uid: Uid) -> Option<Candidate>;
    /// Whether the owner still allows it, given the bytes of this attempt so far.
    fn allowed(&self, bytes: u64) -> Result<(), Hold>;
}

/// What came so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Came {
    /// Bytes on the shelf that were there before or came.
    pub(crate) done: u64,
    /// Bytes of the package on the wire.
    pub(crate) total: u64,
    /// Verified bytes from the origin, the local network, other devices, and over relays (whoever sent them).
    pub(crate) by_source: [u64; 4],
    /// Bytes that were of no use.
    pub(crate) wasted: u64,
    /// Nodes connected now.
    pub(crate) neighbours: usize,
}

impl Came {
    /// Everything that came over the network in this attempt.
    pub(crate) fn fetched(&self) -> u64 {
        // Relayed bytes are among the first three.
        self.by_source[..3].iter().sum::<u64>() + self.wasted
    }
}

/// Why it did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    /// Nobody.
    #[error("no node that provides the package could be reached")]
    Alone,
    /// Nothing for long.
    #[error("no provider sent anything useful for {} s", STUCK_MAX.as_secs())]
    Stuck,
    /// The bound of bytes was reached.
    #[error("what came was wrong or incomplete until {}% of the package were fetched", EFFORT_MAX_TENTHS * 10)]
    Budget,
    /// The owner.
    #[error("held back: {0}")]
    Hold(#[from] Hold),
    /// This side's disk.
    #[error("a shard cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// A package that makes no sense.
    #[error("{0}")]
    Package(String),
    /// Stopped.
    #[error("stopped")]
    Stopped,
}

/// One attempt.
pub(crate) struct Download {
    mesh: Mesh,
    live: Arc<Live>,
    shelf: Shelf,
    swarm: Mutex<Swarm>,
    wake: Notify,
    relayed: Mutex<u64>,
    broken: Mutex<Option<std::io::Error>>,
}

enum Dialled {
    Joined(Uid, Box<Exchange>),
    Failed(Uid),
}

impl Download {
    /// Prepares one; `budget` bounds what may come over the network, in bytes.
    ///
    /// # Errors
    /// [`DownloadError::Package`].
    pub(crate) fn new(
        mesh: Mesh,
        live: Arc<Live>,
        shelf: Shelf,
        budget: u64,
        seed: u64,
    ) -> Result<Arc<Self>, DownloadError> {
        let swarm = Swarm::new(&live.package.sizes(), &live.have(), budget, seed);
        let swarm = Mutex::new(swarm.map_err(|e| DownloadError::Package(e.to_string()))?);
        let (relayed, broken) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { mesh, live, shelf, swarm, wake: Notify::new(), relayed, broken }))
    }

    /// What came so far.
    pub(crate) fn came(&self) -> Came {
        let swarm = lock(&self.swarm);
        let sizes = self.live.package.shards();
        let done = swarm.have().iter().filter_map(|shard| sizes.get(shard as usize));
        let totals = swarm.totals();
        Came {
            done: done.map(|shard| u64::from(shard.bytes)).sum(),
            total: self.live.package.manifest.stored_bytes(),
            by_source: [totals.origin, totals.lan, totals.wan, *lock(&self.relayed)],
            wasted: totals.wasted,
            neighbours: 0,
        }
    }

    /// Runs until everything is there; `progress` is told now and then.
    ///
    /// # Errors
    /// [`DownloadError`]. What came stays.
    pub(crate) async fn run(
        self: &Arc<Self>,
        sources: Arc<dyn Sources>,
        progress: impl Fn(Came),
        stop: &CancellationToken,
    ) -> Result<Came, DownloadError> {
        let mut known: HashMap<Uid, Candidate> = HashMap::new();
        let mut waiting: Vec<Uid> = Vec::new();
        let mut not_before: HashMap<Uid, u64> = HashMap::new();
        let mut neighbours: HashSet<Uid> = HashSet::new();
        let mut dialling: HashSet<Uid> = HashSet::new();
        let mut dials: JoinSet<Dialled> = JoinSet::new();
        let mut links: JoinSet<Uid> = JoinSet::new();
        let mut looking: JoinSet<Vec<Candidate>> = JoinSet::new();
        let mut look_at = tokio::time::Instant::now();
        let mut alone_since = tokio::time::Instant::now();
        let mut useful = (self.came().done, tokio::time::Instant::now());
        let mut asks: HashMap<AskId, AbortHandle> = HashMap::new();
        let mut running: JoinSet<()> = JoinSet::new();
        loop {
            if let Some(error) = lock(&self.broken).take() {
                return Err(error.into());
            }
            let (complete, exhausted) = {
                let swarm = lock(&self.swarm);
                (swarm.is_complete(), swarm.is_exhausted())
            };
            let mut came = self.came();
            came.neighbours = neighbours.len();
            progress(came);
            if complete {
                self.live.flush();
                return Ok(came);
            }
            if exhausted && running.is_empty() {
                return Err(DownloadError::Budget);
            }
            sources.allowed(came.fetched())?;
            let now = tokio::time::Instant::now();
            if came.done > useful.0 {
                useful = (came.done, now);
            }
            if !neighbours.is_empty() {
                alone_since = now;
            }
            if now - alone_since > ALONE_MAX {
                return Err(DownloadError::Alone);
            }
            if now - useful.1 > STUCK_MAX {
                return Err(DownloadError::Stuck);
            }
            // Who came here can be asked, too.
            for uid in self.live.newcomers() {
                if let Some(candidate) = sources.pass_for(uid).filter(|_| !known.contains_key(&uid)) {
                    known.insert(uid, candidate);
                    waiting.push(uid);
                }
            }
            if neighbours.len() < NEIGHBOURS_WANTED && looking.is_empty() && now >= look_at {
                look_at = now + LOOK_EVERY;
                let sources = sources.clone();
                looking.spawn(async move { sources.more().await });
            }
            let at = now_ms();
            while dials.len() < DIALS_AT_ONCE && neighbours.len() + dials.len() < NEIGHBOURS_MAX {
                let ready = |uid: &Uid| not_before.get(uid).is_none_or(|from| *from <= at);
                let Some(place) = waiting.iter().position(ready) else { break };
                let uid = waiting.swap_remove(place);
                if neighbours.contains(&uid) || !dialling.insert(uid) {
                    continue;
                }
                if let Some(candidate) = known.get(&uid).cloned() {
                    dials.spawn(self.clone().dial(candidate));
                }
            }
            let actions = lock(&self.swarm).next(at);
            for action in actions {
                match action {
                    Action::Ask(ask) => {
                        let id = ask.id;
                        asks.insert(id, running.spawn(self.clone().ask(ask)));
                    }
                    Action::Cancel { id, .. } => {
                        if let Some(handle) = asks.remove(&id) {
                            handle.abort();
                        }
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Err(DownloadError::Stopped),
                () = self.wake.notified() => {}
                () = self.live.stirred.notified() => {}
                Some(found) = looking.join_next() => {
                    for candidate in found.unwrap_or_default() {
                        let uid = candidate.uid;
                        if uid != self.mesh.uid() && !neighbours.contains(&uid) && !dialling.contains(&uid) {
                            waiting.retain(|other| *other != uid);
                            waiting.push(uid);
                        }
                        known.insert(uid, candidate);
                    }
                }
                Some(dialled) = dials.join_next() => match dialled {
                    Ok(Dialled::Joined(uid, exchange)) => {
                        dialling.remove(&uid);
                        neighbours.insert(uid);
                        links.spawn(self.clone().listen(uid, exchange));
                    }
                    Ok(Dialled::Failed(uid)) => {
                        dialling.remove(&uid);
                        not_before.insert(uid, now_ms() + DIAL_AGAIN_MS);
                        waiting.push(uid);
                    }
                    Err(_) => {}
                },
                Some(ended) = links.join_next() => if let Ok(uid) = ended {
                    neighbours.remove(&uid);
                    lock(&self.swarm).left(&uid);
                    self.live.untell(uid, Side::Went);
                    not_before.insert(uid, now_ms() + DIAL_AGAIN_MS);
                    waiting.push(uid);
                },
                Some(_) = running.join_next() => asks.retain(|_, handle| !handle.is_finished()),
                () = tokio::time::sleep(TICK) => self.live.flush(),
            }
        }
    }

    async fn dial(self: Arc<Self>, candidate: Candidate) -> Dialled {
        let uid = candidate.uid;
        let told = self.live.have();
        let join = Join {
            manifest: self.live.package.address,
            issuer: candidate.issuer,
            credential: candidate.credential,
            have: told.to_bytes(),
        };
        let exchange = match self.mesh.exchange_join(uid, join).await {
            Ok(exchange) => exchange,
            Err(e) => {
                tracing::debug!("{} does not exchange the package: {e}", uid.short());
                return Dialled::Failed(uid);
            }
        };
        let Ok(has) = Bits::from_bytes(self.live.package.shards().len(), &exchange.joined.have) else {
            return Dialled::Failed(uid);
        };
        // Only whom a matcher calls the maker's is spared like it.
        let origin =
            exchange.joined.origin && (candidate.origin || self.live.package.matchers.contains(&uid));
        let kind = kind_of(&exchange.path, origin);
        if !lock(&self.swarm).joined(uid, kind, &has, now_ms()) {
            return Dialled::Failed(uid);
        }
        self.live.tell(uid, Side::Went, &told, exchange.tell.clone());
        Dialled::Joined(uid, Box::new(exchange))
    }

    /// Hears what a neighbour has, until it goes.
    async fn listen(self: Arc<Self>, uid: Uid, mut exchange: Box<Exchange>) -> Uid {
        while let Some(news) = exchange.news.recv().await {
            let mut swarm = lock(&self.swarm);
            news.have.iter().for_each(|shard| swarm.has(&uid, *shard));
            drop(swarm);
            self.wake.notify_one();
        }
        uid
    }

    /// One question and its answer.
    async fn ask(self: Arc<Self>, ask: Ask) {
        let Ask { id, peer, want } = ask;
        let want = match want {
            Want::Shard(shard) => ShardWant::One(shard),
            Want::LeastServed(bits) => ShardWant::Least(bits.to_bytes()),
        };
        let question = ShardAsk { manifest: self.live.package.address, want };
        let begun = |head: ShardHead| lock(&self.swarm).started(id, head.shard, now_ms());
        let came = |bytes| lock(&self.swarm).progress(id, bytes, now_ms());
        match self.mesh.exchange_shard(peer, question, SHARD_BYTES_MAX, begun, came).await {
            Ok((head, bytes, path)) => self.keep(id, head, bytes, &path).await,
            // It was told off already.
            Err(FetchError::Stopped) => {}
            Err(e) => {
                tracing::debug!("{} sent no shard: {e}", peer.short());
                lock(&self.swarm).failed(id, failure(&e), now_ms());
            }
        }
        self.wake.notify_one();
    }

    async fn keep(&self, id: AskId, head: ShardHead, bytes: Vec<u8>, path: &PathKind) {
        let Some(known) = self.live.package.shards().get(head.shard as usize).copied() else { return };
        let shelf = self.shelf.clone();
        let length = bytes.len() as u64;
        let kept = tokio::task::spawn_blocking(move || {
            if bytes.len() != known.bytes as usize || ContentAddress::of(&bytes) != known.address {
                return Ok(false);
            }
            shelf.put(&known.address, &bytes).map(|()| true)
        });
        match kept.await {
            Ok(Ok(true)) => {
                if let Some(shard) = lock(&self.swarm).got(id, now_ms()) {
                    if matches!(path, PathKind::Relayed(_)) {
                        *lock(&self.relayed) += length;
                    }
                    self.live.gained(shard);
                }
            }
            Ok(Ok(false)) => {
                tracing::info!("a provider sent wrong bytes for shard {}", head.shard);
                lock(&self.swarm).failed(id, Failure::Wrong, now_ms());
            }
            Ok(Err(e)) => {
                lock(&self.swarm).failed(id, Failure::Broken, now_ms());
                *lock(&self.broken) = Some(e);
            }
            Err(_) => lock(&self.swarm).failed(id, Failure::Broken, now_ms()),
        }
    }
}

fn failure(e: &FetchError) -> Failure {
    match e {
        FetchError::No(No::Busy { after_ms }) => Failure::Busy { after_ms: u64::from(*after_ms) },
        FetchError::No(No::Nothing { after_ms }) => Failure::Nothing { after_ms: u64::from(*after_ms) },
        FetchError::WrongBytes => Failure::Wrong,
        FetchError::Link(LinkError::Timeout) | _ => Failure::Broken,
    }
}
