//! Text messages between friends (requirement N6).
//!
//! A message is written to the sender's disk, then brought to the recipient, who answers only
//! once it is on *its* disk; the sender then marks it delivered. The sender tries again until
//! that happened; the random id makes repeats harmless, because a message's key on the
//! recipient's disk contains it.

use std::{
    collections::BTreeSet,
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
    /// Random, chosen by the sender.
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

/// Which friends have messages waiting, so that the disk is read only then.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<BTreeSet<Uid>>,
}

impl Outbox {
    pub(crate) fn from_state(state: &state::State) -> Result<Self, StateError> {
        let all: Vec<(Vec<u8>, Message)> = state.all(MESSAGES)?;
        let queued = all.into_iter().map(|(_, m)| m).filter(is_waiting).map(|m| m.with).collect();
        Ok(Self { waiting: Mutex::new(queued) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<Uid>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, uid: &Uid) -> bool {
        self.lock().contains(uid)
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
            id: random::bytes(),
            with: to,
            incoming: false,
            text: text.to_owned(),
            sent_at: clock::unix(),
            state: MessageState::Queued,
        };
        let copy = message.clone();
        state::blocking(self.state(), move |s| s.put(MESSAGES, &key_of(&copy), &copy)).await?;
        self.outbox().lock().insert(to);
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
        out.sort_by_key(|m| m.sent_at);
        let skip = out.len().saturating_sub(limit);
        Ok(out.split_off(skip))
    }

    /// Brings everything that waits to a friend, in order, in the background.
    pub(crate) async fn flush_messages(&self, to: Uid) {
        if !self.outbox().has(&to) {
            return;
        }
        let Some(_turn) = self.flush_turn(to) else { return };
        loop {
            let queued: Vec<Message> = match self.messages(Some(to), usize::MAX).await {
                Ok(all) => all.into_iter().filter(is_waiting).collect(),
                Err(e) => {
                    self.warn(format!("waiting messages cannot be read: {e}"));
                    return;
                }
            };
            if queued.is_empty() {
                let mut waiting = self.outbox().lock();
                waiting.remove(&to);
                return;
            }
            for message in queued {
                if let Err(e) = self.bring(message).await {
                    tracing::debug!("message to {} waits: {e}", to.short());
                    return;
                }
            }
        }
    }

    async fn bring(&self, message: Message) -> Result<(), LinkError> {
        let frame = TextMessage { id: message.id, sent_at: message.sent_at, text: message.text.clone() };
        let links = self.links()?;
        let answer = links.ask::<()>(message.with, Door::Friend, &Open::Message(frame)).await?;
        match answer {
            Answer::Yes(()) => {
                let done = Message { state: MessageState::Delivered, ..message };
                let copy = done.clone();
                let kept = state::blocking(self.state(), move |s| s.put(MESSAGES, &key_of(&copy), &copy)).await;
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
        let new = state::blocking(self.state(), move |s| {
            let key = key_of(&copy);
            let known = s.get::<Message>(MESSAGES, &key)?.is_some();
            if !known {
                s.put(MESSAGES, &key, &copy)?;
            }
            Ok(!known)
        });
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
