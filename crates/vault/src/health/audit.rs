//! Which leaves a device is to prove.

use ioex_base::{DAY_SECONDS, UnixSeconds};

use super::{DeviceHealth, Rules};
use crate::proof::leaves;

/// Leaves that are asked for together, so that one connection serves several.
pub const AUDITS_PER_ROUND: u16 = 6;

/// How many times as much a device is asked that failed lately: if it lost more than one shard, that
/// is soon known.
pub const SUSPECT_FACTOR: u16 = 4;

/// A question to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Audit {
    /// Index of the shard among those that it holds.
    pub shard: usize,
    /// Number of the leaf in the shard.
    pub leaf: u32,
}

/// How many leaves the device is to prove now, when it was last asked at `last` (or never).
///
/// Nothing until a round of [`AUDITS_PER_ROUND`] is due, then what has come together since, at most a
/// day's: so a device that was away is asked when it is back.
#[must_use]
pub fn audits_due(
    rules: &Rules,
    device: &DeviceHealth,
    last: Option<UnixSeconds>,
    now: UnixSeconds,
) -> usize {
    let factor = if device.is_suspect(rules, now) { SUSPECT_FACTOR } else { 1 };
    let per_day = u64::from(rules.audits_per_device_day) * u64::from(factor);
    let Some(last) = last else { return usize::from(AUDITS_PER_ROUND) };
    let due = now.since(last).saturating_mul(per_day) / DAY_SECONDS;
    if due < u64::from(AUDITS_PER_ROUND) {
        return 0;
    }
    usize::try_from(due.min(per_day)).unwrap_or(usize::MAX)
}

/// Picks `count` leaves among the shards that a device holds, given their lengths in bytes.
///
/// Every shard is equally likely, and no shard comes twice before all came once: a device that
/// dropped a part of its shards is noticed the sooner. Every leaf of a shard is equally likely.
/// `random` gives uniform numbers that the device cannot foresee.
#[must_use]
pub fn audits(shard_bytes: &[u64], count: usize, mut random: impl FnMut() -> u64) -> Vec<Audit> {
    let mut order: Vec<usize> = (0..shard_bytes.len()).collect();
    let mut out = Vec::with_capacity(count);
    while out.len() < count && !order.is_empty() {
        let round = count.saturating_sub(out.len()).min(order.len());
        for at in 0..round {
            // The first `round` places of a shuffle.
            let other = at + below(order.len() - at, &mut random);
            order.swap(at, other);
            let shard = order[at];
            let leaf = below(leaves(shard_bytes[shard]) as usize, &mut random);
            out.push(Audit { shard, leaf: u32::try_from(leaf).unwrap_or(0) });
        }
    }
    out
}

/// A uniform number below `bound`, which is not zero. The bias of the multiplication is 2^-44 for
/// any number of shards or leaves that occurs.
fn below(bound: usize, random: &mut impl FnMut() -> u64) -> usize {
    usize::try_from((u128::from(random()) * bound as u128) >> 64).unwrap_or(0)
}

