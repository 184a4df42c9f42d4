//! Bringing a store to another directory, and removing the old one.
//!
//! The new directory is marked until everything is there, verified and on disk; only then does the
//! caller say that it is the one (its own file, written durably). A crash before leaves the old
//! store as it was and a marked directory, which the next try begins anew; a crash after leaves the
//! new store whole, and the old one to be removed.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use ioex_base::ContentAddress;

use crate::{
    StoreError,
    files::{Kind, Layout, PREFIX_CHARS, SIDECAR_SUFFIX, remove_if_there, sync_dir},
    store::ShardStore,
};

impl Layout {
    /// The mark of a copy that is not complete.
    pub(crate) fn moving(&self) -> std::path::PathBuf {
        self.root.join("moving")
    }
}

impl ShardStore {
    /// Copies all that is held to the directory `to`, verifies the copy, and opens it. This store
    /// takes no changes from now on, unless it fails.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`] when something else is in `to`; [`StoreError::Damaged`] when
    /// something does not verify (it is set aside by [`ShardStore::verify`]); [`StoreError::Io`].
    /// This store goes on then, and what was copied is removed.
    pub fn move_to(&self, to: &Path) -> Result<Self, StoreError> {
        let (held, space) = {
            let mut state = self.0.lock();
            state.check_open()?;
            state.closed = true;
            let held: Vec<_> = state.index.iter().map(|(address, entry)| (*address, entry.kind)).collect();
            (held, state.space_bytes)
        };
        let moved = self.copy(to, &held, space);
        if moved.is_err() {
            self.0.lock().closed = false;
        }
        moved
    }

    /// Takes changes again after a move that was given up, once its copy is gone.
    pub fn reopen(&self) {
        self.0.lock().closed = false;
    }

    fn copy(&self, to: &Path, held: &[(ContentAddress, Kind)], space: u64) -> Result<Self, StoreError> {
        let layout = Layout { root: to.to_owned() };
        fs::create_dir_all(to).map_err(StoreError::io("create", to))?;
        let (mark, is_empty) = (layout.moving(), is_empty(to)?);
        if mark.exists() {
            // A copy that was interrupted.
            remove_store(to)?;
            fs::create_dir_all(to).map_err(StoreError::io("create", to))?;
        } else if !is_empty {
            return Err(StoreError::NotEmpty(to.to_owned()));
        }
        File::create(&mark).and_then(|f| f.sync_all()).map_err(StoreError::io("create", &mark))?;
        sync_dir(to)?;
        let copied = self.copy_all(&layout, held).and_then(|()| {
            let store = Self::open(to, space)?;
            for (address, _) in held {
                match store.verify(address) {
                    Ok(_) => {}
                    // Set aside when the copy was opened.
                    Err(StoreError::NotHeld(address)) => return Err(StoreError::Damaged(address)),
                    Err(e) => return Err(e),
                }
            }
            remove_if_there(&mark)?;
            sync_dir(to)?;
            Ok(store)
        });
        if copied.is_err() {
            // If this fails as well, the mark stays.
            let _ = remove_store(to);
        }
        copied
    }

    fn copy_all(&self, to: &Layout, held: &[(ContentAddress, Kind)]) -> Result<(), StoreError> {
        let from = &self.0.layout;
        for (address, kind) in held {
            let dir = to.make_dir_of(*kind, address)?;
            copy_file(&from.sidecar(*kind, address), &to.sidecar(*kind, address))?;
            copy_file(&from.content(*kind, address), &to.content(*kind, address))?;
            sync_dir(&dir)?;
        }
        Ok(())
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut source = File::open(from).map_err(StoreError::io("read", from))?;
    let mut target = File::create_new(to).map_err(StoreError::io("create", to))?;
    io::copy(&mut source, &mut target).and_then(|_| target.sync_all()).map_err(StoreError::io("write", to))
}

fn is_empty(dir: &Path) -> Result<bool, StoreError> {
    let mut entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    // Each file system of its own may have this.
    Ok(entries.all(|entry| entry.is_ok_and(|e| e.file_name() == "lost+found")))
}

/// Whether a directory can be a store's: it is one, is empty, or is not there yet.
///
/// # Errors
/// [`StoreError::Io`].
pub fn is_store(dir: &Path) -> Result<bool, StoreError> {
    let layout = Layout { root: dir.to_owned() };
    match fs::metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(StoreError::io("read", dir)(e)),
        Ok(meta) if !meta.is_dir() => return Ok(false),
        Ok(_) => {}
    }
    let ours = layout.lock().is_file() && layout.incoming().is_dir() && !layout.moving().exists();
    Ok(ours || is_empty(dir)?)
}

/// Whether a store was made in this directory: an empty one may be where a disk is to be mounted.
#[must_use]
pub fn holds_store(dir: &Path) -> bool {
    Layout { root: dir.to_owned() }.lock().is_file()
}

/// Removes a store that no process has open, and its directory if nothing else is in it. What is
/// none of the store's stays.
///
/// # Errors
/// [`StoreError::Io`]; what is left then can be removed by another call.
pub fn remove_store(dir: &Path) -> Result<(), StoreError> {
    let layout = Layout { root: dir.to_owned() };
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(StoreError::io("list", dir))?,
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let is_prefix = name.len() == PREFIX_CHARS && path.is_dir();
        if path == layout.incoming() || path == layout.damaged() {
            fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
        } else if is_prefix || path == layout.heads() {
            remove_named(&path)?;
        }
    }
    // The mark goes last: until then the directory counts as one that is incomplete.
    remove_if_there(&layout.lock())?;
    remove_if_there(&layout.moving())?;
    // Something else may be in it.
    let _ = fs::remove_dir(dir);
    Ok(())
}

/// Removes files with names of ours, and the directory if that was all.
fn remove_named(dir: &Path) -> Result<(), StoreError> {
    for path in fs::read_dir(dir).map_err(StoreError::io("list", dir))?.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let text = name.strip_suffix(SIDECAR_SUFFIX).unwrap_or(name);
        if text.parse::<ContentAddress>().is_ok_and(|address| address.to_string() == text) {
            remove_if_there(&path)?;
        }
    }
    let _ = fs::remove_dir(dir);
    Ok(())
}
