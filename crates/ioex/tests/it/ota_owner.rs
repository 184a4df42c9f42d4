//! What a device's owner, and the device by itself, decide: real processes.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;

use crate::{
    harm::Stopped,
    net::{Node, ended, noise, text, uid_of, write},
    ota::Fleet,
};

pub(crate) fn script(path: &Path, text: &str) {
    write(path, format!("#!/bin/sh\n{text}\n").as_bytes());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A device with further lines in its section; `consent` as it says.
fn device(fleet: &Fleet, consent: &str, more: &str) -> Node {
    let device = fleet.device_that(0, consent, more);
    fleet.maker(&["ota", "roster", "add", &uid_of(&device)]);
    device
}

fn holds(state: &Value, why: &str) -> bool {
    state["holding"].as_str().is_some_and(|holding| holding.contains(why))
}

pub(crate) fn got(state: &Value) -> u64 {
    state["by_source"].as_array().unwrap()[..3].iter().map(|n| n.as_u64().unwrap()).sum()
}

/// Devices that start at once, and how often each is killed.
const DEVICES: u32 = 8;
const KILLS: usize = 3;

/// Lines of a section for a version that the host has to confirm.
const HOST: &str = "confirm = \"host\"\nconfirm_minutes = 1";

/// Killed before they joined the network for the first time, again and again, and all at once: many handshakes with one
/// bootstrap are under way, and end halfway.
#[test]
fn devices_killed_right_after_their_first_start_look_at_their_channel() {
    let fleet = Fleet::start(0);
    let start = |n: u32| {
        let mut device = fleet.device(n, "");
        for _ in 0..KILLS {
            device.kill();
            device.run();
        }
        device
    };
    let start = &start;
    let devices: Vec<Node> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..DEVICES).map(|n| scope.spawn(move || start(n))).collect();
        all.into_iter().map(|device| device.join().unwrap()).collect()
    });
    for device in &devices {
        fleet.maker(&["ota", "roster", "add", &uid_of(device)]);
    }
    fleet.publish("1.1", b"new", &[]);
    for (n, device) in devices.iter().enumerate() {
        device.ask(&["ota", "check"]);
        device.wait_for(&["ota", "state"], |s| s["running"] == "1.1.0" && s["stage"] == "idle");
        assert_eq!(fs::read(fleet.app(n)).unwrap(), b"new");
    }
}

/// A device that cannot look says why.
#[test]
fn a_device_that_is_not_in_the_network_says_so() {
    let mut fleet = Fleet::start(0);
    fleet.net.boot.kill();
    let mut device = fleet.device(0, "");
    device.wait_for(&["ota", "state"], |s| holds(s, "not in the network") && s["last_check"].is_null());
    fleet.net.boot.run();
    device.wait_for(&["ota", "state"], |s| s["holding"].is_null() && !s["last_check"].is_null());
    device.kill();
}

#[test]
fn an_owner_who_is_asked_before_installing_and_one_who_is_asked_twice() {
    for consent in ["install", "both"] {
        let fleet = Fleet::start(0);
        let device = device(&fleet, consent, "");
        fleet.publish("1.1", b"new", &[]);
        device.ask(&["ota", "check"]);
        if consent == "both" {
            device.wait_for(&["ota", "state"], |s| s["stage"] == "offered" && holds(s, "asked"));
            device.ask(&["ota", "install", "1.1"]);
        }
        device.wait_for(&["ota", "state"], |s| s["stage"] == "fetched" && holds(s, "asked"));
        assert_eq!(fs::read(fleet.app(0)).unwrap(), b"version 1.0", "{consent}");
        let installed = device.try_ask(&["ota", "install", "1.1", "--wait"]);
        assert!(installed.status.success(), "{consent}: {}", text(&installed));
        assert_eq!(fs::read(fleet.app(0)).unwrap(), b"new", "{consent}");
    }
}

/// A device that came to the list after the order is told so: nobody matches it.
#[test]
fn a_device_that_is_not_in_the_order_says_so() {
    let fleet = Fleet::start(1);
    fleet.publish("1.1", b"new", &[]);
    let device = fleet.device(1, "");
    device.ask(&["ota", "check"]);
    let told = |s: &Value| s["problem"].as_str().is_some_and(|why| why.contains("not in its order"));
    device.wait_for(&["ota", "state"], told);
    // A look that finds the same leaves it there.
    device.ask(&["ota", "check"]);
    let state = device.wait_for(&["ota", "state"], |s| !s["last_check"].is_null());
    assert!(told(&state), "{state}");
}

