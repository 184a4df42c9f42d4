//! What the maker published: asked of mirrors, and decided upon.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use ioex_api::ApiError;
use ioex_base::Uid;
use ioex_net::{
    LinkError, Mesh,
    proto::{ChannelAsk, ChannelFiles},
};
use ioex_ota::{Clock, Metadata, Refusal, Trust, Verdict, Version, policy::Effort};

use super::{Answer, Device, LOOK_AGAIN_SECONDS, MIRROR_TIMEOUT, MIRRORS_MAX, State, Step};
use crate::node::{files, lock, ota::Ota};

/// How long a look may take for which an owner waits who wants what is offered, in all: after that it begins with what
/// is known.
const OWNER_LOOK_MAX: Duration = Duration::from_secs(15);
/// How much of that one mirror may take, so that others are asked when the first one is silent.
const OWNER_MIRROR_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an owner's yes may wait for what comes of it: a look, and the matchers' first answers.
const OWNER_ANSWER_MAX: Duration = Duration::from_secs(20);
const _: () = assert!(
    OWNER_MIRROR_TIMEOUT.as_secs() < OWNER_LOOK_MAX.as_secs()
        && OWNER_LOOK_MAX.as_secs() < OWNER_ANSWER_MAX.as_secs()
);

/// How long a look may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For one mirror.
    each: Duration,
    /// For all of it.
    until: Option<Instant>,
}

impl Patience {
    fn new(owner_waits: bool) -> Self {
        if owner_waits {
            Self { each: OWNER_MIRROR_TIMEOUT, until: Some(Instant::now() + OWNER_LOOK_MAX) }
        } else {
            Self { each: MIRROR_TIMEOUT, until: None }
        }
    }

