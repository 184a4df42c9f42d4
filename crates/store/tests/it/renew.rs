//! Leases that are extended and given back.

use ioex_base::{ContentAddress, NodeKey, SealedHead, Uid, head_address};
use ioex_store::{LEASES_PER_SHARD_MAX, Lease, Released, ShardStore, StoreError, Terms};

use crate::{NOW, SPACE, files, lease, put, store};

fn placer(n: u8) -> Uid {
    Uid::from_bytes([n; 32])
}

fn terms(placed_by: u8, reader: u8, life: u64) -> Terms {
    Terms {
        placer: placer(placed_by),
        reader: Uid::from_bytes([reader; 32]),
        stored: NOW,
        expires: NOW.plus(life),
    }
}

#[test]
fn leases_are_extended_without_the_bytes() {
    let (dir, store) = store();
    let [a, b] = [b"aaaa", b"bbbb"].map(|bytes| put(&store, bytes, lease(4, 1, 100)));
    let repository = NodeKey::from_seed([4; 32]);
    store.put_head(&SealedHead::sign(&repository, 1, b"head"), lease(0, 1, 100)).unwrap();
    let head = head_address(&repository.uid());
    let none = ContentAddress::of(b"not here");
    let got = store.renew(&[a, none, b, head], &terms(1, 1, 500), u64::MAX).unwrap();
    assert_eq!(got, [true, false, true, true]);
    // An earlier end changes nothing.
    assert_eq!(store.renew(&[a], &terms(1, 1, 200), u64::MAX).unwrap(), [true]);
    drop(store);
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert!(store.list().iter().all(|held| held.expires == NOW.plus(500)));
    let absurd = store.renew(&[a], &terms(1, 1, 1 << 40), u64::MAX);
    assert!(matches!(absurd, Err(StoreError::LeaseLength { .. })));
}

#[test]
fn another_placer_adds_its_lease_within_its_grant() {
    let (_dir, store) = store();
    let [a, b] = [b"aaaa", b"bbbb"].map(|bytes| put(&store, bytes, lease(4, 1, 100)));
    assert_eq!(store.renew(&[a, b], &terms(2, 2, 500), 7).unwrap(), [true, false]);
    assert_eq!((store.placed_bytes(&placer(2)), store.placed_bytes(&placer(1))), (4, 8));
    // What it leases already it may extend, whatever the grant says now.
    assert_eq!(store.renew(&[a, b], &terms(2, 2, 600), 0).unwrap(), [true, false]);
}

#[test]
fn a_released_shard_goes_with_its_last_lease() {
    let (dir, store) = store();
    let [a, b] = [b"aaaa", b"bbbb"].map(|bytes| put(&store, bytes, lease(4, 1, 100)));
    store.begin_put(a, lease(4, 2, 100)).unwrap();
    store.renew(&[a], &terms(2, 1, 300), u64::MAX).unwrap();
    // Somebody who leases nothing here ends nothing.
    assert_eq!(store.release(&placer(3), &[a, b]).unwrap(), Released::default());
    let got = store.release(&placer(1), &[a, b, ContentAddress::of(b"none")]).unwrap();
    assert_eq!(got, Released { leases: 3, deleted: vec![b] });
    assert_eq!(store.leases(&a).iter().map(|l| l.placer).collect::<Vec<_>>(), [placer(2)]);
    assert_eq!(store.list()[0].expires, NOW.plus(300));
    assert_eq!(store.placed_bytes(&placer(1)), 0);
    drop(store);
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!(store.addresses(), [a]);
    let got = store.release(&placer(2), &[a]).unwrap();
    assert_eq!(got, Released { leases: 1, deleted: vec![a] });
    assert_eq!(files(&dir), Vec::<String>::new());
    assert_eq!(store.usage().used_bytes, 0);
    // Even the directories are gone.
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 4, "heads, incoming, damaged, lock");
}

#[test]
fn many_leases_are_counted_on_disk() {
    let (dir, store) = store();
    let a = put(&store, b"aaaa", lease(4, 1, 100));
    let before = store.usage().used_bytes;
    for n in 0..LEASES_PER_SHARD_MAX - 1 {
        let reader = Uid::from_bytes([u8::try_from(n).unwrap() + 2; 32]);
        store.begin_put(a, Lease { reader, ..lease(4, 1, 100) }).unwrap();
    }
    let sidecar = dir.path().join(&a.to_string()[..2]).join(format!("{a}.lease"));
    let len = std::fs::metadata(sidecar).unwrap().len();
    assert_eq!(store.usage().used_bytes - before, (len.div_ceil(4096) - 1) * 4096);
    // One more is refused, and the shard stays as it was.
    let one_more = Lease { reader: Uid::from_bytes([200; 32]), ..lease(4, 1, 100) };
    assert!(matches!(store.begin_put(a, one_more), Err(StoreError::TooManyLeases { .. })));
    assert_eq!(store.renew(&[a], &terms(7, 7, 100), u64::MAX).unwrap(), [false]);
    store.release(&placer(1), &[a]).unwrap();
    assert_eq!(store.usage().used_bytes, 0);
}
