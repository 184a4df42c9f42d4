//! `examples/firmware.c`, compiled and run: a maker's super node publishes, the C program gets it, installs it,
//! and confirms it or goes back.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use crate::{
    net::{Net, last_json, noise, text, uid_of, write},
    program, target,
};

/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// How the example is linked.
#[derive(Clone, Copy)]
enum Link {
    Static,
    Shared,
}

/// A library of this build: beside this test, or where cargo puts what was asked for.
fn library(name: &str) -> PathBuf {
    let places = [target().join("deps").join(name), target().join(name)];
    places.iter().find(|place| place.exists()).unwrap_or_else(|| panic!("no {name} in {places:?}")).clone()
}

/// Compiles the example.
fn compile(dir: &Path, link: Link) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut cc, out) = (Command::new("cc"), dir.join(format!("firmware-{}", link as u8)));
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]).arg(root.join("include"));
    cc.arg(root.join("examples/firmware.c")).arg("-o").arg(&out);
    match link {
        Link::Static => {
            cc.arg(library("libioexnode.a"));
            // `rustc --print native-static-libs` names these.
            cc.args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"]);
        }
        Link::Shared => {
            let library = library("libioexnode.so");
            let folder = library.parent().unwrap();
            cc.arg("-L").arg(folder).arg("-lioexnode").arg(format!("-Wl,-rpath,{}", folder.display()));
        }
    }
    let made = cc.output().expect("`cc` has to be installed");
    assert!(made.status.success(), "{}", text(&made));
    out
}

