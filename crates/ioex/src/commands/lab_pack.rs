//! `ioex lab-pack`: measures packing and each of its stages (hidden; for `cargo xtask bench vault`).

use std::path::PathBuf;

use ioex_vault::lab::{Rates, rates};

use super::Context;

pub(super) fn run(context: &Context, path: PathBuf) -> anyhow::Result<()> {
    let rates = rates(&[path])?;
    Ok(context.out.result(&rates, |r: &Rates| {
        let mb = |rate: f64| format!("{:.0} MB/s", rate / 1e6);
        format!(
            "chunk {}, hash {}, compress {}, encrypt {}; all {}",
            mb(r.chunk),
            mb(r.hash),
            mb(r.compress),
            mb(r.encrypt),
            mb(r.pack)
        )
    })?)
}
