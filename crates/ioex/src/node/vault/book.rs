//! What the node knows of its repository, in one file: the cached index and restore points, what an
//! unfinished run stored, and the book of groups: where every shard was placed. No key stands
//! in a group's record, so that another super node could watch over it as well; the cached index and
//! restore points have keys in them.
//!
//! Values are postcard with a version byte in front, as in `ioex_net`'s state.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use ioex_base::{ContentAddress, SealedHead, Uid, UnixSeconds, wire};
use ioex_vault::{
    Redundancy, ShardRef,
    repo::{ObjectRef, PointId, Segment},
};
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata as _, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::files;

mod hearsay;
mod merge;

#[cfg(test)]
pub(crate) use self::hearsay::Hearsay;
use self::merge::LEFT_MAX;
#[cfg(feature = "super")]
pub(crate) use self::{
    hearsay::{Finding, Heard},
    merge::{Exchanged, GROUPS_MAX, Say, Word},
};

const VERSION: u8 = 1;
/// Largest value in bytes: a segment, with room.
const VALUE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Lost groups that are remembered: 3.2 MB.
#[cfg(feature = "super")]
const LOST_MAX: usize = 100_000;
/// Memory for the page cache.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Stored segments, by address.
const SEGMENTS: Bytes = TableDefinition::new("segments");
/// Encoded roots of restore points, by address.
const POINTS: Bytes = TableDefinition::new("points");
/// What an unfinished run stored, by number.
const PENDING: Bytes = TableDefinition::new("pending");
/// Groups, by the address of their first shard.
const GROUPS: Bytes = TableDefinition::new("groups");
/// What is known of devices, by UID.
const DEVICES: Bytes = TableDefinition::new("devices");
/// Copies that were given up, by group, device and shard, so that no partner brings them back.
const LEFT: Bytes = TableDefinition::new("left");
/// Groups that were removed, and when, so that no partner brings them back.
const REMOVED: Bytes = TableDefinition::new("removed");
/// What partners say of copies and this node has not seen itself, by group, shard and device.
const HEARSAY: Bytes = TableDefinition::new("hearsay");
/// Groups of which this node learnt from a partner, and when.
const ADOPTED: Bytes = TableDefinition::new("adopted");
/// Leases that are to be given up, by device and address, and until when they last anyway.
const OWED: Bytes = TableDefinition::new("owed");
/// Single values, by name.
const SINGLES: Bytes = TableDefinition::new("singles");

const HEAD: &[u8] = b"head";
const HEAD_KEPT: &[u8] = b"head-kept";
const WARNED: &[u8] = b"warned ";
const LISTING: &[u8] = b"listing ";
const LOST: &[u8] = b"lost";
const MANDATE: &[u8] = b"mandate";
/// Parts into which the groups are divided when partners compare, by the first byte of their names.
pub(crate) const BUCKETS: usize = 256;

/// Why the book cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    #[error("the book of backups cannot be opened: {0}")]
    Open(#[from] redb::DatabaseError),
    #[error("the book of backups cannot be read or written: {0}")]
    Access(Box<redb::Error>),
    #[error("the book of backups cannot be made: {0}")]
    Io(#[from] std::io::Error),
    #[error("the book of backups was written by a newer program (format {0}): update this one")]
    Version(u8),
    #[error("the book of backups is closed: is its disk full?")]
    Closed,
    #[error("the book of backups is damaged: {0}")]
    Damaged(#[from] wire::WireError),
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for BookError {
            fn from(e: $error) -> Self {
                Self::Access(Box::new(e.into()))
            }
        }
    )*};
}
from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// A group of shards and where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    /// What was asked for; a short group follows from its shards.
    pub(crate) redundancy: Redundancy,
    pub(crate) data: Vec<ShardRef>,
    pub(crate) parity: Vec<ShardRef>,
    /// Public reader key of its leases.
    pub(crate) reader: Uid,
    /// Until when it is needed.
    pub(crate) expires: UnixSeconds,
    pub(crate) copies: Vec<CopyRecord>,
}

/// One shard on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopyRecord {
    /// Which shard of the group, data first.
    pub(crate) shard: u16,
    pub(crate) device: Uid,
    /// Whether the device failed to prove that it has it.
    pub(crate) failed: bool,
}

impl GroupRecord {
    pub(crate) fn shards(&self) -> impl Iterator<Item = &ShardRef> {
        self.data.iter().chain(&self.parity)
    }

