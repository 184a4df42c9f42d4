//! Named pipes from the node to a command: opened without waiting for ever for the other side.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// The other side has to come within this time.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a waiting side looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) fn nobody() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the command at the other end of the pipe is gone")
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
