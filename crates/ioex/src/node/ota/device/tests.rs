mod policy;

use std::sync::mpsc;

use super::*;
use crate::{channel_folder::ChannelFolder, config::NodeConfig};

/// A device of version 1.0 that was never started before.
fn device(dir: &std::path::Path) -> Arc<Device> {
    let channel = ChannelFolder::create(&dir.join("channel"), "acme", "box", 1, 1, files::now()).unwrap();
    let (bundle, app) = (dir.join("bundle"), dir.join("app"));
    std::fs::write(&bundle, channel.bundle(Vec::new(), files::now()).unwrap()).unwrap();
    std::fs::write(&app, b"version 1.0").unwrap();
    let text =
        format!("[ota]\nbundle = {bundle:?}\ninstalled = \"1.0\"\n[ota.install.swap]\npath = {app:?}\n");
    let config = NodeConfig::from_toml(&text, dir.to_owned()).unwrap();
    Arc::new(Device::open(&config.ota.unwrap(), dir.to_owned()).unwrap())
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
    assert_eq!(device.show().stage, OtaStage::Idle);
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
    std::fs::write(dir.path().join(STATE_FILE), b"").unwrap();
    let damaged = Device::open(&first.config, dir.path().to_owned()).map(|_| ()).unwrap_err();
    assert!(format!("{damaged:#}").contains("begins anew"), "{damaged:#}");
}
