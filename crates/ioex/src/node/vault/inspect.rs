//! Looking at files before they are taken in (requirement B2).
//!
//! What looks is the operator's choice: a ClamAV daemon behind its socket, or any command. A file that
//! fails is refused with the reason; so is one that could not be looked at, because a scanner that is
//! down must not become an open door.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Access, access},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::config::Inspection;

/// A scanner that says nothing for so long counts as down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// A command that looks at one file for longer than this is ended, and the file refused.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// What a command wrote is waited for so long after it ended: another process may still hold its output.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes sent to the scanner at a time.
const BLOCK_BYTES: usize = 256 * 1024;
/// Longest answer of a scanner that is looked at, in bytes.
const ANSWER_MAX_BYTES: u64 = 4 * 1024;
/// Longest output of a command that is looked at, in bytes.
const OUTPUT_MAX_BYTES: u64 = 64 * 1024;
/// Longest reason that is told, in characters.
const REASON_MAX_CHARS: usize = 200;
/// Most bytes of a stream that are kept on the disk for a command to look at: it wants a file.
const SPOOL_MAX_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// Whether the command of an inspection can be run: without it every file would be refused.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_command(words: &[String]) -> Result<(), String> {
    let Some(program) = words.first() else { return Err("it names no command".to_owned()) };
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        let path = Path::new(program);
        return match (path.is_file(), runs(path)) {
            (false, _) => Err(format!("there is no program {program}")),
            (true, false) => Err(format!("{program} cannot be executed")),
            (true, true) => Ok(()),
        };
    }
    // Without it, where programs are looked for is the system's to say.
    let Some(folders) = std::env::var_os("PATH") else { return Ok(()) };
    let found = std::env::split_paths(&folders).any(|folder| runs(&folder.join(program)));
    if found { Ok(()) } else { Err(format!("no folder of PATH has a program {program}")) }
}

/// Looks at files.
#[derive(Clone)]
pub(crate) struct Inspector(Inspection);

impl Inspector {
    pub(crate) fn new(inspection: &Inspection) -> Self {
        Self(inspection.clone())
    }

    /// Why a file is refused, if it is. Blocks.
    pub(crate) fn check(&self, path: &Path) -> Result<(), String> {
        match &self.0 {
            Inspection::None => Ok(()),
            Inspection::Clamd(socket) => {
                clamd(socket, path).unwrap_or_else(|e| Err(format!("the scanner does not work: {e}")))
            }
            Inspection::Command(words) => command(words, path, COMMAND_TIMEOUT),
        }
    }

    /// Looks at a stream while it is read: a refused one ends with an error instead of its end. `spool`
    /// is where it may lie meanwhile.
    pub(super) fn stream(
        &self,
        input: Box<dyn Read + Send>,
        spool: &Path,
    ) -> io::Result<Box<dyn Read + Send>> {
        let beside = match &self.0 {
            Inspection::None => return Ok(input),
            Inspection::Clamd(socket) => Beside::Clamd(begin(socket).map_err(refused)?),
            Inspection::Command(words) => {
                let (file, path) = (private(spool)?, spool.to_owned());
                Beside::Spool { words: words.clone(), file, path, bytes: 0 }
            }
        };
        Ok(Box::new(Inspected { input, beside: Some(beside) }))
    }
}

/// Why a stream has no end: what looked at it did not let it in.
#[derive(Debug, thiserror::Error)]
#[error("the stream was refused: {0}")]
pub(super) struct Refused(String);

fn refused(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, Refused(why.to_string()))
}

/// Whether reading failed because of a refusal, not of the stream itself.
pub(super) fn is_refusal(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|why| why.is::<Refused>())
}

/// A new file that only its owner reads.
fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Left over from a killed node.
    let _ = std::fs::remove_file(path);
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// Where a stream goes beside the backup.
enum Beside {
    Clamd(UnixStream),
    Spool { words: Vec<String>, file: File, path: PathBuf, bytes: u64 },
}

impl Beside {
    fn take(&mut self, block: &[u8]) -> Result<(), String> {
        match self {
            Self::Clamd(daemon) => send(daemon, block).map_err(|e| match answer(daemon) {
                // It found something, or has its limit, and did not wait for the end.
                Ok(Err(why)) if !why.is_empty() => why,
                _ => format!("the scanner does not work: {e}"),
            }),
            Self::Spool { file, bytes, .. } => {
                *bytes += block.len() as u64;
                if *bytes > SPOOL_MAX_BYTES {
                    return Err(format!(
                        "it is longer than {SPOOL_MAX_BYTES} bytes, which no command looks at"
                    ));
                }
                file.write_all(block).map_err(|e| format!("it cannot be kept for the inspection: {e}"))
            }
        }
    }

