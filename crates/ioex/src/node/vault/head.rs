//! Reading the head, the list of restore points that devices hold.

use std::time::Duration;

use ioex_api::{ApiError, ErrorCode};
use ioex_base::{SealedHead, Uid, head_address};
use ioex_vault::repo::{Head, HeadError, Root};
use tokio::task::JoinSet;

use super::{super::Node, Repo, failure::fail, fetch::fetch_grant};

/// Holders of the head that are asked.
pub(super) const ASKED_MAX: usize = 16;
/// A holder that does not answer in this time is not waited for.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// When one has answered, others get so much longer: one of them may have a newer head.
const NEWER_WAIT: Duration = Duration::from_millis(300);

/// The list of restore points as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) head: Head,
    #[cfg_attr(not(feature = "super"), allow(dead_code))]
    pub(super) seq: u64,
    /// What the owner should know of it.
    pub(super) warning: Option<String>,
}

/// A head as it was signed.
struct Signed {
    bytes: Vec<u8>,
    head: Head,
    seq: u64,
    /// Whether it says what was dropped.
    remembers: bool,
}

/// What holders said.
#[derive(Default)]
struct Answers {
    holders: usize,
    heads: Vec<Signed>,
}

/// The newest of several heads, with what other machines wrote that did not see it. `heads` begins
/// with the one that counts among those of the same number.
fn joined(mut heads: Vec<Signed>) -> Option<Signed> {
    heads.sort_by_key(|known| std::cmp::Reverse(known.seq));
    let mut heads = heads.into_iter();
    let mut newest = heads.next()?;
    for other in heads {
        // Of an older list without a memory nobody knows what was dropped since.
        let beside = other.seq == newest.seq || (other.remembers && newest.remembers);
        if beside && other.bytes != newest.bytes {
            newest.head.merge(&other.head);
        }
    }
    Some(newest)
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
    fn read_sealed(&self, bytes: Vec<u8>) -> Result<Signed, ApiError> {
        let sealed = SealedHead::open(&bytes).map_err(|e| fail(ErrorCode::Manifest, e.to_string()))?;
        if sealed.repo != self.keys.repo() {
            return Err(fail(ErrorCode::Manifest, "this list of restore points is another repository's"));
        }
        let mut head = Head::open(sealed.body, &self.keys).map_err(head_error)?;
        // What an older program left out stands in the roots, where they are at hand.
        for point in head.points.iter_mut().filter(|p| p.origin.is_none()) {
            let root = self.book.root(&point.root.shard.address)?;
            if let Some(root) = root.and_then(|bytes| Root::decode(&bytes).ok()) {
                point.describe(&root);
            }
        }
        let (seq, remembers) = (sealed.seq, Head::remembers(sealed.body));
        Ok(Signed { bytes, head, seq, remembers })
    }

    fn local_signed(&self) -> Result<Option<Signed>, ApiError> {
        self.book.head()?.map(|bytes| self.read_sealed(bytes)).transpose()
    }

    /// The head that this node wrote or read last.
    #[cfg(feature = "super")]
    pub(super) fn local_head(&self) -> Result<Option<Known>, ApiError> {
        let known = |s: Signed| Known { head: s.head, seq: s.seq, warning: None };
        Ok(self.local_signed()?.map(known))
    }

    /// The head that this node wrote or read last, unless it is the one with the bytes `seen`, which become its own.
    #[cfg(feature = "full")]
    pub(super) fn changed_head(&self, seen: &mut Vec<u8>) -> Result<Option<Head>, ApiError> {
        let Some(bytes) = self.book.head()?.filter(|bytes| bytes != seen) else { return Ok(None) };
        let head = self.read_sealed(bytes.clone())?.head;
        *seen = bytes;
        Ok(Some(head))
    }

    /// The newest head that anybody has, joined with what other machines wrote at the same time; empty
    /// when there is none.
    ///
    /// # Errors
    /// When this node knows none, and nobody can be asked, or nobody of those that have one answers.
    pub(super) async fn newest_head(&self, node: &Node) -> Result<Known, ApiError> {
        let local = self.local_signed()?;
        let (answers, asked) = match self.ask_holders(node).await {
            Ok(answers) => (answers, Ok(())),
            Err(e) => (Answers::default(), Err(e)),
        };
        let silent = answers.heads.is_empty() && answers.holders > 0;
        let warning = match (&local, asked) {
            (None, Err(e)) => return Err(e),
            (None, Ok(())) if silent => return Err(nobody(answers.holders)),
            (None, Ok(())) if answers.heads.is_empty() => Some(
                "no device is known that holds a list of restore points of this repository: there is \
                 none yet, or its holders have been away for long"
                    .to_owned(),
            ),
            (Some(_), Err(e)) => Some(format!("the list of restore points may be old: {e}")),
            (Some(_), Ok(())) if silent => Some(format!(
                "the list of restore points may be old: of {} that should hold it none answers now",
                devices(answers.holders)
            )),
            _ => None,
        };
        let before = local.as_ref().map(|known| known.bytes.clone());
        let Some(newest) = joined(local.into_iter().chain(answers.heads).collect()) else {
            return Ok(Known { warning, ..Known::default() });
        };
        if before.as_ref() != Some(&newest.bytes) {
            // This node may have written a newer one while others were asked.
            self.book.change(|c| c.put_newer_head(&newest.bytes, newest.seq))?;
        }
        Ok(Known { head: newest.head, seq: newest.seq, warning })
    }

    pub(super) async fn holders(&self, node: &Node) -> Result<Vec<Uid>, ApiError> {
        holders_of(node, &self.keys.repo()).await
    }

    async fn ask_holders(&self, node: &Node) -> Result<Answers, ApiError> {
        let mut holders = self.holders(node).await?;
        let mut out = Answers { holders: holders.len(), heads: Vec::new() };
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
        let mut until = tokio::time::Instant::now() + ASK_TIMEOUT;
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, asks.join_next()).await {
            let Ok(Some(bytes)) = answer else { continue };
            if out.heads.iter().any(|known| known.bytes == bytes) {
                continue;
            }
            // Signed by the repository, so that a holder can hide a newer head but not invent one.
            match self.read_sealed(bytes) {
                Ok(known) => {
                    if out.heads.is_empty() {
                        until = tokio::time::Instant::now() + NEWER_WAIT;
                    }
                    out.heads.push(known);
                }
                Err(e) => tracing::info!("a device has a list of restore points that cannot be used: {e}"),
            }
        }
        Ok(out)
    }
}

