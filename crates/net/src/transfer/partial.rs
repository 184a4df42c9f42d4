//! A file while it is not complete.
//!
//! Beside the final name lie two hidden files: the content so far, and a journal of the pieces
//! that are there and verified. A piece enters the journal only after its bytes are on disk, so
//! after a power cut the journalled pieces count. Pieces that were written but not journalled (the
//! program was killed) are verified again when the file is opened, so that nothing is fetched
//! twice. The final name appears once, when everything is verified, and never replaces another
//! file.
//!
//! Journal: `"ioexpart" | version (1) | address (32) | size (8) | piece list | piece numbers (4 each)`,
//! numbers little-endian. A number cut off at the end is ignored.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ioex_base::ContentAddress;

use super::pieces::PieceList;

const MAGIC: &[u8; 8] = b"ioexpart";
const VERSION: u8 = 1;
/// After so many bytes the journal catches up with the data: each time costs a flush of the disk.
const SYNC_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes read at a time when the file is verified.
const VERIFY_BLOCK_BYTES: usize = 256 * 1024;
/// Space that must stay free on the disk after the file.
const SPARE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file cannot be received or completed.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// Something has the final name already.
    #[error("{0} exists already: move it away or choose another folder")]
    Exists(PathBuf),
    /// The disk is too full.
    #[error("{path} needs {needed} bytes, the disk has {free} free")]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Bytes missing of the file.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The file so far.
#[derive(Debug)]
pub(crate) struct Partial {
    list: PieceList,
    file: File,
    data: PathBuf,
    journal_path: PathBuf,
    target: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: File,
    done: BTreeSet<u64>,
    /// Verified and written, not yet in the journal.
    pending: Vec<u64>,
    pending_bytes: u64,
}

fn hidden(target: &Path, address: &ContentAddress, suffix: &str) -> PathBuf {
    // Two files of one folder may have the same content.
    let name = blake3::hash(target.file_name().unwrap_or_default().as_encoded_bytes());
    target.with_file_name(format!(".ioex-{address}-{}.{suffix}", &name.to_hex()[..16]))
}

/// Pieces that the file holds, of those in `among`. Holes are skipped without reading them.
fn pieces_there(
    file: &File,
    list: &PieceList,
    among: impl Iterator<Item = u64>,
) -> std::io::Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut buffer = vec![0; VERIFY_BLOCK_BYTES];
    // Where the next data begins, as far as was asked.
    let mut data_from = 0;
    for piece in among {
        let (start, len) = list.range(piece);
        if data_from < start {
            data_from = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(start)) {
                Ok(at) => at,
                Err(rustix::io::Errno::NXIO) => break,
                // A file system that does not know holes: everything is read.
                Err(_) => start,
            };
        }
        if data_from >= start + len {
            continue;
        }
        let mut verifier = list.verifier(piece);
        let (mut at, end) = (start, start + len);
        while at < end {
            let want = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            file.read_exact_at(&mut buffer[..want], at)?;
            verifier.update(&buffer[..want]);
            at += want as u64;
        }
        if verifier.holds() {
            found.push(piece);
        }
    }
    Ok(found)
}

/// Refuses a target that exists, without creating it.
///
/// # Errors
/// [`PartialError::Exists`].
pub(crate) fn check_free(target: &Path) -> Result<(), PartialError> {
    match target.symlink_metadata() {
        Ok(_) => Err(PartialError::Exists(target.to_owned())),
        Err(_) => Ok(()),
    }
}

/// Reads the piece list and the finished pieces of an earlier run.
fn read_journal(path: &Path, address: &ContentAddress) -> Option<(PieceList, BTreeSet<u64>)> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?.strip_prefix(address.as_bytes())?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let size = u64::from_le_bytes(*size);
    let list_len = usize::try_from(super::pieces::piece_count(size)).ok()?.checked_mul(32)?;
    let (list, numbers) = rest.split_at_checked(list_len)?;
    let list = PieceList::verified(address, size, list).ok()?;
    let done = numbers
        .chunks_exact(4)
        .filter_map(|n| n.try_into().ok().map(u32::from_le_bytes).map(u64::from))
        .filter(|n| *n < list.count())
        .collect();
    Some((list, done))
}

impl Partial {
    /// The piece list that an earlier run of the same download left behind.
    pub(crate) fn known_list(target: &Path, address: &ContentAddress) -> Option<PieceList> {
        read_journal(&hidden(target, address, "map"), address).map(|(list, _)| list)
    }

