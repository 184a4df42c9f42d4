//! What is known of one device.

use ioex_base::UnixSeconds;
use serde::{Deserialize, Serialize};

use super::Rules;

/// Most faults that are remembered: more than ever matter, so that a record stays short.
const FAULTS_REMEMBERED_MAX: usize = 16;

/// Longest encoded [`DeviceHealth`] in bytes: two optional dates and the remembered faults, ten bytes
/// each at most.
pub const DEVICE_HEALTH_MAX_BYTES: usize = 2 * 11 + 1 + FAULTS_REMEMBERED_MAX * 10;

/// A round of questions in which fewer than one in this many devices answered says nothing of them.
const ANSWERED_FEW: usize = 3;

/// What came of asking a device something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It answered, and rightly. That it is busy or full is such an answer too.
    Answered,
    /// It could not be reached, or the connection broke.
    Unreachable,
    /// It sent wrong bytes or a wrong proof, or said that it does not have what it took. An answer
    /// that did not come in time is none: that is [`Self::Unreachable`].
    Fault,
}

/// What a device counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It answered when it was last asked.
    Online,
    /// Unreachable for less than [`super::GONE_AFTER_SECONDS`]: it counts as having what it holds.
    Away,
    /// Unreachable for longer: what it holds is made anew. If it comes back, it counts again.
    Gone,
    /// It failed too often: nothing that it holds counts, and it gets nothing more.
    Failed,
}

/// What is known of one device, as the caller keeps it.
///
/// In postcard: two optional dates and a list of dates; at most [`DEVICE_HEALTH_MAX_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceHealth {
    /// When it was first not reached since it last answered.
    silent_since: Option<UnixSeconds>,
    /// When it failed too often.
    failed_since: Option<UnixSeconds>,
    /// The last faults, oldest first.
    faults: Vec<UnixSeconds>,
}

impl DeviceHealth {
    /// A device of which nothing bad is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of what came of asking it at `now`.
    pub fn observe(&mut self, rules: &Rules, what: Observation, now: UnixSeconds) {
        match what {
            Observation::Answered => self.silent_since = None,
            Observation::Unreachable => {
                self.silent_since.get_or_insert(now);
            }
            Observation::Fault => {
                self.silent_since = None;
                self.faults.retain(|at| now.since(*at) < rules.faults_kept_seconds);
                if self.faults.len() == FAULTS_REMEMBERED_MAX {
                    self.faults.remove(0);
                }
                self.faults.push(now);
                if self.faults.len() >= usize::from(rules.faults_max) {
                    self.failed_since.get_or_insert(now);
                }
            }
        }
    }

    /// Takes note of what another watcher knows of it; `newer` says that it asked the device last. Faults
    /// that either saw stay: nobody takes back what another one found. Dates after `now` are not taken.
    pub fn join(&mut self, other: &Self, newer: bool, now: UnixSeconds) {
        let past = |at: &UnixSeconds| *at <= now;
        self.faults.extend(other.faults.iter().copied().filter(past));
        self.faults.sort_unstable();
        self.faults.dedup();
        self.faults.drain(..self.faults.len().saturating_sub(FAULTS_REMEMBERED_MAX));
        self.failed_since = self.failed_since.into_iter().chain(other.failed_since.filter(past)).min();
        if newer {
            self.silent_since = other.silent_since.map(|at| at.min(now));
        }
    }

    /// What it counts for at `now`. That changes with time alone: who is away becomes gone.
    #[must_use]
    pub fn state(&self, rules: &Rules, now: UnixSeconds) -> DeviceState {
        if self.failed_since.is_some() {
            return DeviceState::Failed;
        }
        match self.silent_since {
            None => DeviceState::Online,
            Some(since) if now.since(since) < rules.gone_after_seconds => DeviceState::Away,
            Some(_) => DeviceState::Gone,
        }
    }

    /// Whether it failed lately and is therefore asked more ([`super::SUSPECT_FACTOR`]).
    #[must_use]
    pub fn is_suspect(&self, rules: &Rules, now: UnixSeconds) -> bool {
        self.faults.iter().any(|at| now.since(*at) < rules.faults_kept_seconds)
    }

