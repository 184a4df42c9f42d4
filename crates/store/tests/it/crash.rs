//! What a crash or a bad disk leaves.

use std::{fs, path::PathBuf};

use ioex_base::ContentAddress;
use ioex_store::{PutStart, ShardStore, StoreError};

use crate::{NOW, SPACE, files, lease, put, store};

fn path_of(dir: &tempfile::TempDir, address: &ContentAddress, suffix: &str) -> PathBuf {
    let text = address.to_string();
    dir.path().join(&text[..2]).join(format!("{text}{suffix}"))
}

fn reopen(dir: &tempfile::TempDir) -> ShardStore {
    ShardStore::open(dir.path(), SPACE).unwrap()
}

/// As a crash does: nothing that runs at the end of a program runs.
fn crash(store: ShardStore, dir: &tempfile::TempDir) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in files(dir) {
        let to = copy.path().join(&name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(dir.path().join(&name), to).unwrap();
    }
    drop(store);
    copy
}

#[test]
fn a_crash_before_the_commit_leaves_nothing() {
    let (dir, store) = store();
    let kept = put(&store, b"kept", lease(4, 1, 10));
    let address = ContentAddress::of(b"never");
    let PutStart::Write(mut unfinished) = store.begin_put(address, lease(5, 1, 10)).unwrap() else {
        panic!("held");
    };
    unfinished.write(b"nev").unwrap();
    let copy = crash(store, &dir);
    drop(unfinished);
    let store = reopen(&copy);
    assert_eq!(store.report().unfinished, 1);
    assert_eq!(store.addresses(), [kept]);
    assert_eq!(store.usage().reserved_bytes, 0);
    assert_eq!(files(&copy).len(), 2);
    put(&store, b"never", lease(5, 1, 10));
}

#[test]
fn a_crash_between_lease_and_shard_leaves_nothing() {
    let (dir, store) = store();
    let address = put(&store, b"half", lease(4, 1, 10));
    drop(store);
    fs::remove_file(path_of(&dir, &address, "")).unwrap();
    let store = reopen(&dir);
    assert_eq!(store.report().without_shard, [address]);
    assert!(store.report().damaged.is_empty());
    assert_eq!(files(&dir), Vec::<String>::new());
    put(&store, b"half", lease(4, 1, 10));
}

#[test]
fn truncated_and_leaseless_shards_are_set_aside() {
    let (dir, store) = store();
    let [short, bare, garbled, good] =
        [b"aaaa", b"bbbb", b"cccc", b"dddd"].map(|bytes| put(&store, bytes, lease(4, 1, 10)));
    drop(store);
    fs::write(path_of(&dir, &short, ""), b"aa").unwrap();
    fs::remove_file(path_of(&dir, &bare, ".lease")).unwrap();
    fs::write(path_of(&dir, &garbled, ".lease"), b"\x01junk").unwrap();
    let store = reopen(&dir);
    let mut damaged = store.report().damaged.clone();
    damaged.sort();
    let mut want = vec![short, bare, garbled];
    want.sort();
    assert_eq!(damaged, want);
    assert_eq!(store.addresses(), [good]);
    let before = store.usage();
    assert!(before.damaged_bytes > 0);
    assert_eq!(files(&dir).iter().filter(|name| name.starts_with("damaged")).count(), 5);
    assert_eq!(store.clear_damaged().unwrap(), before.damaged_bytes);
    assert_eq!(store.usage().used_bytes, before.used_bytes - before.damaged_bytes);
    put(&store, b"aaaa", lease(4, 1, 10));
}

#[test]
fn damage_while_running_is_noticed_and_the_shard_can_come_again() {
    let (dir, store) = store();
    let address = put(&store, b"bits rot", lease(8, 1, 10));
    fs::write(path_of(&dir, &address, ""), b"bits r0t").unwrap();
    assert!(matches!(store.verify(&address), Err(StoreError::Damaged(a)) if a == address));
    assert!(!store.contains(&address));

    let address = put(&store, b"bits rot", lease(8, 1, 10));
    fs::write(path_of(&dir, &address, ""), b"bits").unwrap();
    assert!(matches!(store.open_shard(&address), Err(StoreError::Damaged(_))));

    let address = put(&store, b"bits rot", lease(8, 1, 10));
    fs::remove_file(path_of(&dir, &address, "")).unwrap();
    put(&store, b"bits rot", lease(8, 1, 10));

    fs::remove_file(path_of(&dir, &address, ".lease")).unwrap();
    assert_eq!(store.readers(&address), []);
    put(&store, b"bits rot", lease(8, 1, 10));
    assert_eq!(store.readers(&address).len(), 1);
}

#[test]
fn a_newer_programs_shards_survive_a_rollback() {
    let (dir, store) = store();
    let address = put(&store, b"newer", lease(5, 1, 10));
    drop(store);
    let sidecar = path_of(&dir, &address, ".lease");
    let bytes = fs::read(&sidecar).unwrap();
    fs::write(&sidecar, b"\x02something new").unwrap();
    let store = reopen(&dir);
    assert_eq!(store.report().foreign, [path_of(&dir, &address, "")]);
    assert!(!store.contains(&address));
    drop(store);
    fs::write(&sidecar, bytes).unwrap();
    assert!(reopen(&dir).contains(&address));
}

#[test]
fn foreign_files_are_left_alone() {
    let (dir, store) = store();
    let address = put(&store, b"mine", lease(4, 1, 10));
    drop(store);
    let strangers = [
        dir.path().join("notes.txt"),
        path_of(&dir, &address, ".bak"),
        path_of(&dir, &address, "").with_file_name("README"),
    ];
    for path in &strangers {
        fs::write(path, b"mine").unwrap();
    }
    let upper = address.to_string().to_uppercase();
    fs::write(path_of(&dir, &address, "").with_file_name(upper), b"mine").unwrap();
    let store = reopen(&dir);
    assert_eq!(store.report().foreign.len(), 4);
    assert_eq!(store.addresses(), [address]);
    assert!(strangers.iter().all(|path| path.exists()));
    let late = NOW.plus(1 << 40);
    assert_eq!(store.remove_expired(late, Some(late)).removed, [address]);
}
