//! Bringing shards to devices: who lends space, who gets what, and what to do when one refuses.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ioex_api::{ApiError, ErrorCode};
use ioex_base::{ContentAddress, Grant, NodeKind, Right, SignedGrant, Uid, UnixSeconds, wire};
use ioex_net::{LinkInfo, Mesh, PathKind};
use ioex_store::SHARD_OVERHEAD_BYTES;
use ioex_vault::{Holder, Placer, Redundancy, ShardRef};
use tokio::task::JoinSet;

use super::{
    super::{Node, convert, files, lenders_topic},
    failure::fail,
};

/// A device that does not say in this time what it takes is not used.
const CAPACITY_TIMEOUT: Duration = Duration::from_secs(5);
/// A device that does not have a shard in this time is replaced.
const PLACE_TIMEOUT: Duration = Duration::from_secs(30);
/// When most devices have said what they take, the others get so much longer.
const STRAGGLER_WAIT: Duration = Duration::from_millis(800);
/// When a group is complete, slow devices get so much longer before they are left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of a capability file.
const CAPABILITY_MAX_BYTES: usize = 1_024;
/// Capacities asked for at once.
const ASKS_AT_ONCE: usize = 64;

/// The super node's authority, read anew each time so that it can be replaced while the node runs.
pub(crate) fn capability(node: &Node) -> Result<SignedGrant, ApiError> {
    if node.config.kind != NodeKind::Super {
        return Err(fail(
            ErrorCode::NotAllowed,
            "only a super node places shards: start one with --kind super",
        ));
    }
    let Some(path) = &node.config.capability else {
        return Err(fail(
            ErrorCode::NotAllowed,
            "this super node has no capability: have one signed with `ioex authority grant` and give it with --capability",
        ));
    };
    let bytes = std::fs::read(path).map_err(|e| {
        fail(ErrorCode::NotAllowed, format!("the capability {} cannot be read: {e}", path.display()))
    })?;
    let signed: SignedGrant = wire::decode(&bytes, CAPABILITY_MAX_BYTES)
        .map_err(|e| fail(ErrorCode::NotAllowed, format!("{} is no capability: {e}", path.display())))?;
    let checked = signed.check(&node.mesh.uid(), files::now());
    match checked {
        Ok(Grant { right: Right::Place { .. }, .. }) => Ok(signed),
        Ok(_) => Err(fail(ErrorCode::NotAllowed, "the capability does not allow placing shards")),
        Err(e) => Err(fail(ErrorCode::NotAllowed, format!("the capability does not hold: {e}"))),
    }
}

/// The failure domain of a device: its /24 or /48 as this node sees it.
fn domain_of(link: Option<&LinkInfo>) -> String {
    match link.map(|l| &l.path) {
        Some(PathKind::Direct(addr)) => match addr.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            std::net::IpAddr::V6(ip) => {
                let s = ip.segments();
                format!("{:x}:{:x}:{:x}::/48", s[0], s[1], s[2])
            }
        },
        // Behind a relay the network is not seen: each such device counts as its own.
        _ => String::new(),
    }
}

