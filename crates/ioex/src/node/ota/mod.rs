//! Updates at a running node: what it carries and serves for others, and, at a device whose maker
//! updates it, the device's own.
//!
//! [`shelf`] has the files, [`package`] what they mean, [`live`] who is served just now, [`download`] gets
//! one from many ([`sources`] says from whom) but for what the device runs already ([`own`]), [`installer`] puts it where it belongs, [`device`] decides when, and a program in
//! which the node runs is told and asked ([`host`]). A maker's
//! super node also packs ([`maker`]), matches devices with providers, hears how it went ([`orders`]), and keeps up with the
//! channel's other matchers ([`matchers`]).

mod bundle;
mod channels;
mod device;
mod download;
mod ends;
#[cfg(test)]
mod fixture;
mod host;
mod installer;
mod live;
#[cfg(feature = "super")]
mod maker;
#[cfg(feature = "super")]
mod matchers;
#[cfg(feature = "super")]
mod orders;
mod own;
mod package;
mod receipts;
mod room;
mod shelf;
mod sources;
mod tills;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use ioex_api::{ApiError, Empty, ErrorCode, OtaRequest, Sink, Update};
use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use ioex_net::{
    Mesh, PathKind,
    door::Refusal,
    proto::{ChannelAsk, ChannelFiles, Join, Joined, Match, News, No, Report, ShardAsk},
    throttle::Throttle,
    updates::{Renewal, Turn, Updates},
};
use ioex_ota::{
    pass::Pass,
    voucher::{Voucher, VoucherError},
};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "super")]
pub(crate) use self::bundle::{BundleFile, FORMAT as BUNDLE_FORMAT};
pub use self::host::{Answer, DeviceUpdates, Moment};
pub(crate) use self::installer::boot;
use self::{
    channels::Channels,
    device::{Device, Kept},
    live::Live,
    package::Package,
    receipts::{Receipts, Side},
    shelf::Shelf,
    tills::Counter,
};
use super::{Node, files, lock};
use crate::config::NodeConfig;

/// The folder below the node's data.
const DIR: &str = "ota";
/// How often the owner's policy for serving is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How long the directory may take to say who has something: its own questions take six seconds, one after another.
const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// When who finds no room for its voucher is to ask again, in ms: some end meanwhile.
const VOUCHERS_WAIT_MS: u32 = 60_000;
/// Shards that a super node sends at once, for each package: few, so that each is soon at a device that passes it on.
#[cfg(feature = "super")]
const ORIGIN_SLOTS: u16 = 6;

/// Everything about updates at this node.
pub(crate) struct Ota {
    shelf: Shelf,
    channels: Arc<Channels>,
    mesh: OnceLock<Mesh>,
    lives: Mutex<HashMap<ContentAddress, Arc<Live>>>,
    /// One package is opened at a time: it is read whole.
    opening: tokio::sync::Mutex<()>,
    upload: Throttle,
    /// How many packages are being packed, or were packed and are about to be ordered: nothing is swept meanwhile.
    #[cfg(feature = "super")]
    packing: Mutex<usize>,
    device: Option<Arc<Device>>,
    receipts: Arc<Receipts>,
    counter: Arc<Counter>,
    #[cfg(feature = "super")]
    orders: Arc<orders::Orders>,
    #[cfg(feature = "super")]
    pulls: Arc<matchers::Pulls>,
}

