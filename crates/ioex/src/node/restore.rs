//! Restoring a file from its manifest (requirement B3): find holders, fetch, verify, join.
//!
//! Several shards are fetched at once. For each, the holders are ranked; when the best one does
//! not deliver soon the next one is asked as well, and the first right answer counts. Nobody is
//! waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ioex_api::{ApiError, BackupStep, ErrorCode, Holding, RestoreDone, Sink};
use ioex_base::{Grant, GrantId, Right, SignedGrant, Uid};
use ioex_net::{Mesh, PathKind};
use ioex_vault::{
    Manifest, Provider, RestoreError, Restorer, SEALED_MANIFEST_MAX_BYTES, ShardError, open_manifest, rank,
};
use tokio::task::JoinSet;

use super::{Node, backup::tell, convert, files};

/// Shards fetched at once: 4 MiB of memory each.
const SHARDS_AT_ONCE: usize = 4;
/// When a holder has not delivered in this time, the next one is asked as well.
const HEDGE_AFTER: Duration = Duration::from_millis(1_500);
/// Pauses before each round over the whole list of holders, in milliseconds. Short ones first:
/// right after a backup the announcements are still on their way. Longer ones later: a holder may
/// come back. After the last round a shard counts as lost.
const ROUND_PAUSES_MS: [u64; 6] = [0, 150, 400, 1_000, 2_000, 4_000];
/// How long a fetch grant for this restore holds.
const GRANT_SECONDS: u64 = 24 * 3600;

fn fail(code: ErrorCode, text: impl Into<String>) -> ApiError {
    ApiError::new(code, text)
}

fn restore_error(e: RestoreError) -> ApiError {
    let code = match &e {
        RestoreError::Exists(_) => ErrorCode::Exists,
        RestoreError::Manifest(_) | RestoreError::Content { .. } => ErrorCode::Manifest,
        _ => ErrorCode::Io,
    };
    fail(code, e.to_string())
}

/// Reads the manifest and makes the grant that lets this node read its shards.
fn open(node: &Node, path: &Path) -> Result<(Manifest, SignedGrant), ApiError> {
    let io = |e: std::io::Error| fail(ErrorCode::Io, format!("{}: {e}", path.display()));
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > SEALED_MANIFEST_MAX_BYTES as u64 {
        return Err(fail(ErrorCode::Manifest, format!("{} is too large for a manifest", path.display())));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let key = &node.mesh.config().key;
    let (manifest, _author) = open_manifest(&bytes, key)
        .map_err(|e| fail(ErrorCode::Manifest, format!("{}: {e}", path.display())))?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| fail(ErrorCode::Internal, e.to_string()))?;
    let now = files::now();
    let grant = Grant {
        id: GrantId(id),
        subject: key.uid(),
        right: Right::Fetch,
        not_before: now,
        not_after: now.plus(GRANT_SECONDS),
    };
    let signed = SignedGrant::new(&grant, &manifest.details.reader_seed.key());
    Ok((manifest, signed))
}

/// What is known of the holders, shared by all shards of a restore.
#[derive(Default)]
struct Known {
    rate: BTreeMap<Uid, f64>,
    failures: BTreeMap<Uid, u32>,
    busy: BTreeMap<Uid, u32>,
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

#[derive(Clone)]
struct Fetcher {
    mesh: Mesh,
    grant: SignedGrant,
    known: Arc<Mutex<Known>>,
}

/// A shard that came.
struct Fetched {
    index: u32,
    bytes: Vec<u8>,
    from: Uid,
    path: PathKind,
}

impl Fetcher {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The holders of a shard, best first: fast, near and idle ones before others.
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

    async fn try_one(
        self,
        from: Uid,
        index: u32,
        address: ioex_base::ContentAddress,
        bytes: u64,
    ) -> Result<Fetched, Uid> {
        let busy = Busy::new(self.known.clone(), from);
        let started = Instant::now();
        let result = self.mesh.shard_fetch(from, &self.grant, address, bytes).await;
        drop(busy);
        let mut known = self.known();
        match result {
            Ok((data, path)) => {
                known.rate.insert(from, bytes as f64 / started.elapsed().as_secs_f64().max(0.001));
                Ok(Fetched { index, bytes: data, from, path })
            }
            Err(e) => {
                tracing::info!("{} did not deliver {}: {e}", from.short(), address.short());
                *known.failures.entry(from).or_insert(0) += 1;
                Err(from)
            }
        }
    }

    /// One shard, from whoever delivers first.
    async fn fetch(
        self,
        index: u32,
        address: ioex_base::ContentAddress,
        bytes: u64,
    ) -> Result<Fetched, ApiError> {
        for pause in ROUND_PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let directory = self.mesh.directory().map_err(convert::link_error)?;
            let holders = match directory.find(address).await {
                Ok(holders) => holders,
                Err(e) => {
                    tracing::info!("looking for {} failed: {e}", address.short());
                    continue;
                }
            };
            let mut waiting = self.ranked(holders).into_iter();
            let mut running = JoinSet::new();
            loop {
                if running.is_empty() {
                    let Some(uid) = waiting.next() else { break };
                    running.spawn(self.clone().try_one(uid, index, address, bytes));
                }
                match tokio::time::timeout(HEDGE_AFTER, running.join_next()).await {
                    Ok(Some(Ok(Ok(fetched)))) => return Ok(fetched),
                    Ok(_) => {}
                    Err(_) => {
                        if let Some(uid) = waiting.next() {
                            running.spawn(self.clone().try_one(uid, index, address, bytes));
                        }
                    }
                }
            }
        }
        Err(fail(
            ErrorCode::NotEnoughHolders,
            format!(
                "no holder of shard {} delivers now: try again later, what came so far is kept",
                address.short()
            ),
        ))
    }
}

