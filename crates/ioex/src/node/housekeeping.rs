//! What a node does by itself for what it holds: deleting what ended, looking for damage.

use std::{sync::Arc, time::Duration};

use ioex_base::DAY_SECONDS;
use tokio::time::Instant;

use super::Node;

/// How often the device looks at the clock, the battery and the link: a pause may begin so late.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often expired shards are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// When the first expired ones are looked for: the network's time is known by then, as a rule.
const EXPIRE_FIRST: Duration = Duration::from_secs(60);
/// When the first shard is verified: a start is not the time for it.
const SCRUB_FIRST: Duration = Duration::from_secs(120);

/// Runs until it is dropped.
pub(super) async fn run(node: Arc<Node>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut expire = tokio::time::interval_at(Instant::now() + EXPIRE_FIRST, EXPIRE_EVERY);
    let mut scrub_at = Instant::now() + SCRUB_FIRST;
    loop {
        tokio::select! {
            _ = look.tick() => look_around(&node).await,
            _ = expire.tick() => remove_expired(&node).await,
            () = tokio::time::sleep_until(scrub_at) => scrub_at = Instant::now() + scrub(&node).await,
        }
    }
}

/// Takes note of what time it is, and whether to pause.
async fn look_around(node: &Arc<Node>) {
    node.lent.note_network_time(node.mesh.network_time());
    let lent = node.lent.clone();
    // Small files of the kernel, but the time zone may have to be read from the disk.
    let looking = move || {
        lent.look();
        lent.look_for_disk()
    };
    match tokio::task::spawn_blocking(looking).await {
        Ok(Some(gone)) => node.mesh.warn(gone),
        Ok(None) => {}
        Err(_) => tracing::warn!("looking around failed"),
    }
}

/// Deletes what has expired.
async fn remove_expired(node: &Arc<Node>) {
    let lent = node.lent.clone();
    match tokio::task::spawn_blocking(move || lent.remove_expired()).await {
        Ok(expired) => {
            if let Some(apart) = expired.apart {
                node.mesh.warn(format!(
                    "this device's clock and the network's time are {} days apart: set the clock; until then \
                     nothing that it holds for others is deleted",
                    apart / DAY_SECONDS
                ));
            }
            if !expired.removed.is_empty() {
                tracing::info!("{} expired shards were deleted", expired.removed.len());
            }
        }
        Err(e) => node.mesh.warn(format!("looking for expired shards failed: {e}")),
    }
}

/// Verifies one shard; returns how long to wait before the next.
async fn scrub(node: &Arc<Node>) -> Duration {
    let lent = node.lent.clone();
    match tokio::task::spawn_blocking(move || lent.scrub()).await {
        Ok((damaged, pause)) => {
            if let Some(address) = damaged {
                node.mesh.warn(format!(
                    "a shard held for others was damaged on this disk and was set aside: {address}"
                ));
            }
            pause
        }
        Err(e) => {
            node.mesh.warn(format!("verifying a shard failed: {e}"));
            EXPIRE_EVERY
        }
    }
}
