//! What memory holds: the index and the account of the owner's space.

use std::collections::HashMap;

use ioex_base::{
    ContentAddress, Uid, UnixSeconds,
    limits::{HEAD_MAX_BYTES, SHARD_MAX_BYTES},
};

use crate::{
    Lease, StoreError,
    files::{BLOCK_BYTES, Kind},
    sidecar::{SIDECAR_MAX_BYTES, Sidecar},
};

/// What a shard or head takes besides its own bytes: the bytes by which its last block is not
/// full, its sidecar's block, and its part of a directory (which has one block at least). Counted
/// so that the owner's limit holds on disk.
pub const SHARD_OVERHEAD_BYTES: u64 = 3 * BLOCK_BYTES;

/// What the store itself takes: four directories, the lock, a file beside them, and a sidecar that
/// is being written in place of another.
const STORE_OVERHEAD_BYTES: u64 = 6 * BLOCK_BYTES + SIDECAR_MAX_BYTES.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;

/// Shards leave so much of the space free, as far as this part of it, for the next head: a full
/// device still takes the newest state of what it holds.
const HEAD_ROOM_BYTES: u64 = HEAD_MAX_BYTES as u64 + SHARD_OVERHEAD_BYTES;
const HEAD_ROOM_PART: u64 = 64;

/// Bytes of the owner's space that a shard or head of `len_bytes` takes, with few leases.
pub(crate) fn charge(len_bytes: u64) -> u64 {
    len_bytes.saturating_add(SHARD_OVERHEAD_BYTES)
}

/// One shard or head that is held.
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
    /// For a head, its number.
    pub head: Option<u64>,
}

/// How the owner's space is used. Free is what neither is in use nor kept for something, or
/// nothing when the owner gave less space than is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the owner gives.
    pub space_bytes: u64,
    /// Bytes taken by shards and heads (with [`SHARD_OVERHEAD_BYTES`] each) and by what was set
    /// aside.
    pub used_bytes: u64,
    /// Bytes kept free for what is arriving.
    pub reserved_bytes: u64,
    /// Bytes kept free for the store's own files and for the next head.
    pub kept_back_bytes: u64,
    /// Bytes of `used_bytes` that were set aside as damaged; see [`ShardStore::clear_damaged`](crate::ShardStore::clear_damaged).
    pub damaged_bytes: u64,
    /// Number of shards.
    pub shards: usize,
    /// Number of heads.
    pub heads: usize,
}

impl Usage {
    /// Bytes that shards can still take.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let taken = self.used_bytes.saturating_add(self.reserved_bytes).saturating_add(self.kept_back_bytes);
        self.space_bytes.saturating_sub(taken)
    }

    /// Bytes in use beyond what the owner gives now.
    #[must_use]
    pub fn excess_bytes(&self) -> u64 {
        let own = STORE_OVERHEAD_BYTES.min(self.space_bytes);
        self.used_bytes.saturating_sub(self.space_bytes - own)
    }
}

/// What memory holds of a shard: 24 bytes, so that a disk of a million shards costs some 60 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    bytes: u32,
    /// Blocks of the sidecar beyond the first.
    more_blocks: u8,
    pub(crate) kind: Kind,
    pub(crate) stored: UnixSeconds,
    pub(crate) expires: UnixSeconds,
}

const _: () = assert!(SHARD_MAX_BYTES <= u32::MAX as u64 && HEAD_MAX_BYTES as u64 <= SHARD_MAX_BYTES);
const _: () = assert!(SIDECAR_MAX_BYTES / BLOCK_BYTES < u8::MAX as u64);

impl Entry {
    /// What a file of `bytes` with these leases takes.
    pub(crate) fn new(kind: Kind, bytes: u64, sidecar: &Sidecar) -> Self {
        let zero = UnixSeconds(0);
        let more = (sidecar.encode().len() as u64).div_ceil(BLOCK_BYTES).saturating_sub(1);
        Self {
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            more_blocks: u8::try_from(more).unwrap_or(u8::MAX),
            kind,
            stored: sidecar.leases.iter().map(|l| l.stored).min().unwrap_or(zero),
            expires: sidecar.leases.iter().map(|l| l.expires).max().unwrap_or(zero),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }

    pub(crate) fn charge(&self) -> u64 {
        charge(self.bytes()).saturating_add(u64::from(self.more_blocks) * BLOCK_BYTES)
    }
}

/// What opening the store found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) index: HashMap<ContentAddress, Entry>,
    /// Numbers of heads.
    pub(crate) seqs: HashMap<ContentAddress, u64>,
    /// Bytes by placer.
    pub(crate) placed: HashMap<Uid, u64>,
}