    /// What is left of it at `now`; nothing when it is over.
    fn left(&self, now: Instant) -> Option<Duration> {
        let Some(until) = self.until else { return Some(Duration::MAX) };
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

/// Metadata of which nothing comes for this device.
pub(crate) struct Unfit {
    /// For people.
    pub(crate) why: String,
    /// Whether it is the maker's word nevertheless, and has no version for this device.
    holds: bool,
}

/// Why a mirror had nothing; for people.
enum Miss {
    /// It did not answer.
    Silent(String),
    /// What it has does not hold.
    Unfit(String),
}

impl Device {
    /// Asks mirrors for the channel until one has something that holds; not for long when its owner waits.
    pub(super) async fn look(self: &Arc<Self>, ota: &Arc<Ota>, owner_waits: bool) -> anyhow::Result<()> {
        let Some(mesh) = ota.mesh().cloned() else { return Ok(()) };
        let patience = Patience::new(owner_waits);
        let mut known = self.bundle.matchers.clone();
        known.extend(self.read(|state| {
            state.release.iter().flat_map(|release| release.matchers.clone()).collect::<Vec<_>>()
        }));
        let (mut seen, mut problem) = (HashSet::from([mesh.uid()]), None);
        // The directory takes its time, and is asked only when those who have to know do not answer.
        for are_known in [true, false] {
            let left = patience.left(Instant::now());
            let mirrors = match (are_known, left) {
                (true, _) => std::mem::take(&mut known),
                (false, Some(left)) => {
                    let holders = tokio::time::timeout(left, ota.holders(self.bundle.channel));
                    holders.await.unwrap_or_default()
                }
                (false, None) => Vec::new(),
            };
            for mirror in mirrors {
                // This node is one of those that were seen.
                if seen.len() > MIRRORS_MAX || !seen.insert(mirror) {
                    continue;
                }
                let Some(left) = patience.left(Instant::now()) else { break };
                match self.look_at(ota, &mesh, mirror, left.min(patience.each)).await? {
                    Ok(()) => return Ok(()),
                    Err(Miss::Silent(why)) => problem = problem.or(Some(why)),
                    Err(Miss::Unfit(why)) => problem = Some(why),
                }
            }
        }
        let why = problem.unwrap_or_else(|| "no node that carries the channel was found".to_owned());
        self.change(move |state| {
            // Soon again, but not at once.
            let now = files::now();
            state.last_check = Some(now);
            (state.look_after, state.looked) = (Some(now.plus(LOOK_AGAIN_SECONDS)), Some(why));
        })
        .await
    }

    /// Asks one mirror. The inner error is why it had nothing.
    async fn look_at(
        self: &Arc<Self>,
        ota: &Arc<Ota>,
        mesh: &Mesh,
        mirror: Uid,
        timeout: Duration,
    ) -> anyhow::Result<Result<(), Miss>> {
        let trust = self.trust()?;
        let (own, channels) = (self.clone(), ota.channels.clone());
        let known = tokio::task::spawn_blocking(move || {
            channels.asks_after(&own.bundle.channel, &own.bundle.root, trust.root_version())
        });
        let ask = ChannelAsk { channel: self.bundle.channel, root_version: known.await? };
        let asked = tokio::time::timeout(timeout, mesh.channel_fetch(mirror, ask)).await;
        Ok(match asked.unwrap_or(Err(LinkError::Timeout.into())) {
            Ok(files) => match self.take(ota, &files).await? {
                // It is the maker's word, and not older than any before: the next look is when it is due.
                Ok(()) | Err(Unfit { holds: true, .. }) => Ok(()),
                Err(Unfit { why, .. }) => {
                    Err(Miss::Unfit(format!("{} offers what does not hold: {why}", mirror.short())))
                }
            },
            Err(e) => Err(Miss::Silent(format!("{} does not answer: {e}", mirror.short()))),
        })
    }

    /// Waits until an owner's yes has come to something, but not for long: it begins, or waits for something.
    ///
    /// # Errors
    /// As [`Answer::met_by`], when the look that came first found that something else is offered, or nothing any more.
    pub(crate) async fn answered(&self, answer: &Answer) -> Result<(), ApiError> {
        let mut changes = self.changes.subscribe();
        let decided = async { while !self.has_decided() && changes.changed().await.is_ok() {} };
        // What takes longer is under way.
        let _ = tokio::time::timeout(OWNER_ANSWER_MAX, decided).await;
        if answer.version.parse::<Version>().is_ok_and(|version| version == *lock(&self.running)) {
            return Ok(());
        }
        self.read(|state| answer.met_by(state.release.as_ref()).map(|_| ()))
    }

    /// Whether an update is under way or over, or waits for something that was found out since its owner's word.
    fn has_decided(&self) -> bool {
        let step = self.read(|state| state.step);
        let begun = lock(&self.progress).as_ref().is_some_and(|progress| progress.neighbours > 0);
        let waits = lock(&self.holding).is_some() || lock(&self.trouble).is_some();
        let looks = self.owner_waits.load(Ordering::Relaxed) || self.deciding.load(Ordering::Relaxed);
        match step {
            Step::Idle | Step::Installed => true,
            Step::Offered => begun || (waits && !looks),
            // What is under way here is that it is written.
            Step::Fetched => lock(&self.progress).is_some() || (waits && !looks),
        }
    }

    pub(super) fn trust(&self) -> anyhow::Result<Trust> {
        self.read(State::trust)
    }

    pub(super) fn device(&self) -> ioex_ota::Device {
        ioex_ota::Device {
            brand: self.bundle.brand.clone(),
            model: self.bundle.model.clone(),
            hardware: self.config.hardware,
            installed: *lock(&self.running),
        }
    }

    /// Takes in metadata, whoever brought it. The inner error is why nothing comes of it.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn take(
        self: &Arc<Self>,
        ota: &Ota,
        files: &ChannelFiles,
    ) -> anyhow::Result<Result<(), Unfit>> {
        let roots: Vec<&[u8]> = files.roots.iter().map(Vec::as_slice).collect();
        let metadata = Metadata {
            roots: &roots,
            timestamp: &files.timestamp,
            snapshot: &files.snapshot,
            targets: &files.targets,
        };
        let network = ota.mesh().and_then(ioex_net::Mesh::network_time);
        let clock = Clock { own: network.unwrap_or_else(files::now), vouched: network.is_some() };
        let outcome = ioex_ota::check(&self.trust()?, &self.device(), clock, &metadata);
        let trusted = outcome.trust.root_version();
        let trust = BASE64.encode(&outcome.trust.to_bytes());
        let now = files::now();
        let verdict = outcome.verdict;
        let change = move |state: &mut State| {
            state.trust = trust;
            let mut is_new = false;
            match verdict {
                Verdict::Refuse(why) => {
                    // The metadata holds, and what was offered is not in it any more for this device.
                    let gone = matches!(
                        why,
                        Refusal::StepMissing { .. }
                            | Refusal::WrongDevice { .. }
                            | Refusal::WrongHardware(_)
                            | Refusal::Release(_)
                    );
                    // Also of what failed here: it is not offered again.
                    if gone && state.step != Step::Installed {
                        (state.step, state.release) = (Step::Idle, None);
                    }
                    if gone {
                        // The maker's word for now: the next look is when it is due.
                        (state.last_check, state.look_after) = (Some(now), None);
                    }
                    let why = why.to_string();
                    state.looked = Some(why.clone());
                    return Err(Unfit { why, holds: gone });
                }
                Verdict::NothingNew => {
                    state.problem = None;
                    if state.step != Step::Installed {
                        (state.step, state.release) = (Step::Idle, None);
                    }
                }
                // What is on trial ends before another one begins.
                Verdict::Install(_) if state.step == Step::Installed => {}
                Verdict::Install(release) => {
                    let old = state.release.as_ref();
                    let same = old.is_some_and(|old| {
                        old.version == release.version && old.package() == release.package()
                    });
                    // What came belongs to a manifest: packed anew, the same content has another.
                    let moved = old.is_some_and(|old| old.manifest != release.manifest);
                    if !same {
                        (state.step, state.consented, state.agreed) = (Step::Offered, false, false);
                        (state.now, is_new) = (false, true);
                        (state.effort, state.by_source) = (Effort::default(), [0; 4]);
                        state.problem = None;
                    } else if state.step == Step::Idle || (moved && state.step == Step::Fetched) {
                        state.step = Step::Offered;
                    }
                    state.release = Some(*release);
                }
            }
            (state.last_check, state.look_after, state.looked) = (Some(now), None, None);
            Ok(is_new)
        };
        let taken = self.change(change).await?;
        if let Ok(true) = &taken {
            self.tell_standing();
        }
        // Others may have more use for the maker's word than this device.
        if taken.as_ref().map_or_else(|unfit| unfit.holds, |_| true) {
            ota.carry_copy(&self.bundle, files, trusted);
        }
        Ok(taken.map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_look_for_which_an_owner_waits_has_an_end() {
        let (owner, device) = (Patience::new(true), Patience::new(false));
        assert_eq!((owner.each, device.each), (OWNER_MIRROR_TIMEOUT, MIRROR_TIMEOUT));
        let now = Instant::now();
        assert!(owner.left(now).is_some_and(|left| left <= OWNER_LOOK_MAX));
        assert_eq!(owner.left(now + OWNER_LOOK_MAX), None);
        assert_eq!(device.left(now + 100 * OWNER_LOOK_MAX), Some(Duration::MAX));
    }
}