impl Ota {
    /// Opens what is on disk.
    ///
    /// # Errors
    /// When it cannot be read, or the configuration's bundle or installer cannot be used.
    pub(crate) fn open(config: &NodeConfig, key: &NodeKey) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let dir = config.data.join(DIR);
        files::private_dir(&dir)?;
        let at = || format!("the folder {}", dir.display());
        let shelf = Shelf::open(&dir).with_context(at)?;
        let channels = Channels::open(&dir.join("channels")).with_context(at)?;
        let device = config.ota.as_ref().map(|ota| Device::open(ota, dir.clone())).transpose()?;
        let upload = Throttle::default();
        if let Some(device) = &device {
            upload.set_rate(device.upload_rate());
        }
        #[cfg(feature = "super")]
        let orders = Arc::new(orders::Orders::open(&dir.join("orders"), key)?);
        #[cfg(feature = "super")]
        for channel in orders.co_matchers().into_keys() {
            orders.follow(&channel, &channels.releases(&channel)).with_context(at)?;
        }
        let counter = Arc::new(Counter::open(&dir.join("vouchers"), files::now()).with_context(at)?);
        if let Some(device) = &device {
            counter.allow(device.cap_left());
        }
        Ok(Self {
            shelf,
            channels: Arc::new(channels),
            mesh: OnceLock::new(),
            lives: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            upload,
            #[cfg(feature = "super")]
            packing: Mutex::default(),
            device: device.map(Arc::new),
            receipts: Arc::new(Receipts::open(&dir.join("receipts"), key).with_context(at)?),
            counter,
            #[cfg(feature = "super")]
            orders,
            #[cfg(feature = "super")]
            pulls: Arc::default(),
        })
    }

    /// Whether this node has anything to do with updates.
    fn is_used(&self) -> bool {
        #[cfg(feature = "super")]
        let orders = self.orders.any();
        #[cfg(not(feature = "super"))]
        let orders = false;
        self.device.is_some() || orders || !lock(&self.lives).is_empty()
    }

    /// Who says in the directory that it has this; nobody when the directory does not answer in time.
    async fn holders(&self, address: ContentAddress) -> Vec<Uid> {
        let Some(Ok(directory)) = self.mesh().map(Mesh::directory) else { return Vec::new() };
        match tokio::time::timeout(FIND_TIMEOUT, directory.find(address)).await {
            Ok(found) => found.unwrap_or_default(),
            Err(_) => {
                tracing::warn!("the directory did not answer within {} s", FIND_TIMEOUT.as_secs());
                Vec::new()
            }
        }
    }

    #[cfg(feature = "super")]
    fn puller(&self) -> Option<matchers::Puller> {
        let (channels, orders, pulls) = (self.channels.clone(), self.orders.clone(), self.pulls.clone());
        self.mesh().map(|mesh| matchers::Puller { channels, orders, mesh: mesh.clone(), pulls })
    }

    fn mesh(&self) -> Option<&Mesh> {
        self.mesh.get()
    }

    /// What time it is, as far as this node knows.
    fn now(&self) -> UnixSeconds {
        self.mesh().and_then(Mesh::network_time).unwrap_or_else(files::now)
    }

    fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Keeps the metadata that a device verified, for others that ask it.
    fn carry_copy(&self, bundle: &bundle::Bundle, files: &ChannelFiles, trusted: u64) {
        if let Err(e) = self.channels.learn(bundle.channel, &bundle.root, files, trusted) {
            tracing::warn!("the channel's metadata cannot be kept: {e}");
        }
        if self.channels.has(&bundle.channel)
            && let Some(mesh) = self.mesh()
        {
            mesh.announce(bundle.channel);
        }
    }

    /// The exchange of a package; opened when it is not open.
    ///
    /// # Errors
    /// Why it cannot be, for people.
    async fn live(&self, kept: &Kept, key: &NodeKey, origin: bool) -> Result<Arc<Live>, String> {
        let _turn = self.opening.lock().await;
        if let Some(live) = lock(&self.lives).get(&kept.manifest) {
            return Ok(live.clone());
        }
        let (shelf, counter, key) = (self.shelf.clone(), self.counter.clone(), key.clone());
        let (address, matchers) = (kept.manifest, kept.matchers.iter().copied().collect::<HashSet<_>>());
        let slots = match &self.device {
            Some(device) => device.slots(),
            #[cfg(feature = "super")]
            None => ORIGIN_SLOTS,
            #[cfg(not(feature = "super"))]
            None => 0,
        };
        let opened = tokio::task::spawn_blocking(move || {
            let package =
                Package::open(&shelf, address, &key, matchers, origin).map_err(|e| e.to_string())?;
            Live::new(package, shelf, counter, slots)
        });
        let live = opened.await.map_err(|e| e.to_string())??;
        lock(&self.lives).insert(address, live.clone());
        if let Some(mesh) = self.mesh() {
            mesh.announce(address);
        }
        Ok(live)
    }

    /// The exchange of a package, if it is open.
    fn open_live(&self, manifest: &ContentAddress) -> Option<Arc<Live>> {
        lock(&self.lives).get(manifest).cloned()
    }

    /// The packages of which this node is an origin.
    #[cfg(feature = "super")]
    fn ordered(&self) -> Vec<Kept> {
        self.orders.sweep(files::now(), |channel| self.channels.newest(channel))
    }

    /// Deletes what nothing refers to any more.
    fn sweep(&self) {
        self.counter.sweep(self.now());
        #[cfg(feature = "super")]
        let packing = lock(&self.packing);
        #[cfg(feature = "super")]
        if *packing > 0 {
            return;
        }
        let mut manifests = HashSet::new();
        if let Some(device) = &self.device {
            manifests.extend(device.wanted_packages());
        }
        #[cfg(feature = "super")]
        manifests.extend(self.ordered().into_iter().map(|kept| kept.manifest));
        let mut lives = lock(&self.lives);
        lives.retain(|address, _| manifests.contains(address));
        if lives.len() < manifests.len() {
            // One that could not be opened may still need its shards.
            return;
        }
        let shards =
            lives.values().flat_map(|live| live.package.shards()).map(|shard| shard.address).collect();
        drop(lives);
        match self.shelf.keep_only(&manifests, &shards) {
            Ok(0) => {}
            Ok(freed) => tracing::info!("packages that nobody needs any more gave {freed} bytes back"),
            Err(e) => tracing::warn!("old packages cannot be deleted: {e}"),
        }
    }
}

