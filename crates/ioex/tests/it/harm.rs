//! What the tests share that harm a network: finding the moment, and what must hold afterwards.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use ioex_base::ContentAddress;
use ioex_store::SHARD_OVERHEAD_BYTES;
use serde_json::Value;

use crate::net::{Net, Node, same};

/// With this in the environment, each test harms at the first so many points, not only at a few
/// (`cargo xtask lab vault-kill`).
const POINTS_VARIABLE: &str = "IOEX_KILL_POINTS";
/// Nothing that is waited for here takes so long.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at files of another process: those moments are short.
const GLANCE: Duration = Duration::from_micros(200);
/// What a store's own folders and files take on disk, with room.
const STORE_FILES_BYTES: u64 = 64 * 1024;
/// Rounds of the watch within which everything is repaired.
const ROUNDS_MAX: usize = 6;

/// At which points to harm.
pub(crate) fn points(few: &[usize]) -> Vec<usize> {
    match std::env::var(POINTS_VARIABLE).ok().and_then(|count| count.parse().ok()) {
        Some(count) => (1..=count).collect(),
        None => few.to_vec(),
    }
}

/// Whether all points are tried.
pub(crate) fn thorough() -> bool {
    std::env::var_os(POINTS_VARIABLE).is_some()
}

/// Waits until something is so. `false` when `child` ended before.
pub(crate) fn when(child: &mut Child, mut so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if so() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return so();
        }
        assert!(begun.elapsed() < PATIENCE, "neither its moment nor its end came");
        std::thread::sleep(GLANCE); // poll: files of another process
    }
}

/// Starts a client command whose output nobody reads.
pub(crate) fn begin(node: &Node, args: &[&str]) -> Child {
    node.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Sends a signal to a node's process.
pub(crate) fn signal(node: &Node, signal: rustix::process::Signal) {
    let id = node.child.as_ref().expect("it runs").id();
    let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A node that stands still until this is dropped.
pub(crate) struct Stopped<'n>(&'n Node);

impl<'n> Stopped<'n> {
    pub(crate) fn new(node: &'n Node) -> Self {
        signal(node, rustix::process::Signal::STOP);
        Self(node)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        signal(self.0, rustix::process::Signal::CONT);
    }
}

/// Starts a node again that was killed, and waits until it has joined.
pub(crate) fn again(node: &mut Node) {
    node.kill();
    node.run();
    node.wait_for(&["status"], |s| s["joined"] == true);
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Files of shards in a store's folder.
pub(crate) fn shard_files(dir: &Path) -> Vec<PathBuf> {
    let prefixed = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 2);
    let folders = entries(dir).into_iter().filter(prefixed);
    folders.flat_map(|dir| entries(&dir)).filter(|file| file.extension().is_none()).collect()
}

/// Where a device keeps what it holds, when its owner named no other folder.
pub(crate) fn folder(node: &Node) -> PathBuf {
    node.data.join("shards")
}

/// How many shards lie there.
pub(crate) fn held(node: &Node) -> usize {
    shard_files(&folder(node)).len()
}

/// Bytes of what is arriving in a store's folder; absent when nothing is.
pub(crate) fn arriving(dir: &Path) -> Option<u64> {
    let lengths = entries(&dir.join("incoming")).into_iter();
    lengths.filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).max()
}

fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let own = fs::symlink_metadata(path).map_or(0, |meta| meta.blocks() * 512);
    own + if path.is_dir() { entries(path).iter().map(|below| blocks(below)).sum() } else { 0 }
}

/// What a device says and what lies in its folder, where they differ.
fn untruths(node: &Node) -> Vec<String> {
    let shown = node.ask(&["device", "show"]);
    let dir = PathBuf::from(shown["dir"].as_str().unwrap());
    let list = node.ask(&["device", "shards"]);
    let told = list["shards"].as_array().unwrap();
    let mut out = Vec::new();
    let mut said: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut charged = shown["damaged_bytes"].as_u64().unwrap();
    for shard in told {
        let (address, bytes) = (shard["address"].as_str().unwrap(), shard["bytes"].as_u64().unwrap());
        charged += bytes + SHARD_OVERHEAD_BYTES;
        let head = shard["head"] == true;
        let path = dir.join(if head { "heads" } else { &address[..2] }).join(address);
        match fs::read(&path) {
            Ok(content) if content.len() as u64 != bytes => out.push(format!("{address} has another length")),
            Ok(content) if !head && ContentAddress::of(&content).to_string() != address => {
                out.push(format!("{address} has another content"));
            }
            Ok(_) => {}
            Err(e) => out.push(format!("{address} is counted and not there: {e}")),
        }
        if !path.with_extension("lease").is_file() {
            out.push(format!("{address} has no leases"));
        }
        said.insert(path, bytes);
    }
    let there = shard_files(&dir).into_iter().filter(|path| !said.contains_key(path));
    out.extend(there.map(|path| format!("{} is there and not counted", path.display())));
    let left = entries(&dir.join("incoming"));
    out.extend(left.iter().map(|path| format!("{} is left over", path.display())));
    let (used, real) = (shown["used_bytes"].as_u64().unwrap(), blocks(&dir));
    if used != charged {
        out.push(format!("it counts {used} bytes, its shards are {charged}"));
    }
    let content: u64 = said.values().sum();
    if real > used + STORE_FILES_BYTES || real < content {
        out.push(format!("{real} bytes are on disk, {used} are counted for {content}"));
    }
    out
}

/// Checks that a device has exactly what it says, by content and by size.
pub(crate) fn honest(node: &Node) {
    let begun = Instant::now();
    loop {
        let lies = untruths(node);
        if lies.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{}: {lies:#?}", node.data.display());
        std::thread::sleep(Duration::from_millis(50)); // poll: what arrives may be breaking off
    }
}

/// A number in a report.
pub(crate) fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("no {key}: {report}"))
}

/// Watches over everything until nothing is to be done.
pub(crate) fn repaired(net: &Net) {
    for _ in 0..ROUNDS_MAX {
        let round = net.super_node.ask(&["backup", "repair"]);
        assert_eq!(number(&round, "lost_groups"), 0, "{round}");
        if ["faults", "repaired_groups", "unrepaired_groups", "silent"].iter().all(|k| round[k] == 0) {
            return;
        }
    }
    panic!("it is not repaired: {}", net.super_node.ask(&["backup", "repair"]));
}

/// Checks that everything is restorable, that every shard that counts is there, and that every
/// device tells the truth.
pub(crate) fn whole(net: &Net, tree: &Path, name: &str) {
    let out = net.path(name);
    net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
    same(tree, &out.join(tree.file_name().unwrap()));
    fs::remove_dir_all(&out).unwrap();
    repaired(net);
    let verified = net.super_node.ask(&["backup", "verify"]);
    assert_eq!((&verified["unreadable"], &verified["degraded"]), (&0.into(), &0.into()), "{verified}");
    net.peers.iter().for_each(honest);
}
