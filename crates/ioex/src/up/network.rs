//! The whole network: bootstraps first, then devices, each told of two bootstraps only.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use ioex_api::{Request, Status};
use ioex_base::{NodeKey, NodeKind, Uid, wire};
use tokio::{task::JoinSet, time::Instant};

use super::{
    plan::{Place, Plan},
    process::{Process, folder},
};
use crate::{
    authority,
    cli::UpArgs,
    node::files,
    progress::{self, Show},
    render,
};

/// How long the whole network may take to come up: generous for two slow cores.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Bootstraps that a device is told of; it learns of the others by itself (requirement N3).
const SEEDS_PER_DEVICE: usize = 2;
/// What each peer lends.
const LEND: &str = "1GiB";
/// What the super node may place on one device: all that a peer lends.
const GRANT_BYTES_PER_DEVICE: u64 = 1 << 30;
/// How long its permission holds: as long as a shard lives.
const GRANT_DAYS: u32 = 90;
/// File of the authority's key in the data folder.
const AUTHORITY_FILE: &str = "authority.key";
/// File of the capability in the super node's folder.
const CAPABILITY_FILE: &str = "capability";

/// A node that runs and has said who it is.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) uid: Uid,
    pub(super) process: Process,
}

/// All nodes. Dropping it kills them; [`stop`](Self::stop) is the orderly way.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) nodes: Vec<Node>,
    /// Started, but not heard of yet.
    fresh: Vec<Process>,
}

impl Network {
    /// Starts the nodes of `args` in `data` and waits until all have joined.
    pub(super) async fn start(&mut self, data: &Path, args: &UpArgs, show: Show) -> anyhow::Result<()> {
        let plan = Plan::load_or_make(data, args.bootstraps, args.peers)?;
        let begin = Instant::now();
        let deadline = begin + START_TIMEOUT;
        let bar = progress::count_bar(show, "nodes joined", plan.nodes.len() as u64);
        let (bootstraps, devices): (Vec<&Place>, Vec<&Place>) =
            plan.nodes.iter().partition(|place| place.kind == NodeKind::Bootstrap);
        let mut seeds: Vec<String> = Vec::new();
        // The first alone, because the others need its UID; then they find each other.
        let (first, others) = bootstraps.split_at(1.min(bootstraps.len()));
        for group in [first, others] {
            for place in group {
                let flags = seeds.first().map(|seed| vec!["--seeds".to_owned(), seed.clone()]);
                self.fresh.push(Process::start(data, place, &flags.unwrap_or_default())?);
            }
            seeds.extend(self.introduce(deadline).await?);
        }
        let authority = authority_key(data)?;
        for (i, place) in devices.into_iter().enumerate() {
            let flags = device_flags(data, place, &authority.uid(), &seeds_for(i, &seeds));
            self.fresh.push(Process::start(data, place, &flags)?);
        }
        self.introduce(deadline).await?;
        self.permit(&authority)?;
        for node in &mut self.nodes {
            let joined = |status: &Status| status.joined;
            node.process.wait_for(Request::Status, deadline, "joined the network", joined).await?;
            bar.inc(1);
        }
        bar.abandon();
        progress::say(&format!("  all joined in {:.1} s", begin.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Waits until the fresh nodes know who they are. The seed entries of bootstraps among them.
    async fn introduce(&mut self, deadline: Instant) -> anyhow::Result<Vec<String>> {
        let mut seeds = Vec::new();
        for process in &mut self.fresh {
            // They stay in `fresh` until all have answered, so that a failure stops all.
            seeds.push(process.id(deadline).await?);
        }
        for (process, id) in self.fresh.drain(..).zip(&seeds) {
            self.nodes.push(Node { uid: id.uid, process });
        }
        Ok(seeds.into_iter().filter_map(|id| id.seed).collect())
    }

    /// Gives the super node a new capability; it reads the file at every backup.
    fn permit(&self, authority: &NodeKey) -> anyhow::Result<()> {
        let node = self.only(NodeKind::Super)?;
        let (_, grant) =
            authority::grant_place(authority, node.uid, GRANT_BYTES_PER_DEVICE, render::now(), GRANT_DAYS)?;
        let path = capability_path(node.process.folder());
        files::replace(&path, &wire::encode(&grant))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The one node of a kind that there is one of.
    pub(super) fn only(&self, kind: NodeKind) -> anyhow::Result<&Node> {
        let found = self.nodes.iter().find(|node| node.process.place.kind == kind);
        found.with_context(|| format!("the network has no {kind} node"))
    }

    /// The node with this identity.
    pub(super) fn by_uid(&self, uid: &Uid) -> Option<&Node> {
        self.nodes.iter().find(|node| node.uid == *uid)
    }

    /// Kills the node with this identity, as a power cut would.
    pub(super) async fn kill(&mut self, uid: &Uid) -> anyhow::Result<()> {
        match self.nodes.iter_mut().find(|node| node.uid == *uid) {
            Some(node) => node.process.kill().await,
            None => anyhow::bail!("{uid} is not one of our nodes"),
        }
    }

    /// Stops all: devices before the bootstraps that they say goodbye to.
    pub(super) async fn stop(self) {
        let all = self.nodes.into_iter().map(|node| node.process).chain(self.fresh);
        let (bootstraps, devices): (Vec<Process>, Vec<Process>) =
            all.partition(|process| process.place.kind == NodeKind::Bootstrap);
        for group in [devices, bootstraps] {
            let mut ending: JoinSet<()> = group.into_iter().map(Process::stop).collect();
            while ending.join_next().await.is_some() {}
        }
    }
}

/// Two bootstraps for the device number `i`; neighbours get others.
fn seeds_for(i: usize, seeds: &[String]) -> Vec<String> {
    let count = SEEDS_PER_DEVICE.min(seeds.len());
    seeds.iter().cycle().skip(i % seeds.len().max(1)).take(count).cloned().collect()
}

fn device_flags(data: &Path, place: &Place, authority: &Uid, seeds: &[String]) -> Vec<String> {
    let mut flags = vec!["--seeds".to_owned(), seeds.join(",")];
    let capability = || capability_path(&folder(data, &place.name)).display().to_string();
    flags.extend(match place.kind {
        NodeKind::Peer => {
            let authority = authority.to_string();
            vec!["--lend-bytes".to_owned(), LEND.to_owned(), "--authorities".to_owned(), authority]
        }
        NodeKind::Super => vec!["--capability".to_owned(), capability()],
        NodeKind::Phone => vec!["--dht=false".to_owned()],
        NodeKind::Bootstrap => Vec::new(),
    });
    flags
}

fn capability_path(folder: &Path) -> PathBuf {
    folder.join(CAPABILITY_FILE)
}

fn authority_key(data: &Path) -> anyhow::Result<NodeKey> {
    let path = data.join(AUTHORITY_FILE);
    Ok(if path.exists() { authority::load(&path)? } else { authority::create(&path)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_of_two_distinct_bootstraps() {
        let seeds: Vec<String> = (0..4).map(|i| i.to_string()).collect();
        assert_eq!(seeds_for(0, &seeds), ["0", "1"]);
        assert_eq!(seeds_for(3, &seeds), ["3", "0"]);
        assert_eq!(seeds_for(9, &seeds), ["1", "2"]);
        assert_eq!(seeds_for(5, &seeds[..1]), ["0"]);
        assert!(seeds_for(5, &[]).is_empty());
    }
}
