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
            let pause = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&pause))?;
            if ready > 0 {
                // Also when the writer has gone: then the read says so.
                self.written = true;
                match self.file.read(out) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            }
            if !self.written && self.opened.elapsed() > OPEN_TIMEOUT {
                return Err(nobody());
            }
        }
    }
}
