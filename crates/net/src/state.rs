//! What a node must not forget, in one file: friends, messages, offers, the bootstrap table.
//!
//! Values are postcard with a version byte in front; a change of a type gets a new version and a
//! reader for the old one. Every write that something was promised about (an acknowledged
//! message, an accepted offer) is on disk before the promise is made.

use std::{
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use ioex_base::wire;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

/// Format version of the values in all tables.
const VERSION: u8 = 1;
/// Largest value, in bytes: an offer with all its files.
const VALUE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Memory for the database's page cache: the tables are small, and a device has little.
const CACHE_BYTES: usize = 512 * 1024;

/// Where something is kept.
#[derive(Clone, Copy)]
pub(crate) struct Table(TableDefinition<'static, &'static [u8], &'static [u8]>);

/// Friends and requests, by UID.
pub(crate) const FRIENDS: Table = Table(TableDefinition::new("friends"));
/// Messages, by peer, time and id.
pub(crate) const MESSAGES: Table = Table(TableDefinition::new("messages"));
/// Transfers, by number.
pub(crate) const TRANSFERS: Table = Table(TableDefinition::new("transfers"));
/// Single values, by name.
pub(crate) const SINGLES: Table = Table(TableDefinition::new("singles"));

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is used by another process, or is damaged.
    #[error(
        "the node's state cannot be opened: {0}. When no other process uses the node's folder, the file mesh.redb in it \
         is damaged: restore it from a copy, or move it away, which loses friends and messages but not the node's key"
    )]
    Open(#[from] redb::DatabaseError),
    /// Reading or writing failed; a full disk shows here.
    #[error("the node's state cannot be read or written: {0}")]
    Access(Box<redb::Error>),
    /// A value of a version that this program does not know.
    #[error("the node's state was written by a newer program (format {0}): update this one")]
    Version(u8),
    /// A value that is none.
    #[error("the node's state is damaged: {0}")]
    Damaged(#[from] wire::WireError),
    /// The node was shut down.
    #[error("the node was shut down")]
    Closed,
    /// The file could not be made.
    #[error("the node's state cannot be written: {0}")]
    Io(#[from] std::io::Error),
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StateError {
            fn from(e: $error) -> Self {
                Self::Access(Box::new(e.into()))
            }
        }
    )*};
}
from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// The state file.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    opener: Opener,
    db: RwLock<Handle>,
}

/// Opens a file that is there.
type Opener = fn(&Path) -> Result<Database, StateError>;

#[derive(Debug)]
enum Handle {
    Open(Database),
    /// Opening it again failed, perhaps because its disk is full; the next access tries once more.
    Lost,
    /// The node was shut down: whatever still holds the state no longer holds the file.
    Closed,
}

impl Handle {
    /// Begins a transaction. The file refuses everything after a write that failed: `None` then.
    fn begin<T>(
        &self,
        begin: impl FnOnce(&Database) -> Result<T, redb::TransactionError>,
    ) -> Result<Option<T>, StateError> {
        match self {
            Self::Closed => Err(StateError::Closed),
            Self::Lost => Ok(None),
            Self::Open(db) => match begin(db) {
                Err(redb::TransactionError::Storage(redb::StorageError::PreviousIo)) => Ok(None),
                begun => Ok(Some(begun?)),
            },
        }
    }
}

fn open_file(path: &Path) -> Result<Database, StateError> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create(path)?)
}

/// Makes the file. It gets its name when it is whole: what a node that was killed here leaves is no database, and the
/// next start would refuse it.
fn make(path: &Path, opener: Opener) -> Result<(), StateError> {
    use std::os::unix::fs::OpenOptionsExt;
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    // redb would make the file with the umask's permissions.
    std::fs::OpenOptions::new().create_new(true).append(true).mode(0o600).open(&new)?;
    drop(opener(&new)?);
    std::fs::rename(&new, path)?;
    // What is written to it later is promised to be there.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(wire::encode(value));
    out
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StateError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(wire::decode(body, VALUE_MAX_BYTES)?),
        Some((&other, _)) => Err(StateError::Version(other)),
        None => Err(StateError::Version(0)),
    }
}

