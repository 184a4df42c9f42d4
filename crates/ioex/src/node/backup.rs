//! Backing a file up (requirement B1): pack, find devices, place, write the manifest.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use ioex_api::{ApiError, BackupDone, BackupStep, ErrorCode, Holding, Sink};
use ioex_base::{
    Uid,
    limits::{SHARD_LIFE_SECONDS, SHARD_MAX_BYTES},
};
use ioex_vault::{
    BackupDetails, DEFAULT_REPLICAS, Manifest, Packer, Placer, Policy, ReaderSeed, Redundancy, Shard,
    ShardRef, seal_manifest,
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Node, files,
    restore::tell,
    vault::{
        failure::{fail, fresh_seed, internal, io_error},
        inspect::Inspector,
        placing::{PlacedGroup, Placing, capability, find_holders},
    },
};

/// Packed shards that wait for being placed: 4 MiB each.
const SHARDS_WAITING_MAX: usize = 2;
/// Shards that are placed at once.
const SHARDS_AT_ONCE: usize = 3;
/// Runs the packer where it may block, and hands its shards over.
fn pack(
    owner: ioex_vault::OwnerKey,
    file: File,
    details: BackupDetails,
    shards: mpsc::Sender<Shard>,
) -> Result<Manifest, String> {
    let mut packer =
        Packer::new(&owner, BufReader::with_capacity(1 << 20, file)).map_err(|e| e.to_string())?;
    for shard in packer.by_ref() {
        let shard = shard.map_err(|e| e.to_string())?;
        if shards.blocking_send(shard).is_err() {
            return Err("stopped".to_owned());
        }
    }
    packer.finish(details).map_err(|e| e.to_string())
}

