//! Writing a restored tree: shards in any order, several at a time, going on after a crash.
//!
//! Everything is written below a temporary folder beside the target, with a journal of the shards
//! that are done; at the end the folder gets the target's name in one step. A shard is noted after
//! its data went to the disk.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, FileTimes, Metadata, OpenOptions, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{
            FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown, lchown,
            symlink,
        },
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    plan::{Plan, PlannedFile, Wanted},
    recovery::RepoKeys,
    tree::{Content, Entry},
    xattr,
};
use crate::{
    chunk::{ChunkError, Decoder},
    journal::{Found, Journal},
    manifest::ChunkRef,
    owner::Secrets,
};

/// Written bytes after which data goes to the disk and is noted: what an interruption can cost. Small
/// enough that the disk has work from the start, and little is left for the end.
const SYNC_EVERY_BYTES: u64 = 64 * 1024 * 1024;
/// The same by time, for a slow network: so much of it is fetched again at most.
const SYNC_EVERY: Duration = Duration::from_secs(2);
/// How often is looked whether a restore to the same place, which is ending, has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Zeros of this length, at multiples of it in a file, are not written: they read the same as holes, which
/// take no room. Small beside a chunk, of which both ends may lie anywhere.
const HOLE_BYTES: usize = 16 * 1024;
/// With this bit a program gets the rights of its owner, with the next those of its group.
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The target exists.
    #[error("{} exists already: choose another name", .0.display())]
    Exists(PathBuf),
    /// The temporary folder is in use.
    #[error("another process restores to {}: wait for it, or choose another name", .0.display())]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A chunk is not what the index says.
    #[error("a part of {path} is damaged: {why}", path = .path.display())]
    Chunk {
        /// A file that it belongs to.
        path: PathBuf,
        /// What is wrong.
        why: ChunkError,
    },
    /// A chunk decrypts to something else than its name says.
    #[error("a part of {path} is not what was backed up", path = .path.display())]
    Content {
        /// A file that it belongs to.
        path: PathBuf,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TreeError + '_ {
    move |source| TreeError::Io { path: path.to_owned(), source }
}

/// A tree that is being restored. Shared between threads.
pub struct TreeWriter {
    plan: Plan,
    secrets: Secrets,
    part: PathBuf,
    /// Chunks that each file still lacks.
    left: Vec<AtomicU32>,
    done: Mutex<Done>,
    owned: bool,
    written: AtomicU64,
}

struct Done {
    journal: Journal,
    shards: Vec<bool>,
    /// Done, but perhaps not on the disk.
    unsynced: Vec<u32>,
    unsynced_bytes: u64,
    /// When the disk was last waited for.
    synced: Instant,
    /// A thread waits for the disk; the others go on meanwhile.
    syncing: bool,
}

fn beside(out: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(out.file_name().unwrap_or(OsStr::new("restore")));
    name.push(suffix);
    out.with_file_name(name)
}

