//! The mesh as one handle: start it, ask it, listen to its events, stop it.
//!
//! What survives a stay in the background (keys, friends, messages, transfers, the bootstrap
//! table) lives in [`Mesh`]; what belongs to one stay in the network (endpoint, directory, links,
//! relay) lives in [`Online`] and is made anew when the node comes back.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ioex_base::{ContentAddress, GrantId, NodeKey, Tag, Uid, UnixSeconds};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bootstraps::{self, Entry, Source},
    clock,
    config::MeshConfig,
    directory::{Directory, server::Memory},
    door::{self, Ask, Budgets, Pass, Refusal, Standing},
    events::{EVENTS_MAX, MeshEvent},
    forward::Forwards,
    friends::{Book, pairing, presence::Wake},
    host::Host,
    links::{LinkError, LinkInfo, Links},
    messages::Outbox,
    names::BootstrapAddr,
    network_time::NetworkTime,
    online::{Online, OnlineError},
    proto::Join,
    questions::Responder,
    random,
    session::Registry,
    state::{SINGLES, State, StateError},
    transfer::Offers,
    updates::Updates,
};

const TABLE_KEY: &[u8] = b"bootstraps";
/// Warnings kept for the owner.
const WARNINGS_MAX: usize = 50;
/// Instances of a friend that are remembered.
const INSTANCES_KEPT: usize = 4;
/// Pause before the network is tried again when a new stay did not begin.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
/// How long tasks may take to end when the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a mesh did not start.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The network cannot be used.
    #[error(transparent)]
    Online(#[from] OnlineError),
}

/// A node's place in the mesh. Clones are the same node.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    config: MeshConfig,
    state: Arc<State>,
    host: Arc<dyn Host>,
    book: Arc<Book>,
    outbox: Outbox,
    offers: Offers,
    registry: Arc<Registry>,
    forwards: Forwards,
    pair_window: Mutex<pairing::Window>,
    budgets: Mutex<Budgets>,
    memory: Mutex<Memory>,
    table: Mutex<bootstraps::Table>,
    time: Mutex<NetworkTime>,
    events: broadcast::Sender<MeshEvent>,
    warnings: Mutex<Vec<String>>,
    online: RwLock<Option<Online>>,
    /// One arrival or departure at a time.
    moving: tokio::sync::Mutex<()>,
    standing: Mutex<Reached>,
    joined: AtomicBool,
    instance: [u8; 16],
    /// The last instances of each friend, newest last.
    instances: Mutex<HashMap<Uid, Vec<[u8; 16]>>>,
    /// Friends that said hello on a link that is still open.
    present: Mutex<BTreeSet<Uid>>,
    presence: Notify,
    wake: Mutex<Wake>,
    publish: Notify,
    discover: Notify,
    announce: Notify,
    announce_soon: Mutex<BTreeSet<ContentAddress>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Replies to friends' questions.
    responder: OnceLock<Arc<dyn Responder>>,
    /// Decides and answers what is asked about updates. It holds this mesh, so this mesh does not hold it.
    updates: OnceLock<Weak<dyn Updates>>,
}

/// What of the network this stay has reached.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    /// This node is a bootstrap.
    pub(crate) bootstrap: bool,
    /// The home relay is connected.
    pub(crate) relay: bool,
    /// Other nodes of the DHT are known.
    pub(crate) dht: bool,
    /// The record was published.
    pub(crate) published: bool,
    /// It was published with a home.
    pub(crate) published_home: bool,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("uid", &self.uid()).finish_non_exhaustive()
    }
}

