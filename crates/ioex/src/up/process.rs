//! One node of the network as a process of its own.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use ioex_api::{Client, Empty, IdInfo, Request};
use serde::de::DeserializeOwned;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::plan::Place;

/// Where a node's stdout and stderr go, in its data folder.
const LOG_NAME: &str = "log.txt";
/// How much of a failed node's log is shown.
const LOG_TAIL_LINES: usize = 15;
/// How much of the log's end is read for that, in bytes.
const LOG_TAIL_BYTES: u64 = 16 * 1024;
/// Pause between looks at a node that is not ready yet.
const POLL: Duration = Duration::from_millis(100);
/// How long one answer of a node may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take to end when it was told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A node that was started.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) place: Place,
    pub(super) pid: u32,
    folder: PathBuf,
    /// Gone once it was killed or has ended.
    child: Option<Child>,
}

impl Process {
    /// Starts `place` in its folder below `data`.
    pub(super) fn start(data: &Path, place: &Place, flags: &[String]) -> anyhow::Result<Self> {
        let folder = folder(data, &place.name);
        private_dir(&folder)?;
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(folder.join(LOG_NAME))
            .with_context(|| format!("cannot write the log of {}", place.name))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .arg("node")
            .arg("--data")
            .arg(&folder)
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .args(["--kind", &place.kind.to_string(), "--name", &place.name, "--owner", &place.owner])
            .args(["--bind", &place.ip.to_string(), "--port", &place.port.to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C in the terminal is for us; we stop the nodes in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", place.name))?;
        match child.id() {
            Some(pid) => Ok(Self { place: place.clone(), pid, folder, child: Some(child) }),
            // Only a process that was waited for has no id any more.
            None => bail!("{} ended at once: {:?}", place.name, child.try_wait()),
        }
    }

    /// Its data folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it was neither killed nor stopped.
    pub(super) fn running(&self) -> bool {
        self.child.is_some()
    }

    /// Its API.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.folder).await.with_context(|| format!("{} does not answer", self.place.name))
    }

    /// Asks again and again until the answer is `good`, the process ends, or `deadline` passes.
    pub(super) async fn wait_for<T: DeserializeOwned>(
        &mut self,
        request: Request,
        deadline: Instant,
        what: &str,
        good: impl Fn(&T) -> bool,
    ) -> anyhow::Result<T> {
        loop {
            let answer = timeout(ANSWER_TIMEOUT, async {
                Client::connect(&self.folder).await?.call::<T>(request.clone()).await
            });
            let trouble = match answer.await {
                Ok(Ok(value)) if good(&value) => return Ok(value),
                Ok(Ok(_)) => String::new(),
                Ok(Err(error)) => format!(" ({error})"),
                Err(_) => " (it does not answer)".to_owned(),
            };
            let name = &self.place.name;
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.child = None;
                bail!("{name} ended with {status} before it {what}; {}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{name} took too long until it {what}{trouble}; {}", self.log_tail());
            }
            sleep(POLL).await;
        }
    }

    /// Waits until it knows who it is.
    pub(super) async fn id(&mut self, deadline: Instant) -> anyhow::Result<IdInfo> {
        let bootstrap = self.place.kind == ioex_base::NodeKind::Bootstrap;
        let good = move |id: &IdInfo| !bootstrap || id.seed.is_some();
        self.wait_for(Request::Id, deadline, "said who it is", good).await
    }

    /// Ends it without any warning (SIGKILL), as a power cut would.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().await.with_context(|| format!("cannot kill {}", self.place.name))
    }

    /// Ends it in order; by force when it does not obey.
    pub(super) async fn stop(mut self) {
        let Some(mut child) = self.child.take() else { return };
        let ended = timeout(STOP_TIMEOUT, async {
            if let Ok(client) = Client::connect(&self.folder).await {
                // Whether it answered does not matter, whether it ends does.
                let _ = client.call::<Empty>(Request::Shutdown).await;
                child.wait().await.is_ok()
            } else {
                false
            }
        });
        if !matches!(ended.await, Ok(true)) {
            let _ = child.kill().await;
        }
    }

    fn log_tail(&self) -> String {
        let path = self.folder.join(LOG_NAME);
        let tail = tail(&path).unwrap_or_else(|e| format!("cannot be read: {e}"));
        format!("the end of {}:\n{tail}", path.display())
    }
}

/// A node's data folder.
pub(super) fn folder(data: &Path, name: &str) -> PathBuf {
    data.join(name)
}

/// Makes a folder, and those above it, that only its owner may enter.
pub(super) fn private_dir(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = fs::File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    Ok(if shown.is_empty() { "(empty)".to_owned() } else { shown.join("\n") })
}
