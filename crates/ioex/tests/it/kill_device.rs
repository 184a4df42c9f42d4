//! A device is killed while it takes shards, serves a restore, proves, hands over and moves, or comes
//! back with an old disk.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    harm::{
        again, arriving, begin, folder, held, honest, number, points, repaired, shard_files, signal,
        thorough, when, whole,
    },
    net::{Net, Node, noise, read_updates, same, write},
};

/// Each group has a shard more than it needs to be complete, so that a backup need not wait for
/// the device that was killed.
const POLICY: &str = "rs=2/4/4/5";

/// Both start again: what was killed, and the super node, whose connection to it would otherwise
/// have to break first.
fn start_again(net: &mut Net, device: usize) {
    again(&mut net.peers[device]);
    honest(&net.peers[device]);
    again(&mut net.super_node);
}

#[test]
fn a_device_killed_while_it_takes_shards() {
    let mut net = Net::start(5, "300MB");
    let tree = net.make_tree("tree");
    for (turn, taken) in points(&[1]).into_iter().enumerate() {
        let device = turn % net.peers.len();
        write(&tree.join("new"), &noise(9 << 20, 40 + turn as u64));
        let mut job =
            begin(&net.super_node, &["backup", "create", tree.to_str().unwrap(), "--policy", POLICY]);
        let before = held(&net.peers[device]);
        // In the middle of a shard: some of it is on disk.
        let now = || {
            let peer = &net.peers[device];
            held(peer) >= before + taken && arriving(&folder(peer)).is_some_and(|bytes| bytes > 0)
        };
        let hit = when(&mut job, now);
        net.peers[device].kill();
        assert!(hit || thorough(), "it took nothing");
        assert!(job.wait().unwrap().success(), "the backup does without it");
        start_again(&mut net, device);
        whole(&net, &tree, "out");
    }
}

#[test]
fn a_device_killed_while_it_serves_and_proves() {
    let mut net = Net::start(5, "300MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", POLICY]);
    for (turn, updates) in points(&[2]).into_iter().enumerate() {
        let device = turn % net.peers.len();
        let out = net.path(&format!("served-{turn}"));
        let args = ["backup", "restore", out.to_str().unwrap(), "--json", "--rate-limit", "4MB"];
        let mut restore = net.super_node.command(&args);
        let mut restore = restore.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let hit = read_updates(&mut restore, updates);
        net.peers[device].kill();
        assert!(hit || thorough(), "the restore was over");
        assert!(restore.wait_with_output().unwrap().status.success(), "the restore does without it");
        same(&tree, &out.join("tree"));
        start_again(&mut net, device);
    }
    // It has the question and will never answer: it stands still, and is killed so.
    let device = 1;
    let book = net.super_node.data.join("vault/book.redb");
    let changed = || fs::metadata(&book).and_then(|meta| meta.modified()).unwrap();
    signal(&net.peers[device], rustix::process::Signal::STOP);
    let before = changed();
    let mut round = begin(&net.super_node, &["backup", "repair"]);
    assert!(when(&mut round, || changed() != before));
    net.peers[device].kill();
    if thorough() {
        // Half a minute later, when the connection is given up.
        assert!(round.wait().unwrap().success(), "the round ends without it");
    } else {
        net.super_node.kill();
        round.wait().unwrap();
    }
    start_again(&mut net, device);
    whole(&net, &tree, "out");
}

/// Repairs until a device holds nothing of the super node's any more.
fn relieved(net: &Net, device: usize) {
    for _ in 0..10 {
        if number(&net.peers[device].ask(&["device", "show"]), "shards") == 0 {
            return;
        }
        net.super_node.ask(&["backup", "repair"]);
    }
    panic!("it still holds: {}", net.peers[device].ask(&["device", "shards"]));
}

