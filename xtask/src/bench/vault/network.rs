//! One bootstrap, eight devices and a super node: `ioex up`, with its processes measured.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    node::{self, Cpu},
    sh::{self, Process},
};

const DEVICES: usize = 8;
/// The network stands within this.
const READY: Duration = Duration::from_secs(120);
const ASK: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);

/// The running network.
pub(super) struct Network {
    dir: PathBuf,
    up: Process,
    super_pid: u64,
    device_pids: Vec<u64>,
}

fn ioex() -> PathBuf {
    sh::target_dir().join("release/ioex")
}

fn ask(data: &Path, args: &[&str], limit: Duration) -> Result<Value> {
    let mut command = sh::system(ioex().to_str().context("the program's path is no text")?);
    let output = sh::output(command.args(args).arg("--json").arg("--data").arg(data), limit)?;
    let last = output.lines().last().unwrap_or_default();
    let value: Value = serde_json::from_str(last).with_context(|| format!("no JSON: {last}"))?;
    Ok(if value["type"] == "done" { value["value"].clone() } else { value })
}

impl Network {
    pub(super) fn start(dir: &Path) -> Result<Self> {
        super::fresh(dir)?;
        let (log, small) = (dir.join("log"), dir.join("small"));
        fs::write(&small, b"the network works when this comes back")?;
        let mut command = sh::system(ioex().to_str().context("the program's path is no text")?);
        command.arg("up").arg(&small).args(["--bootstraps", "1", "--peers", &DEVICES.to_string(), "--data"]);
        let output = fs::File::create(&log)?;
        command.arg(dir.join("data")).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut up = Process::new(command.spawn()?);
        sh::wait_for("the network", READY, || {
            if up.get_mut().try_wait()?.is_some() {
                bail!("`ioex up` ended:\n{}", fs::read_to_string(&log)?);
            }
            Ok(fs::read_to_string(&log)?.contains("stays up until").then_some(()))
        })?;
        let dir = dir.join("data");
        let pid = |name: &str| -> Result<u64> {
            ask(&dir.join(name), &["id"], ASK)?["pid"].as_u64().context("a node without a process")
        };
        let super_pid = pid("super")?;
        // One of them was killed by the story that `up` tells.
        let device_pids: Vec<u64> = (1..=DEVICES).filter_map(|n| pid(&format!("peer-{n}")).ok()).collect();
        Ok(Self { dir, up, super_pid, device_pids })
    }

    /// Runs a command at the super node.
    pub(super) fn super_node(&self, args: &[&str], limit: Duration) -> Result<Value> {
        ask(&self.dir.join("super"), args, limit)
    }

    /// CPU seconds of the super node and all devices so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let pids = self.device_pids.iter().chain([&self.super_pid]);
        pids.map(|pid| node::cpu_seconds(&format!("/proc/{pid}/stat"), Cpu::Own)).sum()
    }

    /// Peak resident memory in bytes: of the super node, and of the largest device.
    pub(super) fn peaks(&self) -> Result<(f64, f64)> {
        let of = |pid: &u64| node::peak_of(&format!("/proc/{pid}/status")).map(|bytes| bytes as f64);
        let devices: Vec<f64> = self.device_pids.iter().map(of).collect::<Result<_>>()?;
        Ok((of(&self.super_pid)?, devices.into_iter().fold(0.0, f64::max)))
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.up.stop(STOP)
    }
}
