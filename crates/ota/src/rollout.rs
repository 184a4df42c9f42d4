//! Who gets a version when.
//!
//! A rollout is part of the signed release, so every device can follow it alone; whoever matches
//! devices with providers follows the same function. A device's place in the order is a hash of its UID and of
//! the rollout's salt: stable for one version, different for the next, so that it is not always the
//! same devices that go first. Raising the percentage only ever adds devices.

use ioex_base::{Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

/// Shares are counted in ten-thousandths: 100 devices of a million can go first.
pub const WHOLE_PER_MYRIAD: u16 = 10_000;

/// Most steps of a schedule: those to come, and as many of the past ones as have room beside them.
pub const STEPS_MAX: usize = 32;

/// Most named devices that go first: the maker's own, and testers.
pub const FIRST_MAX: usize = 1_000;

/// From when on, how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// From this moment,
    pub from: UnixSeconds,
    /// this share of all devices, in ten-thousandths, may install.
    pub per_myriad: u16,
}

/// What the maker wants just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// Goes on by its steps.
    #[default]
    Running,
    /// Nobody begins until it is resumed; its steps' dates stay.
    Paused,
    /// Over. Nobody begins any more.
    Aborted,
}

impl Course {
    /// The name that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
        }
    }
}

/// When failures end a rollout by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRule {
    /// Fewer results than this say nothing.
    pub min_results: u32,
    /// More failures than this, in ten-thousandths of the results, end it.
    pub max_failed_per_myriad: u16,
}

impl Default for StopRule {
    /// Three in a hundred, once fifty have tried.
    fn default() -> Self {
        Self { min_results: 50, max_failed_per_myriad: 300 }
    }
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Makes the order of devices one of its own.
    pub salt: String,
    /// Shares over time, by date; before the first nobody begins but `first`.
    pub steps: Vec<Step>,
    /// Devices that do not wait for a step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<Uid>,
    /// What the maker wants just now.
    #[serde(default)]
    pub course: Course,
    /// When failures end it.
    #[serde(default)]
    pub stop: StopRule,
    /// When its maker went on last, after a pause or after failures had stopped it: matchers count failures anew from
    /// then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<UnixSeconds>,
}

/// A rollout that contradicts itself.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InvalidRollout {
    /// No step, or too many.
    #[error(
        "a rollout has 1 to {STEPS_MAX} steps, the one that holds now and those to come, not {0}: give fewer with --step"
    )]
    Steps(usize),
    /// More than everybody.
    #[error("{0} ten-thousandths are more than everybody")]
    Share(u16),
    /// Dates out of order, or a share that falls: devices that were told to begin cannot be told to unbegin.
    #[error("the steps of a rollout go up, in time and in share")]
    Order,
    /// Too many named devices.
    #[error("a rollout names at most {FIRST_MAX} devices, not {0}")]
    First(usize),
}

/// Results that devices reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Confirmed after their health check.
    pub done: u64,
    /// Failed to install, or went back.
    pub failed: u64,
}

/// Whether a device may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Now.
    Yes,
    /// At this moment, as the steps stand.
    At(UnixSeconds),
    /// In none of the steps so far.
    Later,
    /// Paused.
    Paused,
    /// Aborted by the maker.
    Aborted,
    /// Ended because too many failed.
    Stopped,
}

impl Rollout {
    /// One step: this share from now on.
    #[must_use]
    pub fn at_once(salt: &str, per_myriad: u16) -> Self {
        Self {
            salt: salt.to_owned(),
            steps: vec![Step { from: UnixSeconds(0), per_myriad }],
            first: Vec::new(),
            course: Course::Running,
            stop: StopRule::default(),
            resumed: None,
        }
    }

    /// Looks for contradictions.
    ///
    /// # Errors
    /// [`InvalidRollout`].
    pub fn check(&self) -> Result<(), InvalidRollout> {
        if self.steps.is_empty() || self.steps.len() > STEPS_MAX {
            return Err(InvalidRollout::Steps(self.steps.len()));
        }
        if let Some(step) = self.steps.iter().find(|step| step.per_myriad > WHOLE_PER_MYRIAD) {
            return Err(InvalidRollout::Share(step.per_myriad));
        }
        let up = |pair: &[Step]| pair[0].from < pair[1].from && pair[0].per_myriad <= pair[1].per_myriad;
        if !self.steps.windows(2).all(up) {
            return Err(InvalidRollout::Order);
        }
        if self.first.len() > FIRST_MAX {
            return Err(InvalidRollout::First(self.first.len()));
        }
        Ok(())
    }

