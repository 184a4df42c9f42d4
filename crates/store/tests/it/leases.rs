//! Leases over time.

use ioex_base::{ContentAddress, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_store::{LEASE_GRACE_SECONDS, PutStart, ShardStore, StoreError};

use crate::{NOW, SPACE, files, lease, put, store};

#[test]
fn a_second_backup_adds_its_lease_durably() {
    let (dir, store) = store();
    let address = put(&store, b"shared", lease(6, 1, 100));
    for renewed in [lease(6, 2, 50), lease(6, 1, 200), lease(6, 1, 20)] {
        let start = store.begin_put(address, renewed).unwrap();
        assert!(matches!(start, PutStart::AlreadyHeld));
    }
    drop(store);
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!(store.leases(&address), [lease(6, 1, 200), lease(6, 2, 50)]);
    assert_eq!(store.list()[0].expires, NOW.plus(200));
    let other = store.begin_put(address, lease(7, 3, 10));
    assert!(matches!(other, Err(StoreError::WrongLength { expected: 6, got: 7 })), "{other:?}");
}

#[test]
fn no_lease_outlives_what_shards_may() {
    let (_dir, store) = store();
    for life in [0, 2 * SHARD_LIFE_SECONDS] {
        let got = store.begin_put(ContentAddress::of(b"x"), lease(1, 1, life));
        assert!(matches!(got, Err(StoreError::LeaseLength { .. })), "{got:?}");
    }
    put(&store, b"x", lease(1, 1, SHARD_LIFE_SECONDS));
}

#[test]
fn a_shard_goes_after_its_last_lease_and_the_grace_time() {
    let (dir, store) = store();
    let address = put(&store, b"ends", lease(4, 1, 100));
    store.begin_put(address, lease(4, 2, 300)).unwrap();
    let other = put(&store, b"stays", lease(5, 1, 5_000));
    let last = NOW.plus(300 + LEASE_GRACE_SECONDS);
    let expire = |now| store.remove_expired(now, Some(now)).removed;
    assert_eq!(expire(last), []);
    assert_eq!(expire(last.plus(1)), [address]);
    assert_eq!(store.addresses(), [other]);
    assert_eq!(files(&dir).len(), 2);
    assert_eq!(expire(last.plus(1)), []);
}

#[test]
fn the_owner_deletes_only_what_ended() {
    let (dir, store) = store();
    let address = put(&store, b"ends", lease(4, 1, 100));
    let until = NOW.plus(100);
    let early = store.remove(&address, UnixSeconds(until.0 - 1));
    assert!(matches!(early, Err(StoreError::NotYet { until: u }) if u == until));
    store.remove(&address, until).unwrap();
    assert!(matches!(store.remove(&address, until), Err(StoreError::NotHeld(_))));
    assert!(matches!(store.open_shard(&address), Err(StoreError::NotHeld(_))));
    assert_eq!(files(&dir), Vec::<String>::new());
    assert_eq!((store.usage().used_bytes, store.readers(&address)), (0, vec![]));
}
