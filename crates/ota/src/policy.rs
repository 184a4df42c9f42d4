//! What a device's owner allows an update to use, and how failures are answered.
//!
//! All of it are plain functions over what the device senses. The reasons of a refusal to begin
//! carry what would change it, for the owner to see.

use ioex_base::UnixSeconds;
use serde::{Deserialize, Serialize};

/// Minutes in a day.
const DAY_MINUTES: u16 = 24 * 60;

/// A span of the day in local time. `from` after `until` spans midnight; equal ends are the whole day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// First minute of the day, 0 to 1,439.
    pub from_minute: u16,
    /// The minute of the day at which it ends.
    pub until_minute: u16,
}

impl Hours {
    /// Whether a minute of the day lies in it.
    #[must_use]
    pub fn contains(&self, minute: u16) -> bool {
        let (from, until) = (self.from_minute, self.until_minute);
        match from.cmp(&until) {
            std::cmp::Ordering::Less => (from..until).contains(&minute),
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Greater => minute >= from || minute < until,
        }
    }
}

/// What the owner allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Below this charge, in percent, nothing is fetched or installed unless the device is plugged in.
    pub min_battery_percent: u8,
    /// Whether a metered link may be used.
    pub metered: bool,
    /// When fetching is allowed; absent means always.
    pub fetch_hours: Option<Hours>,
    /// When installing, and with it a restart, is allowed; absent means always.
    pub install_hours: Option<Hours>,
    /// Most bytes for updates in a calendar month, up and down together; absent means no limit.
    pub monthly_cap_bytes: Option<u64>,
    /// How many others are served at the same time; 0 serves nobody.
    pub upload_slots: u16,
    /// Most bytes per second that others get together; absent means no limit of its own.
    pub upload_bytes_per_second: Option<u64>,
}

impl Default for Policy {
    /// What spares a device whose owner has not looked at it yet.
    fn default() -> Self {
        Self {
            min_battery_percent: 40,
            metered: false,
            fetch_hours: None,
            install_hours: Some(Hours { from_minute: 2 * 60, until_minute: 5 * 60 }),
            monthly_cap_bytes: None,
            upload_slots: 4,
            upload_bytes_per_second: None,
        }
    }
}

/// What the device senses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Charge in percent, when there is a battery.
    pub battery_percent: Option<u8>,
    /// Whether it is plugged in.
    pub plugged_in: bool,
    /// Whether the link is metered.
    pub metered: bool,
    /// Minute of the day in local time, 0 to 1,439.
    pub minute: u16,
    /// Bytes of this calendar month so far, up and down.
    pub month_bytes: u64,
}

/// Why not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// Too little charge.
    #[error("the battery has {percent}%, the owner wants {min}% or a plug")]
    Battery {
        /// What it has.
        percent: u8,
        /// What the owner wants.
        min: u8,
    },
    /// A metered link.
    #[error("the link is metered")]
    Metered,
    /// Not at this hour.
    #[error("the owner's hours begin in {wait_minutes} minutes")]
    Hours {
        /// Until they begin.
        wait_minutes: u16,
    },
    /// Too much for this month.
    #[error("{want} bytes would pass the month's cap, of which {left} are left")]
    Cap {
        /// What is wanted, in bytes.
        want: u64,
        /// What is left, in bytes.
        left: u64,
    },
    /// All slots are taken, or there are none.
    #[error("all {slots} upload slots are taken")]
    Slots {
        /// How many there are.
        slots: u16,
    },
}

/// A policy that no device can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// More than a full battery.
    #[error("min_battery_percent is {0}, at most 100")]
    Battery(u8),
    /// No minute of a day.
    #[error("from_minute is {0}, at most 1439")]
    From(u16),
    /// After the end of a day.
    #[error("until_minute is {0}, at most 1440")]
    Until(u16),
}

