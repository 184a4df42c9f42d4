//! The store's handle.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ioex_base::{ContentAddress, SealedHead, Uid, UnixSeconds};

use crate::{
    Expired, HeldShard, LEASE_GRACE_SECONDS, Lease, OpenReport, PutStart, StoreError, Usage,
    files::{Kind, Layout, remove_if_there, sync_dir},
    lease,
    moving::holds_store,
    open,
    put::{Arriving, Put},
    sidecar::Sidecar,
    state::{Entry, State, charge},
    time::{self, Certainty},
};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    state: Mutex<State>,
    report: OpenReport,
    /// Held open so that no second process opens the store.
    _lock: open::Lock,
}

impl Inner {
    /// A thread that panicked leaves counters at worst a little off, never files half written;
    /// going on is better than refusing all later calls.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds `new` to a shard that is held. `false` when it is not held, or no longer because
    /// its file or its leases were unreadable.
    pub(crate) fn merge_shard_lease(
        &self,
        state: &mut State,
        address: &ContentAddress,
        new: Lease,
    ) -> Result<bool, StoreError> {
        match state.index.get(address) {
            None => Ok(false),
            Some(entry) if entry.kind == Kind::Head => Err(StoreError::IsHead(*address)),
            Some(entry) if entry.bytes() != new.bytes => {
                Err(StoreError::WrongLength { expected: entry.bytes(), got: new.bytes })
            }
            Some(_) => self.merge_lease(state, address, new),
        }
    }

    /// The same for a shard or a head, whose length the lease need not name.
    pub(crate) fn merge_lease(
        &self,
        state: &mut State,
        address: &ContentAddress,
        new: Lease,
    ) -> Result<bool, StoreError> {
        let Some((entry, mut sidecar)) = self.look_up(state, address)? else { return Ok(false) };
        let before = sidecar.leases.clone();
        if lease::merge(&mut sidecar.leases, Lease { bytes: entry.bytes(), ..new })? {
            self.rewrite(state, address, &sidecar, &before)?;
            sync_dir(&self.layout.dir_of(entry.kind, address))?;
        }
        Ok(true)
    }

    /// What is held under `address`, whose file and leases are looked at: a placer may ask just
    /// because something was found missing here. What does not fit is set aside.
    pub(crate) fn look_up(
        &self,
        state: &mut State,
        address: &ContentAddress,
    ) -> Result<Option<(Entry, Sidecar)>, StoreError> {
        let Some(entry) = state.index.get(address).copied() else { return Ok(None) };
        let there = self.layout.has_length(entry.kind, address, entry.bytes())?;
        match self.layout.read_sidecar(entry.kind, address)? {
            Ok(sidecar) if there => Ok(Some((entry, sidecar))),
            read => {
                let before = read.map(|s| s.leases).unwrap_or_default();
                self.set_aside(state, address, &before)?;
                Ok(None)
            }
        }
    }

    /// Writes changed leases of something that is held; the caller syncs the directory.
    pub(crate) fn rewrite(
        &self,
        state: &mut State,
        address: &ContentAddress,
        sidecar: &Sidecar,
        before: &[Lease],
    ) -> Result<(), StoreError> {
        let Some(old) = state.index.get(address).copied() else { return Ok(()) };
        let entry = Entry::new(old.kind, old.bytes(), sidecar);
        let (needed, free) = (entry.charge().saturating_sub(old.charge()), state.free_for_heads());
        if needed > free {
            return Err(StoreError::NoSpace { needed, free });
        }
        let temporary = self.layout.temporary(state.next_temporary());
        self.layout.write_sidecar(entry.kind, address, sidecar, &temporary)?;
        state.insert(*address, entry, before, &sidecar.leases);
        Ok(())
    }

    fn set_aside(
        &self,
        state: &mut State,
        address: &ContentAddress,
        before: &[Lease],
    ) -> Result<(), StoreError> {
        let Some(kind) = state.index.get(address).map(|entry| entry.kind) else { return Ok(()) };
        // While it is moved it stays: the copy is verified anyway.
        state.check_open()?;
        // Nor is anything damaged because the whole directory is away.
        if !holds_store(&self.layout.root) {
            return Err(StoreError::io("find", &self.layout.root)(io::ErrorKind::NotFound.into()));
        }
        state.forget(address, before);
        let moved = self.layout.set_aside(kind, address);
        state.damaged_bytes = self.layout.damaged_bytes();
        moved
    }

