//! Scenario `roam`: a host changes its address in the middle of a transfer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Options, Outcome, ioex,
    nat::Nat,
    world::{Bootstrap, Host, World},
};
use crate::transfer;

/// At [`UPLINK_MBIT`] this takes about five seconds.
const SIZE: u64 = 64 << 20;
const UPLINK_MBIT: u32 = 100;

/// The uplink is changed when this much is there.
const CHANGE_AT: u64 = SIZE / 3;

/// The transfer is complete within this, the change included.
const LIMIT: Duration = Duration::from_secs(60);

/// Who changes its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Roamer {
    Sender,
    Receiver,
}

/// Once with the receiver on the move, once with the sender.
pub(super) fn run(_: &Options) -> Result<Outcome> {
    let mut world = World::new(ioex())?;
    let bootstraps = world.bootstraps(2)?;
    let mut outcome = Outcome {
        heading: &["roams", "seconds", "stall s", "direct bytes", "relayed bytes"],
        rows: Vec::new(),
        notes: Vec::new(),
        json: json!({}),
        failures: Vec::new(),
    };
    for roamer in [Roamer::Receiver, Roamer::Sender] {
        let name = if roamer == Roamer::Sender { "sender" } else { "receiver" };
        match change(&mut world, &bootstraps, roamer, name) {
            Ok(report) => {
                let cell = |key: &str| report[key].to_string();
                let cells = ["seconds", "stall_seconds", "direct_bytes", "relayed_bytes"].map(cell);
                outcome.rows.push([name.to_string()].into_iter().chain(cells).collect());
                outcome.json[name] = report;
            }
            Err(error) => outcome.failures.push(format!("the {name} roams: {error:#}")),
        }
    }
    Ok(outcome)
}

fn change(
    world: &mut World,
    bootstraps: &[Bootstrap],
    roamer: Roamer,
    name: &str,
) -> Result<serde_json::Value> {
    let mut mobile = Host::build(world, Nat::PortRestricted, name)?;
    mobile.second_uplink(world, Nat::PortRestricted)?;
    let fixed = Host::build(world, Nat::PortRestricted, &format!("{name}-peer"))?;
    let mobile_node = world.peer(&mobile.namespace, &mobile.name, bootstraps, &[])?;
    let fixed_node = world.peer(&fixed.namespace, &fixed.name, bootstraps, &[])?;
    mobile_node.befriend(&fixed_node)?;
    fixed_node.wait_friend(&mobile_node)?;
    let (from, to, uplinks) = match roamer {
        Roamer::Receiver => (&fixed_node, &mobile_node, vec![(&fixed, "eth0")]),
        Roamer::Sender => (&mobile_node, &fixed_node, vec![(&mobile, "eth0"), (&mobile, "eth1")]),
    };
    for (host, device) in uplinks {
        host.namespace.shape(device, UPLINK_MBIT)?;
    }
    let file = world.dir().join(format!("roam-{name}"));
    transfer::random_file(&file, SIZE)?;
    let incoming = transfer::offer(from, to, &file, &world.dir().join(format!("{name}-got")))?;
    let start = Instant::now();
    incoming.accept()?;
    incoming.wait_bytes(CHANGE_AT, LIMIT)?;
    mobile.switch_uplink()?;
    let changed = Instant::now();
    // What was on its way may still be counted; past that, new bytes came over the new uplink.
    let settled = incoming.state()?["done_bytes"].as_u64().unwrap_or(0);
    incoming.wait_bytes(settled + (SIZE / 64), LIMIT)?;
    let stall = changed.elapsed();
    let end = incoming.finish(LIMIT)?;
    let seconds = start.elapsed();
    incoming.compare(&file)?;
    ensure!(seconds < LIMIT, "took {:.0} s", seconds.as_secs_f64());
    Ok(json!({
        "seconds": tenths(seconds),
        "stall_seconds": tenths(stall),
        "direct_bytes": end["direct_bytes"],
        "relayed_bytes": end["relayed_bytes"],
    }))
}

fn tenths(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}
