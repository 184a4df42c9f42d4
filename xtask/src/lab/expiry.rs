//! Scenario `mapping-expiry`: routers that forget a silent mapping after half a minute.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Options, Outcome, ioex, millis, millis_json,
    nat::Nat,
    world::{Host, World},
};

/// What many home routers give an UDP mapping, in seconds.
const MAPPING_SECONDS: &str = "30";

/// Longer than the mapping lives.
const IDLE: Duration = Duration::from_secs(40);

/// A message is delivered within this afterwards.
const LIMIT: Duration = Duration::from_secs(5);

/// Friends that say nothing for longer than the mapping lives, and then do.
pub(super) fn run(_: &Options) -> Result<Outcome> {
    let mut world = World::new(ioex())?;
    let bootstraps = world.bootstraps(2)?;
    let one = Host::build(&mut world, Nat::PortRestricted, "a")?;
    let other = Host::build(&mut world, Nat::PortRestricted, "b")?;
    for router in one.routers.iter().chain(&other.routers) {
        router.set("net/netfilter/nf_conntrack_udp_timeout", MAPPING_SECONDS)?;
        // For mappings with traffic both ways the kernel has a longer limit of its own.
        router.set("net/netfilter/nf_conntrack_udp_timeout_stream", MAPPING_SECONDS)?;
    }
    let a = world.peer(&one.namespace, &one.name, &bootstraps, &[])?;
    let b = world.peer(&other.namespace, &other.name, &bootstraps, &[])?;
    a.befriend(&b)?;
    std::thread::sleep(IDLE);
    let start = Instant::now();
    let wait = (LIMIT.as_secs() * 4).to_string();
    let message = a
        .call_within(&["message", "send", b.uid()?, "still there?", "--wait", &wait], LIMIT * 5)
        .with_context(|| a.last_words())?;
    let delivered = Some(start.elapsed()).filter(|_| message["state"] == "delivered");
    let mut failures = Vec::new();
    if delivered.is_none_or(|time| time > LIMIT) {
        failures.push(format!("not delivered within {} s: {message}", LIMIT.as_secs()));
    }
    Ok(Outcome {
        heading: &["idle s", "mapping s", "delivered ms", "at most ms"],
        rows: vec![vec![
            IDLE.as_secs().to_string(),
            MAPPING_SECONDS.into(),
            millis(delivered),
            millis(Some(LIMIT)),
        ]],
        notes: Vec::new(),
        json: json!({ "idle_seconds": IDLE.as_secs(), "delivered_ms": millis_json(delivered) }),
        failures,
    })
}
