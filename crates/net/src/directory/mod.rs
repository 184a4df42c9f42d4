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

use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use n0_future::{BufferedStreamExt, FuturesUnordered, StreamExt};
type BoxStream<'a, T> = std::pin::Pin<Box<dyn n0_future::Stream<Item = T> + Send + 'a>>;
use tokio_util::sync::CancellationToken;

use self::dht::DhtNode;
pub use self::holder::{ANNOUNCE_LIFE_SECONDS, HolderRecord};
pub(crate) use self::lookup::Lookup;
use crate::{
    clock,
    door::Door,
    links::{CLOSE_DONE, LinkError, Links, PathKind, path_of},
    names::BootstrapAddr,
    proto::{ANNOUNCE_MAX, Answer, DirectoryAnswer, DirectoryQuestion, No, Open},
    record::{NodeRecord, SignedRecord},
};

/// How long one question may take over either way.
const ASK_TIMEOUT: Duration = Duration::from_secs(6);
/// When a bootstrap takes longer, the next one is asked too.
const PATIENCE: Duration = Duration::from_millis(700);
/// For so long a bootstrap that did not answer is asked after all others.
const SILENT_MS: u64 = 60_000;
/// After a record is known, how much longer a newer one may come in.
const NEWER_RECORD_WAIT: Duration = Duration::from_millis(20);
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
    lookup: Arc<Lookup>,
    dht: Option<DhtNode>,
    /// The active bootstraps, best first.
    bootstraps: Mutex<Vec<BootstrapAddr>>,
    /// Bootstraps that did not answer lately, and when, in monotonic milliseconds.
    silent: Mutex<HashMap<Uid, u64>>,
    cache: Mutex<HashMap<Uid, (u64, NodeRecord)>>,
}

impl Directory {
    pub(crate) fn new(key: NodeKey, links: Arc<Links>, lookup: Arc<Lookup>, dht: Option<DhtNode>) -> Self {
        Self {
            key,
            links,
            lookup,
            dht,
            bootstraps: Mutex::new(Vec::new()),
            silent: Mutex::default(),
            cache: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn use_bootstraps(&self, active: Vec<BootstrapAddr>) {
        *self.bootstraps.lock().unwrap_or_else(PoisonError::into_inner) = active;
    }

    /// The bootstraps that are not this node itself, best first, and how many of them answered
    /// lately or were not asked: the silent ones come last.
    fn asked(&self) -> (Vec<BootstrapAddr>, usize) {
        let own = self.key.uid();
        let now_ms = clock::monotonic_ms();
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.bootstraps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out: Vec<BootstrapAddr> = all.iter().filter(|b| b.uid != own).copied().collect();
        let is_silent =
            |b: &BootstrapAddr| silent.get(&b.uid).is_some_and(|at| now_ms.saturating_sub(*at) < SILENT_MS);
        // The sort is stable: among equals the order stays.
        out.sort_by_key(is_silent);
        let good = out.iter().filter(|b| !is_silent(b)).count();
        (out, good)
    }

    /// Asks the best bootstraps, [`ASKED_AT_ONCE`] at a time, and further ones when those fail or
    /// take long. Answers come in any order; nobody beyond what is needed is asked.
    fn ask_best<'a>(
        &'a self,
        question: &'a DirectoryQuestion,
    ) -> BoxStream<'a, (BootstrapAddr, DirectoryAnswer)> {
        let (all, good) = self.asked();
        let mut waiting = all.into_iter();
        let mut running = FuturesUnordered::new();
        let ask =
            move |b: BootstrapAddr| futures_box(async move { (b, self.ask(b.uid, question.clone()).await) });
        // Silent ones are asked only when nobody else answers.
        let first = if good == 0 { ASKED_AT_ONCE } else { good.min(ASKED_AT_ONCE) };
        waiting.by_ref().take(first).for_each(|b| running.push(ask(b)));
        Box::pin(n0_future::stream::unfold(
            (waiting, running),
            move |(mut waiting, mut running)| async move {
                loop {
                    let patience = tokio::time::sleep(PATIENCE);
                    let more = tokio::select! {
                        answer = running.next() => match answer? {
                            (b, Ok(answer)) => return Some(((b, answer), (waiting, running))),
                            (b, Err(e)) => {
                                tracing::debug!("{} did not answer: {e}", b.uid.short());
                                waiting.next()
                            }
                        },
                        () = patience, if waiting.len() > 0 => waiting.next(),
                    };
                    more.into_iter().for_each(|b| running.push(ask(b)));
                }
            },
        ))
    }

    pub(crate) fn dht(&self) -> Option<&DhtNode> {
        self.dht.as_ref()
    }

