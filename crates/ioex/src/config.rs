//! A node's configuration: a TOML file, flags over it, defaults under it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ioex_base::{NodeKind, Uid};
use ioex_ota::{Version, policy::Policy};
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
    /// Space lent to the network for shards, in bytes; 0 lends nothing. In the file also a text
    /// such as `"10GB"`.
    #[serde(deserialize_with = "crate::size::deserialize")]
    pub lend_bytes: u64,
    /// Keys whose placement capabilities this device accepts.
    pub authorities: Vec<Uid>,
    /// Files with the grants that these authorities have revoked; read again when they change.
    pub revocations: Vec<PathBuf>,
    /// Super nodes: the file with the placement capability.
    pub capability: Option<PathBuf>,
    /// Super nodes: what looks at files before they are backed up.
    pub inspect: Inspection,
    /// Folder for received files.
    pub receive_dir: Option<PathBuf>,
    /// Whether offers from friends are accepted by themselves.
    pub auto_accept: bool,
    /// Targets on this side that friends may be forwarded to.
    pub forward_allow: Vec<SocketAddr>,
    /// Never use UDP: everything goes over relays (for networks that block UDP).
    pub no_udp: bool,
    /// Devices whose maker updates them: from which channel, and how.
    pub ota: Option<OtaConfig>,
}

/// How a device is updated over the air.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtaConfig {
    /// The file that the maker put into the firmware (`ioex ota channel bundle`).
    pub bundle: PathBuf,
    /// The version that the device came with.
    pub installed: Version,
    /// The hardware revision.
    #[serde(default)]
    pub hardware: u32,
    /// Whether the owner is asked.
    #[serde(default)]
    pub consent: Consent,
    /// Minutes between two looks at the channel.
    #[serde(default = "check_minutes")]
    pub check_minutes: u32,
    /// Where a package goes.
    pub install: InstallTarget,
    /// A command that ends with 0 when what runs is healthy; `health` is its last argument. Without it,
    /// to have started is healthy enough.
    #[serde(default)]
    pub health: Vec<String>,
    /// A command that starts the device, or what was replaced, anew. Without it somebody else does.
    #[serde(default)]
    pub restart: Vec<String>,
    /// Who says that a version on trial is healthy.
    #[serde(default)]
    pub confirm: Confirm,
    /// With `confirm = "host"`: minutes after which a version that nobody confirmed is taken back.
    #[serde(default = "confirm_minutes")]
    pub confirm_minutes: u32,
    /// What the owner allows.
    #[serde(default)]
    pub policy: Policy,
}

/// A device has one installer. What comes without this says nothing about what is wrong.
fn one_installer(text: &str) -> Result<(), toml::de::Error> {
    let table: toml::Table = toml::from_str(text)?;
    let install = table.get("ota").and_then(|ota| ota.get("install")).and_then(toml::Value::as_table);
    match install.filter(|install| install.len() != 1) {
        None => Ok(()),
        Some(install) => {
            let names: Vec<&str> = install.keys().map(String::as_str).collect();
            let got = if names.is_empty() { "none".to_owned() } else { names.join(" and ") };
            let why = format!("ota.install has {got}: a device has one installer, `pair`, `swap` or `hook`");
            Err(serde::de::Error::custom(why))
        }
    }
}

fn confirm_minutes() -> u32 {
    10
}

/// Who says that a version on trial is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// The `health` command alone.
    #[default]
    Health,
    /// The program in which the node runs, or whoever calls `ioex ota confirm`, after the `health` command
    /// if there is one.
    Host,
}

fn check_minutes() -> u32 {
    60
}

/// Whether the owner of a device is asked before an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consent {
    /// Once, before anything is fetched (`ioex ota install`).
    #[default]
    Ask,
    /// Once, when it is here, before it is installed.
    Install,
    /// Before it is fetched, and again before it is installed.
    Both,
    /// Nobody is asked.
    Auto,
}

