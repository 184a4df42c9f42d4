//! The decrypted root of a restore point: raw, and a good one with changes.

#![no_main]

use std::sync::LazyLock;

use ioex_base::UnixSeconds;
use ioex_fuzz::patched;
use ioex_vault::{
    ChunkId,
    repo::{Problem, RecoveryKey, Root, SEGMENTS_MAX, Totals, seal_object},
};
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let keys = RecoveryKey::from_bytes([7; 32]).keys();
    let segment = |n: u8| seal_object(&keys, &[n; 100]).unwrap().0;
    let root = Root {
        created: UnixSeconds(1_800_000_000),
        host: "host".into(),
        base: b"/home".to_vec(),
        paths: vec![b"/home/a".to_vec(), vec![b'/', 0xff]],
        tags: vec!["daily".into()],
        totals: Totals { files: 1, bytes: 1 << 40, ..Totals::default() },
        problems: vec![Problem { path: b"/home/a/b".to_vec(), why: "no".into() }],
        problems_total: 1,
        listing: vec![ChunkId([9; 16]); 3],
        segments: vec![segment(1), segment(2)],
    };
    root.encode()
});

fn check(bytes: &[u8]) {
    let Ok(root) = Root::decode(bytes) else { return };
    assert!(root.segments.len() <= SEGMENTS_MAX);
    assert_eq!(Root::decode(&root.encode()), Ok(root));
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&patched(&SAMPLE, data));
});
