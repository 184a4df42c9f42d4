//! Network namespaces that are gone when we are, however we end.
//!
//! A second process, the janitor, holds the lock of the lab and waits for the end of its standard
//! input. That end comes when we close it, panic, are interrupted or are killed; the janitor then
//! ends every process inside our namespaces and deletes them. It does the same once at its start,
//! for what a crashed machine may have left.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

/// All our namespaces begin so; nothing else is ever touched.
const PREFIX: &str = "ioxl-";

/// Files of a run; large ones lie here too, so that no disk is measured.
const MEMORY: &str = "/dev/shm";

/// Configuring a namespace takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Whether namespaces can be made here, or why not.
pub(crate) fn possible() -> Result<()> {
    if !sh::is_root() {
        bail!("network namespaces need root; run `sudo env \"PATH=$PATH\" cargo xtask …`");
    }
    let mut probe = sh::system("unshare");
    let made = sh::output(probe.args(["--net", "true"]), LIMIT);
    made.map(drop).context("the kernel gives no network namespaces here")
}

/// The lab of one run.
pub(crate) struct Lab {
    janitor: Child,
    dir: PathBuf,
}

impl Lab {
    /// Clears leftovers and begins; only one lab at a time.
    pub(crate) fn open() -> Result<Self> {
        possible()?;
        let mut command = Command::new(sh::OWN_PROGRAM);
        command.arg("janitor").stdin(Stdio::piped()).stdout(Stdio::piped());
        // Its own group: Ctrl-C at the terminal is for us, not for it.
        let mut janitor = command.process_group(0).spawn().context("cannot start the janitor")?;
        let mut line = String::new();
        if let Some(stdout) = janitor.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let dir = PathBuf::from(line.trim());
        ensure!(dir.is_dir(), "the lab could not begin");
        Ok(Self { janitor, dir })
    }

    /// A folder in memory that goes with the lab.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new namespace with its loopback up and without IPv6 (whose own chatter would be counted
    /// as traffic).
    pub(crate) fn namespace(&self, name: &str) -> Result<Namespace> {
        let namespace = Namespace { name: format!("{PREFIX}{name}") };
        ip(&["netns", "add", &namespace.name])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        namespace.set("net/ipv6/conf/all/disable_ipv6", "1")?;
        namespace.set("net/ipv6/conf/default/disable_ipv6", "1")?;
        Ok(namespace)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // It ends by itself; there is nobody left to tell if it does not.
        let _ = self.janitor.wait();
    }
}

