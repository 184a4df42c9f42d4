//! One run of a backup: from folders to shards and the parts of a restore point.
//!
//! The run compares what it finds with the listing of the restore point before: a file whose length,
//! times and inode are as they were, and whose chunks are all stored, is not read. Everything else is
//! cut into chunks; those that the index does not know go to the encoders. Nothing here knows the
//! network: shards are handed to the caller, who places them. What the caller placed of a run that was
//! interrupted stands in the index of the next run, which therefore goes on where it was.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, File, Metadata},
    io::{self, BufReader, BufWriter, Cursor, Read},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
};

use super::{
    encode::{BATCH_BYTES, BATCH_CHUNKS, Batch, PackedShard, Stopped, assemble, encode},
    index::Index,
    point::{LISTING_CHUNKS_MAX, PROBLEMS_MAX, PROBLEMS_MAX_BYTES, Problem, SEGMENTS_MAX, Totals},
    tree::{self, Content, Entry, ListingError, ListingReader, ListingWriter},
    walk::{Step, Walk},
    xattr,
};
use crate::{
    chunker::Chunker,
    limits::REPO_CUTS,
    manifest::ChunkId,
    owner::{OwnerKey, Secrets},
};

/// Batches that wait between two threads.
const QUEUE: usize = 4;
/// Segments of earlier restore points to which a new one refers at most: its own ones need room too.
const REFERRED_SEGMENTS_MAX: usize = SEGMENTS_MAX - 1_024;
/// Bytes of the lengths of a problem's path and reason, at most.
const PROBLEM_LENGTHS_BYTES: usize = 6;

/// What is backed up.
pub enum Source {
    /// Folders and files.
    Tree(Walk),
    /// One stream, such as a database's dump, under this name.
    Stream(String, Box<dyn Read + Send>),
}

/// Looks at a file before it is taken in; the error says why it is refused.
pub type Inspect<'a> = &'a (dyn Fn(&Path) -> Result<(), String> + Sync);

/// How a run is made.
pub struct Run<'a> {
    /// What is backed up.
    pub source: Source,
    /// The listing of the restore point before, to see what changed.
    pub before: Option<&'a Path>,
    /// Where the new listing is written.
    pub listing: &'a Path,
    /// Most bytes of chunks in a shard.
    pub shard_bytes: usize,
    /// Most chunks in a shard.
    pub shard_chunks: usize,
    /// Threads that compress and encrypt.
    pub encoders: usize,
    /// The inspection.
    pub inspect: Inspect<'a>,
}

/// Counts while a run goes on.
#[derive(Debug, Default)]
pub struct Progress {
    /// Set it to end the run.
    pub stop: AtomicBool,
    /// Files seen so far.
    pub files: AtomicU64,
    /// Bytes of files seen so far, read or not.
    pub bytes: AtomicU64,
    /// Files that there are, as far as counted.
    pub files_total: AtomicU64,
    /// Bytes that there are, as far as counted.
    pub bytes_total: AtomicU64,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The folder below which all lies.
    pub base: PathBuf,
    /// What was backed up.
    pub paths: Vec<PathBuf>,
    /// Counts; `stored_bytes` is left to the caller, who sees the shards.
    pub totals: Totals,
    /// What went wrong, at most [`PROBLEMS_MAX`] of it.
    pub problems: Vec<Problem>,
    /// How much went wrong in all.
    pub problems_total: u64,
    /// Sockets, pipes and devices: nothing of them is backed up, and nothing is wrong with that.
    pub special_files: u64,
    /// The listing's chunks.
    pub listing: Vec<ChunkId>,
    /// Earlier segments to which the new restore point refers.
    pub segments: BTreeSet<usize>,
    /// Earlier groups to which it refers: segment, and group in it.
    pub groups: BTreeSet<(usize, usize)>,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It was told to.
    #[error("the backup was stopped; what it stored is used when it is made again")]
    Stopped,
    /// The stream or the listing could not be read or written, or memory ran out.
    #[error("the backup failed: {0}")]
    Io(#[from] io::Error),
    /// The listing of the restore point before is damaged.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// One restore point cannot describe all of it.
    #[error("a restore point has at most {max} {what}: back fewer folders up together")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: usize,
    },
}

