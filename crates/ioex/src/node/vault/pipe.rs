//! Named pipes between a command and the node: opened without waiting for ever for the other side.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ioex_vault::repo::backup::Progress;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

/// The other side has to come within this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a waiting reader looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(250);

fn nobody() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the command at the other end of the pipe is gone")
}

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

/// Opens a pipe for writing once somebody reads it. Blocks, but not for ever.
pub(super) fn open_writer(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let begun = Instant::now();
    loop {
        match File::options().write(true).custom_flags(flags).open(path) {
            Ok(file) => {
                let flags = fcntl_getfl(&file)?;
                fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
                return Ok(file);
            }
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                if begun.elapsed() > OPEN_TIMEOUT {
                    return Err(nobody());
                }
                std::thread::sleep(LOOK_EVERY);
            }
            Err(e) => return Err(e),
        }
    }
}
