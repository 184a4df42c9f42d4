//! `ioex ota`: updates over the air.

#[cfg(feature = "super")]
mod archives;
#[cfg(feature = "super")]
mod channel;
mod device;
#[cfg(feature = "super")]
mod publish;
#[cfg(feature = "super")]
mod roster;
#[cfg(feature = "super")]
mod shown;
#[cfg(feature = "super")]
mod status;

use super::Context;
use crate::cli::OtaCommand;

pub(super) async fn run(context: &Context, command: OtaCommand) -> anyhow::Result<()> {
    match command {
        #[cfg(feature = "super")]
        OtaCommand::Channel(command) => channel::run(context, command).await,
        #[cfg(feature = "super")]
        OtaCommand::Roster(command) => roster::run(context, command),
        #[cfg(feature = "super")]
        OtaCommand::Publish(args) => publish::run(context, args).await,
        #[cfg(feature = "super")]
        OtaCommand::Rollout(args) => publish::rollout(context, args).await,
        #[cfg(feature = "super")]
        OtaCommand::Withdraw { version, channel } => publish::withdraw(context, version, &channel.dir).await,
        #[cfg(feature = "super")]
        OtaCommand::Order(args) => publish::order(context, args).await,
        #[cfg(feature = "super")]
        OtaCommand::Status { manifest, channel } => status::run(context, manifest, channel).await,
        OtaCommand::Boot(args) => device::boot(context, &args),
        other => device::run(context, other).await,
    }
}