impl From<Stopped> for BackupError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Makes a run; `take` gets the shards in order, from a thread of its own.
///
/// # Errors
/// [`BackupError`]. Single files that cannot be read are no error: they stand among the problems.
pub fn run(
    owner: &OwnerKey,
    index: &Index,
    run: Run<'_>,
    progress: &Progress,
    take: &(dyn Fn(PackedShard) -> Result<(), Stopped> + Sync),
) -> Result<Outcome, BackupError> {
    let secrets = owner.secrets();
    let (batches, waiting) = sync_channel::<Batch>(QUEUE);
    let (encoded, ready) = sync_channel(QUEUE);
    // Owned by the encoders alone: once they have ended, nobody waits for room in the queue.
    let waiting = Arc::new(Mutex::new(waiting));
    std::thread::scope(|scope| {
        let encoders: Vec<_> = (0..run.encoders.max(1))
            .map(|_| {
                let (encoded, waiting) = (encoded.clone(), waiting.clone());
                let secrets = &secrets;
                scope.spawn(move || encode(secrets, &waiting, &encoded))
            })
            .collect();
        drop((encoded, waiting));
        let (shard_bytes, shard_chunks) = (run.shard_bytes, run.shard_chunks);
        let assembler = scope.spawn({
            let secrets = &secrets;
            move || {
                let done = assemble(secrets, shard_bytes, shard_chunks, &ready, take);
                if done.is_err() {
                    // The reader may be far from its next batch.
                    progress.stop.store(true, Ordering::Relaxed);
                }
                done
            }
        });
        if let Source::Tree(walk) = &run.source {
            let walk = walk.clone();
            scope.spawn(move || count(&walk, progress));
        }
        let read = Reader::new(owner, &secrets, index, batches, progress, run.inspect).run(run);
        // Whoever waits for the counter would wait for a scan of the whole disk.
        if read.is_err() {
            progress.stop.store(true, Ordering::Relaxed);
        }
        let failed = |what: &str| io::Error::other(format!("the {what} thread panicked"));
        for encoder in encoders {
            encoder.join().map_err(|_| failed("encoding"))??;
        }
        let assembled = assembler.join().map_err(|_| failed("packing"))?;
        let outcome = read?;
        assembled?;
        Ok(outcome)
    })
}

fn count(walk: &Walk, progress: &Progress) {
    walk.count(|files, bytes| {
        progress.files_total.fetch_add(files, Ordering::Relaxed);
        progress.bytes_total.fetch_add(bytes, Ordering::Relaxed);
        !progress.stop.load(Ordering::Relaxed)
    });
}

type Input = Box<dyn Read>;

/// The listing of the restore point before, read beside the walk.
struct Before {
    reader: ListingReader<BufReader<File>>,
    next: Option<Entry>,
}

impl Before {
    fn open(path: &Path) -> Result<Self, ListingError> {
        let mut reader = ListingReader::new(BufReader::with_capacity(1 << 18, File::open(path)?));
        let next = reader.next_entry()?;
        Ok(Self { reader, next })
    }

    /// The entry with these names, if there was one. Names must come in the order of a listing.
    fn find(&mut self, names: &[Vec<u8>]) -> Result<Option<Entry>, ListingError> {
        while self.next.is_some() {
            match tree::order(self.reader.path(), names) {
                std::cmp::Ordering::Less => self.next = self.reader.next_entry()?,
                std::cmp::Ordering::Equal => return Ok(self.next.clone()),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }
}

struct Reader<'a> {
    secrets: &'a Secrets,
    index: &'a Index,
    progress: &'a Progress,
    inspect: Inspect<'a>,
    chunker: Chunker<Input>,
    batches: SyncSender<Batch>,
    batch: Batch,
    new: HashSet<ChunkId>,
    links: HashMap<(u64, u64), u64>,
    scratch: Vec<u8>,
    problem_bytes: usize,
    out: Outcome,
}

impl<'a> Reader<'a> {
    fn new(
        owner: &OwnerKey,
        secrets: &'a Secrets,
        index: &'a Index,
        batches: SyncSender<Batch>,
        progress: &'a Progress,
        inspect: Inspect<'a>,
    ) -> Self {
        Self {
            secrets,
            index,
            progress,
            inspect,
            chunker: Chunker::new(Box::new(io::empty()), owner.gear(), REPO_CUTS),
            batches,
            batch: Batch::default(),
            new: HashSet::new(),
            links: HashMap::new(),
            scratch: Vec::new(),
            problem_bytes: 0,
            out: Outcome::default(),
        }
    }

    fn run(mut self, run: Run<'_>) -> Result<Outcome, BackupError> {
        let mut listing = ListingWriter::new(BufWriter::new(File::create(run.listing)?));
        match run.source {
            Source::Tree(walk) => {
                let mut before = run.before.map(Before::open).transpose()?;
                for step in walk.steps() {
                    self.step(step, before.as_mut(), &mut listing)?;
                }
                (self.out.base, self.out.paths) = (walk.base, walk.paths);
            }
            Source::Stream(name, input) => {
                self.stream(&name, input, &mut listing)?;
                (self.out.base, self.out.paths) = ("/".into(), vec![Path::new("/").join(name)]);
            }
        }
        listing.finish()?;
        // The listing is stored as every other content is.
        let (chunks, _) = self.chunks(Box::new(File::open(run.listing)?))?;
        within("parts of its list of files", chunks.len(), LISTING_CHUNKS_MAX)?;
        self.out.listing = chunks;
        self.send()?;
        Ok(self.out)
    }

