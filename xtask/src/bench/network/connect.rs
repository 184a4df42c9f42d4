//! Item `connect`: the first connection to a node of which only the UID is known.

use std::time::Instant;

use anyhow::Result;

use super::{bootstrap, device, ioex};
use crate::{
    bench::{
        Bound, Figure,
        figure::{median, p95},
    },
    lab::world::World,
};

const CALLERS: usize = 20;
const CALLERS_QUICK: usize = 5;

const LOOPBACK: &str = "127.0.0.1";

/// Every caller is new and connects once: it asks the directory for the UID, connects, and hands
/// over its request for friendship; the clock stops when the other node has answered that.
pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let world = World::new(ioex())?;
    let namespace = world.namespace("loopback")?;
    let (_hub, seed) = bootstrap(&world, &namespace, "hub", LOOPBACK)?;
    let called = device(&world, &namespace, "called", &seed, &["--bind", LOOPBACK])?;
    let mut millis = Vec::new();
    for index in 0..if quick { CALLERS_QUICK } else { CALLERS } {
        let caller = device(&world, &namespace, &format!("caller{index}"), &seed, &["--bind", LOOPBACK])?;
        let start = Instant::now();
        caller.ask_friendship(&called)?;
        millis.push(start.elapsed().as_secs_f64() * 1e3);
        caller.stop()?;
    }
    Ok(vec![
        Figure::plain("connect by UID: median", median(millis.clone()), "ms"),
        Figure::bounded("connect by UID: p95", p95(millis), "ms", Bound::AtMost(500.0)),
    ])
}
