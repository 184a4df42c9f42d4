//! Restore points in a network of real processes: what they survive.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::net::{Net, Node, last_json, noise, read_updates, same, text, with_input, write};

fn create(node: &Node, tree: &Path, more: &[&str]) -> Value {
    let mut args = vec!["backup", "create", tree.to_str().unwrap()];
    args.extend(more);
    node.ask(&args)
}

fn restore(node: &Node, out: &Path, more: &[&str]) -> Value {
    let mut args = vec!["backup", "restore", out.to_str().unwrap()];
    args.extend(more);
    node.ask(&args)
}

/// The shards that a device holds, as files.
pub(crate) fn shard_files(node: &Node) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for dir in fs::read_dir(node.data.join("shards")).unwrap().flatten() {
        if dir.file_name().len() == 2 {
            let files = fs::read_dir(dir.path()).unwrap().flatten().map(|f| f.path());
            out.extend(files.filter(|f| f.extension().is_none()));
        }
    }
    out.sort();
    out
}

#[test]
fn a_new_machine_restores_from_the_words_alone_while_devices_are_gone() {
    let mut net = Net::start(6, "200MB");
    let tree = net.make_tree("tree");
    let report = create(&net.super_node, &tree, &["--policy", "rs=2/3/5/6"]);
    assert_eq!(report["problems_total"], 0);
    assert_eq!(report["policy"], "rs=2/3/5/6");
    // As they are printed for people, with what is said about them.
    let words = net.super_node.command(&["backup", "export-key"]).output().unwrap().stdout;
    // The super node and three of six holders vanish: two shards of each group are left at least.
    net.super_node.kill();
    net.peers.truncate(3);
    let fresh = net.device("fresh", 20, &[]);
    fresh.wait_for(&["status"], |s| s["joined"] == true);
    let wrong = with_input(fresh.command(&["backup", "import-key"]), b"zoo zoo zoo");
    assert_eq!(wrong.status.code(), Some(10), "{}", text(&wrong));
    let taken = with_input(fresh.command(&["backup", "import-key"]), &words);
    assert!(taken.status.success(), "{}", text(&taken));
    let out = net.path("out");
    let done = restore(&fresh, &out, &[]);
    same(&tree, &out.join("tree"));
    assert_eq!(done["files"], 62);
    // One path needs little of it.
    let part = restore(&fresh, &net.path("part"), &["--path", "tree/small/3"]);
    same(&tree.join("small/3"), &net.path("part").join("3"));
    assert!(part["fetched_bytes"].as_u64() < done["fetched_bytes"].as_u64().map(|b| b / 4));
}

