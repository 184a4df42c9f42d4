//! Leases that are extended or given back by who placed them.

use std::collections::BTreeSet;

use ioex_base::{ContentAddress, Uid, UnixSeconds};

use crate::{Lease, StoreError, files::sync_dir, lease, store::ShardStore};

/// For whom, and until when, something is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Who placed it.
    pub placer: Uid,
    /// Public reader key of the backup.
    pub reader: Uid,
    /// From when.
    pub stored: UnixSeconds,
    /// Until when.
    pub expires: UnixSeconds,
}

impl Terms {
    /// The lease of something with `bytes` bytes under these terms.
    #[must_use]
    pub fn lease(&self, bytes: u64) -> Lease {
        let Self { placer, reader, stored, expires } = *self;
        Lease { placer, reader, bytes, stored, expires }
    }
}

/// What became of leases that were given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// How many leases ended.
    pub leases: u32,
    /// What had no other lease and was deleted.
    pub deleted: Vec<ContentAddress>,
}

impl ShardStore {
    /// Extends the lease of a placer for a reader, or adds it, and returns for each address whether
    /// it is held under such a lease now. What `placer` did not lease so far is added only as long
    /// as all its leases stay within `max_bytes`. When this returns, all of it is on disk.
    ///
    /// # Errors
    /// [`StoreError::LeaseLength`]; [`StoreError::Io`], when some may have been extended.
    pub fn renew(
        &self,
        addresses: &[ContentAddress],
        terms: &Terms,
        max_bytes: u64,
    ) -> Result<Vec<bool>, StoreError> {
        // The length is that of what is held; here only the times matter.
        terms.lease(1).check()?;
        let mut dirs = BTreeSet::new();
        let mut held = Vec::with_capacity(addresses.len());
        for address in addresses {
            let mut state = self.0.lock();
            state.check_open()?;
            let Some((entry, mut sidecar)) = self.0.look_up(&mut state, address)? else {
                held.push(false);
                continue;
            };
            let before = sidecar.leases.clone();
            let known = before.iter().any(|lease| lease.placer == terms.placer);
            let after = state.placed_bytes(&terms.placer).saturating_add(entry.bytes());
            if !known && after > max_bytes {
                held.push(false);
                continue;
            }
            match lease::merge(&mut sidecar.leases, terms.lease(entry.bytes())) {
                Ok(false) => held.push(true),
                Ok(true) => match self.0.rewrite(&mut state, address, &sidecar, &before) {
                    Ok(()) => {
                        dirs.insert(self.0.layout.dir_of(entry.kind, address));
                        held.push(true);
                    }
                    Err(StoreError::NoSpace { .. }) => held.push(false),
                    Err(e) => return Err(e),
                },
                Err(_) => held.push(false),
            }
        }
        dirs.iter().try_for_each(|dir| sync_dir(dir))?;
        Ok(held)
    }

    /// Ends all leases of `placer` on these. What is left without a lease is deleted at once.
    ///
    /// # Errors
    /// [`StoreError::Io`], when some may have ended.
    pub fn release(&self, placer: &Uid, addresses: &[ContentAddress]) -> Result<Released, StoreError> {
        let mut released = Released::default();
        let mut dirs = BTreeSet::new();
        for address in addresses {
            let mut state = self.0.lock();
            state.check_open()?;
            let Some((entry, mut sidecar)) = self.0.look_up(&mut state, address)? else { continue };
            let before = sidecar.leases.clone();
            sidecar.leases.retain(|lease| lease.placer != *placer);
            let ended = before.len() - sidecar.leases.len();
            if ended == 0 {
                continue;
            }
            if sidecar.leases.is_empty() {
                self.0.delete(&mut state, address)?;
                released.deleted.push(*address);
            } else {
                self.0.rewrite(&mut state, address, &sidecar, &before)?;
                dirs.insert(self.0.layout.dir_of(entry.kind, address));
            }
            released.leases = released.leases.saturating_add(u32::try_from(ended).unwrap_or(u32::MAX));
        }
        dirs.iter().try_for_each(|dir| sync_dir(dir))?;
        Ok(released)
    }
}