    pub(crate) fn shard(&self, at: usize) -> Option<&ShardRef> {
        self.data.get(at).or_else(|| self.parity.get(at.checked_sub(self.data.len())?))
    }

    /// Its name: the address of its first shard.
    pub(crate) fn id(&self) -> Option<ContentAddress> {
        self.data.first().map(|s| s.address)
    }

    /// The numbers that hold for this group.
    pub(crate) fn own_redundancy(&self) -> Redundancy {
        self.redundancy.short(self.data.len())
    }

    /// It is wanted with `goal` as well: see [`Redundancy::raised`].
    pub(crate) fn raise_to(&mut self, goal: Redundancy) {
        let own = self.own_redundancy();
        let raised = own.raised(goal);
        if raised != own {
            self.redundancy = raised;
        }
    }
}

/// A segment with where it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredSegment {
    object: ObjectRef,
    segment: Segment,
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.append(&mut wire::encode(value));
    out
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BookError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(wire::decode(body, VALUE_MAX_BYTES)?),
        Some((&other, _)) => Err(BookError::Version(other)),
        None => Err(BookError::Version(0)),
    }
}

/// A lease on something that a device need not hold any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) device: Uid,
    pub(crate) address: ContentAddress,
}

impl Owed {
    fn key(&self) -> Vec<u8> {
        [self.device.as_bytes().as_slice(), self.address.as_bytes()].concat()
    }

    fn of(key: &[u8]) -> Option<Self> {
        let (device, address) = key.split_at_checked(32)?;
        let device = Uid::from_bytes(device.try_into().ok()?);
        Some(Self { device, address: ContentAddress::from_bytes(address.try_into().ok()?) })
    }
}

/// Where something is noted of a copy: group (32) | shard (2, big-endian) | device (32).
fn copy_key(id: &ContentAddress, shard: u16, device: &[u8; 32]) -> Vec<u8> {
    [id.as_bytes().as_slice(), &shard.to_be_bytes(), device].concat()
}

/// All of these of one group.
fn copy_range(id: &ContentAddress) -> (Vec<u8>, Vec<u8>) {
    (copy_key(id, 0, &[0; 32]), copy_key(id, u16::MAX, &[0xff; 32]))
}

/// Shard and device in such a key.
fn copy_of(key: &[u8]) -> Option<(u16, Uid)> {
    let shard = key.get(32..34)?.try_into().ok()?;
    Some((u16::from_be_bytes(shard), Uid::from_bytes(key.get(34..)?.try_into().ok()?)))
}

/// The book.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    /// `None` when opening it again failed; the next access tries once more.
    db: RwLock<Option<Database>>,
    /// Another number after every change.
    generation: AtomicU64,
}

fn open_file(path: &Path) -> Result<Database, BookError> {
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create(path)?)
}

/// Changes that become true together.
pub(crate) struct Changes(WriteTransaction);

