//! The answering side of an exchange between partners.

use std::sync::{Arc, Weak};

use ioex_base::{Right, Sealed as _, SealedHead, Uid};
use ioex_net::{
    proto::No,
    questions::{Replying, Responder},
};

use super::{
    super::{
        Repo,
        book::{BUCKETS, Book, BookError, GroupRecord, Say, Word},
        manage::release,
        placing::capability,
        watch::DeviceRecord,
    },
    Node, Watched, own_members,
    wire::{self, BUCKET_MAX, DEVICES_MAX, Mandate, NAMES_MAX, Question, RECORDS_MAX_BYTES, Reply, Shown},
};
use crate::node::files;

/// Most devices of which something is remembered because a partner told it.
const DEVICES_KEPT_MAX: u64 = 100_000;

/// Answers partners for as long as the node lives.
pub(in super::super) struct Answering(pub(in super::super) Weak<Node>);

impl Responder for Answering {
    fn reply(&self, from: Uid, question: Vec<u8>) -> Replying {
        let node = self.0.clone();
        Box::pin(async move {
            let node = node.upgrade().ok_or(No::Failed)?;
            // Whoever is a friend and no partner learns nothing.
            if !node.vault.partners.uids().contains(&from) {
                return Err(No::NotFound);
            }
            let question: Question = wire::decode(&question).ok_or(No::BadRequest)?;
            node.vault.partners.note_heard(from);
            let worker = node.clone();
            let answered = tokio::task::spawn_blocking(move || answer(&worker, from, question)).await;
            let (reply, dropped) = answered.unwrap_or(Err(No::Failed))?;
            if let (false, Ok(grant)) = (dropped.is_empty(), capability(&node)) {
                tokio::spawn(async move { release(&node, &grant, &dropped).await });
            }
            Ok(wire::encode(&reply))
        })
    }
}

/// A repository that is asked about.
enum Place {
    Own(Arc<Repo>),
    Watched(Arc<Watched>, Mandate),
}

impl Place {
    fn book(&self) -> &Arc<Book> {
        match self {
            Self::Own(repo) => &repo.book,
            Self::Watched(watched, _) => &watched.book,
        }
    }

    /// How far the word of one goes that has this say.
    fn word(&self, say: Say) -> Word {
        let reader = match self {
            Self::Own(repo) => repo.keys.reader.uid(),
            Self::Watched(_, mandate) => mandate.reader,
        };
        Word { say, reader, now: files::now() }
    }

    /// What `from` may say about it; `None` when it has no say.
    fn say(&self, node: &Node, from: Uid) -> Option<Say> {
        match self {
            Self::Own(_) => own_members(node).contains(&from).then_some(Say::Copies),
            Self::Watched(_, mandate) if mandate.owner == from => Some(Say::Owner),
            Self::Watched(_, mandate) => mandate.members.contains(&from).then_some(Say::Copies),
        }
    }
}

fn failed(e: BookError) -> No {
    tracing::warn!("a partner could not be answered: {e}");
    No::Failed
}

fn place(node: &Node, repo: &Uid) -> Result<Place, No> {
    if let Some(own) = node.vault.existing().filter(|own| own.keys.repo() == *repo) {
        return Ok(Place::Own(own));
    }
    let watched = node.vault.partners.watched_one(repo).ok_or(No::NotFound)?;
    let mandate = watched.mandate().map_err(failed)?.ok_or(No::NotFound)?;
    Ok(Place::Watched(watched, mandate))
}

/// Takes a mandate that the repository's key signed.
fn take_mandate(node: &Node, from: Uid, repo: Uid, shown: &Shown) -> Result<(), No> {
    let mandate = &Mandate::unseal(&shown.sealed, &repo).map_err(|_| No::BadRequest)?;
    let head = SealedHead::open(&shown.head).map_err(|_| No::BadRequest)?;
    let granted = mandate.read.check(&node.mesh.uid(), files::now()).map_err(|_| No::BadRequest)?;
    let valid = head.repo == repo
        && mandate.partner == node.mesh.uid()
        && mandate.owner == from
        && mandate.read.issuer == mandate.reader
        && granted.right == Right::Fetch
        && mandate.members.contains(&from)
        && mandate.members.len() <= super::PARTNERS_MAX + 1;
    if !valid {
        return Err(No::BadRequest);
    }
    let Some(watched) = node.vault.partners.watched_one(&repo) else {
        return node.vault.partners.begin(repo, mandate, &shown.head);
    };
    let newer = match watched.book.head().map_err(failed)? {
        Some(known) => SealedHead::open(&known).map_or(true, |known| known.seq < head.seq),
        None => true,
    };
    let kept = watched.book.change(|c| {
        c.put_mandate(mandate)?;
        if newer { c.put_head(&shown.head) } else { Ok(()) }
    });
    kept.map_err(failed)
}