    fn step(
        &mut self,
        step: Step,
        before: Option<&mut Before>,
        listing: &mut ListingWriter<BufWriter<File>>,
    ) -> Result<(), BackupError> {
        if self.progress.stop.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
        within("parts of the index", self.out.segments.len(), REFERRED_SEGMENTS_MAX)?;
        let (path, names, meta) = match step {
            Step::Failed { path, why } => {
                self.problem(&path, why.to_string());
                return Ok(());
            }
            Step::Found { path, names, meta } => (path, names, meta),
        };
        let Some((name, folders)) = names.split_last() else { return Ok(()) };
        let old = match before {
            Some(before) => before.find(&names)?,
            None => None,
        };
        let mut entry = described(folders.len() as u32, name.clone(), &meta);
        // The change time moves with the attributes too.
        let untouched = old.filter(|old| old.ctime_ns == entry.ctime_ns && old.inode == entry.inode);
        entry.xattrs = match &untouched {
            Some(old) => old.xattrs.clone(),
            None => xattr::read(&path),
        };
        let content = match self.content(&path, &meta, &entry, untouched) {
            Ok(Some(content)) => content,
            Ok(None) => {
                self.out.special_files += 1;
                return Ok(());
            }
            Err(Taken::Problem(why)) => {
                self.problem(&path, why);
                return Ok(());
            }
            Err(Taken::Ended(e)) => return Err(e),
        };
        self.tally(&content, &meta);
        let link =
            (meta.nlink() > 1 && matches!(content, Content::File { .. })).then(|| (meta.dev(), meta.ino()));
        entry.content = content;
        let number = listing.push(&entry)?;
        if let Some(key) = link {
            self.links.insert(key, number);
        }
        Ok(())
    }

    fn tally(&mut self, content: &Content, meta: &Metadata) {
        let totals = &mut self.out.totals;
        match content {
            Content::Dir => totals.dirs += 1,
            Content::Symlink(_) => totals.links += 1,
            Content::File { size, .. } => {
                totals.files += 1;
                totals.bytes = totals.bytes.saturating_add(*size);
            }
            Content::HardLink(_) => totals.files += 1,
        }
        if meta.is_file() {
            self.progress.files.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What an entry is; `None` for sockets, pipes and devices, which have no content that could be restored.
    fn content(
        &mut self,
        path: &Path,
        meta: &Metadata,
        entry: &Entry,
        old: Option<Entry>,
    ) -> Result<Option<Content>, Taken> {
        let kind = meta.file_type();
        if kind.is_dir() {
            return Ok(Some(Content::Dir));
        }
        if kind.is_symlink() {
            let target = fs::read_link(path)?;
            return Ok(Some(Content::Symlink(target.as_os_str().as_bytes().to_vec())));
        }
        if !kind.is_file() {
            return Ok(None);
        }
        if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
            return Ok(Some(Content::HardLink(*first)));
        }
        if let Some(Entry { content: Content::File { size, chunks }, mtime_ns, .. }) = old
            && size == meta.len()
            && mtime_ns == entry.mtime_ns
            && chunks.iter().all(|id| self.is_stored(id))
        {
            chunks.iter().for_each(|id| self.refer(id));
            self.progress.bytes.fetch_add(size, Ordering::Relaxed);
            return Ok(Some(Content::File { size, chunks }));
        }
        (self.inspect)(path).map_err(|why| Taken::Problem(format!("refused: {why}")))?;
        self.out.totals.read_files += 1;
        let file = File::open(path)?;
        let (chunks, size) = if meta.len() <= REPO_CUTS.min_bytes as u64 {
            self.short(file, meta.len())?
        } else {
            self.counted(Box::new(file))?
        };
        Ok(Some(Content::File { size, chunks }))
    }

    /// A file that is one chunk, unless it grew meanwhile.
    fn short(&mut self, mut file: File, len: u64) -> Result<(Vec<ChunkId>, u64), Taken> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.reserve(len as usize + 1);
        (&mut file).take(REPO_CUTS.min_bytes as u64 + 1).read_to_end(&mut scratch)?;
        if scratch.len() > REPO_CUTS.min_bytes {
            return self.counted(Box::new(Cursor::new(scratch).chain(file)));
        }
        let mut chunks = Vec::new();
        if !scratch.is_empty() {
            chunks.push(self.chunk(&scratch)?);
        }
        let size = scratch.len() as u64;
        self.progress.bytes.fetch_add(size, Ordering::Relaxed);
        self.scratch = scratch;
        Ok((chunks, size))
    }

