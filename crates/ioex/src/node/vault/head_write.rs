//! Changing the head and bringing it to devices.

use std::{collections::HashSet, time::Instant};

use bytes::Bytes;
use ioex_api::{ApiError, ErrorCode};
use ioex_base::{SealedHead, Uid, head_address, limits::SHARD_LIFE_SECONDS};
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
    placing::{Patience, Placing},
};

/// Tries to write the head when another machine writes at the same time.
const WRITES_MAX: usize = 4;
/// Times that further devices are looked for in the place of those that do not take a head, or take long.
const WAVES_MAX: usize = 3;

/// A head that was written.
pub(super) struct Written {
    pub(super) head: Head,
    kept: usize,
    wanted: usize,
}

impl Written {
    /// A sentence when fewer devices have it than there should be.
    pub(super) fn shortage(&self) -> Option<String> {
        (self.kept < self.wanted).then(|| {
            format!(
                "only {} of {} copies of the list of restore points are stored: the watch brings it to more \
                 devices when there are some",
                self.kept, self.wanted
            )
        })
    }
}

/// What became of a head that was brought to devices.
pub(super) struct Spread {
    kept: usize,
    wanted: usize,
    /// One of them had another one of this number, or a newer one.
    newer: bool,
}

impl Spread {
    /// Whether as many devices have it as should.
    pub(super) fn is_enough(&self) -> bool {
        self.kept >= self.wanted && !self.newer
    }
}

impl Repo {
    /// Changes the head and brings it to devices. `change` may be called again when another machine
    /// wrote meanwhile.
    pub(super) async fn write_head(
        &self,
        node: &Node,
        placing: &Placing,
        redundancy: Redundancy,
        change: impl Fn(&mut Head) -> Result<(), HeadError>,
    ) -> Result<Written, ApiError> {
        for _ in 0..WRITES_MAX {
            let mut known = self.newest_head(node).await?;
            change(&mut known.head).map_err(head_error)?;
            let body = known.head.seal(&self.keys).map_err(head_error)?;
            let seq = known.seq + 1;
            let bytes = SealedHead::sign(&self.keys.signer, seq, &body);
            let spread = spread(node, &self.keys.repo(), placing, redundancy, (&bytes, false), &[]).await;
            if spread.newer {
                continue;
            }
            if spread.kept == 0 {
                return Err(fail(
                    ErrorCode::NotEnoughHolders,
                    "no device took the list of restore points: try again when devices are reachable",
                ));
            }
            self.book.change(|c| c.put_head(&bytes))?;
            return Ok(Written { head: known.head, kept: spread.kept, wanted: spread.wanted });
        }
        Err(fail(ErrorCode::Timeout, "other machines kept changing this repository: try again"))
    }
}

/// Brings a head to those that hold one already and to others, until there are enough copies.
/// `again` says that it is no new one: who has it already counts. Those that are `leaving` do not.
pub(super) async fn spread(
    node: &Node,
    repo: &Uid,
    placing: &Placing,
    redundancy: Redundancy,
    (bytes, again): (&[u8], bool),
    leaving: &[Uid],
) -> Spread {
    let (address, length) = (head_address(repo), bytes.len() as u64);
    let redundancy = redundancy.for_index();
    let mut out = Spread { kept: 0, wanted: usize::from(redundancy.n()), newer: false };
    let seq = SealedHead::open(bytes).map(|sealed| sealed.seq).ok();
    let mut targets = holders_of(node, repo).await.unwrap_or_default();
    targets.retain(|uid| !leaving.contains(uid));
    targets.truncate(ASKED_MAX);
    let (mut slow, quick): (Vec<Uid>, Vec<Uid>) = targets.iter().partition(|uid| placing.is_slow(uid));
    slow.extend(leaving);
    targets.extend(placing.choose(redundancy, (address, length), &quick, &slow, out.wanted));
    let expires = files::now().plus(SHARD_LIFE_SECONDS);
    let head = Bytes::copy_from_slice(bytes);
    let (mut have, mut open, mut asked) = (Vec::new(), HashSet::new(), Vec::new());
    let mut puts = JoinSet::new();
    let mut patience = Patience::new(Instant::now(), 0);
    let mut waves = WAVES_MAX;
    loop {
        for uid in std::mem::take(&mut targets) {
            let (placing, head) = (placing.clone(), head.clone());
            open.insert(uid);
            asked.push(uid);
            puts.spawn(async move {
                let begun = Instant::now();
                let put = placing.mesh.head_put(uid, &placing.grant, placing.reader, expires, &head);
                (uid, begun, tokio::time::timeout(ASK_TIMEOUT, put).await)
            });
        }
        out.kept = have.len();
        let enough = out.kept >= out.wanted;
        if enough && open.iter().all(|uid| placing.is_slow(uid)) {
            break;
        }
        // Who is asked last of all gets all the time there is.
        let until = if enough || waves > 0 { patience.until() } else { Instant::now() + ASK_TIMEOUT };
        match tokio::time::timeout_at(until.into(), puts.join_next()).await {
            Ok(Some(Ok((uid, begun, put)))) => {
                open.remove(&uid);
                patience.done(begun, Instant::now());
                match put {
                    Ok(Ok(HeadAnswer::Kept)) => have.push(uid),
                    Ok(Ok(HeadAnswer::Newer(known))) if again && Some(known) == seq => have.push(uid),
                    Ok(Ok(HeadAnswer::Newer(_))) => out.newer = true,
                    refused => tracing::info!("{} did not take the head: {refused:?}", uid.short()),
                }
            }
            Ok(Some(Err(e))) => tracing::warn!("bringing a head to a device failed: {e}"),
            // All are done, or those that are left take long: others get it in their place.
            Ok(None) | Err(_) => {
                let Some(left) = waves.checked_sub(1).filter(|_| !enough && !out.newer) else { break };
                waves = left;
                let mut avoid: Vec<Uid> = asked.iter().copied().filter(|uid| !have.contains(uid)).collect();
                avoid.extend(leaving);
                targets = placing.choose(redundancy, (address, length), &have, &avoid, out.wanted);
                if targets.is_empty() {
                    waves = 0;
                }
                patience.begun(Instant::now());
            }
        }
    }
    out
}