/// An owner wants a version that nobody gets any more, and the device has not heard of it: the answer says so, and a
/// command that waits ends.
#[test]
fn who_waits_for_a_version_that_is_over_is_told_so() {
    let fleet = Fleet::start(0);
    let device = device(&fleet, "ask", "");
    let offered = |version: &'static str| {
        device.ask(&["ota", "check"]);
        device.wait_for(&["ota", "state"], move |s| s["offered"] == version && holds(s, "asked"));
    };
    let install = |version: &str, why: &str| {
        let answer = device.ask(&["ota", "install", version, "--now"]);
        assert!(holds(&answer, why) && answer["stuck"] == true, "{version}: {answer}");
        let output = ended(device.command(&["ota", "install", version, "--now", "--wait"]));
        assert_eq!(output.status.code(), Some(4), "{version}: {}", text(&output));
        assert!(text(&output).contains(why), "{version}: {}", text(&output));
        assert_eq!(fs::read(fleet.app(0)).unwrap(), b"version 1.0");
    };
    // Its rollout is paused, and then over.
    fleet.publish("1.1", b"paused", &[]);
    offered("1.1.0");
    fleet.maker(&["ota", "rollout", "1.1", "--pause"]);
    install("1.1", "the maker paused the rollout");
    fleet.maker(&["ota", "rollout", "1.1", "--abort"]);
    install("1.1", "the maker ended the rollout");
    // Its order is over, which only the matcher knows.
    fleet.publish("1.2", b"over", &[]);
    offered("1.2.0");
    fleet.maker(&["ota", "order", "1.2", "--end"]);
    install("1.2", "or the order is over");
    // It is not in the channel any more, or another one is.
    fleet.maker(&["ota", "withdraw", "1.2"]);
    fleet.maker(&["ota", "withdraw", "1.1"]);
    let gone = device.try_ask(&["ota", "install", "1.2"]);
    assert_eq!(gone.status.code(), Some(19), "{}", text(&gone));
    fleet.publish("1.3", b"shown", &[]);
    offered("1.3.0");
    fleet.publish("1.4", b"never shown", &[]);
    let late = device.try_ask(&["ota", "install", "1.3", "--wait"]);
    assert_eq!(late.status.code(), Some(30), "{}", text(&late));
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"version 1.0");
}

/// A maker's nodes that do not answer hold up nobody for long: what was fetched is installed.
#[test]
fn an_owner_s_word_counts_although_nobody_can_be_asked() {
    let fleet = Fleet::start(0);
    // So many that waiting for each as long as a link lasts would take too long.
    let further = [("second", 5), ("third", 6), ("fourth", 7)];
    let further = further.map(|(name, place)| fleet.net.further_super(name, place));
    let uids = further.each_ref().map(uid_of);
    let device = device(&fleet, "install", "");
    fleet.publish("1.1", b"new", &uids.each_ref().map(|uid| ["--matcher", uid.as_str()]).concat());
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| s["stage"] == "fetched" && holds(s, "asked"));
    let stand: Vec<Stopped<'_>> = further.iter().chain([&fleet.net.super_node]).map(Stopped::new).collect();
    // The answer comes after twenty seconds at most, whatever has happened by then.
    let answer = device.ask(&["ota", "install", "1.1"]);
    assert_ne!(answer["stage"], "fetched", "{answer}");
    device.wait_for(&["ota", "state"], |s| s["running"] == "1.1.0");
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"new");
    drop(stand);
}

/// Whoever asks for a look sees what the device waits for now, and not what it waited for before.
#[test]
fn a_look_says_what_holds_now() {
    let fleet = Fleet::start(1);
    let device = &fleet.devices[0];
    fleet.publish("1.1", b"new", &["--percent", "0"]);
    for _ in 0..3 {
        for (change, why) in [("--pause", "paused"), ("--resume", "does not reach it yet")] {
            fleet.maker(&["ota", "rollout", "1.1", change]);
            let state = device.ask(&["ota", "check", "--wait"]);
            assert!(holds(&state, why) && !state["last_check"].is_null(), "{change}: {state}");
        }
    }
    // What it waited for is over with the version.
    fleet.maker(&["ota", "withdraw", "1.1"]);
    let state = device.ask(&["ota", "check", "--wait"]);
    assert!(state["holding"].is_null() && state["stage"] == "idle", "{state}");
}

