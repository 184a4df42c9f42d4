//! Writing what came, and finding out whether it is healthy.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ioex_api::{OtaProgress, OtaReason, OtaStage};
use ioex_ota::{Release, install::InstallError, policy::Effort};
use tokio_util::sync::CancellationToken;

use super::{Device, HEALTH_PAUSE, HEALTH_TRIES, Held, KEPT_PACKAGES, Kept, OwnParts, Step};
use crate::{
    config::Confirm,
    node::{
        files, lock,
        ota::{Ota, host::Moment, installer::InstallFailure, package::PackageError},
    },
};

/// What is installed and does not run yet.
const NEXT_START: &str = "it starts with the device's next start";
/// What runs on trial.
const NOT_CONFIRMED: &str = "the program that runs it has to confirm it";

impl Device {
    /// Writes and starts what was fetched.
    pub(super) async fn install(
        self: &Arc<Self>,
        ota: &Arc<Ota>,
        release: Release,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(uid) = ota.mesh().map(ioex_net::Mesh::uid) else { return Ok(()) };
        if let Err(why) = self.may_go_on(&release, &uid, true) {
            self.hold(Some(why));
            return Ok(());
        }
        let kept = Kept { manifest: release.manifest, matchers: release.matchers.clone() };
        let live = ota.live(&kept, &self.bundle.key, false).await.map_err(anyhow::Error::msg)?;
        let own = self.own_parts(&live, &release).await;
        let mut here = live.have();
        if let Some(own) = &own {
            here.add(own.spared());
        }
        if !here.is_full() {
            // What was here is damaged or gone.
            self.change(|state| state.step = Step::Offered).await?;
            self.wake.notify_one();
            return Ok(());
        }
        if let Err((_, no)) = self.room_for(ota, &release, 0).await? {
            self.hold(Some(Held::so_far(OtaReason::Room, no.to_string())));
            return Ok(());
        }
        self.hold(None);
        let (node, device, shelf) = (self.clone(), self.device(), ota.shelf().clone());
        let wanted = release.clone();
        let starts_now = self.starts_what_it_installs();
        let written = tokio::task::spawn_blocking(move || {
            let total = wanted.length();
            let tell = |written| {
                *lock(&node.progress) = Some(OtaProgress {
                    done_bytes: written,
                    total_bytes: total,
                    package_bytes: total,
                    by_source: [0; 4],
                    neighbours: 0,
                });
                node.changed();
            };
            node.installer.write(&shelf, &live.package, own.as_deref(), &wanted, &device, tell)?;
            // Noted before anything changes place: after a cut the device asks the installer.
            node.change_here(|state| state.step = Step::Installed).map_err(|e| InstallFailure::Io {
                what: "the device's state".to_owned(),
                error: std::io::Error::other(format!("{e:#}")),
            })?;
            node.installer.activate(&wanted, starts_now)
        })
        .await?;
        *lock(&self.progress) = None;
        let running = *lock(&self.running);
        match written {
            Ok(_) => {
                self.change(move |state| {
                    state.problem = None;
                    Self::queue_report(state, OtaStage::Installed, running, "");
                })
                .await?;
                self.starts_anew.store(!starts_now, Ordering::Relaxed);
                self.host.tell(Moment::Installed { version: release.version.to_string() });
                // When it takes too long, the next step says so.
                let _ = stop.run_until_cancelled(self.send_reports(ota)).await;
                if !self.restart("starting the new version").await {
                    // The program that runs is still the one before.
                    self.starts_anew.store(self.host.is_program(), Ordering::Relaxed);
                    self.hold(Some(Held::so_far(OtaReason::Start, NEXT_START)));
                }
                self.settle().await
            }
            Err(e) => self.not_installed(ota, &release, &e).await,
        }
    }

    /// Whether what was installed is started by this node, and so on trial at once. In another program than `ioex` only
    /// a command for it does that; without one that program itself may be what was replaced, and it starts anew.
    pub(super) fn starts_what_it_installs(&self) -> bool {
        !self.host.is_program() || self.installer.restarts()
    }

