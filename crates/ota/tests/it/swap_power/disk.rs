//! A file system in memory that loses power.
//!
//! It counts every change. At the n-th the power is gone: a write is torn after half of its bytes, anything
//! else does not happen. Of the writes to a file since its last sync all, none or every other one reached the disk.
//! Names go through a journal, as on ext4, xfs or f2fs: of the changes since a folder's last sync all, none or
//! the first half are there, never a later one without an earlier one.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use ioex_ota::install::{Entry, Files, Kind, Medium};

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cache {
    Kept,
    Lost,
    Half,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    /// Now, and on the disk.
    mode: [u32; 2],
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    link: PathBuf,
}

impl Node {
    fn new(kind: Kind, link: PathBuf) -> Self {
        let mode = if kind == Kind::File { 0o644 } else { 0o755 };
        Self { kind, mode: [mode; 2], durable: Vec::new(), pending: Vec::new(), link }
    }

    fn seen(&self) -> Vec<u8> {
        let mut seen = self.durable.clone();
        self.pending.iter().for_each(|write| apply(&mut seen, write));
        seen
    }
}

fn apply(to: &mut Vec<u8>, (offset, bytes): &(usize, Vec<u8>)) {
    to.resize(to.len().max(offset + bytes.len()), 0);
    to[*offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A folder and a name in it.
type Place = (u64, OsString);
/// Entries that change together: what each place has afterwards.
type Change = Vec<(Place, Option<u64>)>;
type Names = BTreeMap<Place, u64>;

#[derive(Debug, Default)]
struct World {
    nodes: BTreeMap<u64, Node>,
    now: Names,
    durable: Names,
    journal: Vec<Change>,
    /// Changes until the power fails; `None` never does.
    left: Option<usize>,
    used: usize,
}

const ROOT: u64 = 1;

fn no_power() -> io::Error {
    io::Error::other("no power")
}

fn absent() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn commit(names: &mut Names, change: &Change) {
    for (place, inode) in change {
        match inode {
            Some(inode) => drop(names.insert(place.clone(), *inode)),
            None => drop(names.remove(place)),
        }
    }
}

impl World {
    /// True when the power fails just now.
    fn fails(&mut self) -> io::Result<bool> {
        self.used += 1;
        match &mut self.left {
            None => Ok(false),
            Some(0) => Err(no_power()),
            Some(left) => {
                *left -= 1;
                Ok(*left == 0)
            }
        }
    }

    fn powered(&mut self) -> io::Result<()> {
        if self.fails()? { Err(no_power()) } else { Ok(()) }
    }

    fn find(&self, path: &Path) -> Option<u64> {
        path.iter().skip(1).try_fold(ROOT, |folder, name| self.now.get(&(folder, name.to_owned())).copied())
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        self.find(path).ok_or_else(absent)
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let parent = self.inode(path.parent().unwrap())?;
        Ok((parent, path.file_name().unwrap().to_owned()))
    }

    fn names(&self, folder: u64) -> Vec<OsString> {
        self.now.keys().filter(|place| place.0 == folder).map(|place| place.1.clone()).collect()
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.powered()?;
        commit(&mut self.now, &change);
        self.journal.push(change);
        Ok(())
    }

    fn make(&mut self, path: &Path, kind: Kind, link: PathBuf) -> io::Result<u64> {
        let place = self.place(path)?;
        let inode = self.nodes.keys().last().map_or(ROOT, |last| *last) + 1;
        self.change(vec![(place, Some(inode))])?;
        self.nodes.insert(inode, Node::new(kind, link));
        Ok(inode)
    }

    fn remove(&mut self, place: Place) -> io::Result<()> {
        let inode = *self.now.get(&place).ok_or_else(absent)?;
        for name in self.names(inode) {
            self.remove((inode, name))?;
        }
        self.change(vec![(place, None)])
    }
}

/// The disk and its power supply.
#[derive(Clone, Debug)]
pub(super) struct Disk(Rc<RefCell<World>>);

impl Disk {
    pub(super) fn new() -> Self {
        let world = World::default();
        let disk = Self(Rc::new(RefCell::new(world)));
        disk.0.borrow_mut().nodes.insert(ROOT, Node::new(Kind::Folder, PathBuf::new()));
        disk
    }

    /// How many changes there were since the last call.
    pub(super) fn used(&self) -> usize {
        std::mem::take(&mut self.0.borrow_mut().used)
    }

    pub(super) fn cut_at(&self, change: usize) {
        self.0.borrow_mut().left = Some(change);
    }

    pub(super) fn power_returns(&self, cache: Cache) {
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        world.left = None;
        let kept = match cache {
            Cache::Kept => world.journal.len(),
            Cache::Lost => 0,
            Cache::Half => world.journal.len() / 2,
        };
        for change in &world.journal[..kept] {
            commit(&mut world.durable, change);
        }
        world.journal.clear();
        world.now = world.durable.clone();
        for node in world.nodes.values_mut() {
            for (n, write) in std::mem::take(&mut node.pending).iter().enumerate() {
                if cache == Cache::Kept || cache == Cache::Half && n % 2 == 1 {
                    apply(&mut node.durable, write);
                }
            }
            if cache == Cache::Kept { node.mode[1] = node.mode[0] } else { node.mode[0] = node.mode[1] }
        }
    }

    pub(super) fn link(&self, path: &Path, to: &Path) -> io::Result<()> {
        self.0.borrow_mut().make(path, Kind::Link, to.to_owned()).map(drop)
    }

    /// Everything so far is on the disk.
    pub(super) fn settle(&self) {
        self.power_returns(Cache::Kept);
    }

    /// What lies below a path: its names with their modes and contents.
    pub(super) fn tree(&self, path: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut all = BTreeMap::new();
        let Some(entry) = self.look(path).unwrap() else { return all };
        let content = self.0.borrow().nodes[&entry.inode].seen();
        all.insert(PathBuf::new(), (entry.mode, content));
        for name in self.names(path).unwrap() {
            for (below, what) in self.tree(&path.join(&name)) {
                all.insert(Path::new(&name).join(below), what);
            }
        }
        all
    }
}

/// An opened file.
#[derive(Debug)]
pub(super) struct Opened(Disk, u64);

impl Opened {
    fn seen(&self) -> Vec<u8> {
        self.0.0.borrow().nodes[&self.1].seen()
    }
}

impl Medium for Opened {
    fn capacity(&self) -> io::Result<u64> {
        Ok(self.seen().len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let (seen, offset) = (self.seen(), usize::try_from(offset).unwrap());
        let from = seen.get(offset..offset + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.0.0.borrow_mut();
        let fails = world.fails()?;
        let written = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        let write = (usize::try_from(offset).unwrap(), written.to_vec());
        world.nodes.get_mut(&self.1).unwrap().pending.push(write);
        if fails { Err(no_power()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut world = self.0.0.borrow_mut();
        world.powered()?;
        let node = world.nodes.get_mut(&self.1).unwrap();
        for write in std::mem::take(&mut node.pending) {
            apply(&mut node.durable, &write);
        }
        node.mode[1] = node.mode[0];
        Ok(())
    }
}

impl Files for Disk {
    type Medium = Opened;

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let mut folders: Vec<&Path> = path.ancestors().collect();
        folders.reverse();
        for folder in folders {
            if world.find(folder).is_none() {
                world.make(folder, Kind::Folder, PathBuf::new())?;
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path, length: u64) -> io::Result<Opened> {
        let mut world = self.0.borrow_mut();
        let inode = match world.find(path) {
            Some(inode) => inode,
            None => world.make(path, Kind::File, PathBuf::new())?,
        };
        drop(world);
        let mut opened = Opened(self.clone(), inode);
        let has = opened.capacity()?;
        if has < length {
            opened.write_at(has, &vec![0; usize::try_from(length - has).unwrap()])?;
            opened.sync()?;
        }
        Ok(opened)
    }

    fn open(&self, path: &Path, _writes: bool) -> io::Result<Opened> {
        Ok(Opened(self.clone(), self.0.borrow().inode(path)?))
    }

    fn look(&self, path: &Path) -> io::Result<Option<Entry>> {
        let world = self.0.borrow();
        Ok(world.find(path).map(|inode| {
            let node = &world.nodes[&inode];
            Entry { kind: node.kind, bytes: node.seen().len() as u64, inode, mode: node.mode[0] }
        }))
    }

    fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let world = self.0.borrow();
        Ok(world.names(world.inode(path)?))
    }

    fn link_target(&self, path: &Path) -> io::Result<PathBuf> {
        let world = self.0.borrow();
        Ok(world.nodes[&world.inode(path)?].link.clone())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let inode = world.inode(from)?;
        if world.find(to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let change = vec![(world.place(from)?, None), (world.place(to)?, Some(inode))];
        world.change(change)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let (a, b) = (world.inode(one)?, world.inode(other)?);
        let change = vec![(world.place(one)?, Some(b)), (world.place(other)?, Some(a))];
        world.change(change)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let place = world.place(path)?;
        world.remove(place)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        world.powered()?;
        let inode = world.inode(path)?;
        world.nodes.get_mut(&inode).unwrap().mode[0] = mode;
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        world.powered()?;
        let folder = world.inode(path)?;
        let touches = |change: &Change| change.iter().any(|(place, _)| place.0 == folder);
        let upto = world.journal.iter().rposition(touches).map_or(0, |last| last + 1);
        for change in world.journal.drain(..upto) {
            commit(&mut world.durable, &change);
        }
        let node = world.nodes.get_mut(&folder).unwrap();
        node.mode[1] = node.mode[0];
        Ok(())
    }
}
