//! The super node is killed while it audits, repairs, forgets and gives space back.

use std::{fs, process::Stdio};

use crate::{
    harm::{Stopped, again, begin, folder, held, number, points, shard_files, thorough, when, whole},
    net::{Net, noise, read_updates, write},
};

/// Every copy counts: what is missing is repaired, and `verify` asks for every shard.
const POLICY: &str = "rs=2/5/5/5";

#[test]
fn a_super_node_killed_while_it_audits() {
    let mut net = Net::start(6, "200MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", POLICY]);
    for updates in points(&[1, 4]) {
        let mut child = net.super_node.command(&["backup", "verify", "--json"]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let hit = read_updates(&mut child, updates);
        net.super_node.kill();
        child.wait().unwrap();
        assert!(hit || thorough(), "the audit was over");
        again(&mut net.super_node);
    }
    // In a round of the watch: one device stands still, so the round waits for it, while all others
    // have answered or are about to.
    let book = net.super_node.data.join("vault/book.redb");
    let changed = || fs::metadata(&book).and_then(|meta| meta.modified()).unwrap();
    {
        let stands = Stopped::new(&net.peers[0]);
        let before = changed();
        let mut round = begin(&net.super_node, &["backup", "repair"]);
        assert!(when(&mut round, || changed() != before), "the round was over");
        net.super_node.kill();
        round.wait().unwrap();
        drop(stands);
    }
    again(&mut net.super_node);
    whole(&net, &tree, "out");
}

#[test]
fn a_super_node_killed_while_it_repairs() {
    let mut net = Net::start(7, "200MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", POLICY]);
    for placed in points(&[1, 2]) {
        // A disk is lost, and its device starts with an empty one.
        let victim = (0..net.peers.len()).max_by_key(|n| held(&net.peers[*n])).unwrap();
        net.peers[victim].kill();
        assert!(held(&net.peers[victim]) > 0);
        fs::remove_dir_all(folder(&net.peers[victim])).unwrap();
        again(&mut net.peers[victim]);
        // So that it is asked over a new connection, not over one that has to break first.
        again(&mut net.super_node);
        let all = |net: &Net| net.peers.iter().map(held).sum::<usize>();
        let before = all(&net);
        let mut round = begin(&net.super_node, &["backup", "repair"]);
        let hit = when(&mut round, || all(&net) >= before + placed);
        net.super_node.kill();
        round.wait().unwrap();
        assert!(hit || thorough(), "nothing was repaired");
        again(&mut net.super_node);
        whole(&net, &tree, "out");
    }
}

#[test]
fn a_super_node_killed_while_it_forgets_and_gives_back() {
    let mut net = Net::start(4, "300MB");
    let tree = net.make_tree("tree");
    let create = |net: &Net| {
        net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"])
    };
    let bytes = |net: &Net| -> u64 {
        let files = net.peers.iter().flat_map(|peer| shard_files(&folder(peer)));
        files.map(|file| file.metadata().unwrap().len()).sum()
    };
    for (turn, gone) in points(&[2, 3]).into_iter().enumerate() {
        write(&tree.join("passing"), &noise(13 << 20, 70 + turn as u64));
        let first = create(&net)["point"]["id"].as_str().unwrap().to_owned();
        write(&tree.join("passing"), b"short");
        create(&net);
        // Forgetting writes the head: its first new copy at a device is the moment.
        let heads = |net: &Net| -> Vec<_> {
            let lists =
                net.peers.iter().flat_map(|p| fs::read_dir(folder(p).join("heads")).unwrap().flatten());
            let mut all: Vec<_> = lists.filter_map(|f| Some((f.path(), fs::read(f.path()).ok()?))).collect();
            all.sort();
            all
        };
        let before = heads(&net);
        let mut forget = begin(&net.super_node, &["backup", "forget", &first]);
        assert!(when(&mut forget, || heads(&net) != before));
        net.super_node.kill();
        forget.wait().unwrap();
        again(&mut net.super_node);
        let list = net.super_node.ask(&["backup", "list"]);
        let left =
            |list: &serde_json::Value| list["points"].as_array().unwrap().iter().any(|p| p["id"] == *first);
        if left(&list) {
            net.super_node.ask(&["backup", "forget", &first]);
        }
        whole(&net, &tree, "out");
        // Giving back: killed after some devices have deleted.
        let all = |net: &Net| net.peers.iter().map(held).sum::<usize>();
        let before = all(&net);
        // What is packed again is placed anew, in two copies.
        let would = net.super_node.ask(&["backup", "prune", "--dry-run"]);
        let freed = number(&would, "bytes") - 2 * number(&would, "repacked_bytes");
        assert!(freed > 8 << 20, "{freed}");
        let bytes_before = bytes(&net);
        let mut prune = begin(&net.super_node, &["backup", "prune"]);
        let hit = when(&mut prune, || all(&net) + gone <= before);
        net.super_node.kill();
        prune.wait().unwrap();
        assert!(hit || thorough(), "nothing was given back");
        again(&mut net.super_node);
        // What was given back in part is no loss, whichever comes first now. After a round of the watch
        // the rest stays at the devices until its leases end.
        let watched_first = turn % 2 == 1;
        if watched_first {
            whole(&net, &tree, "out");
        }
        net.super_node.ask(&["backup", "prune"]);
        assert_eq!(number(&net.super_node.ask(&["backup", "prune", "--dry-run"]), "groups"), 0);
        whole(&net, &tree, "out");
        let after = bytes(&net);
        let given = watched_first || after + freed <= bytes_before + (1 << 20);
        assert!(given, "{after} of {bytes_before} bytes stayed");
    }
}
