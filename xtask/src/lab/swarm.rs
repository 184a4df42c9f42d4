//! Scenario `swarm`: how quickly a package reaches many devices, with several programs in turn.
//!
//! One origin and many devices, each a host of its own on one network. What a host sends is
//! limited, what it receives is not: downlinks of homes are wider than their uplinks, and a swarm
//! has to live from the uplinks. The package does not compress and lies in memory.
//!
//! [`stage`] builds the hosts and counts, [`workers`] runs programs that wait for a word, and each
//! program is a file of its own behind [`Program`].

mod http;
mod limit;
mod stage;
mod torrent;
mod workers;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use self::{limit::Case, stage::Stage};
use super::{Options, Outcome, ioex};
use crate::install;

/// The package, in bytes.
const PACKAGE_BYTES: u64 = 100_000_000;

/// What is measured. Above all the lines are narrow, as those of homes.
const CASES: [Case; 3] = [
    Case { devices: 8, origin_megabits: 100, device_megabits: 100, copies_aim: 1.2 },
    Case { devices: 32, origin_megabits: 100, device_megabits: 100, copies_aim: 1.5 },
    Case { devices: 32, origin_megabits: 100, device_megabits: 20, copies_aim: 1.5 },
];

/// With `--quick`: the first case.
const CASES_QUICK: usize = 1;

/// The slowest, a server alone with 32 devices, needs 256 s; nothing may need twice that.
const RUN_LIMIT: Duration = Duration::from_secs(512);

/// A program that brings a package from one host to many.
trait Program {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// Before the clock: the origin has the package ready, and at every device a program runs and
    /// waits to be told.
    fn prepare(&mut self, stage: &mut Stage) -> Result<()>;

    /// The clock has begun: tells all devices.
    fn tell(&mut self) -> Result<()>;

    /// The next device that says it has everything, and when that was. An error when one fails,
    /// or none is ready within `limit`.
    fn next_done(&mut self, limit: Duration) -> Result<(usize, Instant)>;

    /// All processes, whose CPU time counts with that of their children.
    fn processes(&self) -> Vec<u32>;

    /// Ends everything in order, so that what devices have is in their files.
    fn finish(&mut self) -> Result<()>;

    /// Where a device's copy lies.
    fn copy(&self, device: usize) -> PathBuf;
}

/// Makes a program anew for each run.
type Make = fn() -> Box<dyn Program>;

const PROGRAMS: &[(&str, Make)] = &[
    (torrent::NAME, || Box::new(torrent::Torrent::default())),
    (http::NAME, || Box::new(http::Http::default())),
];

/// What one run has shown.
#[derive(Clone, Debug)]
struct Run {
    program: &'static str,
    case: Case,
    /// When each device had everything, in order.
    times: Vec<Duration>,
    /// Bytes that left the origin's interface until then, headers included.
    origin_bytes: u64,
    /// The same of all devices together.
    devices_bytes: u64,
    /// CPU seconds of all processes, before the clock and on it.
    cpu_before: f64,
    cpu: f64,
}

/// Every program in every case.
pub(super) fn run(options: &Options) -> Result<Outcome> {
    install::ensure(install::SWARM)?;
    let chosen = choose(&options.programs)?;
    let cases = if options.quick { &CASES[..CASES_QUICK] } else { &CASES };
    let mut outcome = Outcome {
        heading: &[
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
        ],
        rows: Vec::new(),
        notes: cases.iter().map(|case| case.words(PACKAGE_BYTES)).collect(),
        json: json!({ "package_bytes": PACKAGE_BYTES, "runs": [] }),
        failures: Vec::new(),
    };
    for case in cases {
        for (name, make) in &chosen {
            match one(*case, make().as_mut()) {
                Ok(run) => {
                    outcome.rows.push(run.row());
                    if let Some(runs) = outcome.json["runs"].as_array_mut() {
                        runs.push(run.json());
                    }
                }
                Err(error) => outcome.failures.push(format!("{name}, {case}: {error:#}")),
            }
        }
    }
    outcome.notes.extend(NOTES.map(str::to_owned));
    Ok(outcome)
}

/// What a reader of the table has to know.
const NOTES: [&str; 3] = [
    "Times count from the word to all devices until a device had the whole package; its hash is compared after that.",
    "Copies are bytes at the interface over the package's length, headers and repeated packets included.",
    "CPU is that of the origin's and all devices' processes; before: until the devices were told.",
];

fn choose(wanted: &[String]) -> Result<Vec<(&'static str, Make)>> {
    let known = || PROGRAMS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if wanted.is_empty() {
        return Ok(PROGRAMS.to_vec());
    }
    let find = |name: &String| PROGRAMS.iter().find(|(known, _)| known == name).copied();
    wanted
        .iter()
        .map(|name| find(name).with_context(|| format!("no program {name}; there are: {}", known())))
        .collect()
}