    /// From `now` on this share; later steps that are higher stay.
    pub fn share_now(&mut self, per_myriad: u16, now: UnixSeconds) {
        self.steps.retain(|step| step.from < now || (step.from > now && step.per_myriad > per_myriad));
        let place = self.steps.partition_point(|step| step.from < now);
        self.steps.insert(place, Step { from: now, per_myriad });
        self.forget_past(now);
    }

    /// These steps instead of those that are still to come.
    pub fn replace_coming(&mut self, steps: Vec<Step>, now: UnixSeconds) {
        self.steps.retain(|step| step.from <= now);
        self.steps.extend(steps);
        self.forget_past(now);
    }

    /// Makes room: of the steps that are past, the oldest ones go. Whom they let in, the later ones let in, too; the last
    /// of them stays.
    fn forget_past(&mut self, now: UnixSeconds) {
        let past = self.steps.partition_point(|step| step.from <= now);
        let many = self.steps.len().saturating_sub(STEPS_MAX);
        self.steps.drain(..many.min(past.saturating_sub(1)));
    }

    /// Its maker goes on, after a pause or after failures had stopped it.
    pub fn resume(&mut self, now: UnixSeconds) {
        self.course = Course::Running;
        // Later than before, also with a clock that went back.
        self.resumed = Some(self.resumed.map_or(now, |before| now.max(before.plus(1))));
    }

    /// A device's place in the order, below [`WHOLE_PER_MYRIAD`].
    #[must_use]
    pub fn place(&self, device: &Uid) -> u16 {
        let mut hasher = blake3::Hasher::new_derive_key("ioex 2026 rollout place");
        hasher.update(device.as_bytes());
        hasher.update(self.salt.as_bytes());
        let mut number = [0; 8];
        number.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        // The remainder's bias over 2^64 is nothing that a fleet can see.
        u16::try_from(u64::from_le_bytes(number) % u64::from(WHOLE_PER_MYRIAD)).unwrap_or(0)
    }

    /// Whether `device` may begin. A device that began goes on, whatever this says later.
    #[must_use]
    pub fn admits(&self, device: &Uid, results: Results, now: UnixSeconds) -> Admission {
        match self.course {
            Course::Aborted => return Admission::Aborted,
            Course::Paused => return Admission::Paused,
            Course::Running => {}
        }
        if self.stop.tripped(results) {
            return Admission::Stopped;
        }
        if self.first.contains(device) {
            return Admission::Yes;
        }
        let place = self.place(device);
        match self.steps.iter().find(|step| place < step.per_myriad) {
            Some(step) if step.from <= now => Admission::Yes,
            Some(step) => Admission::At(step.from),
            None => Admission::Later,
        }
    }
}

impl StopRule {
    /// Whether too many failed. Whoever counts then lets nobody begin until the maker goes on.
    #[must_use]
    pub fn tripped(&self, results: Results) -> bool {
        let all = u128::from(results.done) + u128::from(results.failed);
        all >= u128::from(self.min_results.max(1))
            && u128::from(results.failed) * u128::from(WHOLE_PER_MYRIAD)
                > all * u128::from(self.max_failed_per_myriad)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000);
    const NONE: Results = Results { done: 0, failed: 0 };

    fn uid(n: u32) -> Uid {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Uid::from_bytes(bytes)
    }

    #[test]
    fn a_share_is_about_that_share_and_stable() {
        let rollout = Rollout::at_once("2.0.0", 1_000);
        let admitted = |rollout: &Rollout| {
            (0..20_000).filter(|&n| rollout.admits(&uid(n), NONE, NOW) == Admission::Yes).collect::<Vec<_>>()
        };
        let first = admitted(&rollout);
        assert!((1_800..2_200).contains(&first.len()), "{} of 20,000", first.len());
        assert_eq!(first, admitted(&rollout));
        let other = admitted(&Rollout::at_once("2.0.1", 1_000));
        let both = first.iter().filter(|n| other.contains(n)).count();
        assert!(both < 400, "{both} of {} go first again", first.len());
    }

    #[test]
    fn the_order_of_devices_is_frozen() {
        assert_eq!(Rollout::at_once("2.0.0", 1).place(&uid(7)), GOLDEN_PLACE);
    }
    const GOLDEN_PLACE: u16 = 341;

    #[test]
    fn steps_courses_and_named_devices() {
        let mut rollout = Rollout::at_once("s", 0);
        rollout.steps.push(Step { from: UnixSeconds(2_000), per_myriad: WHOLE_PER_MYRIAD });
        rollout.first.push(uid(1));
        assert_eq!(rollout.check(), Ok(()));
        assert_eq!(rollout.admits(&uid(1), NONE, NOW), Admission::Yes);
        assert_eq!(rollout.admits(&uid(2), NONE, NOW), Admission::At(UnixSeconds(2_000)));
        assert_eq!(rollout.admits(&uid(2), NONE, UnixSeconds(2_000)), Admission::Yes);
        rollout.course = Course::Paused;
        assert_eq!(rollout.admits(&uid(1), NONE, UnixSeconds(2_000)), Admission::Paused);
        rollout.course = Course::Aborted;
        assert_eq!(rollout.admits(&uid(1), NONE, UnixSeconds(2_000)), Admission::Aborted);
    }

