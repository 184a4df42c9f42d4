//! Heads of repositories.

use std::fs;

use ioex_base::{ContentAddress, NodeKey, SealedHead, UnixSeconds, head_address, limits::HEAD_MAX_BYTES};
use ioex_store::{HeadPut, PutStart, ShardStore, StoreError};

use crate::{NOW, SPACE, charge, files, lease, put, store};

fn key() -> NodeKey {
    NodeKey::from_seed([9; 32])
}

fn head(seq: u64, body: &[u8]) -> Vec<u8> {
    SealedHead::sign(&key(), seq, body)
}

fn address() -> ContentAddress {
    head_address(&key().uid())
}

fn read(store: &ShardStore) -> Vec<u8> {
    use std::io::Read;
    let (mut file, len) = store.open_shard(&address()).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, len);
    bytes
}

#[test]
fn the_highest_number_stays() {
    let (dir, store) = store();
    assert_eq!(store.put_head(&head(5, b"five"), lease(0, 1, 100)).unwrap(), HeadPut::Kept);
    assert_eq!(store.put_head(&head(5, b"other five"), lease(0, 1, 90)).unwrap(), HeadPut::Newer(5));
    assert_eq!(store.put_head(&head(4, b"four"), lease(0, 2, 300)).unwrap(), HeadPut::Newer(5));
    assert_eq!(read(&store), head(5, b"five"));
    assert_eq!(store.readers(&address()).len(), 2, "an older head brings its lease");
    assert_eq!(store.put_head(&head(7, b"seven, longer"), lease(0, 1, 50)).unwrap(), HeadPut::Kept);
    drop(store);
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!(store.report(), &Default::default());
    assert_eq!((read(&store), store.head_seq(&address())), (head(7, b"seven, longer"), Some(7)));
    let held = store.list();
    assert_eq!((held.len(), held[0].head, held[0].expires), (1, Some(7), NOW.plus(300)));
    let usage = store.usage();
    assert_eq!((usage.shards, usage.heads), (0, 1));
    assert_eq!(usage.used_bytes, charge(head(7, b"seven, longer").len()));
    assert_eq!(files(&dir).len(), 2);
    store.verify(&address()).unwrap();
}

#[test]
fn what_its_repository_did_not_sign_is_no_head() {
    let (dir, store) = store();
    store.put_head(&head(1, b"mine"), lease(0, 1, 100)).unwrap();
    let mut forged = head(2, b"not mine");
    *forged.last_mut().unwrap() ^= 1;
    for bad in [forged, Vec::new(), vec![1; HEAD_MAX_BYTES + 1]] {
        assert!(matches!(store.put_head(&bad, lease(0, 1, 100)), Err(StoreError::NoHead(_))));
    }
    assert_eq!(read(&store), head(1, b"mine"));
    assert_eq!(files(&dir).len(), 2);
}

#[test]
fn a_crash_leaves_the_old_or_the_new_head() {
    let (dir, store) = store();
    store.put_head(&head(1, b"old"), lease(0, 1, 100)).unwrap();
    drop(store);
    let heads = dir.path().join("heads");
    let name = heads.join(address().to_string());
    // The new one was still under its temporary name.
    fs::write(dir.path().join("incoming/7"), head(2, b"new")).unwrap();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!((read(&store), store.report().unfinished), (head(1, b"old"), 1));
    drop(store);
    // It had its name, but the lease was not yet written again: the old lease holds for it.
    fs::write(&name, head(2, b"new and longer")).unwrap();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!((read(&store), store.head_seq(&address())), (head(2, b"new and longer"), Some(2)));
    assert_eq!(store.leases(&address()).len(), 1);
    drop(store);
    // The lease came, the head did not.
    fs::remove_file(&name).unwrap();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!(store.report().without_shard, [address()]);
    assert!(files(&dir).is_empty());
}

#[test]
fn a_damaged_head_is_set_aside() {
    let (dir, store) = store();
    store.put_head(&head(3, b"fine"), lease(0, 1, 100)).unwrap();
    let name = dir.path().join("heads").join(address().to_string());
    let mut bytes = head(3, b"fine");
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&name, &bytes).unwrap();
    assert!(matches!(store.verify(&address()), Err(StoreError::Damaged(_))));
    assert!(!store.contains(&address()));
    assert_eq!(store.usage().heads, 0);
    // It can come again, and be found damaged at a start.
    store.put_head(&head(3, b"fine"), lease(0, 1, 100)).unwrap();
    drop(store);
    fs::write(&name, &bytes).unwrap();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    assert_eq!(store.report().damaged, [address()]);
    assert!(!store.contains(&address()));
}

#[test]
fn a_shard_that_was_made_to_have_a_heads_address_gives_way() {
    let (dir, store) = store();
    let mut named = b"ioex 2026 vault head\0".to_vec();
    named.extend(key().uid().as_bytes());
    assert_eq!(put(&store, &named, lease(named.len(), 1, 100)), address());
    assert_eq!(store.put_head(&head(1, b"real"), lease(0, 1, 100)).unwrap(), HeadPut::Kept);
    assert_eq!(read(&store), head(1, b"real"));
    assert_eq!((store.usage().shards, store.usage().heads), (0, 1));
    let again = store.begin_put(address(), lease(named.len(), 1, 100));
    assert!(matches!(again, Err(StoreError::IsHead(_))), "{again:?}");
    assert_eq!(files(&dir).len(), 2);
}

#[test]
fn a_full_device_takes_the_next_head() {
    let dir = tempfile::tempdir().unwrap();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    store.put_head(&head(1, b"first"), lease(0, 1, 100)).unwrap();
    for n in 0u64.. {
        let bytes = [n.to_le_bytes().to_vec(), vec![0; 1_000_000]].concat();
        match store.begin_put(ContentAddress::of(&bytes), lease(bytes.len(), 1, 100)) {
            Ok(PutStart::Write(mut put)) => {
                put.write(&bytes).unwrap();
                put.commit().unwrap();
            }
            Err(StoreError::NoSpace { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    let long = head(2, &vec![0; 100_000]);
    assert_eq!(store.put_head(&long, lease(0, 1, 100)).unwrap(), HeadPut::Kept);
    assert!(store.usage().used_bytes <= SPACE);
    // With less space than is in use nothing new is taken, and nothing is lost.
    store.set_space(1);
    let got = store.put_head(&head(3, b"third"), lease(0, 1, 100));
    assert!(matches!(got, Err(StoreError::NoSpace { .. })), "{got:?}");
    assert_eq!(read(&store), long);
}

#[test]
fn heads_end_like_shards() {
    let (dir, store) = store();
    store.put_head(&head(1, b"a"), lease(0, 1, 100)).unwrap();
    assert!(matches!(store.remove(&address(), NOW), Err(StoreError::NotYet { .. })));
    let late = UnixSeconds(NOW.0 * 2);
    assert_eq!(store.remove_expired(late, Some(late)).removed, [address()]);
    assert!(files(&dir).is_empty());
}
