//! Flags of `ioex node`: one per key of the configuration file, and over it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{ArgAction, Args};
use ioex_base::{NodeKind, Uid};

use crate::{
    config::{ConfigError, Inspection, NodeConfig},
    size,
};

/// Arguments of `node`. Each flag is the configuration key of the same name; a flag that is given
/// wins over the file.
#[derive(Debug, Default, Args)]
pub struct NodeArgs {
    /// Read the configuration from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the node does: bootstrap, peer, phone or super [default: peer]
    #[arg(long)]
    pub kind: Option<NodeKind>,
    /// The owner's name for it
    #[arg(long)]
    pub name: Option<String>,
    /// Who owns it; devices of one owner are one failure domain
    #[arg(long)]
    pub owner: Option<String>,
    /// Local IP address to use [default: all]
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// A bootstrap's first of three ports, or a device's QUIC port; 0 picks one
    #[arg(long)]
    pub port: Option<u16>,
    /// Bootstraps: the address that others use [default: --bind]
    #[arg(long, value_name = "IP")]
    pub public_ip: Option<IpAddr>,
    /// Bootstraps to begin with; several times or separated by commas
    #[arg(long, visible_alias = "seed", value_name = "UID@IP:PORT", value_delimiter = ',')]
    pub seeds: Option<Vec<String>>,
    /// Whether to take part in the DHT over UDP [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub dht: Option<bool>,
    /// Whether to look for friends on the local network [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub lan: Option<bool>,
    /// Space lent to the network for shards, such as 10GB [default: 0]
    #[arg(long, visible_alias = "lend", value_name = "SIZE", value_parser = size::parse)]
    pub lend_bytes: Option<u64>,
    /// Keys whose placement capabilities this device accepts
    #[arg(long, visible_alias = "authority", value_name = "UID", value_delimiter = ',')]
    pub authorities: Option<Vec<Uid>>,
    /// Files with the grants that these authorities have revoked
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub revocations: Option<Vec<PathBuf>>,
    /// Super nodes: the file with the placement capability
    #[arg(long, value_name = "FILE")]
    pub capability: Option<PathBuf>,
    /// Super nodes: the socket of a ClamAV daemon that looks at files before they are backed up
    #[arg(long, value_name = "SOCKET", conflicts_with = "inspect_command")]
    pub inspect_clamd: Option<PathBuf>,
    /// Super nodes: a command that looks at files before they are backed up; it gets the path as its last
    /// argument, and any exit code but 0 refuses the file
    #[arg(long, value_name = "COMMAND", num_args = 1..)]
    pub inspect_command: Option<Vec<String>>,
    /// Folder for received files
    #[arg(long, value_name = "DIR")]
    pub receive_dir: Option<PathBuf>,
    /// Whether offers from friends are accepted by themselves [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub auto_accept: Option<bool>,
    /// Addresses on this side that friends may be forwarded to
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    pub forward_allow: Option<Vec<SocketAddr>>,
    /// Never use UDP: everything goes over relays [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub no_udp: Option<bool>,
    /// End when the process with this id, which must be the parent, ends
    #[arg(long, hide = true, value_name = "PID")]
    pub exit_with_parent: Option<i32>,
}

impl NodeArgs {
    /// Defaults, then the file, then the flags; checked. `data` is the value of `--data`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file or the key.
    pub fn to_config(&self, data: Option<&Path>, default_data: PathBuf) -> Result<NodeConfig, ConfigError> {
        let mut config = match &self.config {
            Some(path) => NodeConfig::load(path, default_data)?,
            None => NodeConfig { data: default_data, ..NodeConfig::default() },
        };
        set(&mut config.data, data.map(Path::to_owned));
        set(&mut config.kind, self.kind);
        set(&mut config.name, self.name.clone());
        set(&mut config.owner, self.owner.clone());
        set(&mut config.port, self.port);
        set(&mut config.seeds, self.seeds.clone());
        set(&mut config.dht, self.dht);
        set(&mut config.lan, self.lan);
        set(&mut config.lend_bytes, self.lend_bytes);
        set(&mut config.authorities, self.authorities.clone());
        set(&mut config.revocations, self.revocations.clone());
        set(&mut config.auto_accept, self.auto_accept);
        set(&mut config.forward_allow, self.forward_allow.clone());
        set(&mut config.no_udp, self.no_udp);
        config.bind = self.bind.or(config.bind);
        config.public_ip = self.public_ip.or(config.public_ip);
        config.capability = self.capability.clone().or(config.capability);
        set(&mut config.inspect, self.inspect_clamd.clone().map(Inspection::Clamd));
        set(&mut config.inspect, self.inspect_command.clone().map(Inspection::Command));
        config.receive_dir = self.receive_dir.clone().or(config.receive_dir);
        config.check()?;
        Ok(config)
    }
}

fn set<T>(value: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *value = flag;
    }
}
