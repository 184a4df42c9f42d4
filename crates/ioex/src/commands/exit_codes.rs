//! `ioex exit-codes`: the list of exit codes.

use serde_json::{Value, json};

use super::Context;
use crate::exit;

pub(super) fn run(context: &Context) -> anyhow::Result<()> {
    let codes: Vec<Value> = exit::all()
        .into_iter()
        .map(|(exit, name, meaning)| json!({ "exit": exit, "code": name, "meaning": meaning }))
        .collect();
    Ok(context.out.result(&json!({ "exit_codes": codes }), |_| exit::help())?)
}