    /// Begins, or goes on with, receiving the content of `list` to `target`.
    ///
    /// # Errors
    /// [`PartialError`]: the name is taken, the disk too full or not writable.
    pub(crate) fn open(
        target: &Path,
        address: &ContentAddress,
        list: PieceList,
    ) -> Result<Self, PartialError> {
        check_free(target)?;
        let (data, journal_path) = (hidden(target, address, "part"), hidden(target, address, "map"));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| PartialError::Io { path, source }
        };
        let found = read_journal(&journal_path, address).filter(|_| data.exists());
        let mut done = found.map(|(_, done)| done).unwrap_or_default();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&data)
            .map_err(io(&data))?;
        let have: u64 = done.iter().map(|p| list.range(*p).1).sum();
        Self::check_space(target, list.size() - have)?;
        file.set_len(list.size()).map_err(io(&data))?;
        let mut journal = if done.is_empty() {
            let mut journal = File::create(&journal_path).map_err(io(&journal_path))?;
            let mut head = MAGIC.to_vec();
            head.push(VERSION);
            head.extend_from_slice(address.as_bytes());
            head.extend_from_slice(&list.size().to_le_bytes());
            head.extend_from_slice(&list.to_bytes());
            journal.write_all(&head).map_err(io(&journal_path))?;
            journal
        } else {
            OpenOptions::new().append(true).open(&journal_path).map_err(io(&journal_path))?
        };
        // A number that a crash cut off would shift all later ones.
        let whole = 49 + list.count() * 32 + 4 * done.len() as u64;
        if journal.metadata().map_err(io(&journal_path))?.len() != whole {
            let mut numbers = Vec::new();
            done.iter().for_each(|p| numbers.extend_from_slice(&journal_number(*p)));
            journal.set_len(49 + list.count() * 32).map_err(io(&journal_path))?;
            journal = OpenOptions::new().append(true).open(&journal_path).map_err(io(&journal_path))?;
            journal.write_all(&numbers).map_err(io(&journal_path))?;
        }
        let not_journalled: Vec<u64> = (0..list.count()).filter(|p| !done.contains(p)).collect();
        let pending = pieces_there(&file, &list, not_journalled.into_iter()).map_err(io(&data))?;
        done.extend(pending.iter().copied());
        let pending_bytes = pending.iter().map(|p| list.range(*p).1).sum();
        let inner = Inner { journal, done, pending, pending_bytes };
        Ok(Self { list, file, data, journal_path, target: target.to_owned(), inner: Mutex::new(inner) })
    }

    fn check_space(target: &Path, needed: u64) -> Result<(), PartialError> {
        let dir = target.parent().unwrap_or(Path::new("."));
        let stat = rustix::fs::statvfs(dir)
            .map_err(|e| PartialError::Io { path: dir.to_owned(), source: e.into() })?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < needed.saturating_add(SPARE_BYTES) {
            return Err(PartialError::NoSpace { path: dir.to_owned(), needed, free });
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, source: std::io::Error) -> PartialError {
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                PartialError::NoSpace { path: self.data.clone(), needed: self.missing_bytes(), free: 0 }
            }
            _ => PartialError::Io { path: self.data.clone(), source },
        }
    }

    /// The pieces of the content.
    #[must_use]
    pub(crate) fn list(&self) -> &PieceList {
        &self.list
    }

    /// Pieces that are not there yet.
    #[must_use]
    pub(crate) fn missing(&self) -> Vec<u64> {
        let inner = self.lock();
        (0..self.list.count()).filter(|p| !inner.done.contains(p)).collect()
    }

    fn missing_bytes(&self) -> u64 {
        self.list.size() - self.done_bytes()
    }

    /// Bytes of the pieces that are there.
    #[must_use]
    pub(crate) fn done_bytes(&self) -> u64 {
        self.lock().done.iter().map(|p| self.list.range(*p).1).sum()
    }

    /// Writes bytes of a piece that is not verified yet. Blocks.
    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), PartialError> {
        self.file.write_all_at(bytes, at).map_err(|e| self.io(e))
    }

    /// A piece is written and verified. Blocks now and then, when the journal catches up.
    pub(crate) fn mark(&self, piece: u64) -> Result<(), PartialError> {
        let mut inner = self.lock();
        if inner.done.insert(piece) {
            inner.pending.push(piece);
            inner.pending_bytes += self.list.range(piece).1;
        }
        if inner.pending_bytes >= SYNC_BYTES { self.sync(&mut inner) } else { Ok(()) }
    }

    fn sync(&self, inner: &mut Inner) -> Result<(), PartialError> {
        if inner.pending.is_empty() {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| self.io(e))?;
        let mut numbers = Vec::with_capacity(inner.pending.len() * 4);
        inner.pending.drain(..).for_each(|p| numbers.extend_from_slice(&journal_number(p)));
        inner.pending_bytes = 0;
        inner.journal.write_all(&numbers).map_err(|e| self.io(e))
    }

    /// Brings the journal up to date, before a pause or an end. Blocks.
    pub(crate) fn flush(&self) -> Result<(), PartialError> {
        self.sync(&mut self.lock())
    }

    /// All pieces are there: makes the file durable under its final name. Blocks.
    pub(crate) fn finish(&self) -> Result<(), PartialError> {
        self.file.sync_all().map_err(|e| self.io(e))?;
        let cwd = rustix::fs::CWD;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(cwd, &self.data, cwd, &self.target, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(PartialError::Exists(self.target.clone())),
            // Some file systems cannot rename without replacing; a hard link does not replace.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::hard_link(&self.data, &self.target).map_err(|e| match e.kind() {
                    std::io::ErrorKind::AlreadyExists => PartialError::Exists(self.target.clone()),
                    _ => self.io(e),
                })?;
                std::fs::remove_file(&self.data).map_err(|e| self.io(e))?;
            }
            Err(e) => return Err(self.io(e.into())),
        }
        if let Some(dir) = self.target.parent() {
            File::open(dir).and_then(|d| d.sync_all()).map_err(|e| self.io(e))?;
        }
        // The journal is of no use any more; a failure leaves a small hidden file.
        let _ = std::fs::remove_file(&self.journal_path);
        Ok(())
    }

    /// Deletes what was received for `target`.
    pub(crate) fn discard(target: &Path, address: &ContentAddress) {
        for suffix in ["part", "map"] {
            // Nothing there is what we want.
            let _ = std::fs::remove_file(hidden(target, address, suffix));
        }
    }
}