/// Probability of noticing within a day that a device dropped the fraction `dropped` of its shards (or
/// of the leaves of each), when it proves `audits` leaves a day: 1 - (1 - dropped)^audits.
///
/// Each question hits what was dropped with probability `dropped`. As shards do not repeat within a
/// round, the true probability is a little higher.
#[must_use]
pub fn noticed_per_day(dropped: f64, audits: u16) -> f64 {
    1.0 - (1.0 - dropped.clamp(0.0, 1.0)).powi(i32::from(audits))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ioex_base::Dice;
    use proptest::prelude::*;

    use super::*;
    use crate::health::{AUDITS_PER_DEVICE_DAY, Observation};

    const START: UnixSeconds = UnixSeconds(1_800_000_000);
    const ROUND_SECONDS: u64 = DAY_SECONDS * AUDITS_PER_ROUND as u64 / AUDITS_PER_DEVICE_DAY as u64;

    /// The sequence is the same on every run.
    fn numbers(seed: u64) -> impl FnMut() -> u64 {
        let mut dice = Dice::new(seed);
        move || dice.roll()
    }

    #[test]
    fn rounds_come_when_they_are_due() {
        let rules = Rules::default();
        let device = DeviceHealth::new();
        let due = |last, seconds| audits_due(&rules, &device, last, START.plus(seconds));
        assert_eq!(due(None, 0), 6);
        assert_eq!(due(Some(START), ROUND_SECONDS - 1), 0);
        assert_eq!(due(Some(START), ROUND_SECONDS), 6);
        assert_eq!(due(Some(START), 2 * ROUND_SECONDS), 12);
        assert_eq!(due(Some(START), 30 * DAY_SECONDS), 24, "a day's worth after a month away");
        assert_eq!(due(Some(START.plus(100)), 0), 0, "a clock that went back");
    }

    #[test]
    fn who_failed_is_asked_more() {
        let rules = Rules::default();
        let mut device = DeviceHealth::new();
        device.observe(&rules, Observation::Fault, START);
        let due = |seconds| audits_due(&rules, &device, Some(START), START.plus(seconds));
        assert_eq!((due(ROUND_SECONDS), due(ROUND_SECONDS / 4), due(DAY_SECONDS)), (24, 6, 96));
    }

    /// The formula against a thousand simulated days.
    #[test]
    fn a_device_that_dropped_shards_is_noticed_as_often_as_the_formula_says() {
        let shards = vec![1 << 20; 200];
        let mut random = numbers(7);
        for dropped in [0.01, 0.05, 0.1, 0.3] {
            let gone = (shards.len() as f64 * dropped) as usize;
            let (days, rounds) = (4_000, AUDITS_PER_DEVICE_DAY / AUDITS_PER_ROUND);
            let mut noticed = 0;
            for _ in 0..days {
                let mut hit = false;
                for _ in 0..rounds {
                    let asked = audits(&shards, usize::from(AUDITS_PER_ROUND), &mut random);
                    hit |= asked.iter().any(|audit| audit.shard < gone);
                }
                noticed += u32::from(hit);
            }
            let measured = f64::from(noticed) / f64::from(days);
            let formula = noticed_per_day(dropped, AUDITS_PER_DEVICE_DAY);
            // Four standard deviations of the measurement, and what the formula is too low by.
            let slack = 4.0 * (formula * (1.0 - formula) / f64::from(days)).sqrt() + 0.01;
            assert!((measured - formula).abs() < slack, "{dropped}: {measured} {formula}");
        }
    }

    /// The same for one that kept every shard but dropped a part of each.
    #[test]
    fn a_device_that_dropped_leaves_is_noticed_as_well() {
        let shards = vec![1 << 20; 10];
        let mut random = numbers(8);
        let days = 4_000;
        let noticed = (0..days).filter(|_| {
            audits(&shards, usize::from(AUDITS_PER_DEVICE_DAY), &mut random)
                .iter()
                .any(|audit| audit.leaf < 51)
        });
        let measured = noticed.count() as f64 / f64::from(days);
        let formula = noticed_per_day(51.0 / 1_024.0, AUDITS_PER_DEVICE_DAY);
        assert!((measured - formula).abs() < 0.03, "{measured} {formula}");
    }

    #[test]
    fn the_formula_at_its_ends() {
        assert_eq!(noticed_per_day(0.0, 24), 0.0);
        assert_eq!(noticed_per_day(1.0, 24), 1.0);
        assert_eq!(noticed_per_day(1.0, 0), 0.0);
        assert!((noticed_per_day(0.01, 24) - 0.214).abs() < 0.001);
    }

    #[test]
    fn every_shard_and_every_leaf_is_equally_likely() {
        let mut random = numbers(9);
        let mut counts = [[0u32; 3]; 4];
        for _ in 0..12_000 {
            for audit in audits(&[2_049; 4], 1, &mut random) {
                counts[audit.shard][audit.leaf as usize] += 1;
            }
        }
        // 1,000 each, with a standard deviation of 30.
        assert!(counts.iter().flatten().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn questions_are_about_what_is_held(
            shard_bytes in prop::collection::vec(0u64..5_000_000, 0..20), count in 0usize..60, seed: u64,
        ) {
            let asked = audits(&shard_bytes, count, numbers(seed));
            prop_assert_eq!(asked.len(), if shard_bytes.is_empty() { 0 } else { count });
            prop_assert!(asked.iter().all(|audit| audit.leaf < leaves(shard_bytes[audit.shard])));
            for round in asked.chunks(shard_bytes.len().max(1)) {
                let shards: HashSet<_> = round.iter().map(|audit| audit.shard).collect();
                prop_assert_eq!(shards.len(), round.len(), "no shard twice before all came once");
            }
        }
    }
}
