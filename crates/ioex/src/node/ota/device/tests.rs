mod policy;
mod program;

use std::sync::mpsc;

use ioex_base::NodeKey;

use super::*;
use crate::{
    channel_folder::ChannelFolder,
    config::NodeConfig,
    node::ota::fixture::{files_of, hash, release},
};

/// The configuration of a device of version 1.0, and its maker's channel.
fn config(dir: &std::path::Path) -> (NodeConfig, ChannelFolder) {
    let channel = ChannelFolder::create(&dir.join("channel"), "acme", "box", 1, 1, files::now()).unwrap();
    let (bundle, app) = (dir.join("bundle"), dir.join("app"));
    std::fs::write(&bundle, channel.bundle(Vec::new(), files::now()).unwrap()).unwrap();
    std::fs::write(&app, b"version 1.0").unwrap();
    let text =
        format!("[ota]\nbundle = {bundle:?}\ninstalled = \"1.0\"\n[ota.install.swap]\npath = {app:?}\n");
    (NodeConfig::from_toml(&text, dir.to_owned()).unwrap(), channel)
}

/// Such a device that was never started before.
fn device(dir: &std::path::Path) -> Arc<Device> {
    Arc::new(Device::open(&config(dir).0.ota.unwrap(), dir.to_owned()).unwrap())
}

fn on_disk(dir: &std::path::Path) -> (u64, u64) {
    let state: State = serde_json::from_slice(&std::fs::read(dir.join(STATE_FILE)).unwrap()).unwrap();
    state.month
}

/// The runtime has one thread: whatever waits for the disk there would never end.
#[tokio::test]
async fn a_slow_disk_holds_up_nobody_and_no_change_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let device = device(dir.path());
    let (begun, is_slow) = mpsc::channel();
    let (done, over) = mpsc::channel::<()>();
    let disk = device.clone();
    let slow = std::thread::spawn(move || {
        let _turn = lock(&disk.writing);
        begun.send(()).unwrap();
        // It ends when the other half is dropped.
        let _ = over.recv();
    });
    is_slow.recv().unwrap();
    let first = tokio::spawn({
        let device = device.clone();
        async move { device.change(|state| state.month.0 += 1).await.unwrap() }
    });
    // Who stops waiting for a change does not stop it.
    let given_up = device.change(|state| state.month.0 += 10);
    assert!(tokio::time::timeout(Duration::ZERO, given_up).await.is_err());
    assert_eq!(device.show().stage, ioex_api::OtaStage::Idle);
    assert_eq!(device.read(|state| state.month), (0, 0), "nothing counts before it is on the disk");
    drop(done);
    slow.join().unwrap();
    first.await.unwrap();
    // One after the other, each sees what those before it did.
    for n in 1..=20 {
        let seen = device.change(move |state| std::mem::replace(&mut state.month.1, n)).await.unwrap();
        assert_eq!(seen, n - 1);
        assert_eq!(on_disk(dir.path()).1, n);
    }
    let mut changes = device.changes.subscribe();
    while device.read(|state| state.month.0) < 11 {
        changes.changed().await.unwrap();
    }
    assert_eq!(on_disk(dir.path()), (11, 20));
    let again = Device::open(&device.config, dir.path().to_owned()).unwrap();
    assert_eq!(again.read(|state| state.month), (11, 20));
}

/// What a device that was killed while it wrote leaves beside its state is nothing.
#[test]
fn a_state_that_was_half_written_is_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let first = device(dir.path());
    first.change_here(|state| state.month = (3, 4)).unwrap();
    std::fs::write(dir.path().join("device.new"), b"{\"format\":1,\"tru").unwrap();
    let again = Device::open(&first.config, dir.path().to_owned()).unwrap();
    assert_eq!(again.read(|state| state.month), (3, 4));
    again.change_here(|state| state.month = (5, 6)).unwrap();
    assert_eq!(on_disk(dir.path()), (5, 6));
}