fn journal_number(piece: u64) -> [u8; 4] {
    // PIECES_MAX is far below 2^32.
    u32::try_from(piece).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::pieces::PIECE_MIN_BYTES;

    fn content() -> (Vec<u8>, ContentAddress, PieceList) {
        let bytes: Vec<u8> = (0..3 * PIECE_MIN_BYTES + 100).map(|i| (i * 7 % 251) as u8).collect();
        let (address, list) = PieceList::of(&bytes[..], |_| (), bytes.len() as u64).unwrap();
        (bytes, address, list)
    }

    fn put(partial: &Partial, bytes: &[u8], piece: u64) {
        let (start, len) = partial.list().range(piece);
        partial.write_at(&bytes[start as usize..(start + len) as usize], start).unwrap();
        partial.mark(piece).unwrap();
    }

    #[test]
    fn a_killed_program_loses_nothing_and_wrong_bytes_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        let (bytes, address, list) = content();
        {
            let partial = Partial::open(&target, &address, list.clone()).unwrap();
            put(&partial, &bytes, 2);
            partial.flush().unwrap();
            put(&partial, &bytes, 1); // written, not journalled
            partial.write_at(&[1; 100], 0).unwrap(); // a piece that was on its way
        }
        assert_eq!(Partial::known_list(&target, &address), Some(list.clone()));
        let partial = Partial::open(&target, &address, list).unwrap();
        assert_eq!(partial.missing(), [0, 3]);
        assert!(!target.exists(), "nothing under the final name");
        put(&partial, &bytes, 0);
        put(&partial, &bytes, 3);
        partial.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_power_cut_leaves_what_the_journal_has() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        let (bytes, address, list) = content();
        {
            let partial = Partial::open(&target, &address, list.clone()).unwrap();
            put(&partial, &bytes, 0);
            partial.flush().unwrap();
            put(&partial, &bytes, 2);
            // The disk never saw these bytes.
            let (start, len) = partial.list().range(2);
            partial.write_at(&vec![0; len as usize], start).unwrap();
        }
        assert_eq!(Partial::open(&target, &address, list).unwrap().missing(), [1, 2, 3]);
    }

    #[test]
    fn equal_files_of_one_folder_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, address, list) = content();
        let [a, b] =
            ["a", "b"].map(|name| Partial::open(&dir.path().join(name), &address, list.clone()).unwrap());
        (0..list.count()).for_each(|p| put(&a, &bytes, p));
        a.finish().unwrap();
        (0..list.count()).for_each(|p| put(&b, &bytes, p));
        b.finish().unwrap();
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), bytes);
    }

    #[test]
    fn a_cut_journal_is_read_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        let (bytes, address, list) = content();
        {
            let partial = Partial::open(&target, &address, list.clone()).unwrap();
            put(&partial, &bytes, 1);
            put(&partial, &bytes, 2);
            partial.flush().unwrap();
        }
        let journal = hidden(&target, &address, "map");
        let len = std::fs::metadata(&journal).unwrap().len();
        File::options().write(true).open(&journal).unwrap().set_len(len - 3).unwrap();
        assert_eq!(read_journal(&journal, &address).unwrap().1, BTreeSet::from([1]));
        {
            let partial = Partial::open(&target, &address, list.clone()).unwrap();
            assert_eq!(partial.missing(), [0, 3], "the data itself shows what is there");
            put(&partial, &bytes, 3);
            partial.flush().unwrap();
        }
        assert_eq!(read_journal(&journal, &address).unwrap().1, BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        let (bytes, address, list) = content();
        let partial = Partial::open(&target, &address, list.clone()).unwrap();
        (0..list.count()).for_each(|p| put(&partial, &bytes, p));
        std::fs::write(&target, b"mine").unwrap();
        assert!(matches!(partial.finish(), Err(PartialError::Exists(_))));
        assert!(matches!(Partial::open(&target, &address, list), Err(PartialError::Exists(_))));
        assert_eq!(std::fs::read(&target).unwrap(), b"mine");
    }

    #[test]
    fn a_file_that_cannot_fit_is_refused_before_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let got = Partial::check_space(&dir.path().join("f"), u64::MAX / 2);
        assert!(matches!(got, Err(PartialError::NoSpace { .. })));
    }
}
