//! The bench `vault`: backups beside restic and borg, of the same tree in the same run.
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
use super::{Bench, Bound, Figure};
use crate::{install, sh, up};

/// The bench.
pub(super) const BENCH: Bench =
    Bench { name: "vault", prepare, items: &[("backup", backup), ("policy", policy), ("pack", pack)] };

/// Size of the tree: 2 GiB, or a quick try.
const TREE_BYTES: u64 = 2 << 30;
const QUICK_BYTES: u64 = 128 << 20;

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

/// What one program took for the three steps.
struct Times {
    first: f64,
    again: f64,
    restore: f64,
}

/// Beside restic and borg, with one copy of everything.
fn backup(quick: bool) -> Result<Vec<Figure>> {
    let tree = Tree::make(&work_dir(), size(quick))?;
    let restic = peers::restic(&tree)?;
    let borg = peers::borg(&tree)?;
    let (ours, mut figures) = ours(&tree, "replicas=1")?;
    figures.extend([
        Figure::bounded("first backup, of restic's time", ours.first / restic.first, "", Bound::AtMost(1.0)),
        Figure::plain("first backup, of borg's time", ours.first / borg.first, ""),
        Figure::plain("second backup, of restic's time", ours.again / restic.again, ""),
        Figure::bounded("restore, of restic's time", ours.restore / restic.restore, "", Bound::AtMost(1.0)),
        Figure::plain("restore, of borg's time", ours.restore / borg.restore, ""),
        Figure::plain("restic: first backup", restic.first, "s"),
        Figure::plain("restic: second backup", restic.again, "s"),
        Figure::plain("restic: restore", restic.restore, "s"),
        Figure::plain("borg: first backup", borg.first, "s"),
    ]);
    Ok(figures)
}

/// With the default policy for eight owners.
fn policy(quick: bool) -> Result<Vec<Figure>> {
    let tree = Tree::make(&work_dir(), size(quick))?;
    let (_, figures) = ours(&tree, "auto")?;
    Ok(figures)
}

/// Our three steps, and what is bounded about them alone.
fn ours(tree: &Tree, policy: &str) -> Result<(Times, Vec<Figure>)> {
    tree.first()?;
    let network = Network::start(&work_dir().join("network"))?;
    let name = |what: &str| format!("{policy}: {what}");
    let before = network.cpu_seconds()?;
    let first = network.super_node(&["backup", "create", tree.path(), "--policy", policy], RUN)?;
    let first_cpu = network.cpu_seconds()? - before;
    tree.second()?;
    let again = network.super_node(&["backup", "create", tree.path(), "--policy", policy], RUN)?;
    let out = work_dir().join("out");
    remove(&out)?;
    let out_text = out.to_str().context("the path of the target folder is no text")?;
    let restored = network.super_node(&["backup", "restore", out_text], RUN)?;
    sh::output(sh::system("diff").arg("-r").arg(tree.path()).arg(out.join(tree.name())), RUN)?;
    remove(&out)?;
    let seconds = |report: &Value| report["seconds"].as_f64().context("a report without its time");
    let placed = |report: &Value| report["placed_bytes"].as_f64().context("a report without its bytes");
    let times = Times { first: seconds(&first)?, again: seconds(&again)?, restore: seconds(&restored)? };
    let (super_peak, device_peak) = network.peaks()?;
    let figures = vec![
        Figure::plain(name("first backup"), times.first, "s"),
        Figure::plain(name("first backup, all CPUs"), first_cpu, "CPU s"),
        Figure::plain(name("second backup"), times.again, "s"),
        Figure::plain(name("restore"), times.restore, "s"),
        Figure::plain(name("placed"), placed(&first)? / 1e6, "MB"),
        Figure::bounded(
            name("second backup, of the first"),
            times.again / times.first,
            "",
            Bound::AtMost(0.2),
        ),
        Figure::bounded(
            name("moved again, of the first"),
            placed(&again)? / placed(&first)?,
            "",
            Bound::AtMost(0.03),
        ),
        Figure::bounded(name("peak memory, super node"), super_peak / 1e6, "MB", Bound::AtMost(200.0)),
        Figure::bounded(name("peak memory, largest device"), device_peak / 1e6, "MB", Bound::AtMost(64.0)),
    ];
    network.stop()?;
    Ok((times, figures))
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
