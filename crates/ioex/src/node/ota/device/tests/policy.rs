//! What the owner allows, against a machine whose files are in a folder.

use std::fs;

use ioex_ota::{
    policy::{Attempt, BACK_OFF_FIRST_SECONDS},
    rollout::{Course, Rollout},
};

use super::super::*;
use crate::{
    channel_folder::ChannelFolder,
    node::ota::{fixture::release, host, tills::Counter},
};

/// A device, and the files of its machine.
struct Machine {
    dir: tempfile::TempDir,
    device: Arc<Device>,
}

impl Machine {
    /// `policy` are lines of its section.
    fn new(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let channel = ChannelFolder::create(&path("channel"), "acme", "box", 1, 1, files::now()).unwrap();
        fs::write(path("bundle"), channel.bundle(Vec::new(), files::now()).unwrap()).unwrap();
        fs::write(path("app"), b"version 1.0").unwrap();
        fs::create_dir(path("ota")).unwrap();
        let text = format!(
            "bundle = {:?}\ninstalled = \"1.0\"\nconsent = \"auto\"\n[install.swap]\npath = {:?}\n[policy]\n{policy}",
            path("bundle"),
            path("app")
        );
        let mut device = Device::open(&toml::from_str(&text).unwrap(), path("ota")).unwrap();
        device.sense = Sense::at(&path("machine"));
        Self { dir, device: Arc::new(device) }
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.dir.path().join("machine").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn battery(&self, percent: u8, status: &str) {
        for (name, text) in [("type", "Battery"), ("status", status), ("capacity", &percent.to_string())] {
            self.file(&format!("sys/class/power_supply/BAT0/{name}"), text);
        }
    }

    /// The default route goes over this interface.
    fn route(&self, interface: &str) {
        let line = format!("{interface}\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0");
        self.file("proc/net/route", &format!("head\n{line}"));
    }

    /// Why it does not go on with the release.
    fn waits(&self, installing: bool) -> String {
        let uid = Uid::from_bytes([7; 32]);
        self.device.may_go_on(&release(), &uid, installing).err().map(|held| held.why).unwrap_or_default()
    }
}

/// Lines for hours that begin in an hour and last for one.
fn later(what: &str) -> String {
    let minute = Sense::default().now().minute;
    let at = |more| (minute + more) % 1_440;
    format!("{what} = {{ from_minute = {}, until_minute = {} }}\n", at(60), at(120))
}

const ALWAYS: &str = "install_hours = { from_minute = 0, until_minute = 0 }\n";

#[test]
fn a_low_battery_holds_everything_until_it_is_plugged_in() {
    let machine = Machine::new(ALWAYS);
    machine.battery(41, "Discharging");
    assert_eq!((machine.device.may_fetch(0), machine.device.slots()), (Ok(()), 4));
    machine.battery(39, "Discharging");
    assert_eq!(machine.device.may_fetch(0), Err(Hold::Battery { percent: 39, min: 40 }));
    assert_eq!(machine.device.slots(), 0, "nor does it serve");
    assert!(machine.waits(true).contains("battery has 39%"), "{}", machine.waits(true));
    machine.battery(39, "Charging");
    assert_eq!((machine.device.may_fetch(0), machine.device.slots()), (Ok(()), 4));
    assert_eq!(machine.waits(true), "");
}

#[test]
fn a_metered_link_holds_what_goes_over_it_unless_its_owner_says_otherwise() {
    let (machine, generous) = (Machine::new(ALWAYS), Machine::new(&format!("metered = true\n{ALWAYS}")));
    for machine in [&machine, &generous] {
        machine.route("eth0");
        assert_eq!((machine.device.may_fetch(0), machine.device.slots()), (Ok(()), 4));
        machine.route("ppp0");
    }
    assert_eq!((machine.device.may_fetch(0), machine.device.slots()), (Err(Hold::Metered), 0));
    assert_eq!(machine.waits(true), "", "what is here can be installed");
    assert_eq!((generous.device.may_fetch(0), generous.device.slots()), (Ok(()), 4));
}

#[test]
fn hours_for_fetching_and_for_installing() {
    let machine = Machine::new(&format!("{}{ALWAYS}", later("fetch_hours")));
    let hold = machine.device.may_fetch(0);
    assert!(matches!(hold, Err(Hold::Hours { wait_minutes: 58..=60 })), "{hold:?}");
    assert_eq!((machine.waits(true), machine.device.slots()), (String::new(), 4));
    let machine = Machine::new(&later("install_hours"));
    assert_eq!((machine.device.may_fetch(0), machine.waits(false)), (Ok(()), String::new()));
    assert!(machine.waits(true).contains("hours begin in"), "{}", machine.waits(true));
    // The owner's word passes over them, and over nothing else.
    machine.device.change_here(|state| state.now = true).unwrap();
    assert_eq!(machine.waits(true), "");
    machine.battery(5, "Discharging");
    assert!(machine.waits(true).contains("battery"), "{}", machine.waits(true));
}

#[tokio::test]
async fn a_month_s_cap_counts_both_ways_and_ends_with_the_month() {
    let machine = Machine::new(&format!("monthly_cap_bytes = 1000\n{ALWAYS}"));
    let counter = Counter::open(&machine.dir.path().join("vouchers"), files::now()).unwrap();
    counter.allow(machine.device.cap_left());
    assert!(counter.spend(600) && !counter.spend(401));
    machine.device.count_sent(&counter).await;
    assert_eq!(machine.device.may_fetch(399), Ok(()));
    assert_eq!(machine.device.may_fetch(400), Err(Hold::Cap { want: 401, left: 400 }));
    assert_eq!(machine.device.slots(), 4);
    // What an attempt fetched is counted once, whether it was noted already or not.
    machine.device.change_here(|state| Device::count(state, 300)).unwrap();
    lock(&machine.device.noted).bytes = 300;
    assert_eq!(machine.device.may_fetch(399), Ok(()));
    assert!(machine.device.may_fetch(400).is_err());
    // What the attempt may still take is nobody else's: of 100 bytes it may take 50 more.
    machine.device.reserved_bytes.store(350, Ordering::Relaxed);
    machine.device.count_sent(&counter).await;
    assert!(!counter.spend(51) && counter.spend(20) && counter.spend(30) && !counter.spend(1));
    machine.device.reserved_bytes.store(0, Ordering::Relaxed);
    *lock(&machine.device.noted) = Fetched::default();
    // What goes out while it is counted is not lost.
    let counted = counter.take_spent();
    machine.device.change_here(|state| Device::count(state, counted)).unwrap();
    counter.allow(machine.device.cap_left());
    assert!(counter.spend(50) && !counter.spend(1));
    counter.allow(machine.device.cap_left());
    assert!(!counter.spend(1), "it was given out, although the state has it not yet");
    machine.device.count_sent(&counter).await;
    assert_eq!(machine.device.slots(), 0, "nothing is left for others");
    let reopened = fs::read(machine.dir.path().join("ota").join(STATE_FILE)).unwrap();
    assert_eq!(serde_json::from_slice::<State>(&reopened).unwrap().month.1, 1_000);
    // A month later.
    machine.device.change_here(|state| state.month.0 -= 28).unwrap();
    assert_eq!((machine.device.may_fetch(999), machine.device.slots()), (Ok(()), 4));
}

#[test]
fn what_its_owner_lets_others_have() {
    let machine = Machine::new("upload_slots = 2\nupload_bytes_per_second = 5000\n");
    assert_eq!((machine.device.slots(), machine.device.upload_rate()), (2, Some(5_000)));
    assert_eq!(Machine::new("upload_slots = 0\n").device.slots(), 0);
}

#[test]
fn a_paused_or_ended_rollout_holds_the_beginning_only() {
    let machine = Machine::new(ALWAYS);
    let uid = Uid::from_bytes([7; 32]);
    for (course, why) in [(Course::Paused, "paused"), (Course::Aborted, "ended"), (Course::Running, "")] {
        let rollout = Some(Rollout { course, ..Rollout::at_once("2.0", 10_000) });
        let release = Release { rollout, ..release() };
        let held = machine.device.may_go_on(&release, &uid, false).err();
        let said = held.as_ref().map(|held| held.why.clone()).unwrap_or_default();
        assert!(said.contains(why) && said.is_empty() == why.is_empty(), "{said}");
        assert!(held.is_none_or(|held| held.stuck), "nobody but the maker lets it go on");
        assert_eq!(machine.device.may_go_on(&release, &uid, true), Ok(()));
    }
}

/// What failed is remembered through a start, and an owner's word makes up for failures but not for data.
#[test]
fn failures_and_their_cost_are_remembered() {
    let machine = Machine::new(ALWAYS);
    let now = files::now();
    let effort = Effort::default().after(150, 0, true, now).after(30, 0, true, now);
    let release = Some(release());
    machine.device.change_here(|state| (state.effort, state.release) = (effort, release)).unwrap();
    let stored = fs::read(machine.dir.path().join("ota").join(STATE_FILE)).unwrap();
    let stored: State = serde_json::from_slice(&stored).unwrap();
    let next = stored.effort.next(100, u32::MAX, now);
    assert!(matches!(next, Attempt::At(when) if when.since(now) > BACK_OFF_FIRST_SECONDS), "{next:?}");
    let version = "2.0".to_owned();
    machine.device.consent(&host::Answer { version, manifest: None, yes: true, now: false }).unwrap();
    let effort = machine.device.read(|state| state.effort);
    assert_eq!(effort.next(100, 0, now), Attempt::Now { bytes: 20 });
    machine.device.forgive().unwrap();
    assert_eq!(machine.device.read(|state| state.effort), Effort::default());
}
