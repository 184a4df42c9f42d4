//! One stay in the network: the endpoint and the tasks that keep the node reachable.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ioex_base::NodeKind;
use iroh::{
    Endpoint, RelayMap, RelayMode, SecretKey, Watcher,
    dns::DnsResolver,
    endpoint::{PortmapperConfig, presets},
};
use iroh_relay::{RelayConfig as RelayEntry, RelayQuicConfig};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    bootstraps::Source,
    clock,
    directory::{Directory, Lookup, Survey, dht::DhtNode},
    door::{ALPN_FRIEND, ALPN_GRANT, ALPN_PUBLIC, Door},
    events::MeshEvent,
    links::{CLOSE_DONE, Links, brief_config, transport_config},
    mesh::{Dialled, Mesh},
    names::{BootstrapAddr, DHT_PORT_OFFSET, NODE_PORT_OFFSET, NameResolver},
    record::{NodeRecord, RECORD_BOOTSTRAPS_MAX, SignedRecord},
    relay_tls, relay_watch,
    rest::{self, Rest},
    serve,
    state::{self, SINGLES},
};

/// How long connections may take to confirm their end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Changes of the own addresses within this time are published together.
const PUBLISH_SETTLE: Duration = Duration::from_millis(150);
/// Announcements of new shards are collected for this long.
const ANNOUNCE_SETTLE: Duration = Duration::from_millis(100);
/// How often the node looks whether it is still in the network.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A home relay that is unreachable for so long is left, if there is another one: longer than a
/// restart of a connection takes, short enough that a transfer goes on soon.
const HOME_LOST: Duration = Duration::from_secs(2);
/// For so long a node waits for its home relay before the DHT alone counts as having joined.
const HOME_WAIT: Duration = Duration::from_secs(4);
/// A report takes five seconds at most (`iroh::NET_REPORT_TIMEOUT`), and may wait for another one.
const NETCHECK_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_PUBLISHED_KEY: &[u8] = b"last-published-ms";

/// Why the network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OnlineError {
    /// A socket could not be bound.
    #[error("the node's port cannot be used: {0}")]
    Bind(String),
    /// The DHT's socket could not be bound.
    #[error("the DHT's port cannot be used: {0}")]
    Dht(std::io::Error),
    /// A bootstrap needs an address that others can use, and a port.
    #[error("a bootstrap needs a fixed address: give --public-ip (or --bind) and --port")]
    BootstrapAddress,
    /// This program was built without the relay.
    #[error("this program was built for devices: it cannot be a bootstrap")]
    NoRelay,
    /// The relay did not start.
    #[cfg(feature = "bootstrap")]
    #[error(transparent)]
    Relay(#[from] crate::relay::RelayError),
}

/// What the network looks like from here.
#[derive(Clone, Debug)]
pub struct Netcheck {
    /// Whether UDP reaches a bootstrap.
    pub udp: bool,
    /// Whether the NAT maps each destination differently (a symmetric NAT).
    pub varies: Option<bool>,
    /// The public address that bootstraps saw.
    pub public: Option<SocketAddr>,
}

/// The endpoint and what hangs on it.
pub(crate) struct Online {
    pub(crate) endpoint: Endpoint,
    pub(crate) links: Arc<Links>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) cancel: CancellationToken,
    pub(crate) rest: Arc<Rest>,
    lookup: Arc<Lookup>,
    relays: RelayMap,
    #[cfg(feature = "bootstrap")]
    relay: Option<crate::relay::Relay>,
}

fn relay_entry(b: &BootstrapAddr, no_udp: bool) -> RelayEntry {
    let quic = (!no_udp).then(|| RelayQuicConfig::new(b.addr.port()));
    RelayEntry::new(b.relay_url(), quic)
}

