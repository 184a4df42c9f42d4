//! Friends: nodes that both agreed to talk to each other (requirement N5).
//!
//! A asks B with B's friend address; B's owner accepts or refuses. From A's side B counts as a
//! friend from the moment A asked, because A agreed; from B's side once B accepted. B shows its
//! acceptance by coming through A's friends' door, which only an accepting node does. Pairing
//! (module [`pairing`]) makes both agree at once.

mod book;
pub mod pairing;
pub(crate) mod presence;

use ioex_base::{FriendAddress, FriendAddressError, NodeKind, Tag, Uid, UnixSeconds, limits};
use serde::{Deserialize, Serialize};

pub(crate) use self::book::Book;
use crate::{
    clock,
    door::{Door, Refusal},
    events::MeshEvent,
    links::LinkError,
    mesh::Mesh,
    proto::{Answer, FriendRequest, No, Open},
    random,
    state::StateError,
};

/// Where a friendship stands. The discriminants are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FriendState {
    /// We asked.
    Requested,
    /// They asked.
    Incoming,
    /// Both agreed.
    Friend,
}

/// A friend, or somebody who wants to be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Friend {
    /// Who.
    pub uid: Uid,
    /// The friend's name for itself.
    pub name: String,
    /// The owner's remark, kept only here.
    pub label: String,
    /// Where the friendship stands.
    pub state: FriendState,
    /// The greeting of a request.
    pub greeting: String,
    /// What it does, once known.
    pub kind: Option<NodeKind>,
    /// When it was last connected.
    pub last_seen: Option<UnixSeconds>,
    /// The tag for a request that was not delivered yet.
    pub undelivered: Option<Tag>,
}

impl Friend {
    /// Somebody of whom nothing is known but the UID.
    pub(crate) fn new(uid: Uid, state: FriendState) -> Self {
        Self {
            uid,
            name: String::new(),
            label: String::new(),
            state,
            greeting: String::new(),
            kind: None,
            last_seen: None,
            undelivered: None,
        }
    }
}