/// With the groups whose leases are given up.
type Answered = (Reply, Vec<GroupRecord>);

fn answer(node: &Node, from: Uid, question: Question) -> Result<Answered, No> {
    let done = |reply| Ok((reply, Vec::new()));
    match question {
        Question::Compare { repo, mandate, buckets } => {
            if buckets.len() != BUCKETS {
                return Err(No::BadRequest);
            }
            let is_own = node.vault.existing().is_some_and(|own| own.keys.repo() == repo);
            if let (Some(mandate), false) = (&mandate, is_own) {
                take_mandate(node, from, repo, mandate)?;
            }
            let place = place(node, &repo)?;
            place.say(node, from).ok_or(No::NotFound)?;
            let own = place.book().buckets().map_err(failed)?;
            let differ = (0u8..=u8::MAX).zip(own.iter().zip(&buckets)).filter(|(_, (a, b))| a != b);
            done(Reply::Buckets(differ.map(|(n, _)| n).collect()))
        }
        Question::List { repo, bucket } => {
            let place = place(node, &repo)?;
            place.say(node, from).ok_or(No::NotFound)?;
            let mut out = Vec::new();
            place.book().each_digest(Some(bucket), |id, digest| out.push((id, digest))).map_err(failed)?;
            if out.len() > BUCKET_MAX {
                tracing::warn!("a repository has more groups than partners can compare");
                return Err(No::NoSpace);
            }
            done(Reply::Entries(out))
        }
        Question::Put { repo, records } => {
            let place = place(node, &repo)?;
            let say = place.say(node, from).ok_or(No::NotFound)?;
            // Leases are never given up on another's word, except for what the owner drops.
            let word = place.word(say);
            place.book().merge(&records, word).map_err(failed)?;
            done(Reply::Done)
        }
        Question::Drop { repo, groups } => {
            let place = place(node, &repo)?;
            if matches!(place, Place::Own(_)) {
                // Another machine with the same words; what this one needs it knows itself.
                return done(Reply::Done);
            }
            if groups.len() > NAMES_MAX || place.say(node, from) != Some(Say::Owner) {
                return Err(No::BadRequest);
            }
            let mut dropped = Vec::new();
            for id in &groups {
                dropped.extend(place.book().group(id).map_err(failed)?);
            }
            let removed = place.book().change(|c| groups.iter().try_for_each(|id| c.remove_group(id)));
            removed.map_err(failed)?;
            Ok((Reply::Done, dropped))
        }
        Question::Get { repo, groups } => {
            let place = place(node, &repo)?;
            place.say(node, from).ok_or(No::NotFound)?;
            let (mut out, mut room) = (Vec::new(), RECORDS_MAX_BYTES);
            for id in groups.iter().take(NAMES_MAX) {
                let Some(record) = place.book().exchanged(id).map_err(failed)? else { continue };
                let bytes = ioex_base::wire::encode(&record).len();
                if bytes > room {
                    break;
                }
                room -= bytes;
                out.push(record);
            }
            done(Reply::Records(out))
        }
        Question::Devices { repo, devices } => {
            let place = place(node, &repo)?;
            place.say(node, from).ok_or(No::NotFound)?;
            if devices.len() > DEVICES_MAX {
                return Err(No::BadRequest);
            }
            let members = match &place {
                Place::Own(_) => own_members(node),
                Place::Watched(_, mandate) => mandate.members.clone(),
            };
            node.vault.partners.note_round(repo, from);
            let (living, now) = (node.vault.partners.living(repo, node.mesh.uid(), &members), files::now());
            // Each speaks for its own part.
            let part = |uid: &Uid| ioex_vault::health::responsible(&living, uid.as_bytes()) == Some(from);
            let put = place.book().change(|c| {
                for (uid, record) in devices.iter().filter(|(uid, _)| part(uid)) {
                    let known: Option<DeviceRecord> = c.device(uid)?;
                    if known.is_some() || c.devices()? < DEVICES_KEPT_MAX {
                        c.put_device(uid, &known.unwrap_or_default().told(record, now))?;
                    }
                }
                Ok(())
            });
            put.map_err(failed)?;
            done(Reply::Done)
        }
        Question::Leave { repo } => {
            let place = place(node, &repo)?;
            if !matches!(place, Place::Watched(..)) || place.say(node, from) != Some(Say::Owner) {
                return Err(No::BadRequest);
            }
            drop(place);
            node.vault.partners.leave(&repo).map_err(|_| No::Failed)?;
            done(Reply::Done)
        }
    }
}