/// Starts what runs beside the API. `in_program`: the node runs in a program that is not `ioex`.
pub(super) fn run(node: &Arc<Node>, in_program: bool) -> Vec<tokio::task::JoinHandle<()>> {
    let ota = node.ota.clone();
    // Nothing was answered before.
    let _ = ota.mesh.set(node.mesh.clone());
    let updates: Arc<dyn Updates> = ota.clone();
    node.mesh.update_with(&updates);
    let mut tasks = vec![tokio::spawn(tend(ota.clone(), node.stop.clone()))];
    #[cfg(feature = "super")]
    if let Some(puller) = ota.puller() {
        tasks.push(tokio::spawn(matchers::run(puller, node.stop.clone())));
    }
    if let Some(device) = &ota.device {
        if in_program {
            device.host.set_program(&node.config.data.join(DIR));
        }
        tasks.push(tokio::spawn(device.clone().run(ota.clone(), node.stop.clone())));
    }
    tasks
}

/// Opens what is served, and looks after it until `stop`.
async fn tend(ota: Arc<Ota>, stop: CancellationToken) {
    if let Some(device) = &ota.device {
        for kept in device.kept() {
            if let Err(e) = ota.live(&kept, &device.bundle.key, false).await {
                tracing::warn!("the package {} cannot be served: {e}", kept.manifest);
            }
        }
    }
    #[cfg(feature = "super")]
    for kept in ota.ordered() {
        if let Some(mesh) = ota.mesh()
            && let Err(e) = ota.live(&kept, &mesh.config().key, true).await
        {
            tracing::warn!("the package {} cannot be served: {e}", kept.manifest);
        }
    }
    let device = ota.device.as_ref();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let own = ota.clone();
        if tokio::task::spawn_blocking(move || own.sweep()).await.is_err() {
            tracing::warn!("looking after old packages failed");
        }
        let Some(device) = device else { continue };
        device.count_sent(&ota.counter).await;
        let slots = device.slots();
        lock(&ota.lives).values().for_each(|live| live.set_slots(slots));
    }
    if let Some(device) = device {
        device.count_sent(&ota.counter).await;
    }
}

impl Updates for Ota {
    fn exchanges(&self) -> bool {
        self.is_used()
    }

    fn carries(&self, address: &ContentAddress) -> bool {
        self.channels.has(address) || lock(&self.lives).contains_key(address)
    }

    fn on_roster(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        #[cfg(feature = "super")]
        return self.orders.on_roster(manifest, caller);
        #[cfg(not(feature = "super"))]
        {
            let _ = (manifest, caller);
            false
        }
    }

