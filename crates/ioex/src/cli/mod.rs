//! The command line, as clap sees it. What each command does is in `commands`.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use ioex_base::ContentAddress;

use crate::exit;

mod args;
mod backup;
mod device;
mod node;
mod ota;
#[cfg(feature = "super")]
mod ota_maker;

pub use args::{
    AuthorityCommand, ForwardCommand, FriendCommand, MessageCommand, PairCommand, PhoneState, PingArgs,
    ReceiveCommand, SendArgs,
};
pub use backup::{
    BackupCommand, CreateArgs, FilterArgs, ForgetArgs, PartnerCommand, PointArgs, PriorityArg, RestoreArgs,
    ScheduleCommand,
};
pub use device::{DeviceCommand, DeviceDeleteArgs, DeviceSetArgs};
pub use node::NodeArgs;
pub use ota::{BootArgs, InstallArgs, OtaCommand, Shown};
#[cfg(feature = "super")]
pub use ota_maker::{
    ChannelCommand, ChannelDir, OrderArgs, PublishArgs, RoleArg, RolloutArgs, RosterCommand,
};

/// Environment variable with the data folder of client commands and of `node`.
pub const DATA_ENV: &str = "IOEX_DATA";

/// Fewest and most peers of `ioex up`: enough for copies on distinct devices, and each has its
/// own /24 below 127.20.
#[cfg(feature = "full")]
const UP_PEERS: std::ops::RangeInclusive<i64> = 3..=200;
/// Fewest and most bootstraps of `ioex up`.
#[cfg(feature = "full")]
const UP_BOOTSTRAPS: std::ops::RangeInclusive<i64> = 1..=100;

/// The ioeX node and everything that can be said to it.
#[derive(Debug, Parser)]
#[command(name = "ioex", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes are listed by `ioex help exit-codes`.")]
pub struct Cli {
    /// The node's data folder [default: $IOEX_DATA, else ~/.local/share/ioex]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print JSON on stdout: one object, or one per line for commands with progress
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The whole command for completions, manual pages and tests.
    #[must_use]
    pub fn describe() -> clap::Command {
        Self::command().mut_subcommand("exit-codes", |c| c.long_about(exit::help()))
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node until it is stopped
    Node(Box<NodeArgs>),
    /// Start a whole network on this machine, back a file up in it and restore it
    #[cfg(feature = "full")]
    Up(UpArgs),
    /// Show who the running node is
    Id(IdArgs),
    /// Show the node's state
    Status,
    /// Measure the network from here: NAT kind, best bootstraps, UDP or relay only
    Netcheck,
    /// Ping a friend; each reply says direct or over which relay
    Ping(PingArgs),
    /// Friends and friend requests
    #[command(subcommand)]
    Friend(FriendCommand),
    /// Become friends by a code that one side shows and the other enters
    #[command(subcommand)]
    Pair(PairCommand),
    /// Text messages
    #[command(subcommand)]
    Message(MessageCommand),
    /// Send files to friends
    Send(SendArgs),
    /// File transfers: what came in, and what becomes of it
    #[command(subcommand)]
    Receive(ReceiveCommand),
    /// TCP and UDP ports over a session with a friend
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Backups in the network
    #[command(subcommand)]
    Backup(BackupCommand),
    /// What this device does for others: space, bandwidth, hours, and what it holds
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Updates over the air: a maker's channels, and this device's own updates
    #[command(subcommand)]
    Ota(Box<OtaCommand>),
    /// Ask the directory who holds a content address
    Lookup {
        /// The content address
        address: ContentAddress,
    },
    /// Follow everything that happens at the node
    Events,
    /// A phone leaves the mesh for the background, or comes back
    Phone {
        /// Where to
        #[arg(value_enum)]
        state: PhoneState,
    },
    /// Stop the running node in order
    Stop,
    /// The key that permits super nodes to place shards
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Print a completion script
    #[cfg(feature = "full")]
    Completions {
        /// For which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[cfg(feature = "full")]
    Man {
        /// The folder; made when absent
        dir: PathBuf,
    },
    /// List the exit codes
    ExitCodes,
    /// Measure packing and each of its stages
    #[cfg(feature = "full")]
    #[command(hide = true)]
    LabPack {
        /// What is packed
        path: PathBuf,
    },
    /// Measure the directory with many DHT nodes in this process
    #[cfg(feature = "full")]
    #[command(hide = true)]
    LabDht {
        /// How many nodes
        #[arg(long, default_value_t = 200)]
        nodes: usize,
        /// How many lookups in each series
        #[arg(long, default_value_t = 200)]
        lookups: usize,
    },
}

/// Arguments of `up`.
#[cfg(feature = "full")]
#[derive(Debug, Args)]
pub struct UpArgs {
    /// The file to back up [default: this program]
    pub file: Option<PathBuf>,
    /// Leave when the file is restored instead of staying until Ctrl-C
    #[arg(long)]
    pub once: bool,
    /// How many peers
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(UP_PEERS))]
    pub peers: u8,
    /// How many bootstraps
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(UP_BOOTSTRAPS))]
    pub bootstraps: u8,
}

/// Arguments of `id`.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// Make a new friend address first: copies of the old one stop working
    #[arg(long)]
    pub rotate_tag: bool,
}

/// The default data folder.
///
/// # Errors
/// When neither the environment variable nor a home folder is set.
pub fn default_data() -> Result<PathBuf, exit::Usage> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(DATA_ENV)
        .or_else(|| set("HOME").map(|home| home.join(".local/share/ioex")))
        .ok_or_else(|| exit::Usage(format!("no data folder: pass --data DIR, or set {DATA_ENV} or HOME")))
}
