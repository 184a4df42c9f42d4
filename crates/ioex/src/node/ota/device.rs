//! The device's side: looks at the channel, asks the owner, fetches, installs, and finds out whether what
//! it installed is healthy. Everything that has to survive a restart is in one file.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use data_encoding::BASE64;
use ioex_api::{ApiError, ErrorCode, OtaProgress, OtaStage, OtaState};
use ioex_base::{ContentAddress, DAY_SECONDS, Uid, UnixSeconds};
use ioex_net::proto::{ChannelAsk, ChannelFiles, REASON_MAX_BYTES, Report, Stage as ReportStage};
use ioex_ota::{
    Clock, Metadata, Release, Trust, Verdict, Version,
    policy::{Attempt, Effort, Hold, Situation},
    rollout::{Admission, Results},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Ota,
    bundle::Bundle,
    download::{Came, Download, DownloadError},
    host::{Host, Moment},
    installer::{InstallFailure, Installer},
    live::lock,
    sources::DeviceSources,
};
use crate::{
    config::{Confirm, Consent, OtaConfig},
    node::{files, lent::Sense},
};

/// The state's file.
const STATE_FILE: &str = "device.json";
/// The format that this program writes and reads.
const FORMAT: u8 = 1;
/// Packages that are kept for others, the newest first: the one that runs, and the one that others
/// still need for a small step.
const KEPT_PACKAGES: usize = 2;
/// Reports that wait for a matcher that answers.
const REPORTS_MAX: usize = 16;
/// Mirrors that are asked for the channel in one look.
const MIRRORS_MAX: usize = 6;
/// What a package counts at least where its length bounds what is fetched, in bytes: shards of small ones are
/// padded.
const EFFORT_MIN_BYTES: u64 = 1024 * 1024;
/// How often a device looks whether something it waits for has come.
const TICK: Duration = Duration::from_secs(5);
/// How often a health check is tried before a version is unhealthy.
const HEALTH_TRIES: u32 = 5;
/// Pause between two of them.
const HEALTH_PAUSE: Duration = Duration::from_secs(2);
/// First pause after no mirror answered, in seconds; a look at the channel costs little.
const LOOK_AGAIN_SECONDS: u64 = 30;

/// Where an update stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    /// Nothing to do.
    Idle,
    /// A version is there for this device.
    Offered,
    /// All its shards are here.
    Fetched,
    /// It is written and waits for its start, or is on trial.
    Installed,
}

/// A package that this device has, whole or in part, and serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) manifest: ContentAddress,
    pub(super) matchers: Vec<Uid>,
}

/// A matcher's word that this device is on the roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldPass {
    pub(super) manifest: ContentAddress,
    pub(super) issuer: Uid,
    /// In base64.
    pub(super) bytes: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Waiting {
    stage: OtaStage,
    manifest: ContentAddress,
    matchers: Vec<Uid>,
    running: Version,
    reason: String,
    bytes: [u64; 4],
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    format: u8,
    /// In base64.
    trust: String,
    step: Step,
    release: Option<Release>,
    /// The owner said yes to this release.
    consented: bool,
    /// The owner said yes once more: it is here and may be installed.
    #[serde(default)]
    agreed: bool,
    /// The owner said no to it.
    declined: Option<Version>,
    /// It was installed here, and failed.
    failed: Option<Version>,
    /// The owner wants it now, whatever the hour.
    now: bool,
    effort: Effort,
    /// Days since 1970 of the first of the month, and bytes since then.
    month: (u64, u64),
    last_check: Option<UnixSeconds>,
    /// Why the last check refused, or the last step failed.
    problem: Option<String>,
    by_source: [u64; 4],
    kept: Vec<Kept>,
    pass: Option<HeldPass>,
    reports: Vec<Waiting>,
}

impl State {
    fn first(trust: &Trust) -> Self {
        Self {
            format: FORMAT,
            trust: BASE64.encode(&trust.to_bytes()),
            step: Step::Idle,
            release: None,
            consented: false,
            agreed: false,
            declined: None,
            failed: None,
            now: false,
            effort: Effort::default(),
            month: (0, 0),
            last_check: None,
            problem: None,
            by_source: [0; 4],
            kept: Vec::new(),
            pass: None,
            reports: Vec::new(),
        }
    }
}

