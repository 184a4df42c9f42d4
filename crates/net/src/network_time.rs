//! What time the network has: the dates under which bootstraps signed their newest records.
//!
//! A device without a battery-backed clock may start years off. What depends on a date then asks
//! for a second opinion; here it is the median over all bootstraps that the node knows, so that a
//! few wrong ones move it little. A record may be as old as its bootstrap's last publication, so
//! this time is late by some minutes, and never early where clocks are right. Pure.

use std::collections::BTreeMap;

use ioex_base::{Uid, UnixSeconds};

/// Bootstraps whose dates are kept: as many as one answer names.
const BOOTSTRAPS_MAX: usize = crate::proto::BOOTSTRAPS_MAX;
/// A date this old gives way to any newer one: the bootstrap's clock may have been set right.
const OUTDATED_MS: u64 = 6 * 3600 * 1000;

/// One bootstrap's clock: it showed `date_ms` when ours of the monotonic kind showed `seen_ms`.
#[derive(Clone, Copy, Debug)]
struct Seen {
    date_ms: u64,
    seen_ms: u64,
}

impl Seen {
    fn now_ms(self, monotonic_ms: u64) -> u64 {
        self.date_ms.saturating_add(monotonic_ms.saturating_sub(self.seen_ms))
    }
}

/// The clocks of bootstraps.
#[derive(Debug, Default)]
pub(crate) struct NetworkTime(BTreeMap<Uid, Seen>);

impl NetworkTime {
    /// Notes that a bootstrap signed something at `date_ms`. Its newest date counts.
    pub(crate) fn note(&mut self, bootstrap: Uid, date_ms: u64, monotonic_ms: u64) {
        let new = Seen { date_ms, seen_ms: monotonic_ms };
        if let Some(old) = self.0.get_mut(&bootstrap) {
            let outdated = monotonic_ms.saturating_sub(old.seen_ms) > OUTDATED_MS;
            if outdated || old.now_ms(monotonic_ms) < date_ms {
                *old = new;
            }
        } else if self.0.len() < BOOTSTRAPS_MAX {
            self.0.insert(bootstrap, new);
        }
    }

    /// The median; of two, the earlier. `None` when no bootstrap was heard.
    pub(crate) fn now(&self, monotonic_ms: u64) -> Option<UnixSeconds> {
        let mut clocks: Vec<u64> = self.0.values().map(|seen| seen.now_ms(monotonic_ms)).collect();
        clocks.sort_unstable();
        let middle = clocks.len().checked_sub(1)? / 2;
        clocks.get(middle).map(|ms| UnixSeconds(ms / 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn uid(n: u8) -> Uid {
        Uid::from_bytes([n; 32])
    }

    fn at(ms: u64) -> Option<UnixSeconds> {
        Some(UnixSeconds(ms / 1000))
    }

    #[test]
    fn the_median_goes_on_with_time_and_a_few_liars_move_it_little() {
        let mut time = NetworkTime::default();
        assert_eq!(time.now(5), None);
        time.note(uid(1), NOW_MS, 1_000);
        assert_eq!(time.now(61_000), at(NOW_MS + 60_000));
        time.note(uid(2), NOW_MS + 20_000, 1_000);
        time.note(uid(3), 0, 1_000);
        time.note(uid(4), u64::MAX, 1_000);
        time.note(uid(5), NOW_MS + 10_000, 1_000);
        assert_eq!(time.now(1_000), at(NOW_MS + 10_000));
    }

    #[test]
    fn the_newest_date_of_a_bootstrap_counts() {
        let mut time = NetworkTime::default();
        time.note(uid(1), NOW_MS, 0);
        // An older record, and one that says what is known.
        time.note(uid(1), NOW_MS - 600_000, 1_000);
        assert_eq!(time.now(1_000), at(NOW_MS + 1_000));
        time.note(uid(1), NOW_MS + 500_000, 2_000);
        assert_eq!(time.now(2_000), at(NOW_MS + 500_000));
        // Its clock was years ahead, and was set right.
        time.note(uid(1), NOW_MS * 2, 3_000);
        time.note(uid(1), NOW_MS, 4_000);
        assert_eq!(time.now(4_000), at(NOW_MS * 2 + 1_000));
        time.note(uid(1), NOW_MS, 4_000 + OUTDATED_MS);
        assert_eq!(time.now(4_000 + OUTDATED_MS), at(NOW_MS));
    }

    #[test]
    fn memory_is_bounded() {
        let mut time = NetworkTime::default();
        for n in 0..=255 {
            time.note(uid(n), NOW_MS, 0);
        }
        assert_eq!(time.0.len(), BOOTSTRAPS_MAX);
    }
}
