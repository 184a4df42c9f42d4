//! Whether an update may go on, and getting its package.

use std::sync::{Arc, atomic::Ordering};

use ioex_api::{OtaProgress, OtaReason, OtaStage};
use ioex_base::Uid;
use ioex_ota::{
    Release,
    policy::{Attempt, Hold},
    rollout::{Admission, Results},
    swarm::Bits,
};
use tokio_util::sync::CancellationToken;

use super::{Device, EFFORT_MIN_BYTES, Held, KEPT_PACKAGES, Kept, OwnParts, State, Step, random};
use crate::node::{
    files, lock,
    ota::{
        Ota,
        download::{Came, Download, DownloadError, SHARD_BYTES_MAX},
        host::Moment,
        live::Live,
        own::Own,
        room::{self, Needs, NoRoom},
        sources::DeviceSources,
    },
};

/// What an attempt fetched is noted after each such part of the package,
const NOTED_PARTS: u64 = 16;
/// but not after less than this, for the sake of flash memory,
const NOTED_MIN_BYTES: u64 = 512 * 1024;
/// and after no more than this, which a power cut leaves uncounted.
const NOTED_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of an attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fetched {
    /// All of them.
    pub(super) bytes: u64,
    by_source: [u64; 4],
}

impl Fetched {
    fn of(came: &Came) -> Self {
        Self { bytes: came.fetched(), by_source: came.by_source }
    }

    fn less(&self, other: &Self) -> Self {
        let mut by_source = self.by_source;
        for (bytes, others) in by_source.iter_mut().zip(other.by_source) {
            *bytes = bytes.saturating_sub(others);
        }
        Self { bytes: self.bytes.saturating_sub(other.bytes), by_source }
    }
}

/// What the owner does not allow now.
fn held(hold: &Hold) -> Held {
    let reason = match hold {
        Hold::Battery { .. } => OtaReason::Battery,
        Hold::Metered => OtaReason::Metered,
        Hold::Hours { .. } => OtaReason::Hours,
        Hold::Cap { .. } => OtaReason::Cap,
        Hold::Slots { .. } => OtaReason::Other,
    };
    Held::so_far(reason, hold.to_string())
}

/// Whether an attempt failed because nobody provides the package, so that it may be over: then matchers are asked.
fn found_nobody(failed: &DownloadError) -> bool {
    matches!(failed, DownloadError::Alone | DownloadError::Unmatched(_))
}

