//! Arguments of a maker's part of `ota`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ioex_base::Uid;
use ioex_ota::Version;

/// Where a channel lies.
#[derive(Debug, Args)]
pub struct ChannelDir {
    /// The channel's folder
    #[arg(long = "channel", value_name = "DIR")]
    pub dir: PathBuf,
}

/// `ota channel …`.
#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// Make keys and an empty channel for one brand and model
    Create {
        /// The brand
        brand: String,
        /// The model
        model: String,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
        /// How many root keys there are
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
        root_keys: u8,
        /// How many of them must sign a change of keys
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
        threshold: u8,
    },
    /// Show what is in a channel, and until when it holds
    Show {
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
    /// Write what belongs into the devices' firmware
    Bundle {
        /// The file; not replaced
        out: PathBuf,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
        /// Super nodes that devices ask first
        #[arg(long = "matcher", value_name = "UID")]
        matchers: Vec<Uid>,
    },
    /// Sign the channel anew, so that its devices see that nobody holds versions back; weekly at least
    Refresh {
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
    /// Hand the channel to the running node, such as another matcher's
    Carry {
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
    /// Replace the key of a role, also one that is lost; with enough root keys at hand the change holds at once
    Rotate {
        /// Whose key; several roles change together, as when a whole folder is lost
        #[arg(value_enum, required = true, value_name = "ROLE")]
        roles: Vec<RoleArg>,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
        /// Where the draft goes when root keys are missing
        #[arg(long, value_name = "FILE")]
        draft: Option<PathBuf>,
        /// Root keys that lie elsewhere
        #[arg(long = "root-key", value_name = "FILE")]
        root_keys: Vec<PathBuf>,
        /// With `root` and several root keys: which one goes; without it the answer lists them
        #[arg(long, value_name = "UID")]
        replace: Option<Uid>,
    },
    /// Sign a draft of a new root with root keys that lie here, each once
    Sign {
        /// The draft
        draft: PathBuf,
        /// Keys
        #[arg(required = true)]
        keys: Vec<PathBuf>,
    },
    /// Make a draft with enough signatures the channel's root
    Adopt {
        /// The draft
        draft: PathBuf,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
}

/// A role of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Says whose keys count
    Root,
    /// Lists versions
    Targets,
    /// Says which list is current
    Snapshot,
    /// Says that it is still so
    Timestamp,
}

/// `ota roster …`.
#[derive(Debug, Subcommand)]
pub enum RosterCommand {
    /// Add devices
    Add {
        /// Their UIDs
        #[arg(required = true)]
        uids: Vec<Uid>,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
    /// Add the devices in a file, a UID in each line
    Import {
        /// The file
        file: PathBuf,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
    /// Remove devices
    Remove {
        /// Their UIDs
        #[arg(required = true)]
        uids: Vec<Uid>,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
    /// Count and list them
    List {
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
}

/// Arguments of `ota publish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// Images, each NAME=PATH; a folder is packed as an archive
    #[arg(required = true, value_name = "NAME=PATH")]
    pub images: Vec<String>,
    /// The version
    #[arg(long, value_name = "VERSION")]
    pub version: Version,
    /// Where it lies.
    #[command(flatten)]
    pub channel: ChannelDir,
    /// Share of the devices that may begin at once, in percent
    #[arg(long, default_value_t = 100.0, value_name = "PERCENT")]
    pub percent: f64,
    /// Further steps, each HOURS:PERCENT from now on
    #[arg(long = "step", value_name = "HOURS:PERCENT")]
    pub steps: Vec<String>,
    /// Devices that do not wait for their turn
    #[arg(long = "first", value_name = "UID")]
    pub first: Vec<Uid>,
    /// The lowest version over which it may be installed
    #[arg(long, value_name = "VERSION")]
    pub follows: Option<Version>,
    /// A higher version over which it may be installed nevertheless
    #[arg(long = "downgrade-from", value_name = "VERSION")]
    pub downgrade_from: Vec<Version>,
    /// Hardware revisions that it runs on [default: all]
    #[arg(long, value_name = "NUMBER")]
    pub hardware: Vec<u32>,
    /// Most devices to update [default: the roster]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub quantity: Option<u32>,
    /// How long the order runs
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=366))]
    pub days: u16,
    /// Other super nodes that will match devices
    #[arg(long = "matcher", value_name = "UID")]
    pub matchers: Vec<Uid>,
    /// Failures after which nobody else begins, in percent of the results
    #[arg(long, default_value_t = 3.0, value_name = "PERCENT")]
    pub stop_percent: f64,
    /// Fewer results than this say nothing
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    pub stop_after: u32,
}

/// Arguments of `ota rollout`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct RolloutArgs {
    /// The version
    pub version: Version,
    /// Where it lies.
    #[command(flatten)]
    pub channel: ChannelDir,
    /// Share of the devices that may begin from now on; coming steps with a larger share stay
    #[arg(long, value_name = "PERCENT", group = "change")]
    pub percent: Option<f64>,
    /// A later step, HOURS:PERCENT from now on; the steps given here take the place of all that are still to come
    #[arg(long = "step", value_name = "HOURS:PERCENT", group = "change")]
    pub steps: Vec<String>,
    /// Nobody begins until it is resumed
    #[arg(long, group = "change", conflicts_with_all = ["resume", "abort"])]
    pub pause: bool,
    /// Go on after a pause, or after too many failures: failures are counted anew from now on
    #[arg(long, group = "change", conflicts_with = "abort")]
    pub resume: bool,
    /// Nobody begins any more
    #[arg(long, group = "change")]
    pub abort: bool,
    /// Failures after which nobody else begins, in percent of the results
    #[arg(long, value_name = "PERCENT", group = "change")]
    pub stop_percent: Option<f64>,
    /// Fewer results than this say nothing
    #[arg(long, value_name = "NUMBER", group = "change")]
    pub stop_after: Option<u32>,
}

/// Arguments of `ota order`.
#[derive(Debug, Args)]
pub struct OrderArgs {
    /// The version
    pub version: Version,
    /// Where it lies.
    #[command(flatten)]
    pub channel: ChannelDir,
    /// Nodes that have the package: where it was published
    #[arg(long = "origin", value_name = "UID", required_unless_present = "end")]
    pub origins: Vec<Uid>,
    /// How many shards the manifest has, as `publish` said; the folder in which it was published knows it
    #[arg(long, value_name = "NUMBER")]
    pub shards: Option<u32>,
    /// Most devices to update [default: the roster]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub quantity: Option<u32>,
    /// How long the order runs
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=366))]
    pub days: u16,
    /// End this node's order for the version instead, and forget its results
    #[arg(long, conflicts_with_all = ["origins", "shards", "quantity", "days"])]
    pub end: bool,
}