impl Online {
    pub(crate) async fn start(mesh: &Mesh) -> Result<(Self, Dialled), OnlineError> {
        let config = mesh.config();
        let own = config.own_bootstrap();
        if !config.kind_takes_friends() && own.is_none() {
            return Err(OnlineError::BootstrapAddress);
        }
        #[cfg(not(feature = "bootstrap"))]
        if own.is_some() {
            return Err(OnlineError::NoRelay);
        }
        #[cfg(feature = "bootstrap")]
        let relay = match own {
            Some(b) => {
                let ip = config.bind.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
                Some(crate::relay::Relay::start(&config.key, (ip, b.addr.port()).into()).await?)
            }
            None => None,
        };
        let active = own.map_or_else(|| mesh.table().active(), |b| vec![b]);
        let relays = RelayMap::empty();
        for b in &active {
            relays.insert(b.relay_url(), Arc::new(relay_entry(b, config.no_udp)));
        }
        let lookup = Arc::new(Lookup::default());
        let port = if own.is_some() { config.port.saturating_add(NODE_PORT_OFFSET) } else { config.port };
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&config.key.seed()))
            .alpns(vec![ALPN_FRIEND.to_vec(), ALPN_GRANT.to_vec(), ALPN_PUBLIC.to_vec()])
            .relay_mode(RelayMode::Custom(relays.clone()))
            .ca_tls_config(relay_tls::client_config())
            .dns_resolver(DnsResolver::custom(NameResolver))
            // A bootstrap only answers short questions.
            .transport_config(if own.is_some() { brief_config() } else { transport_config() });
        // Asking the router makes sense only where there may be one.
        if own.is_some() || config.no_udp || config.bind.is_some_and(|ip| ip.is_loopback()) {
            builder = builder.portmapper_config(PortmapperConfig::Disabled);
        }
        let bind_error = |e: String| OnlineError::Bind(e);
        if config.no_udp {
            builder = builder.clear_ip_transports();
        } else if let Some(ip) = config.bind {
            builder = builder
                .clear_ip_transports()
                .bind_addr(SocketAddr::new(ip, port))
                .map_err(|e| bind_error(format!("{e:#}")))?;
        } else if port != 0 {
            builder = builder
                .bind_addr(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
                .map_err(|e| bind_error(format!("{e:#}")))?;
        }
        if let Some(b) = own {
            builder = builder.external_addr(b.node());
        }
        let endpoint = builder.bind().await.map_err(|e| bind_error(format!("{e:#}")))?;
        let services = endpoint.address_lookup().map_err(|e| bind_error(format!("{e:#}")))?;
        services.add(lookup.clone());
        #[cfg(feature = "lan")]
        if config.lan {
            let own_id = endpoint.id();
            match iroh_mdns_address_lookup::MdnsAddressLookup::builder().build(own_id) {
                Ok(lan) => services.add(lan),
                Err(e) => mesh.warn(format!("looking for nodes on the local network does not work: {e:#}")),
            }
        }
        let dht = Self::start_dht(mesh, own).await?;
        let (dial, dialled) = mpsc::channel(16);
        let rest = Rest::new(config.timing.rest_after);
        let links = Arc::new(Links::new(endpoint.clone(), mesh.book().clone(), rest.clone(), dial));
        let directory = Arc::new(Directory::new(config.key.clone(), links.clone(), lookup.clone(), dht));
        lookup.connect(Arc::downgrade(&directory));
        let online = Self {
            endpoint,
            links,
            directory,
            cancel: CancellationToken::new(),
            rest,
            lookup,
            relays,
            #[cfg(feature = "bootstrap")]
            relay,
        };
        online.use_table(mesh);
        Ok((online, dialled))
    }

    async fn start_dht(mesh: &Mesh, own: Option<BootstrapAddr>) -> Result<Option<DhtNode>, OnlineError> {
        let config = mesh.config();
        if config.no_udp || (!config.dht && own.is_none()) {
            return Ok(None);
        }
        let contacts: Vec<SocketAddr> = {
            let table = mesh.table();
            table
                .ranked()
                .into_iter()
                .map(|e| e.addr.dht())
                .filter(|a| own.is_none_or(|b| b.dht() != *a))
                .collect()
        };
        let port = own.map_or(0, |b| b.addr.port().saturating_add(DHT_PORT_OFFSET));
        DhtNode::start(port, &contacts, own.is_some()).map(Some).map_err(OnlineError::Dht)
    }

    /// Starts the tasks of this stay.
    pub(crate) fn run(mesh: &Mesh, mut dialled: Dialled) {
        let Some((endpoint, cancel)) = mesh.with_online(|o| (o.endpoint.clone(), o.cancel.clone())) else {
            return;
        };
        let own = mesh.clone();
        mesh.spawn(async move { serve::run(own, endpoint).await });
        let (own, ended) = (mesh.clone(), cancel.clone());
        mesh.spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    Some(_) = running.join_next() => {}
                    Some((door, conn)) = dialled.recv() => {
                        if door == Door::Friend {
                            let (mesh, conn) = (own.clone(), conn.clone());
                            running.spawn(async move {
                                if let Err(e) = mesh.greet(&conn).await {
                                    tracing::debug!("no hello from {}: {e}", conn.remote_id().fmt_short());
                                }
                            });
                        }
                        running.spawn(serve::serve_connection(own.clone(), door, conn));
                    }
                }
            }
        });
        let (own, ended) = (mesh.clone(), cancel.clone());
        mesh.spawn(async move { ended.run_until_cancelled(watch_home(own)).await.unwrap_or(()) });
        let (own, ended) = (mesh.clone(), cancel.clone());
        mesh.spawn(async move { ended.run_until_cancelled(publish(own)).await.unwrap_or(()) });
        let (own, ended) = (mesh.clone(), cancel.clone());
        mesh.spawn(async move { ended.run_until_cancelled(discover(own)).await.unwrap_or(()) });
        let (own, ended) = (mesh.clone(), cancel.clone());
        mesh.spawn(async move { announce(own, ended).await });
        if mesh.config().kind_takes_friends() {
            let own = mesh.clone();
            mesh.spawn(crate::friends::presence::run(own, cancel.clone()));
            let (own, ended) = (mesh.clone(), cancel.clone());
            mesh.spawn(async move { ended.run_until_cancelled(relay_watch::run(own)).await.unwrap_or(()) });
            let own = mesh.clone();
            mesh.spawn(async move { cancel.run_until_cancelled(rest::run(own)).await.unwrap_or(()) });
        }
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        // The close frames go out at once; waiting longer only helps whoever lost them all.
        if tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.close()).await.is_err() {
            tracing::debug!("some connections did not confirm their end");
        }
        #[cfg(feature = "bootstrap")]
        if let Some(relay) = self.relay {
            relay.stop().await;
        }
    }

    pub(crate) fn home(&self) -> Option<BootstrapAddr> {
        self.endpoint.addr().relay_urls().next().and_then(BootstrapAddr::from_relay_url)
    }

    /// The node is on another network.
    pub(crate) fn moved(&self) {
        self.lookup.forget_direct();
        self.rest.stir();
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.endpoint.addr().ip_addrs().copied().collect()
    }

    /// Brings what the table says to where it is used. Returns the relays to add and to drop.
    fn use_table(&self, mesh: &Mesh) -> (Vec<BootstrapAddr>, Vec<BootstrapAddr>) {
        let (active, all) = {
            let table = mesh.table();
            let all: Vec<BootstrapAddr> = table.ranked().into_iter().map(|e| e.addr).collect();
            (table.active(), all)
        };
        self.lookup.use_bootstraps(all.clone());
        // Directory questions go to the best ones, and further down when those fail.
        self.directory.use_bootstraps(
            active.iter().chain(all.iter().filter(|b| !active.contains(b))).copied().collect(),
        );
        if !mesh.config().kind_takes_friends() {
            return (vec![], vec![]);
        }
        let have: Vec<BootstrapAddr> =
            self.relays.urls::<Vec<_>>().iter().filter_map(BootstrapAddr::from_relay_url).collect();
        if self.rest.resting() {
            return (vec![], have);
        }
        let home = self.home();
        let add = active.iter().filter(|b| !have.contains(b)).copied().collect();
        let drop = have.into_iter().filter(|b| !active.contains(b) && home != Some(*b)).collect();
        (add, drop)
    }
}

