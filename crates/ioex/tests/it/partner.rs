//! Super nodes that watch over each other's backups, as real processes.

use std::fs;

use serde_json::Value;

use crate::{
    backup::shard_files,
    net::{Net, Node, same, uid_of},
};

/// Makes two super nodes friends and partners.
fn join(one: &Node, other: &Node) {
    let (first, second) = (uid_of(one), uid_of(other));
    let address = other.ask(&["id"])["friend_address"].as_str().unwrap().to_owned();
    one.ask(&["friend", "add", &address]);
    let has = |uid: &str, list: &Value, what: &str| {
        let all = list[what].as_array().into_iter().flatten();
        all.into_iter().any(|f| f["uid"] == uid)
    };
    other.wait_for(&["friend", "list"], |l| has(&first, l, "requests") || has(&first, l, "friends"));
    other.ask(&["friend", "accept", &first]);
    one.wait_for(&["friend", "list"], |l| has(&second, l, "friends"));
    other.ask(&["backup", "partner", "add", &first]);
    one.ask(&["backup", "partner", "add", &second]);
}

#[test]
fn a_partner_repairs_what_a_lost_super_node_stored() {
    let mut net = Net::start(6, "200MB");
    let other = net.further_super("other", 30);
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"]);
    let words = net.super_node.ask(&["backup", "export-key"])["words"].as_str().unwrap().to_owned();
    join(&net.super_node, &other);
    let groups = net.super_node.ask(&["backup", "repair"])["groups"].as_u64().unwrap();
    let told = |l: &Value| l["partners"][0]["watched_groups"].as_u64() == Some(groups);
    other.wait_for(&["backup", "partner", "list"], told);
    // What is stored later is told as well.
    fs::write(tree.join("later"), crate::net::noise(3 << 20, 77)).unwrap();
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"]);
    let later = net.super_node.ask(&["backup", "repair"])["groups"].as_u64().unwrap();
    assert!(later > groups);
    other.wait_for(&["backup", "partner", "list"], |l| {
        l["partners"][0]["watched_groups"].as_u64() == Some(later)
    });
    // The partner cannot read what it watches over.
    let list = other.ask(&["backup", "list"]);
    assert_eq!(list["points"].as_array().map(Vec::len), Some(0), "{list}");

    // The super node vanishes for good; then one device after the other loses everything.
    net.super_node.kill();
    let (mut faults, mut repaired) = (0, 0);
    for lost in [0, 1] {
        let shards = shard_files(&net.peers[lost]);
        assert!(!shards.is_empty());
        shards.into_iter().for_each(|path| fs::remove_file(path).unwrap());
        // Each round asks for random parts only: rounds go on until one finds nothing.
        loop {
            let report = other.ask(&["backup", "repair"]);
            let count = |name: &str| report[name].as_u64().unwrap();
            assert_eq!((count("unrepaired_groups"), count("lost_groups")), (0, 0), "{report}");
            faults += count("faults");
            repaired += count("repaired_groups");
            if count("faults") + count("repaired_groups") == 0 {
                break;
            }
        }
    }
    assert!(faults > 0 && repaired > 0, "{faults} faults, {repaired} repaired groups");
    // Both of its devices would have held some groups alone: without the repair these were lost.
    let fresh = net.device("fresh", 40, &[]);
    fresh.wait_for(&["status"], |s| s["joined"] == true);
    let taken = crate::net::with_input(fresh.command(&["backup", "import-key"]), words.as_bytes());
    assert!(taken.status.success(), "{}", crate::net::text(&taken));
    let out = net.path("out");
    fresh.ask(&["backup", "restore", out.to_str().unwrap()]);
    same(&tree, &out.join("tree"));

    // A new super node with the words learns from the partner where everything is.
    let heir = net.further_super("heir", 31);
    let taken = crate::net::with_input(heir.command(&["backup", "import-key"]), words.as_bytes());
    assert!(taken.status.success(), "{}", crate::net::text(&taken));
    heir.ask(&["backup", "list"]);
    join(&heir, &other);
    let seen = heir.wait_for(&["backup", "repair"], |r| r["groups"].as_u64() > Some(groups));
    assert_eq!((&seen["faults"], &seen["lost_groups"]), (&0.into(), &0.into()), "{seen}");
    // It ends the partnership, and nothing is watched for it any more.
    heir.ask(&["backup", "partner", "remove", &uid_of(&other)]);
    other.wait_for(&["backup", "partner", "list"], |l| {
        l["partners"].as_array().unwrap().iter().all(|p| p["watched_groups"] == 0)
    });
}

#[test]
fn only_friends_can_be_partners_and_strangers_learn_nothing() {
    let net = Net::start(2, "100MB");
    let other = net.further_super("other", 30);
    let refused = net.super_node.try_ask(&["backup", "partner", "add", &uid_of(&other)]);
    assert!(!refused.status.success());
    let text = crate::net::text(&refused);
    assert!(text.contains("friend"), "{text}");
    let device = net.peers[0].try_ask(&["backup", "partner", "add", &uid_of(&other)]);
    assert!(crate::net::text(&device).contains("super node"), "{}", crate::net::text(&device));
}
