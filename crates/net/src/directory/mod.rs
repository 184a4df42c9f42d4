//! The directory: UID → how to reach it, content address → who holds it (requirement N4).
//!
//! There are two ways to ask, and one answer. Nodes with UDP take part in a Kademlia DHT (module
//! [`dht`]). Everybody can put the same questions to a bootstrap over QUIC, directly or through
//! a relay (module [`server`] answers them), which is how phones and nodes behind firewalls that
//! block UDP ask. Whatever the way, what comes back is signed by the node it is about and is
//! checked here. Bootstraps hold records in memory only, bounded and expiring.

pub(crate) mod dht;
mod holder;
mod lookup;
pub(crate) mod server;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ioex_base::{ContentAddress, NodeKey, Uid};
use n0_future::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

pub use self::holder::{ANNOUNCE_LIFE_SECONDS, HolderRecord};
pub(crate) use self::lookup::Lookup;
use self::dht::DhtNode;
use crate::{
    clock,
    door::Door,
    links::{LinkError, Links},
    names::BootstrapAddr,
    proto::{ANNOUNCE_MAX, Answer, DirectoryAnswer, DirectoryQuestion, No, Open},
    record::{NodeRecord, SignedRecord},
};

/// How long one question may take over either way.
const ASK_TIMEOUT: Duration = Duration::from_secs(6);
/// After the first holders are known, how much longer others may come in.
const MORE_HOLDERS_WAIT: Duration = Duration::from_millis(60);
/// How many bootstraps are asked at once.
const ASKED_AT_ONCE: usize = 2;
/// How long a resolved record is used without asking again.
const CACHE_SECONDS: u64 = 60;
/// Most records in the cache.
const CACHE_MAX: usize = 1_024;
/// How many DHT announcements run at once: each is a lookup with some twenty messages.
const ANNOUNCES_AT_ONCE: usize = 16;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Neither the DHT nor a bootstrap could be asked.
    #[error("the directory cannot be reached: no bootstrap answers")]
    Unreachable,
    /// A bootstrap refused or broke the protocol.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A bootstrap said no.
    #[error("the bootstrap refused: {0}")]
    No(#[from] No),
}

/// Asks and tells the directory.
#[derive(Debug)]
pub struct Directory {
    key: NodeKey,
    links: Arc<Links>,
    dht: Option<DhtNode>,
    /// The active bootstraps, best first.
    bootstraps: Mutex<Vec<BootstrapAddr>>,
    cache: Mutex<HashMap<Uid, (u64, NodeRecord)>>,
}

impl Directory {
    pub(crate) fn new(key: NodeKey, links: Arc<Links>, dht: Option<DhtNode>) -> Self {
        Self {
            key,
            links,
            dht,
            bootstraps: Mutex::new(Vec::new()),
            cache: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn use_bootstraps(&self, active: Vec<BootstrapAddr>) {
        *self.bootstraps.lock().unwrap_or_else(PoisonError::into_inner) = active;
    }

    /// The bootstraps in use that are not this node itself, best first.
    fn asked(&self) -> Vec<BootstrapAddr> {
        let own = self.key.uid();
        let all = self.bootstraps.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|b| b.uid != own).copied().collect()
    }

    pub(crate) fn dht(&self) -> Option<&DhtNode> {
        self.dht.as_ref()
    }

    async fn ask(&self, of: Uid, question: DirectoryQuestion) -> Result<DirectoryAnswer, DirectoryError> {
        let open = Open::Directory(question);
        let asked = self.links.ask::<DirectoryAnswer>(of, Door::Public, &open);
        match tokio::time::timeout(ASK_TIMEOUT, asked).await {
            Ok(answer) => match answer? {
                Answer::Yes(answer) => Ok(answer),
                Answer::No(no) => Err(no.into()),
            },
            Err(_) => Err(LinkError::Timeout.into()),
        }
    }

    /// Publishes this node's record both ways. Fine when one of them worked.
    pub(crate) async fn publish(&self, record: &SignedRecord) -> Result<(), DirectoryError> {
        let over_quic = async {
            let mut asks: FuturesUnordered<_> = self
                .asked()
                .into_iter()
                .take(ASKED_AT_ONCE)
                .map(|b| self.ask(b.uid, DirectoryQuestion::Publish(record.clone())))
                .collect();
            let mut kept = false;
            while let Some(answer) = asks.next().await {
                kept |= answer.is_ok();
            }
            kept
        };
        let over_dht = async {
            match &self.dht {
                Some(dht) => dht.publish(record).await,
                None => false,
            }
        };
        let (a, b) = tokio::join!(over_quic, over_dht);
        if a || b { Ok(()) } else { Err(DirectoryError::Unreachable) }
    }

    /// How `uid` is reached; `None` when nobody knows.
    ///
    /// # Errors
    /// When nobody could be asked.
    pub async fn resolve(&self, uid: Uid) -> Result<Option<NodeRecord>, DirectoryError> {
        let now = clock::unix();
        if let Some((at, record)) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&uid) {
            if now.0.saturating_sub(*at) < CACHE_SECONDS {
                return Ok(Some(record.clone()));
            }
        }
        let record = self.resolve_fresh(uid).await?;
        if let Some(record) = &record {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= CACHE_MAX {
                cache.clear();
            }
            cache.insert(uid, (now.0, record.clone()));
        }
        Ok(record)
    }

