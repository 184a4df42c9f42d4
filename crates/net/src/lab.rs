//! Measurements that need many nodes in one process.

use std::time::{Duration, Instant};

use ioex_base::{ContentAddress, NodeKey};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{clock, directory::dht::DhtNode, random};

/// A lookup that takes longer counts as not answered.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Lookups and joins under way at once: enough to be quick, few enough that they do not measure
/// each other.
const AT_ONCE: usize = 4;
/// Nodes that are dropped before the second measurement, in percent.
const KILLED_PERCENT: usize = 40;

/// Times of one series of lookups.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lookups {
    /// How many were asked.
    pub asked: usize,
    /// How many had an answer in time.
    pub answered: usize,
    /// Median time to the first answer, in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile of it.
    pub p95_ms: f64,
}

/// What [`dht_swarm`] measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SwarmReport {
    /// Nodes at the start.
    pub nodes: usize,
    /// Nodes that were dropped.
    pub killed: usize,
    /// Until all nodes had joined, in milliseconds.
    pub join_ms: f64,
    /// Announcements: time until the DHT took one.
    pub announce: Lookups,
    /// Lookups with all nodes there.
    pub before: Lookups,
    /// Lookups right after the nodes were dropped, by the nodes that are left.
    pub after_kill: Lookups,
}

struct Member {
    node: DhtNode,
    key: NodeKey,
}

fn pick(below: usize) -> usize {
    usize::try_from(u64::from_le_bytes(random::bytes()) % below.max(1) as u64).unwrap_or(0)
}

fn summary(asked: usize, mut times: Vec<Duration>) -> Lookups {
    times.sort_unstable();
    let at = |percent: usize| {
        let nth = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(nth).map_or(f64::NAN, |t| t.as_secs_f64() * 1000.0)
    };
    Lookups { asked, answered: times.len(), p50_ms: at(50), p95_ms: at(95) }
}

/// Runs jobs, a few at a time, and collects the times of those that succeeded.
async fn timed<F>(jobs: Vec<F>) -> Lookups
where
    F: Future<Output = bool> + Send + 'static,
{
    let asked = jobs.len();
    let mut times = Vec::with_capacity(asked);
    let mut running = JoinSet::new();
    let mut jobs = jobs.into_iter();
    loop {
        while running.len() < AT_ONCE {
            let Some(job) = jobs.next() else { break };
            running.spawn(async move {
                let started = Instant::now();
                let done = tokio::time::timeout(LOOKUP_TIMEOUT, job).await.unwrap_or(false);
                done.then(|| started.elapsed())
            });
        }
        match running.join_next().await {
            Some(Ok(time)) => times.extend(time),
            Some(Err(_)) => {}
            None => return summary(asked, times),
        }
    }
}

/// Whether a holder of `address` comes in.
async fn first_answer(node: DhtNode, address: ContentAddress) -> bool {
    let (tell, mut told) = mpsc::channel(16);
    let asking = node.find(&address, tell);
    let answered = async {
        while let Some(records) = told.recv().await {
            if records.iter().any(|r| r.check(&address, clock::unix()).is_some()) {
                return true;
            }
        }
        false
    };
    tokio::pin!(asking, answered);
    tokio::select! {
        biased;
        found = &mut answered => found,
        // The question ended; what it told last is still to be read.
        _ = &mut asking => answered.await,
    }
}

fn finds(
    members: &[Member],
    contents: &[ContentAddress],
) -> Vec<impl Future<Output = bool> + Send + 'static + use<>> {
    contents.iter().map(|address| first_answer(members[pick(members.len())].node.clone(), *address)).collect()
}

/// Starts `nodes` DHT nodes on loopback (at least 3), announces `lookups` contents from random
/// ones, looks each up from a random node, drops 40 % of the nodes at once and looks them up
/// again.
///
/// # Errors
/// When a socket cannot be opened.
pub async fn dht_swarm(nodes: usize, lookups: usize) -> std::io::Result<SwarmReport> {
    let nodes = nodes.max(3);
    let mut members: Vec<Member> = Vec::with_capacity(nodes);
    let mut contacts = Vec::new();
    let started = Instant::now();
    for _ in 0..nodes {
        let key = NodeKey::from_seed(random::bytes());
        // The first few nodes are the bootstraps of the others.
        let node = DhtNode::start(0, &contacts, true)?;
        if contacts.len() < 3 {
            contacts.push(node.loopback().await?);
        }
        members.push(Member { node, key });
    }
    let joins = members.iter().map(|m| m.node.clone()).map(|n| async move { n.bootstrap().await });
    timed(joins.collect()).await;
    let join_ms = started.elapsed().as_secs_f64() * 1000.0;

    let contents: Vec<ContentAddress> =
        (0..lookups).map(|_| ContentAddress::of(&random::bytes::<32>())).collect();
    let announces = contents.iter().map(|address| {
        let member = &members[pick(nodes)];
        let (node, key, address) = (member.node.clone(), member.key.clone(), *address);
        async move { node.announce(&key, &address).await }
    });
    let announce = timed(announces.collect()).await;
    let before = timed(finds(&members, &contents)).await;

    let killed = nodes * KILLED_PERCENT / 100;
    for _ in 0..killed {
        members.swap_remove(pick(members.len()));
    }
    let after_kill = timed(finds(&members, &contents)).await;
    Ok(SwarmReport { nodes, killed, join_ms, announce, before, after_kill })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_answered_ones() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let got = summary(120, times);
        assert_eq!((got.asked, got.answered, got.p50_ms, got.p95_ms), (120, 100, 50.0, 95.0));
        assert!(summary(3, vec![]).p95_ms.is_nan());
    }
}