    async fn ask(&self, of: Uid, question: DirectoryQuestion) -> Result<DirectoryAnswer, DirectoryError> {
        let open = Open::Directory(question);
        let asked = async {
            match self.links.ask::<DirectoryAnswer>(of, Door::Public, &open).await {
                // The connection ended in order while the question was under way: it was idle.
                Err(LinkError::Refused(CLOSE_DONE)) => self.links.ask(of, Door::Public, &open).await,
                answer => answer,
            }
        };
        let answer = tokio::time::timeout(ASK_TIMEOUT, asked).await.unwrap_or(Err(LinkError::Timeout));
        let direct = |conn| matches!(path_of(&conn).0, PathKind::Direct(_));
        if answer.is_err() {
            self.lookup.note_direct(of, false);
        } else if self.links.existing(&of, Door::Public).is_some_and(direct) {
            self.lookup.note_direct(of, true);
        }
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(answer) => {
                silent.remove(&of);
                match answer {
                    Answer::Yes(answer) => Ok(answer),
                    Answer::No(no) => Err(no.into()),
                }
            }
            Err(e) => {
                silent.insert(of, clock::monotonic_ms());
                // A bootstrap that was restarted does not know the old connection: the next
                // question gets a new one.
                self.links.close(&of, Door::Public, CLOSE_DONE);
                Err(e.into())
            }
        }
    }

    /// Publishes this node's record both ways. Fine when one of them worked; `kept` is called as
    /// soon as the first one did.
    pub(crate) async fn publish(&self, record: &SignedRecord, kept: impl Fn()) -> Result<(), DirectoryError> {
        let question = DirectoryQuestion::Publish(record.clone());
        let over_quic = async {
            let answers = self.ask_best(&question).take(ASKED_AT_ONCE);
            let taken = answers.filter(|(_, answer)| *answer == DirectoryAnswer::Kept);
            taken
                .fold(false, |_, _| {
                    kept();
                    true
                })
                .await
        };
        let over_dht = async {
            match &self.dht {
                Some(dht) => dht.publish(record).await.then(&kept).is_some(),
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
        if let Some((at, record)) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&uid)
            && now.0.saturating_sub(*at) < CACHE_SECONDS
        {
            return Ok(Some(record.clone()));
        }
        self.resolve_fresh(uid).await
    }

    /// As [`Self::resolve`], but asks even when an answer is in memory: a node that is dialled may
    /// just have moved.
    pub(crate) async fn resolve_fresh(&self, uid: Uid) -> Result<Option<NodeRecord>, DirectoryError> {
        let record = self.ask_record(uid).await?;
        if let Some(record) = &record {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= CACHE_MAX {
                cache.clear();
            }
            cache.insert(uid, (clock::unix().0, record.clone()));
        }
        Ok(record)
    }

    /// When the newest record of `uid` that the bootstraps have was signed, in milliseconds.
    pub(crate) async fn published_ms(&self, uid: Uid) -> Option<u64> {
        let question = DirectoryQuestion::Resolve(uid);
        let (_, answer) = self.ask_best(&question).next().await?;
        match answer {
            DirectoryAnswer::Record(Some(signed)) => {
                signed.open(&uid, clock::unix()).ok().map(|_| signed.seq_ms)
            }
            _ => None,
        }
    }

    /// Asks all ways at once. The first record that holds is the answer, unless a newer one comes
    /// in right after it.
    async fn ask_record(&self, uid: Uid) -> Result<Option<NodeRecord>, DirectoryError> {
        let question = DirectoryQuestion::Resolve(uid);
        let mut over_quic = self.ask_best(&question);
        let over_dht = async {
            match &self.dht {
                Some(dht) => tokio::time::timeout(ASK_TIMEOUT, dht.resolve(uid)).await.unwrap_or(None),
                None => None,
            }
        };
        tokio::pin!(over_dht);
        let (mut quic_left, mut dht_left) = (true, self.dht.is_some());
        let mut answered = false;
        let mut best: Option<(u64, NodeRecord)> = None;
        let mut until = tokio::time::Instant::now() + 2 * ASK_TIMEOUT;
        while quic_left || dht_left {
            let record = tokio::select! {
                answer = over_quic.next(), if quic_left => match answer {
                    Some((_, DirectoryAnswer::Record(record))) => record,
                    Some(_) => continue,
                    None => {
                        quic_left = false;
                        continue;
                    }
                },
                record = &mut over_dht, if dht_left => {
                    dht_left = false;
                    record
                }
                () = tokio::time::sleep_until(until) => break,
            };
            answered = true;
            let Some(signed) = record else { continue };
            match signed.open(&uid, clock::unix()) {
                Ok(record) if best.as_ref().is_none_or(|(seq, _)| *seq < signed.seq_ms) => {
                    best = Some((signed.seq_ms, record));
                    until = tokio::time::Instant::now() + NEWER_RECORD_WAIT;
                }
                Ok(_) => {}
                Err(e) => tracing::debug!("record of {} not believed: {e}", uid.short()),
            }
        }
        match best {
            Some((_, record)) => Ok(Some(record)),
            None if answered => Ok(None),
            None => Err(DirectoryError::Unreachable),
        }
    }

    /// Tells the directory that this node holds `addresses`. Returns how many were announced at
    /// least one way.
    pub async fn announce(&self, addresses: &[ContentAddress], cancel: &CancellationToken) -> usize {
        let now_us = clock::unix_ms() * 1000;
        let mut announced = BTreeSet::new();
        for batch in addresses.chunks(ANNOUNCE_MAX) {
            let records: Vec<(ContentAddress, HolderRecord)> =
                batch.iter().map(|a| (*a, HolderRecord::sign(&self.key, a, now_us))).collect();
            let question = DirectoryQuestion::Announce(records);
            // The DHT brings an announcement to whichever bootstrap is asked later. Without it,
            // all of them are told.
            let told = if self.dht.is_some() { ASKED_AT_ONCE } else { usize::MAX };
            let (all, good) = self.asked();
            let all = all.into_iter().take(told.min(good.max(1)));
            let mut kept = n0_future::stream::iter(all)
                .map(|b| self.ask(b.uid, question.clone()))
                .buffered_unordered(ANNOUNCES_AT_ONCE);
            while let Some(answer) = kept.next().await {
                if matches!(answer, Ok(DirectoryAnswer::Kept)) {
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
                let question = DirectoryQuestion::Find(address);
                let mut answers = self.ask_best(&question).take(ASKED_AT_ONCE);
                let mut ok = false;
                while let Some((_, answer)) = answers.next().await {
                    if let DirectoryAnswer::Holders(holders) = answer {
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

    /// Asks each of these bootstraps which ones it knows, and measures how long that takes.
    pub(crate) async fn survey(&self, all: Vec<BootstrapAddr>) -> Survey {
        let now = clock::unix();
        let ask = |b: BootstrapAddr| async move {
            // The connection's set-up is not part of the round trip.
            let dialled = tokio::time::timeout(ASK_TIMEOUT, self.links.get(b.uid, Door::Public)).await;
            let started = tokio::time::Instant::now();
            let answer = match dialled {
                Ok(Ok(_)) => self.ask(b.uid, DirectoryQuestion::Bootstraps).await.ok(),
                Ok(Err(_)) | Err(_) => {
                    self.lookup.note_direct(b.uid, false);
                    self.silent
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(b.uid, clock::monotonic_ms());
                    None
                }
            };
            (b, answer, started.elapsed())
        };
        let mut survey = Survey::default();
        let mut answers: FuturesUnordered<_> = all.into_iter().map(ask).collect();
        while let Some((b, answer, took)) = answers.next().await {
            match answer {
                Some(answer) => {
                    survey.answered.push((b.uid, took.as_secs_f64() * 1000.0));
                    if let DirectoryAnswer::Bootstraps(list) = answer {
                        let dates =
                            list.iter().filter_map(|(b, r)| Some((b.uid, r.as_ref()?.signed_ms(&b.uid)?)));
                        survey.dates.extend(dates);
                        survey.found.extend(
                            list.into_iter().filter_map(|(addr, record)| proved(&addr.uid, record?, now)),
                        );
                    }
                }
                None => survey.silent.push(b.uid),
            }
        }
        survey
    }

    /// The bootstraps that announced themselves in the DHT, without those that are `known`.
    pub(crate) async fn bootstraps_in_dht(
        &self,
        known: &BTreeSet<Uid>,
    ) -> Vec<(BootstrapAddr, SignedRecord)> {
        let mut out = Vec::new();
        if let Some(dht) = &self.dht {
            for uid in dht.bootstrap_uids().await.into_iter().filter(|uid| !known.contains(uid)) {
                let record = dht.resolve(uid).await;
                out.extend(record.and_then(|record| proved(&uid, record, clock::unix())));
            }
        }
        out
    }
}

/// What asking bootstraps showed.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Who answered, and the round trip in milliseconds.
    pub(crate) answered: Vec<(Uid, f64)>,
    /// When bootstraps signed their records by their own clocks, in milliseconds, whatever ours says.
    pub(crate) dates: Vec<(Uid, u64)>,
    /// Who did not.
    pub(crate) silent: Vec<Uid>,
    /// The bootstraps that they know, with their records.
    pub(crate) found: Vec<(BootstrapAddr, SignedRecord)>,
}

/// Only what the named bootstrap itself signed counts.
fn proved(uid: &Uid, signed: SignedRecord, now: UnixSeconds) -> Option<(BootstrapAddr, SignedRecord)> {
    let record = signed.open(uid, now).ok()?;
    Some((own_address(uid, &record)?, signed))
}

/// The address that a bootstrap's own record gives for it.
pub(crate) fn own_address(uid: &Uid, record: &NodeRecord) -> Option<BootstrapAddr> {
    let own = record.bootstraps.iter().find(|b| b.uid == *uid)?;
    (record.kind == ioex_base::NodeKind::Bootstrap).then_some(*own)
}

fn futures_box<'a, T>(
    f: impl Future<Output = T> + Send + 'a,
) -> std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(f)
}