#[test]
fn a_super_node_killed_at_many_points_goes_on_where_it_was() {
    let mut net = Net::start(3, "300MB");
    let tree = net.make_tree("tree");
    let mut killed = 0;
    for updates in [1, 2, 3, 5, 8] {
        write(&tree.join(format!("new-{updates}")), &noise(5 << 20, 1_000 + updates as u64));
        let mut child = net
            .super_node
            .command(&["backup", "create", tree.to_str().unwrap(), "--json", "--policy", "replicas=2"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if read_updates(&mut child, updates) {
            killed += 1;
        }
        net.super_node.kill();
        child.wait().unwrap();
        net.super_node.run();
        let open = |jobs: &Value| {
            let jobs = jobs["jobs"].as_array().unwrap();
            jobs.iter().all(|j| j["state"] == "done")
        };
        net.super_node.wait_for(&["backup", "jobs"], open);
        let out = net.path(&format!("out-{updates}"));
        restore(&net.super_node, &out, &[]);
        same(&tree, &out.join("tree"));
    }
    assert!(killed >= 3, "most kills hit a running backup");
    let verified = net.super_node.ask(&["backup", "verify"]);
    assert_eq!(verified["unreadable"], 0, "{verified}");
}

#[test]
fn a_restore_that_was_killed_goes_on_and_the_second_backup_moves_little() {
    let mut net = Net::start(3, "300MB");
    let tree = net.make_tree("tree");
    let first = create(&net.super_node, &tree, &[]);
    write(&tree.join("small/0/new"), b"new");
    let second = create(&net.super_node, &tree, &["--tag", "monday"]);
    let stored = |report: &Value| report["point"]["totals"]["stored_bytes"].as_u64().unwrap();
    assert!(stored(&second) * 20 < stored(&first), "{second}");
    assert_eq!(second["point"]["totals"]["read_files"], 1);
    let out = net.path("out");
    let args = ["backup", "restore", out.to_str().unwrap(), "--json", "--rate-limit", "3MB"];
    let mut child =
        net.super_node.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    assert!(read_updates(&mut child, 2));
    net.super_node.kill();
    child.wait().unwrap();
    net.super_node.run();
    net.super_node.wait_for(&["status"], |s| s["joined"] == true);
    assert!(!out.exists(), "nothing stands under the name before it is whole");
    restore(&net.super_node, &out, &[]);
    same(&tree, &out.join("tree"));
    // The older restore point is what it was.
    let id = first["point"]["id"].as_str().unwrap();
    restore(&net.super_node, &net.path("old"), &["--point", id]);
    assert!(!net.path("old").join("tree/small/0/new").exists());
    let changed = net.super_node.ask(&["backup", "diff", id]);
    assert_eq!((&changed["added"], &changed["removed"]), (&1.into(), &0.into()));
}

#[test]
fn what_devices_lose_is_noticed_and_made_anew() {
    let net = Net::start(6, "200MB");
    let tree = net.make_tree("tree");
    create(&net.super_node, &tree, &["--policy", "rs=2/4/5/5"]);
    let healthy = net.super_node.ask(&["backup", "repair"]);
    assert_eq!((&healthy["faults"], &healthy["repaired_groups"]), (&0.into(), &0.into()), "{healthy}");
    // Two devices lie: one lost its shards, the other has other bytes of the right length.
    let holders: Vec<&Node> = net.peers.iter().filter(|p| !shard_files(p).is_empty()).collect();
    for path in shard_files(holders[0]) {
        fs::remove_file(path).unwrap();
    }
    for path in shard_files(holders[1]) {
        let len = fs::metadata(&path).unwrap().len();
        fs::write(&path, noise(len as usize, 7)).unwrap();
    }
    let out = net.path("out");
    restore(&net.super_node, &out, &[]);
    same(&tree, &out.join("tree"));
    let repaired = net.super_node.ask(&["backup", "repair"]);
    assert!(repaired["faults"].as_u64().unwrap() > 0, "{repaired}");
    assert!(repaired["repaired_groups"].as_u64().unwrap() > 0, "{repaired}");
    assert_eq!((&repaired["lost_groups"], &repaired["unrepaired_groups"]), (&0.into(), &0.into()));
    let verified = net.super_node.ask(&["backup", "verify", "--read-percent", "100"]);
    assert_eq!(verified["unreadable"], 0, "{verified}");
}

#[test]
fn a_dump_goes_through_pipes_and_a_broken_one_leaves_nothing() {
    let net = Net::start(2, "200MB");
    let dump = noise(6 << 20, 3);
    let args = ["backup", "create", "-", "--name", "shop.sql", "--policy", "replicas=1", "--json"];
    let made = with_input(net.super_node.command(&args), &dump);
    assert!(made.status.success(), "{}", text(&made));
    assert_eq!(last_json(&made)["point"]["totals"]["bytes"], dump.len());
    let mut broken =
        net.super_node.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(read_updates(&mut broken, 1));
    broken.kill().unwrap();
    broken.wait().unwrap();
    net.super_node.wait_for(&["backup", "jobs"], |jobs| {
        jobs["jobs"].as_array().unwrap().iter().any(|j| j["state"] == "failed")
    });
    let points = net.super_node.ask(&["backup", "list"]);
    assert_eq!(points["points"].as_array().unwrap().len(), 1);
    let back = net.super_node.command(&["backup", "restore", "-", "--path", "shop.sql"]).output().unwrap();
    assert!(back.status.success(), "{}", text(&back));
    assert!(back.stdout == dump);
}

#[test]
fn forgetting_and_pruning_gives_space_back_and_keeps_what_is_shared() {
    let net = Net::start(3, "200MB");
    let tree = net.make_tree("tree");
    let first = create(&net.super_node, &tree, &[]);
    fs::remove_file(tree.join("large")).unwrap();
    write(&tree.join("other"), &noise(1 << 20, 55));
    create(&net.super_node, &tree, &[]);
    let held = |net: &Net| -> u64 {
        net.peers.iter().map(|p| p.ask(&["status"])["held_bytes"].as_u64().unwrap()).sum()
    };
    net.super_node.ask(&["backup", "forget", first["point"]["id"].as_str().unwrap()]);
    let before = held(&net);
    let dry = net.super_node.ask(&["backup", "prune", "--dry-run"]);
    assert_eq!(held(&net), before);
    let pruned = net.super_node.ask(&["backup", "prune"]);
    assert_eq!(dry["bytes"], pruned["bytes"]);
    assert!(pruned["bytes"].as_u64().unwrap() > 9 << 20, "{pruned}");
    assert!(held(&net) + (9 << 20) < before, "{} of {before} bytes are held", held(&net));
    restore(&net.super_node, &net.path("out"), &[]);
    same(&tree, &net.path("out").join("tree"));
}

#[test]
fn an_inspection_keeps_bad_files_out_and_says_so() {
    let mut net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    write(&tree.join("infected"), b"X5O!P%@AP an evil thing");
    net.super_node.kill();
    let capability = net.path("capability");
    let script = net.path("scan");
    fs::write(&script, "#!/bin/sh\nif grep -q X5O \"$1\"; then echo found: Eicar; exit 1; fi\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let careful = net.device(
        "super",
        30,
        &[
            "--kind",
            "super",
            "--capability",
            capability.to_str().unwrap(),
            "--inspect-command",
            script.to_str().unwrap(),
        ],
    );
    careful.wait_for(&["status"], |s| s["joined"] == true);
    let output = careful.try_ask(&["backup", "create", tree.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("found: Eicar"), "{}", text(&output));
    restore(&careful, &net.path("out"), &[]);
    assert!(!net.path("out").join("tree/infected").exists());
    assert!(net.path("out").join("tree/large").exists());
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_lost() {
    let net = Net::start(2, "20MB");
    let tree = net.make_tree("tree");
    let code = |args: &[&str]| net.super_node.try_ask(args).status.code();
    assert_eq!(code(&["backup", "restore", "/nowhere/x"]), Some(19), "no restore points yet");
    assert_eq!(code(&["backup", "create", "/no/such/path"]), Some(19));
    assert_eq!(code(&["backup", "create", tree.to_str().unwrap(), "--policy", "many"]), Some(10));
    // Three copies on two devices: what is possible, and a note about the rest.
    let report = create(&net.super_node, &tree.join("small"), &["--policy", "replicas=3"]);
    assert!(!report["notes"].as_array().unwrap().is_empty(), "{report}");
    // More than the devices have: a clear error, and the first restore point stays whole.
    write(&tree.join("huge"), &noise(60 << 20, 9));
    assert_eq!(code(&["backup", "create", tree.to_str().unwrap()]), Some(24));
    let out = net.path("out");
    restore(&net.super_node, &out, &[]);
    same(&tree.join("small"), &out.join("small"));
    assert_eq!(code(&["backup", "restore", out.to_str().unwrap()]), Some(20), "it exists");
    let peer = net.peers[0].try_ask(&["backup", "create", tree.to_str().unwrap()]);
    assert_eq!(peer.status.code(), Some(26), "a peer places nothing");
}

#[test]
fn what_was_lost_is_stored_again_and_found_where_it_is_now() {
    let net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    let first = create(&net.super_node, &tree, &["--policy", "replicas=1"]);
    for peer in &net.peers {
        shard_files(peer).iter().for_each(|path| fs::remove_file(path).unwrap());
    }
    // Another file, so that what is stored again does not happen to be the same shards.
    fs::remove_file(tree.join("small/0/0")).unwrap();
    create(&net.super_node, &tree, &["--policy", "replicas=1"]);
    restore(&net.super_node, &net.path("out"), &[]);
    same(&tree, &net.path("out").join("tree"));
    // A listing that a power cut left damaged is not believed.
    for listing in fs::read_dir(net.super_node.data.join("vault/listings")).unwrap().flatten() {
        fs::write(listing.path(), b"").unwrap();
    }
    // What the first restore point needs cannot be known any more, so nothing is given back yet.
    assert_eq!(net.super_node.try_ask(&["backup", "prune"]).status.code(), Some(24));
    net.super_node.ask(&["backup", "forget", first["point"]["id"].as_str().unwrap()]);
    net.super_node.ask(&["backup", "prune"]);
    create(&net.super_node, &tree, &["--policy", "replicas=1"]);
    restore(&net.super_node, &net.path("again"), &[]);
    same(&tree, &net.path("again").join("tree"));
}

/// Whether this machine lets this user mount.
pub(crate) fn can_mount() -> bool {
    rustix::process::geteuid().is_root() && fs::File::open("/dev/fuse").is_ok()
}

#[test]
fn restore_points_are_shown_as_folders() {
    if !can_mount() {
        eprintln!("skipped: no /dev/fuse, or not root");
        return;
    }
    let mut net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    let (text_file, other) = (tree.join("text"), tree.join("other-name"));
    fs::hard_link(&text_file, &other).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let has_attribute = rustix::fs::setxattr(&text_file, "user.note", b"mine", flags).is_ok();
    create(&net.super_node, &tree, &[]);
    let dir = net.path("points");
    let mount = ["backup", "mount", dir.to_str().unwrap()];
    // What fails says nothing else before.
    let failed = net.super_node.command(&mount).output().unwrap();
    assert_eq!(failed.status.code(), Some(27), "{}", text(&failed));
    assert!(!text(&failed).contains("until Ctrl-C"), "{}", text(&failed));
    fs::create_dir(&dir).unwrap();
    let shown = || fs::read_dir(&dir).unwrap().flatten().map(|e| e.path()).next();
    let begin = |node: &Node| {
        let mut child = node.command(&mount).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("until Ctrl-C"), "{line}");
        child
    };
    let mut command = begin(&net.super_node);
    let point = shown().expect("it is there once the command says so");
    same(&tree, &point.join("tree"));
    assert!(fs::write(point.join("new"), b"x").is_err(), "read-only");
    let (one, two) = (point.join("tree/text"), point.join("tree/other-name"));
    let name = |path: &Path| fs::metadata(path).map(|meta| (meta.ino(), meta.nlink())).unwrap();
    assert_eq!((name(&one), name(&one).1), (name(&two), 2), "one file with two names");
    if has_attribute {
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&two, "user.note", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"mine");
        let length = rustix::fs::listxattr(&one, &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"user.note\0");
        let none = rustix::fs::getxattr(point.join("tree/large"), "user.note", &mut value[..]);
        assert_eq!(none, Err(rustix::io::Errno::NODATA));
    }
    command.kill().unwrap();
    command.wait().unwrap();
    net.super_node.wait_for(&["id"], |_| shown().is_none());
    // A node that is killed leaves its mount, and the next one says how to end it.
    let mut command = begin(&net.super_node);
    net.super_node.kill();
    command.wait().unwrap();
    net.super_node.run();
    let dead = net.super_node.command(&mount).output().unwrap();
    let ended = Command::new("umount").arg(&dir).status().unwrap().success();
    assert!(text(&dead).contains(&format!("`umount {}`", dir.display())), "{}", text(&dead));
    assert!(ended);
}