    /// A package could not be put in place.
    async fn not_installed(
        self: &Arc<Self>,
        ota: &Ota,
        release: &Release,
        e: &InstallFailure,
    ) -> anyhow::Result<()> {
        // Where only the last step failed, the installer has it on trial already, and that goes on.
        if self.reconcile().await? {
            self.starts_anew.store(!self.starts_what_it_installs(), Ordering::Relaxed);
            return Ok(());
        }
        let why = format!("it could not be installed: {e}");
        if e.is_final() {
            return self.ended(Err((OtaReason::NotInstalled, &why))).await;
        }
        // A disk that is full, a shard that went bad: tried again later, with what is on the disk read anew. What runs
        // and changes meanwhile is not relied on again.
        lock(&ota.lives).remove(&release.manifest);
        *lock(&self.own) = match e {
            InstallFailure::Package(PackageError::Changed) => OwnParts::Useless(release.manifest),
            _ => OwnParts::Unknown,
        };
        let running = *lock(&self.running);
        self.change(move |state| {
            state.effort = state.effort.after(0, 0, true, files::now());
            // Its maker hears of it once, also when it is tried again: that may go on for long.
            if state.problem.as_ref() != Some(&why) {
                Self::queue_report(state, OtaStage::Failed, running, &why);
            }
            (state.step, state.problem) = (Step::Offered, Some(why));
        })
        .await
    }

    /// Asks the installer whether something is on trial that the state's file does not know of, as after a cut
    /// between the two. Returns whether there is.
    ///
    /// # Errors
    /// When the installer's state, or the device's, cannot be read or written.
    pub(super) async fn reconcile(self: &Arc<Self>) -> anyhow::Result<bool> {
        let installer = self.installer.clone();
        let standing = tokio::task::spawn_blocking(move || installer.standing()).await??;
        let on_trial = standing.on_trial || standing.waits_for_start;
        if on_trial && self.read(|state| state.step) != Step::Installed {
            self.change(|state| state.step = Step::Installed).await?;
        }
        Ok(on_trial)
    }

    /// Tells a program again that what was installed before waits for the device's start.
    ///
    /// # Errors
    /// When the installer's state cannot be read.
    pub(super) async fn tell_waiting(&self) -> anyhow::Result<()> {
        let installer = self.installer.clone();
        let standing = tokio::task::spawn_blocking(move || installer.standing()).await??;
        let version = self.read(|state| state.release.as_ref().map(|release| release.version.to_string()));
        if standing.waits_for_start
            && let Some(version) = version
        {
            self.host.tell(Moment::Installed { version });
        }
        Ok(())
    }

    /// Counts this start, when what runs is on trial and no boot loader counts. Goes back when it was started too often.
    ///
    /// # Errors
    /// When the installer's state cannot be read or written.
    pub(super) async fn count_start(&self) -> anyhow::Result<()> {
        let installer = self.installer.clone();
        if tokio::task::spawn_blocking(move || installer.count_start()).await?? {
            // `settle` tells why; the program that runs is still the new one.
            self.restart("going back").await;
        }
        Ok(())
    }

    /// Runs the restart command; true when there is one and it worked.
    pub(super) async fn restart(&self, what: &str) -> bool {
        let installer = self.installer.clone();
        match tokio::task::spawn_blocking(move || installer.restart()).await {
            Ok(Ok(done)) => done,
            Ok(Err(e)) => {
                tracing::warn!("{what}: {e}");
                false
            }
            Err(_) => false,
        }
    }

