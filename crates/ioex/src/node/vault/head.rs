//! Reading the head, the list of restore points that devices hold.

use std::time::Duration;

use ioex_api::{ApiError, ErrorCode};
use ioex_base::{SealedHead, Uid, head_address};
use ioex_vault::repo::{Head, HeadError};
use tokio::task::JoinSet;

use super::{super::Node, Repo, failure::fail, fetch::fetch_grant};

/// Holders of the head that are asked.
pub(super) const ASKED_MAX: usize = 16;
/// A holder that does not answer in this time is not waited for.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// When one has answered, others get so much longer: one of them may have a newer head.
const NEWER_WAIT: Duration = Duration::from_millis(300);

/// A head and its number.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) head: Head,
    pub(super) seq: u64,
}

pub(super) fn head_error(e: HeadError) -> ApiError {
    let code = match e {
        HeadError::Full => ErrorCode::NoSpace,
        _ => ErrorCode::Manifest,
    };
    fail(code, e.to_string())
}

/// Devices that say they hold the head of a repository.
pub(super) async fn holders_of(node: &Node, repo: &Uid) -> Result<Vec<Uid>, ApiError> {
    let directory = node.mesh.directory().map_err(super::super::convert::link_error)?;
    let found = directory.find(head_address(repo)).await;
    found.map_err(|e| fail(ErrorCode::Unreachable, e.to_string()))
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

    pub(super) async fn holders(&self, node: &Node) -> Result<Vec<Uid>, ApiError> {
        holders_of(node, &self.keys.repo()).await
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
}
