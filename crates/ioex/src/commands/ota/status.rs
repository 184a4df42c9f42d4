//! The fleet, as a maker's super node hears of it.

use ioex_api::{OtaFleet, OtaOrderInfo, OtaRequest, Request};
use ioex_base::ContentAddress;

use crate::{
    commands::Context,
    render::{self, Table},
    size,
};

pub(super) async fn run(context: &Context, manifest: Option<ContentAddress>) -> anyhow::Result<()> {
    let mut fleet: OtaFleet = context.client().await?.call(Request::Ota(Box::new(OtaRequest::Fleet))).await?;
    fleet.orders.retain(|order| manifest.is_none_or(|wanted| order.manifest == wanted));
    Ok(context.out.result(&fleet, |fleet| {
        if fleet.orders.is_empty() {
            return "no orders here: `ioex ota publish` makes one\n".to_owned();
        }
        fleet.orders.iter().map(human).collect::<Vec<_>>().join("\n")
    })?)
}

fn human(order: &OtaOrderInfo) -> String {
    let counts = |map: &std::collections::BTreeMap<String, u64>| {
        map.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    let [origin, lan, wan, relayed] = order.by_source.map(size::human);
    let mut text = render::fields([
        ("version", order.version.clone()),
        ("manifest", order.manifest.to_string()),
        (
            "devices",
            format!("{} heard of, {} on the roster, {} ordered", order.heard, order.roster, order.quantity),
        ),
        ("progress", counts(&order.stages)),
        ("they run", counts(&order.versions)),
        (
            "bytes",
            format!(
                "{origin} from the maker, {lan} from local networks, {wan} from other devices ({relayed} over relays)"
            ),
        ),
        ("sent here", size::human(order.served_bytes)),
        ("ends", render::until(order.expires, render::now())),
        ("ended", order.ended.map_or_else(String::new, |at| render::ago(Some(at), render::now()))),
        (
            "stopped",
            if order.stopped { "yes: too many failed, nobody else begins".to_owned() } else { String::new() },
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