impl Policy {
    /// Looks for numbers that make no sense.
    ///
    /// # Errors
    /// [`InvalidPolicy`].
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        if self.min_battery_percent > 100 {
            return Err(InvalidPolicy::Battery(self.min_battery_percent));
        }
        for hours in [self.fetch_hours, self.install_hours].into_iter().flatten() {
            if hours.from_minute >= DAY_MINUTES {
                return Err(InvalidPolicy::From(hours.from_minute));
            }
            if hours.until_minute > DAY_MINUTES {
                return Err(InvalidPolicy::Until(hours.until_minute));
            }
        }
        Ok(())
    }

    /// Whether `bytes` more may be fetched now.
    ///
    /// # Errors
    /// [`Hold`]: battery, metered link, hours, cap, in this order.
    pub fn may_fetch(&self, now: &Situation, bytes: u64) -> Result<(), Hold> {
        self.power(now)?;
        self.link(now)?;
        hours(self.fetch_hours, now.minute)?;
        self.cap(now, bytes)
    }

    /// Whether a restart into the new version may happen now. The link does not matter any more.
    ///
    /// # Errors
    /// [`Hold`]: battery, hours.
    pub fn may_install(&self, now: &Situation) -> Result<(), Hold> {
        self.power(now)?;
        hours(self.install_hours, now.minute)
    }

    /// Whether one more may be served, with `bytes` and while `busy` are being served.
    ///
    /// # Errors
    /// [`Hold`]: slots, battery, metered link, cap.
    pub fn may_serve(&self, now: &Situation, busy: u16, bytes: u64) -> Result<(), Hold> {
        if busy >= self.upload_slots {
            return Err(Hold::Slots { slots: self.upload_slots });
        }
        self.power(now)?;
        self.link(now)?;
        self.cap(now, bytes)
    }

    fn power(&self, now: &Situation) -> Result<(), Hold> {
        match now.battery_percent {
            Some(percent) if !now.plugged_in && percent < self.min_battery_percent => {
                Err(Hold::Battery { percent, min: self.min_battery_percent })
            }
            _ => Ok(()),
        }
    }

    fn link(&self, now: &Situation) -> Result<(), Hold> {
        if now.metered && !self.metered { Err(Hold::Metered) } else { Ok(()) }
    }

    /// Bytes that the month's cap leaves after so many; without one there is no end.
    #[must_use]
    pub fn cap_left(&self, month_bytes: u64) -> u64 {
        self.monthly_cap_bytes.map_or(u64::MAX, |cap| cap.saturating_sub(month_bytes))
    }

    fn cap(&self, now: &Situation, want: u64) -> Result<(), Hold> {
        let left = self.cap_left(now.month_bytes);
        if want > left { Err(Hold::Cap { want, left }) } else { Ok(()) }
    }
}

fn hours(hours: Option<Hours>, minute: u16) -> Result<(), Hold> {
    let Some(hours) = hours.filter(|hours| !hours.contains(minute)) else { return Ok(()) };
    let day = u32::from(DAY_MINUTES);
    let wait = (u32::from(hours.from_minute) + day - u32::from(minute) % day) % day;
    Err(Hold::Hours { wait_minutes: u16::try_from(wait).unwrap_or(0) })
}

/// First pause after a failure, in seconds.
pub const BACK_OFF_FIRST_SECONDS: u64 = 60;

/// Longest pause after failures, in seconds: a day, so that a fleet comes back after a long fault.
pub const BACK_OFF_MAX_SECONDS: u64 = 86_400;

/// How many times the package's length one device may fetch for one release before it gives up
/// on it, counted in tenths: what is bad the second time will be bad the third time.
pub const EFFORT_MAX_TENTHS: u64 = 20;

/// What a device has spent on one release. Stored beside the download, so that a restart does not
/// forget it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Failures in a row without a new verified byte.
    pub failures: u32,
    /// All bytes that came over the network for it, good or bad.
    pub fetched_bytes: u64,
    /// When the last failure was.
    pub last_failure: UnixSeconds,
}

/// Whether to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Now, with at most this many bytes over the network.
    Now {
        /// The budget.
        bytes: u64,
    },
    /// Not before this moment.
    At(UnixSeconds),
    /// Not until the channel has another release, or the owner says so.
    Never,
}

impl Default for Effort {
    fn default() -> Self {
        Self { failures: 0, fetched_bytes: 0, last_failure: UnixSeconds(0) }
    }
}

