//! The asking side of an exchange between partners.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ioex_api::ApiError;
use ioex_base::{ContentAddress, Dice, Uid};
use ioex_net::questions::QuestionError;

use super::{
    super::{
        super::files,
        Node,
        book::{BUCKETS, Book, Exchanged, Say, Word},
        failure::fresh_seed,
        watch::DeviceRecord,
    },
    locked, mandate_for,
    wire::{self, DEVICES_MAX, NAMES_MAX, Question, Reply, Shown},
};

/// The books of one repository are compared with one partner for so long; what is left comes the next time.
/// A partner that is slow, or hostile, must not keep this node from its own rounds.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Why an exchange did not come to its end.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Ask(#[from] QuestionError),
    #[error("it answered something else than it was asked")]
    WrongAnswer,
    #[error(transparent)]
    Book(#[from] super::super::book::BookError),
    #[error("it took too long")]
    TooLong,
    #[error("{0}")]
    Own(String),
}

async fn ask(node: &Node, partner: Uid, question: &Question) -> Result<Reply, SyncError> {
    let reply = node.mesh.ask_friend(partner, wire::encode(question)).await?;
    node.vault.partners.note_heard(partner);
    wire::decode(&reply).ok_or(SyncError::WrongAnswer)
}

async fn tell(node: &Node, partner: Uid, question: &Question) -> Result<(), SyncError> {
    match ask(node, partner, question).await? {
        Reply::Done => Ok(()),
        _ => Err(SyncError::WrongAnswer),
    }
}

/// An exchange, in the time that there is for one.
async fn in_time(exchange: impl Future<Output = Result<(), SyncError>>) -> Result<(), SyncError> {
    tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.unwrap_or(Err(SyncError::TooLong))
}

/// Whose book is compared.
struct Side<'a> {
    node: &'a Node,
    partner: Uid,
    repo: Uid,
    book: &'a Arc<Book>,
    /// Public reader key of the repository.
    reader: Uid,
    /// What the partner may say about this repository.
    theirs: Say,
}

impl Side<'_> {
    /// Compares all, in the time that there is.
    async fn compare(&self, mandate: Option<Shown>) -> Result<(), SyncError> {
        in_time(self.compare_all(mandate)).await
    }

    async fn compare_all(&self, mandate: Option<Shown>) -> Result<(), SyncError> {
        let buckets = self.book.off(Book::buckets).await?;
        let question = Question::Compare { repo: self.repo, mandate, buckets };
        let Reply::Buckets(mut differ) = ask(self.node, self.partner, &question).await? else {
            return Err(SyncError::WrongAnswer);
        };
        differ.sort_unstable();
        differ.dedup();
        if differ.is_empty() {
            return Ok(());
        }
        let digests = |book: &Book| {
            let mut own: Vec<HashMap<ContentAddress, u64>> = vec![HashMap::new(); BUCKETS];
            book.each_digest(None, |id, digest| {
                if let Some(bucket) = own.get_mut(usize::from(id.as_bytes()[0])) {
                    bucket.insert(id, digest);
                }
            })?;
            Ok(own)
        };
        let mut own = self.book.off(digests).await?;
        // Not always the same first: two books may differ for ever in what only an owner says, and time ends.
        let seed = fresh_seed().map_err(|e| SyncError::Own(e.to_string()))?;
        let first = Dice::new(seed).below(differ.len());
        differ.rotate_left(first);
        for bucket in differ {
            let ours = own.get_mut(usize::from(bucket)).map(std::mem::take).unwrap_or_default();
            self.bucket(bucket, ours).await?;
        }
        Ok(())
    }

    async fn bucket(&self, bucket: u8, mut ours: HashMap<ContentAddress, u64>) -> Result<(), SyncError> {
        let (repo, node) = (self.repo, self.node);
        let Reply::Entries(theirs) = ask(node, self.partner, &Question::List { repo, bucket }).await? else {
            return Err(SyncError::WrongAnswer);
        };
        let (mut get, mut put, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for (id, digest) in theirs {
            match ours.remove(&id) {
                Some(own) if own == digest => {}
                // Both may have changed it.
                Some(_) => {
                    get.push(id);
                    put.push(id);
                }
                None => unknown.push(id),
            }
        }
        put.extend(ours.into_keys());
        let sort = move |book: &Book| {
            let (mut removed, mut new) = (Vec::new(), Vec::new());
            for id in unknown {
                if book.was_removed(&id)? { removed.push(id) } else { new.push(id) }
            }
            Ok((removed, new))
        };
        let (drop, new) = self.book.off(sort).await?;
        get.extend(new);
        // Only an owner drops.
        for part in drop.chunks(NAMES_MAX).filter(|_| self.theirs == Say::Adopt) {
            tell(node, self.partner, &Question::Drop { repo, groups: part.to_vec() }).await?;
        }
        while !get.is_empty() {
            let groups: Vec<ContentAddress> = get.iter().copied().take(NAMES_MAX).collect();
            let asked: HashSet<ContentAddress> = groups.iter().copied().collect();
            let Reply::Records(mut records) =
                ask(node, self.partner, &Question::Get { repo, groups }).await?
            else {
                return Err(SyncError::WrongAnswer);
            };
            // Nobody slips in what was not asked for.
            records.retain(|(_, r)| r.id().is_some_and(|id| asked.contains(&id)));
            let before = get.len();
            let came: HashSet<ContentAddress> = records.iter().filter_map(|(_, r)| r.id()).collect();
            get.retain(|id| !came.contains(id));
            let word = Word { say: self.theirs, reader: self.reader, now: files::now() };
            self.book.off(move |book| book.merge(&records, word)).await?;
            if get.len() == before {
                // What it does not have any more it dropped meanwhile.
                break;
            }
        }
        let read = move |book: &Book| -> Result<Vec<Exchanged>, _> {
            put.iter().filter_map(|id| book.exchanged(id).transpose()).collect()
        };
        let records = self.book.off(read).await?;
        for page in wire::pages(records) {
            tell(node, self.partner, &Question::Put { repo, records: page }).await?;
        }
        Ok(())
    }
}

