//! One order at two super nodes: real processes.

use std::{fs, path::Path};

use ioex_base::NodeKey;
use serde_json::Value;

use crate::{
    harm::Stopped,
    net::{Node, noise, text, uid_of},
    ota::Fleet,
    ota_owner::script,
};

/// Waits until a matcher has heard that so many devices run a version for good.
fn confirmed(matcher: &Node, devices: u64) -> Value {
    let heard = |s: &Value| s["orders"][0]["stages"]["confirmed"] == devices;
    matcher.wait_for(&["ota", "status"], heard)["orders"][0].clone()
}

/// The maker's node, which matches and serves, stands still in the middle of a download: the others have it all.
#[test]
fn a_maker_that_stands_still_holds_nobody_up() {
    let fleet = Fleet::start(6);
    let image = noise(30 << 20, 1);
    let early: Vec<String> = fleet.devices[..4].iter().map(uid_of).collect();
    let mut more = vec!["--percent", "0"];
    early.iter().for_each(|uid| more.extend(["--first", uid.as_str()]));
    fleet.publish("1.1", &image, &more);
    for device in &fleet.devices {
        device.ask(&["ota", "check"]);
    }
    confirmed(&fleet.net.super_node, 4);
    fleet.maker(&["ota", "rollout", "1.1", "--percent", "100"]);
    for device in &fleet.devices[4..] {
        device.ask(&["ota", "check"]);
    }
    let under_way = |s: &Value| s["progress"]["done_bytes"].as_u64().is_some_and(|done| done > 5 << 20);
    fleet.devices[4].wait_for(&["ota", "state"], under_way);
    let stands = Stopped::new(&fleet.net.super_node);
    for device in &fleet.devices[4..] {
        device.wait_for(&["ota", "state"], |s| s["stage"] == "fetched" || s["running"] == "1.1.0");
    }
    drop(stands);
}

/// The second matcher matches when the first is gone, and both hear of every device.
#[test]
fn devices_go_on_with_the_second_matcher_and_both_hear_how_it_went() {
    let mut fleet = Fleet::start(2);
    let second = fleet.net.further_super("second", 5);
    let (first_uid, second_uid) = (uid_of(&fleet.net.super_node), uid_of(&second));
    let early = uid_of(&fleet.devices[0]);
    let image = noise(3 << 20, 1);
    let more = ["--matcher", second_uid.as_str(), "--percent", "0", "--first", early.as_str()];
    let channel = fleet.channel.display().to_string();
    let maker = |args: &[&str]| second.ask(&[args, &["--channel", &channel]].concat());
    let published = fleet.publish("1.1", &image, &more);
    let shards = published["shards"].to_string();
    let order = ["ota", "order", "1.1", "--origin", first_uid.as_str(), "--shards", shards.as_str()];

    // The second one gets the order only when the first device has the version: both hear of it.
    fleet.devices[0].ask(&["ota", "check"]);
    confirmed(&fleet.net.super_node, 1);
    maker(&order);
    confirmed(&second, 1);

    // The first one goes, and with it the origin. The second one names the device that has the version.
    fleet.devices[1].ask(&["ota", "check"]);
    fleet.devices[1].wait_for(&["ota", "state"], |s| s["offered"] == "1.1.0");
    fleet.net.super_node.kill();
    maker(&["ota", "rollout", "1.1", "--percent", "100"]);
    fleet.update_to("1.1.0");
    assert!(std::fs::read(fleet.app(1)).unwrap() == image);
    let state = fleet.devices[1].ask(&["ota", "state"]);
    assert_eq!(state["by_source"][0], 0, "nothing came from the origin: {state}");
    confirmed(&second, 2);

    // The first one hears of it when it is there again.
    fleet.net.super_node.run();
    let order = confirmed(&fleet.net.super_node, 2);
    assert_eq!((&order["versions"]["1.1.0"], order["ended"].is_null()), (&Value::from(2), false), "{order}");
}

/// Has a second node match for a version that was published with it.
fn order_at(fleet: &Fleet, second: &Node, version: &str) {
    let (channel, origin) = (fleet.channel.display().to_string(), uid_of(&fleet.net.super_node));
    second.ask(&["ota", "order", version, "--origin", &origin, "--channel", &channel]);
}

/// What a matcher's copy of the channel says of the rollout of the newest order.
fn course(matcher: &Node) -> Value {
    matcher.ask(&["ota", "status"])["orders"][0]["course"].clone()
}

fn goes(matcher: &Node, course: &str) {
    matcher.wait_for(&["ota", "status"], |s| s["orders"][0]["course"] == course);
}

fn missed(shown: &Value) -> Vec<&str> {
    let all = shown["missed"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|missed| missed["matcher"].as_str().unwrap()).collect()
}