/// Applies the table to the running endpoint.
pub(crate) async fn apply_table(mesh: &Mesh) {
    let Some((endpoint, relays, (add, drop))) =
        mesh.with_online(|o| (o.endpoint.clone(), o.relays.clone(), o.use_table(mesh)))
    else {
        return;
    };
    // The endpoint makes a full report for each change it is told of. It shares the map, so one
    // change is told for all.
    for b in &drop {
        relays.remove(&b.relay_url());
    }
    let entry = |b: &BootstrapAddr| Arc::new(relay_entry(b, mesh.config().no_udp));
    for b in &add {
        relays.insert(b.relay_url(), entry(b));
    }
    let _replaced = match (add.first(), drop.first()) {
        (Some(b), _) => endpoint.insert_relay(b.relay_url(), entry(b)).await,
        (None, Some(b)) => endpoint.remove_relay(&b.relay_url()).await,
        (None, None) => None,
    };
}

/// Follows the home relay and the measured latencies.
async fn watch_home(mesh: Mesh) {
    let Some(endpoint) = mesh.with_online(|o| o.endpoint.clone()) else { return };
    let mut status = endpoint.home_relay_status();
    let mut report = endpoint.net_report();
    let mut home = None;
    let begun = tokio::time::Instant::now();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    let mut relay = HomeRelay::default();
    loop {
        let connected = status.get().iter().any(iroh::endpoint::RelayStatus::is_connected);
        match relay.look(connected, clock::monotonic_ms()) {
            RelayNews::None => {}
            RelayNews::Back => came_back(&mesh),
            RelayNews::Gone => leave_home(&mesh).await,
        }
        let dht = match mesh.directory() {
            Ok(d) => match d.dht() {
                Some(dht) => dht.joined().await,
                None => false,
            },
            Err(_) => return,
        };
        let bootstrap = mesh.config().own_bootstrap().is_some();
        let dht = dht && begun.elapsed() > HOME_WAIT;
        mesh.reached(|r| (r.relay, r.dht, r.bootstrap) = (connected, dht, bootstrap));
        let now_home = mesh.home();
        if now_home != home {
            home = now_home;
            mesh.emit(MeshEvent::Home(home.map(|b| b.uid)));
            mesh.wake_presence();
            mesh.wake_discover();
        }
        tokio::select! {
            changed = status.updated() => if changed.is_err() { return },
            changed = report.updated() => if changed.is_err() { return },
            _ = tick.tick() => {}
            () = tokio::time::sleep(HOME_LOST), if !connected => {}
        }
    }
}

