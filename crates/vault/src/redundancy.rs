//! How a group of shards protects itself against the loss of devices.
//!
//! A *group* is a set of shards of which some suffice for all. Four numbers say how it is kept, as
//! the paper on Storj names them (version 3, section 3.4): `k` are needed to read it, it is
//! repaired when fewer than `m` live, `o` make it complete, `n` are made. With `k = 1` every shard
//! is the same: whole copies under one address. With `k > 1` there are `k` shards of data, which
//! can be read as they are, and `n - k` of parity; any `k` of them give back the others (see
//! [`encode`](crate::encode)). Each lies on one device, and all devices of a group have different
//! owners.
//!
//! [`choose`] finds the numbers for the devices that there are.

mod choose;
mod text;

use ioex_base::limits::SHARD_MAX_BYTES;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::REPLICAS_MAX;

pub use choose::{Choice, HOLDER_FREE_MIN_BYTES, OVERHEAD_MAX, choose, owners};
pub use text::{ParseRedundancyError, Wanted};

/// Most shards of a group. At the smallest size of a full shard ([`CODED_SHARD_MIN_BYTES`]) a
/// whole group just fits [`GROUP_MEMORY_BYTES`]. More are not needed: with 80 nothing was lost in the
/// simulation (`docs/sim-vault.md`).
pub const REDUNDANCY_MAX: u8 = 96;

/// Bytes that all shards of one group may take together, so that a small super node encodes and
/// repairs in memory: 96 MiB.
pub const GROUP_MEMORY_BYTES: u64 = 96 * 1024 * 1024;

/// The largest shard of any policy is at least this long, in bytes: with shorter ones, the requests,
/// the announcements and the records of a backup would cost more than their content.
pub const CODED_SHARD_MIN_BYTES: u64 = 1024 * 1024;

/// Most whole copies of what a reader needs before all else ([`Redundancy::for_index`]). When half
/// of all devices are away, 16 copies are out of reach together once in 65,000 times.
pub const INDEX_COPIES_MAX: u8 = REPLICAS_MAX;

const _: () = {
    assert!(REDUNDANCY_MAX as u64 * CODED_SHARD_MIN_BYTES <= GROUP_MEMORY_BYTES, "any group fits");
    assert!(CODED_SHARD_MIN_BYTES <= SHARD_MAX_BYTES);
    assert!(INDEX_COPIES_MAX <= REDUNDANCY_MAX);
};

/// The four numbers of a group: `1 <= k <= m <= o <= n <= `[`REDUNDANCY_MAX`].
///
/// Text: `replicas=3`, or `rs=20/32/60/80` for k, m, o, n. In postcard: the four numbers, a byte
/// each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Redundancy {
    needed: u8,
    repair_at: u8,
    complete: u8,
    made: u8,
}

/// Why four numbers are no redundancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRedundancy {
    /// They do not rise.
    #[error(
        "of needed/repair/complete/made none is smaller than the one before and the first is at least 1; {k}/{m}/{o}/{n} is not so"
    )]
    Order {
        /// Needed.
        k: u8,
        /// Repaired below.
        m: u8,
        /// Complete.
        o: u8,
        /// Made.
        n: u8,
    },
    /// Too many shards.
    #[error("a group has at most {REDUNDANCY_MAX} shards, not {0}")]
    TooMany(u8),
    /// No copy, or too many.
    #[error("1 to {REPLICAS_MAX} whole copies are possible, not {0}")]
    Copies(u8),
}

impl Redundancy {
    /// A group of `n` shards that is complete with `o` of them, is repaired below `m`, and needs
    /// `k` to be read.
    ///
    /// # Errors
    /// [`InvalidRedundancy`].
    pub const fn new(k: u8, m: u8, o: u8, n: u8) -> Result<Self, InvalidRedundancy> {
        if n > REDUNDANCY_MAX {
            return Err(InvalidRedundancy::TooMany(n));
        }
        if !(1 <= k && k <= m && m <= o && o <= n) {
            return Err(InvalidRedundancy::Order { k, m, o, n });
        }
        Ok(Self { needed: k, repair_at: m, complete: o, made: n })
    }

    /// `n` whole copies, 1 to [`REPLICAS_MAX`], each replaced as soon as it is lost: a copy costs
    /// the same whenever it is made, so waiting for more losses would save nothing.
    ///
    /// # Errors
    /// [`InvalidRedundancy::Copies`].
    pub const fn replicas(n: u8) -> Result<Self, InvalidRedundancy> {
        if n < 1 || n > REPLICAS_MAX {
            return Err(InvalidRedundancy::Copies(n));
        }
        Ok(Self { needed: 1, repair_at: n, complete: n, made: n })
    }

    /// The numbers after `1 <= k <= m <= o <= n <= REDUNDANCY_MAX` were brought about by raising
    /// the later ones, or lowering all to the bound. For those who compute them.
    const fn clamped(k: u8, m: u8, o: u8, n: u8) -> Self {
        const fn within(value: u8, least: u8, most: u8) -> u8 {
            if value < least {
                least
            } else if value > most {
                most
            } else {
                value
            }
        }
        let n = within(n, 1, REDUNDANCY_MAX);
        let o = within(o, 1, n);
        let k = within(k, 1, o);
        Self { needed: k, repair_at: within(m, k, o), complete: o, made: n }
    }

