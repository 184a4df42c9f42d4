//! The running node: network, store and local API wired together. (Being written.)

use crate::config::NodeConfig;

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start: the data folder is in use, a port is taken, a key file is readable by
/// others.
pub async fn run(config: NodeConfig) -> anyhow::Result<()> {
    anyhow::bail!("the node in {} is being written", config.data.display())
}
