//! Bringing the shards of one group to their devices, none of which is waited for longer than it is
//! worth.
//!
//! All devices begin at once. One that refuses is replaced. One that takes much longer than others took is
//! replaced as well, and may still come first: as soon as enough have theirs, nobody else is waited for.
//! Whoever was too slow comes last in what follows.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Mutex, PoisonError},
};

use ioex_base::{ContentAddress, Uid};
use ioex_vault::{Placer, Redundancy};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{Patience, PlacedGroup, refusal};

/// What is to be brought.
pub(super) struct Load {
    pub(super) redundancy: Redundancy,
    /// An address of the group, the same whenever devices for it are chosen, and the length in bytes of
    /// its longest shard.
    pub(super) what: (ContentAddress, u64),
    /// Devices that have some of it already.
    pub(super) keep: Vec<Uid>,
    /// Devices that get nothing of it.
    pub(super) avoid: Vec<Uid>,
    /// When so many are there, the rest is not waited for: whole copies, or different shards.
    pub(super) enough: usize,
}

/// A device that is being given a shard.
struct Attempt {
    at: u16,
    begun: Instant,
    /// Another one was looked for in its place.
    doubted: bool,
    abort: AbortHandle,
}

/// Which shard went to which device, or why not.
type Ended = (u16, Uid, Option<String>);

struct Bringing<'a, P> {
    placer: &'a Mutex<Placer>,
    load: &'a Load,
    /// Gives a device a shard, by number, and says why it was not taken.
    put: P,
    running: JoinSet<Ended>,
    open: HashMap<Uid, Attempt>,
    /// Everybody who has something, or was asked, and did not fail.
    asked: Vec<Uid>,
    failed: Vec<Uid>,
    patience: Patience,
}

/// Brings shards to devices; `wanted` says which to whom at first.
pub(super) async fn bring<P, F>(
    placer: &Mutex<Placer>,
    load: &Load,
    wanted: Vec<(u16, Uid)>,
    put: P,
    out: &mut PlacedGroup,
) where
    P: Fn(u16, Uid) -> F,
    F: Future<Output = Option<String>> + Send + 'static,
{
    let mut all = Bringing {
        placer,
        load,
        put,
        running: JoinSet::new(),
        open: HashMap::new(),
        asked: load.keep.clone(),
        failed: load.avoid.clone(),
        patience: Patience::new(Instant::now().into_std(), load.what.1 * wanted.len() as u64),
    };
    for (at, uid) in wanted {
        all.begin(at, uid);
    }
    all.run(out).await;
}

impl<P, F> Bringing<'_, P>
where
    P: Fn(u16, Uid) -> F,
    F: Future<Output = Option<String>> + Send + 'static,
{
    fn with_placer<T>(&self, work: impl FnOnce(&mut Placer) -> T) -> T {
        work(&mut self.placer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&mut self, at: u16, uid: Uid) {
        let putting = (self.put)(at, uid);
        let abort = self.running.spawn(async move { (at, uid, putting.await) });
        self.open.insert(uid, Attempt { at, begun: Instant::now(), doubted: false, abort });
        self.asked.push(uid);
    }

    /// Gives a shard to one more device; `false` when there is none.
    fn begin_elsewhere(&mut self, at: u16, out: &mut PlacedGroup) -> bool {
        let (redundancy, what) = (self.load.redundancy, self.load.what);
        let found = self.with_placer(|p| p.more(redundancy, what, &self.asked, &self.failed, 1)).pop();
        let Some(other) = found else { return false };
        out.same_domain |= other.same_domain;
        self.begin(at, other.uid);
        self.patience.begun(Instant::now().into_std());
        true
    }

    /// How many are still missing.
    fn missing(&self, out: &PlacedGroup) -> usize {
        let there = if self.load.redundancy.is_whole_copies() {
            out.copies.len()
        } else {
            out.copies.iter().map(|(at, _)| at).collect::<HashSet<_>>().len()
        };
        self.load.enough.saturating_sub(there)
    }

    async fn run(&mut self, out: &mut PlacedGroup) {
        // Whether somebody could be found in the place of whoever is slow.
        let mut others = true;
        loop {
            let complete = self.missing(out) == 0;
            if complete && self.open.keys().all(|uid| self.with_placer(|p| p.is_slow(uid))) {
                return;
            }
            let until = if complete || others { self.patience.until() } else { self.patience.at_last() };
            match tokio::time::timeout_at(until.into(), self.running.join_next()).await {
                Ok(None) => return,
                Ok(Some(Ok(ended))) => others |= self.ended(ended, out),
                // Aborted, because another device has the shard.
                Ok(Some(Err(_))) => {}
                Err(_) if !complete && !others => return self.give_up(out),
                Err(_) => {
                    for uid in self.open.keys() {
                        self.with_placer(|p| p.set_slow(uid, true));
                    }
                    if complete {
                        return;
                    }
                    others = self.double(out);
                }
            }
        }
    }

    /// Takes note of how it went with a device; `true` when another one was asked instead.
    fn ended(&mut self, (at, uid, why): Ended, out: &mut PlacedGroup) -> bool {
        let Some(attempt) = self.open.remove(&uid) else { return false };
        let Some(why) = why else {
            self.patience.done(attempt.begun.into_std(), Instant::now().into_std());
            self.with_placer(|p| p.set_slow(&uid, false));
            out.copies.push((at, uid));
            if !self.load.redundancy.is_whole_copies() {
                // Whoever else was to have the same shard need not.
                for (other, attempt) in self.open.iter().filter(|(_, attempt)| attempt.at == at) {
                    attempt.abort.abort();
                    self.with_placer(|p| p.set_slow(other, true));
                }
                self.open.retain(|_, attempt| attempt.at != at);
            }
            return false;
        };
        out.notes.push(refusal(&uid, &why));
        self.asked.retain(|asked| *asked != uid);
        self.failed.push(uid);
        self.with_placer(|p| p.set_free_bytes(&uid, 0));
        // Somebody else may be on the way already.
        !attempt.doubted && self.begin_elsewhere(at, out)
    }

    /// Nobody else is there, and these had their time.
    fn give_up(&mut self, out: &mut PlacedGroup) {
        for uid in self.open.keys() {
            out.notes.push(refusal(uid, "it took too long"));
            self.with_placer(|p| p.set_free_bytes(uid, 0));
        }
    }

    /// Asks others in the place of those that take long; `false` when there is nobody.
    fn double(&mut self, out: &mut PlacedGroup) -> bool {
        let missing = self.missing(out);
        let slow = self.open.iter().filter(|(_, attempt)| !attempt.doubted);
        let mut slow: Vec<_> = slow.map(|(uid, attempt)| (attempt.begun, *uid, attempt.at)).collect();
        slow.sort_unstable();
        let mut found = false;
        for (_, uid, at) in slow.into_iter().take(missing) {
            if let Some(attempt) = self.open.get_mut(&uid) {
                attempt.doubted = true;
            }
            found |= self.begin_elsewhere(at, out);
        }
        found
    }
}

#[cfg(test)]
mod tests;
