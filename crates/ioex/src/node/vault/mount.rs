//! All restore points as folders of a read-only file system (FUSE).
//!
//! A restore point's listing is loaded when somebody first looks into its folder, its content chunk
//! by chunk as it is read. Chunks are kept for a while, because programs read a little at a time.
//!
//! Which restore points there are changes meanwhile. What this node makes or forgets shows at the next look; for
//! what other machines did, the network is asked now and then, as long as somebody looks. A restore point keeps
//! its place, and so its inodes, as long as the mount lasts, also when it is forgotten.

mod shown;

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyXattr, Request,
};
use ioex_api::{ApiError, BackupProgress, BackupStep, Empty, ErrorCode, Sink, Update, vault::PointFilter};
use ioex_base::UnixSeconds;
use ioex_net::Mesh;
use ioex_vault::{
    ChunkId,
    repo::{
        ChunkReader,
        plan::Plan,
        tree::{Content, Entry, ListingReader},
    },
};

use self::shown::{Folder, Shown};
use super::{
    super::Node,
    failure::{fail, internal, io_error},
    points::{Opened, open_listing},
};
use crate::node::lock;

/// Threads that answer the kernel: reads wait for the network.
const THREADS: usize = 4;
/// Decrypted chunks that are kept: at most 1 MiB each.
const CHUNKS_KEPT: usize = 48;
/// Nothing in a restore point ever changes, so the kernel may remember it.
const TTL: Duration = Duration::from_secs(3_600);
/// The restore points themselves come and go.
const POINTS_TTL: Duration = Duration::from_secs(1);
/// A restore point's inodes begin at its number, counted from 1, times this.
const INODES_PER_POINT: u64 = 1 << 32;

/// An entry in memory.
struct Node0 {
    entry: Option<Entry>,
    parent: u32,
    children: Vec<u32>,
}

/// A restore point that somebody looks into.
struct Tree {
    opened: Opened,
    /// The first one is the restore point's own folder.
    nodes: Vec<Node0>,
    /// Files with several names, and how many further ones they have.
    further_names: HashMap<u32, u32>,
}

struct OpenFile {
    tree: Arc<Tree>,
    /// Where each chunk begins, in order.
    chunks: Vec<(u64, ChunkId)>,
}

type Chunks = VecDeque<(ChunkId, Arc<Vec<u8>>)>;

struct Points {
    runtime: tokio::runtime::Handle,
    mesh: Mesh,
    shown: Arc<Shown>,
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    chunks: Mutex<Chunks>,
}

/// See [`ioex_api::vault::VaultRequest::Mount`].
pub(super) async fn run(node: &Node, dir: &Path, of: &PointFilter, sink: &Sink) -> Result<Empty, ApiError> {
    let meta = std::fs::metadata(dir).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotConnected => left_over(dir),
        _ => io_error(dir)(e),
    })?;
    let empty = meta.is_dir() && std::fs::read_dir(dir).map_err(io_error(dir))?.next().is_none();
    if !empty {
        let text = format!("{} is no empty folder: choose another one", dir.display());
        return Err(fail(ErrorCode::BadRequest, text));
    }
    let repo = node.vault.repo()?;
    let shown = Arc::new(Shown::new(repo, of.clone()));
    shown.hear(&shown.repo.newest_head(node).await?.head);
    let points = Points {
        runtime: tokio::runtime::Handle::current(),
        mesh: node.mesh.clone(),
        shown: shown.clone(),
        files: Mutex::default(),
        chunks: Mutex::default(),
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("ioex".into()),
        MountOption::Subtype("ioex".into()),
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let target = dir.to_owned();
    let mounting = tokio::task::spawn_blocking(move || fuser::spawn_mount(points, target, &config));
    // Dropped with this future, which ends when the client goes: then it is unmounted.
    let session: BackgroundSession = mounting.await.map_err(internal)?.map_err(|e| {
        fail(
            ErrorCode::Io,
            format!("{} cannot be mounted: {e}; it needs /dev/fuse and fusermount3, or root", dir.display()),
        )
    })?;
    // From now on there is something to see.
    let note = Some(format!("restore points are shown in {}", dir.display()));
    let progress =
        BackupProgress { step: BackupStep::Locate, done_bytes: 0, total_bytes: 0, note, holder: None };
    let _ = sink.update(Update::Backup(progress)).await;
    tokio::select! {
        () = sink.closed() => {}
        () = node.stop.cancelled() => {}
        () = shown.hear_of_others(node) => {}
    }
    let place = dir.to_owned();
    let ended = tokio::task::spawn_blocking(move || match session.umount_and_join() {
        // Somebody is in there: nobody else gets in, and it goes when they do.
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => detach(&place),
        ended => ended,
    });
    ended.await.map_err(internal)?.map_err(io_error(dir))?;
    Ok(Empty {})
}

