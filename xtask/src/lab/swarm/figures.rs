//! What came out, and whether it is good enough.

use std::time::Duration;

use serde_json::{Value, json};

use super::{PACKAGE_BYTES, limit::Case, ours, torrent};
use crate::transfer::CHANGED_COST_MAX;

/// How much longer than the limit ours may take.
const SLOWER_MAX: f64 = 1.5;

/// The columns of [`Run::row`].
pub(super) const HEADING: &[&str] = &[
    "case",
    "program",
    "50 % s",
    "95 % s",
    "100 % s",
    "limit s",
    "x limit",
    "origin's copies",
    "devices' copies",
    "CPU s",
    "before s",
    "second version s",
    "of the first's bytes",
];

/// What a reader of the table has to know.
pub(super) const NOTES: [&str; 4] = [
    "Times count from the word to all devices until a device had the whole package; its hash is compared after that.",
    "Copies are bytes at the interface over the package's length, headers and repeated packets included.",
    "CPU is that of the origin's and all devices' processes; before: until the devices were told.",
    "The second version differs in 5 % of its bytes; what it costs is all bytes that hosts sent, over the first's.",
];

/// A package on its way to all devices.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    /// When each device had everything, in order.
    pub(super) times: Vec<Duration>,
    /// Bytes that left the origin's interface until then, headers included.
    pub(super) origin_bytes: u64,
    /// The same of all devices together.
    pub(super) devices_bytes: u64,
    /// CPU seconds of all processes.
    pub(super) cpu: f64,
}

/// What one run has shown.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Its name.
    pub(super) program: &'static str,
    /// What was measured.
    pub(super) case: Case,
    /// CPU seconds of all processes before the clock.
    pub(super) cpu_before: f64,
    /// The package.
    pub(super) first: Pass,
    /// One that differs little from it, for programs that know differences.
    pub(super) second: Option<Pass>,
    /// What the program says about it.
    pub(super) note: Option<String>,
}

impl Pass {
    /// When this share of the devices, in per cent, had everything; seconds.
    fn at(&self, percent: usize) -> f64 {
        let count = (self.times.len() * percent).div_ceil(100).max(1);
        self.times.get(count - 1).map_or(f64::NAN, Duration::as_secs_f64)
    }

    fn bytes(&self) -> u64 {
        self.origin_bytes + self.devices_bytes
    }

    fn json(&self) -> Value {
        json!({
            "seconds": { "50": three(self.at(50)), "95": three(self.at(95)), "100": three(self.at(100)) },
            "origin_bytes": self.origin_bytes,
            "devices_bytes": self.devices_bytes,
            "cpu_seconds": three(self.cpu),
        })
    }
}

fn three(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn copies(bytes: u64) -> f64 {
    bytes as f64 / PACKAGE_BYTES as f64
}

impl Run {
    /// Over the scenario's limit.
    fn slower(&self) -> f64 {
        self.first.at(100) / self.case.limit_seconds(PACKAGE_BYTES)
    }

    /// What the second version costs of the first's bytes.
    fn second_share(&self) -> Option<f64> {
        Some(self.second.as_ref()?.bytes() as f64 / self.first.bytes() as f64)
    }

    /// A cell for each of [`HEADING`].
    pub(super) fn row(&self) -> Vec<String> {
        let or_none = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        vec![
            self.case.to_string(),
            self.program.into(),
            format!("{:.1}", self.first.at(50)),
            format!("{:.1}", self.first.at(95)),
            format!("{:.1}", self.first.at(100)),
            format!("{:.1}", self.case.limit_seconds(PACKAGE_BYTES)),
            format!("{:.2}", self.slower()),
            format!("{:.2}", copies(self.first.origin_bytes)),
            format!("{:.2}", copies(self.first.devices_bytes)),
            format!("{:.1}", self.first.cpu),
            format!("{:.1}", self.cpu_before),
            or_none(self.second.as_ref().map(|second| second.at(100)), 1),
            or_none(self.second_share(), 3),
        ]
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "program": self.program,
            "devices": self.case.devices,
            "origin_megabits": self.case.origin_megabits,
            "device_megabits": self.case.device_megabits,
            "limit_seconds": three(self.case.limit_seconds(PACKAGE_BYTES)),
            "limit_seconds_at_aim": three(self.case.limit_with_copies(PACKAGE_BYTES, self.case.copies_aim)),
            "cpu_seconds_before": three(self.cpu_before),
            "first": self.first.json(),
            "second": self.second.as_ref().map(Pass::json),
        })
    }
}

