//! A store that goes to another directory.

use std::fs;

use ioex_base::{ContentAddress, NodeKey, SealedHead, Uid, UnixSeconds, head_address};
use ioex_store::{ShardStore, StoreError, Terms, is_store, remove_store};

use crate::{NOW, SPACE, files, lease, put, store};

fn filled() -> (tempfile::TempDir, ShardStore, Vec<ContentAddress>) {
    let (dir, store) = store();
    let mut held: Vec<_> = (0..20u8).map(|n| put(&store, &[n; 5_000], lease(5_000, n, 100))).collect();
    let repository = NodeKey::from_seed([4; 32]);
    store.put_head(&SealedHead::sign(&repository, 1, b"head"), lease(0, 1, 100)).unwrap();
    held.push(head_address(&repository.uid()));
    held.sort();
    (dir, store, held)
}

fn addresses(store: &ShardStore) -> Vec<ContentAddress> {
    store.list().iter().map(|held| held.address).collect()
}

#[test]
fn everything_is_moved_and_the_old_store_takes_nothing_more() {
    let (dir, old, held) = filled();
    let unfinished = ContentAddress::of(b"arriving");
    let ioex_store::PutStart::Write(mut arriving) = old.begin_put(unfinished, lease(8, 1, 9)).unwrap() else {
        panic!("held")
    };
    arriving.write(b"arriving").unwrap();
    let to = tempfile::tempdir().unwrap();
    let place = to.path().join("deep/inside");
    let new = old.move_to(&place).unwrap();
    assert_eq!((addresses(&new), new.usage().space_bytes), (held.clone(), SPACE));
    for address in &held {
        new.verify(address).unwrap();
        assert_eq!(new.leases(address), old.leases(address));
    }
    // What would be lost in the old one is refused there, and what is there can still be read.
    assert!(matches!(arriving.commit(), Err(StoreError::Closed)));
    let terms = Terms {
        placer: Uid::from_bytes([1; 32]),
        reader: Uid::from_bytes([1; 32]),
        stored: NOW,
        expires: NOW.plus(500),
    };
    assert!(matches!(old.renew(&held, &terms, u64::MAX), Err(StoreError::Closed)));
    assert!(matches!(old.release(&terms.placer, &held), Err(StoreError::Closed)));
    assert!(matches!(old.begin_put(unfinished, lease(8, 1, 9)), Err(StoreError::Closed)));
    assert!(matches!(old.remove(&held[0], UnixSeconds(u64::MAX)), Err(StoreError::Closed)));
    assert!(matches!(old.move_to(&to.path().join("b")), Err(StoreError::Closed)));
    let late = UnixSeconds(u64::MAX);
    assert!(old.remove_expired(late, Some(late)).removed.is_empty());
    old.open_shard(&held[0]).unwrap();

    fs::write(dir.path().join("notes"), b"mine").unwrap();
    drop(old);
    remove_store(dir.path()).unwrap();
    assert_eq!(files(&dir), ["notes"]);
    drop(new);
    let new = ShardStore::open(&place, SPACE).unwrap();
    assert_eq!((addresses(&new), new.report()), (held, &Default::default()));
    drop(new);
    remove_store(&place).unwrap();
    assert!(!place.exists());
    remove_store(&place).unwrap();
}

#[test]
fn a_move_that_fails_leaves_the_old_store_as_it_was() {
    let (dir, old, held) = filled();
    let to = tempfile::tempdir().unwrap();
    fs::write(to.path().join("notes"), b"mine").unwrap();
    assert!(matches!(old.move_to(to.path()), Err(StoreError::NotEmpty(_))));
    // Something rotted: it must not be carried along as if it were good.
    let text = held[3].to_string();
    let shard = dir.path().join(&text[..2]).join(&text);
    let path = if shard.exists() { shard } else { dir.path().join("heads").join(&text) };
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let place = to.path().join("new");
    assert!(matches!(old.move_to(&place), Err(StoreError::Damaged(a)) if a == held[3]));
    assert!(!place.exists());
    put(&old, b"goes on", lease(7, 1, 100));
    assert_eq!(old.list().len(), held.len() + 1);
    assert!(old.verify(&held[3]).is_err());
    assert_eq!(addresses(&old.move_to(&place).unwrap()).len(), held.len());
}

#[test]
fn a_copy_that_was_interrupted_begins_anew() {
    let (_dir, old, held) = filled();
    let to = tempfile::tempdir().unwrap();
    fs::write(to.path().join("moving"), b"").unwrap();
    let text = held[0].to_string();
    fs::create_dir(to.path().join(&text[..2])).unwrap();
    fs::write(to.path().join(&text[..2]).join(&text), b"half").unwrap();
    assert!(!is_store(to.path()).unwrap(), "nothing may be stored in half a copy");
    let new = old.move_to(to.path()).unwrap();
    assert_eq!(addresses(&new), held);
    assert!(is_store(to.path()).unwrap());
    assert!(!to.path().join("moving").exists());
}

#[test]
fn only_a_folder_of_its_own_becomes_a_store() {
    let dir = tempfile::tempdir().unwrap();
    assert!(is_store(dir.path()).unwrap() && is_store(&dir.path().join("none")).unwrap());
    fs::write(dir.path().join("file"), b"x").unwrap();
    assert!(!is_store(dir.path()).unwrap() && !is_store(&dir.path().join("file")).unwrap());
}