/// Asks the network for devices that lend space, and each of them, and of `known`, what it takes.
/// Devices without free space are among them: only so is it known whose they are.
pub(crate) async fn find_holders(
    mesh: &Mesh,
    grant: &SignedGrant,
    known: &HashSet<Uid>,
) -> Result<Vec<Holder>, ApiError> {
    let directory = mesh.directory().map_err(convert::link_error)?;
    let found = directory.find(lenders_topic()).await;
    let mut found = found.map_err(|e| fail(ErrorCode::Unreachable, e.to_string()))?;
    found.extend(known.iter().copied());
    found.sort_unstable();
    found.dedup();
    found.retain(|uid| *uid != mesh.uid());
    let mut asks = JoinSet::new();
    let mut out = Vec::new();
    let mut waiting = found.into_iter();
    loop {
        while asks.len() < ASKS_AT_ONCE {
            let Some(uid) = waiting.next() else { break };
            let (mesh, grant) = (mesh.clone(), grant.clone());
            asks.spawn(async move {
                let asked = tokio::time::timeout(CAPACITY_TIMEOUT, mesh.shard_capacity(uid, &grant)).await;
                (uid, asked)
            });
        }
        // One device that is off must not hold up all the others.
        let enough = waiting.len() == 0 && out.len() > asks.len();
        let patience = if enough { STRAGGLER_WAIT } else { CAPACITY_TIMEOUT };
        let Ok(next) = tokio::time::timeout(patience, asks.join_next()).await else { break };
        let Some(done) = next else { break };
        match done {
            Ok((uid, Ok(Ok(capacity)))) => out.push((uid, capacity)),
            Ok((uid, Ok(Err(e)))) => tracing::info!("{} takes nothing: {e}", uid.short()),
            Ok((uid, Err(_))) => tracing::info!("{} did not answer in time", uid.short()),
            Err(e) => tracing::warn!("asking a device failed: {e}"),
        }
    }
    let links = mesh.link_list();
    let holder = |(uid, capacity): (Uid, ioex_net::proto::Capacity)| {
        let link = links.iter().find(|l| l.uid == uid);
        let mut domain = domain_of(link);
        if domain.is_empty() {
            domain = uid.to_string();
        }
        Holder {
            uid,
            kind: capacity.kind,
            owner: data_encoding::HEXLOWER.encode(&capacity.owner),
            domain,
            firmware: String::new(),
            free_bytes: capacity.free_bytes.saturating_sub(SHARD_OVERHEAD_BYTES),
            rtt_ms: link.and_then(|l| l.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
        }
    };
    Ok(out.into_iter().map(holder).collect())
}

/// What placing a group came to.
#[derive(Debug, Default)]
pub(crate) struct PlacedGroup {
    /// Which shard is on which device.
    pub(crate) copies: Vec<(u16, Uid)>,
    /// Devices that failed, in words.
    pub(crate) notes: Vec<String>,
    /// Whether some of its devices share an address range.
    pub(crate) same_domain: bool,
}

/// How shards are placed in one job.
#[derive(Clone)]
pub(crate) struct Placing {
    pub(crate) mesh: Mesh,
    pub(crate) grant: SignedGrant,
    pub(crate) reader: Uid,
    pub(crate) expires: UnixSeconds,
    pub(crate) placer: Arc<Mutex<Placer>>,
}

type Placed = (u16, Uid, Option<String>);

impl Placing {
    /// Brings a group's shards to devices, each to one, or the only one to several. `redundancy` is
    /// the group's own. A device that fails is replaced; once enough have theirs, stragglers are
    /// not waited for.
    pub(crate) async fn group(&self, redundancy: Redundancy, shards: &[(ShardRef, Bytes)]) -> PlacedGroup {
        let sizes: Vec<(ContentAddress, u64)> =
            shards.iter().map(|(s, _)| (s.address, u64::from(s.bytes))).collect();
        let plan = self.with_placer(|placer| placer.group(redundancy, &sizes));
        let mut out = PlacedGroup {
            same_domain: plan.shortfalls.iter().any(|s| s.same_domain > 0),
            ..PlacedGroup::default()
        };
        let wanted = plan.assignments.into_iter().enumerate();
        let wanted = wanted.flat_map(|(at, uids)| uids.into_iter().map(move |uid| (at as u16, uid)));
        let wanted: Vec<(u16, Uid)> = wanted.collect();
        self.bring(redundancy, shards, wanted, &mut out).await;
        out
    }

    /// Brings some shards of a group that lost them to other devices than those that `keep` theirs.
    pub(crate) async fn more(
        &self,
        redundancy: Redundancy,
        group: (ContentAddress, u64),
        shards: &[(u16, ShardRef, Bytes)],
        keep: &[Uid],
        avoid: &[Uid],
    ) -> PlacedGroup {
        let found = self.with_placer(|placer| placer.more(redundancy, group, keep, avoid, shards.len()));
        let mut out =
            PlacedGroup { same_domain: found.iter().any(|r| r.same_domain), ..PlacedGroup::default() };
        let mut running = JoinSet::new();
        for ((at, shard, bytes), to) in shards.iter().zip(found) {
            self.begin(&mut running, *at, *shard, bytes.clone(), to.uid);
        }
        while let Some(done) = running.join_next().await {
            match done {
                Ok((at, uid, None)) => out.copies.push((at, uid)),
                Ok((_, uid, Some(why))) => out.notes.push(refusal(&uid, &why)),
                Err(e) => out.notes.push(e.to_string()),
            }
        }
        out
    }

    /// As many further devices as make `count` with those that `keep` theirs, none of `avoid`.
    pub(crate) fn choose(
        &self,
        redundancy: Redundancy,
        what: (ContentAddress, u64),
        keep: &[Uid],
        avoid: &[Uid],
        count: usize,
    ) -> Vec<Uid> {
        let count = count.saturating_sub(keep.len());
        let found = self.with_placer(|placer| placer.more(redundancy, what, keep, avoid, count));
        found.into_iter().map(|r| r.uid).collect()
    }

    fn with_placer<T>(&self, work: impl FnOnce(&mut Placer) -> T) -> T {
        work(&mut self.placer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, running: &mut JoinSet<Placed>, at: u16, shard: ShardRef, bytes: Bytes, uid: Uid) {
        let own = self.clone();
        running.spawn(async move {
            let put = own.mesh.shard_place(uid, &own.grant, own.reader, own.expires, shard.address, &bytes);
            let why = match tokio::time::timeout(PLACE_TIMEOUT, put).await {
                Ok(Ok(_)) => None,
                Ok(Err(e)) => Some(e.to_string()),
                Err(_) => Some("it took too long".to_owned()),
            };
            (at, uid, why)
        });
    }

    async fn bring(
        &self,
        redundancy: Redundancy,
        shards: &[(ShardRef, Bytes)],
        wanted: Vec<(u16, Uid)>,
        out: &mut PlacedGroup,
    ) {
        let mut running = JoinSet::new();
        let start = |running: &mut JoinSet<Placed>, at: u16, uid: Uid| {
            if let Some((shard, bytes)) = shards.get(usize::from(at)) {
                self.begin(running, at, *shard, bytes.clone(), uid);
            }
        };
        wanted.iter().for_each(|(at, uid)| start(&mut running, *at, *uid));
        let longest = shards.iter().map(|(s, _)| u64::from(s.bytes)).max().unwrap_or(0);
        let Some(key) = shards.first().map(|(s, _)| s.address) else { return };
        let (mut asked, mut failed) = (wanted, Vec::new());
        loop {
            let complete = out.copies.len() >= usize::from(redundancy.o());
            let next = if complete {
                match tokio::time::timeout(PATIENCE, running.join_next()).await {
                    Ok(next) => next,
                    Err(_) => return,
                }
            } else {
                running.join_next().await
            };
            let Some(done) = next else { return };
            let Ok((at, uid, why)) = done else { continue };
            let Some(why) = why else {
                out.copies.push((at, uid));
                continue;
            };
            out.notes.push(refusal(&uid, &why));
            failed.push(uid);
            self.with_placer(|placer| placer.set_free_bytes(&uid, 0));
            let keep: Vec<Uid> = asked.iter().map(|(_, u)| *u).filter(|u| !failed.contains(u)).collect();
            let other =
                self.with_placer(|placer| placer.more(redundancy, (key, longest), &keep, &failed, 1)).pop();
            if let Some(other) = other {
                out.same_domain |= other.same_domain;
                asked.push((at, other.uid));
                start(&mut running, at, other.uid);
            }
        }
    }
}

fn refusal(uid: &Uid, why: &str) -> String {
    format!("{} did not take a shard ({why})", uid.short())
}
