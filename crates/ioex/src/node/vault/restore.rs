//! Restoring from a restore point: into a folder, or one file through a pipe.

use std::{
    collections::{HashMap, VecDeque},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ioex_api::{
    ApiError, BackupProgress, BackupStep, ErrorCode, Sink, Update,
    frames::FrameWriter,
    vault::{RestoreTree, TreeRestored},
};
use ioex_base::ContentAddress;
use ioex_vault::{
    ChunkId,
    repo::{
        ChunkReader, TreeError, TreeWriter,
        plan::{Plan, PlanError, Selection},
        text,
        tree::{self, Content, ListingError, ListingReader},
    },
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    super::Node,
    failure::{fail, internal, io_error},
    fetch::{Fetcher, is_whole},
    pipe::{PipeFile, open_writer},
    points::{self, Opened, open_listing},
};

/// A restore to the same folder that is still there after so long is not ending. One that was stopped brings to
/// the disk what it had; then the folder is free.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);
/// Shards fetched at once.
const SHARDS_AT_ONCE: usize = 6;
/// Fetched shards that are kept for what comes next in a stream.
const STREAM_CACHE: usize = 12;
/// Shards of a stream that are fetched ahead.
const STREAM_AHEAD: usize = 4;

pub(super) fn plan_error(e: PlanError) -> ApiError {
    let code = match &e {
        PlanError::NoSuchPath { .. } => ErrorCode::NotFound,
        _ => ErrorCode::Manifest,
    };
    fail(code, e.to_string())
}

fn tree_error(e: TreeError) -> ApiError {
    let code = match &e {
        TreeError::Exists(_) => ErrorCode::Exists,
        TreeError::InUse(_) => ErrorCode::Refused,
        TreeError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            ErrorCode::NoSpace
        }
        TreeError::Io { .. } => ErrorCode::Io,
        TreeError::Chunk { .. } | TreeError::Content { .. } => ErrorCode::Manifest,
    };
    fail(code, e.to_string())
}

async fn tell(sink: &Sink, step: BackupStep, done_bytes: u64, total_bytes: u64) {
    let progress = BackupProgress { step, done_bytes, total_bytes, note: None, holder: None };
    let _ = sink.update(Update::Backup(progress)).await;
}

