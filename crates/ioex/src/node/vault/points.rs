//! Restore points: finding them, their index and their listing, and looking into them.

use std::{
    fs::File,
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
};

use ioex_api::{
    ApiError, Empty, ErrorCode, Sink, Update,
    vault::{self, Changed, DiffTotals, Listed, Point, PointList, PointQuery},
};
use ioex_base::UnixSeconds;
use ioex_net::Mesh;
use ioex_vault::repo::{
    ChunkReader, Index, ObjectRef, PointId, PointRef, Root, Segment,
    plan::{self, Change},
    tree::{self, Content, Entry, ListingReader},
};

use super::{
    super::{Node, files},
    Repo,
    failure::{fail, internal, io_error},
    fetch::Fetcher,
};

/// Folder of the listings that are kept here.
pub(super) const LISTINGS_DIR: &str = "listings";
/// Fewest characters of a restore point's name.
const ID_CHARS_MIN: usize = 4;
/// Days before its end at which a restore point's owner is warned.
const WARN_DAYS: [u64; 3] = [14, 7, 1];

/// Numbers listings that are being fetched, so that two of one restore point do not meet.
static NEW: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

pub(super) fn totals(t: &ioex_vault::repo::Totals) -> vault::Totals {
    vault::Totals {
        files: t.files,
        dirs: t.dirs,
        links: t.links,
        bytes: t.bytes,
        new_bytes: t.new_bytes,
        stored_bytes: t.stored_bytes,
        read_files: t.read_files,
    }
}

pub(super) fn point(p: &PointRef) -> Point {
    Point {
        id: p.id().to_string(),
        created: p.created,
        expires: p.expires,
        label: p.label.clone(),
        totals: totals(&p.totals),
    }
}

fn damaged(e: impl std::fmt::Display) -> ApiError {
    fail(ErrorCode::Manifest, e.to_string())
}

/// The restore point that a query names.
pub(super) fn select<'p>(points: &'p [PointRef], query: &PointQuery) -> Result<&'p PointRef, ApiError> {
    let none = |text: String| fail(ErrorCode::NotFound, text);
    match query {
        PointQuery::Latest => points.last().ok_or_else(|| {
            none("this repository has no restore points: `ioex backup create` makes one".into())
        }),
        PointQuery::At { date } => points
            .iter()
            .rfind(|p| p.created <= *date)
            .ok_or_else(|| none("no restore point is as old as that: see `ioex backup list`".into())),
        PointQuery::Id { id } => {
            if id.len() < ID_CHARS_MIN {
                let text =
                    format!("'{id}' is too short: give at least {ID_CHARS_MIN} characters of its name");
                return Err(fail(ErrorCode::BadRequest, text));
            }
            let mut found = points.iter().filter(|p| p.id().to_string().starts_with(&id.to_lowercase()));
            match (found.next(), found.next()) {
                (Some(point), None) => Ok(point),
                (Some(_), Some(_)) => {
                    let text = format!("several restore points begin with '{id}': give more of the name");
                    Err(fail(ErrorCode::BadRequest, text))
                }
                (None, _) => Err(none(format!("no restore point '{id}': see `ioex backup list`"))),
            }
        }
    }
}

/// Sentences about restore points that end soon.
pub(super) fn warnings(points: &[PointRef], now: UnixSeconds) -> Vec<String> {
    let mut out = Vec::new();
    for p in points {
        let left = p.expires.since(now).div_ceil(ioex_base::DAY_SECONDS);
        if WARN_DAYS.first().is_some_and(|most| left <= *most) {
            let days = if left == 1 { "1 day".to_owned() } else { format!("{left} days") };
            out.push(format!(
                "restore point {} ends in {days}: `ioex backup renew {}` keeps it",
                p.id(),
                p.id()
            ));
        }
    }
    out
}

/// See [`vault::VaultRequest::List`].
pub(super) async fn list(node: &Node) -> Result<PointList, ApiError> {
    let repo = node.vault.repo()?;
    let mut head = repo.newest_head(node).await?.head;
    let now = files::now();
    head.expire(now);
    Ok(PointList {
        repo: Some(repo.keys.repo()),
        points: head.points.iter().map(point).collect(),
        warnings: warnings(&head.points, now),
    })
}

impl Repo {
    async fn object(&self, fetcher: &Fetcher, object: &ObjectRef) -> Result<Vec<u8>, ApiError> {
        let fetched = fetcher.shard(object.shard, &[]).await?;
        object.open(&fetched.bytes).map_err(damaged)
    }