/// One namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A command inside. The process that results is the program itself, not a wrapper.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = sh::system("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// `ip` on this namespace.
    pub(crate) fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], args].concat())
    }

    /// Sets a kernel parameter by its path under `/proc/sys`.
    pub(crate) fn set(&self, parameter: &str, value: &str) -> Result<()> {
        let script = format!("echo {value} > /proc/sys/{parameter}");
        sh::output(self.command("sh").args(["-c", &script]), LIMIT).map(drop)
    }

    /// Loads an nftables rule set in place of what was there.
    pub(crate) fn nft(&self, rules: &str) -> Result<()> {
        let mut command = self.command(sh::find("nft").unwrap_or_else(|| "nft".into()));
        let mut nft = sh::Process::new(command.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?);
        if let Some(mut stdin) = nft.get_mut().stdin.take() {
            stdin.write_all(rules.as_bytes())?;
        }
        let status = nft.wait(LIMIT)?;
        ensure!(status.is_some_and(|status| status.success()), "nft refused:\n{rules}");
        Ok(())
    }

    /// Forgets all connections that the namespace's router tracks.
    pub(crate) fn flush_connections(&self) -> Result<()> {
        let conntrack = sh::find("conntrack").context("no conntrack")?;
        sh::output(self.command(conntrack).arg("-F"), LIMIT).map(drop)
    }

    /// Limits what leaves through `device`.
    pub(crate) fn shape(&self, device: &str, megabits: u32) -> Result<()> {
        let rate = format!("{megabits}mbit");
        let mut tc = sh::system("tc");
        tc.args(["-n", &self.name, "qdisc", "replace", "dev", device, "root", "tbf"]);
        // A burst above the largest segmented packet, so that none is dropped for its size alone.
        tc.args(["rate", &rate, "burst", "128kb", "latency", "50ms"]);
        sh::output(&mut tc, LIMIT).map(drop)
    }

    /// Bytes that `device` has sent and received.
    pub(crate) fn traffic(&self, device: &str) -> Result<u64> {
        let folder = format!("/sys/class/net/{device}/statistics");
        let files = [format!("{folder}/tx_bytes"), format!("{folder}/rx_bytes")];
        let text = sh::output(self.command("cat").args(files), LIMIT)?;
        text.split_whitespace().try_fold(0, |sum: u64, number| Ok(sum + number.parse::<u64>()?))
    }

    /// A virtual cable from `device` here to `far_device` in `other`, both up.
    pub(crate) fn cable(&self, device: &str, other: &Self, far_device: &str) -> Result<()> {
        let near = ["link", "add", device, "type", "veth", "peer", "name", far_device];
        self.ip(&[&near[..], &["netns", &other.name]].concat())?;
        self.ip(&["link", "set", device, "up"])?;
        other.ip(&["link", "set", far_device, "up"])
    }

    /// Gives `device` an address such as `10.0.0.1/24`.
    pub(crate) fn address(&self, device: &str, address: &str) -> Result<()> {
        self.ip(&["addr", "add", address, "dev", device])
    }

    /// Sends everything else to `gateway`.
    pub(crate) fn default_route(&self, gateway: &str) -> Result<()> {
        self.ip(&["route", "replace", "default", "via", gateway])
    }
}

fn ip(args: &[&str]) -> Result<()> {
    sh::output(sh::system("ip").args(args), LIMIT).map(drop)
}

/// The janitor's whole life.
pub(crate) fn janitor() -> Result<()> {
    let memory = Path::new(MEMORY);
    let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let lock = File::create(base.join(format!("{PREFIX}lock")))?;
    if lock.try_lock().is_err() {
        bail!("another lab is running; only one at a time");
    }
    let dir = base.join(format!("{PREFIX}files"));
    clear(&dir);
    fs::create_dir_all(&dir)?;
    mount(&dir);
    println!("{}", dir.display());
    // Nothing is ever written to us: this returns when the other end is gone.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    clear(&dir);
    drop(lock);
    Ok(())
}

/// Ends what runs in our namespaces, deletes them and the folder. Goes on after an error: what
/// can be cleared is.
fn clear(dir: &Path) {
    for name in namespaces() {
        // Every process in there was started by a lab.
        let inside = sh::output(sh::system("ip").args(["netns", "pids", &name]), LIMIT);
        for pid in inside.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()) {
            sh::signal("KILL", pid);
        }
        if let Err(error) = ip(&["netns", "del", &name]) {
            eprintln!("left behind: {error:#}");
        }
    }
    if dir.is_dir() {
        // Not mounted when the kernel would not.
        let _ = sh::output(sh::system("umount").arg(dir), LIMIT);
    }
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("left behind: {}: {error}", dir.display());
    }
}

/// Memory of the lab's own for its files, in large pages: with small ones a write costs two or three times the processor's
/// time, which programs that are measured would pay. Without it the lab's files lie beside others in [`MEMORY`].
fn mount(dir: &Path) {
    let mut mount = sh::system("mount");
    mount.args(["-t", "tmpfs", "-o", "mode=0755,huge=within_size", "ioex-lab"]).arg(dir);
    if let Err(error) = sh::output(&mut mount, LIMIT) {
        eprintln!("the lab's memory has small pages: {error:#}");
    }
}

/// Names of all namespaces with our prefix.
fn namespaces() -> Vec<String> {
    let list = sh::output(sh::system("ip").args(["netns", "list"]), LIMIT).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
}