/// What became of the connection to the home relay.
#[derive(Debug, PartialEq, Eq)]
enum RelayNews {
    None,
    /// Connected again after a break.
    Back,
    /// Broken for too long.
    Gone,
}

/// Watches the connection to the home relay. Pure.
#[derive(Debug, Default)]
struct HomeRelay {
    was_connected: bool,
    lost_ms: Option<u64>,
}

impl HomeRelay {
    fn look(&mut self, connected: bool, now_ms: u64) -> RelayNews {
        if connected {
            let back = self.lost_ms.take().is_some();
            self.was_connected = true;
            return if back { RelayNews::Back } else { RelayNews::None };
        }
        if !self.was_connected {
            return RelayNews::None;
        }
        let lost = *self.lost_ms.get_or_insert(now_ms);
        if u128::from(now_ms.saturating_sub(lost)) < HOME_LOST.as_millis() {
            return RelayNews::None;
        }
        // Asked again after the same time, should the next one be gone as well.
        self.lost_ms = Some(now_ms);
        RelayNews::Gone
    }
}

/// The home bootstrap may have been restarted: then it remembers nobody, and the old connection
/// to it leads nowhere.
fn came_back(mesh: &Mesh) {
    if let (Some(home), Ok(links)) = (mesh.home(), mesh.links()) {
        links.close(&home.uid, Door::Public, CLOSE_DONE);
    }
    // Its relay was away, or this node's network was.
    mesh.stir();
    mesh.wake_publish();
    mesh.wake_presence();
    mesh.wake_discover();
}