impl TreeWriter {
    /// Begins, or goes on with, a restore of `plan` to `out`, which must not exist. Blocks for up to `patience`
    /// while another restore to `out` is under way: one that was stopped first writes down how far it came.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn open(plan: Plan, keys: &RepoKeys, out: &Path, patience: Duration) -> Result<Self, TreeError> {
        let (part, journal) = (beside(out, ".ioex-part"), beside(out, ".ioex-journal"));
        let (owned, begun) = (rustix::process::geteuid().is_root(), Instant::now());
        // What a user began has not the owners that root gives.
        let digest = *blake3::hash(&[&plan.digest()[..], &[u8::from(owned)]].concat()).as_bytes();
        let (mut journal, found) = loop {
            if out.symlink_metadata().is_ok() {
                return Err(TreeError::Exists(out.to_owned()));
            }
            let opened = Journal::open(journal.clone(), digest, plan.shards.len());
            match opened.map_err(at(&journal))? {
                Some(opened) => break opened,
                None if begun.elapsed() < patience => std::thread::sleep(LOOK_EVERY),
                None => return Err(TreeError::InUse(out.to_owned())),
            }
        };
        let mut shards = vec![false; plan.shards.len()];
        match found {
            Found::Ours(done) if part.is_dir() => {
                for index in done {
                    if let Some(done) = shards.get_mut(index as usize) {
                        *done = true;
                    }
                }
            }
            _ => {
                journal.restart().map_err(at(&part))?;
                match fs::remove_dir_all(&part) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&part)(e)),
                    _ => {}
                }
            }
        }
        fs::create_dir_all(&part).map_err(at(&part))?;
        fs::set_permissions(&part, Permissions::from_mode(0o700)).map_err(at(&part))?;
        let left = plan.files.iter().map(|file| AtomicU32::new(file.chunks)).collect();
        let writer = Self {
            plan,
            secrets: keys.owner.secrets(),
            part,
            left,
            done: Mutex::new(Done {
                journal,
                shards,
                unsynced: Vec::new(),
                unsynced_bytes: 0,
                synced: Instant::now(),
                syncing: false,
            }),
            owned,
            written: AtomicU64::new(0),
        };
        writer.prepare()?;
        Ok(writer)
    }

    /// Folders, empty files, and what an earlier run finished.
    fn prepare(&self) -> Result<(), TreeError> {
        for (path, _) in &self.plan.dirs {
            let path = self.part.join(path);
            match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(&path).map_err(at(&path))?;
                }
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(&path)(e)),
                _ => {}
            }
        }
        for file in self.plan.files.iter().filter(|f| f.chunks == 0) {
            let (handle, path) = self.open_file(file)?;
            self.dress(&handle, file).map_err(at(&path))?;
        }
        let done = self.done();
        for (wanted, _) in self.plan.shards.iter().zip(&done.shards).filter(|(_, done)| **done) {
            for (file, _) in wanted.chunks.iter().flat_map(|(_, targets)| targets) {
                if let Some(left) = self.left.get(*file as usize) {
                    left.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of files written by this run.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The shards that are still to come, by their place in the plan.
    #[must_use]
    pub fn missing(&self) -> Vec<u32> {
        let done = self.done();
        (0..).zip(&done.shards).filter(|(_, done)| !**done).map(|(index, _)| index).collect()
    }

    fn open_file(&self, file: &PlannedFile) -> Result<(File, PathBuf), TreeError> {
        let path = self.part.join(&file.path);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        match options.open(&path) {
            Ok(handle) => Ok((handle, path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // A single file that was asked for has no folder in the plan.
                fs::create_dir_all(path.parent().unwrap_or(&self.part)).map_err(at(&path))?;
                let handle = options.open(&path).map_err(at(&path))?;
                Ok((handle, path))
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                // An earlier run had finished this one, and its own rights keep everybody out.
                fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(at(&path))?;
                let handle = options.open(&path).map_err(at(&path))?;
                Ok((handle, path))
            }
            Err(e) => Err(at(&path)(e)),
        }
    }

    /// Length, owner, attributes, rights and times of a file that is complete.
    fn dress(&self, handle: &File, file: &PlannedFile) -> io::Result<()> {
        let entry = &file.entry;
        if let Content::File { size, .. } = entry.content {
            // It may end with a hole.
            handle.set_len(size)?;
        }
        if self.owned {
            fchown(handle, Some(entry.uid), Some(entry.gid))?;
        }
        if !entry.xattrs.is_empty() {
            // Not every file system has them all; the content is worth more than its labels.
            let _ = xattr::write(&self.part.join(&file.path), &entry.xattrs);
        }
        handle.set_permissions(rights(entry, &handle.metadata()?))?;
        handle.set_times(times(entry))
    }

    /// Takes a shard of the plan: `parts` are the fetched ranges with where they begin in it.
    ///
    /// # Errors
    /// [`TreeError`]; the shard is still missing then.
    pub fn accept(&self, index: u32, parts: &[(u32, Vec<u8>)]) -> Result<(), TreeError> {
        let Some(wanted) = self.plan.shards.get(index as usize) else { return Ok(()) };
        let mut decoder = Decoder::new().map_err(at(&self.part))?;
        let mut written = 0;
        for (chunk, targets) in &wanted.chunks {
            written += self.write(&mut decoder, chunk, targets, parts)?;
        }
        // Only now: a shard whose later chunks are wrong comes again, and each chunk counts once.
        for (number, _) in wanted.chunks.iter().flat_map(|(_, targets)| targets) {
            self.count(*number)?;
        }
        self.note(index, written)
    }

    fn write(
        &self,
        decoder: &mut Decoder,
        chunk: &ChunkRef,
        targets: &[(u32, u64)],
        parts: &[(u32, Vec<u8>)],
    ) -> Result<u64, TreeError> {
        let first = targets.first().and_then(|(file, _)| self.plan.files.get(*file as usize));
        let path = || first.map(|f| f.path.clone()).unwrap_or_default();
        let sealed = slice(chunk, parts);
        let plain = sealed.ok_or(ChunkError::Range).and_then(|sealed| decoder.decode_sealed(chunk, sealed));
        let plain = plain.map_err(|why| TreeError::Chunk { path: path(), why })?;
        if self.secrets.chunk_id(plain) != chunk.id {
            return Err(TreeError::Content { path: path() });
        }
        for (number, offset) in targets {
            let Some(file) = self.plan.files.get(*number as usize) else { continue };
            let (handle, path) = self.open_file(file)?;
            write_sparse(&handle, plain, *offset).map_err(at(&path))?;
        }
        let bytes = plain.len() as u64 * targets.len() as u64;
        self.written.fetch_add(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Counts a chunk of a file as written; the last one completes it.
    fn count(&self, number: u32) -> Result<(), TreeError> {
        let file = self.plan.files.get(number as usize).zip(self.left.get(number as usize));
        let Some((file, left)) = file else { return Ok(()) };
        // Whoever counts the last chunk sees all the others written.
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let (handle, path) = self.open_file(file)?;
            self.dress(&handle, file).map_err(at(&path))?;
        }
        Ok(())
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, index: u32, bytes: u64) -> Result<(), TreeError> {
        let mut done = self.done();
        if let Some(done) = done.shards.get_mut(index as usize) {
            *done = true;
        }
        done.unsynced.push(index);
        done.unsynced_bytes += bytes;
        let is_due = done.unsynced_bytes >= SYNC_EVERY_BYTES || done.synced.elapsed() >= SYNC_EVERY;
        if !is_due || done.syncing {
            return Ok(());
        }
        done.syncing = true;
        drop(done);
        let synced = self.sync();
        self.done().syncing = false;
        synced
    }

    /// Data first, then the journal. The lock is free while the disk works.
    fn sync(&self) -> Result<(), TreeError> {
        let shards = {
            let mut done = self.done();
            (done.unsynced_bytes, done.synced) = (0, Instant::now());
            std::mem::take(&mut done.unsynced)
        };
        let folder = File::open(&self.part).map_err(at(&self.part))?;
        rustix::fs::syncfs(&folder).map_err(|e| at(&self.part)(e.into()))?;
        let mut done = self.done();
        shards.into_iter().try_for_each(|index| done.journal.add(index).map_err(at(&self.part)))
    }

    /// Notes what is done, so that the next run goes on from here.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn pause(&self) -> Result<(), TreeError> {
        self.sync()
    }

    /// Links, folders' attributes, and the final name.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn finish(self, out: &Path) -> Result<(), TreeError> {
        for (path, file) in &self.plan.hard_links {
            let (path, first) = (self.part.join(path), self.plan.files.get(*file as usize));
            let Some(first) = first else { continue };
            let _ = fs::remove_file(&path);
            fs::hard_link(self.part.join(&first.path), &path).map_err(at(&path))?;
        }
        for (path, entry, target) in &self.plan.links {
            let path = self.part.join(path);
            let _ = fs::remove_file(&path);
            symlink(OsStr::from_bytes(target), &path).map_err(at(&path))?;
            if self.owned {
                lchown(&path, Some(entry.uid), Some(entry.gid)).map_err(at(&path))?;
            }
            let _ = xattr::write(&path, &entry.xattrs);
            let _ = set_link_times(&path, entry);
        }
        // Innermost first: writing into a folder changes its time.
        for (path, entry) in self.plan.dirs.iter().rev() {
            let path = self.part.join(path);
            if self.owned {
                chown(&path, Some(entry.uid), Some(entry.gid)).map_err(at(&path))?;
            }
            let _ = xattr::write(&path, &entry.xattrs);
            let handle = File::open(&path).map_err(at(&path))?;
            handle.set_times(times(entry)).map_err(at(&path))?;
            let meta = handle.metadata().map_err(at(&path))?;
            handle.set_permissions(rights(entry, &meta)).map_err(at(&path))?;
        }
        self.sync()?;
        fs::set_permissions(&self.part, Permissions::from_mode(0o755)).map_err(at(&self.part))?;
        rename_new(&self.part, out).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => TreeError::Exists(out.to_owned()),
            _ => at(out)(e),
        })?;
        let journal = self.done().journal.path().to_owned();
        fs::remove_file(&journal).map_err(at(&journal))
    }
}

