//! Reading and writing the head, the list of restore points that devices hold.

use std::time::Duration;

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
    fetch::fetch_grant,
    placing::{Placing, fail},
};

/// Holders of the head that are asked.
const ASKED_MAX: usize = 16;
/// A holder that does not answer in this time is not waited for.
const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// When one has answered, others get so much longer: one of them may have a newer head.
const NEWER_WAIT: Duration = Duration::from_millis(300);
/// Tries to write the head when another machine writes at the same time.
const WRITES_MAX: usize = 4;

/// A head and its number.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) head: Head,
    pub(super) seq: u64,
}

fn head_error(e: HeadError) -> ApiError {
    let code = match e {
        HeadError::Full => ErrorCode::NoSpace,
        _ => ErrorCode::Manifest,
    };
    fail(code, e.to_string())
}

impl Repo {
    fn read_sealed(&self, bytes: &[u8]) -> Result<Known, ApiError> {
        let sealed = SealedHead::open(bytes).map_err(|e| fail(ErrorCode::Manifest, e.to_string()))?;
        if sealed.repo != self.keys.repo() {
            return Err(fail(ErrorCode::Manifest, "this list of restore points is another repository's"));
        }
        let head = Head::open(sealed.body, &self.keys).map_err(head_error)?;
        Ok(Known { head, seq: sealed.seq })
    }

    /// The head that this node wrote or read last.
    pub(super) fn local_head(&self) -> Result<Option<Known>, ApiError> {
        self.book.head()?.map(|bytes| self.read_sealed(&bytes)).transpose()
    }

    /// The newest head that anybody has; empty when there is none.
    ///
    /// # Errors
    /// When nobody can be asked and this node knows none either.
    pub(super) async fn newest_head(&self, node: &Node) -> Result<Known, ApiError> {
        let local = self.local_head()?;
        let found = self.ask_holders(node).await;
        let newest = match (local, found) {
            (Some(local), Ok(Some((bytes, theirs)))) if theirs.seq > local.seq => {
                self.book.change(|c| c.put_head(&bytes))?;
                theirs
            }
            (Some(local), _) => local,
            (None, Ok(Some((bytes, theirs)))) => {
                self.book.change(|c| c.put_head(&bytes))?;
                theirs
            }
            (None, Ok(None)) => Known::default(),
            (None, Err(e)) => return Err(e),
        };
        Ok(newest)
    }

    async fn holders(&self, node: &Node) -> Result<Vec<Uid>, ApiError> {
        let directory = node.mesh.directory().map_err(super::super::convert::link_error)?;
        let found = directory.find(head_address(&self.keys.repo())).await;
        found.map_err(|e| fail(ErrorCode::Unreachable, e.to_string()))
    }

    async fn ask_holders(&self, node: &Node) -> Result<Option<(Vec<u8>, Known)>, ApiError> {
        let mut holders = self.holders(node).await?;
        holders.truncate(ASKED_MAX);
        let grant = fetch_grant(&node.mesh, &self.keys.reader)?;
        let address = head_address(&self.keys.repo());
        let mut asks = JoinSet::new();
        for uid in holders {
            let (mesh, grant) = (node.mesh.clone(), grant.clone());
            asks.spawn(async move {
                let asked = tokio::time::timeout(ASK_TIMEOUT, mesh.head_fetch(uid, &grant, address)).await;
                asked.ok()?.ok()
            });
        }
        let mut best: Option<(Vec<u8>, Known)> = None;
        let mut until = tokio::time::Instant::now() + ASK_TIMEOUT;
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asks.join_next()).await {
            let Ok(Some(bytes)) = answer else { continue };
            // Signed by the repository, so that a holder can hide a newer head but not invent one.
            let Ok(known) = self.read_sealed(&bytes) else { continue };
            if best.is_none() {
                until = tokio::time::Instant::now() + NEWER_WAIT;
            }
            if best.as_ref().is_none_or(|(_, b)| b.seq < known.seq) {
                best = Some((bytes, known));
            }
        }
        Ok(best)
    }

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
            let (kept, newer) = self.spread(node, placing, redundancy, &bytes).await;
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

    /// Brings a head to those that hold one already and to others, until there are enough copies.
    /// Returns how many kept it, and whether one had a newer one.
    async fn spread(
        &self,
        node: &Node,
        placing: &Placing,
        redundancy: Redundancy,
        bytes: &[u8],
    ) -> (usize, bool) {
        let address: ContentAddress = head_address(&self.keys.repo());
        let wanted = usize::from(redundancy.for_index().n());
        let mut targets = self.holders(node).await.unwrap_or_default();
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

    /// Brings the head that is known here to devices again, for as long as shards live.
    pub(super) async fn keep_head(
        &self,
        node: &Node,
        placing: &Placing,
        redundancy: Redundancy,
    ) -> Result<(), ApiError> {
        let Some(bytes) = self.book.head()? else { return Ok(()) };
        self.spread(node, placing, redundancy, &bytes).await;
        Ok(())
    }
}
