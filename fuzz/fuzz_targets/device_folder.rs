//! What a device finds in its folder when it starts: `file (1) | how (1) | content`. Nothing there keeps
//! it from starting, and it counts what is there.

#![no_main]

use std::{fs, path::Path, sync::LazyLock};

use ioex_base::{ContentAddress, NodeKey, SealedHead, UnixSeconds};
use ioex_fuzz::{NOW, folder, patched, signer};
use ioex_store::{Lease, PutStart, SHARD_OVERHEAD_BYTES, ShardStore, is_store};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const SPACE: u64 = 10_000_000;

fn lease(bytes: u64) -> Lease {
    let [placer, reader] = [2, 3].map(|n| NodeKey::from_seed([n; 32]).uid());
    Lease { placer, reader, bytes, stored: NOW, expires: NOW.plus(1_000) }
}

/// A folder with two shards and a head, as the store left it, and all its files.
static SAMPLE: LazyLock<(TempDir, Vec<std::path::PathBuf>)> = LazyLock::new(|| {
    let dir = folder();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    for bytes in [vec![1; 3_000], vec![2; 100]] {
        let put = store.begin_put(ContentAddress::of(&bytes), lease(bytes.len() as u64)).unwrap();
        let PutStart::Write(mut put) = put else { panic!("it is new") };
        put.write(&bytes).unwrap();
        put.commit().unwrap();
    }
    store.put_head(&SealedHead::sign(&signer(), 5, b"head"), lease(0)).unwrap();
    drop(store);
    let mut files = Vec::new();
    look(dir.path(), Path::new(""), &mut files);
    files.sort();
    (dir, files)
});

fn look(root: &Path, below: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(root.join(below)).unwrap().flatten() {
        let path = below.join(entry.file_name());
        if entry.path().is_dir() { look(root, &path, out) } else { out.push(path) }
    }
}

/// A sidecar with any body, under a checksum that holds.
fn checked(body: &[u8]) -> Vec<u8> {
    [&[1][..], &blake3::hash(body).as_bytes()[..8], body].concat()
}

fn check(dir: &Path) {
    let _ = is_store(dir).unwrap();
    let store = ShardStore::open(dir, SPACE).unwrap();
    let (list, usage) = (store.list(), store.usage());
    assert_eq!(list.len(), usage.shards + usage.heads);
    let least: u64 = list.iter().map(|held| held.bytes + SHARD_OVERHEAD_BYTES).sum();
    assert!(usage.used_bytes >= least + usage.damaged_bytes);
    for held in &list {
        assert!(!store.leases(&held.address).is_empty(), "what is held is held for somebody");
        let _ = store.verify(&held.address);
    }
    let _ = store.remove_expired(UnixSeconds(u64::MAX), Some(UnixSeconds(u64::MAX)));
    let left = store.usage();
    drop(store);
    let again = ShardStore::open(dir, SPACE).unwrap();
    assert_eq!(again.usage(), left, "the next start counts the same");
}

fuzz_target!(|data: &[u8]| {
    let Some((&[file, how], content)) = data.split_first_chunk::<2>() else { return };
    let (sample, files) = &*SAMPLE;
    let dir = folder();
    for path in files {
        let to = dir.path().join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(sample.path().join(path), to).unwrap();
    }
    let path = dir.path().join(&files[usize::from(file) % files.len()]);
    let bytes = match how % 4 {
        0 => content.to_vec(),
        1 => patched(&fs::read(&path).unwrap(), content),
        2 => checked(content),
        _ => checked(&patched(fs::read(&path).unwrap().get(9..).unwrap_or_default(), content)),
    };
    fs::write(&path, bytes).unwrap();
    check(dir.path());
});
