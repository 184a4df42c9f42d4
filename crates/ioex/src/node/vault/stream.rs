//! Reading a stream that a command brings through a named pipe.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use ioex_vault::repo::backup::Progress;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

use super::pipe::{LOOK_EVERY, OPEN_TIMEOUT, nobody};

/// Reads a pipe; ends with an error when it is told to stop, or when nobody ever writes.
pub(super) struct PipeReader {
    file: File,
    progress: Arc<Progress>,
    opened: Instant,
    written: bool,
}

impl PipeReader {
    pub(super) fn open(path: &Path, progress: Arc<Progress>) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(Self { file, progress, opened: Instant::now(), written: false })
    }
}

impl Read for PipeReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.progress.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
            }
            match self.file.read(out) {
                // Without a writer a pipe seems to be at its end; with a silent one it would block.
                Ok(0) if !self.written => std::thread::sleep(LOOK_EVERY),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.written = true;
                    let pause = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
                    poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&pause))?;
                }
                Ok(n) => {
                    self.written = true;
                    return Ok(n);
                }
                Err(e) => return Err(e),
            }
            if !self.written && self.opened.elapsed() > OPEN_TIMEOUT {
                return Err(nobody());
            }
        }
    }
}
