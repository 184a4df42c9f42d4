//! Every attack of TUF and Uptane against a device, each under its name.

use ioex_base::UnixSeconds;
use ioex_ota::{
    Clock, Refusal, Release, Trust, Verdict, Version, admit,
    channel::{Channel, ChannelError, RootDraft},
    rollout::{Course, Rollout},
    tuf::{Envelope, FileMeta, MetadataError, Role, Snapshot, Targets, Timestamp},
};

use crate::fleet::{DAY, Mirror, NOW, at, channel, device, key, online, plan, publish, trust, version};

fn installs(verdict: &Verdict) -> Option<Version> {
    match verdict {
        Verdict::Install(release) => Some(release.version),
        _ => None,
    }
}

fn refusal(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::Refuse(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn read<T: ioex_ota::tuf::Signed>(role: Role, bytes: &[u8]) -> T {
    Envelope::parse(role, bytes).unwrap().read().unwrap()
}

fn forge<T: ioex_ota::tuf::Signed>(value: &T, keys: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::draft(value).unwrap();
    for &n in keys {
        envelope.sign(T::ROLE, &key(n)).unwrap();
    }
    envelope.to_bytes(T::ROLE).unwrap()
}

/// Metadata over `targets`, signed with the given keys, `ahead` versions further.
fn forged_mirror(honest: &Mirror, targets: &Targets, keys: [u8; 3], ahead: u64) -> Mirror {
    let mut mirror = honest.clone();
    let [targets_key, snapshot_key, timestamp_key] = keys;
    mirror.targets = forge(targets, &[targets_key]);
    let mut snapshot: Snapshot = read(Role::Snapshot, &honest.snapshot);
    snapshot.version += ahead;
    let meta = |version| FileMeta { version, length: None, hashes: Default::default() };
    snapshot.meta.insert("targets.json".to_owned(), meta(targets.version));
    mirror.snapshot = forge(&snapshot, &[snapshot_key]);
    let mut timestamp: Timestamp = read(Role::Timestamp, &honest.timestamp);
    timestamp.version += ahead;
    timestamp.meta.insert("snapshot.json".to_owned(), meta(snapshot.version));
    mirror.timestamp = forge(&timestamp, &[timestamp_key]);
    mirror
}

#[test]
fn a_device_installs_what_its_maker_published_and_nothing_twice() {
    let mut channel = channel();
    let first = trust(&channel);
    let empty = Mirror::of(&channel).check(&first, &device("1.0"), at(NOW));
    assert_eq!(empty.verdict, Verdict::NothingNew);
    publish(&mut channel, "1.1", |_| (), NOW);
    publish(&mut channel, "2.0", |release| release.follows = version("1.1"), NOW);
    let mirror = Mirror::of(&channel);
    let outcome = mirror.check(&empty.trust, &device("1.0"), at(NOW));
    assert_eq!(installs(&outcome.verdict), Some(version("1.1")), "the step between comes first");
    let stored = Trust::from_bytes(&outcome.trust.to_bytes()).unwrap();
    assert_eq!(stored, outcome.trust);
    assert_eq!(installs(&mirror.check(&stored, &device("1.1"), at(NOW)).verdict), Some(version("2.0")));
    assert_eq!(mirror.check(&stored, &device("2.0"), at(NOW)).verdict, Verdict::NothingNew);
    let loaded = Channel::load(|name| channel.files().remove(name)).unwrap();
    assert_eq!(loaded, channel);
}

#[test]
fn arbitrary_software_attack() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let honest = Mirror::of(&channel);
    let first = trust(&channel);
    // A mirror signs a release of its own with keys of its own.
    let mut targets: Targets = read(Role::Targets, &honest.targets);
    targets.targets.values_mut().for_each(|target| target.length += 1);
    let forged = forged_mirror(&honest, &targets, [66, 66, 66], 1);
    let outcome = forged.check(&first, &device("1.0"), at(NOW));
    let why = MetadataError::Signatures { role: Role::Timestamp, need: 1, got: 0 };
    assert_eq!(refusal(outcome.verdict), Refusal::Metadata(why));
    assert_eq!(outcome.trust, first, "nothing is remembered of it");
    // Every changed byte of every file is noticed.
    for file in 0..3 {
        for i in (0..honest.timestamp.len()).step_by(7) {
            let mut mirror = honest.clone();
            let bytes = match file {
                0 => &mut mirror.timestamp,
                1 => &mut mirror.snapshot,
                _ => &mut mirror.targets,
            };
            let Some(byte) = bytes.get_mut(i) else { continue };
            *byte ^= 1;
            let verdict = mirror.check(&first, &device("1.0"), at(NOW)).verdict;
            assert!(matches!(verdict, Verdict::Refuse(_)), "file {file}, byte {i}");
        }
    }
}

#[test]
fn rollback_attack() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let old = Mirror::of(&channel);
    publish(&mut channel, "1.2", |_| (), NOW);
    let new = Mirror::of(&channel).check(&trust(&channel), &device("1.0"), at(NOW));
    assert_eq!(installs(&new.verdict), Some(version("1.2")));
    let back = old.check(&new.trust, &device("1.0"), at(NOW));
    assert_eq!(refusal(back.verdict), Refusal::Rollback { role: Role::Timestamp, seen: 3, got: 2 });
    // With a stolen timestamp key the snapshot is what cannot go back, with both the targets.
    let targets: Targets = read(Role::Targets, &old.targets);
    let mut stolen = old.clone();
    let mut timestamp: Timestamp = read(Role::Timestamp, &old.timestamp);
    timestamp.version = 9;
    stolen.timestamp = forge(&timestamp, &[30]);
    let back = stolen.check(&new.trust, &device("1.0"), at(NOW));
    assert_eq!(refusal(back.verdict), Refusal::Rollback { role: Role::Snapshot, seen: 3, got: 2 });
    let stolen = forged_mirror(&old, &targets, [10, 20, 30], 9);
    let back = stolen.check(&new.trust, &device("1.0"), at(NOW));
    assert_eq!(refusal(back.verdict), Refusal::Rollback { role: Role::Targets, seen: 3, got: 2 });
}

