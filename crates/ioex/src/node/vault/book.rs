//! What the node knows of its repository, in one file: the cached index and restore points, what an
//! unfinished run stored, and the book of groups: where every shard was placed. No key stands
//! in a group's record, so that another super node could watch over it as well; the cached index and
//! restore points have keys in them.
//!
//! Values are postcard with a version byte in front, as in `ioex_net`'s state.

use std::{
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use ioex_base::{ContentAddress, Uid, UnixSeconds, wire};
use ioex_vault::{
    Redundancy, ShardRef,
    repo::{ObjectRef, PointId, Segment},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::files;

const VERSION: u8 = 1;
/// Largest value in bytes: a segment, with room.
const VALUE_MAX_BYTES: usize = 8 * 1024 * 1024;
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
/// How often each group was changed; partners compare these. A group without one is at 0.
const VERSIONS: Bytes = TableDefinition::new("versions");
/// Groups that were removed, and when, so that no partner brings them back.
const REMOVED: Bytes = TableDefinition::new("removed");
/// Single values, by name.
const SINGLES: Bytes = TableDefinition::new("singles");

const HEAD: &[u8] = b"head";
const HEAD_KEPT: &[u8] = b"head-kept";
const WARNED: &[u8] = b"warned ";
const LISTING: &[u8] = b"listing ";
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

/// What a partner's record of a group came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) changed: bool,
    /// Copies that are no longer needed: device and shard.
    pub(crate) released: Vec<(Uid, ContentAddress)>,
}

/// What a partner may say about groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// The owner: everything.
    Owner,
    /// Whoever watches as well: where the shards of known groups are.
    Copies,
}

