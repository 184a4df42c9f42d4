//! One order at two super nodes: real processes.

use serde_json::Value;

use crate::{
    harm::Stopped,
    net::{Node, noise, uid_of},
    ota::Fleet,
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
