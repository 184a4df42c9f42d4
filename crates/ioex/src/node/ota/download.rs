//! Getting a package: from whom is [`Swarm`]'s rule, here the questions are asked.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use ioex_base::{
    ContentAddress, Sealed as _, Uid,
    receipt::{Address, SignedReceipt},
};
use ioex_net::{
    Mesh, PathKind,
    proto::{Join, No, ShardAsk, ShardHead, ShardWant},
    transfer::FetchError,
    updates::Exchange,
};
use ioex_ota::{
    policy::{EFFORT_MAX_TENTHS, Hold},
    receipts::{Tab, UNRECEIPTED_MAX_BYTES},
    swarm::{Action, Ask, AskId, Bits, Failure, NEIGHBOURS_MAX, Swarm, Want},
    voucher::Voucher,
};
use ioex_vault::limits::PACKAGE_SHARD_BYTES;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    live::{Live, Side, kind_of, now_ms},
    receipts::{self, DOMAIN, Receipts},
    room::NoRoom,
    shelf::Shelf,
};
use crate::node::{files, lock};

/// Longest shard of a package in bytes: padding of the largest one included.
pub(super) const SHARD_BYTES_MAX: u32 = PACKAGE_SHARD_BYTES as u32;
/// Neighbours that are dialled at once.
const DIALS_AT_ONCE: usize = 16;
/// Until who does not have what it said is asked for something else.
const LACKS_PAUSE_MS: u64 = 250;
/// With fewer neighbours than this, more are looked for.
const NEIGHBOURS_WANTED: usize = 12;
/// With so many neighbours only origins are still dialled: each says what it has, shard by shard. Half as many made a
/// swarm of 32 devices take a third more copies from the origin, because what others had was not seen.
const NEIGHBOURS_ENOUGH: usize = 32;
const _: () = assert!(NEIGHBOURS_WANTED < NEIGHBOURS_ENOUGH && NEIGHBOURS_ENOUGH < NEIGHBOURS_MAX);
/// When more are looked for, the first time after the beginning. Each time it takes twice as long: what a matcher tells one
/// device is counted, and whom it named may still come.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Longest time until more are looked for.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(600);
/// A neighbour that could not be reached is tried again after this time.
const DIAL_AGAIN_MS: u64 = 20_000;
/// Without any neighbour for so long, an attempt has failed.
const ALONE_MAX: Duration = Duration::from_secs(60);
/// Without a new shard for so long, an attempt has failed.
const STUCK_MAX: Duration = Duration::from_secs(300);
/// A provider is signed for after so many bytes: it waits for that after twice as many.
const RECEIPT_EVERY_BYTES: u64 = UNRECEIPTED_MAX_BYTES / 2;
/// How often progress is told: each time costs whoever follows more than a shard does.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How long the last receipts may take.
const SETTLE_MAX: Duration = Duration::from_secs(5);
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
    /// More of them. Called now and then while `neighbours` are few.
    fn more(&self, neighbours: usize) -> std::pin::Pin<Box<dyn Future<Output = Vec<Candidate>> + Send + '_>>;
    /// What lets this node in at a guest, without a matcher.
    fn pass_for(&self, uid: Uid) -> Option<Candidate>;
    /// Whether there will be no more: every matcher said that it is over, and nothing else lets this node in anywhere.
    fn is_closed(&self) -> bool;
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
    /// Nobody, and why no matcher named one.
    #[error("no node that provides the package could be reached; {0}")]
    Unmatched(String),
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
    /// A disk of this device's.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
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
    receipts: Arc<Receipts>,
    tabs: Mutex<HashMap<Uid, Account>>,
    broken: Mutex<Option<std::io::Error>>,
}

/// What this node owes a provider a receipt for.
struct Account {
    tab: Tab,
    /// The voucher's.
    serial: u64,
    /// With which account the provider signs.
    provider: Address,
    /// Bytes since the last receipt.
    open: u64,
    /// A receipt is on its way.
    busy: bool,
    /// The last one that both signed.
    signed: Option<SignedReceipt>,
}

enum Dialled {
    Joined(Uid, Box<Exchange>),
    Failed(Uid),
}