impl Book {
    /// Opens or makes the file; only its owner may read it.
    pub(crate) fn open(path: &Path) -> Result<Self, BookError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let db = RwLock::new(Some(open_file(path)?));
        let book = Self { path: path.to_owned(), db, generation: AtomicU64::new(0) };
        book.change(|changes| {
            for table in [SEGMENTS, POINTS, PENDING, GROUPS, DEVICES, VERSIONS, REMOVED, SINGLES] {
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

    /// Every group's name and version.
    pub(crate) fn each_version(&self, mut take: impl FnMut(ContentAddress, u64)) -> Result<(), BookError> {
        self.with(Database::begin_read, |read| {
            let versions = read.open_table(VERSIONS)?;
            for row in read.open_table(GROUPS)?.iter()? {
                let (key, _) = row?;
                let Ok(id) = key.value().try_into() else { continue };
                let version = versions.get(key.value())?.map_or(Ok(0), |v| decode(v.value()))?;
                take(ContentAddress::from_bytes(id), version);
            }
            Ok(())
        })
    }

    /// For each part, a number that two books share when they agree about its groups.
    pub(crate) fn buckets(&self) -> Result<Vec<u64>, BookError> {
        let mut out = vec![0u64; BUCKETS];
        self.each_version(|id, version| {
            let hash = blake3::Hasher::new().update(id.as_bytes()).update(&version.to_le_bytes()).finalize();
            let mut first = [0; 8];
            first.copy_from_slice(&hash.as_bytes()[..8]);
            if let Some(sum) = out.get_mut(usize::from(id.as_bytes()[0])) {
                // The order must not matter.
                *sum = sum.wrapping_add(u64::from_le_bytes(first));
            }
        })?;
        Ok(out)
    }

    /// A group with its version.
    pub(crate) fn versioned(&self, id: &ContentAddress) -> Result<Option<(u64, GroupRecord)>, BookError> {
        let Some(group) = self.group(id)? else { return Ok(None) };
        Ok(Some((self.get(VERSIONS, id.as_bytes())?.unwrap_or(0), group)))
    }

    /// Whether a group was removed here.
    pub(crate) fn was_removed(&self, id: &ContentAddress) -> Result<bool, BookError> {
        Ok(self.get::<UnixSeconds>(REMOVED, id.as_bytes())?.is_some())
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

    fn put_version(&self, group: &GroupRecord, version: u64) -> Result<(), BookError> {
        let Some(id) = group.id() else { return Ok(()) };
        self.put(VERSIONS, id.as_bytes(), &version)?;
        self.put(GROUPS, id.as_bytes(), group)
    }

    pub(crate) fn put_group(&self, group: &GroupRecord) -> Result<(), BookError> {
        let Some(id) = group.id() else { return Ok(()) };
        if self.known::<GroupRecord>(GROUPS, id.as_bytes())?.as_ref() == Some(group) {
            return Ok(());
        }
        let version: u64 = self.known(VERSIONS, id.as_bytes())?.unwrap_or(0);
        self.0.open_table(REMOVED)?.remove(id.as_bytes().as_slice())?;
        self.put_version(group, version.saturating_add(1))
    }

    /// Takes a partner's record of a group. The higher version holds; of two that were changed at the
    /// same time, both hold: a copy too many harms nobody, one that nobody knows of is lost.
    pub(crate) fn merge_group(
        &self,
        version: u64,
        theirs: &GroupRecord,
        say: Say,
    ) -> Result<Merged, BookError> {
        let Some(id) = theirs.id() else { return Ok(Merged::default()) };
        let ours: Option<GroupRecord> = self.known(GROUPS, id.as_bytes())?;
        let Some(ours) = ours else {
            if say == Say::Owner {
                self.put_version(theirs, version)?;
            }
            return Ok(Merged { changed: say == Say::Owner, released: Vec::new() });
        };
        let own_version: u64 = self.known(VERSIONS, id.as_bytes())?.unwrap_or(0);
        if version < own_version || (version == own_version && ours == *theirs) {
            return Ok(Merged::default());
        }
        let mut merged = if say == Say::Owner { theirs.clone() } else { ours.clone() };
        merged.copies.clone_from(&theirs.copies);
        let mut new_version = version;
        if version == own_version {
            let known =
                |c: &CopyRecord| theirs.copies.iter().any(|t| t.device == c.device && t.shard == c.shard);
            merged.copies.extend(ours.copies.iter().filter(|c| !known(c)));
            merged.expires = ours.expires.max(merged.expires);
            new_version = version.saturating_add(1);
        }
        let stays = |c: &CopyRecord| merged.copies.iter().any(|m| m.device == c.device && m.shard == c.shard);
        let gone = ours.copies.iter().filter(|c| !stays(c));
        let released = gone.filter_map(|c| Some((c.device, ours.shard(c.shard.into())?.address))).collect();
        self.put_version(&merged, new_version)?;
        Ok(Merged { changed: true, released })
    }

    pub(crate) fn remove_group(&self, id: &ContentAddress) -> Result<(), BookError> {
        self.0.open_table(GROUPS)?.remove(id.as_bytes().as_slice())?;
        self.0.open_table(VERSIONS)?.remove(id.as_bytes().as_slice())?;
        self.put(REMOVED, id.as_bytes(), &files::now())
    }

    /// Forgets what was removed before a date: nobody has it any more.
    pub(crate) fn forget_removed(&self, before: UnixSeconds) -> Result<(), BookError> {
        self.0.open_table(REMOVED)?.retain(|_, at| decode::<UnixSeconds>(at).is_ok_and(|at| at >= before))?;
        Ok(())
    }

    pub(crate) fn put_mandate<T: Serialize>(&self, mandate: &T) -> Result<(), BookError> {
        self.put(SINGLES, MANDATE, mandate)
    }

    pub(crate) fn put_device<T: Serialize>(&self, uid: &Uid, record: &T) -> Result<(), BookError> {
        self.put(DEVICES, uid.as_bytes(), record)
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

    pub(crate) fn put_head_kept(&self, at: UnixSeconds) -> Result<(), BookError> {
        self.put(SINGLES, HEAD_KEPT, &at)
    }

    /// Forgets everything: the recovery key is another one now.
    pub(crate) fn clear(&self) -> Result<(), BookError> {
        for table in [SEGMENTS, POINTS, PENDING, GROUPS, VERSIONS, REMOVED, SINGLES] {
            self.0.open_table(table)?.retain(|_, _| false)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u8) -> GroupRecord {
        let shard = |n| ShardRef { address: ContentAddress::from_bytes([n; 32]), bytes: 16_384 };
        GroupRecord {
            redundancy: Redundancy::new(2, 3, 4, 4).unwrap(),
            data: vec![shard(n), shard(n + 1)],
            parity: vec![shard(n + 2)],
            reader: Uid::from_bytes([9; 32]),
            expires: UnixSeconds(1_000),
            copies: vec![CopyRecord { shard: 0, device: Uid::from_bytes([3; 32]), failed: false }],
        }
    }

    #[test]
    fn golden_bytes_of_a_group() {
        let mut want = vec![1, 2, 3, 4, 4, 2];
        for n in [7, 8] {
            want.extend([n; 32]);
            want.extend([0x80, 0x80, 1]);
        }
        want.push(1);
        want.extend([9; 32]);
        want.extend([0x80, 0x80, 1]);
        want.extend([9; 32]);
        want.extend([0xe8, 7, 1, 0]);
        want.extend([3; 32]);
        want.push(0);
        assert_eq!(encode(&group(7)), want);
    }

    #[test]
    fn partners_agree_about_a_group_and_no_copy_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let book = |name: &str| Book::open(&dir.path().join(name)).unwrap();
        let (a, b) = (book("a"), book("b"));
        let device = |n: u8| Uid::from_bytes([n; 32]);
        let copy = |shard, n| CopyRecord { shard, device: device(n), failed: false };
        let base = group(1);
        let id = base.id().unwrap();
        a.change(|c| c.put_group(&base)).unwrap();
        let (version, record) = a.versioned(&id).unwrap().unwrap();
        let stranger = b.change(|c| c.merge_group(version, &record, Say::Copies)).unwrap();
        assert!(!stranger.changed && b.group(&id).unwrap().is_none(), "only the owner brings groups");
        assert!(b.change(|c| c.merge_group(version, &record, Say::Owner)).unwrap().changed);
        assert_eq!(a.buckets().unwrap(), b.buckets().unwrap());
        // Both repair at the same time.
        let with = |more| GroupRecord { copies: vec![copy(0, 3), more], ..base.clone() };
        a.change(|c| c.put_group(&with(copy(1, 4)))).unwrap();
        b.change(|c| c.put_group(&with(copy(2, 5)))).unwrap();
        assert_ne!(a.buckets().unwrap(), b.buckets().unwrap());
        let (version, record) = a.versioned(&id).unwrap().unwrap();
        let merged = b.change(|c| c.merge_group(version, &record, Say::Owner)).unwrap();
        assert!(merged.changed && merged.released.is_empty());
        let (version, record) = b.versioned(&id).unwrap().unwrap();
        assert_eq!(record.copies.len(), 3);
        a.change(|c| c.merge_group(version, &record, Say::Copies)).unwrap();
        assert_eq!(a.buckets().unwrap(), b.buckets().unwrap());
        // One moves a copy; the other learns what it may release. Only the owner moves the date.
        let moved = GroupRecord { expires: UnixSeconds(9), copies: vec![copy(0, 6)], ..base.clone() };
        b.change(|c| c.put_group(&moved)).unwrap();
        let (version, record) = b.versioned(&id).unwrap().unwrap();
        let merged = a.change(|c| c.merge_group(version, &record, Say::Copies)).unwrap();
        assert_eq!(merged.released.len(), 3);
        assert_eq!(merged.released[0], (device(3), base.data[0].address));
        assert_eq!(a.group(&id).unwrap().unwrap().expires, base.expires);
        assert!(!a.change(|c| c.merge_group(1, &base, Say::Owner)).unwrap().changed, "an old version");
        a.change(|c| c.remove_group(&id)).unwrap();
        assert!(a.was_removed(&id).unwrap());
        a.change(|c| c.forget_removed(files::now().plus(1))).unwrap();
        assert!(!a.was_removed(&id).unwrap());
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book");
        let book = Book::open(&path).unwrap();
        book.change(|c| {
            c.put_group(&group(1))?;
            c.put_group(&group(5))?;
            c.add_pending(&Segment::default())?;
            c.add_pending(&Segment::default())?;
            c.put_head(b"head")
        })
        .unwrap();
        let failed: Result<(), _> = book.change(|c| {
            c.clear()?;
            Err(BookError::Version(9))
        });
        assert!(failed.is_err());
        drop(book);
        let book = Book::open(&path).unwrap();
        assert_eq!(book.pending().unwrap().len(), 2);
        assert_eq!(book.head().unwrap().unwrap(), b"head");
        let mut seen = 0;
        book.each_group(|id, g| {
            assert_eq!(g.id(), Some(id));
            seen += 1;
        })
        .unwrap();
        assert_eq!(seen, 2);
        assert_eq!(group(1).shard(2).map(|s| s.address), Some(ContentAddress::from_bytes([3; 32])));
        book.change(|c| c.remove_group(&ContentAddress::from_bytes([5; 32]))).unwrap();
        assert!(book.group(&ContentAddress::from_bytes([5; 32])).unwrap().is_none());
        let numbered = book.pending_numbered().unwrap();
        book.change(|c| c.remove_pending(&[numbered[0].0])).unwrap();
        assert_eq!(book.pending_numbered().unwrap(), numbered[1..]);
        book.change(Changes::clear_pending).unwrap();
        assert!(book.pending().unwrap().is_empty());
    }
}
