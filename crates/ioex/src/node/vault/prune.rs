//! Giving space back: groups that nothing needs, and groups of which little is needed.
//!
//! What is needed of a half-used group is packed again, with the rest of other such groups. At each
//! moment everything that the list of restore points refers to is there:
//!
//! 1. new groups are placed, and noted as a backup notes its own: a run that was interrupted is not
//!    made twice;
//! 2. segments that say where the chunks are now, and roots that refer to these, are placed;
//! 3. the list of restore points is written with the new roots, under the old names;
//! 4. only then the old groups are released.
//!
//! On the way the small segments of many backups are joined into few.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ioex_api::{ApiError, ErrorCode, vault::Pruned};
use ioex_base::{ContentAddress, DAY_SECONDS, UnixSeconds};
use ioex_vault::{
    Choice, ChunkId, ChunkRef, Redundancy, ShardRef,
    repo::{
        ChunkReader, Head, ObjectRef, PackedShard, PointId, PointRef, Root, SEGMENT_CHUNKS_MAX, Segment,
        plan::Wanted,
        repack::{MAX_UNUSED_PERCENT, Repacker, Usage},
        seal_object,
    },
};

use super::{
    super::{Node, files},
    Repo,
    book::{CopyRecord, GroupRecord},
    create::store,
    failure::{fail, internal},
    fetch::{Fetcher, is_whole},
    manage::{placing, release},
    placing::{Placing, capability},
    points::{self, Opened},
};

/// A segment with fewer chunks is small: several of them become one.
const SMALL_SEGMENT_CHUNKS: usize = SEGMENT_CHUNKS_MAX / 4;
/// So many small segments are joined even if nothing else is to be moved. Each backup makes one, and
/// each that is joined costs a new root for all restore points that refer to it.
const JOINED_FROM: usize = 32;
/// A group of which only a partner told stays for so long, in seconds: another machine with the same words may
/// be storing it, and names it in the list of restore points only when its backup has ended.
const UNLISTED_SECONDS: u64 = 7 * DAY_SECONDS;

/// How each group is protected.
type Policy<'a> = &'a (dyn Fn(&ContentAddress) -> Option<Redundancy> + Sync);

/// What a restore point needs, as its own index says.
struct View {
    point: PointRef,
    root: Root,
    /// Its segments in their order, each with the groups that are used because of it.
    segments: Vec<(ObjectRef, BTreeSet<ContentAddress>)>,
}

/// What all restore points need, the newest first.
#[derive(Default)]
struct Survey {
    usage: Usage,
    views: Vec<View>,
}

impl Survey {
    async fn make(node: &Node, repo: &Repo, points: &[PointRef]) -> Result<Self, ApiError> {
        let mut out = Self::default();
        for point in points.iter().rev() {
            // What one restore point needs is not known: nothing may be given back.
            let opened = repo.look_into(&node.mesh, point).await?;
            let looking = move || out.look(opened).map(|()| out);
            out = tokio::task::spawn_blocking(looking).await.map_err(internal)??;
        }
        Ok(out)
    }

    fn look(&mut self, opened: Opened) -> Result<(), ApiError> {
        let damaged = |e: String| fail(ErrorCode::Manifest, e);
        let Opened { point, root, index, listing, .. } = opened;
        let mut by_segment: BTreeMap<usize, BTreeSet<ContentAddress>> = BTreeMap::new();
        let mut add = |id: &ChunkId| {
            let found = index.get(id).ok_or_else(|| damaged("the index lacks a part".into()))?;
            let group = self.usage.add(&index, &found);
            by_segment.entry(found.segment).or_default().extend(group);
            Ok::<(), ApiError>(())
        };
        points::each_chunk(&root, &listing, &mut add)?;
        let segment = |at| Some((index.stored(at)?.clone(), by_segment.remove(&at).unwrap_or_default()));
        let segments = (0..index.segments()).filter_map(segment).collect();
        self.views.push(View { point, root, segments });
        Ok(())
    }

    /// Segments and roots.
    fn objects(&self) -> impl Iterator<Item = ContentAddress> + '_ {
        self.views.iter().flat_map(|view| {
            let segments = view.segments.iter().map(|(object, _)| object.shard.address);
            segments.chain([view.point.root.shard.address])
        })
    }

    /// The segments from which something is needed that does not move, each once.
    fn staying(&self, moving: &BTreeSet<ContentAddress>) -> Vec<ObjectRef> {
        let mut seen = HashSet::new();
        let all = self.views.iter().flat_map(|view| &view.segments);
        let stays = all.filter(|(_, groups)| groups.iter().any(|group| !moving.contains(group)));
        stays.filter(|(o, _)| seen.insert(o.shard.address)).map(|(object, _)| object.clone()).collect()
    }
}

