//! What lies at the edges of a backup: things that are no files, names that are no text, streams that nobody
//! writes, and restore points that come and go while somebody looks.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _, net::UnixListener},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    backup::can_mount,
    net::{Net, Node, ended, last_json, noise, poll, read_updates, text, with_input, write},
};

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn create(node: &Node, path: &Path) -> Value {
    node.ask(&["backup", "create", path.to_str().unwrap(), "--policy", "replicas=2"])
}

#[test]
fn sockets_and_pipes_make_no_backup_incomplete() {
    let net = Net::start(2, "100MB");
    let tree = net.path("tree");
    write(&tree.join("file"), b"x");
    let pipe = tree.join("pipe");
    make_pipe(&pipe);
    let _listener = UnixListener::bind(tree.join("socket")).unwrap();
    let report = create(&net.super_node, &tree);
    assert_eq!((&report["special_files"], &report["problems_total"]), (&2.into(), &0.into()), "{report}");
    let shown = net.super_node.command(&["backup", "create", tree.to_str().unwrap()]).output().unwrap();
    assert!(shown.status.success(), "{}", text(&shown));
    assert!(text(&shown).contains("2 special files (sockets, pipes, devices)"), "{}", text(&shown));
    // Asked for by name it is a mistake, and nothing waits in the queue.
    let jobs = || net.super_node.ask(&["backup", "jobs"])["jobs"].as_array().unwrap().len();
    let before = jobs();
    for path in [pipe.to_str().unwrap(), "/dev/null"] {
        let refused = net.super_node.try_ask(&["backup", "create", path]);
        assert_eq!(refused.status.code(), Some(10), "{}", text(&refused));
        assert!(text(&refused).contains("is a socket, a pipe or a device"), "{}", text(&refused));
    }
    // A pattern that nothing would fit is refused, with what would.
    for pattern in ["tree/sub", "sub/"] {
        let args = ["backup", "create", tree.to_str().unwrap(), "--exclude", pattern];
        let refused = net.super_node.try_ask(&args);
        assert_eq!(refused.status.code(), Some(10), "{}", text(&refused));
        assert!(text(&refused).contains("stands for an absolute path"), "{}", text(&refused));
    }
    assert_eq!(jobs(), before);
}

