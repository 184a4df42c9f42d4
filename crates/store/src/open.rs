//! Rebuilding the index from what lies on disk.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use ioex_base::ContentAddress;

use crate::{
    StoreError,
    files::{Layout, PREFIX_CHARS, SIDECAR_SUFFIX, remove_if_there},
    sidecar::SidecarError,
    state::{Entry, Index},
};

/// What opening a store found besides good shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Shards whose file was truncated or whose leases were unreadable. They lie in `damaged/`
    /// and are no longer held.
    pub damaged: Vec<ContentAddress>,
    /// Leases without a shard: a crash came before the shard did, or the file was taken away.
    /// They were removed.
    pub without_shard: Vec<ContentAddress>,
    /// Arriving files of an earlier run that were removed.
    pub unfinished: usize,
    /// Files that are none of the store's, or shards that a newer program stored; left alone and
    /// not counted.
    pub foreign: Vec<PathBuf>,
}

/// Takes the lock that keeps a second process out for as long as the file is open.
pub(crate) fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(layout.root.clone())),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &path)(e)),
    }
}

/// Creates the directories, removes what a crash left, and lists the good shards.
pub(crate) fn scan(layout: &Layout) -> Result<(Index, OpenReport), StoreError> {
    let mut report = OpenReport::default();
    for dir in [layout.incoming(), layout.damaged()] {
        fs::create_dir_all(&dir).map_err(StoreError::io("create", &dir))?;
    }
    for path in names_in(&layout.incoming())? {
        remove_if_there(&path)?;
        report.unfinished += 1;
    }
    let mut index = Index::new();
    for dir in names_in(&layout.root)? {
        if is_prefix_dir(&dir) {
            scan_prefix(layout, &dir, &mut index, &mut report)?;
        } else if ![layout.incoming(), layout.damaged(), layout.lock()].contains(&dir) {
            report.foreign.push(dir);
        }
    }
    Ok((index, report))
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

fn scan_prefix(
    layout: &Layout,
    dir: &Path,
    index: &mut Index,
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
        let expected = address.map(|a| if is_sidecar { layout.sidecar(&a) } else { layout.shard(&a) });
        let (Some(address), true) = (address, expected.as_ref() == Some(&path)) else {
            report.foreign.push(path);
            continue;
        };
        if is_sidecar {
            if !layout.shard(&address).exists() {
                remove_if_there(&path)?;
                report.without_shard.push(address);
            }
            continue;
        }
        match check_shard(layout, &address)? {
            Found::Good(entry) => {
                index.insert(address, entry);
            }
            Found::Newer => report.foreign.push(path),
            Found::Damaged => {
                layout.set_aside(&address)?;
                report.damaged.push(address);
            }
        }
    }
    Ok(())
}

enum Found {
    Good(Entry),
    /// Written by a newer program, before an update was rolled back. It must survive until the
    /// update comes again.
    Newer,
    Damaged,
}

/// Compares a shard's length with its sidecar. Its hash is not checked here: reading all shards
/// would make every start as long as reading the disk (see `ShardStore::verify`).
fn check_shard(layout: &Layout, address: &ContentAddress) -> Result<Found, StoreError> {
    Ok(match layout.read_sidecar(address)? {
        Ok(s) if layout.shard_has_length(address, s.len_bytes) => Found::Good(Entry::of(&s)),
        Err(SidecarError::Version(_)) => Found::Newer,
        _ => Found::Damaged,
    })
}