    #[test]
    fn failures_stop_it_but_the_first_few_do_not() {
        let rollout = Rollout::at_once("s", WHOLE_PER_MYRIAD);
        let asked = |done, failed| rollout.admits(&uid(3), Results { done, failed }, NOW);
        assert_eq!(asked(0, 49), Admission::Yes);
        assert_eq!(asked(0, 50), Admission::Stopped);
        assert_eq!(asked(97, 3), Admission::Yes);
        assert_eq!(asked(96, 4), Admission::Stopped);
        assert_eq!(asked(u64::MAX, u64::MAX), Admission::Stopped);
    }

    #[test]
    fn a_larger_share_keeps_later_steps_that_are_larger_still() {
        let step = |from, percent: u16| Step { from: UnixSeconds(from), per_myriad: percent * 100 };
        let mut rollout = Rollout::at_once("s", 0);
        rollout.steps.extend([step(1_500, 40), step(2_000, 70), step(3_000, 100)]);
        rollout.share_now(4_100, NOW);
        assert_eq!(rollout.steps, [step(0, 0), step(1_000, 41), step(2_000, 70), step(3_000, 100)]);
        rollout.share_now(5_000, NOW);
        assert_eq!(rollout.steps, [step(0, 0), step(1_000, 50), step(2_000, 70), step(3_000, 100)]);
        assert_eq!(rollout.check(), Ok(()));
        rollout.replace_coming(vec![step(4_000, 60)], NOW);
        assert_eq!(rollout.steps, [step(0, 0), step(1_000, 50), step(4_000, 60)]);
    }

    #[test]
    fn a_rollout_that_changes_every_day_never_has_too_many_steps() {
        let mut rollout = Rollout::at_once("s", 0);
        let coming =
            |day: u64| vec![Step { from: UnixSeconds(day * 86_400 + 1), per_myriad: WHOLE_PER_MYRIAD }];
        for day in 1..=400_u64 {
            let (now, share) = (UnixSeconds(day * 86_400), day as u16 * 20);
            rollout.share_now(share, now);
            rollout.replace_coming(coming(day + 10), now);
            assert_eq!(rollout.check(), Ok(()), "day {day}");
            for n in 0..50 {
                let (uid, place) = (uid(n), rollout.place(&uid(n)));
                let wanted =
                    if place < share { Admission::Yes } else { Admission::At(coming(day + 10)[0].from) };
                assert_eq!(rollout.admits(&uid, NONE, now), wanted, "day {day}");
            }
        }
        // What is still to come is never forgotten.
        let many = (1..=STEPS_MAX as u64).map(|n| Step { from: UnixSeconds(n << 40), per_myriad: 8_000 });
        rollout.replace_coming(many.collect(), UnixSeconds(400 * 86_400));
        assert_eq!(rollout.check(), Err(InvalidRollout::Steps(STEPS_MAX + 1)));
    }

    #[test]
    fn going_on_is_always_later_than_before() {
        let mut rollout = Rollout { course: Course::Paused, ..Rollout::at_once("s", 0) };
        assert!(!serde_json::to_string(&rollout).unwrap().contains("resumed"));
        rollout.resume(NOW);
        assert_eq!((rollout.course, rollout.resumed), (Course::Running, Some(NOW)));
        rollout.resume(UnixSeconds(5));
        assert_eq!(rollout.resumed, Some(NOW.plus(1)));
    }

    #[test]
    fn contradictions_are_named() {
        let mut rollout = Rollout::at_once("s", 500);
        rollout.steps.push(Step { from: UnixSeconds(5), per_myriad: 400 });
        assert_eq!(rollout.check(), Err(InvalidRollout::Order));
        rollout.steps[1].per_myriad = 10_001;
        assert_eq!(rollout.check(), Err(InvalidRollout::Share(10_001)));
        rollout.steps.clear();
        assert_eq!(rollout.check(), Err(InvalidRollout::Steps(0)));
    }

    proptest! {
        #[test]
        fn raising_the_share_never_takes_anybody_out(n: u32, low in 0_u16..=10_000, high in 0_u16..=10_000) {
            let (low, high) = (low.min(high), low.max(high));
            let admits = |share| Rollout::at_once("s", share).admits(&uid(n), NONE, NOW);
            prop_assert!(admits(low) != Admission::Yes || admits(high) == Admission::Yes);
        }
    }
}