    fn on_a_roster(&self, caller: &Uid) -> bool {
        #[cfg(feature = "super")]
        return self.orders.on_a_roster(caller);
        #[cfg(not(feature = "super"))]
        {
            let _ = caller;
            false
        }
    }

    fn is_co_matcher(&self, channel: &ContentAddress, caller: &Uid) -> bool {
        #[cfg(feature = "super")]
        return self.orders.is_co_matcher(channel, caller);
        #[cfg(not(feature = "super"))]
        {
            let _ = (channel, caller);
            false
        }
    }

    fn admits(&self, caller: &Uid, join: &Join) -> bool {
        let Some(live) = self.open_live(&join.manifest) else { return false };
        let Some(own) = self.mesh().map(Mesh::uid) else { return false };
        if !live.package.matchers.contains(&join.issuer) {
            return false;
        }
        let now = self.now();
        let voucher = Voucher::check(&join.credential, &join.issuer, caller, &own, now);
        if let Ok(voucher) = voucher {
            return voucher.manifest == join.manifest && self.counter.admits(&join.issuer, &voucher);
        }
        Pass::check(&join.credential, &join.issuer, caller, &join.manifest, now).is_ok()
    }

    fn has_joined(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        self.open_live(manifest).is_some_and(|live| live.is_guest(caller))
    }

    fn announced(&self) -> Vec<ContentAddress> {
        let mut all: Vec<ContentAddress> = self.channels.all();
        all.extend(lock(&self.lives).keys());
        all
    }

    fn upload(&self) -> &Throttle {
        &self.upload
    }

    fn channel(&self, ask: &ChannelAsk) -> Result<ChannelFiles, No> {
        self.channels.files(&ask.channel, ask.root_version).map_err(|_| No::Failed)?.ok_or(No::NotFound)
    }

    fn package(&self, address: &ContentAddress) -> io::Result<Option<(File, u64)>> {
        self.shelf.open_manifest(address)
    }

    fn matched(&self, caller: &Uid, manifest: &ContentAddress) -> Result<Match, No> {
        #[cfg(feature = "super")]
        return self.orders.matched(caller, manifest);
        #[cfg(not(feature = "super"))]
        {
            let _ = (caller, manifest);
            Err(No::NotFound)
        }
    }

    fn report(&self, caller: &Uid, report: Report) -> Result<(), No> {
        #[cfg(feature = "super")]
        return self.orders.report(caller, report);
        #[cfg(not(feature = "super"))]
        {
            let _ = (caller, report);
            Err(No::NotFound)
        }
    }

    fn joined(
        &self,
        caller: &Uid,
        join: Join,
        _path: PathKind,
        tell: tokio::sync::mpsc::Sender<News>,
    ) -> Result<Joined, No> {
        let live = self.open_live(&join.manifest).ok_or(No::NotFound)?;
        let own = self.mesh().map(Mesh::uid).ok_or(No::Failed)?;
        let now = self.now();
        // Under a pass nothing is paid, and nothing receipted.
        match Voucher::check(&join.credential, &join.issuer, caller, &own, now) {
            Ok(voucher) => {
                let account = Receipts::account(&join.certificate, caller, now);
                let came = self.counter.came(&join.issuer, &voucher, account, &self.receipts, now);
                came.map_err(|why| match why {
                    VoucherError::Busy => No::Busy { after_ms: VOUCHERS_WAIT_MS },
                    // Another connection was faster with a fresh one.
                    _ => (&Refusal::NoAuthority).into(),
                })?;
            }
            Err(_) => self.counter.came_free(caller, &join.manifest),
        }
        let joined = live.joined(*caller, &join.have, tell);
        if joined.is_err() && !live.is_guest(caller) {
            self.counter.went(caller, &join.manifest);
        }
        let joined = joined?;
        Ok(Joined { certificate: self.receipts.certificate(), ..joined })
    }

    fn news(&self, caller: &Uid, manifest: &ContentAddress, news: News) {
        if let Some(live) = self.open_live(manifest) {
            live.news(caller, &news);
        }
    }