/// The C program while it runs; killed when dropped.
struct Firmware {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Firmware {
    fn start(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (tell, lines) = mpsc::channel();
        let out: ChildStdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
        });
        Self { child, lines, seen: Vec::new() }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line with this beginning, and returns the rest of it.
    fn wait_for(&mut self, begin: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("no `{begin}`, {e}: {:#?}", self.seen));
            self.seen.push(line.clone());
            if let Some(rest) = line.strip_prefix(begin) {
                return rest.trim().to_owned();
            }
        }
    }

    fn has(&self, begin: &str) -> bool {
        self.seen.iter().any(|line| line.starts_with(begin))
    }

    /// Waits for the program's end.
    fn ended(&mut self) -> Option<i32> {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Firmware {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A maker with a channel, and the configuration of one device.
struct Maker {
    net: Net,
    channel: PathBuf,
    config: PathBuf,
    app: PathBuf,
}

impl Maker {
    fn start() -> Self {
        let net = Net::start(0, "0");
        let (channel, config, app) = (net.path("channel"), net.path("device.toml"), net.path("files/app"));
        let maker = Self { net, channel, config, app };
        maker.run(&["ota", "channel", "create", "acme", "box"]);
        let (bundle, matcher) = (maker.net.path("bundle"), uid_of(&maker.net.super_node));
        maker.run(&["ota", "channel", "bundle", bundle.to_str().unwrap(), "--matcher", &matcher]);
        write(&maker.app, b"version 1.0");
        let section = format!(
            "data = {:?}\nbind = {:?}\nseeds = [{:?}]\n[ota]\nbundle = {bundle:?}\ninstalled = \"1.0\"\n\
             consent = \"ask\"\nconfirm = \"host\"\n[ota.install.swap]\npath = {:?}\n\
             [ota.policy]\ninstall_hours = {{ from_minute = 0, until_minute = 0 }}\n",
            maker.net.path("device"),
            maker.net.free_ip(),
            maker.net.seed,
            maker.app
        );
        write(&maker.config, section.as_bytes());
        maker
    }

    /// A maker's command.
    fn run(&self, args: &[&str]) -> serde_json::Value {
        let channel = ["--channel", self.channel.to_str().unwrap()];
        let output = self.net.super_node.try_ask(&[args, &channel].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        last_json(&output)
    }

    fn publish(&self, version: &str, image: &[u8]) {
        let path = self.net.path(&format!("image-{version}"));
        write(&path, image);
        self.run(&["ota", "publish", &format!("app={}", path.display()), "--version", version]);
    }

    /// Waits until the maker heard of so many devices at a stage, and returns the order.
    fn heard(&self, version: &str, stage: &str) -> serde_json::Value {
        let of = |all: &serde_json::Value| {
            let orders = all["orders"].as_array()?;
            orders.iter().find(|o| o["version"] == version && o["stages"][stage] == 1).cloned()
        };
        of(&self.net.super_node.wait_for(&["ota", "status"], |all| of(all).is_some())).unwrap()
    }
}

#[test]
fn a_firmware_in_c_installs_a_version_and_takes_an_unhealthy_one_back() {
    assert!(program().exists());
    let maker = Maker::start();
    let (config, app) = (maker.config.to_str().unwrap(), maker.app.to_str().unwrap());
    let args = [config, "--once", "--unhealthy-if", "broken", app];

    // Linked with the archive; the owner is asked.
    let dir = tempfile::tempdir().unwrap();
    let mut firmware = Firmware::start(&compile(dir.path(), Link::Static), &args);
    let uid = firmware.wait_for("started ");
    maker.run(&["ota", "roster", "add", &uid]);
    let good = noise(3 << 20, 1);
    maker.publish("1.1", &good);
    firmware.say("check");
    assert_eq!(firmware.wait_for("offered "), "1.1.0");
    firmware.wait_for("install it?");
    assert_eq!(fs::read(&maker.app).unwrap(), b"version 1.0");
    firmware.say("yes");
    assert_eq!(firmware.wait_for("confirmed "), "1.1.0");
    assert_eq!(firmware.ended(), Some(0), "{:#?}", firmware.seen);
    for begin in ["progress ", "ready 1.1.0", "installed 1.1.0", "trial 1.1.0", "running 1.1.0"] {
        assert!(firmware.has(begin), "no `{begin}`: {:#?}", firmware.seen);
    }
    assert!(fs::read(&maker.app).unwrap() == good);

    // Linked with the shared library; nobody is asked; the firmware says that it is unhealthy.
    maker.publish("1.2", b"this one is broken");
    let args = [&args[..], &["--yes"]].concat();
    let mut firmware = Firmware::start(&compile(dir.path(), Link::Shared), &args);
    firmware.wait_for("started ");
    firmware.say("check");
    let failed = firmware.wait_for("failed ");
    assert_eq!(failed, "1.2.0, rolled back: the firmware says that it is unhealthy");
    assert_eq!(firmware.ended(), Some(3), "{:#?}", firmware.seen);
    assert!(firmware.has("trial 1.2.0") && firmware.has("running 1.1.0"), "{:#?}", firmware.seen);
    assert!(fs::read(&maker.app).unwrap() == good);

    // The maker hears of both: of the second when the device is there again.
    let mut firmware = Firmware::start(&compile(dir.path(), Link::Shared), &args);
    let order = maker.heard("1.2.0", "failed");
    assert_eq!(order["reasons"][0][0], "the firmware says that it is unhealthy", "{order}");
    firmware.say("quit");
    assert_eq!(firmware.ended(), Some(0), "{:#?}", firmware.seen);
    maker.heard("1.1.0", "confirmed");
}

#[test]
fn a_firmware_is_told_what_is_wrong_with_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = compile(dir.path(), Link::Shared);
    let run = |config: &str| {
        let path = dir.path().join("config.toml");
        fs::write(&path, config).unwrap();
        let told = Command::new(&firmware).arg(&path).stdin(Stdio::null()).output().unwrap();
        (told.status.code(), text(&told))
    };
    let (code, told) = run("data = \"d\"\n");
    assert!(code == Some(2) && told.contains("[ota]"), "{told}");
    let data = dir.path().join("data");
    let (code, told) = run(&format!(
        "data = {data:?}\n[ota]\nbundle = \"missing\"\ninstalled = \"1.0\"\n[ota.install.swap]\npath = \"p\"\n"
    ));
    // That is found out on the node's own thread, and told as its end.
    assert!(code == Some(2) && told.contains("stopped ") && told.contains("missing"), "{told}");
    let told = Command::new(&firmware).output().unwrap();
    assert_eq!(told.status.code(), Some(1));
}
