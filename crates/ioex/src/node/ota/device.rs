//! The device's side: looks at the channel, asks the owner, fetches, installs, and finds out whether what
//! it installed is healthy. Everything that has to survive a restart is in one file.

mod getting;
mod installing;
mod look;
mod reports;
mod standing;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use ioex_api::{ApiError, ErrorCode, OtaProgress, OtaReason};
use ioex_base::{ContentAddress, DAY_SECONDS, Uid, UnixSeconds};
use ioex_ota::{
    Release, Trust, Version,
    policy::{Effort, Hold, Situation},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::{
    getting::Fetched,
    reports::{Silent, Waiting},
};
use super::{
    Ota,
    bundle::Bundle,
    host::{Answer, Host},
    installer::Installer,
    own::Own,
    room::Needs,
    tills::Counter,
};
use crate::{
    config::{Consent, OtaConfig},
    node::{files, lent::Sense, lock},
};

/// The state's file.
const STATE_FILE: &str = "device.json";
/// How the name of one ends that could not be read.
const DAMAGED: &str = "damaged";
/// The format that this program writes and reads.
const FORMAT: u8 = 1;
/// Packages that are kept for others, the newest first: the one that runs, and the one that others
/// still need for a small step.
const KEPT_PACKAGES: usize = 2;
/// Mirrors that are asked for the channel in one look.
const MIRRORS_MAX: usize = 6;
/// How long asking one mirror for the channel may take: long enough for its few files over a bad line, and no mirror
/// that sends a byte now and then holds up the others.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(60);
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

/// What a device says that would look at its channel, and is not in the network.
const ALONE: &str = "the node is not in the network, so its channel is not looked at";
/// How long after its start a device that has a version ready to be installed waits for the network, to hear first
/// whether its maker still wants that. A device that is not in a network installs what its owner agreed to.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(30);
/// So long a node that starts looks often whether it is in the network, and is not said to be outside.
const JOIN_USUAL: Duration = Duration::from_secs(5);
/// How often it looks then.
const JOIN_TICK: Duration = Duration::from_millis(500);
const _: () = assert!(JOIN_USUAL.as_secs() <= FIRST_LOOK_MAX.as_secs());

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
    /// The last check brought nothing that holds: when the next one is.
    #[serde(default)]
    look_after: Option<UnixSeconds>,
    /// Why the last check refused.
    #[serde(default)]
    looked: Option<String>,
    /// Why the last step with what is offered failed.
    problem: Option<String>,
    by_source: [u64; 4],
    kept: Vec<Kept>,
    pass: Option<HeldPass>,
    reports: Vec<Waiting>,
}

impl State {
    /// Reads one; inside, why it is damaged.
    ///
    /// # Errors
    /// When another program wrote it, whose format this one does not know.
    fn read(bytes: &[u8]) -> anyhow::Result<Result<Self, String>> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        if let Ok(Head { format }) = serde_json::from_slice(bytes) {
            anyhow::ensure!(
                format == u64::from(FORMAT),
                "it has format {format}, this program reads {FORMAT}: update the program"
            );
        }
        Ok(serde_json::from_slice::<Self>(bytes)
            .map_err(|e| e.to_string())
            .and_then(|state| state.trust().map(|_| state).map_err(|e| format!("{e:#}"))))
    }

    fn trust(&self) -> anyhow::Result<Trust> {
        Ok(Trust::from_bytes(&BASE64.decode(self.trust.as_bytes())?)?)
    }

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
            look_after: None,
            looked: None,
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
    /// Held while the state's file is written: one change at a time, and nobody who reads waits for the disk.
    writing: Mutex<()>,
    /// Why the last step broke off, when it did.
    trouble: Mutex<Option<String>>,
    /// Whether the node was not in the network at the last step.
    alone: AtomicBool,
    sense: Sense,
    running: Mutex<Version>,
    /// What is under way, for whoever looks.
    progress: Mutex<Option<OtaProgress>>,
    /// What of the attempt under way the state's file has.
    noted: Mutex<Fetched>,
    /// Bytes that the attempt under way may take of what the month's cap leaves.
    reserved_bytes: AtomicU64,
    /// Why it waits.
    holding: Mutex<Option<Held>>,
    /// Why the last attempt found nobody who hands the version out any more.
    unmatched: Mutex<Option<String>>,
    /// What had no room the last time, and for which package.
    lacks: Mutex<Option<(ContentAddress, Needs)>>,
    /// The channel is being looked at because somebody asked, or for the first time, and what follows is not decided yet.
    deciding: AtomicBool,
    /// Its owner said yes, and waits for what comes of it: the channel is looked at first, but not for long.
    owner_waits: AtomicBool,
    pub(crate) wake: Notify,
    /// Counts changes, for those who follow.
    pub(crate) changes: tokio::sync::watch::Sender<u64>,
    /// A download under way ends when the owner says no.
    stop: Mutex<CancellationToken>,
    /// Receipts of the last download, for the matcher. They are on the disk as well.
    signed: Mutex<Vec<Vec<u8>>>,
    /// The program in which the node runs.
    pub(super) host: Host,
    /// Matchers that took no report, and when they are asked again.
    silent: Mutex<Silent>,
    /// When the node was started.
    started: Instant,
    /// A version was ready to be installed at the start, and the channel was not looked at since.
    looks_first: AtomicBool,
    /// What was installed runs from the next start of the program in which the node runs.
    starts_anew: AtomicBool,
    /// Who ends a trial: its health, or somebody's word.
    turn: tokio::sync::Mutex<()>,
    /// Parts of the package that is coming, in what runs.
    own: Mutex<OwnParts>,
}

