//! A device whose node runs in its maker's own program, which may be what is replaced.

use ioex_ota::install::{Swap, TRIAL_STARTS};
use tokio::sync::broadcast::Receiver;

use super::{super::*, config};
use crate::{
    config::Confirm,
    node::ota::{fixture::release, host::Moment},
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
    let [Moment::Failed { rolled_back: true, .. }] = told(&mut moments)[..] else { panic!("it went back") };
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
