//! The owner's limit holds on the disk, not only in the books.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use ioex_base::{ContentAddress, NodeKey, SealedHead, Uid};
use ioex_store::{Lease, Put, PutStart, ShardStore, StoreError};

use crate::lease;

/// Blocks of 512 bytes that a folder takes with all that is in it, as `du` counts them.
fn on_disk(path: &Path) -> u64 {
    let meta = fs::symlink_metadata(path).unwrap();
    let below = if meta.is_dir() {
        fs::read_dir(path).unwrap().map(|entry| on_disk(&entry.unwrap().path())).sum()
    } else {
        0
    };
    meta.blocks() * 512 + below
}

/// Bytes that are different for each `n` and do not compress, so that no file system makes them
/// smaller.
fn content(n: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn begin(store: &ShardStore, bytes: &[u8]) -> Result<Option<Put>, StoreError> {
    match store.begin_put(ContentAddress::of(bytes), lease(bytes.len(), 1, 1_000))? {
        PutStart::Write(mut put) => {
            put.write(bytes)?;
            Ok(Some(put))
        }
        PutStart::AlreadyHeld => Ok(None),
    }
}

#[test]
fn a_device_never_takes_more_than_its_owner_gave() {
    const SPACE: u64 = 24 * 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    let check = |what: &str| {
        let taken = on_disk(dir.path());
        assert!(taken <= SPACE, "{what}: {taken} of {SPACE} bytes");
        taken
    };
    let key = NodeKey::from_seed([1; 32]);
    let mut arriving = Vec::new();
    let mut full = 0;
    // Lengths that leave most of their last block empty, of all magnitudes; some are still arriving.
    for n in 0u64.. {
        let len = [4_097usize, 1, 100_000, 3_000_001, 5, 20_481][usize::try_from(n % 6).unwrap()];
        let bytes = content(n, len);
        match begin(&store, &bytes) {
            Ok(Some(put)) if n % 7 == 0 && arriving.len() < 4 => arriving.push(put),
            Ok(Some(put)) => put.commit().unwrap(),
            Ok(None) => panic!("held"),
            Err(StoreError::NoSpace { .. }) => full += 1,
            Err(e) => panic!("{e}"),
        }
        let seq = n;
        match store.put_head(&SealedHead::sign(&key, seq, &content(n, 9_000)), lease(0, 1, 1_000)) {
            Ok(_) | Err(StoreError::NoSpace { .. }) => {}
            Err(e) => panic!("{e}"),
        }
        if n % 16 == 0 {
            check("while it fills");
        }
        if full > 50 {
            break;
        }
    }
    arriving.into_iter().for_each(|put| put.commit().unwrap());
    // Leases beside what is full.
    for address in store.addresses().into_iter().take(20) {
        for n in 2..90 {
            let Some(held) = store.list().into_iter().find(|h| h.address == address) else { continue };
            let more = Lease {
                reader: Uid::from_bytes([n; 32]),
                ..lease(usize::try_from(held.bytes).unwrap(), 1, 9)
            };
            let _ =
                if held.head.is_some() { Ok(PutStart::AlreadyHeld) } else { store.begin_put(address, more) };
        }
        check("with more leases");
    }
    let taken = check("when it is full");
    assert!(taken > SPACE / 2, "only {taken} bytes of {SPACE} were used");
    // Given back and filled again, the empty directories do not add up.
    store.release(&Uid::from_bytes([1; 32]), &store.addresses()).unwrap();
    assert_eq!(store.usage().used_bytes, 0);
    for n in 10_000u64.. {
        match begin(&store, &content(n, 1_000_000)) {
            Ok(put) => put.unwrap().commit().unwrap(),
            Err(StoreError::NoSpace { .. }) => break,
            Err(e) => panic!("{e}"),
        }
    }
    check("filled again");
}
