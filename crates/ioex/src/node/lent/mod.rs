//! The space that the owner lends: the shard store behind the mesh's [`Host`](ioex_net::Host), and
//! the owner's settings over it.

mod change;
mod handover;
mod host;
mod policy;
mod relocate;
mod revoked;
mod scrub;
mod sense;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use ioex_base::{CLOCK_SLACK_SECONDS, ContentAddress, NodeKind, Uid, UnixSeconds, limits::SHARD_MAX_BYTES};
use ioex_net::{
    Host as _,
    host::{Availability, Handover},
    proto::No,
    throttle::Throttle,
};
use ioex_store::{
    Expired, HeldShard, Lease, SHARD_OVERHEAD_BYTES, ShardStore, StoreError, Terms, Usage, lease_times,
};
use ioex_vault::proof;

use self::scrub::Scrub;
pub(crate) use self::{
    change::DeleteError,
    handover::bytes as handover_bytes,
    policy::{Conditions, Verdict, Why},
    relocate::{clear_old, is_missing, missing, open as open_lent, relocate},
    revoked::Revoked,
    sense::Sense,
};
use super::{files, lock};
use crate::{config::NodeConfig, device::DeviceSettings};

/// Bytes of the disk that nobody is lent.
pub(crate) const DISK_SPARE_BYTES: u64 = 64 * 1024 * 1024;

/// The store, if space is lent, what its owner set, and whose word counts on it.
pub(crate) struct Lent {
    data: PathBuf,
    kind: NodeKind,
    /// Space where the owner set none.
    lend_bytes: u64,
    authorities: Vec<Uid>,
    revoked: Revoked,
    store: RwLock<Option<ShardStore>>,
    settings: Mutex<DeviceSettings>,
    /// One change at a time.
    changing: Mutex<()>,
    conditions: Mutex<Conditions>,
    verdict: RwLock<Verdict>,
    sense: Sense,
    upload: Throttle,
    /// The network's time, and when it was that.
    network: Mutex<Option<(UnixSeconds, Instant)>>,
    scrub: Mutex<Scrub>,
    /// When super nodes were last told what is to go.
    told: Mutex<HashMap<Uid, UnixSeconds>>,
    /// Why no space is lent, although some should be.
    problem: Mutex<Option<String>>,
}

/// Bytes that the disk of a folder has left for others; `None` when it does not say. What is lent must not
/// fill it up: the device and its owner's programs write there as well.
pub(crate) fn disk_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(DISK_SPARE_BYTES))
}

impl Lent {
    /// Opens what the configuration and the owner's settings say.
    ///
    /// # Errors
    /// When the settings or a list of revoked grants cannot be read, or the store cannot be opened.
    pub(crate) fn open(config: &NodeConfig, sense: Sense) -> anyhow::Result<Self> {
        let mut settings = DeviceSettings::load(&config.data)?;
        let mut problem = None;
        if let Err(e) = clear_old(&config.data, &mut settings) {
            problem = Some(format!("{e:#}"));
        }
        let lent = Self {
            data: config.data.clone(),
            kind: config.kind,
            lend_bytes: config.lend_bytes,
            authorities: config.authorities.clone(),
            revoked: Revoked::open(config.revocations.clone())?,
            store: RwLock::new(None),
            settings: Mutex::new(DeviceSettings::default()),
            changing: Mutex::default(),
            conditions: Mutex::default(),
            verdict: RwLock::new(Verdict::Open),
            sense,
            upload: Throttle::default(),
            network: Mutex::default(),
            scrub: Mutex::default(),
            told: Mutex::default(),
            problem: Mutex::default(),
        };
        let space = settings.space_bytes.unwrap_or(lent.lend_bytes);
        // A device that lends nothing any more still serves what it holds until that ends.
        let needed = space > 0 || settings.dir.is_some() || settings.shards_dir(&lent.data).exists();
        if needed && lent.kind.stores_for_others() {
            let is_missing = is_missing(&lent.data, &settings);
            match open_lent(&lent.data, &settings, space, false) {
                Ok(store) => lent.set_store(Some(store)),
                // The rest of the node does not depend on that disk.
                Err(e) if is_missing => problem = Some(format!("{e:#}")),
                Err(e) => return Err(e),
            }
        }
        *lock(&lent.problem) = problem;
        lent.use_settings(settings);
        Ok(lent)
    }