/// What of a package lies in what runs.
#[derive(Default)]
enum OwnParts {
    /// Nobody looked.
    #[default]
    Unknown,
    /// Looked at for this package.
    Found(ContentAddress, Arc<Own>),
    /// Of no use for this package: it cannot be read, or changes.
    Useless(ContentAddress),
}

/// Why an update waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// For programs.
    pub(super) reason: OtaReason,
    /// For people.
    pub(super) why: String,
    /// Whether it does not go on by itself: somebody has to do something about it.
    pub(super) stuck: bool,
}

impl Held {
    /// Something that passes.
    fn so_far(reason: OtaReason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into(), stuck: false }
    }

    /// Something that somebody has to do something about.
    fn stuck(reason: OtaReason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into(), stuck: true }
    }
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
                // Nobody may be at the device to remove a file that a bad disk damaged. It begins anew with the bundle's root
                // and what the installer knows, which takes no version below the one that runs.
                State::read(&bytes).with_context(|| path.display().to_string())?.or_else(|why| {
                    let aside = path.with_extension(DAMAGED);
                    std::fs::rename(&path, &aside).with_context(|| aside.display().to_string())?;
                    tracing::warn!(
                        "{} is damaged ({why}); it lies in {} now",
                        path.display(),
                        aside.display()
                    );
                    anyhow::Ok(State::first(&bundle.trust))
                })?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::first(&bundle.trust),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        let installer = Installer::new(config, dir.clone());
        let running = installer.standing().context("the installer cannot be used")?.running;
        let ready = state.step == Step::Fetched;
        Ok(Self {
            config: config.clone(),
            bundle,
            installer,
            dir,
            state: Mutex::new(state),
            writing: Mutex::default(),
            trouble: Mutex::default(),
            alone: AtomicBool::new(false),
            sense: Sense::default(),
            running: Mutex::new(running),
            progress: Mutex::default(),
            noted: Mutex::default(),
            reserved_bytes: AtomicU64::new(0),
            holding: Mutex::default(),
            unmatched: Mutex::default(),
            lacks: Mutex::default(),
            deciding: AtomicBool::new(false),
            owner_waits: AtomicBool::new(false),
            wake: Notify::new(),
            changes: tokio::sync::watch::Sender::new(0),
            stop: Mutex::default(),
            signed: Mutex::default(),
            host: Host::default(),
            silent: Mutex::default(),
            started: Instant::now(),
            looks_first: AtomicBool::new(ready),
            starts_anew: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            own: Mutex::default(),
        })
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.state))
    }

    /// Changes the state and makes it durable. A disk may take its time for that, so a thread for files does it, and
    /// does all of it also when whoever asked no longer waits.
    ///
    /// # Errors
    /// When the file cannot be written: the state is as it was.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let own = self.clone();
        tokio::task::spawn_blocking(move || own.change_here(change)).await?
    }

    /// The same on this thread, which waits for the disk.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    fn change_here<T>(&self, change: impl FnOnce(&mut State) -> T) -> anyhow::Result<T> {
        use anyhow::Context as _;
        let _turn = lock(&self.writing);
        let mut next = self.read(State::clone);
        let result = change(&mut next);
        let path = self.dir.join(STATE_FILE);
        let bytes = serde_json::to_vec_pretty(&next)?;
        files::replace(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        *lock(&self.state) = next;
        self.changed();
        Ok(result)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Says why it waits, or that it does not.
    fn hold(&self, held: Option<Held>) {
        let decided = self.deciding.swap(false, Ordering::Relaxed);
        let mut holding = lock(&self.holding);
        if *holding != held || decided {
            *holding = held;
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
    pub(super) async fn keep_pass(self: &Arc<Self>, manifest: ContentAddress, issuer: Uid, bytes: &[u8]) {
        let pass = HeldPass { manifest, issuer, bytes: BASE64.encode(bytes) };
        if let Err(e) = self.change(|state| state.pass = Some(pass)).await {
            tracing::warn!("{e:#}");
        }
    }

    /// What the owner allows, and how things stand.
    fn situation(&self) -> Situation {
        let seen = self.sense.now();
        let on_battery = seen.on_battery == Some(true);
        Situation {
            battery_percent: if on_battery { self.sense.battery_percent() } else { None },
            plugged_in: !on_battery,
            metered: seen.metered == Some(true),
            minute: seen.minute,
            month_bytes: self.month_bytes(),
        }
    }

    fn month_bytes(&self) -> u64 {
        let now = month_of(files::now());
        self.read(|state| if state.month.0 == now { state.month.1 } else { 0 })
    }

    /// Bytes that the month's cap leaves for others: an update of its own comes first, with all that it may take.
    pub(super) fn cap_left(&self) -> u64 {
        let left = self.config.policy.cap_left(self.month_bytes());
        let reserved = self.reserved_bytes.load(Ordering::Relaxed);
        left.saturating_sub(reserved.saturating_sub(lock(&self.noted).bytes))
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
        // What was noted is in the month's sum.
        let bytes = bytes.saturating_sub(lock(&self.noted).bytes);
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

    /// Counts what others got, and lets them have what the cap leaves.
    pub(super) async fn count_sent(self: &Arc<Self>, counter: &Counter) {
        let bytes = counter.take_spent();
        if bytes > 0
            && let Err(e) = self.change(move |state| Self::count(state, bytes)).await
        {
            tracing::warn!("{e:#}");
        }
        counter.allow(self.cap_left());
    }

    /// The owner's word on what is offered. A yes is followed by a look, unless the update is under way: its maker may
    /// have thought better of it. Waits for the disk.
    ///
    /// # Errors
    /// When nothing is offered, or something else than what was answered about, or the disk fails.
    pub(crate) fn consent(&self, answer: &Answer) -> Result<(), ApiError> {
        let Answer { yes, now, .. } = *answer;
        let looks = yes && lock(&self.progress).is_none();
        let told = self.change_here(|state| {
            let release = answer.met_by(state.release.as_ref())?;
            if yes {
                (state.consented, state.declined) = (true, None);
                state.agreed |= state.step == Step::Fetched || self.config.consent == Consent::Install;
                state.now |= now;
                // The owner's word is worth another try.
                state.effort = Effort { failures: 0, ..state.effort };
                if looks && matches!(state.step, Step::Offered | Step::Fetched) {
                    state.last_check = None;
                }
            } else {
                state.declined = Some(release.version);
                (state.consented, state.agreed, state.now) = (false, false, false);
            }
            Ok::<(), ApiError>(())
        });
        told.map_err(|e| ApiError::new(ErrorCode::Io, format!("{e:#}")))??;
        if !yes {
            lock(&self.stop).cancel();
        }
        // What was so before is found out anew.
        (*lock(&self.unmatched), *lock(&self.lacks)) = (None, None);
        self.hold(None);
        self.owner_waits.store(looks, Ordering::Relaxed);
        self.wake.notify_one();
        Ok(())
    }

    /// Looks at the channel at the next opportunity. Waits for the disk.
    pub(crate) fn check_now(&self) -> anyhow::Result<()> {
        self.change_here(|state| state.last_check = None)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Lets what failed be tried again. Waits for the disk.
    ///
    /// # Errors
    /// When the installer's state cannot be written.
    pub(crate) fn forgive(&self) -> anyhow::Result<()> {
        self.installer.forgive()?;
        self.change_here(|state| {
            (state.effort, state.problem, state.failed) = (Effort::default(), None, None);
            if state.step == Step::Idle && state.release.is_some() {
                state.step = Step::Offered;
            }
            // Its maker may have thought better of it.
            state.last_check = None;
        })?;
        *lock(&self.lacks) = None;
        self.hold(None);
        self.tell_standing();
        self.wake.notify_one();
        Ok(())
    }
}

impl Device {
    /// Runs until `stop`.
    pub(super) async fn run(self: Arc<Self>, ota: Arc<Ota>, stop: CancellationToken) {
        self.host.tell_ends();
        self.tell_standing();
        if let Err(e) = self.count_start().await {
            tracing::warn!("update: {e:#}");
        }
        // After a cut the installer knows better than the state's file.
        if let Err(e) = self.reconcile().await {
            tracing::warn!("update: {e:#}");
        }
        if let Err(e) = self.tell_waiting().await {
            tracing::warn!("update: {e:#}");
        }
        loop {
            let trouble = self.step(&ota, &stop).await.err().map(|e| format!("{e:#}"));
            let decided = self.deciding.swap(false, Ordering::Relaxed);
            if let Some(why) = &trouble {
                tracing::warn!("update: {why}");
            }
            if std::mem::replace(&mut *lock(&self.trouble), trouble.clone()) != trouble || decided {
                self.changed();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(self.pause()) => {}
            }
        }
    }

    async fn step(self: &Arc<Self>, ota: &Arc<Ota>, stop: &CancellationToken) -> anyhow::Result<()> {
        if self.read(|state| state.step) == Step::Installed {
            self.settle().await?;
        }
        let waits = || self.owner_waits.load(Ordering::Relaxed);
        // Silent matchers cost time; the rest of the step does not depend on them, and an owner does not wait for them.
        let told = if waits() { None } else { stop.run_until_cancelled(self.send_reports(ota)).await };
        let owner_waits = waits();
        if self.read(|state| state.step) != Step::Installed
            && let Some((files, answer)) = self.host.brought()
        {
            // Who brought it may not wait for the answer.
            let _ = answer.send(self.take(ota, &files).await?.map_err(|unfit| unfit.why));
        }
        let alone = !ota.mesh().is_some_and(ioex_net::Mesh::joined);
        let mut looked = Ok(());
        if self.is_due() && !alone {
            // Whoever waits for the look waits for what comes of it, too, and not for what was before.
            self.deciding.store(self.read(|state| state.last_check.is_none()), Ordering::Relaxed);
            *lock(&self.trouble) = None;
            // What is ready does not wait for long, either.
            let is_first = self.looks_first.swap(false, Ordering::Relaxed);
            let look = stop.run_until_cancelled(self.look(ota, owner_waits || is_first)).await;
            looked = look.unwrap_or(Ok(()));
        }
        if owner_waits {
            self.owner_waits.store(false, Ordering::Relaxed);
        }
        looked?;
        let alone = alone && self.started.elapsed() >= JOIN_USUAL;
        if self.alone.swap(alone, Ordering::Relaxed) != alone {
            self.changed();
        }
        let (step, release) = self.read(|state| (state.step, state.release.clone()));
        match (step, release) {
            (Step::Offered, Some(release)) => self.fetch(ota, release, stop).await?,
            (Step::Fetched, Some(_)) if self.looks_first() => {
                let why = "its maker is asked first whether it is still wanted";
                self.hold(Some(Held::so_far(OtaReason::Network, why)));
            }
            (Step::Fetched, Some(release)) => self.install(ota, release, stop).await?,
            (Step::Installed, _) => {}
            (Step::Idle, _) | (_, None) => self.hold(None),
        }
        told.unwrap_or(Ok(()))
    }

    /// Whether what was ready at the start has to wait for a look at the channel.
    fn looks_first(&self) -> bool {
        // What turned out to be on trial is not replaced.
        let ready = self.read(|state| state.step) == Step::Fetched;
        ready && self.looks_first.load(Ordering::Relaxed) && self.started.elapsed() < FIRST_LOOK_MAX
    }

    /// Until it looks again for what it waits for.
    fn pause(&self) -> Duration {
        let starts = self.started.elapsed() < JOIN_USUAL && self.read(|state| state.step) != Step::Installed;
        if starts { JOIN_TICK } else { TICK }
    }

    fn is_due(&self) -> bool {
        if self.looks_first() {
            return true;
        }
        let minutes = u64::from(self.config.check_minutes);
        self.read(|state| {
            let now = files::now();
            state.step != Step::Installed
                && state.last_check.is_none_or(|last| {
                    let next = state.look_after.unwrap_or(last.plus(minutes * 60));
                    next <= now || last > now
                })
        })
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

#[cfg(all(test, feature = "super"))]
mod tests;
