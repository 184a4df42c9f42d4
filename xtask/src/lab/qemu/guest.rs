//! One machine in QEMU, without any help of the processor's, and what its console says.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::kernel::Kernel;
use crate::{
    netns::Namespace,
    sh::{self, Process},
};

/// Memory of the machine; its RAM disk and a slot's page cache are in there.
const MEMORY: &str = "256M";
/// Lines of the console that an error repeats.
const CONSOLE_LINES: usize = 15;
/// How the guest's scripts begin what is meant for us.
const MARK: &str = "MARK ";

/// All that stays when the power is cut.
pub(super) struct Machine<'a> {
    /// Where the emulator runs; the guest is behind its NAT.
    pub(super) namespace: &'a Namespace,
    /// Debian's.
    pub(super) kernel: &'a Kernel,
    /// The boot loader.
    pub(super) initramfs: &'a Path,
    /// Slot a, slot b, data.
    pub(super) disks: [&'a Path; 3],
    /// All that the console has said, over all runs.
    pub(super) console: PathBuf,
}

/// What the guest said.
pub(super) struct Seen {
    /// So long after the power came.
    pub(super) after: Duration,
    /// What stood behind the mark.
    pub(super) words: String,
}

/// The machine while it has power.
pub(super) struct Guest {
    process: Process,
    console: PathBuf,
    /// This much of the console was read.
    read: usize,
    started: Instant,
}

impl Machine<'_> {
    /// Turns it on.
    pub(super) fn start(&self) -> Result<Guest> {
        let mut command = self.namespace.command(sh::find("qemu-system-x86_64").context("no QEMU")?);
        command.args(["-accel", "tcg", "-smp", "1", "-m", MEMORY]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        // A panic is a reset, as a watchdog's would be.
        command.args(["-append", "console=ttyS0 quiet panic=1"]);
        for disk in self.disks {
            command.args(["-drive", &format!("file={},format=raw,if=virtio", disk.display())]);
        }
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        let console = format!("file,id=console,append=on,path={}", self.console.display());
        command.args(["-chardev", &console, "-serial", "chardev:console"]);
        let read = fs::read(&self.console).map_or(0, |said| said.len());
        let words = File::options().create(true).append(true).open(self.console.with_extension("words"))?;
        command.stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", sh::show(&command)))?;
        Ok(Guest {
            process: Process::new(child),
            console: self.console.clone(),
            read,
            started: Instant::now(),
        })
    }
}

impl Guest {
    /// Waits until the guest says `mark`, alone or with words behind it. What it said before counts as read. An
    /// error when it stops, or says something that must not come before `mark`.
    pub(super) fn wait(&mut self, mark: &str, never: &[&str], limit: Duration) -> Result<Seen> {
        let what = format!("the guest to say '{mark}'");
        let look = || self.look(mark, never);
        let (length, words) = sh::wait_for(&what, limit, look).with_context(|| self.last_words())?;
        self.read += length;
        Ok(Seen { after: self.started.elapsed(), words })
    }

    /// How much further the line behind the mark begins, and the mark's words, if it is there.
    fn look(&mut self, mark: &str, never: &[&str]) -> Result<Option<(usize, String)>> {
        let said = fs::read(&self.console).unwrap_or_default();
        let found = search(said.get(self.read..).unwrap_or_default(), mark, never)?;
        if found.is_none() {
            let ended = self.process.get_mut().try_wait()?;
            ensure!(ended.is_none(), "the emulator ended: {ended:?}");
        }
        Ok(found)
    }

    fn last_words(&self) -> String {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let text = read(&self.console) + &read(&self.console.with_extension("words"));
        let lines: Vec<&str> = text.lines().collect();
        format!("the console's end:\n{}", lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n"))
    }

    /// Takes its power away. What the guest had handed to its disks is there; what it kept in memory is gone.
    pub(super) fn cut(mut self) -> Result<()> {
        self.process.kill()
    }
}

/// Where the text goes on behind the line with `mark`, and the words behind the mark, if it is there.
fn search(said: &[u8], mark: &str, never: &[&str]) -> Result<Option<(usize, String)>> {
    let mut length = 0;
    for line in said.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        let text = String::from_utf8_lossy(line);
        if !text.ends_with('\n') {
            // Still being written.
            break;
        }
        ensure!(!text.contains("Kernel panic"), "{}", text.trim());
        let Some((_, said)) = text.trim_end().split_once(MARK) else { continue };
        match said.strip_prefix(mark) {
            Some(words) if words.is_empty() || words.starts_with(' ') => {
                return Ok(Some((length, words.trim().to_owned())));
            }
            _ => {}
        }
        if said.starts_with("halt") || never.contains(&said) {
            bail!("the guest said '{said}' instead of '{mark}'");
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_once_it_is_whole() {
        let said = b"[ 1.0] words\r\nMARK boot a\r\nMARK uid 7x";
        assert_eq!(search(said, "boot a", &[]).unwrap(), Some((27, String::new())));
        assert_eq!(search(said, "boot", &[]).unwrap(), Some((27, "a".to_owned())));
        assert_eq!(search(said, "uid", &[]).unwrap(), None);
        assert_eq!(search(b"MARK uid 7x\n", "uid", &[]).unwrap(), Some((12, "7x".to_owned())));
        assert_eq!(search(b"MARK uids\n", "uid", &[]).unwrap(), None);
    }

    #[test]
    fn what_must_not_come_is_an_error() {
        assert!(search(b"MARK unhealthy\n", "healthy", &["unhealthy"]).is_err());
        assert!(search(b"MARK halt: no slot\n", "healthy", &[]).is_err());
        assert!(search(b"Kernel panic - not syncing\n", "healthy", &[]).is_err());
        assert_eq!(search(b"MARK unhealthy\n", "healthy", &[]).unwrap(), None);
    }
}
