//! Scenario `relay-killed`: the bootstrap that relays a transfer dies in the middle of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Options, Outcome, ioex,
    nat::Nat,
    world::{Host, World},
};
use crate::{node::Node, transfer};

/// At [`UPLINK_MBIT`] this takes about five seconds.
const SIZE: u64 = 64 << 20;
const UPLINK_MBIT: u32 = 100;

/// The relay is killed when this much is there.
const KILL_AT: u64 = SIZE / 3;

/// Complete within this, the time to notice the dead relay included.
const LIMIT: Duration = Duration::from_secs(90);

/// Two hosts without UDP, three bootstraps, one of which is killed.
pub(super) fn run(_: &Options) -> Result<Outcome> {
    let mut world = World::new(ioex())?;
    let mut bootstraps = world.bootstraps(3)?;
    let one = Host::build(&mut world, Nat::UdpBlocked, "a")?;
    let other = Host::build(&mut world, Nat::UdpBlocked, "b")?;
    let from = world.peer(&one.namespace, &one.name, &bootstraps, &[])?;
    let to = world.peer(&other.namespace, &other.name, &bootstraps, &[])?;
    from.befriend(&to)?;
    to.wait_friend(&from)?;
    one.namespace.shape("eth0", UPLINK_MBIT)?;
    let file = world.dir().join("relayed");
    transfer::random_file(&file, SIZE)?;
    let incoming = transfer::offer(&from, &to, &file, &world.dir().join("got"))?;
    let start = Instant::now();
    incoming.accept()?;
    incoming.wait_bytes(KILL_AT, LIMIT)?;
    let relay = relay_of(&to, from.uid()?)?;
    let mut killed = None;
    for bootstrap in &mut bootstraps {
        if bootstrap.node()?.uid()? == relay {
            bootstrap.kill()?;
            killed = Some(bootstrap.name.clone());
        }
    }
    let killed = killed.with_context(|| format!("the relay {relay} is none of the lab's"))?;
    let end = incoming.finish(LIMIT)?;
    let seconds = start.elapsed().as_secs_f64();
    incoming.compare(&file)?;
    let mut failures = Vec::new();
    let then = relay_of(&to, from.uid()?).unwrap_or_default();
    if then == relay {
        failures.push("the path still names the dead relay".into());
    }
    ensure!(end["direct_bytes"] == 0, "{} bytes went direct without UDP", end["direct_bytes"]);
    Ok(Outcome {
        heading: &["killed", "seconds", "relayed bytes"],
        rows: vec![vec![killed.clone(), format!("{seconds:.1}"), end["relayed_bytes"].to_string()]],
        notes: Vec::new(),
        json: json!({ "killed": killed, "seconds": seconds, "relayed_bytes": end["relayed_bytes"] }),
        failures,
    })
}

/// The bootstrap over which `node` reaches `uid`.
fn relay_of(node: &Node, uid: &str) -> Result<String> {
    let status = node.call(&["status"])?;
    let links = status["links"].as_array().into_iter().flatten();
    let paths = links.filter(|link| link["uid"] == uid).map(|link| &link["path"]);
    let relayed = paths.filter(|path| path["type"] == "relayed").find_map(|path| path["bootstrap"].as_str());
    relayed.map(str::to_owned).with_context(|| format!("{} has no relayed link to {uid}", node.name()))
}