    /// Since when it has been unreachable, if it is.
    #[must_use]
    pub fn silent_since(&self) -> Option<UnixSeconds> {
        self.silent_since
    }

    /// Forgets its faults: it has another disk, or its owner explained.
    pub fn forgive(&mut self) {
        self.failed_since = None;
        self.faults.clear();
    }
}

/// Whether a round in which `answered` of `asked` devices answered says anything about those that
/// did not. When next to nobody answers, it is this node that is cut off, and taking all others for
/// unreachable would end in making everything anew. The caller then drops all observations of
/// [`Observation::Unreachable`] of the round. A single device says nothing about this node.
#[must_use]
pub fn round_counts(asked: usize, answered: usize) -> bool {
    asked <= 1 || answered.saturating_mul(ANSWERED_FEW) >= asked
}

#[cfg(test)]
mod tests {
    use ioex_base::{DAY_SECONDS, wire};
    use proptest::prelude::*;

    use super::*;
    use crate::health::{FAULTS_KEPT_SECONDS, GONE_AFTER_SECONDS};

    const START: UnixSeconds = UnixSeconds(1_800_000_000);

    fn after(seconds: u64) -> UnixSeconds {
        START.plus(seconds)
    }

    #[test]
    fn offline_for_hours_is_not_gone_and_for_days_is() {
        let rules = Rules::default();
        let mut device = DeviceHealth::new();
        assert_eq!(device.state(&rules, START), DeviceState::Online);
        device.observe(&rules, Observation::Unreachable, START);
        assert_eq!(device.state(&rules, after(12 * 3_600)), DeviceState::Away);
        device.observe(&rules, Observation::Unreachable, after(DAY_SECONDS));
        assert_eq!(device.state(&rules, after(GONE_AFTER_SECONDS - 1)), DeviceState::Away);
        assert_eq!(device.state(&rules, after(GONE_AFTER_SECONDS)), DeviceState::Gone);
        device.observe(&rules, Observation::Answered, after(GONE_AFTER_SECONDS + 5));
        assert_eq!(device.state(&rules, after(GONE_AFTER_SECONDS + 6)), DeviceState::Online);
        device.observe(&rules, Observation::Unreachable, after(GONE_AFTER_SECONDS + 7));
        assert_eq!(device.state(&rules, after(GONE_AFTER_SECONDS + 8)), DeviceState::Away);
    }

    /// A super node that slept for a month finds its devices away, not gone.
    #[test]
    fn time_in_which_nobody_asked_does_not_count() {
        let rules = Rules::default();
        let mut device = DeviceHealth::new();
        device.observe(&rules, Observation::Answered, START);
        let later = after(30 * DAY_SECONDS);
        device.observe(&rules, Observation::Unreachable, later);
        assert_eq!(device.state(&rules, later), DeviceState::Away);
    }

    #[test]
    fn repeated_faults_end_all_trust_and_old_ones_do_not() {
        let rules = Rules::default();
        let mut device = DeviceHealth::new();
        device.observe(&rules, Observation::Fault, START);
        device.observe(&rules, Observation::Fault, after(1));
        assert_eq!(device.state(&rules, after(2)), DeviceState::Online);
        assert!(device.is_suspect(&rules, after(2)));
        let mut later = device.clone();
        later.observe(&rules, Observation::Fault, after(FAULTS_KEPT_SECONDS + 1));
        assert_eq!(later.state(&rules, after(FAULTS_KEPT_SECONDS + 1)), DeviceState::Online);
        device.observe(&rules, Observation::Fault, after(DAY_SECONDS));
        assert_eq!(device.state(&rules, after(DAY_SECONDS)), DeviceState::Failed);
        device.observe(&rules, Observation::Answered, after(400 * DAY_SECONDS));
        assert_eq!(device.state(&rules, after(400 * DAY_SECONDS)), DeviceState::Failed);
        device.forgive();
        assert_eq!(device.state(&rules, after(400 * DAY_SECONDS)), DeviceState::Online);
        assert!(!device.is_suspect(&rules, after(400 * DAY_SECONDS)));
    }

