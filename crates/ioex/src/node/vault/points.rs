//! Restore points: finding them, their index and their listing, and looking into them.

use std::{
    fs::File,
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_encoding::HEXLOWER;
use ioex_api::{
    ApiError, BackupProgress, BackupStep, Empty, ErrorCode, Sink, Update,
    vault::{self, Changed, DiffTotals, Listed, Point, PointFilter, PointList, PointQuery},
};
use ioex_base::{Dice, UnixSeconds};
use ioex_net::Mesh;
use ioex_vault::{
    health::WARNING_DAYS,
    repo::{
        ChunkReader, Index, ObjectRef, PointId, PointRef, Root, Segment,
        plan::{self, Change},
        text,
        tree::{self, Content, Entry, ListingReader},
    },
};
use tokio::task::JoinSet;

use super::{
    super::{Node, files},
    Repo,
    failure::{fail, fresh_seed, internal, io_error},
    fetch::Fetcher,
};

/// Folder of the listings that are kept here.
pub(super) const LISTINGS_DIR: &str = "listings";
/// Fewest characters of a restore point's name.
const ID_CHARS_MIN: usize = 4;

/// A list waits so long for roots that are not here yet. What came stays here.
const LIST_PATIENCE: Duration = Duration::from_secs(4);
/// Roots that one list fetches at most: each is a shard of 16 KiB or more.
const LIST_ROOTS_MAX: usize = 64;
/// Of these, so many at once.
const LIST_ROOTS_AT_ONCE: usize = 8;

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
        problems_total: None,
    }
}

/// A path as text; and its bytes in hexadecimal, if the text only stands for it.
pub(super) fn shown(path: &[u8]) -> (String, Option<String>) {
    let shown = text::shown(path);
    let raw = (shown.as_bytes() != path).then(|| HEXLOWER.encode(path));
    (shown.into_owned(), raw)
}

fn damaged(e: impl std::fmt::Display) -> ApiError {
    fail(ErrorCode::Manifest, e.to_string())
}

/// Those of the restore points that fit everything that is asked for.
pub(super) fn among(mut points: Vec<PointRef>, of: &PointFilter) -> Vec<PointRef> {
    let sources: Vec<Vec<u8>> =
        of.sources.iter().map(|p| p.as_os_str().as_encoded_bytes().to_vec()).collect();
    points.retain(|p| {
        of.tags.iter().all(|tag| p.has_tag(tag))
            && of.host.as_ref().is_none_or(|host| p.origin.is_some_and(|o| o.is_of_host(host)))
            && (sources.is_empty() || p.origin.is_some_and(|o| o.has_paths(&sources)))
    });
    points
}

/// Those that have not ended.
pub(super) fn living(mut points: Vec<PointRef>, now: UnixSeconds) -> Vec<PointRef> {
    points.retain(|p| p.expires >= now);
    points
}