#[test]
fn a_lower_version_needs_its_makers_signature() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let mirror = Mirror::of(&channel);
    let outcome = mirror.check(&trust(&channel), &device("1.2"), at(NOW));
    assert_eq!(outcome.verdict, Verdict::NothingNew);
    let (release, _) = crate::fleet::release("1.1", b"image");
    let why = Refusal::Downgrade { installed: version("1.2"), offered: version("1.1") };
    assert_eq!(admit(&release, &device("1.2")), Err(why));
    // The maker withdraws 1.2: who has it goes back, before anything else.
    publish(&mut channel, "1.0.9", |release| release.downgrade_from = vec![version("1.2")], NOW);
    publish(&mut channel, "1.3", |_| (), NOW);
    let outcome = Mirror::of(&channel).check(&outcome.trust, &device("1.2"), at(NOW));
    assert_eq!(installs(&outcome.verdict), Some(version("1.0.9")));
}

/// A version from which devices are called back is not offered to them again, nor to those that never had it.
#[test]
fn who_was_called_back_from_a_version_does_not_get_it_again() {
    let mut channel = channel();
    publish(&mut channel, "2.0", |_| (), NOW);
    publish(&mut channel, "1.9", |release| release.downgrade_from = vec![version("2.0")], NOW);
    let verdict = |channel: &Channel, runs: &str| {
        Mirror::of(channel).check(&trust(channel), &device(runs), at(NOW)).verdict
    };
    assert_eq!(installs(&verdict(&channel, "2.0")), Some(version("1.9")));
    assert_eq!(verdict(&channel, "1.9"), Verdict::NothingNew);
    assert_eq!(installs(&verdict(&channel, "1.8")), Some(version("1.9")));
    publish(&mut channel, "2.1", |_| (), NOW);
    assert_eq!(installs(&verdict(&channel, "1.9")), Some(version("2.1")));
}

/// A version whose rollout its maker ended stands in nobody's way to one that is rolled out.
#[test]
fn a_version_that_was_ended_hides_no_other() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let end = |release: &mut Release| {
        release.rollout = Some(Rollout { course: Course::Aborted, ..Rollout::at_once("1.2", 10_000) });
    };
    publish(&mut channel, "1.2", end, NOW);
    let offered = |runs| Mirror::of(&channel).check(&trust(&channel), &device(runs), at(NOW)).verdict;
    assert_eq!(installs(&offered("1.0")), Some(version("1.1")));
    // Nothing else is left: that it was ended is what its owner is told.
    assert_eq!(installs(&offered("1.1")), Some(version("1.2")));
}