/// Writes into a new file, without its long runs of zeros.
fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let write = |from: usize, to: usize| {
        let part = bytes.get(from..to).unwrap_or_default();
        if part.is_empty() { Ok(()) } else { file.write_all_at(part, offset + from as u64) }
    };
    let beyond = (offset % HOLE_BYTES as u64) as usize;
    let (mut at, mut unwritten) = ((HOLE_BYTES - beyond) % HOLE_BYTES, 0);
    while let Some(block) = bytes.get(at..at + HOLE_BYTES) {
        if block.iter().all(|byte| *byte == 0) {
            write(unwritten, at)?;
            unwritten = at + HOLE_BYTES;
        }
        at += HOLE_BYTES;
    }
    write(unwritten, bytes.len())
}

/// The rights of an entry. Whoever restores without the right to give files away is their owner: for
/// that owner, the bits that lend the old one's rights would be a door.
fn rights(entry: &Entry, is: &Metadata) -> Permissions {
    let mut mode = entry.mode;
    if is.uid() != entry.uid {
        mode &= !SET_UID;
    }
    if is.gid() != entry.gid {
        mode &= !SET_GID;
    }
    Permissions::from_mode(mode)
}

/// Gives a folder its name without replacing anything.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that do not know the flag: a folder replaces an empty folder at most.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(from, to),
        other => other.map_err(io::Error::from),
    }
}

