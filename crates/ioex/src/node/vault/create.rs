//! Making a backup: walk, pack, place, keep what is shared for longer, write the restore point.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ioex_api::{
    ApiError, BackupProgress, BackupStep, ErrorCode, Holding,
    frames::FrameReader,
    vault::{BackupReport, CreateBackup, Point, Problem},
};
use ioex_base::{ContentAddress, DAY_SECONDS, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_vault::{
    Choice, ChunkRef, Holder, Placer, Redundancy, ShardRef, Wanted, choose, encode,
    repo::{
        Group, Head, Index, Origin, PackedShard, PointId, PointRef, Root, SEGMENT_CHUNKS_MAX, SEGMENTS_MAX,
        Segment, Stopped, TagId, Totals, Walk, WalkError,
        backup::{self, BackupError, Outcome, Progress, Run, Source},
        seal_object,
    },
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    super::{Node, files, lock},
    Repo,
    book::{CopyRecord, GroupRecord},
    failure::{fail, fresh_seed, internal, io_error},
    fetch::Fetcher,
    inspect::{Inspector, is_refusal},
    manage::Need,
    placing::{PlacedGroup, Placing, capability, find_holders},
    points,
    stream::PipeReader,
    watch,
};

/// Packed shards that wait for their group.
const SHARDS_WAITING_MAX: usize = 2;
/// Bytes of groups that are being placed at once; one group at least.
const IN_FLIGHT_BYTES: u64 = 24 * 1024 * 1024;
/// Placed groups that are written into the book together: what a crash stores a second time.
const BOOKED_TOGETHER: usize = 16;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Longest keeping of a restore point in days: that of a shard.
const DAYS_MAX: u32 = (SHARD_LIFE_SECONDS / DAY_SECONDS) as u32;
/// Runs over the same folders, when devices turn out to have lost what was thought to be stored.
const RUNS_MAX: usize = 3;

/// Tells progress to whoever follows the job.
pub(super) type Tell<'a> = &'a (dyn Fn(BackupProgress) + Send + Sync);

fn progress(step: BackupStep, done_bytes: u64, total_bytes: u64) -> BackupProgress {
    BackupProgress { step, done_bytes, total_bytes, note: None, holder: None }
}

fn note(step: BackupStep, text: String) -> BackupProgress {
    BackupProgress { step, done_bytes: 0, total_bytes: 0, note: Some(text), holder: None }
}

/// Why paths cannot be backed up.
pub(super) fn walk_error(e: WalkError) -> ApiError {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match e {
        WalkError::Path { path, source } if matches!(source.kind(), NotFound | NotADirectory) => {
            fail(ErrorCode::NotFound, format!("{} is not there", path.display()))
        }
        WalkError::Path { path, source } => io_error(&path)(source),
        WalkError::Nothing | WalkError::Special(_) | WalkError::Pattern { .. } => {
            fail(ErrorCode::BadRequest, e.to_string())
        }
    }
}

/// For how many days a restore point is kept.
pub(super) fn days(create: &CreateBackup) -> Result<u32, ApiError> {
    let days = create.days.unwrap_or(DAYS_MAX);
    if (1..=DAYS_MAX).contains(&days) {
        return Ok(days);
    }
    let text = format!("a restore point is kept for 1 to {DAYS_MAX} days; it can be renewed later");
    Err(fail(ErrorCode::BadRequest, text))
}

/// What stays the same during a job.
pub(super) struct Job<'a> {
    pub(super) node: &'a Node,
    pub(super) repo: Arc<Repo>,
    pub(super) create: &'a CreateBackup,
    pub(super) progress: Arc<Progress>,
    pub(super) tell: Tell<'a>,
    /// What a command brings, from the beginning of the job until it is read.
    pub(super) pipe: Mutex<Option<PipeReader>>,
}

/// What was placed so far.
#[derive(Default)]
struct Placed {
    groups: u64,
    bytes: u64,
    stored_bytes: u64,
    by_device: BTreeMap<Uid, (u64, u64)>,
    short: u64,
    same_domain: bool,
}

impl Placed {
    fn add(&mut self, redundancy: Redundancy, shards: &[ShardRef], placed: &PlacedGroup) {
        self.groups += 1;
        self.short += u64::from(placed.copies.len() < usize::from(redundancy.o()));
        self.same_domain |= placed.same_domain;
        for (at, uid) in &placed.copies {
            let bytes = shards.get(usize::from(*at)).map_or(0, |s| u64::from(s.bytes));
            let (count, sum) = self.by_device.entry(*uid).or_default();
            (*count, *sum) = (*count + 1, *sum + bytes);
            self.bytes += bytes;
        }
    }