    /// The root of a restore point, from here or from the network.
    pub(super) async fn root(&self, fetcher: &Fetcher, point: &PointRef) -> Result<Root, ApiError> {
        let bytes = match self.book.root(point.id())? {
            Some(bytes) => bytes,
            None => {
                let bytes = self.object(fetcher, &point.root).await?;
                self.book.change(|c| c.put_root(point.id(), &bytes))?;
                bytes
            }
        };
        Root::decode(&bytes).map_err(damaged)
    }

    /// Adds the segments of a root to the index, from here or from the network.
    pub(super) async fn load_segments(
        &self,
        fetcher: &Fetcher,
        root: &Root,
        index: &mut Index,
    ) -> Result<(), ApiError> {
        for object in &root.segments {
            let address = object.shard.address;
            if index.knows(&address) {
                continue;
            }
            let segment = match self.book.segment(&address)? {
                Some((_, segment)) => segment,
                None => {
                    let bytes = self.object(fetcher, object).await?;
                    let segment = Segment::decode(&bytes).map_err(damaged)?;
                    self.book.change(|c| c.put_segment(object, &segment))?;
                    segment
                }
            };
            index.add(Some(object.clone()), segment);
        }
        Ok(())
    }

    /// Deletes the listings of restore points that are no more.
    pub(super) fn forget_listings(&self, keep: impl Fn(PointId) -> bool) {
        let Ok(entries) = std::fs::read_dir(self.dir.join(LISTINGS_DIR)) else { return };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<PointId>().ok());
            if id.is_none_or(|id| !keep(id)) {
                // A listing is a cache: one that stays costs space and nothing else.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn listing_path(&self, id: PointId) -> PathBuf {
        self.dir.join(LISTINGS_DIR).join(id.to_string())
    }

    /// The listing of a restore point as a file, from here or from the network.
    pub(super) async fn listing(
        &self,
        fetcher: &Fetcher,
        point: &PointRef,
        root: &Root,
        index: &Index,
    ) -> Result<PathBuf, ApiError> {
        if let Some(path) = self.kept_listing(point.id()) {
            return Ok(path);
        }
        let path = self.listing_path(point.id());
        let new =
            path.with_extension(format!("new-{}", NEW.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        let mut out = File::create(&new).map_err(io_error(&new))?;
        let mut reader = ChunkReader::new(&self.keys).map_err(internal)?;
        for id in &root.listing {
            let found = index.get(id).ok_or_else(|| damaged("the index lacks a part of the listing"))?;
            let wanted = plan::Plan::single(index, &found);
            let parts = fetcher.wanted(&wanted).await?;
            let sealed = parts.first().and_then(|(start, bytes)| {
                let from = found.chunk.offset.checked_sub(*start)? as usize;
                bytes.get(from..from + found.chunk.stored_bytes as usize)
            });
            let plain = reader.read(found.chunk, sealed.unwrap_or_default()).map_err(damaged)?;
            out.write_all(&plain).map_err(io_error(&new))?;
        }
        out.sync_all().map_err(io_error(&new))?;
        let hash = listing_hash(&new).map_err(io_error(&new))?;
        std::fs::rename(&new, &path).map_err(io_error(&path))?;
        self.book.change(|c| c.put_listing_hash(point.id(), &hash))?;
        Ok(path)
    }

    /// The listing of a restore point as it was kept here; `None` when it is not here, or damaged.
    pub(super) fn kept_listing(&self, id: PointId) -> Option<PathBuf> {
        let path = self.listing_path(id);
        let known = self.book.listing_hash(id).ok()??;
        (listing_hash(&path).ok()? == known).then_some(path)
    }

    /// Everything that looking into a restore point needs.
    pub(super) async fn open_point(&self, node: &Node, query: &PointQuery) -> Result<Opened, ApiError> {
        let head = self.newest_head(node).await?.head;
        self.look_into(&node.mesh, select(&head.points, query)?).await
    }

    /// The same, for a restore point at hand.
    pub(super) async fn look_into(&self, mesh: &Mesh, point: &PointRef) -> Result<Opened, ApiError> {
        let point = point.clone();
        let fetcher = Fetcher::new(mesh, &self.keys.reader)?;
        let root = self.root(&fetcher, &point).await?;
        let mut index = Index::default();
        self.load_segments(&fetcher, &root, &mut index).await?;
        let listing = self.listing(&fetcher, &point, &root, &index).await?;
        Ok(Opened { point, root, index, listing, fetcher })
    }
}

/// A restore point that is being looked into.
pub(super) struct Opened {
    pub(super) point: PointRef,
    pub(super) root: Root,
    pub(super) index: Index,
    pub(super) listing: PathBuf,
    pub(super) fetcher: Fetcher,
}

impl Opened {
    /// A user's path as the listing has it: relative to the base.
    pub(super) fn relative(&self, path: &Path) -> Result<PathBuf, ApiError> {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let base = Path::new(OsStr::from_bytes(&self.root.base));
        if path.is_relative() {
            return Ok(path.to_owned());
        }
        path.strip_prefix(base).map(Path::to_owned).map_err(|_| {
            let text =
                format!("{} is not below {}, where this restore point lies", path.display(), base.display());
            fail(ErrorCode::BadRequest, text)
        })
    }
}

/// The hash of a listing that is on the disk when this returns.
pub(super) fn listing_hash(path: &Path) -> std::io::Result<[u8; 32]> {
    let file = File::open(path)?;
    file.sync_all()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(*hasher.finalize().as_bytes())
}

pub(super) fn open_listing(path: &Path) -> std::io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(1 << 18, File::open(path)?))
}

