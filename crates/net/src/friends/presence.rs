//! Keeps links to friends open, and brings them what waits for them.
//!
//! Each friend that is not connected is dialled with growing pauses. Whoever dials says hello;
//! the other side answers with its own. A link that opened delivers waiting messages and offers.

use std::{collections::HashMap, time::Duration};

use ioex_base::{Uid, limits};
use tokio_util::sync::CancellationToken;

use super::{FriendState, tidy_text};
use crate::{
    clock,
    door::{Door, Refusal},
    events::MeshEvent,
    links::{LinkError, PathKind, path_of},
    mesh::Mesh,
    proto::{Answer, Hello, No, Open},
};

/// First pause after a friend could not be reached.
const RETRY_MIN_MS: u64 = 2_000;
/// Longest pause: an offline friend costs a lookup every five minutes.
const RETRY_MAX_MS: u64 = 300_000;
/// How many friends are dialled at once.
const DIALS_AT_ONCE: usize = 8;

/// When to try a friend again. Pure.
#[derive(Debug, Default)]
struct Backoff {
    next_ms: u64,
    pause_ms: u64,
}

impl Backoff {
    fn due(&self, now_ms: u64) -> bool {
        now_ms >= self.next_ms
    }

    fn failed(&mut self, now_ms: u64) {
        self.pause_ms = (self.pause_ms * 2).clamp(RETRY_MIN_MS, RETRY_MAX_MS);
        self.next_ms = now_ms + self.pause_ms;
    }
}

/// Runs until cancelled.
pub(crate) async fn run(mesh: Mesh, cancel: CancellationToken) {
    let mut waits: HashMap<Uid, Backoff> = HashMap::new();
    loop {
        let now_ms = clock::monotonic_ms();
        let mut due = Vec::new();
        let mut next_ms = now_ms + RETRY_MAX_MS;
        for friend in mesh.friends() {
            let connected =
                mesh.links().is_ok_and(|l| l.existing(&friend.uid, Door::Friend).is_some());
            if friend.state == FriendState::Incoming || connected {
                waits.remove(&friend.uid);
                continue;
            }
            let wait = waits.entry(friend.uid).or_default();
            if wait.due(now_ms) && due.len() < DIALS_AT_ONCE {
                due.push(friend.uid);
            } else {
                next_ms = next_ms.min(wait.next_ms.max(now_ms + 100));
            }
        }
        let mut dials = tokio::task::JoinSet::new();
        for uid in due {
            let mesh = mesh.clone();
            dials.spawn(async move { (uid, mesh.reach(uid).await) });
        }
        while let Some(done) = dials.join_next().await {
            let Ok((uid, result)) = done else { continue };
            match result {
                Ok(()) => {
                    waits.remove(&uid);
                }
                Err(e) => {
                    tracing::debug!("friend {} not reached: {e}", uid.short());
                    let wait = waits.entry(uid).or_default();
                    wait.failed(clock::monotonic_ms());
                    next_ms = next_ms.min(wait.next_ms);
                }
            }
        }
        let pause = Duration::from_millis(next_ms.saturating_sub(clock::monotonic_ms()));
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = mesh.presence_woken() => {
                // Something changed (a friend was added, the network is back): try all at once.
                waits.clear();
            }
        }
    }
}

impl Mesh {
    /// Opens the friends' door of `uid`, if it is not open, and says hello.
    pub(crate) async fn reach(&self, uid: Uid) -> Result<(), LinkError> {
        let friend = self.book().get(&uid);
        if friend.as_ref().is_some_and(|f| f.undelivered.is_some()) {
            if let Err(e) = self.deliver_request(uid).await {
                tracing::debug!("request to {} not delivered: {e}", uid.short());
            }
        }
        let links = self.links()?;
        let hello = Open::Hello(self.hello());
        match links.ask::<Hello>(uid, Door::Friend, &hello).await? {
            Answer::Yes(theirs) => {
                self.met(uid, theirs).await;
                Ok(())
            }
            Answer::No(No::Refused(code)) => Err(LinkError::Refused(code)),
            Answer::No(no) => Err(LinkError::Broken(no.to_string())),
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello { name: self.config().name.clone(), kind: self.config().kind, instance: self.instance() }
    }

    /// A friend said hello: it is online, and a request that we made is now a friendship.
    pub(crate) async fn met(&self, uid: Uid, hello: Hello) {
        let name = tidy_text(&hello.name, limits::LABEL_MAX_BYTES);
        if self.note_instance(uid, hello.instance) {
            self.warn(format!(
                "two nodes use the key of your friend {}: one of them runs from a copied data folder",
                uid.short()
            ));
        }
        if self.book().get(&uid).is_some_and(|f| f.state == FriendState::Requested) {
            if let Err(e) = self.befriend(uid, Some(name.clone())).await {
                self.warn(format!("a new friendship could not be kept: {e}"));
            }
        }
        let changed = self.book().get(&uid).is_some_and(|f| f.name != name || f.kind != Some(hello.kind));
        let seen = clock::unix();
        let update = self.book().update(&uid, |f| {
            f.name = name;
            f.kind = Some(hello.kind);
            f.last_seen = Some(seen);
        });
        match update.await {
            Ok(Some(friend)) if changed => self.emit(MeshEvent::FriendInfo(friend)),
            Ok(_) => {}
            Err(e) => self.warn(format!("a friend's news could not be kept: {e}")),
        }
        let path = self.path_to(&uid);
        self.emit(MeshEvent::FriendConnection { uid, online: true, path });
        self.deliver_to(uid);
    }

    /// The path to a friend now.
    #[must_use]
    pub fn path_to(&self, uid: &Uid) -> PathKind {
        let conn = self.links().ok().and_then(|l| l.existing(uid, Door::Friend));
        conn.map_or(PathKind::None, |c| path_of(&c).0)
    }

    /// A friend's link ended.
    pub(crate) async fn parted(&self, uid: Uid) {
        if !self.book().is_friend(&uid) {
            return;
        }
        let still = self.links().is_ok_and(|l| l.existing(&uid, Door::Friend).is_some());
        if still {
            return;
        }
        let seen = clock::unix();
        if let Err(e) = self.book().update(&uid, |f| f.last_seen = Some(seen)).await {
            self.warn(format!("a friend's news could not be kept: {e}"));
        }
        self.emit(MeshEvent::FriendConnection { uid, online: false, path: PathKind::None });
        self.wake_presence();
    }

    /// Whether a refusal means that the other side is no friend any more.
    #[must_use]
    pub(crate) fn refused_as_stranger(e: &LinkError) -> bool {
        matches!(e, LinkError::Refused(code) if *code == Refusal::NotFriend.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut wait = Backoff::default();
        assert!(wait.due(0));
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            wait.failed(now);
            pauses.push(wait.next_ms - now);
            assert!(!wait.due(wait.next_ms - 1) && wait.due(wait.next_ms));
            now = wait.next_ms;
        }
        assert_eq!(pauses[..3], [2_000, 4_000, 8_000]);
        assert_eq!(pauses[11], RETRY_MAX_MS);
    }
}