/// The device.
pub(crate) struct Device {
    config: OtaConfig,
    pub(super) bundle: Bundle,
    pub(crate) installer: Installer,
    dir: PathBuf,
    state: Mutex<State>,
    sense: Sense,
    running: Mutex<Version>,
    /// What is under way, for whoever looks.
    progress: Mutex<Option<OtaProgress>>,
    /// Why it waits.
    holding: Mutex<Option<String>>,
    pub(crate) wake: Notify,
    /// Counts changes, for those who follow.
    pub(crate) changes: tokio::sync::watch::Sender<u64>,
    /// A download under way ends when the owner says no.
    stop: Mutex<CancellationToken>,
    /// Receipts of the last download, for the matcher. They are on the disk as well.
    signed: Mutex<Vec<Vec<u8>>>,
    /// The program in which the node runs.
    pub(super) host: Host,
    /// Who ends a trial: its health, or somebody's word.
    turn: tokio::sync::Mutex<()>,
}

/// The first day of the month of `now`, in days since 1970.
fn month_of(now: UnixSeconds) -> u64 {
    let stamp = i64::try_from(now.0).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let date = stamp.map(|stamp| stamp.to_zoned(jiff::tz::TimeZone::system()).date());
    let day = now.0 / DAY_SECONDS;
    date.map_or(day, |date| day.saturating_sub(u64::try_from(date.day() - 1).unwrap_or(0)))
}

