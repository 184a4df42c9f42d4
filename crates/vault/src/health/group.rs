//! Whether a group is well.

use super::DeviceState;
use crate::redundancy::Redundancy;

/// What one record "this device holds this shard" is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does not count.
    Lost,
    /// It is there, but cannot be read now.
    Away,
    /// It can be read now.
    Online,
}

/// What a shard at a device in this state is worth. `faulty` when the device failed for this very
/// shard: wrong bytes, a wrong proof, or it said that it does not have it. Such a copy does not
/// count, whatever else the device does right, until it proves that very shard.
#[must_use]
pub fn standing(device: DeviceState, faulty: bool) -> Standing {
    match device {
        _ if faulty => Standing::Lost,
        DeviceState::Online => Standing::Online,
        DeviceState::Away => Standing::Away,
        DeviceState::Gone | DeviceState::Failed => Standing::Lost,
    }
}

/// What to do about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Healthy,
    /// Make these shards anew and bring each to a further device: indexes into data, then parity. For
    /// whole copies, zero as many times as copies are missing.
    ///
    /// Needs `k` shards that are online; with fewer, wait for the next look.
    Repair {
        /// The indexes, in the order in which they matter: data before parity.
        missing: Vec<usize>,
    },
    /// Fewer than `k` live: it cannot be read. Not for ever, perhaps: gone devices that come back count
    /// again, so a lost group is still watched until its leases end.
    Lost,
}

/// How a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment {
    /// Shards (or whole copies) that can be read now.
    pub online: usize,
    /// Shards that live but cannot be read now.
    pub away: usize,
    /// Shards of the `n` that nobody holds any more, or never did.
    pub lost: usize,
    /// What to do.
    pub verdict: Verdict,
}

impl Assessment {
    /// Whether the group can be read right now.
    #[must_use]
    pub fn is_readable(&self, redundancy: Redundancy) -> bool {
        self.online >= usize::from(redundancy.k())
    }
}

/// Looks at a group: `held` are the records of who holds what, as shard index and worth. Several
/// records of one index are allowed (a device came back after its shard was made anew); unknown
/// indexes are ignored. `redundancy` are the group's own numbers, for a short group those of
/// [`Redundancy::short`].
///
/// With fewer than `m` living shards the group is repaired, up to `o`. What is away counts as living,
/// or every evening would end in repairs; it counts no more once its device is gone.
#[must_use]
pub fn assess(redundancy: Redundancy, held: impl IntoIterator<Item = (usize, Standing)>) -> Assessment {
    if redundancy.is_whole_copies() {
        return assess_copies(redundancy, held);
    }
    let mut best = vec![Standing::Lost; usize::from(redundancy.n())];
    for (index, standing) in held {
        if let Some(known) = best.get_mut(index) {
            *known = (*known).max(standing);
        }
    }
    let count = |what| best.iter().filter(|standing| **standing == what).count();
    let (online, away) = (count(Standing::Online), count(Standing::Away));
    let verdict = verdict(redundancy, online + away, |wanted| {
        let lost = best.iter().enumerate().filter(|(_, standing)| **standing == Standing::Lost);
        lost.map(|(index, _)| index).take(wanted).collect()
    });
    Assessment { online, away, lost: best.len() - online - away, verdict }
}

fn assess_copies(redundancy: Redundancy, held: impl IntoIterator<Item = (usize, Standing)>) -> Assessment {
    let (mut online, mut away) = (0, 0);
    for (_, standing) in held.into_iter().filter(|(index, _)| *index == 0) {
        match standing {
            Standing::Online => online += 1,
            Standing::Away => away += 1,
            Standing::Lost => {}
        }
    }
    let verdict = verdict(redundancy, online + away, |wanted| vec![0; wanted]);
    Assessment { online, away, lost: usize::from(redundancy.n()).saturating_sub(online + away), verdict }
}

