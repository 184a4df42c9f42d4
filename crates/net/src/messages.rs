//! Text messages between friends (requirement N6).
//!
//! A message is written to the sender's disk, then brought to the recipient, who answers only
//! once it is on *its* disk; the sender then marks it delivered. The sender tries again until
//! that happened; the random id makes repeats harmless, because a message's key on the
//! recipient's disk contains it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ioex_base::{Uid, UnixSeconds, limits::MESSAGE_MAX_BYTES};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    door::Door,
    events::MeshEvent,
    links::LinkError,
    mesh::Mesh,
    proto::{Answer, No, Open, TextMessage},
    random,
    state::{self, MESSAGES, StateError},
};

/// How far ahead of our clock a message may claim to be sent, before our own time is used.
const FUTURE_SECONDS: u64 = 3600;

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageState {
    /// On the sender's disk.
    Queued,
    /// On the recipient's disk.
    Delivered,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Chosen by the sender: time, count and random bytes, so that ids sort as messages were sent.
    pub id: [u8; 16],
    /// The other side.
    pub with: Uid,
    /// Whether it came in.
    pub incoming: bool,
    /// The text.
    pub text: String,
    /// Sender's clock.
    pub sent_at: UnixSeconds,
    /// Where it stands.
    pub state: MessageState,
}

/// Why a message was not queued: the checks of the paper's sample code (II.A (C) 2), one by one.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// No text.
    #[error("the message is empty")]
    Empty,
    /// Over the limit.
    #[error("a message may have at most {MESSAGE_MAX_BYTES} bytes, this has {0}: send it as a file")]
    TooLong(usize),
    /// The recipient is no UID.
    #[error("the recipient is no valid UID: {0}")]
    InvalidAddress(#[from] ioex_base::ParseIdError),
    /// To oneself.
    #[error("a node does not send messages to itself")]
    ToSelf,
    /// The node has not joined the network.
    #[error("this node has not joined the network yet: check `ioex status`")]
    NotJoined,
    /// The recipient is no friend.
    #[error("{0} is no friend: add it first with `ioex friend add`")]
    NotFriend(Uid),
    /// It could not be written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Key on disk: peer, time, id. Iterating gives each conversation in order.
fn key_of(message: &Message) -> Vec<u8> {
    let mut key = message.with.as_bytes().to_vec();
    key.extend_from_slice(&message.sent_at.0.to_be_bytes());
    key.push(u8::from(message.incoming));
    key.extend_from_slice(&message.id);
    key
}

/// Checks a message before it is queued, in the paper's order. Pure.
///
/// # Errors
/// The first check that fails.
pub fn check(
    to: &str,
    text: &str,
    own: &Uid,
    joined: bool,
    is_friend: impl FnOnce(&Uid) -> bool,
) -> Result<Uid, MessageError> {
    if text.is_empty() {
        return Err(MessageError::Empty);
    }
    if text.len() > MESSAGE_MAX_BYTES {
        return Err(MessageError::TooLong(text.len()));
    }
    let to: Uid = to.parse()?;
    if to == *own {
        return Err(MessageError::ToSelf);
    }
    if !joined {
        return Err(MessageError::NotJoined);
    }
    if is_friend(&to) { Ok(to) } else { Err(MessageError::NotFriend(to)) }
}

/// Messages of ours that were not delivered: their keys on disk, by friend and in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<BTreeMap<Uid, BTreeSet<Vec<u8>>>>,
    /// Friends that are being brought theirs now, and whether to look again afterwards.
    busy: Mutex<HashMap<Uid, bool>>,
    /// Time and count of the last id.
    last: Mutex<(u64, u16)>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    pub(crate) fn from_state(state: &state::State) -> Result<Self, StateError> {
        let all: Vec<(Vec<u8>, Message)> = state.all(MESSAGES)?;
        let mut waiting: BTreeMap<Uid, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (key, message) in all.into_iter().filter(|(_, m)| is_waiting(m)) {
            waiting.entry(message.with).or_default().insert(key);
        }
        Ok(Self { waiting: Mutex::new(waiting), ..Self::default() })
    }

    /// An id that sorts after all earlier ones of this run, whatever the clock does.
    fn next_id(&self, now_ms: u64, random: [u8; 6]) -> [u8; 16] {
        let mut last = lock(&self.last);
        *last = match last.1.checked_add(1) {
            Some(count) if now_ms <= last.0 => (last.0, count),
            _ => (now_ms.max(last.0 + 1), 0),
        };
        let mut id = [0; 16];
        id[..8].copy_from_slice(&last.0.to_be_bytes());
        id[8..10].copy_from_slice(&last.1.to_be_bytes());
        id[10..].copy_from_slice(&random);
        id
    }

    fn add(&self, to: Uid, key: Vec<u8>) {
        lock(&self.waiting).entry(to).or_default().insert(key);
    }

    fn delivered(&self, to: &Uid, key: &[u8]) {
        let mut waiting = lock(&self.waiting);
        if let Some(keys) = waiting.get_mut(to) {
            keys.remove(key);
            if keys.is_empty() {
                waiting.remove(to);
            }
        }
    }

    fn next(&self, to: &Uid) -> Option<Vec<u8>> {
        lock(&self.waiting).get(to)?.first().cloned()
    }

    /// Begins bringing; false when that is under way, which then looks once more.
    fn begin(&self, to: Uid) -> bool {
        let mut busy = lock(&self.busy);
        match busy.get_mut(&to) {
            Some(again) => {
                *again = true;
                false
            }
            None => {
                busy.insert(to, false);
                true
            }
        }
    }

    /// Ends bringing; true when somebody came meanwhile and it begins anew.
    fn look_again(&self, to: Uid) -> bool {
        let mut busy = lock(&self.busy);
        let again = busy.get_mut(&to).is_some_and(std::mem::take);
        if !again {
            busy.remove(&to);
        }
        again
    }
}