#[test]
fn names_that_are_no_text_are_told_apart_and_can_be_named() {
    let net = Net::start(2, "100MB");
    let (node, tree) = (&net.super_node, net.path("tree"));
    let names: [(&[u8], &str); 3] =
        [(b"a\\xff", "tree/a\\\\xff"), (b"a\xfe", "tree/a\\xfe"), (b"a\xff", "tree/a\\xff")];
    for (name, _) in names {
        write(&tree.join(OsStr::from_bytes(name)), name);
    }
    create(node, &tree);
    let lines = |args: &[&str]| -> Vec<Value> {
        let said = node.try_ask(args);
        assert!(said.status.success(), "{}", text(&said));
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["value"]["value"].clone();
        String::from_utf8(said.stdout).unwrap().lines().map(line).filter(|v| v["path"].is_string()).collect()
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let listed = lines(&["backup", "ls"]);
    assert_eq!(listed[0]["raw"], Value::Null, "{listed:?}");
    for ((name, shown), line) in names.iter().zip(&listed[1..]) {
        assert_eq!(line["path"], *shown, "{listed:?}");
        assert_eq!(line["raw"], hex(&[b"tree/", *name].concat()));
        // As it is shown; and, if it is no text, as it is.
        let mut typed = vec![OsStr::new(shown).to_owned()];
        if std::str::from_utf8(name).is_err() {
            typed.push(OsStr::from_bytes(&[b"tree/", *name].concat()).to_owned());
        }
        for path in &typed {
            let mut command = node.command(&["backup", "restore", "-"]);
            let back = command.arg("--path").arg(path).output().unwrap();
            assert!(back.stdout == *name, "{shown}: {}", text(&back));
            let listed = node.command(&["backup", "ls"]).arg(path).output().unwrap();
            assert!(text(&listed).trim_end().ends_with(shown), "{}", text(&listed));
        }
        let out = net.path(&format!("out-{}", hex(name)));
        node.ask(&["backup", "restore", out.to_str().unwrap(), "--path", shown]);
        assert_eq!(fs::read(out.join(OsStr::from_bytes(name))).unwrap(), *name);
    }
    // Typed as it is on the disk, which also reads as the name of another one.
    let units: [(&[u8], &[u8]); 2] = [(b"my\\x2ddata", b"the unit"), (b"my-data", b"another")];
    units.iter().for_each(|(name, content)| write(&tree.join(OsStr::from_bytes(name)), content));
    let first = create(node, &tree)["point"]["id"].as_str().unwrap().to_owned();
    for (name, content) in units {
        let path = OsStr::from_bytes(&[b"tree/", name].concat()).to_owned();
        let back = node.command(&["backup", "restore", "-"]).arg("--path").arg(path).output().unwrap();
        assert!(back.stdout == *content, "{}", text(&back));
    }
    let gone = node.try_ask(&["backup", "ls", "tree/a\\xfd"]);
    assert_eq!(gone.status.code(), Some(19), "{}", text(&gone));
    assert!(text(&gone).contains("tree/a\\\\xfd"), "{}", text(&gone));
    write(&tree.join(OsStr::from_bytes(b"a\xff")), b"longer");
    create(node, &tree);
    let changed = lines(&["backup", "diff", &first]);
    let changed: Vec<_> = changed.iter().map(|line| (&line["change"], &line["path"], &line["raw"])).collect();
    let raw = hex(b"tree/a\xff").into();
    assert_eq!(changed, [(&"changed".into(), &"tree/a\\xff".into(), &raw)]);
    // Such a path alone cannot be backed up; the folder above it can.
    let alone =
        node.command(&["backup", "create"]).arg(tree.join(OsStr::from_bytes(b"a\xff"))).output().unwrap();
    assert_eq!(alone.status.code(), Some(2), "{}", text(&alone));
    assert!(text(&alone).contains("name a folder above it"), "{}", text(&alone));
}

/// The pipes in a node's data folder.
fn pipes(node: &Node) -> usize {
    let entries = fs::read_dir(&node.data).unwrap().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_fifo())).count()
}

#[test]
fn a_killed_command_leaves_no_pipe() {
    let mut net = Net::start(2, "100MB");
    let start = |args: &[&str], node: &Node| {
        let mut command = node.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let no_pipe = |node: &Node| assert!(poll(|| (pipes(node) == 0).then_some(())).is_some());
    let make = ["backup", "create", "-", "--policy", "replicas=2", "--json"];
    assert!(with_input(net.super_node.command(&make), &noise(5 << 20, 1)).status.success());
    let mut making = start(&make, &net.super_node);
    assert!(read_updates(&mut making, 1));
    assert_eq!(pipes(&net.super_node), 1);
    making.kill().unwrap();
    making.wait().unwrap();
    no_pipe(&net.super_node);
    // Nobody reads what it writes: it is there as long as it lives.
    let mut restoring = start(&["backup", "restore", "-"], &net.super_node);
    assert!(poll(|| (pipes(&net.super_node) == 1).then_some(())).is_some());
    restoring.kill().unwrap();
    restoring.wait().unwrap();
    no_pipe(&net.super_node);
    // What both left that were killed together goes at the next start, and nothing else.
    net.super_node.kill();
    make_pipe(&net.super_node.data.join("stream-7-123.pipe"));
    make_pipe(&net.super_node.data.join("stream-of-mine.pipe"));
    write(&net.super_node.data.join("stream-8-1.pipe"), b"no pipe");
    net.super_node.run();
    assert_eq!(pipes(&net.super_node), 1);
    assert!(net.super_node.data.join("stream-8-1.pipe").exists());
}

#[test]
fn a_stdin_from_which_nothing_can_come_is_no_restore_point() {
    let net = Net::start(2, "100MB");
    let node = &net.super_node;
    for redirected in ["<&-", "< /dev/null", "0> /dev/zero"] {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$0\" \"$@\" {redirected}")]).arg(crate::program());
        command.args(["backup", "create", "-", "--policy", "replicas=2", "--json", "--data"]).arg(&node.data);
        let refused = command.output().unwrap();
        assert!(!refused.status.success(), "{redirected}: {}", text(&refused));
        if redirected.starts_with('<') {
            assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
            assert!(text(&refused).contains("nothing to back up"), "{}", text(&refused));
        }
    }
    let points = |count: usize| {
        assert_eq!(node.ask(&["backup", "list"])["points"].as_array().map(Vec::len), Some(count));
    };
    points(0);
    // A program that had nothing to say is another matter.
    let empty = with_input(node.command(&["backup", "create", "-", "--policy", "replicas=2", "--json"]), b"");
    assert!(empty.status.success(), "{}", text(&empty));
    assert_eq!(last_json(&empty)["point"]["totals"]["bytes"], 0);
    points(1);
}

