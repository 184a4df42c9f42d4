//! What the maker published: asked of mirrors, and decided upon.

use std::{collections::HashSet, sync::Arc};

use data_encoding::BASE64;
use ioex_net::{
    LinkError,
    proto::{ChannelAsk, ChannelFiles},
};
use ioex_ota::{Clock, Metadata, Refusal, Trust, Verdict, policy::Effort};

use super::{Device, LOOK_AGAIN_SECONDS, MIRROR_TIMEOUT, MIRRORS_MAX, State, Step};
use crate::node::{files, lock, ota::Ota};

/// Metadata of which nothing comes for this device.
pub(crate) struct Unfit {
    /// For people.
    pub(crate) why: String,
    /// Whether it is the maker's word nevertheless, and has no version for this device.
    holds: bool,
}

impl Device {
    /// Asks mirrors for the channel until one has something that holds.
    pub(super) async fn look(self: &Arc<Self>, ota: &Arc<Ota>) -> anyhow::Result<()> {
        let Some(mesh) = ota.mesh().cloned() else { return Ok(()) };
        let mut mirrors = self.bundle.matchers.clone();
        mirrors.extend(self.read(|state| {
            state.release.iter().flat_map(|release| release.matchers.clone()).collect::<Vec<_>>()
        }));
        mirrors.extend(ota.holders(self.bundle.channel).await);
        let mut seen = HashSet::from([mesh.uid()]);
        mirrors.retain(|uid| seen.insert(*uid));
        let mut problem = None;
        for mirror in mirrors.into_iter().take(MIRRORS_MAX) {
            let trust = self.trust()?;
            let (own, channels) = (self.clone(), ota.channels.clone());
            let known = tokio::task::spawn_blocking(move || {
                channels.asks_after(&own.bundle.channel, &own.bundle.root, trust.root_version())
            });
            let ask = ChannelAsk { channel: self.bundle.channel, root_version: known.await? };
            let asked = tokio::time::timeout(MIRROR_TIMEOUT, mesh.channel_fetch(mirror, ask)).await;
            match asked.unwrap_or(Err(LinkError::Timeout.into())) {
                Ok(files) => match self.take(ota, &files).await? {
                    // It is the maker's word, and not older than any before: the next look is when it is due.
                    Ok(()) | Err(Unfit { holds: true, .. }) => return Ok(()),
                    Err(Unfit { why, .. }) => {
                        problem = Some(format!("{} offers what does not hold: {why}", mirror.short()))
                    }
                },
                Err(e) => problem = problem.or(Some(format!("{} does not answer: {e}", mirror.short()))),
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

    pub(super) fn trust(&self) -> anyhow::Result<Trust> {
        let bytes = self.read(|state| BASE64.decode(state.trust.as_bytes()))?;
        Ok(Trust::from_bytes(&bytes)?)
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
                    if gone && matches!(state.step, Step::Offered | Step::Fetched) {
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
                    if matches!(state.step, Step::Offered | Step::Fetched) {
                        (state.step, state.release) = (Step::Idle, None);
                    }
                }
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
        match self.change(change).await? {
            Err(why) => return Ok(Err(why)),
            Ok(true) => self.tell_standing(),
            Ok(false) => {}
        }
        ota.carry_copy(&self.bundle, files, trusted);
        Ok(Ok(()))
    }
}
