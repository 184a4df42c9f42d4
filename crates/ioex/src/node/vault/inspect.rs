//! Looking at files before they are taken in (requirement B2).
//!
//! What looks is the operator's choice: a ClamAV daemon behind its socket, or any command. A file that
//! fails is refused with the reason; so is one that could not be looked at, because a scanner that is
//! down must not become an open door.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::config::Inspection;

/// A scanner that says nothing for so long counts as down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes sent to the scanner at a time.
const BLOCK_BYTES: usize = 256 * 1024;
/// Longest answer of a scanner that is looked at, in bytes.
const ANSWER_MAX_BYTES: u64 = 4 * 1024;

/// Looks at files.
pub(super) struct Inspector(Inspection);

impl Inspector {
    pub(super) fn new(inspection: &Inspection) -> Self {
        Self(inspection.clone())
    }

    /// Why a file is refused, if it is.
    pub(super) fn check(&self, path: &Path) -> Result<(), String> {
        match &self.0 {
            Inspection::None => Ok(()),
            Inspection::Clamd(socket) => {
                clamd(socket, path).unwrap_or_else(|e| Err(format!("the scanner does not work: {e}")))
            }
            Inspection::Command(words) => command(words, path),
        }
    }
}

/// The daemon's INSTREAM command: blocks with their length before them, an empty one at the end.
fn clamd(socket: &Path, path: &Path) -> std::io::Result<Result<(), String>> {
    let mut file = File::open(path)?;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"zINSTREAM\0")?;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let read = file.read(&mut block)?;
        stream.write_all(&(read as u32).to_be_bytes())?;
        if read == 0 {
            break;
        }
        // A daemon that found something, or has its limit, may close before the end.
        if stream.write_all(block.get(..read).unwrap_or_default()).is_err() {
            break;
        }
    }
    let mut answer = String::new();
    stream.take(ANSWER_MAX_BYTES).read_to_string(&mut answer)?;
    let answer = answer.trim_end_matches(['\0', '\n']).trim_start_matches("stream: ").to_owned();
    Ok(if answer == "OK" { Ok(()) } else { Err(answer) })
}

fn command(words: &[String], path: &Path) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let ran = Command::new(program).args(arguments).arg(path).stdin(Stdio::null()).output();
    let output = ran.map_err(|e| format!("{program} does not run: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(last.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead as _, os::unix::net::UnixListener};

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
}
