//! The listing of a restore point: raw, and a good one with changes. What is accepted stays below the
//! folder of the restore, and plans hold together.

#![no_main]

use std::{path::Component, sync::LazyLock};

use ioex_base::ContentAddress;
use ioex_fuzz::patched;
use ioex_vault::{
    ChunkId, ChunkKey, ChunkRef, Codec, ShardRef,
    repo::{
        Group, Index, Segment,
        plan::{Plan, Selection, diff},
        tree::{Content, DEPTH_MAX, Entry, ListingReader, ListingWriter, join},
    },
};
use libfuzzer_sys::fuzz_target;

fn entry(depth: u32, name: &[u8], content: Content) -> Entry {
    Entry {
        depth,
        name: name.to_vec(),
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime_ns: -3,
        ctime_ns: i64::MAX,
        inode: 5,
        content,
        xattrs: vec![(b"user.x".to_vec(), b"y".to_vec())],
    }
}

fn id(n: u8) -> ChunkId {
    ChunkId([n; 16])
}

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut writer = ListingWriter::new(Vec::new());
    for entry in [
        entry(0, b"home", Content::Dir),
        entry(1, b"a", Content::File { size: 2_000, chunks: vec![id(1), id(2)] }),
        entry(1, b"b", Content::HardLink(1)),
        entry(1, b"c", Content::Dir),
        entry(2, b"l", Content::Symlink(b"../a".to_vec())),
        entry(1, &[0xff, b'.'], Content::File { size: 0, chunks: vec![] }),
    ] {
        writer.push(&entry).unwrap();
    }
    writer.finish().unwrap()
});

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let shard = ShardRef { address: ContentAddress::of(b"a"), bytes: 16_384 };
    let chunk = |n| ChunkRef {
        shard: 0,
        offset: u32::from(n) * 2_000,
        stored_bytes: 1_016,
        plain_bytes: 1_000,
        codec: Codec::Raw,
        key: ChunkKey([n; 32]),
        id: id(n),
    };
    let mut index = Index::default();
    let groups = vec![Group { data: vec![shard], ..Group::default() }];
    index.add(None, Segment { groups, chunks: (0..4).map(chunk).collect(), devices: vec![] });
    index
});

fn check(bytes: &[u8]) {
    let mut reader = ListingReader::new(bytes);
    let mut writer = ListingWriter::new(Vec::new());
    let whole = loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                let path = join(reader.path());
                assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
                assert_eq!(path.components().count(), entry.depth as usize + 1);
                assert!(entry.depth as usize <= DEPTH_MAX);
                writer.push(&entry).unwrap();
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let again = writer.finish().unwrap();
    if whole {
        // Postcard reads some numbers in several ways, so the bytes may differ and the sense not.
        let mut reader = ListingReader::new(again.as_slice());
        while reader.next_entry().unwrap().is_some() {}
    }
    for wanted in [vec![], vec!["home/b".into()], vec!["home/c".into(), "home/a".into()]] {
        if let Ok(plan) = Plan::new(|| Ok(bytes), &Selection::of(&wanted), &INDEX) {
            assert!(plan.hard_links.iter().all(|(_, file)| (*file as usize) < plan.files.len()));
            let targets = plan.shards.iter().flat_map(|s| &s.chunks).flat_map(|(_, targets)| targets);
            assert!(targets.into_iter().all(|(file, _)| (*file as usize) < plan.files.len()));
            let _ = (plan.digest(), plan.fetch_bytes());
        }
    }
    let _ = diff(ListingReader::new(SAMPLE.as_slice()), ListingReader::new(bytes), |_, _, _, _| {});
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&patched(&SAMPLE, data));
});
