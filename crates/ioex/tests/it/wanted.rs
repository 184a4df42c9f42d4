//! How many copies are wanted, and that they come to be as soon as devices allow it.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    backup::shard_files,
    net::{Net, Node, noise, poll, same, text, write},
};

fn create(node: &Node, file: &Path, policy: &str) -> Value {
    node.ask(&["backup", "create", file.to_str().unwrap(), "--policy", policy])
}

fn notes(report: &Value) -> String {
    report["notes"].to_string()
}

/// Where shards are, by the number of the peer.
fn holders(net: &Net) -> Vec<usize> {
    (0..net.peers.len()).filter(|n| !shard_files(&net.peers[*n]).is_empty()).collect()
}

#[test]
fn copies_that_nobody_could_take_are_added_when_devices_are_back() {
    let mut net = Net::start(4, "200MB");
    let file = net.path("night.bin");
    write(&file, &noise(3_000_000, 1));
    net.peers.iter().skip(1).for_each(|peer| drop(peer.ask(&["device", "off"])));
    let report = create(&net.super_node, &file, "auto");
    assert_eq!(report["policy"], "replicas=1", "{report}");
    assert!(notes(&report).contains("not complete yet"), "{report}");
    assert_eq!(holders(&net), [0]);
    let verified = net.super_node.ask(&["backup", "verify"]);
    assert_eq!((&verified["degraded"], &verified["unreadable"]), (&verified["groups"], &0.into()));
    // Nothing was lost, so it is no failure, and it is said.
    let round = net.super_node.ask(&["backup", "repair"]);
    assert_eq!((&round["degraded_groups"], &round["groups"]), (&round["groups"], &verified["groups"]));
    assert_eq!((&round["unrepaired_groups"], &round["placed_shards"]), (&0.into(), &0.into()));

    net.peers.iter().skip(1).for_each(|peer| drop(peer.ask(&["device", "on"])));
    net.super_node.wait_for(&["backup", "repair"], |r| r["degraded_groups"] == 0);
    let verified = net.super_node.ask(&["backup", "verify"]);
    assert_eq!((&verified["degraded"], &verified["unreadable"]), (&0.into(), &0.into()), "{verified}");
    net.peers.remove(0);
    net.super_node.ask(&["backup", "restore", net.path("out").to_str().unwrap()]);
    same(&file, &net.path("out").join("night.bin"));
}

#[test]
fn what_a_stronger_backup_shares_gets_its_copies() {
    let mut net = Net::start(4, "200MB");
    let file = net.path("two.bin");
    write(&file, &noise(3_000_000, 2));
    create(&net.super_node, &file, "replicas=1");
    let first = holders(&net);
    let report = create(&net.super_node, &file, "replicas=4");
    assert_eq!(report["policy"], "replicas=4");
    assert!(notes(&report).contains("had fewer copies than wanted"), "{report}");
    let verified = net.super_node.ask(&["backup", "verify"]);
    assert_eq!((&verified["degraded"], &verified["unreadable"]), (&0.into(), &0.into()), "{verified}");
    // A weaker one takes nothing away.
    create(&net.super_node, &file, "replicas=1");
    let round = net.super_node.ask(&["backup", "repair"]);
    assert_eq!((&round["degraded_groups"], &round["placed_shards"]), (&0.into(), &0.into()), "{round}");
    // Any one device suffices, also one that had nothing of the first.
    let last = (0..4).find(|n| !first.contains(n)).unwrap();
    let peers = std::mem::take(&mut net.peers);
    net.peers = peers.into_iter().enumerate().filter(|(n, _)| *n == last).map(|(_, peer)| peer).collect();
    net.super_node.ask(&["backup", "restore", net.path("out").to_str().unwrap()]);
    same(&file, &net.path("out").join("two.bin"));
}

#[test]
fn a_device_that_lost_its_shards_gets_them_back_when_nobody_else_can_have_them() {
    let net = Net::start(4, "200MB");
    let file = net.path("four.bin");
    write(&file, &noise(3_000_000, 3));
    create(&net.super_node, &file, "replicas=4");
    let before = shard_files(&net.peers[2]);
    assert!(!before.is_empty());
    before.iter().for_each(|path| fs::remove_file(path).unwrap());
    let round = net.super_node.ask(&["backup", "repair"]);
    assert!(round["repaired_groups"].as_u64() > Some(0), "{round}");
    assert_eq!((&round["unrepaired_groups"], &round["degraded_groups"]), (&0.into(), &0.into()), "{round}");
    let verified = net.super_node.ask(&["backup", "verify"]);
    assert_eq!((&verified["degraded"], &verified["unreadable"]), (&0.into(), &0.into()), "{verified}");
    let next = net.super_node.ask(&["backup", "repair"]);
    assert_eq!((&next["faults"], &next["placed_shards"]), (&0.into(), &0.into()), "{next}");
    // The list of restore points is not the watch's to prove.
    let after = shard_files(&net.peers[2]);
    assert!(round["placed_shards"].as_u64() >= Some(after.len() as u64 - 1), "{after:?}");
}

