//! Disks that are full: at the super node, where a restore writes, and where an update does. Each is a small file
//! system in memory of its own, which takes root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    harm::whole,
    net::{Net, noise, same, text, write},
    ota::{Fleet, sum},
};

/// Room at first: more than the tests write.
const ROOMY: &str = "size=300m";

/// Tries to change a disk on which somebody writes, while other tests mount theirs, which `mount` takes for
/// an error. Each try to fill it leaves a block more.
const TRIES: u64 = 200;

/// A file system in memory; gone with this value.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount.
    pub(crate) fn new(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let may = rustix::process::geteuid().is_root();
        if !may || !mount(&["-t", "tmpfs", "-o", size, "ioex-test"], path) {
            eprintln!("skipped: file systems in memory need root, and a kernel that lets it mount");
            return None;
        }
        Some(Self(path.to_owned()))
    }

    /// Takes away what is free. What writes meanwhile may need another try.
    fn fill(&self) {
        let tried = (0..TRIES).any(|try_number| {
            let stat = rustix::fs::statvfs(&self.0).unwrap();
            let used = (stat.f_blocks - stat.f_bfree + try_number) * stat.f_frsize;
            mount(&["-o", &format!("remount,size={used}")], &self.0)
        });
        assert!(tried, "the disk does not become smaller");
    }

    /// Gives it back.
    fn clear(&self) {
        let tried = (0..TRIES).any(|_| mount(&["-o", &format!("remount,{ROOMY}")], &self.0));
        assert!(tried, "the disk does not become larger");
    }
}

fn mount(args: &[&str], path: &Path) -> bool {
    Command::new("mount")
        .args(args)
        .arg(path)
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while a node still has files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn the_super_nodes_disk_is_full_in_the_middle_of_a_backup() {
    let mut net = Net::start(3, "200MB");
    let tree = net.make_tree("tree");
    let args = ["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"];
    net.super_node.ask(&args);
    // Its data folder goes to a disk of its own.
    net.super_node.kill();
    let (data, aside) = (net.super_node.data.clone(), net.path("aside"));
    fs::rename(&data, &aside).unwrap();
    let Some(disk) = Disk::new(&data, ROOMY) else { return };
    let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(&data).status();
    assert!(copied.unwrap().success());
    net.super_node.run();
    net.super_node.wait_for(&["status"], |s| s["joined"] == true);
    let before = net.super_node.ask(&["backup", "list"]);
    write(&tree.join("new"), &noise(9 << 20, 4));
    disk.fill();
    let full = net.super_node.try_ask(&args);
    assert!(!full.status.success(), "{}", text(&full));
    assert!(text(&full).contains("space"), "it says what is missing: {}", text(&full));
    disk.clear();
    // Without a restart: what was there is there, and the next backup is made.
    assert_eq!(net.super_node.ask(&["backup", "list"])["points"], before["points"]);
    net.super_node.ask(&args);
    whole(&net, &tree, "out");
    net.super_node.kill();
    drop(disk);
}

#[test]
fn the_disk_of_a_restore_is_full() {
    let net = Net::start(2, "200MB");
    let Some(disk) = Disk::new(&net.path("disk"), "size=5m") else { return };
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap()]);
    let out = disk.0.join("out");
    let args = ["backup", "restore", out.to_str().unwrap()];
    let full = net.super_node.try_ask(&args);
    assert_eq!(full.status.code(), Some(21), "{}", text(&full));
    assert!(!out.exists(), "nothing stands under the name before it is whole");
    disk.clear();
    net.super_node.ask(&args);
    same(&tree, &out.join("tree"));
}

#[test]
fn a_device_without_room_fetches_nothing_and_says_so() {
    let mut fleet = Fleet::start(0);
    let Some(disk) = Disk::new(fleet.app(0).parent().unwrap(), "size=5m") else { return };
    let device = fleet.device(0, "");
    fleet.maker(&["ota", "roster", "add", &crate::net::uid_of(&device)]);
    let image = noise(8 << 20, 5);
    fleet.publish("1.1", &image, &[]);
    device.ask(&["ota", "check"]);
    let lacks = |state: &serde_json::Value| state["holding"].as_str().is_some_and(|why| why.contains("free"));
    let state = device.wait_for(&["ota", "state"], lacks);
    assert!(state["holding"].as_str().unwrap().contains("device-0-files"), "{state}");
    assert_eq!(sum(&state["by_source"]), 0, "{state}");
    disk.clear();
    fleet.devices.push(device);
    fleet.update_to("1.1.0");
    assert!(fs::read(fleet.app(0)).unwrap() == image);
    fleet.devices[0].kill();
    drop(disk);
}

#[test]
fn what_is_kept_for_others_gives_way_to_an_update() {
    let mut fleet = Fleet::start(0);
    let Some(disk) = Disk::new(&fleet.path("device-0"), "size=15m") else { return };
    let device = fleet.device(0, "");
    fleet.maker(&["ota", "roster", "add", &crate::net::uid_of(&device)]);
    fleet.devices.push(device);
    for (version, seed) in [("1.1", 5), ("1.2", 6), ("1.3", 7)] {
        let image = noise(5 << 20, seed);
        fleet.publish(version, &image, &[]);
        fleet.update_to(&format!("{version}.0"));
        assert!(fs::read(fleet.app(0)).unwrap() == image);
    }
    fleet.devices[0].kill();
    drop(disk);
}
