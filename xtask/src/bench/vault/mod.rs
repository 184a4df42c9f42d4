//! The bench `vault`: backups beside restic, rustic and borg, of the same tree in the same run.
//!
//! Ours goes to eight devices on this machine, each a process of its own; theirs to a folder. The tree
//! is made of what every checkout has: sources of the dependencies, programs, and noise.

mod network;
mod peers;
mod tree;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::{network::Network, tree::Tree};
use super::{Bench, Bound, Figure, figure::median};
use crate::{install, sh, up};

/// The bench.
pub(super) const BENCH: Bench =
    Bench { name: "vault", prepare, items: &[("backup", backup), ("policy", policy), ("pack", pack)] };

/// Size of the tree: 2 GiB, or a quick try.
const TREE_BYTES: u64 = 2 << 30;
const QUICK_BYTES: u64 = 128 << 20;

/// Restores of each program.
const RESTORES: usize = 3;

/// No single backup or restore takes longer.
const RUN: Duration = Duration::from_secs(600);

fn prepare() -> Result<()> {
    for needs in [install::BUILD, install::BACKUP] {
        install::ensure(needs)?;
    }
    up::build_release().map(drop)
}

fn work_dir() -> PathBuf {
    sh::target_dir().join("bench-vault")
}

fn size(quick: bool) -> u64 {
    if quick { QUICK_BYTES } else { TREE_BYTES }
}

/// Beside the others, with one copy of everything.
fn backup(quick: bool) -> Result<Vec<Figure>> {
    let tree = Tree::make(&work_dir(), size(quick))?;
    let mut others = vec![peers::restic(&tree)?, peers::rustic(&tree)?, peers::borg(&tree)?];
    let mut ours = Ours::back_up(&tree, "replicas=1")?;
    // In turns: what a disk takes changes from minute to minute.
    let rounds = if quick { 1 } else { RESTORES };
    let (mut own, mut theirs) = (Vec::new(), vec![Vec::new(); others.len()]);
    for _ in 0..rounds {
        for (other, times) in others.iter_mut().zip(&mut theirs) {
            times.push(other.restore()?);
        }
        own.push(ours.restore(&tree)?);
    }
    let mut figures = ours.figures();
    figures.push(Figure::plain("restore", median(own.clone()), "s"));
    for (other, times) in others.iter().zip(&theirs) {
        let name = other.name;
        let restores = own.iter().zip(times).map(|(own, their)| own / their).collect();
        let bound = |what: &str, value: f64| {
            let figure = format!("{what}, of {name}'s time");
            match name {
                "restic" => Figure::bounded(figure, value, "", Bound::AtMost(1.0)),
                _ => Figure::plain(figure, value, ""),
            }
        };
        figures.extend([
            bound("first backup", ours.first / other.first),
            Figure::plain(format!("second backup, of {name}'s time"), ours.again / other.again, ""),
            bound("restore", median(restores)),
            Figure::plain(format!("{name}: first backup"), other.first, "s"),
            Figure::plain(format!("{name}: second backup"), other.again, "s"),
            Figure::plain(format!("{name}: restore"), median(times.clone()), "s"),
        ]);
    }
    ours.network.stop()?;
    others.into_iter().try_for_each(peers::Peer::remove)?;
    Ok(figures)
}

/// With the default policy for eight owners.
fn policy(quick: bool) -> Result<Vec<Figure>> {
    let tree = Tree::make(&work_dir(), size(quick))?;
    let mut ours = Ours::back_up(&tree, "auto")?;
    let restore = ours.restore(&tree)?;
    let mut figures = ours.figures();
    figures.push(Figure::plain("auto: restore", restore, "s"));
    ours.network.stop()?;
    Ok(figures)
}

/// Our network, after both backups.
struct Ours {
    network: Network,
    policy: &'static str,
    first: f64,
    first_cpu: f64,
    again: f64,
    placed: f64,
    placed_again: f64,
    /// Peak memory of the super node and of the largest device.
    peaks: (f64, f64),
}