impl Book {
    /// Opens or makes the file; only its owner may read it.
    pub(crate) fn open(path: &Path) -> Result<Self, BookError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let db = RwLock::new(Some(open_file(path)?));
        let book = Self { path: path.to_owned(), db, generation: AtomicU64::new(0) };
        book.change(|changes| {
            for table in
                [SEGMENTS, POINTS, PENDING, GROUPS, DEVICES, LEFT, REMOVED, HEARSAY, ADOPTED, OWED, SINGLES]
            {
                changes.0.open_table(table)?;
            }
            Ok(())
        })?;
        Ok(book)
    }

    /// Begins a transaction and works in it. The file refuses everything after a write that failed,
    /// for example because the disk was full; then it is opened again: the disk may have room now.
    fn with<T, R>(
        &self,
        begin: impl Fn(&Database) -> Result<T, redb::TransactionError>,
        work: impl FnOnce(T) -> Result<R, BookError>,
    ) -> Result<R, BookError> {
        let begun = |db: &Option<Database>| match db.as_ref().map(&begin) {
            None | Some(Err(redb::TransactionError::Storage(redb::StorageError::PreviousIo))) => None,
            Some(begun) => Some(begun),
        };
        // Held while the transaction lives: the file is closed only when nobody uses it.
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = begun(&db) {
            return work(begun?);
        }
        drop(db);
        {
            let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have been here before.
            if begun(&db).is_none() {
                *db = None;
                *db = Some(open_file(&self.path)?);
            }
        }
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let begun = db.as_ref().map(&begin).ok_or(BookError::Closed)?;
        work(begun?)
    }

    /// Makes changes that are on disk when this returns.
    pub(crate) fn change<T>(
        &self,
        work: impl FnOnce(&Changes) -> Result<T, BookError>,
    ) -> Result<T, BookError> {
        self.with(Database::begin_write, |write| {
            let changes = Changes(write);
            let out = work(&changes)?;
            changes.0.commit()?;
            self.generation.fetch_add(1, Ordering::Relaxed);
            Ok(out)
        })
    }

    /// Reads or changes much of it off the threads that must not wait.
    #[cfg(feature = "super")]
    pub(crate) async fn off<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, BookError> + Send + 'static,
    ) -> Result<T, BookError> {
        let book = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&book)).await;
        done.unwrap_or_else(|e| Err(BookError::Io(std::io::Error::other(e))))
    }

    /// Another number after every change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn get<T: DeserializeOwned>(&self, table: Bytes, key: &[u8]) -> Result<Option<T>, BookError> {
        self.with(ReadableDatabase::begin_read, |read| match read.open_table(table)?.get(key)? {
            Some(value) => decode(value.value()).map(Some),
            None => Ok(None),
        })
    }

    fn each<T: DeserializeOwned>(
        &self,
        table: Bytes,
        mut take: impl FnMut(&[u8], T),
    ) -> Result<(), BookError> {
        self.with(ReadableDatabase::begin_read, |read| {
            for row in read.open_table(table)?.iter()? {
                let (key, value) = row?;
                take(key.value(), decode(value.value())?);
            }
            Ok(())
        })
    }

    fn each_between<T: DeserializeOwned>(
        &self,
        table: Bytes,
        from: &[u8],
        to: &[u8],
        mut take: impl FnMut(&[u8], T),
    ) -> Result<(), BookError> {
        self.with(ReadableDatabase::begin_read, |read| {
            for row in read.open_table(table)?.range(from..=to)? {
                let (key, value) = row?;
                take(key.value(), decode(value.value())?);
            }
            Ok(())
        })
    }

    /// The segment stored at `address`, if it is here.
    pub(crate) fn segment(
        &self,
        address: &ContentAddress,
    ) -> Result<Option<(ObjectRef, Segment)>, BookError> {
        let found: Option<StoredSegment> = self.get(SEGMENTS, address.as_bytes())?;
        Ok(found.map(|s| (s.object, s.segment)))
    }

    /// The encoded root at `address`, if it is here.
    pub(crate) fn root(&self, address: &ContentAddress) -> Result<Option<Vec<u8>>, BookError> {
        self.get(POINTS, address.as_bytes())
    }

    /// What unfinished runs stored, one group each.
    pub(crate) fn pending(&self) -> Result<Vec<Segment>, BookError> {
        let mut out = Vec::new();
        self.each(PENDING, |_, segment| out.push(segment))?;
        Ok(out)
    }

    /// The same, with the number of each.
    pub(crate) fn pending_numbered(&self) -> Result<Vec<(u64, Segment)>, BookError> {
        let mut out = Vec::new();
        self.each(PENDING, |key, segment| {
            if let Ok(key) = key.try_into() {
                out.push((u64::from_be_bytes(key), segment));
            }
        })?;
        Ok(out)
    }

    pub(crate) fn group(&self, id: &ContentAddress) -> Result<Option<GroupRecord>, BookError> {
        self.get(GROUPS, id.as_bytes())
    }

    /// How many groups there are.
    pub(crate) fn groups(&self) -> Result<u64, BookError> {
        self.with(ReadableDatabase::begin_read, |read| Ok(read.open_table(GROUPS)?.len()?))
    }

    /// Every group, in an order that says nothing.
    pub(crate) fn each_group(
        &self,
        mut take: impl FnMut(ContentAddress, GroupRecord),
    ) -> Result<(), BookError> {
        self.each(GROUPS, |key, group| {
            if let Ok(id) = key.try_into() {
                take(ContentAddress::from_bytes(id), group);
            }
        })
    }

    /// Every lease that is to be given up, and when it ends by itself.
    pub(crate) fn each_owed(&self, mut take: impl FnMut(Owed, UnixSeconds)) -> Result<(), BookError> {
        self.each(OWED, |key, until| {
            if let Some(owed) = Owed::of(key) {
                take(owed, until);
            }
        })
    }

    /// Whether a group was removed here.
    pub(crate) fn was_removed(&self, id: &ContentAddress) -> Result<bool, BookError> {
        Ok(self.get::<UnixSeconds>(REMOVED, id.as_bytes())?.is_some())
    }

    /// Groups of which this node learnt from a partner at `since` or later.
    pub(crate) fn adopted(&self, since: UnixSeconds) -> Result<HashSet<ContentAddress>, BookError> {
        let mut out = HashSet::new();
        self.each(ADOPTED, |key, at: UnixSeconds| {
            let id = key.try_into().ok().filter(|_| at >= since);
            out.extend(id.map(ContentAddress::from_bytes));
        })?;
        Ok(out)
    }

    /// On whose behalf this book is kept, when it is another owner's.
    pub(crate) fn mandate<T: DeserializeOwned>(&self) -> Result<Option<T>, BookError> {
        self.get(SINGLES, MANDATE)
    }

    pub(crate) fn device<T: DeserializeOwned>(&self, uid: &Uid) -> Result<Option<T>, BookError> {
        self.get(DEVICES, uid.as_bytes())
    }

    /// When the owner was last warned that a restore point ends.
    pub(crate) fn warned(&self, id: PointId) -> Result<Option<UnixSeconds>, BookError> {
        self.get(SINGLES, &[WARNED, &id.0].concat())
    }

    /// The BLAKE3 hash of a restore point's listing, if the listing was kept here.
    pub(crate) fn listing_hash(&self, id: PointId) -> Result<Option<[u8; 32]>, BookError> {
        self.get(SINGLES, &[LISTING, &id.0].concat())
    }

    /// Groups that the last round of the watch found lost.
    #[cfg(feature = "super")]
    pub(crate) fn lost(&self) -> Result<HashSet<ContentAddress>, BookError> {
        Ok(self.get::<Vec<ContentAddress>>(SINGLES, LOST)?.unwrap_or_default().into_iter().collect())
    }

    /// When the head was last brought to devices by the watch.
    pub(crate) fn head_kept(&self) -> Result<Option<UnixSeconds>, BookError> {
        self.get(SINGLES, HEAD_KEPT)
    }

    /// The newest head that this node knows, sealed.
    pub(crate) fn head(&self) -> Result<Option<Vec<u8>>, BookError> {
        self.get(SINGLES, HEAD)
    }
}

