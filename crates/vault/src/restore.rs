//! From shards back to the file.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use ioex_base::ContentAddress;

mod error;

pub use error::{RestoreError, ShardError};

use crate::{
    chunk::Decoder,
    journal::{Found, Journal},
    manifest::Manifest,
};

/// A restore under way: takes whole shards in any order and writes the file.
///
/// Beside the temporary file lies a journal (its name with `.journal` added) of the shards whose
/// data is on disk. After a crash, [`Restorer::open`] with the same manifest and place goes on
/// from there. Memory: one shard, one chunk, and some 60 bytes for each chunk of the file.
pub struct Restorer {
    manifest: Manifest,
    part_path: PathBuf,
    part: File,
    journal: Journal,
    done: Vec<bool>,
    /// For each shard, its chunks.
    chunks_of: Vec<Vec<u32>>,
    /// For each chunk, where it goes in the file.
    offsets_of: Vec<Vec<u64>>,
    decoder: Decoder,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::Io { path: path.to_owned(), source }
}

impl Restorer {
    /// Begins or continues restoring `manifest` in the temporary file `part`, whose directory
    /// exists and lies on the file system of the final place.
    ///
    /// A restore of another manifest at the same place is discarded.
    ///
    /// # Errors
    /// [`RestoreError::Manifest`], [`RestoreError::InUse`], [`RestoreError::NotOurs`],
    /// [`RestoreError::Io`].
    pub fn open(manifest: Manifest, part: &Path) -> Result<Self, RestoreError> {
        manifest.check()?;
        let digest = *blake3::hash(&manifest.encode()).as_bytes();
        let (journal, found) = Journal::open(journal_path(part), digest, manifest.shards.len())
            .map_err(io_at(part))?
            .ok_or_else(|| RestoreError::InUse(part.to_owned()))?;
        let length = match fs::symlink_metadata(part) {
            Ok(meta) => Some(if meta.is_file() { meta.len() } else { u64::MAX }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_at(part)(e)),
        };
        let finished = match (found, length) {
            (Found::Nothing, Some(_)) => {
                let _ = fs::remove_file(journal.path());
                return Err(RestoreError::NotOurs(part.to_owned()));
            }
            (Found::Ours(finished), Some(len)) if len == manifest.size_bytes => Some(finished),
            _ => None,
        };
        Self::set_up(manifest, part, journal, finished).map_err(io_at(part))
    }

    fn set_up(
        manifest: Manifest,
        part_path: &Path,
        mut journal: Journal,
        finished: Option<Vec<u32>>,
    ) -> io::Result<Self> {
        let part = match finished {
            Some(_) => File::options().read(true).write(true).open(part_path)?,
            None => start_afresh(part_path, &mut journal, manifest.size_bytes)?,
        };
        let mut done = vec![false; manifest.shards.len()];
        for index in finished.unwrap_or_default() {
            if let Some(done) = done.get_mut(index as usize) {
                *done = true;
            }
        }
        let (chunks_of, offsets_of) = places(&manifest);
        let part_path = part_path.to_owned();
        let decoder = Decoder::new()?;
        Ok(Self { manifest, part_path, part, journal, done, chunks_of, offsets_of, decoder })
    }

    /// What is being restored.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Indexes of the shards that are still to come, in the order of the manifest.
    #[must_use]
    pub fn missing(&self) -> Vec<u32> {
        (0..).zip(&self.done).filter(|(_, done)| !**done).map(|(index, _)| index).collect()
    }

