//! Archives of folders that lie in a channel's folder while they are packed.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// How the names of all these files begin.
const PREFIX: &str = ".packing-";
/// How the file ends that a command has locked as long as it needs those with its number.
const LOCK: &str = "lock";
/// Random bytes of a number.
const NUMBER_BYTES: usize = 8;

/// The archives of one command, each with a name of its own: another command packs at the same time. They go when this
/// is dropped; after a kill, with the next command that packs.
pub(super) struct Archives {
    dir: PathBuf,
    number: String,
    /// Unlocked when it is closed, also by a kill.
    _lock: File,
}

impl Archives {
    /// Takes a number, and removes what commands that were killed left.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub(super) fn begin(dir: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(dir)?.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(LOCK));
            if let Some(number) = number.and_then(|number| number.strip_suffix('.')) {
                sweep(dir, number)?;
            }
        }
        loop {
            let mut random = [0; NUMBER_BYTES];
            getrandom::fill(&mut random)?;
            let number = data_encoding::HEXLOWER.encode(&random);
            let path = dir.join(format!("{PREFIX}{number}.{LOCK}"));
            let lock = File::create_new(&path)?;
            let locked = match lock.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(e)) => return Err(e),
            };
            // Another command may have swept it away before it was locked.
            if locked && path.exists() {
                return Ok(Self { dir: dir.to_owned(), number, _lock: lock });
            }
        }
    }

    /// Where the archive of an image lies.
    pub(super) fn path(&self, image: usize) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}.{image}.tar", self.number))
    }
}

impl Drop for Archives {
    fn drop(&mut self) {
        if let Err(e) = remove(&self.dir, &self.number) {
            tracing::debug!("archives are left: {e}");
        }
    }
}

/// Removes the files of a number whose command is gone.
fn sweep(dir: &Path, number: &str) -> io::Result<()> {
    let lock = match File::open(dir.join(format!("{PREFIX}{number}.{LOCK}"))) {
        Ok(lock) => lock,
        // It ended meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    match lock.try_lock() {
        Ok(()) => remove(dir, number),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Removes the files of a number, the lock last.
fn remove(dir: &Path, number: &str) -> io::Result<()> {
    let (all, lock) = (format!("{PREFIX}{number}."), format!("{PREFIX}{number}.{LOCK}"));
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&all) && *name != lock {
            fs::remove_file(entry.path())?;
        }
    }
    match fs::remove_file(dir.join(lock)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn commands_that_pack_at_once_have_archives_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("roster.txt"), "").unwrap();
        let (one, two) = (Archives::begin(dir).unwrap(), Archives::begin(dir).unwrap());
        assert_ne!(one.path(0), two.path(0));
        assert_ne!(one.path(0), one.path(1));
        for archives in [&one, &two] {
            fs::write(archives.path(0), b"archive").unwrap();
        }
        drop(one);
        assert!(two.path(0).exists() && names(dir) == 3);
        let third = Archives::begin(dir).unwrap();
        assert!(two.path(0).exists(), "its command goes on");
        drop(third);
        // As after a kill: nothing is dropped, and the lock is gone with the process.
        let left = two.path(0);
        let lock = two._lock.try_clone().unwrap();
        std::mem::forget(two);
        lock.unlock().unwrap();
        let next = Archives::begin(dir).unwrap();
        assert!(!left.exists());
        drop(next);
        assert_eq!(names(dir), 1, "only the roster is left");
    }
}