fn devices(count: usize) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

fn nobody(holders: usize) -> ApiError {
    fail(
        ErrorCode::NotEnoughHolders,
        format!(
            "{} should hold the list of restore points, and none gives it out now: they are away, or their \
             program is too old or too new for this one; try again when some of them are back",
            devices(holders)
        ),
    )
}

#[cfg(test)]
mod tests {
    use ioex_base::UnixSeconds;
    use ioex_vault::repo::{PointRef, RecoveryKey, Totals, seal_object};

    use super::*;

    fn signed(seq: u64, remembers: bool, points: &[u8]) -> Signed {
        let keys = RecoveryKey::from_bytes([1; 32]).keys();
        let mut head = Head::default();
        for n in points {
            let (root, _) = seal_object(&keys, &[*n]).unwrap();
            let point = PointRef {
                created: UnixSeconds(u64::from(*n)),
                expires: UnixSeconds(1_000),
                label: String::new(),
                origin: None,
                tags: Vec::new(),
                totals: Totals::default(),
                root,
                rewritten: None,
            };
            head.add(point).unwrap();
        }
        let bytes = [&[seq as u8, u8::from(remembers)][..], points].concat();
        Signed { bytes, head, seq, remembers }
    }

    fn dates(heads: Vec<Signed>) -> (u64, Vec<u64>) {
        let joined = joined(heads).unwrap();
        (joined.seq, joined.head.points.iter().map(|p| p.created.0).collect())
    }

    #[test]
    fn the_newest_counts_and_what_two_machines_wrote_is_joined() {
        assert!(joined(Vec::new()).is_none());
        assert_eq!(dates(vec![signed(3, false, &[1]), signed(4, false, &[2])]), (4, vec![2]));
        assert_eq!(dates(vec![signed(4, false, &[1]), signed(4, false, &[2])]), (4, vec![1, 2]));
        assert_eq!(dates(vec![signed(3, true, &[1]), signed(4, true, &[2])]), (4, vec![1, 2]));
        assert_eq!(dates(vec![signed(3, false, &[1]), signed(4, true, &[2])]), (4, vec![2]));
        // What one dropped the other does not bring back.
        let (mut new, old) = (signed(5, true, &[1, 2]), signed(3, true, &[1, 2, 3]));
        let gone = new.head.points[0].id();
        new.head.forget(&[gone]);
        assert_eq!(dates(vec![old, new]), (5, vec![2, 3]));
    }
}
