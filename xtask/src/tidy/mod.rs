//! `cargo xtask tidy`: what can be checked by a program is not left to a reviewer. Each rule is a
//! plain function from what it looks at to the problems it sees, with a test that breaks it.

mod layers;
mod source;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};

use crate::sh;

pub(crate) use layers::Graph;

/// Git lists files in milliseconds; cargo may have to fetch the index first.
const QUERY_LIMIT: Duration = Duration::from_secs(300);

/// What to check.
#[derive(Clone, Copy, Default, clap::Args)]
pub(crate) struct Options {
    /// Leave out clippy, which has to compile everything.
    #[arg(long)]
    no_clippy: bool,
    /// Also name functions that are longer than they should be.
    #[arg(long)]
    hints: bool,
}

/// Something that a rule found.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    /// File and line, or package.
    place: String,
    /// What is wrong and what to do about it.
    what: String,
}

impl Problem {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }

    /// A problem at line `index` (from 0) of `file`.
    fn at(file: &Source, index: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{}:{}", file.path, index + 1), what)
    }
}

/// A file of the project.
struct Source {
    /// Relative to the root, with slashes.
    path: String,
    text: String,
}

/// Checks everything and reports all problems at once.
pub(crate) fn run(options: &Options) -> Result<()> {
    let files = files()?;
    let graph = Graph::load()?;
    let lock = std::fs::read_to_string(sh::root().join("Cargo.lock")).context("no Cargo.lock")?;
    let mut problems = formatting()?;
    problems.extend(source::check(&files));
    problems.extend(layers::check(&graph, &lock)?);
    if options.hints {
        for hint in files.iter().flat_map(source::long_functions) {
            println!("hint: {}: {}", hint.place, hint.what);
        }
    }
    for problem in &problems {
        eprintln!("{}: {}", problem.place, problem.what);
    }
    if !problems.is_empty() {
        bail!("tidy: {} problem(s)", problems.len());
    }
    if !options.no_clippy {
        clippy()?;
    }
    println!("tidy: {} files, no problems", files.len());
    Ok(())
}

/// Files that git tracks or would track, as far as they are text and still there.
fn files() -> Result<Vec<Source>> {
    let root = sh::root();
    let mut git = sh::system("git");
    git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = sh::output(&mut git, QUERY_LIMIT).context("tidy looks at the files that git knows")?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // What is not text (pictures, golden bytes), or deleted but not yet committed, has no rules.
        if let Ok(text) = std::fs::read_to_string(root.join(PathBuf::from(path))) {
            files.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

fn formatting() -> Result<Vec<Problem>> {
    require("rustfmt", "rustfmt")?;
    let formatted = sh::collect(&mut sh::cargo(["fmt", "--all", "--", "--check", "-l"]), QUERY_LIMIT)?;
    if formatted.status.success() {
        return Ok(Vec::new());
    }
    let root = sh::root();
    let names = String::from_utf8_lossy(&formatted.stdout);
    let mut problems: Vec<Problem> = names
        .lines()
        .map(|name| PathBuf::from(name.trim()))
        .map(|path| path.strip_prefix(&root).map(PathBuf::from).unwrap_or(path))
        .map(|path| Problem::new(path.to_string_lossy(), "not formatted; run `cargo fmt --all`"))
        .collect();
    if problems.is_empty() {
        problems.push(Problem::new("cargo fmt", String::from_utf8_lossy(&formatted.stderr).trim()));
    }
    Ok(problems)
}

fn clippy() -> Result<()> {
    require("cargo-clippy", "clippy")?;
    let args = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    sh::run(&mut sh::cargo(args))
}

/// rustup's stand-in exists even where the component does not, so we ask the program itself.
fn require(program: &str, component: &str) -> Result<()> {
    let version = sh::collect(sh::system(program).arg("--version"), QUERY_LIMIT);
    if !version.is_ok_and(|output| output.status.success()) {
        bail!("{component} is missing; run `rustup component add {component}`");
    }
    Ok(())
}
