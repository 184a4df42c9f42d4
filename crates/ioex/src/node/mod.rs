//! The running node: network, store and local API wired together.

mod api;
#[cfg(feature = "super")]
mod backup;
mod convert;
mod device;
mod files;
mod housekeeping;
mod lent;
pub(crate) mod ota;
mod restore;
pub(crate) mod vault;

use std::{io::IsTerminal as _, path::Path, sync::Arc, time::Instant};

use anyhow::Context as _;
use ioex_api::SOCKET_NAME;
use ioex_base::ContentAddress;
use ioex_net::{Mesh, MeshConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use self::lent::{clear_old, relocate};
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
    #[cfg(all(not(feature = "super"), target_env = "gnu"))]
    crate::memory::give_back();
    log_to_stderr();
    files::private_dir(&config.data)?;
    let key = files::node_key(&config.data)?;
    let lent = Arc::new(Lent::open(&config, Sense::default())?);
    let warnings_at_start = lent.report();
    let updates = Arc::new(ota::Ota::open(&config, &key)?);
    let mesh = Mesh::start(mesh_config(&config, key)?, lent.clone())
        .await
        .with_context(|| format!("the node in {} did not start", config.data.display()))?;
    let node = Arc::new(Node {
        mesh: mesh.clone(),
        lent,
        started: Instant::now(),
        stop: CancellationToken::new(),
        warnings_at_start,
        vault: Vault::new(&config.data),
        ota: updates,
        config,
    });
    let socket = node.config.data.join(SOCKET_NAME);
    let stop = node.stop.clone();
    tokio::spawn(stop_on_signal(stop.clone())?);
    let housekeeping = tokio::spawn(housekeeping::run(node.clone()));
    let mut tasks = vault::run(&node);
    tasks.extend(ota::run(&node));
    println!("ready uid={} kind={} data={}", mesh.uid(), node.config.kind, node.config.data.display());
    let served = ioex_api::serve(&socket, node.clone(), stop.clone().cancelled_owned()).await;
    stop.cancel();
    housekeeping.abort();
    for task in tasks {
        let _ = task.await;
    }
    mesh.shutdown().await;
    served.with_context(|| format!("the API socket {} cannot be used", socket.display()))
}

fn log_to_stderr() {
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
