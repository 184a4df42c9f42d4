//! `ioex netcheck`: what the network looks like from here.

use ioex_api::{Netcheck, Request};

use super::{Context, status};
use crate::render;

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let check: Netcheck = context.client().await?.call(Request::Netcheck).await?;
    Ok(context.out.result(&check, human)?)
}

fn human(check: &Netcheck) -> String {
    let reach = if check.udp { "UDP works" } else { "UDP is blocked: relay only" };
    let head = render::fields([
        ("network", reach.to_owned()),
        ("nat", check.nat.clone()),
        ("public address", check.public_address.map(|a| a.to_string()).unwrap_or_default()),
    ]);
    format!("{head}\nBootstraps, best first\n{}", status::bootstraps(&check.bootstraps))
}
