//! Running `ioex`: nodes inside namespaces, and what the command line says about them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    netns::Namespace,
    sh::{self, Process},
};

/// A node answers its owner within this after its start, also on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A node has joined within this.
const JOIN: Duration = Duration::from_secs(60);

/// One question to a node that only looks things up.
const CALL: Duration = Duration::from_secs(30);

/// A node ends in order within this.
const STOP: Duration = Duration::from_secs(10);

/// What Linux counts CPU time in, for every program on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// How to start a node.
pub(crate) struct Setup<'a> {
    /// The binary.
    pub(crate) ioex: &'a Path,
    /// Where.
    pub(crate) namespace: &'a Namespace,
    /// Its data folder and log are made in here.
    pub(crate) dir: &'a Path,
    /// Unique among the nodes of a run.
    pub(crate) name: &'a str,
    /// Further flags of `ioex node`.
    pub(crate) flags: Vec<String>,
}

/// A running node; ended with its owner.
pub(crate) struct Node {
    process: Process,
    ioex: PathBuf,
    data: PathBuf,
    log: PathBuf,
    name: String,
    /// What `ioex id` said.
    id: Value,
}

impl Node {
    /// Starts a node and waits until it answers. A node with a data folder goes on from there.
    pub(crate) fn start(setup: &Setup<'_>) -> Result<Self> {
        let data = setup.dir.join(setup.name);
        fs::create_dir_all(&data)?;
        let log = setup.dir.join(format!("{}.log", setup.name));
        let mut command = setup.namespace.command(setup.ioex);
        command.arg("--data").arg(&data).args(["node", "--name", setup.name]).args(&setup.flags);
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", sh::show(&command)))?;
        let mut node = Self {
            process: Process::new(child),
            ioex: setup.ioex.to_owned(),
            data,
            log,
            name: setup.name.to_owned(),
            id: Value::Null,
        };
        node.id = node.wait_for_id().with_context(|| node.last_words())?;
        Ok(node)
    }

    fn wait_for_id(&mut self) -> Result<Value> {
        let what = format!("node {} to answer", self.name);
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.get_mut().try_wait()? {
                bail!("node {} ended at once ({status})", self.name);
            }
            if let Ok(id) = self.call(&["id"]) {
                return Ok(id);
            }
            if start.elapsed() > START {
                bail!("waited {} s in vain for {what}", START.as_secs());
            }
            thread::sleep(sh::POLL);
        }
    }

    /// The end of the node's log, for errors.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("log of {}:\n{}", self.name, lines[lines.len().saturating_sub(8)..].join("\n"))
    }

    /// Asks for one object.
    pub(crate) fn call(&self, args: &[&str]) -> Result<Value> {
        self.call_within(args, CALL)
    }

    /// Asks for one object within a time.
    pub(crate) fn call_within(&self, args: &[&str], limit: Duration) -> Result<Value> {
        let output = sh::collect(&mut self.command(args), limit)?;
        let told = String::from_utf8_lossy(&output.stdout);
        let value: Value = match told.lines().next_back() {
            Some(line) => serde_json::from_str(line)
                .with_context(|| format!("`ioex {}` printed no JSON: {line}", args.join(" ")))?,
            None => Value::Null,
        };
        if !output.status.success() {
            let words = value["error"]["message"].as_str().map(str::to_owned);
            let words = words.unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned());
            bail!("{}: `ioex {}` failed: {words}", self.name, args.join(" "));
        }
        Ok(value)
    }

    /// Asks for something with updates.
    pub(crate) fn stream(&self, args: &[&str]) -> Result<Stream> {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Stream::new(Process::new(command.spawn().context("cannot start the command line")?))
    }

    fn command(&self, args: &[&str]) -> Command {
        // The socket is a file, so the command line needs no namespace.
        let mut command = Command::new(&self.ioex);
        command.arg("--json").arg("--data").arg(&self.data).args(args);
        command
    }

    fn id_text(&self, key: &str) -> Result<&str> {
        self.id[key].as_str().with_context(|| format!("`ioex id` of {} has no `{key}`", self.name))
    }

    /// Its name in this run.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its public key.
    pub(crate) fn uid(&self) -> Result<&str> {
        self.id_text("uid")
    }

    /// A bootstrap's entry for the configuration of others.
    pub(crate) fn seed(&self) -> Result<&str> {
        self.id_text("seed")
    }

    /// Waits until it has joined the network.
    pub(crate) fn wait_joined(&self) -> Result<()> {
        let joined = || Ok(self.call(&["status"])?["joined"].as_bool().filter(|joined| *joined));
        sh::wait_for(&format!("{} to join", self.name), JOIN, joined)
            .map(drop)
            .with_context(|| self.last_words())
    }

    /// The first half of a friendship: asks `other`, which has the request when this returns.
    pub(crate) fn ask_friendship(&self, other: &Self) -> Result<()> {
        self.call_within(&["friend", "add", other.id_text("friend_address")?], JOIN).map(drop)
    }

    /// The second half.
    pub(crate) fn accept_friendship(&self, other: &Self) -> Result<()> {
        let uid = other.uid()?;
        let accept = || Ok(self.call(&["friend", "accept", uid]).ok());
        // The request may still be on its way to the owner's list.
        sh::wait_for(&format!("{} to accept {}", self.name, other.name), CALL, accept).map(drop)
    }

    /// Makes two nodes friends and waits until both know.
    pub(crate) fn befriend(&self, other: &Self) -> Result<()> {
        self.ask_friendship(other)?;
        other.accept_friendship(self)?;
        self.wait_friend(other)
    }

    /// Waits until `other` counts as a friend here.
    pub(crate) fn wait_friend(&self, other: &Self) -> Result<()> {
        let uid = other.uid()?;
        let known = || {
            let list = self.call(&["friend", "list"])?;
            let found = list["friends"].as_array().into_iter().flatten();
            Ok(found.into_iter().find(|friend| friend["uid"] == uid && friend["state"] == "friend").map(drop))
        };
        sh::wait_for(&format!("{} to be a friend of {}", other.name, self.name), CALL, known)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// CPU seconds that the node has used so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&format!("/proc/{}/stat", self.process.pid()), Cpu::Own)
    }

    /// Largest resident memory so far, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        peak_of(&format!("/proc/{}/status", self.process.pid()))
    }

    /// Memory that no other process shares: written pages.
    pub(crate) fn private_memory(&self) -> Result<u64> {
        kibibytes(&format!("/proc/{}/smaps_rollup", self.process.pid()), "Private_Dirty:")
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.stop(STOP)
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}