/// What had no room says nothing of the smaller one that came after it.
#[cfg(feature = "super")]
#[test]
fn one_package_s_lack_of_room_is_not_another_s() {
    let dir = tempfile::tempdir().unwrap();
    let device = device(dir.path());
    let (large, small) = (release(), Release { manifest: ContentAddress::of(b"smaller"), ..release() });
    let lack = || *lock(&device.lacks) = Some((large.manifest, vec![(dir.path().to_owned(), 1 << 60)]));
    lack();
    assert!(device.lacks_room(&large).is_some() && device.lacks_room(&large).is_some());
    assert_eq!(device.lacks_room(&small), None);
    assert_eq!(device.lacks_room(&large), None, "it is found out anew");
    lack();
    device.forgive().unwrap();
    assert_eq!(device.lacks_room(&large), None);
}

/// Nobody may be there to repair it.
#[test]
fn a_damaged_state_is_put_aside_and_the_device_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = device(dir.path());
    first.change_here(|state| state.month = (3, 4)).unwrap();
    let half = std::fs::read(dir.path().join(STATE_FILE)).unwrap()[..100].to_vec();
    std::fs::write(dir.path().join(STATE_FILE), &half).unwrap();
    let again = Device::open(&first.config, dir.path().to_owned()).unwrap();
    assert_eq!(again.read(|state| state.month), State::first(&again.bundle.trust).month);
    assert_eq!(std::fs::read(dir.path().join("device.damaged")).unwrap(), half);
    again.change_here(|state| state.month = (5, 6)).unwrap();
    assert_eq!(on_disk(dir.path()), (5, 6));
    // One that can be read and has no trust in it is of no use, either.
    let whole = std::fs::read_to_string(dir.path().join(STATE_FILE)).unwrap();
    let trust = again.read(|state| state.trust.clone());
    std::fs::write(dir.path().join(STATE_FILE), whole.replace(&trust, &trust[8..])).unwrap();
    let third = Device::open(&first.config, dir.path().to_owned()).unwrap();
    third.trust().unwrap();
    third.change_here(|state| state.month = (5, 6)).unwrap();
    // What a newer program wrote is left alone.
    let mut newer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join(STATE_FILE)).unwrap()).unwrap();
    (newer["format"], newer["step"]) = (99.into(), "another".into());
    std::fs::write(dir.path().join(STATE_FILE), newer.to_string()).unwrap();
    let refused = Device::open(&first.config, dir.path().to_owned()).map(|_| ()).unwrap_err();
    assert!(format!("{refused:#}").contains("update the program"), "{refused:#}");
}

/// Others may be able to follow the version for which this one lacks a step between.
#[tokio::test]
async fn what_is_of_no_use_here_is_carried_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut folder) = config(dir.path());
    let ota = Ota::open(&config, &NodeKey::from_seed([1; 32])).unwrap();
    let device = ota.device.clone().unwrap();
    let now = files::now();
    let keys = folder.online_keys().unwrap();
    let release = Release { follows: Version([1, 5, 0, 0]), ..release() };
    folder.channel.publish(release, hash().finish(), &keys, now).unwrap();
    let (files, channel) = (files_of(&folder), device.bundle.channel);
    let brought = |files: &ioex_net::proto::ChannelFiles| ioex_net::proto::ChannelFiles {
        roots: files.roots[1..].to_vec(),
        ..files.clone()
    };
    let unfit = device.take(&ota, &brought(&files)).await.unwrap().unwrap_err();
    assert!(unfit.why.contains("can follow 1.5"), "{}", unfit.why);
    assert!(ota.channels.files(&channel, 0).unwrap() == Some(files.clone()));
    // What does not hold is not.
    let foreign = ChannelFolder::create(&dir.path().join("foreign"), "acme", "box", 1, 1, now).unwrap();
    assert!(device.take(&ota, &brought(&files_of(&foreign))).await.unwrap().is_err());
    assert!(ota.channels.files(&channel, 0).unwrap() == Some(files));
}