    /// Drops a cached record that turned out useless.
    pub(crate) fn forget(&self, uid: &Uid) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// When the newest record of `uid` that the directory has was signed, in milliseconds.
    pub(crate) async fn published_ms(&self, uid: Uid) -> Option<u64> {
        let b = self.asked().first().copied()?;
        match self.ask(b.uid, DirectoryQuestion::Resolve(uid)).await.ok()? {
            DirectoryAnswer::Record(Some(signed)) => {
                signed.open(&uid, clock::unix()).ok().map(|_| signed.seq_ms)
            }
            _ => None,
        }
    }

    /// Asks all ways at once; the first record that holds is the answer.
    async fn resolve_fresh(&self, uid: Uid) -> Result<Option<NodeRecord>, DirectoryError> {
        let mut ways = FuturesUnordered::new();
        if let Some(dht) = &self.dht {
            let dht = dht.clone();
            ways.push(futures_box(async move { (true, dht.resolve(uid).await) }));
        }
        for b in self.asked().into_iter().take(ASKED_AT_ONCE) {
            ways.push(futures_box(async move {
                match self.ask(b.uid, DirectoryQuestion::Resolve(uid)).await {
                    Ok(DirectoryAnswer::Record(record)) => (true, record),
                    Ok(_) => (false, None),
                    Err(e) => {
                        tracing::debug!("{} did not resolve {}: {e}", b.uid.short(), uid.short());
                        (false, None)
                    }
                }
            }));
        }
        let mut answered = false;
        while let Some((ok, record)) = ways.next().await {
            answered |= ok;
            if let Some(signed) = record {
                match signed.open(&uid, clock::unix()) {
                    Ok(record) => return Ok(Some(record)),
                    Err(e) => tracing::debug!("record of {} not believed: {e}", uid.short()),
                }
            }
        }
        if answered { Ok(None) } else { Err(DirectoryError::Unreachable) }
    }

    /// Tells the directory that this node holds `addresses`. Returns how many were announced at
    /// least one way.
    pub async fn announce(&self, addresses: &[ContentAddress], cancel: &CancellationToken) -> usize {
        let now_us = clock::unix_ms() * 1000;
        let mut announced = BTreeSet::new();
        for batch in addresses.chunks(ANNOUNCE_MAX) {
            let records: Vec<(ContentAddress, HolderRecord)> =
                batch.iter().map(|a| (*a, HolderRecord::sign(&self.key, a, now_us))).collect();
            for b in self.asked().into_iter().take(ASKED_AT_ONCE) {
                if self.ask(b.uid, DirectoryQuestion::Announce(records.clone())).await.is_ok() {
                    announced.extend(batch.iter().copied());
                }
            }
        }
        if let Some(dht) = &self.dht {
            let mut running = FuturesUnordered::new();
            let mut waiting = addresses.iter();
            loop {
                while running.len() < ANNOUNCES_AT_ONCE {
                    let Some(address) = waiting.next() else { break };
                    running.push(async move { (address, dht.announce(&self.key, address).await) });
                }
                tokio::select! {
                    () = cancel.cancelled() => break,
                    done = running.next() => match done {
                        Some((address, true)) => { announced.insert(*address); }
                        Some((_, false)) => {}
                        None => break,
                    },
                }
            }
        }
        announced.len()
    }