    /// The answer at the stream's end.
    fn verdict(&mut self) -> Result<(), String> {
        match self {
            Self::Clamd(daemon) => {
                let asked = daemon.write_all(&0u32.to_be_bytes()).and_then(|()| answer(daemon));
                asked.unwrap_or_else(|e| Err(format!("the scanner does not work: {e}")))
            }
            Self::Spool { words, path, .. } => command(words, path, COMMAND_TIMEOUT),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Self::Spool { path, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A stream that is looked at while it is read.
struct Inspected {
    input: Box<dyn Read + Send>,
    /// Nothing once the verdict was good.
    beside: Option<Beside>,
}

impl Read for Inspected {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        if out.is_empty() {
            return Ok(read);
        }
        if let Some(beside) = &mut self.beside {
            if read == 0 {
                beside.verdict().map_err(refused)?;
                self.beside = None;
            } else {
                beside.take(out.get(..read).unwrap_or_default()).map_err(refused)?;
            }
        }
        Ok(read)
    }
}

/// The daemon's INSTREAM command: blocks with their length before them, an empty one at the end.
fn clamd(socket: &Path, path: &Path) -> io::Result<Result<(), String>> {
    let mut file = File::open(path)?;
    let mut daemon = begin(socket)?;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let read = file.read(&mut block)?;
        // A daemon that found something, or has its limit, may close before the end.
        if read == 0 || send(&mut daemon, block.get(..read).unwrap_or_default()).is_err() {
            break;
        }
    }
    // It may be gone already, with an answer.
    let _ = daemon.write_all(&0u32.to_be_bytes());
    answer(&mut daemon)
}

fn begin(socket: &Path) -> io::Result<UnixStream> {
    let mut daemon = UnixStream::connect(socket)?;
    daemon.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    daemon.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    daemon.write_all(b"zINSTREAM\0")?;
    Ok(daemon)
}

fn send(daemon: &mut UnixStream, block: &[u8]) -> io::Result<()> {
    for part in block.chunks(BLOCK_BYTES) {
        daemon.write_all(&(part.len() as u32).to_be_bytes())?;
        daemon.write_all(part)?;
    }
    Ok(())
}

fn answer(daemon: &mut UnixStream) -> io::Result<Result<(), String>> {
    let mut answer = String::new();
    daemon.take(ANSWER_MAX_BYTES).read_to_string(&mut answer)?;
    let answer = answer.trim_end_matches(['\0', '\n']).trim_start_matches("stream: ").to_owned();
    Ok(if answer == "OK" { Ok(()) } else { Err(answer) })
}

/// Runs a command with an absolute path behind its arguments, which thus is none of its options.
fn command(words: &[String], path: &Path, patience: Duration) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let fails = |e: io::Error| format!("{program} does not run: {e}");
    let path = std::path::absolute(path).map_err(fails)?;
    let mut command = Command::new(program);
    command.args(arguments).arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(fails)?;
    let (told, said) = mpsc::channel();
    if let Some(mut output) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = output.by_ref().take(OUTPUT_MAX_BYTES).read_to_end(&mut bytes);
            let _ = told.send(bytes);
            // The rest is read so that the command does not wait for room in the pipe.
            let _ = io::copy(&mut output, &mut io::sink());
        });
    }
    let ended = ends_within(child.id(), patience);
    if !ended.map_err(fails)? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{program} took longer than {} seconds", patience.as_secs()));
    }
    if child.wait().map_err(fails)?.success() {
        return Ok(());
    }
    let said = said.recv_timeout(OUTPUT_TIMEOUT).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(last.chars().take(REASON_MAX_CHARS).collect())
}

