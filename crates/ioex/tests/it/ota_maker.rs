//! What a maker's commands refuse, take back and show: real processes.

use std::{fs, path::Path};

use ioex_api::{Client, OtaRequest, Request, Update};
use serde_json::Value;

use crate::{
    harm,
    net::{noise, poll, text, uid_of},
    ota::Fleet,
    ota_owner::script,
};

/// Length of all files below.
fn bytes(dir: &Path) -> u64 {
    let length = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes(&entry.path()),
        // One that the node has just deleted.
        other => other.map_or(0, |meta| meta.len()),
    };
    fs::read_dir(dir).map_or(0, |entries| entries.flatten().map(length).sum())
}

/// A publication that is refused packs nothing; what was packed for a client that went is deleted.
#[test]
fn what_is_not_published_takes_no_space() {
    let fleet = Fleet::start(1);
    let peer = &fleet.devices[0];
    let image = fleet.path("image");
    fs::write(&image, noise(2 << 20, 1)).unwrap();
    let arg = format!("app={}", image.display());
    let publish =
        |more: &[&str]| fleet.try_maker(&[&["ota", "publish", arg.as_str(), "--version"], more].concat());
    assert!(publish(&["1.1"]).status.success());
    fs::write(&image, noise(4 << 20, 2)).unwrap();
    let shelf = fleet.net.super_node.data.join("ota");
    let before = bytes(&shelf);
    let refused: [(&[&str], i32, &str); 4] = [
        (&["1.1"], 1, "published already"),
        (&["1.2", "--follows", "1.3"], 1, "cannot follow 1.3.0"),
        (&["1.2", "--quantity", "0"], 2, "quantity"),
        (&["1.2", "--percent", "50", "--step", "1:40"], 1, "go up"),
    ];
    for (more, code, why) in refused {
        let output = publish(more);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {}", text(&output));
        assert!(text(&output).contains(why), "{more:?}: {}", text(&output));
        assert_eq!(bytes(&shelf), before, "{more:?}");
    }
    let channel = fleet.channel.display().to_string();
    let at_peer = peer.try_ask(&["ota", "publish", &arg, "--version", "1.2", "--channel", &channel]);
    assert!(at_peer.status.code() == Some(26) && text(&at_peer).contains("super node"), "{}", text(&at_peer));

    // Packed, and then the client is gone.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&fleet.net.super_node.data).await.unwrap();
        let pack = OtaRequest::Pack {
            images: vec![ioex_api::OtaImagePath { name: "app".to_owned(), path: image.clone(), tree: None }],
            pack_key: "07".repeat(32),
            recipient: uid_of(peer).parse().unwrap(),
            previous: Vec::new(),
            name: "lost".to_owned(),
        };
        let mut updates = client.stream(Request::Ota(Box::new(pack))).await.unwrap();
        while !matches!(updates.next().await.unwrap(), Some(Update::OtaPacked(_))) {}
        assert!(bytes(&shelf) > before + (4 << 20));
    });
    // poll: the node looks by itself, and tells nobody
    let gone = poll(|| (bytes(&shelf) < before + (1 << 20)).then_some(()));
    assert!(gone.is_some(), "{} after {before}", bytes(&shelf));
}

fn release<'a>(shown: &'a Value, version: &str) -> &'a Value {
    shown["releases"].as_array().unwrap().iter().find(|release| release["version"] == version).unwrap()
}