/// What of ours should have been better.
pub(super) fn judge(runs: &[Run]) -> Vec<String> {
    let mut failures = Vec::new();
    for run in runs.iter().filter(|run| run.program == ours::NAME) {
        let case = run.case;
        let (seconds, sent) = (run.first.at(100), copies(run.first.origin_bytes));
        if run.slower() > SLOWER_MAX {
            failures.push(format!("{case}: {:.2} times the limit, not {SLOWER_MAX}", run.slower()));
        }
        if sent > case.copies_aim {
            failures.push(format!("{case}: {sent:.2} copies from the origin, not {}", case.copies_aim));
        }
        let same = |other: &&Run| other.case == case && other.program == torrent::NAME;
        let theirs = runs.iter().find(same).map(|other| other.first.at(100));
        if let Some(theirs) = theirs.filter(|theirs| *theirs <= seconds) {
            failures.push(format!("{case}: {seconds:.1} s, libtorrent {theirs:.1} s"));
        }
        if let Some(share) = run.second_share().filter(|share| *share > CHANGED_COST_MAX) {
            failures.push(format!(
                "{case}: the second version costs {share:.3} of the first, not {CHANGED_COST_MAX}"
            ));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::swarm::CASES;

    fn pass_of(times: impl IntoIterator<Item = u64>) -> Pass {
        let times = times.into_iter().map(Duration::from_secs).collect();
        Pass { times, origin_bytes: PACKAGE_BYTES, devices_bytes: 0, cpu: 0.0 }
    }

    fn run_of(program: &'static str, seconds: u64) -> Run {
        let first = pass_of(1..=seconds);
        Run { program, case: CASES[0], cpu_before: 0.0, first, second: None, note: None }
    }

    #[test]
    fn a_share_is_reached_with_the_device_that_completes_it() {
        let eight = pass_of(1..=8);
        assert_eq!([eight.at(50), eight.at(95), eight.at(100)], [4.0, 8.0, 8.0]);
        let many = pass_of(1..=32);
        assert_eq!([many.at(50), many.at(95), many.at(100)], [16.0, 31.0, 32.0]);
    }

    #[test]
    fn the_row_has_a_cell_for_each_heading_and_counts_copies() {
        let row = run_of(ours::NAME, 8).row();
        assert_eq!(row.len(), HEADING.len());
        assert_eq!(row[7], "1.00");
    }

    #[test]
    fn only_ours_is_judged() {
        assert!(judge(&[run_of(ours::NAME, 9), run_of(torrent::NAME, 16)]).is_empty());
        assert!(judge(&[run_of(torrent::NAME, 99)]).is_empty());
    }

    #[test]
    fn each_aim_can_be_missed() {
        let slow = judge(&[run_of(ours::NAME, 13)]);
        assert!(slow.len() == 1 && slow[0].contains("times the limit"), "{slow:?}");
        let behind = judge(&[run_of(ours::NAME, 9), run_of(torrent::NAME, 9)]);
        assert!(behind.len() == 1 && behind[0].contains("libtorrent"), "{behind:?}");
        let mut greedy = run_of(ours::NAME, 9);
        greedy.first.origin_bytes = PACKAGE_BYTES * 2;
        greedy.second = Some(pass_of(1..=2));
        let greedy = judge(&[greedy]);
        assert!(greedy.len() == 2 && greedy[0].contains("copies"), "{greedy:?}");
        assert!(greedy[1].contains("second version"), "{greedy:?}");
    }
}