    /// Shards that suffice to read the group. 1 means whole copies.
    #[must_use]
    pub const fn k(self) -> u8 {
        self.needed
    }

    /// With fewer living shards than this the group is repaired.
    #[must_use]
    pub const fn m(self) -> u8 {
        self.repair_at
    }

    /// Shards that make the group complete; repair goes up to here.
    #[must_use]
    pub const fn o(self) -> u8 {
        self.complete
    }

    /// Shards that are made: `n - o` more than needed, so that slow devices hold nothing up.
    #[must_use]
    pub const fn n(self) -> u8 {
        self.made
    }

    /// Whether every shard of the group is a whole copy of the same.
    #[must_use]
    pub const fn is_whole_copies(self) -> bool {
        self.needed == 1
    }

    /// Stored bytes per byte of data once the group is complete.
    #[must_use]
    pub fn overhead(self) -> f64 {
        f64::from(self.complete) / f64::from(self.needed)
    }

    /// Devices that a complete group can lose without losing data.
    #[must_use]
    pub const fn tolerated_losses(self) -> u8 {
        self.complete - self.needed
    }

    /// The numbers of a group with `data` shards of data instead of `k`: a backup's last group, or
    /// a small backup's only one. Zero counts as one, and more than `k` as `k`.
    ///
    /// All four numbers go down by `k - data`. So the differences stay: when complete, a short
    /// group bears as many losses as a full one, it is repaired at the same distance from losing
    /// data, and as many further shards are in flight. It costs more for each byte, which is paid
    /// once per backup. A group of a single shard becomes whole copies, which are the same as its
    /// parity would be.
    #[must_use]
    pub const fn short(self, data: usize) -> Self {
        let needed = self.needed as usize;
        let fewer = if data == 0 { needed - 1 } else { needed.saturating_sub(data) };
        // At most k - 1, thus far from wrapping.
        let fewer = fewer as u8;
        Self {
            needed: self.needed - fewer,
            repair_at: self.repair_at - fewer,
            complete: self.complete - fewer,
            made: self.made - fewer,
        }
    }

    /// Parity shards beside `data` shards of data: none for whole copies, else `n - k`, however
    /// short the group is, for the reason at [`Self::short`].
    #[must_use]
    pub const fn parity_for(self, data: usize) -> usize {
        let group = self.short(data);
        if group.is_whole_copies() { 0 } else { (group.made - group.needed) as usize }
    }

    /// Different shards of a group with `data` shards of data: data and parity, or the one shard
    /// of which copies are made.
    #[must_use]
    pub const fn shards_for(self, data: usize) -> usize {
        self.short(data).needed as usize + self.parity_for(data)
    }

    /// How index objects are kept that a reader needs before anything of a group is found: whole
    /// copies, one more than losses that the group bears, at most [`INDEX_COPIES_MAX`].
    #[must_use]
    pub const fn for_index(self) -> Self {
        let copies = self.tolerated_losses() + 1;
        let copies = if copies > INDEX_COPIES_MAX { INDEX_COPIES_MAX } else { copies };
        Self { needed: 1, repair_at: copies, complete: copies, made: copies }
    }

    /// The whole copies that cost about the same: `o / k`, rounded up, at most [`REPLICAS_MAX`].
    /// Whole copies stay as they are.
    #[must_use]
    pub const fn as_copies(self) -> Self {
        if self.is_whole_copies() {
            return self;
        }
        let copies = self.complete.div_ceil(self.needed);
        let copies = if copies > REPLICAS_MAX { REPLICAS_MAX } else { copies };
        Self { needed: 1, repair_at: copies, complete: copies, made: copies }
    }

    /// The numbers of a group that has these and comes to be wanted with `goal`, when only copies can
    /// be added: whole copies are raised to those of [`Self::as_copies`], never lowered, and a code
    /// stays what it is.
    #[must_use]
    pub const fn raised(self, goal: Self) -> Self {
        let copies = goal.as_copies();
        if self.is_whole_copies() && copies.complete > self.complete { copies } else { self }
    }

    /// Length of the largest shard in bytes: such that a whole group of `n` fits
    /// [`GROUP_MEMORY_BYTES`]. Whole copies are one shard in memory and may be as long as any
    /// shard. A multiple of 64, as parity is.
    #[must_use]
    pub const fn shard_bytes(self) -> u64 {
        if self.is_whole_copies() {
            return SHARD_MAX_BYTES;
        }
        let share = GROUP_MEMORY_BYTES / self.made as u64 / 64 * 64;
        // Never below CODED_SHARD_MIN_BYTES: REDUNDANCY_MAX sees to that.
        if share > SHARD_MAX_BYTES { SHARD_MAX_BYTES } else { share }
    }
}

impl Serialize for Redundancy {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            [self.needed, self.repair_at, self.complete, self.made].serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for Redundancy {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            let [k, m, o, n] = <[u8; 4]>::deserialize(d)?;
            Self::new(k, m, o, n).map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests;
