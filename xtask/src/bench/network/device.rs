//! Item `device`: size, memory and traffic of the small build at rest.

use std::{thread, time::Duration};

use anyhow::Result;

use super::ioex;
use crate::{
    bench::{Bound, Figure},
    device,
    lab::{
        nat::Nat,
        world::{Host, World, seed_flags},
    },
    netns::Namespace,
    node::{Node, Setup},
};

/// Joining and measuring the network are over by then.
const SETTLE: Duration = Duration::from_secs(60);
const SETTLE_QUICK: Duration = Duration::from_secs(15);

/// How long traffic is counted: several rounds of whatever happens periodically.
const IDLE: Duration = Duration::from_secs(300);
const IDLE_QUICK: Duration = Duration::from_secs(30);

pub(super) fn run(quick: bool) -> Result<Vec<Figure>> {
    let small = device::build()?;
    let (settle, idle) = if quick { (SETTLE_QUICK, IDLE_QUICK) } else { (SETTLE, IDLE) };
    // The bootstraps are the full program; what is measured is the small one.
    let mut world = World::new(ioex())?;
    let bootstraps = world.bootstraps(2)?;
    let mut start = |name: &str, kind: &str| -> Result<(Node, Namespace)> {
        let host = Host::build(&mut world, Nat::PortRestricted, name)?;
        let mut flags = seed_flags(&bootstraps)?;
        flags.extend(["--kind".to_owned(), kind.to_owned()]);
        let (dir, namespace) = (world.dir(), host.namespace);
        let setup = Setup { ioex: &small, namespace: &namespace, dir, name, flags };
        let node = Node::start(&setup)?;
        node.wait_joined()?;
        Ok((node, namespace))
    };
    let (peer, peer_host) = start("peer", "peer")?;
    let (phone, phone_host) = start("phone", "phone")?;
    thread::sleep(settle);
    let before = (peer_host.traffic("eth0")?, phone_host.traffic("eth0")?);
    thread::sleep(idle);
    let after = (peer_host.traffic("eth0")?, phone_host.traffic("eth0")?);
    let per_minute = |bytes: u64| bytes as f64 / 1e3 / (idle.as_secs_f64() / 60.0);
    let memory = |node: &Node| Ok::<f64, anyhow::Error>(node.private_memory()? as f64 / 1e6);
    let size = device::size(&small)? as f64 / 1e6;
    let (peer_kb, phone_kb) = (per_minute(after.0 - before.0), per_minute(after.1 - before.1));
    Ok(vec![
        Figure::bounded("device: binary", size, "MB", Bound::AtMost(12.0)),
        Figure::bounded("device: idle private memory, peer", memory(&peer)?, "MB", Bound::AtMost(4.0)),
        Figure::bounded("device: idle private memory, phone", memory(&phone)?, "MB", Bound::AtMost(4.0)),
        Figure::bounded("device: idle traffic, peer", peer_kb, "kB/min", Bound::AtMost(30.0)),
        Figure::bounded("device: idle traffic, phone", phone_kb, "kB/min", Bound::AtMost(10.0)),
    ])
}
