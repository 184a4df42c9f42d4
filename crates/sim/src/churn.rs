//! How devices come and go. Sources and assumptions are discussed in `docs/sim-vault.md`.

use crate::rng::Rng;

/// Minutes in an hour and in a day: the clock counts minutes.
pub const HOUR: u32 = 60;
/// See [`HOUR`].
pub const DAY: u32 = 24 * HOUR;

/// The simulation begins at noon, when also those devices that are off at night are given shards.
const BEGINS: u32 = 12 * HOUR;

/// The minute of the day at minute `now` of the simulation.
pub(crate) fn minute_of_day(now: u32) -> u32 {
    (now % DAY + BEGINS) % DAY
}

/// How a device is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Habit {
    /// Meant to be on always. Its unavailability is 10^-u with u uniform between 1 and 3 (Douceur 2003:
    /// among hosts that are nominally kept on, the logarithm of unavailability is about uniform); an
    /// interruption takes three hours on average.
    AlwaysOn,
    /// On during the day and off at night, all in one time zone, which is the worst case (Douceur's
    /// second class, "cycled on and off periodically").
    Daytime,
    /// On for three hours, off for seven, on average: the median availability of 0.3 that Bhagwan,
    /// Savage and Voelker (2003) saw in a file-sharing network.
    NowAndThen,
}

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Population {
    /// Its name in results.
    pub name: &'static str,
    /// Share of each habit; together one.
    pub habits: [(Habit, f64); 3],
    /// Long absences per device and year (holidays, moves, broken lines), each of a day and a time
    /// with the mean [`Self::absence_days`].
    pub absences_per_year: f64,
    /// See [`Self::absences_per_year`].
    pub absence_days: f64,
    /// Mean days until a device leaves for good, exponentially distributed.
    pub lifetime_days: f64,
    /// Disks lost per device and year; the device stays.
    pub disk_losses_per_year: f64,
    /// Mean days until somebody takes the place of a device that left.
    pub vacant_days: f64,
    /// Share of devices that begin to drop shards at some time.
    pub cheaters: f64,
}

/// Annual failure rate of Backblaze's drives in 2024.
const DISK_LOSSES_PER_YEAR: f64 = 0.0157;

/// Devices that stand in homes and are meant to be on, with some that are not.
pub const HOMES: Population = Population {
    name: "homes",
    habits: [(Habit::AlwaysOn, 0.7), (Habit::Daytime, 0.2), (Habit::NowAndThen, 0.1)],
    absences_per_year: 2.0,
    absence_days: 5.0,
    lifetime_days: 365.0,
    disk_losses_per_year: DISK_LOSSES_PER_YEAR,
    vacant_days: 20.0,
    cheaters: 0.02,
};

/// People who try the program and leave, on computers that are often off.
pub const VOLUNTEERS: Population = Population {
    name: "volunteers",
    habits: [(Habit::AlwaysOn, 0.3), (Habit::Daytime, 0.4), (Habit::NowAndThen, 0.3)],
    absences_per_year: 4.0,
    absence_days: 5.0,
    lifetime_days: 91.0,
    disk_losses_per_year: DISK_LOSSES_PER_YEAR,
    vacant_days: 5.0,
    cheaters: 0.05,
};

/// What a cheater drops of its shards: a little, some, all.
pub const DROPPED: [f64; 3] = [0.05, 0.2, 1.0];

/// When a device switches on and off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rhythm {
    /// Mean minutes on and off, exponentially distributed.
    Random { on: f64, off: f64 },
    /// On from eight to eleven in the evening, give or take.
    Daily,
}

impl Rhythm {
    pub(crate) fn of(population: &Population, rng: &mut Rng) -> Self {
        let mut left = rng.unit();
        let habit = population.habits.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        match habit.map_or(Habit::AlwaysOn, |(habit, _)| *habit) {
            Habit::AlwaysOn => {
                let unavailable = 10f64.powf(-rng.between(1.0, 3.0));
                let off = 3.0 * f64::from(HOUR);
                Self::Random { on: off * (1.0 - unavailable) / unavailable, off }
            }
            Habit::NowAndThen => Self::Random { on: 3.0 * f64::from(HOUR), off: 7.0 * f64::from(HOUR) },
            Habit::Daytime => Self::Daily,
        }
    }

    /// Whether it is on when it begins at `now`.
    pub(crate) fn begins_on(self, now: u32, rng: &mut Rng) -> bool {
        match self {
            Self::Random { on, off } => rng.happens(on / (on + off)),
            Self::Daily => (8 * HOUR..23 * HOUR).contains(&minute_of_day(now)),
        }
    }

    /// The minute after `now` at which it switches, when it is `on`.
    pub(crate) fn next(self, on: bool, now: u32, rng: &mut Rng) -> u32 {
        let minutes = match self {
            Self::Random { on: mean, .. } if on => rng.exponential(mean),
            Self::Random { off, .. } => rng.exponential(off),
            Self::Daily => {
                let (hour, slack) = if on { (23.0, 1.5) } else { (8.0, 1.0) };
                let at = f64::from(HOUR) * (hour + rng.between(-slack, slack));
                let minute = f64::from(minute_of_day(now));
                // Never twice on one day: what is past waits for the next.
                let wait = at - minute;
                if wait > 0.0 { wait } else { wait + f64::from(DAY) }
            }
        };
        now.saturating_add((minutes as u32).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn availability(population: &Population) -> f64 {
        let mut rng = Rng::new(3);
        let (mut up, days) = (0u64, 60);
        let count = 2_000;
        for _ in 0..count {
            let rhythm = Rhythm::of(population, &mut rng);
            let (mut now, mut on) = (0, rhythm.begins_on(0, &mut rng));
            while now < days * DAY {
                let next = rhythm.next(on, now, &mut rng);
                up += if on { u64::from(next.min(days * DAY) - now) } else { 0 };
                (now, on) = (next, !on);
            }
        }
        up as f64 / (f64::from(count) * f64::from(days * DAY))
    }

    #[test]
    fn shares_add_up_to_one() {
        for population in [HOMES, VOLUNTEERS] {
            assert!((population.habits.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    /// 0.7 x 0.98 + 0.2 x 15/24 + 0.1 x 0.3, and 0.3 x 0.98 + 0.4 x 15/24 + 0.3 x 0.3.
    #[test]
    fn devices_are_on_as_much_as_the_document_says() {
        assert!((availability(&HOMES) - 0.84).abs() < 0.01, "{}", availability(&HOMES));
        assert!((availability(&VOLUNTEERS) - 0.635).abs() < 0.015, "{}", availability(&VOLUNTEERS));
    }
}