fn is_waiting(m: &Message) -> bool {
    !m.incoming && m.state == MessageState::Queued
}

impl Mesh {
    /// Queues a message. With a `wait`, returns when it was delivered or the time is over; the
    /// returned state says which.
    ///
    /// # Errors
    /// [`MessageError`]: nothing was queued.
    pub async fn message_send(&self, to: &str, text: &str, wait: Duration) -> Result<Message, MessageError> {
        let to = check(to, text, &self.uid(), self.joined(), |uid| self.book().is_friend(uid))?;
        let mut events = self.events();
        let message = Message {
            id: self.outbox().next_id(clock::unix_ms(), random::bytes()),
            with: to,
            incoming: false,
            text: text.to_owned(),
            sent_at: clock::unix(),
            state: MessageState::Queued,
        };
        let copy = message.clone();
        state::blocking(self.state(), move |s| s.put(MESSAGES, &key_of(&copy), &copy)).await?;
        self.outbox().add(to, key_of(&message));
        self.deliver_to(to);
        let delivered = async {
            loop {
                match events.recv().await {
                    Ok(MeshEvent::Message(m)) if m.id == message.id && !m.incoming => return,
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        if tokio::time::timeout(wait, delivered).await.is_ok() {
            return Ok(Message { state: MessageState::Delivered, ..message });
        }
        Ok(message)
    }

    /// The last `limit` messages with one friend or all, oldest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn messages(&self, with: Option<Uid>, limit: usize) -> Result<Vec<Message>, StateError> {
        let all: Vec<(Vec<u8>, Message)> = state::blocking(self.state(), |s| s.all(MESSAGES)).await?;
        let mut out: Vec<Message> =
            all.into_iter().map(|(_, m)| m).filter(|m| with.is_none_or(|w| w == m.with)).collect();
        out.sort_by_key(|m| (m.sent_at, m.id));
        let skip = out.len().saturating_sub(limit);
        Ok(out.split_off(skip))
    }

    /// Brings everything that waits to a friend, in order.
    pub(crate) async fn flush_messages(&self, to: Uid) {
        if self.outbox().next(&to).is_none() || !self.outbox().begin(to) {
            return;
        }
        loop {
            while let Some(key) = self.outbox().next(&to) {
                if let Err(e) = self.bring_waiting(to, key).await {
                    tracing::debug!("message to {} waits: {e}", to.short());
                    break;
                }
            }
            if !self.outbox().look_again(to) {
                return;
            }
        }
    }

    async fn bring_waiting(&self, to: Uid, key: Vec<u8>) -> Result<(), LinkError> {
        let wanted = key.clone();
        let read = state::blocking(self.state(), move |s| s.get::<Message>(MESSAGES, &wanted)).await;
        if let Some(message) = read.map_err(|e| LinkError::Broken(e.to_string()))?.filter(is_waiting) {
            self.bring(message).await?;
        }
        self.outbox().delivered(&to, &key);
        Ok(())
    }

    async fn bring(&self, message: Message) -> Result<(), LinkError> {
        let frame = TextMessage { id: message.id, sent_at: message.sent_at, text: message.text.clone() };
        let links = self.links()?;
        let answer = links.ask::<()>(message.with, Door::Friend, &Open::Message(frame)).await?;
        match answer {
            Answer::Yes(()) => {
                let done = Message { state: MessageState::Delivered, ..message };
                let copy = done.clone();
                let kept =
                    state::blocking(self.state(), move |s| s.put(MESSAGES, &key_of(&copy), &copy)).await;
                kept.map_err(|e| LinkError::Broken(e.to_string()))?;
                self.emit(MeshEvent::Message(done));
                Ok(())
            }
            Answer::No(no) => Err(LinkError::Broken(no.to_string())),
        }
    }

    /// A message from a friend. Returns once it is on disk.
    pub(crate) async fn take_message(&self, from: Uid, frame: TextMessage) -> Result<(), No> {
        if frame.text.is_empty() || frame.text.len() > MESSAGE_MAX_BYTES {
            return Err(No::BadRequest);
        }
        let message = Message {
            id: frame.id,
            with: from,
            incoming: true,
            text: frame.text,
            sent_at: frame.sent_at.min(clock::unix().plus(FUTURE_SECONDS)),
            state: MessageState::Delivered,
        };
        let copy = message.clone();
        let new = state::blocking(self.state(), move |s| s.put_new(MESSAGES, &key_of(&copy), &copy));
        match new.await {
            Ok(true) => {
                self.emit(MeshEvent::Message(message));
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(e) => {
                self.warn(format!("a message could not be kept, its sender will try again: {e}"));
                Err(No::Failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::NodeKey;

    use super::*;

    #[test]
    fn ids_sort_as_they_were_made_even_when_the_clock_goes_back() {
        let outbox = Outbox::default();
        let ids: Vec<[u8; 16]> = [5, 5, 4, 9, 9].map(|ms| outbox.next_id(ms, random::bytes())).into();
        assert!(ids.is_sorted());
        let many: Vec<[u8; 16]> = (0..70_000).map(|_| outbox.next_id(9, [0; 6])).collect();
        assert!(many.windows(2).all(|w| w[0] < w[1]), "the count runs over into the time");
    }

    #[test]
    fn each_check_of_the_paper_has_its_own_error_in_its_order() {
        let own = NodeKey::from_seed([1; 32]).uid();
        let friend = NodeKey::from_seed([2; 32]).uid();
        let stranger = NodeKey::from_seed([3; 32]).uid();
        let try_ = |to: &str, text: &str, joined| check(to, text, &own, joined, |u| *u == friend);
        let long = "x".repeat(MESSAGE_MAX_BYTES + 1);
        let (own_text, friend_text) = (own.to_string(), friend.to_string());
        assert!(matches!(try_("bad", "", false), Err(MessageError::Empty)));
        assert!(matches!(try_("bad", &long, false), Err(MessageError::TooLong(_))));
        assert!(matches!(try_("bad", "m", false), Err(MessageError::InvalidAddress(_))));
        assert!(matches!(try_(&own_text, "m", false), Err(MessageError::ToSelf)));
        assert!(matches!(try_(&friend_text, "m", false), Err(MessageError::NotJoined)));
        assert!(matches!(try_(&stranger.to_string(), "m", true), Err(MessageError::NotFriend(_))));
        assert_eq!(try_(&friend_text, &long[1..], true).unwrap(), friend);
    }
}
