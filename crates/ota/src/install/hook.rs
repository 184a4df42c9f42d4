//! A command of the maker's own.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use crate::release::Version;

/// Longest timeout, in seconds: writing a large flash takes minutes, not hours.
pub const HOOK_TIMEOUT_MAX_SECONDS: u64 = 3_600;

/// Of what a failed command wrote to its standard error, so much of its end is told, in bytes.
const SAID_MAX_BYTES: usize = 200;
/// How long the rest of that may take to come once the command has ended.
const SAID_WAIT: Duration = Duration::from_secs(1);

/// What the command is called for. It is its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Put the package in place.
    Install,
    /// Say by exit code 0 that the version which runs is healthy.
    Health,
    /// Go back to the version before.
    RollBack,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Health => "health",
            Self::RollBack => "roll-back",
        }
    }
}

/// The command: `PROGRAM ARGUMENTS… install|health|roll-back`, with the package's path and the
/// version in `IOEX_OTA_PACKAGE` and `IOEX_OTA_VERSION`. It reads nothing and writes where the
/// program that starts it writes; the last that `install` or `health` wrote to its standard error is part of why it failed,
/// and what they leave running needs a standard error of its own.
#[derive(Clone, Debug)]
pub struct Hook {
    /// What to start; no shell is involved.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why a command did not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It cannot be started.
    #[error("{program} cannot be started: {error}")]
    Start {
        /// Which.
        program: String,
        /// What the system said.
        error: io::Error,
    },
    /// It said no.
    #[error("{program} {phase} ended with {status}{said}")]
    Failed {
        /// Which.
        program: String,
        /// What it was called for.
        phase: &'static str,
        /// How it ended.
        status: String,
        /// `: ` and the last that it wrote to its standard error, or nothing.
        said: String,
    },
    /// It took too long, and was ended together with everything that it had started.
    #[error("{program} {phase} took longer than {seconds} s and was ended")]
    Timeout {
        /// Which.
        program: String,
        /// What it was called for.
        phase: &'static str,
        /// The timeout.
        seconds: u64,
    },
    /// The system lost sight of it.
    #[error("waiting for {program}: {error}")]
    Wait {
        /// Which.
        program: String,
        /// What the system said.
        error: io::Error,
    },
}

impl Hook {
    /// Runs the command and waits for it.
    ///
    /// # Errors
    /// [`HookError`].
    pub fn run(&self, phase: Phase, package: Option<&PathBuf>, version: Version) -> Result<(), HookError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(phase.name());
        command.env("IOEX_OTA_VERSION", version.to_string());
        if let Some(package) = package {
            command.env("IOEX_OTA_PACKAGE", package);
        }
        // Why it did not work is wanted of these; the way back may leave a program running, as a restart does.
        self.finish(command, phase.name(), phase != Phase::RollBack)
    }

    /// Runs a command that is not told what for, such as one that restarts the device.
    ///
    /// # Errors
    /// [`HookError`].
    pub fn run_as_is(&self) -> Result<(), HookError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        self.finish(command, "restart", false)
    }

    /// With `listens`, the end of what it says is part of why it failed. Its standard error ends with this node then;
    /// else it is this node's own, which a command that restarts the node writes to when the node is gone.
    fn finish(&self, mut command: Command, phase: &'static str, listens: bool) -> Result<(), HookError> {
        let program = self.program.display().to_string();
        let timeout = self.timeout.min(Duration::from_secs(HOOK_TIMEOUT_MAX_SECONDS));
        // A group of its own, so that children of a script end with it.
        command.stdin(Stdio::null()).process_group(0);
        if listens {
            command.stderr(Stdio::piped());
        }
        let mut child =
            command.spawn().map_err(|error| HookError::Start { program: program.clone(), error })?;
        let said = child.stderr.take().map(Said::listen);
        let waited = wait(&child, timeout);
        if !matches!(waited, Ok(true)) {
            end(&mut child);
        }
        match waited {
            Ok(true) => {}
            Ok(false) => {
                let seconds = timeout.as_secs();
                return Err(HookError::Timeout { program, phase, seconds });
            }
            Err(error) => return Err(HookError::Wait { program, error }),
        }
        let status = child.wait().map_err(|error| HookError::Wait { program: program.clone(), error })?;
        if status.success() {
            return Ok(());
        }
        let said = said.map(Said::last).unwrap_or_default();
        Err(HookError::Failed { program, phase, status: status.to_string(), said })
    }
}