/// The restore point that a query names. One that has ended is found by its name only.
pub(super) fn select<'p>(
    points: &'p [PointRef],
    query: &PointQuery,
    now: UnixSeconds,
) -> Result<&'p PointRef, ApiError> {
    let none = |text: String| fail(ErrorCode::NotFound, text);
    match query {
        PointQuery::Latest => points.iter().rfind(|p| p.expires >= now).ok_or_else(|| {
            none(
                "no such restore point: `ioex backup list` shows what there is, `ioex backup create` makes one"
                    .into(),
            )
        }),
        PointQuery::At { date } => points
            .iter()
            .rfind(|p| p.created <= *date && p.expires >= now)
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

/// A sentence about a restore point that has ended.
pub(super) fn ended(point: &PointRef, now: UnixSeconds) -> Option<String> {
    (point.expires < now).then(|| {
        let days = now.since(point.expires) / ioex_base::DAY_SECONDS;
        format!(
            "restore point {} ended {days} days ago: devices may have deleted parts of it, and `ioex backup \
             renew {}` keeps what is left",
            point.id(),
            point.id()
        )
    })
}

/// Sentences about restore points that end soon.
pub(super) fn warnings(points: &[PointRef], now: UnixSeconds) -> Vec<String> {
    let mut out = Vec::new();
    for p in points {
        let left = p.expires.since(now).div_ceil(ioex_base::DAY_SECONDS);
        if WARNING_DAYS.first().is_some_and(|most| left <= *most) {
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
pub(super) async fn list(node: &Node, of: &PointFilter) -> Result<PointList, ApiError> {
    let repo = node.vault.repo()?;
    let known = repo.newest_head(node).await?;
    let now = files::now();
    let points = living(among(known.head.points, of), now);
    let mut all: Vec<String> = known.warning.into_iter().collect();
    all.extend(warnings(&points, now));
    #[cfg(feature = "super")]
    let harmed = repo.harmed(points.clone()).await?;
    // Only who watches knows.
    #[cfg(not(feature = "super"))]
    let harmed = Vec::new();
    for id in &harmed {
        all.push(format!("restore point {id} lost something for now: `ioex backup verify {id}` says what"));
    }
    let left_out = repo.left_out(&node.mesh, &points).await?;
    let unknown = left_out.iter().filter(|count| count.is_none()).count();
    if unknown > 0 {
        all.push(format!(
            "how many files were left out is not known now of some restore points ({unknown}): `ioex backup list` asks \
             again"
        ));
    }
    let described = |(p, problems_total): (&PointRef, Option<u64>)| Point { problems_total, ..point(p) };
    Ok(PointList {
        repo: Some(repo.keys.repo()),
        points: points.iter().zip(left_out).map(described).collect(),
        harmed,
        warnings: all,
    })
}

impl Repo {
    async fn object(&self, fetcher: &Fetcher, object: &ObjectRef) -> Result<Vec<u8>, ApiError> {
        let fetched = fetcher.shard(object.shard, &[]).await?;
        object.open(&fetched.bytes).map_err(damaged)
    }

    /// The root of a restore point, from here or from the network.
    pub(super) async fn root(&self, fetcher: &Fetcher, point: &PointRef) -> Result<Root, ApiError> {
        let address = &point.root.shard.address;
        let bytes = match self.book.root(address)? {
            Some(bytes) => bytes,
            None => {
                let bytes = self.object(fetcher, &point.root).await?;
                self.book.change(|c| c.put_root(address, &bytes))?;
                bytes
            }
        };
        Root::decode(&bytes).map_err(damaged)
    }

    /// How many files each of the restore points lacks. Only roots say so, and one that is not here has to come from
    /// the network: what does not come in time stays unknown.
    async fn left_out(
        self: &Arc<Self>,
        mesh: &Mesh,
        points: &[PointRef],
    ) -> Result<Vec<Option<u64>>, ApiError> {
        let (repo, all) = (self.clone(), points.to_vec());
        let here = move || all.iter().map(|point| repo.known_problems(point)).collect::<Result<Vec<_>, _>>();
        let mut out = tokio::task::spawn_blocking(here).await.map_err(internal)??;
        let mut missing: Vec<usize> = (0..out.len()).rev().filter(|at| out.get(*at) == Some(&None)).collect();
        if missing.is_empty() {
            return Ok(out);
        }
        // Not always the same first: those of devices that are away would keep all others from coming.
        let first = Dice::new(fresh_seed()?).below(missing.len());
        missing.rotate_left(first);
        let fetcher = Fetcher::new(mesh, &self.keys.reader)?;
        let (until, mut asks) = (tokio::time::Instant::now() + LIST_PATIENCE, JoinSet::new());
        let mut waiting = missing.into_iter().take(LIST_ROOTS_MAX);
        loop {
            while asks.len() < LIST_ROOTS_AT_ONCE {
                let Some((at, point)) = waiting.next().and_then(|at| Some((at, points.get(at)?.clone())))
                else {
                    break;
                };
                let (repo, fetcher) = (self.clone(), fetcher.clone());
                asks.spawn(async move { (at, repo.root(&fetcher, &point).await.ok()) });
            }
            let Ok(Some(asked)) = tokio::time::timeout_at(until, asks.join_next()).await else {
                return Ok(out);
            };
            let (at, root) = asked.map_err(internal)?;
            if let (Some(count), Some(root)) = (out.get_mut(at), root) {
                *count = Some(root.problems_total);
            }
        }
    }

    /// What the root says of it, if it lies here.
    fn known_problems(&self, point: &PointRef) -> Result<Option<u64>, ApiError> {
        let root = self.book.root(&point.root.shard.address)?;
        Ok(root.and_then(|bytes| Root::decode(&bytes).ok()).map(|root| root.problems_total))
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
            let plain = fetcher.chunk(&mut reader, &wanted).await?;
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
    pub(super) async fn open_point(
        &self,
        node: &Node,
        query: &PointQuery,
        of: &PointFilter,
    ) -> Result<Opened, ApiError> {
        let points = among(self.newest_head(node).await?.head.points, of);
        self.look_into(&node.mesh, select(&points, query, files::now())?).await
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
    /// The restore point, for people.
    pub(super) fn described(&self) -> Point {
        Point { problems_total: Some(self.root.problems_total), ..point(&self.point) }
    }

    /// Users' paths as the listing has them, relative to the base. A path may be written as it is shown, or be the
    /// name itself: what is shown so comes first, then what has that very name. Blocks.
    pub(super) fn relative(&self, paths: &[PathBuf]) -> Result<Vec<PathBuf>, ApiError> {
        paths.iter().map(|path| self.relative_one(path)).collect()
    }

    fn relative_one(&self, path: &Path) -> Result<PathBuf, ApiError> {
        let typed = path.to_string_lossy();
        let meant = text::meant(&typed);
        let readings: &[&[u8]] = match (*meant == *typed.as_bytes(), *text::shown(&meant) == *typed) {
            (true, _) => &[&meant],
            (false, true) => &[&meant, typed.as_bytes()],
            (false, false) => &[typed.as_bytes(), &meant],
        };
        let below: Vec<PathBuf> = readings.iter().filter_map(|name| self.below_base(name)).collect();
        match below.as_slice() {
            [] => {
                let base = text::shown(&self.root.base);
                let text = format!("{typed} is not below {base}, where this restore point lies");
                Err(fail(ErrorCode::BadRequest, text))
            }
            [one] => Ok(one.clone()),
            [first, ..] => Ok(self.first_there(&below)?.unwrap_or(first).clone()),
        }
    }

    fn below_base(&self, name: &[u8]) -> Option<PathBuf> {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let (base, path) =
            (Path::new(OsStr::from_bytes(&self.root.base)), Path::new(OsStr::from_bytes(name)));
        if path.is_relative() {
            Some(path.to_owned())
        } else {
            path.strip_prefix(base).ok().map(Path::to_owned)
        }
    }

    /// The first of these that the listing has.
    fn first_there<'a>(&self, paths: &'a [PathBuf]) -> Result<Option<&'a PathBuf>, ApiError> {
        let wanted: Vec<Vec<Vec<u8>>> = paths.iter().map(|path| tree::split(path)).collect();
        let mut found = vec![false; wanted.len()];
        let mut reader = ListingReader::new(open_listing(&self.listing).map_err(io_error(&self.listing))?);
        while reader.next_entry().map_err(damaged)?.is_some() {
            for (found, path) in found.iter_mut().zip(&wanted) {
                *found |= reader.path() == path.as_slice();
            }
        }
        Ok(paths.iter().zip(found).find(|(_, found)| *found).map(|(path, _)| path))
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

/// Every chunk that a restore point refers to: of its listing, and of its files.
#[cfg(feature = "super")]
pub(super) fn each_chunk(
    root: &Root,
    listing: &Path,
    mut take: impl FnMut(&ioex_vault::ChunkId) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    root.listing.iter().try_for_each(&mut take)?;
    let mut reader = ListingReader::new(open_listing(listing).map_err(internal)?);
    while let Some(entry) = reader.next_entry().map_err(damaged)? {
        if let Content::File { chunks, .. } = &entry.content {
            chunks.iter().try_for_each(&mut take)?;
        }
    }
    Ok(())
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
    let (path, raw) = shown(&names.join(&b'/'));
    Listed {
        path,
        raw,
        kind: kind.to_owned(),
        mode: entry.mode,
        size: size_of(entry).unwrap_or(0),
        modified: entry.mtime_ns.div_euclid(1_000_000_000),
    }
}

/// Lines that are read ahead of whoever gets them.
const LINES_AHEAD: usize = 64;

/// Warns of a restore point that has ended.
pub(super) async fn warn_of_end(opened: &Opened, sink: &Sink) {
    if let Some(note) = ended(&opened.point, files::now()) {
        let told = BackupProgress {
            step: BackupStep::Locate,
            done_bytes: 0,
            total_bytes: 0,
            note: Some(note),
            holder: None,
        };
        let _ = sink.update(Update::Backup(told)).await;
    }
}

/// See [`vault::VaultRequest::Ls`].
pub(super) async fn ls(
    node: &Node,
    (query, of): (&PointQuery, &PointFilter),
    paths: &[PathBuf],
    sink: &Sink,
) -> Result<Empty, ApiError> {
    let repo = node.vault.repo()?;
    let opened = repo.open_point(node, query, of).await?;
    warn_of_end(&opened, sink).await;
    let opened = Arc::new(opened);
    let (looked_into, typed) = (opened.clone(), paths.to_vec());
    let naming = tokio::task::spawn_blocking(move || looked_into.relative(&typed));
    let below: Vec<Vec<Vec<u8>>> = naming.await.map_err(internal)??.iter().map(|p| tree::split(p)).collect();
    let (tell, mut told) = tokio::sync::mpsc::channel(LINES_AHEAD);
    let (listing, wanted) = (opened.listing.clone(), below.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = ListingReader::new(open_listing(&listing).map_err(io_error(&listing))?);
        let mut found = vec![false; wanted.len()];
        while let Some(entry) = reader.next_entry().map_err(damaged)? {
            let names = reader.path();
            let mut shown = wanted.is_empty();
            for (found, path) in found.iter_mut().zip(&wanted) {
                if names.starts_with(path) {
                    (*found, shown) = (true, true);
                }
            }
            if shown && tell.blocking_send(listed(names, &entry)).is_err() {
                // Nobody reads any more.
                return Ok(vec![true; found.len()]);
            }
        }
        Ok::<_, ApiError>(found)
    });
    while let Some(line) = told.recv().await {
        if sink.update(Update::Listed(line)).await.is_err() {
            break;
        }
    }
    drop(told);
    let found = reading.await.map_err(internal)??;
    // The base itself has no entry: its path is that of everything.
    match found.iter().zip(paths).zip(&below).find(|((found, _), names)| !**found && !names.is_empty()) {
        Some(((_, path), _)) => {
            let text =
                format!("nothing in restore point {} has the path {}", opened.point.id(), path.display());
            Err(fail(ErrorCode::NotFound, text))
        }
        None => Ok(Empty {}),
    }
}

/// See [`vault::VaultRequest::Diff`].
pub(super) async fn diff(
    node: &Node,
    (old, new): (&PointQuery, &PointQuery),
    of: &PointFilter,
    sink: &Sink,
) -> Result<DiffTotals, ApiError> {
    let repo = node.vault.repo()?;
    let (old, new) = (repo.open_point(node, old, of).await?, repo.open_point(node, new, of).await?);
    let (tell, mut told) = tokio::sync::mpsc::channel(LINES_AHEAD);
    let comparing = tokio::task::spawn_blocking(move || {
        let open = |path: &Path| open_listing(path).map(ListingReader::new).map_err(io_error(path));
        let counts = plan::diff(open(&old.listing)?, open(&new.listing)?, |change, names, a, b| {
            let word = match change {
                Change::Added => "added",
                Change::Removed => "removed",
                Change::Changed => "changed",
                Change::Attributes => "attributes",
            };
            let (path, raw) = shown(&names.join(&b'/'));
            let line = Changed {
                change: word.to_owned(),
                path,
                raw,
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

#[cfg(test)]
mod tests {
    use ioex_vault::repo::{Origin, RecoveryKey, TagId, Totals, seal_object};

    use super::*;

    fn point(n: u8, host: &str, path: &str, tag: &str) -> PointRef {
        let keys = RecoveryKey::from_bytes([1; 32]).keys();
        PointRef {
            created: UnixSeconds(u64::from(n)),
            expires: UnixSeconds(100 + u64::from(n)),
            label: String::new(),
            origin: Some(Origin::new(host, &[path.as_bytes().to_vec()])),
            tags: vec![TagId::of(tag)],
            totals: Totals::default(),
            root: seal_object(&keys, &[n]).unwrap().0,
            rewritten: None,
        }
    }

    #[test]
    fn the_latest_is_that_of_the_source_that_is_asked_for() {
        let long = "/a/path/of/which/a/label/shows/the/beginning/only/".repeat(4);
        let points = vec![
            point(1, "desk", &format!("{long}one"), "x"),
            point(2, "desk", &format!("{long}two"), "x"),
            point(3, "phone", &format!("{long}one"), "y"),
        ];
        let latest = |of: PointFilter| {
            let found = among(points.clone(), &of);
            select(&found, &PointQuery::Latest, UnixSeconds(50)).map(|p| p.created.0).map_err(|e| e.code)
        };
        let sources = vec![PathBuf::from(format!("{long}one"))];
        assert_eq!(latest(PointFilter::default()), Ok(3));
        assert_eq!(latest(PointFilter { sources: sources.clone(), ..PointFilter::default() }), Ok(3));
        let desk = PointFilter { host: Some("desk".into()), sources, ..PointFilter::default() };
        assert_eq!(latest(desk), Ok(1));
        assert_eq!(latest(PointFilter { tags: vec!["x".into()], ..PointFilter::default() }), Ok(2));
        let both = PointFilter { tags: vec!["x".into(), "y".into()], ..PointFilter::default() };
        assert_eq!(latest(both), Err(ErrorCode::NotFound));
    }

    #[test]
    fn what_has_ended_is_found_by_its_name_only_and_said_to_have_ended() {
        let points = vec![point(1, "h", "/a", "t"), point(2, "h", "/a", "t")];
        let find =
            |query: PointQuery, now| select(&points, &query, UnixSeconds(now)).map(|p| p.created.0).ok();
        assert_eq!(find(PointQuery::Latest, 102), Some(2));
        assert_eq!(find(PointQuery::Latest, 103), None);
        assert_eq!(find(PointQuery::At { date: UnixSeconds(1) }, 102), None);
        let id = points[0].id().to_string();
        assert_eq!(find(PointQuery::Id { id }, 103), Some(1));
        assert!(ended(&points[0], UnixSeconds(101)).is_none());
        assert!(ended(&points[0], UnixSeconds(102)).is_some());
        assert_eq!(living(points, UnixSeconds(102)).len(), 1);
    }
}
