//! The lent space as the mesh sees it.

use std::fs;

use ioex_api::{DeviceChanges, When};
use ioex_base::{GrantId, NodeKey, SealedHead, SignedGrant, head_address};
use ioex_net::{
    Host,
    host::PlaceStart,
    proto::{HeadAnswer, HeadStart, Place, PutHead, Renew},
};
use ioex_vault::proof::{Proof, leaves, verify};

use super::*;

const SPACE: u64 = 20_000_000;

fn config(dir: &tempfile::TempDir) -> NodeConfig {
    let authorities = vec![uid(7)];
    NodeConfig { data: dir.path().to_owned(), lend_bytes: SPACE, authorities, ..NodeConfig::default() }
}

/// A device that notices what `machine` says.
fn on_machine(dir: &tempfile::TempDir, machine: &tempfile::TempDir) -> Lent {
    Lent::open(&config(dir), Sense::at(machine.path())).unwrap()
}

fn lent(dir: &tempfile::TempDir) -> Lent {
    on_machine(dir, &tempfile::tempdir().unwrap())
}

fn path_of(dir: &std::path::Path, address: &ContentAddress) -> PathBuf {
    let text = address.to_string();
    dir.join(&text[..2]).join(&text)
}

fn all(lent: &Lent) -> Vec<(HeldShard, Vec<Lease>)> {
    lent.list(None, usize::MAX)
}

fn uid(n: u8) -> Uid {
    Uid::from_bytes([n; 32])
}

fn no_grant() -> SignedGrant {
    SignedGrant { issuer: uid(0), bytes: Vec::new() }
}

fn in_days(days: u64) -> UnixSeconds {
    files::now().plus(days * ioex_base::DAY_SECONDS)
}

fn content(n: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i / 251) as u8) ^ n).collect()
}

fn put(lent: &Lent, placer: u8, bytes: &[u8]) -> ContentAddress {
    let address = ContentAddress::of(bytes);
    let place =
        Place { grant: no_grant(), address, bytes: bytes.len() as u64, reader: uid(9), expires: in_days(30) };
    match lent.begin_place(&uid(placer), &place).unwrap() {
        PlaceStart::Write(mut sink) => {
            sink.write(bytes).unwrap();
            sink.commit().unwrap();
        }
        PlaceStart::AlreadyHeld => {}
    }
    address
}

#[test]
fn every_leaf_of_a_held_shard_is_proved_and_damage_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    let bytes = content(1, 70_001);
    let (address, len) = (put(&lent, 1, &bytes), bytes.len() as u64);
    for leaf in 0..leaves(len) {
        let proof = Proof::decode(&Host::prove(&lent, &address, leaf).unwrap().unwrap()).unwrap();
        assert!(verify(&address, len, leaf, &proof), "leaf {leaf}");
    }
    assert_eq!(Host::prove(&lent, &address, leaves(len)), Ok(None));
    assert_eq!(Host::prove(&lent, &ContentAddress::of(b"not here"), 0), Ok(None));
    assert!(Host::prove(&lent, &put(&lent, 1, &content(2, 4 << 20)), 4_095).unwrap().unwrap().len() <= 2_048);

    // One bit that rotted far from the leaf: the device notices and no longer claims to hold it.
    let path = path_of(&lent.shards_dir(), &address);
    let mut rotten = bytes;
    rotten[60_000] ^= 4;
    std::fs::write(&path, &rotten).unwrap();
    assert_eq!(Host::prove(&lent, &address, 0), Ok(None));
    assert!(!lent.held().contains(&address));
}