fn slice<'p>(chunk: &ChunkRef, parts: &'p [(u32, Vec<u8>)]) -> Option<&'p [u8]> {
    parts.iter().find_map(|(start, bytes)| {
        let from = chunk.offset.checked_sub(*start)? as usize;
        bytes.get(from..from.checked_add(chunk.stored_bytes as usize)?)
    })
}

fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time = if ns < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

fn times(entry: &Entry) -> FileTimes {
    let time = system_time(entry.mtime_ns);
    FileTimes::new().set_modified(time).set_accessed(time)
}

fn set_link_times(path: &Path, entry: &Entry) -> rustix::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let (tv_sec, tv_nsec) =
        (entry.mtime_ns.div_euclid(1_000_000_000), entry.mtime_ns.rem_euclid(1_000_000_000));
    let time = Timespec { tv_sec, tv_nsec };
    let both = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW)
}

/// Reads single chunks of a restore point, for whoever looks into it without restoring it.
pub struct ChunkReader {
    secrets: Secrets,
    decoder: Decoder,
}

impl ChunkReader {
    /// A reader with these keys.
    ///
    /// # Errors
    /// When the decompressor gets no memory.
    pub fn new(keys: &RepoKeys) -> io::Result<Self> {
        Ok(Self { secrets: keys.owner.secrets(), decoder: Decoder::new()? })
    }