/// See [`ioex_api::Request::BackupPut`].
pub(super) async fn put(
    node: &Node,
    path: PathBuf,
    manifest_path: PathBuf,
    replicas: usize,
    recipients: Vec<Uid>,
    sink: &Sink,
) -> Result<BackupDone, ApiError> {
    let started = Instant::now();
    let grant = capability(node)?;
    if manifest_path.symlink_metadata().is_ok() {
        return Err(fail(
            ErrorCode::Exists,
            format!("{} exists already: choose another name", manifest_path.display()),
        ));
    }
    let replicas = if replicas == 0 { usize::from(DEFAULT_REPLICAS) } else { replicas };
    let copies = u8::try_from(replicas).unwrap_or(u8::MAX);
    let redundancy = Redundancy::replicas(copies).map_err(|e| fail(ErrorCode::BadRequest, e.to_string()))?;
    let policy = Policy::Replicas(copies);
    let file = File::open(&path).map_err(io_error(&path))?;
    let total = file.metadata().map_err(io_error(&path))?.len();
    let (inspector, looked_at) = (Inspector::new(&node.config.inspect), path.clone());
    let looking = tokio::task::spawn_blocking(move || inspector.check(&looked_at));
    if let Err(why) = looking.await.map_err(internal)? {
        return Err(fail(ErrorCode::Refused, format!("{} was refused: {why}", path.display())));
    }
    tell(sink, BackupStep::FindHolders, 0, 0, None, None).await;
    let found = find_holders(&node.mesh, &grant, &HashSet::new()).await?;
    if found.holders.iter().all(|h| h.free_bytes == 0) {
        return Err(found.nobody());
    }
    let closed = found.closed().into();
    let mut holders = found.holders;
    holders.retain(|h| h.free_bytes > 0);
    let reader_seed = ReaderSeed::generate().map_err(|e| fail(ErrorCode::Internal, e.to_string()))?;
    let created = files::now();
    let expires = created.plus(SHARD_LIFE_SECONDS);
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("backup").to_owned();
    let placing = Placing {
        mesh: node.mesh.clone(),
        grant,
        reader: reader_seed.key().uid(),
        expires,
        placer: Arc::new(Mutex::new(Placer::new(&holders, fresh_seed()?))),
        closed,
    };
    let details = BackupDetails { name, created, expires, policy, placer: node.mesh.uid(), reader_seed };
    let owner = node.vault.repo()?.keys.owner.clone();
    let (shards, mut packed) = mpsc::channel(SHARDS_WAITING_MAX);
    let packer = tokio::task::spawn_blocking(move || pack(owner, file, details, shards));

    let mut sum = Sum::new(replicas);
    let mut running = JoinSet::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            shard = packed.recv(), if open && running.len() < SHARDS_AT_ONCE => match shard {
                Some(shard) => {
                    let size = shard.bytes.len() as u64;
                    tell(sink, BackupStep::Pack, sum.packed(size).min(total), total, None, None).await;
                    let placing = placing.clone();
                    running.spawn(async move {
                        let reference = ShardRef { address: shard.address, bytes: shard.bytes.len() as u32 };
                        let placed = placing.group(redundancy, &[(reference, Bytes::from(shard.bytes))]).await;
                        (reference, placed)
                    });
                }
                None => open = false,
            },
            Some(done) = running.join_next() => {
                let (shard, placed) = done.map_err(internal)?;
                for note in &placed.notes {
                    tell(sink, BackupStep::Place, sum.placed_bytes, sum.packed_bytes, None, Some(note.clone())).await;
                }
                if placed.copies.is_empty() {
                    return Err(fail(ErrorCode::NotEnoughHolders, format!(
                        "no device took shard {}: {}", shard.address.short(), placed.notes.join("; ")
                    )));
                }
                let holder = placed.copies.first().map(|(_, uid)| *uid);
                sum.add(shard, &placed);
                tell(sink, BackupStep::Place, sum.placed_bytes, sum.packed_bytes, holder, None).await;
            }
        }
    }
    let manifest = packer.await.map_err(|e| fail(ErrorCode::Internal, e.to_string()))?;
    let manifest = manifest.map_err(|e| fail(ErrorCode::Io, format!("{}: {e}", path.display())))?;
    write_manifest(node, &manifest, &manifest_path, recipients)?;
    let owners: BTreeMap<Uid, String> = holders.into_iter().map(|h| (h.uid, h.owner)).collect();
    Ok(BackupDone {
        path,
        bytes: manifest.size_bytes,
        address: manifest.content,
        shards: manifest.shards.len() as u64,
        packed_bytes: manifest.stored_bytes(),
        replicas: sum.fewest(),
        holders: sum.holdings(&owners),
        manifest: manifest_path,
        expires,
        shortfalls: sum.shortfalls(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn write_manifest(
    node: &Node,
    manifest: &Manifest,
    path: &Path,
    mut recipients: Vec<Uid>,
) -> Result<(), ApiError> {
    // Whoever made the backup can restore it.
    recipients.push(node.mesh.uid());
    recipients.sort_unstable();
    recipients.dedup();
    let sealed = seal_manifest(manifest, &ioex_base::NodeKey::clone(&node.mesh.config().key), &recipients)
        .map_err(|e| fail(ErrorCode::BadRequest, e.to_string()))?;
    files::write_new_private(path, &sealed).map_err(io_error(path))
}

/// Adds up what was placed.
struct Sum {
    wanted: usize,
    packed_bytes: u64,
    placed_bytes: u64,
    fewest: Option<usize>,
    short: usize,
    same_domain: bool,
    by_device: BTreeMap<Uid, (u64, u64)>,
}

impl Sum {
    fn new(wanted: usize) -> Self {
        Self {
            wanted,
            packed_bytes: 0,
            placed_bytes: 0,
            fewest: None,
            short: 0,
            same_domain: false,
            by_device: BTreeMap::new(),
        }
    }

    fn packed(&mut self, bytes: u64) -> u64 {
        debug_assert!(bytes <= SHARD_MAX_BYTES, "the packer keeps the bound");
        self.packed_bytes += bytes;
        self.packed_bytes
    }

    fn add(&mut self, shard: ShardRef, placed: &PlacedGroup) {
        let bytes = u64::from(shard.bytes);
        self.placed_bytes += bytes;
        self.fewest = Some(self.fewest.unwrap_or(usize::MAX).min(placed.copies.len()));
        self.short += usize::from(placed.copies.len() < self.wanted);
        self.same_domain |= placed.same_domain;
        for (_, uid) in &placed.copies {
            let (shards, sum) = self.by_device.entry(*uid).or_default();
            *shards += 1;
            *sum += bytes;
        }
    }

    fn fewest(&self) -> usize {
        self.fewest.unwrap_or(self.wanted)
    }

    fn holdings(&self, owners: &BTreeMap<Uid, String>) -> Vec<Holding> {
        let holding = |(uid, (shards, bytes)): (&Uid, &(u64, u64))| Holding {
            uid: *uid,
            owner: owners.get(uid).cloned().unwrap_or_default(),
            shards: *shards,
            bytes: *bytes,
        };
        self.by_device.iter().map(holding).collect()
    }

    fn shortfalls(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.short > 0 {
            out.push(format!(
                "{} shards have fewer than {} copies: too few devices with distinct owners lend space",
                self.short, self.wanted
            ));
        }
        if self.same_domain {
            out.push("some copies of one shard lie in the same network".to_owned());
        }
        out
    }
}
