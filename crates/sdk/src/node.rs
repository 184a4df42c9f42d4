//! A node in a runtime that the program has.

use ioex::{
    config::NodeConfig,
    node::{Answer, ChannelFiles, DeviceUpdates},
};
use ioex_api::{ApiError, OtaState};
use ioex_base::Uid;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Error, Events};

/// A device's node. It stops when this is dropped; [`shutdown`](Self::shutdown) also waits for it.
pub struct Node {
    uid: Uid,
    updates: DeviceUpdates,
    stop: CancellationToken,
    ended: tokio::sync::Mutex<Option<JoinHandle<anyhow::Result<()>>>>,
}

/// Checks what a node for updates needs.
pub(crate) fn check(config: &NodeConfig) -> Result<(), Error> {
    if config.data.as_os_str().is_empty() {
        return Err(Error::Config(
            "it has to name the folder `data`, where the node keeps its key".to_owned(),
        ));
    }
    if config.ota.is_none() {
        return Err(Error::Config("it has no section [ota], so this device follows no channel".to_owned()));
    }
    config.check().map_err(|e| Error::Config(e.to_string()))
}

impl Node {
    /// Starts it, without a socket for commands.
    ///
    /// # Errors
    /// [`Error::Config`]; [`Error::Start`] when the data folder is in use or cannot be written, a port is taken,
    /// or the bundle or the installer cannot be used.
    pub async fn start(config: NodeConfig) -> Result<Self, Error> {
        Self::begin(config, false).await
    }

    /// Starts it, and answers `ioex --data FOLDER ...` as `ioex node` does: for looking at a device while its
    /// firmware is being made.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with_commands(config: NodeConfig) -> Result<Self, Error> {
        Self::begin(config, true).await
    }

    async fn begin(config: NodeConfig, commands: bool) -> Result<Self, Error> {
        check(&config)?;
        let start = |e: anyhow::Error| Error::Start(format!("{e:#}"));
        let running = ioex::node::start(config).await.map_err(start)?;
        let (uid, stop) = (running.uid(), running.stop());
        let no_updates = || Error::Config("it has no section [ota]".to_owned());
        let updates = running.updates().ok_or_else(no_updates)?;
        let ended = tokio::spawn(async move {
            if commands {
                return running.serve().await;
            }
            running.wait().await;
            Ok(())
        });
        Ok(Self { uid, updates, stop, ended: tokio::sync::Mutex::new(Some(ended)) })
    }

    /// The device's key: its maker puts it on the roster.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// What happens from now on; the first who asks also hears what happened since the start.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.updates.clone(), self.stop.clone())
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> OtaState {
        self.updates.state()
    }

    /// Somebody told the device that there is something new: look at the channel now. Without such a word the
    /// device looks by itself, every `check_minutes`.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails.
    pub async fn check(&self) -> Result<(), Error> {
        self.on_disk(DeviceUpdates::check).await
    }

    /// The maker's own centre, or its Monitor, handed over the channel's files. They are verified as if a mirror
    /// had sent them, so whoever brings them need not be trusted. Waits until they were looked at: that is
    /// between two steps, not while a package is fetched or on trial.
    ///
    /// # Errors
    /// [`Error::Refused`] when they do not hold; [`Error::NothingOffered`] when newer ones took their place.
    pub async fn take(&self, files: ChannelFiles) -> Result<(), Error> {
        Ok(self.updates.take(files).await?)
    }

    /// The owner's word on what is offered or ready. It names the version, and best the manifest, of the event that
    /// the owner answers, so that a yes never meets another version that came meanwhile.
    ///
    /// # Errors
    /// [`Error::NothingOffered`]; [`Error::Outdated`] when it is about something else than what is offered now;
    /// [`Error::Argument`] when its version is none; [`Error::Io`] when the disk fails.
    pub async fn consent(&self, answer: Answer) -> Result<(), Error> {
        self.on_disk(move |updates| updates.consent(&answer)).await
    }

    /// What is on trial is healthy, and stays.
    ///
    /// # Errors
    /// [`Error::NothingOffered`] when nothing is on trial; [`Error::Io`] when the disk fails.
    pub async fn confirm(&self) -> Result<(), Error> {
        Ok(self.updates.confirm().await?)
    }

    /// What is on trial goes, and the version before comes back. `why` is told to the maker.
    ///
    /// # Errors
    /// [`Error::NothingOffered`] when nothing is on trial; [`Error::Io`] when the disk or the installer's command fails.
    pub async fn roll_back(&self, why: &str) -> Result<(), Error> {
        Ok(self.updates.roll_back(why).await?)
    }

    /// Lets what failed be tried again.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails.
    pub async fn forgive(&self) -> Result<(), Error> {
        self.on_disk(DeviceUpdates::forgive).await
    }

    /// A call that waits for the disk, on a thread for that.
    async fn on_disk(
        &self,
        call: impl FnOnce(&DeviceUpdates) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<(), Error> {
        let updates = self.updates.clone();
        let done = tokio::task::spawn_blocking(move || call(&updates)).await;
        Ok(done.map_err(|e| Error::Io(e.to_string()))??)
    }

    /// Ends the node and waits for it; for a package that is just being written, too.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket for commands could not be used.
    pub async fn shutdown(self) -> Result<(), Error> {
        self.end().await.map_or(Ok(()), |problem| Err(Error::Io(problem)))
    }

    /// Ends it, waits, and says what went wrong.
    pub(crate) async fn end(&self) -> Option<String> {
        self.stop.cancel();
        let ended = self.ended.lock().await.take()?;
        match ended.await {
            Ok(served) => served.err().map(|e| format!("{e:#}")),
            Err(_) => Some("the node ended with a fault; its log says more".to_owned()),
        }
    }

    pub(crate) fn updates(&self) -> &DeviceUpdates {
        &self.updates
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
