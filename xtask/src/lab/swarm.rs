//! Scenario `swarm`: how quickly a package reaches many devices, with several programs in turn.
//!
//! One origin and many devices, each a host of its own on one network. What a host sends is
//! limited, what it receives is not: downlinks of homes are wider than their uplinks, and a swarm
//! has to live from the uplinks. The package does not compress and lies in memory.
//!
//! [`stage`] builds the hosts and counts, [`workers`] runs programs that wait for a word, [`figures`] has what came
//! out, and each program is a file of its own behind [`Program`].

mod figures;
mod http;
mod limit;
mod ours;
mod stage;
mod torrent;
mod workers;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use self::{
    figures::{HEADING, Pass, Run},
    limit::Case,
    stage::Stage,
};
use super::{Options, Outcome};
use crate::{install, sh, up};

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
    fn copy(&self, device: usize) -> Result<PathBuf>;

    /// As [`prepare`](Self::prepare), while all devices run on with the first package: this one, which differs
    /// little from it. False: it knows nothing of differences, and would bring all of it again. The copies that
    /// devices have by then are whole without [`finish`](Self::finish).
    fn prepare_second(&mut self, _package: &Path) -> Result<bool> {
        Ok(false)
    }

    /// What else there is to say about a run.
    fn note(&self) -> Option<String> {
        None
    }
}

/// Makes a program anew for each run.
type Make = fn() -> Box<dyn Program>;

const PROGRAMS: &[(&str, Make)] = &[
    (ours::NAME, || Box::new(ours::Ours::default())),
    (torrent::NAME, || Box::new(torrent::Torrent::default())),
    (http::NAME, || Box::new(http::Http::default())),
];

/// Every program in every case.
pub(super) fn run(options: &Options) -> Result<Outcome> {
    install::ensure(install::SWARM)?;
    let chosen = choose(&options.programs)?;
    // Speed is measured: the program as people get it.
    let ioex = sh::target_dir().join("release/ioex");
    if !options.built && chosen.iter().any(|(name, _)| *name == ours::NAME) {
        up::build_release()?;
    }
    let cases = choose_cases(options)?;
    let mut outcome = Outcome {
        heading: HEADING,
        rows: Vec::new(),
        notes: cases.iter().map(|case| case.words(PACKAGE_BYTES)).collect(),
        json: json!({ "package_bytes": PACKAGE_BYTES, "runs": [] }),
        failures: Vec::new(),
    };
    let mut runs = Vec::new();
    for case in cases {
        for (name, make) in &chosen {
            match one(case, make().as_mut(), &ioex) {
                Ok(run) => {
                    outcome.rows.push(run.row());
                    outcome.notes.extend(run.note.iter().map(|note| format!("{name}, {case}: {note}")));
                    if let Some(told) = outcome.json["runs"].as_array_mut() {
                        told.push(run.json());
                    }
                    runs.push(run);
                }
                Err(error) => outcome.failures.push(format!("{name}, {case}: {error:#}")),
            }
        }
    }
    outcome.failures.extend(figures::judge(&runs));
    outcome.notes.extend(figures::NOTES.map(str::to_owned));
    Ok(outcome)
}

fn choose(wanted: &[String]) -> Result<Vec<(&'static str, Make)>> {
    let known = || PROGRAMS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if wanted.is_empty() {
        return Ok(PROGRAMS.to_vec());
    }
    let find = |name: &String| PROGRAMS.iter().find(|(known, _)| known == name).copied();
    let found =
        |name: &String| find(name).with_context(|| format!("no program {name}; there are: {}", known()));
    wanted.iter().map(found).collect()
}

fn choose_cases(options: &Options) -> Result<Vec<Case>> {
    if options.cases.is_empty() {
        let count = if options.quick { CASES_QUICK } else { CASES.len() };
        return Ok(CASES[..count].to_vec());
    }
    let find = |number: &usize| {
        let case = number.checked_sub(1).and_then(|place| CASES.get(place));
        case.copied().with_context(|| format!("no case {number}; there are 1 to {}", CASES.len()))
    };
    options.cases.iter().map(find).collect()
}

/// One program in one case, on a network made for it.
fn one(case: Case, program: &mut dyn Program, ioex: &Path) -> Result<Run> {
    let mut stage = Stage::build(case, PACKAGE_BYTES, ioex.to_owned())?;
    program.prepare(&mut stage).with_context(|| format!("preparing {}", program.name()))?;
    let cpu_before = stage::cpu_seconds(&program.processes())?;
    let first = pass(&stage, program)?;
    let note = program.note();
    let changed = stage.change_package()?;
    let again = program.prepare_second(&changed).context("preparing the second version")?;
    let second = if again {
        compare(&stage, program, &stage.hash)?;
        let second = pass(&stage, program).context("the second version")?;
        let hash = stage::hash(&changed)?;
        compare(&stage, program, &hash).context("the second version")?;
        program.finish()?;
        Some(second)
    } else {
        program.finish()?;
        compare(&stage, program, &stage.hash)?;
        None
    };
    Ok(Run { program: program.name(), case, cpu_before, first, second, note })
}

/// From the word to all devices until the last of them is done.
fn pass(stage: &Stage, program: &mut dyn Program) -> Result<Pass> {
    let count = stage.devices.len();
    let (cpu, sent) = (stage::cpu_seconds(&program.processes())?, stage.sent()?);
    let start = Instant::now();
    program.tell()?;
    let mut done: Vec<Option<Duration>> = vec![None; count];
    while done.iter().any(Option::is_none) {
        let left = RUN_LIMIT.saturating_sub(start.elapsed());
        let have = done.iter().flatten().count();
        let (device, when) =
            program.next_done(left).with_context(|| format!("when {have} of {count} devices had it"))?;
        let time = done.get_mut(device).context("a device that there is not")?;
        if time.replace(when.duration_since(start)).is_some() {
            bail!("device {device} was ready twice");
        }
    }
    let now = stage.sent()?;
    let mut times: Vec<Duration> = done.into_iter().flatten().collect();
    times.sort_unstable();
    Ok(Pass {
        times,
        origin_bytes: now.origin - sent.origin,
        devices_bytes: now.devices - sent.devices,
        cpu: stage::cpu_seconds(&program.processes())? - cpu,
    })
}

/// Whether all devices have what has this hash.
fn compare(stage: &Stage, program: &dyn Program, hash: &str) -> Result<()> {
    for device in 0..stage.devices.len() {
        let copy = program.copy(device)?;
        let has = stage::hash(&copy)?;
        ensure!(has == hash, "device {device} has something else: {has}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_program_is_named() {
        assert!(choose(&["carrier-pigeon".into()]).is_err());
        assert_eq!(choose(&[]).unwrap().len(), PROGRAMS.len());
        assert_eq!(choose(&[http::NAME.into()]).unwrap().len(), 1);
    }
}
