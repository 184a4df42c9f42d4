//! Watches the relays that links run over besides the own home: iroh tells only of the home.
//!
//! A relay that died holds up more than the links over it. iroh 1.4 queues datagrams for a dead relay in
//! front of those for living ones (its relay actor waits while the dead one's queue is full), so a
//! node that sends much to a friend over the friend's dead home reaches nobody over any relay.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ioex_base::Uid;
use tokio::net::TcpStream;

use crate::{clock, door::Door, links::RelayedLink, mesh::Mesh, names::BootstrapAddr, online};

/// How often links over foreign relays are looked at, and how often it is looked for such links.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_FOR_EVERY: Duration = Duration::from_secs(5);
/// A link that sends for so long and hears nothing gives reason to doubt its relay.
const SILENT_MS: u64 = 2_000;
/// A relay that takes no connection within this is gone.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What was seen of a link.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sent_bytes: u64,
    received_bytes: u64,
    /// Since when it sends without hearing anything.
    silent_ms: Option<u64>,
}

/// Which links are silent. Pure.
#[derive(Debug, Default)]
struct Silence {
    seen: HashMap<(Uid, Door), Seen>,
}

impl Silence {
    /// Relays of links that have been silent for [`SILENT_MS`].
    fn look(&mut self, links: &[RelayedLink], now_ms: u64) -> HashSet<BootstrapAddr> {
        let mut now = HashMap::new();
        let mut doubted = HashSet::new();
        for link in links {
            let key = (link.uid, link.door);
            let before = self.seen.get(&key);
            let quiet = before.filter(|b| b.received_bytes == link.received_bytes);
            let silent_ms = quiet
                .and_then(|b| b.silent_ms.or_else(|| (link.sent_bytes > b.sent_bytes).then_some(now_ms)));
            if silent_ms.is_some_and(|since| now_ms.saturating_sub(since) >= SILENT_MS) {
                doubted.insert(link.relay);
            }
            let (sent_bytes, received_bytes) = (link.sent_bytes, link.received_bytes);
            now.insert(key, Seen { sent_bytes, received_bytes, silent_ms });
        }
        self.seen = now;
        doubted
    }
}

async fn answers(relay: &BootstrapAddr) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(relay.addr)).await, Ok(Ok(_)))
}

/// Looks until cancelled.
pub(crate) async fn run(mesh: Mesh) {
    let mut silence = Silence::default();
    loop {
        let Ok(links) = mesh.links() else { return };
        let home = mesh.home();
        let mut foreign = links.relayed();
        foreign.retain(|link| link.door != Door::Public && home != Some(link.relay));
        for relay in silence.look(&foreign, clock::monotonic_ms()) {
            // When the own home does not answer either, the fault is on this side.
            let (Some(home), false) = (home, answers(&relay).await) else { continue };
            if !answers(&home).await {
                continue;
            }
            tracing::info!("the bootstrap {relay}, over which a friend is reached, is gone");
            mesh.table().gone(&relay.uid);
            // This task ends with the endpoint.
            online::start_anew(&mesh);
            return;
        }
        tokio::time::sleep(if foreign.is_empty() { LOOK_FOR_EVERY } else { LOOK_EVERY }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(sent_bytes: u64, received_bytes: u64) -> RelayedLink {
        let relay = BootstrapAddr { uid: Uid::from_bytes([7; 32]), addr: ([198, 51, 100, 7], 7000).into() };
        RelayedLink { uid: Uid::from_bytes([1; 32]), door: Door::Friend, relay, sent_bytes, received_bytes }
    }

    #[test]
    fn a_link_that_sends_and_hears_nothing_casts_doubt_on_its_relay() {
        let mut silence = Silence::default();
        assert!(silence.look(&[link(10, 10)], 0).is_empty());
        // It rests.
        assert!(silence.look(&[link(10, 10)], 60_000).is_empty());
        assert!(silence.look(&[link(20, 10)], 61_000).is_empty(), "the answer may be on its way");
        assert!(silence.look(&[link(20, 10)], 61_000 + SILENT_MS - 1).is_empty());
        assert_eq!(silence.look(&[link(20, 10)], 61_000 + SILENT_MS).len(), 1);
        assert!(silence.look(&[link(30, 11)], 62_000 + SILENT_MS).is_empty(), "it was heard");
        assert!(silence.look(&[], 70_000).is_empty());
        assert!(silence.look(&[link(40, 11)], 80_000).is_empty(), "another link");
    }
}
