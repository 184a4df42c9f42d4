//! Writing what came, and finding out whether it is healthy.

use std::{sync::Arc, time::Duration};

use ioex_api::{OtaProgress, OtaStage};
use ioex_ota::{Release, policy::Effort};

use super::{Device, HEALTH_PAUSE, HEALTH_TRIES, Held, KEPT_PACKAGES, Kept, OwnParts, Step};
use crate::{
    config::Confirm,
    node::{
        files, lock,
        ota::{Ota, host::Moment, installer::InstallFailure, package::PackageError},
    },
};

impl Device {
    /// Writes and starts what was fetched.
    pub(super) async fn install(self: &Arc<Self>, ota: &Arc<Ota>, release: Release) -> anyhow::Result<()> {
        let Some(uid) = ota.mesh().map(ioex_net::Mesh::uid) else { return Ok(()) };
        if let Err(why) = self.may_go_on(&release, &uid, true) {
            self.hold(Some(why));
            return Ok(());
        }
        self.hold(None);
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
        let (node, device, shelf) = (self.clone(), self.device(), ota.shelf().clone());
        let wanted = release.clone();
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
            node.installer.activate(&wanted)
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
                self.host.tell(Moment::Installed { version: release.version.to_string() });
                // When it takes too long, the next step says so.
                let _ = self.send_reports(ota).await;
                if !self.restart("starting the new version").await {
                    self.hold(Some(Held::so_far("it starts with the device's next start")));
                }
                self.settle().await
            }
            Err(e) => self.not_installed(ota, &release, &e).await,
        }
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
            return Ok(());
        }
        let why = format!("it could not be installed: {e}");
        if e.is_final() {
            return self.ended(Err(&why)).await;
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
        *lock(&self.running) = standing.running;
        let wanted = self.read(|state| state.release.as_ref().map(|release| release.version));
        if standing.waits_for_start {
            self.hold(Some(Held::so_far("it starts with the device's next start")));
            return Ok(());
        }
        self.hold(None);
        if !standing.on_trial {
            if Some(standing.running) == wanted {
                return self.ended(Ok(())).await;
            }
            let why = "the new version did not stay up, and the device went back by itself";
            return self.ended(Err(why)).await;
        }
        let version = standing.running.to_string();
        let host_confirms = self.config.confirm == Confirm::Host;
        if host_confirms && let Some(since) = self.host.asked_since() {
            let minutes = self.config.confirm_minutes;
            if since.elapsed() < Duration::from_secs(u64::from(minutes) * 60) {
                return Ok(());
            }
            let why = format!("version {version} was not confirmed within {minutes} minutes");
            return self.back(&why).await;
        }
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
                self.hold(Some(Held::so_far("the program that runs it has to confirm it")));
                Ok(())
            }
            None => {
                let installer = self.installer.clone();
                tokio::task::spawn_blocking(move || installer.confirm()).await??;
                self.ended(Ok(())).await
            }
            Some(why) => {
                let why = format!("version {} is unhealthy: {why}", standing.running);
                self.back(&why).await
            }
        }
    }

    /// Makes what is on trial what runs.
    ///
    /// # Errors
    /// When nothing is on trial, or the installer's state cannot be written.
    pub(crate) async fn confirm(&self) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
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
        self.back(why).await
    }

    /// See [`go_back`](Self::go_back); by whoever has the turn.
    pub(super) async fn back(self: &Arc<Self>, why: &str) -> anyhow::Result<()> {
        let installer = self.installer.clone();
        let starts_anew = tokio::task::spawn_blocking(move || installer.roll_back()).await??;
        if !starts_anew {
            let installer = self.installer.clone();
            *lock(&self.running) = tokio::task::spawn_blocking(move || installer.standing()).await??.running;
        }
        self.ended(Err(why)).await?;
        // Without a command the old version comes with the device's next start.
        self.restart("going back").await;
        Ok(())
    }

    /// An update is over.
    pub(super) async fn ended(self: &Arc<Self>, how: Result<(), &str>) -> anyhow::Result<()> {
        let running = *lock(&self.running);
        self.host.answered();
        self.hold(None);
        *lock(&self.own) = OwnParts::Unknown;
        let (version, rolled_back) = self.read(|state| {
            let version = state.release.as_ref().map_or(running, |release| release.version);
            (version.to_string(), state.step == Step::Installed)
        });
        let failed = how.err().map(str::to_owned);
        let reason = failed.clone();
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
        self.host.tell(match failed {
            None => Moment::Confirmed { version },
            Some(reason) => Moment::Failed { version, reason, rolled_back },
        });
        self.wake.notify_one();
        Ok(())
    }
}
