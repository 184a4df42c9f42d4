//! Backups, restores and nodes that end before they are done, in a network of real processes.

use std::{fs, process::Stdio, time::Instant};

use crate::{
    net::{Net, noise, read_updates, same, text, write},
    stderr,
};

/// Nothing here takes so long unless it hangs.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn ctrl_c_says_that_a_backup_goes_on() {
    let net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    let args = ["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2", "--json"];
    let mut command = net.super_node.command(&args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(read_updates(&mut child, 1), "it was done too early");
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(stderr(&output).contains("backup 1 goes on"), "{}", text(&output));
    assert!(stderr(&output).contains("ioex backup cancel 1"), "{}", text(&output));
    net.super_node.ask(&["backup", "follow", "1"]);
    // One from stdin ends with whoever brings it.
    let mut command = net.super_node.command(&["backup", "create", "-", "--policy", "replicas=2", "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let never_ends = child.stdin.take();
    assert!(read_updates(&mut child, 1));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    drop(never_ends);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(stderr(&output).contains("ends without a restore point"), "{}", text(&output));
    let failed = net.super_node.try_ask(&["backup", "follow", "2"]);
    assert!(!failed.status.success(), "{}", text(&failed));
    assert_eq!(net.super_node.ask(&["backup", "list"])["points"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_node_that_is_killed_is_told_from_one_of_another_version() {
    let mut net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    let args = ["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2", "--json"];
    let mut command = net.super_node.command(&args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(read_updates(&mut child, 1), "it was done too early");
    net.super_node.kill();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("the node ended before it had answered"), "{}", text(&output));
    assert!(stderr(&output).contains("backup 1 goes on when the node runs again"), "{}", text(&output));
    net.super_node.run();
    net.super_node.ask(&["backup", "follow", "1"]);
    same_after_restore(&net, &tree);
}

fn same_after_restore(net: &Net, tree: &std::path::Path) {
    let out = net.path("out");
    net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
    same(tree, &out.join("tree"));
}

#[test]
fn a_slow_restore_keeps_what_came_although_the_node_is_killed_again_and_again() {
    let mut net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"]);
    let whole = net.super_node.ask(&["backup", "restore", net.path("whole").to_str().unwrap()]);
    let (out, journal) = (net.path("out"), net.path(".out.ioex-journal"));
    let noted = || fs::metadata(&journal).map_or(0, |meta| meta.len());
    let args = ["backup", "restore", out.to_str().unwrap(), "--json", "--rate-limit", "1MB"];
    let mut before = 0;
    for _ in 0..2 {
        let mut command = net.super_node.command(&args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        assert!(read_updates(&mut child, 1));
        let begun = noted();
        assert!(begun >= before, "what was noted stays");
        let clock = Instant::now();
        while noted() <= begun {
            assert!(clock.elapsed() < PATIENCE, "nothing was noted");
            std::thread::sleep(std::time::Duration::from_millis(20)); // poll: the journal of another process
        }
        net.super_node.kill();
        child.kill().unwrap();
        child.wait().unwrap();
        before = noted();
        net.super_node.run();
        net.super_node.wait_for(&["status"], |s| s["joined"] == true);
    }
    assert!(!out.exists(), "the restore was over before it was killed");
    let done = net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
    assert!(done["fetched_bytes"].as_u64() < whole["fetched_bytes"].as_u64(), "{done} {whole}");
    same(&tree, &out.join("tree"));
}

#[test]
fn a_full_stdout_is_told_as_what_it_is() {
    let net = Net::start(2, "200MB");
    let tree = net.path("tree");
    write(&tree.join("file"), &noise(9 << 20, 3));
    fs::hard_link(tree.join("file"), tree.join("second")).unwrap();
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"]);
    let restore = ["backup", "restore", "-", "--path", "tree/second"];
    let back = net.super_node.command(&restore).output().unwrap();
    assert!(back.stdout == fs::read(tree.join("file")).unwrap(), "{}", stderr(&back));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = net.super_node.command(&restore).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(stderr(&output).contains("No space left"), "{}", text(&output));
}

#[test]
fn stop_returns_when_the_process_is_gone() {
    let mut net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    write(&tree.join("more"), &noise(40 << 20, 12));
    // With a backup that runs, and which goes on after the next start.
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2", "--no-wait"]);
    net.super_node.wait_for(&["backup", "jobs"], |jobs| jobs["jobs"][0]["state"] != "queued");
    let stopped = net.super_node.try_ask(&["stop"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    let ended = net.super_node.child.as_mut().unwrap().try_wait().unwrap();
    assert!(ended.is_some_and(|status| status.success()), "it still runs: {ended:?}");
    assert_eq!(net.super_node.try_ask(&["status"]).status.code(), Some(3));
    net.super_node.run();
    net.super_node.ask(&["backup", "follow", "1"]);
}