#[test]
fn heads_and_leases_go_through_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    let repository = NodeKey::from_seed([3; 32]);
    let head = |seq| SealedHead::sign(&repository, seq, b"body");
    let asked = |seq| PutHead {
        grant: no_grant(),
        repo: repository.uid(),
        seq,
        bytes: head(seq).len() as u64,
        reader: uid(9),
        expires: in_days(30),
    };
    let address = head_address(&repository.uid());
    assert_eq!(lent.begin_head(&uid(1), &asked(5)), Ok(HeadStart::Send));
    assert_eq!(lent.put_head(&uid(1), &asked(5), &head(5)), Ok(HeadAnswer::Kept));
    assert!(lent.held().contains(&address) && lent.is_reader(&address, &uid(9)));
    assert_eq!(lent.open_shard(&address).unwrap().unwrap().1, head(5).len() as u64);
    assert_eq!(Host::prove(&lent, &address, 0), Ok(None));
    // Bytes that are not what was announced.
    assert_eq!(lent.put_head(&uid(1), &asked(6), &head(7)), Err(No::Mismatch));
    assert_eq!(lent.put_head(&uid(1), &asked(6), b"junk"), Err(No::Mismatch));
    // The same number again brings a lease and moves nothing.
    let again = PutHead { reader: uid(8), ..asked(5) };
    assert_eq!(lent.begin_head(&uid(2), &again), Ok(HeadStart::Newer(5)));
    assert!(lent.is_reader(&address, &uid(8)));
    let past = PutHead { expires: UnixSeconds(5), ..asked(5) };
    assert_eq!(lent.begin_head(&uid(2), &past), Err(No::BadRequest));

    let shard = put(&lent, 1, b"a shard");
    let renew = Renew {
        grant: no_grant(),
        reader: uid(9),
        expires: in_days(80),
        addresses: vec![shard, ContentAddress::of(b"none"), address],
    };
    assert_eq!(lent.renew(&uid(1), &renew, u64::MAX), Ok(vec![true, false, true]));
    let ends = |a| all(&lent).into_iter().find(|(held, _)| held.address == a).unwrap().0.expires;
    assert!(ends(shard) > in_days(79) && ends(address) > in_days(79));
    assert_eq!(lent.release(&uid(7), &[shard, address]), Ok(0));
    assert_eq!(lent.release(&uid(1), &[shard, address]), Ok(2));
    assert!(!lent.held().contains(&shard) && lent.held().contains(&address));
}

#[test]
fn leases_run_by_the_networks_time_where_it_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    // The network is two years ahead of this device's clock.
    let ahead = in_days(730);
    lent.note_network_time(Some(ahead));
    let place = |days: u64| {
        let (bytes, expires) = (content(days as u8, 50), ahead.plus(days * ioex_base::DAY_SECONDS));
        let address = ContentAddress::of(&bytes);
        let place = Place { grant: no_grant(), address, bytes: 50, reader: uid(9), expires };
        lent.begin_place(&uid(1), &place).map(|start| match start {
            PlaceStart::Write(mut sink) => {
                sink.write(&bytes).unwrap();
                sink.commit().unwrap();
            }
            PlaceStart::AlreadyHeld => panic!("held"),
        })
    };
    assert_eq!(place(60), Ok(()));
    assert_eq!(all(&lent)[0].0.expires, ahead.plus(60 * ioex_base::DAY_SECONDS));
    // Nothing is deleted while the clocks disagree, and the owner hears of it.
    assert!(lent.remove_expired().apart.is_some_and(|apart| apart >= 729 * ioex_base::DAY_SECONDS));
    lent.note_network_time(None);
    assert_eq!(lent.remove_expired(), Expired::default());
    assert_eq!(all(&lent).len(), 1);
}

#[test]
fn a_revoked_grant_is_known_by_its_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = (NodeKey::from_seed([1; 32]), dir.path().join("revoked"));
    crate::authority::revoke(&key, GrantId([4; 16]), &file).unwrap();
    let config = NodeConfig { revocations: vec![file], ..config(&dir) };
    let lent = Lent::open(&config, Sense::at(dir.path())).unwrap();
    assert!(lent.is_revoked(&key.uid(), &GrantId([4; 16])));
    assert!(!lent.is_revoked(&key.uid(), &GrantId([5; 16])));
}

