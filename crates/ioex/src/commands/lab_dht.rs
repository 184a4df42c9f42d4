//! `ioex lab-dht`: measures the directory with many DHT nodes in this process (hidden; for
//! `cargo xtask bench network lookup`).

use ioex_net::lab::{Lookups, SwarmReport, dht_swarm};
use serde::Serialize;

use super::Context;

/// What is printed. Times are milliseconds.
#[derive(Debug, Serialize)]
struct Report {
    nodes: usize,
    killed: usize,
    join_ms: f64,
    announce_ms_p95: f64,
    lookups: usize,
    answered: usize,
    lookup_ms_p50: f64,
    lookup_ms_p95: f64,
    lookups_after_kill: usize,
    answered_after_kill: usize,
    first_answer_after_kill_ms_p50: f64,
    first_answer_after_kill_ms_p95: f64,
}

impl From<SwarmReport> for Report {
    fn from(r: SwarmReport) -> Self {
        let Lookups { asked, answered, p50_ms, p95_ms } = r.before;
        Self {
            nodes: r.nodes,
            killed: r.killed,
            join_ms: r.join_ms,
            announce_ms_p95: r.announce.p95_ms,
            lookups: asked,
            answered,
            lookup_ms_p50: p50_ms,
            lookup_ms_p95: p95_ms,
            lookups_after_kill: r.after_kill.asked,
            answered_after_kill: r.after_kill.answered,
            first_answer_after_kill_ms_p50: r.after_kill.p50_ms,
            first_answer_after_kill_ms_p95: r.after_kill.p95_ms,
        }
    }
}

pub(super) async fn run(context: &Context, nodes: usize, lookups: usize) -> anyhow::Result<()> {
    let report = Report::from(dht_swarm(nodes, lookups).await?);
    // Lookups without an answer would make the percentiles look better than they are.
    anyhow::ensure!(
        report.answered == report.lookups && report.answered_after_kill == report.lookups_after_kill,
        "some lookups had no answer: {report:?}"
    );
    Ok(context.out.result(&report, |r| {
        format!(
            "{} nodes: first answer in {:.1} ms (median), {:.1} ms (p95); with {} of them gone {:.1} ms and {:.1} ms",
            r.nodes,
            r.lookup_ms_p50,
            r.lookup_ms_p95,
            r.killed,
            r.first_answer_after_kill_ms_p50,
            r.first_answer_after_kill_ms_p95
        )
    })?)
}
