//! The fleet, as a maker's super node hears of it.

use std::{cmp::Reverse, path::PathBuf};

use ioex_api::{OtaChannelInfo, OtaFleet, OtaOrderInfo, OtaRequest, Request};
use ioex_base::ContentAddress;
use ioex_ota::Version;

use crate::{
    channel_folder::ChannelFolder,
    commands::Context,
    render::{self, Table},
    size,
};

pub(super) async fn run(
    context: &Context,
    manifest: Option<ContentAddress>,
    channel: Option<PathBuf>,
) -> anyhow::Result<()> {
    let mut fleet: OtaFleet = context.client().await?.call(Request::Ota(Box::new(OtaRequest::Fleet))).await?;
    fleet.orders.retain(|order| manifest.is_none_or(|wanted| order.manifest == wanted));
    let only = channel.map(|dir| ChannelFolder::open(&dir)).transpose()?.map(|folder| folder.address());
    fleet.orders.retain(|order| only.is_none_or(|only| order.channel == only));
    fleet.channels.retain(|channel| fleet.orders.iter().any(|order| order.channel == channel.channel));
    Ok(context.out.result(&fleet, |fleet| {
        if fleet.orders.is_empty() {
            return "no orders here: `ioex ota publish` makes one\n".to_owned();
        }
        let channels = fleet.channels.iter().map(summary);
        channels.chain(fleet.orders.iter().map(human)).collect::<Vec<_>>().join("\n")
    })?)
}

fn devices(brand: &str, model: &str) -> String {
    format!("{brand} {model}").trim().to_owned()
}

/// The devices of a channel by version, the newest first.
fn summary(channel: &OtaChannelInfo) -> String {
    let head = render::fields([
        ("channel", channel.channel.to_string()),
        ("devices", devices(&channel.brand, &channel.model)),
        ("heard of", format!("{} of {} on its rosters", channel.heard, channel.roster)),
    ]);
    let mut versions: Vec<_> = channel.versions.iter().collect();
    versions.sort_by_key(|(version, _)| Reverse(version.parse::<Version>().unwrap_or_default()));
    let mut table = Table::new(["devices", "run"]).right([0]);
    for (version, count) in versions {
        table.row([count.to_string(), version.clone()]);
    }
    head + &table.text_or("")
}

fn human(order: &OtaOrderInfo) -> String {
    let counts = |map: &std::collections::BTreeMap<String, u64>| {
        map.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    let [origin, lan, wan, relayed] = order.by_source.map(size::human);
    let mut text = render::fields([
        ("version", order.version.clone()),
        ("for", devices(&order.brand, &order.model)),
        ("channel", order.channel.to_string()),
        ("manifest", order.manifest.to_string()),
        (
            "devices",
            format!("{} heard of, {} on the roster, {} ordered", order.heard, order.roster, order.quantity),
        ),
        ("progress", counts(&order.stages)),
        (
            "bytes",
            format!(
                "{origin} from the maker, {lan} from local networks, {wan} from other devices ({relayed} over relays)"
            ),
        ),
        (
            "rollout",
            order.course.clone().unwrap_or_else(|| "the channel does not have it any more".to_owned()),
        ),
        ("sent here", size::human(order.served_bytes)),
        ("ends", render::until(order.expires, render::now())),
        ("ended", order.ended.map_or_else(String::new, |at| render::ago(Some(at), render::now()))),
        (
            "stopped",
            if order.stopped {
                format!(
                    "yes: too many failed, nobody else begins; `ioex ota rollout {} --resume` goes on",
                    order.version
                )
            } else {
                String::new()
            },
        ),
    ]);
    if !order.reasons.is_empty() {
        let mut table = Table::new(["failed", "why"]).right([0]);
        for (reason, count) in &order.reasons {
            table.row([count.to_string(), reason.clone()]);
        }
        text += &table.text_or("");
    }
    text
}
