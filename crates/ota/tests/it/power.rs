//! A device that loses power at every write.
//!
//! The medium counts writes and syncs. At the n-th the power is gone: that write is torn after some of
//! its bytes, and of the writes since the last sync all, none or every other one reached the disk, for
//! a disk's cache keeps no order. Afterwards the device starts, and what it starts has to be whole.

use std::{cell::RefCell, io, rc::Rc};

use ioex_ota::{
    Image, Release, Version,
    install::{InstallError, Medium, Pair, STATE_BYTES, Slot, SlotPair, TRIAL_STARTS},
};

use crate::fleet::{device, release, version};

const SLOT_BYTES: usize = 1_024;
const WRITE_BYTES: usize = 96;
const CHECKPOINT_BYTES: u64 = 200;

/// What becomes of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cache {
    Kept,
    Lost,
    EveryOther,
}

/// The power supply that all media of a device share.
#[derive(Debug)]
struct Power {
    /// Operations until it fails; `None` never does.
    left: Option<usize>,
    used: usize,
    torn_at: f64,
    cache: Cache,
}

/// Where, and what.
type Write = (usize, Vec<u8>);

#[derive(Clone, Debug)]
struct Disk {
    durable: Rc<RefCell<Vec<u8>>>,
    pending: Rc<RefCell<Vec<Write>>>,
    power: Rc<RefCell<Power>>,
}

impl Disk {
    fn new(length: usize, power: &Rc<RefCell<Power>>) -> Self {
        Self {
            durable: Rc::new(RefCell::new(vec![0; length])),
            pending: Rc::default(),
            power: Rc::clone(power),
        }
    }

    /// True when the power fails just now.
    fn fails(&self) -> io::Result<bool> {
        let mut power = self.power.borrow_mut();
        power.used += 1;
        match &mut power.left {
            None => Ok(false),
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(*left == 0)
            }
        }
    }

    fn apply(&self, offset: usize, bytes: &[u8]) {
        self.durable.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// After the power came back.
    fn settle(&self) {
        let cache = self.power.borrow().cache;
        for (i, (offset, bytes)) in self.pending.borrow_mut().drain(..).enumerate() {
            let kept = match cache {
                Cache::Kept => true,
                Cache::Lost => false,
                Cache::EveryOther => i % 2 == 1,
            };
            if kept {
                self.apply(offset, &bytes);
            }
        }
    }
}

