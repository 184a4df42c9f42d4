//! Taking shards in.

use std::{io::Read, thread};

use ioex_base::{ContentAddress, limits::SHARD_MAX_BYTES};
use ioex_store::{PutStart, ShardStore, StoreError};

use crate::{NOW, SPACE, charge, files, lease, put, store};

#[test]
fn what_was_put_is_read_back_also_after_reopening() {
    let (dir, store) = store();
    let address = put(&store, b"some bytes", lease(10, 7, 1_000));
    for round in 0..2 {
        let (mut file, len) = store.open_shard(&address).unwrap();
        let mut got = Vec::new();
        file.read_to_end(&mut got).unwrap();
        assert_eq!((got.as_slice(), len), (b"some bytes".as_slice(), 10), "round {round}");
        store.verify(&address).unwrap();
    }
    assert_eq!(store.addresses(), [address]);
    let list = store.list();
    assert_eq!(list[0].expires, NOW.plus(1_000));
    drop(store);
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!(store.list(), list);
    assert_eq!(store.usage().used_bytes, charge(10));
    assert_eq!(store.report(), &Default::default());
}

#[test]
fn a_shard_with_other_bytes_leaves_nothing() {
    let (dir, store) = store();
    let address = ContentAddress::of(b"right");
    let start = || match store.begin_put(address, lease(5, 1, 10)).unwrap() {
        PutStart::Write(put) => put,
        PutStart::AlreadyHeld => panic!("held"),
    };
    let mut wrong = start();
    wrong.write(b"wrong").unwrap();
    let got = ContentAddress::of(b"wrong");
    assert!(
        matches!(wrong.commit(), Err(StoreError::WrongAddress { expected, got: g }) if expected == address && g == got)
    );
    let mut short = start();
    short.write(b"righ").unwrap();
    assert_eq!(short.missing_bytes(), 1);
    assert!(matches!(short.commit(), Err(StoreError::WrongLength { expected: 5, got: 4 })));
    let mut long = start();
    assert!(matches!(long.write(b"right!"), Err(StoreError::WrongLength { expected: 5, got: 6 })));
    drop(long);
    assert_eq!(files(&dir), Vec::<String>::new());
    assert_eq!((store.usage().used_bytes, store.usage().reserved_bytes), (0, 0));
    assert!(!store.contains(&address));
}

#[test]
fn space_is_reserved_at_once_and_given_back() {
    let (_dir, store) = store();
    // Some of it is kept back for the store itself and for the next head.
    store.set_space(charge(100) + 50_000);
    let room = store.usage().free_bytes();
    assert_eq!(room, charge(100) + 50_000 - store.usage().kept_back_bytes);
    assert!((charge(100)..charge(100) + charge(3)).contains(&room));
    let first = store.begin_put(ContentAddress::of(b"a"), lease(100, 1, 10)).unwrap();
    let refused = store.begin_put(ContentAddress::of(b"b"), lease(3, 1, 10));
    assert!(
        matches!(refused, Err(StoreError::NoSpace { needed, free }) if needed == charge(3) && free == room - charge(100)),
        "{refused:?}"
    );
    drop(first);
    assert_eq!(store.usage().free_bytes(), room);
    put(&store, b"abc", lease(3, 1, 10));
    store.set_space(0);
    assert_eq!((store.usage().shards, store.usage().free_bytes()), (1, 0));
}

#[test]
fn absurd_lengths_are_refused() {
    let (_dir, store) = store();
    for bytes in [0, SHARD_MAX_BYTES as usize + 1, usize::MAX] {
        let got = store.begin_put(ContentAddress::of(b"x"), lease(bytes, 1, 10));
        assert!(matches!(got, Err(StoreError::TooLarge { .. })), "{got:?}");
    }
}

#[test]
fn two_puts_of_one_shard_keep_it_once_with_both_leases() {
    let (dir, store) = store();
    let address = ContentAddress::of(b"twice");
    let mut puts: Vec<_> = (0..2)
        .map(|reader| match store.begin_put(address, lease(5, reader, 10)).unwrap() {
            PutStart::Write(put) => put,
            PutStart::AlreadyHeld => panic!("held"),
        })
        .collect();
    for put in &mut puts {
        put.write(b"twice").unwrap();
    }
    for put in puts {
        put.commit().unwrap();
    }
    assert_eq!(store.readers(&address).len(), 2);
    assert_eq!(files(&dir).len(), 2);
    assert_eq!((store.usage().used_bytes, store.usage().reserved_bytes), (charge(5), 0));
}

#[test]
fn threads_share_one_store() {
    let (_dir, store) = store();
    let workers: Vec<_> = (0..4u8)
        .map(|worker| {
            let store = store.clone();
            thread::spawn(move || {
                for i in 0..10u8 {
                    put(&store, &[worker, i], lease(2, worker, 10));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!((store.usage().shards, store.usage().used_bytes), (40, 40 * charge(2)));
}

#[test]
fn a_second_opening_is_refused() {
    let (dir, store) = store();
    assert!(matches!(ShardStore::open(dir.path(), 1), Err(StoreError::InUse(_))));
    drop(store);
    assert!(ShardStore::open(dir.path(), 1).is_ok());
}