/// Largest resident memory so far, in bytes, from a process's `status` file.
pub(crate) fn peak_of(status: &str) -> Result<u64> {
    kibibytes(status, "VmHWM:")
}

/// Whose CPU time.
pub(crate) enum Cpu {
    /// The process itself.
    Own,
    /// Its children that have ended.
    Children,
}

/// CPU seconds from a process's `stat` file.
pub(crate) fn cpu_seconds(stat: &str, whose: Cpu) -> Result<f64> {
    let text = fs::read_to_string(stat).with_context(|| format!("cannot read {stat}"))?;
    parse_cpu(&text, &whose).with_context(|| format!("{stat} has an unexpected form"))
}

fn parse_cpu(stat: &str, whose: &Cpu) -> Option<f64> {
    // The program's name, in parentheses, may hold anything; fields count from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let first = match whose {
        Cpu::Own => 11,
        Cpu::Children => 13,
    };
    let user: f64 = fields.get(first)?.parse().ok()?;
    let system: f64 = fields.get(first + 1)?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// A `Key:  N kB` line of a file under `/proc`, in bytes.
fn kibibytes(path: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(value.with_context(|| format!("{path} has no {key}"))? * 1024)
}

/// The lines of a command that is under way; ended with its owner.
pub(crate) struct Stream {
    process: Process,
    lines: Receiver<String>,
}

impl Stream {
    fn new(mut process: Process) -> Result<Self> {
        let stdout = process.get_mut().stdout.take().context("no pipe")?;
        let (sender, lines) = channel();
        // Ends with the pipe, thus with the process.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, lines })
    }

    /// The next line within `limit`; `None` when the command has ended or the time is over.
    pub(crate) fn next(&self, limit: Duration) -> Result<Option<Value>> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    /// Waits for the end and returns the final value.
    pub(crate) fn finish(mut self, what: &str, limit: Duration) -> Result<Value> {
        let end = Instant::now() + limit;
        while let Some(line) = self.next(end.saturating_duration_since(Instant::now()))? {
            match line["type"].as_str() {
                Some("done") => {
                    // So that its CPU time counts as ours from here on.
                    self.process.wait(STOP)?;
                    return Ok(line["value"].clone());
                }
                Some("update") => {}
                _ => bail!("{what}: {line}"),
            }
        }
        bail!("{what}: no end within {} s", limit.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 20 5 20 0 4";
        assert_eq!(parse_cpu(stat, &Cpu::Own), Some(2.0));
        assert_eq!(parse_cpu(stat, &Cpu::Children), Some(0.25));
        assert_eq!(parse_cpu("", &Cpu::Own), None);
    }

    #[test]
    fn our_own_numbers_can_be_read() {
        assert!(cpu_seconds("/proc/self/stat", Cpu::Own).is_ok());
        assert!(kibibytes("/proc/self/status", "VmHWM:").unwrap() > 0);
    }
}
