//! Super nodes that watch over each other's backups, as real processes.

use std::fs;

use ioex_base::Uid;
use ioex_vault::health::responsible;
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

/// Whoever finds that a device lost something repairs it, also in groups that another member looks after:
/// that one does not ask this device.
#[test]
fn a_member_repairs_what_it_found_missing_while_the_others_live() {
    let net = Net::start(4, "200MB");
    let uid = |node: &Node| uid_of(node).parse::<Uid>().unwrap();
    let owner = uid(&net.super_node);
    // Which device falls to whom follows from their names.
    let part_of = |node: &Node| {
        let members = [owner, uid(node)];
        net.peers.iter().find(|peer| responsible(&members, uid(peer).as_bytes()) == Some(members[1]))
    };
    let (mut other, loser) = (30..38)
        .find_map(|place| {
            let node = net.further_super(&format!("other-{place}"), place);
            let loser = part_of(&node)?;
            Some((node, loser))
        })
        .unwrap();
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"]);
    join(&net.super_node, &other);
    let told = |l: &Value| l["partners"][0]["watched_groups"].as_u64() > Some(0);
    other.wait_for(&["backup", "partner", "list"], told);
    // It begins anew, so that its first round comes after the loss.
    other.kill();
    shard_files(loser).into_iter().for_each(|path| fs::remove_file(path).unwrap());
    let shards = || net.peers.iter().map(|peer| shard_files(peer).len()).sum::<usize>();
    let left = shards();
    other.run();
    // Nobody asks it to: it does by itself what is its part.
    other.wait_for(&["id"], |_| shards() > left);
    // By now it made anew whatever it found missing: a further round repairs what that one finds, no more.
    // And the owner asks the devices about what was brought to them: it need not be brought again.
    for node in [&other, &net.super_node] {
        let report = node.ask(&["backup", "repair"]);
        let count = |name: &str| report[name].as_u64().unwrap();
        assert!(count("repaired_groups") <= count("faults"), "{report}");
        assert_eq!((count("unrepaired_groups"), count("lost_groups")), (0, 0), "{report}");
    }
}

/// Two machines have the same words and a partner in common. What one of them stored stands in no list of restore
/// points yet when the other gives space back.
#[test]
fn what_another_machine_stores_is_not_given_back() {
    let net = Net::start(4, "200MB");
    let (other, heir) = (net.further_super("other", 30), net.further_super("heir", 31));
    let tree = net.make_tree("tree");
    let create = ["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"];
    net.super_node.ask(&create);
    fs::write(tree.join("later"), crate::net::noise(3 << 20, 77)).unwrap();
    let second = net.super_node.ask(&create)["point"]["id"].as_str().unwrap().to_owned();
    // As if its list was not written yet.
    net.super_node.ask(&["backup", "forget", &second]);
    let words = net.super_node.ask(&["backup", "export-key"])["words"].as_str().unwrap().to_owned();
    join(&net.super_node, &other);
    let groups = net.super_node.ask(&["backup", "repair"])["groups"].as_u64().unwrap();
    let watched = |l: &Value, groups: u64| l["partners"][0]["watched_groups"].as_u64() == Some(groups);
    other.wait_for(&["backup", "partner", "list"], |l| watched(l, groups));

    let taken = crate::net::with_input(heir.command(&["backup", "import-key"]), words.as_bytes());
    assert!(taken.status.success(), "{}", crate::net::text(&taken));
    heir.ask(&["backup", "list"]);
    join(&heir, &other);
    heir.wait_for(&["backup", "repair"], |r| r["groups"].as_u64() == Some(groups));
    let pruned = heir.ask(&["backup", "prune"]);
    assert_eq!((&pruned["groups"], &pruned["kept_groups"]), (&0.into(), &groups.into()), "{pruned}");
    // Who stored it gives it back.
    let pruned = net.super_node.ask(&["backup", "prune"]);
    assert!(pruned["groups"].as_u64() > Some(0), "{pruned}");
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
