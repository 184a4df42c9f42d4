//! Getting shards back: find holders, ask the best first, go on when one fails (requirement B3).
//!
//! Several shards are fetched at once. For each, the holders are ranked; when the best one does not
//! deliver soon the next one is asked as well, and the first right answer counts. When nobody has a
//! shard of a coded group, it is computed from others of the group. Nobody is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ioex_api::{ApiError, ErrorCode, Holding};
use ioex_base::{
    ContentAddress, Grant, GrantId, NodeKey, Right, SignedGrant, Uid, limits::SHARD_LIFE_SECONDS,
};
use ioex_net::{Mesh, PathKind};
use ioex_vault::{
    Provider, ShardRef, rank, reconstruct,
    repo::{ChunkReader, plan::Wanted},
};
use tokio::task::JoinSet;

use super::{
    super::{convert, files},
    failure::{fail, internal},
};

/// When a holder has not delivered in this time, the next one is asked as well.
const HEDGE_AFTER: Duration = Duration::from_millis(1_500);
/// Pauses before each round over the whole list of holders, in milliseconds. Short ones first:
/// right after a backup the announcements are still on their way. Longer ones later: a holder may
/// come back. After the last round a shard counts as lost.
const ROUND_PAUSES_MS: [u64; 6] = [0, 150, 400, 1_000, 2_000, 4_000];
/// For shards that could be computed from others, and those others: two quick rounds.
const CODED_ROUND_PAUSES_MS: [u64; 2] = [0, 150];
/// Shards of a coded group that are fetched at once to compute one.
const CODED_AT_ONCE: usize = 8;
/// How long a fetch grant holds: as long as what it reads, so that no mount or restore outlives it.
/// It is this node's own and serves nobody else.
const GRANT_SECONDS: u64 = SHARD_LIFE_SECONDS;

/// A grant with which the node that has `reader` reads what was stored under it.
pub(crate) fn fetch_grant(mesh: &Mesh, reader: &NodeKey) -> Result<SignedGrant, ApiError> {
    fetch_grant_for(mesh.uid(), reader)
}

/// The same for another node.
pub(crate) fn fetch_grant_for(subject: Uid, reader: &NodeKey) -> Result<SignedGrant, ApiError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(internal)?;
    let now = files::now();
    let grant = Grant {
        id: GrantId(id),
        subject,
        right: Right::Fetch,
        not_before: now,
        not_after: now.plus(GRANT_SECONDS),
    };
    Ok(SignedGrant::new(&grant, reader))
}

/// What is known of the holders, shared by all shards of a restore.
#[derive(Default)]
struct Known {
    rate: BTreeMap<Uid, f64>,
    failures: BTreeMap<Uid, u32>,
    busy: BTreeMap<Uid, u32>,
    sum: BTreeMap<Uid, (u64, u64)>,
}

/// Counts a holder as busy for as long as it lives: also when the attempt is given up.
struct Busy {
    known: Arc<Mutex<Known>>,
    holder: Uid,
}

impl Busy {
    fn new(known: Arc<Mutex<Known>>, holder: Uid) -> Self {
        *known.lock().unwrap_or_else(PoisonError::into_inner).busy.entry(holder).or_insert(0) += 1;
        Self { known, holder }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(busy) = known.busy.get_mut(&self.holder) {
            *busy = busy.saturating_sub(1);
        }
    }
}

/// Fetches shards under one grant. Clones share what they learn of the holders.
#[derive(Clone)]
pub(crate) struct Fetcher {
    mesh: Mesh,
    grant: SignedGrant,
    known: Arc<Mutex<Known>>,
    direct: Arc<AtomicU64>,
    relayed: Arc<AtomicU64>,
    rebuilt: Arc<AtomicU64>,
}

/// Bytes that came.
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) from: Uid,
}

/// A part of a shard: where it begins and how long it is; `None` is the whole, which is verified.
type Part = Option<(u32, u32)>;

impl Fetcher {
    pub(crate) fn new(mesh: &Mesh, reader: &NodeKey) -> Result<Self, ApiError> {
        Ok(Self::with_grant(mesh, fetch_grant(mesh, reader)?))
    }

    /// Fetches under a grant that somebody else gave.
    pub(crate) fn with_grant(mesh: &Mesh, grant: SignedGrant) -> Self {
        Self {
            mesh: mesh.clone(),
            grant,
            known: Arc::default(),
            direct: Arc::default(),
            relayed: Arc::default(),
            rebuilt: Arc::default(),
        }
    }

    #[cfg(feature = "super")]
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holders that failed at least once.
    pub(crate) fn failed(&self) -> Vec<Uid> {
        let failed: BTreeSet<Uid> = self.known().failures.keys().copied().collect();
        failed.into_iter().collect()
    }

    /// Who sent how much.
    pub(crate) fn holdings(&self) -> Vec<Holding> {
        let holding = |(uid, (shards, bytes)): (&Uid, &(u64, u64))| Holding {
            uid: *uid,
            owner: String::new(),
            shards: *shards,
            bytes: *bytes,
        };
        self.known().sum.iter().map(holding).collect()
    }