/// The maker's commands name one node; the others hear of a change from it, or ask when they are there again.
#[test]
fn a_change_at_one_matcher_reaches_the_others() {
    let mut fleet = Fleet::start(0);
    let mut second = fleet.net.further_super("second", 5);
    let (first_uid, second_uid) = (uid_of(&fleet.net.super_node), uid_of(&second));
    fleet.maker(&["ota", "roster", "add", &NodeKey::from_seed([9; 32]).uid().to_string()]);
    let published = fleet.publish("1.1", b"new", &["--percent", "0", "--matcher", &second_uid]);
    assert_eq!(missed(&published), [&second_uid], "it has no order yet: {published}");
    order_at(&fleet, &second, "1.1");
    let paused = fleet.maker(&["ota", "rollout", "1.1", "--pause"]);
    assert!(missed(&paused).is_empty(), "{paused}");
    assert_eq!(course(&second), "paused");

    // Away, and there again: nobody has to do anything.
    second.kill();
    let channel = fleet.channel.display().to_string();
    let resume = ["ota", "rollout", "1.1", "--resume", "--channel", &channel];
    let said = text(&fleet.net.super_node.command(&resume).output().unwrap());
    assert!(said.contains(&second_uid) && said.contains("ioex ota channel carry"), "{said}");
    second.run();
    goes(&second, "running");

    // With no node at all the folder changes, and any of them is handed the change.
    fleet.net.super_node.kill();
    let pause = ["ota", "rollout", "1.1", "--pause", "--channel", &channel];
    let said = text(&fleet.net.super_node.command(&pause).output().unwrap());
    assert!(said.contains("No node runs here"), "{said}");
    assert_eq!(course(&second), "running");
    let carried = second.ask(&["ota", "channel", "carry", "--channel", &channel]);
    assert_eq!(missed(&carried), [&first_uid], "{carried}");
    assert_eq!(course(&second), "paused");
    fleet.net.super_node.run();
    goes(&fleet.net.super_node, "paused");
}

/// Failures stop a rollout at both matchers; the maker goes on with one command, which can be given again when the node
/// could not take it.
#[test]
fn a_maker_goes_on_at_all_matchers_with_one_command() {
    let mut fleet = Fleet::start(0);
    let second = fleet.net.further_super("second", 5);
    let second_uid = uid_of(&second);
    let health = fleet.path("health");
    script(&health, "exit 1");
    let bad = fleet.device(0, &format!("health = [{health:?}]"));
    fleet.maker(&["ota", "roster", "add", &uid_of(&bad)]);
    fleet.publish("1.1", b"new", &["--percent", "0", "--matcher", &second_uid]);
    order_at(&fleet, &second, "1.1");
    let first = |fleet: &Fleet| fleet.net.super_node.ask(&["ota", "status"])["orders"][0]["stopped"].clone();
    let bound = fleet.maker(&["ota", "rollout", "1.1", "--percent", "100", "--stop-after", "1"]);
    assert!(missed(&bound).is_empty(), "{bound}");
    bad.ask(&["ota", "check"]);
    let stopped = |s: &Value| s["orders"][0]["stopped"] == true;
    fleet.net.super_node.wait_for(&["ota", "status"], stopped);
    second.wait_for(&["ota", "status"], stopped);

    // The node cannot take the change: a folder lies where its copy of the channel belongs.
    let shown = fleet.maker(&["ota", "channel", "show"]);
    let copy = fleet.net.super_node.data.join("ota/channels").join(shown["channel"].as_str().unwrap());
    fs::remove_file(&copy).unwrap();
    fs::create_dir_all(copy.join("full")).unwrap();
    let refused = fleet.try_maker(&["ota", "rollout", "1.1", "--resume"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert_eq!(first(&fleet), true, "nothing is half done");
    fs::remove_dir_all(&copy).unwrap();
    let resumed = fleet.maker(&["ota", "rollout", "1.1", "--resume"]);
    assert!(missed(&resumed).is_empty(), "{resumed}");
    assert_eq!(first(&fleet), false);
    assert_eq!(second.ask(&["ota", "status"])["orders"][0]["stopped"], false);
    fleet.devices.push(bad);
}

/// Puts a folder where a node would write a file.
fn block(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::create_dir_all(file.join("full")).unwrap();
}

/// A withdrawn version gets an end at the order and in the channel, whichever of the two cannot be written.
#[test]
fn a_withdrawal_does_what_it_can() {
    let fleet = Fleet::start(0);
    fleet.maker(&["ota", "roster", "add", &NodeKey::from_seed([9; 32]).uid().to_string()]);
    let published = fleet.publish("1.1", b"first", &[]);
    let shown = fleet.maker(&["ota", "channel", "show"]);
    let ota = fleet.net.super_node.data.join("ota");
    let copy = ota.join("channels").join(shown["channel"].as_str().unwrap());
    let is_carried = |manifest: &Value| {
        let (bytes, manifest) = (fs::read(&copy).unwrap(), manifest.as_str().unwrap());
        bytes.windows(manifest.len()).any(|part| part == manifest.as_bytes())
    };
    assert!(is_carried(&published["manifest"]));
    block(&copy);
    let failed = fleet.try_maker(&["ota", "withdraw", "1.1"]);
    assert!(!failed.status.success(), "{}", text(&failed));
    assert_eq!(fleet.net.super_node.ask(&["ota", "status"])["orders"], Value::Array(Vec::new()));
    fs::remove_dir_all(&copy).unwrap();
    let published = fleet.publish("1.2", b"second", &[]);
    assert!(is_carried(&published["manifest"]));
    block(&ota.join(format!("orders/{}.json", published["manifest"].as_str().unwrap())));
    let failed = fleet.try_maker(&["ota", "withdraw", "1.2"]);
    assert!(!failed.status.success(), "{}", text(&failed));
    assert!(!is_carried(&published["manifest"]));
}