/// One program in one case, on a network made for it.
fn one(case: Case, program: &mut dyn Program) -> Result<Run> {
    let mut stage = Stage::build(case, PACKAGE_BYTES, ioex())?;
    program.prepare(&mut stage).with_context(|| format!("preparing {}", program.name()))?;
    let cpu_before = stage::cpu_seconds(&program.processes())?;
    let sent_before = stage.sent()?;
    let start = Instant::now();
    program.tell()?;
    let mut done: Vec<Option<Duration>> = vec![None; case.devices];
    while done.iter().any(Option::is_none) {
        let left = RUN_LIMIT.saturating_sub(start.elapsed());
        let have = done.iter().flatten().count();
        let (device, when) = program
            .next_done(left)
            .with_context(|| format!("when {have} of {} devices had it", case.devices))?;
        let time = done.get_mut(device).context("a device that there is not")?;
        if time.replace(when.duration_since(start)).is_some() {
            bail!("device {device} was ready twice");
        }
    }
    let sent = stage.sent()?;
    let cpu = stage::cpu_seconds(&program.processes())? - cpu_before;
    program.finish()?;
    let copies: Vec<PathBuf> = (0..case.devices).map(|device| program.copy(device)).collect();
    for (device, hash) in stage::hashes(&copies)?.into_iter().enumerate() {
        ensure!(hash == stage.hash, "device {device} has something else: {hash}");
    }
    let mut times: Vec<Duration> = done.into_iter().flatten().collect();
    times.sort_unstable();
    Ok(Run {
        program: program.name(),
        case,
        times,
        origin_bytes: sent.origin - sent_before.origin,
        devices_bytes: sent.devices - sent_before.devices,
        cpu_before,
        cpu,
    })
}

impl Run {
    /// When this share of the devices, in per cent, had everything.
    fn at(&self, percent: usize) -> f64 {
        let count = (self.times.len() * percent).div_ceil(100).max(1);
        self.times.get(count - 1).map_or(f64::NAN, Duration::as_secs_f64)
    }

    fn copies(bytes: u64) -> f64 {
        bytes as f64 / PACKAGE_BYTES as f64
    }

    fn row(&self) -> Vec<String> {
        let limit = self.case.limit_seconds(PACKAGE_BYTES);
        vec![
            self.case.to_string(),
            self.program.into(),
            format!("{:.1}", self.at(50)),
            format!("{:.1}", self.at(95)),
            format!("{:.1}", self.at(100)),
            format!("{limit:.1}"),
            format!("{:.2}", self.at(100) / limit),
            format!("{:.2}", Self::copies(self.origin_bytes)),
            format!("{:.2}", Self::copies(self.devices_bytes)),
            format!("{:.1}", self.cpu),
            format!("{:.1}", self.cpu_before),
        ]
    }

    fn json(&self) -> Value {
        let three = |value: f64| (value * 1e3).round() / 1e3;
        json!({
            "program": self.program,
            "devices": self.case.devices,
            "origin_megabits": self.case.origin_megabits,
            "device_megabits": self.case.device_megabits,
            "seconds": { "50": three(self.at(50)), "95": three(self.at(95)), "100": three(self.at(100)) },
            "limit_seconds": three(self.case.limit_seconds(PACKAGE_BYTES)),
            "limit_seconds_at_aim": three(self.case.limit_with_copies(PACKAGE_BYTES, self.case.copies_aim)),
            "origin_bytes": self.origin_bytes,
            "devices_bytes": self.devices_bytes,
            "cpu_seconds": three(self.cpu),
            "cpu_seconds_before": three(self.cpu_before),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(times: impl IntoIterator<Item = u64>) -> Run {
        let times = times.into_iter().map(Duration::from_secs).collect();
        Run {
            program: "test",
            case: CASES[0],
            times,
            origin_bytes: PACKAGE_BYTES * 2,
            devices_bytes: 0,
            cpu_before: 0.0,
            cpu: 0.0,
        }
    }

    #[test]
    fn a_share_is_reached_with_the_device_that_completes_it() {
        let eight = run_of(1..=8);
        assert_eq!([eight.at(50), eight.at(95), eight.at(100)], [4.0, 8.0, 8.0]);
        let many = run_of(1..=32);
        assert_eq!([many.at(50), many.at(95), many.at(100)], [16.0, 31.0, 32.0]);
    }

    #[test]
    fn the_row_has_a_cell_for_each_heading_and_counts_copies() {
        let row = run_of(1..=8).row();
        assert_eq!(row.len(), 11);
        assert_eq!(row[7], "2.00");
    }

    #[test]
    fn an_unknown_program_is_named() {
        assert!(choose(&["carrier-pigeon".into()]).is_err());
        assert_eq!(choose(&[]).unwrap().len(), PROGRAMS.len());
        assert_eq!(choose(&[http::NAME.into()]).unwrap().len(), 1);
    }
}
