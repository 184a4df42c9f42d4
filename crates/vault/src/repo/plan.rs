//! What a restore has to fetch, and where each chunk goes. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Read,
    path::{Path, PathBuf},
};

use ioex_base::Uid;

use super::{
    index::{Found, Index},
    text,
    tree::{self, Content, Entry, ListingError, ListingReader},
};
use crate::manifest::{ChunkId, ChunkRef, ShardRef};

/// When less than this part of a shard is wanted, only the ranges with wanted chunks are fetched.
const WHOLE_FROM: f64 = 0.5;
/// Ranges with a smaller gap between them are fetched as one: a request costs about as much.
const GAP_MAX_BYTES: u32 = 64 * 1024;

/// Which part of a restore point is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names that lead to what is wanted, from the base; none means all.
    pub wanted: Vec<Vec<Vec<u8>>>,
    /// How many leading names are left out of the restored paths.
    pub strip: usize,
}

impl Selection {
    /// These paths below the base, restored beside each other under their last names' nearest
    /// common folder.
    #[must_use]
    pub fn of(paths: &[PathBuf]) -> Self {
        let wanted: Vec<_> = paths.iter().map(|p| tree::split(p)).filter(|names| !names.is_empty()).collect();
        let folder = |names: &Vec<Vec<u8>>| names.len() - 1;
        let mut strip = wanted.iter().map(folder).min().unwrap_or(0);
        if let Some(first) = wanted.first() {
            let same = |names: &Vec<Vec<u8>>| names.iter().zip(first).take_while(|(a, b)| a == b).count();
            strip = wanted.iter().map(same).min().unwrap_or(0).min(strip);
        }
        Self { wanted, strip }
    }

    fn has(&self, names: &[Vec<u8>]) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|w| names.starts_with(w) || w.starts_with(names))
    }

    /// Whether an entry is wanted for itself, not only because it leads to a wanted one.
    fn wants(&self, names: &[Vec<u8>]) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|w| names.starts_with(w))
    }
}

/// A file to write.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Its path below the target.
    pub path: PathBuf,
    /// Its attributes.
    pub entry: Entry,
    /// How many chunks it has.
    pub chunks: u32,
}

/// A shard of which something is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The shard.
    pub shard: ShardRef,
    /// All data shards of its group, if it has others.
    pub data: Vec<ShardRef>,
    /// The group's parity shards.
    pub parity: Vec<ShardRef>,
    /// The shard's place among the data shards.
    pub place: usize,
    /// For each shard of the group, devices that took it when it was stored.
    pub hints: Vec<Vec<Uid>>,
    /// The chunks, by their offset, each with the files and offsets where it goes.
    pub chunks: Vec<(ChunkRef, Vec<(u32, u64)>)>,
}

impl Wanted {
    /// The shard of a chunk, without chunks.
    fn of(index: &Index, found: &Found<'_>) -> Self {
        let alone = found.group.parity.is_empty();
        let hints = (0..found.group.shards().count()).map(|place| index.hints(found, place)).collect();
        Self {
            shard: *found.shard,
            data: if alone { vec![*found.shard] } else { found.group.data.clone() },
            parity: found.group.parity.clone(),
            place: if alone { 0 } else { found.place },
            hints: if alone { vec![index.hints(found, found.place)] } else { hints },
            chunks: Vec::new(),
        }
    }

    /// Bytes of the chunks that are wanted.
    #[must_use]
    pub fn wanted_bytes(&self) -> u64 {
        self.chunks.iter().map(|(c, _)| u64::from(c.stored_bytes)).sum()
    }

    /// The ranges to fetch, as start and length; one of the whole shard when most of it is wanted.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u32, u32)> {
        if self.wanted_bytes() as f64 >= WHOLE_FROM * f64::from(self.shard.bytes) {
            return vec![(0, self.shard.bytes)];
        }
        let mut out: Vec<(u32, u32)> = Vec::new();
        for (chunk, _) in &self.chunks {
            let end = chunk.offset.saturating_add(chunk.stored_bytes);
            match out.last_mut() {
                Some((start, len))
                    if chunk.offset.saturating_sub(start.saturating_add(*len)) <= GAP_MAX_BYTES =>
                {
                    *len = (*len).max(end.saturating_sub(*start));
                }
                _ => out.push((chunk.offset, chunk.stored_bytes)),
            }
        }
        out
    }
}

/// A restore.
#[derive(Debug, Default)]
pub struct Plan {
    /// Folders, each after the one that holds it.
    pub dirs: Vec<(PathBuf, Entry)>,
    /// Files.
    pub files: Vec<PlannedFile>,
    /// Symbolic links: path, attributes, target.
    pub links: Vec<(PathBuf, Entry, Vec<u8>)>,
    /// Further names of files: path, and number of the file.
    pub hard_links: Vec<(PathBuf, u32)>,
    /// The shards, in the order in which the files need them.
    pub shards: Vec<Wanted>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why a restore point cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Its listing is damaged.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// The index does not know a chunk.
    #[error("{path}: the index does not say where a part of it lies", path = .path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// Nothing has the given path.
    #[error("nothing in this restore point has the path {path}", path = text::shown(.path.as_os_str().as_encoded_bytes()))]
    NoSuchPath {
        /// The path, below the base.
        path: PathBuf,
    },
}