/// See [`ioex_api::vault::VaultRequest::Restore`].
pub(super) async fn run(node: &Node, wish: RestoreTree, sink: &Sink) -> Result<TreeRestored, ApiError> {
    let started = Instant::now();
    let _pipe = wish.pipe.clone().map(PipeFile);
    if wish.pipe.is_none() && wish.out.symlink_metadata().is_ok() {
        let text = format!("{} exists already: choose another name", wish.out.display());
        return Err(fail(ErrorCode::Exists, text));
    }
    tell(sink, BackupStep::Locate, 0, 0).await;
    let repo = node.vault.repo()?;
    let opened = repo.open_point(node, &wish.point, &wish.of).await?;
    points::warn_of_end(&opened, sink).await;
    let opened = Arc::new(opened);
    let (looked_into, typed) = (opened.clone(), wish.paths.clone());
    let naming = tokio::task::spawn_blocking(move || looked_into.relative(&typed));
    let paths: Vec<PathBuf> = naming.await.map_err(internal)??;
    let selection = Selection::of(&paths);
    let plan = {
        let opened = opened.clone();
        let planning = move || Plan::new(|| open_listing(&opened.listing), &selection, &opened.index);
        tokio::task::spawn_blocking(planning).await.map_err(internal)?.map_err(plan_error)?
    };
    let (files, bytes) = (plan.files.len() as u64 + plan.hard_links.len() as u64, plan.bytes);
    let fetched_bytes = match &wish.pipe {
        Some(pipe) => stream(&repo.keys, &opened, plan, &paths, pipe, sink).await?,
        None => into_folder(&repo.keys, &opened, plan, &wish, sink).await?,
    };
    Ok(TreeRestored {
        point: opened.described(),
        path: wish.pipe.is_none().then_some(wish.out),
        files,
        bytes,
        fetched_bytes,
        rebuilt_shards: opened.fetcher.rebuilt(),
        holders: opened.fetcher.holdings(),
        failed: opened.fetcher.failed(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

async fn into_folder(
    keys: &ioex_vault::repo::RepoKeys,
    opened: &Opened,
    plan: Plan,
    wish: &RestoreTree,
    sink: &Sink,
) -> Result<u64, ApiError> {
    let total = plan.fetch_bytes();
    let writer = {
        let (keys, out) = (keys.clone(), wish.out.clone());
        let begin = move || TreeWriter::open(plan, &keys, &out, ENDING_PATIENCE);
        Arc::new(tokio::task::spawn_blocking(begin).await.map_err(internal)?.map_err(tree_error)?)
    };
    let kept = Keep(Some(writer));
    let fetched = match &kept.0 {
        Some(writer) => fetch_all(&opened.fetcher, writer, wish.rate_limit, total, sink).await,
        None => Ok(0),
    };
    let bytes = match fetched {
        Ok(bytes) => bytes,
        Err(e) => {
            kept.pause().await;
            return Err(e);
        }
    };
    let writer = kept.done().ok_or_else(|| internal("a restore without a folder"))?;
    let writer = Arc::try_unwrap(writer).map_err(|_| internal("a shard is still being written"))?;
    let out = wish.out.clone();
    let ended = tokio::task::spawn_blocking(move || writer.finish(&out).map(|()| bytes).map_err(tree_error));
    tell(sink, BackupStep::Join, total, total).await;
    ended.await.map_err(internal)?
}

/// Keeps what came when a restore ends early: by an error, or because its client left.
struct Keep(Option<Arc<TreeWriter>>);

impl Keep {
    fn done(mut self) -> Option<Arc<TreeWriter>> {
        self.0.take()
    }

    /// Keeps it before this returns, so that the next try finds the folder free.
    async fn pause(mut self) {
        if let Some(writer) = self.0.take() {
            let _ = tokio::task::spawn_blocking(move || keep(&writer)).await;
        }
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        // Writing to the disk may take long: not here. A try that comes meanwhile is told to wait.
        if let (Some(writer), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || keep(&writer));
        }
    }
}

fn keep(writer: &TreeWriter) {
    if let Err(e) = writer.pause() {
        tracing::warn!("what a restore had fetched could not be kept: {e}");
    }
}

async fn fetch_all(
    fetcher: &Fetcher,
    writer: &Arc<TreeWriter>,
    rate_limit: u64,
    total: u64,
    sink: &Sink,
) -> Result<u64, ApiError> {
    let missing = writer.missing();
    let size = |at: &u32| -> u64 {
        let wanted = writer.plan().shards.get(*at as usize);
        wanted.map_or(0, |w| w.ranges().iter().map(|(_, len)| u64::from(*len)).sum())
    };
    let mut done = total.saturating_sub(missing.iter().map(size).sum());
    let (mut fetched, mut began) = (0, 0);
    let mut waiting = missing.into_iter();
    let mut running = JoinSet::new();
    let clock = tokio::time::Instant::now();
    loop {
        while running.len() < SHARDS_AT_ONCE {
            let Some(at) = waiting.next() else { break };
            // With a limit, a shard begins when the ones before it are due.
            let due =
                (rate_limit > 0).then(|| clock + Duration::from_secs_f64(began as f64 / rate_limit as f64));
            began += size(&at);
            let (fetcher, writer) = (fetcher.clone(), writer.clone());
            running.spawn(async move {
                if let Some(due) = due {
                    tokio::time::sleep_until(due).await;
                }
                let Some(wanted) = writer.plan().shards.get(at as usize) else { return Ok(0) };
                let parts = fetcher.wanted(wanted).await?;
                let bytes: u64 = parts.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                let (own, whole) = (writer.clone(), is_whole(wanted, &parts));
                let writing = tokio::task::spawn_blocking(move || own.accept(at, &parts));
                match writing.await.map_err(internal)? {
                    // Ranges are not verified as they come. A whole shard is.
                    Err(TreeError::Chunk { .. } | TreeError::Content { .. }) if !whole => {
                        let (own, parts) = (writer.clone(), vec![(0, fetcher.whole(wanted).await?)]);
                        let writing = tokio::task::spawn_blocking(move || own.accept(at, &parts));
                        writing.await.map_err(internal)?.map_err(tree_error)?;
                    }
                    other => other.map_err(tree_error)?,
                }
                Ok::<u64, ApiError>(bytes)
            });
        }
        let Some(ended) = running.join_next().await else { return Ok(fetched) };
        match ended.map_err(internal)? {
            Ok(bytes) => {
                (fetched, done) = (fetched + bytes, done + bytes);
                tell(sink, BackupStep::Fetch, done, total.max(done)).await;
            }
            Err(e) => {
                running.shutdown().await;
                return Err(e);
            }
        }
    }
}

/// The chunks of the only file that is wanted. `listing` opens the listing from its start.
fn only_file<R: Read>(
    listing: impl Fn() -> Result<ListingReader<R>, ApiError>,
    paths: &[PathBuf],
) -> Result<Vec<ChunkId>, ApiError> {
    let bad = |text: String| fail(ErrorCode::BadRequest, text);
    let several = || bad("only one file can be written to a stream: name it with --path".into());
    let wanted: Vec<Vec<Vec<u8>>> = paths.iter().map(|p| tree::split(p)).collect();
    let mut reader = listing()?;
    let mut found = None;
    while let Some(entry) = reader.next_entry().map_err(listing_error)? {
        let is_wanted = match wanted.as_slice() {
            [] => entry.content != Content::Dir,
            wanted => wanted.iter().any(|w| reader.path() == w.as_slice()),
        };
        if is_wanted && found.replace((tree::join(reader.path()), entry.content)).is_some() {
            return Err(several());
        }
    }
    let (path, content) = found.ok_or_else(several)?;
    match content {
        Content::File { chunks, .. } => Ok(chunks),
        // A further name of a file: its content stands at the first one.
        Content::HardLink(first) => match nth(listing()?, first)? {
            Some(Content::File { chunks, .. }) => Ok(chunks),
            _ => Err(fail(ErrorCode::Manifest, "a listing is damaged: a link to something that is no file")),
        },
        Content::Dir => {
            Err(bad(format!("{} is a folder: only a file can be written to a stream", shown(&path))))
        }
        Content::Symlink(to) => Err(bad(format!(
            "{} is a symbolic link to {}: only a file can be written to a stream",
            shown(&path),
            text::shown(&to)
        ))),
    }
}

fn shown(path: &Path) -> std::borrow::Cow<'_, str> {
    text::shown(path.as_os_str().as_encoded_bytes())
}

fn listing_error(e: ListingError) -> ApiError {
    fail(ErrorCode::Manifest, e.to_string())
}

/// What the entry with this number is.
fn nth<R: Read>(mut reader: ListingReader<R>, number: u64) -> Result<Option<Content>, ApiError> {
    for _ in 0..number {
        reader.next_entry().map_err(listing_error)?;
    }
    Ok(reader.next_entry().map_err(listing_error)?.map(|entry| entry.content))
}

async fn stream(
    keys: &ioex_vault::repo::RepoKeys,
    opened: &Opened,
    plan: Plan,
    paths: &[PathBuf],
    pipe: &Path,
    sink: &Sink,
) -> Result<u64, ApiError> {
    let open = || {
        let listing = open_listing(&opened.listing).map_err(io_error(&opened.listing))?;
        Ok(ListingReader::new(listing))
    };
    let chunks = only_file(open, paths)?;
    let total = plan.bytes;
    let (send, mut queue) = mpsc::channel::<Vec<u8>>(2);
    let path = pipe.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = FrameWriter::new(open_writer(&path)?);
        while let Some(bytes) = queue.blocking_recv() {
            if bytes.is_empty() {
                return out.finish();
            }
            out.write(&bytes)?;
        }
        // Dropped without its end: the reader sees a break.
        Ok(())
    });
    let mut source = StreamSource::new(opened, plan, keys)?;
    let mut done = 0;
    for id in &chunks {
        let plain = source.chunk(id).await?;
        done += plain.len() as u64;
        if send.send(plain).await.is_err() {
            break;
        }
        tell(sink, BackupStep::Fetch, done, total).await;
    }
    let _ = send.send(Vec::new()).await;
    writing.await.map_err(internal)?.map_err(io_error(pipe))?;
    Ok(source.fetched)
}