#[test]
fn freeze_attack() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let frozen = Mirror::of(&channel);
    let later = NOW.plus(8 * DAY);
    let outcome = frozen.check(&trust(&channel), &device("1.0"), at(later));
    assert!(matches!(refusal(outcome.verdict), Refusal::Expired { role: Role::Timestamp, .. }));
    channel.refresh(&online(), later).unwrap();
    let fresh = Mirror::of(&channel).check(&outcome.trust, &device("1.0"), at(later));
    assert_eq!(installs(&fresh.verdict), Some(version("1.1")));
    // A channel that is refreshed never expires for its devices, except for its root.
    for week in 1..40 {
        let now = NOW.plus(week * 7 * DAY);
        channel.refresh(&online(), now).unwrap();
        let outcome = Mirror::of(&channel).check(&trust(&channel), &device("1.0"), at(now.plus(6 * DAY)));
        assert_eq!(installs(&outcome.verdict), Some(version("1.1")), "week {week}");
    }
}

#[test]
fn fast_forward_attack_and_its_recovery() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let honest = Mirror::of(&channel);
    // Whoever has the keys of timestamp, snapshot and targets for a day signs enormous version numbers.
    let mut targets: Targets = read(Role::Targets, &honest.targets);
    targets.version = u64::MAX;
    let forward = forged_mirror(&honest, &targets, [10, 20, 30], u64::MAX - 10);
    let hit = forward.check(&trust(&channel), &device("1.1"), at(NOW));
    assert_eq!(hit.verdict, Verdict::NothingNew);
    channel.refresh(&online(), NOW).unwrap();
    let after = Mirror::of(&channel).check(&hit.trust, &device("1.0"), at(NOW));
    assert!(matches!(refusal(after.verdict), Refusal::Rollback { .. }), "the device is stuck");
    // New keys in a new root, and the device counts anew.
    rotate(&mut channel, [11, 21, 31]);
    let healed = Mirror::of(&channel).check(&hit.trust, &device("1.0"), at(NOW));
    assert_eq!(installs(&healed.verdict), Some(version("1.1")));
    // The old keys are worth nothing now.
    let mut stolen = forward;
    stolen.roots = Mirror::of(&channel).roots;
    let outcome = stolen.check(&healed.trust, &device("1.0"), at(NOW));
    assert!(matches!(refusal(outcome.verdict), Refusal::Metadata(MetadataError::Signatures { .. })));
}

fn rotate(channel: &mut Channel, [targets, snapshot, timestamp]: [u8; 3]) {
    let mut draft = channel.draft_root(&plan(targets, snapshot, timestamp), NOW).unwrap();
    draft.sign(&key(3)).unwrap();
    let keys = [key(targets), key(snapshot), key(timestamp)];
    let early = channel.adopt(&draft, &keys, NOW);
    assert_eq!(early, Err(ChannelError::Keys { role: Role::Root, need: 2, got: 1 }));
    // The draft travels to another machine for the second signature.
    let mut draft = RootDraft::from_bytes(&draft.to_bytes().unwrap()).unwrap();
    draft.sign(&key(1)).unwrap();
    channel.adopt(&draft, &keys, NOW).unwrap();
}

#[test]
fn mix_and_match_attack() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let old = Mirror::of(&channel);
    publish(&mut channel, "1.2", |_| (), NOW);
    let new = Mirror::of(&channel);
    let first = trust(&channel);
    let mixed = Mirror { targets: old.targets.clone(), ..new.clone() };
    let outcome = mixed.check(&first, &device("1.0"), at(NOW));
    assert!(matches!(refusal(outcome.verdict), Refusal::Mismatch { role: Role::Targets, .. }));
    let mixed = Mirror { snapshot: old.snapshot, targets: old.targets, ..new };
    let outcome = mixed.check(&first, &device("1.0"), at(NOW));
    assert!(matches!(refusal(outcome.verdict), Refusal::Mismatch { role: Role::Snapshot, .. }));
}

