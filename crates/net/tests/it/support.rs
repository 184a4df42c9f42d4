//! Nodes for tests, and waiting for what they do.

use std::{
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use ioex_base::{NodeKey, NodeKind, Uid};
use ioex_net::{Host, Mesh, MeshConfig, MeshEvent, NoHost, PathKind, names::BootstrapAddr};
use tempfile::TempDir;
use tokio::sync::broadcast;

/// Longest wait for anything: far above what is needed, so that a slow machine passes.
pub const DEADLINE: Duration = Duration::from_secs(20);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A running node with its folder.
pub struct Node {
    pub mesh: Mesh,
    pub dir: Arc<TempDir>,
    pub config: MeshConfig,
    pub events: broadcast::Receiver<MeshEvent>,
}

/// A port whose two followers are free too, for TCP and UDP.
fn free_ports() -> u16 {
    loop {
        let port = TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port();
        let free =
            |p: u16| TcpListener::bind((LOOPBACK, p)).is_ok() && UdpSocket::bind((LOOPBACK, p)).is_ok();
        if port < 65_000 && (port..port + 3).all(free) {
            return port;
        }
    }
}

/// Shows the log that `RUST_LOG` asks for.
fn log() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        use tracing_subscriber::{
            filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
        };
        let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
        let lines = fmt::layer().with_writer(std::io::stderr);
        tracing_subscriber::registry().with(lines).with(wanted.unwrap_or_default()).init();
    });
}

fn base_config() -> (MeshConfig, Arc<TempDir>) {
    log();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut config = MeshConfig::new(NodeKey::generate().unwrap(), dir.path().to_owned());
    config.bind = Some(LOOPBACK);
    config.timing.discover_soon = Duration::from_millis(300);
    config.timing.discover_every = Duration::from_secs(1);
    (config, dir)
}

/// Starts a bootstrap.
pub async fn bootstrap(seeds: &[BootstrapAddr]) -> Node {
    let (mut config, dir) = base_config();
    config.kind = NodeKind::Bootstrap;
    config.port = free_ports();
    config.seeds = seeds.to_vec();
    start(config, dir, Arc::new(NoHost::default())).await
}

/// Starts a device whose settings `change` may change.
pub async fn device_with(seeds: &[BootstrapAddr], change: impl FnOnce(&mut MeshConfig)) -> Node {
    hosting(seeds, Arc::new(NoHost::default()), change).await
}

/// Starts a device.
pub async fn device(seeds: &[BootstrapAddr]) -> Node {
    device_with(seeds, |_| ()).await
}

/// Starts a device that lends space.
pub async fn hosting(
    seeds: &[BootstrapAddr],
    host: Arc<dyn Host>,
    change: impl FnOnce(&mut MeshConfig),
) -> Node {
    let (mut config, dir) = base_config();
    config.seeds = seeds.to_vec();
    config.timing.transfer_retry = Duration::from_millis(300);
    config.timing.friend_retry_min = Duration::from_millis(300);
    change(&mut config);
    start(config, dir, host).await
}

async fn start(config: MeshConfig, dir: Arc<TempDir>, host: Arc<dyn Host>) -> Node {
    let mesh = Mesh::start(config.clone(), host).await.unwrap();
    let events = mesh.events();
    Node { mesh, dir, config, events }
}

impl Node {
    pub fn uid(&self) -> Uid {
        self.mesh.uid()
    }

    /// A bootstrap's address.
    pub fn seed(&self) -> BootstrapAddr {
        self.config.own_bootstrap().unwrap()
    }

    pub async fn joined(&self) {
        until("the node joins", || self.mesh.joined()).await;
    }

    /// Stops it and starts it again with the same folder.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| ()).await
    }

    pub async fn restart_with(mut self, change: impl FnOnce(&mut MeshConfig)) -> Self {
        self.mesh.shutdown().await;
        change(&mut self.config);
        start(self.config, self.dir, Arc::new(NoHost::default())).await
    }

    /// The next event that `pick` takes.
    pub async fn event<T>(&mut self, what: &str, mut pick: impl FnMut(MeshEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the listener keeps up");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not happen"),
        }
    }

    pub async fn friend_added(&mut self, uid: Uid) {
        let own = self.uid();
        let what = format!("{} becomes a friend of {}", uid.short(), own.short());
        self.event(&what, |e| matches!(e, MeshEvent::FriendAdded(u) if u == uid).then_some(())).await;
    }

    pub fn connected(&self, uid: Uid) -> bool {
        self.mesh.path_to(&uid) != PathKind::None
    }
}

/// Waits until `done`.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    // poll: states without an event of their own.
    while !done() {
        assert!(started.elapsed() < DEADLINE, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(2)).await; // poll: see above
    }
}

/// Waits until an asynchronous question has an answer.
pub async fn until_some<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    // poll: as in `until`.
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll: see above
    }
}

/// Makes two nodes friends, by request.
pub async fn befriend(a: &mut Node, b: &mut Node) {
    a.mesh.friend_add(&b.mesh.friend_address().to_string(), "hello").await.unwrap();
    b.mesh.friend_accept(a.uid()).await.unwrap();
    a.friend_added(b.uid()).await;
    let (ua, ub) = (a.uid(), b.uid());
    until("friends are connected", || a.connected(ub) && b.connected(ua)).await;
}

/// A bootstrap and two devices that are friends.
pub async fn two_friends() -> (Node, Node, Node) {
    let boot = bootstrap(&[]).await;
    let (mut a, mut b) = (device(&[boot.seed()]).await, device(&[boot.seed()]).await);
    a.joined().await;
    b.joined().await;
    befriend(&mut a, &mut b).await;
    (boot, a, b)
}

/// Bytes that look random and are the same each time.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}