    /// Sets aside what was read as `entry` and did not fit. What took its place since then stays.
    fn set_aside_if(
        &self,
        state: &mut State,
        address: &ContentAddress,
        entry: Entry,
    ) -> Result<(), StoreError> {
        if state.index.get(address) != Some(&entry) {
            return Ok(());
        }
        let before = self.layout.read_sidecar(entry.kind, address)?.map(|s| s.leases).unwrap_or_default();
        self.set_aside(state, address, &before)
    }

    pub(crate) fn delete(&self, state: &mut State, address: &ContentAddress) -> Result<(), StoreError> {
        let Some(kind) = state.index.get(address).map(|entry| entry.kind) else { return Ok(()) };
        let before = self.layout.read_sidecar(kind, address)?.map(|s| s.leases).unwrap_or_default();
        remove_if_there(&self.layout.content(kind, address))?;
        state.forget(address, &before);
        self.layout.delete(kind, address)
    }
}

/// Shards on disk. Clones are handles to the same store; all calls block.
#[derive(Clone, Debug)]
pub struct ShardStore(pub(crate) Arc<Inner>);

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
    /// [`StoreError::WrongLength`] (held with another length), [`StoreError::IsHead`],
    /// [`StoreError::TooManyLeases`], [`StoreError::Io`].
    pub fn begin_put(&self, address: ContentAddress, lease: Lease) -> Result<PutStart, StoreError> {
        lease.check()?;
        let mut state = self.0.lock();
        state.check_open()?;
        if self.0.merge_shard_lease(&mut state, &address, lease)? {
            return Ok(PutStart::AlreadyHeld);
        }
        let (needed, free) = (charge(lease.bytes), state.usage().free_bytes());
        if needed > free {
            return Err(StoreError::NoSpace { needed, free });
        }
        let arriving = Arriving::new(&self.0, &mut state, lease.bytes);
        // Its drop takes the lock.
        drop(state);
        Put::start(arriving, address, lease).map(PutStart::Write)
    }

    /// Whether the shard or head is here.
    #[must_use]
    pub fn contains(&self, address: &ContentAddress) -> bool {
        self.0.lock().index.contains_key(address)
    }

    /// The file of a shard or head, positioned at its start, and its length in bytes.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`], [`StoreError::Damaged`] (wrong length on disk), [`StoreError::Io`].
    pub fn open_shard(&self, address: &ContentAddress) -> Result<(File, u64), StoreError> {
        self.open_entry(address).map(|(file, entry)| (file, entry.bytes()))
    }

    fn open_entry(&self, address: &ContentAddress) -> Result<(File, Entry), StoreError> {
        let mut state = self.0.lock();
        let entry = state.index.get(address).copied().ok_or(StoreError::NotHeld(*address))?;
        let path = self.0.layout.content(entry.kind, address);
        match File::open(&path).and_then(|file| file.metadata().map(|meta| (file, meta.len()))) {
            Ok((file, len)) if len == entry.bytes() => Ok((file, entry)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("open", &path)(e)),
            _ => {
                self.0.set_aside_if(&mut state, address, entry)?;
                Err(StoreError::Damaged(*address))
            }
        }
    }

    /// Whether the store's directory is still there: its disk may have gone.
    #[must_use]
    pub fn is_there(&self) -> bool {
        holds_store(&self.0.layout.root)
    }

    /// Reads all of a shard or head and compares it with its address, and returns its length.
    ///
    /// # Errors
    /// As for [`ShardStore::open_shard`]; what does not fit is set aside.
    pub fn verify(&self, address: &ContentAddress) -> Result<u64, StoreError> {
        let (mut file, entry) = self.open_entry(address)?;
        let path = self.0.layout.content(entry.kind, address);
        let fits = match entry.kind {
            Kind::Shard => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(file).map_err(StoreError::io("read", &path))?;
                ContentAddress::from(hasher.finalize()) == *address
            }
            Kind::Head => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
                SealedHead::open(&bytes).is_ok_and(|head| head.address() == *address)
            }
        };
        if !fits {
            self.0.set_aside_if(&mut self.0.lock(), address, entry)?;
            return Err(StoreError::Damaged(*address));
        }
        Ok(entry.bytes())
    }

    /// The leases of a shard or head; empty when it is not here or they cannot be read.
    #[must_use]
    pub fn leases(&self, address: &ContentAddress) -> Vec<Lease> {
        let state = self.0.lock();
        let Some(entry) = state.index.get(address) else { return Vec::new() };
        self.0
            .layout
            .read_sidecar(entry.kind, address)
            .ok()
            .and_then(Result::ok)
            .map(|s| s.leases)
            .unwrap_or_default()
    }

    /// The public reader keys under which the shard or head may be read, each once; empty when it is
    /// not here or its leases cannot be read, so that doubt refuses.
    #[must_use]
    pub fn readers(&self, address: &ContentAddress) -> Vec<Uid> {
        let mut readers: Vec<Uid> = self.leases(address).iter().map(|lease| lease.reader).collect();
        readers.sort_unstable();
        readers.dedup();
        readers
    }

    /// All shards and heads, ordered by address.
    #[must_use]
    pub fn list(&self) -> Vec<HeldShard> {
        let state = self.0.lock();
        let held = |(address, e): (&ContentAddress, &Entry)| HeldShard {
            address: *address,
            bytes: e.bytes(),
            stored: e.stored,
            expires: e.expires,
            head: state.seq(address),
        };
        let mut list: Vec<_> = state.index.iter().map(held).collect();
        list.sort_unstable_by_key(|shard| shard.address);
        list
    }

    /// The addresses of all shards and heads, in no particular order.
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

    /// Bytes of the shards and heads on which `placer` has a lease.
    #[must_use]
    pub fn placed_bytes(&self, placer: &Uid) -> u64 {
        self.0.lock().placed_bytes(placer)
    }

    /// Deletes what is held under leases that all ended more than [`LEASE_GRACE_SECONDS`] ago, and
    /// returns the addresses. What could not be deleted is tried again by the next call.
    ///
    /// A device's clock may be wrong by years, so it alone deletes nothing: the time of the
    /// `network`, as others signed it, must say the same. Unknown, nothing is deleted; when they
    /// are more than [`CLOCKS_APART_SECONDS`] apart, nothing is either, and the owner should know.
    pub fn remove_expired(&self, now: UnixSeconds, network: Option<UnixSeconds>) -> Expired {
        let certain = match time::certain(now, network) {
            Certainty::Certain(time) => time,
            Certainty::Unknown => return Expired::default(),
            Certainty::Apart(seconds) => return Expired { removed: Vec::new(), apart: Some(seconds) },
        };
        let mut state = self.0.lock();
        if state.closed {
            return Expired::default();
        }
        let ended = |(address, e): (&ContentAddress, &Entry)| {
            (e.expires.plus(LEASE_GRACE_SECONDS) < certain).then_some(*address)
        };
        let mut removed: Vec<_> = state.index.iter().filter_map(ended).collect();
        removed.retain(|address| self.0.delete(&mut state, address).is_ok());
        Expired { removed, apart: None }
    }

    /// Deletes a shard or head for the device's owner, who need not wait for the grace time.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`], [`StoreError::NotYet`] before its last lease ended,
    /// [`StoreError::Io`].
    pub fn remove(&self, address: &ContentAddress, now: UnixSeconds) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        state.check_open()?;
        let entry = state.index.get(address).copied().ok_or(StoreError::NotHeld(*address))?;
        if now < entry.expires {
            return Err(StoreError::NotYet { until: entry.expires });
        }
        self.0.delete(&mut state, address)
    }

    /// Who placed what is held here, with the bytes of each, in the order of their identities.
    #[must_use]
    pub fn placers(&self) -> Vec<(Uid, u64)> {
        self.0.lock().placers()
    }

    /// Deletes what was set aside and returns how many bytes that gave back.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear_damaged(&self) -> Result<u64, StoreError> {
        let mut state = self.0.lock();
        state.check_open()?;
        let before = state.damaged_bytes;
        let dir = self.0.layout.damaged();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))?.flatten() {
            remove_if_there(&entry.path())?;
        }
        state.damaged_bytes = self.0.layout.damaged_bytes();
        Ok(before.saturating_sub(state.damaged_bytes))
    }
}
