//! Backups, restores and nodes that end before they are done, in a network of real processes.

use std::{fs, process::Stdio, time::Instant};

use serde_json::Value;

use crate::{
    backup::can_mount,
    net::{Net, last_json, noise, read_updates, same, text, write},
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

/// Whoever reads the objects of a command learns that it was cut off.
#[test]
fn ctrl_c_is_told_by_a_restore_and_a_mount() {
    let net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"]);
    let (out, points) = (net.path("out"), net.path("points"));
    fs::create_dir(&points).unwrap();
    let mut commands = vec![vec!["restore", out.to_str().unwrap(), "--rate-limit", "1MB"]];
    if can_mount() {
        commands.push(vec!["mount", points.to_str().unwrap()]);
    }
    for args in commands {
        let mut command = net.super_node.command(&[&["backup"], &args[..], &["--json"]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        assert!(read_updates(&mut child, 1), "{args:?}: it was done too early");
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{args:?}: {}", text(&output));
        assert_eq!(last_json(&output)["error"]["code"], "interrupted", "{args:?}: {}", text(&output));
    }
    net.super_node.wait_for(&["id"], |_| fs::read_dir(&points).unwrap().next().is_none());
    assert!(!out.exists(), "it was restored all the same");
}

/// Seconds in which a job is done whose command is gone: less than one waits for a command that is late.
const GONE_MAX_SECONDS: u64 = 10;

/// A command that brings stdin is killed while its job waits: those behind it do not wait for it.
#[test]
fn a_stream_whose_command_was_killed_holds_up_nobody() {
    let net = Net::start(2, "200MB");
    let tree = net.make_tree("tree");
    let make = ["backup", "create", "-", "--policy", "replicas=2", "--json"];
    let begin = || {
        let mut command = net.super_node.command(&make);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    // The first one stays at its turn until it is told to end.
    let mut first = begin();
    let input = first.stdin.take();
    assert!(read_updates(&mut first, 1));
    let mut second = begin();
    let is = |n: usize, state: &'static str| move |jobs: &Value| jobs["jobs"][n]["state"] == state;
    net.super_node.wait_for(&["backup", "jobs"], is(1, "queued"));
    second.kill().unwrap();
    second.wait().unwrap();
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2", "--no-wait"]);
    interrupt(&first);
    drop(first.wait_with_output().unwrap());
    drop(input);
    net.super_node.ask(&["backup", "follow", "3"]);
    let jobs = net.super_node.ask(&["backup", "jobs"])["jobs"].clone();
    let job = |id: u64| jobs.as_array().unwrap().iter().find(|job| job["id"] == id).unwrap().clone();
    let why = job(2)["error"]["message"].as_str().unwrap().to_owned();
    assert!(why.contains("the other end of the pipe is gone"), "{jobs}");
    let ended = |id: u64| job(id)["ended"].as_u64().unwrap();
    assert!(ended(2) - ended(1) < GONE_MAX_SECONDS, "{jobs}");
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