/// What a command says on its standard error: it goes where ours goes, and its end is kept.
struct Said {
    end: Arc<Mutex<Vec<u8>>>,
    /// Closed when nobody can write any more.
    over: Receiver<()>,
}

impl Said {
    /// Reads on as long as anybody writes: what the command left running must not lose its standard error.
    fn listen(mut from: ChildStderr) -> Self {
        let end = Arc::new(Mutex::new(Vec::new()));
        let (open, over) = std::sync::mpsc::channel();
        let kept = end.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                let _ = io::stderr().write_all(&bytes[..n]);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&bytes[..n]);
                let over = kept.len().saturating_sub(SAID_MAX_BYTES);
                kept.drain(..over);
            }
            drop(open);
        });
        Self { end, over }
    }

    /// The last that was said, in one line.
    fn last(self) -> String {
        // The command has ended: only what it left running can keep the pipe open.
        let _ = self.over.recv_timeout(SAID_WAIT);
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&end);
        let words: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
        if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
    }
}

/// Waits until the child ended; false when the time is over first.
fn wait(child: &Child, timeout: Duration) -> io::Result<bool> {
    let pid = Pid::from_child(child);
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends the whole group. The leader was not waited for, so its number is still its own.
fn end(child: &mut Child) {
    if kill_process_group(Pid::from_child(child), Signal::KILL).is_err() {
        // Nothing left to end but perhaps the child itself; a failure here means that it is gone.
        child.kill().ok();
    }
    child.wait().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Result<(), HookError> {
        let arguments = vec!["-c".to_owned(), script.to_owned(), "hook".to_owned()];
        let hook = Hook { program: "/bin/sh".into(), arguments, timeout };
        hook.run(Phase::Health, Some(&PathBuf::from("/package")), Version([1, 2, 3, 0]))
    }

    #[test]
    fn a_hook_is_told_what_for_and_its_exit_code_counts() {
        let minute = Duration::from_secs(60);
        let told = "test \"$1 $IOEX_OTA_PACKAGE $IOEX_OTA_VERSION\" = 'health /package 1.2.3'";
        shell(told, minute).unwrap();
        assert!(matches!(shell("exit 3", minute), Err(HookError::Failed { .. })));
    }

    #[test]
    fn what_a_failed_hook_said_last_is_told() {
        let minute = Duration::from_secs(60);
        let why = shell("echo 'the flash\n is full' >&2; exit 3", minute).unwrap_err().to_string();
        assert!(why.ends_with("exit status: 3: the flash is full"), "{why}");
        let long = shell("seq 1 5000 >&2; echo the end >&2; exit 3", minute).unwrap_err().to_string();
        assert!(long.ends_with("5000 the end") && long.len() < 2 * SAID_MAX_BYTES, "{long}");
        // Who goes on in the background holds up nobody for long.
        let left = shell("sleep 60 & echo no >&2; exit 3", minute).unwrap_err().to_string();
        assert!(left.ends_with(": no"), "{left}");
    }

    #[test]
    fn a_hook_that_hangs_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        // The child keeps the FIFO's writing end open; reading to its end proves that the child is gone.
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || std::fs::read(fifo).unwrap()
        });
        let script = format!("(exec > {}; echo here; exec tail -f /dev/null) & wait", fifo.display());
        let arguments = vec!["-c".to_owned(), script];
        let hook = Hook { program: "/bin/sh".into(), arguments, timeout: Duration::from_secs(1) };
        let result = hook.run_as_is();
        assert!(matches!(result, Err(HookError::Timeout { .. })), "{result:?}");
        assert_eq!(reader.join().unwrap(), b"here\n");
    }
}