impl Ours {
    fn back_up(tree: &Tree, policy: &'static str) -> Result<Self> {
        tree.first()?;
        let network = Network::start(&work_dir().join("network"))?;
        let run = || {
            settle()?;
            network.super_node(&["backup", "create", tree.path(), "--policy", policy], RUN)
        };
        let before = network.cpu_seconds()?;
        let first = run()?;
        let first_cpu = network.cpu_seconds()? - before;
        tree.second()?;
        let again = run()?;
        let placed = |report: &Value| report["placed_bytes"].as_f64().context("a report without its bytes");
        let (placed, placed_again) = (placed(&first)?, placed(&again)?);
        let (first, again) = (seconds(&first)?, seconds(&again)?);
        let peaks = network.peaks()?;
        Ok(Self { network, policy, first, first_cpu, again, placed, placed_again, peaks })
    }

    /// Seconds of a full restore, which is compared with the tree.
    fn restore(&mut self, tree: &Tree) -> Result<f64> {
        let out = work_dir().join("out");
        remove(&out)?;
        let out_text = out.to_str().context("the path of the target folder is no text")?;
        settle()?;
        let report = self.network.super_node(&["backup", "restore", out_text], RUN)?;
        sh::output(sh::system("diff").arg("-r").arg(tree.path()).arg(out.join(tree.name())), RUN)?;
        self.peaks = self.network.peaks()?;
        remove(&out)?;
        seconds(&report)
    }

    fn figures(&self) -> Vec<Figure> {
        let name = |what: &str| format!("{}: {what}", self.policy);
        let (of_first, moved) = (self.again / self.first, self.placed_again / self.placed);
        let (super_peak, device_peak) = (self.peaks.0 / 1e6, self.peaks.1 / 1e6);
        vec![
            Figure::plain(name("first backup"), self.first, "s"),
            Figure::plain(name("first backup, all CPUs"), self.first_cpu, "CPU s"),
            Figure::plain(name("second backup"), self.again, "s"),
            Figure::plain(name("placed"), self.placed / 1e6, "MB"),
            Figure::bounded(name("second backup, of the first"), of_first, "", Bound::AtMost(0.2)),
            Figure::bounded(name("moved again, of the first"), moved, "", Bound::AtMost(0.03)),
            Figure::bounded(name("peak memory, super node"), super_peak, "MB", Bound::AtMost(200.0)),
            Figure::bounded(name("peak memory, largest device"), device_peak, "MB", Bound::AtMost(64.0)),
        ]
    }
}

fn seconds(report: &Value) -> Result<f64> {
    report["seconds"].as_f64().context("a report without its time")
}

/// Waits until the disk has what was written before: nobody pays for another's writes.
fn settle() -> Result<()> {
    sh::output(&mut sh::system("sync"), RUN).map(drop)
}

/// Packing alone, on one core, beside its slowest stage.
fn pack(quick: bool) -> Result<Vec<Figure>> {
    let tree = Tree::make(&work_dir(), size(quick))?;
    tree.first()?;
    let ioex = sh::target_dir().join("release/ioex");
    let mut command = sh::system("taskset");
    command.arg("-c").arg("0").arg(ioex).args(["lab-pack", "--json"]).arg(tree.path());
    let told: Value = serde_json::from_str(sh::output(&mut command, RUN)?.trim())?;
    let mut figures = Vec::new();
    let mut slowest = f64::MAX;
    for stage in ["chunk", "hash", "compress", "encrypt"] {
        let rate = told[stage].as_f64().with_context(|| format!("no rate of {stage}"))?;
        slowest = slowest.min(rate);
        figures.push(Figure::plain(format!("packing: {stage} alone"), rate / 1e6, "MB/s"));
    }
    let all = told["pack"].as_f64().context("no rate of packing")?;
    figures.push(Figure::plain("packing: all stages, one core", all / 1e6, "MB/s"));
    figures.push(Figure::bounded("packing, of its slowest stage", all / slowest, "", Bound::AtLeast(0.5)));
    Ok(figures)
}

fn remove(dir: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Empties a folder, or makes it.
fn fresh(dir: &std::path::Path) -> Result<()> {
    remove(dir)?;
    fs::create_dir_all(dir)?;
    ensure!(fs::read_dir(dir)?.next().is_none(), "{} is not empty", dir.display());
    Ok(())
}
