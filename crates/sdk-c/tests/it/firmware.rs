//! `examples/firmware.c`, compiled and run: a maker's super node publishes, the C program gets it, installs it,
//! and confirms it or goes back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    example::{self, Firmware, Link},
    net::{Net, last_json, noise, poll, text, uid_of, write},
    program, target,
};

/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// A library of this build: beside this test, or where cargo puts what was asked for.
pub(crate) fn library(name: &str) -> PathBuf {
    let places = [target().join("deps").join(name), target().join(name)];
    places.iter().find(|place| place.exists()).unwrap_or_else(|| panic!("no {name} in {places:?}")).clone()
}

/// Compiles the example.
fn compile(link: Link<'_>, out: &Path) -> PathBuf {
    let made = example::compile("cc", Path::new(env!("CARGO_MANIFEST_DIR")), link, out);
    made.unwrap_or_else(|e| panic!("{e}"));
    out.to_owned()
}

fn start(program: &Path, args: &[&str]) -> Firmware {
    // Cargo's folders go before that of the library that it was linked with, and may have an older one.
    let mut command = Command::new(program);
    Firmware::start(command.args(args).env("IOEX_LOG", "off").env_remove("LD_LIBRARY_PATH")).unwrap()
}

fn wait_for(firmware: &mut Firmware, begin: &str) -> String {
    firmware.wait_for(begin, PATIENCE).unwrap_or_else(|e| panic!("{e}"))
}

/// Waits for its end, which has to be this one.
fn ends_with(mut firmware: Firmware, code: i32) -> Firmware {
    let ended = firmware.ended(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ended, Some(code), "{}", firmware.complaint("another exit code"));
    firmware
}

