//! The local table of bootstraps (requirement N3).
//!
//! A device starts from a seed list, learns more bootstraps from the ones it meets and from the
//! directory, remembers all of them with their measured latency, and rejoins from this table when
//! the seeds are gone. Which one is home follows from measurement, not from an assignment.

use std::collections::BTreeMap;

use ioex_base::{Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::names::BootstrapAddr;

/// Most bootstraps a device remembers.
pub const TABLE_MAX: usize = 128;
/// How many a device keeps in use at a time: each costs keep-alive traffic, and three survive the
/// loss of two.
pub const ACTIVE_MAX: usize = 3;
/// How many are measured at once by a node that has not joined.
const MEASURED_ALONE_MAX: usize = 8;
/// After so many failures in a row a bootstrap is used only when no better one is left.
const FAILURES_BAD: u32 = 3;
/// A bootstrap is worth a change of home when its round trip is shorter than this part of the
/// home's: iroh changes at two thirds, too.
const OUTRUN_RATIO: f64 = 2.0 / 3.0;
/// And by so many milliseconds at least: below lies the noise of a single measurement.
const OUTRUN_MS: f64 = 10.0;
/// A bootstrap that was not heard of for so long is forgotten when the table is full.
const FORGET_SECONDS: u64 = 30 * ioex_base::DAY_SECONDS;

/// How a bootstrap became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// From the configuration.
    Seed,
    /// Announced by another bootstrap or in the directory.
    Announced,
    /// This node itself.
    Own,
}

/// A bootstrap with what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Who and where.
    pub addr: BootstrapAddr,
    /// How it became known.
    pub source: Source,
    /// Last round trip, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Failures since the last success.
    pub failures: u32,
    /// When it last answered.
    pub last_ok: Option<UnixSeconds>,
}

/// The table. Pure: measurements and time come in as arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    entries: BTreeMap<Uid, Entry>,
}

impl Table {
    /// Takes a bootstrap in. A seed's address wins over an announced one, and an announced one
    /// replaces an older announcement. Returns whether anything changed.
    pub fn learn(&mut self, addr: BootstrapAddr, source: Source, now: UnixSeconds) -> bool {
        if let Some(known) = self.entries.get_mut(&addr.uid) {
            let keep = known.addr == addr || (known.source == Source::Seed && source == Source::Announced);
            if keep {
                if source == Source::Seed {
                    known.source = Source::Seed;
                }
                return false;
            }
            *known = Entry { addr, source, latency_ms: None, failures: 0, last_ok: None };
            return true;
        }
        if self.entries.len() >= TABLE_MAX && !self.make_room(now) {
            return false;
        }
        let entry = Entry { addr, source, latency_ms: None, failures: 0, last_ok: None };
        self.entries.insert(addr.uid, entry);
        true
    }

    fn make_room(&mut self, now: UnixSeconds) -> bool {
        let stale = self.entries.values().find(|e| {
            let old = e.last_ok.is_none_or(|at| now.since(at) > FORGET_SECONDS);
            e.source == Source::Announced && old && e.failures >= FAILURES_BAD
        });
        match stale.map(|e| e.addr.uid) {
            Some(uid) => self.entries.remove(&uid).is_some(),
            None => false,
        }
    }

    /// Notes a successful round trip.
    pub fn measured(&mut self, uid: &Uid, latency_ms: f64, now: UnixSeconds) {
        if let Some(e) = self.entries.get_mut(uid) {
            e.latency_ms = Some(latency_ms);
            e.failures = 0;
            e.last_ok = Some(now);
        }
    }

    /// Notes a failure.
    pub fn failed(&mut self, uid: &Uid) {
        if let Some(e) = self.entries.get_mut(uid) {
            e.failures = e.failures.saturating_add(1);
        }
    }

    /// Notes that one is gone for now: it is used only when no better one is left, until it
    /// answers again.
    pub fn gone(&mut self, uid: &Uid) {
        if let Some(e) = self.entries.get_mut(uid) {
            e.failures = e.failures.max(FAILURES_BAD);
        }
    }

