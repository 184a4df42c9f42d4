//! Backing a file up (requirement B1): pack, find devices, place, write the manifest.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ioex_api::{ApiError, BackupDone, BackupProgress, BackupStep, ErrorCode, Holding, Sink, Update};
use ioex_base::{
    Grant, NodeKind, Right, SignedGrant, Uid,
    limits::{SHARD_LIFE_SECONDS, SHARD_MAX_BYTES},
    wire,
};
use ioex_net::{LinkInfo, Mesh, PathKind};
use ioex_store::SHARD_OVERHEAD_BYTES;
use ioex_vault::{
    BackupDetails, DEFAULT_REPLICAS, Holder, Manifest, Packer, Policy, ReaderSeed, Shard, place, replace,
    seal_manifest,
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Node, files, lenders_topic};

/// Packed shards that wait for being placed: 4 MiB each.
const SHARDS_WAITING_MAX: usize = 2;
/// Shards that are placed at once.
const SHARDS_AT_ONCE: usize = 3;
/// A device that does not say in this time what it takes is not used.
const CAPACITY_TIMEOUT: Duration = Duration::from_secs(5);
/// A device that does not have a shard in this time is replaced.
const PLACE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of a capability file.
const CAPABILITY_MAX_BYTES: usize = 1_024;
/// Capacities asked for at once.
const ASKS_AT_ONCE: usize = 64;

fn fail(code: ErrorCode, text: impl Into<String>) -> ApiError {
    ApiError::new(code, text)
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> ApiError + '_ {
    move |e| fail(ErrorCode::Io, format!("{}: {e}", path.display()))
}

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

/// The super node's authority, read anew each time so that it can be replaced while the node runs.
fn capability(node: &Node) -> Result<SignedGrant, ApiError> {
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

/// Asks the network for devices that lend space, and each of them what it takes.
async fn holders(mesh: &Mesh, grant: &SignedGrant) -> Result<Vec<Holder>, ApiError> {
    let directory = mesh.directory().map_err(super::convert::link_error)?;
    let found = directory.find(lenders_topic()).await;
    let mut found = found.map_err(|e| fail(ErrorCode::Unreachable, e.to_string()))?;
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
        let Some(done) = asks.join_next().await else { break };
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
            // Devices do not tell their version yet.
            firmware: String::new(),
            free_bytes: capacity.free_bytes,
            rtt_ms: link.and_then(|l| l.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0),
        }
    };
    Ok(out.into_iter().map(holder).filter(|h| h.free_bytes > SHARD_OVERHEAD_BYTES).collect())
}

/// What placing one shard came to.
struct Placed {
    shard: Shard,
    on: Vec<Uid>,
    notes: Vec<String>,
}

/// How shards are placed in this backup.
#[derive(Clone)]
struct Placing {
    mesh: Mesh,
    grant: SignedGrant,
    reader: Uid,
    expires: ioex_base::UnixSeconds,
    seed: u64,
}

