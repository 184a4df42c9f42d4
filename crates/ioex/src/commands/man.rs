//! `ioex man`: the manual pages.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde_json::json;

use super::Context;
use crate::cli::Cli;

pub(super) fn run(context: &Context, dir: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write manual pages into {}", dir.display());
    fs::create_dir_all(dir).with_context(failed)?;
    clap_mangen::generate_to(Cli::describe(), dir).with_context(failed)?;
    let value = json!({ "dir": dir });
    Ok(context.out.result(&value, |_| format!("see `man {}`", dir.join("ioex.1").display()))?)
}