    fn holdings(&self, holders: &[Holder]) -> Vec<Holding> {
        let owner = |uid: &Uid| holders.iter().find(|h| h.uid == *uid).map(|h| h.owner.clone());
        let holding = |(uid, (shards, bytes)): (&Uid, &(u64, u64))| Holding {
            uid: *uid,
            owner: owner(uid).unwrap_or_default(),
            shards: *shards,
            bytes: *bytes,
        };
        self.by_device.iter().map(holding).collect()
    }
}

/// What a restore point shares with others.
struct Shared {
    groups: Vec<ContentAddress>,
    /// Groups that bear fewer losses than the policy, and stay so: a code keeps its numbers.
    weaker: usize,
}

/// A group that was placed.
pub(super) struct Stored {
    pub(super) record: GroupRecord,
    pub(super) segment: Segment,
    placed: PlacedGroup,
}

impl Job<'_> {
    fn says(&self, step: BackupStep, done: u64, total: u64) {
        (self.tell)(progress(step, done, total));
    }

    /// Makes the backup.
    pub(super) async fn run(&self, number: u64) -> Result<BackupReport, ApiError> {
        let started = Instant::now();
        // First of all: if the command is gone, nobody waits for what takes its time.
        if let Some(stream) = &self.create.stream {
            let pipe = PipeReader::open(&stream.pipe, self.progress.clone());
            *lock(&self.pipe) = Some(pipe.map_err(io_error(&stream.pipe))?);
        }
        let wanted: Wanted = match self.create.policy.as_str() {
            "" => Wanted::Auto,
            text => text.parse().map_err(|e| fail(ErrorCode::BadRequest, format!("{e}")))?,
        };
        let days = days(self.create)?;
        let grant = capability(self.node)?;
        let _work = self.repo.work.lock().await;
        self.says(BackupStep::FindHolders, 0, 0);
        let found = find_holders(&self.node.mesh, &grant, &HashSet::new()).await?;
        let mut choice = choose(wanted, &found.holders).ok_or_else(|| found.nobody())?;
        let (closed, holders) = (found.closed(), found.holders);
        if !choice.notes.is_empty() && !closed.is_empty() {
            choice.notes.push(closed.clone());
        }
        let created = files::now();
        let expires = created.plus(u64::from(days) * DAY_SECONDS);
        let placing = Placing {
            mesh: self.node.mesh.clone(),
            grant,
            reader: self.repo.keys.reader.uid(),
            expires,
            placer: Arc::new(Mutex::new(Placer::new(&holders, fresh_seed()?))),
            closed: closed.into(),
        };
        let mut known = self.repo.newest_head(self.node).await?.head;
        known.expire(created);
        let mut placed = Placed::default();
        let (outcome, index, shared) = self.passes(&known, choice.goal, &placing, &mut placed).await?;
        let renewed = shared.groups.len() as u64;
        self.says(BackupStep::Index, 0, 0);
        let (point, shortage) =
            self.write_point(&outcome, &index, &choice, &placing, (created, &mut placed)).await?;
        // The restore point stands already: what is shared may be much.
        let stop = Some(&self.progress.stop);
        let completed = watch::complete(self.node, &self.repo, shared.groups, stop).await;
        let mut notes = choice.notes;
        notes.extend(watch::completed(completed));
        if shared.weaker > 0 {
            notes.push(format!(
                "{} shared groups were stored for fewer owners and bear fewer losses than {}",
                shared.weaker, choice.goal
            ));
        }
        notes.extend(shortage);
        if placed.short > 0 {
            notes.push(format!(
                "{} groups are not complete yet: they get what they lack as soon as devices have room",
                placed.short
            ));
        }
        if placed.same_domain {
            notes.push("some shards that protect each other lie in the same network".to_owned());
        }
        let problem = |p: &ioex_vault::repo::Problem| {
            let (path, raw) = points::shown(&p.path);
            Problem { path, raw, why: p.why.clone() }
        };
        let problems_total = outcome.problems_total;
        Ok(BackupReport {
            job: number,
            point: Point { problems_total: Some(problems_total), ..points::point(&point) },
            policy: choice.redundancy.to_string(),
            notes,
            groups: placed.groups,
            placed_bytes: placed.bytes,
            renewed_groups: renewed,
            holders: placed.holdings(&holders),
            problems: outcome.problems.iter().map(problem).collect(),
            problems_total,
            special_files: outcome.special_files,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Packs and places what is new, and keeps what is shared for longer. When devices have lost
    /// something that is shared, it is packed again.
    async fn passes(
        &self,
        known: &Head,
        redundancy: Redundancy,
        placing: &Placing,
        placed: &mut Placed,
    ) -> Result<(Outcome, Index, Shared), ApiError> {
        for _ in 0..RUNS_MAX {
            let index = Arc::new(self.load_index(known).await?);
            let outcome = self.pack(known, &index, redundancy, placing, placed).await?;
            self.says(BackupStep::Renew, 0, 0);
            let groups = self.shared_groups(&index, &outcome, redundancy, placing)?;
            let bears = redundancy.for_index().tolerated_losses();
            let is_weaker = |g: &&GroupRecord| g.own_redundancy().tolerated_losses() < bears;
            let shared = Shared {
                groups: groups.iter().filter_map(GroupRecord::id).collect(),
                weaker: groups.iter().filter(is_weaker).count(),
            };
            let lost = self.repo.renew_groups(placing, groups, placing.expires).await?;
            if lost.is_empty() {
                let index = Arc::try_unwrap(index).map_err(|_| internal("the index is still in use"))?;
                return Ok((outcome, index, shared));
            }
            if self.create.stream.is_some() {
                break;
            }
            let text = format!("{} groups were lost by their holders and are stored again", lost.len());
            (self.tell)(note(BackupStep::Renew, text));
        }
        Err(fail(
            ErrorCode::NotEnoughHolders,
            "devices lose what they take faster than it is stored: try again, or with a stronger policy",
        ))
    }

    /// The index of all restore points and of what unfinished runs stored, without what is lost.
    async fn load_index(&self, known: &Head) -> Result<Index, ApiError> {
        let fetcher = Fetcher::new(&self.node.mesh, &self.repo.keys.reader)?;
        let mut index = Index::default();
        self.repo.book.each_group(|_, group| {
            if group.is_lost() {
                group.data.iter().for_each(|shard| index.lose(shard.address));
            }
        })?;
        // The newest first: what was lost and stored again is found where it is now.
        for segment in self.repo.book.pending()? {
            index.add(None, segment);
        }
        for point in known.points.iter().rev() {
            let root = match self.repo.root(&fetcher, point).await {
                Ok(root) => root,
                // The new restore point does not need the old one; it only costs more without it.
                Err(e) => {
                    (self.tell)(note(BackupStep::FindHolders, format!("restore point {}: {e}", point.id())));
                    continue;
                }
            };
            if let Err(e) = self.repo.load_segments(&fetcher, &root, &mut index).await {
                (self.tell)(note(BackupStep::FindHolders, format!("index of {}: {e}", point.id())));
            }
        }
        Ok(index)
    }

    /// The listing of the newest restore point of the same paths, if it is here.
    fn before(&self, known: &Head, source: &Source) -> Option<PathBuf> {
        let Source::Tree(walk) = source else { return None };
        let origin = Origin::new(&hostname(), &paths_of(&walk.paths));
        let point = known.points.iter().rfind(|p| p.origin == Some(origin))?;
        self.repo.kept_listing(point.id())
    }

    /// The machine and the paths, for people.
    fn subject(&self) -> String {
        let mut text = hostname();
        for path in &self.create.paths {
            text.push(' ');
            text.push_str(&path.to_string_lossy());
        }
        if let Some(stream) = &self.create.stream {
            text.push_str(" < ");
            text.push_str(&stream.name);
        }
        text
    }

    /// The same with the owner's words.
    fn label(&self) -> String {
        let tags: String = self.create.tags.iter().map(|tag| format!(" #{tag}")).collect();
        shortened(self.subject() + &tags)
    }

    fn source(&self) -> Result<Source, ApiError> {
        if let Some(stream) = &self.create.stream {
            let pipe = lock(&self.pipe).take().ok_or_else(|| internal("the stream was read before"))?;
            // Behind the frames' end a refusal is an error as well, and there is no restore point.
            let inspector = Inspector::new(&self.node.config.inspect);
            let spool = self.repo.new_listing().with_extension("spool");
            let input = inspector.stream(Box::new(FrameReader::new(pipe)), &spool);
            let input = input.map_err(|e| fail(ErrorCode::Refused, e.to_string()))?;
            return Ok(Source::Stream(stream.name.clone(), input));
        }
        let walk = Walk::new(&self.create.paths, &self.create.exclude, self.create.one_file_system);
        Ok(Source::Tree(walk.map_err(walk_error)?))
    }

    async fn pack(
        &self,
        known: &Head,
        index: &Arc<Index>,
        redundancy: Redundancy,
        placing: &Placing,
        placed: &mut Placed,
    ) -> Result<Outcome, ApiError> {
        let (shards, mut packed) = mpsc::channel::<PackedShard>(SHARDS_WAITING_MAX);
        let packing = {
            let (repo, index, counts) = (self.repo.clone(), index.clone(), self.progress.clone());
            let source = self.source()?;
            let before = self.before(known, &source);
            let inspector = Inspector::new(&self.node.config.inspect);
            let shard_bytes = redundancy.shard_bytes() as usize;
            // Whatever a group holds must fit one segment.
            let shard_chunks = SEGMENT_CHUNKS_MAX / usize::from(redundancy.k());
            tokio::task::spawn_blocking(move || {
                let take = |shard| shards.blocking_send(shard).map_err(|_| Stopped);
                let inspect = |path: &Path| inspector.check(path);
                let listing = repo.new_listing();
                let encoders = std::thread::available_parallelism().map_or(1, usize::from);
                let run = Run {
                    source,
                    before: before.as_deref(),
                    listing: &listing,
                    shard_bytes,
                    shard_chunks,
                    encoders,
                    inspect: &inspect,
                };
                backup::run(&repo.keys.owner, &index, run, &counts, &take)
            })
        };
        let stored = self.place(&mut packed, redundancy, placing, placed).await;
        if stored.is_err() {
            // Whoever packs notices that nobody takes the shards.
            self.progress.stop.store(true, Ordering::Relaxed);
            drop(packed);
        }
        let outcome = packing.await.map_err(internal)?;
        stored?;
        outcome.map_err(|e| match e {
            BackupError::Stopped => fail(ErrorCode::Timeout, e.to_string()),
            BackupError::Io(e) if is_refusal(&e) => fail(ErrorCode::Refused, e.to_string()),
            BackupError::Io(e) => fail(ErrorCode::Io, e.to_string()),
            BackupError::Listing(e) => fail(ErrorCode::Io, e.to_string()),
            BackupError::TooMuch { .. } => fail(ErrorCode::NoSpace, e.to_string()),
        })
    }

    /// Gathers shards into groups and places these.
    async fn place(
        &self,
        packed: &mut mpsc::Receiver<PackedShard>,
        redundancy: Redundancy,
        placing: &Placing,
        placed: &mut Placed,
    ) -> Result<(), ApiError> {
        let mut running: JoinSet<Result<Stored, ApiError>> = JoinSet::new();
        let (mut gathered, mut in_flight, mut booked) = (Vec::new(), 0u64, Vec::new());
        let (mut open, mut tick) = (true, tokio::time::interval(TELL_EVERY));
        let in_group = usize::from(redundancy.k());
        let size = |g: &[PackedShard]| g.iter().map(|p| p.bytes.len() as u64).sum::<u64>();
        while open || !running.is_empty() {
            tokio::select! {
                shard = packed.recv(), if open && in_flight < IN_FLIGHT_BYTES => {
                    open = shard.is_some();
                    gathered.extend(shard);
                    if gathered.len() == in_group || (!open && !gathered.is_empty()) {
                        let group = std::mem::take(&mut gathered);
                        placed.stored_bytes += size(&group);
                        in_flight += size(&group) * u64::from(redundancy.n()) / u64::from(redundancy.k());
                        running.spawn(store(placing.clone(), redundancy, group));
                    }
                }
                Some(stored) = running.join_next() => {
                    let stored = stored.map_err(internal)??;
                    let bytes: u64 = stored.record.data.iter().map(|s| u64::from(s.bytes)).sum();
                    in_flight = in_flight
                        .saturating_sub(bytes * u64::from(redundancy.n()) / u64::from(redundancy.k()));
                    let shards: Vec<ShardRef> = stored.record.shards().copied().collect();
                    placed.add(stored.record.own_redundancy(), &shards, &stored.placed);
                    for text in &stored.placed.notes {
                        (self.tell)(note(BackupStep::Place, text.clone()));
                    }
                    booked.push(stored);
                    if booked.len() >= BOOKED_TOGETHER {
                        self.book(std::mem::take(&mut booked)).await?;
                    }
                }
                _ = tick.tick() => {
                    if open {
                        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
                        let p = &self.progress;
                        self.says(BackupStep::Pack, load(&p.bytes), load(&p.bytes_total).max(load(&p.bytes)));
                    } else {
                        self.says(BackupStep::Place, placed.stored_bytes.saturating_sub(in_flight), placed.stored_bytes);
                    }
                }
            }
        }
        self.book(booked).await
    }

    async fn book(&self, stored: Vec<Stored>) -> Result<(), ApiError> {
        if stored.is_empty() {
            return Ok(());
        }
        let repo = self.repo.clone();
        let write = move || {
            repo.book.change(|c| {
                for group in &stored {
                    c.put_group(&group.record)?;
                    c.add_pending(&group.segment)?;
                }
                Ok(())
            })
        };
        Ok(tokio::task::spawn_blocking(write).await.map_err(internal)??)
    }

    /// The groups of earlier restore points to which the new one refers, and those of the segments
    /// that say so. Copies of them are wanted as of the new one.
    fn shared_groups(
        &self,
        index: &Index,
        outcome: &Outcome,
        redundancy: Redundancy,
        placing: &Placing,
    ) -> Result<Vec<GroupRecord>, ApiError> {
        let mut out = Vec::new();
        let mut add = |need: &Need, goal: Redundancy| {
            let mut record = self.repo.known_group(need, goal, placing)?;
            record.raise_to(goal);
            out.push(record);
            Ok::<(), ApiError>(())
        };
        for (segment, group) in &outcome.groups {
            let Some((group, holders)) = index.group(*segment, *group) else { continue };
            let need = Need { group: group.clone(), holders };
            add(&need, redundancy)?;
        }
        for segment in &outcome.segments {
            if let Some(object) = index.stored(*segment) {
                let need = Need::object(object.shard);
                add(&need, redundancy.for_index())?;
            }
        }
        Ok(out)
    }

    /// Stores segments and root, adds the restore point to the head, and tidies up.
    /// Returns what the owner should know of the head beside it.
    async fn write_point(
        &self,
        outcome: &Outcome,
        index: &Index,
        choice: &Choice,
        placing: &Placing,
        (created, placed): (UnixSeconds, &mut Placed),
    ) -> Result<(PointRef, Option<String>), ApiError> {
        let repo = &self.repo;
        let mut segments = Vec::new();
        let mut new_segments = Vec::new();
        for segment in Segment::joined(repo.book.pending()?) {
            let (object, bytes) = seal_object(&repo.keys, &segment.encode()).map_err(internal)?;
            self.store_object(object.shard, bytes, choice.goal, placing, placed).await?;
            segments.push(object.clone());
            new_segments.push((object, segment));
        }
        // Newer ones first, as readers take the first that knows a chunk.
        segments.extend(outcome.segments.iter().filter_map(|s| index.stored(*s).cloned()));
        let totals = Totals { stored_bytes: placed.stored_bytes, ..outcome.totals };
        if segments.len() > SEGMENTS_MAX {
            let text = format!(
                "a restore point has at most {SEGMENTS_MAX} parts of the index: back fewer folders up together"
            );
            return Err(fail(ErrorCode::NoSpace, text));
        }
        let (paths, host) = (paths_of(&outcome.paths), hostname());
        let origin = Origin::new(&host, &paths);
        let root = Root {
            created,
            host,
            base: outcome.base.as_os_str().as_encoded_bytes().to_vec(),
            paths,
            tags: self.create.tags.clone(),
            totals,
            problems: outcome.problems.clone(),
            problems_total: outcome.problems_total,
            listing: outcome.listing.clone(),
            segments,
        };
        let encoded = root.encode();
        let (object, bytes) = seal_object(&repo.keys, &encoded).map_err(internal)?;
        self.store_object(object.shard, bytes, choice.goal, placing, placed).await?;
        let point = PointRef {
            created,
            expires: placing.expires,
            label: self.label(),
            origin: Some(origin),
            tags: self.create.tags.iter().map(|tag| TagId::of(tag)).collect(),
            totals,
            root: object,
            rewritten: None,
        };
        let add = |head: &mut Head| {
            head.expire(created);
            head.add(point.clone())
        };
        let written = repo.write_head(self.node, placing, choice.redundancy, add).await?;
        let kept: BTreeSet<PointId> = written.head.points.iter().map(PointRef::id).collect();
        let (listing, new) = (repo.listing_path(point.id()), repo.new_listing());
        let hash = points::listing_hash(&new).map_err(io_error(&new))?;
        std::fs::rename(&new, &listing).map_err(io_error(&listing))?;
        repo.book.change(|c| {
            c.clear_pending()?;
            c.put_listing_hash(point.id(), &hash)?;
            c.put_root(&point.root.shard.address, &encoded)?;
            new_segments.iter().try_for_each(|(object, segment)| c.put_segment(object, segment))
        })?;
        repo.forget_listings(|id| kept.contains(&id));
        Ok((point, written.shortage()))
    }

    async fn store_object(
        &self,
        shard: ShardRef,
        bytes: Vec<u8>,
        redundancy: Redundancy,
        placing: &Placing,
        placed: &mut Placed,
    ) -> Result<(), ApiError> {
        let group = PackedShard { shard, bytes, chunks: Vec::new() };
        let stored = store(placing.clone(), redundancy.for_index(), vec![group]).await?;
        placed.add(stored.record.own_redundancy(), &[shard], &stored.placed);
        Ok(self.repo.book.change(|c| c.put_group(&stored.record))?)
    }
}

/// Computes a group's parity and brings all of it to devices.
pub(super) async fn store(
    placing: Placing,
    redundancy: Redundancy,
    group: Vec<PackedShard>,
) -> Result<Stored, ApiError> {
    let own = redundancy.short(group.len());
    let parity = own.parity_for(group.len());
    let (mut data, mut chunks) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
    for shard in group {
        data.push((shard.shard, Bytes::from(shard.bytes)));
        chunks.push(shard.chunks);
    }
    let mut shards = data.clone();
    if parity > 0 {
        let bytes: Vec<Bytes> = data.iter().map(|(_, bytes)| bytes.clone()).collect();
        let coded = tokio::task::spawn_blocking(move || encode(&bytes, parity)).await;
        for bytes in coded.map_err(internal)?.map_err(internal)? {
            let reference = ShardRef { address: ContentAddress::of(&bytes), bytes: bytes.len() as u32 };
            shards.push((reference, Bytes::from(bytes)));
        }
    }
    let placed = placing.group(own, &shards).await;
    let different: HashSet<u16> = placed.copies.iter().map(|(at, _)| *at).collect();
    if different.len() < usize::from(own.k()) {
        let longest = shards.iter().map(|(s, _)| u64::from(s.bytes)).max().unwrap_or(0);
        let mut why = placed.notes;
        why.push(placing.why_not(longest));
        let text = format!(
            "only {} of the {} shards that a group needs found a device: {}",
            different.len(),
            own.k(),
            why.join("; ")
        );
        return Err(fail(ErrorCode::NotEnoughHolders, text));
    }
    let parity: Vec<ShardRef> = shards.iter().skip(data.len()).map(|(s, _)| *s).collect();
    let data: Vec<ShardRef> = data.iter().map(|(s, _)| *s).collect();
    let copies = placed.copies.iter().map(|(at, uid)| CopyRecord { shard: *at, device: *uid, failed: false });
    let record = GroupRecord {
        redundancy,
        data: data.clone(),
        parity: parity.clone(),
        reader: placing.reader,
        expires: placing.expires,
        copies: copies.collect(),
    };
    let mut segment = Segment::default();
    let mut holders = vec![Vec::new(); data.len() + parity.len()];
    for (at, uid) in &placed.copies {
        if let (Some(list), Some(device)) = (holders.get_mut(usize::from(*at)), segment.device(*uid)) {
            list.push(device);
        }
    }
    for (at, chunks) in (0..).zip(chunks) {
        segment.chunks.extend(chunks.into_iter().map(|c| ChunkRef { shard: at, ..c }));
    }
    segment.groups.push(Group { data, parity, holders });
    Ok(Stored { record, segment, placed })
}

/// As much of a text as a head holds.
fn shortened(mut text: String) -> String {
    let mut end = text.len().min(ioex_vault::repo::LABEL_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn paths_of(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| path.as_os_str().as_encoded_bytes().to_vec()).collect()
}

fn hostname() -> String {
    let name = rustix::system::uname();
    let text = name.nodename().to_string_lossy().into_owned();
    if text.is_empty() { "this machine".to_owned() } else { text }
}