    /// The plaintext of a chunk that lies in one of `parts`: fetched ranges of its shard, with where
    /// they begin in it.
    ///
    /// # Errors
    /// [`ChunkError`]; [`ChunkError::Cipher`] also when it is another chunk than its name says.
    pub fn read(&mut self, chunk: &ChunkRef, parts: &[(u32, Vec<u8>)]) -> Result<Vec<u8>, ChunkError> {
        let plain = self.decoder.decode_sealed(chunk, slice(chunk, parts).ok_or(ChunkError::Range)?)?;
        if self.secrets.chunk_id(plain) == chunk.id { Ok(plain.to_vec()) } else { Err(ChunkError::Cipher) }
    }

    /// What is stored of a chunk that lies in one of `parts`, once it turned out to be that chunk.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn sealed<'p>(
        &mut self,
        chunk: &ChunkRef,
        parts: &'p [(u32, Vec<u8>)],
    ) -> Result<&'p [u8], ChunkError> {
        self.read(chunk, parts)?;
        slice(chunk, parts).ok_or(ChunkError::Range)
    }

    /// Checks the chunks of `wanted` against the fetched ranges; returns the bytes that hold.
    ///
    /// # Errors
    /// [`ChunkError`].
    pub fn check(&mut self, wanted: &Wanted, parts: &[(u32, Vec<u8>)]) -> Result<u64, ChunkError> {
        let mut bytes = 0;
        for (chunk, _) in &wanted.chunks {
            bytes += self.read(chunk, parts)?.len() as u64;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    fn entry(mode: u32, uid: u32, gid: u32) -> Entry {
        Entry {
            depth: 0,
            name: b"file".to_vec(),
            mode,
            uid,
            gid,
            mtime_ns: 0,
            ctime_ns: 0,
            inode: 0,
            content: Content::Dir,
            xattrs: Vec::new(),
        }
    }

    #[test]
    fn bits_that_lend_rights_stay_only_with_their_owner() {
        let file = tempfile::tempfile().unwrap();
        let is = file.metadata().unwrap();
        let rights = |uid, gid| rights(&entry(0o6751, uid, gid), &is).mode();
        assert_eq!(rights(is.uid(), is.gid()), 0o6751);
        assert_eq!(rights(is.uid() + 1, is.gid()), 0o2751);
        assert_eq!(rights(is.uid(), is.gid() + 1), 0o4751);
        assert_eq!(rights(is.uid() + 1, is.gid() + 1), 0o751);
    }

    #[test]
    fn long_runs_of_zeros_become_holes_and_nothing_else_changes() {
        let mut whole = noise(5 * HOLE_BYTES, 1);
        // From the middle of a block to the middle of another, some single ones, and up to the end.
        whole[HOLE_BYTES / 2..3 * HOLE_BYTES + 7].fill(0);
        whole[4 * HOLE_BYTES - 9..4 * HOLE_BYTES - 5].fill(0);
        whole.extend(vec![0; 3 * HOLE_BYTES + 1]);
        for cut in [0, 1, HOLE_BYTES, 2 * HOLE_BYTES + 5, whole.len()] {
            let file = tempfile::tempfile().unwrap();
            let (a, b) = whole.split_at(cut);
            write_sparse(&file, b, cut as u64).unwrap();
            write_sparse(&file, a, 0).unwrap();
            file.set_len(whole.len() as u64).unwrap();
            let mut back = vec![1; whole.len()];
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back == whole, "cut at {cut}");
            // Of 8 blocks and a byte, 2 to 5 are holes.
            let taken = file.metadata().unwrap().blocks() * 512;
            assert!(taken <= 6 * HOLE_BYTES as u64, "{taken} bytes, cut at {cut}");
        }
    }
}
