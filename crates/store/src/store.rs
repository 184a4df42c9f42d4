//! The store's handle.

use std::{
    fs::{self, File},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ioex_base::{ContentAddress, Uid, UnixSeconds};

use crate::{
    HeldShard, LEASE_GRACE_SECONDS, Lease, OpenReport, PutStart, StoreError, Usage,
    files::{Layout, remove_if_there, sync_dir},
    lease, open,
    put::Put,
    state::{Entry, State, charge},
};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    state: Mutex<State>,
    report: OpenReport,
    /// Held open so that no second process opens the store.
    _lock: File,
}

impl Inner {
    /// A thread that panicked leaves counters at worst a little off, never files half written;
    /// going on is better than refusing all later calls.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds `new` to a shard that is held. `false` when it is not held, or no longer because
    /// its file or its leases were unreadable.
    pub(crate) fn merge_lease(
        &self,
        state: &mut State,
        address: &ContentAddress,
        new: Lease,
    ) -> Result<bool, StoreError> {
        let Some(entry) = state.index.get(address).copied() else { return Ok(false) };
        if entry.bytes != new.bytes {
            return Err(StoreError::WrongLength { expected: entry.bytes, got: new.bytes });
        }
        // A placer may offer the shard again just because it was found missing here.
        let there = self.layout.shard_has_length(address, entry.bytes);
        let (Ok(mut sidecar), true) = (self.layout.read_sidecar(address)?, there) else {
            self.set_aside(state, address)?;
            return Ok(false);
        };
        if lease::merge(&mut sidecar.leases, new)? {
            let temporary = self.layout.temporary(state.next_temporary());
            self.layout.write_sidecar(address, &sidecar, &temporary)?;
            sync_dir(&self.layout.prefix_dir(address))?;
            state.insert(*address, Entry::of(&sidecar));
        }
        Ok(true)
    }

    fn set_aside(&self, state: &mut State, address: &ContentAddress) -> Result<(), StoreError> {
        state.forget(address);
        let moved = self.layout.set_aside(address);
        state.damaged_bytes = self.layout.damaged_bytes();
        moved
    }

    /// The shard goes first: what a crash leaves then is a lease without a shard, which the next
    /// start removes.
    fn delete(&self, state: &mut State, address: &ContentAddress) -> Result<(), StoreError> {
        remove_if_there(&self.layout.shard(address))?;
        state.forget(address);
        remove_if_there(&self.layout.sidecar(address))?;
        sync_dir(&self.layout.prefix_dir(address))
    }
}

/// Shards on disk. Clones are handles to the same store; all calls block.
#[derive(Clone, Debug)]
pub struct ShardStore(Arc<Inner>);

impl ShardStore {
    /// Opens the store in `dir`, creating it if needed, with `space_bytes` for shards.
    ///
    /// Damage is never an error here: it is set aside and stands in [`ShardStore::report`].
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it open, [`StoreError::Io`].
    pub fn open(dir: &Path, space_bytes: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
        let layout = Layout { root: dir.to_owned() };
        let lock = open::lock(&layout)?;
        let (found, report) = open::scan(&layout)?;
        let state = State::new(found, space_bytes, layout.damaged_bytes());
        Ok(Self(Arc::new(Inner { layout, state: Mutex::new(state), report, _lock: lock })))
    }

