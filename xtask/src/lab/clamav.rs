//! Scenario `clamav`: a super node that has a real ClamAV daemon look at what it backs up.
//!
//! The daemon has signatures of our own, so nothing is downloaded: a text of ours, and the hash of
//! the test file that all scanners know.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Options, Outcome, ioex,
    world::{World, seed_flags},
};
use crate::{
    install,
    node::Node,
    sh::{self, Process},
};

/// The daemon reads its few signatures within this.
const START: Duration = Duration::from_secs(60);
/// A backup of a few files ends within this, also on a busy machine.
const BACKUP: Duration = Duration::from_secs(60);
/// Devices that lend space.
const LENDERS: usize = 2;

/// A text that no file has by chance, and the name of its signature.
const TEXT: &str = "ioex-lab-infected-0b9ad2f1";
const TEXT_NAME: &str = "Ioex.Lab.Text";
/// The scanners' common test file, in parts, so that no scanner finds it in this one.
const EICAR: [&str; 3] = ["X5O!P%@AP[4\\PZX54(P^)7CC)7}$", "EICAR-STANDARD-ANTIVIRUS-", "TEST-FILE!$H+H*"];
const EICAR_MD5: &str = "44d88612fea8a8f36de82e1278abb02f";
const EICAR_NAME: &str = "Ioex.Lab.Eicar";
/// What the daemon takes of one file, in bytes; the lab has a longer one.
const STREAM_MAX_BYTES: usize = 2 << 20;

/// A daemon with files of its own.
struct Clamd {
    dir: PathBuf,
    process: Process,
}

impl Clamd {
    /// Writes configuration and signatures, starts it, and waits until it listens.
    fn start(dir: &Path) -> Result<Self> {
        let (database, socket) = (dir.join("signatures"), dir.join("clamd.socket"));
        fs::create_dir_all(&database)?;
        let hex: String = TEXT.bytes().map(|byte| format!("{byte:02x}")).collect();
        fs::write(database.join("lab.ndb"), format!("{TEXT_NAME}:0:*:{hex}\n"))?;
        let length = EICAR.concat().len();
        fs::write(database.join("lab.hdb"), format!("{EICAR_MD5}:{length}:{EICAR_NAME}\n"))?;
        let dirs = [("DatabaseDirectory", &database), ("LocalSocket", &socket)];
        let mut config: String =
            dirs.iter().map(|(key, path)| format!("{key} {}\n", path.display())).collect();
        config += &format!("LogFile {}\n", dir.join("clamd.log").display());
        config += &format!("TemporaryDirectory {}\n", dir.display());
        config += &format!("Foreground yes\nFixStaleSocket yes\nStreamMaxLength {STREAM_MAX_BYTES}\n");
        let file = dir.join("clamd.conf");
        fs::write(&file, config)?;
        let words = File::options().create(true).append(true).open(dir.join("clamd.out"))?;
        let mut command = sh::system("clamd");
        command.arg("--config-file").arg(&file).stdin(Stdio::null());
        command.stdout(words.try_clone()?).stderr(words);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", sh::show(&command)))?;
        let mut clamd = Self { dir: dir.to_owned(), process: Process::new(child) };
        let listens = || {
            if let Some(status) = clamd.process.get_mut().try_wait()? {
                anyhow::bail!("clamd ended at once ({status}):\n{}", log(dir));
            }
            Ok(std::os::unix::net::UnixStream::connect(&socket).ok().map(drop))
        };
        sh::wait_for("clamd to listen", START, listens)?;
        Ok(clamd)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("clamd.socket")
    }
}

/// All that the daemon said.
fn log(dir: &Path) -> String {
    let read = |name| fs::read_to_string(dir.join(name)).unwrap_or_default();
    read("clamd.log") + &read("clamd.out")
}

/// A super node, and what it backs up.
struct Stage {
    super_node: Node,
    /// They run as long as the stage.
    _others: Vec<Node>,
    tree: PathBuf,
    outcome: Outcome,
    /// Last, because its end takes the namespaces away from under the nodes.
    world: World,
}

impl Stage {
    fn build(clamd: &Clamd, mut world: World) -> Result<Self> {
        let bootstraps = world.bootstraps(1)?;
        let boot = bootstraps.first().context("no bootstrap")?.node()?;
        let path = |name: &str| world.dir().join(name).display().to_string();
        let (key, capability) = (path("authority"), path("capability"));
        let authority = boot.call(&["authority", "create", &key])?;
        let authority = authority["uid"].as_str().context("an authority without a UID")?.to_owned();
        let socket = clamd.socket().display().to_string();
        let mut flags = seed_flags(&bootstraps)?;
        flags.extend(
            ["--kind", "super", "--capability", &capability, "--inspect-clamd", &socket].map(String::from),
        );
        let host = world.namespace("super")?;
        world.attach(&host, "eth0")?;
        let super_node = world.start(&host, "super", flags)?;
        super_node.wait_joined()?;
        let grant = ["authority", "grant", "--key", &key, "--to", super_node.uid()?, "--out", &capability];
        super_node.call(&[&grant[..], &["--max-bytes-per-device", "1GB", "--days", "9"]].concat())?;
        let mut others = Vec::new();
        for n in 0..LENDERS {
            let (name, owner) = (format!("device{n}"), format!("owner{n}"));
            let host = world.namespace(&name)?;
            world.attach(&host, "eth0")?;
            let flags = ["--lend", "300MB", "--authority", &authority, "--owner", &owner];
            others.push(world.peer(&host, &name, &bootstraps, &flags)?);
        }
        others.extend(bootstraps.into_iter().filter_map(|bootstrap| bootstrap.node));
        let tree = world.dir().join("tree");
        fs::create_dir_all(&tree)?;
        let outcome = Outcome {
            heading: &["step", "files in the restore point", "refused"],
            rows: Vec::new(),
            notes: Vec::new(),
            json: json!({}),
            failures: Vec::new(),
        };
        Ok(Self { super_node, _others: others, tree, outcome, world })
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        fs::write(self.tree.join(name), content).with_context(|| format!("cannot write {name}"))
    }

