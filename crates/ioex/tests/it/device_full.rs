//! A device whose disk is filled by somebody else while shards arrive. Its folder is a small file system
//! in memory, which takes root.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    disk_full::Disk,
    harm::{Stopped, again, arriving, folder, held, honest, number, when, whole},
    net::{Net, noise, uid_of, write},
};

/// What a device leaves free on its disk (64 MiB, `DISK_SPARE_BYTES`), and room for what comes here.
const SIZE: &str = "size=160m";
/// Backups that are begun until one is caught while a shard arrives.
const TRIES: u64 = 20;

/// Starts a backup whose updates go to a file.
fn begin(net: &Net, tree: &Path, updates: &Path) -> Child {
    let args = ["backup", "create", tree.to_str().unwrap(), "--policy", "rs=2/4/4/4", "--json"];
    net.super_node
        .command(&args)
        .stdout(File::create(updates).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut len = 1 << 20;
    while len > 0 {
        if file.write_all(&vec![1; len]).is_err() {
            len /= 2;
        }
    }
}

#[test]
fn a_device_whose_disk_is_full_refuses_and_takes_again_when_there_is_room() {
    let mut net = Net::start(5, "300MB");
    let tree = net.make_tree("tree");
    // The first one's folder goes to a disk of its own.
    net.peers[0].kill();
    let dir = folder(&net.peers[0]);
    let aside = net.path("aside");
    fs::rename(&dir, &aside).unwrap();
    let Some(disk) = Disk::new(&dir, SIZE) else { return };
    assert!(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&dir).status().unwrap().success());
    again(&mut net.peers[0]);
    again(&mut net.super_node);
    net.wait_for_lenders(5);

    // Somebody fills it in the middle of a shard: the device stands still for that moment, so that the
    // rest of the shard finds no room. When others are quicker than the filling, it is passed over, and not asked
    // for the rest any more: then it is tried again.
    let (filler, updates) = (dir.join("filler"), net.path("updates"));
    let name = uid_of(&net.peers[0])[..8].to_owned();
    let is_hit = (0..TRIES).any(|n| {
        write(&tree.join("new"), &noise(12 << 20, 100 + n));
        let mut job = begin(&net, &tree, &updates);
        let came = when(&mut job, || arriving(&dir).is_some());
        let stands = Stopped::new(&net.peers[0]);
        let hit = came && arriving(&dir).is_some();
        if hit {
            fill(&filler);
        }
        drop(stands);
        let text = || fs::read_to_string(&updates).unwrap();
        assert!(job.wait().unwrap().success(), "{}", text());
        // It said why, and another device has it.
        let refused = text().lines().any(|line| {
            line.contains("did not take a shard") && line.contains("space") && line.contains(&name)
        });
        if hit && !refused {
            fs::remove_file(&filler).unwrap();
        }
        hit && refused
    });
    assert!(is_hit, "no shard was caught while it arrived, or its refusal was not told");
    let free = |net: &Net| number(&net.peers[0].ask(&["device", "show"]), "used_bytes");
    let (before, used) = (held(&net.peers[0]), free(&net));
    // While it is full it is offered nothing, and what is stored is whole.
    write(&tree.join("new"), &noise(12 << 20, 7));
    let mut job = begin(&net, &tree, &updates);
    assert!(job.wait().unwrap().success());
    assert_eq!((held(&net.peers[0]), free(&net)), (before, used), "it takes nothing");
    fs::remove_file(&filler).unwrap();
    honest(&net.peers[0]);
    whole(&net, &tree, "out");

    // There is room again, and nobody had to start anything.
    let before = held(&net.peers[0]);
    write(&tree.join("new"), &noise(24 << 20, 8));
    let report: Value =
        net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "rs=2/5/5/5"]);
    assert!(held(&net.peers[0]) > before, "{report}");
    whole(&net, &tree, "again");
    net.peers[0].kill();
    drop(disk);
}

#[test]
fn a_device_whose_disk_is_smaller_than_what_it_lends_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(&dir.path().join("disk"), "size=10m") else { return };
    let net = Net::start(1, "100MB");
    let held = dir.path().join("disk/shards");
    let set = net.peers[0].ask(&["device", "set", "--space", "1GiB", "--dir", held.to_str().unwrap()]);
    assert_eq!((number(&set, "free_bytes"), number(&set, "disk_bytes")), (0, 0), "{set}");
    let shown = net.peers[0].command(&["device", "show"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("takes nothing more") && shown.contains("67.1 MB of it stay free"), "{shown}");
    drop(net);
    drop(disk);
}