type Parts = Vec<(u32, Vec<u8>)>;

/// Chunks in the order of a file; the shards that come next are fetched ahead.
struct StreamSource<'o> {
    opened: &'o Opened,
    plan: Plan,
    at: HashMap<ContentAddress, usize>,
    reader: ChunkReader,
    cache: VecDeque<(ContentAddress, Parts)>,
    ahead: VecDeque<(ContentAddress, tokio::task::JoinHandle<Result<Parts, ApiError>>)>,
    next: usize,
    fetched: u64,
}

impl<'o> StreamSource<'o> {
    fn new(opened: &'o Opened, plan: Plan, keys: &ioex_vault::repo::RepoKeys) -> Result<Self, ApiError> {
        let at = plan.shards.iter().enumerate().map(|(at, w)| (w.shard.address, at)).collect();
        let reader = ChunkReader::new(keys).map_err(internal)?;
        let (cache, ahead) = (VecDeque::new(), VecDeque::new());
        Ok(Self { opened, plan, at, reader, cache, ahead, next: 0, fetched: 0 })
    }

    fn fetch_ahead(&mut self) {
        while self.ahead.len() < STREAM_AHEAD {
            let Some(wanted) = self.plan.shards.get(self.next).cloned() else { return };
            self.next += 1;
            let fetcher = self.opened.fetcher.clone();
            let address = wanted.shard.address;
            self.ahead.push_back((address, tokio::spawn(async move { fetcher.wanted(&wanted).await })));
        }
    }