impl Medium for Disk {
    fn capacity(&self) -> io::Result<u64> {
        Ok(self.durable.borrow().len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut seen = self.durable.borrow().clone();
        for (offset, bytes) in self.pending.borrow().iter() {
            seen[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        let offset = usize::try_from(offset).unwrap();
        into.copy_from_slice(&seen[offset..offset + into.len()]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let fails = self.fails()?;
        let torn = (bytes.len() as f64 * self.power.borrow().torn_at) as usize;
        let written = if fails { &bytes[..torn] } else { bytes };
        self.pending.borrow_mut().push((offset, written.to_vec()));
        if fails { Err(io::Error::other("power cut")) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.fails()? {
            return Err(io::Error::other("power cut"));
        }
        for (offset, bytes) in self.pending.borrow_mut().drain(..) {
            self.apply(offset, &bytes);
        }
        Ok(())
    }
}

/// A device with two images, `boot` and `rootfs`.
struct Box {
    power: Rc<RefCell<Power>>,
    state: Disk,
    slots: [[Disk; 2]; 2],
}

const NAMES: [&str; 2] = ["boot", "rootfs"];

fn content(number: &str, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; if name == "boot" { 150 } else { 700 }];
    blake3::Hasher::new().update(number.as_bytes()).update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn bundle(number: &str) -> (Release, Vec<u8>) {
    let images = NAMES.map(|name| {
        let bytes = content(number, name);
        Image { name: name.to_owned(), length: bytes.len() as u64, hash: blake3::hash(&bytes).into() }
    });
    let package = NAMES.map(|name| content(number, name)).concat();
    (Release { images: images.to_vec(), ..release(number, b"").0 }, package)
}

impl Box {
    /// From the factory with version 1.0 in slot A.
    fn new() -> Self {
        let power = Rc::new(RefCell::new(Power { left: None, used: 0, torn_at: 0.0, cache: Cache::Kept }));
        let disk = |length| Disk::new(length, &power);
        let slots = [[disk(SLOT_BYTES), disk(SLOT_BYTES)], [disk(SLOT_BYTES), disk(SLOT_BYTES)]];
        let made =
            Self { state: disk(usize::try_from(STATE_BYTES).unwrap()), slots, power: Rc::clone(&power) };
        for (pair, name) in made.slots.iter().zip(NAMES) {
            pair[0].apply(0, &content("1.0", name));
        }
        Pair::format(made.state.clone(), made.pairs(), version("1.0")).unwrap();
        power.borrow_mut().used = 0;
        made
    }

    fn pairs(&self) -> Vec<SlotPair<Disk>> {
        let pair =
            |(media, name): (&[Disk; 2], &str)| SlotPair { name: name.to_owned(), media: media.clone() };
        self.slots.iter().zip(NAMES).map(pair).collect()
    }

    fn open(&self) -> Result<Pair<Disk>, InstallError> {
        Ok(Pair::open(self.state.clone(), self.pairs())?.with_checkpoints(CHECKPOINT_BYTES))
    }

    /// What lies in a slot, when it is one whole version.
    fn whole(&self, slot: Slot) -> Option<Version> {
        let holds = |number: &&str| {
            self.slots.iter().zip(NAMES).all(|(pair, name)| {
                let want = content(number, name);
                let mut got = vec![0; want.len()];
                pair[if slot == Slot::A { 0 } else { 1 }].read_at(0, &mut got).unwrap();
                got == want
            })
        };
        ["1.0", "2.0", "3.0"].into_iter().find(holds).map(version)
    }

    fn power_returns(&self) {
        self.power.borrow_mut().left = None;
        for disk in self.slots.iter().flatten().chain([&self.state]) {
            disk.settle();
        }
    }
}

/// Downloads and installs as far as it goes; how many bytes of the package it was given.
fn install(pair: &mut Pair<Disk>, number: &str, installed: &str) -> Result<usize, InstallError> {
    let (release, package) = bundle(number);
    let mut writer = pair.begin(&release, &device(installed))?;
    let from = usize::try_from(writer.at()).unwrap();
    for part in package[from..].chunks(WRITE_BYTES) {
        writer.write(part)?;
    }
    writer.finish()?;
    Ok(package.len() - from)
}

/// A whole life: update to 2.0, a healthy trial, update to 3.0, an unhealthy trial.
fn life(device: &Box) -> Result<(), InstallError> {
    let mut pair = device.open()?;
    install(&mut pair, "2.0", "1.0")?;
    let running = pair.boot()?;
    pair.confirm(running)?;
    install(&mut pair, "3.0", "2.0")?;
    pair.boot()?;
    pair.roll_back()?;
    Ok(())
}

/// Whatever was cut off, the device starts something whole, and can get to the end from there.
fn recovers(cut: &Box, context: &str) {
    let mut pair = cut.open().unwrap_or_else(|error| panic!("{context}: {error}"));
    let running = pair.boot().unwrap();
    let runs = cut.whole(running).unwrap_or_else(|| panic!("{context}: slot {running} is not whole"));
    if pair.state().trial.is_some() {
        pair.confirm(running).unwrap();
    }
    if runs < version("2.0") {
        let fetched = install(&mut pair, "2.0", "1.0").unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(fetched <= 850, "{context}");
        let running = pair.boot().unwrap();
        assert_eq!(cut.whole(running), Some(version("2.0")), "{context}");
        pair.confirm(running).unwrap();
    }
    let again = cut.open().unwrap().boot().unwrap();
    assert!(cut.whole(again) >= Some(version("2.0")), "{context}");
}

#[test]
fn a_cut_at_every_write_leaves_a_device_that_starts_something_whole() {
    let whole = Box::new();
    life(&whole).unwrap();
    let operations = whole.power.borrow().used;
    assert!(operations > 40, "{operations}");
    for cache in [Cache::Kept, Cache::Lost, Cache::EveryOther] {
        for torn_at in [0.0, 0.01, 0.5, 0.99, 1.0] {
            for left in 1..=operations {
                let cut = Box::new();
                *cut.power.borrow_mut() = Power { left: Some(left), used: 0, torn_at, cache };
                life(&cut).unwrap_err();
                cut.power_returns();
                recovers(&cut, &format!("cut at {left} of {operations}, torn at {torn_at}, {cache:?}"));
            }
        }
    }
}

#[test]
fn two_cuts_in_a_row_are_no_worse() {
    let whole = Box::new();
    life(&whole).unwrap();
    let operations = whole.power.borrow().used;
    for first in 1..operations {
        for second in (1..operations - first).step_by(3) {
            let cut = Box::new();
            for left in [first, second] {
                let (torn_at, cache) = (0.5, Cache::EveryOther);
                *cut.power.borrow_mut() = Power { left: Some(left), used: 0, torn_at, cache };
                life(&cut).ok();
                cut.power_returns();
            }
            recovers(&cut, &format!("cut at {first}, then at {second}"));
        }
    }
}

#[test]
fn a_download_goes_on_where_it_was_at_any_byte() {
    let (release, package) = bundle("2.0");
    for cut in 0..package.len() {
        let made = Box::new();
        let mut pair = made.open().unwrap().with_checkpoints(u64::MAX);
        let mut writer = pair.begin(&release, &device("1.0")).unwrap();
        writer.write(&package[..cut]).unwrap();
        writer.checkpoint().unwrap();
        drop(writer);
        let mut pair = made.open().unwrap();
        let mut writer = pair.begin(&release, &device("1.0")).unwrap();
        assert_eq!(writer.at(), cut as u64);
        writer.write(&package[cut..]).unwrap();
        writer.finish().unwrap();
        assert_eq!(made.whole(Slot::B), Some(version("2.0")));
    }
}

#[test]
fn an_unhealthy_version_goes_back_by_itself_and_does_not_come_again() {
    let made = Box::new();
    let mut pair = made.open().unwrap();
    install(&mut pair, "2.0", "1.0").unwrap();
    for _ in 0..TRIAL_STARTS {
        // It starts, hangs, and the watchdog resets the device.
        assert_eq!(made.open().unwrap().boot().unwrap(), Slot::B);
    }
    let mut pair = made.open().unwrap();
    assert_eq!(pair.boot().unwrap(), Slot::A);
    assert!(matches!(pair.confirm(Slot::B), Err(InstallError::NotOnTrial)));
    let again = install(&mut pair, "2.0", "1.0");
    assert!(matches!(again, Err(InstallError::FailedBefore(_))), "{again:?}");
    pair.forgive().unwrap();
    install(&mut pair, "2.0", "1.0").unwrap();
}

#[test]
fn what_runs_on_trial_is_not_written_over() {
    let made = Box::new();
    let mut pair = made.open().unwrap();
    install(&mut pair, "2.0", "1.0").unwrap();
    assert!(matches!(pair.confirm(Slot::B), Err(InstallError::NotOnTrial)), "it was not started");
    pair.boot().unwrap();
    let third = install(&mut pair, "3.0", "1.0");
    assert!(matches!(third, Err(InstallError::OnTrial)), "{third:?}");
}

#[test]
fn no_downgrade_unless_signed() {
    let made = Box::new();
    let mut pair = made.open().unwrap();
    let refused = install(&mut pair, "2.0", "2.1");
    assert!(matches!(refused, Err(InstallError::Refused(_))), "{refused:?}");
    let (mut release, package) = bundle("2.0");
    release.downgrade_from = vec![version("2.1")];
    let mut writer = pair.begin(&release, &device("2.1")).unwrap();
    writer.write(&package).unwrap();
    writer.finish().unwrap();
}

/// Arbitrary package: bytes that are not the signed ones never start.
#[test]
fn a_package_that_is_not_the_signed_one_is_not_started() {
    let (release, package) = bundle("2.0");
    for i in [0, 149, 150, package.len() - 1] {
        let made = Box::new();
        let mut pair = made.open().unwrap();
        let mut bad = package.clone();
        bad[i] ^= 1;
        let mut writer = pair.begin(&release, &device("1.0")).unwrap();
        writer.write(&bad).unwrap();
        let refused = writer.finish();
        assert!(matches!(refused, Err(InstallError::Content { .. })), "{refused:?}");
        assert_eq!(pair.boot().unwrap(), Slot::A);
        assert_eq!(pair.begin(&release, &device("1.0")).unwrap().at(), 0, "it is fetched anew");
    }
}

/// Partial bundle: all images of a version start together, or none.
#[test]
fn partial_bundle_installation_attack() {
    let made = Box::new();
    let mut pair = made.open().unwrap();
    let (release, package) = bundle("2.0");
    let one = Release { images: release.images[..1].to_vec(), ..release.clone() };
    let refused = pair.begin(&one, &device("1.0")).err();
    assert!(matches!(refused, Some(InstallError::Images { .. })), "{refused:?}");
    let mut writer = pair.begin(&release, &device("1.0")).unwrap();
    writer.write(&package[..150]).unwrap();
    let refused = writer.finish();
    assert!(matches!(refused, Err(InstallError::Incomplete { want: 850, got: 150 })), "{refused:?}");
    assert_eq!(pair.boot().unwrap(), Slot::A);
}

/// Endless data: not one byte more than the package has is written.
#[test]
fn endless_data_attack_on_a_slot() {
    let made = Box::new();
    let mut pair = made.open().unwrap();
    let (release, package) = bundle("2.0");
    let mut writer = pair.begin(&release, &device("1.0")).unwrap();
    writer.write(&package).unwrap();
    assert!(matches!(writer.write(&[0]), Err(InstallError::TooMuch(850))));
    let large = Release {
        images: release.images.iter().map(|image| Image { length: 2_000, ..image.clone() }).collect(),
        ..release
    };
    let refused = pair.begin(&large, &device("1.0")).err();
    assert!(matches!(refused, Some(InstallError::TooLarge { capacity: 1_024, .. })), "{refused:?}");
}

#[test]
fn a_state_that_is_lost_is_said_and_not_guessed() {
    let made = Box::new();
    made.state.durable.borrow_mut().fill(0xff);
    assert!(made.open().is_err());
}

/// The bytes of the state file, as a device in the field has them.
#[test]
fn the_state_s_bytes_are_frozen() {
    let made = Box::new();
    let mut pair = made.open().unwrap();
    install(&mut pair, "2.0", "1.0").unwrap();
    let hash = blake3::hash(&made.state.durable.borrow()).to_hex();
    assert_eq!(hash.as_str(), GOLDEN, "the format changed: give it another number");
}
const GOLDEN: &str = "82efd25fa5326036aaa057ee522efe421215dc6963a50a4d5ac6a764c65beac5";
