//! A decrypted segment of the index: raw, and a good one with changes. Of a device's making it is not,
//! but whoever has the words of a repository may have written it to harm a reader.

#![no_main]

use std::sync::LazyLock;

use ioex_base::{ContentAddress, Uid};
use ioex_fuzz::patched;
use ioex_vault::{
    ChunkId, ChunkKey, ChunkRef, Codec, ShardRef,
    repo::{Group, Index, Segment, plan::Plan},
};
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let shard = |n: u8| ShardRef { address: ContentAddress::of(&[n]), bytes: 16_384 };
    let chunk = |shard, offset, n| ChunkRef {
        shard,
        offset,
        stored_bytes: 1_000,
        plain_bytes: 984,
        codec: Codec::Raw,
        key: ChunkKey([n; 32]),
        id: ChunkId([n; 16]),
    };
    let segment = Segment {
        groups: vec![
            Group { data: vec![shard(1)], parity: vec![], holders: vec![vec![0, 1]] },
            Group { data: vec![shard(2), shard(3)], parity: vec![shard(4)], holders: vec![vec![], vec![1]] },
        ],
        chunks: vec![chunk(0, 0, 5), chunk(1, 70, 6), chunk(2, 15_384, 7)],
        devices: vec![Uid::from_bytes([8; 32]), Uid::from_bytes([9; 32])],
    };
    segment.encode()
});

fn check(bytes: &[u8]) {
    let Ok(segment) = Segment::decode(bytes) else { return };
    assert_eq!(Segment::decode(&segment.encode()).as_ref(), Ok(&segment));
    for chunk in &segment.chunks {
        let (group, place) = segment.group_of(chunk.shard).expect("its chunk lies in a group");
        assert!(chunk.offset + chunk.stored_bytes <= group.data[place].bytes);
    }
    let mut twice = segment.clone();
    twice.append(&segment);
    assert_eq!(twice.chunks.len(), 2 * segment.chunks.len());
    let ids: Vec<ChunkId> = segment.chunks.iter().map(|chunk| chunk.id).collect();
    let mut index = Index::default();
    index.add(None, segment);
    for id in &ids {
        let found = index.get(id).expect("what was added is found");
        let wanted = Plan::single(&index, &found);
        let ends = wanted.ranges().into_iter().map(|(start, len)| start + len);
        assert!(ends.into_iter().all(|end| end <= wanted.shard.bytes));
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&patched(&SAMPLE, data));
});
