//! Reading a stream that a command brings through a named pipe.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use ioex_vault::repo::backup::Progress;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use super::pipe::{LOOK_EVERY, nobody};

/// Reads a pipe; ends with an error when it is told to stop.
pub(super) struct PipeReader {
    file: File,
    progress: Arc<Progress>,
    /// What was read to see whether somebody writes.
    first: Option<u8>,
}

impl PipeReader {
    /// Opens a pipe that a command holds open for writing.
    ///
    /// # Errors
    /// When there is none, or the command is gone.
    pub(super) fn open(path: &Path, progress: Arc<Progress>) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut file = File::options().read(true).custom_flags(flags).open(path)?;
        let mut byte = [0];
        let first = match file.read(&mut byte) {
            // Without a writer a pipe seems to be at its end; with a silent one it would block.
            Ok(0) => return Err(nobody()),
            Ok(_) => byte.first().copied(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => return Err(e),
        };
        Ok(Self { file, progress, first })
    }
}

impl Read for PipeReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(place) = out.first_mut() else { return Ok(0) };
        if let Some(byte) = self.first.take() {
            *place = byte;
            return Ok(1);
        }
        loop {
            if self.progress.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
            }
            match self.file.read(out) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let pause = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
                    poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&pause))?;
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_whose_writer_is_gone_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let open = || PipeReader::open(&path, Arc::default());
        assert_eq!(open().map(|_| ()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        // One that is silent is there.
        let mut held = File::options().read(true).write(true).open(&path).unwrap();
        drop(open().unwrap());
        held.write_all(b"all of it").unwrap();
        let (mut reader, mut came) = (open().unwrap(), Vec::new());
        drop(held);
        reader.read_to_end(&mut came).unwrap();
        assert_eq!(came, b"all of it");
        assert!(open().is_err());
    }
}