    /// Bytes over direct paths, and over relays.
    pub(crate) fn by_path(&self) -> (u64, u64) {
        (self.direct.load(Ordering::Relaxed), self.relayed.load(Ordering::Relaxed))
    }

    /// Shards that were computed from others.
    pub(crate) fn rebuilt(&self) -> u64 {
        self.rebuilt.load(Ordering::Relaxed)
    }

    /// Holders, best first: fast, near and idle ones before others.
    fn ranked(&self, holders: Vec<Uid>) -> Vec<Uid> {
        let links = self.mesh.link_list();
        let known = self.known();
        let provider = |uid: Uid| {
            let link = links.iter().find(|l| l.uid == uid);
            // A holder that is busy with another shard of ours is as slow as its share.
            let share = 1.0 + f64::from(known.busy.get(&uid).copied().unwrap_or(0));
            Provider {
                uid,
                rtt_ms: link.and_then(|l| l.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0 * share),
                direct: link.is_none_or(|l| !matches!(l.path, PathKind::Relayed(_))),
                recent_bytes_per_second: known.rate.get(&uid).map(|r| r / share),
                failures: known.failures.get(&uid).copied().unwrap_or(0),
            }
        };
        rank(&holders.into_iter().map(provider).collect::<Vec<_>>())
    }

    async fn try_one(self, from: Uid, shard: ShardRef, part: Part) -> Result<Fetched, Uid> {
        let busy = Busy::new(self.known.clone(), from);
        let started = Instant::now();
        let (address, whole) = (shard.address, u64::from(shard.bytes));
        let result = match part {
            None => self.mesh.shard_fetch(from, &self.grant, address, whole).await,
            Some((start, len)) => {
                let (start, len) = (u64::from(start), u64::from(len));
                self.mesh.shard_fetch_range(from, &self.grant, address, whole, start, len).await
            }
        };
        drop(busy);
        let mut known = self.known();
        match result {
            Ok((bytes, path)) => {
                let count = bytes.len() as u64;
                known.rate.insert(from, count as f64 / started.elapsed().as_secs_f64().max(0.001));
                let (shards, sum) = known.sum.entry(from).or_default();
                (*shards, *sum) = (*shards + 1, *sum + count);
                let by = match path {
                    PathKind::Relayed(_) => &self.relayed,
                    PathKind::Direct(_) | PathKind::None => &self.direct,
                };
                by.fetch_add(count, Ordering::Relaxed);
                Ok(Fetched { bytes, from })
            }
            Err(e) => {
                tracing::info!("{} did not deliver {}: {e}", from.short(), address.short());
                *known.failures.entry(from).or_insert(0) += 1;
                Err(from)
            }
        }
    }

    /// From whoever of `holders` delivers first.
    async fn any_of(&self, holders: Vec<Uid>, shard: ShardRef, part: Part) -> Option<Fetched> {
        let mut waiting = self.ranked(holders).into_iter();
        let mut running = JoinSet::new();
        loop {
            if running.is_empty() {
                running.spawn(self.clone().try_one(waiting.next()?, shard, part));
            }
            match tokio::time::timeout(HEDGE_AFTER, running.join_next()).await {
                Ok(Some(Ok(Ok(fetched)))) => return Some(fetched),
                Ok(_) => {}
                Err(_) => {
                    if let Some(uid) = waiting.next() {
                        running.spawn(self.clone().try_one(uid, shard, part));
                    }
                }
            }
        }
    }

    async fn rounds(&self, shard: ShardRef, part: Part, hints: &[Uid], pauses: &[u64]) -> Option<Fetched> {
        // Whoever took it when it was stored most likely has it: that saves asking the directory.
        if let Some(fetched) = self.any_of(hints.to_vec(), shard, part).await {
            return Some(fetched);
        }
        for pause in pauses {
            tokio::time::sleep(Duration::from_millis(*pause)).await;
            let directory = self.mesh.directory().ok()?;
            match directory.find(shard.address).await {
                Ok(holders) => {
                    if let Some(fetched) = self.any_of(holders, shard, part).await {
                        return Some(fetched);
                    }
                }
                Err(e) => tracing::info!("looking for {} failed: {e}", shard.address.short()),
            }
        }
        None
    }

    /// A whole shard, verified.
    pub(crate) async fn shard(&self, shard: ShardRef, hints: &[Uid]) -> Result<Fetched, ApiError> {
        self.mesh.directory().map_err(convert::link_error)?;
        self.rounds(shard, None, hints, &ROUND_PAUSES_MS).await.ok_or_else(|| nobody(&shard.address))
    }

    /// A whole shard, verified, if one of these devices delivers it at once.
    #[cfg(feature = "super")]
    pub(crate) async fn quick(&self, shard: ShardRef, holders: &[Uid]) -> Option<Vec<u8>> {
        self.any_of(holders.to_vec(), shard, None).await.map(|fetched| fetched.bytes)
    }

