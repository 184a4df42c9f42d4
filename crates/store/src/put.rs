//! Taking in one shard.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    sync::Arc,
};

use ioex_base::ContentAddress;

use crate::{
    Lease, StoreError,
    files::{Kind, remove_if_there, sync_dir},
    sidecar::Sidecar,
    state::{Entry, State, charge},
    store::Inner,
};

/// How an offered shard is taken.
#[derive(Debug)]
pub enum PutStart {
    /// Send the bytes here; their space is reserved until [`Put::commit`] or the drop.
    Write(Put),
    /// The shard is here already and its lease is on disk: nothing needs to be sent.
    AlreadyHeld,
}

/// Space for something that arrives, and where it does. The drop gives the space back and removes
/// what is still under the temporary name.
#[derive(Debug)]
pub(crate) struct Arriving {
    inner: Arc<Inner>,
    pub(crate) path: PathBuf,
    bytes: u64,
}

impl Arriving {
    /// Reserves space; the caller has looked whether there is enough.
    pub(crate) fn new(inner: &Arc<Inner>, state: &mut State, bytes: u64) -> Self {
        let path = inner.layout.temporary(state.next_temporary());
        state.reserved_bytes = state.reserved_bytes.saturating_add(charge(bytes));
        Self { inner: Arc::clone(inner), path, bytes }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // After a commit the file is no longer under this name. If removing fails, the next
        // opening of the store does it.
        let _ = remove_if_there(&self.path);
        let mut state = self.inner.lock();
        state.reserved_bytes = state.reserved_bytes.saturating_sub(charge(self.bytes));
    }
}

/// A shard that is arriving. Dropping it removes what came and gives the space back.
#[derive(Debug)]
pub struct Put {
    arriving: Arriving,
    address: ContentAddress,
    lease: Lease,
    file: File,
    /// On the heap because it is two kilobytes, and this value is moved about.
    hasher: Box<blake3::Hasher>,
    written_bytes: u64,
}

impl Put {
    /// Creates the arriving file.
    pub(crate) fn start(
        arriving: Arriving,
        address: ContentAddress,
        lease: Lease,
    ) -> Result<Self, StoreError> {
        let file = File::create_new(&arriving.path).map_err(StoreError::io("create", &arriving.path))?;
        let hasher = Box::new(blake3::Hasher::new());
        Ok(Self { arriving, address, lease, file, hasher, written_bytes: 0 })
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.lease.bytes.saturating_sub(self.written_bytes)
    }

    /// Takes the next bytes, in order.
    ///
    /// # Errors
    /// [`StoreError::WrongLength`] when more come than the lease said; [`StoreError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let total = self.written_bytes.saturating_add(bytes.len() as u64);
        if total > self.lease.bytes {
            return Err(StoreError::WrongLength { expected: self.lease.bytes, got: total });
        }
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.arriving.path))?;
        self.hasher.update(bytes);
        self.written_bytes = total;
        Ok(())
    }

    /// Checks what came and keeps it. When this returns, shard and lease are on disk.
    ///
    /// # Errors
    /// [`StoreError::WrongLength`], [`StoreError::WrongAddress`], [`StoreError::Io`]; nothing of
    /// the shard is left then.
    pub fn commit(self) -> Result<(), StoreError> {
        if self.written_bytes != self.lease.bytes {
            return Err(StoreError::WrongLength { expected: self.lease.bytes, got: self.written_bytes });
        }
        let got = ContentAddress::from(self.hasher.finalize());
        if got != self.address {
            return Err(StoreError::WrongAddress { expected: self.address, got });
        }
        // The long wait for the disk comes before the lock, so that others are not held up.
        self.file.sync_all().map_err(StoreError::io("sync", &self.arriving.path))?;
        let inner = Arc::clone(&self.arriving.inner);
        let mut state = inner.lock();
        state.check_open()?;
        if inner.merge_shard_lease(&mut state, &self.address, self.lease)? {
            return Ok(());
        }
        let kept = self.keep(&mut state);
        if kept.is_err() {
            let _ = inner.layout.delete(Kind::Shard, &self.address);
        }
        drop(state);
        kept
    }

    /// The sidecar goes first: a shard that can be seen always has its leases.
    fn keep(&self, state: &mut State) -> Result<(), StoreError> {
        let layout = &self.arriving.inner.layout;
        let dir = layout.make_dir_of(Kind::Shard, &self.address)?;
        let sidecar = Sidecar { len_bytes: self.lease.bytes, leases: vec![self.lease] };
        let temporary = layout.temporary(state.next_temporary());
        layout.write_sidecar(Kind::Shard, &self.address, &sidecar, &temporary)?;
        let path = layout.content(Kind::Shard, &self.address);
        fs::rename(&self.arriving.path, &path).map_err(StoreError::io("name", &path))?;
        sync_dir(&dir)?;
        let entry = Entry::new(Kind::Shard, self.lease.bytes, &sidecar);
        state.insert(self.address, entry, &[], &sidecar.leases);
        Ok(())
    }
}
