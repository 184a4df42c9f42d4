//! The running node: network, store and local API wired together.

mod api;
#[cfg(feature = "super")]
mod backup;
mod convert;
mod device;
pub(crate) mod files;
mod housekeeping;
mod lent;
pub(crate) mod ota;
mod restore;
pub(crate) mod vault;

use std::{
    io::IsTerminal as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Context as _;
use ioex_api::SOCKET_NAME;
use ioex_base::{ContentAddress, Uid};
pub use ioex_net::proto::{CHANNEL_MAX_BYTES, ChannelFiles};
use ioex_net::{Mesh, MeshConfig};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::lent::{
    DISK_SPARE_BYTES, clear_old, disk_bytes, handover_bytes, is_missing, missing, open_lent, relocate,
};
pub use self::ota::{Answer, DeviceUpdates, Moment};
use self::{
    lent::{Lent, Sense},
    vault::Vault,
};
use crate::config::NodeConfig;

/// The content address under which devices announce that they lend space, so that super nodes
/// find them.
pub(crate) fn lenders_topic() -> ContentAddress {
    ContentAddress::of(b"ioex 2026 devices that lend space")
}

/// A running node, as the local API sees it.
pub(crate) struct Node {
    pub(crate) mesh: Mesh,
    pub(crate) lent: Arc<Lent>,
    pub(crate) vault: Vault,
    pub(crate) ota: Arc<ota::Ota>,
    pub(crate) config: NodeConfig,
    pub(crate) started: Instant,
    pub(crate) stop: CancellationToken,
    /// What the store found when it opened.
    pub(crate) warnings_at_start: Vec<String>,
}

/// Runs a node until it is told to stop, by a signal or over its API.
///
/// # Errors
/// When it cannot start: the data folder is in use, a port is taken, a key file is readable by
/// others.
pub async fn run(config: NodeConfig) -> anyhow::Result<()> {
    log_to_stderr();
    let running = begin(config, false).await?;
    tokio::spawn(stop_on_signal(running.node.stop.clone())?);
    let config = &running.node.config;
    println!("ready uid={} kind={} data={}", running.uid(), config.kind, config.data.display());
    running.serve().await
}

/// A node under way, in a program of its own or of somebody else's. It stops when this is dropped; to wait
/// for its end, use [`Running::serve`] or [`Running::wait`].
pub struct Running {
    node: Arc<Node>,
    /// They end by themselves when the node stops.
    tasks: Vec<JoinHandle<()>>,
    housekeeping: JoinHandle<()>,
}

/// Starts a node in somebody else's program. It prints and logs nothing, heeds no signal and opens no socket for
/// commands; it needs a runtime with I/O and time. What it installs may be that program, so a version is on trial from
/// the next start on, unless the configuration has a command that starts it.
///
/// # Errors
/// When it cannot start: the data folder is in use, a port is taken, a key file is readable by
/// others.
pub async fn start(config: NodeConfig) -> anyhow::Result<Running> {
    begin(config, true).await
}

async fn begin(config: NodeConfig, in_program: bool) -> anyhow::Result<Running> {
    #[cfg(feature = "super")]
    vault::check(&config)?;
    files::private_dir(&config.data)?;
    let key = files::node_key(&config.data)?;
    let lent = Arc::new(Lent::open(&config, Sense::default())?);
    let warnings_at_start = lent.report();
    let updates = Arc::new(ota::Ota::open(&config, &key)?);
    let mesh = Mesh::start(mesh_config(&config, key)?, lent.clone())
        .await
        .with_context(|| format!("the node in {} did not start", config.data.display()))?;
    let node = Arc::new(Node {
        mesh,
        lent,
        started: Instant::now(),
        stop: CancellationToken::new(),
        warnings_at_start,
        vault: Vault::new(&config.data),
        ota: updates,
        config,
    });
    let housekeeping = tokio::spawn(housekeeping::run(node.clone()));
    let mut tasks = vault::run(&node);
    tasks.extend(ota::run(&node, in_program));
    Ok(Running { node, tasks, housekeeping })
}

impl Running {
    /// The node's key.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.node.mesh.uid()
    }

    /// This device's updates; none without `[ota]` in its configuration.
    #[must_use]
    pub fn updates(&self) -> Option<DeviceUpdates> {
        DeviceUpdates::of(&self.node.ota)
    }

    /// Ends the node when it is cancelled.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.node.stop.clone()
    }

    /// Answers commands over the API's socket until the node is told to stop, and stops it in order.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub async fn serve(self) -> anyhow::Result<()> {
        let (node, stop) = (self.node.clone(), self.stop());
        let socket = node.config.data.join(SOCKET_NAME);
        let served = ioex_api::serve(&socket, node, stop.clone().cancelled_owned()).await;
        stop.cancel();
        self.wait().await;
        served.with_context(|| format!("the API socket {} cannot be used", socket.display()))
    }

    /// Waits until the node is told to stop, and stops it in order.
    pub async fn wait(mut self) {
        self.node.stop.cancelled().await;
        self.housekeeping.abort();
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
        self.node.mesh.shutdown().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.stop.cancel();
        self.housekeeping.abort();
    }
}

/// Writes the log to stderr, filtered by the variable `IOEX_LOG` (such as `warn,ioex=debug`); a logger that the
/// program set before stays.
pub fn log_to_stderr() {
    use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};
    let wanted = std::env::var("IOEX_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    // Prefixes of module paths, so `ioex` stands for all of our crates.
    let usual =
        || Targets::new().with_default(tracing::Level::WARN).with_target("ioex", tracing::Level::INFO);
    let colour = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
    // A second call in one process keeps the first logger.
    let _ = tracing_subscriber::registry().with(lines).with(wanted.unwrap_or_else(usual)).try_init();
}

fn mesh_config(config: &NodeConfig, key: ioex_base::NodeKey) -> anyhow::Result<MeshConfig> {
    let mut mesh = MeshConfig::new(key, config.data.clone());
    mesh.kind = config.kind;
    mesh.name.clone_from(&config.name);
    mesh.owner.clone_from(&config.owner);
    if let Some(dir) = &config.receive_dir {
        mesh.receive_dir.clone_from(dir);
    }
    mesh.bind = config.bind;
    mesh.port = config.port;
    mesh.public_ip = config.public_ip;
    mesh.seeds = config.seeds.iter().map(|s| s.parse()).collect::<Result<_, _>>()?;
    mesh.dht = config.dht;
    mesh.lan = config.lan;
    mesh.no_udp = config.no_udp;
    mesh.auto_accept = config.auto_accept;
    mesh.forward_allow.clone_from(&config.forward_allow);
    Ok(mesh)
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
    })
}

/// Whether `path` may be used as an output file.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Locks. A thread that panicked leaves at worst an old value; going on is better than refusing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that starts and stops nodes gets back what they held: files, threads, memory.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_that_was_stopped_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            data: dir.path().to_owned(),
            bind: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            dht: false,
            ..NodeConfig::default()
        };
        let running = start(config).await.unwrap();
        let (node, updates) = (Arc::downgrade(&running.node), Arc::downgrade(&running.node.ota));
        running.stop().cancel();
        running.wait().await;
        for _ in 0..200 {
            if node.strong_count() + updates.strong_count() == 0 {
                return;
            }
            let pause = std::time::Duration::from_millis(50);
            tokio::time::sleep(pause).await; // poll: what runs in the background lets go a moment after the end
        }
        panic!("{} hold the node, {} its updates", node.strong_count(), updates.strong_count());
    }
}