/// A channel that has nothing for this hardware is no reason to ask it again and again.
#[test]
fn a_device_for_which_the_channel_has_nothing_asks_when_its_time_comes() {
    let fleet = Fleet::start(0);
    let device = device(&fleet, "auto", "hardware = 3");
    fleet.publish("1.1", b"for others", &["--hardware", "5"]);
    let looked = device.try_ask(&["ota", "check", "--wait"]);
    assert_eq!(looked.status.code(), Some(4), "{}", text(&looked));
    assert!(text(&looked).contains("nothing for hardware revision 3"), "{}", text(&looked));
    let state = fs::read(device.data.join("ota/device.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert!(state["last_check"].is_u64() && state["look_after"].is_null(), "{state}");
}

/// A package is published again under a new number while it waits for its owner: it is his to agree to anew, and what is
/// here is used.
#[test]
fn the_same_package_under_a_new_number() {
    let fleet = Fleet::start(0);
    let device = device(&fleet, "install", "");
    let image = noise(1 << 20, 5);
    fleet.publish("1.1", &image, &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| s["stage"] == "fetched" && holds(s, "asked"));
    fleet.maker(&["ota", "rollout", "1.1", "--abort"]);
    let published = fleet.publish("1.2", &image, &[]);
    device.ask(&["ota", "check"]);
    let fetched = |s: &Value| s["offered"] == "1.2.0" && s["stage"] == "fetched" && holds(s, "asked");
    let state = device.wait_for(&["ota", "state"], fetched);
    assert_eq!(state["manifest"], published["manifest"]);
    let month = state["month_bytes"].as_u64().unwrap();
    assert!(month < 2 * image.len() as u64, "{month} bytes: its shards were here");
    let installed = device.try_ask(&["ota", "install", "1.2", "--wait"]);
    assert!(installed.status.success(), "{}", text(&installed));
    assert!(fs::read(fleet.app(0)).unwrap() == image);
}

#[test]
fn an_owner_declines_a_version_and_takes_the_next() {
    let fleet = Fleet::start(0);
    let device = device(&fleet, "ask", "");
    fleet.publish("1.1", b"unwanted", &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| s["stage"] == "offered");
    device.ask(&["ota", "decline", "1.1"]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| holds(s, "said no") && !s["last_check"].is_null());
    fleet.publish("1.2", b"wanted", &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| s["offered"] == "1.2.0" && holds(s, "asked"));
    let installed = device.try_ask(&["ota", "install", "1.2", "--wait"]);
    assert!(installed.status.success(), "{}", text(&installed));
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"wanted");
}

/// An owner who was shown one version answers when another one is there already.
#[test]
fn an_answer_counts_only_for_the_version_that_was_shown() {
    let fleet = Fleet::start(0);
    let device = device(&fleet, "ask", "");
    fleet.publish("1.1", b"shown", &[]);
    device.ask(&["ota", "check"]);
    let shown = device.wait_for(&["ota", "state"], |s| s["offered"] == "1.1.0" && holds(s, "asked"));
    let manifest = shown["manifest"].as_str().unwrap();
    fleet.publish("1.2", b"never shown", &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| s["offered"] == "1.2.0" && holds(s, "asked"));
    let answers: [&[&str]; 3] = [
        &["install", "1.1"],
        &["decline", "1.1"],
        // The right version, of which another package was shown.
        &["install", "1.2", "--manifest", manifest],
    ];
    for answer in answers {
        let late = device.try_ask(&[&["ota"][..], answer].concat());
        assert_eq!(late.status.code(), Some(30), "{answer:?}: {}", text(&late));
        assert!(text(&late).contains("is offered now"), "{answer:?}: {}", text(&late));
    }
    let state = device.ask(&["ota", "state"]);
    assert!(state["consent"] == false && holds(&state, "asked"), "{state}");
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"version 1.0");
    let manifest = state["manifest"].as_str().unwrap();
    let installed = device.try_ask(&["ota", "install", "1.2", "--manifest", manifest, "--wait"]);
    assert!(installed.status.success(), "{}", text(&installed));
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"never shown");
}

