//! A device whose node runs in its maker's own program, which may be what is replaced.

use std::fs;

use ioex_ota::install::{Swap, TRIAL_STARTS};
use tokio::sync::broadcast::Receiver;

use super::{super::*, config};
use crate::{
    config::Confirm,
    node::ota::{
        fixture::{files_of, hash, release},
        host::Moment,
    },
};

/// The program starts its node anew, with what was told before it listened.
async fn start(config: &OtaConfig, dir: &std::path::Path) -> (Arc<Device>, Receiver<Moment>) {
    let device = Arc::new(Device::open(config, dir.to_owned()).unwrap());
    device.host.set_program(dir);
    let moments = device.host.listen();
    device.host.tell_ends();
    device.count_start().await.unwrap();
    device.reconcile().await.unwrap();
    device.settle().await.unwrap();
    (device, moments)
}

/// The program says whether a version is well.
fn ota(dir: &std::path::Path) -> OtaConfig {
    OtaConfig { confirm: Confirm::Host, ..config(dir).0.ota.unwrap() }
}

/// Puts a version in charge as the device does when it installs.
fn install(device: &Device, dir: &std::path::Path) {
    let release = release();
    let mut swap = Swap::open(&dir.join("app"), device.config.installed).unwrap();
    let mut writer = swap.begin(&release, &device.device()).unwrap();
    writer.write(b"image").unwrap();
    writer.checkpoint().unwrap();
    writer.finish(false).unwrap();
    device
        .change_here(|state| {
            (state.step, state.release) = (Step::Installed, Some(release.clone()));
        })
        .unwrap();
    let starts_now = device.starts_what_it_installs();
    device.installer.activate(&release, starts_now).unwrap();
    device.starts_anew.store(!starts_now, Ordering::Relaxed);
}

fn told(moments: &mut Receiver<Moment>) -> Vec<Moment> {
    std::iter::from_fn(|| moments.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_trial_begins_with_the_programs_next_start_and_each_start_counts() {
    let dir = tempfile::tempdir().unwrap();
    let first = ota(dir.path());
    let (old, mut moments) = start(&first, dir.path()).await;
    install(&old, dir.path());
    old.settle().await.unwrap();
    assert_eq!(told(&mut moments), [], "the program that runs is not the new one");
    assert_eq!(old.show().running, "1.0.0");
    assert!(old.show().holding.unwrap().contains("next start"));
    assert!(old.confirm().await.is_err(), "nobody has seen it run");
    let trial = Moment::Trial { version: "2.0.0".to_owned(), confirm: true };
    for n in 0..TRIAL_STARTS {
        let (new, mut moments) = start(&first, dir.path()).await;
        assert_eq!(told(&mut moments), std::slice::from_ref(&trial), "start {n}");
        assert_eq!(new.show().running, "2.0.0");
    }
    // It crashed each time.
    let (_, mut moments) = start(&first, dir.path()).await;
    let end = told(&mut moments);
    let [Moment::Failed { rolled_back: true, code, .. }] = &end[..] else { panic!("{end:?}") };
    assert_eq!(*code, OtaReason::DidNotStay);
    assert_eq!(std::fs::read(dir.path().join("app")).unwrap(), b"version 1.0");
}

/// The program was stopped before it heard of it.
#[tokio::test]
async fn an_end_that_was_not_heard_of_is_told_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let first = ota(dir.path());
    install(&start(&first, dir.path()).await.0, dir.path());
    let (new, _) = start(&first, dir.path()).await;
    new.confirm().await.unwrap();
    new.settle().await.unwrap();
    let confirmed = Moment::Confirmed { version: "2.0.0".to_owned() };
    for _ in 0..2 {
        let (_, mut moments) = start(&first, dir.path()).await;
        assert_eq!(told(&mut moments), std::slice::from_ref(&confirmed));
    }
    let (last, _) = start(&first, dir.path()).await;
    last.host.heard(&confirmed);
    let (_, mut moments) = start(&first, dir.path()).await;
    assert_eq!(told(&mut moments), []);
}

/// Its owner is asked again at once, whether or not the channel was looked at since it failed.
#[tokio::test]
async fn what_was_forgiven_is_offered_again() {
    for step in [Step::Idle, Step::Offered] {
        let dir = tempfile::tempdir().unwrap();
        let (device, mut moments) = start(&ota(dir.path()), dir.path()).await;
        device
            .change_here(|state| {
                (state.step, state.release) = (step, Some(release()));
                state.failed = Some(release().version);
            })
            .unwrap();
        device.tell_standing();
        assert_eq!(told(&mut moments), [], "it failed");
        device.forgive().unwrap();
        let offered = told(&mut moments);
        let [Moment::Offered { version, consent: true, .. }] = &offered[..] else { panic!("{offered:?}") };
        assert_eq!(version, "2.0.0");
        assert!(device.is_due(), "its maker is asked whether it is still wanted");
    }
}

/// What failed and was withdrawn is not offered again, either.
#[tokio::test]
async fn what_failed_is_forgotten_with_its_channel() {
    let dir = tempfile::tempdir().unwrap();
    let (config, mut folder) = config(dir.path());
    let ota = Ota::open(&config, &ioex_base::NodeKey::from_seed([1; 32])).unwrap();
    let device = ota.device.clone().unwrap();
    let (keys, now) = (folder.online_keys().unwrap(), files::now());
    let old = Release { version: Version([1, 0, 0, 0]), ..release() };
    folder.channel.publish(old, hash().finish(), &keys, now).unwrap();
    device
        .change_here(|state| {
            (state.step, state.release) = (Step::Idle, Some(release()));
            state.failed = Some(release().version);
        })
        .unwrap();
    assert!(device.take(&ota, &files_of(&folder)).await.unwrap().is_ok());
    device.forgive().unwrap();
    assert_eq!(device.show().offered, None);
}

/// Its owner may say yes at once after the start, and its maker may have withdrawn it meanwhile.
#[tokio::test]
async fn what_was_ready_at_the_start_waits_for_a_look_but_not_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path()).0;
    let section = config.ota.clone().unwrap();
    let before = Arc::new(Device::open(&section, dir.path().to_owned()).unwrap());
    before
        .change_here(|state| {
            (state.step, state.release, state.consented) = (Step::Fetched, Some(release()), true);
            state.last_check = Some(files::now());
        })
        .unwrap();
    assert!(!before.is_due() && !before.looks_first(), "it was connected all the time");
    let mut device = Device::open(&section, dir.path().to_owned()).unwrap();
    assert!(device.is_due() && device.looks_first());
    // A cut may have come after the installer had noted it, and before this state was.
    device.change_here(|state| state.step = Step::Installed).unwrap();
    assert!(!device.is_due() && !device.looks_first(), "what is on trial is not replaced");
    device.change_here(|state| state.step = Step::Fetched).unwrap();
    device.started -= FIRST_LOOK_MAX;
    assert!(!device.is_due() && !device.looks_first(), "a device that is not in a network installs, too");

    // The node is in no network.
    fs::create_dir(dir.path().join("ota")).unwrap();
    fs::copy(dir.path().join(STATE_FILE), dir.path().join("ota").join(STATE_FILE)).unwrap();
    let ota = Arc::new(Ota::open(&config, &ioex_base::NodeKey::from_seed([1; 32])).unwrap());
    let device = ota.device.clone().unwrap();
    device.step(&ota, &CancellationToken::new()).await.unwrap();
    let state = device.show();
    assert_eq!((state.stage, state.reason), (ioex_api::OtaStage::Fetched, Some(OtaReason::Network)));
}