/// Too many fail; the maker sees it, changes the bound and goes on.
#[test]
fn a_rollout_that_failures_stopped_goes_on_when_its_maker_says_so() {
    let mut fleet = Fleet::start(0);
    let health = fleet.path("health");
    script(&health, "exit 1");
    let bad = fleet.device(0, &format!("health = [{health:?}]"));
    let good = fleet.device(1, "");
    let (bad_uid, good_uid) = (uid_of(&bad), uid_of(&good));
    fleet.maker(&["ota", "roster", "add", &bad_uid, &good_uid]);
    fleet.publish(
        "1.1",
        b"new",
        &["--percent", "0", "--step", "24:100", "--first", &bad_uid, "--stop-after", "1"],
    );
    bad.ask(&["ota", "check"]);
    let node = &fleet.net.super_node;
    node.wait_for(&["ota", "status"], |s| s["orders"][0]["stopped"] == true);
    let more = fleet.maker(&["ota", "rollout", "1.1", "--percent", "50"]);
    let one = release(&more, "1.1.0");
    assert_eq!(one["stopped"], true, "{more}");
    let steps = one["rollout"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3, "the coming step stays: {more}");
    assert!(steps[2]["percent"] == 100.0 && steps[2]["from"].as_u64() > steps[1]["from"].as_u64(), "{more}");
    assert_eq!((&one["rollout"]["first"][0], &one["rollout"]["stop_after"]), (&bad_uid.into(), &1.into()));
    let channel = fleet.channel.display().to_string();
    let shown = node.command(&["ota", "channel", "show", "--channel", &channel]).output();
    let shown = text(&shown.unwrap());
    assert!(
        shown.contains("IS STOPPED") && shown.contains("--resume") && shown.contains("100% from 20"),
        "{shown}"
    );

    let paused = fleet.maker(&["ota", "rollout", "1.1", "--percent", "100", "--pause", "--stop-after", "5"]);
    assert_eq!(release(&paused, "1.1.0")["rollout"]["course"], "paused");
    assert_eq!(node.ask(&["ota", "status"])["orders"][0]["course"], "paused");
    let resumed = fleet.maker(&["ota", "rollout", "1.1", "--resume"]);
    assert_eq!(release(&resumed, "1.1.0")["stopped"], false, "{resumed}");
    fleet.devices.push(good);
    fleet.update_to("1.1.0");

    // The fleet, over all orders.
    fleet.publish("1.2", b"newer", &["--percent", "0"]);
    let status = fleet.net.super_node.wait_for(&["ota", "status", "--channel", &channel], |s| {
        s["channels"][0]["versions"] == serde_json::json!({ "1.0.0": 1, "1.1.0": 1 })
    });
    assert_eq!(
        (&status["channels"][0]["brand"], &status["channels"][0]["roster"]),
        (&"acme".into(), &2.into())
    );
    let versions: Vec<&Value> =
        status["orders"].as_array().unwrap().iter().map(|order| &order["version"]).collect();
    assert_eq!(versions, ["1.2.0", "1.1.0"], "the newest first");
}