impl Download {
    /// Prepares one; `budget` bounds what may come over the network, in bytes. Shards in `spared` are not needed.
    ///
    /// # Errors
    /// [`DownloadError::Package`].
    pub(crate) fn new(
        mesh: Mesh,
        live: Arc<Live>,
        shelf: Shelf,
        receipts: Arc<Receipts>,
        spared: &Bits,
        budget: u64,
        seed: u64,
    ) -> Result<Arc<Self>, DownloadError> {
        let mut done = live.have();
        done.add(spared);
        let swarm = Swarm::new(&live.package.sizes(), &done, budget, seed);
        let swarm = Mutex::new(swarm.map_err(|e| DownloadError::Package(e.to_string()))?);
        let (relayed, broken) = (Mutex::default(), Mutex::default());
        let (wake, tabs) = (Notify::new(), Mutex::default());
        Ok(Arc::new(Self { mesh, live, shelf, swarm, wake, relayed, receipts, tabs, broken }))
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

    /// The attempt failed: what was under way counts as well. Returns what came in all.
    pub(crate) fn give_up(&self) -> Came {
        lock(&self.swarm).give_up();
        self.came()
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
        let (mut look_at, mut look_again) = (tokio::time::Instant::now(), LOOK_AGAIN);
        let mut was_quiet = true;
        let mut alone_since = tokio::time::Instant::now();
        let mut useful = (self.came().done, tokio::time::Instant::now());
        let mut told_at = tokio::time::Instant::now();
        let mut allowed_at = tokio::time::Instant::now();
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
            if complete || told_at.elapsed() >= TELL_EVERY {
                told_at = tokio::time::Instant::now();
                progress(came);
            }
            if complete {
                self.live.flush();
                self.settle_all().await;
                return Ok(came);
            }
            if exhausted && running.is_empty() {
                return Err(DownloadError::Budget);
            }
            let now = tokio::time::Instant::now();
            // The answer comes from files of the system's, which take longer than all else here.
            if now >= allowed_at {
                allowed_at = now + TICK;
                sources.allowed(came.fetched())?;
            }
            if came.done > useful.0 {
                useful = (came.done, now);
            }
            if !neighbours.is_empty() {
                alone_since = now;
            }
            // Who becomes alone, or gets nothing any more, looks sooner again.
            let quiet = neighbours.is_empty() || now - useful.1 > ALONE_MAX;
            if quiet && !was_quiet {
                look_again = LOOK_AGAIN;
                look_at = look_at.min(now + LOOK_AGAIN);
            }
            was_quiet = quiet;
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
                look_at = now + look_again;
                look_again = (look_again * 2).min(LOOK_AGAIN_MAX);
                let (sources, neighbours) = (sources.clone(), neighbours.len());
                looking.spawn(async move { sources.more(neighbours).await });
            }
            let at = now_ms();
            while dials.len() < DIALS_AT_ONCE && neighbours.len() + dials.len() < NEIGHBOURS_MAX {
                let ready = |uid: &Uid| not_before.get(uid).is_none_or(|from| *from <= at);
                let origin = |uid: &Uid| known.get(uid).is_some_and(|candidate| candidate.origin);
                let room = neighbours.len() + dials.len() < NEIGHBOURS_ENOUGH;
                let first = waiting.iter().position(|uid| ready(uid) && origin(uid));
                let Some(place) = first.or_else(|| waiting.iter().position(ready).filter(|_| room)) else {
                    break;
                };
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
                    let nobody = neighbours.is_empty() && dialling.is_empty() && waiting.is_empty();
                    if nobody && sources.is_closed() {
                        return Err(DownloadError::Alone);
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
        let voucher = Voucher::unseal(&candidate.credential, &candidate.issuer).ok();
        let join = Join {
            manifest: self.live.package.address,
            issuer: candidate.issuer,
            credential: candidate.credential,
            have: told.to_bytes(),
            certificate: self.receipts.certificate(),
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
        let provider = Receipts::account(&exchange.joined.certificate, &uid, files::now());
        if let Some((voucher, provider)) = voucher.zip(provider) {
            let serial = voucher.serial;
            let tab = Tab::new(voucher, self.live.package.shards().len());
            let account = Account { tab, serial, provider, open: 0, busy: false, signed: None };
            let mut tabs = lock(&self.tabs);
            // Under the same voucher the sum goes on; a new one begins anew, as at the other end.
            if tabs.get(&uid).is_none_or(|old| old.serial != serial) {
                tabs.insert(uid, account);
            }
        }
        // What is asked from a device is named; only an origin chooses, and has to know what is missing here.
        if exchange.joined.origin {
            self.live.tell(uid, Side::Went, &told, exchange.tell.clone());
        }
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
        let begun = |head: ShardHead| {
            let known = self.live.package.shards().get(head.shard as usize);
            let mut swarm = lock(&self.swarm);
            // The budget has room for the shard, and for nothing longer.
            if known.is_none_or(|known| known.bytes != head.bytes) {
                swarm.failed(id, Failure::Wrong, now_ms());
                return false;
            }
            swarm.started(id, head.shard, now_ms())
        };
        let came = |bytes| lock(&self.swarm).progress(id, bytes, now_ms());
        match self.mesh.exchange_shard(peer, question, SHARD_BYTES_MAX, begun, came).await {
            Ok((head, bytes, path)) => self.keep(id, peer, head, bytes, &path).await,
            // It was told off already.
            Err(FetchError::Stopped) => {}
            Err(e) => {
                tracing::debug!("{} sent no shard: {e}", peer.short());
                lock(&self.swarm).failed(id, failure(&e), now_ms());
            }
        }
        self.wake.notify_one();
    }

    async fn keep(self: &Arc<Self>, id: AskId, peer: Uid, head: ShardHead, bytes: Vec<u8>, path: &PathKind) {
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
                self.owe(peer, head.shard, known.bytes);
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

impl Download {
    /// A verified shard came from a provider, also one that another sent meanwhile.
    fn owe(self: &Arc<Self>, peer: Uid, shard: u32, bytes: u32) {
        let mut tabs = lock(&self.tabs);
        let Some(account) = tabs.get_mut(&peer) else { return };
        account.tab.verified(shard, bytes);
        account.open += u64::from(bytes);
        if account.open >= RECEIPT_EVERY_BYTES && !account.busy {
            account.busy = true;
            drop(tabs);
            let own = self.clone();
            tokio::spawn(async move { own.settle(peer).await });
        }
    }

    /// Signs for what came from a provider, and keeps what it signed, too.
    async fn settle(&self, peer: Uid) {
        let (signed, open, provider) = {
            let mut tabs = lock(&self.tabs);
            let Some(account) = tabs.get_mut(&peer) else { return };
            account.busy = true;
            let signed = account.tab.receipt(&DOMAIN, &self.receipts.key, files::now());
            (signed, account.open, account.provider)
        };
        let told = self.mesh.exchange_receipt(peer, receipts::encode(&signed)).await;
        let both = told.ok().and_then(|bytes| receipts::decode(&bytes)).filter(|both| {
            both.receipt == signed.receipt
                && both.provider.is_some()
                && both.check(&DOMAIN, &self.receipts.key.address(), &provider).is_ok()
        });
        if let Some(both) = both.clone() {
            let receipts = self.receipts.clone();
            let keep = move || receipts.keep(receipts::Side::Requester, &both);
            if let Ok(Err(e)) = tokio::task::spawn_blocking(keep).await {
                tracing::warn!("a receipt cannot be kept: {e}");
            }
        }
        let mut tabs = lock(&self.tabs);
        let Some(account) = tabs.get_mut(&peer) else { return };
        account.busy = false;
        match both {
            Some(both) => {
                account.open = account.open.saturating_sub(open);
                account.signed = Some(both);
            }
            None => tracing::debug!("{} took no receipt", peer.short()),
        }
    }

    /// The last receipts, for as long as that may take.
    async fn settle_all(&self) {
        let open = |(uid, account): (&Uid, &Account)| (account.open > 0).then_some(*uid);
        let owing: Vec<Uid> = lock(&self.tabs).iter().filter_map(open).collect();
        let all = async {
            for uid in owing {
                self.settle(uid).await;
            }
        };
        if tokio::time::timeout(SETTLE_MAX, all).await.is_err() {
            tracing::debug!("some providers took no receipt in time");
        }
    }

    /// Receipts that both ends signed.
    pub(crate) fn receipts(&self) -> Vec<Vec<u8>> {
        lock(&self.tabs)
            .values()
            .filter_map(|account| account.signed.as_ref())
            .map(receipts::encode)
            .collect()
    }
}

fn failure(e: &FetchError) -> Failure {
    match e {
        FetchError::No(No::Busy { after_ms }) => Failure::Busy { after_ms: u64::from(*after_ms) },
        FetchError::No(No::Nothing { after_ms }) => Failure::Nothing { after_ms: u64::from(*after_ms) },
        // It said that it has it: it is not asked for that one again, but for others.
        FetchError::No(No::NotFound) => Failure::Nothing { after_ms: LACKS_PAUSE_MS },
        FetchError::WrongBytes => Failure::Wrong,
        _ => Failure::Broken,
    }
}
