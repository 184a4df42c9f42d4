//! What a device's owner allows it to fetch and to serve, and how it answers failures: real processes.

use std::{fs, io::Write as _, time::Instant};

use serde_json::Value;

use crate::{
    net::noise,
    ota::{Fleet, sum},
    ota_attacks::Attack,
};

/// Adds a line to a device's policy, and starts it anew.
fn allow(fleet: &mut Fleet, n: usize, line: &str) {
    let config = fleet.path(&format!("device-{n}.toml"));
    writeln!(fs::File::options().append(true).open(config).unwrap(), "{line}").unwrap();
    fleet.devices[n].kill();
    fleet.devices[n].run();
}

fn holds(state: &Value, why: &str) -> bool {
    state["holding"].as_str().is_some_and(|holding| holding.contains(why))
}

/// A fast link brings no more than the cap allows either, and what came is kept for the next month.
#[test]
fn a_month_s_cap_is_kept() {
    let cap = 2_000_000;
    let mut fleet = Fleet::start(1);
    allow(&mut fleet, 0, &format!("monthly_cap_bytes = {cap}"));
    let image = noise(6 << 20, 1);
    let published = fleet.publish("1.1", &image, &[]);
    fleet.devices[0].ask(&["ota", "check"]);
    let state = fleet.devices[0].wait_for(&["ota", "state"], |s| holds(s, "month's cap"));
    let month = state["month_bytes"].as_u64().unwrap();
    assert!(month > cap / 2 && month <= cap, "{state}");
    assert_eq!((&state["running"], &state["stage"]), (&Value::from("1.0.0"), &Value::from("offered")));
    // Its owner allows more.
    let config = fleet.path("device-0.toml");
    let text = fs::read_to_string(&config).unwrap().replace(&format!("= {cap}"), "= 20000000");
    fs::write(&config, text).unwrap();
    fleet.devices[0].kill();
    fleet.devices[0].run();
    fleet.update_to("1.1.0");
    assert!(fs::read(fleet.app(0)).unwrap() == image);
    let month = fleet.devices[0].ask(&["ota", "state"])["month_bytes"].as_u64().unwrap();
    let stored = published["stored_bytes"].as_u64().unwrap();
    assert!(month < stored + cap / 2, "{month} bytes for {stored}");
}

/// Two devices; the first one has the version already. Returns the second's state, and how long it took.
fn second_device(line: &str) -> (Value, u64, f64) {
    let mut fleet = Fleet::start(2);
    allow(&mut fleet, 0, line);
    let early = crate::net::uid_of(&fleet.devices[0]);
    let published = fleet.publish("1.1", &noise(3 << 20, 1), &["--percent", "0", "--first", &early]);
    fleet.devices[0].ask(&["ota", "check"]);
    fleet.devices[0].wait_for(&["ota", "state"], |s| s["running"] == "1.1.0" && s["stage"] == "idle");
    // Its matcher knows it as a provider then.
    fleet.net.super_node.wait_for(&["ota", "status"], |s| s["orders"][0]["stages"]["confirmed"] == 1);
    fleet.maker(&["ota", "rollout", "1.1", "--percent", "100"]);
    let begun = Instant::now();
    fleet.update_to("1.1.0");
    let seconds = begun.elapsed().as_secs_f64();
    let state = fleet.devices[1].ask(&["ota", "state"]);
    (state, published["stored_bytes"].as_u64().unwrap(), seconds)
}

#[test]
fn who_has_no_slots_serves_nobody() {
    let (state, stored, _) = second_device("upload_slots = 0");
    assert_eq!((state["by_source"][0].as_u64(), state["by_source"][1].as_u64()), (Some(stored), Some(0)));
}

#[test]
fn what_others_get_has_its_owner_s_rate() {
    let rate = 200_000;
    let (state, stored, seconds) = second_device(&format!("upload_bytes_per_second = {rate}"));
    let from_device = state["by_source"][1].as_u64().unwrap();
    assert!(from_device > 0 && sum(&state["by_source"]) == stored, "{state}");
    // A quarter of a second's worth may have been saved up.
    let most = f64::from(rate) * (seconds + 0.25);
    assert!(from_device as f64 <= most, "{from_device} bytes in {seconds} s");
}

/// The first device has 3 MiB of its month's cap used up by what it fetched itself.
#[test]
fn what_others_get_ends_with_the_month_s_cap() {
    let cap = 4_500_000;
    let (state, stored, _) = second_device(&format!("monthly_cap_bytes = {cap}"));
    let from_device = state["by_source"][1].as_u64().unwrap();
    assert!(from_device > 0 && from_device <= cap - stored, "{state}");
}

/// Nobody has the package. The device does not ask again at once, nor because it started anew.
#[test]
fn a_download_that_failed_waits() {
    let mut attack = Attack::start(116);
    let uid = attack.mask.uid.to_string();
    attack.fleet.publish("1.1", &noise(100_000, 1), &["--matcher", &uid]);
    attack.wear(&attack.honest());
    attack.fleet.net.super_node.kill();
    attack.fleet.devices[0].ask(&["ota", "check"]);
    for start in 0..2 {
        let state =
            attack.fleet.devices[0].wait_for(&["ota", "state"], |s| holds(s, "failed and is tried again in"));
        let (_, rest) = state["holding"].as_str().unwrap().split_once("again in ").unwrap();
        let (seconds, why) = rest.split_once(" s: ").unwrap();
        let seconds: u64 = seconds.parse().unwrap();
        assert!(state["reason"] == "retry" && !why.is_empty(), "{state}");
        // The pause of a first failure.
        assert!(seconds <= 60, "start {start}: {state}");
        assert_eq!(attack.manifests_asked(), 1, "start {start}: {state}");
        attack.fleet.devices[0].kill();
        attack.fleet.devices[0].run();
    }
    attack.fleet.net.super_node.run();
    attack.fleet.devices[0].ask(&["ota", "forgive"]);
    attack.fleet.update_to("1.1.0");
}