    fn counted(&mut self, input: Input) -> Result<(Vec<ChunkId>, u64), Taken> {
        Ok(self.chunks(input)?)
    }

    /// The chunks of a stream and its length.
    fn chunks(&mut self, input: Input) -> Result<(Vec<ChunkId>, u64), BackupError> {
        self.chunker.restart(input);
        let (mut chunks, mut size) = (Vec::new(), 0u64);
        loop {
            if self.progress.stop.load(Ordering::Relaxed) {
                return Err(BackupError::Stopped);
            }
            let Some(plain) = self.chunker.next_chunk()? else { break };
            let len = plain.len() as u64;
            let id = self.secrets.chunk_id(plain);
            if self.index.get(&id).is_none() && self.new.insert(id) {
                self.batch.plain.extend_from_slice(plain);
                self.batch.chunks.push((id, len as u32));
                self.out.totals.new_bytes += len;
            }
            self.added(id)?;
            chunks.push(id);
            size += len;
            self.progress.bytes.fetch_add(len, Ordering::Relaxed);
        }
        self.chunker.restart(Box::new(io::empty()));
        Ok((chunks, size))
    }

    fn chunk(&mut self, plain: &[u8]) -> Result<ChunkId, BackupError> {
        let id = self.secrets.chunk_id(plain);
        if self.index.get(&id).is_none() && self.new.insert(id) {
            self.batch.plain.extend_from_slice(plain);
            self.batch.chunks.push((id, plain.len() as u32));
            self.out.totals.new_bytes += plain.len() as u64;
        }
        self.added(id)?;
        Ok(id)
    }

    fn is_stored(&self, id: &ChunkId) -> bool {
        self.new.contains(id) || self.index.get(id).is_some()
    }

    /// Notes that the new restore point needs this chunk, if an earlier run stored it.
    fn refer(&mut self, id: &ChunkId) {
        if let Some(found) = self.index.get(id) {
            self.out.segments.insert(found.segment);
            self.out.groups.insert((found.segment, found.group_at));
        }
    }

    fn added(&mut self, id: ChunkId) -> Result<(), BackupError> {
        self.refer(&id);
        if self.batch.plain.len() >= BATCH_BYTES || self.batch.chunks.len() >= BATCH_CHUNKS {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), BackupError> {
        if self.batch.chunks.is_empty() {
            return Ok(());
        }
        let number = self.batch.number;
        let batch = std::mem::replace(&mut self.batch, Batch { number: number + 1, ..Batch::default() });
        // Nobody takes it when the encoders or the assembler ended; they say why.
        self.batches.send(batch).map_err(|_| BackupError::Stopped)
    }

    fn stream(
        &mut self,
        name: &str,
        input: Box<dyn Read + Send>,
        listing: &mut ListingWriter<BufWriter<File>>,
    ) -> Result<(), BackupError> {
        let (chunks, size) = self.chunks(input)?;
        let entry = Entry {
            depth: 0,
            name: name.as_bytes().to_vec(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            inode: 0,
            content: Content::File { size, chunks },
            xattrs: Vec::new(),
        };
        listing.push(&entry)?;
        let totals = &mut self.out.totals;
        (totals.files, totals.bytes, totals.read_files) = (1, size, 1);
        Ok(())
    }

    fn problem(&mut self, path: &Path, why: String) {
        self.out.problems_total += 1;
        let path = path.as_os_str().as_bytes().to_vec();
        let bytes = path.len() + why.len() + PROBLEM_LENGTHS_BYTES;
        if self.out.problems.len() < PROBLEMS_MAX && self.problem_bytes + bytes <= PROBLEMS_MAX_BYTES {
            self.problem_bytes += bytes;
            self.out.problems.push(Problem { path, why });
        }
    }
}

fn within(what: &'static str, count: usize, max: usize) -> Result<(), BackupError> {
    if count <= max { Ok(()) } else { Err(BackupError::TooMuch { what, max }) }
}

/// What became of one file.
enum Taken {
    /// It is left out; the run goes on.
    Problem(String),
    /// The run ends.
    Ended(BackupError),
}

impl From<io::Error> for Taken {
    fn from(e: io::Error) -> Self {
        Self::Problem(e.to_string())
    }
}

impl From<BackupError> for Taken {
    fn from(e: BackupError) -> Self {
        match e {
            BackupError::Io(e) => e.into(),
            other => Self::Ended(other),
        }
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

fn described(depth: u32, name: Vec<u8>, meta: &Metadata) -> Entry {
    Entry {
        depth,
        name,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
        ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        inode: meta.ino(),
        content: Content::Dir,
        xattrs: Vec::new(),
    }
}