/// Where a package goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstallTarget {
    /// Two slots for each image; a boot loader starts one of them (`ioex ota boot`).
    Pair {
        /// The file with the slots' state.
        state: PathBuf,
        /// The slots.
        slots: Vec<SlotPaths>,
        /// A file in which the boot loader says which slot runs: `a` or `b`.
        running: PathBuf,
    },
    /// A file or folder that changes places with its successor.
    Swap {
        /// Which.
        path: PathBuf,
    },
    /// A command of the maker's own: it is called with `install`, `health` or `roll-back`.
    Hook {
        /// The command and its first arguments.
        command: Vec<String>,
        /// Where what it installed lies: a file, a folder or a block device, which is only read. What of an update
        /// lies there is not downloaded. With a folder, the command gets a folder.
        #[serde(default)]
        path: Option<PathBuf>,
    },
}

/// The two places of one image: files, or block devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotPaths {
    /// The image's name.
    pub name: String,
    /// Slot A.
    pub a: PathBuf,
    /// Slot B.
    pub b: PathBuf,
}

/// What looks at files before they are backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inspection {
    /// Nothing does.
    #[default]
    None,
    /// A ClamAV daemon (`clamd`), by its Unix socket.
    Clamd(PathBuf),
    /// A command and its arguments; the file's path comes last. Anything but exit code 0 refuses.
    Command(Vec<String>),
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
            revocations: Vec::new(),
            capability: None,
            inspect: Inspection::None,
            receive_dir: None,
            auto_accept: false,
            forward_allow: Vec::new(),
            no_udp: false,
            ota: None,
        }
    }
}

/// A configuration that cannot be used; every case names the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key that is unknown or of the wrong type.
    #[error("the configuration file {path} makes no sense", path = .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why; quotes the line.
        source: Box<toml::de::Error>,
    },
    /// A key's value does not fit.
    #[error("configuration key '{key}': {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
}

impl NodeConfig {
    /// Reads a TOML file. Keys that are absent have their defaults; `data` then is
    /// `default_data`.
    ///
    /// # Errors
    /// [`ConfigError`] when the file is missing or makes no sense.
    pub fn load(path: &Path, default_data: PathBuf) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_toml(&text, default_data)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// See [`load`](Self::load).
    ///
    /// # Errors
    /// When `text` is no TOML, or has a key that is unknown or of the wrong type.
    pub fn from_toml(text: &str, default_data: PathBuf) -> Result<Self, toml::de::Error> {
        #[derive(Deserialize)]
        struct DataOnly {
            data: Option<PathBuf>,
        }
        one_installer(text)?;
        let mut config: Self = toml::from_str(text)?;
        if toml::from_str::<DataOnly>(text)?.data.is_none() {
            config.data = default_data;
        }
        Ok(config)
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first key that does not fit.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        for seed in &self.seeds {
            let parts = seed.split_once('@');
            if !parts.is_some_and(|(u, a)| u.parse::<Uid>().is_ok() && a.parse::<SocketAddr>().is_ok()) {
                return wrong("seeds", format!("'{seed}' is no bootstrap: write UID@IP:PORT"));
            }
        }
        if self.lend_bytes > 0 && !self.kind.stores_for_others() {
            return wrong("lend_bytes", format!("a {} node never stores for others", self.kind));
        }
        if self.capability.is_some() && self.kind != NodeKind::Super {
            return wrong("capability", format!("a {} node places nothing on other devices", self.kind));
        }
        if let Some(ota) = &self.ota {
            let hook = |install: &InstallTarget| match install {
                InstallTarget::Hook { command, .. } => command.is_empty(),
                InstallTarget::Pair { slots, .. } => slots.is_empty(),
                InstallTarget::Swap { .. } => false,
            };
            if hook(&ota.install) {
                return wrong("ota.install", "it names no command, or no slot".to_owned());
            }
            if ota.check_minutes == 0 {
                return wrong("ota.check_minutes", "at least 1".to_owned());
            }
            if ota.confirm_minutes == 0 {
                return wrong("ota.confirm_minutes", "at least 1".to_owned());
            }
            if let Err(why) = ota.policy.check() {
                return wrong("ota.policy", why.to_string());
            }
        }
        Ok(())
    }
}