    /// Who holds `address`. Returns soon after the first holders are known.
    ///
    /// # Errors
    /// When nobody could be asked.
    pub async fn find(&self, address: ContentAddress) -> Result<Vec<Uid>, DirectoryError> {
        let (found, mut incoming) = tokio::sync::mpsc::channel::<Vec<HolderRecord>>(16);
        let ways = async {
            let over_dht = async {
                match &self.dht {
                    Some(dht) => dht.find(&address, found.clone()).await,
                    None => false,
                }
            };
            let over_quic = async {
                let mut asks: FuturesUnordered<_> = self
                    .asked()
                    .into_iter()
                    .take(ASKED_AT_ONCE)
                    .map(|b| self.ask(b.uid, DirectoryQuestion::Find(address)))
                    .collect();
                let mut ok = false;
                while let Some(answer) = asks.next().await {
                    if let Ok(DirectoryAnswer::Holders(holders)) = answer {
                        ok = true;
                        let _ = found.send(holders).await;
                    }
                }
                ok
            };
            let (a, b) = tokio::join!(over_dht, over_quic);
            a || b
        };
        tokio::pin!(ways);
        let mut holders = BTreeSet::new();
        let mut until = None;
        let mut answered = None;
        loop {
            let stop = async {
                match until {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(records) = incoming.recv() => {
                    let now = clock::unix();
                    holders.extend(records.iter().filter_map(|r| r.check(&address, now)));
                    if !holders.is_empty() && until.is_none() {
                        until = Some(tokio::time::Instant::now() + MORE_HOLDERS_WAIT);
                    }
                }
                ok = &mut ways, if answered.is_none() => answered = Some(ok),
                () = stop => break,
            }
            if answered.is_some() && incoming.is_empty() {
                break;
            }
        }
        if holders.is_empty() && answered == Some(false) {
            return Err(DirectoryError::Unreachable);
        }
        Ok(holders.into_iter().collect())
    }

    /// The bootstraps that the directory knows of, beside the ones this node knows.
    pub(crate) async fn bootstraps(&self) -> Vec<BootstrapAddr> {
        let now = clock::unix();
        let mut out = Vec::new();
        for b in self.asked().into_iter().take(ASKED_AT_ONCE) {
            if let Ok(DirectoryAnswer::Bootstraps(list)) = self.ask(b.uid, DirectoryQuestion::Bootstraps).await {
                for (addr, record) in list {
                    // Only what the named bootstrap itself signed counts.
                    let signed = record.and_then(|r| r.open(&addr.uid, now).ok());
                    out.extend(signed.and_then(|r| own_address(&addr.uid, &r)));
                }
            }
        }
        if let Some(dht) = &self.dht {
            let mut found = BTreeSet::new();
            for uid in dht.bootstrap_uids().await {
                if out.iter().all(|b| b.uid != uid) {
                    found.insert(uid);
                }
            }
            for uid in found {
                if let Some(signed) = dht.resolve(uid).await {
                    out.extend(signed.open(&uid, now).ok().and_then(|r| own_address(&uid, &r)));
                }
            }
        }
        out
    }
}

/// The address that a bootstrap's own record gives for it.
pub(crate) fn own_address(uid: &Uid, record: &NodeRecord) -> Option<BootstrapAddr> {
    let own = record.bootstraps.iter().find(|b| b.uid == *uid)?;
    (record.kind == ioex_base::NodeKind::Bootstrap).then_some(*own)
}

fn futures_box<'a, T>(f: impl Future<Output = T> + Send + 'a) -> std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(f)
}
