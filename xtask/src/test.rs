//! `cargo xtask test`: all tests.

use std::time::Instant;

use anyhow::Result;

use crate::{install, sh};

/// Runs unit, integration and documentation tests, and closes with a line for machines.
pub(crate) fn run() -> Result<()> {
    install::ensure(install::BUILD)?;
    let start = Instant::now();
    let outcome = tests();
    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("xtask test: {word} in {:.0} s", start.elapsed().as_secs_f64());
    outcome
}

fn tests() -> Result<()> {
    if sh::find("cargo-nextest").is_some() {
        sh::run(&mut sh::cargo(["nextest", "run", "--workspace"]))?;
    } else {
        sh::run(&mut sh::cargo(["test", "--workspace", "--lib", "--bins", "--tests"]))?;
    }
    // nextest does not run documentation examples.
    sh::run(&mut sh::cargo(["test", "--workspace", "--doc"]))
}