impl Device {
    /// Reads the bundle and what the device remembers.
    ///
    /// # Errors
    /// When one of them cannot be read or makes no sense.
    pub(crate) fn open(config: &OtaConfig, dir: PathBuf) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let bundle = Bundle::load(&config.bundle)?;
        let path = dir.join(STATE_FILE);
        let state = match std::fs::read(&path) {
            Ok(bytes) => {
                let state: State = serde_json::from_slice(&bytes).with_context(|| {
                    format!(
                        "{} is damaged; without it the device begins anew with the bundle's root",
                        path.display()
                    )
                })?;
                anyhow::ensure!(
                    state.format == FORMAT,
                    "{} has format {}, this program reads {FORMAT}: update the program",
                    path.display(),
                    state.format
                );
                state
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::first(&bundle.trust),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        let installer = Installer::new(config, dir.clone());
        let running = installer.standing().context("the installer cannot be used")?.running;
        Ok(Self {
            config: config.clone(),
            bundle,
            installer,
            dir,
            state: Mutex::new(state),
            sense: Sense::default(),
            running: Mutex::new(running),
            progress: Mutex::default(),
            holding: Mutex::default(),
            wake: Notify::new(),
            changes: tokio::sync::watch::Sender::new(0),
            stop: Mutex::default(),
            signed: Mutex::default(),
            host: Host::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.state))
    }

    /// Changes the state and makes it durable.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> anyhow::Result<T> {
        use anyhow::Context as _;
        let mut state = lock(&self.state);
        let mut next = state.clone();
        let result = change(&mut next);
        let path = self.dir.join(STATE_FILE);
        let bytes = serde_json::to_vec_pretty(&next)?;
        files::replace(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        *state = next;
        drop(state);
        self.changed();
        Ok(result)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn hold(&self, why: Option<String>) {
        let mut holding = lock(&self.holding);
        if *holding != why {
            *holding = why;
            drop(holding);
            self.changed();
        }
    }

    /// Packages that this device serves.
    pub(super) fn kept(&self) -> Vec<Kept> {
        self.read(|state| state.kept.clone())
    }

    /// A matcher's word for this package.
    pub(super) fn pass(&self, manifest: &ContentAddress) -> Option<(Uid, Vec<u8>)> {
        self.read(|state| {
            let pass = state.pass.as_ref().filter(|pass| pass.manifest == *manifest)?;
            Some((pass.issuer, BASE64.decode(pass.bytes.as_bytes()).ok()?))
        })
    }

    /// Remembers a matcher's word.
    pub(super) fn keep_pass(&self, manifest: ContentAddress, issuer: Uid, bytes: &[u8]) {
        let pass = HeldPass { manifest, issuer, bytes: BASE64.encode(bytes) };
        if let Err(e) = self.change(|state| state.pass = Some(pass)) {
            tracing::warn!("{e:#}");
        }
    }

    /// What the owner allows, and how things stand.
    fn situation(&self) -> Situation {
        let seen = self.sense.now();
        let on_battery = seen.on_battery == Some(true);
        let month_bytes = self.read(|state| {
            let now = month_of(files::now());
            if state.month.0 == now { state.month.1 } else { 0 }
        });
        Situation {
            battery_percent: if on_battery { self.sense.battery_percent() } else { None },
            plugged_in: !on_battery,
            metered: seen.metered == Some(true),
            minute: seen.minute,
            month_bytes,
        }
    }

    fn count(state: &mut State, bytes: u64) {
        let now = month_of(files::now());
        if state.month.0 != now {
            state.month = (now, 0);
        }
        state.month.1 = state.month.1.saturating_add(bytes);
    }

    /// Whether this attempt may go on, after so many bytes.
    pub(super) fn may_fetch(&self, bytes: u64) -> Result<(), Hold> {
        self.config.policy.may_fetch(&self.situation(), bytes.saturating_add(1))
    }

    /// How many others may be served now.
    pub(super) fn slots(&self) -> u16 {
        let policy = &self.config.policy;
        match policy.may_serve(&self.situation(), 0, 1) {
            Ok(()) => policy.upload_slots,
            Err(_) => 0,
        }
    }

    /// The owner's limit on what others get, in bytes per second.
    pub(super) fn upload_rate(&self) -> Option<u64> {
        self.config.policy.upload_bytes_per_second
    }

    /// Counts what others got.
    pub(super) fn sent(&self, bytes: u64) {
        if bytes > 0
            && let Err(e) = self.change(|state| Self::count(state, bytes))
        {
            tracing::warn!("{e:#}");
        }
    }

    /// How things stand.
    pub(crate) fn show(&self) -> OtaState {
        let running = *lock(&self.running);
        let progress = lock(&self.progress).clone();
        let holding = lock(&self.holding).clone();
        let busy = progress.is_some();
        let stage = |state: &State| match (state.step, busy) {
            (Step::Offered, true) => OtaStage::Fetching,
            (Step::Fetched, true) => OtaStage::Installing,
            (Step::Idle, _) => OtaStage::Idle,
            (Step::Offered, false) => OtaStage::Offered,
            (Step::Fetched, false) => OtaStage::Fetched,
            (Step::Installed, _) => OtaStage::Installed,
        };
        self.read(|state| OtaState {
            channel: self.bundle.channel,
            brand: self.bundle.brand.clone(),
            model: self.bundle.model.clone(),
            hardware: self.config.hardware,
            running: running.to_string(),
            stage: stage(state),
            offered: state.release.as_ref().map(|release| release.version.to_string()),
            manifest: state.release.as_ref().map(|release| release.manifest),
            bytes: state.release.as_ref().map(Release::length),
            consent: !self.asks(state),
            holding,
            problem: state.problem.clone(),
            last_check: state.last_check,
            progress,
            by_source: state.by_source,
            month_bytes: state.month.1,
        })
    }

    /// Whether the owner's word is missing for what comes next.
    fn asks(&self, state: &State) -> bool {
        let is_here = matches!(state.step, Step::Fetched | Step::Installed);
        match (self.config.consent, is_here) {
            (Consent::Auto, _) | (Consent::Install, false) => false,
            (Consent::Ask, _) | (Consent::Both, false) => !state.consented,
            (Consent::Install | Consent::Both, true) => !state.agreed,
        }
    }

    /// Tells the program in which the node runs where things stand.
    fn tell_standing(&self) {
        let moment = self.read(|state| {
            let release = state.release.as_ref()?;
            if [state.failed, state.declined].contains(&Some(release.version)) {
                return None;
            }
            let (version, consent) = (release.version.to_string(), self.asks(state));
            match state.step {
                Step::Offered => {
                    let (manifest, bytes) = (release.manifest, release.length());
                    Some(Moment::Offered { version, manifest, bytes, consent })
                }
                Step::Fetched => Some(Moment::Fetched { version, consent }),
                // What failed, or is on trial.
                Step::Idle | Step::Installed => None,
            }
        });
        moment.into_iter().for_each(|moment| self.host.tell(moment));
    }

    /// The owner's word on what is offered. `now` passes over the hours for installing.
    ///
    /// # Errors
    /// When nothing is offered, or the disk fails.
    pub(crate) fn consent(&self, yes: bool, now: bool) -> Result<(), ApiError> {
        let told = self.change(|state| {
            let Some(release) = &state.release else { return false };
            if yes {
                (state.consented, state.declined) = (true, None);
                state.agreed |= state.step == Step::Fetched || self.config.consent == Consent::Install;
                state.now |= now;
                // The owner's word is worth another try.
                state.effort = Effort { failures: 0, ..state.effort };
            } else {
                state.declined = Some(release.version);
                (state.consented, state.agreed, state.now) = (false, false, false);
            }
            true
        });
        match told {
            Ok(true) if !yes => lock(&self.stop).cancel(),
            Ok(true) => {}
            Ok(false) => {
                return Err(ApiError::new(
                    ErrorCode::NotFound,
                    "no version is offered to this device: `ioex ota check` looks for one",
                ));
            }
            Err(e) => return Err(ApiError::new(ErrorCode::Io, format!("{e:#}"))),
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Looks at the channel at the next opportunity.
    pub(crate) fn check_now(&self) -> anyhow::Result<()> {
        self.change(|state| state.last_check = None)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Lets what failed be tried again.
    ///
    /// # Errors
    /// When the installer's state cannot be written.
    pub(crate) fn forgive(&self) -> anyhow::Result<()> {
        self.installer.forgive()?;
        self.change(|state| {
            (state.effort, state.problem, state.failed) = (Effort::default(), None, None);
        })?;
        self.wake.notify_one();
        Ok(())
    }

    fn queue_report(state: &mut State, stage: OtaStage, running: Version, reason: &str) {
        let Some(release) = &state.release else { return };
        let mut reason = reason.to_owned();
        while reason.len() > REASON_MAX_BYTES {
            reason.pop();
        }
        if state.reports.len() >= REPORTS_MAX {
            state.reports.remove(0);
        }
        state.reports.push(Waiting {
            stage,
            manifest: release.manifest,
            matchers: release.matchers.clone(),
            running,
            reason,
            bytes: state.by_source,
        });
    }
}

impl Device {
    /// Runs until `stop`.
    pub(super) async fn run(self: Arc<Self>, ota: Arc<Ota>, stop: CancellationToken) {
        self.tell_standing();
        loop {
            if let Err(e) = self.step(&ota, &stop).await {
                tracing::warn!("update: {e:#}");
                let text = format!("{e:#}");
                lock(&self.state).problem = Some(text);
                self.changed();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn step(self: &Arc<Self>, ota: &Arc<Ota>, stop: &CancellationToken) -> anyhow::Result<()> {
        if self.read(|state| state.step) == Step::Installed {
            self.settle().await?;
        }
        self.send_reports(ota).await;
        if self.read(|state| state.step) != Step::Installed
            && let Some((files, answer)) = self.host.brought()
        {
            // Who brought it may not wait for the answer.
            let _ = answer.send(self.take(ota, &files)?);
        }
        if self.is_due() && ota.mesh().is_some_and(ioex_net::Mesh::joined) {
            self.look(ota).await?;
        }
        let (step, release) = self.read(|state| (state.step, state.release.clone()));
        let Some(release) = release else { return Ok(()) };
        match step {
            Step::Offered => self.fetch(ota, release, stop).await,
            Step::Fetched => self.install(ota, release).await,
            Step::Idle | Step::Installed => Ok(()),
        }
    }

    fn is_due(&self) -> bool {
        let minutes = u64::from(self.config.check_minutes);
        self.read(|state| {
            let now = files::now();
            state.step != Step::Installed
                && state.last_check.is_none_or(|last| now.since(last) >= minutes * 60 || last > now)
        })
    }

    /// Asks mirrors for the channel until one has something that holds.
    async fn look(&self, ota: &Arc<Ota>) -> anyhow::Result<()> {
        let Some(mesh) = ota.mesh().cloned() else { return Ok(()) };
        let mut mirrors = self.bundle.matchers.clone();
        mirrors.extend(self.read(|state| {
            state.release.iter().flat_map(|release| release.matchers.clone()).collect::<Vec<_>>()
        }));
        if let Ok(directory) = mesh.directory() {
            mirrors.extend(directory.find(self.bundle.channel).await.unwrap_or_default());
        }
        let mut seen = HashSet::from([mesh.uid()]);
        mirrors.retain(|uid| seen.insert(*uid));
        let mut problem = None;
        for mirror in mirrors.into_iter().take(MIRRORS_MAX) {
            let trust = self.trust()?;
            let ask = ChannelAsk { channel: self.bundle.channel, root_version: trust.root_version() };
            match mesh.channel_fetch(mirror, ask).await {
                Ok(files) => match self.take(ota, &files)? {
                    Ok(()) => return Ok(()),
                    Err(why) => {
                        problem = Some(format!("{} offers what does not hold: {why}", mirror.short()))
                    }
                },
                Err(e) => problem = problem.or(Some(format!("{} does not answer: {e}", mirror.short()))),
            }
        }
        let why = problem.unwrap_or_else(|| "no node that carries the channel was found".to_owned());
        let minutes = u64::from(self.config.check_minutes);
        self.change(|state| {
            // Soon again, but not at once.
            let ago = (minutes * 60).saturating_sub(LOOK_AGAIN_SECONDS);
            state.last_check = Some(UnixSeconds(files::now().0.saturating_sub(ago)));
            state.problem = Some(why);
        })
    }

    fn trust(&self) -> anyhow::Result<Trust> {
        let bytes = self.read(|state| BASE64.decode(state.trust.as_bytes()))?;
        Ok(Trust::from_bytes(&bytes)?)
    }

    fn device(&self) -> ioex_ota::Device {
        ioex_ota::Device {
            brand: self.bundle.brand.clone(),
            model: self.bundle.model.clone(),
            hardware: self.config.hardware,
            installed: *lock(&self.running),
        }
    }

    /// Takes in metadata, whoever brought it. The inner error is why it does not hold.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn take(&self, ota: &Ota, files: &ChannelFiles) -> anyhow::Result<Result<(), String>> {
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
        let trust = BASE64.encode(&outcome.trust.to_bytes());
        let now = files::now();
        let mut is_new = false;
        let refused = self.change(|state| {
            state.trust = trust;
            match outcome.verdict {
                Verdict::Refuse(why) => {
                    state.problem = Some(why.to_string());
                    return Some(why.to_string());
                }
                Verdict::NothingNew => {
                    if matches!(state.step, Step::Offered | Step::Fetched) {
                        (state.step, state.release) = (Step::Idle, None);
                    }
                }
                Verdict::Install(release) => {
                    let same = state.release.as_ref().is_some_and(|old| old.package() == release.package());
                    if !same {
                        (state.step, state.consented, state.agreed) = (Step::Offered, false, false);
                        (state.now, is_new) = (false, true);
                        (state.effort, state.by_source) = (Effort::default(), [0; 4]);
                    } else if state.step == Step::Idle {
                        state.step = Step::Offered;
                    }
                    state.release = Some(*release);
                }
            }
            (state.last_check, state.problem) = (Some(now), None);
            None
        })?;
        if let Some(why) = refused {
            return Ok(Err(why));
        }
        if is_new {
            self.tell_standing();
        }
        ota.carry_copy(&self.bundle, files);
        Ok(Ok(()))
    }

    /// Whether the owner and the maker let this go on now.
    fn may_go_on(&self, release: &Release, uid: &Uid, installing: bool) -> Result<bool, String> {
        let (asks, declined, failed, now) = self.read(|state| {
            let is = |version| version == Some(release.version);
            (self.asks(state), is(state.declined), is(state.failed), state.now)
        });
        if failed {
            return Err("it failed on this device; `ioex ota forgive` lets it be tried again".to_owned());
        }
        if declined || asks {
            return Err(if declined {
                "its owner said no".to_owned()
            } else {
                "its owner is asked".to_owned()
            });
        }
        // Only the beginning waits for the rollout; a device that began goes on.
        if !installing && let Some(rollout) = &release.rollout {
            match rollout.admits(uid, Results::default(), files::now()) {
                Admission::Yes => {}
                Admission::At(when) => {
                    return Err(format!("the rollout reaches it in {} s", when.since(files::now())));
                }
                Admission::Later => return Err("the rollout does not reach it yet".to_owned()),
                Admission::Paused => return Err("the maker paused the rollout".to_owned()),
                Admission::Aborted => return Err("the maker ended the rollout".to_owned()),
                Admission::Stopped => return Err("too many failed: the rollout was stopped".to_owned()),
            }
        }
        if installing {
            let allowed = self.config.policy.may_install(&self.situation());
            match allowed {
                Err(Hold::Hours { .. }) if now => {}
                Err(hold) => return Err(hold.to_string()),
                Ok(()) => {}
            }
        }
        Ok(true)
    }

    async fn fetch(
        self: &Arc<Self>,
        ota: &Arc<Ota>,
        release: Release,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(mesh) = ota.mesh().cloned() else { return Ok(()) };
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
                self.hold(Some(format!("it failed and is tried again in {} s", when.since(files::now()))));
                return Ok(());
            }
            Attempt::Never => {
                let why = "it failed too often; `ioex ota forgive` lets it be tried again";
                self.hold(Some(why.to_owned()));
                return Ok(());
            }
        };
        if let Err(hold) = self.config.policy.may_fetch(&self.situation(), 1) {
            self.hold(Some(hold.to_string()));
            return Ok(());
        }
        self.hold(None);
        let sources = Arc::new(DeviceSources::new(ota.clone(), self.clone(), release.clone()));
        let first = effort.fetched_bytes == 0 && effort.failures == 0;
        if first {
            let running = *lock(&self.running);
            self.change(|state| Self::queue_report(state, OtaStage::Fetching, running, ""))?;
            self.send_reports(ota).await;
        }
        let cancel = stop.child_token();
        *lock(&self.stop) = cancel.clone();
        let result = self.attempt(ota, &release, sources, budget, &cancel).await;
        *lock(&self.progress) = None;
        let (came, failed) = match result {
            Ok(came) => (came, None),
            Err((came, e)) => (came, Some(e)),
        };
        let running = *lock(&self.running);
        let held = matches!(failed, Some(DownloadError::Hold(_) | DownloadError::Stopped));
        let why = failed.as_ref().map(|e| format!("{e}"));
        let mut given_up = false;
        self.change(|state| {
            let verified: u64 = came.by_source[..3].iter().sum();
            Self::count(state, came.fetched());
            for (all, new) in state.by_source.iter_mut().zip(came.by_source) {
                *all += new;
            }
            if held {
                state.effort.fetched_bytes = state.effort.fetched_bytes.saturating_add(came.fetched());
                return;
            }
            state.effort = state.effort.after(came.fetched(), verified, why.is_some(), files::now());
            state.problem.clone_from(&why);
            if why.is_none() {
                state.step = Step::Fetched;
                Self::queue_report(state, OtaStage::Fetched, running, "");
            } else if state.effort.next(length, random, files::now()) == Attempt::Never {
                given_up = true;
                Self::queue_report(state, OtaStage::Failed, running, why.as_deref().unwrap_or_default());
            }
        })?;
        match why {
            None => self.tell_standing(),
            Some(reason) if given_up => {
                let version = release.version.to_string();
                self.host.tell(Moment::Failed { version, reason, rolled_back: false });
            }
            Some(_) => {}
        }
        self.wake.notify_one();
        Ok(())
    }

    async fn attempt(
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
        sources.manifest().await.map_err(fail)?;
        let kept = Kept { manifest: release.manifest, matchers: release.matchers.clone() };
        let live = ota.live(&kept, &self.bundle.key, false).await.map_err(package)?;
        if live.package.manifest.size_bytes != release.length() {
            return Err(package("the manifest is not that of the release".to_owned()));
        }
        let noted = self.change(|state| {
            state.kept.retain(|other| other.manifest != kept.manifest);
            state.kept.insert(0, kept);
        });
        noted.map_err(|e| package(format!("{e:#}")))?;
        let seed = u64::from_le_bytes(random().map_err(|e| package(e.to_string()))?);
        let download = Download::new(mesh, live, ota.shelf().clone(), ota.receipts.clone(), budget, seed)
            .map_err(fail)?;
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
        };
        let result = download.run(sources, tell, stop).await;
        *lock(&self.signed) = download.receipts();
        result.map_err(|e| (download.came(), e))
    }

    /// Writes and starts what was fetched.
    async fn install(self: &Arc<Self>, ota: &Arc<Ota>, release: Release) -> anyhow::Result<()> {
        let Some(uid) = ota.mesh().map(ioex_net::Mesh::uid) else { return Ok(()) };
        if let Err(why) = self.may_go_on(&release, &uid, true) {
            self.hold(Some(why));
            return Ok(());
        }
        self.hold(None);
        let kept = Kept { manifest: release.manifest, matchers: release.matchers.clone() };
        let live = ota.live(&kept, &self.bundle.key, false).await.map_err(anyhow::Error::msg)?;
        if !live.have().is_full() {
            // What was here is damaged or gone.
            self.change(|state| state.step = Step::Offered)?;
            self.wake.notify_one();
            return Ok(());
        }
        let (own, device, shelf) = (self.clone(), self.device(), ota.shelf().clone());
        let wanted = release.clone();
        let written = tokio::task::spawn_blocking(move || {
            let total = wanted.length();
            let tell = |written| {
                *lock(&own.progress) = Some(OtaProgress {
                    done_bytes: written,
                    total_bytes: total,
                    package_bytes: total,
                    by_source: [0; 4],
                    neighbours: 0,
                });
                own.changed();
            };
            own.installer.write(&shelf, &live.package, &wanted, &device, tell)?;
            // Noted before anything changes place: after a cut the device asks the installer.
            own.change(|state| state.step = Step::Installed).map_err(|e| InstallFailure::Io {
                what: "the device's state".to_owned(),
                error: std::io::Error::other(format!("{e:#}")),
            })?;
            own.installer.activate(&wanted)
        })
        .await?;
        *lock(&self.progress) = None;
        let running = *lock(&self.running);
        match written {
            Ok(_) => {
                self.change(|state| {
                    state.problem = None;
                    Self::queue_report(state, OtaStage::Installed, running, "");
                })?;
                self.host.tell(Moment::Installed { version: release.version.to_string() });
                self.send_reports(ota).await;
                if !self.restart("starting the new version").await {
                    self.hold(Some("it starts with the device's next start".to_owned()));
                }
                self.settle().await
            }
            Err(e) => {
                let why = format!("it could not be installed: {e}");
                self.ended(Err(&why))?;
                Ok(())
            }
        }
    }

    /// Runs the restart command; true when there is one and it worked.
    async fn restart(&self, what: &str) -> bool {
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
    async fn settle(&self) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        if self.read(|state| state.step) != Step::Installed {
            return Ok(());
        }
        let installer = self.installer.clone();
        let standing = tokio::task::spawn_blocking(move || installer.standing()).await??;
        *lock(&self.running) = standing.running;
        let wanted = self.read(|state| state.release.as_ref().map(|release| release.version));
        if standing.waits_for_start {
            self.hold(Some("it starts with the device's next start".to_owned()));
            return Ok(());
        }
        self.hold(None);
        if !standing.on_trial {
            if Some(standing.running) == wanted {
                return self.ended(Ok(()));
            }
            return self.ended(Err("the new version did not stay up, and the device went back by itself"));
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
                self.hold(Some("the program that runs it has to confirm it".to_owned()));
                Ok(())
            }
            None => {
                let installer = self.installer.clone();
                tokio::task::spawn_blocking(move || installer.confirm()).await??;
                self.ended(Ok(()))
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
    pub(crate) async fn go_back(&self, why: &str) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.back(why).await
    }

    /// See [`go_back`](Self::go_back); by whoever has the turn.
    async fn back(&self, why: &str) -> anyhow::Result<()> {
        let installer = self.installer.clone();
        let starts_anew = tokio::task::spawn_blocking(move || installer.roll_back()).await??;
        if !starts_anew {
            let installer = self.installer.clone();
            *lock(&self.running) = tokio::task::spawn_blocking(move || installer.standing()).await??.running;
        }
        self.ended(Err(why))?;
        // Without a command the old version comes with the device's next start.
        self.restart("going back").await;
        Ok(())
    }

    /// An update is over.
    fn ended(&self, how: Result<(), &str>) -> anyhow::Result<()> {
        let running = *lock(&self.running);
        self.host.answered();
        self.hold(None);
        let (version, rolled_back) = self.read(|state| {
            let version = state.release.as_ref().map_or(running, |release| release.version);
            (version.to_string(), state.step == Step::Installed)
        });
        self.change(|state| {
            match how {
                Ok(()) => Self::queue_report(state, OtaStage::Confirmed, running, ""),
                Err(why) => {
                    Self::queue_report(state, OtaStage::Failed, running, why);
                    state.failed = state.release.as_ref().map(|release| release.version);
                }
            }
            state.problem = how.err().map(str::to_owned);
            (state.step, state.consented, state.agreed, state.now) = (Step::Idle, false, false, false);
            if how.is_ok() {
                state.release = None;
            }
            state.effort = Effort::default();
            state.kept.truncate(KEPT_PACKAGES);
        })?;
        self.host.tell(match how {
            Ok(()) => Moment::Confirmed { version },
            Err(why) => Moment::Failed { version, reason: why.to_owned(), rolled_back },
        });
        self.wake.notify_one();
        Ok(())
    }

    /// Tells matchers what waits to be told.
    async fn send_reports(&self, ota: &Arc<Ota>) {
        let Some(mesh) = ota.mesh().cloned() else { return };
        loop {
            let Some(next) = self.read(|state| state.reports.first().cloned()) else { return };
            let stage = match next.stage {
                OtaStage::Fetched => ReportStage::Fetched,
                OtaStage::Installed => ReportStage::Installed,
                OtaStage::Confirmed => ReportStage::Confirmed,
                OtaStage::Failed => ReportStage::Failed,
                _ => ReportStage::Fetching,
            };
            let report = Report {
                manifest: next.manifest,
                stage,
                running: next.running.to_string(),
                reason: next.reason.clone(),
                bytes: next.bytes,
                receipts: if stage == ReportStage::Fetched { lock(&self.signed).clone() } else { Vec::new() },
            };
            let mut told = next.matchers.is_empty();
            for matcher in &next.matchers {
                match mesh.update_report(*matcher, report.clone()).await {
                    Ok(()) => told = true,
                    // Whoever says no will say no again.
                    Err(ioex_net::transfer::FetchError::No(_)) => told = true,
                    Err(e) => tracing::debug!("{} took no report: {e}", matcher.short()),
                }
                if told {
                    break;
                }
            }
            if !told {
                return;
            }
            if let Err(e) = self.change(|state| drop(state.reports.remove(0))) {
                tracing::warn!("{e:#}");
                return;
            }
        }
    }

    /// What of the shelf this device keeps.
    pub(super) fn wanted_packages(&self) -> HashSet<ContentAddress> {
        self.read(|state| state.kept.iter().map(|kept| kept.manifest).collect())
    }
}

/// Random bytes from the operating system.
fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