impl Changes {
    fn put<T: Serialize>(&self, table: Bytes, key: &[u8], value: &T) -> Result<(), BookError> {
        self.0.open_table(table)?.insert(key, encode(value).as_slice())?;
        Ok(())
    }

    pub(crate) fn put_segment(&self, object: &ObjectRef, segment: &Segment) -> Result<(), BookError> {
        let stored = StoredSegment { object: object.clone(), segment: segment.clone() };
        self.put(SEGMENTS, object.shard.address.as_bytes(), &stored)
    }

    /// Keeps only the segments that `keep` wants.
    pub(crate) fn keep_segments(&self, keep: impl Fn(&ContentAddress) -> bool) -> Result<(), BookError> {
        self.0.open_table(SEGMENTS)?.retain(|key, _| {
            key.try_into().is_ok_and(|key: [u8; 32]| keep(&ContentAddress::from_bytes(key)))
        })?;
        Ok(())
    }

    pub(crate) fn put_root(&self, address: &ContentAddress, root: &[u8]) -> Result<(), BookError> {
        self.put(POINTS, address.as_bytes(), &root)
    }

    /// Keeps only the roots that `keep` wants.
    pub(crate) fn keep_roots(&self, keep: impl Fn(&ContentAddress) -> bool) -> Result<(), BookError> {
        self.0.open_table(POINTS)?.retain(|key, _| {
            key.try_into().is_ok_and(|key: [u8; 32]| keep(&ContentAddress::from_bytes(key)))
        })?;
        Ok(())
    }

    /// Adds what was stored just now; returns its number.
    pub(crate) fn add_pending(&self, segment: &Segment) -> Result<u64, BookError> {
        let mut table = self.0.open_table(PENDING)?;
        let last = table.last()?.and_then(|(key, _)| key.value().try_into().ok().map(u64::from_be_bytes));
        let next = last.map_or(0, |n| n.saturating_add(1));
        table.insert(next.to_be_bytes().as_slice(), encode(segment).as_slice())?;
        Ok(next)
    }

