//! Devices that update themselves with a command of their maker's own: real processes.

use std::{fs, path::PathBuf};

use crate::{
    net::{Node, noise, uid_of, write},
    ota::Fleet,
    ota_owner::{got, script},
};

/// A device whose command puts a package where `app` lies, and the version before back. `health` is a piece of
/// shell; with `tells`, the device says where the program lies.
fn device(fleet: &Fleet, health: &str, tells: bool) -> Node {
    let (command, app) = (fleet.path("update"), fleet.app(0));
    let before = app.with_extension("before");
    let (app_path, before) = (app.display(), before.display());
    let text = format!(
        "set -e\ncase $1 in\n\
         install) rm -rf {before}; mv {app_path} {before}; cp -a \"$IOEX_OTA_PACKAGE\" {app_path};;\n\
         roll-back) rm -rf {app_path}; mv {before} {app_path};;\n\
         health) {health};;\nesac"
    );
    script(&command, &text);
    let path = if tells { format!("path = {app:?}") } else { String::new() };
    let device =
        fleet.device_with(0, "auto", "", &format!("[ota.install.hook]\ncommand = [{command:?}]\n{path}"));
    fleet.maker(&["ota", "roster", "add", &uid_of(&device)]);
    device
}

/// A version that resets the device before it is found unhealthy.
#[test]
fn a_hooks_version_that_is_started_too_often_on_trial_goes_back() {
    let fleet = Fleet::start(0);
    let (app, asked) = (fleet.app(0), fleet.path("asked"));
    write(&app, b"version 1.0");
    // It never answers; it ends with the node that asked.
    let hangs = format!("echo x >> {}; while kill -0 $PPID 2>/dev/null; do sleep 1; done", asked.display());
    let mut device = device(&fleet, &hangs, false);
    fleet.publish("1.1", b"resets", &[]);
    device.ask(&["ota", "check"]);
    // The first start is that of its activation.
    for start in 1..=ioex_ota::install::TRIAL_STARTS {
        device.wait_for(&["ota", "state"], |_| {
            fs::read(&asked).is_ok_and(|lines| lines.len() >= 2 * usize::from(start))
        });
        assert_eq!(fs::read(&app).unwrap(), b"resets", "start {start}");
        device.kill();
        device.run();
    }
    let state = device.wait_for(&["ota", "state"], |s| s["stage"] == "idle" && !s["problem"].is_null());
    assert_eq!(state["running"], "1.0.0", "{state}");
    assert!(state["problem"].as_str().unwrap().contains("went back by itself"), "{state}");
    assert_eq!(fs::read(&app).unwrap(), b"version 1.0");
}

/// What the command installed is a source, also before anything was ever downloaded.
#[test]
fn a_hook_that_says_where_its_program_lies_downloads_only_what_changed() {
    for tells in [true, false] {
        let fleet = Fleet::start(0);
        let first = noise(12 << 20, 5);
        let mut second = first.clone();
        second[5 << 20..(5 << 20) + 200_000].copy_from_slice(&noise(200_000, 6));
        write(&fleet.app(0), &first);
        let device = device(&fleet, "true", tells);
        let published = fleet.publish("1.1", &second, &[]);
        let full = published["stored_bytes"].as_u64().unwrap();
        device.ask(&["ota", "check"]);
        let state = device.wait_for(&["ota", "state"], |s| s["running"] == "1.1.0" && s["stage"] == "idle");
        assert!(fs::read(fleet.app(0)).unwrap() == second);
        let came = got(&state);
        if tells {
            assert!(came > 0 && came * 100 < full * 20, "{came} of {full}");
        } else {
            assert_eq!(came, full, "nobody knew where it lies");
        }
    }
}

/// With a folder as its program, the command gets a folder.
#[test]
fn a_hook_with_a_folder_gets_one_and_downloads_only_what_changed() {
    let fleet = Fleet::start(0);
    let (app, new): (PathBuf, PathBuf) = (fleet.app(0), fleet.path("new"));
    for folder in [&app, &new] {
        for n in 0..40 {
            write(&folder.join(format!("lib/part-{n}")), &noise(200_000, n));
        }
    }
    write(&new.join("bin"), b"new");
    let device = device(&fleet, "true", true);
    let image = format!("app={}", new.display());
    let published = fleet.maker(&["ota", "publish", &image, "--version", "1.1"]);
    let full = published["stored_bytes"].as_u64().unwrap();
    device.ask(&["ota", "check"]);
    let state = device.wait_for(&["ota", "state"], |s| s["running"] == "1.1.0" && s["stage"] == "idle");
    crate::net::same(&new, &app);
    let came = got(&state);
    assert!(came > 0 && came * 100 < full * 20, "{came} of {full}");
    for left in ["ota/own.tar", "ota/new.tar", "ota/package"] {
        assert!(!device.data.join(left).exists(), "{left}");
    }
}
