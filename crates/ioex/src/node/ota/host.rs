//! The program in which the node runs, when that is not `ioex`: what it is told, what it is asked, and what it
//! may do. The local API answers with the same calls.

use std::{
    path::Path,
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};

use ioex_api::{ApiError, ErrorCode, OtaReason, OtaState};
use ioex_base::ContentAddress;
use ioex_net::proto::ChannelFiles;
use ioex_ota::{Release, Version, install::InstallError};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot, watch};

use super::{Ota, device::Device, ends::Ends, installer::InstallFailure};
use crate::node::lock;

/// Moments that wait for a program that is behind. A whole update has five.
const MOMENTS_QUEUED: usize = 64;

/// What happens once in the course of an update. What goes on between is in [`OtaState`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// A version is there for this device.
    Offered {
        /// Which.
        version: String,
        /// The address list (manifest).
        manifest: ContentAddress,
        /// Length of the package.
        bytes: u64,
        /// Whether the owner has to agree before it is fetched.
        consent: bool,
    },
    /// All of it is here.
    Fetched {
        /// Which.
        version: String,
        /// The address list (manifest).
        manifest: ContentAddress,
        /// Whether the owner has to agree before it is installed.
        consent: bool,
    },
    /// It is written, and put in charge or ready for the next start. Told again after each start of the program as long
    /// as it is the device that has to start.
    Installed {
        /// Which.
        version: String,
    },
    /// It runs, and has to show that it is healthy. Told again after each start.
    Trial {
        /// Which.
        version: String,
        /// Whether the program has to confirm it.
        confirm: bool,
    },
    /// It runs, and stays. This and `Failed` are told again at the next start unless they were
    /// [`heard`](DeviceUpdates::heard).
    Confirmed {
        /// Which.
        version: String,
    },
    /// It could not be fetched, written or kept.
    Failed {
        /// Which.
        version: String,
        /// Why, for programs.
        code: OtaReason,
        /// Why, for people.
        reason: String,
        /// Whether it was in charge, or about to be, and the version before is again.
        rolled_back: bool,
    },
}

/// The owner's word on a version that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which version was shown, such as `1.2`.
    pub version: String,
    /// Its manifest, when that was shown, too.
    pub manifest: Option<ContentAddress>,
    /// Whether it may be fetched and installed.
    pub yes: bool,
    /// Whether it may be installed whatever the hour.
    pub now: bool,
}

impl Answer {
    /// The release that is offered, when the answer is about that one.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] when nothing is offered, [`ErrorCode::Outdated`] when it is another one,
    /// [`ErrorCode::BadRequest`] when the version is none.
    pub(super) fn met_by<'a>(&self, offered: Option<&'a Release>) -> Result<&'a Release, ApiError> {
        let Some(release) = offered else {
            let why = "no version is offered to this device";
            return Err(ApiError::new(ErrorCode::NotFound, why));
        };
        let version = self.version.parse::<Version>().map_err(|e| {
            ApiError::new(ErrorCode::BadRequest, format!("{:?} is no version: {e}", self.version))
        })?;
        let now = release.version;
        let what = if version != now {
            format!("the answer is about version {version}, and {now} is offered now")
        } else if self.manifest.is_some_and(|manifest| manifest != release.manifest) {
            format!("the answer is about another package of version {now} than the one that is offered now")
        } else {
            return Ok(release);
        };
        Err(ApiError::new(ErrorCode::Outdated, format!("{what}: look at that one and answer again")))
    }
}

/// Metadata that the program brought, and where the answer goes.
type Brought = (ChannelFiles, oneshot::Sender<Result<(), String>>);

/// The program, as the device sees it.
pub(super) struct Host {
    moments: broadcast::Sender<Moment>,
    /// Has what was told before anybody listened.
    first: Mutex<Option<broadcast::Receiver<Moment>>>,
    brought: Mutex<Option<Brought>>,
    /// Since when it is to say whether what runs is healthy.
    asked: Mutex<Option<Instant>>,
    /// There is such a program, and these are the ends that it may not have heard of.
    ends: OnceLock<Ends>,
}

impl Default for Host {
    fn default() -> Self {
        let (moments, first) = broadcast::channel(MOMENTS_QUEUED);
        let (first, brought) = (Mutex::new(Some(first)), Mutex::default());
        Self { moments, first, brought, asked: Mutex::default(), ends: OnceLock::new() }
    }
}

impl Host {
    /// The node runs in a program that is not `ioex`. What that has not heard of lies in this folder.
    pub(super) fn set_program(&self, dir: &Path) {
        // There is one program.
        let _ = self.ends.set(Ends::open(dir));
    }

    pub(super) fn is_program(&self) -> bool {
        self.ends.get().is_some()
    }

    /// Tells how updates ended of which the program may not have heard.
    pub(super) fn tell_ends(&self) {
        self.ends.get().map(Ends::all).into_iter().flatten().for_each(|end| self.tell(end));
    }

    /// What happens from now on; whoever asks first also hears what happened before.
    pub(super) fn listen(&self) -> broadcast::Receiver<Moment> {
        lock(&self.first).take().unwrap_or_else(|| self.moments.subscribe())
    }

