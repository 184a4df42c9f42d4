//! `cargo xtask fuzz`: runs the targets in `fuzz/`.

use anyhow::{Context, Result, bail};

use crate::sh;

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One target; all of them when absent.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs one target or all, each for a bounded time.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !sh::root().join("fuzz/Cargo.toml").is_file() {
        bail!("there is no fuzz/ in this checkout");
    }
    check_tools()?;
    let all = targets()?;
    let chosen: Vec<&String> = match &options.target {
        Some(name) => vec![
            all.iter()
                .find(|target| *target == name)
                .with_context(|| format!("no fuzz target {name}; there are: {}", all.join(", ")))?,
        ],
        None => all.iter().collect(),
    };
    for target in chosen {
        println!("fuzzing {target} for {} s", options.seconds);
        let limit = format!("-max_total_time={}", options.seconds);
        sh::run(&mut nightly(&["fuzz", "run", target, "--", &limit]))?;
    }
    Ok(())
}

fn check_tools() -> Result<()> {
    if sh::find("cargo-fuzz").is_none() {
        bail!("cargo-fuzz is missing; run `cargo install cargo-fuzz --locked`");
    }
    let version = nightly(&["--version"]).output();
    if !version.is_ok_and(|output| output.status.success()) {
        bail!("fuzzing needs a nightly compiler; run `rustup toolchain install nightly`");
    }
    Ok(())
}

/// Names of the targets: the files in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let folder = sh::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// `cargo +nightly …`: through rustup's own `cargo`, because the one that runs us is a toolchain's.
fn nightly(args: &[&str]) -> std::process::Command {
    let mut command = sh::system("rustup");
    command.args(["run", "nightly", "cargo"]).args(args).current_dir(sh::root());
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_MANIFEST_DIR"] {
        command.env_remove(name);
    }
    command
}
