//! Giving space back in a network of real processes: half-used groups are packed again.

use std::fs;

use serde_json::Value;

use crate::net::{Net, Node, noise, same, text, with_input, write};

fn held(net: &Net) -> u64 {
    net.peers.iter().map(|p| p.ask(&["status"])["held_bytes"].as_u64().unwrap()).sum()
}

fn create(node: &Node, tree: &std::path::Path) -> Value {
    node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "rs=2/3/4/4"])
}

/// A tree of which every large shard holds files of several kinds.
fn make_tree(net: &Net) -> std::path::PathBuf {
    let tree = net.path("tree");
    for n in 0..120u64 {
        write(&tree.join(format!("{}/{n}", n % 3)), &noise(100_000, n));
    }
    tree
}

fn id(report: &Value) -> &str {
    report["point"]["id"].as_str().unwrap()
}

#[test]
fn half_used_groups_are_packed_again_and_everything_is_still_there() {
    let net = Net::start(5, "200MB");
    let (node, tree) = (&net.super_node, make_tree(&net));
    let first = create(node, &tree);
    for n in (0..120).filter(|n| n % 8 != 0) {
        fs::remove_file(tree.join(format!("{}/{n}", n % 3))).unwrap();
    }
    write(&tree.join("new"), &noise(200_000, 1_000));
    let second = create(node, &tree);
    write(&tree.join("newer"), &noise(200_000, 1_001));
    let third = create(node, &tree);
    node.ask(&["backup", "forget", id(&first)]);
    let before = held(&net);
    // All groups hold something that is needed.
    let kept = node.ask(&["backup", "prune", "--max-unused", "100", "--dry-run"]);
    let dry = node.ask(&["backup", "prune", "--dry-run"]);
    assert!(dry["repacked_groups"].as_u64() >= Some(2), "{dry}");
    assert_eq!(kept["repacked_groups"], 0, "{kept}");
    assert!(kept["bytes"].as_u64() < dry["bytes"].as_u64(), "{kept} {dry}");
    assert_eq!(held(&net), before);
    let pruned = node.ask(&["backup", "prune"]);
    assert_eq!((&pruned["bytes"], &pruned["notes"]), (&dry["bytes"], &serde_json::json!([])), "{pruned}");
    assert!(pruned["joined_segments"].as_u64() >= Some(2), "{pruned}");
    let after = held(&net);
    assert!(after * 2 < before, "{after} of {before} bytes are held");
    // Both restore points are what they were, under their names, also for who knows nothing but the words.
    let words = node.ask(&["backup", "export-key"])["words"].as_str().unwrap().to_owned();
    let fresh = net.device("fresh", 20, &[]);
    fresh.wait_for(&["status"], |s| s["joined"] == true);
    let taken = with_input(fresh.command(&["backup", "import-key"]), words.as_bytes());
    assert!(taken.status.success(), "{}", text(&taken));
    for (of, name) in [(node, "here"), (&fresh, "there")] {
        let out = net.path(name);
        of.ask(&["backup", "restore", out.to_str().unwrap(), "--point", id(&third)]);
        same(&tree, &out.join("tree"));
        let old = net.path(&format!("{name}-old"));
        of.ask(&["backup", "restore", old.to_str().unwrap(), "--point", id(&second)]);
        assert!(!old.join("tree/newer").exists());
        fs::write(old.join("tree/newer"), noise(200_000, 1_001)).unwrap();
        same(&tree, &old.join("tree"));
    }
    let verified = node.ask(&["backup", "verify", "--read-percent", "100"]);
    assert_eq!(verified["unreadable"], 0, "{verified}");
    // Nothing is left to do, and what was given back is stored again when it comes back.
    let again = node.ask(&["backup", "prune"]);
    assert_eq!((&again["repacked_groups"], &again["groups"]), (&0.into(), &0.into()), "{again}");
    make_tree(&net);
    create(node, &tree);
    node.ask(&["backup", "restore", net.path("all").to_str().unwrap()]);
    same(&tree, &net.path("all/tree"));
}

#[test]
fn a_prune_that_is_killed_loses_nothing_and_goes_on() {
    let mut net = Net::start(5, "200MB");
    let tree = make_tree(&net);
    let first = create(&net.super_node, &tree);
    for n in (0..120).filter(|n| n % 8 != 0) {
        fs::remove_file(tree.join(format!("{}/{n}", n % 3))).unwrap();
    }
    create(&net.super_node, &tree);
    net.super_node.ask(&["backup", "forget", id(&first)]);
    let before = held(&net);
    for kill in 0..4 {
        // A device holds something more: the prune is on its way.
        let so_far = held(&net);
        let mut child = net
            .super_node
            .command(&["backup", "prune"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while kill > 0 && child.try_wait().unwrap().is_none() && held(&net) == so_far {
            std::thread::yield_now();
        }
        net.super_node.kill();
        child.wait().unwrap();
        net.super_node.run();
        net.super_node.wait_for(&["status"], |s| s["joined"] == true);
        let out = net.path(&format!("out-{kill}"));
        net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
        same(&tree, &out.join("tree"));
    }
    let done = net.super_node.ask(&["backup", "prune"]);
    assert_eq!(done["notes"], serde_json::json!([]), "{done}");
    let after = held(&net);
    assert!(after * 2 < before, "{after} of {before} bytes are held");
    let out = net.path("out");
    net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
    same(&tree, &out.join("tree"));
}