fn first(data: &[ShardRef]) -> Option<ContentAddress> {
    data.first().map(|shard| shard.address)
}

fn groups_in(segment: &Segment) -> impl Iterator<Item = ContentAddress> + '_ {
    segment.groups.iter().filter_map(|group| first(&group.data))
}

/// Bytes of a group at devices.
fn bytes_of(group: &GroupRecord) -> u64 {
    let size = |c: &CopyRecord| group.shard(c.shard.into()).map_or(0, |s| u64::from(s.bytes));
    group.copies.iter().map(size).sum()
}

/// See [`ioex_api::vault::VaultRequest::Prune`].
pub(super) async fn prune(node: &Node, dry_run: bool, max_unused: Option<u8>) -> Result<Pruned, ApiError> {
    let repo = node.vault.repo()?;
    let grant = capability(node)?;
    let _work = repo.work.lock().await;
    let now = files::now();
    let points = points::living(repo.newest_head(node).await?.head.points, now);
    let survey = Survey::make(node, &repo, &points).await?;
    // What an interrupted run stored is used by the next one.
    let pending = repo.book.pending_numbered()?;
    let waiting: HashSet<ContentAddress> = pending.iter().flat_map(|(_, s)| groups_in(s)).collect();
    let mut needed: HashSet<ContentAddress> = survey.usage.groups().copied().collect();
    needed.extend(survey.objects().chain(waiting.iter().copied()));
    needed.extend(repo.unlisted(now).await?);
    let (mut out, mut gone, mut known) = (Pruned::default(), Vec::new(), HashMap::new());
    repo.book.each_group(|id, group| {
        let bytes = bytes_of(&group);
        if needed.contains(&id) {
            out.kept_groups += 1;
            known.insert(id, (bytes, group.redundancy));
        } else {
            (out.groups, out.bytes) = (out.groups + 1, out.bytes + bytes);
            gone.push(group);
        }
    })?;
    // Only what this machine placed is its to release.
    let movable = |id: &ContentAddress| known.contains_key(id) && !waiting.contains(id);
    let max_unused = max_unused.unwrap_or(MAX_UNUSED_PERCENT);
    let mut moving: BTreeSet<_> = survey.usage.half_used(max_unused, movable).into_iter().collect();
    let small = repo.small_segments(&survey.staying(&moving))?;
    if !dry_run {
        // First what costs nothing: devices may need the room for what is packed again.
        out.unreached = repo.give_back(node, &grant, &gone).await?;
        if !moving.is_empty() || small.len() >= JOINED_FROM {
            let policy = |id: &ContentAddress| known.get(id).map(|(_, redundancy)| *redundancy);
            match repack(node, &repo, &survey, (&mut moving, &policy), pending, &mut out).await {
                Ok(()) => {}
                // What is needed is where it was.
                Err(e) => {
                    moving.clear();
                    out.notes.push(format!("half-used groups could not be packed again: {e}"));
                }
            }
        }
    }
    for id in &moving {
        let used = survey.usage.get(id).map_or(0, ioex_vault::repo::repack::Used::used_bytes);
        (out.repacked_groups, out.repacked_bytes) = (out.repacked_groups + 1, out.repacked_bytes + used);
        out.kept_groups = out.kept_groups.saturating_sub(1);
        (out.groups, out.bytes) = (out.groups + 1, out.bytes + known.get(id).map_or(0, |(bytes, _)| *bytes));
    }
    Ok(out)
}

impl Repo {
    /// Groups that another machine may be storing.
    async fn unlisted(&self, now: UnixSeconds) -> Result<HashSet<ContentAddress>, ApiError> {
        let since = UnixSeconds(now.0.saturating_sub(UNLISTED_SECONDS));
        Ok(self.book.off(move |book| book.adopted(since)).await?)
    }

    /// Those segments that are worth joining.
    fn small_segments(&self, segments: &[ObjectRef]) -> Result<Vec<(ContentAddress, Segment)>, ApiError> {
        let mut out = Vec::new();
        for object in segments {
            if let Some((_, segment)) = self.book.segment(&object.shard.address)?
                && segment.chunks.len() < SMALL_SEGMENT_CHUNKS
            {
                out.push((object.shard.address, segment));
            }
        }
        Ok(out)
    }

