//! A maker's requests at its super node: pack a version, take an order, carry the channel, show the fleet.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use data_encoding::BASE64;
use ioex_api::{
    ApiError, Empty, ErrorCode, OtaCarried, OtaDelta, OtaImage, OtaImagePath, OtaPackProgress, OtaPacked,
    OtaRequest, Sink, Update,
};
use ioex_base::{ContentAddress, NodeKey, NodeKind, Uid, limits::SHARD_LIFE_SECONDS};
use ioex_net::proto::ChannelFiles;
use ioex_ota::{
    channel::{Channel, PackageHash},
    rollout::StopRule,
    tuf::Role,
};
use ioex_vault::{
    BackupDetails, Manifest, OwnerKey, Packer, Policy, ReaderSeed, open_manifest, safe_file_name,
    seal_manifest,
};

use super::{bundle::key_bytes, device::Kept, matchers, orders::NewOrder, shelf::Shelf};
use crate::node::{Node, api, files, lock, vault::inspect::Inspector};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Longest file of a channel's folder in bytes.
const METADATA_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Keeps the sweeper away until it is dropped: while a package is packed, and until its client has ordered it or is gone.
struct Pinned<'a>(&'a super::Ota);

impl<'a> Pinned<'a> {
    fn new(ota: &'a super::Ota) -> Self {
        *lock(&ota.packing) += 1;
        Self(ota)
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        *lock(&self.0.packing) -= 1;
    }
}

fn refuse(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, why.to_string())
}

/// See [`super::handle`].
pub(super) async fn handle(
    node: &Node,
    request: OtaRequest,
    sink: &Sink,
) -> Result<serde_json::Value, ApiError> {
    match request {
        OtaRequest::Pack { images, pack_key, recipient, previous, name } => {
            may_make(node)?;
            let _pinned = Pinned::new(&node.ota);
            let packed = pack(node, images, &pack_key, recipient, previous, name, sink).await?;
            if sink.update(Update::OtaPacked(Box::new(packed))).await.is_ok() {
                // The client places its order meanwhile; this future is dropped when it goes.
                node.stop.cancelled().await;
            }
            api::done(Empty {})
        }
        OtaRequest::Carry { dir, tell } => {
            let (ota, mesh) = (node.ota.clone(), node.mesh.clone());
            let carried = tokio::task::spawn_blocking(move || carry(&ota, &dir)).await;
            let channel = carried.map_err(refuse)?.map_err(|e| refuse(format!("{e:#}")))?;
            mesh.announce(channel);
            if tell {
                return api::done(matchers::tell(node.ota.clone(), &mesh, channel).await);
            }
            api::done(OtaCarried { channel, told: Vec::new(), missed: Vec::new() })
        }
        OtaRequest::Order { order, signer, channel, roster, matchers, origins, stop } => {
            may_make(node)?;
            let stop = StopRule { min_results: stop.0, max_failed_per_myriad: stop.1 };
            let sealed = BASE64.decode(order.as_bytes()).map_err(refuse)?;
            let is_origin = origins.contains(&node.mesh.uid());
            let new = NewOrder { sealed, signer, channel, roster, matchers: matchers.clone(), origins, stop };
            let order = new.order().map_err(|e| refuse(format!("{e:#}")))?;
            let manifest = order.manifest;
            may_order(&node.ota, &new).map_err(|e| refuse(format!("{e:#}")))?;
            if is_origin {
                // What is not whole here could not be completed by any device.
                let kept = Kept { manifest, matchers };
                let live = node.ota.live(&kept, &node.mesh.config().key, true).await.map_err(refuse)?;
                if !live.have().is_full() {
                    lock(&node.ota.lives).remove(&manifest);
                    return Err(refuse("parts of the package are not here any more: publish it again"));
                }
                let has = live.package.shards().len();
                if has != order.shards as usize {
                    return Err(refuse(format!("the package has {has} shards, not {}", order.shards)));
                }
            }
            let ota = node.ota.clone();
            let taken = tokio::task::spawn_blocking(move || {
                let channel = new.channel;
                ota.orders.take(new)?;
                // As the channel has it by now.
                Ok::<(), anyhow::Error>(ota.orders.follow(&channel, &ota.channels.releases(&channel))?)
            });
            taken.await.map_err(refuse)?.map_err(|e| refuse(format!("{e:#}")))?;
            api::done(manifest)
        }
        OtaRequest::End { manifest } => {
            let ota = node.ota.clone();
            let ended = tokio::task::spawn_blocking(move || ota.orders.end(&manifest)).await;
            api::done(ended.map_err(refuse)?.map_err(|e| ApiError::new(ErrorCode::Io, e.to_string()))?)
        }
        _ => {
            let ota = node.ota.clone();
            let read = tokio::task::spawn_blocking(move || {
                ota.orders.fleet(|channel| ota.channels.releases(channel))
            });
            let mut fleet = read.await.map_err(refuse)?;
            for order in &mut fleet.orders {
                let live = node.ota.open_live(&order.manifest);
                order.served_bytes = live.map_or(0, |live| live.sent_bytes());
            }
            api::done(fleet)
        }
    }
}