/// See [`ioex_api::Request::BackupGet`].
pub(super) async fn get(
    node: &Node,
    manifest_path: PathBuf,
    out: PathBuf,
    rate_limit: u64,
    sink: &Sink,
) -> Result<RestoreDone, ApiError> {
    let started = Instant::now();
    if out.symlink_metadata().is_ok() {
        return Err(fail(
            ErrorCode::Exists,
            format!("{} exists already: choose another name", out.display()),
        ));
    }
    let (manifest, grant) = open(node, &manifest_path)?;
    let (address, size) = (manifest.content, manifest.size_bytes);
    let total = manifest.stored_bytes();
    tell(sink, BackupStep::Locate, 0, total, None, None).await;
    let part = out.with_file_name(format!(".ioex-restore-{}.part", address.short()));
    let shards = manifest.shards.clone();
    let restorer = tokio::task::spawn_blocking(move || Restorer::open(manifest, &part)).await;
    let mut restorer =
        restorer.map_err(|e| fail(ErrorCode::Internal, e.to_string()))?.map_err(restore_error)?;
    let missing = restorer.missing();
    let mut sum = Sum::default();
    sum.done = total
        - missing.iter().filter_map(|i| shards.get(*i as usize)).map(|s| u64::from(s.bytes)).sum::<u64>();
    let fetcher = Fetcher { mesh: node.mesh.clone(), grant, known: Arc::default() };
    let mut waiting = missing.into_iter();
    let mut running = JoinSet::new();
    let mut began = 0;
    let clock = tokio::time::Instant::now();
    loop {
        while running.len() < SHARDS_AT_ONCE {
            let Some(index) = waiting.next() else { break };
            let Some(shard) = shards.get(index as usize).copied() else { break };
            let bytes = u64::from(shard.bytes);
            // With a limit, a shard begins when the ones before it are due.
            let due =
                (rate_limit > 0).then(|| clock + Duration::from_secs_f64(began as f64 / rate_limit as f64));
            began += bytes;
            let fetcher = fetcher.clone();
            running.spawn(async move {
                if let Some(due) = due {
                    tokio::time::sleep_until(due).await;
                }
                fetcher.fetch(index, shard.address, bytes).await
            });
        }
        let Some(done) = running.join_next().await else { break };
        let fetched = done.map_err(|e| fail(ErrorCode::Internal, e.to_string()))??;
        sum.add(&fetched);
        let (holder, bytes) = (fetched.from, fetched.bytes.len() as u64);
        let accepted = tokio::task::spawn_blocking(move || {
            restorer.accept_shard(fetched.index, &fetched.bytes).map(|()| restorer)
        });
        let accepted = accepted.await.map_err(|e| fail(ErrorCode::Internal, e.to_string()))?;
        restorer = accepted.map_err(|e| match e {
            ShardError::Io { .. } => fail(ErrorCode::Io, e.to_string()),
            other => fail(ErrorCode::Manifest, other.to_string()),
        })?;
        sum.done += bytes;
        tell(sink, BackupStep::Fetch, sum.done, total, Some(holder), None).await;
    }
    tell(sink, BackupStep::Join, 0, size, None, None).await;
    let target = out.clone();
    let finished = tokio::task::spawn_blocking(move || restorer.finish(&target)).await;
    finished.map_err(|e| fail(ErrorCode::Internal, e.to_string()))?.map_err(restore_error)?;
    tell(sink, BackupStep::Join, size, size, None, None).await;
    let failed: BTreeSet<Uid> = fetcher.known().failures.keys().copied().collect();
    Ok(RestoreDone {
        path: out,
        bytes: size,
        address,
        holders: sum.holdings(),
        failed: failed.into_iter().collect(),
        direct_bytes: sum.direct,
        relayed_bytes: sum.relayed,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Adds up what came from whom.
#[derive(Default)]
struct Sum {
    done: u64,
    direct: u64,
    relayed: u64,
    by_device: BTreeMap<Uid, (u64, u64)>,
}

impl Sum {
    fn add(&mut self, fetched: &Fetched) {
        let bytes = fetched.bytes.len() as u64;
        match fetched.path {
            PathKind::Relayed(_) => self.relayed += bytes,
            PathKind::Direct(_) | PathKind::None => self.direct += bytes,
        }
        let (shards, sum) = self.by_device.entry(fetched.from).or_default();
        *shards += 1;
        *sum += bytes;
    }

    fn holdings(&self) -> Vec<Holding> {
        let holding = |(uid, (shards, bytes)): (&Uid, &(u64, u64))| Holding {
            uid: *uid,
            owner: String::new(),
            shards: *shards,
            bytes: *bytes,
        };
        self.by_device.iter().map(holding).collect()
    }
}
