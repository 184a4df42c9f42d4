//! `ioex status`: the node's state.

use ioex_api::{BootstrapInfo, Link, Request, Status};

use super::{Context, id};
use crate::{
    render::{self, Table},
    size,
};

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let status: Status = context.client().await?.call(Request::Status).await?;
    Ok(context.out.result(&status, human)?)
}

fn human(status: &Status) -> String {
    let joined = match (status.background, status.joined) {
        (true, _) => "no: in the background",
        (false, true) => "yes",
        (false, false) => "not yet",
    };
    let mut text = id::human(&status.id);
    text += &render::fields([
        ("joined", joined.to_owned()),
        ("home bootstrap", status.home.map(|uid| uid.to_string()).unwrap_or_default()),
        ("friends", status.friends.to_string()),
        (
            "lent space",
            format!("{} used of {}", size::human(status.held_bytes), size::human(status.lent_bytes)),
        ),
        ("held shards", status.held_shards.to_string()),
        ("up for", render::duration(status.uptime_seconds)),
    ]);
    text += &format!("\nBootstraps\n{}", bootstraps(&status.bootstraps));
    text += &format!("\nConnections\n{}", links(&status.links));
    for warning in &status.warnings {
        text += &format!("\nWarning: {}", render::printable(warning));
    }
    text
}

/// Also shown by `ioex netcheck`.
pub(super) fn bootstraps(all: &[BootstrapInfo]) -> String {
    let mut table = Table::new(["uid", "address", "latency", "home", "known by"]).right([2]);
    for bootstrap in all {
        table.row([
            bootstrap.uid.short(),
            bootstrap.address.to_string(),
            render::millis(bootstrap.latency_ms),
            if bootstrap.home { "home".to_owned() } else { String::new() },
            bootstrap.source.clone(),
        ]);
    }
    table.text_or("none known\n")
}

fn links(links: &[Link]) -> String {
    let mut table = Table::new(["uid", "door", "path", "rtt", "sent", "received"]).right([3, 4, 5]);
    for link in links {
        table.row([
            link.uid.short(),
            link.door.clone(),
            render::path(&link.path),
            render::millis(link.rtt_ms),
            size::human(link.sent_bytes),
            size::human(link.received_bytes),
        ]);
    }
    table.text_or("none\n")
}