/// Packing and matching is what super nodes do.
fn may_make(node: &Node) -> Result<(), ApiError> {
    if node.config.kind == NodeKind::Super {
        return Ok(());
    }
    let why = format!("this is a {} node: versions are published at a super node (--data)", node.config.kind);
    Err(ApiError::new(ErrorCode::NotAllowed, why))
}

/// Orders are signed by a key of the channel's targets role.
fn may_order(ota: &super::Ota, new: &NewOrder) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let root = ota.channels.newest_root(&new.channel).map_err(anyhow::Error::msg);
    let root = root.context("publish, or hand the channel over first")?;
    let root: ioex_ota::tuf::Root = ioex_ota::tuf::Envelope::parse(Role::Root, &root)?.read()?;
    let signers = root.signers(Role::Targets);
    let known = signers.is_some_and(|(signers, _)| signers.values().any(|uid| *uid == new.signer));
    anyhow::ensure!(known, "the order is not signed by a key of the channel's targets role");
    Ok(())
}

/// Carries a channel's folder; orders follow what it says.
fn carry(ota: &super::Ota, dir: &Path) -> anyhow::Result<ContentAddress> {
    let read = |name: &str| {
        let path = dir.join(name);
        let fits = std::fs::metadata(&path).is_ok_and(|meta| meta.len() <= METADATA_MAX_BYTES);
        if fits { std::fs::read(path).ok() } else { None }
    };
    let channel = Channel::load(read)?;
    let mut files = ChannelFiles::default();
    let mut roots = Vec::new();
    for (name, bytes) in channel.files() {
        if let Some(number) = name.strip_suffix(".root.json").and_then(|number| number.parse::<u64>().ok()) {
            roots.push((number, bytes));
        } else if name.ends_with(".targets.json") {
            files.targets = bytes;
        } else if name.ends_with(".snapshot.json") {
            files.snapshot = bytes;
        } else {
            files.timestamp = bytes;
        }
    }
    roots.sort_unstable();
    files.roots = roots.into_iter().map(|(_, bytes)| bytes).collect();
    let channel = ota.channels.carry(&files)?;
    ota.orders.follow(&channel, &ota.channels.releases(&channel))?;
    Ok(channel)
}

/// Several files as one stream, hashed as a whole and one by one.
struct Images {
    left: std::vec::IntoIter<(OtaImagePath, File)>,
    current: Option<(OtaImagePath, File, PackageHash, u64)>,
    whole: Option<PackageHash>,
    done: Vec<OtaImage>,
    read: Arc<AtomicU64>,
}

impl Images {
    fn open(images: Vec<OtaImagePath>, read: Arc<AtomicU64>) -> io::Result<Self> {
        let open = |image: OtaImagePath| {
            let file = File::open(&image.path);
            file.map(|file| (image.clone(), file))
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", image.path.display())))
        };
        let all = images.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let mut images = Self {
            left: all.into_iter(),
            current: None,
            whole: Some(PackageHash::default()),
            done: Vec::new(),
            read,
        };
        images.advance();
        Ok(images)
    }

    fn advance(&mut self) {
        if let Some((image, _, hash, length)) = self.current.take() {
            let named = hash.image(&image.name);
            // A folder is named by what it contains, not by the archive in which it travels.
            let hash = image.tree.unwrap_or(named.hash);
            self.done.push(OtaImage { name: named.name, length, hash });
        }
        self.current = self.left.next().map(|(image, file)| (image, file, PackageHash::default(), 0));
    }
}

impl Read for Images {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some((_, file, hash, length)) = &mut self.current else { return Ok(0) };
            let n = file.read(into)?;
            if n > 0 {
                hash.update(&into[..n]);
                *length += n as u64;
                if let Some(whole) = &mut self.whole {
                    whole.update(&into[..n]);
                }
                self.read.fetch_add(n as u64, Ordering::Relaxed);
                return Ok(n);
            }
            self.advance();
        }
    }
}

struct Job {
    images: Vec<OtaImagePath>,
    owner: OwnerKey,
    previous: Vec<Manifest>,
    details: BackupDetails,
    shelf: Shelf,
    read: Arc<AtomicU64>,
}

