//! What `ioex up` shows: a backup, and a restore during which a holder dies.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use ioex_api::{
    BackupDone, BackupProgress, BackupStep, Client, ClientError, ErrorCode, Request, RestoreDone, Update,
};
use ioex_base::{NodeKind, Uid};
use ring::digest::{Context as Digest, SHA256};
use tokio::time::{Instant, sleep};

use super::network::Network;
use crate::{
    progress::{Show, Steps, say},
    size,
};

/// How long devices may take to become known as holders after they joined.
const HOLDERS_TIMEOUT: Duration = Duration::from_secs(90);
/// Pause between attempts in that time.
const HOLDERS_PAUSE: Duration = Duration::from_secs(1);
/// The restore is slowed down to about this long, so that it has a middle.
const RESTORE_SECONDS_MIN: u64 = 4;
/// It is never slower than this, in bytes per second: small files need not wait.
const RESTORE_RATE_MIN: u64 = 64 * 1024;
/// A holder is killed when this much of the restore is done...
const KILL_AT_PERCENT: u128 = 30;
/// ...or, with fewer shards than this, as soon as it has begun: there may be no later news.
const SHARDS_FOR_A_MIDDLE: u64 = 4;
/// Read at a time when a file is hashed, in bytes.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// How the story ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) file: PathBuf,
    pub(super) backup: BackupDone,
    pub(super) restore: RestoreDone,
    /// The holder that was killed on the way; none when the file has no middle.
    pub(super) stopped: Option<Uid>,
    pub(super) sha256: String,
}

/// Backs `file` up at the super node, restores it at the phone into `run`, kills a holder.
pub(super) async fn tell(
    network: &mut Network,
    file: &Path,
    run: &Path,
    show: Show,
) -> anyhow::Result<Outcome> {
    let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
    let (manifest, restored) = (run.join("manifest"), run.join("restored"));
    super::process::private_dir(&restored)?;
    let restored = restored.join(name);

    say("2. The super node backs the file up: packed, encrypted, cut, placed on several devices");
    let backup = put(network, file, &manifest, show).await?;
    for shortfall in &backup.shortfalls {
        say(&format!("  note: {shortfall}"));
    }

    say("3. The phone, which has only the manifest, restores it; a holder dies on the way");
    let (restore, stopped) = get(network, &backup, &manifest, &restored, show).await?;

    say("4. Is it the same file?");
    let (before, after) = (sha256(file.to_owned()).await?, sha256(restored).await?);
    anyhow::ensure!(before == after, "the restored file differs: SHA-256 {after} instead of {before}");
    say(&format!("  yes: SHA-256 {after}"));
    Ok(Outcome { file: file.to_owned(), backup, restore, stopped, sha256: after })
}

async fn put(network: &Network, file: &Path, manifest: &Path, show: Show) -> anyhow::Result<BackupDone> {
    let client = network.only(NodeKind::Super)?.process.client().await?;
    let request = Request::BackupPut {
        path: file.to_owned(),
        manifest: manifest.to_owned(),
        replicas: 0,
        recipients: vec![network.only(NodeKind::Phone)?.uid],
    };
    let deadline = Instant::now() + HOLDERS_TIMEOUT;
    loop {
        match try_put(&client, request.clone(), show).await {
            // They have joined, but what they offer may still be on its way to the directory.
            Err(ClientError::Api(e))
                if e.code == ErrorCode::NotEnoughHolders && Instant::now() < deadline =>
            {
                say(&format!("  waiting for more devices: {}", e.message));
                sleep(HOLDERS_PAUSE).await;
            }
            other => return other.context("the backup failed"),
        }
    }
}

async fn try_put(client: &Client, request: Request, show: Show) -> Result<BackupDone, ClientError> {
    let mut steps = Steps::new(show);
    let mut updates = client.stream(request).await?;
    while let Some(update) = updates.next().await? {
        if let Update::Backup(progress) = &update {
            steps.update(progress);
        }
    }
    steps.finish();
    updates.finish().await
}

async fn get(
    network: &mut Network,
    backup: &BackupDone,
    manifest: &Path,
    out: &Path,
    show: Show,
) -> anyhow::Result<(RestoreDone, Option<Uid>)> {
    let client = network.only(NodeKind::Phone)?.process.client().await?;
    let request = Request::BackupGet {
        manifest: manifest.to_owned(),
        out: out.to_owned(),
        rate_limit: (backup.packed_bytes / RESTORE_SECONDS_MIN).max(RESTORE_RATE_MIN),
    };
    let mut stopped = None;
    let mut steps = Steps::new(show);
    let mut updates = client.stream(request).await?;
    while let Some(update) = updates.next().await.context("the restore failed")? {
        let Update::Backup(progress) = &update else { continue };
        steps.update(progress);
        if stopped.is_none() && is_middle(progress, backup) {
            stopped = victim(network, progress, backup);
            if let Some(uid) = &stopped {
                let node = network.by_uid(uid).map(|n| (n.process.place.name.clone(), n.process.pid));
                network.kill(uid).await?;
                let (name, pid) = node.unwrap_or_default();
                steps.note(&format!("killed {name} ({}, process {pid}), a holder", uid.short()));
            }
        }
    }
    steps.finish();
    let done: RestoreDone = updates.finish().await.context("the restore failed")?;
    if stopped.is_none() {
        say("  note: no holder was killed, the file is too small for a restore with a middle");
    }
    say(&format!("  {} in {:.1} s", size::human(done.bytes), done.seconds));
    Ok((done, stopped))
}

/// Whether enough of the restore is done, and not all.
fn is_middle(progress: &BackupProgress, backup: &BackupDone) -> bool {
    if progress.step != BackupStep::Fetch {
        return false;
    }
    let total = if progress.total_bytes > 0 { progress.total_bytes } else { backup.packed_bytes };
    backup.shards < SHARDS_FOR_A_MIDDLE
        || u128::from(progress.done_bytes) * 100 >= u128::from(total) * KILL_AT_PERCENT
}

/// Whom to kill: who has just sent something, for it is most likely busy sending more; else who
/// holds most.
fn victim(network: &Network, progress: &BackupProgress, backup: &BackupDone) -> Option<Uid> {
    let peer = |uid: &Uid| {
        network.by_uid(uid).is_some_and(|n| n.process.place.kind == NodeKind::Peer && n.process.running())
    };
    let holds = |uid: &Uid| backup.holders.iter().any(|h| h.uid == *uid);
    progress.holder.filter(|uid| peer(uid) && holds(uid)).or_else(|| {
        let holders = backup.holders.iter().filter(|h| peer(&h.uid));
        holders.max_by_key(|h| h.bytes).map(|h| h.uid)
    })
}

async fn sha256(path: PathBuf) -> anyhow::Result<String> {
    let hash = move || {
        let mut file = File::open(&path)?;
        let (mut digest, mut chunk) = (Digest::new(&SHA256), vec![0; HASH_CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(HEXLOWER.encode(digest.finish().as_ref())),
                Ok(n) => digest.update(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
            }
        }
    };
    tokio::task::spawn_blocking(hash).await.context("the hash was not finished")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sha256_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(path).await.unwrap(), want);
    }
}