fn unpoison<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mesh {
    /// Opens the state and joins the network.
    ///
    /// # Errors
    /// When the state file is in use or damaged, or a port cannot be used. An unreachable network
    /// is no error: the node keeps trying.
    pub async fn start(config: MeshConfig, host: Arc<dyn Host>) -> Result<Self, MeshError> {
        std::fs::create_dir_all(&config.dir).map_err(StateError::Io)?;
        let state = Arc::new(State::open(&config.dir.join("mesh.redb"))?);
        let mut table: bootstraps::Table = state.get(SINGLES, TABLE_KEY)?.unwrap_or_default();
        table.demote_seeds();
        for seed in &config.seeds {
            table.learn(*seed, Source::Seed, clock::unix());
        }
        let forwards = Forwards::default();
        forwards.allow(config.forward_allow.clone());
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let inner = Inner {
            book: Arc::new(Book::open(state.clone())?),
            outbox: Outbox::from_state(&state)?,
            offers: Offers::open(state.clone())?,
            state,
            host,
            registry: Arc::default(),
            forwards,
            pair_window: Mutex::default(),
            budgets: Mutex::default(),
            memory: Mutex::default(),
            table: Mutex::new(table),
            time: Mutex::default(),
            events,
            warnings: Mutex::default(),
            online: RwLock::new(None),
            moving: tokio::sync::Mutex::default(),
            standing: Mutex::default(),
            joined: AtomicBool::new(false),
            instance: random::bytes(),
            instances: Mutex::default(),
            present: Mutex::default(),
            presence: Notify::new(),
            wake: Mutex::default(),
            publish: Notify::new(),
            discover: Notify::new(),
            announce: Notify::new(),
            announce_soon: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            responder: OnceLock::new(),
            updates: OnceLock::new(),
            config,
        };
        let mesh = Self { inner: Arc::new(inner) };
        mesh.go_online().await?;
        Ok(mesh)
    }

    /// Joins the network, if the node is not in it.
    ///
    /// # Errors
    /// When a port cannot be used.
    pub async fn go_online(&self) -> Result<(), OnlineError> {
        let _moving = self.inner.moving.lock().await;
        self.enter().await
    }

    async fn enter(&self) -> Result<(), OnlineError> {
        if self.online_lock().is_some() || self.inner.stop.is_cancelled() {
            return Ok(());
        }
        let (online, dialled) = Online::start(self).await?;
        *self.inner.online.write().unwrap_or_else(PoisonError::into_inner) = Some(online);
        Online::run(self, dialled);
        self.start_all_incoming();
        Ok(())
    }

    /// Leaves the network: a phone in the background. State stays.
    pub async fn go_offline(&self) {
        let _moving = self.inner.moving.lock().await;
        self.leave().await;
    }

    async fn leave(&self) {
        let online = self.inner.online.write().unwrap_or_else(PoisonError::into_inner).take();
        self.offers().stop_all();
        if let Some(online) = online {
            online.stop().await;
        }
        self.reached(|r| *r = Reached::default());
        for uid in std::mem::take(&mut *self.present()) {
            self.emit(MeshEvent::FriendConnection { uid, online: false, path: crate::links::PathKind::None });
        }
    }

    /// Ends this stay in the network, if it still lasts, and begins another. Nobody comes between.
    pub(crate) async fn restart(&self, stay: CancellationToken) {
        let _moving = self.inner.moving.lock().await;
        if stay.is_cancelled() {
            return;
        }
        self.leave().await;
        while let Err(e) = self.enter().await {
            self.warn(format!("the network cannot be used after a relay was lost: {e}; trying again"));
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = tokio::time::sleep(RESTART_PAUSE) => {}
            }
        }
    }

    /// Leaves the network and ends all tasks. The folder is free for another start then.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.go_offline().await;
        self.save_table();
        self.inner.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        let state = self.inner.state.clone();
        // Waits for writes under way; a panic there was reported already.
        let _ = tokio::task::spawn_blocking(move || state.close()).await;
    }

    /// Who this node is.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.inner.config.key.uid()
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &MeshConfig {
        &self.inner.config
    }

    pub(crate) fn key(&self) -> &NodeKey {
        &self.inner.config.key
    }

    /// Everything that happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<MeshEvent> {
        self.inner.events.subscribe()
    }

    pub(crate) fn emit(&self, event: MeshEvent) {
        // Nobody listening is fine.
        let _ = self.inner.events.send(event);
    }

    /// Tells the owner something, in the log, the events and the status.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::warn!("{text}");
        let mut warnings = unpoison(&self.inner.warnings);
        if warnings.last() != Some(&text) {
            if warnings.len() >= WARNINGS_MAX {
                warnings.remove(0);
            }
            warnings.push(text.clone());
        }
        drop(warnings);
        self.emit(MeshEvent::Warning(text));
    }

    /// What the owner was told lately.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        unpoison(&self.inner.warnings).clone()
    }

    /// Whether the node is in the network.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.inner.joined.load(Ordering::Relaxed)
    }

    /// Notes what of the network was reached. A device has joined when others can find it: over
    /// its home relay, or by the DHT alone. A bootstrap alone is a network of one.
    pub(crate) fn reached(&self, note: impl FnOnce(&mut Reached)) {
        let joined = {
            let mut reached = unpoison(&self.inner.standing);
            note(&mut reached);
            let found = if reached.relay { reached.published_home } else { reached.dht && reached.published };
            found || reached.bootstrap
        };
        if self.inner.joined.swap(joined, Ordering::Relaxed) != joined {
            self.emit(MeshEvent::Joined(joined));
        }
    }

    pub(crate) fn present(&self) -> MutexGuard<'_, BTreeSet<Uid>> {
        unpoison(&self.inner.present)
    }

    /// Whether the node left the network on purpose.
    #[must_use]
    pub fn offline(&self) -> bool {
        self.online_lock().is_none()
    }

    /// The home bootstrap.
    #[must_use]
    pub fn home(&self) -> Option<BootstrapAddr> {
        self.online_lock().as_ref().and_then(Online::home)
    }

    /// The addresses where this node says it can be reached directly.
    #[must_use]
    pub fn direct_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.online_lock().as_ref().map(Online::addresses).unwrap_or_default()
    }

    /// All bootstraps that this node knows, best first.
    #[must_use]
    pub fn bootstraps(&self) -> Vec<Entry> {
        unpoison(&self.inner.table).ranked().into_iter().cloned().collect()
    }

    /// What time it is by the clocks of the bootstraps: the median of the dates under which they
    /// signed their records, late by some minutes. `None` when none was heard since the start.
    #[must_use]
    pub fn network_time(&self) -> Option<UnixSeconds> {
        unpoison(&self.inner.time).now(clock::monotonic_ms())
    }

    /// Notes when bootstraps signed their records; what is not known as one does not count.
    pub(crate) fn note_dates(&self, dates: &[(Uid, u64)]) {
        let now_ms = clock::monotonic_ms();
        let table = self.table();
        let mut time = unpoison(&self.inner.time);
        for (uid, date_ms) in dates.iter().filter(|(uid, _)| table.get(uid).is_some()) {
            time.note(*uid, *date_ms, now_ms);
        }
    }

    /// Open connections.
    #[must_use]
    pub fn link_list(&self) -> Vec<LinkInfo> {
        self.links().map(|l| l.list()).unwrap_or_default()
    }

    /// What a bootstrap remembers for others: records, contents. In memory only.
    #[must_use]
    pub fn memory_len(&self) -> (usize, usize) {
        unpoison(&self.inner.memory).len()
    }

    /// The directory.
    ///
    /// # Errors
    /// When the node left the network.
    pub fn directory(&self) -> Result<Arc<Directory>, LinkError> {
        self.online_lock().as_ref().map(|o| o.directory.clone()).ok_or(LinkError::Offline)
    }

    /// What the network looks like: UDP works, the NAT kind, the public address.
    pub async fn netcheck(&self) -> Option<crate::online::Netcheck> {
        crate::online::netcheck(self).await
    }

    /// Asks a friend to answer; returns the round trip.
    ///
    /// # Errors
    /// When the friend cannot be reached.
    pub async fn ping(&self, uid: Uid) -> Result<Duration, LinkError> {
        let links = self.links()?;
        // The connection's set-up is not part of the round trip.
        links.get(uid, door::Door::Friend).await?;
        let started = std::time::Instant::now();
        match links.ask::<()>(uid, door::Door::Friend, &crate::proto::Open::Ping).await? {
            crate::proto::Answer::Yes(()) => Ok(started.elapsed()),
            crate::proto::Answer::No(no) => Err(LinkError::Broken(no.to_string())),
        }
    }

    /// Decides whether `caller` may; see [`door::authorise`].
    pub(crate) fn authorise(&self, caller: &Uid, ask: &Ask<'_>) -> Result<Pass, Refusal> {
        let mut budgets = unpoison(&self.inner.budgets);
        door::authorise(caller, ask, self, &mut budgets, clock::unix(), clock::monotonic_ms())
    }

    fn online_lock(&self) -> std::sync::RwLockReadGuard<'_, Option<Online>> {
        self.inner.online.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn links(&self) -> Result<Arc<Links>, LinkError> {
        self.online_lock().as_ref().map(|o| o.links.clone()).ok_or(LinkError::Offline)
    }

    pub(crate) fn with_online<T>(&self, look: impl FnOnce(&Online) -> T) -> Option<T> {
        self.online_lock().as_ref().map(look)
    }

    pub(crate) fn book(&self) -> &Arc<Book> {
        &self.inner.book
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.inner.outbox
    }

    pub(crate) fn offers(&self) -> &Offers {
        &self.inner.offers
    }

    pub(crate) fn state(&self) -> &Arc<State> {
        &self.inner.state
    }

    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        &self.inner.host
    }

    pub(crate) fn updates_slot(&self) -> &OnceLock<Weak<dyn Updates>> {
        &self.inner.updates
    }

    pub(crate) fn updates(&self) -> Option<Arc<dyn Updates>> {
        self.inner.updates.get()?.upgrade()
    }

    pub(crate) fn responder(&self) -> &OnceLock<Arc<dyn Responder>> {
        &self.inner.responder
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    pub(crate) fn forwards_state(&self) -> &Forwards {
        &self.inner.forwards
    }

    pub(crate) fn pair_window(&self) -> MutexGuard<'_, pairing::Window> {
        unpoison(&self.inner.pair_window)
    }

    pub(crate) fn budgets(&self) -> MutexGuard<'_, Budgets> {
        unpoison(&self.inner.budgets)
    }

    pub(crate) fn memory(&self) -> &Mutex<Memory> {
        &self.inner.memory
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, bootstraps::Table> {
        unpoison(&self.inner.table)
    }

    /// Writes the bootstrap table; a failure costs the next start a little time.
    pub(crate) fn save_table(&self) {
        let table = self.table().clone();
        if let Err(e) = self.inner.state.put(SINGLES, TABLE_KEY, &table) {
            self.warn(format!("the bootstrap table could not be written: {e}"));
        }
    }

    pub(crate) fn instance(&self) -> [u8; 16] {
        self.inner.instance
    }

    /// Notes a friend's instance; true when it was replaced and now comes back: a restarted node
    /// never does that, two nodes with one key do.
    pub(crate) fn note_instance(&self, uid: Uid, instance: [u8; 16]) -> bool {
        let mut all = unpoison(&self.inner.instances);
        let known = all.entry(uid).or_default();
        if known.last() == Some(&instance) {
            return false;
        }
        let came_back = known.contains(&instance);
        if known.len() >= INSTANCES_KEPT {
            known.remove(0);
        }
        known.push(instance);
        came_back
    }

    /// Runs a task that ends by itself when the node leaves the network or its work is done.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// The same, for who may end the task earlier.
    pub(crate) fn spawn_abortable(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        self.inner.tasks.spawn(task).abort_handle()
    }

    /// Ends when the node leaves the network, at the latest.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.with_online(|o| o.cancel.child_token()).unwrap_or_else(|| self.inner.stop.child_token())
    }

    /// Ends when the node stops.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.inner.stop.child_token()
    }

    /// The network is another one: all friends are tried at once.
    pub(crate) fn wake_presence(&self) {
        unpoison(&self.inner.wake).all = true;
        self.inner.presence.notify_one();
    }

    /// Something changed about a friend: it is tried at once.
    pub(crate) fn wake_presence_for(&self, uid: Uid) {
        unpoison(&self.inner.wake).uids.insert(uid);
        self.inner.presence.notify_one();
    }

    pub(crate) async fn presence_woken(&self) -> Wake {
        self.inner.presence.notified().await;
        std::mem::take(&mut *unpoison(&self.inner.wake))
    }

    /// Brings a friend what waits for it, in the background.
    pub(crate) fn deliver_to(&self, uid: Uid) {
        let mesh = self.clone();
        self.spawn(async move {
            mesh.provider_is_back(uid);
            tokio::join!(mesh.flush_offers(uid), mesh.flush_messages(uid));
        });
    }

    /// Something happened that may need fresh measurements of the network.
    pub(crate) fn stir(&self) {
        if let Some(online) = self.online_lock().as_ref() {
            online.rest.stir();
        }
    }

    /// Whether the node rests: it keeps its home and links, and measures nothing until something
    /// happens.
    #[must_use]
    pub fn resting(&self) -> bool {
        self.with_online(|o| o.rest.resting()).unwrap_or(false)
    }

    /// Publishes the own record again.
    pub(crate) fn wake_publish(&self) {
        self.inner.publish.notify_one();
    }

    pub(crate) async fn publish_woken(&self) {
        self.inner.publish.notified().await;
    }

    /// Looks for bootstraps again.
    pub(crate) fn wake_discover(&self) {
        self.inner.discover.notify_one();
    }

    pub(crate) async fn discover_woken(&self) {
        self.inner.discover.notified().await;
    }

    /// Announces a content that was just stored.
    pub(crate) fn announce_soon(&self, address: ContentAddress) {
        unpoison(&self.inner.announce_soon).insert(address);
        self.inner.announce.notify_one();
    }

    /// Tells the directory anew what this node has room for, because the owner changed it;
    /// `topics` are what it announces itself under besides what it holds.
    pub fn space_changed(&self, topics: &[ContentAddress]) {
        self.wake_publish();
        topics.iter().for_each(|topic| self.announce_soon(*topic));
    }

    pub(crate) fn take_announcements(&self) -> Vec<ContentAddress> {
        std::mem::take(&mut *unpoison(&self.inner.announce_soon)).into_iter().collect()
    }

    pub(crate) async fn announce_woken(&self) {
        self.inner.announce.notified().await;
    }
}

