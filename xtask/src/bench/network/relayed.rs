//! Item `relayed`: the same file over a bootstrap's relay.

use anyhow::{Result, ensure};

use super::{Meter, TRANSFER, ioex, large, per_gib};
use crate::{
    bench::{Bound, Figure},
    lab::{
        nat::Nat,
        world::{Host, World},
    },
    transfer,
};

pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let size = large(quick);
    let mut world = World::new(ioex())?;
    let bootstraps = world.bootstraps(1)?;
    // Public hosts that keep to TCP by their own choice: no router's work is measured.
    let one = Host::build(&mut world, Nat::Open, "a")?;
    let other = Host::build(&mut world, Nat::Open, "b")?;
    let from = world.peer(&one.namespace, &one.name, &bootstraps, &["--no-udp", "true"])?;
    let to = world.peer(&other.namespace, &other.name, &bootstraps, &["--no-udp", "true"])?;
    from.befriend(&to)?;
    to.wait_friend(&from)?;
    let file = world.dir().join("file");
    transfer::random_file(&file, size)?;
    let incoming = transfer::offer(&from, &to, &file, &world.dir().join("got"))?;
    let relay = bootstraps[0].node()?;
    let before = relay.cpu_seconds()?;
    let ends = Meter::start(&[&from, &to])?;
    let (elapsed, end) = incoming.run(TRANSFER)?;
    let (relay_seconds, end_seconds) = (relay.cpu_seconds()? - before, ends.seconds()?);
    ensure!(end["direct_bytes"] == 0, "{} bytes went direct", end["direct_bytes"]);
    incoming.compare(&file)?;
    let peak = from.peak_memory()?.max(to.peak_memory()?) as f64 / 1e6;
    let rate = size as f64 / elapsed.as_secs_f64() / 1e6;
    let relay_cpu = per_gib(relay_seconds, size);
    Ok(vec![
        Figure::plain("relayed", rate, "MB/s"),
        Figure::bounded("relayed: CPU of the relay", relay_cpu, "s/GiB", Bound::AtMost(8.0)),
        Figure::plain("relayed: CPU of both ends", per_gib(end_seconds, size), "s/GiB"),
        Figure::plain("relayed: peak memory of the relay", relay.peak_memory()? as f64 / 1e6, "MB"),
        Figure::bounded("relayed: peak memory of either end", peak, "MB", Bound::AtMost(64.0)),
    ])
}
