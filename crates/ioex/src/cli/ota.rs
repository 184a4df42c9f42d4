//! Arguments of `ota`: updates over the air.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ioex_base::ContentAddress;
use ioex_ota::Version;

#[cfg(feature = "super")]
use super::ota_maker::{ChannelCommand, ChannelDir, OrderArgs, PublishArgs, RolloutArgs, RosterCommand};

/// `ota …`.
#[derive(Debug, Subcommand)]
pub enum OtaCommand {
    /// A maker's channel: its keys and signed metadata
    #[cfg(feature = "super")]
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// The devices of a channel
    #[cfg(feature = "super")]
    #[command(subcommand)]
    Roster(RosterCommand),
    /// Pack a version at the running super node, sign it, and let devices have it
    #[cfg(feature = "super")]
    #[command(disable_version_flag = true)]
    Publish(PublishArgs),
    /// Change who gets a published version when: more devices, a pause, an end, another bound for failures
    #[cfg(feature = "super")]
    #[command(disable_version_flag = true)]
    Rollout(RolloutArgs),
    /// Take a published version out of the channel
    #[cfg(feature = "super")]
    #[command(disable_version_flag = true)]
    Withdraw {
        /// The version
        version: Version,
        /// Where it lies.
        #[command(flatten)]
        channel: ChannelDir,
    },
    /// Hand a published version's order to another super node, which then matches devices, too; or, at the same one, to the
    /// roster as it is now
    #[cfg(feature = "super")]
    #[command(disable_version_flag = true)]
    Order(OrderArgs),
    /// The fleet by version, progress, failures and sources of the bytes
    #[cfg(feature = "super")]
    Status {
        /// Only this version's manifest
        manifest: Option<ContentAddress>,
        /// Only the channel in this folder
        #[arg(long, value_name = "DIR")]
        channel: Option<PathBuf>,
    },
    /// At a device: how it stands
    State,
    /// At a device: follow its update
    Follow,
    /// At a device: look for a new version now
    Check {
        /// Stay until the channel was looked at
        #[arg(long)]
        wait: bool,
    },
    /// At a device: agree to what is offered
    #[command(disable_version_flag = true)]
    Install(InstallArgs),
    /// At a device: do without what is offered; a download under way ends
    #[command(disable_version_flag = true)]
    Decline(Shown),
    /// At a device: what runs on trial is healthy
    Confirm,
    /// At a device: go back to the version before
    RollBack,
    /// At a device: let what failed be tried again
    Forgive,
    /// For a boot loader: say which slot starts now, and count a trial
    Boot(BootArgs),
}

/// What the owner was shown, and answers about.
#[derive(Debug, Args)]
pub struct Shown {
    /// The version, as `ioex ota state` shows it; refused when another one is offered by now
    pub version: Version,
    /// Its manifest: also refused when another package of this version is offered by now
    #[arg(long, value_name = "ADDRESS")]
    pub manifest: Option<ContentAddress>,
}

/// Arguments of `ota install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// What the owner agrees to
    #[command(flatten)]
    pub shown: Shown,
    /// Whatever the hour
    #[arg(long)]
    pub now: bool,
    /// Stay until it runs, or failed
    #[arg(long)]
    pub wait: bool,
}

/// Arguments of `ota boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// The file with the slots' state; made for a device whose slot A runs the version given
    #[arg(long, value_name = "FILE")]
    pub state: PathBuf,
    /// The version that lies in slot A when there is no state yet
    #[arg(long, default_value = "0", value_name = "VERSION")]
    pub installed: Version,
    /// Where to write which slot starts, for the node
    #[arg(long, value_name = "FILE")]
    pub running: Option<PathBuf>,
}