    /// Finds out what became of what was installed.
    pub(super) async fn settle(self: &Arc<Self>) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        if self.read(|state| state.step) != Step::Installed {
            return Ok(());
        }
        let installer = self.installer.clone();
        let standing = tokio::task::spawn_blocking(move || installer.standing()).await??;
        if self.starts_anew.load(Ordering::Relaxed) {
            self.hold(Some(Held::so_far(OtaReason::Start, NEXT_START)));
            return Ok(());
        }
        *lock(&self.running) = standing.running;
        let wanted = self.read(|state| state.release.as_ref().map(|release| release.version));
        if standing.waits_for_start {
            self.hold(Some(Held::so_far(OtaReason::Start, NEXT_START)));
            return Ok(());
        }
        if !standing.on_trial {
            self.hold(None);
            if Some(standing.running) == wanted {
                return self.ended(Ok(())).await;
            }
            let why = "the new version did not stay up, and the device went back by itself";
            return self.ended(Err((OtaReason::DidNotStay, why))).await;
        }
        let version = standing.running.to_string();
        let host_confirms = self.config.confirm == Confirm::Host;
        if host_confirms && let Some(since) = self.host.asked_since() {
            let minutes = self.config.confirm_minutes;
            if since.elapsed() < Duration::from_secs(u64::from(minutes) * 60) {
                self.hold(Some(Held::so_far(OtaReason::Confirm, NOT_CONFIRMED)));
                return Ok(());
            }
            let why = format!("version {version} was not confirmed within {minutes} minutes");
            return self.back(OtaReason::NotConfirmed, &why).await;
        }
        self.hold(None);
        if !host_confirms {
            self.host.tell(Moment::Trial { version: version.clone(), confirm: false });
        }
        let mut unhealthy = None;
        for attempt in 0..HEALTH_TRIES {
            if attempt > 0 {
                tokio::time::sleep(HEALTH_PAUSE).await;
            }
            let (installer, version) = (self.installer.clone(), standing.running);
            match tokio::task::spawn_blocking(move || installer.health(version)).await? {
                Ok(()) => {
                    unhealthy = None;
                    break;
                }
                Err(e) => unhealthy = Some(e.to_string()),
            }
        }
        match unhealthy {
            None if host_confirms => {
                self.host.ask();
                self.host.tell(Moment::Trial { version, confirm: true });
                self.hold(Some(Held::so_far(OtaReason::Confirm, NOT_CONFIRMED)));
                Ok(())
            }
            None => {
                let installer = self.installer.clone();
                tokio::task::spawn_blocking(move || installer.confirm()).await??;
                self.ended(Ok(())).await
            }
            Some(why) => {
                let why = format!("version {} is unhealthy: {why}", standing.running);
                self.back(OtaReason::Unhealthy, &why).await
            }
        }
    }

    /// Makes what is on trial what runs.
    ///
    /// # Errors
    /// When nothing is on trial, or the installer's state cannot be written.
    pub(crate) async fn confirm(&self) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        if self.starts_anew.load(Ordering::Relaxed) {
            // Nobody has seen it run.
            return Err(InstallFailure::from(InstallError::NotOnTrial).into());
        }
        let installer = self.installer.clone();
        tokio::task::spawn_blocking(move || installer.confirm()).await??;
        self.wake.notify_one();
        Ok(())
    }

    /// Ends a trial, or takes back what waits for its start.
    ///
    /// # Errors
    /// When there is nothing to go back from, or the installer's state cannot be written.
    pub(crate) async fn go_back(self: &Arc<Self>, why: &str) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.back(OtaReason::TakenBack, why).await
    }

    /// See [`go_back`](Self::go_back); by whoever has the turn.
    pub(super) async fn back(self: &Arc<Self>, reason: OtaReason, why: &str) -> anyhow::Result<()> {
        let installer = self.installer.clone();
        let starts_anew = tokio::task::spawn_blocking(move || installer.roll_back()).await??;
        if !starts_anew {
            let installer = self.installer.clone();
            *lock(&self.running) = tokio::task::spawn_blocking(move || installer.standing()).await??.running;
        }
        self.ended(Err((reason, why))).await?;
        // Without a command the old version comes with the device's next start.
        self.restart("going back").await;
        Ok(())
    }

    /// An update is over.
    pub(super) async fn ended(self: &Arc<Self>, how: Result<(), (OtaReason, &str)>) -> anyhow::Result<()> {
        let running = *lock(&self.running);
        self.host.answered();
        self.hold(None);
        *lock(&self.own) = OwnParts::Unknown;
        self.starts_anew.store(false, Ordering::Relaxed);
        let (version, rolled_back) = self.read(|state| {
            let version = state.release.as_ref().map_or(running, |release| release.version);
            (version.to_string(), state.step == Step::Installed)
        });
        let reason = how.err().map(|(_, why)| why.to_owned());
        let end = match how {
            Ok(()) => Moment::Confirmed { version },
            Err((code, why)) => Moment::Failed { version, code, reason: why.to_owned(), rolled_back },
        };
        // Kept first: an end is told twice rather than not at all.
        self.keep_end(&end).await;
        self.change(move |state| {
            match &reason {
                None => {
                    Self::queue_report(state, OtaStage::Confirmed, running, "");
                    state.release = None;
                }
                Some(why) => {
                    Self::queue_report(state, OtaStage::Failed, running, why);
                    state.failed = state.release.as_ref().map(|release| release.version);
                }
            }
            state.problem = reason;
            (state.step, state.consented, state.agreed, state.now) = (Step::Idle, false, false, false);
            state.effort = Effort::default();
            state.kept.truncate(KEPT_PACKAGES);
        })
        .await?;
        self.host.tell(end);
        self.wake.notify_one();
        Ok(())
    }

    /// Has a program that does not hear of it now told at its next start.
    pub(super) async fn keep_end(self: &Arc<Self>, end: &Moment) {
        let (own, end) = (self.clone(), end.clone());
        if tokio::task::spawn_blocking(move || own.host.keep_end(&end)).await.is_err() {
            tracing::warn!("the end of an update could not be kept for the program that runs it");
        }
    }
}