    pub(crate) fn remove_pending(&self, numbers: &[u64]) -> Result<(), BookError> {
        let mut table = self.0.open_table(PENDING)?;
        for number in numbers {
            table.remove(number.to_be_bytes().as_slice())?;
        }
        Ok(())
    }

    pub(crate) fn clear_pending(&self) -> Result<(), BookError> {
        self.0.open_table(PENDING)?.retain(|_, _| false)?;
        Ok(())
    }

    fn known<T: DeserializeOwned>(&self, table: Bytes, key: &[u8]) -> Result<Option<T>, BookError> {
        self.0.open_table(table)?.get(key)?.map(|value| decode(value.value())).transpose()
    }

    /// Writes a group down as it is now. Copies that it had before were given up.
    pub(crate) fn put_group(&self, group: &GroupRecord) -> Result<(), BookError> {
        self.write_group(group).map(drop)
    }

    /// The same; returns whether anything changed.
    fn write_group(&self, group: &GroupRecord) -> Result<bool, BookError> {
        let Some(id) = group.id() else { return Ok(false) };
        let before: Option<GroupRecord> = self.known(GROUPS, id.as_bytes())?;
        if before.as_ref() == Some(group) {
            return Ok(false);
        }
        self.see_copies(&id, before.as_ref(), group)?;
        let stays = |c: &CopyRecord| group.copies.iter().any(|n| n.device == c.device && n.shard == c.shard);
        let mut left = self.0.open_table(LEFT)?;
        let gives_up = before.iter().flat_map(|g| &g.copies).any(|c| !stays(c));
        for c in before.iter().flat_map(|g| &g.copies).filter(|c| !stays(c)) {
            let key = copy_key(&id, c.shard, c.device.as_bytes());
            left.insert(key.as_slice(), encode(&files::now()).as_slice())?;
        }
        if gives_up {
            let (from, to) = copy_range(&id);
            let mut all: Vec<(UnixSeconds, Vec<u8>)> = Vec::new();
            for row in left.range(from.as_slice()..=to.as_slice())? {
                let (key, at) = row?;
                all.push((decode(at.value())?, key.value().to_vec()));
            }
            all.sort_unstable();
            for (_, key) in all.iter().take(all.len().saturating_sub(LEFT_MAX)) {
                left.remove(key.as_slice())?;
            }
        }
        let mut owed = self.0.open_table(OWED)?;
        for c in &group.copies {
            left.remove(copy_key(&id, c.shard, c.device.as_bytes()).as_slice())?;
            // It is needed there again.
            if let Some(shard) = group.shard(c.shard.into()) {
                owed.remove(Owed { device: c.device, address: shard.address }.key().as_slice())?;
            }
        }
        drop((left, owed));
        self.0.open_table(REMOVED)?.remove(id.as_bytes().as_slice())?;
        self.put(GROUPS, id.as_bytes(), group)?;
        Ok(true)
    }

    /// Notes that a lease is to be given up, which ends by itself at `until`.
    pub(crate) fn owe(&self, owed: &Owed, until: UnixSeconds) -> Result<(), BookError> {
        self.put(OWED, &owed.key(), &until)
    }

    /// A lease was given up.
    pub(crate) fn owe_no_more(&self, owed: &Owed) -> Result<(), BookError> {
        self.0.open_table(OWED)?.remove(owed.key().as_slice())?;
        Ok(())
    }

    /// Changes a group as it is now: somebody else may have changed it since it was read.
    pub(crate) fn update_group(
        &self,
        id: &ContentAddress,
        change: impl FnOnce(&mut GroupRecord),
    ) -> Result<(), BookError> {
        let Some(mut group) = self.known::<GroupRecord>(GROUPS, id.as_bytes())? else { return Ok(()) };
        change(&mut group);
        self.put_group(&group)
    }

    fn is_left(&self, id: &ContentAddress, copy: &CopyRecord) -> Result<bool, BookError> {
        let key = copy_key(id, copy.shard, copy.device.as_bytes());
        Ok(self.known::<UnixSeconds>(LEFT, &key)?.is_some())
    }

