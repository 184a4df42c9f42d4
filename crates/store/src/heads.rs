//! Heads: of each repository the newest one that somebody leased.

use std::{fs, sync::Arc};

use ioex_base::{ContentAddress, SealedHead};

use crate::{
    Lease, StoreError,
    files::{Kind, sync_dir, write_synced},
    lease,
    put::Arriving,
    sidecar::Sidecar,
    state::{Entry, State, charge},
    store::{Inner, ShardStore},
};

/// What became of a head that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPut {
    /// It is on disk, under its lease.
    Kept,
    /// The head with this number, the same or a higher one, is held in its place; that one's lease
    /// was merged.
    Newer(u64),
}

impl ShardStore {
    /// The number of the head that is held under `address`.
    #[must_use]
    pub fn head_seq(&self, address: &ContentAddress) -> Option<u64> {
        self.0.lock().seq(address)
    }

    /// Takes a head. The highest number stays; equal and lower ones only bring their lease. When
    /// this returns, head and lease are on disk; after a crash on the way either the old or the new
    /// head is there.
    ///
    /// # Errors
    /// [`StoreError::NoHead`], [`StoreError::LeaseLength`], [`StoreError::NoSpace`],
    /// [`StoreError::TooManyLeases`], [`StoreError::Io`].
    pub fn put_head(&self, bytes: &[u8], lease: Lease) -> Result<HeadPut, StoreError> {
        let head = SealedHead::open(bytes).map_err(StoreError::NoHead)?;
        let (address, len_bytes) = (head.address(), bytes.len() as u64);
        let lease = Lease { bytes: len_bytes, ..lease };
        lease.check()?;
        let arriving = {
            let mut state = self.0.lock();
            state.check_open()?;
            if let Some(newer) = self.0.newer_head(&mut state, &address, head.seq, lease)? {
                return Ok(HeadPut::Newer(newer));
            }
            let (needed, free) = (charge(len_bytes), state.free_for_heads());
            if needed > free {
                return Err(StoreError::NoSpace { needed, free });
            }
            Arriving::new(&self.0, &mut state, len_bytes)
        };
        write_synced(&arriving.path, bytes).map_err(StoreError::io("write", &arriving.path))?;
        let mut state = self.0.lock();
        state.check_open()?;
        // Another one may have come meanwhile.
        let newer = self.0.newer_head(&mut state, &address, head.seq, lease)?;
        let put = match newer {
            Some(newer) => Ok(HeadPut::Newer(newer)),
            None => self.0.keep_head(&mut state, &address, head.seq, lease, &arriving),
        };
        drop(state);
        put
    }
}

impl Inner {
    /// The number of a held head that is at least `seq`, to which the lease was added then.
    fn newer_head(
        self: &Arc<Self>,
        state: &mut State,
        address: &ContentAddress,
        seq: u64,
        lease: Lease,
    ) -> Result<Option<u64>, StoreError> {
        let Some(held) = state.seq(address).filter(|held| *held >= seq) else { return Ok(None) };
        Ok(self.merge_lease(state, address, lease)?.then_some(held))
    }

    /// Puts an arrived head in the place of the one before, if there is one.
    fn keep_head(
        &self,
        state: &mut State,
        address: &ContentAddress,
        seq: u64,
        lease: Lease,
        arriving: &Arriving,
    ) -> Result<HeadPut, StoreError> {
        match state.index.get(address).map(|entry| entry.kind) {
            // Only a shard that was made for this purpose has the address of a head.
            Some(Kind::Shard) => self.delete(state, address)?,
            Some(Kind::Head) | None => {}
        }
        let before = match state.index.get(address) {
            Some(_) => self.layout.read_sidecar(Kind::Head, address)?.map(|s| s.leases).unwrap_or_default(),
            None => Vec::new(),
        };
        let mut leases = before.clone();
        let changed = lease::merge(&mut leases, lease)?;
        let sidecar = Sidecar { len_bytes: lease.bytes, leases };
        let dir = self.layout.make_dir_of(Kind::Head, address)?;
        let temporary = self.layout.temporary(state.next_temporary());
        // A head that can be seen always has leases: those of the one before, or new ones.
        if changed || before.is_empty() {
            self.layout.write_sidecar(Kind::Head, address, &sidecar, &temporary)?;
        }
        let path = self.layout.content(Kind::Head, address);
        if let Err(e) = fs::rename(&arriving.path, &path) {
            if before.is_empty() {
                let _ = self.layout.delete(Kind::Head, address);
            }
            return Err(StoreError::io("name", &path)(e));
        }
        sync_dir(&dir)?;
        state.insert(*address, Entry::new(Kind::Head, lease.bytes, &sidecar), &before, &sidecar.leases);
        state.set_seq(*address, seq);
        Ok(HeadPut::Kept)
    }
}
