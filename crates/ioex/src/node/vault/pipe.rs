//! Named pipes between the node and a command: opened without waiting for ever for the other side, and
//! removed when the command could not.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ioex_api::frames::is_pipe_name;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// The other side has to come within this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a waiting side looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Removes a pipe; anything else that has its name stays.
pub(super) fn remove(path: &Path) {
    if path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_fifo()) {
        // The command does so, too, unless it was killed.
        let _ = std::fs::remove_file(path);
    }
}

/// Removes the pipes of commands that were killed together with the node before.
pub(super) fn remove_left_over(data: &Path) {
    let Ok(entries) = std::fs::read_dir(data) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_str().is_some_and(is_pipe_name)) {
        remove(&entry.path());
    }
}

/// A command's pipe, removed when the work with it ends.
pub(super) struct PipeFile(pub(super) PathBuf);

impl Drop for PipeFile {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

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
