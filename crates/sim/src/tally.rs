//! What is counted.

use serde::Serialize;

/// How long it took until cheaters were noticed, for one fraction of dropped shards.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Noticed {
    /// Fraction of shards that they dropped.
    pub dropped: f64,
    /// Cheaters that dropped something.
    pub cheaters: usize,
    /// Days until the first wrong answer: median, and what 95 of 100 do not exceed. Absent when so
    /// many were never noticed.
    pub first_days: [Option<f64>; 2],
    /// The same until the device was no longer trusted.
    pub distrusted_days: [Option<f64>; 2],
}

/// What a scenario came to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub name: String,
    /// Which table it belongs to.
    pub set: &'static str,
    /// Name of the population.
    pub population: &'static str,
    /// The redundancy that was chosen, as text.
    pub redundancy: String,
    /// Devices, together over all networks.
    pub devices: usize,
    /// Separate networks.
    pub networks: usize,
    /// Groups, together over all networks.
    pub groups: usize,
    /// Days that were simulated.
    pub days: u32,
    /// After how many days a device counts as gone.
    pub gone_after_days: f64,
    /// Groups whose data was lost for good.
    pub lost: usize,
    /// Networks in which any group was lost.
    pub networks_with_loss: usize,
    /// Groups lost until the end of each day.
    pub lost_by_day: Vec<usize>,
    /// Share of looks at a group at which enough shards were online.
    pub available: f64,
    /// The same at the worst hour of the day.
    pub available_worst_hour: f64,
    /// Stored bytes per byte of data, on average over the year.
    pub stored_per_byte: f64,
    /// Repairs that were done.
    pub repairs: u64,
    /// Bytes that repair moved per stored byte and year.
    pub repair_per_stored_byte_year: f64,
    /// The same as bytes per device and day, when a device holds 10 GiB on average.
    pub repair_bytes_per_device_day: f64,
    /// Bytes that audits moved per device and day.
    pub audit_bytes_per_device_day: f64,
    /// Cheaters, by what they dropped.
    pub noticed: Vec<Noticed>,
    /// Seconds that the simulation took.
    pub seconds: f64,
}

/// Counts of one network, added up over networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) lost: usize,
    pub(crate) networks_with_loss: usize,
    pub(crate) lost_by_day: Vec<usize>,
    pub(crate) looks: [u64; 24],
    pub(crate) readable: [u64; 24],
    /// Living shards at those looks, and what they would be at one per byte of data.
    pub(crate) stored: u64,
    pub(crate) needed: u64,
    pub(crate) repairs: u64,
    /// Shards that repair read and wrote.
    pub(crate) moved: u64,
    /// For each of [`crate::churn::DROPPED`]: days to first fault and to distrust, infinite if never.
    pub(crate) noticed: [Vec<(f64, f64)>; 3],
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.networks_with_loss += usize::from(other.lost > 0);
        self.lost_by_day.resize(self.lost_by_day.len().max(other.lost_by_day.len()), 0);
        self.lost_by_day.iter_mut().zip(&other.lost_by_day).for_each(|(sum, lost)| *sum += lost);
        for hour in 0..24 {
            self.looks[hour] += other.looks[hour];
            self.readable[hour] += other.readable[hour];
        }
        self.stored += other.stored;
        self.needed += other.needed;
        self.repairs += other.repairs;
        self.moved += other.moved;
        self.noticed.iter_mut().zip(other.noticed).for_each(|(sum, more)| sum.extend(more));
    }

    pub(crate) fn available(&self) -> f64 {
        ratio(self.readable.iter().sum(), self.looks.iter().sum())
    }

    pub(crate) fn available_worst_hour(&self) -> f64 {
        let hours = self.readable.iter().zip(&self.looks).filter(|(_, looks)| **looks > 0);
        hours.map(|(readable, looks)| ratio(*readable, *looks)).fold(1.0, f64::min)
    }

    pub(crate) fn noticed(&self) -> Vec<Noticed> {
        let one = |(dropped, days): (&f64, &Vec<(f64, f64)>)| Noticed {
            dropped: *dropped,
            cheaters: days.len(),
            first_days: [0.5, 0.95].map(|rank| quantile(days.iter().map(|(first, _)| *first), rank)),
            distrusted_days: [0.5, 0.95].map(|rank| quantile(days.iter().map(|(_, failed)| *failed), rank)),
        };
        crate::churn::DROPPED.iter().zip(&self.noticed).map(one).collect()
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { f64::NAN } else { part as f64 / whole as f64 }
}

/// The value that this share of all does not exceed (nearest rank), if it is finite.
fn quantile(values: impl Iterator<Item = f64>, rank: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * rank).ceil() as usize).max(1) - 1;
    values.get(at).copied().filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_leave_out_what_never_happened() {
        let values = [3.0, 1.0, f64::INFINITY, 2.0];
        assert_eq!(quantile(values.into_iter(), 0.5), Some(2.0));
        assert_eq!(quantile(values.into_iter(), 0.95), None);
        assert_eq!(quantile([].into_iter(), 0.5), None);
    }
}
