//! When leases are extended and owners warned.

use ioex_base::{DAY_SECONDS, UnixSeconds, limits::SHARD_LIFE_SECONDS};

use super::GONE_AFTER_SECONDS;

/// A lease is extended when it has less than this many seconds left: 30 days. A device that is away
/// then is either asked again long before its lease ends, or counts as gone.
pub const RENEW_BEFORE_SECONDS: u64 = 30 * DAY_SECONDS;

/// Days before a restore point ends at which its owner is warned, longest first.
pub const WARNING_DAYS: [u64; 3] = [14, 7, 1];

const _: () = {
    assert!(RENEW_BEFORE_SECONDS >= 2 * GONE_AFTER_SECONDS);
    assert!(RENEW_BEFORE_SECONDS < SHARD_LIFE_SECONDS, "a fresh lease is not renewed");
};

/// A warning that a restore point ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Warning {
    /// Which of [`WARNING_DAYS`] it is.
    pub days: u64,
}

/// Until when a group's leases are to be extended, if they are: they end soon, and a restore point
/// that refers to the group lives longer, until `needed_until` (the latest of all that refer to it).
/// No lease is longer than a shard's life from now.
#[must_use]
pub fn renewal(lease_ends: UnixSeconds, needed_until: UnixSeconds, now: UnixSeconds) -> Option<UnixSeconds> {
    let until = needed_until.min(now.plus(SHARD_LIFE_SECONDS));
    (lease_ends.since(now) < RENEW_BEFORE_SECONDS && until > lease_ends && until > now).then_some(until)
}

/// The warning to give now to the owner of a restore point that ends at `expires`, when the last one
/// was given at `last_warned` (or none: pass the date when the point was made, if it is to be warned of
/// only what comes after).
///
/// Each of [`WARNING_DAYS`] is given once, when its day has come; of several that were missed, only
/// the most urgent. A point that was extended is warned of anew. After the end there is nothing to
/// warn of.
#[must_use]
pub fn warning(expires: UnixSeconds, last_warned: Option<UnixSeconds>, now: UnixSeconds) -> Option<Warning> {
    let left = expires.since(now);
    if left == 0 {
        return None;
    }
    let days = WARNING_DAYS.into_iter().rev().find(|days| left <= days * DAY_SECONDS)?;
    let given = last_warned.is_some_and(|at| expires.since(at) <= days * DAY_SECONDS);
    (!given).then_some(Warning { days })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixSeconds = UnixSeconds(1_800_000_000);

    fn day(days: u64) -> UnixSeconds {
        START.plus(days * DAY_SECONDS)
    }

    #[test]
    fn leases_are_extended_while_a_later_point_needs_them() {
        assert_eq!(renewal(day(90), day(400), day(60)), None, "there is time");
        assert_eq!(renewal(day(90), day(400), day(61)), Some(day(151)), "a whole life from now");
        assert_eq!(renewal(day(90), day(100), day(61)), Some(day(100)), "no longer than needed");
        assert_eq!(renewal(day(90), day(90), day(80)), None, "nobody needs it longer");
        assert_eq!(renewal(day(90), day(400), day(95)), Some(day(185)), "too late is better than never");
        assert_eq!(renewal(day(90), day(100), day(120)), None, "nor is what ended extended");
    }

    #[test]
    fn owners_are_warned_at_14_7_and_1_days() {
        let (mut last, mut given) = (None, Vec::new());
        for hour in 0..24 * 120 {
            let now = START.plus(hour * 3_600);
            if let Some(warning) = warning(day(100), last, now) {
                given.push((hour / 24, warning.days));
                last = Some(now);
            }
        }
        assert_eq!(given, [(86, 14), (93, 7), (99, 1)]);
    }

    #[test]
    fn missed_warnings_are_one() {
        assert_eq!(warning(day(100), None, day(95)), Some(Warning { days: 7 }));
        assert_eq!(warning(day(100), Some(day(87)), day(99)), Some(Warning { days: 1 }));
        assert_eq!(warning(day(100), Some(day(99)), day(99)), None);
        assert_eq!(warning(day(100), None, day(100)), None);
        assert_eq!(warning(day(100), None, day(200)), None);
        assert_eq!(warning(day(100), None, day(85)), None);
    }

    #[test]
    fn an_extended_point_is_warned_of_anew() {
        let warned = Some(day(93));
        assert_eq!(warning(day(190), warned, day(94)), None);
        assert_eq!(warning(day(190), warned, day(176)), Some(Warning { days: 14 }));
    }

    proptest! {
        /// However often somebody looks, at most three warnings come, more urgent each time.
        #[test]
        fn warnings_come_once(mut looks in prop::collection::vec(0u64..120 * DAY_SECONDS, 0..60)) {
            looks.sort_unstable();
            let (mut last, mut given) = (None, Vec::new());
            for at in looks {
                let now = START.plus(at);
                if let Some(warning) = warning(day(100), last, now) {
                    given.push(warning.days);
                    last = Some(now);
                }
            }
            prop_assert!(given.windows(2).all(|pair| pair[0] > pair[1]), "{given:?}");
        }

        #[test]
        fn any_dates_do_no_harm(lease: u64, needed: u64, now: u64, last: Option<u64>) {
            let (lease, needed, now) = (UnixSeconds(lease), UnixSeconds(needed), UnixSeconds(now));
            if let Some(until) = renewal(lease, needed, now) {
                prop_assert!(until > lease && until <= needed && until.since(now) <= SHARD_LIFE_SECONDS);
            }
            let _ = warning(lease, last.map(UnixSeconds), now);
        }
    }
}
