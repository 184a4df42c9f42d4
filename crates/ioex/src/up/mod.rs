//! `ioex up`: a whole network on this machine.
//!
//! Every node is a process of its own with its own key, data folder, loopback address and owner;
//! nothing is short-circuited: the nodes find each other through the bootstraps, and this program
//! talks to them over their local sockets only. `plan` chooses and remembers addresses, `process`
//! is one node, `network` all of them, `story` the backup and the restore, `table` what is printed
//! in the end.
//!
//! Files: without `--data` everything lies in a fresh folder below the system's temporary one. It
//! stays when something fails, and its place is printed; after Ctrl-C it is removed; after
//! `--once` the manifest and the restored file stay and the nodes' folders are removed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use tokio::signal::unix::{SignalKind, signal};

use self::{network::Network, table::Report};
use crate::{
    cli::UpArgs,
    exit::{Interrupted, Usage},
    out::Out,
    progress::{Show, say},
};

mod network;
mod plan;
mod process;
mod story;
mod table;

/// Runs the network and its story.
///
/// # Errors
/// When a node does not come up, or any step of the story fails; all nodes are stopped then.
pub async fn run(args: &UpArgs, data: Option<&Path>, out: Out) -> anyhow::Result<()> {
    let file = source(args.file.as_deref())?;
    let folder = Folder::open(data)?;
    let mut network = Network::default();
    let story = async {
        let report = tell(&mut network, args, &file, &folder).await?;
        out.result(&report, Report::text)?;
        Ok(())
    };
    let mut outcome = tokio::select! {
        outcome = story => outcome,
        interrupted = interrupted() => Err(interrupted.err().unwrap_or_else(|| Interrupted.into())),
    };
    if outcome.is_ok() && !args.once {
        if !out.json() {
            out.text(&hints(&network))?;
        }
        outcome = interrupted().await;
    }
    say("Stopping the nodes");
    network.stop().await;
    match &outcome {
        Ok(()) if args.once => folder.keep_result(),
        Ok(()) => folder.remove(),
        Err(error) if error.is::<Interrupted>() => folder.remove(),
        Err(_) => say(&format!("The nodes' folders and logs are in {}", folder.path.display())),
    }
    outcome
}

async fn tell(network: &mut Network, args: &UpArgs, file: &Path, folder: &Folder) -> anyhow::Result<Report> {
    let show = Show::detect();
    say(&format!(
        "1. {} bootstraps, {} peers, a super node and a phone start in {}",
        args.bootstraps,
        args.peers,
        folder.path.display()
    ));
    network.start(&folder.path, args, show).await?;
    let outcome = story::tell(network, file, &folder.run, show).await?;
    Ok(Report::new(outcome, network, &folder.path))
}

/// The file to back up, checked before anything is started.
fn source(file: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match file {
        Some(file) => std::path::absolute(file)?,
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    let meta = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if !meta.is_file() {
        return Err(Usage(format!("{} is no file", path.display())).into());
    }
    Ok(path)
}

/// Resolves at Ctrl-C or when the process is asked to end.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        ctrl_c = tokio::signal::ctrl_c() => ctrl_c.context("cannot wait for Ctrl-C"),
    }
}

fn hints(network: &Network) -> String {
    let folder = |name: &str| {
        let node = network.nodes.iter().find(|node| node.process.place.name == name);
        node.map(|node| node.process.folder().display().to_string()).unwrap_or_default()
    };
    let (phone, peer, boot) = (folder("phone"), folder("peer-1"), folder("boot-1"));
    format!(
        "\nThe network stays up until Ctrl-C. In another terminal:\n\
         \x20 ioex status --data {phone}\n\
         \x20 ioex netcheck --data {phone}\n\
         \x20 ioex device shards --data {peer}\n\
         \x20 ioex pair show --data {peer}\n\
         \x20 ioex events --data {peer}\n\
         \x20 ioex status --data {boot}"
    )
}

/// Where the network lives.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// This run's manifest and restored file.
    run: PathBuf,
    /// Made by us for this run only.
    temporary: bool,
}

impl Folder {
    fn open(data: Option<&Path>) -> anyhow::Result<Self> {
        let (path, temporary) = match data {
            Some(data) => (std::path::absolute(data)?, false),
            None => {
                let mut random = [0; 8];
                getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
                (std::env::temp_dir().join(format!("ioex-up-{}", HEXLOWER.encode(&random))), true)
            }
        };
        process::private_dir(&path)?;
        let run = (1u32..).map(|i| path.join(format!("run-{i}"))).find(|run| !run.exists());
        let run = run.context("too many runs in this folder")?;
        process::private_dir(&run)?;
        Ok(Self { path, run, temporary })
    }

    /// Removes a temporary folder, but not what this run restored.
    fn keep_result(&self) {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| self.temporary && *path != self.run) {
            // What cannot be removed lies in the system's temporary folder, which is cleaned.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }

    fn remove(&self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
