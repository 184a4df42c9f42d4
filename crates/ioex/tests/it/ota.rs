//! A maker's fleet, as real processes: a channel, a super node that matches, devices that update themselves and
//! each other.

use std::{fs, path::PathBuf};

use ioex_base::{
    receipt::{SIGNED_RECEIPT_MAX_BYTES, SignedReceipt},
    wire,
};
use serde_json::Value;

use crate::net::{Net, Node, noise, text, uid_of, write};

/// A maker, its super node and its devices.
pub(crate) struct Fleet {
    pub(crate) net: Net,
    pub(crate) channel: PathBuf,
    pub(crate) devices: Vec<Node>,
}

impl Fleet {
    /// Starts devices of version 1.0, which nobody asks before an update.
    pub(crate) fn start(devices: usize) -> Self {
        Self::start_asking(devices, &[])
    }

    /// The same; the devices ask these nodes before their maker's.
    pub(crate) fn start_asking(devices: usize, first: &[&str]) -> Self {
        let net = Net::start(0, "0");
        let channel = net.path("channel");
        net.super_node.ask(&[
            "ota",
            "channel",
            "create",
            "acme",
            "box",
            "--channel",
            channel.to_str().unwrap(),
        ]);
        let mut fleet = Self { net, channel, devices: Vec::new() };
        let matcher = uid_of(&fleet.net.super_node);
        let bundle = fleet.path("bundle");
        let mut args = vec!["ota", "channel", "bundle", bundle.to_str().unwrap()];
        for uid in first.iter().copied().chain([matcher.as_str()]) {
            args.extend(["--matcher", uid]);
        }
        fleet.maker(&args);
        for n in 0..devices {
            let device = fleet.device(n as u32, "");
            fleet.devices.push(device);
        }
        let uids: Vec<String> = fleet.devices.iter().map(uid_of).collect();
        let mut args = vec!["ota", "roster", "add"];
        args.extend(uids.iter().map(String::as_str));
        if devices > 0 {
            fleet.maker(&args);
        }
        fleet
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.net.path(name)
    }

    /// Where a device's program lies.
    pub(crate) fn app(&self, n: usize) -> PathBuf {
        self.path(&format!("device-{n}-files/app"))
    }

    /// A device whose program is one file. `more` are further lines of its section.
    pub(crate) fn device(&self, n: u32, more: &str) -> Node {
        self.device_that(n, "auto", more)
    }

    /// One whose owner is asked as `consent` says.
    pub(crate) fn device_that(&self, n: u32, consent: &str, more: &str) -> Node {
        let app = self.app(n as usize);
        write(&app, b"version 1.0");
        self.device_with(n, consent, more, &format!("[ota.install.swap]\npath = {app:?}"))
    }

    /// One with an installer of its own.
    pub(crate) fn device_with(&self, n: u32, consent: &str, more: &str, install: &str) -> Node {
        let (bundle, config) = (self.path("bundle"), self.path(&format!("device-{n}.toml")));
        let section = format!(
            "[ota]\nbundle = {bundle:?}\ninstalled = \"1.0\"\nconsent = {consent:?}\n{more}\n{install}\n\
             [ota.policy]\ninstall_hours = {{ from_minute = 0, until_minute = 0 }}\n"
        );
        fs::write(&config, section).unwrap();
        self.net.device(&format!("device-{n}"), n, &["--config", config.to_str().unwrap()])
    }

    /// Stops the first device and takes its program away; returns where that lay.
    pub(crate) fn without_program(&self, device: &mut Node) -> PathBuf {
        device.kill();
        let app = self.app(0);
        fs::remove_file(&app).unwrap();
        let _ = fs::remove_dir_all(app.with_file_name(".app.ota"));
        app
    }

    /// A maker's command.
    pub(crate) fn maker(&self, args: &[&str]) -> Value {
        let output = self.try_maker(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        crate::net::last_json(&output)
    }

    pub(crate) fn try_maker(&self, args: &[&str]) -> std::process::Output {
        let channel = ["--channel", self.channel.to_str().unwrap()];
        self.net.super_node.try_ask(&[args, &channel].concat())
    }

    /// Publishes a version whose only image is these bytes.
    pub(crate) fn publish(&self, version: &str, image: &[u8], more: &[&str]) -> Value {
        let path = self.path(&format!("image-{version}"));
        fs::write(&path, image).unwrap();
        let image = format!("app={}", path.display());
        let args = ["ota", "publish", &image, "--version", version];
        self.maker(&[&args, more].concat())
    }

    /// Has all devices look, and waits until they run a version.
    pub(crate) fn update_to(&self, version: &str) {
        self.devices.iter().for_each(|device| drop(device.ask(&["ota", "check"])));
        for device in &self.devices {
            device.wait_for(&["ota", "state"], |s| s["running"] == version && s["stage"] == "idle");
        }
    }
}

/// The receipts of one kind on a node's disk.
fn receipts(node: &Node, kind: &str) -> Vec<SignedReceipt> {
    let entries = fs::read_dir(node.data.join("ota/receipts")).unwrap().flatten();
    let of_kind = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind));
    let read = |entry: fs::DirEntry| fs::read(entry.path()).unwrap();
    of_kind.map(|entry| wire::decode(&read(entry), SIGNED_RECEIPT_MAX_BYTES).unwrap()).collect()
}