/// Takes a mount away that is in use.
fn detach(dir: &Path) -> std::io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH)?);
    }
    let status = std::process::Command::new("fusermount3").arg("-uz").arg("--").arg(dir).status()?;
    if status.success() { Ok(()) } else { Err(std::io::ErrorKind::ResourceBusy.into()) }
}

/// What a mount leaves whose node was killed: the kernel still knows it, and nobody answers.
fn left_over(dir: &Path) -> ApiError {
    let dir = dir.display();
    fail(
        ErrorCode::Io,
        format!(
            "{dir} is still mounted by a node that was killed: end that first with `umount {dir}`, or as another \
             user than root with `fusermount3 -u {dir}`"
        ),
    )
}

fn time_of(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time = if ns < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

fn load(opened: Opened) -> Result<Tree, ApiError> {
    let listing = open_listing(&opened.listing).map_err(io_error(&opened.listing))?;
    let mut reader = ListingReader::new(listing);
    let mut nodes = vec![Node0 { entry: None, parent: 0, children: Vec::new() }];
    let (mut folders, mut further_names) = (vec![0u32], HashMap::new());
    while let Some(entry) = reader.next_entry().map_err(|e| fail(ErrorCode::Manifest, e.to_string()))? {
        let at = nodes.len() as u32;
        folders.truncate(entry.depth as usize + 1);
        let parent = folders.last().copied().unwrap_or(0);
        folders.push(at);
        if let Some(folder) = nodes.get_mut(parent as usize) {
            folder.children.push(at);
        }
        if let Content::HardLink(first) = entry.content {
            *further_names.entry(numbered(first)).or_default() += 1;
        }
        nodes.push(Node0 { entry: Some(entry), parent, children: Vec::new() });
    }
    Ok(Tree { opened, nodes, further_names })
}

/// The number here of a listing's entry: there they are counted from 0, here the folder comes first. What
/// has no number here is no entry either.
fn numbered(entry: u64) -> u32 {
    u32::try_from(entry.saturating_add(1)).unwrap_or(u32::MAX)
}

impl Tree {
    fn content(&self, at: u32) -> Option<&Entry> {
        self.nodes.get(at as usize)?.entry.as_ref()
    }

    /// What stands under a name: for a further name of a file, that file, so that both are seen to be one.
    fn named(&self, child: u32) -> u32 {
        match self.content(child).map(|entry| &entry.content) {
            Some(Content::HardLink(first)) => numbered(*first),
            _ => child,
        }
    }

    fn attr(&self, ino: u64, at: u32, created: UnixSeconds) -> FileAttr {
        let Some(entry) = self.content(at) else { return folder(ino, created) };
        let (kind, size) = match &entry.content {
            Content::Dir | Content::HardLink(_) => (FileType::Directory, 0),
            Content::File { size, .. } => (FileType::RegularFile, *size),
            Content::Symlink(target) => (FileType::Symlink, target.len() as u64),
        };
        let time = time_of(entry.mtime_ns);
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time_of(entry.ctime_ns),
            crtime: time,
            kind,
            perm: (entry.mode & 0o7777) as u16,
            nlink: 1 + self.further_names.get(&at).copied().unwrap_or(0),
            uid: entry.uid,
            gid: entry.gid,
            rdev: 0,
            blksize: 128 * 1024,
            flags: 0,
        }
    }
}