impl Placing {
    /// Brings a shard to its devices; a device that fails is replaced by another one.
    async fn run(self, shard: Shard, targets: Vec<Uid>, holders: Vec<Holder>) -> Placed {
        let bytes = bytes::Bytes::from(shard.bytes.clone());
        let size = (shard.address, bytes.len() as u64);
        let (mut on, mut failed, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        let mut running = JoinSet::new();
        let begin = |running: &mut JoinSet<_>, uid: Uid| {
            let (own, bytes) = (self.clone(), bytes.clone());
            running.spawn(async move {
                let put =
                    own.mesh.shard_place(uid, &own.grant, own.reader, own.expires, shard.address, &bytes);
                let why = match tokio::time::timeout(PLACE_TIMEOUT, put).await {
                    Ok(Ok(_)) => None,
                    Ok(Err(e)) => Some(e.to_string()),
                    Err(_) => Some("it took too long".to_owned()),
                };
                (uid, why)
            });
        };
        targets.iter().for_each(|uid| begin(&mut running, *uid));
        let mut asked = targets;
        while let Some(done) = running.join_next().await {
            let Ok((uid, why)) = done else { continue };
            let Some(why) = why else {
                on.push(uid);
                continue;
            };
            notes.push(format!("{} did not take a shard ({why})", uid.short()));
            failed.push(uid);
            let keep: Vec<Uid> = asked.iter().filter(|u| !failed.contains(u)).copied().collect();
            if let Some(other) = replace(size, &keep, &failed, &holders, self.seed) {
                asked.push(other.uid);
                begin(&mut running, other.uid);
            }
        }
        Placed { shard, on, notes }
    }
}

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
    let policy = u8::try_from(replicas)
        .map(Policy::Replicas)
        .map_err(|_| fail(ErrorCode::BadRequest, "at most 255 copies of a shard are possible"))?;
    let file = File::open(&path).map_err(io_error(&path))?;
    let total = file.metadata().map_err(io_error(&path))?.len();
    tell(sink, BackupStep::FindHolders, 0, 0, None, None).await;
    let mut holders = holders(&node.mesh, &grant).await?;
    if holders.is_empty() {
        return Err(fail(
            ErrorCode::NotEnoughHolders,
            "no device that lends space was found, or none accepts this node's capability",
        ));
    }
    let reader_seed = ReaderSeed::generate().map_err(|e| fail(ErrorCode::Internal, e.to_string()))?;
    let created = files::now();
    let expires = created.plus(SHARD_LIFE_SECONDS);
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("backup").to_owned();
    let placing = Placing {
        mesh: node.mesh.clone(),
        grant,
        reader: reader_seed.key().uid(),
        expires,
        seed: u64::from_le_bytes(random()?),
    };
    let details = BackupDetails { name, created, expires, policy, placer: node.mesh.uid(), reader_seed };
    let owner = files::owner_key(&node.config.data).map_err(|e| fail(ErrorCode::Io, format!("{e:#}")))?;
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
                    let plan = place(&[(shard.address, size)], &holders, replicas, placing.seed);
                    let targets = plan.assignments.into_iter().next().unwrap_or_default();
                    for holder in holders.iter_mut().filter(|h| targets.contains(&h.uid)) {
                        holder.free_bytes = holder.free_bytes.saturating_sub(size + SHARD_OVERHEAD_BYTES);
                    }
                    sum.same_domain |= plan.shortfalls.iter().any(|s| s.same_domain > 0);
                    tell(sink, BackupStep::Pack, sum.packed(size).min(total), total, None, None).await;
                    running.spawn(placing.clone().run(shard, targets, holders.clone()));
                }
                None => open = false,
            },
            Some(done) = running.join_next() => {
                let placed = done.map_err(|e| fail(ErrorCode::Internal, e.to_string()))?;
                for note in &placed.notes {
                    tell(sink, BackupStep::Place, sum.placed_bytes, sum.packed_bytes, None, Some(note.clone())).await;
                }
                if placed.on.is_empty() {
                    return Err(fail(ErrorCode::NotEnoughHolders, format!(
                        "no device took shard {}: {}", placed.shard.address.short(), placed.notes.join("; ")
                    )));
                }
                let holder = placed.on.first().copied();
                sum.add(&placed);
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

fn random() -> Result<[u8; 8], ApiError> {
    let mut out = [0; 8];
    getrandom::fill(&mut out).map_err(|e| fail(ErrorCode::Internal, e.to_string()))?;
    Ok(out)
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

    fn add(&mut self, placed: &Placed) {
        let bytes = placed.shard.bytes.len() as u64;
        self.placed_bytes += bytes;
        self.fewest = Some(self.fewest.unwrap_or(usize::MAX).min(placed.on.len()));
        self.short += usize::from(placed.on.len() < self.wanted);
        for uid in &placed.on {
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