/// Exchanges the books of everything that is watched together, with everybody who does; with `all`, also
/// with those that could not be reached a moment ago.
pub(in super::super) async fn exchange(node: &Node, all: bool) {
    // One at a time, and none while the key becomes another one.
    let _one = node.vault.exchanging.lock().await;
    let mut partners = node.vault.partners.uids();
    partners.retain(|uid| all || !node.vault.partners.is_in_trouble(uid));
    let mut failed = Vec::new();
    if let Some(repo) = node.vault.existing() {
        for partner in &partners {
            let done = async {
                let mandate =
                    mandate_for(node, &repo, *partner).map_err(|e: ApiError| SyncError::Own(e.message))?;
                // Before the first backup there is nothing to watch over.
                let Some(mandate) = mandate else { return Ok(()) };
                let (repo_uid, book) = (repo.keys.repo(), &repo.book);
                // A machine that took the recovery key over learns from its partners what was stored.
                let theirs = Say::Adopt;
                let reader = repo.keys.reader.uid();
                let side = Side { node, partner: *partner, repo: repo_uid, book, reader, theirs };
                side.compare(Some(mandate)).await
            };
            if !note(node, *partner, done.await) {
                failed.push(*partner);
            }
        }
    }
    // Who did not answer is not waited for again.
    partners.retain(|uid| !failed.contains(uid));
    for watched in node.vault.partners.watched() {
        let Ok(Some(mandate)) = watched.mandate() else { continue };
        for member in mandate.members.iter().filter(|m| **m != node.mesh.uid()) {
            if !partners.contains(member) {
                continue;
            }
            let theirs = if *member == mandate.owner { Say::Owner } else { Say::Copies };
            let (repo, book, reader) = (watched.repo, &watched.book, mandate.reader);
            let side = Side { node, partner: *member, repo, book, reader, theirs };
            if !note(node, *member, side.compare(None).await) {
                partners.retain(|uid| uid != member);
            }
        }
    }
}

/// Remembers how an exchange went; returns whether it went well.
fn note(node: &Node, partner: Uid, result: Result<(), SyncError>) -> bool {
    let Err(e) = result else { return true };
    tracing::info!("no exchange with the partner {}: {e}", partner.short());
    locked(&node.vault.partners.troubles).insert(partner, (Instant::now(), e.to_string()));
    false
}

/// Tells the others what came of looking after devices.
pub(in super::super) async fn tell_devices(
    node: &Node,
    repo: Uid,
    members: &[Uid],
    devices: &[(Uid, DeviceRecord)],
) {
    let partners = &node.vault.partners;
    let known = partners.uids();
    for member in members.iter().filter(|m| known.contains(m) && !partners.is_in_trouble(m)) {
        // Also when there is nothing to tell: it says that the round came to its end.
        let parts = devices.chunks(DEVICES_MAX).chain(devices.is_empty().then_some(devices));
        for part in parts {
            let question = Question::Devices { repo, devices: part.to_vec() };
            let told = tell(node, *member, &question).await;
            if told.is_err() {
                note(node, *member, told);
                break;
            }
        }
    }
}

/// Tells a partner that it need not watch any more. It notices by itself when the leases end.
pub(super) async fn say_goodbye(node: &Node, partner: Uid, repo: Uid) {
    if let Err(e) = tell(node, partner, &Question::Leave { repo }).await {
        tracing::info!("{} was not told that it need not watch any more: {e}", partner.short());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_partner_that_never_comes_to_an_end_is_left() {
        let started = tokio::time::Instant::now();
        let endless = tokio::time::timeout(10 * EXCHANGE_TIMEOUT, in_time(std::future::pending()));
        assert!(matches!(endless.await, Ok(Err(SyncError::TooLong))));
        assert_eq!(started.elapsed(), EXCHANGE_TIMEOUT);
        assert!(in_time(async { Ok(()) }).await.is_ok());
    }
}
