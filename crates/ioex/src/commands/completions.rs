//! `ioex completions`: what a shell needs to complete this command line.

use clap_complete::Shell;
use serde_json::json;

use super::Context;
use crate::cli::Cli;

pub(super) fn run(context: &Context, shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::describe(), "ioex", &mut script);
    let script = String::from_utf8(script)?;
    let value = json!({ "shell": shell.to_string(), "script": script });
    Ok(context.out.result(&value, |_| script)?)
}