#[test]
fn wrong_device_attack() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |release| release.hardware = vec![4], NOW);
    let mirror = Mirror::of(&channel);
    let first = trust(&channel);
    let outcome = mirror.check(&first, &device("1.0"), at(NOW));
    assert_eq!(refusal(outcome.verdict), Refusal::WrongHardware(3));
    let mut other = device("1.0");
    other.model = "phone".to_owned();
    let outcome = mirror.check(&first, &other, at(NOW));
    assert!(matches!(refusal(outcome.verdict), Refusal::WrongDevice { .. }));
    publish(&mut channel, "1.1", |release| release.hardware = vec![2, 3], NOW);
    let outcome = Mirror::of(&channel).check(&first, &device("1.0"), at(NOW));
    assert_eq!(installs(&outcome.verdict), Some(version("1.1")), "a package for each revision");
}

#[test]
fn endless_data_attack() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let honest = Mirror::of(&channel);
    let first = trust(&channel);
    let endless = |role: Role| vec![b' '; role.max_bytes() + 1];
    let mirrors = [
        Mirror { roots: vec![endless(Role::Root)], ..honest.clone() },
        Mirror { timestamp: endless(Role::Timestamp), ..honest.clone() },
        Mirror { snapshot: endless(Role::Snapshot), ..honest.clone() },
        Mirror { targets: endless(Role::Targets), ..honest.clone() },
    ];
    for mirror in mirrors {
        let outcome = mirror.check(&first, &device("1.0"), at(NOW));
        assert!(matches!(refusal(outcome.verdict), Refusal::Metadata(MetadataError::TooLong { .. })));
    }
    let mirror = Mirror { roots: vec![honest.roots[0].clone(); 33], ..honest.clone() };
    assert_eq!(refusal(mirror.check(&first, &device("1.0"), at(NOW)).verdict), Refusal::Roots(33));
    let nested = Mirror { timestamp: vec![b'['; 16_000], ..honest };
    let outcome = nested.check(&first, &device("1.0"), at(NOW));
    assert!(matches!(refusal(outcome.verdict), Refusal::Metadata(MetadataError::Malformed { .. })));
}

#[test]
fn key_compromise_of_one_role_and_its_recovery() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let honest = Mirror::of(&channel);
    let first = trust(&channel);
    let mut evil: Targets = read(Role::Targets, &honest.targets);
    evil.version += 1;
    evil.targets.values_mut().for_each(|target| target.length += 1);
    // One stolen key of targets, snapshot or timestamp installs nothing.
    for keys in [[10, 66, 66], [66, 20, 66], [66, 66, 30], [10, 66, 30], [66, 20, 30]] {
        let outcome = forged_mirror(&honest, &evil, keys, 1).check(&first, &device("1.0"), at(NOW));
        assert!(matches!(refusal(outcome.verdict), Refusal::Metadata(_)), "{keys:?}");
    }
    // One of three root keys makes no root.
    let mut draft = channel.draft_root(&plan(66, 66, 66), NOW).unwrap();
    draft.sign(&key(1)).unwrap();
    let bytes = draft.to_bytes().unwrap();
    let stolen = Mirror { roots: vec![bytes], ..forged_mirror(&honest, &evil, [66; 3], 1) };
    let outcome = stolen.check(&first, &device("1.0"), at(NOW));
    let why = MetadataError::Signatures { role: Role::Root, need: 2, got: 1 };
    assert_eq!(refusal(outcome.verdict), Refusal::Metadata(why));
    assert_eq!(outcome.trust, first);
    // The targets key is replaced; devices follow, and the stolen one is worth nothing.
    rotate(&mut channel, [11, 20, 30]);
    let healed = Mirror::of(&channel).check(&first, &device("1.0"), at(NOW));
    assert_eq!(installs(&healed.verdict), Some(version("1.1")));
    let mut old_key = forged_mirror(&Mirror::of(&channel), &evil, [10, 20, 30], 1);
    old_key.roots.clear();
    let outcome = old_key.check(&healed.trust, &device("1.0"), at(NOW));
    assert!(matches!(
        refusal(outcome.verdict),
        Refusal::Metadata(MetadataError::Signatures { role: Role::Targets, .. })
    ));
}

#[test]
fn one_key_that_signs_twice_counts_once() {
    let channel = channel();
    let mut draft = channel.draft_root(&plan(66, 66, 66), NOW).unwrap();
    draft.sign(&key(1)).unwrap();
    let text = String::from_utf8(draft.to_bytes().unwrap()).unwrap();
    let signature = &text[text.find('{').unwrap() + 1..];
    let start = signature.find('{').unwrap();
    let end = signature.find('}').unwrap();
    let one = &signature[start..=end];
    let twice = text.replacen(one, &format!("{one},{one}"), 1);
    let honest = Mirror::of(&channel);
    let mirror = Mirror { roots: vec![twice.into_bytes()], ..honest };
    let outcome = mirror.check(&trust(&channel), &device("1.0"), at(NOW));
    let why = MetadataError::Signatures { role: Role::Root, need: 2, got: 1 };
    assert_eq!(refusal(outcome.verdict), Refusal::Metadata(why));
}

