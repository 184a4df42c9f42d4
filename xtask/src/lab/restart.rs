//! Scenario `bootstrap-restart`: the only bootstrap goes away and comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Options, Outcome, ioex, millis, millis_json,
    nat::Nat,
    world::{Bootstrap, Host, World},
};
use crate::{node::Node, sh};

/// How long the bootstrap is away: longer than a relayed connection survives unanswered.
const AWAY: Duration = Duration::from_secs(5);

/// Everything works again within this after it came back.
const LIMIT: Duration = Duration::from_secs(60);

/// Two hosts without UDP depend on the one relay; a third host comes only afterwards.
pub(super) fn run(_: &Options) -> Result<Outcome> {
    let mut world = World::new(ioex())?;
    let mut bootstraps = world.bootstraps(1)?;
    let one = Host::build(&mut world, Nat::UdpBlocked, "a")?;
    let other = Host::build(&mut world, Nat::UdpBlocked, "b")?;
    let late = Host::build(&mut world, Nat::PortRestricted, "late")?;
    let a = world.peer(&one.namespace, &one.name, &bootstraps, &[])?;
    let b = world.peer(&other.namespace, &other.name, &bootstraps, &[])?;
    a.befriend(&b)?;
    wait_ping(&a, &b)?;
    let bootstrap = bootstraps.first_mut().context("no bootstrap")?;
    bootstrap.kill()?;
    std::thread::sleep(AWAY);
    let back = Instant::now();
    bootstrap.restart(&world)?;
    wait_ping(&a, &b)?;
    let relayed = back.elapsed();
    let newcomer = newcomer(&world, &late, &bootstraps, &a)?;
    Ok(Outcome {
        heading: &["friends reached each other again ms", "a newcomer joined and was accepted ms"],
        rows: vec![vec![millis(Some(relayed)), millis(Some(newcomer))]],
        notes: Vec::new(),
        json: json!({ "again_ms": millis_json(Some(relayed)), "newcomer_ms": millis_json(Some(newcomer)) }),
        failures: Vec::new(),
    })
}

fn newcomer(world: &World, host: &Host, bootstraps: &[Bootstrap], friend: &Node) -> Result<Duration> {
    let start = Instant::now();
    let node = world.peer(&host.namespace, &host.name, bootstraps, &[])?;
    node.befriend(friend)?;
    Ok(start.elapsed())
}

/// Pings until a reply comes.
fn wait_ping(from: &Node, to: &Node) -> Result<()> {
    let uid = to.uid()?;
    let what = format!("{} to reach {}", from.name(), to.name());
    sh::wait_for(&what, LIMIT, || {
        let pings = from.stream(&["ping", uid, "--count", "1"])?;
        let line = pings.next(LIMIT)?.unwrap_or_default();
        Ok(line["value"]["value"]["rtt_ms"].is_number().then_some(()))
    })
    .with_context(|| from.last_words())
}
