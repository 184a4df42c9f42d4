//! Leases: who has a shard kept, for which backup, until when. Pure rules.

use ioex_base::{DAY_SECONDS, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS, limits::SHARD_MAX_BYTES};

use crate::{CLOCK_SLOW_SECONDS, StoreError};

/// How long a shard outlives its last lease before the device deletes it by itself. A placer that
/// was offline over a weekend can still renew; the owner may delete earlier by hand.
pub const LEASE_GRACE_SECONDS: u64 = 3 * DAY_SECONDS;

/// Most leases on one shard. Shards are shared only between backups of one owner, of which there
/// is one restore point a day for three months at most; beyond that, renewing replaces.
pub const LEASES_PER_SHARD_MAX: usize = 128;

/// Longest life of a lease: that of a shard, and what a clock may be slow. Without it, one placer
/// could take the space for ever.
pub(crate) const LEASE_MAX_SECONDS: u64 = SHARD_LIFE_SECONDS + CLOCK_SLOW_SECONDS;

/// A promise to keep a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node that placed the shard and may renew the lease.
    pub placer: Uid,
    /// Public reader key of the backup: it signs the fetch grants of those who may read.
    pub reader: Uid,
    /// Length of the shard in bytes.
    pub bytes: u64,
    /// When the lease began, by this device's clock.
    pub stored: UnixSeconds,
    /// When it ends.
    pub expires: UnixSeconds,
}

impl Lease {
    /// Refuses lengths and times that no honest placer asks for.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.bytes == 0 || self.bytes > SHARD_MAX_BYTES {
            return Err(StoreError::TooLarge { got: self.bytes });
        }
        let life = self.expires.since(self.stored);
        if life == 0 || life > LEASE_MAX_SECONDS {
            return Err(StoreError::LeaseLength { max: LEASE_MAX_SECONDS, got: life });
        }
        Ok(())
    }

    fn same_backup(&self, other: &Self) -> bool {
        self.placer == other.placer && self.reader == other.reader
    }
}

/// Adds `new` to `leases`: a later end replaces that of the same backup, an earlier one changes
/// nothing, leases that ended before `new` began make room. Returns whether anything changed.
pub(crate) fn merge(leases: &mut Vec<Lease>, new: Lease) -> Result<bool, StoreError> {
    if let Some(old) = leases.iter_mut().find(|old| old.same_backup(&new)) {
        let later = new.expires > old.expires;
        if later {
            *old = new;
        }
        return Ok(later);
    }
    if leases.len() >= LEASES_PER_SHARD_MAX {
        leases.retain(|old| old.expires.plus(LEASE_GRACE_SECONDS) >= new.stored);
    }
    if leases.len() >= LEASES_PER_SHARD_MAX {
        return Err(StoreError::TooManyLeases { max: LEASES_PER_SHARD_MAX });
    }
    leases.push(new);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(reader: u8, stored: u64, expires: u64) -> Lease {
        Lease {
            placer: Uid::from_bytes([1; 32]),
            reader: Uid::from_bytes([reader; 32]),
            bytes: 10,
            stored: UnixSeconds(stored),
            expires: UnixSeconds(expires),
        }
    }

    #[test]
    fn a_later_end_replaces_and_an_earlier_one_does_not() {
        let mut leases = vec![lease(1, 0, 100)];
        assert!(!merge(&mut leases, lease(1, 5, 100)).unwrap());
        assert!(!merge(&mut leases, lease(1, 5, 50)).unwrap());
        assert!(merge(&mut leases, lease(1, 5, 200)).unwrap());
        assert_eq!(leases, [lease(1, 5, 200)]);
        assert!(merge(&mut leases, lease(2, 5, 50)).unwrap());
        assert_eq!(leases.len(), 2);
    }

    #[test]
    fn leases_are_bounded_and_ended_ones_make_room() {
        let mut leases: Vec<_> = (0..LEASES_PER_SHARD_MAX).map(|i| lease(i as u8, 0, 100)).collect();
        let got = merge(&mut leases, lease(200, 50, 150));
        assert!(matches!(got, Err(StoreError::TooManyLeases { .. })), "{got:?}");
        assert!(merge(&mut leases, lease(200, 101 + LEASE_GRACE_SECONDS, u64::MAX)).unwrap());
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn absurd_leases_are_refused() {
        let of = |bytes, expires| Lease { bytes, ..lease(1, 1_000, expires) };
        assert!(of(1, 1_001).check().is_ok());
        assert!(of(SHARD_MAX_BYTES, 1_000 + LEASE_MAX_SECONDS).check().is_ok());
        assert!(matches!(of(0, 1_001).check(), Err(StoreError::TooLarge { got: 0 })));
        assert!(matches!(of(SHARD_MAX_BYTES + 1, 1_001).check(), Err(StoreError::TooLarge { .. })));
        for expires in [0, 1_000, 1_001 + LEASE_MAX_SECONDS, u64::MAX] {
            assert!(matches!(of(1, expires).check(), Err(StoreError::LeaseLength { .. })), "{expires}");
        }
    }
}