fn change(lent: &Lent, change: impl FnOnce(&mut DeviceChanges)) -> anyhow::Result<()> {
    let mut changes = DeviceChanges::default();
    change(&mut changes);
    lent.change(&changes)
}

fn is_taken(lent: &Lent, n: u8) -> Result<(), No> {
    let bytes = content(n, 1_000);
    let address = ContentAddress::of(&bytes);
    let place = Place { grant: no_grant(), address, bytes: 1_000, reader: uid(9), expires: in_days(30) };
    lent.begin_place(&uid(1), &place).map(|_| ())
}

#[test]
fn less_space_and_leaving_are_a_hand_over_and_never_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    let held: Vec<_> = (0..6u8).map(|n| put(&lent, 1, &content(n, 1_000_000))).collect();
    change(&lent, |c| c.space_bytes = Some(3_500_000)).unwrap();
    let wanted = Host::handover(&lent, &uid(1));
    assert_eq!((wanted.addresses.len(), wanted.excess_bytes), (3, lent.handover_bytes()));
    assert_eq!(lent.free_bytes(), 0);
    assert_eq!(is_taken(&lent, 99), Err(No::NoSpace));
    assert_eq!(all(&lent).len(), held.len(), "nothing is deleted before it is released");
    lent.release(&uid(1), &wanted.addresses).unwrap();
    assert_eq!((Host::handover(&lent, &uid(1)), lent.handover_bytes()), (Handover::default(), 0));

    change(&lent, |c| c.leaving = Some(true)).unwrap();
    assert_eq!(is_taken(&lent, 99), Err(No::NoSpace));
    let repository = NodeKey::from_seed([3; 32]);
    let head = PutHead {
        grant: no_grant(),
        repo: repository.uid(),
        seq: 1,
        bytes: SealedHead::sign(&repository, 1, b"").len() as u64,
        reader: uid(9),
        expires: in_days(30),
    };
    assert_eq!(lent.begin_head(&uid(1), &head), Err(No::NoSpace));
    let wanted = Host::handover(&lent, &uid(1));
    assert_eq!(wanted.addresses.len(), 3);
    // It stays so when the node starts again, and can be taken back.
    drop(lent);
    let lent = self::lent(&dir);
    assert_eq!((Host::handover(&lent, &uid(1)), lent.free_bytes()), (wanted, 0));
    change(&lent, |c| (c.leaving, c.space_bytes) = (Some(false), Some(SPACE))).unwrap();
    assert_eq!(is_taken(&lent, 99), Ok(()));
}

#[test]
fn what_the_owner_set_pauses_and_switches_off_at_once() {
    let (dir, machine) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let supply = machine.path().join("sys/class/power_supply/BAT0");
    std::fs::create_dir_all(&supply).unwrap();
    std::fs::write(supply.join("type"), "Battery\n").unwrap();
    std::fs::write(supply.join("status"), "Full\n").unwrap();
    let lent = on_machine(&dir, &machine);
    put(&lent, 1, b"kept");
    assert_eq!(Host::availability(&lent), Availability::Open);
    std::fs::write(supply.join("status"), "Discharging\n").unwrap();
    lent.look();
    assert_eq!((Host::availability(&lent), lent.free_bytes()), (Availability::Paused, 0));
    change(&lent, |c| c.battery = Some(When::Allow)).unwrap();
    assert_eq!(Host::availability(&lent), Availability::Open);
    change(&lent, |c| c.metered = Some(When::Pause)).unwrap();
    assert_eq!(lent.verdict(), Verdict::Paused(Why::Metered));
    change(&lent, |c| c.enabled = Some(false)).unwrap();
    assert_eq!(Host::availability(&lent), Availability::Off);
    change(&lent, |c| (c.enabled, c.metered) = (Some(true), Some(When::Auto))).unwrap();
    assert_eq!(Host::availability(&lent), Availability::Open);
    // What makes no sense changes nothing.
    let before = lent.settings();
    assert!(change(&lent, |c| c.hours = Some("7-9".to_owned())).is_err());
    assert!(change(&lent, |c| c.upload_bytes_per_second = Some(3)).is_err());
    assert!(change(&lent, |c| (c.dir, c.space_bytes) = (Some("here".into()), Some(1))).is_err());
    assert_eq!(lent.settings(), before);
    assert_eq!(DeviceSettings::load(dir.path()).unwrap(), before);
    assert_eq!(all(&lent).len(), 1);
}

