//! When a node measures its surroundings, and when it rests.
//!
//! As long as iroh knows relays, it makes a net report every 20 to 26 s, and each report dials the
//! address discovery of every relay anew (iroh 1.4 keeps the last connection, but does not take
//! its address for an answer until that address changes). What a report finds out is needed to
//! choose a home and to open direct paths. A node that has a home and opens no path needs none of
//! it: it *rests*, which means that iroh's relay map is empty. The connection to the home relay
//! stays, and so does the last connection for address discovery, whose keep-alives hold the
//! router's mapping open; the address behind it stays in the node's record.
//!
//! Whatever may need a report *stirs* the node: a new link, a home relay that breaks or comes back,
//! another local address, a bootstrap that proved to be nearer, a question about the network.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iroh::{Endpoint, Watcher};
use tokio::sync::Notify;

use crate::{
    clock,
    door::Door,
    links::PathKind,
    mesh::Mesh,
    online::{LOOK_EVERY, Online, apply_table},
};

/// A node whose links run over a relay stays awake so many times longer: a direct path is tried
/// with fresh addresses. After that iroh goes on trying with those it knows.
const RELAYED_FACTOR: u64 = 10;

/// What decides whether a node may rest.
#[derive(Clone, Copy, Debug)]
struct Surroundings {
    /// Whether the home relay is connected and others can find this node there.
    home: bool,
    /// Whether a link through the friends' or the grant door runs over a relay.
    relayed: bool,
}

/// The rule. Pure.
#[derive(Debug)]
struct Rule {
    /// How long it stays awake.
    awake_ms: u64,
    stirred_ms: u64,
    resting: bool,
}

impl Rule {
    /// Returns whether this ended a rest.
    fn stir(&mut self, now_ms: u64) -> bool {
        self.stirred_ms = now_ms;
        std::mem::take(&mut self.resting)
    }

    /// Returns whether a rest begins now.
    fn look(&mut self, at: Surroundings, now_ms: u64) -> bool {
        let awake_ms = if at.relayed { self.awake_ms * RELAYED_FACTOR } else { self.awake_ms };
        let quiet = now_ms.saturating_sub(self.stirred_ms) >= awake_ms;
        let begins = !self.resting && at.home && quiet;
        self.resting |= begins;
        begins
    }
}

/// Whether the node rests; shared with everything that may stir it.
#[derive(Debug)]
pub(crate) struct Rest {
    rule: Mutex<Rule>,
    stirred: Notify,
}

impl Rest {
    /// A node that was just started is awake.
    pub(crate) fn new(after: Duration) -> Arc<Self> {
        let awake_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX / RELAYED_FACTOR);
        let rule = Mutex::new(Rule { awake_ms, stirred_ms: clock::monotonic_ms(), resting: false });
        Arc::new(Self { rule, stirred: Notify::new() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn resting(&self) -> bool {
        self.lock().resting
    }

    /// Ends a rest, or puts the next one off.
    pub(crate) fn stir(&self) {
        if self.lock().stir(clock::monotonic_ms()) {
            self.stirred.notify_one();
        }
    }
}

/// Addresses outside of the node's own network, as the last report saw them.
fn seen_outside(report: Option<&iroh::unstable_net_report::NetReport>) -> BTreeSet<SocketAddr> {
    let v4 = report.and_then(|r| r.global_v4).map(SocketAddr::V4);
    let v6 = report.and_then(|r| r.global_v6).map(SocketAddr::V6);
    v4.into_iter().chain(v6).collect()
}

/// Makes `pinned` the addresses that the node gives for itself besides those that iroh finds.
async fn pin(endpoint: &Endpoint, pinned: &mut BTreeSet<SocketAddr>, wanted: BTreeSet<SocketAddr>) {
    for new in wanted.difference(pinned) {
        endpoint.add_external_addr(*new).await;
    }
    for old in pinned.difference(&wanted) {
        endpoint.remove_external_addr(old).await;
    }
    *pinned = wanted;
}

/// Begins and ends rests, until cancelled.
pub(crate) async fn run(mesh: Mesh) {
    let Some((endpoint, rest)) = mesh.with_online(|o| (o.endpoint.clone(), o.rest.clone())) else { return };
    let (mut addr, mut report) = (endpoint.watch_addr(), endpoint.net_report());
    let mut home = endpoint.home_relay_status();
    let (mut known, mut pinned) = (BTreeSet::new(), BTreeSet::new());
    let look_every = LOOK_EVERY.min(mesh.config().timing.rest_after).max(Duration::from_millis(1));
    let mut tick = tokio::time::interval(look_every);
    loop {
        let own: BTreeSet<SocketAddr> = addr.get().ip_addrs().copied().collect();
        let outside = seen_outside(report.get().as_ref());
        if rest.resting() && !own.is_subset(&known) {
            tracing::debug!("another local address: {own:?}");
            pin(&endpoint, &mut pinned, BTreeSet::new()).await;
            mesh.with_online(Online::moved);
        } else if !rest.resting() && !outside.is_empty() && !pinned.is_subset(&outside) {
            pin(&endpoint, &mut pinned, BTreeSet::new()).await;
        }
        let relayed = |l: &crate::links::LinkInfo| {
            l.door != Door::Public && matches!(l.path, PathKind::Relayed(_) | PathKind::None)
        };
        let at = Surroundings {
            home: mesh.joined() && home.get().iter().any(iroh::endpoint::RelayStatus::is_connected),
            relayed: mesh.link_list().iter().any(relayed),
        };
        let begins = rest.lock().look(at, clock::monotonic_ms());
        if begins {
            tracing::debug!("at rest: no net reports until something stirs");
            known = &own | &outside;
            pin(&endpoint, &mut pinned, outside).await;
            apply_table(&mesh).await;
        }
        tokio::select! {
            () = rest.stirred.notified() => {
                tracing::debug!("awake");
                apply_table(&mesh).await;
            }
            changed = addr.updated() => if changed.is_err() { return },
            changed = report.updated() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_rests_when_nothing_stirs_it() {
        let awake = 30_000;
        let (direct, relayed) =
            (Surroundings { home: true, relayed: false }, Surroundings { home: true, relayed: true });
        let lost = Surroundings { home: false, relayed: false };
        let mut rule = Rule { awake_ms: awake, stirred_ms: 0, resting: false };
        assert!(!rule.look(direct, awake - 1));
        assert!(!rule.look(lost, awake), "not without a home");
        assert!(!rule.look(relayed, awake), "a direct path is still being tried");
        assert!(rule.look(direct, awake));
        assert!(!rule.look(direct, awake + 1), "it rests already");
        assert!(rule.stir(1_000_000) && !rule.resting);
        assert!(!rule.stir(1_000_001), "it was awake already");
        let long = awake * RELAYED_FACTOR;
        assert!(!rule.look(relayed, 1_000_000 + long));
        assert!(rule.look(relayed, 1_000_001 + long), "relayed links do not keep it awake forever");
    }
}