fn folder(ino: u64, made: UnixSeconds) -> FileAttr {
    let time = UNIX_EPOCH + Duration::from_secs(made.0.min(u64::from(u32::MAX)));
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Which restore point an inode belongs to, and which entry it is; `None` for the root.
fn split(ino: u64) -> Option<(usize, u32)> {
    let point = usize::try_from((ino / INODES_PER_POINT).checked_sub(1)?).ok()?;
    Some((point, (ino % INODES_PER_POINT) as u32))
}

fn inode(point: usize, at: u32) -> u64 {
    (point as u64 + 1) * INODES_PER_POINT + u64::from(at)
}

/// How long the kernel may remember an inode without asking.
fn ttl(ino: u64) -> Duration {
    if split(ino).is_some_and(|(_, at)| at > 0) { TTL } else { POINTS_TTL }
}

/// A restore point whose index is another one whenever it was loaded is given up after so many times.
const LOADS_MAX: usize = 3;

/// Inode, kind and name of what a folder holds.
type Row = (u64, FileType, Vec<u8>);

impl Points {
    fn tree(&self, point: usize) -> Result<Arc<Tree>, Errno> {
        self.shown.look_now_and_then();
        for _ in 0..LOADS_MAX {
            let of = self.shown.folder(point)?.point;
            if let Some(tree) = lock(&self.shown.trees).get(&point) {
                return Ok(tree.clone());
            }
            let loading = async { self.shown.repo.look_into(&self.mesh, &of).await.and_then(load) };
            let tree = self.runtime.block_on(loading).map_err(|e| {
                tracing::warn!("restore point {} cannot be shown: {e}", of.id());
                Errno::EIO
            })?;
            // A prune may have given it another index meanwhile.
            let mut trees = lock(&self.shown.trees);
            if self.shown.folder(point)?.point.root == of.root {
                return Ok(trees.entry(point).or_insert_with(|| Arc::new(tree)).clone());
            }
        }
        Err(Errno::EIO)
    }

    fn attr_of(&self, ino: u64) -> Result<FileAttr, Errno> {
        let Some((point, at)) = split(ino) else {
            let folders = lock(&self.shown.folders);
            let newest = folders.all().iter().filter(|f| !f.gone).map(|f| f.point.created).max();
            return Ok(folder(1, newest.unwrap_or(UnixSeconds(0))));
        };
        let of = self.shown.folder(point)?.point;
        if at == 0 {
            // Listing all folders must not load them all.
            return Ok(folder(ino, of.created));
        }
        Ok(self.tree(point)?.attr(ino, at, of.created))
    }

    fn find(&self, parent: u64, name: &OsStr) -> Result<FileAttr, Errno> {
        let Some((point, at)) = split(parent) else {
            self.shown.look();
            let is = |folder: &Folder| !folder.gone && OsStr::new(&folder.name) == name;
            let found = lock(&self.shown.folders).all().iter().position(is);
            return self.attr_of(inode(found.ok_or(Errno::ENOENT)?, 0));
        };
        let tree = self.tree(point)?;
        let node = tree.nodes.get(at as usize).ok_or(Errno::ENOENT)?;
        let name_of = |child: &u32| {
            tree.nodes.get(*child as usize).and_then(|n| n.entry.as_ref()).map(|e| e.name.as_slice())
        };
        let place = node.children.binary_search_by(|child| name_of(child).cmp(&Some(name.as_bytes())));
        let child = place.ok().and_then(|place| node.children.get(place)).ok_or(Errno::ENOENT)?;
        self.attr_of(inode(point, tree.named(*child)))
    }

    /// What a folder holds, each with a place in it that stays while others come and go.
    fn names(&self, ino: u64) -> Result<Vec<(u64, Row)>, Errno> {
        let Some((point, at)) = split(ino) else {
            self.shown.look();
            let row = |(place, n): (u64, &Folder)| {
                let row = (inode(place as usize, 0), FileType::Directory, n.name.clone().into_bytes());
                (!n.gone).then_some((place, row))
            };
            return Ok((0..).zip(lock(&self.shown.folders).all()).filter_map(row).collect());
        };
        let tree = self.tree(point)?;
        let node = tree.nodes.get(at as usize).ok_or(Errno::ENOENT)?;
        let row = |(place, child): (u64, &u32)| {
            let entry = tree.nodes.get(*child as usize)?.entry.as_ref()?;
            let kind = match entry.content {
                Content::Dir => FileType::Directory,
                Content::Symlink(_) => FileType::Symlink,
                Content::File { .. } | Content::HardLink(_) => FileType::RegularFile,
            };
            Some((place, (inode(point, tree.named(*child)), kind, entry.name.clone())))
        };
        Ok((0..).zip(&node.children).filter_map(row).collect())
    }

    fn parent(&self, ino: u64) -> u64 {
        let Some((point, at)) = split(ino) else { return 1 };
        if at == 0 {
            return 1;
        }
        let parent = self.tree(point).ok().and_then(|t| t.nodes.get(at as usize).map(|n| n.parent));
        parent.map_or(1, |parent| inode(point, parent))
    }

    fn file(&self, ino: u64) -> Result<Arc<OpenFile>, Errno> {
        let (point, at) = split(ino).ok_or(Errno::EISDIR)?;
        let open = lock(&self.files).get(&ino).cloned();
        let tree = match (self.tree(point), &open) {
            (Ok(tree), _) => tree,
            // Whoever began to read it may go on, also after the restore point was forgotten.
            (Err(_), Some(open)) => return Ok(open.clone()),
            (Err(e), None) => return Err(e),
        };
        // With the index that holds now: what a prune moved is not where it was.
        if let Some(file) = open.filter(|file| Arc::ptr_eq(&file.tree, &tree)) {
            return Ok(file);
        }
        let Some(Content::File { chunks, .. }) = tree.content(at).map(|e| &e.content) else {
            return Err(Errno::EISDIR);
        };
        let mut offset = 0u64;
        let mut list = Vec::with_capacity(chunks.len());
        for id in chunks {
            list.push((offset, *id));
            let found = tree.opened.index.get(id).ok_or(Errno::EIO)?;
            offset += u64::from(found.chunk.plain_bytes);
        }
        let file = Arc::new(OpenFile { tree: tree.clone(), chunks: list });
        lock(&self.files).insert(ino, file.clone());
        Ok(file)
    }

    /// Runs `answer` on the extended attributes of an entry; what is not from a backup has none.
    fn xattrs<T>(&self, ino: u64, answer: impl FnOnce(&[(Vec<u8>, Vec<u8>)]) -> T) -> Result<T, Errno> {
        let Some((point, at)) = split(ino).filter(|(_, at)| *at > 0) else { return Ok(answer(&[])) };
        let tree = self.tree(point)?;
        Ok(answer(tree.content(at).map_or(&[][..], |entry| &entry.xattrs)))
    }

    fn chunk(&self, tree: &Tree, id: &ChunkId) -> Result<Arc<Vec<u8>>, Errno> {
        if let Some((_, chunk)) = lock(&self.chunks).iter().find(|(known, _)| known == id) {
            return Ok(chunk.clone());
        }
        let index = &tree.opened.index;
        let found = index.get(id).ok_or(Errno::EIO)?;
        let wanted = Plan::single(index, &found);
        let failed = |e: &dyn std::fmt::Display| {
            tracing::warn!("a file of a restore point cannot be read: {e}");
            Errno::EIO
        };
        let mut reader = ChunkReader::new(&self.shown.repo.keys).map_err(|e| failed(&e))?;
        let reading = tree.opened.fetcher.chunk(&mut reader, &wanted);
        let plain = self.runtime.block_on(reading).map_err(|e| failed(&e))?;
        let plain = Arc::new(plain);
        let mut chunks = lock(&self.chunks);
        chunks.push_back((*id, plain.clone()));
        if chunks.len() > CHUNKS_KEPT {
            chunks.pop_front();
        }
        Ok(plain)
    }

    fn bytes(&self, ino: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(ino)?;
        let mut out = Vec::with_capacity(size as usize);
        let first = file.chunks.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        for (start, id) in file.chunks.iter().skip(first) {
            let at = offset + out.len() as u64;
            if out.len() >= size as usize || *start > at {
                break;
            }
            let plain = self.chunk(&file.tree, id)?;
            let from = usize::try_from(at - start).map_err(|_| Errno::EIO)?;
            let part = plain.get(from..).unwrap_or_default();
            let most = part.len().min(size as usize - out.len());
            out.extend_from_slice(part.get(..most).unwrap_or_default());
        }
        Ok(out)
    }
}

/// Answers with `bytes`, or with their number when that was asked for.
fn reply_sized(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match u32::try_from(bytes.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Points {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(u64::from(parent), name) {
            Ok(attr) => reply.entry(&ttl(u64::from(attr.ino)), &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr_of(u64::from(ino)) {
            Ok(attr) => reply.attr(&ttl(u64::from(ino)), &attr),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let found =
            split(u64::from(ino)).ok_or(Errno::EINVAL).and_then(|(point, at)| Ok((self.tree(point)?, at)));
        match found {
            Ok((tree, at)) => match tree.content(at).map(|e| &e.content) {
                Some(Content::Symlink(target)) => reply.data(target),
                _ => reply.error(Errno::EINVAL),
            },
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.file(u64::from(ino)) {
            // What was read once stays true.
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.bytes(u64::from(ino), offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(e),
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.xattrs(u64::from(ino), |xattrs| {
            xattrs.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| value.clone())
        });
        match value {
            Ok(Some(value)) => reply_sized(reply, size, &value),
            Ok(None) => reply.error(Errno::NO_XATTR),
            Err(e) => reply.error(e),
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = |xattrs: &[(Vec<u8>, Vec<u8>)]| -> Vec<u8> {
            xattrs.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect()
        };
        match self.xattrs(u64::from(ino), names) {
            Ok(names) => reply_sized(reply, size, &names),
            Err(e) => reply.error(e),
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.files).remove(&u64::from(ino));
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let ino = u64::from(ino);
        let names = match self.names(ino) {
            Ok(names) => names,
            Err(e) => return reply.error(e),
        };
        let own = [
            (1, (ino, FileType::Directory, b".".to_vec())),
            (2, (self.parent(ino), FileType::Directory, b"..".to_vec())),
        ];
        let rows = own.into_iter().chain(names.into_iter().map(|(place, row)| (place + 3, row)));
        for (next, (ino, kind, name)) in rows.filter(|(next, _)| *next > offset) {
            if reply.add(INodeNo(ino), next, kind, OsStr::from_bytes(&name)) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_name_points_and_entries() {
        assert_eq!(split(1), None);
        for (point, at) in [(0, 0), (0, 7), (2_399, u32::MAX)] {
            assert_eq!(split(inode(point, at)), Some((point, at)));
        }
    }
}