struct Done {
    manifest: Manifest,
    images: Vec<OtaImage>,
    whole: PackageHash,
    new_bytes: u64,
}

impl Job {
    fn run(self) -> Result<Done, ApiError> {
        let io = |e: io::Error| ApiError::new(ErrorCode::Io, e.to_string());
        let mut images = Images::open(self.images, self.read).map_err(io)?;
        let mut packer = Packer::for_package(&self.owner, &mut images).map_err(refuse)?;
        for manifest in &self.previous {
            // Only what is here can be passed on.
            let whole = manifest.shards.iter().all(|shard| self.shelf.has(&shard.address, shard.bytes));
            if whole {
                packer = packer.with_previous(manifest);
            }
        }
        let mut new_bytes = 0;
        for shard in packer.by_ref() {
            let shard = shard.map_err(refuse)?;
            new_bytes += shard.bytes.len() as u64;
            self.shelf.put(&shard.address, &shard.bytes).map_err(io)?;
        }
        let manifest = packer.finish(self.details).map_err(refuse)?;
        let whole = images.whole.take().unwrap_or_default();
        Ok(Done { manifest, images: images.done, whole, new_bytes })
    }
}

async fn pack(
    node: &Node,
    images: Vec<OtaImagePath>,
    pack_key: &str,
    recipient: Uid,
    previous: Vec<ContentAddress>,
    name: String,
    sink: &Sink,
) -> Result<OtaPacked, ApiError> {
    let key = key_bytes(pack_key).ok_or_else(|| refuse("the packing key is no key"))?;
    let own: &NodeKey = &node.mesh.config().key;
    let shelf = node.ota.shelf().clone();
    let mut total = 0;
    for image in &images {
        let inspector = Inspector::new(&node.config.inspect);
        let path: PathBuf = image.path.clone();
        let looking = tokio::task::spawn_blocking(move || inspector.check(&path));
        if let Err(why) = looking.await.map_err(refuse)? {
            let text = format!("{} was refused: {why}", image.path.display());
            return Err(ApiError::new(ErrorCode::Refused, text));
        }
        let meta = std::fs::metadata(&image.path);
        total +=
            meta.map_err(|e| ApiError::new(ErrorCode::Io, format!("{}: {e}", image.path.display())))?.len();
    }
    let mut manifests = Vec::new();
    let mut known = Vec::new();
    for address in previous {
        let Some(sealed) = shelf.manifest(&address).map_err(refuse)? else { continue };
        if let Ok((manifest, _)) = open_manifest(&sealed, own) {
            known.push(address);
            manifests.push(manifest);
        }
    }
    let created = files::now();
    let details = BackupDetails {
        name: safe_file_name(&name).map_err(refuse)?.to_owned(),
        created,
        expires: created.plus(SHARD_LIFE_SECONDS),
        policy: Policy::Replicas(1),
        placer: node.mesh.uid(),
        reader_seed: ReaderSeed::generate().map_err(refuse)?,
    };
    let read = Arc::new(AtomicU64::new(0));
    let job = Job {
        images,
        owner: OwnerKey::from_bytes(key),
        previous: manifests.clone(),
        details,
        shelf: shelf.clone(),
        read: read.clone(),
    };
    let mut running = tokio::task::spawn_blocking(move || job.run());
    let done = loop {
        tokio::select! {
            done = &mut running => break done.map_err(refuse)??,
            () = tokio::time::sleep(TELL_EVERY) => {
                let done_bytes = read.load(Ordering::Relaxed);
                let _ = sink.update(Update::OtaPack(OtaPackProgress { done_bytes, total_bytes: total })).await;
            }
        }
    };
    let manifest = done.manifest;
    let sealed = seal_manifest(&manifest, own, &[recipient, node.mesh.uid()]).map_err(refuse)?;
    let address = shelf.put_manifest(&sealed).map_err(refuse)?;
    let deltas = known.iter().zip(&manifests).map(|(address, old)| {
        let has: std::collections::HashSet<_> = old.shards.iter().map(|shard| shard.address).collect();
        let missing = manifest.shards.iter().filter(|shard| !has.contains(&shard.address));
        OtaDelta { manifest: *address, bytes: missing.map(|shard| u64::from(shard.bytes)).sum() }
    });
    let target = done.whole.finish();
    Ok(OtaPacked {
        manifest: address,
        shards: manifest.shards.len() as u64,
        stored_bytes: manifest.stored_bytes(),
        new_bytes: done.new_bytes,
        deltas: deltas.collect(),
        images: done.images,
        length: target.length,
        hashes: target.hashes,
    })
}