impl Standing for Mesh {
    fn is_friend(&self, uid: &Uid) -> bool {
        self.book().admits(uid)
    }
    fn serves_directory(&self) -> bool {
        !self.config().kind_takes_friends()
    }
    fn takes_friends(&self) -> bool {
        self.config().kind_takes_friends()
    }
    fn tag(&self) -> Tag {
        self.book().tag()
    }
    fn pairing_open(&self) -> bool {
        self.pair_window().is_open(clock::unix())
    }
    fn lends_space(&self) -> bool {
        self.host().lends_space()
    }
    fn availability(&self) -> crate::host::Availability {
        self.host().availability()
    }
    fn accepts_authority(&self, issuer: &Uid) -> bool {
        self.host().accepts_authority(issuer)
    }
    fn is_revoked(&self, issuer: &Uid, id: &GrantId) -> bool {
        self.host().is_revoked(issuer, id)
    }
    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool {
        self.host().is_reader(address, reader)
    }
    fn exchanges(&self) -> bool {
        self.updates().is_some_and(|u| u.exchanges())
    }
    fn carries(&self, address: &ContentAddress) -> bool {
        self.updates().is_some_and(|u| u.carries(address))
    }
    fn on_roster(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        self.updates().is_some_and(|u| u.on_roster(manifest, caller))
    }
    fn on_a_roster(&self, caller: &Uid) -> bool {
        self.updates().is_some_and(|u| u.on_a_roster(caller))
    }
    fn is_co_matcher(&self, channel: &ContentAddress, caller: &Uid) -> bool {
        self.updates().is_some_and(|u| u.is_co_matcher(channel, caller))
    }
    fn admits(&self, caller: &Uid, join: &Join) -> bool {
        self.updates().is_some_and(|u| u.admits(caller, join))
    }
    fn has_joined(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        self.updates().is_some_and(|u| u.has_joined(manifest, caller))
    }
}

/// The receiving half of the links that this node dialled.
pub(crate) type Dialled = mpsc::Receiver<(door::Door, iroh::endpoint::Connection)>;