    fn set_store(&self, store: Option<ShardStore>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    /// The store, if space is lent.
    pub(crate) fn store(&self) -> Option<ShardStore> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the owner set.
    pub(crate) fn settings(&self) -> DeviceSettings {
        lock(&self.settings).clone()
    }

    /// Bytes of space that are lent by these settings.
    pub(crate) fn space_bytes(&self, settings: &DeviceSettings) -> u64 {
        settings.space_bytes.unwrap_or(self.lend_bytes)
    }

    /// Where what is held lies.
    pub(crate) fn shards_dir(&self) -> PathBuf {
        self.settings().shards_dir(&self.data)
    }

    /// Whose grants count here.
    pub(crate) fn authorities(&self) -> &[Uid] {
        &self.authorities
    }

    /// Takes settings into use at once.
    fn use_settings(&self, settings: DeviceSettings) {
        if let Some(store) = self.store() {
            store.set_space(self.space_bytes(&settings));
        }
        self.upload.set_rate(settings.upload);
        *lock(&self.settings) = settings;
        self.look();
    }

    /// Looks at the clock, the battery and the link, and decides whether to pause.
    pub(crate) fn look(&self) {
        let now = self.sense.now();
        *lock(&self.conditions) = now;
        let decided = policy::decide(&lock(&self.settings), &now);
        let mut verdict = self.verdict.write().unwrap_or_else(PoisonError::into_inner);
        if *verdict != Verdict::Paused(Why::Moving) {
            *verdict = decided;
        }
    }

    /// What the device noticed last.
    pub(crate) fn conditions(&self) -> Conditions {
        *lock(&self.conditions)
    }

    /// Whether the device does something for others now.
    pub(crate) fn verdict(&self) -> Verdict {
        *self.verdict.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_verdict(&self, verdict: Verdict) {
        *self.verdict.write().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    fn availability(&self) -> Availability {
        match self.verdict() {
            Verdict::Open => Availability::Open,
            // What is being moved does not change.
            Verdict::Off | Verdict::Paused(Why::Moving) => Availability::Off,
            Verdict::Paused(_) => Availability::Paused,
        }
    }

    /// Why no space is lent, although some should be.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }

    /// What the start found, in words.
    pub(crate) fn report(&self) -> Vec<String> {
        let mut out: Vec<String> = self.problem().into_iter().collect();
        let Some(store) = self.store() else { return out };
        let report = store.report();
        if !report.damaged.is_empty() {
            out.push(format!("{} damaged shards were set aside", report.damaged.len()));
        }
        if !report.foreign.is_empty() {
            out.push(format!(
                "{} files in the lent space are not ours and were left alone",
                report.foreign.len()
            ));
        }
        let set = self.settings().space_bytes.filter(|set| self.lend_bytes > 0 && *set != self.lend_bytes);
        if let Some(set) = set {
            tracing::info!(
                "{} are lent, as `ioex device set` said; the configuration's {} were only for the start",
                crate::size::human(set),
                crate::size::human(self.lend_bytes)
            );
        }
        out
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        self.store().map(|store| store.usage())
    }

    /// What is held after this address, with who placed it; at most `max`.
    pub(crate) fn list(&self, after: Option<ContentAddress>, max: usize) -> Vec<(HeldShard, Vec<Lease>)> {
        let Some(store) = self.store() else { return Vec::new() };
        let held = store.list().into_iter().filter(|held| after.is_none_or(|after| held.address > after));
        held.take(max).map(|held| (held, store.leases(&held.address))).collect()
    }

    /// Takes note of the network's time, for what begins or ends until the next note.
    pub(crate) fn note_network_time(&self, time: Option<UnixSeconds>) {
        *lock(&self.network) = time.map(|time| (time, Instant::now()));
    }

    /// The network's time now, if it is known.
    pub(crate) fn network_time(&self) -> Option<UnixSeconds> {
        lock(&self.network).map(|(time, noted)| time.plus(noted.elapsed().as_secs()))
    }

    /// Deletes what ended, if it is certain what time it is.
    pub(crate) fn remove_expired(&self) -> Expired {
        let network = self.network_time();
        self.store().map(|store| store.remove_expired(files::now(), network)).unwrap_or_default()
    }

    /// Verifies what comes next in the round through all that is held; returns what was damaged,
    /// and how long to wait before the next.
    pub(crate) fn scrub(&self) -> (Option<ContentAddress>, Duration) {
        match self.store() {
            Some(store) => lock(&self.scrub).next(&store),
            None => (None, scrub::PAUSE_MAX),
        }
    }

    /// The store, if it takes anything: a device that leaves does not, not even newer heads.
    fn taking(&self) -> Result<ShardStore, No> {
        self.store().filter(|_| !self.settings().leaving).ok_or(No::NoSpace)
    }

    /// The terms under which something is kept, by the best that is known of what time it is.
    fn terms(&self, placer: &Uid, reader: Uid, wanted: UnixSeconds) -> Result<Terms, No> {
        let (stored, expires) =
            lease_times(wanted, files::now(), self.network_time()).ok_or(No::BadRequest)?;
        if expires <= stored.plus(CLOCK_SLACK_SECONDS) {
            return Err(No::BadRequest);
        }
        Ok(Terms { placer: *placer, reader, stored, expires })
    }

    /// Bytes that the disk itself has left for others.
    fn disk_bytes(&self) -> u64 {
        // What cannot be asked does not say no.
        disk_bytes(&self.shards_dir()).unwrap_or(u64::MAX)
    }

    /// Whether super nodes that look for space find some here.
    pub(crate) fn has_room(&self) -> bool {
        self.free_bytes() > SHARD_OVERHEAD_BYTES
    }

    /// See [`ioex_net::Host::prove`]. What does not prove itself is damaged and set aside.
    fn prove(&self, address: &ContentAddress, leaf: u32) -> Result<Option<Vec<u8>>, No> {
        // A disk that cannot be read now says nothing of what lies on it.
        let Some(store) = self.store() else { return Err(No::Failed) };
        let (file, len) = match store.open_shard(address) {
            Ok(found) => found,
            Err(StoreError::NotHeld(_) | StoreError::Damaged(_)) => return Ok(None),
            Err(e) => {
                tracing::warn!("a shard held for others cannot be read: {e}");
                // One bad place on a disk that is there is a loss.
                return if store.is_there() { Ok(None) } else { Err(No::Failed) };
            }
        };
        if store.head_seq(address).is_some() {
            // A head's address is not the hash of its bytes: it is read, not proved.
            return Ok(None);
        }
        let mut bytes = Vec::new();
        if let Err(e) = file.take(SHARD_MAX_BYTES).read_to_end(&mut bytes) {
            tracing::warn!("a shard held for others cannot be read: {e}");
            return if store.is_there() { Ok(None) } else { Err(No::Failed) };
        }
        let Some(proof) = proof::prove(&bytes, leaf) else { return Ok(None) };
        if !proof::verify(address, len, leaf, &proof) {
            let found = store.verify(address);
            tracing::warn!("a shard held for others does not prove itself: {found:?}");
            return Ok(None);
        }
        Ok(Some(proof.encode()))
    }

    /// See [`ioex_net::Host::handover`].
    fn handover(&self, placer: &Uid) -> Handover {
        let leaving = self.settings().leaving;
        let told = self.store().map(|store| handover::propose(&store, placer, leaving)).unwrap_or_default();
        // Only of those who placed something here, which are few.
        if !told.addresses.is_empty() {
            lock(&self.told).insert(*placer, files::now());
        }
        told
    }

    /// While the device leaves: who placed what is still here, how many bytes, and when it was last told.
    pub(crate) fn waiting(&self) -> Vec<(Uid, u64, Option<UnixSeconds>)> {
        let Some(store) = self.store().filter(|_| self.settings().leaving) else { return Vec::new() };
        let told = lock(&self.told);
        store.placers().into_iter().map(|(uid, bytes)| (uid, bytes, told.get(&uid).copied())).collect()
    }

    /// By when everything that is held has ended.
    pub(crate) fn held_until(&self) -> Option<UnixSeconds> {
        self.store()?.list().iter().map(|held| held.expires).max()
    }

    /// Bytes that are to be handed over.
    pub(crate) fn handover_bytes(&self) -> u64 {
        let leaving = self.settings().leaving;
        self.usage().map_or(0, |usage| handover_bytes(&usage, leaving))
    }
}
