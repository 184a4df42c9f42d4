//! The space that the owner lends: the shard store behind the mesh's [`Host`](ioex_net::Host).

mod handover;
mod host;
mod revoked;
mod scrub;

use std::{
    io::Read as _,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use ioex_base::{CLOCK_SLACK_SECONDS, ContentAddress, Uid, UnixSeconds, limits::SHARD_MAX_BYTES};
use ioex_net::{host::Handover, proto::No};
use ioex_store::{Expired, HeldShard, Lease, ShardStore, Terms, Usage, lease_times};
use ioex_vault::proof;

pub(crate) use self::revoked::Revoked;
use self::scrub::Scrub;
use super::files;

/// The store, if space is lent, and whose word counts on it.
pub(crate) struct Lent {
    store: Option<ShardStore>,
    authorities: Vec<Uid>,
    revoked: Revoked,
    /// The network's time, and when it was that.
    network: Mutex<Option<(UnixSeconds, Instant)>>,
    scrub: Mutex<Scrub>,
}

impl Lent {
    pub(crate) fn new(store: Option<ShardStore>, authorities: Vec<Uid>, revoked: Revoked) -> Self {
        Self { store, authorities, revoked, network: Mutex::default(), scrub: Mutex::default() }
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

    /// Takes note of the network's time, for what begins or ends until the next note.
    pub(crate) fn note_network_time(&self, time: Option<UnixSeconds>) {
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        *network = time.map(|time| (time, Instant::now()));
    }

    /// The network's time now, if it is known.
    pub(crate) fn network_time(&self) -> Option<UnixSeconds> {
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        network.map(|(time, noted)| time.plus(noted.elapsed().as_secs()))
    }

    /// Deletes what ended, if it is certain what time it is.
    pub(crate) fn remove_expired(&self) -> Expired {
        let network = self.network_time();
        self.store.as_ref().map(|s| s.remove_expired(files::now(), network)).unwrap_or_default()
    }

    /// Verifies what comes next in the round through all that is held; returns what was damaged,
    /// and how long to wait before the next.
    pub(crate) fn scrub(&self) -> (Option<ContentAddress>, std::time::Duration) {
        let mut scrub = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.store {
            Some(store) => scrub.next(store),
            None => (None, scrub::PAUSE_MAX),
        }
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

    /// See [`ioex_net::Host::prove`]. What does not prove itself is damaged and set aside.
    fn prove(&self, address: &ContentAddress, leaf: u32) -> Option<Vec<u8>> {
        let store = self.store.as_ref()?;
        let (file, len) = store.open_shard(address).ok()?;
        if store.head_seq(address).is_some() {
            // A head's address is not the hash of its bytes: it is read, not proved.
            return None;
        }
        let mut bytes = Vec::new();
        file.take(SHARD_MAX_BYTES).read_to_end(&mut bytes).ok()?;
        let proof = proof::prove(&bytes, leaf)?;
        if !proof::verify(address, len, leaf, &proof) {
            let found = store.verify(address);
            tracing::warn!("a shard held for others does not prove itself: {found:?}");
            return None;
        }
        Some(proof.encode())
    }

    /// See [`ioex_net::Host::handover`].
    fn handover(&self, placer: &Uid) -> Handover {
        let Some(store) = &self.store else { return Handover::default() };
        handover::propose(store, placer, false)
    }
}

#[cfg(test)]
mod tests;