/// More than a device proves in the rounds after which it is trusted no more.
#[test]
fn a_device_with_a_new_disk_is_one_fault_and_gets_everything_back() {
    let mut net = Net::start(2, "200MB");
    for n in 0..20 {
        let file = net.path(&format!("file-{n}"));
        write(&file, &noise(20_000, n));
        create(&net.super_node, &file, "replicas=2");
    }
    let lost = shard_files(&net.peers[0]).len();
    assert!(lost >= 60, "{lost}");
    net.peers[0].kill();
    fs::remove_dir_all(net.peers[0].data.join("shards")).unwrap();
    net.peers[0].run();
    net.peers[0].wait_for(&["status"], |s| s["joined"] == true);
    let round = net.super_node.wait_for(&["backup", "repair"], |r| r["silent"] == 0);
    assert_eq!((&round["repaired_groups"], &round["unrepaired_groups"]), (&60.into(), &0.into()), "{round}");
    let next = net.super_node.ask(&["backup", "repair"]);
    assert_eq!((&next["faults"], &next["placed_shards"]), (&0.into(), &0.into()), "{next}");
}

/// The folder of the shards is away for a while, as when a disk is not mounted at the start.
#[test]
fn what_a_device_has_again_counts_again() {
    let mut net = Net::start(1, "200MB");
    for n in 0..5 {
        let file = net.path(&format!("file-{n}"));
        write(&file, &noise(20_000, n));
        create(&net.super_node, &file, "replicas=1");
    }
    let (shards, away) = (net.peers[0].data.join("shards"), net.path("away"));
    let again = |net: &mut Net| {
        net.peers[0].run();
        net.peers[0].wait_for(&["status"], |s| s["joined"] == true);
        // It would wait half a minute for the process that was killed.
        net.super_node.kill();
        net.super_node.run();
    };
    net.peers[0].kill();
    fs::rename(&shards, &away).unwrap();
    again(&mut net);
    // That groups are lost is a failure of the command, and follows the report.
    let mut round = Value::Null;
    let asked = poll(|| {
        let said = net.super_node.try_ask(&["backup", "repair"]).stdout;
        round = serde_json::Deserializer::from_slice(&said).into_iter().next()?.ok()?;
        (round["silent"] == 0).then_some(())
    });
    let lost = asked.map(|()| &round).unwrap_or_else(|| panic!("{round}"));
    assert_eq!((&lost["lost_groups"], &lost["groups"]), (&15.into(), &15.into()), "{lost}");
    net.peers[0].kill();
    fs::remove_dir_all(&shards).unwrap();
    fs::rename(&away, &shards).unwrap();
    again(&mut net);
    let back = net.super_node.wait_for(&["backup", "repair"], |r| r["lost_groups"] == 0);
    assert_eq!((&back["placed_shards"], &back["harmed_points"]), (&0.into(), &serde_json::json!([])));
    let verified = net.super_node.ask(&["backup", "verify", "--read-percent", "100"]);
    assert_eq!((&verified["degraded"], &verified["unreadable"]), (&0.into(), &0.into()), "{verified}");
}

#[test]
fn that_nobody_has_room_is_said() {
    let net = Net::start(3, "10MB");
    net.peers[2].ask(&["device", "off"]);
    let file = net.path("much");
    write(&file, &noise(30_000_000, 4));
    let refused = |args: &[&str]| {
        let output = net.super_node.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(24), "{}", text(&output));
        text(&output)
    };
    let create = ["backup", "create", file.to_str().unwrap(), "--policy", "replicas=1"];
    let said = refused(&create);
    assert!(said.contains("2 of 2 devices that lend space have less than"), "{said}");
    assert!(said.contains("1 device takes nothing now (paused by its owner)"), "{said}");
    // Nobody has room from the beginning.
    net.peers.iter().for_each(|peer| drop(peer.ask(&["device", "set", "--space", "1MB"])));
    let said = refused(&create);
    assert!(said.contains("2 devices have less than 4.19 MB left"), "{said}");
    assert!(said.contains("1 device takes nothing now (paused by its owner)"), "{said}");
}

#[test]
fn restore_points_that_lost_something_are_named() {
    let net = Net::start(2, "200MB");
    let (kept, lost) = (net.path("kept"), net.path("lost"));
    write(&kept, &noise(3_000_000, 5));
    write(&lost, &noise(2_000_000, 6));
    create(&net.super_node, &kept, "replicas=1");
    let before: Vec<_> = net.peers.iter().flat_map(shard_files).collect();
    let report = create(&net.super_node, &lost, "replicas=1");
    assert_eq!(net.super_node.ask(&["backup", "list"])["harmed"], serde_json::json!([]));
    let new = net.peers.iter().flat_map(shard_files).filter(|path| !before.contains(path));
    let content = new.filter(|path| fs::metadata(path).unwrap().len() > 1_000_000);
    content.for_each(|path| fs::remove_file(path).unwrap());
    let round = net.super_node.try_ask(&["backup", "repair"]);
    assert_eq!(round.status.code(), Some(4), "{}", text(&round));
    let said = text(&net.super_node.command(&["backup", "repair"]).output().unwrap());
    let id = report["point"]["id"].as_str().unwrap();
    assert!(said.contains(&format!("harmed points: {id}")), "{said}");
    let list = net.super_node.ask(&["backup", "list"]);
    assert_eq!(list["harmed"], serde_json::json!([id]), "{list}");
    assert!(list["warnings"].to_string().contains(id), "{list}");
}