#[test]
fn a_device_that_slept_through_several_roots_follows_them_one_by_one() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let first = trust(&channel);
    rotate(&mut channel, [11, 21, 31]);
    rotate(&mut channel, [12, 22, 32]);
    let mut mirror = Mirror::of(&channel);
    let outcome = mirror.check(&first, &device("1.0"), at(NOW));
    assert_eq!(installs(&outcome.verdict), Some(version("1.1")));
    assert_eq!(outcome.trust.root_version(), 3);
    mirror.roots.remove(1);
    let outcome = mirror.check(&first, &device("1.0"), at(NOW));
    assert_eq!(refusal(outcome.verdict), Refusal::RootGap { trusted: 1, got: 3 });
}

#[test]
fn expired_metadata_and_a_wrong_clock() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let mirror = Mirror::of(&channel);
    let first = trust(&channel);
    // 1970: before the firmware was built.
    let unset = Clock { own: UnixSeconds(60), vouched: false };
    let outcome = mirror.check(&first, &device("1.0"), unset);
    assert!(matches!(refusal(outcome.verdict), Refusal::ClockBehind { .. }));
    assert_eq!(outcome.trust, first, "nothing changed");
    // A year ahead: fresh metadata seems expired, and is taken once the clock is right.
    let ahead = Clock { own: NOW.plus(300 * DAY), vouched: false };
    let outcome = mirror.check(&first, &device("1.0"), ahead);
    assert!(matches!(refusal(outcome.verdict), Refusal::Expired { .. }));
    let right = mirror.check(&outcome.trust, &device("1.0"), at(NOW));
    assert_eq!(installs(&right.verdict), Some(version("1.1")));
    // Ten days behind: the date that was signed proves it, and so does what was seen before.
    let behind = Clock { own: UnixSeconds(NOW.0 - 10 * DAY), vouched: false };
    let outcome = mirror.check(&first, &device("1.0"), behind);
    assert!(matches!(refusal(outcome.verdict), Refusal::ClockBehind { .. }));
    let outcome = mirror.check(&right.trust, &device("1.0"), behind);
    assert!(matches!(refusal(outcome.verdict), Refusal::ClockBehind { .. }));
}

#[test]
fn a_stolen_timestamp_key_cannot_move_the_clock_for_good() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let honest = Mirror::of(&channel);
    let mut timestamp: Timestamp = read(Role::Timestamp, &honest.timestamp);
    timestamp.version += 1;
    timestamp.expires.0 = NOW.plus(10_000 * DAY);
    timestamp.issued = Some(timestamp.expires);
    let stolen = Mirror { timestamp: forge(&timestamp, &[30]), ..honest };
    let clock = Clock { own: NOW, vouched: false };
    let hit = stolen.check(&trust(&channel), &device("1.0"), clock);
    assert!(matches!(refusal(hit.verdict), Refusal::ClockBehind { .. }));
    // A device whose clock others vouch for does not believe the date.
    let fine = stolen.check(&trust(&channel), &device("1.0"), at(NOW));
    assert_eq!(installs(&fine.verdict), Some(version("1.1")));
    rotate(&mut channel, [10, 20, 31]);
    let healed = Mirror::of(&channel).check(&hit.trust, &device("1.0"), clock);
    assert_eq!(installs(&healed.verdict), Some(version("1.1")));
}

#[test]
fn a_release_that_contradicts_itself_is_not_installed() {
    let mut channel = channel();
    publish(&mut channel, "1.1", |_| (), NOW);
    let honest = Mirror::of(&channel);
    let mut targets: Targets = read(Role::Targets, &honest.targets);
    targets.version += 1;
    targets.targets.values_mut().for_each(|target| target.length += 1);
    let outcome =
        forged_mirror(&honest, &targets, [10, 20, 30], 1).check(&trust(&channel), &device("1.0"), at(NOW));
    assert!(matches!(refusal(outcome.verdict), Refusal::Release(_)));
}