fn size_of(entry: &Entry) -> Option<u64> {
    match &entry.content {
        Content::File { size, .. } => Some(*size),
        _ => None,
    }
}

fn listed(names: &[Vec<u8>], entry: &Entry) -> Listed {
    let kind = match &entry.content {
        Content::Dir => "dir",
        Content::File { .. } => "file",
        Content::Symlink(_) => "link",
        Content::HardLink(_) => "hard-link",
    };
    Listed {
        path: tree::join(names).to_string_lossy().into_owned(),
        kind: kind.to_owned(),
        mode: entry.mode,
        size: size_of(entry).unwrap_or(0),
        modified: entry.mtime_ns.div_euclid(1_000_000_000),
    }
}

/// See [`vault::VaultRequest::Ls`].
pub(super) async fn ls(
    node: &Node,
    query: &PointQuery,
    paths: &[PathBuf],
    sink: &Sink,
) -> Result<Empty, ApiError> {
    let repo = node.vault.repo()?;
    let opened = repo.open_point(node, query).await?;
    let below: Vec<Vec<Vec<u8>>> =
        paths.iter().map(|p| opened.relative(p).map(|p| tree::split(&p))).collect::<Result<_, _>>()?;
    let mut reader = ListingReader::new(open_listing(&opened.listing).map_err(io_error(&opened.listing))?);
    while let Some(entry) = reader.next_entry().map_err(damaged)? {
        let names = reader.path();
        if below.is_empty() || below.iter().any(|b| names.starts_with(b)) {
            let line = Update::Listed(listed(names, &entry));
            if sink.update(line).await.is_err() {
                break;
            }
        }
    }
    Ok(Empty {})
}

/// See [`vault::VaultRequest::Diff`].
pub(super) async fn diff(
    node: &Node,
    old: &PointQuery,
    new: &PointQuery,
    sink: &Sink,
) -> Result<DiffTotals, ApiError> {
    let repo = node.vault.repo()?;
    let (old, new) = (repo.open_point(node, old).await?, repo.open_point(node, new).await?);
    let (tell, mut told) = tokio::sync::mpsc::channel(64);
    let comparing = tokio::task::spawn_blocking(move || {
        let open = |path: &Path| open_listing(path).map(ListingReader::new).map_err(io_error(path));
        let counts = plan::diff(open(&old.listing)?, open(&new.listing)?, |change, names, a, b| {
            let word = match change {
                Change::Added => "added",
                Change::Removed => "removed",
                Change::Changed => "changed",
                Change::Attributes => "attributes",
            };
            let line = Changed {
                change: word.to_owned(),
                path: tree::join(names).to_string_lossy().into_owned(),
                old_size: a.and_then(size_of),
                new_size: b.and_then(size_of),
            };
            // Nobody reads any more: the counts are still worth having.
            let _ = tell.blocking_send(line);
        });
        counts.map_err(damaged)
    });
    while let Some(line) = told.recv().await {
        if sink.update(Update::Changed(line)).await.is_err() {
            break;
        }
    }
    let counts = comparing.await.map_err(internal)??;
    let count = |what| counts.get(what).copied().unwrap_or(0);
    Ok(DiffTotals {
        added: count("added"),
        removed: count("removed"),
        changed: count("changed"),
        attributes: count("attributes"),
    })
}
