//! Item `direct`: a large file from friend to friend over one virtual cable.

use std::{fs, path::Path, time::Instant};

use anyhow::{Result, ensure};

use super::{Meter, TRANSFER, bootstrap, device, ioex, large, peers, per_gib};
use crate::{
    bench::{Bound, Figure, figure::median},
    lab::world::World,
    netns::Namespace,
    transfer,
};

const ONE: &str = "10.77.0.1";
const OTHER: &str = "10.77.0.2";

/// Rounds; each has all programs in turn, so that a change of load touches all of them.
const ROUNDS: usize = 3;

/// What one round of ours gave.
struct Round {
    bytes_per_second: f64,
    offer_seconds: f64,
    cpu_seconds: f64,
    peak_bytes: f64,
}

pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let size = large(quick);
    let sendme = peers::sendme()?;
    let world = World::new(ioex())?;
    let (a, b) = (world.namespace("a")?, world.namespace("b")?);
    a.cable("eth0", &b, "eth0")?;
    for (namespace, own, far) in [(&a, ONE, OTHER), (&b, OTHER, ONE)] {
        namespace.address("eth0", &format!("{own}/24"))?;
        namespace.default_route(far)?;
    }
    let file = world.dir().join("file");
    transfer::random_file(&file, size)?;
    let (mut tcp, mut theirs, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..if quick { 1 } else { ROUNDS } {
        tcp.push(peers::iperf3(&a, &b, OTHER, size)?);
        theirs.push(peers::run_sendme(&sendme, (&a, ONE), &b, &file, &world.dir().join("sendme"))?);
        ours.push(one_round(&world, (&a, &b), &file, round, size)?);
    }
    let middle = |get: fn(&Round) -> f64| median(ours.iter().map(get).collect());
    let (tcp, theirs, rate) = (median(tcp), median(theirs), middle(|round| round.bytes_per_second));
    let peak = ours.iter().map(|round| round.peak_bytes).fold(0.0, f64::max);
    let mb = 1e6;
    Ok(vec![
        Figure::plain("direct", rate / mb, "MB/s"),
        Figure::plain("direct: iperf3 TCP", tcp / mb, "MB/s"),
        Figure::plain("direct: sendme", theirs / mb, "MB/s"),
        Figure::bounded("direct / iperf3", rate / tcp, "ratio", Bound::AtLeast(0.18)),
        Figure::bounded("direct / sendme", rate / theirs, "ratio", Bound::AtLeast(2.0)),
        Figure::plain("direct: import and offer", middle(|round| round.offer_seconds), "s"),
        Figure::bounded(
            "direct: CPU of both ends",
            per_gib(middle(|round| round.cpu_seconds), size),
            "s/GiB",
            Bound::AtMost(4.5),
        ),
        Figure::bounded("direct: peak memory of either end", peak / mb, "MB", Bound::AtMost(64.0)),
    ])
}

/// Fresh nodes, so that nothing of the file is there yet. The clock runs from the acceptance to
/// the verified file in its place; CPU time counts from the sender's import on.
fn one_round(
    world: &World,
    (a, b): (&Namespace, &Namespace),
    file: &Path,
    round: usize,
    size: u64,
) -> Result<Round> {
    let name = |part: &str| format!("{part}{round}");
    let (hub, seed) = bootstrap(world, a, &name("hub"), ONE)?;
    let from = device(world, a, &name("from"), &seed, &["--bind", ONE])?;
    let to = device(world, b, &name("to"), &seed, &["--bind", OTHER])?;
    from.befriend(&to)?;
    to.wait_friend(&from)?;
    let meter = Meter::start(&[&from, &to])?;
    let start = Instant::now();
    let dir = world.dir().join(name("got"));
    let incoming = transfer::offer(&from, &to, file, &dir)?;
    let offer_seconds = start.elapsed().as_secs_f64();
    let (elapsed, end) = incoming.run(TRANSFER)?;
    let cpu_seconds = meter.seconds()?;
    ensure!(end["relayed_bytes"] == 0, "{} bytes were relayed", end["relayed_bytes"]);
    incoming.compare(file)?;
    let peak_bytes = from.peak_memory()?.max(to.peak_memory()?) as f64;
    for node in [from, to, hub] {
        node.stop()?;
    }
    fs::remove_dir_all(&dir)?;
    fs::remove_dir_all(world.dir().join(name("to")))?;
    Ok(Round {
        bytes_per_second: size as f64 / elapsed.as_secs_f64(),
        offer_seconds,
        cpu_seconds,
        peak_bytes,
    })
}