    /// The ranges of a shard that a plan wants. When nobody has the shard, it is computed.
    pub(crate) async fn wanted(&self, wanted: &Wanted) -> Result<Vec<(u32, Vec<u8>)>, ApiError> {
        self.mesh.directory().map_err(convert::link_error)?;
        let coded = !wanted.parity.is_empty();
        let pauses: &[u64] = if coded { &CODED_ROUND_PAUSES_MS } else { &ROUND_PAUSES_MS };
        let hints = wanted.hints.get(wanted.place).map(Vec::as_slice).unwrap_or_default();
        let mut out = Vec::new();
        for (start, len) in wanted.ranges() {
            let part = (len != wanted.shard.bytes).then_some((start, len));
            match self.rounds(wanted.shard, part, hints, pauses).await {
                Some(fetched) => out.push((start, fetched.bytes)),
                None if coded => return Ok(vec![(0, self.rebuild(wanted).await?)]),
                None => return Err(nobody(&wanted.shard.address)),
            }
        }
        Ok(out)
    }

    /// The whole shard, verified, from whoever has it or from others of its group.
    pub(crate) async fn whole(&self, wanted: &Wanted) -> Result<Vec<u8>, ApiError> {
        let coded = !wanted.parity.is_empty();
        let pauses: &[u64] = if coded { &CODED_ROUND_PAUSES_MS } else { &ROUND_PAUSES_MS };
        match self.rounds(wanted.shard, None, &[], pauses).await {
            Some(fetched) => Ok(fetched.bytes),
            None if coded => self.rebuild(wanted).await,
            None => Err(nobody(&wanted.shard.address)),
        }
    }

    /// The only chunk that is wanted, decrypted. Ranges are not verified as they come: when what came
    /// is not the chunk, the whole shard is fetched, which is.
    pub(crate) async fn chunk(&self, reader: &mut ChunkReader, wanted: &Wanted) -> Result<Vec<u8>, ApiError> {
        let (chunk, _) = wanted.chunks.first().ok_or_else(|| internal("no chunk is wanted"))?;
        let parts = self.wanted(wanted).await?;
        let read = match reader.read(chunk, &parts) {
            Err(_) if !is_whole(wanted, &parts) => reader.read(chunk, &[(0, self.whole(wanted).await?)]),
            read => read,
        };
        read.map_err(|e| fail(ErrorCode::Manifest, format!("shard {}: {e}", wanted.shard.address.short())))
    }

    /// Computes a data shard from others of its group.
    async fn rebuild(&self, wanted: &Wanted) -> Result<Vec<u8>, ApiError> {
        let lens: Vec<usize> = wanted.data.iter().map(|s| s.bytes as usize).collect();
        let mut others: Vec<(usize, ShardRef)> =
            wanted.data.iter().chain(&wanted.parity).copied().enumerate().collect();
        others.retain(|(at, _)| *at != wanted.place);
        let mut present: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut waiting = others.into_iter();
        let mut running = JoinSet::new();
        while present.len() < lens.len() {
            while running.len() < CODED_AT_ONCE.min(lens.len() - present.len()) {
                let Some((at, shard)) = waiting.next() else { break };
                let own = self.clone();
                let hints = wanted.hints.get(at).cloned().unwrap_or_default();
                running.spawn(async move {
                    let got = own.rounds(shard, None, &hints, &CODED_ROUND_PAUSES_MS).await;
                    (at, got)
                });
            }
            match running.join_next().await {
                Some(Ok((at, Some(fetched)))) => present.push((at, fetched.bytes)),
                Some(_) => {}
                None => return Err(nobody(&wanted.shard.address)),
            }
        }
        let (parity, place) = (wanted.parity.len(), wanted.place);
        let rebuilt =
            tokio::task::spawn_blocking(move || reconstruct(&lens, present, parity, &[place])).await;
        let shard = rebuilt.map_err(internal)?.map_err(internal)?.pop().unwrap_or_default();
        if ContentAddress::of(&shard) != wanted.shard.address {
            return Err(fail(
                ErrorCode::Manifest,
                format!("shard {} computed from its group is another one", wanted.shard.address.short()),
            ));
        }
        self.rebuilt.fetch_add(1, Ordering::Relaxed);
        Ok(shard)
    }
}

/// Whether all of a shard came, and was thus verified.
pub(crate) fn is_whole(wanted: &Wanted, parts: &[(u32, Vec<u8>)]) -> bool {
    parts.first().is_some_and(|(start, bytes)| *start == 0 && bytes.len() == wanted.shard.bytes as usize)
}

fn nobody(address: &ContentAddress) -> ApiError {
    fail(
        ErrorCode::NotEnoughHolders,
        format!(
            "no holder of shard {} delivers now: try again later, what came so far is kept",
            address.short()
        ),
    )
}