/// What it has to have said.
fn said(firmware: &Firmware, lines: &[&str]) {
    for begin in lines {
        assert!(firmware.has(begin), "{}", firmware.complaint(&format!("no `{begin}`")));
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
        Self::asks("ask")
    }

    /// `consent`: when the owner is asked.
    fn asks(consent: &str) -> Self {
        let net = Net::start(0, "0");
        let (channel, config, app) = (net.path("channel"), net.path("device.toml"), net.path("files/app"));
        let maker = Self { net, channel, config, app };
        maker.run(&["ota", "channel", "create", "acme", "box"]);
        let (bundle, matcher) = (maker.net.path("bundle"), uid_of(&maker.net.super_node));
        maker.run(&["ota", "channel", "bundle", bundle.to_str().unwrap(), "--matcher", &matcher]);
        write(&maker.app, b"version 1.0");
        let section = format!(
            "data = {:?}\nbind = \"{}\"\nseeds = [{:?}]\n[ota]\nbundle = {bundle:?}\ninstalled = \"1.0\"\n\
             consent = {consent:?}\nconfirm = \"host\"\n[ota.install.swap]\npath = {:?}\n\
             [ota.policy]\ninstall_hours = {{ from_minute = 0, until_minute = 0 }}\n",
            maker.net.path("device"),
            maker.net.free_ip(0),
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
    let with_archive = compile(Link::Static(&library("libioexnode.a")), &dir.path().join("static"));
    let with_library = compile(Link::Shared(&library("libioexnode.so")), &dir.path().join("shared"));
    let mut firmware = start(&with_archive, &args);
    let uid = wait_for(&mut firmware, "started ");
    maker.run(&["ota", "roster", "add", &uid]);
    let good = noise(3 << 20, 1);
    maker.publish("1.1", &good);
    firmware.say("check").unwrap();
    assert_eq!(wait_for(&mut firmware, "offered "), "1.1.0");
    wait_for(&mut firmware, "install it?");
    assert_eq!(fs::read(&maker.app).unwrap(), b"version 1.0");
    // The owner may think better of it.
    firmware.say("no").unwrap();
    assert_eq!(wait_for(&mut firmware, "declined "), "1.1.0");
    firmware.say("yes").unwrap();
    assert_eq!(wait_for(&mut firmware, "installed "), "1.1.0");
    // Only the one that was started anew can say whether it is well.
    assert_eq!(wait_for(&mut firmware, "started "), uid);
    assert!(!firmware.has("trial "), "{}", firmware.complaint("the one before was asked"));
    assert_eq!(wait_for(&mut firmware, "confirmed "), "1.1.0");
    let firmware = ends_with(firmware, 0);
    said(&firmware, &["progress ", "ready 1.1.0", "running 1.0.0", "trial 1.1.0", "running 1.1.0"]);
    assert!(fs::read(&maker.app).unwrap() == good);

    // Linked with the shared library; nobody is asked; the firmware says that it is unhealthy.
    maker.publish("1.2", b"this one is broken");
    let args = [&args[..], &["--yes"]].concat();
    let mut firmware = start(&with_library, &args);
    wait_for(&mut firmware, "started ");
    firmware.say("check").unwrap();
    let failed = wait_for(&mut firmware, "failed ");
    assert_eq!(failed, "1.2.0, rolled back: the firmware says that it is unhealthy");
    said(&ends_with(firmware, 3), &["trial 1.2.0", "running 1.1.0"]);
    assert!(fs::read(&maker.app).unwrap() == good);

    // The maker hears of both: of the second when the device is there again.
    let mut firmware = start(&with_library, &args);
    let order = maker.heard("1.2.0", "failed");
    assert_eq!(order["reasons"][0][0], "the firmware says that it is unhealthy", "{order}");
    firmware.say("quit").unwrap();
    ends_with(firmware, 0);
    maker.heard("1.1.0", "confirmed");
}

/// Its owner's yes comes before the node is in the network again.
#[test]
fn a_firmware_does_not_install_what_was_withdrawn_while_it_was_off() {
    assert!(program().exists());
    let maker = Maker::asks("install");
    let dir = tempfile::tempdir().unwrap();
    let program = compile(Link::Static(&library("libioexnode.a")), &dir.path().join("firmware"));
    let args = [maker.config.to_str().unwrap(), "--once"];
    let mut firmware = start(&program, &args);
    let uid = wait_for(&mut firmware, "started ");
    maker.run(&["ota", "roster", "add", &uid]);
    maker.publish("1.1", b"withdrawn");
    firmware.say("check").unwrap();
    assert_eq!(wait_for(&mut firmware, "ready "), "1.1.0");
    firmware.say("quit").unwrap();
    ends_with(firmware, 0);
    maker.run(&["ota", "withdraw", "1.1"]);

    let mut firmware = start(&program, &args);
    wait_for(&mut firmware, "install it?");
    firmware.say("yes").unwrap();
    let gone = || {
        let state: serde_json::Value =
            serde_json::from_slice(&fs::read(maker.net.path("device/ota/device.json")).ok()?).ok()?;
        (state["step"] != "fetched").then_some(state)
    };
    assert_eq!(poll(gone).expect("it looked")["step"], "idle");
    firmware.say("quit").unwrap();
    let firmware = ends_with(firmware, 0);
    assert!(!firmware.has("installed "), "{}", firmware.complaint("it was installed"));
    assert_eq!(fs::read(&maker.app).unwrap(), b"version 1.0");
}

/// The maker's own centre brings the channel's files, and the device would look for them in an hour only.
#[test]
fn a_firmware_in_c_takes_the_channel_from_its_maker_s_centre() {
    assert!(program().exists());
    let maker = Maker::start();
    // So that there is something to see at the first look, and nothing new in it.
    maker.run(&["ota", "roster", "add", &uid_of(&maker.net.super_node)]);
    maker.publish("1.0", b"version 1.0");
    let dir = tempfile::tempdir().unwrap();
    let program = compile(Link::Static(&library("libioexnode.a")), &dir.path().join("firmware"));
    let mut firmware = start(&program, &[maker.config.to_str().unwrap(), "--once", "--yes"]);
    let uid = wait_for(&mut firmware, "started ");
    let looked = || {
        let state = fs::read(maker.net.path("device/ota/device.json")).ok()?;
        let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
        (state["last_check"].is_u64() && state["problem"].is_null()).then_some(())
    };
    assert!(poll(looked).is_some(), "it looked once, and found nothing");
    maker.run(&["ota", "roster", "add", &uid]);
    maker.publish("1.1", b"brought");

    // One letter of a signature is another.
    let (metadata, changed) = (maker.channel.join("metadata"), dir.path().join("changed"));
    fs::create_dir(&changed).unwrap();
    for entry in fs::read_dir(&metadata).unwrap().flatten() {
        fs::copy(entry.path(), changed.join(entry.file_name())).unwrap();
    }
    let timestamp = fs::read_to_string(changed.join("timestamp.json")).unwrap();
    let at = timestamp.find("\"sig\"").unwrap() + 10;
    let letter = if &timestamp[at..=at] == "a" { "b" } else { "a" };
    let forged = format!("{}{letter}{}", &timestamp[..at], &timestamp[at + 1..]);
    fs::write(changed.join("timestamp.json"), forged).unwrap();
    firmware.say(&format!("take {}", changed.display())).unwrap();
    let refused = wait_for(&mut firmware, "not done: ");
    assert!(refused.contains("valid signatures"), "{refused}");
    firmware.say(&format!("take {}", dir.path().join("nothing").display())).unwrap();
    wait_for(&mut firmware, "not done: ");
    assert!(!firmware.has("offered "), "{}", firmware.complaint("the device found it by itself"));

    firmware.say(&format!("take {}", metadata.display())).unwrap();
    assert_eq!(wait_for(&mut firmware, "offered "), "1.1.0");
    assert_eq!(wait_for(&mut firmware, "confirmed "), "1.1.0");
    ends_with(firmware, 0);
    assert_eq!(fs::read(&maker.app).unwrap(), b"brought");
}

/// The program may be stopped before it has heard how an update ended.
#[test]
fn a_firmware_is_told_at_its_next_start_how_an_update_ended() {
    assert!(program().exists());
    let maker = Maker::start();
    let dir = tempfile::tempdir().unwrap();
    let program = compile(Link::Static(&library("libioexnode.a")), &dir.path().join("firmware"));
    let args = [maker.config.to_str().unwrap(), "--once"];
    let mut firmware = start(&program, &args);
    wait_for(&mut firmware, "started ");
    firmware.say("quit").unwrap();
    ends_with(firmware, 0);
    let ends = maker.net.path("device/ota/ends.json");
    fs::write(&ends, br#"[{"Confirmed":{"version":"1.0.0"}}]"#).unwrap();
    let mut firmware = start(&program, &args);
    assert_eq!(wait_for(&mut firmware, "confirmed "), "1.0.0");
    ends_with(firmware, 0);
    assert_eq!(fs::read(&ends).unwrap(), b"[]", "it was told");
}

#[test]
fn a_firmware_is_told_what_is_wrong_with_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = compile(Link::Shared(&library("libioexnode.so")), &dir.path().join("firmware"));
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

/// The child has none of the node's threads; the parent goes on.
#[test]
fn a_child_that_was_forked_off_frees_nothing_and_does_no_harm() {
    let words = "#include <stdlib.h>\n#include <sys/wait.h>\n#include <unistd.h>\n#include <ioex.h>\n\
         static void told(const ioex_event *event, void *user) { (void)event; (void)user; }\n\
         int main(void) {\n\
         ioex_node *node; ioex_state *state = (ioex_state *)&node; int status;\n\
         if (ioex_node_state(NULL, &state) != IOEX_STATUS_INVALID || state) return 10;\n\
         if (ioex_node_start(CONFIG, told, NULL, &node) != IOEX_STATUS_OK) return 11;\n\
         if (fork() == 0) { alarm(20); _exit(ioex_node_free(node)); }\n\
         if (wait(&status) < 0 || status) return 12;\n\
         return ioex_node_free(node);\n}\n";
    run_small(words);
}

/// A broken connection is an error of the library's, not the end of a program that does not ignore the signal for it.
#[test]
fn the_signal_of_a_broken_connection_does_not_reach_the_program() {
    let words = "#include <signal.h>\n#include <stddef.h>\n#include <ioex.h>\n\
         static int blocked(void) {\n\
         sigset_t now; return !pthread_sigmask(SIG_BLOCK, NULL, &now) && sigismember(&now, SIGPIPE);\n}\n\
         static void told(const ioex_event *event, void *user) { (void)event; *(int *)user = blocked(); }\n\
         int main(void) {\n\
         ioex_node *node; int told_blocked = 0;\n\
         if (ioex_node_start(CONFIG, told, &told_blocked, &node) != IOEX_STATUS_OK) return 11;\n\
         if (blocked()) return 12;\n\
         return ioex_node_free(node) || !told_blocked;\n}\n";
    run_small(words);
}

/// Compiles a small program and runs it. `CONFIG` in it is a configuration whose bundle is missing.
fn run_small(words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("small.c"), dir.path().join("small"));
    let data = dir.path().join("data");
    let config = format!(
        "data = '{}'\\n[ota]\\nbundle = 'missing'\\ninstalled = '1.0'\\n[ota.install.swap]\\npath = 'p'\\n",
        data.display()
    );
    fs::write(&source, format!("#define CONFIG \"{config}\"\n{words}")).unwrap();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let mut cc = Command::new("cc");
    cc.arg(&source).arg("-I").arg(include).arg(library("libioexnode.a")).args(crate::place::SYSTEM_LIBRARIES);
    let made = cc.arg("-o").arg(&program).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let ended = Command::new(&program).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended));
}
