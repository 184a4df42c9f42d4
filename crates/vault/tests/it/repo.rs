//! Whole runs of a repository: backed up, changed, backed up again, restored.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use ioex_base::ContentAddress;
use ioex_vault::repo::{
    Group, Index, PROBLEMS_MAX_BYTES, PackedShard, RecoveryKey, RepoKeys, Segment, Stopped, TreeError,
    TreeWriter, Walk, WalkError,
    backup::{self, BackupError, Outcome, Progress, Run, Source},
    plan::{Change, Plan, PlanError, Selection, diff},
    tree::ListingReader,
};
use tempfile::TempDir;

/// Nobody waits for another restore to the same place.
const AT_ONCE: Duration = Duration::ZERO;

/// A repository whose shards lie in memory.
struct World {
    dir: TempDir,
    keys: RepoKeys,
    index: Index,
    shards: HashMap<ContentAddress, Vec<u8>>,
}

/// What one run stored.
struct Point {
    outcome: Outcome,
    listing: PathBuf,
    new: Vec<PackedShard>,
}

impl World {
    fn new() -> Self {
        let keys = RecoveryKey::from_bytes([5; 32]).keys();
        Self { dir: tempfile::tempdir().unwrap(), keys, index: Index::default(), shards: HashMap::new() }
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.tree().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn backup(&mut self, name: &str, before: Option<&Path>) -> Point {
        let walk = Walk::new(&[self.tree()], &[], false).unwrap();
        self.backup_from(name, before, Source::Tree(walk), &|_| Ok(()), usize::MAX).unwrap()
    }

    /// Stops after so many shards.
    fn backup_from(
        &mut self,
        name: &str,
        before: Option<&Path>,
        source: Source,
        inspect: backup::Inspect<'_>,
        most: usize,
    ) -> Result<Point, BackupError> {
        let listing = self.dir.path().join(name);
        let taken = Mutex::new(Vec::new());
        let take = |shard: PackedShard| {
            let mut taken = taken.lock().unwrap();
            if taken.len() >= most {
                return Err(Stopped);
            }
            taken.push(shard);
            Ok(())
        };
        let run = Run {
            source,
            before,
            listing: &listing,
            shard_bytes: 1 << 20,
            shard_chunks: 200,
            encoders: 2,
            inspect,
        };
        let progress = Progress::default();
        let outcome = backup::run(&self.keys.owner, &self.index, run, &progress, &take);
        let new = taken.into_inner().unwrap();
        let mut segment = Segment::default();
        for packed in &new {
            self.shards.insert(packed.shard.address, packed.bytes.clone());
            let at = segment.groups.len() as u32;
            segment.groups.push(Group { data: vec![packed.shard], ..Group::default() });
            segment.chunks.extend(packed.chunks.iter().map(|c| {
                let mut c = c.clone();
                c.shard = at;
                c
            }));
        }
        self.index.add(None, Segment::decode(&segment.encode()).unwrap());
        let outcome = outcome?;
        assert_eq!(
            progress.files.load(Ordering::Relaxed),
            outcome.totals.files.min(progress.files.load(Ordering::Relaxed))
        );
        Ok(Point { outcome, listing, new })
    }

    /// Restores all files, and stops before the end.
    fn begin(&self, point: &Point, out: &Path) {
        let plan = self.plan(point, &Selection::default()).unwrap();
        let writer = TreeWriter::open(plan, &self.keys, out, AT_ONCE).unwrap();
        for at in writer.missing() {
            writer.accept(at, &self.parts(writer.plan(), at)).unwrap();
        }
        writer.pause().unwrap();
    }

    fn plan(&self, point: &Point, selection: &Selection) -> Result<Plan, PlanError> {
        Plan::new(|| fs::File::open(&point.listing).map(std::io::BufReader::new), selection, &self.index)
    }

    fn parts(&self, plan: &Plan, at: u32) -> Vec<(u32, Vec<u8>)> {
        let wanted = &plan.shards[at as usize];
        let bytes = &self.shards[&wanted.shard.address];
        let part = |(start, len): (u32, u32)| (start, bytes[start as usize..][..len as usize].to_vec());
        wanted.ranges().into_iter().map(part).collect()
    }

    fn restore(&self, point: &Point, selection: &Selection, name: &str) -> PathBuf {
        let out = self.dir.path().join(name);
        let writer =
            TreeWriter::open(self.plan(point, selection).unwrap(), &self.keys, &out, AT_ONCE).unwrap();
        for at in writer.missing() {
            writer.accept(at, &self.parts(writer.plan(), at)).unwrap();
        }
        writer.finish(&out).unwrap();
        out
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Everything that a restore must bring back.
fn described(root: &Path) -> BTreeMap<PathBuf, String> {
    fn look(root: &Path, at: &Path, out: &mut BTreeMap<PathBuf, String>) {
        let meta = fs::symlink_metadata(at).unwrap();
        let content = if meta.is_dir() {
            for entry in fs::read_dir(at).unwrap() {
                look(root, &entry.unwrap().path(), out);
            }
            "dir".to_owned()
        } else if meta.is_symlink() {
            fs::read_link(at).unwrap().display().to_string()
        } else {
            format!("{} {}", blake3::hash(&fs::read(at).unwrap()), meta.nlink())
        };
        let mode = if meta.is_symlink() { 0 } else { meta.mode() };
        let text = format!("{mode:o} {} {} {content}", meta.mtime(), meta.mtime_nsec());
        out.insert(at.strip_prefix(root).unwrap().to_owned(), text);
    }
    let mut out = BTreeMap::new();
    look(root, root, &mut out);
    out
}

fn make_pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

fn filled() -> World {
    let world = World::new();
    world.write("small/a", b"hello");
    world.write("small/b", b"hello");
    world.write("small/empty", b"");
    world.write("big/noise", &noise(5 << 20, 1));
    world.write("big/zeros", &vec![0; 3 << 20]);
    world.write("big/hole", &[noise(100_000, 2), vec![0; 2 << 20]].concat());
    // Shorter than a chunk: what ends with a hole, and what is nothing but one.
    world.write("short/ends-with-zeros", &[noise(16 << 10, 3), vec![0; 32 << 10]].concat());
    world.write("short/only-zeros", &vec![0; 48 << 10]);
    for n in 0..300 {
        world.write(&format!("many/{n}"), &noise(1 + n * 37, n as u64));
    }
    let tree = world.tree();
    fs::hard_link(tree.join("big/noise"), tree.join("big/other-name")).unwrap();
    symlink("../small/a", tree.join("big/link")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    fs::create_dir(tree.join("empty-folder")).unwrap();
    fs::set_permissions(tree.join("small/b"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(tree.join("small"), fs::Permissions::from_mode(0o555)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
    fs::File::open(tree.join("small/a")).unwrap().set_modified(old).unwrap();
    world
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let mut world = filled();
    let point = world.backup("one", None);
    assert_eq!(point.outcome.problems, []);
    assert_eq!(point.outcome.totals.files, 309);
    let stored: usize = point.new.iter().map(|p| p.bytes.len()).sum();
    assert!(stored < 9 << 20, "{stored} bytes: equal files and zeros are stored once");
    let out = world.restore(&point, &Selection::default(), "out");
    let (want, got) = (described(&world.tree()), described(&out.join("tree")));
    for (path, text) in &want {
        assert_eq!(got.get(path), Some(text), "{}", path.display());
    }
    assert_eq!(got.len(), want.len());
    for sparse in ["big/zeros", "big/hole"] {
        let taken = fs::metadata(out.join("tree").join(sparse)).unwrap().blocks() * 512;
        assert!(taken < 300_000, "{sparse} takes {taken} bytes");
    }
}

#[test]
fn the_second_run_reads_and_stores_only_what_changed() {
    let mut world = filled();
    let one = world.backup("one", None);
    world.write("many/7", b"changed");
    let mut grown = noise(5 << 20, 1);
    grown.splice(1 << 20..1 << 20, *b"an insertion");
    world.write("big/inserted", &grown);
    fs::remove_file(world.tree().join("many/8")).unwrap();
    let two = world.backup("two", Some(&one.listing));
    assert_eq!(two.outcome.totals.read_files, 2);
    assert!(two.outcome.totals.new_bytes < 2 << 20, "{:?}", two.outcome.totals);
    assert_eq!(two.outcome.segments.len(), 1);
    let out = world.restore(&two, &Selection::default(), "out");
    assert_eq!(described(&out.join("tree")), described(&world.tree()));

    let mut lines = Vec::new();
    let open = |point: &Point| ListingReader::new(fs::File::open(&point.listing).unwrap());
    let counts = diff(open(&one), open(&two), |change, names, _, _| {
        let name = String::from_utf8(names.join(&b'/')).unwrap();
        lines.push((change, name));
    });
    assert!(lines.contains(&(Change::Changed, "tree/many/7".into())), "{lines:?}");
    assert!(lines.contains(&(Change::Added, "tree/big/inserted".into())));
    assert!(lines.contains(&(Change::Removed, "tree/many/8".into())));
    assert_eq!(counts.unwrap()["changed"], 1);
}

#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let mut world = filled();
    let walk = || Walk::new(&[world.tree()], &[], false).unwrap();
    let source = Source::Tree(walk());
    let first = world.backup_from("one", None, source, &|_| Ok(()), 3);
    assert!(matches!(first, Err(BackupError::Stopped)));
    assert_eq!(world.shards.len(), 3);
    let second = world.backup("two", None);
    assert!(second.new.iter().all(|p| p.shard.bytes > 0));
    let total: usize = second.new.len() + 3;
    let mut whole = filled();
    let wanted = whole.backup("whole", None).new.len();
    assert!(total <= wanted + 1, "{total} shards in two runs, {wanted} in one");
    let out = world.restore(&second, &Selection::default(), "out");
    assert_eq!(described(&out.join("tree")), described(&world.tree()));
}

#[test]
fn one_path_needs_few_bytes_and_brings_linked_files_along() {
    let mut world = filled();
    let point = world.backup("one", None);
    let select = |paths: &[&str]| Selection::of(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
    let plan = world.plan(&point, &select(&["tree/small"])).unwrap();
    assert!(plan.fetch_bytes() < 200_000, "{}", plan.fetch_bytes());
    let out = world.restore(&point, &select(&["tree/small"]), "small");
    assert_eq!(fs::read(out.join("small/a")).unwrap(), b"hello");
    // The first name of a file with several is elsewhere.
    let out = world.restore(&point, &select(&["tree/big/other-name", "tree/dangling"]), "two");
    assert_eq!(fs::read(out.join("big/other-name")).unwrap(), noise(5 << 20, 1));
    assert!(out.join("dangling").is_symlink());
    let missing = world.plan(&point, &select(&["tree/nothing"]));
    assert!(matches!(missing, Err(PlanError::NoSuchPath { .. })));
}

#[test]
fn a_restore_goes_on_and_never_replaces() {
    let mut world = filled();
    let point = world.backup("one", None);
    let out = world.dir.path().join("out");
    let open = || {
        let plan = world.plan(&point, &Selection::default()).unwrap();
        TreeWriter::open(plan, &world.keys, &out, AT_ONCE)
    };
    let writer = open().unwrap();
    let all = writer.missing();
    for at in &all[..3] {
        writer.accept(*at, &world.parts(writer.plan(), *at)).unwrap();
    }
    assert!(open().is_err(), "two restores to one place");
    writer.pause().unwrap();
    drop(writer);
    let writer = open().unwrap();
    assert_eq!(writer.missing(), all[3..]);
    let mut damaged = world.parts(writer.plan(), all[4]);
    damaged[0].1[3] ^= 1;
    assert!(writer.accept(all[4], &damaged).is_err());
    for at in writer.missing() {
        writer.accept(at, &world.parts(writer.plan(), at)).unwrap();
    }
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), b"x").unwrap();
    assert!(writer.finish(&out).is_err());
    assert!(out.join("mine").exists());
    fs::remove_dir_all(&out).unwrap();
    let writer = open().unwrap();
    assert_eq!(writer.missing(), [] as [u32; 0]);
    writer.finish(&out).unwrap();
    assert_eq!(described(&out.join("tree")), described(&world.tree()));
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 3, "tree, listing, out and no more");
}

#[test]
fn wrong_parts_that_come_again_do_not_complete_a_file_early() {
    let mut world = World::new();
    world.write("noise", &noise(6 << 20, 1));
    let file = world.tree().join("noise");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 5);
    fs::File::open(&file).unwrap().set_modified(old).unwrap();
    let point = world.backup("one", None);
    let out = world.dir.path().join("out");
    let plan = world.plan(&point, &Selection::default()).unwrap();
    let writer = TreeWriter::open(plan, &world.keys, &out, AT_ONCE).unwrap();
    let plan = writer.plan();
    let several = plan.shards.iter().position(|wanted| wanted.chunks.len() > 1).unwrap();
    // The first chunk is right, the last one is not, as often as the file has chunks.
    let mut wrong = world.parts(plan, several as u32);
    let (start, bytes) = wrong.last_mut().unwrap();
    let last = &plan.shards[several].chunks.last().unwrap().0;
    bytes[(last.offset - *start) as usize] ^= 1;
    for _ in 0..plan.files[0].chunks {
        assert!(writer.accept(several as u32, &wrong).is_err());
    }
    for at in writer.missing() {
        writer.accept(at, &world.parts(writer.plan(), at)).unwrap();
    }
    writer.finish(&out).unwrap();
    assert_eq!(described(&out.join("tree")), described(&world.tree()));
}

#[test]
fn what_is_refused_or_unreadable_is_named_and_the_rest_goes_on() {
    let mut world = filled();
    let walk = Walk::new(&[world.tree()], &[], false).unwrap();
    let inspect = |path: &Path| match path.ends_with("many/5") {
        true => Err("Eicar-Test-Signature".to_owned()),
        false => Ok(()),
    };
    let point = world.backup_from("one", None, Source::Tree(walk), &inspect, usize::MAX).unwrap();
    assert_eq!(point.outcome.problems_total, 1);
    assert!(point.outcome.problems[0].path.ends_with(b"many/5"));
    assert!(point.outcome.problems[0].why.contains("Eicar"));
    let out = world.restore(&point, &Selection::default(), "out");
    assert!(!out.join("tree/many/5").exists() && out.join("tree/many/6").exists());
}

#[test]
fn sockets_and_pipes_are_left_out_and_nothing_is_wrong_with_that() {
    let mut world = World::new();
    world.write("file", b"x");
    let (pipe, socket) = (world.tree().join("pipe"), world.tree().join("socket"));
    make_pipe(&pipe);
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let point = world.backup("one", None);
    assert_eq!((point.outcome.special_files, point.outcome.problems_total), (2, 0));
    let out = world.restore(&point, &Selection::default(), "out");
    let names: Vec<_> = fs::read_dir(out.join("tree")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
    // Asked for by name, it is a mistake, also through a link.
    let link = world.dir.path().join("link");
    symlink(&socket, &link).unwrap();
    for path in [pipe, socket, link, "/dev/null".into()] {
        let refused = Walk::new(&[world.tree().join("file"), path.clone()], &[], false).unwrap_err();
        assert!(matches!(refused, WalkError::Special(of) if of == path), "{}", path.display());
    }
}

/// What differs in nothing that is fetched is not taken for what an interrupted restore wrote.
#[test]
fn a_restore_does_not_go_on_with_other_attributes() {
    let mut world = World::new();
    world.write("a", &noise(3 << 20, 1));
    world.write("b", &noise(3 << 20, 2));
    world.write("sub/c", b"c");
    let one = world.backup("one", None);
    let (file, folder) = (world.tree().join("a"), world.tree().join("sub"));
    let out = world.dir.path().join("out");
    let digest = |world: &World, point: &Point| world.plan(point, &Selection::default()).unwrap().digest();
    world.begin(&one, &out);
    assert_eq!(digest(&world, &one), digest(&world, &one));
    let mut before = digest(&world, &one);
    let old = std::time::UNIX_EPOCH + Duration::new(1_234_567_890, 5);
    let changes: [&dyn Fn(); 3] = [
        &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap(),
        &|| fs::File::open(&file).unwrap().set_modified(old).unwrap(),
        &|| symlink("a", folder.join("link")).unwrap(),
    ];
    for (n, change) in changes.iter().enumerate() {
        change();
        let point = world.backup(&format!("change-{n}"), None);
        let after = digest(&world, &point);
        assert_ne!(after, before, "change {n}");
        before = after;
    }
    // What folders have is set at the end, whoever began.
    let begun = world.backup("begun", None);
    world.begin(&begun, &out);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let two = world.backup("two", None);
    assert_eq!(digest(&world, &two), digest(&world, &begun));
    world.restore(&two, &Selection::default(), "out");
    assert_eq!(described(&out.join("tree")), described(&world.tree()));
}

#[test]
fn a_restore_waits_for_one_that_is_ending() {
    let mut world = World::new();
    world.write("a", b"a");
    let point = world.backup("one", None);
    let out = world.dir.path().join("out");
    let open = |patience| {
        let plan = world.plan(&point, &Selection::default()).unwrap();
        TreeWriter::open(plan, &world.keys, &out, patience)
    };
    let first = open(AT_ONCE).unwrap();
    assert!(matches!(open(AT_ONCE), Err(TreeError::InUse(_))));
    let (begun, patience) = (Instant::now(), Duration::from_millis(30));
    assert!(matches!(open(patience), Err(TreeError::InUse(_))));
    assert!(begun.elapsed() >= patience, "it gave up early");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| open(PATIENCE).map(|_| ()));
        drop(first);
        second.join().unwrap().unwrap();
    });
}

#[test]
fn a_stream_is_one_file_and_cut_streams_are_errors() {
    let mut world = World::new();
    let dump = noise(3 << 20, 9);
    let source = Source::Stream("dump.sql".into(), Box::new(std::io::Cursor::new(dump.clone())));
    let point = world.backup_from("one", None, source, &|_| Ok(()), usize::MAX).unwrap();
    let out = world.restore(&point, &Selection::default(), "out");
    assert_eq!(fs::read(out.join("dump.sql")).unwrap(), dump);

    struct Cut;
    impl std::io::Read for Cut {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
    }
    let source = Source::Stream("dump.sql".into(), Box::new(Cut));
    let cut = world.backup_from("two", None, source, &|_| Ok(()), usize::MAX);
    assert!(matches!(cut, Err(BackupError::Io(_))));
}

#[test]
fn paths_in_another_order_than_their_chunks_are_restored() {
    let mut world = World::new();
    // What a file begins with lies behind what it ends with, because an older file had that first.
    world.write("old/a", &noise(50_000, 1));
    world.write("old/b", &noise(50_000, 2));
    world.write("old/c", &noise(900_000, 3));
    let one = world.backup("one", None);
    fs::rename(world.tree().join("old/b"), world.tree().join("old/0b")).unwrap();
    let two = world.backup("two", Some(&one.listing));
    assert_eq!(two.outcome.totals.new_bytes / 100_000, 0);
    let select = Selection::of(&["tree/old/0b".into(), "tree/old/a".into()]);
    let out = world.restore(&two, &select, "out");
    assert_eq!(fs::read(out.join("0b")).unwrap(), noise(50_000, 2));
    assert_eq!(fs::read(out.join("a")).unwrap(), noise(50_000, 1));
}

/// Chunks that the reader has in its hands while it waits for room, by the order of the run: with one
/// encoder there are a batch with whoever takes shards, four that are encoded, one with the encoder
/// and four that wait for it. The next one does not fit.
const BATCHES_IN_FLIGHT: usize = 1 + 4 + 1 + 4;
const BATCH_BYTES: usize = 1024 * 1024;
/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_run_ends_when_nobody_takes_its_shards() {
    let mut world = World::new();
    world.write("large", &noise(48 << 20, 4));
    let whole = world.backup("whole", None);
    let lengths: Vec<Vec<usize>> =
        whole.new.iter().map(|shard| shard.chunks.iter().map(|c| c.plain_bytes as usize).collect()).collect();
    for most in 0..3 {
        // The first chunk that does not fit the shard that is refused stands in some batch; so many
        // bytes are read before the reader waits for room behind it.
        let before: usize = lengths[..=most].iter().map(Vec::len).sum();
        let (mut batch, mut bytes, mut in_hand, mut read) = (0, 0, 0, 0);
        for (at, len) in lengths.iter().flatten().enumerate() {
            if at == before {
                in_hand = batch;
            }
            bytes += len;
            if bytes >= BATCH_BYTES {
                if at >= before && batch == in_hand + BATCHES_IN_FLIGHT {
                    break;
                }
                (batch, bytes) = (batch + 1, 0);
            }
            read += *len as u64;
        }
        let (ended, end) = mpsc::channel();
        let tree = world.tree();
        let listing = world.dir.path().join("listing");
        std::thread::spawn(move || {
            let keys = RecoveryKey::from_bytes([5; 32]).keys();
            let progress = Progress::default();
            let taken = AtomicUsize::new(0);
            let take = |_: PackedShard| {
                if taken.fetch_add(1, Ordering::Relaxed) < most {
                    return Ok(());
                }
                let begun = Instant::now();
                while progress.bytes.load(Ordering::Relaxed) < read {
                    assert!(begun.elapsed() < PATIENCE, "the queues are longer than this test believes");
                    std::thread::yield_now();
                }
                // The reader has one chunk left to read before it waits.
                Err(Stopped)
            };
            let run = Run {
                source: Source::Tree(Walk::new(&[tree], &[], false).unwrap()),
                before: None,
                listing: &listing,
                shard_bytes: 1 << 20,
                shard_chunks: 200,
                encoders: 1,
                inspect: &|_| Ok(()),
            };
            let done = backup::run(&keys.owner, &Index::default(), run, &progress, &take);
            ended.send(matches!(done, Err(BackupError::Stopped))).unwrap();
        });
        assert_eq!(end.recv_timeout(PATIENCE), Ok(true), "the run waits for ever after {most} shards");
    }
}

#[test]
fn what_a_restore_point_cannot_say_is_only_counted() {
    let mut world = World::new();
    for n in 0..600 {
        world.write(&format!("files/{n}"), b"x");
    }
    let walk = Walk::new(&[world.tree()], &[], false).unwrap();
    let inspect = |_: &Path| Err("no".repeat(1_000));
    let point = world.backup_from("one", None, Source::Tree(walk), &inspect, usize::MAX).unwrap();
    assert_eq!(point.outcome.problems_total, 600);
    let bytes: usize = point.outcome.problems.iter().map(|p| p.path.len() + p.why.len()).sum();
    assert!(bytes <= PROBLEMS_MAX_BYTES && point.outcome.problems.len() > 50, "{bytes} bytes");
}