fn verdict(redundancy: Redundancy, live: usize, missing: impl FnOnce(usize) -> Vec<usize>) -> Verdict {
    if live < usize::from(redundancy.k()) {
        Verdict::Lost
    } else if live < usize::from(redundancy.m()) {
        Verdict::Repair { missing: missing(usize::from(redundancy.o()) - live) }
    } else {
        Verdict::Healthy
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rs(k: u8, m: u8, o: u8, n: u8) -> Redundancy {
        Redundancy::new(k, m, o, n).unwrap()
    }

    /// The first `online` indexes online, the next `away` away, the rest lost.
    fn held(online: usize, away: usize) -> Vec<(usize, Standing)> {
        let standing = |index| if index < online { Standing::Online } else { Standing::Away };
        (0..online + away).map(|index| (index, standing(index))).collect()
    }

    #[test]
    fn standing_follows_the_device_unless_the_shard_itself_is_bad() {
        for (state, worth) in [
            (DeviceState::Online, Standing::Online),
            (DeviceState::Away, Standing::Away),
            (DeviceState::Gone, Standing::Lost),
            (DeviceState::Failed, Standing::Lost),
        ] {
            assert_eq!(standing(state, false), worth);
            assert_eq!(standing(state, true), Standing::Lost);
        }
    }

    #[test]
    fn a_group_is_repaired_below_m_up_to_o() {
        let code = rs(4, 6, 10, 12);
        assert_eq!(assess(code, held(6, 0)).verdict, Verdict::Healthy);
        assert_eq!(assess(code, held(2, 4)).verdict, Verdict::Healthy, "away is not lost");
        let got = assess(code, held(3, 2));
        assert_eq!((got.online, got.away, got.lost), (3, 2, 7));
        assert_eq!(got.verdict, Verdict::Repair { missing: vec![5, 6, 7, 8, 9] });
        assert!(!got.is_readable(code), "it lives, but must wait for one more to be online");
        assert!(assess(code, held(4, 0)).is_readable(code));
        assert_eq!(assess(code, held(4, 0)).verdict, Verdict::Repair { missing: vec![4, 5, 6, 7, 8, 9] });
        assert_eq!(assess(code, held(2, 1)).verdict, Verdict::Lost);
        assert_eq!(assess(code, []).verdict, Verdict::Lost);
    }

    #[test]
    fn lost_data_is_made_before_parity() {
        let lost = [1, 8, 9, 10, 11, 6, 7];
        let held = (0..12).filter(|index| !lost.contains(index)).map(|index| (index, Standing::Online));
        let verdict = assess(rs(4, 6, 10, 12), held).verdict;
        assert_eq!(verdict, Verdict::Repair { missing: vec![1, 6, 7, 8, 9] });
    }

    #[test]
    fn whole_copies_follow_the_same_rule() {
        let copies = Redundancy::replicas(3).unwrap();
        let worth = |standings: &[Standing]| assess(copies, standings.iter().map(|s| (0, *s)));
        use Standing::{Away, Lost, Online};
        assert_eq!(worth(&[Online, Away, Away]).verdict, Verdict::Healthy);
        assert_eq!(worth(&[Online, Lost, Away]).verdict, Verdict::Repair { missing: vec![0] });
        assert_eq!(worth(&[Away]).verdict, Verdict::Repair { missing: vec![0, 0] });
        assert_eq!(worth(&[Lost, Lost, Lost]).verdict, Verdict::Lost);
        let more = worth(&[Online, Online, Online, Online]);
        assert_eq!((more.verdict, more.lost), (Verdict::Healthy, 0), "one came back");
        let lazy = rs(1, 2, 3, 3);
        assert_eq!(assess(lazy, held(1, 0)).verdict, Verdict::Repair { missing: vec![0, 0] });
        assert_eq!(assess(lazy, [(0, Online), (0, Away)]).verdict, Verdict::Healthy);
    }

    #[test]
    fn of_two_records_of_one_shard_the_better_counts() {
        let code = rs(2, 2, 3, 3);
        let twice = [(0, Standing::Lost), (0, Standing::Online), (1, Standing::Away), (1, Standing::Lost)];
        let got = assess(code, twice);
        assert_eq!((got.online, got.away, got.lost), (1, 1, 1));
        assert_eq!(assess(code, [(0, Standing::Online), (0, Standing::Online)]).verdict, Verdict::Lost);
        assert_eq!(
            assess(code, [(7, Standing::Online), (usize::MAX, Standing::Online)]).verdict,
            Verdict::Lost
        );
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        prop::sample::select(vec![Standing::Lost, Standing::Away, Standing::Online])
    }

    proptest! {
        #[test]
        fn repair_brings_back_exactly_o(
            numbers in prop::array::uniform4(1u8..20),
            held in prop::collection::vec((0usize..24, any_standing()), 0..40),
        ) {
            let mut numbers = numbers;
            numbers.sort_unstable();
            let code = rs(numbers[0], numbers[1], numbers[2], numbers[3]);
            let got = assess(code, held.iter().copied());
            let live = got.online + got.away;
            let (k, m, o) = (usize::from(code.k()), usize::from(code.m()), usize::from(code.o()));
            match got.verdict {
                Verdict::Healthy => prop_assert!(live >= m),
                Verdict::Lost => prop_assert!(live < k),
                Verdict::Repair { missing } => {
                    prop_assert!(k <= live && live < m);
                    let repaired = missing.into_iter().map(|index| (index, Standing::Online));
                    let after = assess(code, held.iter().copied().chain(repaired));
                    prop_assert_eq!(after.online + after.away, o);
                    prop_assert_eq!(after.verdict, Verdict::Healthy);
                }
            }
        }
    }
}