/// Keys that lie elsewhere or are lost, files that are there, devices that go: what a maker's commands say.
#[test]
fn a_makers_commands_say_what_is_wrong() {
    let fleet = Fleet::start(2);
    let (dir, safe) = (fleet.path("keys-channel"), fleet.path("safe"));
    let of = |args: &[&str]| {
        let channel = ["--channel", dir.to_str().unwrap()];
        fleet.net.super_node.try_ask(&[&["ota", "channel"], args, &channel].concat())
    };
    let create = ["create", "acme", "box", "--root-keys", "3", "--threshold", "2"];
    assert!(of(&create).status.success());
    assert_eq!(of(&create).status.code(), Some(20), "{}", text(&of(&create)));
    let bundle = fleet.path("bundle");
    assert_eq!(of(&["bundle", bundle.to_str().unwrap()]).status.code(), Some(20));

    // The root keys go to a safe, one of them is lost, and so is the key of the timestamp.
    fs::create_dir(&safe).unwrap();
    let [one, _, three] = [1, 2, 3].map(|n| {
        let path = safe.join(format!("root-{n}.key"));
        fs::rename(dir.join(format!("keys/root-{n}.key")), &path).unwrap();
        path.display().to_string()
    });
    fs::remove_file(dir.join("keys/timestamp.key")).unwrap();
    let unclear = of(&["rotate", "root", "--root-key", &one, "--root-key", &three]);
    assert_eq!(unclear.status.code(), Some(2), "{}", text(&unclear));
    let said = text(&unclear);
    let lost = said.split("\\n").find(|line| line.contains("not at hand")).unwrap().trim();
    let lost = lost.split_whitespace().next().unwrap();
    let both = ["rotate", "root", "timestamp", "--replace", lost, "--root-key", &one];
    let draft = fleet.path("draft");
    let draft = draft.to_str().unwrap();
    let drafted = of(&[&both[..], &["--draft", draft]].concat());
    assert!(drafted.status.success(), "{}", text(&drafted));
    let sign = |key: &str| fleet.net.super_node.try_ask(&["ota", "channel", "sign", draft, key]);
    let targets = dir.join("keys/targets.key");
    for (key, why) in [(targets.to_str().unwrap(), "is no root key"), (&one, "already")] {
        let refused = sign(key);
        assert!(!refused.status.success() && text(&refused).contains(why), "{}", text(&refused));
    }
    assert!(!of(&["adopt", draft]).status.success());
    assert!(sign(&three).status.success());
    let adopted = of(&["adopt", draft]);
    assert!(adopted.status.success(), "{}", text(&adopted));
    let shown = crate::net::last_json(&adopted);
    assert_eq!(
        (&shown["root_version"], shown["root_keys"].as_array().unwrap().len()),
        (&2.into(), 3),
        "{shown}"
    );
    assert!(!text(&adopted).contains(lost) && of(&["refresh"]).status.success());

    // Devices, and an order for the list as it is now.
    let late = uid_of(&fleet.devices[1]);
    fleet.maker(&["ota", "roster", "remove", &late]);
    let twice = fleet.try_maker(&["ota", "roster", "remove", &late]);
    assert_eq!(twice.status.code(), Some(19), "{}", text(&twice));
    fleet.publish("1.1", b"new", &[]);
    let channel = fleet.channel.display().to_string();
    let added = ["ota", "roster", "add", late.as_str(), "--channel", channel.as_str()];
    let added = fleet.net.super_node.command(&added).output().unwrap();
    assert!(text(&added).contains("ioex ota order VERSION --origin"), "{}", text(&added));
    let matcher = uid_of(&fleet.net.super_node);
    let order = ["ota", "order", "1.1", "--origin", matcher.as_str()];
    let wrong = fleet.try_maker(&[&order[..], &["--shards", "8"]].concat());
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    fs::remove_file(fleet.channel.join("shards.json")).unwrap();
    let wrong = fleet.try_maker(&[&order[..], &["--shards", "8"]].concat());
    assert!(wrong.status.code() == Some(10) && text(&wrong).contains("has 1 shards"), "{}", text(&wrong));
    fleet.maker(&[&order[..], &["--shards", "1"]].concat());
    fleet.update_to("1.1.0");
}

/// A command that is killed while it packs a folder leaves its archive to the next one, and two at once do not share one.
#[test]
fn folders_are_packed_by_each_command_in_an_archive_of_its_own() {
    let fleet = Fleet::start(1);
    let folder = fleet.path("folder");
    for n in 0..40 {
        crate::net::write(&folder.join(format!("part-{n}")), &noise(2 << 20, n));
    }
    let image = format!("app={}", folder.display());
    let channel = fleet.channel.display().to_string();
    let archives = || {
        let entries = fs::read_dir(&fleet.channel).unwrap().flatten();
        let all = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        all.filter(|name| name.ends_with(".tar")).collect::<Vec<_>>()
    };
    let publish = |version| {
        let args = ["ota", "publish", &image, "--version", version, "--channel", &channel];
        harm::begin(&fleet.net.super_node, &args)
    };
    let (mut one, mut two) = (publish("1.1"), publish("1.2"));
    assert!(harm::when(&mut two, || archives().len() == 2), "each has its own");
    one.kill().unwrap();
    one.wait().unwrap();
    assert!(two.wait().unwrap().success());
    assert_eq!(archives().len(), 1, "what was killed is left");
    fleet.maker(&["ota", "publish", &image, "--version", "1.3"]);
    assert_eq!(archives(), Vec::<String>::new());
}