    /// What opening found besides good shards.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.0.report
    }

    /// Offers a shard under `lease`. When it is here already, its lease is merged durably: a later
    /// end for the same placer and reader replaces the earlier one, another backup is added.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::LeaseLength`], [`StoreError::NoSpace`],
    /// [`StoreError::WrongLength`] (held with another length), [`StoreError::TooManyLeases`],
    /// [`StoreError::Io`].
    pub fn begin_put(&self, address: ContentAddress, lease: Lease) -> Result<PutStart, StoreError> {
        lease.check()?;
        let mut state = self.0.lock();
        if self.0.merge_lease(&mut state, &address, lease)? {
            return Ok(PutStart::AlreadyHeld);
        }
        let (needed, free) = (charge(lease.bytes), state.usage().free_bytes());
        if needed > free {
            return Err(StoreError::NoSpace { needed, free });
        }
        Put::start(&self.0, &mut state, address, lease).map(PutStart::Write)
    }

    /// Whether the shard is here.
    #[must_use]
    pub fn contains(&self, address: &ContentAddress) -> bool {
        self.0.lock().index.contains_key(address)
    }

    /// The shard's file, positioned at its start, and its length in bytes.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`], [`StoreError::Damaged`] (wrong length on disk), [`StoreError::Io`].
    pub fn open_shard(&self, address: &ContentAddress) -> Result<(File, u64), StoreError> {
        let mut state = self.0.lock();
        let entry = state.index.get(address).copied().ok_or(StoreError::NotHeld(*address))?;
        let path = self.0.layout.shard(address);
        match File::open(&path).and_then(|file| file.metadata().map(|meta| (file, meta.len()))) {
            Ok((file, len)) if len == entry.bytes => Ok((file, len)),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("open", &path)(e)),
            _ => {
                self.0.set_aside(&mut state, address)?;
                Err(StoreError::Damaged(*address))
            }
        }
    }

    /// Reads the whole shard and compares its hash with its address.
    ///
    /// # Errors
    /// As for [`ShardStore::open_shard`]; a shard that does not fit is set aside.
    pub fn verify(&self, address: &ContentAddress) -> Result<(), StoreError> {
        let (file, _) = self.open_shard(address)?;
        let mut hasher = blake3::Hasher::new();
        let path = self.0.layout.shard(address);
        hasher.update_reader(file).map_err(StoreError::io("read", &path))?;
        if ContentAddress::from(hasher.finalize()) != *address {
            self.0.set_aside(&mut self.0.lock(), address)?;
            return Err(StoreError::Damaged(*address));
        }
        Ok(())
    }

    /// The leases of a shard; empty when it is not here or they cannot be read.
    #[must_use]
    pub fn leases(&self, address: &ContentAddress) -> Vec<Lease> {
        let state = self.0.lock();
        if !state.index.contains_key(address) {
            return Vec::new();
        }
        self.0.layout.read_sidecar(address).ok().and_then(Result::ok).map(|s| s.leases).unwrap_or_default()
    }

    /// The public reader keys under which the shard may be read, each once; empty when the shard
    /// is not here or its leases cannot be read, so that doubt refuses.
    #[must_use]
    pub fn readers(&self, address: &ContentAddress) -> Vec<Uid> {
        let mut readers: Vec<Uid> = self.leases(address).iter().map(|lease| lease.reader).collect();
        readers.sort_unstable();
        readers.dedup();
        readers
    }

    /// All shards, ordered by address.
    #[must_use]
    pub fn list(&self) -> Vec<HeldShard> {
        let state = self.0.lock();
        let held = |(address, e): (&ContentAddress, &Entry)| HeldShard {
            address: *address,
            bytes: e.bytes,
            stored: e.stored,
            expires: e.expires,
        };
        let mut list: Vec<_> = state.index.iter().map(held).collect();
        list.sort_unstable_by_key(|shard| shard.address);
        list
    }

    /// The addresses of all shards, in no particular order.
    #[must_use]
    pub fn addresses(&self) -> Vec<ContentAddress> {
        self.0.lock().index.keys().copied().collect()
    }

    /// How the space is used.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.0.lock().usage()
    }

    /// Changes the space. With less than is in use nothing is deleted: leases are promises. New
    /// shards are refused until enough has ended.
    pub fn set_space(&self, space_bytes: u64) {
        self.0.lock().space_bytes = space_bytes;
    }

    /// Deletes the shards all of whose leases ended more than [`LEASE_GRACE_SECONDS`] ago and
    /// returns their addresses. What could not be deleted is tried again by the next call.
    pub fn remove_expired(&self, now: UnixSeconds) -> Vec<ContentAddress> {
        let mut state = self.0.lock();
        let ended = |(address, e): (&ContentAddress, &Entry)| {
            (e.expires.plus(LEASE_GRACE_SECONDS) < now).then_some(*address)
        };
        let mut removed: Vec<_> = state.index.iter().filter_map(ended).collect();
        removed.retain(|address| self.0.delete(&mut state, address).is_ok());
        removed
    }

    /// Deletes one shard for the device's owner, who need not wait for the grace time.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`], [`StoreError::NotYet`] before its last lease ended,
    /// [`StoreError::Io`].
    pub fn remove(&self, address: &ContentAddress, now: UnixSeconds) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        let entry = state.index.get(address).copied().ok_or(StoreError::NotHeld(*address))?;
        if now < entry.expires {
            return Err(StoreError::NotYet { until: entry.expires });
        }
        self.0.delete(&mut state, address)
    }

    /// Deletes what was set aside and returns how many bytes that gave back.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear_damaged(&self) -> Result<u64, StoreError> {
        let mut state = self.0.lock();
        let before = state.damaged_bytes;
        let dir = self.0.layout.damaged();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))?.flatten() {
            remove_if_there(&entry.path())?;
        }
        state.damaged_bytes = self.0.layout.damaged_bytes();
        Ok(before.saturating_sub(state.damaged_bytes))
    }
}