    #[test]
    fn what_one_watcher_found_another_one_does_not_take_back() {
        let rules = Rules::default();
        let mut failed = DeviceHealth::new();
        for day in 0..3 {
            failed.observe(&rules, Observation::Fault, after(day * DAY_SECONDS));
        }
        let now = after(9 * DAY_SECONDS);
        // Another one was away meanwhile, and then asked it last.
        let mut known = failed.clone();
        known.join(&DeviceHealth::new(), true, now);
        assert_eq!(known, failed);
        let mut new = DeviceHealth::new();
        new.observe(&rules, Observation::Unreachable, now);
        new.join(&failed, false, now);
        assert_eq!((new.state(&rules, now), new.silent_since()), (DeviceState::Failed, Some(now)));
        new.join(&failed, true, now);
        assert_eq!(new, failed, "what is told twice counts once");
        // Neither without end nor from the future.
        let all = |from: u64| DeviceHealth {
            silent_since: Some(UnixSeconds(u64::MAX)),
            failed_since: Some(UnixSeconds(u64::MAX)),
            faults: (from..from + 5_000).map(UnixSeconds).collect(),
        };
        let mut told = DeviceHealth::new();
        told.join(&all(now.0 + 1), true, now);
        assert_eq!((told.state(&rules, now), told.is_suspect(&rules, now)), (DeviceState::Away, false));
        assert_eq!(told.state(&rules, now.plus(GONE_AFTER_SECONDS)), DeviceState::Gone);
        told.join(&all(0), true, now);
        assert!(wire::encode(&told).len() <= DEVICE_HEALTH_MAX_BYTES);
    }

    #[test]
    fn when_nobody_answers_it_is_this_node() {
        assert!(!round_counts(9, 2) && round_counts(9, 3) && round_counts(9, 9));
        assert!(!round_counts(2, 0) && round_counts(2, 1));
        assert!(round_counts(1, 0) && round_counts(0, 0));
    }

    #[test]
    fn the_bytes_are_frozen() {
        let rules = Rules::default();
        let mut device = DeviceHealth::new();
        assert_eq!(wire::encode(&device), [0, 0, 0]);
        device.observe(&rules, Observation::Fault, UnixSeconds(1));
        device.observe(&rules, Observation::Fault, UnixSeconds(2));
        device.observe(&rules, Observation::Fault, UnixSeconds(300));
        device.observe(&rules, Observation::Unreachable, UnixSeconds(4));
        assert_eq!(wire::encode(&device), [1, 4, 1, 0xac, 2, 3, 1, 2, 0xac, 2]);
        let bytes = wire::encode(&device);
        assert_eq!(wire::decode::<DeviceHealth>(&bytes, DEVICE_HEALTH_MAX_BYTES), Ok(device));
    }

    proptest! {
        #[test]
        fn any_history_stays_bounded(history in prop::collection::vec((0u8..3, any::<u64>()), 0..80)) {
            let rules = Rules { faults_max: u8::MAX, faults_kept_seconds: u64::MAX, ..Rules::default() };
            let mut device = DeviceHealth::new();
            for (what, at) in history {
                let what = [Observation::Answered, Observation::Unreachable, Observation::Fault][usize::from(what)];
                device.observe(&rules, what, UnixSeconds(at));
                let _ = device.state(&rules, UnixSeconds(at));
            }
            let bytes = wire::encode(&device);
            prop_assert_eq!(wire::decode::<DeviceHealth>(&bytes, DEVICE_HEALTH_MAX_BYTES), Ok(device));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(mut device) = wire::decode::<DeviceHealth>(&bytes, DEVICE_HEALTH_MAX_BYTES) {
                device.observe(&Rules::default(), Observation::Fault, START);
                let _ = device.state(&Rules::default(), START);
            }
        }
    }
}
