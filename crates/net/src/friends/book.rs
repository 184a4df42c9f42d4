//! The friend list: in memory for the door, on disk for good.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ioex_base::{Tag, Uid};

use super::{Friend, FriendState};
use crate::{
    random,
    state::{self, FRIENDS, SINGLES, State, StateError},
};

/// Most friends and requests: an owner has hundreds, a flood of requests stops here.
const FRIENDS_MAX: usize = 5_000;
const TAG_KEY: &[u8] = b"friend-tag";

/// All friends and requests.
#[derive(Debug)]
pub(crate) struct Book {
    state: Arc<State>,
    inner: Mutex<Inner>,
    /// One change at a time: two that read the same friend would undo each other.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    friends: BTreeMap<Uid, Friend>,
    tag: Tag,
}

impl Book {
    pub(crate) fn open(state: Arc<State>) -> Result<Self, StateError> {
        let friends: Vec<(Vec<u8>, Friend)> = state.all(FRIENDS)?;
        let tag = match state.get(SINGLES, TAG_KEY)? {
            Some(tag) => tag,
            None => {
                let tag = Tag(random::bytes());
                state.put(SINGLES, TAG_KEY, &tag)?;
                tag
            }
        };
        let friends = friends.into_iter().map(|(_, f)| (f.uid, f)).collect();
        Ok(Self { state, inner: Mutex::new(Inner { friends, tag }), turn: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tag(&self) -> Tag {
        self.lock().tag
    }

    pub(crate) async fn set_tag(&self, tag: Tag) -> Result<(), StateError> {
        state::blocking(&self.state, move |s| s.put(SINGLES, TAG_KEY, &tag)).await?;
        self.lock().tag = tag;
        Ok(())
    }

    pub(crate) fn get(&self, uid: &Uid) -> Option<Friend> {
        self.lock().friends.get(uid).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Friend> {
        self.lock().friends.values().cloned().collect()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.lock().friends.len() < FRIENDS_MAX
    }

    /// Whether the friends' door opens for `uid`: both agreed, or we asked and they now come.
    pub(crate) fn admits(&self, uid: &Uid) -> bool {
        self.lock().friends.get(uid).is_some_and(|f| f.state != FriendState::Incoming)
    }

    /// Whether both agreed.
    pub(crate) fn is_friend(&self, uid: &Uid) -> bool {
        self.lock().friends.get(uid).is_some_and(|f| f.state == FriendState::Friend)
    }

    /// Changes what is known of `uid`, on disk first. `change` gets the friend as it is and returns
    /// what it shall be; `None` changes nothing. Returns before and after.
    pub(crate) async fn change(
        &self,
        uid: &Uid,
        change: impl FnOnce(Option<Friend>) -> Option<Friend>,
    ) -> Result<(Option<Friend>, Option<Friend>), StateError> {
        let _turn = self.turn.lock().await;
        let before = self.get(uid);
        let Some(after) = change(before.clone()) else { return Ok((before.clone(), before)) };
        if before.as_ref() != Some(&after) {
            let copy = after.clone();
            state::blocking(&self.state, move |s| s.put(FRIENDS, copy.uid.as_bytes(), &copy)).await?;
            self.lock().friends.insert(after.uid, after.clone());
        }
        Ok((before, Some(after)))
    }

    /// Changes a friend that is known.
    pub(crate) async fn update(
        &self,
        uid: &Uid,
        update: impl FnOnce(&mut Friend),
    ) -> Result<Option<Friend>, StateError> {
        let changed = self.change(uid, |friend| {
            let mut friend = friend?;
            update(&mut friend);
            Some(friend)
        });
        Ok(changed.await?.1)
    }

    pub(crate) async fn remove(&self, uid: &Uid) -> Result<(), StateError> {
        let _turn = self.turn.lock().await;
        let key = *uid;
        state::blocking(&self.state, move |s| s.remove(FRIENDS, key.as_bytes())).await?;
        self.lock().friends.remove(uid);
        Ok(())
    }
}