    fn parted(&self, caller: &Uid, manifest: &ContentAddress) {
        if let Some(live) = self.open_live(manifest) {
            live.parted(caller);
        }
    }

    fn shard(&self, caller: Uid, ask: ShardAsk) -> Turn {
        match self.open_live(&ask.manifest) {
            Some(live) => Box::pin(live.serve(caller, ask)),
            None => Box::pin(std::future::ready(Err(No::NotFound))),
        }
    }

    fn renewed(&self, caller: Uid, channel: ContentAddress) -> Renewal {
        #[cfg(feature = "super")]
        if let Some(puller) = self.puller() {
            return Box::pin(async move {
                puller.pull(channel, caller).await.map(|_| ()).map_err(|e| {
                    tracing::warn!("{} says that {channel} changed, and: {e}", caller.short());
                    No::Failed
                })
            });
        }
        let _ = (caller, channel);
        Box::pin(std::future::ready(Err(No::NotFound)))
    }

    fn receipt(&self, caller: &Uid, receipt: Vec<u8>) -> Result<Vec<u8>, No> {
        let signed = receipts::decode(&receipt).ok_or(No::BadRequest)?;
        let signed = self.counter.settle(caller, signed, &self.receipts.key).map_err(|why| {
            tracing::info!("{} sent a receipt that is not taken: {why}", caller.short());
            No::BadRequest
        })?;
        self.receipts.keep(Side::Provider, &signed).map_err(|_| No::Failed)?;
        Ok(receipts::encode(&signed))
    }
}

/// Answers what is asked over the local API.
///
/// # Errors
/// What went wrong, for people.
pub(super) async fn handle(
    node: &Node,
    request: OtaRequest,
    sink: &Sink,
) -> Result<serde_json::Value, ApiError> {
    match request {
        #[cfg(feature = "super")]
        OtaRequest::Pack { .. }
        | OtaRequest::Order { .. }
        | OtaRequest::End { .. }
        | OtaRequest::Carry { .. }
        | OtaRequest::Fleet => maker::handle(node, request, sink).await,
        #[cfg(not(feature = "super"))]
        OtaRequest::Pack { .. }
        | OtaRequest::Order { .. }
        | OtaRequest::End { .. }
        | OtaRequest::Carry { .. }
        | OtaRequest::Fleet => Err(ApiError::new(
            ErrorCode::NotAllowed,
            "this program was built for devices: it publishes nothing",
        )),
        request => {
            let device = DeviceUpdates::of(&node.ota).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::NotFound,
                    "this node is no device that is updated: its configuration has no [ota] section",
                )
            })?;
            match request {
                OtaRequest::Check => on_disk(&device, DeviceUpdates::check).await?,
                OtaRequest::Consent { version, manifest, yes, now } => {
                    let answer = Answer { version, manifest, yes, now };
                    let told = answer.clone();
                    on_disk(&device, move |device| device.consent(&told)).await?;
                    if yes {
                        device.answered(&answer).await?;
                    }
                }
                OtaRequest::Forgive => on_disk(&device, DeviceUpdates::forgive).await?,
                OtaRequest::Confirm => device.confirm().await?,
                OtaRequest::RollBack => device.roll_back("its owner went back").await?,
                OtaRequest::Follow => {
                    let mut changes = device.changes();
                    loop {
                        let now = device.state();
                        if sink.update(Update::Ota(Box::new(now))).await.is_err() {
                            return super::api::done(Empty {});
                        }
                        tokio::select! {
                            () = node.stop.cancelled() => return super::api::done(device.state()),
                            changed = changes.changed() => if changed.is_err() { return super::api::done(device.state()) },
                        }
                    }
                }
                _ => {}
            }
            super::api::done(device.state())
        }
    }
}

/// A call that waits for the disk, on a thread for that.
async fn on_disk(
    device: &DeviceUpdates,
    call: impl FnOnce(&DeviceUpdates) -> Result<(), ApiError> + Send + 'static,
) -> Result<(), ApiError> {
    let device = device.clone();
    let done = tokio::task::spawn_blocking(move || call(&device)).await;
    done.unwrap_or_else(|e| Err(ApiError::new(ErrorCode::Internal, e.to_string())))
}