pub(crate) fn sum(bytes: &Value) -> u64 {
    bytes.as_array().unwrap()[..3].iter().map(|n| n.as_u64().unwrap()).sum()
}

#[test]
fn a_fleet_updates_itself_and_moves_only_what_changed() {
    let fleet = Fleet::start(4);
    let first = noise(12 << 20, 5);
    let published = fleet.publish("1.1", &first, &[]);
    let full = published["stored_bytes"].as_u64().unwrap();
    fleet.update_to("1.1.0");
    for n in 0..4 {
        assert!(fs::read(fleet.app(n)).unwrap() == first, "device {n}");
    }
    let status = |order: usize| {
        let all = fleet.net.super_node.wait_for(&["ota", "status"], |s| {
            s["orders"].as_array().unwrap().iter().all(|o| o["stages"]["confirmed"] == 4)
        });
        let orders = all["orders"].as_array().unwrap().clone();
        let version = ["1.1.0", "1.2.0"][order];
        orders.into_iter().find(|o| o["version"] == version).unwrap()
    };
    let order = status(0);
    assert_eq!(order["versions"]["1.1.0"], 4, "{order}");
    assert_eq!(sum(&order["by_source"]), 4 * full, "each byte came once: {order}");
    let from_maker = order["by_source"][0].as_u64().unwrap();
    assert!(from_maker < 3 * full, "devices had it from each other: {order}");

    let mut receipted = 0;
    for device in &fleet.devices {
        let got = receipts(device, "got");
        let sum: u64 = got.iter().map(|signed| signed.receipt.total).sum();
        assert!(sum <= full, "{sum} of {full}");
        receipted += sum;
        // The other end has the same.
        for signed in got {
            assert!(signed.provider.is_some() && signed.receipt.requester.to_string() == uid_of(device));
            let all = fleet.devices.iter().chain([&fleet.net.super_node]);
            let provider = all.filter(|node| uid_of(node) == signed.receipt.provider.to_string());
            assert!(provider.into_iter().any(|node| receipts(node, "gave").contains(&signed)));
        }
    }
    assert!(receipted >= full, "{receipted} bytes are receipted");

    // A piece in the middle changes, and something is put before it.
    let mut second = first.clone();
    second[5 << 20..(5 << 20) + 400_000].copy_from_slice(&noise(400_000, 6));
    second.splice(1000..1000, *b"inserted");
    let published = fleet.publish("1.2", &second, &[]);
    let delta = published["downloads"][0]["bytes"].as_u64().unwrap();
    assert_eq!(published["downloads"][0]["version"], "1.1.0");
    assert!(delta * 100 < full * 15, "{delta} of {full}");
    fleet.update_to("1.2.0");
    for n in 0..4 {
        assert!(fs::read(fleet.app(n)).unwrap() == second, "device {n}");
    }
    assert_eq!(sum(&status(1)["by_source"]), 4 * delta);
}

/// A wiped data partition: the device has the same key, so its maker knows it as one that has the version.
#[test]
fn a_device_that_lost_everything_gets_it_again_from_the_maker() {
    let mut fleet = Fleet::start(1);
    let image = noise(3 << 20, 5);
    fleet.publish("1.1", &image, &[]);
    fleet.update_to("1.1.0");
    fleet.net.super_node.wait_for(&["ota", "status"], |s| s["orders"][0]["stages"]["confirmed"] == 1);
    let mut device = fleet.devices.remove(0);
    // In order: whom it was connected to would not reach one that was killed for half a minute.
    device.ask(&["stop"]);
    let app = fleet.without_program(&mut device);
    fs::remove_dir_all(device.data.join("ota")).unwrap();
    write(&app, b"version 1.0");
    device.run();
    device.wait_for(&["ota", "state"], |s| s["running"] == "1.1.0" && s["stage"] == "idle");
    assert!(fs::read(&app).unwrap() == image);
    let order =
        fleet.net.super_node.wait_for(&["ota", "status"], |s| s["orders"][0]["stages"]["confirmed"] == 1);
    assert_eq!(order["orders"][0]["versions"]["1.1.0"], 1, "it counts once: {order}");
}