#[test]
fn a_device_killed_while_it_hands_over() {
    let mut net = Net::start(6, "300MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "rs=2/4/4/4"]);
    // First it gives back a part, then everything.
    for (turn, gone) in points(&[1, 2]).into_iter().enumerate() {
        let most = (0..net.peers.len()).max_by_key(|n| held(&net.peers[*n])).unwrap();
        let peer = &net.peers[most];
        let before = held(peer);
        assert!(before > 1);
        let less: &[&str] =
            if turn % 2 == 0 { &["device", "set", "--space", "1MB"] } else { &["device", "leave"] };
        assert!(number(&peer.ask(less), "handover_bytes") > 0);
        let mut round = begin(&net.super_node, &["backup", "repair"]);
        let hit = when(&mut round, || held(peer) + gone <= before);
        net.peers[most].kill();
        if !thorough() {
            // The round would end by itself, but only after it has told the dead device, too.
            net.super_node.kill();
        }
        round.wait().unwrap();
        assert!(hit || thorough(), "nothing was handed over");
        start_again(&mut net, most);
        let out = net.path("out");
        net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
        same(&tree, &out.join("tree"));
        fs::remove_dir_all(out).unwrap();
        if turn % 2 == 1 {
            relieved(&net, most);
            net.peers[most].ask(&["device", "on"]);
        }
        net.peers[most].ask(&["device", "set", "--space", "300MB"]);
        whole(&net, &tree, "out");
    }
}

#[test]
fn a_device_that_leaves_gets_rid_of_the_list_of_restore_points_too() {
    let net = Net::start(5, "300MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "rs=2/3/3/3"]);
    let heads = |node: &Node| fs::read_dir(folder(node).join("heads")).map_or(0, Iterator::count);
    let has = (0..net.peers.len()).find(|n| heads(&net.peers[*n]) > 0).expect("somebody has the head");
    net.peers[has].ask(&["device", "leave"]);
    relieved(&net, has);
    whole(&net, &tree, "out");
    let others = net.peers.iter().enumerate().filter(|(n, peer)| *n != has && heads(peer) > 0);
    assert!(others.count() > 1, "others have it in its place");
}

#[test]
fn a_device_killed_at_every_step_of_a_move() {
    let mut net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"]);
    let count = number(&net.peers[0].ask(&["device", "show"]), "shards");
    let in_all = held(&net.peers[0]);
    let mut from = folder(&net.peers[0]);
    // Its mark is there; some are copied; all are copied; the settings name it; the old one goes.
    for step in 0..5 {
        let to = net.path(&format!("moved-{step}"));
        let setting = net.peers[0].data.join("device.toml");
        let named = || fs::read_to_string(&setting).is_ok_and(|text| text.contains(to.to_str().unwrap()));
        let mut moving = begin(&net.peers[0], &["device", "set", "--move", "--dir", to.to_str().unwrap()]);
        let hit = when(&mut moving, || match step {
            0 => to.join("moving").exists(),
            1 => shard_files(&to).len() * 2 >= in_all,
            2 => shard_files(&to).len() == in_all,
            3 => named(),
            _ => named() && shard_files(&from).len() < in_all,
        });
        net.peers[0].kill();
        moving.wait().unwrap();
        assert!(hit, "step {step} did not come");
        again(&mut net.peers[0]);
        let shown = net.peers[0].ask(&["device", "show"]);
        assert_eq!(number(&shown, "shards"), count, "step {step}: {shown}");
        honest(&net.peers[0]);
        let dir = Path::new(shown["dir"].as_str().unwrap()).to_owned();
        assert!(dir == from || dir == to, "{shown}");
        if dir == to {
            assert!(!from.join("lock").exists(), "what was moved away is gone");
            from = to;
        }
    }
    again(&mut net.super_node);
    whole(&net, &tree, "out");
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_device_that_comes_back_with_an_old_disk_is_found_out_and_relieved() {
    let mut net = Net::start(4, "300MB");
    let tree = net.make_tree("tree");
    let create =
        |node: &Node| node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=3"]);
    create(&net.super_node);
    net.peers[0].kill();
    let image = net.path("image");
    copy(&net.peers[0].data, &image);
    again(&mut net.peers[0]);
    again(&mut net.super_node);
    let before = held(&net.peers[0]);
    write(&tree.join("new"), &noise(12 << 20, 8));
    create(&net.super_node);
    let new = held(&net.peers[0]);
    assert!(new > before, "it took nothing new");
    net.peers[0].kill();
    fs::remove_dir_all(&net.peers[0].data).unwrap();
    copy(&image, &net.peers[0].data);
    again(&mut net.peers[0]);
    again(&mut net.super_node);
    assert_eq!(held(&net.peers[0]), before);
    let round = net.super_node.ask(&["backup", "repair"]);
    let missing = (new - before) as u64;
    assert!(number(&round, "faults") >= missing, "every missing shard is noticed: {round}");
    assert_eq!(number(&round, "repaired_groups"), missing, "{round}");
    let next = net.super_node.ask(&["backup", "repair"]);
    assert_eq!(number(&next, "faults"), 0, "the same loss is no second fault: {next}");
    repaired(&net);
    whole(&net, &tree, "out");
}
