//! stdin and stdout of a command, through a pipe to the node and back.

use std::{
    fs::File,
    io::{Read as _, Write as _, stdin, stdout},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::mpsc,
};

use anyhow::Context as _;
use ioex_api::frames::{FrameReader, FrameWriter, pipe_name};

use super::absolute;
use crate::{exit::Usage, progress};

/// Bytes copied between a pipe and stdin or stdout at a time.
const BLOCK_BYTES: usize = 256 * 1024;
/// Where nothing ever comes from. What stands for a stdin that was closed, too: a program finds this instead.
const NULL_DEVICE: &str = "/dev/null";

/// What was given on stdin. Unlike the standard library's own stdin, it fails where nothing can be read.
///
/// # Errors
/// When stdin is closed, or the null device: nothing can come from there, and an empty restore point would look as if
/// something had been backed up.
pub(super) fn given() -> anyhow::Result<File> {
    let input = stdin().as_fd().try_clone_to_owned().context("stdin cannot be used")?;
    let input = File::from(input);
    let (is, null) = (input.metadata().context("stdin cannot be used")?, std::fs::metadata(NULL_DEVICE));
    if null.is_ok_and(|null| is.rdev() == null.rdev() && is.mode() == null.mode()) {
        let text =
            "stdin is closed or the null device, so there is nothing to back up: give `-` a program's output";
        return Err(Usage(text.into()).into());
    }
    Ok(input)
}

/// A pipe between this process and the node, in the folder that only the owner may enter.
pub(super) struct Pipe {
    pub(super) path: PathBuf,
}

impl Pipe {
    pub(super) fn make(data: &Path) -> anyhow::Result<Self> {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|e| anyhow::anyhow!("no random number: {e}"))?;
        let path = absolute(data)?.join(pipe_name(std::process::id(), u64::from_le_bytes(number)));
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .with_context(|| format!("cannot make the pipe {}", path.display()))?;
        Ok(Self { path })
    }

    /// Brings `input` into the pipe. The thread ends with the process when the node never reads. From here on the pipe is
    /// open for writing: so the node sees whether this process is still there when its turn comes.
    ///
    /// # Errors
    /// When the pipe cannot be opened.
    pub(super) fn fill(&self, mut input: File) -> anyhow::Result<()> {
        let path = self.path.clone();
        let hold = || {
            // For writing alone it would wait for a reader.
            let _both = File::options().read(true).write(true).open(&path)?;
            File::options().write(true).open(&path)
        };
        let held = hold().with_context(|| format!("cannot open the pipe {}", path.display()))?;
        std::thread::spawn(move || {
            let copy = || {
                // This one waits for the node.
                let mut out = FrameWriter::new(File::options().write(true).open(&path)?);
                // What breaks off here has to end there.
                drop(held);
                let mut block = vec![0; BLOCK_BYTES];
                loop {
                    match input.read(&mut block)? {
                        0 => return out.finish(),
                        n => out.write(block.get(..n).unwrap_or_default())?,
                    }
                }
            };
            if let Err(e) = copy() {
                progress::say(&format!("stdin could not be handed over: {e}"));
            }
        });
        Ok(())
    }

    /// Brings the pipe's bytes to stdout.
    pub(super) fn pour(&self) -> mpsc::Receiver<std::io::Result<()>> {
        let path = self.path.clone();
        let (told, poured) = mpsc::channel();
        std::thread::spawn(move || {
            let Ok(pipe) = File::open(&path) else { return };
            let mut input = FrameReader::new(pipe);
            let mut out = stdout().lock();
            let copied = std::io::copy(&mut input, &mut out).and_then(|_| out.flush());
            // Before the pipe closes, of which the node then complains: here stands why.
            let _ = told.send(copied);
        });
        poured
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
