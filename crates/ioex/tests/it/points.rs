//! Finding restore points in a network of real processes: by their source, and when holders are away.

use std::{fs, process::Stdio};

use serde_json::Value;

use crate::{
    backup::can_mount,
    net::{Net, Node, noise, read_updates, same, text, with_input, write},
};

fn create(node: &Node, path: &std::path::Path, more: &[&str]) -> String {
    let mut args = vec!["backup", "create", path.to_str().unwrap(), "--policy", "replicas=2"];
    args.extend(more);
    node.ask(&args)["point"]["id"].as_str().unwrap().to_owned()
}

fn ids(node: &Node, more: &[&str]) -> Vec<String> {
    let mut args = vec!["backup", "list"];
    args.extend(more);
    let list = node.ask(&args);
    list["points"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_list_whose_holders_are_away_is_an_error_and_not_an_empty_list() {
    let mut net = Net::start(2, "100MB");
    let tree = net.path("tree");
    write(&tree.join("a"), &noise(100_000, 1));
    let id = create(&net.super_node, &tree, &[]);
    let words = net.super_node.ask(&["backup", "export-key"])["words"].as_str().unwrap().to_owned();
    let fresh = net.device("fresh", 20, &[]);
    fresh.wait_for(&["status"], |s| s["joined"] == true);
    // A key with which nothing was stored yet: an empty list, and a word about it.
    let new = fresh.ask(&["backup", "list"]);
    assert_eq!(new["points"].as_array().map(Vec::len), Some(0));
    assert!(new["warnings"][0].as_str().unwrap().contains("none yet"), "{new}");
    let taken = with_input(fresh.command(&["backup", "import-key"]), words.as_bytes());
    assert!(taken.status.success(), "{}", text(&taken));
    net.peers.iter_mut().for_each(Node::kill);
    let away = fresh.try_ask(&["backup", "list"]);
    assert_eq!(away.status.code(), Some(24), "{}", text(&away));
    assert!(text(&away).contains("try again when some of them are back"), "{}", text(&away));
    // Who knew the list shows it, and says that it may be old.
    let known = net.super_node.ask(&["backup", "list"]);
    assert_eq!(known["points"][0]["id"], id.as_str());
    assert!(known["warnings"].as_array().unwrap().iter().any(|w| w.as_str().unwrap().contains("may be old")));
    net.peers.iter_mut().for_each(Node::run);
    fresh.wait_for(&["backup", "list"], |list| list["points"][0]["id"] == id.as_str());
}

#[test]
fn restore_points_are_chosen_by_what_they_are_of() {
    let net = Net::start(2, "100MB");
    let tree = |name: &str| {
        // Longer than a label: only the ends differ.
        let path = net.path(&format!("{}/{name}", "long".repeat(40)));
        write(&path.join("file"), name.as_bytes());
        path
    };
    let (one, two) = (tree("one"), tree("two"));
    let node = &net.super_node;
    let first = create(node, &one, &["--tag", "x"]);
    let second = create(node, &two, &["--tag", "x", "--tag", "y"]);
    let third = create(node, &one, &[]);
    let fourth = create(node, &two, &[]);
    let source = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    assert_eq!(ids(node, &["--source", &source(&one)]), [first.clone(), third.clone()]);
    assert_eq!(ids(node, &["--tag", "x"]), [first.clone(), second.clone()]);
    assert_eq!(ids(node, &["--tag", "x", "--tag", "y"]), std::slice::from_ref(&second));
    assert_eq!(ids(node, &["--host", "nobody's"]), [] as [String; 0]);
    let out = net.path("out");
    node.ask(&["backup", "restore", out.to_str().unwrap(), "--source", &source(&one)]);
    same(&one, &out.join("one"));
    // What was read before is known of each source by itself.
    let report = node.ask(&["backup", "create", &source(&one), "--policy", "replicas=2"]);
    assert_eq!(report["point"]["totals"]["read_files"], 0, "{report}");
    let last = report["point"]["id"].as_str().unwrap().to_owned();
    // One of each source is kept.
    let dropped = node.ask(&["backup", "forget", "--keep-last", "1", "--tag", "x", "--dry-run"]);
    assert_eq!(dropped["points"].as_array().map(Vec::len), Some(0), "{dropped}");
    node.ask(&["backup", "forget", "--keep-last", "1"]);
    assert_eq!(ids(node, &[]), [fourth, last]);
    // Listings: an end that programs see, and an error for what is not there.
    let listed = node.try_ask(&["backup", "ls", "--source", &source(&one), "one"]);
    let lines = String::from_utf8(listed.stdout).unwrap();
    assert!(lines.lines().last().unwrap().contains("\"done\""), "{lines}");
    assert!(lines.lines().count() == 3, "a folder, a file and the end: {lines}");
    assert_eq!(node.try_ask(&["backup", "ls", "one/nothing"]).status.code(), Some(19));
}

/// Changes every byte of what a device holds for others; returns how it was.
fn damage(node: &Node) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for dir in fs::read_dir(node.data.join("shards")).unwrap().flatten() {
        if dir.file_name().len() != 2 {
            continue;
        }
        for path in fs::read_dir(dir.path()).unwrap().flatten().map(|f| f.path()) {
            if path.extension().is_none() {
                let good = fs::read(&path).unwrap();
                fs::write(&path, good.iter().map(|b| b ^ 1).collect::<Vec<u8>>()).unwrap();
                out.push((path, good));
            }
        }
    }
    out
}

#[test]
fn ranges_from_a_device_that_lies_are_fetched_from_another() {
    let net = Net::start(2, "100MB");
    let tree = net.make_tree("tree");
    create(&net.super_node, &tree, &[]);
    let words = net.super_node.ask(&["backup", "export-key"])["words"].as_str().unwrap().to_owned();
    for (n, peer) in net.peers.iter().enumerate() {
        let good = damage(peer);
        assert!(!good.is_empty());
        let fresh = net.device(&format!("fresh-{n}"), 20 + n as u32, &[]);
        fresh.wait_for(&["status"], |s| s["joined"] == true);
        let taken = with_input(fresh.command(&["backup", "import-key"]), words.as_bytes());
        assert!(taken.status.success(), "{}", text(&taken));
        fresh.ask(&["backup", "ls"]);
        let back = fresh.command(&["backup", "restore", "-", "--path", "tree/text"]).output().unwrap();
        assert!(
            back.stdout == fs::read(tree.join("text")).unwrap(),
            "{}",
            String::from_utf8_lossy(&back.stderr)
        );
        good.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

/// Each shard of a coded group has one holder. When that one's ranges are wrong, only the whole shard helps,
/// computed from the others.
#[test]
fn ranges_that_only_a_liar_has_are_computed_for_listings_and_mounts() {
    let net = Net::start(4, "100MB");
    let tree = net.make_tree("tree");
    let create = ["backup", "create", tree.to_str().unwrap(), "--policy", "rs=2/3/4/4"];
    net.super_node.ask(&create);
    let mounts = can_mount();
    for (n, peer) in net.peers.iter().enumerate() {
        let good = damage(peer);
        assert!(!good.is_empty());
        // What is kept of the listing is fetched anew.
        for kept in fs::read_dir(net.super_node.data.join("vault/listings")).unwrap().flatten() {
            fs::remove_file(kept.path()).unwrap();
        }
        let listed = net.super_node.try_ask(&["backup", "ls"]);
        assert!(listed.status.success(), "{n}: {}", text(&listed));
        assert!(text(&listed).contains("large"), "{n}: {}", text(&listed));
        if mounts {
            let dir = net.path(&format!("points-{n}"));
            fs::create_dir(&dir).unwrap();
            let shown = || fs::read_dir(&dir).unwrap().flatten().map(|e| e.path()).next();
            let args = ["backup", "mount", dir.to_str().unwrap()];
            let mut mount = net.super_node.command(&args).stderr(Stdio::null()).spawn().unwrap();
            net.super_node.wait_for(&["id"], |_| shown().is_some());
            // Small ones lie in short groups, of which other devices have the same bytes. This one does not.
            let read = fs::read(shown().unwrap().join("tree/large"));
            mount.kill().unwrap();
            mount.wait().unwrap();
            net.super_node.wait_for(&["id"], |_| shown().is_none());
            assert!(read.unwrap() == fs::read(tree.join("large")).unwrap(), "{n}");
        }
        good.iter().for_each(|(path, bytes)| write(path, bytes));
    }
}

#[test]
fn a_schedule_that_fails_says_when_and_why() {
    let net = Net::start(2, "100MB");
    let tree = net.path("tree");
    write(&tree.join("a"), b"a");
    let node = &net.super_node;
    node.ask(&[
        "backup",
        "schedule",
        "add",
        "nightly",
        "--every",
        "1h",
        tree.to_str().unwrap(),
        "--policy",
        "replicas=2",
    ]);
    let done = |s: &Value| s["schedules"][0]["result"]["point"].is_string();
    let made = node.wait_for(&["backup", "schedule", "list"], done);
    assert_eq!(made["schedules"][0]["result"]["error"], Value::Null);
    node.ask(&["backup", "schedule", "remove", "nightly"]);
    node.ask(&[
        "backup",
        "schedule",
        "add",
        "doomed",
        "--every",
        "1h",
        tree.to_str().unwrap(),
        "--exclude",
        "a[",
    ]);
    let failed = |s: &Value| s["schedules"][0]["result"]["error"].is_object();
    let list = node.wait_for(&["backup", "schedule", "list"], failed);
    let result = &list["schedules"][0]["result"];
    assert!(result["ended"].as_u64() > Some(0) && result["job"].is_u64(), "{list}");
    assert!(result["error"]["message"].as_str().unwrap().contains("a["), "{list}");
    let shown = node.command(&["backup", "schedule", "list"]).output().unwrap();
    assert!(text(&shown).contains("failed: "), "{}", text(&shown));
    let jobs = node.command(&["backup", "jobs"]).output().unwrap();
    assert!(jobs.status.success() && text(&jobs).contains("a["), "{}", text(&jobs));
}

#[test]
fn what_an_inspection_refuses_is_neither_put_nor_taken_from_stdin() {
    let mut net = Net::start(2, "100MB");
    net.super_node.kill();
    let (capability, script) = (net.path("capability"), net.path("scan"));
    fs::write(&script, "#!/bin/sh\nif grep -q X5O \"$1\"; then echo found: Eicar; exit 1; fi\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let (capability, script) = (capability.to_str().unwrap(), script.to_str().unwrap());
    let flags = ["--kind", "super", "--capability", capability, "--inspect-command", script];
    let careful = net.device("super", 30, &flags);
    careful.wait_for(&["status"], |s| s["joined"] == true);
    let (good, bad) = (net.path("good"), net.path("bad"));
    write(&good, b"harmless");
    write(&bad, b"X5O!P%@AP an evil thing");
    let put = |file: &std::path::Path, manifest: &str| {
        let manifest = net.path(manifest);
        careful.try_ask(&["backup", "put", file.to_str().unwrap(), "--manifest", manifest.to_str().unwrap()])
    };
    let refused = put(&bad, "m1");
    assert_eq!(refused.status.code(), Some(17), "{}", text(&refused));
    assert!(text(&refused).contains("found: Eicar"), "{}", text(&refused));
    assert!(put(&good, "m2").status.success());
    // A schedule that leaves something out says so wherever it is looked at.
    let tree = net.path("tree");
    write(&tree.join("good"), b"harmless");
    write(&tree.join("bad"), b"X5O!P%@AP an evil thing");
    let args = ["backup", "schedule", "add", "nightly", "--every", "1h", tree.to_str().unwrap()];
    careful.ask(&args);
    let made = careful.wait_for(&["backup", "schedule", "list"], |s| s["schedules"][0]["result"].is_object());
    let result = &made["schedules"][0]["result"];
    assert_eq!((&result["error"], &result["problems_total"]), (&Value::Null, &1.into()), "{made}");
    for list in [&["backup", "schedule", "list"][..], &["backup", "jobs"]] {
        let shown = careful.command(list).output().unwrap();
        assert!(text(&shown).contains("incomplete: 1 left out"), "{list:?}: {}", text(&shown));
    }
    // So does the list, also at a device that has to fetch it.
    let words = careful.ask(&["backup", "export-key"])["words"].as_str().unwrap().to_owned();
    let fresh = net.device("fresh", 20, &[]);
    fresh.wait_for(&["status"], |s| s["joined"] == true);
    assert!(with_input(fresh.command(&["backup", "import-key"]), words.as_bytes()).status.success());
    for node in [&careful, &fresh] {
        assert_eq!(node.ask(&["backup", "list"])["points"][0]["problems_total"], 1);
        let shown = node.command(&["backup", "list"]).output().unwrap();
        assert!(text(&shown).contains("(1 left out)"), "{}", text(&shown));
    }
    careful.ask(&["backup", "schedule", "remove", "nightly"]);
    careful.ask(&["backup", "forget", result["point"].as_str().unwrap()]);
    let args = ["backup", "create", "-", "--name", "dump", "--policy", "replicas=2", "--json"];
    let refused = with_input(careful.command(&args), b"X5O!P%@AP an evil thing");
    assert_eq!(refused.status.code(), Some(17), "{}", text(&refused));
    assert!(text(&refused).contains("found: Eicar"), "{}", text(&refused));
    assert_eq!(ids(&careful, &[]), [] as [String; 0]);
    assert!(with_input(careful.command(&args), b"harmless").status.success());
    assert_eq!(ids(&careful, &[]).len(), 1);
}

#[test]
fn a_restore_whose_command_is_stopped_keeps_what_came() {
    let net = Net::start(2, "100MB");
    let tree = net.make_tree("tree");
    create(&net.super_node, &tree, &[]);
    let whole = net.super_node.ask(&["backup", "restore", net.path("whole").to_str().unwrap()]);
    let out = net.path("out");
    let args = ["backup", "restore", out.to_str().unwrap(), "--json", "--rate-limit", "2MB"];
    let mut command = net.super_node.command(&args);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    assert!(read_updates(&mut child, 2), "it was done too early");
    child.kill().unwrap();
    child.wait().unwrap();
    // Until the node has written down how far it came, the folder is in use: that is waited for.
    let done = net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
    assert!(done["fetched_bytes"].as_u64() < whole["fetched_bytes"].as_u64(), "{done} {whole}");
    same(&tree, &out.join("tree"));
}
