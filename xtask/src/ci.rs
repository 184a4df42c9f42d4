//! `cargo xtask ci`: every stage is a task that a developer can run alone.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{device, install, netns, sh, table};

/// `ioex up --once` works on a small file; a network that needs longer does not work.
const UP_LIMIT: Duration = Duration::from_secs(300);

/// Hashing a program.
const HASH_LIMIT: Duration = Duration::from_secs(60);

/// What a stage does.
type Action = fn() -> Result<()>;

const STAGES: &[(&str, Action)] = &[
    ("tidy", || task(&["tidy"])),
    ("licences", || task(&["licences"])),
    ("build", build),
    ("device", check_device),
    ("test", || task(&["test"])),
    ("up", up_once),
    ("lab", quick_lab),
];

/// Runs the stages in order, up to the first that fails, and prints the time of each.
pub(crate) fn run() -> Result<()> {
    // The build stage may replace this program's file, which later stages run again: a copy stays.
    let (own, copy) = (std::env::current_exe()?, sh::target_dir().join("xtask-ci"));
    if own != copy {
        std::fs::copy(&own, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        return sh::run(Command::new(&copy).arg("ci").stdin(Stdio::null()));
    }
    install::ensure(install::BUILD)?;
    let mut rows = Vec::new();
    let mut outcome = Ok(());
    let start = Instant::now();
    for (name, action) in STAGES {
        println!("== {name}");
        let began = Instant::now();
        let result = action();
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        rows.push(row(name, began, word));
        if let Err(error) = result {
            outcome = Err(error.context(format!("stage `{name}`")));
            break;
        }
    }
    rows.push(row("total", start, if outcome.is_ok() { "ok" } else { "FAILED" }));
    print!("\n{}", table::render(&["stage", "seconds", "result"], &rows));
    outcome
}

fn row(name: &str, since: Instant, word: &str) -> Vec<String> {
    vec![name.to_owned(), format!("{:.1}", since.elapsed().as_secs_f64()), word.to_owned()]
}

/// Another task of ours, in its own process so that its environment can differ.
fn task(args: &[&str]) -> Result<()> {
    let mut command = Command::new(sh::OWN_PROGRAM);
    // Incremental files cost time and disk, and a clean clone never uses them again.
    command.args(args).env("CARGO_INCREMENTAL", "0").stdin(Stdio::null());
    sh::run(&mut command)
}

/// One profile for tests and binary; `--locked` holds the lock file to the manifests.
fn build() -> Result<()> {
    let mut tests = sh::cargo(["build", "--locked", "--workspace", "--all-targets"]);
    sh::run(tests.env("CARGO_INCREMENTAL", "0"))
}

/// What a device leaves out must not be needed by what it has. Only checked: linking it as a whole takes minutes.
fn check_device() -> Result<()> {
    let mut check = sh::cargo(["check", "--locked", "--package", "ioex"]);
    sh::run(check.args(device::FEATURES).env("CARGO_INCREMENTAL", "0"))
}

/// The whole story on one machine: back a file up, lose a holder, restore it.
fn up_once() -> Result<()> {
    // Emptied before and after, so that neither an earlier failure nor this run leaves anything.
    let data = sh::target_dir().join("xtask-up");
    remove(&data)?;
    let mut command = Command::new(sh::target_dir().join("debug/ioex"));
    command.args(["up", "--once", "--json", "--data"]).arg(&data).current_dir(sh::root());
    let told = sh::output(&mut command, UP_LIMIT)?;
    let report: Value = serde_json::from_str(told.trim()).context("`ioex up` printed no JSON")?;
    let source = sha256(text(&report, "file")?)?;
    let restored = sha256(text(&report, "restored_path")?)?;
    check_report(&report, &source, &restored).with_context(|| format!("`ioex up` printed {report}"))?;
    println!("restored {} bytes after holder {} was stopped", report["bytes"], report["stopped_holder"]);
    remove(&data)
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// By another program than the one under test.
fn sha256(file: &str) -> Result<String> {
    let told = sh::output(sh::system("sha256sum").arg("--").arg(file), HASH_LIMIT)?;
    Ok(told.split_whitespace().next().unwrap_or_default().to_owned())
}

fn text<'a>(report: &'a Value, key: &str) -> Result<&'a str> {
    report[key].as_str().filter(|text| !text.is_empty()).with_context(|| format!("no `{key}` in {report}"))
}

/// The hashes were taken here, of the two files that the report names.
fn check_report(report: &Value, source: &str, restored: &str) -> Result<()> {
    ensure!(source == restored, "the restored file differs from its source");
    ensure!(text(report, "restored_sha256")? == source, "`restored_sha256` is not the file's");
    text(report, "stopped_holder").map(drop)
}

/// A few pairs of NATs, where namespaces are to be had.
fn quick_lab() -> Result<()> {
    if let Err(reason) = netns::possible() {
        if std::env::var_os("IOEX_CI_LAB").is_some() {
            bail!("IOEX_CI_LAB is set, but the lab cannot run: {reason:#}");
        }
        println!("skipped: {reason:#}");
        return Ok(());
    }
    task(&["lab", "--quick", "--built"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_must_show_the_same_bytes_and_a_stopped_holder() {
        let good = json!({ "restored_sha256": "ab", "stopped_holder": "u" });
        assert!(check_report(&good, "ab", "ab").is_ok());
        assert!(check_report(&good, "ab", "cd").is_err());
        assert!(check_report(&good, "cd", "cd").is_err());
        let mut nobody = good;
        nobody["stopped_holder"] = Value::Null;
        assert!(check_report(&nobody, "ab", "ab").is_err());
        assert!(check_report(&json!({}), "ab", "ab").is_err());
    }
}