#[test]
fn a_super_node_that_could_never_back_up_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let (data, garbage) = (dir.path().join("data"), dir.path().join("garbage"));
    fs::write(&garbage, b"garbage").unwrap();
    let garbage = garbage.to_str().unwrap();
    for (flags, key, why) in [
        (["--capability", garbage], "capability", "is no capability"),
        (["--capability", "/dev/null"], "capability", "is no capability"),
        (["--inspect-command", "/no/such/program"], "inspect", "there is no program"),
        (["--inspect-command", "no-such-program"], "inspect", "no folder of PATH has"),
        (["--inspect-command", garbage], "inspect", "cannot be executed"),
    ] {
        let mut command = Command::new(crate::program());
        command.args(["node", "--kind", "super", "--bind", "127.0.0.1", "--data"]).arg(&data).args(flags);
        let refused = ended(command);
        assert_eq!(refused.status.code(), Some(2), "{flags:?}: {}", text(&refused));
        let said = text(&refused);
        assert!(said.contains(&format!("'{key}'")) && said.contains(why), "{flags:?}: {said}");
    }
    assert!(!data.exists(), "it is refused before anything is made");
}

#[test]
fn what_is_made_and_forgotten_meanwhile_shows_in_a_mount() {
    if !can_mount() {
        eprintln!("skipped: no /dev/fuse, or not root");
        return;
    }
    let net = Net::start(2, "100MB");
    let (node, tree, dir) = (&net.super_node, net.path("tree"), net.path("points"));
    write(&tree.join("file"), b"one");
    let id = |report: &Value| report["point"]["id"].as_str().unwrap().to_owned();
    let first = id(&create(node, &tree));
    fs::create_dir(&dir).unwrap();
    let mount = node.command(&["backup", "mount", dir.to_str().unwrap()]).stderr(Stdio::piped()).spawn();
    let mut mount = mount.unwrap();
    BufReader::new(mount.stderr.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let shown = || -> Vec<String> {
        let entries = fs::read_dir(&dir).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let one = shown();
    assert!(one.len() == 1 && one[0].ends_with(&first), "{one:?}");
    let file = dir.join(&one[0]).join("tree/file");
    assert_eq!(fs::read(&file).unwrap(), b"one");
    write(&tree.join("file"), b"two!");
    let second = id(&create(node, &tree));
    let both = shown();
    assert!(both.len() == 2 && both[1].ends_with(&second), "{both:?}");
    assert_eq!(fs::read(dir.join(&both[1]).join("tree/file")).unwrap(), b"two!");
    // Nothing of it is found any more, also by who is in it.
    let folder = fs::File::open(file.parent().unwrap()).unwrap();
    node.ask(&["backup", "forget", &first]);
    assert_eq!(shown(), both[1..]);
    assert!(poll(|| fs::read(&file).err()).is_some(), "the kernel asks again");
    assert_eq!(rustix::fs::Dir::read_from(&folder).unwrap().count(), 0);
    assert_eq!(
        fs::read(dir.join(&both[1]).join("tree/file")).unwrap(),
        b"two!",
        "the other one is still there"
    );
    drop(folder);
    mount.kill().unwrap();
    mount.wait().unwrap();
    node.wait_for(&["id"], |_| shown().is_empty());
}