    /// Releases groups and takes them out of the book; returns how many devices were not reached.
    async fn give_back(
        &self,
        node: &Node,
        grant: &ioex_base::SignedGrant,
        gone: &[GroupRecord],
    ) -> Result<u64, ApiError> {
        if gone.is_empty() {
            return Ok(0);
        }
        // Devices delete what is released. If this ends in the middle, that must not look like a loss: from
        // now on nobody watches over these groups, and the next run still knows them.
        let unwatched = |group: &GroupRecord| GroupRecord { expires: UnixSeconds(0), ..group.clone() };
        self.book.change(|c| gone.iter().try_for_each(|group| c.put_group(&unwatched(group))))?;
        let unreached = release(node, grant, gone).await;
        self.book
            .change(|c| gone.iter().filter_map(GroupRecord::id).try_for_each(|id| c.remove_group(&id)))?;
        Ok(unreached)
    }
}

/// Packs the groups `moving` again, as far as they can be read, and joins small segments.
async fn repack(
    node: &Node,
    repo: &Arc<Repo>,
    survey: &Survey,
    (moving, policy): (&mut BTreeSet<ContentAddress>, Policy<'_>),
    pending: Vec<(u64, Segment)>,
    out: &mut Pruned,
) -> Result<(), ApiError> {
    let (mut placing, choice) = placing(node, repo.keys.reader.uid()).await?;
    // A group may be needed by each of them.
    placing.expires = survey.views.iter().map(|v| v.point.expires).max().unwrap_or(placing.expires);
    let fetcher = Fetcher::new(&node.mesh, &repo.keys.reader)?;
    let mut mover = Mover {
        node,
        repo,
        placing,
        choice,
        fetcher,
        stored: Vec::new(),
        numbers: Vec::new(),
        rest: HashSet::new(),
    };
    mover.move_chunks(survey, (moving, policy), pending, &mut out.notes).await?;
    let index = mover.write_index(survey, moving).await?;
    out.joined_segments = index.joined;
    mover.settle(survey, moving, index, out).await
}

/// The index after a move.
struct NewIndex {
    segments: Vec<(ObjectRef, Segment)>,
    /// For each restore point with another root: the address of the old one, and the new one.
    roots: HashMap<PointId, (ContentAddress, ObjectRef, Vec<u8>)>,
    /// Every root and segment that is needed from now on.
    objects: HashSet<ContentAddress>,
    joined: u64,
}

struct Mover<'a> {
    node: &'a Node,
    repo: &'a Arc<Repo>,
    placing: Placing,
    choice: Choice,
    fetcher: Fetcher,
    /// What says where moved chunks are now, and its numbers in the book.
    stored: Vec<Segment>,
    numbers: Vec<u64>,
    /// Groups of unfinished backups, which are none of this.
    rest: HashSet<ContentAddress>,
}

