//! The space that the owner lends: the shard store behind the mesh's [`Host`].

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use ioex_base::{CLOCK_SLACK_SECONDS, ContentAddress, GrantId, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_net::{
    Host,
    host::{PlaceStart, ShardSink},
    proto::{No, Place},
};
use ioex_store::{HeldShard, Lease, Put, PutStart, SHARD_OVERHEAD_BYTES, ShardStore, StoreError, Usage};

use super::{files, lenders_topic};

/// The store, if space is lent, and whose word counts on it.
pub(crate) struct Lent {
    store: Option<ShardStore>,
    authorities: Vec<Uid>,
    placed: Placed,
}

/// Bytes by placer, counted when first asked for (the leases lie on disk) and kept from then on.
type Placed = Arc<Mutex<Option<HashMap<Uid, u64>>>>;

impl Lent {
    pub(crate) fn new(store: Option<ShardStore>, authorities: Vec<Uid>) -> Self {
        Self { store, authorities, placed: Placed::default() }
    }

    /// What the store found when it opened, in words.
    pub(crate) fn report(&self) -> Vec<String> {
        let Some(report) = self.store.as_ref().map(ShardStore::report) else { return Vec::new() };
        let mut out = Vec::new();
        if !report.damaged.is_empty() {
            out.push(format!("{} damaged shards were set aside", report.damaged.len()));
        }
        if !report.foreign.is_empty() {
            out.push(format!(
                "{} files in the lent space are not ours and were left alone",
                report.foreign.len()
            ));
        }
        out
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        self.store.as_ref().map(ShardStore::usage)
    }

    /// What is held, with who placed it.
    pub(crate) fn list(&self) -> Vec<(HeldShard, Vec<Lease>)> {
        let Some(store) = &self.store else { return Vec::new() };
        store.list().into_iter().map(|held| (held, store.leases(&held.address))).collect()
    }

    pub(crate) fn remove_expired(&self, now: UnixSeconds) -> usize {
        let gone = self.store.as_ref().map_or(0, |s| s.remove_expired(now).len());
        if gone > 0 {
            *self.placed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        gone
    }
}

/// What the placer is told; what happened stays in the log.
fn told(e: StoreError) -> No {
    match e {
        StoreError::NoSpace { .. } | StoreError::TooManyLeases { .. } => No::NoSpace,
        StoreError::TooLarge { .. } | StoreError::LeaseLength { .. } => No::BadRequest,
        StoreError::WrongLength { .. } | StoreError::WrongAddress { .. } => No::Mismatch,
        other => {
            tracing::warn!("a shard could not be stored: {other}");
            No::Failed
        }
    }
}

struct Sink {
    put: Put,
    placed: Placed,
    placer: Uid,
    bytes: u64,
}

impl ShardSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), No> {
        self.put.write(bytes).map_err(told)
    }

    fn commit(self: Box<Self>) -> Result<(), No> {
        self.put.commit().map_err(told)?;
        if let Some(placed) = self.placed.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *placed.entry(self.placer).or_insert(0) += self.bytes;
        }
        Ok(())
    }
}

impl Host for Lent {
    fn lends_space(&self) -> bool {
        self.store.is_some()
    }

    fn accepts_authority(&self, issuer: &Uid) -> bool {
        self.store.is_some() && self.authorities.contains(issuer)
    }

    fn is_revoked(&self, _id: &GrantId) -> bool {
        // Grants end by themselves; the list of revoked ones comes with the contract that keeps it.
        false
    }

    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool {
        self.store.as_ref().is_some_and(|s| s.readers(address).contains(reader))
    }

    fn free_bytes(&self) -> u64 {
        self.usage().map_or(0, |u| u.free_bytes())
    }

    fn placed_bytes(&self, placer: &Uid) -> u64 {
        let Some(store) = &self.store else { return 0 };
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = || {
            let mut sums: HashMap<Uid, u64> = HashMap::new();
            for held in store.list() {
                let mut placers: Vec<Uid> = store.leases(&held.address).iter().map(|l| l.placer).collect();
                placers.sort_unstable();
                placers.dedup();
                for placer in placers {
                    *sums.entry(placer).or_insert(0) += held.bytes;
                }
            }
            sums
        };
        placed.get_or_insert_with(count).get(placer).copied().unwrap_or(0)
    }

    fn open_shard(&self, address: &ContentAddress) -> io::Result<Option<(File, u64)>> {
        match self.store.as_ref().map(|s| s.open_shard(address)) {
            None | Some(Err(StoreError::NotHeld(_))) => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(e)) => Err(io::Error::other(e)),
        }
    }

    fn begin_place(&self, placer: &Uid, place: &Place) -> Result<PlaceStart, No> {
        let Some(store) = &self.store else { return Err(No::NoSpace) };
        // The lease runs on this device's clock: the placer's may be off.
        let stored = files::now();
        let longest = stored.plus(SHARD_LIFE_SECONDS);
        let expires = place.expires.min(longest);
        if expires <= stored.plus(CLOCK_SLACK_SECONDS) {
            return Err(No::BadRequest);
        }
        let lease = Lease { placer: *placer, reader: place.reader, bytes: place.bytes, stored, expires };
        match store.begin_put(place.address, lease).map_err(told)? {
            PutStart::Write(put) => {
                let (placed, placer, bytes) = (self.placed.clone(), *placer, place.bytes);
                Ok(PlaceStart::Write(Box::new(Sink { put, placed, placer, bytes })))
            }
            PutStart::AlreadyHeld => Ok(PlaceStart::AlreadyHeld),
        }
    }

    fn held(&self) -> Vec<ContentAddress> {
        let Some(store) = &self.store else { return Vec::new() };
        let mut out = store.addresses();
        // Super nodes look under this name for devices with space.
        if store.usage().free_bytes() > SHARD_OVERHEAD_BYTES {
            out.push(lenders_topic());
        }
        out
    }
}
