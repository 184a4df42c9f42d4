//! Rebuilding the index from what lies on disk.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use ioex_base::{ContentAddress, SealError, SealedHead};

use crate::{
    Lease, StoreError,
    files::{Kind, Layout, PREFIX_CHARS, SIDECAR_SUFFIX, remove_if_there},
    sidecar::SidecarError,
    state::{Entry, Found},
};

/// What opening a store found besides good shards and heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Shards whose file was truncated, heads that their repository did not sign, and what had
    /// unreadable leases. They lie in `damaged/` and are no longer held.
    pub damaged: Vec<ContentAddress>,
    /// Leases without a shard: a crash came before the shard did, or the file was taken away.
    /// They were removed.
    pub without_shard: Vec<ContentAddress>,
    /// Arriving files of an earlier run that were removed.
    pub unfinished: usize,
    /// Files that are none of the store's, shards that a newer program stored or that cannot be read now; left alone and
    /// not counted.
    pub foreign: Vec<PathBuf>,
}

/// Keeps a second process out for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// Closing would not do: a child that another thread is just about to start has the file open, too,
    /// until it becomes its own program, and would hold the lock as long.
    fn drop(&mut self) {
        // What fails ends with the file.
        let _ = self.0.unlock();
    }
}

/// Takes the lock.
pub(crate) fn lock(layout: &Layout) -> Result<Lock, StoreError> {
    let path = layout.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(layout.root.clone())),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &path)(e)),
    }
}

/// Creates the directories, removes what a crash left, and lists what is good.
pub(crate) fn scan(layout: &Layout) -> Result<(Found, OpenReport), StoreError> {
    let mut report = OpenReport::default();
    for dir in [layout.incoming(), layout.damaged(), layout.heads()] {
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
    }
    for path in names_in(&layout.incoming())? {
        remove_if_there(&path)?;
        report.unfinished += 1;
    }
    let mut found = Found::default();
    let ours = [layout.incoming(), layout.damaged(), layout.heads(), layout.lock(), layout.moving()];
    for dir in names_in(&layout.root)? {
        if is_prefix_dir(&dir) {
            scan_dir(layout, Kind::Shard, &dir, &mut found, &mut report)?;
        } else if !ours.contains(&dir) {
            report.foreign.push(dir);
        }
    }
    scan_dir(layout, Kind::Head, &layout.heads(), &mut found, &mut report)?;
    Ok((found, report))
}

fn names_in(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
    paths.map_err(StoreError::io("list", dir))
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

fn is_prefix_dir(path: &Path) -> bool {
    name_of(path).is_some_and(|name| name.len() == PREFIX_CHARS) && path.is_dir()
}

fn scan_dir(
    layout: &Layout,
    kind: Kind,
    dir: &Path,
    found: &mut Found,
    report: &mut OpenReport,
) -> Result<(), StoreError> {
    for path in names_in(dir)? {
        let name = name_of(&path).unwrap_or_default();
        let (text, is_sidecar) = match name.strip_suffix(SIDECAR_SUFFIX) {
            Some(text) => (text, true),
            None => (name, false),
        };
        // An address also parses in upper case; only the canonical name is ours.
        let address = text.parse::<ContentAddress>().ok();
        let file = |a: &ContentAddress| {
            if is_sidecar { layout.sidecar(kind, a) } else { layout.content(kind, a) }
        };
        let Some(address) = address.filter(|a| file(a) == path) else {
            report.foreign.push(path);
            continue;
        };
        if is_sidecar {
            let content = layout.content(kind, &address);
            // Only what is surely not there: a disk may fail for a moment.
            if content.try_exists().is_ok_and(|there| !there) {
                remove_if_there(&path)?;
                report.without_shard.push(address);
            }
            continue;
        }
        match check(layout, kind, &address)? {
            State::Shard(entry, leases) => found.insert(address, entry, &leases),
            State::Head(entry, leases, seq) => {
                // A shard that was made to have the address of a head gives way to it.
                if found.index.contains_key(&address) {
                    layout.set_aside(Kind::Shard, &address)?;
                    report.damaged.push(address);
                }
                found.insert(address, entry, &leases);
                found.seqs.insert(address, seq);
            }
            State::Newer | State::Unread => report.foreign.push(path),
            State::Damaged => {
                layout.set_aside(kind, &address)?;
                report.damaged.push(address);
            }
        }
    }
    Ok(())
}

enum State {
    Shard(Entry, Vec<Lease>),
    /// With its number.
    Head(Entry, Vec<Lease>, u64),
    /// Written by a newer program, before an update was rolled back. It must survive until the
    /// update comes again.
    Newer,
    /// Its disk did not say.
    Unread,
    Damaged,
}

/// Compares a shard's length with its sidecar, and verifies a head. A shard's hash is not checked
/// here: reading all shards would make every start as long as reading the disk (see
/// `ShardStore::verify`).
fn check(layout: &Layout, kind: Kind, address: &ContentAddress) -> Result<State, StoreError> {
    let sidecar = match layout.read_sidecar(kind, address)? {
        Ok(sidecar) => sidecar,
        Err(SidecarError::Version(_)) => return Ok(State::Newer),
        Err(SidecarError::Damaged) => return Ok(State::Damaged),
    };
    Ok(match kind {
        Kind::Shard => match layout.has_length(kind, address, sidecar.len_bytes) {
            Ok(true) => State::Shard(Entry::new(kind, sidecar.len_bytes, &sidecar), sidecar.leases),
            Ok(false) => State::Damaged,
            // It may be readable another time, and is no reason not to start.
            Err(_) => State::Unread,
        },
        Kind::Head => {
            let bytes = layout.read_head(address)?;
            match SealedHead::open(&bytes) {
                Ok(head) if head.address() == *address => {
                    State::Head(Entry::new(kind, bytes.len() as u64, &sidecar), sidecar.leases, head.seq)
                }
                Err(SealError::Version { .. }) => State::Newer,
                _ => State::Damaged,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child that another thread is just about to start shares all open files, as a duplicate does.
    #[test]
    fn a_child_that_is_being_started_does_not_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { root: dir.path().to_owned() };
        let lock = super::lock(&layout).unwrap();
        let child = lock.0.try_clone().unwrap();
        assert!(matches!(super::lock(&layout), Err(StoreError::InUse(_))));
        drop(lock);
        assert!(super::lock(&layout).is_ok());
        drop(child);
    }
}