#[test]
fn what_is_held_goes_to_another_folder_only_when_its_owner_says_so() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lent = lent(&dir);
    let held: Vec<_> = (0..6u8).map(|n| put(&lent, 1, &content(n, 50_000))).collect();
    let (old, new) = (lent.shards_dir(), disk.path().join("shards"));
    let error = change(&lent, |c| c.dir = Some(new.clone())).unwrap_err().to_string();
    assert!(error.contains("--move") && error.contains("6 shards"), "{error}");
    std::fs::write(disk.path().join("notes"), b"mine").unwrap();
    for bad in [disk.path().to_owned(), old.join("deeper"), dir.path().to_owned()] {
        let moved = change(&lent, |c| (c.dir, c.move_shards) = (Some(bad.clone()), true));
        assert!(moved.is_err(), "{}", bad.display());
    }
    assert_eq!((lent.shards_dir(), Host::availability(&lent)), (old.clone(), Availability::Open));
    put(&lent, 1, &content(50, 100));

    change(&lent, |c| (c.dir, c.move_shards) = (Some(new.clone()), true)).unwrap();
    assert_eq!((lent.shards_dir(), old.exists()), (new.clone(), false));
    assert_eq!((all(&lent).len(), Host::availability(&lent)), (7, Availability::Open));
    assert!(path_of(&new, &held[0]).exists());
    put(&lent, 1, &content(51, 100));
    drop(lent);
    let lent = self::lent(&dir);
    assert_eq!((lent.shards_dir(), all(&lent).len()), (new.clone(), 8));
    // An empty one needs no moving.
    lent.release(&uid(1), &all(&lent).iter().map(|(held, _)| held.address).collect::<Vec<_>>()).unwrap();
    change(&lent, |c| c.dir = Some(old.clone())).unwrap();
    assert_eq!((lent.shards_dir(), new.exists()), (old, false));
}

#[test]
fn a_crash_while_moving_leaves_all_in_one_folder() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = lent(&dir);
    for n in 0..3 {
        put(&first, 1, &content(n, 5_000));
    }
    let (old, new) = (first.shards_dir(), disk.path().join("shards"));
    drop(first);
    // Before the settings said so: half a copy.
    std::fs::create_dir_all(new.join("incoming")).unwrap();
    std::fs::write(new.join("moving"), b"").unwrap();
    let again = lent(&dir);
    assert_eq!((again.shards_dir(), all(&again).len()), (old.clone(), 3));
    change(&again, |c| (c.dir, c.move_shards) = (Some(new.clone()), true)).unwrap();
    drop(again);
    // After: the old folder is still there.
    let settings =
        DeviceSettings { moved_from: Some(old.clone()), ..DeviceSettings::load(dir.path()).unwrap() };
    settings.save(dir.path()).unwrap();
    drop(ShardStore::open(&old, 1).unwrap());
    let last = lent(&dir);
    assert_eq!((last.shards_dir(), all(&last).len(), old.exists()), (new, 3, false));
    assert_eq!(DeviceSettings::load(dir.path()).unwrap().moved_from, None);
}

