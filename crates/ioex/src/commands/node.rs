//! `ioex node`: runs a node until it is stopped.

use anyhow::Context as _;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::runtime::Builder;

use super::{Context, absolute};
use crate::{
    cli::{NodeArgs, default_data},
    config::NodeConfig,
};

pub(super) fn run(context: &Context, args: &NodeArgs) -> anyhow::Result<()> {
    if let Some(parent) = args.exit_with_parent {
        end_with(parent)?;
    }
    let config = config(context, args)?;
    #[cfg(target_env = "gnu")]
    crate::memory::set_up();
    let runtime = runtime().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(crate::node::run(config))
}

/// A device has little memory, and every thread that allocates takes some for itself: one thread
/// runs the node, and blocking work shares a few that end soon.
#[cfg(not(feature = "full"))]
fn runtime() -> Builder {
    let mut builder = Builder::new_current_thread();
    builder.max_blocking_threads(4).thread_keep_alive(std::time::Duration::from_secs(2));
    builder
}

#[cfg(feature = "full")]
fn runtime() -> Builder {
    Builder::new_multi_thread()
}

fn config(context: &Context, args: &NodeArgs) -> anyhow::Result<NodeConfig> {
    // With `--data` the default does not matter, and may not exist.
    let default = context.data.clone().map_or_else(default_data, Ok)?;
    let mut config = args.to_config(context.data.as_deref(), default)?;
    config.data = absolute(&config.data)?;
    let paths = [&mut config.capability, &mut config.receive_dir].into_iter().flatten();
    for path in paths.chain(&mut config.revocations) {
        *path = absolute(path)?;
    }
    Ok(config)
}

/// Has the kernel end this process when `parent` ends, however that happens.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot watch the parent process")?;
    // It may have ended before the kernel was told.
    anyhow::ensure!(
        getppid().map(Pid::as_raw_nonzero).map(i32::from) == Some(parent),
        "the parent has ended"
    );
    Ok(())
}