impl Plan {
    /// Plans a restore of what `selection` wants. `listing` opens the listing from its start; it is
    /// read twice.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new<R: Read>(
        listing: impl Fn() -> std::io::Result<R>,
        selection: &Selection,
        index: &Index,
    ) -> Result<Self, PlanError> {
        let open = || listing().map(ListingReader::new).map_err(ListingError::Io);
        let linked = linked(&mut open()?, selection)?;
        let mut planner =
            Planner { index, plan: Self::default(), at: HashMap::new(), chunks: HashMap::new() };
        let mut reader = open()?;
        let (mut number, mut named) = (0u64, HashMap::new());
        let mut found = vec![false; selection.wanted.len()];
        while let Some(entry) = reader.next_entry()? {
            let names = reader.path();
            for (found, wanted) in found.iter_mut().zip(&selection.wanted) {
                *found |= names == wanted.as_slice();
            }
            let wanted = selection.wants(names) && names.len() > selection.strip;
            let leads = selection.has(names) && names.len() > selection.strip;
            let path = tree::join(names.get(selection.strip..).unwrap_or_default());
            if wanted || (leads && entry.content == Content::Dir) {
                planner.add(path, entry, number, &mut named)?;
            } else if linked.contains(&number) {
                // Its other name is wanted: the first of these becomes the file.
                named.insert(number, Named::Waiting(entry));
            }
            number += 1;
        }
        if let Some(missing) = found.iter().position(|found| !found) {
            let path = selection.wanted.get(missing).map(|names| tree::join(names)).unwrap_or_default();
            return Err(PlanError::NoSuchPath { path });
        }
        // Files need chunks in an order of their own; ranges follow the shard.
        for wanted in &mut planner.plan.shards {
            wanted.chunks.sort_by_key(|(chunk, _)| chunk.offset);
        }
        Ok(planner.plan)
    }

    /// What has to be fetched for one chunk alone.
    #[must_use]
    pub fn single(index: &Index, found: &Found<'_>) -> Wanted {
        let mut wanted = Wanted::of(index, found);
        wanted.chunks.push((found.chunk.clone(), Vec::new()));
        wanted
    }

    /// Bytes to fetch.
    #[must_use]
    pub fn fetch_bytes(&self) -> u64 {
        self.shards.iter().flat_map(Wanted::ranges).map(|(_, len)| u64::from(len)).sum()
    }

    /// Names the plan, so that a restore goes on only with its own beginnings: what is fetched, and everything
    /// that is written down of files, for one that is finished is not looked at again. What folders and links
    /// have is set at the end in any case.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for wanted in &self.shards {
            hasher.update(wanted.shard.address.as_bytes());
            for (chunk, targets) in &wanted.chunks {
                hasher.update(&chunk.id.0).update(&(targets.len() as u64).to_le_bytes());
                for (file, offset) in targets {
                    hasher.update(&file.to_le_bytes()).update(&offset.to_le_bytes());
                }
            }
        }
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        let count = |list: usize| (list as u64).to_le_bytes();
        part(&count(self.files.len()));
        for file in &self.files {
            each_part(&file.path, &file.entry, &mut part);
            part(&file.chunks.to_le_bytes());
        }
        part(&count(self.dirs.len()));
        for (path, _) in &self.dirs {
            part(path.as_os_str().as_encoded_bytes());
        }
        part(&count(self.links.len()));
        for (path, _, target) in &self.links {
            part(path.as_os_str().as_encoded_bytes());
            part(target);
        }
        for (path, file) in &self.hard_links {
            part(path.as_os_str().as_encoded_bytes());
            part(&file.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// What a restore writes down of an entry beside its content. Number and change time belong to the disk that it
/// came from: without them two restore points of the same state are one.
fn each_part(path: &Path, entry: &Entry, part: &mut impl FnMut(&[u8])) {
    part(path.as_os_str().as_encoded_bytes());
    for number in [entry.mode, entry.uid, entry.gid] {
        part(&number.to_le_bytes());
    }
    part(&entry.mtime_ns.to_le_bytes());
    part(&(entry.xattrs.len() as u64).to_le_bytes());
    for (name, value) in &entry.xattrs {
        part(name);
        part(value);
    }
}

/// What became of an entry that has several names.
enum Named {
    /// It is this file of the plan.
    File(u32),
    /// It is not wanted under its own name.
    Waiting(Entry),
}

/// Entries that are wanted under another name only.
fn linked<R: Read>(
    reader: &mut ListingReader<R>,
    selection: &Selection,
) -> Result<HashSet<u64>, ListingError> {
    let mut out = HashSet::new();
    while let Some(entry) = reader.next_entry()? {
        if let Content::HardLink(first) = entry.content
            && selection.wants(reader.path())
        {
            out.insert(first);
        }
    }
    Ok(out)
}

struct Planner<'i> {
    index: &'i Index,
    plan: Plan,
    /// Where a shard stands in the plan.
    at: HashMap<ioex_base::ContentAddress, usize>,
    /// Where a chunk stands in its shard's list.
    chunks: HashMap<ChunkId, (usize, usize)>,
}

impl Planner<'_> {
    fn add(
        &mut self,
        path: PathBuf,
        entry: Entry,
        number: u64,
        named: &mut HashMap<u64, Named>,
    ) -> Result<(), PlanError> {
        match &entry.content {
            Content::Dir => self.plan.dirs.push((path, entry)),
            Content::Symlink(target) => {
                let target = target.clone();
                self.plan.links.push((path, entry, target));
            }
            Content::File { .. } => {
                let file = self.file(path, entry)?;
                named.insert(number, Named::File(file));
            }
            Content::HardLink(first) => match named.remove(first) {
                Some(Named::File(file)) => {
                    named.insert(*first, Named::File(file));
                    self.plan.hard_links.push((path, file));
                }
                Some(Named::Waiting(original)) => {
                    let file = self.file(path, original)?;
                    named.insert(*first, Named::File(file));
                }
                None => return Err(ListingError::Damaged("a link to a file that is not there").into()),
            },
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, entry: Entry) -> Result<u32, PlanError> {
        let at = self.plan.files.len() as u32;
        let Content::File { size, chunks } = &entry.content else {
            return Err(ListingError::Damaged("a link to something that is no file").into());
        };
        let mut offset = 0u64;
        for id in chunks {
            let bytes =
                self.chunk(id, at, offset).ok_or_else(|| PlanError::Unknown { path: path.clone() })?;
            offset = offset.saturating_add(u64::from(bytes));
        }
        if offset != *size {
            return Err(ListingError::Damaged("a file whose chunks have another length").into());
        }
        self.plan.bytes = self.plan.bytes.saturating_add(*size);
        let chunks = chunks.len() as u32;
        // Where the chunks go is known now; a million names need not stay in memory.
        let entry = Entry { content: Content::File { size: *size, chunks: Vec::new() }, ..entry };
        self.plan.files.push(PlannedFile { path, entry, chunks });
        Ok(at)
    }

    /// Adds a place where a chunk goes; returns its length.
    fn chunk(&mut self, id: &ChunkId, file: u32, offset: u64) -> Option<u32> {
        if let Some((shard, chunk)) = self.chunks.get(id) {
            let (chunk, targets) = self.plan.shards.get_mut(*shard)?.chunks.get_mut(*chunk)?;
            targets.push((file, offset));
            return Some(chunk.plain_bytes);
        }
        let found = self.index.get(id)?;
        let plan = &mut self.plan;
        let shard = *self.at.entry(found.shard.address).or_insert_with(|| {
            plan.shards.push(Wanted::of(self.index, &found));
            plan.shards.len() - 1
        });
        let wanted = plan.shards.get_mut(shard)?;
        self.chunks.insert(*id, (shard, wanted.chunks.len()));
        wanted.chunks.push((found.chunk.clone(), vec![(file, offset)]));
        Some(found.chunk.plain_bytes)
    }
}

/// What two listings differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// In both, with another content.
    Changed,
    /// In both, with the same content and other attributes.
    Attributes,
}