/// The home relay is gone: another one takes its place, if there is one.
async fn leave_home(mesh: &Mesh) {
    let Some(home) = mesh.home() else { return };
    let others = {
        let mut table = mesh.table();
        if table.active().iter().any(|b| b.uid != home.uid) {
            table.gone(&home.uid);
            true
        } else {
            false
        }
    };
    if !others || !mesh.config().kind_takes_friends() {
        return;
    }
    tracing::info!("the bootstrap {home} is gone, looking for another one");
    mesh.stir();
    let over_it = |l: &crate::links::LinkInfo| l.path == crate::links::PathKind::Relayed(home.uid);
    if mesh.link_list().iter().any(over_it) {
        // See `relay_watch`: such a link would hold everything else up.
        start_anew(mesh);
        return;
    }
    apply_table(mesh).await;
    let endpoint = mesh.with_online(|o| o.endpoint.clone());
    if let Some(endpoint) = endpoint {
        endpoint.remove_relay(&home.relay_url()).await;
    }
}

/// Leaves the network and joins it again: a new endpoint has no queue for a dead relay. Links are dialled
/// and transfers go on by themselves.
pub(crate) fn start_anew(mesh: &Mesh) {
    let Some(stay) = mesh.with_online(|o| o.cancel.clone()) else { return };
    let again = mesh.clone();
    mesh.spawn(async move { again.restart(stay).await });
}

