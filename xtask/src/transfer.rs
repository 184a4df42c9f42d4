//! File transfers between nodes, step by step.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    node::{Node, Stream},
    sh,
};

/// An offer reaches a friend that is online within this, the hashing of a large file included.
const OFFER: Duration = Duration::from_secs(60);

/// How many bytes of test data are made, or compared, at a time.
const BLOCK: usize = 1 << 20;

/// How much of a second version of a file is new, in how many places: as a program that was linked anew and some data.
const CHANGED_SHARE: f64 = 0.05;
const CHANGED_RUNS: u64 = 5;

/// How much of the first version's download the second may cost a device.
pub(crate) const CHANGED_COST_MAX: f64 = 0.15;

/// A transfer as the receiver sees it.
pub(crate) struct Incoming<'a> {
    receiver: &'a Node,
    id: u64,
    dir: PathBuf,
}

/// Makes a file of `size` bytes that do not compress.
pub(crate) fn random_file(path: &Path, size: u64) -> Result<()> {
    let mut source = File::open("/dev/urandom")?.take(size);
    let mut file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    std::io::copy(&mut source, &mut file)?;
    file.flush()?;
    Ok(())
}

/// A second version of a file of [`random_file`]: [`CHANGED_RUNS`] runs of bytes, evenly spread, are others.
pub(crate) fn changed_file(from: &Path, out: &Path) -> Result<()> {
    let bytes = fs::copy(from, out)?;
    let length = (bytes as f64 * CHANGED_SHARE) as u64 / CHANGED_RUNS;
    let mut file = File::options().write(true).open(out)?;
    for run in 0..CHANGED_RUNS {
        file.seek(SeekFrom::Start(bytes / CHANGED_RUNS * run + bytes / CHANGED_RUNS / 2))?;
        std::io::copy(&mut File::open("/dev/urandom")?.take(length), &mut file)?;
    }
    Ok(())
}

/// Offers `file`; the offer is on the receiver's list when this returns.
pub(crate) fn offer<'a>(from: &Node, to: &'a Node, file: &Path, dir: &Path) -> Result<Incoming<'a>> {
    let before = known(to)?;
    offer_again(from, to, file)?;
    let what = format!("{}'s offer at {}", from.name(), to.name());
    let id = sh::wait_for(&what, OFFER, || Ok(known(to)?.into_iter().find(|id| !before.contains(id))))?;
    Ok(Incoming { receiver: to, id, dir: dir.to_owned() })
}

/// Offers what another friend has offered already, which adds a source and no transfer.
pub(crate) fn offer_again(from: &Node, to: &Node, file: &Path) -> Result<()> {
    let path = file.to_str().context("the path of the test file is no UTF-8")?;
    from.call_within(&["send", path, "--to", to.uid()?, "--no-wait"], OFFER).map(drop)
}

/// Numbers of the offers that a node has.
fn known(node: &Node) -> Result<Vec<u64>> {
    let list = node.call(&["receive", "list"])?;
    let transfers = list["transfers"].as_array().context("`ioex receive list` has no `transfers`")?;
    let incoming = transfers.iter().filter(|transfer| transfer["incoming"] == true);
    Ok(incoming.filter_map(|transfer| transfer["id"].as_u64()).collect())
}

impl Incoming<'_> {
    /// Accepts the offer; the files begin to come.
    pub(crate) fn accept(&self) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        let dir = self.dir.to_str().context("the path of the test folder is no UTF-8")?;
        self.receiver.call(&["receive", "accept", &self.id.to_string(), "--dir", dir]).map(drop)
    }

    /// Its state now.
    pub(crate) fn state(&self) -> Result<Value> {
        let list = self.receiver.call(&["receive", "list"])?;
        let mut transfers = list["transfers"].as_array().into_iter().flatten();
        let found = transfers.find(|transfer| transfer["id"] == self.id);
        found.cloned().with_context(|| format!("transfer {} is gone", self.id))
    }

    /// Follows it.
    pub(crate) fn watch(&self) -> Result<Stream> {
        self.receiver.stream(&["receive", "watch", &self.id.to_string()])
    }

    /// Waits until at least `bytes` are there.
    pub(crate) fn wait_bytes(&self, bytes: u64, limit: Duration) -> Result<()> {
        let what = format!("{bytes} bytes at {}", self.receiver.name());
        let enough = || Ok(self.state()?["done_bytes"].as_u64().filter(|done| *done >= bytes).map(drop));
        sh::wait_for(&what, limit, enough)
    }

    /// Waits for the end and returns the final state; an error when it is not complete.
    pub(crate) fn finish(&self, limit: Duration) -> Result<Value> {
        let end = self.watch()?.finish("transfer", limit)?;
        ensure!(end["state"] == "done", "the transfer ended as {}: {}", end["state"], end["error"]);
        Ok(end)
    }

    /// Accepts, waits for the end, and says how long that took.
    pub(crate) fn run(&self, limit: Duration) -> Result<(Duration, Value)> {
        let start = Instant::now();
        self.accept()?;
        let end = self.finish(limit)?;
        Ok((start.elapsed(), end))
    }

    /// Checks that what came is what was sent, byte for byte.
    pub(crate) fn compare(&self, source: &Path) -> Result<()> {
        let name = source.file_name().context("the test file has no name")?;
        same(source, &self.dir.join(name))
    }
}

/// Checks that two files have the same bytes.
pub(crate) fn same(one: &Path, other: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| format!("no {}", path.display()));
    let (mut left, mut right) = (open(one)?, open(other)?);
    ensure!(left.metadata()?.len() == right.metadata()?.len(), "{} has another size", other.display());
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let length = left.read(&mut a)?;
        if length == 0 {
            return Ok(());
        }
        right.read_exact(&mut b[..length])?;
        if a[..length] != b[..length] {
            bail!("{} differs from {}", other.display(), one.display());
        }
    }
}
