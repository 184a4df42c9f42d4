//! Changing the head and bringing it to devices.

use bytes::Bytes;
use ioex_api::{ApiError, ErrorCode};
use ioex_base::{ContentAddress, SealedHead, Uid, head_address, limits::SHARD_LIFE_SECONDS};
use ioex_net::proto::HeadAnswer;
use ioex_vault::{
    Redundancy,
    repo::{Head, HeadError},
};
use tokio::task::JoinSet;

use super::{
    super::{Node, files},
    Repo,
    failure::fail,
    head::{ASK_TIMEOUT, ASKED_MAX, head_error, holders_of},
    placing::Placing,
};

/// Tries to write the head when another machine writes at the same time.
const WRITES_MAX: usize = 4;

impl Repo {
    /// Changes the head and brings it to devices. `change` may be called again when another machine
    /// wrote meanwhile.
    pub(super) async fn write_head(
        &self,
        node: &Node,
        placing: &Placing,
        redundancy: Redundancy,
        change: impl Fn(&mut Head) -> Result<(), HeadError>,
    ) -> Result<Head, ApiError> {
        for _ in 0..WRITES_MAX {
            let mut known = self.newest_head(node).await?;
            change(&mut known.head).map_err(head_error)?;
            let body = known.head.seal(&self.keys).map_err(head_error)?;
            let seq = known.seq + 1;
            let bytes = SealedHead::sign(&self.keys.signer, seq, &body);
            let (kept, newer) = spread(node, &self.keys.repo(), placing, redundancy, &bytes).await;
            if newer {
                continue;
            }
            if kept == 0 {
                return Err(fail(
                    ErrorCode::NotEnoughHolders,
                    "no device took the list of restore points: try again when devices are reachable",
                ));
            }
            self.book.change(|c| c.put_head(&bytes))?;
            return Ok(known.head);
        }
        Err(fail(ErrorCode::Timeout, "other machines kept changing this repository: try again"))
    }
}

/// Brings a head to those that hold one already and to others, until there are enough copies.
/// Returns how many kept it, and whether one had a newer one.
pub(super) async fn spread(
    node: &Node,
    repo: &Uid,
    placing: &Placing,
    redundancy: Redundancy,
    bytes: &[u8],
) -> (usize, bool) {
    let address: ContentAddress = head_address(repo);
    let wanted = usize::from(redundancy.for_index().n());
    let mut targets = holders_of(node, repo).await.unwrap_or_default();
    targets.truncate(ASKED_MAX);
    let more = placing.choose(redundancy.for_index(), (address, bytes.len() as u64), &targets, wanted);
    targets.extend(more);
    let expires = files::now().plus(SHARD_LIFE_SECONDS);
    let head = Bytes::copy_from_slice(bytes);
    let mut puts = JoinSet::new();
    for uid in targets {
        let (placing, head) = (placing.clone(), head.clone());
        puts.spawn(async move {
            let put = placing.mesh.head_put(uid, &placing.grant, placing.reader, expires, &head);
            tokio::time::timeout(ASK_TIMEOUT, put).await
        });
    }
    let (mut kept, mut newer) = (0, false);
    while let Some(put) = puts.join_next().await {
        match put {
            Ok(Ok(Ok(HeadAnswer::Kept))) => kept += 1,
            Ok(Ok(Ok(HeadAnswer::Newer(_)))) => newer = true,
            Ok(Ok(Err(e))) => tracing::info!("a device did not take the head: {e}"),
            _ => {}
        }
    }
    (kept, newer)
}