    /// Forgets seeds that the configuration no longer names as such (they stay as announced).
    pub fn demote_seeds(&mut self) {
        for e in self.entries.values_mut() {
            if e.source == Source::Seed {
                e.source = Source::Announced;
            }
        }
    }

    /// Looks one up.
    #[must_use]
    pub fn get(&self, uid: &Uid) -> Option<&Entry> {
        self.entries.get(uid)
    }

    /// All, best first: working before failing, measured before unmeasured, near before far.
    #[must_use]
    pub fn ranked(&self) -> Vec<&Entry> {
        let mut all: Vec<&Entry> = self.entries.values().collect();
        all.sort_by(|a, b| {
            let key = |e: &Entry| (e.failures >= FAILURES_BAD, e.failures, e.latency_ms.is_none());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.latency_ms.unwrap_or(f64::MAX).total_cmp(&b.latency_ms.unwrap_or(f64::MAX)))
        });
        all
    }

    /// The ones to use now, at most [`ACTIVE_MAX`]: the best ones, with one place kept for a
    /// bootstrap that was never measured, so that a nearer newcomer gets its chance.
    #[must_use]
    pub fn active(&self) -> Vec<BootstrapAddr> {
        let ranked = self.ranked();
        let mut out: Vec<BootstrapAddr> = ranked.iter().take(ACTIVE_MAX).map(|e| e.addr).collect();
        let newcomer = ranked.iter().find(|e| e.latency_ms.is_none() && e.failures == 0);
        if let (Some(newcomer), ACTIVE_MAX) = (newcomer, out.len())
            && !out.contains(&newcomer.addr)
        {
            out[ACTIVE_MAX - 1] = newcomer.addr;
        }
        out
    }

    /// The ones to measure next: those in use (more of them while the node has not joined), one
    /// that was never measured, and the one whose measurement is oldest.
    #[must_use]
    pub fn to_measure(&self, joined: bool) -> Vec<BootstrapAddr> {
        let ranked = self.ranked();
        let used = if joined { ACTIVE_MAX } else { MEASURED_ALONE_MAX };
        let newcomer = ranked.iter().find(|e| e.latency_ms.is_none() && e.failures == 0);
        let oldest = ranked.iter().min_by_key(|e| e.last_ok);
        let mut out: Vec<BootstrapAddr> = self.active();
        for e in ranked.iter().take(used).chain(newcomer).chain(oldest) {
            if !out.contains(&e.addr) {
                out.push(e.addr);
            }
        }
        out
    }

    /// Whether another working one answered so much faster than `home` that a change is worth
    /// measuring for.
    #[must_use]
    pub fn is_outrun(&self, home: &Uid) -> bool {
        let Some(slow) = self.get(home).and_then(|e| e.latency_ms) else { return false };
        self.active()
            .iter()
            .filter_map(|b| self.get(&b.uid))
            .filter(|e| e.failures == 0)
            .filter_map(|e| e.latency_ms)
            .any(|fast| fast < slow * OUTRUN_RATIO && slow - fast > OUTRUN_MS)
    }

    /// Of those to measure, the ones that a phone at rest asks: each question costs a handshake of
    /// 10 kB, so those in use have their turns, and one that was never measured goes before them.
    #[must_use]
    pub fn to_measure_sparingly(&self, turn: usize) -> Option<BootstrapAddr> {
        let mut active = self.active();
        active.sort_unstable();
        let new =
            |b: &&BootstrapAddr| self.get(&b.uid).is_some_and(|e| e.latency_ms.is_none() && e.failures == 0);
        active.iter().find(new).or_else(|| active.get(turn % active.len().max(1))).copied()
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::NodeKey;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn addr(n: u8) -> BootstrapAddr {
        BootstrapAddr { uid: NodeKey::from_seed([n; 32]).uid(), addr: ([10, 0, 0, n], 4000).into() }
    }

    #[test]
    fn the_nearest_working_ones_are_active() {
        let mut table = Table::default();
        for (n, latency) in [(1, 80.0), (2, 10.0), (3, 40.0), (4, 20.0)] {
            table.learn(addr(n), Source::Announced, NOW);
            table.measured(&addr(n).uid, latency, NOW);
        }
        assert_eq!(table.active(), [addr(2), addr(4), addr(3)]);
        for _ in 0..FAILURES_BAD {
            table.failed(&addr(2).uid);
        }
        assert_eq!(table.active(), [addr(4), addr(3), addr(1)]);
    }

    #[test]
    fn a_newcomer_gets_measured() {
        let mut table = Table::default();
        for n in 1..=3 {
            table.learn(addr(n), Source::Seed, NOW);
            table.measured(&addr(n).uid, f64::from(n), NOW);
        }
        table.learn(addr(9), Source::Announced, NOW);
        assert!(table.active().contains(&addr(9)));
        table.failed(&addr(9).uid);
        assert!(!table.active().contains(&addr(9)));
    }

    #[test]
    fn all_are_measured_in_turn() {
        let mut table = Table::default();
        for n in 1..=9 {
            table.learn(addr(n), Source::Announced, NOW);
            table.measured(&addr(n).uid, f64::from(n), NOW.plus(u64::from(100 - n)));
        }
        assert_eq!(table.to_measure(true), [addr(1), addr(2), addr(3), addr(9)], "the oldest is 9");
        assert_eq!(table.to_measure(false).len(), 9);
        table.learn(addr(20), Source::Announced, NOW);
        assert!(table.to_measure(true).contains(&addr(20)));
    }

    #[test]
    fn a_phone_at_rest_asks_one_after_the_other() {
        let mut table = Table::default();
        for n in 1..=5 {
            table.learn(addr(n), Source::Announced, NOW);
            table.measured(&addr(n).uid, f64::from(n), NOW.plus(u64::from(n)));
        }
        let turns = |table: &Table| (0..3).filter_map(|n| table.to_measure_sparingly(n)).collect::<Vec<_>>();
        let mut asked = turns(&table);
        asked.sort_unstable_by_key(|b| b.addr);
        assert_eq!(asked, [addr(1), addr(2), addr(3)], "those in use");
        table.learn(addr(9), Source::Announced, NOW);
        assert_eq!(turns(&table), [addr(9); 3], "a newcomer is in use and has no measurement");
        table.failed(&addr(9).uid);
        assert!(!turns(&table).contains(&addr(9)));
        assert_eq!(Table::default().to_measure_sparingly(7), None);
    }

    #[test]
    fn a_home_is_outrun_by_a_much_nearer_working_one() {
        let mut table = Table::default();
        for n in 1..=2 {
            table.learn(addr(n), Source::Announced, NOW);
        }
        let home = addr(1).uid;
        table.measured(&addr(2).uid, 20.0, NOW);
        assert!(!table.is_outrun(&home), "the home was never measured");
        table.measured(&home, 29.9, NOW);
        assert!(!table.is_outrun(&home), "not by enough");
        table.measured(&home, 31.0, NOW);
        assert!(table.is_outrun(&home) && !table.is_outrun(&addr(2).uid));
        table.failed(&addr(2).uid);
        assert!(!table.is_outrun(&home), "it does not answer any more");
        table.measured(&addr(2).uid, 0.3, NOW);
        table.measured(&home, 1.0, NOW);
        assert!(!table.is_outrun(&home), "noise");
    }

    #[test]
    fn an_announcement_does_not_move_a_seed() {
        let mut table = Table::default();
        table.learn(addr(1), Source::Seed, NOW);
        let moved = BootstrapAddr { addr: ([10, 9, 9, 9], 4000).into(), ..addr(1) };
        assert!(!table.learn(moved, Source::Announced, NOW));
        assert_eq!(table.get(&addr(1).uid).map(|e| e.addr), Some(addr(1)));
        table.demote_seeds();
        assert!(table.learn(moved, Source::Announced, NOW));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Table::default();
        for n in 0..1000u32 {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&n.to_le_bytes());
            let uid = NodeKey::from_seed(seed).uid();
            table.learn(BootstrapAddr { uid, addr: ([10, 0, 0, 1], 4000).into() }, Source::Announced, NOW);
        }
        assert_eq!(table.len(), TABLE_MAX);
    }
}