impl Effort {
    /// What to do next for a package of `length` bytes, with `random` from 0 to `u32::MAX` so that a fleet
    /// that failed together does not come back together.
    #[must_use]
    pub fn next(&self, length: u64, random: u32, now: UnixSeconds) -> Attempt {
        let budget = Self::bound(length).saturating_sub(self.fetched_bytes);
        if budget == 0 {
            return Attempt::Never;
        }
        if self.failures == 0 {
            return Attempt::Now { bytes: budget };
        }
        let doubled = BACK_OFF_FIRST_SECONDS << (self.failures - 1).min(20);
        let pause = doubled.min(BACK_OFF_MAX_SECONDS);
        // Between half of the pause and all of it.
        let spread = pause / 2 + (((pause / 2) * u64::from(random)) >> 32);
        let at = self.last_failure.plus(spread);
        // A failure that seems to lie in the future was noted by a clock that was wrong.
        if at <= now || self.last_failure > now { Attempt::Now { bytes: budget } } else { Attempt::At(at) }
    }

    /// Notes what an attempt brought: bytes over the network, and how many of them verified.
    #[must_use]
    pub fn after(self, fetched: u64, verified: u64, failed: bool, now: UnixSeconds) -> Self {
        let failures = match (failed, verified) {
            (false, _) => 0,
            (true, 0) => self.failures.saturating_add(1),
            (true, _) => 1,
        };
        let last_failure = if failed { now } else { self.last_failure };
        Self { failures, fetched_bytes: self.fetched_bytes.saturating_add(fetched), last_failure }
    }

    /// Notes that what is left of the bound does not suffice for what is missing: [`Attempt::Never`] follows.
    #[must_use]
    pub fn spent(self, length: u64) -> Self {
        let fetched_bytes = self.fetched_bytes.max(Self::bound(length));
        Self { fetched_bytes, ..self }
    }

    /// Most bytes for a package of `length` bytes.
    fn bound(length: u64) -> u64 {
        length.saturating_mul(EFFORT_MAX_TENTHS) / 10
    }
}

/// Slowest provider that is kept, in bytes per second, while another one is known (TUF: slow
/// retrieval). Half of what the slowest mobile links give.
pub const SLOW_BYTES_PER_SECOND: u64 = 4_096;

/// How long a provider is watched before it is called slow, in seconds.
pub const SLOW_AFTER_SECONDS: u64 = 20;

