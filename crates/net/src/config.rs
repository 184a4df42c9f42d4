//! What a mesh is told at its start.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ioex_base::{NodeKey, NodeKind};

use crate::names::BootstrapAddr;

/// How often a node does what it does by itself. The defaults are for use; tests shorten some.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between publications of an unchanged record: three times in a record's life.
    pub publish_every: Duration,
    /// Pause after a record could not be published.
    pub publish_retry: Duration,
    /// First pause between questions for unknown bootstraps; it doubles up to `discover_every`.
    pub discover_soon: Duration,
    /// Longest pause between questions for unknown bootstraps.
    pub discover_every: Duration,
    /// Between announcements of everything held: three times in an announcement's life.
    pub announce_every: Duration,
    /// First pause after a friend could not be reached; it doubles up to `friend_retry_max`.
    pub friend_retry_min: Duration,
    /// Longest pause: an offline friend costs a lookup and a dial each time.
    pub friend_retry_max: Duration,
    /// For so long a node measures its surroundings after something may have changed them; then it
    /// rests.
    pub rest_after: Duration,
    /// Pause before a transfer without a provider asks again, unless one shows up before.
    pub transfer_retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            publish_every: Duration::from_secs(10 * 60),
            publish_retry: Duration::from_secs(3),
            discover_soon: Duration::from_secs(5),
            discover_every: Duration::from_secs(5 * 60),
            announce_every: Duration::from_secs(30 * 60),
            friend_retry_min: Duration::from_secs(2),
            friend_retry_max: Duration::from_secs(5 * 60),
            // Long enough for a second report, should the first one have missed something.
            rest_after: Duration::from_secs(30),
            transfer_retry: Duration::from_secs(3),
        }
    }
}

/// Settings of a mesh. Nothing here is read from files or the environment.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// The node's key.
    pub key: NodeKey,
    /// What it does.
    pub kind: NodeKind,
    /// Its owner's name for it.
    pub name: String,
    /// Who owns it; only a tag derived from it is published.
    pub owner: String,
    /// Folder for the state file. One process at a time.
    pub dir: PathBuf,
    /// Folder for received files.
    pub receive_dir: PathBuf,
    /// Local IP address to use; all of them when absent.
    pub bind: Option<IpAddr>,
    /// A bootstrap's first port, or the device's own QUIC port; 0 picks one.
    pub port: u16,
    /// Bootstraps: the address that others use.
    pub public_ip: Option<IpAddr>,
    /// Bootstraps to begin with.
    pub seeds: Vec<BootstrapAddr>,
    /// Whether to take part in the DHT.
    pub dht: bool,
    /// Whether to look for nodes on the local network.
    pub lan: bool,
    /// Never use UDP.
    pub no_udp: bool,
    /// Whether friends' offers are accepted by themselves.
    pub auto_accept: bool,
    /// Targets that friends may be forwarded to.
    pub forward_allow: Vec<SocketAddr>,
    /// Intervals.
    pub timing: Timing,
}

impl MeshConfig {
    /// A device with this key that keeps its state in `dir`; everything else at its default.
    #[must_use]
    pub fn new(key: NodeKey, dir: PathBuf) -> Self {
        Self {
            key,
            kind: NodeKind::Peer,
            name: String::new(),
            owner: String::new(),
            receive_dir: dir.join("received"),
            dir,
            bind: None,
            port: 0,
            public_ip: None,
            seeds: Vec::new(),
            dht: true,
            lan: false,
            no_udp: false,
            auto_accept: false,
            forward_allow: Vec::new(),
            timing: Timing::default(),
        }
    }

    /// Whether this kind of node has friends: bootstraps take no part in what users do.
    #[must_use]
    pub fn kind_takes_friends(&self) -> bool {
        self.kind != NodeKind::Bootstrap
    }

    /// A name for the owner that says nothing else: equal for all devices of one owner.
    #[must_use]
    pub fn owner_tag(&self) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_derive_key("ioex 2026 owner tag");
        if self.owner.is_empty() {
            // Without a name every device is its own owner.
            hasher.update(self.key.uid().as_bytes());
        } else {
            hasher.update(self.owner.as_bytes());
        }
        let mut out = [0; 8];
        hasher.finalize_xof().fill(&mut out);
        out
    }

    /// The address of this bootstrap, when it is one and its address is known.
    #[must_use]
    pub fn own_bootstrap(&self) -> Option<BootstrapAddr> {
        let ip = self.public_ip.or(self.bind).filter(|ip| !ip.is_unspecified())?;
        (self.kind == NodeKind::Bootstrap)
            .then(|| BootstrapAddr::new(self.key.uid(), (ip, self.port).into()))?
    }
}
