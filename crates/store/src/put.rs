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
    files::{remove_if_there, sync_dir},
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

/// A shard that is arriving. Dropping it removes what came and gives the space back.
#[derive(Debug)]
pub struct Put {
    inner: Arc<Inner>,
    address: ContentAddress,
    lease: Lease,
    file: File,
    path: PathBuf,
    /// On the heap because it is two kilobytes, and this value is moved about.
    hasher: Box<blake3::Hasher>,
    written_bytes: u64,
}

impl Put {
    /// Creates the arriving file; the caller has reserved the space in `state`, and this value's
    /// drop gives it back.
    pub(crate) fn start(
        inner: &Arc<Inner>,
        state: &mut State,
        address: ContentAddress,
        lease: Lease,
    ) -> Result<Self, StoreError> {
        let path = inner.layout.temporary(state.next_temporary());
        let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        state.reserved_bytes = state.reserved_bytes.saturating_add(charge(lease.bytes));
        let hasher = Box::new(blake3::Hasher::new());
        Ok(Self { inner: Arc::clone(inner), address, lease, file, path, hasher, written_bytes: 0 })
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
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
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
        self.file.sync_all().map_err(StoreError::io("sync", &self.path))?;
        let inner = Arc::clone(&self.inner);
        let mut state = inner.lock();
        if inner.merge_lease(&mut state, &self.address, self.lease)? {
            return Ok(());
        }
        let kept = self.keep(&mut state);
        if kept.is_err() {
            let _ = remove_if_there(&inner.layout.shard(&self.address));
            let _ = remove_if_there(&inner.layout.sidecar(&self.address));
        }
        drop(state);
        kept
    }

    /// The sidecar goes first: a shard that can be seen always has its leases.
    fn keep(&self, state: &mut State) -> Result<(), StoreError> {
        let layout = &self.inner.layout;
        let dir = layout.make_prefix_dir(&self.address)?;
        let sidecar = Sidecar { len_bytes: self.lease.bytes, leases: vec![self.lease] };
        layout.write_sidecar(&self.address, &sidecar, &layout.temporary(state.next_temporary()))?;
        let path = layout.shard(&self.address);
        fs::rename(&self.path, &path).map_err(StoreError::io("name", &path))?;
        sync_dir(&dir)?;
        state.insert(self.address, Entry::of(&sidecar));
        Ok(())
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        // After a commit the file is no longer under this name. If removing fails, the next
        // opening of the store does it.
        let _ = remove_if_there(&self.path);
        let mut state = self.inner.lock();
        state.reserved_bytes = state.reserved_bytes.saturating_sub(charge(self.lease.bytes));
    }
}
