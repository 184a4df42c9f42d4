//! Keeps links to friends open, and brings them what waits for them.
//!
//! Each friend that is not connected is dialled with growing pauses. Whoever dials says hello;
//! the other side answers with its own. A link that opened delivers waiting messages and offers.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ioex_base::{Uid, limits};
use iroh::endpoint::Connection;
use tokio_util::sync::CancellationToken;

use super::{Friend, FriendState, tidy_text};
use crate::{
    clock,
    door::Door,
    events::MeshEvent,
    links::{LinkError, Links, PathKind, path_of, uid_of},
    mesh::Mesh,
    proto::{Answer, Hello, No, Open},
};

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

    fn failed(&mut self, now_ms: u64, min_ms: u64, max_ms: u64) {
        self.pause_ms = (self.pause_ms * 2).clamp(min_ms, max_ms);
        self.next_ms = now_ms + self.pause_ms;
    }
}

/// Whom to try again at once.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) all: bool,
    pub(crate) uids: HashSet<Uid>,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Runs until cancelled.
pub(crate) async fn run(mesh: Mesh, cancel: CancellationToken) {
    let timing = mesh.config().timing;
    let (min_ms, max_ms) =
        (ms(timing.friend_retry_min), ms(timing.friend_retry_max.max(timing.friend_retry_min)));
    let mut waits: HashMap<Uid, Backoff> = HashMap::new();
    let mut dials = tokio::task::JoinSet::new();
    let mut dialling: HashSet<Uid> = HashSet::new();
    loop {
        let now_ms = clock::monotonic_ms();
        let mut next_ms = now_ms + max_ms;
        for friend in mesh.friends() {
            let connected = mesh.links().is_ok_and(|l| l.existing(&friend.uid, Door::Friend).is_some());
            let done = connected && friend.state == FriendState::Friend && friend.undelivered.is_none();
            if friend.state == FriendState::Incoming || done {
                waits.remove(&friend.uid);
                continue;
            }
            let wait = waits.entry(friend.uid).or_default();
            if !wait.due(now_ms) {
                next_ms = next_ms.min(wait.next_ms);
            } else if dialling.len() < DIALS_AT_ONCE && dialling.insert(friend.uid) {
                let mesh = mesh.clone();
                dials.spawn(async move { (friend.uid, mesh.reach(friend.uid).await) });
            }
        }
        let pause = Duration::from_millis(next_ms.saturating_sub(clock::monotonic_ms()));
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            Some(done) = dials.join_next() => {
                let Ok((uid, result)) = done else { continue };
                dialling.remove(&uid);
                match result {
                    Ok(()) => { waits.remove(&uid); }
                    Err(e) => {
                        tracing::debug!("friend {} not reached: {e}", uid.short());
                        waits.entry(uid).or_default().failed(clock::monotonic_ms(), min_ms, max_ms);
                    }
                }
            }
            wake = mesh.presence_woken() => {
                if wake.all {
                    waits.clear();
                }
                for uid in wake.uids {
                    waits.remove(&uid);
                }
            }
        }
    }
}

impl Mesh {
    /// Opens the friends' door of `uid`, if it is not open, and says hello.
    pub(crate) async fn reach(&self, uid: Uid) -> Result<(), LinkError> {
        let friend = self.book().get(&uid);
        if friend.as_ref().is_some_and(|f| f.undelivered.is_some())
            && let Err(e) = self.deliver_request(uid).await
        {
            tracing::debug!("request to {} not delivered: {e}", uid.short());
        }
        let links = self.links()?;
        // Whoever dials says hello (see [`Mesh::greet`]); this shows whether we are let in.
        match links.ask::<()>(uid, Door::Friend, &Open::Ping).await? {
            Answer::Yes(()) => Ok(()),
            Answer::No(No::Refused(code)) => Err(LinkError::Refused(code)),
            Answer::No(no) => Err(LinkError::Broken(no.to_string())),
        }
    }

    /// Says hello on a connection that this node dialled.
    pub(crate) async fn greet(&self, conn: &Connection) -> Result<(), LinkError> {
        let uid = uid_of(conn.remote_id());
        match Links::ask_on(conn, &Open::Hello(self.hello())).await? {
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
        let seen = clock::unix();
        let update = self.book().change(&uid, |known| {
            let mut friend = known?;
            if friend.state == FriendState::Requested {
                // We asked, and only a node that accepted gets here or lets us in.
                friend.state = FriendState::Friend;
                friend.undelivered = None;
            }
            friend.name = name;
            friend.kind = Some(hello.kind);
            friend.last_seen = Some(seen);
            Some(friend)
        });
        match update.await {
            Ok((Some(before), Some(after))) => {
                if before.state != after.state {
                    self.emit(MeshEvent::FriendAdded(uid));
                }
                let seen_then = Friend { last_seen: before.last_seen, ..after.clone() };
                if seen_then != before {
                    self.emit(MeshEvent::FriendInfo(after));
                }
            }
            Ok(_) => {}
            Err(e) => self.warn(format!("a friend's news could not be kept: {e}")),
        }
        if self.present().insert(uid) {
            let path = self.path_to(&uid);
            self.emit(MeshEvent::FriendConnection { uid, online: true, path });
        }
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
        let still = self.links().is_ok_and(|l| l.existing(&uid, Door::Friend).is_some());
        // A connection that was refused was never a friend's link.
        if still || !self.present().remove(&uid) {
            return;
        }
        let seen = clock::unix();
        if let Err(e) = self.book().update(&uid, |f| f.last_seen = Some(seen)).await {
            self.warn(format!("a friend's news could not be kept: {e}"));
        }
        self.emit(MeshEvent::FriendConnection { uid, online: false, path: PathKind::None });
        self.wake_presence_for(uid);
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
            wait.failed(now, 2_000, 300_000);
            pauses.push(wait.next_ms - now);
            assert!(!wait.due(wait.next_ms - 1) && wait.due(wait.next_ms));
            now = wait.next_ms;
        }
        assert_eq!(pauses[..3], [2_000, 4_000, 8_000]);
        assert_eq!(pauses[11], 300_000);
    }
}