    /// Adds what was learnt of a group: a later date, more copies that are wanted, further copies, and which
    /// of them failed.
    pub(crate) fn note_group(&self, learnt: &GroupRecord) -> Result<(), BookError> {
        let Some(id) = learnt.id() else { return Ok(()) };
        let Some(mut group) = self.known::<GroupRecord>(GROUPS, id.as_bytes())? else {
            return self.put_group(learnt);
        };
        group.expires = group.expires.max(learnt.expires);
        group.raise_to(learnt.own_redundancy());
        for new in &learnt.copies {
            match group.copies.iter_mut().find(|c| c.device == new.device && c.shard == new.shard) {
                Some(known) => known.failed = new.failed,
                // What was given up meanwhile is not there, whatever was read before.
                None if self.is_left(&id, new)? => {}
                None => group.copies.push(*new),
            }
        }
        self.put_group(&group)
    }

    pub(crate) fn remove_group(&self, id: &ContentAddress) -> Result<(), BookError> {
        self.0.open_table(GROUPS)?.remove(id.as_bytes().as_slice())?;
        self.0.open_table(ADOPTED)?.remove(id.as_bytes().as_slice())?;
        let (from, to) = copy_range(id);
        for table in [LEFT, HEARSAY] {
            self.0.open_table(table)?.retain_in(from.as_slice()..=to.as_slice(), |_, _| false)?;
        }
        self.put(REMOVED, id.as_bytes(), &files::now())
    }

    /// Forgets what was removed or adopted before a date: nobody has it any more, or everybody knows it.
    pub(crate) fn forget_removed(&self, before: UnixSeconds) -> Result<(), BookError> {
        for table in [REMOVED, LEFT, ADOPTED] {
            self.0
                .open_table(table)?
                .retain(|_, at| decode::<UnixSeconds>(at).is_ok_and(|at| at >= before))?;
        }
        Ok(())
    }

    pub(crate) fn put_mandate<T: Serialize>(&self, mandate: &T) -> Result<(), BookError> {
        self.put(SINGLES, MANDATE, mandate)
    }

    pub(crate) fn device<T: DeserializeOwned>(&self, uid: &Uid) -> Result<Option<T>, BookError> {
        self.known(DEVICES, uid.as_bytes())
    }

    /// How many devices something is known of.
    pub(crate) fn devices(&self) -> Result<u64, BookError> {
        Ok(self.0.open_table(DEVICES)?.len()?)
    }

    pub(crate) fn put_device<T: Serialize>(&self, uid: &Uid, record: &T) -> Result<(), BookError> {
        self.put(DEVICES, uid.as_bytes(), record)
    }

    /// Writes a head down unless a later one than `seq` stands there.
    pub(crate) fn put_newer_head(&self, head: &[u8], seq: u64) -> Result<(), BookError> {
        let known: Option<Vec<u8>> = self.known(SINGLES, HEAD)?;
        let known = known.as_deref().and_then(|known| SealedHead::open(known).ok());
        let later = known.is_some_and(|known| known.seq > seq);
        if later { Ok(()) } else { self.put_head(head) }
    }

    pub(crate) fn put_head(&self, head: &[u8]) -> Result<(), BookError> {
        self.put(SINGLES, HEAD, &head)
    }

    pub(crate) fn put_warned(&self, id: PointId, at: UnixSeconds) -> Result<(), BookError> {
        self.put(SINGLES, &[WARNED, &id.0].concat(), &at)
    }

    pub(crate) fn put_listing_hash(&self, id: PointId, hash: &[u8; 32]) -> Result<(), BookError> {
        self.put(SINGLES, &[LISTING, &id.0].concat(), hash)
    }

    /// At most as many as one value holds; more are not remembered.
    #[cfg(feature = "super")]
    pub(crate) fn put_lost(&self, groups: &[ContentAddress]) -> Result<(), BookError> {
        self.put(SINGLES, LOST, &groups.get(..LOST_MAX).unwrap_or(groups))
    }

    pub(crate) fn put_head_kept(&self, at: UnixSeconds) -> Result<(), BookError> {
        self.put(SINGLES, HEAD_KEPT, &at)
    }

    /// Forgets everything: the recovery key is another one now.
    pub(crate) fn clear(&self) -> Result<(), BookError> {
        for table in [SEGMENTS, POINTS, PENDING, GROUPS, LEFT, REMOVED, HEARSAY, ADOPTED, OWED, SINGLES] {
            self.0.open_table(table)?.retain(|_, _| false)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