#[test]
fn a_version_is_confirmed_or_rolled_back_by_hand() {
    let fleet = Fleet::start(0);
    let device = device(&fleet, "auto", HOST);
    let early = device.try_ask(&["ota", "confirm"]);
    assert!(
        early.status.code() == Some(19) && text(&early).contains("nothing is on trial"),
        "{}",
        text(&early)
    );
    fleet.publish("1.1", b"good", &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| holds(s, "has to confirm"));
    device.ask(&["ota", "confirm"]);
    device.wait_for(&["ota", "state"], |s| s["running"] == "1.1.0" && s["stage"] == "idle");
    fleet.publish("1.2", b"disliked", &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| holds(s, "has to confirm"));
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"disliked");
    let state = device.ask(&["ota", "roll-back"]);
    assert_eq!(
        (state["running"].as_str(), state["stage"].as_str()),
        (Some("1.1.0"), Some("idle")),
        "{state}"
    );
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"good");
    let again = device.try_ask(&["ota", "roll-back"]);
    assert_eq!(again.status.code(), Some(19), "{}", text(&again));
}

#[test]
fn a_version_that_nobody_confirms_goes_back_after_its_minutes() {
    let fleet = Fleet::start(0);
    let device = device(&fleet, "auto", HOST);
    fleet.publish("1.1", b"mute", &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| holds(s, "has to confirm"));
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"mute");
    let gone =
        |s: &Value| s["problem"].as_str().is_some_and(|why| why.contains("not confirmed within 1 min"));
    let state = device.wait_for(&["ota", "state"], gone);
    assert!(state["running"] == "1.0.0", "{state}");
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"version 1.0");
}

/// A version that resets the device before it is found unhealthy.
#[test]
fn a_program_that_is_started_too_often_on_trial_goes_back() {
    let fleet = Fleet::start(0);
    let (health, asked) = (fleet.path("health"), fleet.path("asked"));
    // It never answers; it ends with the node that asked.
    let loops = "while kill -0 $PPID 2>/dev/null; do sleep 1; done";
    script(&health, &format!("echo x >> {}\n{loops}", asked.display()));
    let mut device = device(&fleet, "auto", &format!("health = [{health:?}]"));
    fleet.publish("1.1", b"resets", &[]);
    device.ask(&["ota", "check"]);
    // The first start is that of its activation.
    for start in 1..=ioex_ota::install::TRIAL_STARTS {
        device.wait_for(&["ota", "state"], |_| {
            fs::read(&asked).is_ok_and(|lines| lines.len() >= 2 * usize::from(start))
        });
        assert_eq!(fs::read(fleet.app(0)).unwrap(), b"resets", "start {start}");
        device.kill();
        device.run();
    }
    let state = device.wait_for(&["ota", "state"], |s| s["stage"] == "idle" && !s["problem"].is_null());
    assert_eq!(state["running"], "1.0.0", "{state}");
    assert!(state["problem"].as_str().unwrap().contains("went back by itself"), "{state}");
    assert_eq!(fs::read(fleet.app(0)).unwrap(), b"version 1.0");
}

/// A device that never downloaded anything takes what did not change from what it came with.
#[test]
fn a_factory_fresh_device_downloads_only_what_changed() {
    let mut fleet = Fleet::start(0);
    let first = noise(12 << 20, 5);
    let mut second = first.clone();
    second[5 << 20..(5 << 20) + 200_000].copy_from_slice(&noise(200_000, 6));
    second.splice(1000..1000, *b"inserted");
    let mut device = fleet.device(0, "");
    device.kill();
    let _ = fs::remove_dir_all(fleet.app(0).with_file_name(".app.ota"));
    write(&fleet.app(0), &first);
    device.run();
    fleet.maker(&["ota", "roster", "add", &uid_of(&device)]);
    let published = fleet.publish("1.1", &second, &[]);
    let full = published["stored_bytes"].as_u64().unwrap();
    fleet.devices.push(device);
    fleet.update_to("1.1.0");
    assert!(fs::read(fleet.app(0)).unwrap() == second);
    let came = got(&fleet.devices[0].ask(&["ota", "state"]));
    assert!(came > 0 && came * 100 < full * 20, "{came} of {full}");

    // The next one, too: what it lacks of the shards lies in what it runs.
    let mut third = second.clone();
    third[9 << 20..(9 << 20) + 100_000].copy_from_slice(&noise(100_000, 7));
    fleet.publish("1.2", &third, &[]);
    fleet.update_to("1.2.0");
    assert!(fs::read(fleet.app(0)).unwrap() == third);
    let came = got(&fleet.devices[0].ask(&["ota", "state"]));
    assert!(came > 0 && came * 100 < full * 15, "{came} of {full}");
}