    /// The program has heard of it. Waits for the disk when that is kept.
    pub(super) fn heard(&self, moment: &Moment) {
        if let Some(ends) = self.ends.get() {
            ends.heard(moment);
        }
    }

    /// Keeps it until the program has heard of it. Waits for the disk.
    pub(super) fn keep_end(&self, end: &Moment) {
        if let Some(ends) = self.ends.get() {
            ends.keep(end);
        }
    }

    pub(super) fn tell(&self, moment: Moment) {
        // Whether anybody listens is not the device's business.
        let _ = self.moments.send(moment);
    }

    /// What was brought last and was not looked at yet.
    pub(super) fn brought(&self) -> Option<Brought> {
        lock(&self.brought).take()
    }

    pub(super) fn ask(&self) {
        *lock(&self.asked) = Some(Instant::now());
    }

    pub(super) fn asked_since(&self) -> Option<Instant> {
        *lock(&self.asked)
    }

    pub(super) fn answered(&self) {
        *lock(&self.asked) = None;
    }
}

/// A handle to the updates of a device.
#[derive(Clone)]
pub struct DeviceUpdates(Arc<Device>);

/// A trial that there is not, or what went wrong.
fn trial(e: anyhow::Error) -> ApiError {
    match e.downcast_ref() {
        Some(InstallFailure::Install(InstallError::NotOnTrial)) => {
            ApiError::new(ErrorCode::NotFound, e.to_string())
        }
        _ => io(e),
    }
}

fn io(e: anyhow::Error) -> ApiError {
    ApiError::new(ErrorCode::Io, format!("{e:#}"))
}

impl DeviceUpdates {
    pub(crate) fn of(ota: &Ota) -> Option<Self> {
        ota.device.clone().map(Self)
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> OtaState {
        self.0.show()
    }

    /// Counts the changes of that state.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What happens from now on; whoever asks first also hears what happened since the start.
    #[must_use]
    pub fn moments(&self) -> broadcast::Receiver<Moment> {
        self.0.host.listen()
    }

    /// The program has heard of it, and is not told again. Writes a small file when it is the end of an update: not for
    /// an asynchronous thread.
    pub fn heard(&self, moment: &Moment) {
        self.0.host.heard(moment);
    }

    /// Looks at the channel at the next opportunity. Writes a small file: not for an asynchronous thread.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn check(&self) -> Result<(), ApiError> {
        self.0.check_now().map_err(io)
    }

    /// Hands over metadata of the channel, such as a maker's own centre has it. It is looked at between two
    /// steps: not while a package is being fetched or a version is on trial.
    ///
    /// # Errors
    /// When it does not hold, or newer files took its place before it was looked at.
    pub async fn take(&self, files: ChannelFiles) -> Result<(), ApiError> {
        self.bring(files).await
    }

    /// [`take`](Self::take), whose first half is done when this returns: the files are the next that are looked at.
    pub fn bring(&self, files: ChannelFiles) -> impl Future<Output = Result<(), ApiError>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        *lock(&self.0.host.brought) = Some((files, answer));
        self.0.wake.notify_one();
        async {
            match answered.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(why)) => Err(ApiError::new(ErrorCode::Refused, why)),
                Err(_) => {
                    let why = "the files were not looked at: newer ones came, or the node stopped";
                    Err(ApiError::new(ErrorCode::NotFound, why))
                }
            }
        }
    }

    /// The owner's word on what is offered or fetched. After a yes the channel is looked at once more before it begins.
    /// Writes a small file: not for an asynchronous thread.
    ///
    /// # Errors
    /// When nothing is offered, or something else than what was answered about, or the disk fails.
    pub fn consent(&self, answer: &Answer) -> Result<(), ApiError> {
        self.0.consent(answer)
    }

    /// Waits until what the owner agreed to begins or waits for something, at most some twenty seconds: the channel is
    /// looked at first, and matchers are asked.
    ///
    /// # Errors
    /// When that look found something else than what was answered about, or nothing that is offered any more.
    pub async fn answered(&self, answer: &Answer) -> Result<(), ApiError> {
        self.0.answered(answer).await
    }

    /// Makes what is on trial what runs.
    ///
    /// # Errors
    /// When nothing is on trial, or the installer's state cannot be written.
    pub async fn confirm(&self) -> Result<(), ApiError> {
        self.0.confirm().await.map_err(trial)
    }

    /// Ends a trial, or takes back what waits for its start. `why` is told to the maker.
    ///
    /// # Errors
    /// When there is nothing to go back from, or the installer's state cannot be written.
    pub async fn roll_back(&self, why: &str) -> Result<(), ApiError> {
        self.0.go_back(why).await.map_err(trial)
    }

    /// Lets what failed be tried again. Writes small files: not for an asynchronous thread.
    ///
    /// # Errors
    /// When the installer's state cannot be written.
    pub fn forgive(&self) -> Result<(), ApiError> {
        self.0.forgive().map_err(io)
    }
}
