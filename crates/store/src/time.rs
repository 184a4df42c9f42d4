//! What time it is, when nobody can be believed alone. Pure rules.
//!
//! A device may start with a clock that is years off, and a network's word may be a lie. A lease
//! lives from the best that is known when it begins; it has ended when both clocks say so.

use ioex_base::{ContentAddress, DAY_SECONDS, UnixSeconds, limits::SHARD_LIFE_SECONDS};

/// When the device's clock and the network's time are further apart, one of them is wrong.
pub const CLOCKS_APART_SECONDS: u64 = DAY_SECONDS;

/// How far a clock with which no other could be compared is believed to be slow, at most. Leases
/// may end so much later than the device's clock alone allows.
pub const CLOCK_SLOW_SECONDS: u64 = 30 * DAY_SECONDS;

/// What [`ShardStore::remove_expired`](crate::ShardStore::remove_expired) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// What was deleted.
    pub removed: Vec<ContentAddress>,
    /// By how many seconds the clocks are apart, when nothing was deleted because of that.
    pub apart: Option<u64>,
}

/// Whether the time is known well enough to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Both clocks have reached this time.
    Certain(UnixSeconds),
    /// There is nothing to compare the device's clock with.
    Unknown,
    /// The clocks are so many seconds apart.
    Apart(u64),
}

/// Compares the device's clock with the network's time.
#[must_use]
pub fn certain(own: UnixSeconds, network: Option<UnixSeconds>) -> Certainty {
    let Some(network) = network else { return Certainty::Unknown };
    match own.0.abs_diff(network.0) {
        apart if apart > CLOCKS_APART_SECONDS => Certainty::Apart(apart),
        _ => Certainty::Certain(own.min(network)),
    }
}

/// When a lease begins and ends that a placer wants to last until `wanted`. `None` when that is
/// over already.
///
/// The network's time counts where it is known. It cannot last longer than shards live; where only
/// the device's clock is known, that may be slow, and what was promised is kept.
#[must_use]
pub fn lease_times(
    wanted: UnixSeconds,
    own: UnixSeconds,
    network: Option<UnixSeconds>,
) -> Option<(UnixSeconds, UnixSeconds)> {
    let now = network.unwrap_or(own);
    let doubt = if network.is_some() { CLOCKS_APART_SECONDS } else { CLOCK_SLOW_SECONDS };
    let expires = wanted.min(now.plus(SHARD_LIFE_SECONDS + doubt));
    (expires > now).then_some((now, expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    #[test]
    fn only_two_clocks_that_agree_are_certain() {
        assert_eq!(certain(NOW, None), Certainty::Unknown);
        assert_eq!(certain(NOW, Some(NOW.plus(60))), Certainty::Certain(NOW));
        assert_eq!(certain(NOW.plus(60), Some(NOW)), Certainty::Certain(NOW));
        let apart = CLOCKS_APART_SECONDS + 1;
        assert_eq!(certain(NOW.plus(apart), Some(NOW)), Certainty::Apart(apart));
        assert_eq!(certain(NOW, Some(NOW.plus(apart))), Certainty::Apart(apart));
    }

    #[test]
    fn a_lease_lasts_as_long_as_shards_live() {
        let wanted = NOW.plus(SHARD_LIFE_SECONDS);
        assert_eq!(lease_times(wanted, NOW, Some(NOW)), Some((NOW, wanted)));
        assert_eq!(lease_times(NOW.plus(5), NOW, None), Some((NOW, NOW.plus(5))));
        assert_eq!(lease_times(NOW, NOW, Some(NOW)), None);
        let longest = NOW.plus(SHARD_LIFE_SECONDS + CLOCKS_APART_SECONDS);
        assert_eq!(lease_times(UnixSeconds(u64::MAX), NOW, Some(NOW)), Some((NOW, longest)));
        // A clock that is years ahead refuses nothing as long as the network knows better.
        assert_eq!(lease_times(wanted, NOW.plus(1 << 30), Some(NOW)), Some((NOW, wanted)));
        // One that is days behind, alone, does not cut what was promised.
        let behind = UnixSeconds(NOW.0 - CLOCK_SLOW_SECONDS);
        assert_eq!(lease_times(wanted, behind, None), Some((behind, wanted)));
    }
}