/// The same for a folder, by the archive in which it travels.
#[test]
fn a_factory_fresh_folder_is_a_source_too() {
    let mut fleet = Fleet::start(0);
    let mut device = fleet.device(0, "");
    let app = fleet.without_program(&mut device);
    let new = fleet.path("new");
    for folder in [&app, &new] {
        for n in 0..40 {
            write(&folder.join(format!("lib/part-{n}")), &noise(200_000, n));
        }
    }
    write(&new.join("bin"), b"new");
    device.run();
    fleet.maker(&["ota", "roster", "add", &uid_of(&device)]);
    let image = format!("app={}", new.display());
    let published = fleet.maker(&["ota", "publish", &image, "--version", "1.1"]);
    let full = published["stored_bytes"].as_u64().unwrap();
    fleet.devices.push(device);
    fleet.update_to("1.1.0");
    crate::net::same(&new, &app);
    let came = got(&fleet.devices[0].ask(&["ota", "state"]));
    assert!(came > 0 && came * 100 < full * 20, "{came} of {full}");
    assert!(!fleet.devices[0].data.join("ota/own.tar").exists());
}

/// What two changes and two ends of images spoil at most: a change lies in two shards or fewer, and the partition goes
/// on after the end of an image, whose last chunk is cut elsewhere there.
const SPOILT_BYTES: u64 = (2 * 2 + 2) * 512 * 1024;

/// Slots of a device for one image: what it came with, and an empty one.
fn slots(fleet: &Fleet, name: &str, image: &[u8]) -> [std::path::PathBuf; 2] {
    let paths = ["a", "b"].map(|slot| fleet.path(&format!("slots/{name}-{slot}")));
    write(&paths[0], image);
    write(&paths[1], &[]);
    for path in &paths {
        fs::File::options().write(true).open(path).unwrap().set_len(16 << 20).unwrap();
    }
    paths
}

/// The same for a device with two slots for each image: by what lies in those that run.
#[test]
fn a_factory_fresh_pair_is_a_source_too() {
    let mut fleet = Fleet::start(0);
    let kernel = noise(3 << 20, 5);
    let mut system = noise(10 << 20, 6);
    let places = [("kernel", slots(&fleet, "kernel", &kernel)), ("system", slots(&fleet, "system", &system))];
    let (state, running) = (fleet.path("slots/state"), fleet.path("slots/running"));
    write(&running, b"a");
    let listed: Vec<String> =
        places.iter().map(|(name, [a, b])| format!("{{ name = {name:?}, a = {a:?}, b = {b:?} }}")).collect();
    let (bundle, config) = (fleet.path("bundle"), fleet.path("pair.toml"));
    let section = format!(
        "[ota]\nbundle = {bundle:?}\ninstalled = \"1.0\"\nconsent = \"auto\"\n[ota.install.pair]\nstate = {state:?}\n\
         running = {running:?}\nslots = [{}]\n\
         [ota.policy]\ninstall_hours = {{ from_minute = 0, until_minute = 0 }}\n",
        listed.join(", ")
    );
    write(&config, section.as_bytes());
    let device = fleet.net.device("device-0", 0, &["--config", config.to_str().unwrap()]);
    fleet.maker(&["ota", "roster", "add", &uid_of(&device)]);
    fleet.devices.push(device);
    let boot = ["ota", "boot", "--state", state.to_str().unwrap(), "--running", running.to_str().unwrap()];

    for (version, changed, slot) in [("1.1", 5 << 20, 1), ("1.2", 8 << 20, 0)] {
        system[changed..changed + 100_000].copy_from_slice(&noise(100_000, changed as u64));
        system.splice(1000..1000, *b"inserted");
        let images = [("kernel", &kernel), ("system", &system)].map(|(name, bytes)| {
            let path = fleet.path(&format!("{name}-{version}"));
            write(&path, bytes);
            format!("{name}={}", path.display())
        });
        let published = fleet.maker(&["ota", "publish", &images[0], &images[1], "--version", version]);
        let device = &mut fleet.devices[0];
        device.ask(&["ota", "check"]);
        let state = device.wait_for(&["ota", "state"], |s| holds(s, "next start"));
        let (came, full) = (got(&state), published["stored_bytes"].as_u64().unwrap());
        assert!(came > 0 && came <= SPOILT_BYTES, "{version}: {came} of {full}");
        device.kill();
        device.ask(&boot);
        assert_eq!(fs::read(&running).unwrap(), [b"a", b"b"][slot]);
        device.run();
        let version = format!("{version}.0");
        device.wait_for(&["ota", "state"], |s| s["running"] == version && s["stage"] == "idle");
        for ((name, places), image) in places.iter().zip([&kernel, &system]) {
            assert!(fs::read(&places[slot]).unwrap().starts_with(image), "{name} {version}");
        }
    }
}