/// Reads two listings side by side and tells each difference.
///
/// # Errors
/// [`ListingError`].
pub fn diff<A: Read, B: Read>(
    mut old: ListingReader<A>,
    mut new: ListingReader<B>,
    mut tell: impl FnMut(Change, &[Vec<u8>], Option<&Entry>, Option<&Entry>),
) -> Result<BTreeMap<&'static str, u64>, ListingError> {
    let (mut a, mut b) = (old.next_entry()?, new.next_entry()?);
    let mut counts = BTreeMap::new();
    let mut count = |what| *counts.entry(what).or_insert(0) += 1;
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(counts),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(_), Some(_)) => tree::order(old.path(), new.path()),
        };
        if order.is_lt() {
            count("removed");
            tell(Change::Removed, old.path(), a.as_ref(), None);
            a = old.next_entry()?;
            continue;
        }
        if order.is_gt() {
            count("added");
            tell(Change::Added, new.path(), None, b.as_ref());
            b = new.next_entry()?;
            continue;
        }
        if let (Some(x), Some(y)) = (&a, &b) {
            let kind = |e: &Entry| (e.mode, e.uid, e.gid, e.mtime_ns);
            // A hard link's number moves with every file before it.
            let same = match (&x.content, &y.content) {
                (Content::HardLink(_), Content::HardLink(_)) => true,
                (x, y) => x == y,
            };
            if !same {
                count("changed");
                tell(Change::Changed, new.path(), Some(x), Some(y));
            } else if kind(x) != kind(y) || x.xattrs != y.xattrs {
                count("attributes");
                tell(Change::Attributes, new.path(), Some(x), Some(y));
            }
        }
        a = old.next_entry()?;
        b = new.next_entry()?;
    }
}