impl Mover<'_> {
    /// Brings what is used of these groups to new ones. A group that cannot be read stays.
    async fn move_chunks(
        &mut self,
        survey: &Survey,
        (moving, policy): (&mut BTreeSet<ContentAddress>, Policy<'_>),
        pending: Vec<(u64, Segment)>,
        notes: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let wanted: HashSet<ChunkId> = moving.iter().flat_map(|id| survey.usage.ids(id)).collect();
        let mut copied: HashSet<ChunkId> = HashSet::new();
        for (number, segment) in pending {
            let ids: Vec<ChunkId> =
                segment.chunks.iter().map(|c| c.id).filter(|id| wanted.contains(id)).collect();
            if ids.is_empty() {
                self.rest.extend(groups_in(&segment));
                continue;
            }
            // Moved before an interruption.
            copied.extend(ids);
            self.numbers.push(number);
            self.stored.push(segment);
        }
        // What is packed together is protected in the same way, as it was.
        let mut by_policy: HashMap<Redundancy, Vec<ContentAddress>> = HashMap::new();
        for id in moving.iter() {
            by_policy.entry(policy(id).unwrap_or(self.choice.goal)).or_default().push(*id);
        }
        let mut failed = Vec::new();
        for (redundancy, groups) in by_policy {
            for (id, e) in self.move_alike(survey, redundancy, &groups, &mut copied).await? {
                notes.push(format!("group {} stays as it is: {e}", id.short()));
                failed.push(id);
            }
        }
        moving.retain(|id| !failed.contains(id));
        Ok(())
    }

    /// The same for groups of one policy; returns those that cannot be read.
    async fn move_alike(
        &mut self,
        survey: &Survey,
        redundancy: Redundancy,
        groups: &[ContentAddress],
        copied: &mut HashSet<ChunkId>,
    ) -> Result<Vec<(ContentAddress, ApiError)>, ApiError> {
        let full = usize::from(redundancy.k());
        // Whatever a group holds must fit one segment.
        let (bytes, chunks) = (redundancy.shard_bytes() as usize, SEGMENT_CHUNKS_MAX / full);
        let mut repacker = Repacker::new(&self.repo.keys.owner, bytes, chunks);
        let (mut shards, mut failed) = (Vec::new(), Vec::new());
        for id in groups {
            let parts = survey.usage.get(id).map(|used| used.wanted(|chunk| copied.contains(chunk)));
            for wanted in parts.unwrap_or_default() {
                let chunks = match self.fetch(wanted).await {
                    Ok(chunks) => chunks,
                    Err(e) => {
                        failed.push((*id, e));
                        break;
                    }
                };
                for (chunk, sealed) in chunks {
                    if !copied.insert(chunk.id) {
                        continue;
                    }
                    shards.extend(repacker.push(&chunk, &sealed).map_err(internal)?);
                    if shards.len() >= full {
                        self.place(redundancy, std::mem::take(&mut shards)).await?;
                    }
                }
            }
        }
        shards.extend(repacker.finish());
        if !shards.is_empty() {
            self.place(redundancy, shards).await?;
        }
        Ok(failed)
    }

    /// The wanted chunks of a shard as they are stored, each checked.
    async fn fetch(&self, wanted: Wanted) -> Result<Vec<(ChunkRef, Vec<u8>)>, ApiError> {
        let mut parts = self.fetcher.wanted(&wanted).await?;
        loop {
            let whole = is_whole(&wanted, &parts);
            let (keys, of) = (self.repo.keys.clone(), wanted.clone());
            let check = move || {
                let mut reader = ChunkReader::new(&keys).map_err(internal)?;
                let sealed = |(chunk, _): &(ChunkRef, Vec<(u32, u64)>)| {
                    reader.sealed(chunk, &parts).map(|bytes| (chunk.clone(), bytes.to_vec()))
                };
                Ok::<_, ApiError>(of.chunks.iter().map(sealed).collect::<Result<Vec<_>, _>>())
            };
            match tokio::task::spawn_blocking(check).await.map_err(internal)?? {
                Ok(chunks) => return Ok(chunks),
                Err(e) if whole => return Err(fail(ErrorCode::Manifest, e.to_string())),
                // Ranges are not verified as they come. A whole shard is.
                Err(_) => parts = vec![(0, self.fetcher.whole(&wanted).await?)],
            }
        }
    }

    /// Places a group and notes it, as a backup does.
    async fn place(&mut self, redundancy: Redundancy, shards: Vec<PackedShard>) -> Result<(), ApiError> {
        let stored = store(self.placing.clone(), redundancy, shards).await?;
        let number = self.repo.book.change(|c| {
            c.put_group(&stored.record)?;
            c.add_pending(&stored.segment)
        })?;
        self.numbers.push(number);
        self.stored.push(stored.segment);
        Ok(())
    }

    /// Places an object.
    async fn object(&self, plain: &[u8]) -> Result<ObjectRef, ApiError> {
        let (object, bytes) = seal_object(&self.repo.keys, plain).map_err(internal)?;
        let shard = PackedShard { shard: object.shard, bytes, chunks: Vec::new() };
        let stored = store(self.placing.clone(), self.choice.goal.for_index(), vec![shard]).await?;
        self.repo.book.change(|c| c.put_group(&stored.record))?;
        Ok(object)
    }

    /// Places new segments, and new roots of the restore points that need them.
    async fn write_index(
        &self,
        survey: &Survey,
        moving: &BTreeSet<ContentAddress>,
    ) -> Result<NewIndex, ApiError> {
        let moved = Segment::joined(self.stored.clone());
        let mut places: HashMap<ChunkId, usize> = HashMap::new();
        for (at, segment) in moved.iter().enumerate() {
            places.extend(segment.chunks.iter().map(|chunk| (chunk.id, at)));
        }
        let small = self.repo.small_segments(&survey.staying(moving))?;
        let small = if small.len() > 1 { small } else { Vec::new() };
        let stays = |id: Option<ContentAddress>| id.is_some_and(|id| !moving.contains(&id));
        let parts = small.iter().map(|(_, segment)| {
            segment.filtered(
                |group| stays(first(&group.data)),
                |group, place, chunk| survey.usage.uses(group, place, chunk),
            )
        });
        let joined = Segment::joined(parts.collect());
        let small: HashSet<ContentAddress> = small.into_iter().map(|(address, _)| address).collect();
        self.extend(&joined).await?;
        let mut segments = Vec::new();
        for segment in moved.iter().chain(&joined) {
            segments.push((self.object(&segment.encode()).await?, segment.clone()));
        }
        let in_joined: Vec<HashSet<ContentAddress>> = joined.iter().map(|s| groups_in(s).collect()).collect();
        let (mut roots, mut objects) = (HashMap::new(), HashSet::new());
        for view in &survey.views {
            let mut new: BTreeSet<usize> = BTreeSet::new();
            let mut old = Vec::new();
            for (object, groups) in &view.segments {
                let gone = groups.iter().filter(|group| moving.contains(group));
                new.extend(gone.flat_map(|g| survey.usage.ids(g)).filter_map(|id| places.get(&id).copied()));
                let left: Vec<_> = groups.iter().filter(|group| !moving.contains(group)).collect();
                if small.contains(&object.shard.address) {
                    let has = |s: &HashSet<ContentAddress>| left.iter().any(|group| s.contains(*group));
                    let numbers = in_joined.iter().enumerate().filter(|(_, s)| has(s)).map(|(at, _)| at);
                    new.extend(numbers.map(|at| moved.len() + at));
                } else if !left.is_empty() {
                    old.push(object.clone());
                }
            }
            // The new ones first: readers take the first that knows a chunk.
            let list: Vec<ObjectRef> = new
                .iter()
                .filter_map(|at| segments.get(*at))
                .map(|(object, _)| object.clone())
                .chain(old)
                .collect();
            objects.extend(list.iter().map(|object| object.shard.address));
            let before = view.point.root.shard.address;
            if list == view.root.segments {
                objects.insert(before);
                continue;
            }
            let encoded = Root { segments: list, ..view.root.clone() }.encode();
            let object = self.object(&encoded).await?;
            objects.insert(object.shard.address);
            roots.insert(view.point.id(), (before, object, encoded));
        }
        Ok(NewIndex { segments, roots, objects, joined: small.len() as u64 })
    }

    /// Keeps the groups of joined segments as long as any restore point: with the segments that are
    /// joined, one may come to refer to a chunk where another one had it.
    async fn extend(&self, joined: &[Segment]) -> Result<(), ApiError> {
        let ids: BTreeSet<ContentAddress> = joined.iter().flat_map(groups_in).collect();
        let mut groups = Vec::new();
        for id in &ids {
            groups.extend(self.repo.book.group(id)?.filter(|group| group.expires < self.placing.expires));
        }
        self.repo.renew_groups(&self.placing, groups, self.placing.expires).await.map(drop)
    }

    /// Writes the list of restore points, and lets go of what it does not need any more.
    async fn settle(
        &self,
        survey: &Survey,
        moving: &BTreeSet<ContentAddress>,
        index: NewIndex,
        out: &mut Pruned,
    ) -> Result<(), ApiError> {
        let change = |head: &mut Head| {
            for point in &mut head.points {
                if let Some((old, new, _)) = index.roots.get(&point.id())
                    && point.root.shard.address == *old
                {
                    point.rewrite(new.clone());
                }
            }
            Ok(())
        };
        let written = self.repo.write_head(self.node, &self.placing, self.choice.redundancy, change).await?;
        out.notes.extend(written.shortage());
        let now: UnixSeconds = files::now();
        let living = written.head.points.iter().filter(|p| p.expires >= now);
        let roots: HashSet<ContentAddress> = living.map(|p| p.root.shard.address).collect();
        self.repo.book.change(|c| {
            c.remove_pending(&self.numbers)?;
            c.keep_roots(|address| roots.contains(address))?;
            for (_, object, encoded) in index.roots.values() {
                c.put_root(&object.shard.address, encoded)?;
            }
            index.segments.iter().try_for_each(|(object, segment)| c.put_segment(object, segment))
        })?;
        if !roots.iter().all(|root| index.objects.contains(root)) {
            out.notes.push(
                "another machine changed the repository meanwhile: what was packed again is given back by the \
                 next prune"
                    .into(),
            );
            return Ok(());
        }
        let mut needed = self.repo.unlisted(now).await?;
        needed.extend(survey.usage.groups().copied());
        needed.retain(|id| !moving.contains(id));
        needed.extend(self.rest.iter().chain(&index.objects).copied());
        needed.extend(self.stored.iter().flat_map(groups_in));
        let mut gone = Vec::new();
        self.repo.book.each_group(|id, group| {
            if !needed.contains(&id) {
                gone.push(group);
            }
        })?;
        self.repo.book.change(|c| c.keep_segments(|address| index.objects.contains(address)))?;
        out.unreached = out.unreached.max(self.repo.give_back(self.node, &self.placing.grant, &gone).await?);
        Ok(())
    }
}