#[test]
fn a_folder_whose_disk_is_missing_is_not_made_anew() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let new = disk.path().join("shards");
    let first = lent(&dir);
    change(&first, |c| c.dir = Some(new.clone())).unwrap();
    let held = put(&first, 1, b"on that disk");
    drop(first);
    let elsewhere = disk.path().join("elsewhere");
    fs::rename(&new, &elsewhere).unwrap();
    let missing = |lent: &Lent| {
        assert!(!lent.lends_space() && lent.held().is_empty());
        assert!(lent.report().iter().any(|text| text.contains("mounted")), "{:?}", lent.report());
    };
    let lent = self::lent(&dir);
    missing(&lent);
    assert!(!new.exists());
    drop(lent);
    // Where a disk is to be mounted, there is an empty folder.
    fs::create_dir(&new).unwrap();
    let lent = self::lent(&dir);
    missing(&lent);
    assert_eq!((lent.look_for_disk(), fs::read_dir(&new).unwrap().count()), (None, 0));
    change(&lent, |c| c.space_bytes = Some(SPACE)).unwrap();
    missing(&lent);
    fs::remove_dir(&new).unwrap();
    fs::rename(&elsewhere, &new).unwrap();
    assert_eq!(lent.look_for_disk(), None);
    assert!(lent.lends_space() && lent.held().contains(&held) && lent.problem().is_none());
    assert!(lent.accepts_authority(&uid(7)));
    // It goes while the device runs.
    fs::rename(&new, &elsewhere).unwrap();
    assert_eq!(Host::prove(&lent, &held, 0), Err(No::Failed));
    fs::rename(&elsewhere, &new).unwrap();
    assert!(Host::prove(&lent, &held, 0).unwrap().is_some(), "nobody said that it is gone");
    fs::rename(&new, &elsewhere).unwrap();
    assert!(!lent.accepts_authority(&uid(7)), "nothing may be said to be lost");
    assert!(lent.look_for_disk().unwrap().contains("mounted"));
    missing(&lent);
    // The owner says that it is another disk.
    change(&lent, |c| c.dir = Some(new.clone())).unwrap();
    assert!(lent.lends_space() && !lent.held().contains(&held) && lent.problem().is_none());
}

#[test]
fn the_owner_deletes_what_ended_and_nothing_before() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    let [early, late] = [put(&lent, 1, b"early"), put(&lent, 1, b"late, and longer")];
    let error = lent.delete(&early).unwrap_err();
    assert!(matches!(error, DeleteError::NotYet { days: 30, .. }), "{error}");
    assert!(matches!(lent.delete(&ContentAddress::of(b"none")), Err(DeleteError::NotHeld(_))));
    assert!(matches!(lent.delete_ended(), Err(DeleteError::Time(_))), "what time is it?");
    lent.note_network_time(Some(files::now()));
    assert_eq!(lent.delete_ended().unwrap(), (vec![], 0));
    // One whose term is over, as its sidecar says.
    let store = lent.store().unwrap();
    let lease = store.leases(&early)[0];
    let past = Lease { stored: UnixSeconds(1_000), expires: UnixSeconds(2_000), ..lease };
    store.release(&uid(1), &[early]).unwrap();
    if let ioex_store::PutStart::Write(mut put) = store.begin_put(early, past).unwrap() {
        put.write(b"early").unwrap();
        put.commit().unwrap();
    }
    lent.note_network_time(Some(in_days(30)));
    assert!(matches!(lent.delete(&early), Err(DeleteError::Time(_))), "the clocks disagree");
    lent.note_network_time(Some(files::now()));
    let (deleted, freed) = lent.delete_ended().unwrap();
    assert_eq!(deleted, [early]);
    assert!(freed > 5);
    assert!(lent.held().contains(&late) && !lent.held().contains(&early));
}

#[test]
fn a_phone_never_stores_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let config = NodeConfig { kind: NodeKind::Phone, lend_bytes: 0, ..config(&dir) };
    let lent = Lent::open(&config, Sense::at(dir.path())).unwrap();
    let error = change(&lent, |c| c.space_bytes = Some(1_000_000)).unwrap_err().to_string();
    assert!(error.contains("phone"), "{error}");
    assert!(!lent.lends_space());
}