    fn backup(&self, dir: &Path) -> Result<Value> {
        let dir = dir.display().to_string();
        let args = ["backup", "create", &dir, "--policy", "replicas=2"];
        self.super_node
            .stream(&args)?
            .finish("the backup", BACKUP)
            .with_context(|| self.super_node.last_words())
    }

    /// Makes a backup, restores it and compares: `refused` has names and what is said of each; all
    /// other files are there, and `missing` lists what must not be in the restore point.
    fn step(&mut self, step: &str, refused: &[(&str, &str)], missing: &[&str]) -> Result<()> {
        let report = self.backup(&self.tree.clone())?;
        let problems: Vec<(String, String)> = report["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| {
                (
                    p["path"].as_str().unwrap_or_default().to_owned(),
                    p["why"].as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect();
        let mut failures = Vec::new();
        for (name, why) in refused {
            if !problems.iter().any(|(path, said)| path.ends_with(name) && said.contains(why)) {
                failures.push(format!("{step}: {name} is not refused with '{why}': {problems:?}"));
            }
        }
        if problems.len() != refused.len() {
            failures.push(format!(
                "{step}: {} files are refused, not {}: {problems:?}",
                problems.len(),
                refused.len()
            ));
        }
        let out = self.world.dir().join(step.replace(' ', "-"));
        self.super_node.call_within(&["backup", "restore", &out.display().to_string()], BACKUP)?;
        for entry in fs::read_dir(&self.tree)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let restored = out.join("tree").join(&name);
            let absent = missing.contains(&name.as_str());
            let right = if absent {
                !restored.exists()
            } else {
                fs::read(&restored).ok() == fs::read(entry.path()).ok()
            };
            if !right {
                let what = if absent { "is in the restore point" } else { "is not restored as it was" };
                failures.push(format!("{step}: {name} {what}"));
            }
        }
        let files = report["point"]["totals"]["files"].to_string();
        let said: Vec<String> = problems.iter().map(|(path, why)| format!("{}: {why}", last(path))).collect();
        self.outcome.rows.push(vec![step.to_owned(), files, said.join("; ")]);
        self.outcome.json[step] =
            json!({ "problems": report["problems"], "totals": report["point"]["totals"] });
        self.outcome.failures.extend(failures);
        Ok(())
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Clean, infected, and while the daemon is dead.
pub(super) fn run(_: &Options) -> Result<Outcome> {
    install::ensure(install::CLAMAV)?;
    let world = World::new(ioex())?;
    let dir = world.dir().join("clamd");
    fs::create_dir_all(&dir)?;
    let mut clamd = Clamd::start(&dir)?;
    let mut stage = Stage::build(&clamd, world)?;
    stage.write("letter", b"a harmless letter")?;
    stage.write("long", &vec![b'x'; STREAM_MAX_BYTES / 2])?;
    // The directory hears of new devices with a delay.
    let tree = stage.tree.clone();
    sh::wait_for("a first backup", BACKUP, || Ok(stage.backup(&tree).ok()))?;
    stage.step("clean", &[], &[])?;

    let infected = [b"something before ".as_slice(), TEXT.as_bytes(), b" and after"].concat();
    stage.write("infected", &infected)?;
    stage.write("eicar", EICAR.concat().as_bytes())?;
    stage.write("too-long", &vec![b'y'; STREAM_MAX_BYTES * 2])?;
    stage.write("clean-too", b"another letter")?;
    let bad = [("infected", TEXT_NAME), ("eicar", EICAR_NAME), ("too-long", "")];
    let names = ["infected", "eicar", "too-long"];
    stage.step("infected", &bad, &names)?;

    clamd.process.kill()?;
    stage.write("unseen", b"nobody has looked at this")?;
    let dead = "the scanner does not work";
    let refused = [("infected", dead), ("eicar", dead), ("too-long", dead), ("unseen", dead)];
    stage.step("daemon dead", &refused, &[&names[..], &["unseen"]].concat())?;
    // A tree of which nothing was ever looked at: nothing of it goes anywhere.
    let fresh = stage.world.dir().join("fresh");
    fs::create_dir_all(&fresh)?;
    fs::write(fresh.join("a"), b"nobody has looked at this either")?;
    let report = stage.backup(&fresh)?;
    let totals = &report["point"]["totals"];
    stage.outcome.rows.push(vec![
        "daemon dead, new tree".into(),
        totals["files"].to_string(),
        report["problems"][0]["why"].to_string(),
    ]);
    if totals["files"] != 0 || totals["bytes"] != 0 {
        stage.outcome.failures.push(format!("something was stored unseen: {report}"));
    }

    clamd = Clamd::start(&dir)?;
    stage.step("daemon back", &bad, &names)?;
    let told = log(&dir);
    for name in [TEXT_NAME, EICAR_NAME] {
        ensure!(told.contains(name), "the daemon's log does not name {name}:\n{told}");
    }
    let found =
        told.lines().filter(|line| line.contains("FOUND") || line.contains("exceeded")).map(str::to_owned);
    stage.outcome.notes = found.take(NOTES_MAX).collect();
    drop(clamd);
    Ok(stage.outcome)
}

/// Lines of the daemon's log under the table.
const NOTES_MAX: usize = 8;