/// Whether a provider that sent `bytes` in the last `seconds` is to be replaced. With no other
/// provider a slow one is better than none, but silence is an end in any case.
#[must_use]
pub fn is_slow(bytes: u64, seconds: u64, others: bool) -> bool {
    seconds >= SLOW_AFTER_SECONDS && (bytes == 0 || (others && bytes / seconds < SLOW_BYTES_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_no_battery_and_no_day_are_refused() {
        let hours = |from_minute, until_minute| Policy {
            install_hours: Some(Hours { from_minute, until_minute }),
            ..Policy::default()
        };
        assert_eq!(hours(1_439, 1_440).check(), Ok(()));
        assert_eq!(hours(1_440, 5).check(), Err(InvalidPolicy::From(1_440)));
        assert_eq!(hours(5, 1_441).check(), Err(InvalidPolicy::Until(1_441)));
        let policy = Policy { min_battery_percent: 101, ..Policy::default() };
        assert_eq!(policy.check(), Err(InvalidPolicy::Battery(101)));
    }

    fn fine() -> Situation {
        Situation {
            battery_percent: Some(80),
            plugged_in: false,
            metered: false,
            minute: 180,
            month_bytes: 0,
        }
    }

    #[test]
    fn each_wish_of_the_owner_holds_an_update_back() {
        let policy = Policy { monthly_cap_bytes: Some(100), ..Policy::default() };
        assert_eq!(policy.may_fetch(&fine(), 100), Ok(()));
        assert_eq!(policy.may_fetch(&fine(), 101), Err(Hold::Cap { want: 101, left: 100 }));
        let low = Situation { battery_percent: Some(39), ..fine() };
        assert_eq!(policy.may_fetch(&low, 1), Err(Hold::Battery { percent: 39, min: 40 }));
        assert_eq!(policy.may_install(&low), Err(Hold::Battery { percent: 39, min: 40 }));
        assert_eq!(policy.may_fetch(&Situation { plugged_in: true, ..low }, 1), Ok(()));
        assert_eq!(policy.may_fetch(&Situation { metered: true, ..fine() }, 1), Err(Hold::Metered));
        assert_eq!(policy.may_install(&Situation { metered: true, ..fine() }), Ok(()));
        assert_eq!(policy.may_serve(&fine(), 4, 1), Err(Hold::Slots { slots: 4 }));
        assert_eq!(policy.may_serve(&fine(), 3, 1), Ok(()));
        let noon = Situation { minute: 720, ..fine() };
        assert_eq!(policy.may_install(&noon), Err(Hold::Hours { wait_minutes: 14 * 60 }));
    }

    #[test]
    fn hours_may_span_midnight() {
        let night = Hours { from_minute: 23 * 60, until_minute: 60 };
        assert!(night.contains(0) && night.contains(1_439) && !night.contains(60) && !night.contains(720));
        assert!(Hours { from_minute: 5, until_minute: 5 }.contains(700));
    }

    #[test]
    fn failures_wait_longer_and_longer_and_bad_data_ends_it() {
        let now = UnixSeconds(1_000_000);
        let mut effort = Effort::default();
        assert_eq!(effort.next(100, 0, now), Attempt::Now { bytes: 200 });
        let mut last = 0;
        for _ in 0..12 {
            effort = effort.after(0, 0, true, now);
            let Attempt::At(at) = effort.next(100, u32::MAX, now) else { panic!("no pause") };
            assert!(at.since(now) >= last && at.since(now) <= BACK_OFF_MAX_SECONDS);
            last = at.since(now);
        }
        assert!(last > BACK_OFF_MAX_SECONDS / 2);
        // A whole package, twice, and bad both times.
        let spent = Effort::default().after(100, 0, true, now).after(100, 0, true, now);
        assert_eq!(spent.next(100, 0, now.plus(10 * BACK_OFF_MAX_SECONDS)), Attempt::Never);
        // What is left is less than what is missing.
        let little = Effort::default().after(195, 0, true, now);
        assert!(matches!(little.next(100, 0, now.plus(BACK_OFF_MAX_SECONDS)), Attempt::Now { bytes: 5 }));
        assert_eq!(little.spent(100).next(100, 0, now.plus(BACK_OFF_MAX_SECONDS)), Attempt::Never);
    }

    #[test]
    fn a_slow_provider_is_replaced_when_there_is_another() {
        assert!(is_slow(SLOW_BYTES_PER_SECOND * 20 - 1, 20, true));
        assert!(!is_slow(SLOW_BYTES_PER_SECOND * 20 - 1, 20, false));
        assert!(!is_slow(SLOW_BYTES_PER_SECOND * 20, 20, true));
        assert!(is_slow(0, 20, false));
        assert!(!is_slow(0, 19, true), "it gets its time");
    }

    proptest! {
        /// Whatever happens, what one release costs a device is bounded.
        #[test]
        fn the_network_bytes_of_one_release_are_bounded(
            length in 1_u64..1 << 40,
            attempts in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<bool>(), any::<u32>()), 0..60),
        ) {
            let mut effort = Effort::default();
            let mut now = UnixSeconds(0);
            for (fetched, verified, failed, random) in attempts {
                now = now.plus(2 * BACK_OFF_MAX_SECONDS);
                match effort.next(length, random, now) {
                    Attempt::Now { bytes } => {
                        effort = effort.after(fetched.min(bytes), verified, failed, now);
                    }
                    Attempt::At(at) => prop_assert!(at.since(now) <= BACK_OFF_MAX_SECONDS),
                    Attempt::Never => {}
                }
            }
            prop_assert!(effort.fetched_bytes <= length * EFFORT_MAX_TENTHS / 10);
        }
    }
}