impl Device {
    /// Whether the owner and the maker let this go on now.
    pub(super) fn may_go_on(&self, release: &Release, uid: &Uid, installing: bool) -> Result<(), Held> {
        let (asks, declined, failed, now) = self.read(|state| {
            let is = |version| version == Some(release.version);
            (self.asks(state), is(state.declined), is(state.failed), state.now)
        });
        if failed {
            let why = "it failed on this device, and is not tried again until that is forgiven";
            return Err(Held::stuck(OtaReason::FailedBefore, why));
        }
        if declined {
            return Err(Held::so_far(OtaReason::Declined, "its owner said no"));
        }
        if asks {
            return Err(Held::so_far(OtaReason::Owner, "its owner is asked"));
        }
        // Only the beginning waits for the rollout; a device that began goes on.
        if !installing && let Some(rollout) = &release.rollout {
            match rollout.admits(uid, Results::default(), files::now()) {
                Admission::Yes => {}
                Admission::At(when) => {
                    let seconds = when.since(files::now());
                    let why = format!("the rollout reaches it in {seconds} s");
                    return Err(Held::so_far(OtaReason::Rollout, why));
                }
                Admission::Later => {
                    return Err(Held::stuck(OtaReason::Rollout, "the rollout does not reach it yet"));
                }
                Admission::Paused => {
                    return Err(Held::stuck(OtaReason::RolloutPaused, "the maker paused the rollout"));
                }
                // With no results, which only matchers count, nothing is stopped.
                Admission::Aborted | Admission::Stopped => {
                    return Err(Held::stuck(OtaReason::RolloutEnded, "the maker ended the rollout"));
                }
            }
        }
        if installing {
            let allowed = self.config.policy.may_install(&self.situation());
            match allowed {
                Err(Hold::Hours { .. }) if now => {}
                Err(hold) => return Err(held(&hold)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    pub(super) async fn fetch(
        self: &Arc<Self>,
        ota: &Arc<Ota>,
        release: Release,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(mesh) = ota.mesh().cloned() else { return Ok(()) };
        // An owner's "no" from here on ends it.
        let cancel = stop.child_token();
        *lock(&self.stop) = cancel.clone();
        if let Err(why) = self.may_go_on(&release, &mesh.uid(), false) {
            self.hold(Some(why));
            return Ok(());
        }
        let random = u32::from_le_bytes(random()?);
        let effort = self.read(|state| state.effort);
        let length = release.length().max(EFFORT_MIN_BYTES);
        let budget = match effort.next(length, random, files::now()) {
            Attempt::Now { bytes } => bytes,
            Attempt::At(when) => {
                let seconds = when.since(files::now());
                let unmatched = lock(&self.unmatched).clone();
                self.hold(Some(match unmatched {
                    Some(why) => {
                        let why = format!("{why}; it is tried again in {seconds} s");
                        Held::stuck(OtaReason::NoProvider, why)
                    }
                    None => {
                        let problem = self.read(|state| state.problem.clone());
                        let problem = problem.map(|why| format!(": {why}")).unwrap_or_default();
                        let why = format!("it failed and is tried again in {seconds} s{problem}");
                        Held::so_far(OtaReason::Retry, why)
                    }
                }));
                return Ok(());
            }
            Attempt::Never => {
                let why = "it failed too often, and is not tried again until that is forgiven";
                self.hold(Some(Held::stuck(OtaReason::FailedBefore, why)));
                return Ok(());
            }
        };
        let (installer, wanted) = (self.installer.clone(), release.clone());
        if let Err(e) = tokio::task::spawn_blocking(move || installer.fits(&wanted)).await?
            && e.is_final()
        {
            let why = format!("it cannot be installed: {e}");
            return self.ended(Err((OtaReason::DoesNotFit, &why))).await;
        }
        self.count_sent(&ota.counter).await;
        // What the cap leaves is of no use when it is less than a shard.
        if let Err(hold) = self.config.policy.may_fetch(&self.situation(), SHARD_BYTES_MAX.into()) {
            self.hold(Some(held(&hold)));
            return Ok(());
        }
        // Found out with the package at hand, the last time.
        let (own, wanted) = (self.clone(), release.clone());
        if let Some(no) = tokio::task::spawn_blocking(move || own.lacks_room(&wanted)).await? {
            self.hold(Some(Held::so_far(OtaReason::Room, no.to_string())));
            return Ok(());
        }
        *lock(&self.unmatched) = None;
        self.hold(None);
        let sources = Arc::new(DeviceSources::new(ota.clone(), self.clone(), release.clone()));
        let first = effort.fetched_bytes == 0 && effort.failures == 0;
        if first {
            let running = *lock(&self.running);
            self.change(move |state| Self::queue_report(state, OtaStage::Fetching, running, "")).await?;
            // When it takes too long, the next step says so.
            let _ = stop.run_until_cancelled(self.send_reports(ota)).await;
        }
        // From here on others get what is left after this: both at once would take it twice.
        self.reserved_bytes.store(budget, Ordering::Relaxed);
        self.count_sent(&ota.counter).await;
        let cap_left = self.config.policy.cap_left(self.month_bytes());
        let result = self.attempt(ota, &release, sources.clone(), budget.min(cap_left), &cancel).await;
        *lock(&self.progress) = None;
        let (came, failed) = match result {
            Ok(came) => (came, None),
            Err((came, DownloadError::Budget)) if cap_left < budget => {
                let (want, left) = (came.total - came.done, cap_left.saturating_sub(came.fetched()));
                (came, Some(DownloadError::Hold(Hold::Cap { want, left })))
            }
            Err((came, e)) => (came, Some(e)),
        };
        let running = *lock(&self.running);
        use DownloadError::{Hold as Holds, NoRoom, Stopped};
        let held = matches!(failed, Some(Holds(_) | Stopped | NoRoom(_)));
        let spent = matches!(failed, Some(DownloadError::Budget));
        let alone = failed.as_ref().is_some_and(found_nobody);
        let why = failed.as_ref().map(|e| format!("{e}"));
        // The rest of it was noted on the way.
        let more = Fetched::of(&came).less(&std::mem::take(&mut *lock(&self.noted)));
        let reason = why.clone();
        let change = move |state: &mut State| {
            let verified: u64 = came.by_source[..3].iter().sum();
            Self::count_fetched(state, &more);
            if held {
                state.effort.fetched_bytes = state.effort.fetched_bytes.saturating_add(more.bytes);
                return false;
            }
            // It was all here, and failed to be installed: that is what is tried again, and waits longer and longer.
            if reason.is_none() && came.fetched() == 0 && state.effort.failures > 0 {
                state.step = Step::Fetched;
                return false;
            }
            state.effort = state.effort.after(more.bytes, verified, reason.is_some(), files::now());
            if spent {
                state.effort = state.effort.spent(length);
            }
            state.problem.clone_from(&reason);
            let Some(reason) = reason else {
                state.step = Step::Fetched;
                Self::queue_report(state, OtaStage::Fetched, running, "");
                return false;
            };
            let given_up = state.effort.next(length, random, files::now()) == Attempt::Never;
            if given_up {
                Self::queue_report(state, OtaStage::Failed, running, &reason);
            }
            given_up
        };
        let changed = self.change(change).await;
        self.reserved_bytes.store(0, Ordering::Relaxed);
        self.count_sent(&ota.counter).await;
        let given_up = changed?;
        if let Some(why) = &why
            && alone
            && sources.is_over().await
        {
            *lock(&self.unmatched) = Some(why.clone());
            // Why may stand in the channel since the last look.
            self.change(|state| state.last_check = None).await?;
            self.hold(Some(Held::stuck(OtaReason::NoProvider, why)));
        }
        match why {
            None => self.tell_standing(),
            Some(reason) if given_up => {
                let version = release.version.to_string();
                let code = OtaReason::NotFetched;
                let end = Moment::Failed { version, code, reason, rolled_back: false };
                self.keep_end(&end).await;
                self.host.tell(end);
            }
            Some(_) => {}
        }
        self.wake.notify_one();
        Ok(())
    }

    pub(super) async fn attempt(
        self: &Arc<Self>,
        ota: &Arc<Ota>,
        release: &Release,
        sources: Arc<DeviceSources>,
        budget: u64,
        stop: &CancellationToken,
    ) -> Result<Came, (Came, DownloadError)> {
        let fail = |e| (Came::default(), e);
        let package = |text: String| fail(DownloadError::Package(text));
        let Some(mesh) = ota.mesh().cloned() else { return Err(fail(DownloadError::Alone)) };
        let manifest = stop.run_until_cancelled(sources.manifest()).await;
        manifest.unwrap_or(Err(DownloadError::Stopped)).map_err(fail)?;
        let kept = Kept { manifest: release.manifest, matchers: release.matchers.clone() };
        let live = ota.live(&kept, &self.bundle.key, false).await.map_err(package)?;
        if live.package.manifest.size_bytes != release.length() {
            return Err(package("the manifest is not that of the release".to_owned()));
        }
        let noted = self.change(move |state| {
            state.kept.retain(|other| other.manifest != kept.manifest);
            state.kept.insert(0, kept);
            // What runs, what comes, and one more.
            state.kept.truncate(KEPT_PACKAGES + 1);
        });
        noted.await.map_err(|e| package(format!("{e:#}")))?;
        let seed = u64::from_le_bytes(random().map_err(|e| package(e.to_string()))?);
        let mut spared = Bits::none(live.package.shards().len());
        if let Some(own) = self.own_parts(&live, release).await {
            spared.add(own.spared());
        }
        self.make_room(ota, &live, &spared, release).await?;
        let (shelf, receipts) = (ota.shelf().clone(), ota.receipts.clone());
        let download = Download::new(mesh, live, shelf, receipts, &spared, budget, seed).map_err(fail)?;
        let total = release.length();
        let tell = |came: Came| {
            *lock(&self.progress) = Some(OtaProgress {
                done_bytes: came.done,
                total_bytes: came.total,
                package_bytes: total,
                by_source: came.by_source,
                neighbours: came.neighbours as u64,
            });
            self.changed();
            self.note(total, came);
        };
        let result = download.run(sources.clone(), tell, stop).await;
        *lock(&self.signed) = download.receipts();
        result.map_err(|e| {
            let e = match (e, sources.refused()) {
                (DownloadError::Alone, Some(why)) => DownloadError::Unmatched(why),
                (e, _) => e,
            };
            (download.give_up(), e)
        })
    }

    /// Whether this package still has no room, if it had none the last time. Asks the disks.
    pub(super) fn lacks_room(&self, release: &Release) -> Option<NoRoom> {
        let lacked = lock(&self.lacks).clone().filter(|(manifest, _)| *manifest == release.manifest);
        let still = lacked.and_then(|(_, needs)| room::check(&needs).err());
        if still.is_none() {
            *lock(&self.lacks) = None;
        }
        still
    }

    /// Sees whether what is missing has room here, and what is written of it.
    async fn make_room(
        self: &Arc<Self>,
        ota: &Arc<Ota>,
        live: &Live,
        spared: &Bits,
        release: &Release,
    ) -> Result<(), (Came, DownloadError)> {
        let mut here = live.have();
        here.add(spared);
        let all = live.package.shards().iter().zip(0..);
        let missing =
            all.filter(|(_, place)| !here.contains(*place)).map(|(shard, _)| u64::from(shard.bytes));
        match self.room_for(ota, release, missing.sum()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err((needs, no))) => {
                *lock(&self.lacks) = Some((release.manifest, needs));
                Err((Came::default(), no.into()))
            }
            Err(e) => Err((Came::default(), DownloadError::Package(format!("{e:#}")))),
        }
    }

    /// Whether there is room for what is written of a release, and for so many bytes more on the shelf. Packages that are
    /// only kept for others give way.
    ///
    /// # Errors
    /// When the installer's state, or the device's, cannot be read or written.
    pub(super) async fn room_for(
        self: &Arc<Self>,
        ota: &Arc<Ota>,
        release: &Release,
        missing: u64,
    ) -> anyhow::Result<Result<(), (Needs, NoRoom)>> {
        let (own, wanted) = (self.clone(), release.clone());
        let found = tokio::task::spawn_blocking(move || {
            let mut needs = own.installer.needs(&wanted)?;
            needs.push((own.dir.clone(), missing));
            let lack = room::check(&needs).err().map(|no| (no.is_at(&own.dir), no));
            anyhow::Ok((needs, lack))
        });
        let (needs, lack) = found.await??;
        let Some((is_ours, no)) = lack else { return Ok(Ok(())) };
        let manifest = release.manifest;
        let others = self.read(|state| state.kept.iter().any(|kept| kept.manifest != manifest));
        if !others || !is_ours {
            return Ok(Err((needs, no)));
        }
        self.change(move |state| state.kept.retain(|kept| kept.manifest == manifest)).await?;
        let ota = ota.clone();
        let made = tokio::task::spawn_blocking(move || {
            ota.sweep();
            room::check(&needs).map_err(|no| (needs, no))
        });
        Ok(made.await?)
    }

    /// Makes durable what an attempt fetched so far, now and then: one that a power cut ends costs as well. A thread for
    /// files does it; what it adds is added once, whatever else is written before it.
    fn note(self: &Arc<Self>, length: u64, came: Came) {
        let mut noted = lock(&self.noted);
        let more = Fetched::of(&came).less(&noted);
        if more.bytes < (length / NOTED_PARTS).clamp(NOTED_MIN_BYTES, NOTED_MAX_BYTES) {
            return;
        }
        *noted = Fetched::of(&came);
        drop(noted);
        let own = self.clone();
        tokio::task::spawn_blocking(move || {
            // With a disk that fails it stays uncounted: nothing of the update can be kept either.
            let changed = own.change_here(|state| {
                Self::count_fetched(state, &more);
                state.effort.fetched_bytes = state.effort.fetched_bytes.saturating_add(more.bytes);
            });
            if let Err(e) = changed {
                tracing::warn!("{e:#}");
            }
        });
    }

    fn count_fetched(state: &mut State, more: &Fetched) {
        Self::count(state, more.bytes);
        for (all, new) in state.by_source.iter_mut().zip(more.by_source) {
            *all += new;
        }
    }

    /// What of a package lies in what runs. Looked at once, and only when a shard is missing.
    pub(super) async fn own_parts(&self, live: &Arc<Live>, release: &Release) -> Option<Arc<Own>> {
        let address = live.package.address;
        match &*lock(&self.own) {
            OwnParts::Found(of, own) if *of == address => return Some(own.clone()),
            OwnParts::Useless(of) if *of == address => return None,
            _ => {}
        }
        let key = self.bundle.cut.clone()?;
        if live.have().is_full() {
            return None;
        }
        let (installer, live, release) = (self.installer.clone(), live.clone(), release.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let streams = installer.runs(&release).map_err(|e| e.to_string())?;
            Own::find(&key, &live.package.manifest, streams).map_err(|e| e.to_string())
        });
        let found = match looked.await.map_err(|e| e.to_string()) {
            Ok(Ok(own)) => Some(Arc::new(own)),
            Ok(Err(why)) | Err(why) => {
                tracing::info!("what runs is not looked at for parts of the update: {why}");
                None
            }
        };
        *lock(&self.own) = match &found {
            Some(own) => OwnParts::Found(address, own.clone()),
            None => OwnParts::Useless(address),
        };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever else went wrong does not say that nobody hands it out, and passes or is tried again.
    #[test]
    fn it_may_be_over_only_when_nobody_was_found() {
        let nobody = [DownloadError::Alone, DownloadError::Unmatched("refused".to_owned())];
        assert!(nobody.iter().all(found_nobody));
        let others = [
            DownloadError::Stuck,
            DownloadError::Budget,
            DownloadError::Hold(Hold::Metered),
            DownloadError::Io(std::io::ErrorKind::StorageFull.into()),
            DownloadError::Package("damaged".to_owned()),
            DownloadError::Stopped,
        ];
        assert!(!others.iter().any(found_nobody));
    }
}