impl State {
    /// Opens or makes the file; only its owner may read it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        Self::open_with(path, open_file)
    }

    fn open_with(path: &Path, opener: Opener) -> Result<Self, StateError> {
        if path.metadata().map_or(0, |meta| meta.len()) == 0 {
            make(path, opener)?;
        }
        let state = Self { path: path.to_owned(), opener, db: RwLock::new(Handle::Open(opener(path)?)) };
        state.write(|write| {
            for table in [FRIENDS, MESSAGES, TRANSFERS, SINGLES] {
                write.open_table(table.0)?;
            }
            Ok(())
        })?;
        Ok(state)
    }

    /// Closes the file, so that the node can be started again. Later calls fail.
    pub(crate) fn close(&self) {
        *self.db.write().unwrap_or_else(PoisonError::into_inner) = Handle::Closed;
    }

    /// Begins a transaction and works in it. After a write that failed, for example because the disk was
    /// full, the file is opened again: the disk may have room now.
    fn with<T, R>(
        &self,
        begin: impl Fn(&Database) -> Result<T, redb::TransactionError>,
        work: impl FnOnce(T) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        // Held while the transaction lives: the file is closed only when nobody uses it.
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = db.begin(&begin)? {
            return work(begun);
        }
        drop(db);
        {
            let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have been here before.
            if db.begin(&begin)?.is_none() {
                // Its lock has to go before it can be opened.
                *db = Handle::Lost;
                *db = Handle::Open((self.opener)(&self.path)?);
            }
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        match db.begin(&begin)? {
            Some(begun) => work(begun),
            None => Err(StateError::Access(Box::new(redb::Error::PreviousIo))),
        }
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, StateError>) -> Result<T, StateError> {
        self.with(ReadableDatabase::begin_read, |read| work(&read))
    }

    /// What `work` writes is on disk when this returns.
    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.with(Database::begin_write, |write| {
            let out = work(&write)?;
            write.commit()?;
            Ok(out)
        })
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Result<Option<T>, StateError> {
        self.read(|read| match read.open_table(table.0)?.get(key)? {
            Some(value) => decode(value.value()).map(Some),
            None => Ok(None),
        })
    }

    /// Writes and waits until it is on disk.
    pub(crate) fn put<T: Serialize>(&self, table: Table, key: &[u8], value: &T) -> Result<(), StateError> {
        self.write(|write| {
            write.open_table(table.0)?.insert(key, encode(value).as_slice())?;
            Ok(())
        })
    }

    /// Writes unless the key is there already, and waits until it is on disk; true when it was new.
    pub(crate) fn put_new<T: Serialize>(
        &self,
        table: Table,
        key: &[u8],
        value: &T,
    ) -> Result<bool, StateError> {
        self.write(|write| {
            let mut table = write.open_table(table.0)?;
            if table.get(key)?.is_some() {
                return Ok(false);
            }
            table.insert(key, encode(value).as_slice())?;
            Ok(true)
        })
    }

    pub(crate) fn remove(&self, table: Table, key: &[u8]) -> Result<(), StateError> {
        self.write(|write| {
            write.open_table(table.0)?.remove(key)?;
            Ok(())
        })
    }

    /// All entries, in order of key.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(Vec<u8>, T)>, StateError> {
        self.read(|read| {
            let mut out = Vec::new();
            for entry in read.open_table(table.0)?.iter()? {
                let (key, value) = entry?;
                out.push((key.value().to_vec(), decode(value.value())?));
            }
            Ok(out)
        })
    }
}

/// Runs a write where it may block: a commit waits for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    state: &std::sync::Arc<State>,
    work: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    let state = state.clone();
    match tokio::task::spawn_blocking(move || work(&state)).await {
        Ok(result) => result,
        Err(e) => Err(StateError::Io(std::io::Error::other(e))),
    }
}

#[cfg(test)]
mod tests;
