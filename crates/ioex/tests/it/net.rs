//! A small network of real processes: one bootstrap, some peers of different owners, a super node.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(90);
/// Networks of one test process.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// A node's process; killed when dropped.
pub(crate) struct Node {
    pub(crate) data: PathBuf,
    flags: Vec<String>,
    pub(crate) child: Option<Child>,
}

impl Node {
    fn start(data: PathBuf, flags: Vec<String>) -> Self {
        let mut node = Self { data, flags, child: None };
        node.run();
        node
    }

    /// Starts it (again) with the same flags.
    pub(crate) fn run(&mut self) {
        let mut child = Command::new(crate::program())
            .arg("node")
            .args(&self.flags)
            .arg("--data")
            .arg(&self.data)
            .env("IOEX_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready "), "{line}");
        self.child = Some(child);
        // It is ready when it answers.
        self.wait_for(&["id"], |id| id["uid"].is_string());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(crate::program());
        command.args(args).arg("--data").arg(&self.data);
        command
    }

    /// Runs a client command and returns the last JSON object that it printed.
    pub(crate) fn ask(&self, args: &[&str]) -> Value {
        let output = self.try_ask(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        last_json(&output)
    }

    pub(crate) fn try_ask(&self, args: &[&str]) -> Output {
        self.command(args).arg("--json").output().unwrap()
    }

    /// Waits until a command's answer is as wanted.
    pub(crate) fn wait_for(&self, args: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = String::new();
        let answered = poll(|| {
            let output = self.try_ask(args);
            last = text(&output);
            output.status.success().then(|| last_json(&output)).filter(&wanted)
        });
        answered.unwrap_or_else(|| panic!("{args:?}: {last}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks until there is an answer, but not for ever.
pub(crate) fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::sleep(Duration::from_millis(50)); // poll: the state of another process
    }
    None
}

/// What a command that is to end by itself says.
pub(crate) fn ended(mut command: Command) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if poll(|| child.try_wait().unwrap()).is_none() {
        child.kill().unwrap();
        panic!("it runs: {command:?}: {}", text(&child.wait_with_output().unwrap()));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The last object on stdout; of a command with updates, the value that ended them.
pub(crate) fn last_json(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let value: Value = serde_json::from_str(stdout.lines().last().unwrap_or("null")).unwrap();
    if value["type"] == "done" { value["value"].clone() } else { value }
}

pub(crate) fn uid_of(node: &Node) -> String {
    node.ask(&["id"])["uid"].as_str().unwrap().to_owned()
}

/// Has the authority let a super node place shards.
fn permit(boot: &Node, super_node: &Node, key: &Path, capability: &Path) {
    let (key, out) = (key.to_str().unwrap(), capability.to_str().unwrap());
    let uid = uid_of(super_node);
    let mut args = vec!["authority", "grant", "--key", key, "--to", &uid, "--out", out];
    args.extend(["--max-bytes-per-device", "10GB", "--days", "90"]);
    boot.ask(&args);
}

/// The network.
pub(crate) struct Net {
    pub(crate) dir: TempDir,
    /// Runs as long as the network.
    pub(crate) boot: Node,
    pub(crate) peers: Vec<Node>,
    pub(crate) super_node: Node,
    pub(crate) seed: String,
    /// A part of the loopback range that no other test process uses at the same time.
    block: u32,
}

impl Net {
    /// Starts it and waits until the super node finds all peers.
    pub(crate) fn start(peers: usize, lend: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let block = 1 + (std::process::id().wrapping_mul(7).wrapping_add(number)) % 20_000;
        let path = |name: &str| dir.path().join(name);
        let flags = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let boot = Node::start(
            path("boot"),
            // The DHT's port is taken on all addresses, so each network has its own.
            flags(&["--kind", "bootstrap", "--bind", &address(block, 0), "--port", &port(block)]),
        );
        let seed = boot.ask(&["id"])["seed"].as_str().unwrap().to_owned();
        let key = path("authority");
        let made = boot.ask(&["authority", "create", key.to_str().unwrap()]);
        let authority = made["uid"].as_str().unwrap().to_owned();
        let capability = path("capability");
        let super_node = Node::start(
            path("super"),
            flags(&[
                "--kind",
                "super",
                "--bind",
                &address(block, 1),
                "--seed",
                &seed,
                "--capability",
                capability.to_str().unwrap(),
            ]),
        );
        permit(&boot, &super_node, &key, &capability);
        let mut net = Self { dir, boot, peers: Vec::new(), super_node, seed, block };
        for n in 0..peers {
            let node =
                net.device(&format!("peer-{n}"), n as u32, &["--lend", lend, "--authority", &authority]);
            net.peers.push(node);
        }
        for node in net.peers.iter().chain([&net.super_node]) {
            node.wait_for(&["status"], |s| s["joined"] == true);
        }
        net.wait_for_lenders(peers);
        net
    }

    /// A further device, of an owner of its own.
    pub(crate) fn device(&self, name: &str, owner: u32, more: &[&str]) -> Node {
        let (bind, owner) = (address(self.block, 2 + owner), format!("owner-{owner}"));
        let mut flags: Vec<String> =
            ["--bind", &bind, "--owner", &owner, "--seed", &self.seed].map(str::to_owned).to_vec();
        flags.extend(more.iter().map(|s| (*s).to_owned()));
        Node::start(self.dir.path().join(name), flags)
    }

    /// A further super node of the same authority.
    pub(crate) fn further_super(&self, name: &str, place: u32) -> Node {
        let capability = self.path(&format!("capability-{name}"));
        let node =
            self.device(name, place, &["--kind", "super", "--capability", capability.to_str().unwrap()]);
        permit(&self.boot, &node, &self.path("authority"), &capability);
        node.wait_for(&["status"], |s| s["joined"] == true);
        node
    }

    /// Waits until the directory tells of so many devices that lend space.
    pub(crate) fn wait_for_lenders(&self, count: usize) {
        let topic = ioex_base::ContentAddress::of(b"ioex 2026 devices that lend space").to_string();
        self.super_node.wait_for(&["lookup", &topic], |found| {
            found["holders"].as_array().is_some_and(|holders| holders.len() >= count)
        });
    }

    /// A loopback address that no node of this network has, for each of ten places.
    pub(crate) fn free_ip(&self, place: u32) -> std::net::IpAddr {
        address(self.block, 39 - place).parse().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder with files of several kinds, some megabytes in all.
    pub(crate) fn make_tree(&self, name: &str) -> PathBuf {
        let root = self.path(name);
        for n in 0..60u64 {
            write(&root.join(format!("small/{}/{n}", n % 7)), &noise(1 + 911 * n as usize, n));
        }
        write(&root.join("large"), &noise(9 << 20, 100));
        write(&root.join("text"), "the same line again and again\n".repeat(200_000).as_bytes());
        std::os::unix::fs::symlink("large", root.join("link")).unwrap();
        root
    }
}

fn port(block: u32) -> String {
    (10_000 + block % 14_000 * 3).to_string()
}

fn address(block: u32, host: u32) -> String {
    // Hosts of one network lie in different /24s: they are to fail apart.
    let number = block * 40 + host;
    format!("127.{}.{}.1", 64 + (number >> 8) % 190, number % 256)
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut out {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 24) as u8;
    }
    out
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Compares two folders with another program than the one under test.
pub(crate) fn same(a: &Path, b: &Path) {
    let output = Command::new("diff").args(["-r", "--no-dereference"]).arg(a).arg(b).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// Gives a command its stdin.
pub(crate) fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that fails early does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Reads a child's updates until there were `count`; `false` when it ended before.
pub(crate) fn read_updates(child: &mut Child, count: usize) -> bool {
    let mut reader = BufReader::new(child.stdout.as_mut().unwrap());
    for _ in 0..count {
        let mut line = String::new();
        if reader.by_ref().read_line(&mut line).unwrap() == 0 || line.contains("\"done\"") {
            return false;
        }
    }
    true
}