    async fn load(&mut self, address: ContentAddress) -> Result<(), ApiError> {
        if self.cache.iter().any(|(known, _)| *known == address) {
            return Ok(());
        }
        self.fetch_ahead();
        let parts = match self.ahead.iter().position(|(of, _)| *of == address) {
            Some(place) => match self.ahead.remove(place) {
                Some((_, running)) => running.await.map_err(internal)??,
                None => return Err(internal("a shard vanished")),
            },
            // It was here and had to make room.
            None => {
                let wanted = self.at.get(&address).and_then(|at| self.plan.shards.get(*at));
                let wanted = wanted.ok_or_else(|| internal("a shard that no plan wants"))?;
                self.opened.fetcher.wanted(wanted).await?
            }
        };
        self.fetched += parts.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        self.cache.push_back((address, parts));
        if self.cache.len() > STREAM_CACHE {
            self.cache.pop_front();
        }
        Ok(())
    }

    async fn chunk(&mut self, id: &ChunkId) -> Result<Vec<u8>, ApiError> {
        let damaged = |text: String| fail(ErrorCode::Manifest, text);
        let found = self.opened.index.get(id).ok_or_else(|| damaged("the index lacks a part".into()))?;
        let (chunk, address) = (found.chunk.clone(), found.shard.address);
        self.load(address).await?;
        let parts = self.cache.iter().find(|(known, _)| *known == address).map(|(_, parts)| parts);
        let wanted = self.at.get(&address).and_then(|at| self.plan.shards.get(*at));
        let (parts, wanted) = parts.zip(wanted).ok_or_else(|| internal("a shard that no plan wants"))?;
        let read = match self.reader.read(&chunk, parts) {
            Err(_) if !is_whole(wanted, parts) => {
                let whole = vec![(0, self.opened.fetcher.whole(wanted).await?)];
                let read = self.reader.read(&chunk, &whole);
                // What else is wanted of it is as wrong.
                self.cache.retain(|(known, _)| *known != address);
                self.cache.push_back((address, whole));
                read
            }
            read => read,
        };
        read.map_err(|e| damaged(e.to_string()))
    }
}

impl Drop for StreamSource<'_> {
    fn drop(&mut self) {
        self.ahead.iter().for_each(|(_, running)| running.abort());
    }
}

#[cfg(test)]
mod tests {
    use ioex_vault::repo::tree::{Entry, ListingWriter};

    use super::*;

    fn listing(entries: &[(u32, &str, Content)]) -> Vec<u8> {
        let mut out = ListingWriter::new(Vec::new());
        for (depth, name, content) in entries {
            let entry = Entry {
                depth: *depth,
                name: name.as_bytes().to_vec(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime_ns: 0,
                ctime_ns: 0,
                inode: 0,
                content: content.clone(),
                xattrs: Vec::new(),
            };
            out.push(&entry).unwrap();
        }
        out.finish().unwrap()
    }

    #[test]
    fn one_file_is_found_under_each_of_its_names_and_nothing_else_is_taken_for_one() {
        let file = |n: u8| Content::File { size: 1, chunks: vec![ChunkId([n; 16])] };
        let bytes = listing(&[
            (0, "t", Content::Dir),
            (1, "-dash", file(1)),
            (1, "first", file(2)),
            (1, "link", Content::Symlink(b"first".to_vec())),
            (1, "second", Content::HardLink(2)),
        ]);
        let ask = |bytes: &Vec<u8>, paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            only_file(|| Ok(ListingReader::new(bytes.as_slice())), &paths).map_err(|e| e.message)
        };
        assert_eq!(ask(&bytes, &["t/-dash"]), Ok(vec![ChunkId([1; 16])]));
        assert_eq!(ask(&bytes, &["t/first"]), Ok(vec![ChunkId([2; 16])]));
        assert_eq!(ask(&bytes, &["t/second"]), Ok(vec![ChunkId([2; 16])]), "the second name");
        for paths in [&["t/-dash", "t/link"][..], &["t/-dash", "t/second"], &["t/first", "t/second"], &[]] {
            assert!(ask(&bytes, paths).unwrap_err().contains("only one file"), "{paths:?}");
        }
        assert!(ask(&bytes, &["t"]).unwrap_err().contains("t is a folder"));
        assert!(ask(&bytes, &["t/link"]).unwrap_err().contains("a symbolic link to first"));
        assert_eq!(ask(&listing(&[(0, "dump", file(3))]), &[]), Ok(vec![ChunkId([3; 16])]));
    }
}