#[test]
fn an_owner_is_asked_and_an_unhealthy_version_goes_back() {
    let mut fleet = Fleet::start(0);
    let health = fleet.path("health");
    // Healthy is what does not say that it is broken.
    let app = fleet.app(0);
    write(&health, format!("#!/bin/sh\n! grep -q broken {}\n", app.display()).as_bytes());
    std::os::unix::fs::PermissionsExt::set_mode(&mut fs::metadata(&health).unwrap().permissions(), 0o755);
    fs::set_permissions(&health, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let device = fleet.device(0, &format!("health = [{health:?}]"));
    let config = fleet.path("device-0.toml");
    let asks = fs::read_to_string(&config).unwrap().replace("consent = \"auto\"", "consent = \"ask\"");
    fs::write(&config, asks).unwrap();
    let mut device = device;
    device.kill();
    device.run();
    fleet.maker(&["ota", "roster", "add", &uid_of(&device)]);
    fleet.publish("2.0", b"broken", &[]);
    device.ask(&["ota", "check"]);
    let state = device.wait_for(&["ota", "state"], |s| s["stage"] == "offered");
    assert_eq!((state["consent"].as_bool(), state["offered"].as_str()), (Some(false), Some("2.0.0")));
    device.wait_for(&["ota", "state"], |s| s["holding"].as_str().is_some_and(|h| h.contains("asked")));
    let installed = device.try_ask(&["ota", "install", "2.0", "--wait"]);
    assert_eq!(installed.status.code(), Some(4), "{}", text(&installed));
    assert_eq!(fs::read(&app).unwrap(), b"version 1.0");
    let state = device.ask(&["ota", "state"]);
    assert_eq!(state["running"], "1.0.0", "{state}");
    assert!(state["problem"].as_str().unwrap().contains("unhealthy"), "{state}");
    let order =
        fleet.net.super_node.wait_for(&["ota", "status"], |s| s["orders"][0]["stages"]["failed"] == 1);
    assert!(order["orders"][0]["reasons"][0][0].as_str().unwrap().contains("unhealthy"), "{order}");

    fleet.publish("2.1", b"good", &[]);
    device.ask(&["ota", "check"]);
    device.wait_for(&["ota", "state"], |s| s["offered"] == "2.1.0");
    let installed = device.try_ask(&["ota", "install", "2.1", "--wait"]);
    assert!(installed.status.success(), "{}", text(&installed));
    assert_eq!(fs::read(&app).unwrap(), b"good");
    fleet.devices.push(device);
}

#[test]
fn a_rollout_reaches_a_share_and_can_be_held() {
    let fleet = Fleet::start(2);
    fleet.publish("1.1", &noise(100_000, 7), &["--percent", "0"]);
    for device in &fleet.devices {
        device.ask(&["ota", "check"]);
        device.wait_for(&["ota", "state"], |s| {
            s["holding"].as_str().is_some_and(|why| why.contains("does not reach it yet"))
        });
    }
    fleet.maker(&["ota", "rollout", "1.1", "--percent", "100", "--pause"]);
    for device in &fleet.devices {
        device.ask(&["ota", "check"]);
        device
            .wait_for(&["ota", "state"], |s| s["holding"].as_str().is_some_and(|why| why.contains("paused")));
    }
    fleet.maker(&["ota", "rollout", "1.1", "--resume"]);
    fleet.update_to("1.1.0");
    let lower = fleet.try_maker(&["ota", "rollout", "1.1", "--percent", "50"]);
    assert!(!lower.status.success() && text(&lower).contains("only grows"), "{}", text(&lower));
}

#[test]
fn a_folder_changes_places_with_its_successor_and_keeps_its_modes() {
    let mut fleet = Fleet::start(0);
    let mut device = fleet.device(0, "");
    // Its program is a folder.
    let app = fleet.without_program(&mut device);
    write(&app.join("bin"), b"old");
    device.run();
    fleet.maker(&["ota", "roster", "add", &uid_of(&device)]);
    fleet.devices.push(device);
    let new = fleet.path("new");
    for (name, mode) in [("bin", 0o750), ("secret", 0o600), ("deep/data", 0o444)] {
        write(&new.join(name), &noise(70_000, mode));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode as u32);
        fs::set_permissions(new.join(name), mode).unwrap();
    }
    std::os::unix::fs::symlink("bin", new.join("link")).unwrap();
    let image = format!("app={}", new.display());
    fleet.maker(&["ota", "publish", &image, "--version", "1.1"]);
    fleet.update_to("1.1.0");
    crate::net::same(&new, &app);
    let mode = |path: PathBuf| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o777;
    assert_eq!((mode(app.join("bin")), mode(app.join("deep/data"))), (0o750, 0o444));
}
