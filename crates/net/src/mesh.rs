//! The mesh as one handle: start it, ask it, listen to its events, stop it.
//!
//! What survives a stay in the background (keys, friends, messages, transfers, the bootstrap
//! table) lives in [`Mesh`]; what belongs to one stay in the network (endpoint, directory, links,
//! relay) lives in [`Online`] and is made anew when the node comes back.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ioex_base::{ContentAddress, GrantId, NodeKey, Tag, Uid};
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
    friends::{Book, pairing},
    host::Host,
    links::{LinkError, LinkInfo, Links},
    messages::Outbox,
    names::BootstrapAddr,
    online::{Online, OnlineError},
    random,
    session::Registry,
    state::{SINGLES, State, StateError},
    transfer::Offers,
};

const TABLE_KEY: &[u8] = b"bootstraps";
/// Warnings kept for the owner.
const WARNINGS_MAX: usize = 50;
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
    book: Book,
    outbox: Outbox,
    offers: Offers,
    registry: Arc<Registry>,
    forwards: Forwards,
    pair_window: Mutex<pairing::Window>,
    budgets: Mutex<Budgets>,
    memory: Mutex<Memory>,
    table: Mutex<bootstraps::Table>,
    events: broadcast::Sender<MeshEvent>,
    warnings: Mutex<Vec<String>>,
    online: RwLock<Option<Online>>,
    joined: AtomicBool,
    instance: [u8; 16],
    instances: Mutex<HashMap<Uid, [u8; 16]>>,
    presence: Notify,
    announce: Notify,
    announce_soon: Mutex<BTreeSet<ContentAddress>>,
    flushing: Mutex<BTreeSet<Uid>>,
    tasks: TaskTracker,
    stop: CancellationToken,
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
            book: Book::open(state.clone())?,
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
            events,
            warnings: Mutex::default(),
            online: RwLock::new(None),
            joined: AtomicBool::new(false),
            instance: random::bytes(),
            instances: Mutex::default(),
            presence: Notify::new(),
            announce: Notify::new(),
            announce_soon: Mutex::default(),
            flushing: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
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
        if self.online_lock().is_some() {
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
        let online = self.inner.online.write().unwrap_or_else(PoisonError::into_inner).take();
        self.offers().stop_all();
        if let Some(online) = online {
            online.stop().await;
        }
        self.set_joined(false);
    }

    /// Leaves the network and ends all tasks.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.go_offline().await;
        self.save_table();
        self.inner.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
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

    pub(crate) fn set_joined(&self, joined: bool) {
        if self.inner.joined.swap(joined, Ordering::Relaxed) != joined {
            self.emit(MeshEvent::Joined(joined));
        }
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
        let endpoint = self.online_lock().as_ref().map(|o| o.endpoint.clone())?;
        crate::online::netcheck(&endpoint).await
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

    pub(crate) fn book(&self) -> &Book {
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

    /// Notes a friend's instance; true when another one with the same key is connected too.
    pub(crate) fn note_instance(&self, uid: Uid, instance: [u8; 16]) -> bool {
        let before = unpoison(&self.inner.instances).insert(uid, instance);
        let other = before.is_some_and(|b| b != instance);
        // A restarted friend has a new instance too, but its old links are gone by then.
        other && self.links().is_ok_and(|l| l.list().iter().filter(|l| l.uid == uid).count() > 1)
    }

    /// Runs a task that ends by itself when the node leaves the network or its work is done.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    /// Ends when the node leaves the network, at the latest.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.with_online(|o| o.cancel.child_token()).unwrap_or_else(|| self.inner.stop.child_token())
    }

    pub(crate) fn wake_presence(&self) {
        self.inner.presence.notify_one();
    }

    pub(crate) async fn presence_woken(&self) {
        self.inner.presence.notified().await;
    }

    /// Brings a friend what waits for it, in the background.
    pub(crate) fn deliver_to(&self, uid: Uid) {
        let mesh = self.clone();
        self.spawn(async move {
            mesh.provider_is_back(uid);
            mesh.flush_offers(uid).await;
            mesh.flush_messages(uid).await;
        });
    }

    /// One delivery to a friend at a time; the guard ends the turn.
    pub(crate) fn flush_turn(&self, uid: Uid) -> Option<FlushTurn> {
        let begun = unpoison(&self.inner.flushing).insert(uid);
        begun.then(|| FlushTurn { mesh: self.clone(), uid })
    }

    /// Announces a content that was just stored.
    pub(crate) fn announce_soon(&self, address: ContentAddress) {
        unpoison(&self.inner.announce_soon).insert(address);
        self.inner.announce.notify_one();
    }

    pub(crate) fn take_announcements(&self) -> Vec<ContentAddress> {
        std::mem::take(&mut *unpoison(&self.inner.announce_soon)).into_iter().collect()
    }

    pub(crate) async fn announce_woken(&self) {
        self.inner.announce.notified().await;
    }
}

/// See [`Mesh::flush_turn`].
pub(crate) struct FlushTurn {
    mesh: Mesh,
    uid: Uid,
}

impl Drop for FlushTurn {
    fn drop(&mut self) {
        unpoison(&self.mesh.inner.flushing).remove(&self.uid);
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
    fn accepts_authority(&self, issuer: &Uid) -> bool {
        self.host().accepts_authority(issuer)
    }
    fn is_revoked(&self, id: &GrantId) -> bool {
        self.host().is_revoked(id)
    }
    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool {
        self.host().is_reader(address, reader)
    }
}

/// The receiving half of the links that this node dialled.
pub(crate) type Dialled = mpsc::Receiver<(door::Door, iroh::endpoint::Connection)>;