/// Keeps the directory's record of this node fresh.
async fn publish(mesh: Mesh) {
    let Some(endpoint) = mesh.with_online(|o| o.endpoint.clone()) else { return };
    let timing = mesh.config().timing;
    let mut addr = endpoint.watch_addr();
    let mut last_ms: u64 = mesh.state().get(SINGLES, LAST_PUBLISHED_KEY).ok().flatten().unwrap_or(0);
    let mut found = false;
    loop {
        let now_ms = clock::unix_ms();
        // Reading it marks it as seen: what changes while this is published is published again.
        let _ = addr.get();
        let record = own_record(&mesh);
        let with_home = !record.bootstraps.is_empty();
        let record = record.sign(mesh.key(), now_ms.max(last_ms + 1));
        let Ok(directory) = mesh.directory() else { return };
        if last_ms > 0 {
            notice_copy(&mesh, &directory, last_ms).await;
        }
        last_ms = record.seq_ms;
        if mesh.config().own_bootstrap().is_some() {
            // Whoever asks for bootstraps hears of this one, and what time it has.
            let mut memory = mesh.memory().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            memory.keep_record(record.clone(), clock::unix());
        }
        // Written first: a restart after a crash must not take the own record for a copy's.
        let kept = state::blocking(mesh.state(), move |s| s.put(SINGLES, LAST_PUBLISHED_KEY, &last_ms)).await;
        if let Err(e) = kept {
            mesh.warn(format!("the state could not be written: {e}"));
        }
        found |= with_home;
        let published = || mesh.reached(|r| (r.published, r.published_home) = (true, found));
        let publishing = directory.publish(&record, published);
        tokio::pin!(publishing);
        let pause = tokio::select! {
            done = &mut publishing => match done {
                Ok(()) => timing.publish_every,
                Err(e) => {
                    tracing::debug!("record not published: {e}");
                    // A bootstrap that is alone has nobody to tell.
                    timing.publish_retry
                }
            },
            // What is being published is out of date already.
            changed = addr.updated() => {
                if changed.is_err() { return }
                continue;
            }
        };
        tokio::select! {
            changed = addr.updated() => {
                if changed.is_err() { return }
                if found {
                    tokio::time::sleep(PUBLISH_SETTLE).await;
                }
            }
            () = mesh.publish_woken() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn own_record(mesh: &Mesh) -> NodeRecord {
    let config = mesh.config();
    let own = config.own_bootstrap();
    let home = mesh.home();
    let bootstraps = match own {
        Some(own) => vec![own],
        None => home.into_iter().take(RECORD_BOOTSTRAPS_MAX).collect(),
    };
    NodeRecord {
        kind: config.kind,
        addresses: mesh.direct_addresses(),
        bootstraps,
        owner: config.owner_tag(),
        lends_bytes: mesh.host().free_bytes(),
    }
}

/// Somebody else published under this key after we did: the data folder was copied.
async fn notice_copy(mesh: &Mesh, directory: &Directory, last_ms: u64) {
    if let Some(found_ms) = directory.published_ms(mesh.uid()).await
        && found_ms > last_ms
    {
        mesh.warn(format!(
            "another node uses this node's key (it published {} s since 1970): was the data folder copied? \
                 Run only one of them, or delete the key of one",
            found_ms / 1000
        ));
    }
}

/// Learns of bootstraps, and joins the DHT.
async fn discover(mesh: Mesh) {
    let timing = mesh.config().timing;
    let mut bootstrapped = false;
    let mut turn = 0;
    let mut pause = timing.discover_soon;
    loop {
        let Ok(directory) = mesh.directory() else { return };
        let own = mesh.uid();
        let sparing = mesh.config().kind == NodeKind::Phone && mesh.joined() && mesh.resting();
        let (asked, known) = {
            let table = mesh.table();
            let asked = if sparing {
                turn += 1;
                table.to_measure_sparingly(turn).into_iter().collect()
            } else {
                table.to_measure(mesh.joined())
            };
            let asked = asked.into_iter().filter(|b| b.uid != own).collect();
            let known = table.ranked().into_iter().map(|e| e.addr.uid).chain([own]).collect();
            (asked, known)
        };
        let over_dht = async {
            if let Some(dht) = directory.dht() {
                if !bootstrapped {
                    bootstrapped = dht.bootstrap().await;
                }
                if mesh.config().own_bootstrap().is_some() {
                    dht.announce_bootstrap(mesh.key()).await;
                }
            }
            directory.bootstraps_in_dht(&known).await
        };
        let (survey, in_dht) = tokio::join!(directory.survey(asked), over_dht);
        let changed = take_survey(&mesh, survey, in_dht);
        apply_table(&mesh).await;
        if mesh.home().is_some_and(|home| mesh.table().is_outrun(&home.uid)) {
            // Reports choose the home.
            mesh.stir();
        }
        if changed {
            mesh.save_table();
            // New ones shall know this node, too.
            mesh.wake_publish();
        }
        if changed || !mesh.joined() {
            pause = timing.discover_soon;
        }
        tokio::select! {
            () = mesh.discover_woken() => {}
            () = tokio::time::sleep(pause) => {}
        }
        // A network that stays as it is costs little: the pauses grow, those of a phone faster.
        let growth = if sparing { 4 } else { 2 };
        pause = (pause * growth).min(timing.discover_every.max(timing.discover_soon));
    }
}

/// Brings what bootstraps said into the table; true when a new one was learnt.
fn take_survey(mesh: &Mesh, survey: Survey, in_dht: Vec<(BootstrapAddr, SignedRecord)>) -> bool {
    let (now, own) = (clock::unix(), mesh.uid());
    mesh.note_dates(&survey.dates);
    let found = survey.found.into_iter().chain(in_dht);
    let found: Vec<BootstrapAddr> = if mesh.config().own_bootstrap().is_some() {
        let mut memory = mesh.memory().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What one bootstrap learns it tells whoever asks.
        for (_, record) in found {
            memory.keep_record(record, now);
        }
        memory.bootstraps(now).into_iter().map(|(b, _)| b).collect()
    } else {
        found.map(|(b, _)| b).collect()
    };
    let mut table = mesh.table();
    for (uid, latency_ms) in survey.answered {
        table.measured(&uid, latency_ms, now);
    }
    // When nobody answers, the fault is on this side.
    if !found.is_empty() || mesh.joined() {
        survey.silent.iter().for_each(|uid| table.failed(uid));
    }
    let found = found.into_iter().filter(|b| b.uid != own);
    // Every one is learnt, not only the first new one.
    found.filter(|b| table.learn(*b, Source::Announced, now)).count() > 0
}

/// Announces held shards: new ones soon, all of them again and again.
async fn announce(mesh: Mesh, cancel: CancellationToken) {
    let mut all_at = tokio::time::Instant::now() + Duration::from_secs(2);
    loop {
        let soon = async {
            mesh.announce_woken().await;
            tokio::time::sleep(ANNOUNCE_SETTLE).await;
        };
        let addresses = tokio::select! {
            () = cancel.cancelled() => return,
            () = soon => mesh.take_announcements(),
            () = tokio::time::sleep_until(all_at) => {
                all_at = tokio::time::Instant::now() + mesh.config().timing.announce_every;
                let (host, updates) = (mesh.host().clone(), mesh.updates());
                let held = move || {
                    let mut held = host.held();
                    held.extend(updates.iter().flat_map(|updates| updates.announced()));
                    held
                };
                tokio::task::spawn_blocking(held).await.unwrap_or_default()
            }
        };
        let Ok(directory) = mesh.directory() else { return };
        if !addresses.is_empty() {
            let told = directory.announce(&addresses, &cancel).await;
            tracing::debug!("announced {told} of {} contents", addresses.len());
            if told < addresses.len() && !cancel.is_cancelled() {
                all_at = all_at.min(tokio::time::Instant::now() + Duration::from_secs(60));
            }
        }
    }
}

/// See [`Mesh::netcheck`].
pub(crate) async fn netcheck(mesh: &Mesh) -> Option<Netcheck> {
    let (mut report, resting) = mesh.with_online(|o| (o.endpoint.net_report(), o.rest.resting()))?;
    mesh.stir();
    if resting {
        // What is known at rest is as old as the rest.
        let _ = tokio::time::timeout(NETCHECK_TIMEOUT, report.updated()).await;
    }
    let report = tokio::time::timeout(NETCHECK_TIMEOUT, report.initialized()).await.ok()?;
    let public = report.global_v4.map(SocketAddr::V4).or(report.global_v6.map(SocketAddr::V6));
    Some(Netcheck { udp: report.has_udp(), varies: report.mapping_varies_by_dest(), public })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_home_relay_is_left_and_a_returned_one_is_told() {
        let wait = u64::try_from(HOME_LOST.as_millis()).unwrap();
        let mut relay = HomeRelay::default();
        assert_eq!(relay.look(false, 0), RelayNews::None, "never connected so far");
        assert_eq!(relay.look(true, 10), RelayNews::None);
        assert_eq!(relay.look(false, 20), RelayNews::None);
        assert_eq!(relay.look(true, 30), RelayNews::Back);
        assert_eq!(relay.look(false, 100), RelayNews::None);
        assert_eq!(relay.look(false, 99 + wait), RelayNews::None);
        assert_eq!(relay.look(false, 100 + wait), RelayNews::Gone);
        assert_eq!(relay.look(false, 101 + wait), RelayNews::None);
        assert_eq!(relay.look(false, 100 + 2 * wait), RelayNews::Gone);
        assert_eq!(relay.look(true, 900 + 2 * wait), RelayNews::Back);
    }
}
