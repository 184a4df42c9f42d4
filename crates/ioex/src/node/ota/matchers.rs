//! Matchers of one channel among themselves: who is handed a change tells the others, and who missed it asks them.
//!
//! Nobody is trusted for it: what comes has to be signed as the channel demands, and later than what is here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use ioex_api::{OtaCarried, OtaMissed};
use ioex_base::{ContentAddress, Uid};
use ioex_net::{
    Mesh,
    proto::{ChannelAsk, No},
    transfer::FetchError,
};
use ioex_ota::Clock;
use tokio::{sync::OwnedMutexGuard, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{LOOK_EVERY, Ota, channels::Channels, orders::Orders};
use crate::node::{files, lock};

/// How often a matcher asks the others whether a channel changed: it was not told while it was away.
const ASK_EVERY: Duration = Duration::from_secs(15 * 60);
/// How long one of them may take to hand over a channel's few files.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a maker waits until all that can be reached are told.
const TELL_TIMEOUT: Duration = Duration::from_secs(20);

/// The other matchers of the versions in a channel, and of its orders here.
fn others(ota: &Ota, channel: &ContentAddress, own: Uid) -> BTreeSet<Uid> {
    let mut all = ota.orders.co_matchers().remove(channel).unwrap_or_default();
    all.extend(ota.channels.releases(channel).into_iter().flat_map(|release| release.matchers));
    all.remove(&own);
    all
}

/// Tells the other matchers of a channel that it changed here, all at once.
pub(super) async fn tell(ota: Arc<Ota>, mesh: &Mesh, channel: ContentAddress) -> OtaCarried {
    let (looking, own) = (ota.clone(), mesh.uid());
    let others =
        tokio::task::spawn_blocking(move || others(&looking, &channel, own)).await.unwrap_or_default();
    let mut waiting: BTreeMap<Uid, String> =
        others.iter().map(|uid| (*uid, "it did not answer in time".to_owned())).collect();
    let mut telling = JoinSet::new();
    for matcher in others {
        let mesh = mesh.clone();
        telling.spawn(async move { (matcher, mesh.channel_renewed(matcher, channel).await) });
    }
    let mut told = Vec::new();
    let all = async {
        while let Some(Ok((matcher, answer))) = telling.join_next().await {
            match answer {
                Ok(()) => {
                    waiting.remove(&matcher);
                    told.push(matcher);
                }
                Err(e) => drop(waiting.insert(matcher, why(&e))),
            }
        }
    };
    let _ = timeout(TELL_TIMEOUT, all).await;
    let missed = waiting.into_iter().map(|(matcher, why)| OtaMissed { matcher, why });
    OtaCarried { channel, told, missed: missed.collect() }
}

fn why(e: &FetchError) -> String {
    match e {
        FetchError::No(No::Refused(_)) => {
            "it has no order of this channel in which this node is a matcher, too".to_owned()
        }
        e => e.to_string(),
    }
}

/// Channels that are being fetched: each by one at a time, for what comes is long until it was looked at.
#[derive(Default)]
pub(super) struct Pulls(Mutex<HashMap<ContentAddress, Arc<tokio::sync::Mutex<()>>>>);

impl Pulls {
    /// Waits until nobody else fetches this channel, which is one that this node carries.
    async fn turn(&self, channel: ContentAddress) -> OwnedMutexGuard<()> {
        let turn = lock(&self.0).entry(channel).or_default().clone();
        turn.lock_owned().await
    }
}

/// What it takes to carry what another matcher has.
#[derive(Clone)]
pub(super) struct Puller {
    pub(super) channels: Arc<Channels>,
    pub(super) orders: Arc<Orders>,
    pub(super) mesh: Mesh,
    pub(super) pulls: Arc<Pulls>,
}

impl Puller {
    /// Fetches a channel from another matcher, and carries it from now on when it is later than what is here. Returns
    /// whether it was.
    ///
    /// # Errors
    /// When the other one does not hand it over, or what comes does not hold.
    pub(super) async fn pull(&self, channel: ContentAddress, from: Uid) -> Result<bool, String> {
        if !self.channels.has(&channel) {
            return Err("this node does not carry the channel".to_owned());
        }
        let turn = timeout(FETCH_TIMEOUT, self.pulls.turn(channel)).await;
        let turn = turn.map_err(|_| "others bring the channel just now".to_owned())?;
        let channels = self.channels.clone();
        let known = tokio::task::spawn_blocking(move || channels.root_version(&channel));
        let root_version = known.await.map_err(|e| e.to_string())??;
        let fetching = self.mesh.channel_fetch(from, ChannelAsk { channel, root_version });
        let fetched = timeout(FETCH_TIMEOUT, fetching).await.map_err(|_| "it took too long".to_owned())?;
        let files = fetched.map_err(|e| e.to_string())?;
        let network = self.mesh.network_time();
        let clock = Clock { own: network.unwrap_or_else(files::now), vouched: network.is_some() };
        let (channels, orders) = (self.channels.clone(), self.orders.clone());
        let taking = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let renewed = channels.renew(channel, &files, clock)?;
            // Also when it is not later: what was kept from doing so before is done now.
            orders.follow(&channel, &channels.releases(&channel)).map_err(|e| e.to_string())?;
            Ok(renewed)
        });
        taking.await.map_err(|e| e.to_string())?
    }

    /// Asks the other matchers of each channel.
    async fn round(&self) {
        for (channel, others) in self.orders.co_matchers() {
            for from in others {
                match self.pull(channel, from).await {
                    Ok(true) => tracing::info!("the channel {channel} changed: {} has it", from.short()),
                    Ok(false) => {}
                    Err(e) => tracing::debug!("{} brings nothing for {channel}: {e}", from.short()),
                }
            }
        }
    }
}

/// Looks for changes that this node was not told of, until `stop`.
pub(super) async fn run(puller: Puller, stop: CancellationToken) {
    loop {
        let joined = puller.mesh.joined();
        if joined && stop.run_until_cancelled(puller.round()).await.is_none() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if joined { ASK_EVERY } else { LOOK_EVERY }) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_is_fetched_by_one_at_a_time() {
        let pulls = Pulls::default();
        let [first, second] = [b"first", b"other"].map(|name| ContentAddress::of(name));
        let turn = pulls.turn(first).await;
        assert!(timeout(Duration::ZERO, pulls.turn(first)).await.is_err());
        // Other channels do not wait for it.
        assert!(timeout(Duration::ZERO, pulls.turn(second)).await.is_ok());
        drop(turn);
        assert!(timeout(Duration::ZERO, pulls.turn(first)).await.is_ok());
    }
}