/// Why a friendship could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FriendError {
    /// The address is mistyped.
    #[error(transparent)]
    Address(#[from] FriendAddressError),
    /// It is the own address.
    #[error("this is your own friend address: a node is no friend of itself")]
    Own,
    /// The greeting or label is too long.
    #[error("{what} may have at most {max} bytes, this has {got}")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its bound.
        max: usize,
        /// Its length.
        got: usize,
    },
    /// Nobody by that UID.
    #[error("{0} is neither a friend nor did it ask to be one")]
    Unknown(Uid),
    /// Bootstraps have no friends.
    #[error("a bootstrap node has no friends")]
    Bootstrap,
    /// The other node said no.
    #[error("the other node refused: {0}")]
    No(#[from] No),
    /// The request is on disk and will be delivered when the other node is there.
    #[error("the request is kept and will be delivered when {0} can be reached ({1})")]
    Later(Uid, LinkError),
    /// The state could not be written.
    #[error(transparent)]
    State(#[from] StateError),
}

fn bounded(what: &'static str, text: &str, max: usize) -> Result<(), FriendError> {
    if text.len() > max { Err(FriendError::TooLong { what, max, got: text.len() }) } else { Ok(()) }
}

/// Cuts a text from the wire to a bound, at a character, and drops control characters.
pub(crate) fn tidy_text(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

impl Mesh {
    /// The own friend address, with the current tag.
    #[must_use]
    pub fn friend_address(&self) -> FriendAddress {
        FriendAddress::new(self.uid(), self.book().tag())
    }

    /// Replaces the tag: copies of the old address stop working for new requests.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub async fn rotate_tag(&self) -> Result<FriendAddress, StateError> {
        self.book().set_tag(Tag(random::bytes())).await?;
        Ok(self.friend_address())
    }

    /// Friends and requests, in order of UID.
    #[must_use]
    pub fn friends(&self) -> Vec<Friend> {
        self.book().all()
    }

    /// Asks the owner of `address` for friendship.
    ///
    /// # Errors
    /// [`FriendError::Later`] when the request is kept for delivery; any other error means that
    /// nothing was asked.
    pub async fn friend_add(&self, address: &str, greeting: &str) -> Result<Uid, FriendError> {
        let address: FriendAddress = address.parse()?;
        bounded("a greeting", greeting, limits::GREETING_MAX_BYTES)?;
        if address.uid == self.uid() {
            return Err(FriendError::Own);
        }
        if !self.config().kind_takes_friends() {
            return Err(FriendError::Bootstrap);
        }
        match self.book().get(&address.uid) {
            Some(known) if known.state == FriendState::Friend => return Ok(address.uid),
            Some(known) if known.state == FriendState::Incoming => {
                self.friend_accept(address.uid).await?;
                return Ok(address.uid);
            }
            _ => {}
        }
        let asked = self.book().change(&address.uid, |known| match known {
            // They asked, or accepted, meanwhile.
            Some(known) if known.state != FriendState::Requested => None,
            _ => Some(Friend {
                greeting: greeting.to_owned(),
                undelivered: Some(address.tag),
                ..Friend::new(address.uid, FriendState::Requested)
            }),
        });
        asked.await?;
        match self.deliver_request(address.uid).await {
            Ok(()) => Ok(address.uid),
            Err(FriendError::Later(uid, e)) => {
                self.wake_presence_for(uid);
                Err(FriendError::Later(uid, e))
            }
            Err(e) => {
                self.book().remove(&address.uid).await?;
                Err(e)
            }
        }
    }

    /// Brings a kept request to its recipient.
    pub(crate) async fn deliver_request(&self, uid: Uid) -> Result<(), FriendError> {
        let Some(friend) = self.book().get(&uid) else { return Err(FriendError::Unknown(uid)) };
        let Some(tag) = friend.undelivered else { return Ok(()) };
        let request = Open::FriendRequest(FriendRequest {
            tag,
            name: self.config().name.clone(),
            greeting: friend.greeting.clone(),
        });
        let later = |e| FriendError::Later(uid, e);
        let links = self.links().map_err(later)?;
        match links.ask::<()>(uid, Door::Public, &request).await.map_err(later)? {
            Answer::Yes(()) => {
                self.book().update(&uid, |f| f.undelivered = None).await?;
                Ok(())
            }
            Answer::No(no) => Err(no.into()),
        }
    }

    /// Accepts a request that came in.
    ///
    /// # Errors
    /// When there is none from `uid`, or the state cannot be written.
    pub async fn friend_accept(&self, uid: Uid) -> Result<(), FriendError> {
        match self.book().get(&uid).map(|f| f.state) {
            Some(FriendState::Friend) => return Ok(()),
            Some(FriendState::Incoming) => {}
            Some(FriendState::Requested) | None => return Err(FriendError::Unknown(uid)),
        }
        self.befriend(uid, None).await?;
        Ok(())
    }

    /// Makes `uid` a friend and tells everybody here.
    pub(crate) async fn befriend(&self, uid: Uid, name: Option<String>) -> Result<(), StateError> {
        let (before, after) = self
            .book()
            .change(&uid, |known| {
                let mut friend = known.unwrap_or_else(|| Friend::new(uid, FriendState::Friend));
                friend.state = FriendState::Friend;
                friend.undelivered = None;
                friend.name = name.unwrap_or(friend.name);
                Some(friend)
            })
            .await?;
        let was_friend = before.is_some_and(|f| f.state == FriendState::Friend);
        let Some(friend) = after else { return Ok(()) };
        if !was_friend {
            self.emit(MeshEvent::FriendAdded(uid));
            self.emit(MeshEvent::FriendInfo(friend));
            self.wake_presence_for(uid);
        }
        Ok(())
    }

    /// Refuses a request; the asker is not told.
    ///
    /// # Errors
    /// When there is none from `uid`, or the state cannot be written.
    pub async fn friend_refuse(&self, uid: Uid) -> Result<(), FriendError> {
        match self.book().get(&uid).map(|f| f.state) {
            Some(FriendState::Incoming) => Ok(self.book().remove(&uid).await?),
            _ => Err(FriendError::Unknown(uid)),
        }
    }

    /// Ends a friendship. Links to that node close at once.
    ///
    /// # Errors
    /// When `uid` is unknown, or the state cannot be written.
    pub async fn friend_remove(&self, uid: Uid) -> Result<(), FriendError> {
        if self.book().get(&uid).is_none() {
            return Err(FriendError::Unknown(uid));
        }
        self.book().remove(&uid).await?;
        self.transfers_part(uid).await;
        if let Ok(links) = self.links() {
            links.close(&uid, Door::Friend, Refusal::NotFriend.code());
        }
        self.emit(MeshEvent::FriendRemoved(uid));
        Ok(())
    }

    /// Sets the remark on a friend; empty removes it.
    ///
    /// # Errors
    /// When the remark is too long or `uid` unknown.
    pub async fn friend_label(&self, uid: Uid, label: &str) -> Result<(), FriendError> {
        bounded("a label", label, limits::LABEL_MAX_BYTES)?;
        let label = label.to_owned();
        match self.book().update(&uid, |f| f.label = label).await? {
            Some(friend) => {
                self.emit(MeshEvent::FriendInfo(friend));
                Ok(())
            }
            None => Err(FriendError::Unknown(uid)),
        }
    }

    /// A request from the wire; the door has let it in.
    pub(crate) async fn take_friend_request(&self, from: Uid, request: FriendRequest) -> Result<(), No> {
        let name = tidy_text(&request.name, limits::LABEL_MAX_BYTES);
        match self.book().get(&from).map(|f| f.state) {
            // Both asked: both agreed.
            Some(FriendState::Requested) => {
                self.befriend(from, Some(name)).await.map_err(|_| No::Failed)?;
                return Ok(());
            }
            Some(FriendState::Friend | FriendState::Incoming) => return Ok(()),
            None => {}
        }
        if !self.book().has_room() {
            return Err(No::NoSpace);
        }
        let asker = Friend {
            name,
            greeting: tidy_text(&request.greeting, limits::GREETING_MAX_BYTES),
            last_seen: Some(clock::unix()),
            ..Friend::new(from, FriendState::Incoming)
        };
        let kept = self.book().change(&from, |known| known.is_none().then_some(asker));
        let (before, after) = kept.await.map_err(|_| No::Failed)?;
        let (None, Some(friend)) = (before, after) else { return Ok(()) };
        self.emit(MeshEvent::FriendRequest(friend));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::tidy_text;

    #[test]
    fn texts_from_the_wire_are_cut_at_a_character() {
        assert_eq!(tidy_text("aé\u{7}b", 3), "aé");
        assert_eq!(tidy_text("\u{1b}[31mred", 20), "[31mred");
    }
}