    /// Bytes of the shards that are done, for showing progress against
    /// [`Manifest::stored_bytes`].
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.manifest
            .shards
            .iter()
            .zip(&self.done)
            .filter(|(_, d)| **d)
            .map(|(s, _)| u64::from(s.bytes))
            .sum()
    }

    /// Takes shard `index`. When this returns, its part of the file is on disk. A shard that is
    /// done already changes nothing.
    ///
    /// # Errors
    /// [`ShardError`]; the shard is still missing then.
    pub fn accept_shard(&mut self, index: u32, shard: &[u8]) -> Result<(), ShardError> {
        let total = self.manifest.shards.len();
        let place = index as usize;
        let (Some(reference), Some(done)) = (self.manifest.shards.get(place), self.done.get(place)) else {
            return Err(ShardError::Unknown { index, total });
        };
        if *done {
            return Ok(());
        }
        if shard.len() != reference.bytes as usize {
            return Err(ShardError::Length { expected: reference.bytes, got: shard.len() });
        }
        let got = ContentAddress::of(shard);
        if got != reference.address {
            return Err(ShardError::Address { expected: reference.address, got });
        }
        self.write_chunks(place, shard)?;
        let recorded = self.part.sync_data().and_then(|()| self.journal.add(index));
        recorded.map_err(|source| ShardError::Io { path: self.part_path.clone(), source })?;
        if let Some(done) = self.done.get_mut(place) {
            *done = true;
        }
        Ok(())
    }

    fn write_chunks(&mut self, shard_index: usize, shard: &[u8]) -> Result<(), ShardError> {
        for &index in self.chunks_of.get(shard_index).into_iter().flatten() {
            let Some(chunk) = self.manifest.chunks.get(index as usize) else { continue };
            let plain = self
                .decoder
                .decode(chunk, shard)
                .map_err(|source| ShardError::Chunk { chunk: index, source })?;
            for &offset in self.offsets_of.get(index as usize).into_iter().flatten() {
                let written =
                    self.part.seek(SeekFrom::Start(offset)).and_then(|_| self.part.write_all(plain));
                written.map_err(|source| ShardError::Io { path: self.part_path.clone(), source })?;
            }
        }
        Ok(())
    }

    /// Checks the whole file against the manifest's hash and gives it its final name, which must
    /// be free and on the same file system.
    ///
    /// # Errors
    /// [`RestoreError::Missing`], [`RestoreError::Content`], [`RestoreError::Exists`],
    /// [`RestoreError::Io`]. After `Missing`, `Exists` and `Io`, opening again continues.
    pub fn finish(mut self, final_path: &Path) -> Result<(), RestoreError> {
        let missing = self.missing().len();
        if missing > 0 {
            return Err(RestoreError::Missing { missing, total: self.done.len() });
        }
        let got = self.hash().map_err(io_at(&self.part_path))?;
        let expected = self.manifest.content;
        if got != expected {
            self.discard()?;
            return Err(RestoreError::Content { expected, got });
        }
        publish(&self.part_path, final_path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => RestoreError::Exists(final_path.to_owned()),
            _ => io_at(final_path)(e),
        })?;
        remove_if_there(self.journal.path()).map_err(io_at(final_path))?;
        sync_parent(final_path).map_err(io_at(final_path))
    }

    /// Gives up: deletes the temporary file and its journal.
    ///
    /// # Errors
    /// [`RestoreError::Io`].
    pub fn discard(self) -> Result<(), RestoreError> {
        // In this order: a journal without a file starts afresh, a file without one is not ours.
        remove_if_there(&self.part_path)
            .and_then(|()| remove_if_there(self.journal.path()))
            .map_err(io_at(&self.part_path))
    }

    fn hash(&mut self) -> io::Result<ContentAddress> {
        self.part.sync_all()?;
        self.part.seek(SeekFrom::Start(0))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&self.part)?;
        Ok(ContentAddress::from(hasher.finalize()))
    }
}

fn journal_path(part: &Path) -> PathBuf {
    let mut name = OsString::from(part);
    name.push(".journal");
    name.into()
}

/// The journal comes first: a temporary file without one would not be known as ours. An old file
/// is unlinked, not truncated, because it may be the same file as one that was just published.
fn start_afresh(part: &Path, journal: &mut Journal, size_bytes: u64) -> io::Result<File> {
    journal.restart()?;
    remove_if_there(part)?;
    let file = File::options().create_new(true).read(true).write(true).open(part)?;
    file.set_len(size_bytes)?;
    file.sync_all()?;
    sync_parent(part)?;
    Ok(file)
}

/// For each shard its chunks, for each chunk its offsets in the file.
fn places(manifest: &Manifest) -> (Vec<Vec<u32>>, Vec<Vec<u64>>) {
    let mut chunks_of = vec![Vec::new(); manifest.shards.len()];
    for (index, chunk) in (0..).zip(&manifest.chunks) {
        if let Some(list) = chunks_of.get_mut(chunk.shard as usize) {
            list.push(index);
        }
    }
    let mut offsets_of = vec![Vec::new(); manifest.chunks.len()];
    let mut offset = 0u64;
    for &index in &manifest.order {
        if let Some(list) = offsets_of.get_mut(index as usize) {
            list.push(offset);
        }
        let bytes = manifest.chunks.get(index as usize).map_or(0, |chunk| u64::from(chunk.plain_bytes));
        offset = offset.saturating_add(bytes);
    }
    (chunks_of, offsets_of)
}

/// Renames without ever overwriting. A second link does that in one step; file systems without
/// links (memory cards) take the name with an empty file first.
fn publish(part: &Path, final_path: &Path) -> io::Result<()> {
    match fs::hard_link(part, final_path) {
        Ok(()) => {
            sync_parent(final_path)?;
            fs::remove_file(part)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        Err(_) => {
            File::create_new(final_path)?;
            fs::rename(part, final_path).inspect_err(|_| {
                let _ = fs::remove_file(final_path);
            })
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes names in the directory of `path` durable. Other systems refuse to open a directory as a
/// file and order such changes by themselves.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(parent)?.sync_all() } else { Ok(()) }
}