/// Whether a child that nobody has waited for yet ends in this time.
fn ends_within(child: u32, patience: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let child = pidfd_open(pid, PidfdFlags::empty())?;
    let patience = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    Ok(poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&patience))? > 0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, Cursor},
        os::unix::net::UnixListener,
    };

    use super::*;

    #[test]
    fn a_command_decides_and_gives_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"bad things").unwrap();
        let script = "if grep -q bad \"$1\"; then echo found: bad; exit 1; fi";
        let words = ["sh", "-c", script, "sh"].map(String::from).to_vec();
        let inspector = Inspector::new(&Inspection::Command(words));
        assert_eq!(inspector.check(&path), Err("found: bad".into()));
        std::fs::write(&path, b"good").unwrap();
        assert_eq!(inspector.check(&path), Ok(()));
        let missing = Inspector::new(&Inspection::Command(vec!["/no/such/program".into()]));
        assert!(missing.check(&path).is_err());
    }

    #[test]
    fn a_daemon_gets_the_whole_file_and_a_dead_one_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, path) = (dir.path().join("clamd"), dir.path().join("file"));
        std::fs::write(&path, vec![7; BLOCK_BYTES + 5]).unwrap();
        let inspector = Inspector::new(&Inspection::Clamd(socket.clone()));
        assert!(inspector.check(&path).unwrap_err().contains("does not work"));
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = std::io::BufReader::new(&stream);
            let mut command = Vec::new();
            reader.read_until(0, &mut command).unwrap();
            assert_eq!(command, b"zINSTREAM\0");
            let mut got = 0;
            loop {
                let mut length = [0; 4];
                reader.read_exact(&mut length).unwrap();
                let length = u32::from_be_bytes(length) as usize;
                if length == 0 {
                    break;
                }
                let mut block = vec![0; length];
                reader.read_exact(&mut block).unwrap();
                got += length;
            }
            (&stream).write_all(b"stream: Eicar-Test-Signature FOUND\0").unwrap();
            got
        });
        assert_eq!(inspector.check(&path), Err("Eicar-Test-Signature FOUND".into()));
        assert_eq!(daemon.join().unwrap(), BLOCK_BYTES + 5);
    }

    #[test]
    fn a_command_that_never_ends_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let words = ["sh", "-c", "read never < \"$0.pipe\""].map(String::from).to_vec();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("file.pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let why = command(&words, &path, Duration::from_millis(50)).unwrap_err();
        assert!(why.contains("took longer"), "{why}");
        let loud = ["sh", "-c", "yes | head -c 1000000; exit 3"].map(String::from).to_vec();
        assert_eq!(command(&loud, &path, COMMAND_TIMEOUT), Err("y".into()), "much output is read");
    }

    #[test]
    fn a_stream_is_looked_at_and_a_refused_one_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        let script = "if grep -q bad \"$1\"; then echo found: bad; exit 1; fi";
        let words = ["sh", "-c", script, "sh"].map(String::from).to_vec();
        let inspector = Inspector::new(&Inspection::Command(words));
        let read = |bytes: &'static [u8]| {
            let mut stream = inspector.stream(Box::new(Cursor::new(bytes)), &spool).unwrap();
            let mut out = Vec::new();
            stream.read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(b"a good stream").unwrap(), b"a good stream");
        let bad = read(b"a bad one").unwrap_err();
        assert_eq!(bad.to_string(), "the stream was refused: found: bad");
        assert!(is_refusal(&bad) && !is_refusal(&io::ErrorKind::PermissionDenied.into()));
        assert!(!spool.exists());
        let none = Inspector::new(&Inspection::Clamd(dir.path().join("no-socket")));
        assert!(
            none.stream(Box::new(io::empty()), &spool).is_err(),
            "a scanner that is down is no open door"
        );
    }

    #[test]
    fn a_daemon_gets_a_stream_while_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("clamd");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = std::thread::spawn(move || {
            for verdict in ["stream: OK\0", "stream: Eicar FOUND\0"] {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = std::io::BufReader::new(&stream);
                reader.read_until(0, &mut Vec::new()).unwrap();
                loop {
                    let mut length = [0; 4];
                    reader.read_exact(&mut length).unwrap();
                    let mut block = vec![0; u32::from_be_bytes(length) as usize];
                    reader.read_exact(&mut block).unwrap();
                    if block.is_empty() {
                        break;
                    }
                }
                (&stream).write_all(verdict.as_bytes()).unwrap();
            }
        });
        let inspector = Inspector::new(&Inspection::Clamd(socket));
        let read = || {
            let bytes = Cursor::new(vec![7; BLOCK_BYTES + 9]);
            let mut stream = inspector.stream(Box::new(bytes), Path::new("/nowhere")).unwrap();
            let mut out = Vec::new();
            stream.read_to_end(&mut out).map(|_| out.len())
        };
        assert_eq!(read().unwrap(), BLOCK_BYTES + 9);
        assert!(read().unwrap_err().to_string().contains("Eicar"));
        daemon.join().unwrap();
    }
}
