//! Running other programs: every wait is bounded, every error says which command failed.

use std::{
    ffi::OsStr,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a wait looks again.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// This program, also after a build has replaced its file: the kernel's link leads to what runs.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// Lines of a failed command's output that its error repeats.
const ERROR_LINES: usize = 12;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the compiled-in value serves a binary run directly.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.ends_with("xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map_or(xtask.clone(), Path::to_path_buf)
}

/// Cargo's target folder.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// A `cargo` command in the repository's root.
pub(crate) fn cargo<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = of_cargo(Path::new(&program));
    command.args(args);
    command
}

/// The same of another `cargo`, without arguments.
pub(crate) fn of_cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    // These describe xtask. Build scripts of what is built next would see them change between a
    // build from here and one by hand, and everything above those crates would be built anew.
    let ours = |name: &OsStr| {
        let name = name.to_string_lossy();
        ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
}

/// The command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Folders that hold programs: `PATH` and the administrator's, which a user's `PATH` may lack.
fn program_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    dirs
}

/// Where a program lies, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    program_dirs().into_iter().map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A command for a system program, found also outside `PATH`.
pub(crate) fn system(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

/// Runs a command whose output the user sees.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", show(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Runs a command within `limit` and returns its standard output; its error output is part of
/// the error.
pub(crate) fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let output = collect(command, limit)?;
    if !output.status.success() {
        let told = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        bail!("`{}` failed ({}):\n{}", show(command), output.status, last_lines(told));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no UTF-8", show(command)))
}

/// Runs a command within `limit`, whatever its exit code.
pub(crate) fn collect(command: &mut Command, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        Process::new(command.spawn().with_context(|| format!("cannot start `{}`", show(command)))?);
    let stdout = drain(child.get_mut().stdout.take());
    let stderr = drain(child.get_mut().stderr.take());
    let Some(status) = child.wait(limit)? else {
        drop(child);
        bail!("`{}` did not end within {} s", show(command), limit.as_secs());
    };
    Ok(Output { status, stdout: joined(stdout), stderr: joined(stderr) })
}

type Reader = thread::JoinHandle<Vec<u8>>;

/// Reads a pipe to its end on a thread of its own, so that the other pipe cannot fill up.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Reader {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A broken pipe ends the output; what came until then is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn joined(reader: Reader) -> Vec<u8> {
    reader.join().unwrap_or_default()
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n")
}

/// A child process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    /// Takes charge of `child`.
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The child itself.
    pub(crate) fn get_mut(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits at most `limit`; `None` when it still runs.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if start.elapsed() >= limit {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(1).max(POLL.min(start.elapsed() / 50)));
        }
    }

    /// SIGTERM, and SIGKILL to one that does not end within `grace`.
    pub(crate) fn stop(&mut self, grace: Duration) -> Result<()> {
        if self.0.try_wait()?.is_none() {
            signal("TERM", self.pid());
        }
        if self.wait(grace)?.is_none() {
            self.kill()?;
        }
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.kill();
    }
}

/// Sends a signal to one process; one that is gone already is no error.
pub(crate) fn signal(name: &str, pid: u32) {
    // The shell's own `kill` is there even where no package with the program is installed.
    let script = format!("kill -{name} {pid} 2>/dev/null");
    let _ = Command::new("sh").args(["-c", &script]).status();
}

/// Calls `probe` until it gives something, at most for `limit`.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Whether we run as root: the owner of our own process entry.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_returned_and_errors_are_repeated() {
        let limit = Duration::from_secs(10);
        assert_eq!(output(Command::new("echo").arg("hello"), limit).unwrap(), "hello\n");
        let error = output(Command::new("sh").args(["-c", "echo oh >&2; exit 3"]), limit).unwrap_err();
        assert!(error.to_string().contains("oh"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let start = Instant::now();
        let error = output(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn programs_are_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
