//! Bringing shards to devices: who lends space, who gets what, and what to do when one refuses.

mod bring;
mod patience;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ioex_api::{ApiError, ErrorCode};
use ioex_base::{ContentAddress, Grant, NodeKind, Right, SignedGrant, Uid, UnixSeconds, wire};
use ioex_net::{LinkInfo, Mesh, PathKind, shards::PlaceError};
use ioex_store::SHARD_OVERHEAD_BYTES;
use ioex_vault::{HOLDER_FREE_MIN_BYTES, Holder, Placer, Redundancy, ShardRef};
use tokio::task::JoinSet;

use self::bring::{Load, bring};
pub(super) use self::patience::Patience;
use super::{
    super::{Node, convert, files, lenders_topic},
    failure::fail,
};
use crate::size;

/// A device that does not say in this time what it takes is not used.
const CAPACITY_TIMEOUT: Duration = Duration::from_secs(5);
/// When most devices have said what they take, the others get so much longer.
const STRAGGLER_WAIT: Duration = Duration::from_millis(800);
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

/// Who was found that lends space.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that said what they take, be it nothing.
    pub(crate) holders: Vec<Holder>,
    /// How many take nothing now, by why.
    closed: BTreeMap<String, usize>,
}

impl Found {
    /// How many take nothing now, and why; empty when all answered.
    pub(crate) fn closed(&self) -> String {
        let mut parts = Vec::new();
        for (why, count) in &self.closed {
            let take = if *count == 1 { "device takes" } else { "devices take" };
            parts.push(format!("{count} {take} nothing now ({why})"));
        }
        parts.join(", ")
    }

    /// Why nobody is there who takes anything.
    pub(crate) fn nobody(&self) -> ApiError {
        let mut parts = Vec::new();
        let count = self.holders.len();
        if count > 0 {
            let (have, least) =
                (if count == 1 { "device has" } else { "devices have" }, HOLDER_FREE_MIN_BYTES);
            parts.push(format!("{count} {have} less than {} left", size::human(least)));
        }
        parts.extend(Some(self.closed()).filter(|closed| !closed.is_empty()));
        let text = if parts.is_empty() {
            "no device that lends space was found".to_owned()
        } else {
            format!("nobody has room: {}", parts.join(", "))
        };
        fail(ErrorCode::NotEnoughHolders, text)
    }
}

/// Asks the network for devices that lend space, and each of them, and of `known`, what it takes.
/// Devices without free space are among them: only so is it known whose they are.
pub(crate) async fn find_holders(
    mesh: &Mesh,
    grant: &SignedGrant,
    known: &HashSet<Uid>,
) -> Result<Found, ApiError> {
    let directory = mesh.directory().map_err(convert::link_error)?;
    let found = directory.find(lenders_topic()).await;
    let mut found = found.map_err(|e| fail(ErrorCode::Unreachable, e.to_string()))?;
    found.extend(known.iter().copied());
    found.sort_unstable();
    found.dedup();
    found.retain(|uid| *uid != mesh.uid());
    let mut asks = JoinSet::new();
    let (mut out, mut closed) = (Vec::new(), BTreeMap::new());
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
            Ok((uid, Ok(Err(e)))) => {
                tracing::info!("{} takes nothing: {e}", uid.short());
                let why = match e {
                    PlaceError::No(no) => no.to_string(),
                    PlaceError::Link(_) => "cannot be reached".to_owned(),
                    other => other.to_string(),
                };
                *closed.entry(why).or_default() += 1;
            }
            Ok((uid, Err(_))) => {
                tracing::info!("{} did not answer in time", uid.short());
                *closed.entry("no answer".to_owned()).or_default() += 1;
            }
            Err(e) => tracing::warn!("asking a device failed: {e}"),
        }
    }
    if !asks.is_empty() {
        *closed.entry("no answer".to_owned()).or_default() += asks.len();
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
    Ok(Found { holders: out.into_iter().map(holder).collect(), closed })
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
    /// See [`Found::closed`].
    pub(crate) closed: Arc<str>,
}

impl Placing {
    /// Brings a group's shards to devices, each to one, or the only one to several. `redundancy` is
    /// the group's own. A device that fails or is slow is replaced; once enough have theirs, stragglers are
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
        let Some((address, _)) = sizes.first() else { return out };
        let load = Load {
            redundancy,
            what: (*address, sizes.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0)),
            keep: Vec::new(),
            avoid: Vec::new(),
            enough: redundancy.o().into(),
        };
        let put = |at: u16, uid| self.put(shards.get(usize::from(at)).cloned(), uid);
        bring(&self.placer, &load, wanted.collect(), put, &mut out).await;
        out
    }

    /// Brings some shards of a group that lost them to other devices than those that `keep` theirs.
    pub(crate) async fn more(
        &self,
        redundancy: Redundancy,
        what: (ContentAddress, u64),
        shards: &[(u16, ShardRef, Bytes)],
        keep: &[Uid],
        avoid: &[Uid],
    ) -> PlacedGroup {
        let found = self.with_placer(|placer| placer.more(redundancy, what, keep, avoid, shards.len()));
        let mut out =
            PlacedGroup { same_domain: found.iter().any(|r| r.same_domain), ..PlacedGroup::default() };
        let wanted = shards.iter().zip(found).map(|((at, ..), to)| (*at, to.uid)).collect();
        let (keep, avoid) = (keep.to_vec(), avoid.to_vec());
        let load = Load { redundancy, what, keep, avoid, enough: shards.len() };
        let put = |at: u16, uid| {
            let of = shards.iter().find(|(other, ..)| *other == at);
            self.put(of.map(|(_, shard, bytes)| (*shard, bytes.clone())), uid)
        };
        bring(&self.placer, &load, wanted, put, &mut out).await;
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

    /// How many further devices could take some of a group, `count` at most. Nobody is asked.
    pub(crate) fn room(
        &self,
        redundancy: Redundancy,
        what: (ContentAddress, u64),
        keep: &[Uid],
        avoid: &[Uid],
        count: usize,
    ) -> usize {
        self.with_placer(|placer| placer.room(redundancy, what, keep, avoid, count))
    }

    /// Why no further device takes something of a group whose longest shard has `bytes`.
    pub(crate) fn why_not(&self, bytes: u64) -> String {
        let (known, full) = self.with_placer(|placer| (placer.len(), placer.without_room(bytes)));
        let mut text =
            format!("{full} of {known} devices that lend space have less than {} left", size::human(bytes));
        if full < known {
            text += ", the others have some of the group or belong to owners that do";
        }
        if !self.closed.is_empty() {
            text = format!("{text}; {}", self.closed);
        }
        text
    }

    /// Whether a device was slow when it last got something of this job.
    pub(crate) fn is_slow(&self, uid: &Uid) -> bool {
        self.with_placer(|placer| placer.is_slow(uid))
    }

    fn with_placer<T>(&self, work: impl FnOnce(&mut Placer) -> T) -> T {
        work(&mut self.placer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a device a shard; says why if it does not have it afterwards.
    fn put(
        &self,
        shard: Option<(ShardRef, Bytes)>,
        uid: Uid,
    ) -> impl Future<Output = Option<String>> + Send + 'static + use<> {
        let own = self.clone();
        async move {
            let Some((shard, bytes)) = shard else { return Some("there is no such shard".to_owned()) };
            let put = own.mesh.shard_place(uid, &own.grant, own.reader, own.expires, shard.address, &bytes);
            put.await.err().map(|e| e.to_string())
        }
    }
}

fn refusal(uid: &Uid, why: &str) -> String {
    format!("{} did not take a shard ({why})", uid.short())
}
