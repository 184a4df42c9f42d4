//! The store as a node uses it, and after crashes.

mod clocks;
mod crash;
mod heads;
mod leases;
mod model;
mod moving;
mod puts;
mod renew;
mod space;

use std::{fs, path::PathBuf};

use ioex_base::{ContentAddress, Uid, UnixSeconds};
use ioex_store::{Lease, PutStart, SHARD_OVERHEAD_BYTES, ShardStore};

const SPACE: u64 = 16 * 1024 * 1024;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn store() -> (tempfile::TempDir, ShardStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    (dir, store)
}

fn lease(bytes: usize, reader: u8, expires_after: u64) -> Lease {
    Lease {
        placer: Uid::from_bytes([1; 32]),
        reader: Uid::from_bytes([reader; 32]),
        bytes: bytes as u64,
        stored: NOW,
        expires: NOW.plus(expires_after),
    }
}

fn put(store: &ShardStore, bytes: &[u8], lease: Lease) -> ContentAddress {
    let address = ContentAddress::of(bytes);
    let PutStart::Write(mut put) = store.begin_put(address, lease).unwrap() else {
        panic!("held already");
    };
    put.write(bytes).unwrap();
    put.commit().unwrap();
    address
}

/// All files below the store but its lock, relative to it.
fn files(dir: &tempfile::TempDir) -> Vec<String> {
    fn walk(dir: &PathBuf, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, out) } else { out.push(path) }
        }
    }
    let mut out = Vec::new();
    walk(&dir.path().to_owned(), &mut out);
    let relative = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().display().to_string();
    let mut out: Vec<_> = out.iter().map(relative).filter(|name| name != "lock").collect();
    out.sort();
    out
}

const fn charge(bytes: usize) -> u64 {
    bytes as u64 + SHARD_OVERHEAD_BYTES
}