impl Found {
    pub(crate) fn insert(&mut self, address: ContentAddress, entry: Entry, leases: &[Lease]) {
        self.index.insert(address, entry);
        count(&mut self.placed, leases, entry.bytes(), u64::saturating_add);
    }
}

/// Adds `bytes` to, or takes them from, each placer that has a lease.
fn count(placed: &mut HashMap<Uid, u64>, leases: &[Lease], bytes: u64, how: fn(u64, u64) -> u64) {
    let mut placers: Vec<Uid> = leases.iter().map(|l| l.placer).collect();
    placers.sort_unstable();
    placers.dedup();
    for placer in placers {
        let sum = placed.entry(placer).or_insert(0);
        *sum = how(*sum, bytes);
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) index: HashMap<ContentAddress, Entry>,
    seqs: HashMap<ContentAddress, u64>,
    /// Bytes by placer.
    placed: HashMap<Uid, u64>,
    pub(crate) space_bytes: u64,
    used_bytes: u64,
    pub(crate) damaged_bytes: u64,
    pub(crate) reserved_bytes: u64,
    /// Nothing changes any more: what is held is being moved.
    pub(crate) closed: bool,
    temporaries: u64,
}

impl State {
    pub(crate) fn new(found: Found, space_bytes: u64, damaged_bytes: u64) -> Self {
        let Found { index, seqs, placed } = found;
        let used_bytes = index.values().map(Entry::charge).fold(0, u64::saturating_add);
        Self {
            index,
            seqs,
            placed,
            space_bytes,
            used_bytes,
            damaged_bytes,
            reserved_bytes: 0,
            closed: false,
            temporaries: 0,
        }
    }

    /// Refuses a change while what is held is being moved.
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    pub(crate) fn next_temporary(&mut self) -> u64 {
        self.temporaries = self.temporaries.wrapping_add(1);
        self.temporaries
    }

    /// Holds `address` as `entry` from now on. `before` are its leases so far, `after` those now.
    pub(crate) fn insert(
        &mut self,
        address: ContentAddress,
        entry: Entry,
        before: &[Lease],
        after: &[Lease],
    ) {
        self.uncount(&address, before);
        self.used_bytes = self.used_bytes.saturating_add(entry.charge());
        self.index.insert(address, entry);
        count(&mut self.placed, after, entry.bytes(), u64::saturating_add);
    }

    /// No longer holds `address`, whose leases were `before`. Where those could not be read, their
    /// placers are counted too much for until the next start.
    pub(crate) fn forget(&mut self, address: &ContentAddress, before: &[Lease]) {
        self.uncount(address, before);
        self.seqs.remove(address);
    }

    fn uncount(&mut self, address: &ContentAddress, before: &[Lease]) {
        if let Some(old) = self.index.remove(address) {
            self.used_bytes = self.used_bytes.saturating_sub(old.charge());
            count(&mut self.placed, before, old.bytes(), u64::saturating_sub);
        }
    }

    pub(crate) fn set_seq(&mut self, address: ContentAddress, seq: u64) {
        self.seqs.insert(address, seq);
    }

    /// The number of a head that is held.
    pub(crate) fn seq(&self, address: &ContentAddress) -> Option<u64> {
        self.seqs.get(address).copied()
    }

    pub(crate) fn placers(&self) -> Vec<(Uid, u64)> {
        let mut out: Vec<_> =
            self.placed.iter().filter(|(_, bytes)| **bytes > 0).map(|(u, b)| (*u, *b)).collect();
        out.sort_unstable();
        out
    }

    pub(crate) fn placed_bytes(&self, placer: &Uid) -> u64 {
        self.placed.get(placer).copied().unwrap_or(0)
    }

    /// Bytes that heads can still take.
    pub(crate) fn free_for_heads(&self) -> u64 {
        let taken = self.used_bytes.saturating_add(self.damaged_bytes).saturating_add(self.reserved_bytes);
        self.space_bytes.saturating_sub(taken.saturating_add(STORE_OVERHEAD_BYTES))
    }

    pub(crate) fn usage(&self) -> Usage {
        let head_room = HEAD_ROOM_BYTES.min(self.space_bytes / HEAD_ROOM_PART);
        Usage {
            space_bytes: self.space_bytes,
            used_bytes: self.used_bytes.saturating_add(self.damaged_bytes),
            reserved_bytes: self.reserved_bytes,
            kept_back_bytes: STORE_OVERHEAD_BYTES + head_room,
            damaged_bytes: self.damaged_bytes,
            shards: self.index.len() - self.seqs.len(),
            heads: self.seqs.len(),
        }
    }
}
