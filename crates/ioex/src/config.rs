//! A node's configuration: a TOML file, flags over it, defaults under it.

use std::{net::{IpAddr, SocketAddr}, path::PathBuf};

use ioex_base::{NodeKind, Uid};
use serde::{Deserialize, Serialize};

/// Everything a node can be told. Field names are the keys of the TOML file; each has a flag of
/// the same name with dashes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Folder for keys, state and held shards.
    pub data: PathBuf,
    /// What the node does.
    pub kind: NodeKind,
    /// The owner's name for it.
    pub name: String,
    /// Who owns it: devices of one owner are one failure domain.
    pub owner: String,
    /// Local IP address to use; all of them when absent.
    pub bind: Option<IpAddr>,
    /// First of the bootstrap's three ports, or the device's QUIC port; 0 picks one.
    pub port: u16,
    /// Bootstraps: the address that others use; `bind` when absent.
    pub public_ip: Option<IpAddr>,
    /// Bootstraps to begin with, each `UID@IP:PORT`. Not needed once the node has a table.
    pub seeds: Vec<String>,
    /// Whether to take part in the DHT over UDP (phones and metered devices may leave it off:
    /// their questions go to bootstraps over QUIC).
    pub dht: bool,
    /// Whether to look for friends on the local network by multicast.
    pub lan: bool,
    /// Space lent to the network for shards, in bytes; 0 lends nothing.
    pub lend_bytes: u64,
    /// Keys whose placement capabilities this device accepts.
    pub authorities: Vec<Uid>,
    /// Super nodes: the file with the placement capability.
    pub capability: Option<PathBuf>,
    /// Folder for received files.
    pub receive_dir: Option<PathBuf>,
    /// Whether offers from friends are accepted by themselves.
    pub auto_accept: bool,
    /// Targets on this side that friends may be forwarded to.
    pub forward_allow: Vec<SocketAddr>,
    /// Never use UDP: everything goes over relays (for networks that block UDP).
    pub no_udp: bool,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data: PathBuf::from("ioex-data"),
            kind: NodeKind::Peer,
            name: String::new(),
            owner: String::new(),
            bind: None,
            port: 0,
            public_ip: None,
            seeds: Vec::new(),
            dht: true,
            lan: false,
            lend_bytes: 0,
            authorities: Vec::new(),
            capability: None,
            receive_dir: None,
            auto_accept: false,
            forward_allow: Vec::new(),
            no_udp: false,
        }
    }
}
