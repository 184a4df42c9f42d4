//! Restoring a file from its manifest (requirement B3): find holders, fetch, verify, join.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ioex_api::{ApiError, BackupProgress, BackupStep, ErrorCode, RestoreDone, Sink, Update};
use ioex_base::Uid;
use ioex_vault::{Manifest, RestoreError, Restorer, SEALED_MANIFEST_MAX_BYTES, ShardError, open_manifest};
use tokio::task::JoinSet;

use super::{
    Node,
    vault::{
        failure::{fail, internal},
        fetch::Fetcher,
    },
};

/// Shards fetched at once: 4 MiB of memory each.
const SHARDS_AT_ONCE: usize = 4;
/// Reports progress; a client that went away ends the backup with its request anyway.
pub(super) async fn tell(
    sink: &Sink,
    step: BackupStep,
    done: u64,
    total: u64,
    holder: Option<Uid>,
    note: Option<String>,
) {
    let progress = BackupProgress { step, done_bytes: done, total_bytes: total, note, holder };
    let _ = sink.update(Update::Backup(progress)).await;
}

fn restore_error(e: RestoreError) -> ApiError {
    let code = match &e {
        RestoreError::Exists(_) => ErrorCode::Exists,
        RestoreError::Manifest(_) | RestoreError::Content { .. } => ErrorCode::Manifest,
        _ => ErrorCode::Io,
    };
    fail(code, e.to_string())
}

/// Reads the manifest.
fn open(node: &Node, path: &Path) -> Result<Manifest, ApiError> {
    let io = |e: std::io::Error| fail(ErrorCode::Io, format!("{}: {e}", path.display()));
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > SEALED_MANIFEST_MAX_BYTES as u64 {
        return Err(fail(ErrorCode::Manifest, format!("{} is too large for a manifest", path.display())));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let key = &node.mesh.config().key;
    let (manifest, _author) = open_manifest(&bytes, key)
        .map_err(|e| fail(ErrorCode::Manifest, format!("{}: {e}", path.display())))?;
    Ok(manifest)
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
    let manifest = open(node, &manifest_path)?;
    let fetcher = Fetcher::new(&node.mesh, &manifest.details.reader_seed.key())?;
    let (address, size) = (manifest.content, manifest.size_bytes);
    let total = manifest.stored_bytes();
    tell(sink, BackupStep::Locate, 0, total, None, None).await;
    let part = out.with_file_name(format!(".ioex-restore-{}.part", address.short()));
    let shards = manifest.shards.clone();
    let restorer = tokio::task::spawn_blocking(move || Restorer::open(manifest, &part)).await;
    let mut restorer = restorer.map_err(internal)?.map_err(restore_error)?;
    let missing = restorer.missing();
    let mut done_bytes = total
        - missing.iter().filter_map(|i| shards.get(*i as usize)).map(|s| u64::from(s.bytes)).sum::<u64>();
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
                fetcher.shard(shard, &[]).await.map(|fetched| (index, fetched))
            });
        }
        let Some(done) = running.join_next().await else { break };
        let (index, fetched) = done.map_err(internal)??;
        let (holder, bytes) = (fetched.from, fetched.bytes.len() as u64);
        let accepted = tokio::task::spawn_blocking(move || {
            restorer.accept_shard(index, &fetched.bytes).map(|()| restorer)
        });
        let accepted = accepted.await.map_err(internal)?;
        restorer = accepted.map_err(|e| match e {
            ShardError::Io { .. } => fail(ErrorCode::Io, e.to_string()),
            other => fail(ErrorCode::Manifest, other.to_string()),
        })?;
        done_bytes += bytes;
        tell(sink, BackupStep::Fetch, done_bytes, total, Some(holder), None).await;
    }
    tell(sink, BackupStep::Join, 0, size, None, None).await;
    let target = out.clone();
    let finished = tokio::task::spawn_blocking(move || restorer.finish(&target)).await;
    finished.map_err(internal)?.map_err(restore_error)?;
    tell(sink, BackupStep::Join, size, size, None, None).await;
    let (direct_bytes, relayed_bytes) = fetcher.by_path();
    Ok(RestoreDone {
        path: out,
        bytes: size,
        address,
        holders: fetcher.holdings(),
        failed: fetcher.failed(),
        direct_bytes,
        relayed_bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}
