//! What memory holds: the index and the account of the owner's space.

use std::collections::HashMap;

use ioex_base::{ContentAddress, UnixSeconds};

use crate::sidecar::Sidecar;

pub(crate) type Index = HashMap<ContentAddress, Entry>;

/// What a shard takes besides its own bytes: the sidecar's block, and the bytes by which its last
/// block is not full, for blocks of 4 KiB. Counted so that the owner's limit holds on disk.
pub const SHARD_OVERHEAD_BYTES: u64 = 2 * 4096;

/// Bytes of the owner's space that a shard of `len_bytes` takes.
pub(crate) fn charge(len_bytes: u64) -> u64 {
    len_bytes.saturating_add(SHARD_OVERHEAD_BYTES)
}

/// One shard that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldShard {
    /// Its name.
    pub address: ContentAddress,
    /// Its length in bytes.
    pub bytes: u64,
    /// When the oldest of its leases began.
    pub stored: UnixSeconds,
    /// When the last of its leases ends; from then on its owner may delete it.
    pub expires: UnixSeconds,
}

/// How the owner's space is used. Free is `space - used - reserved`, or nothing when the owner
/// gave less space than is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the owner gives.
    pub space_bytes: u64,
    /// Bytes taken by shards (with [`SHARD_OVERHEAD_BYTES`] each) and by what was set aside.
    pub used_bytes: u64,
    /// Bytes kept free for shards that are arriving.
    pub reserved_bytes: u64,
    /// Bytes of `used_bytes` that were set aside as damaged; see [`ShardStore::clear_damaged`](crate::ShardStore::clear_damaged).
    pub damaged_bytes: u64,
    /// Number of shards.
    pub shards: usize,
}

impl Usage {
    /// Bytes that can still be taken.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.space_bytes.saturating_sub(self.used_bytes).saturating_sub(self.reserved_bytes)
    }
}

/// What memory holds of a shard: 24 bytes, so that a disk of a million shards costs some 60 MB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) bytes: u64,
    pub(crate) stored: UnixSeconds,
    pub(crate) expires: UnixSeconds,
}

impl Entry {
    pub(crate) fn of(sidecar: &Sidecar) -> Self {
        let zero = UnixSeconds(0);
        Self {
            bytes: sidecar.len_bytes,
            stored: sidecar.leases.iter().map(|l| l.stored).min().unwrap_or(zero),
            expires: sidecar.leases.iter().map(|l| l.expires).max().unwrap_or(zero),
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) space_bytes: u64,
    shard_bytes: u64,
    pub(crate) damaged_bytes: u64,
    pub(crate) reserved_bytes: u64,
    temporaries: u64,
}

impl State {
    pub(crate) fn new(found: Index, space_bytes: u64, damaged_bytes: u64) -> Self {
        let shard_bytes = found.values().map(|e| charge(e.bytes)).fold(0, u64::saturating_add);
        Self { index: found, space_bytes, shard_bytes, damaged_bytes, reserved_bytes: 0, temporaries: 0 }
    }

    pub(crate) fn next_temporary(&mut self) -> u64 {
        self.temporaries = self.temporaries.wrapping_add(1);
        self.temporaries
    }

    pub(crate) fn insert(&mut self, address: ContentAddress, entry: Entry) {
        self.forget(&address);
        self.shard_bytes = self.shard_bytes.saturating_add(charge(entry.bytes));
        self.index.insert(address, entry);
    }

    pub(crate) fn forget(&mut self, address: &ContentAddress) {
        if let Some(old) = self.index.remove(address) {
            self.shard_bytes = self.shard_bytes.saturating_sub(charge(old.bytes));
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            space_bytes: self.space_bytes,
            used_bytes: self.shard_bytes.saturating_add(self.damaged_bytes),
            reserved_bytes: self.reserved_bytes,
            damaged_bytes: self.damaged_bytes,
            shards: self.index.len(),
        }
    }
}
