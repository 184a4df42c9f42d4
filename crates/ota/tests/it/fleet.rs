//! A maker, its keys, and a device for the tests.

use std::collections::BTreeMap;

use ioex_base::{ContentAddress, NodeKey, UnixSeconds};
use ioex_ota::{
    Clock, Device, Metadata, Outcome, Release, Trust, Version,
    channel::{Channel, KeyPlan, PackageHash, RootDraft, Signers},
    check,
    tuf::{Role, TargetMeta},
};

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
pub(crate) const DAY: u64 = 86_400;

pub(crate) fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

/// Root by 2 of 3 keys (1, 2, 3), targets by key 10, snapshot by 20, timestamp by 30.
pub(crate) fn plan(targets: u8, snapshot: u8, timestamp: u8) -> KeyPlan {
    let signers =
        |keys: &[u8], threshold| Signers { keys: keys.iter().map(|&n| key(n).uid()).collect(), threshold };
    KeyPlan {
        roles: BTreeMap::from([
            (Role::Root, signers(&[1, 2, 3], 2)),
            (Role::Targets, signers(&[targets], 1)),
            (Role::Snapshot, signers(&[snapshot], 1)),
            (Role::Timestamp, signers(&[timestamp], 1)),
        ]),
    }
}

pub(crate) fn online() -> Vec<NodeKey> {
    vec![key(10), key(20), key(30)]
}

pub(crate) fn channel() -> Channel {
    let mut draft = RootDraft::new(&plan(10, 20, 30), NOW).unwrap();
    draft.sign(&key(1)).unwrap();
    draft.sign(&key(2)).unwrap();
    Channel::create(&draft, &online(), NOW).unwrap()
}

pub(crate) fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// A release whose only image is `content`.
pub(crate) fn release(number: &str, content: &[u8]) -> (Release, TargetMeta) {
    let mut hash = PackageHash::default();
    hash.update(content);
    let release = Release {
        brand: "acme".to_owned(),
        model: "box".to_owned(),
        hardware: Vec::new(),
        version: version(number),
        follows: Version::default(),
        downgrade_from: Vec::new(),
        manifest: ContentAddress::of(number.as_bytes()),
        recipient: key(99).uid(),
        matchers: Vec::new(),
        images: vec![hash.image("rootfs")],
        rollout: None,
    };
    (release, hash.finish())
}

pub(crate) fn publish(
    channel: &mut Channel,
    number: &str,
    change: impl FnOnce(&mut Release),
    now: UnixSeconds,
) {
    let (mut release, package) = release(number, format!("image of {number}").as_bytes());
    change(&mut release);
    channel.publish(release, package, &online(), now).unwrap();
}

pub(crate) fn device(installed: &str) -> Device {
    let (brand, model) = ("acme".to_owned(), "box".to_owned());
    Device { brand, model, hardware: 3, installed: version(installed) }
}

/// What an honest mirror has, and what a dishonest one makes of it.
#[derive(Clone)]
pub(crate) struct Mirror {
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) timestamp: Vec<u8>,
    pub(crate) snapshot: Vec<u8>,
    pub(crate) targets: Vec<u8>,
}

impl Mirror {
    pub(crate) fn of(channel: &Channel) -> Self {
        let files = channel.files();
        let ending = |end: &str| {
            files.iter().find(|(name, _)| name.ends_with(end)).map(|(_, bytes)| bytes.clone()).unwrap()
        };
        let count = files.keys().filter(|name| name.ends_with(".root.json")).count();
        Self {
            roots: (1..=count).map(|n| files[&format!("{n}.root.json")].clone()).collect(),
            timestamp: ending("timestamp.json"),
            snapshot: ending(".snapshot.json"),
            targets: ending(".targets.json"),
        }
    }

    pub(crate) fn check(&self, trust: &Trust, device: &Device, clock: Clock) -> Outcome {
        let roots: Vec<&[u8]> = self.roots.iter().map(Vec::as_slice).collect();
        let metadata = Metadata {
            roots: &roots,
            timestamp: &self.timestamp,
            snapshot: &self.snapshot,
            targets: &self.targets,
        };
        check(trust, device, clock, &metadata)
    }
}

pub(crate) fn trust(channel: &Channel) -> Trust {
    Trust::first(&channel.files()["1.root.json"], UnixSeconds(NOW.0 - 30 * DAY)).unwrap()
}

pub(crate) fn at(now: UnixSeconds) -> Clock {
    Clock { own: now, vouched: true }
}
