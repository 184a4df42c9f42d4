//! `examples/firmware.c`: compiling it, and talking with one that runs. The library's own test and `cargo xtask arm`,
//! where it is another machine's program under emulation, have this in common.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

/// The name by which programs ask for the shared library of this version.
pub(crate) const SONAME: &str = "libioexnode.so.0";

/// What the example is linked with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link<'a> {
    /// The archive.
    Static(&'a Path),
    /// The shared library, which the program finds where it lies now.
    Shared(&'a Path),
}

/// Compiles the example. `root` is the folder of the crate `ioex-sdk-c`.
///
/// # Errors
/// What the compiler said.
pub(crate) fn compile(cc: &str, root: &Path, link: Link<'_>, out: &Path) -> io::Result<()> {
    let mut command = Command::new(cc);
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]).arg(root.join("include"));
    command.arg(root.join("examples/firmware.c")).arg("-o").arg(out);
    match link {
        Link::Static(library) => {
            command.arg(library);
            // `rustc --print native-static-libs` names these.
            command.args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"]);
        }
        Link::Shared(library) => {
            let folder = library.parent().unwrap_or(Path::new("."));
            command.arg("-L").arg(folder).arg("-lioexnode");
            // The program asks for the name that the library has for programs.
            let beside = out.parent().unwrap_or(Path::new("."));
            let link = beside.join(SONAME);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(library, link)?;
            command.arg(format!("-Wl,-rpath,{}", beside.display()));
        }
    }
    let made = command.output().map_err(|e| io::Error::other(format!("cannot run `{cc}`: {e}")))?;
    let words = String::from_utf8_lossy(&made.stderr);
    if made.status.success() { Ok(()) } else { Err(io::Error::other(format!("`{cc}` failed: {words}"))) }
}

/// The C program while it runs; killed when dropped.
pub(crate) struct Firmware {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Firmware {
    /// Starts a command that is the program.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        // Cargo has its folders in there, where a shared library of an earlier build may lie.
        command.env_remove("LD_LIBRARY_PATH");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let (tell, lines) = mpsc::channel();
        // Ends with the pipe, thus with the program.
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
        });
        Ok(Self { child, lines, seen: Vec::new() })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a line on its stdin.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        let stdin = self.child.stdin.as_mut().ok_or_else(|| io::Error::other("no pipe"))?;
        writeln!(stdin, "{line}")
    }

    /// Waits for a line with this beginning, for each line before it at most `limit`, and returns the rest of it.
    ///
    /// # Errors
    /// When it does not come; with all lines so far.
    pub(crate) fn wait_for(&mut self, begin: &str, limit: Duration) -> io::Result<String> {
        loop {
            let line = self.lines.recv_timeout(limit);
            let line = line.map_err(|e| self.complaint(&format!("no `{begin}`, {e}")))?;
            self.seen.push(line);
            if let Some(rest) = self.seen.last().and_then(|line| line.strip_prefix(begin)) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// Whether a line with this beginning was read by one of the waits.
    pub(crate) fn has(&self, begin: &str) -> bool {
        self.seen.iter().any(|line| line.starts_with(begin))
    }

    /// Waits for the program's end, for each line before it at most `limit`; its exit code, unless a signal ended it.
    ///
    /// # Errors
    /// When it does not end; with all lines so far.
    pub(crate) fn ended(&mut self, limit: Duration) -> io::Result<Option<i32>> {
        loop {
            match self.lines.recv_timeout(limit) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(self.child.wait()?.code()),
                Err(RecvTimeoutError::Timeout) => return Err(self.complaint("it does not end")),
            }
        }
    }

    /// An error with all that the program said.
    pub(crate) fn complaint(&self, what: &str) -> io::Error {
        io::Error::other(format!("{what}; the program said:\n{}", self.seen.join("\n")))
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
