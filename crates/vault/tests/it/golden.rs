//! Bytes that must not change: other ones would be another format, or would end sharing with what is
//! stored already. `docs/formats/vault.md` names these tests.
//!
//! Whoever changes one of them on purpose makes a new version, and keeps reading this one.

use std::{fs, sync::Mutex};

use ioex_base::{ContentAddress, Uid, UnixSeconds, wire};
use ioex_vault::{
    ChunkId, ChunkKey, ChunkRef, Codec, ShardRef,
    repo::{
        Group, Head, Index, ObjectRef, PackedShard, PointId, PointRef, Problem, RecoveryKey, RepoKeys, Root,
        Segment, Totals, Walk,
        backup::{self, Progress, Run, Source},
        seal_object,
        tree::{Content, ListingReader},
    },
};

use super::{MB, noise};

fn keys() -> RepoKeys {
    RecoveryKey::from_bytes([7; 32]).keys()
}

/// Lengths of the chunks of a file in a repository, in order.
fn cuts(keys: &RepoKeys, bytes: &[u8]) -> Vec<u32> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), bytes).unwrap();
    let listing = dir.path().join("listing");
    let packed = Mutex::new(Vec::<PackedShard>::new());
    let take = |shard| {
        packed.lock().unwrap().push(shard);
        Ok(())
    };
    let run = Run {
        source: Source::Tree(Walk::new(&[dir.path().join("file")], &[], false).unwrap()),
        before: None,
        listing: &listing,
        shard_bytes: 4 * MB,
        shard_chunks: 1_000,
        encoders: 2,
        inspect: &|_| Ok(()),
    };
    backup::run(&keys.owner, &Index::default(), run, &Progress::default(), &take).unwrap();
    let packed = packed.into_inner().unwrap();
    let length = |id: &ChunkId| {
        let mut all = packed.iter().flat_map(|shard| &shard.chunks);
        all.find(|chunk| chunk.id == *id).unwrap().plain_bytes
    };
    let listing = fs::read(&listing).unwrap();
    let mut reader = ListingReader::new(listing.as_slice());
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if let Content::File { chunks, size } = entry.content {
            assert_eq!(size, bytes.len() as u64);
            out.extend(chunks.iter().map(length));
        }
    }
    out
}

/// Other cuts would store everything anew at the next backup of every owner.
#[test]
fn the_cuts_of_a_repository_are_frozen() {
    let data = noise(6 * MB, 1);
    let ours = cuts(&keys(), &data);
    assert_eq!(
        ours,
        [526087, 896421, 716878, 597529, 618717, 591494, 218974, 606671, 294669, 562571, 661445]
    );
    assert_eq!(ours.iter().sum::<u32>() as usize, data.len());
    // An insertion moves the cuts beside it and no others.
    let longer = [&data[..2 * MB], b"inserted", &data[2 * MB..]].concat();
    let moved = cuts(&keys(), &longer);
    assert_eq!(moved.iter().rev().take(4).collect::<Vec<_>>(), ours.iter().rev().take(4).collect::<Vec<_>>());
    assert_eq!(moved[..2], ours[..2]);
    let other = RecoveryKey::from_bytes([8; 32]).keys();
    assert_ne!(cuts(&other, &data), ours, "nobody else can compute them");
}

/// An object whose bytes no compressor shrinks: so the compressor's release does not matter.
fn object() -> (ObjectRef, Vec<u8>) {
    seal_object(&keys(), &noise(20_000, 2)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn the_bytes_of_an_object_reference_are_frozen() {
    let (reference, shard) = object();
    let bytes = wire::encode(&reference);
    assert_eq!(
        hex(&bytes),
        "9e3b799e02c8b1f903c5f389f4f326069a3bd5aa38befd876d476f4806aca17880a001b09c01a09c010021de7dd465de36fc702d4cdd17bbd29539ee525acacb734d861bc17d0708f5c4"
    );
    assert_eq!(hex(blake3::hash(&shard).as_bytes()), hex(&bytes[..32]), "its shard's address comes first");
    let read: ObjectRef = wire::decode(&bytes, bytes.len()).unwrap();
    assert_eq!(read, reference);
    assert_eq!(read.open(&shard).unwrap(), noise(20_000, 2));
}

fn totals() -> Totals {
    Totals { files: 1, dirs: 2, links: 3, bytes: 400, new_bytes: 500, stored_bytes: 70_000, read_files: 6 }
}

fn segment() -> Segment {
    let shard = |n: u8| ShardRef { address: ContentAddress::of(&[n]), bytes: 4_194_304 };
    let chunk = |shard, codec, n| ChunkRef {
        shard,
        offset: 300_000,
        stored_bytes: 400_000,
        plain_bytes: if codec == Codec::Raw { 399_984 } else { 1_048_512 },
        codec,
        key: ChunkKey([n; 32]),
        id: ChunkId([n; 16]),
    };
    Segment {
        groups: vec![
            Group {
                data: vec![shard(1), shard(2)],
                parity: vec![shard(3)],
                holders: vec![vec![1], vec![], vec![0]],
            },
            Group { data: vec![shard(4)], parity: vec![], holders: vec![] },
        ],
        chunks: vec![chunk(0, Codec::Raw, 5), chunk(1, Codec::Zstd, 6), chunk(2, Codec::Raw, 7)],
        devices: vec![Uid::from_bytes([8; 32]), Uid::from_bytes([9; 32])],
    }
}

#[test]
fn the_bytes_of_a_segment_are_frozen() {
    let bytes = segment().encode();
    assert_eq!(
        (bytes.len(), blake3::hash(&bytes).to_hex().as_str()),
        (401, "8e96d7481acc81b8c65e2a09325a23d3c73b7fe8883b76e2f0e6e7b16f510098")
    );
    assert_eq!(Segment::decode(&bytes), Ok(segment()));
}

fn root() -> Root {
    Root {
        created: UnixSeconds(1_800_000_000),
        host: "host".into(),
        base: b"/home".to_vec(),
        paths: vec![b"/home/a".to_vec(), vec![b'/', 0xff]],
        tags: vec!["daily".into()],
        totals: totals(),
        problems: vec![Problem { path: b"/home/a/b".to_vec(), why: "it cannot be read".into() }],
        problems_total: 501,
        listing: vec![ChunkId([9; 16]), ChunkId([10; 16])],
        segments: vec![object().0],
    }
}

#[test]
fn the_bytes_of_a_root_are_frozen() {
    let bytes = root().encode();
    assert_eq!(
        (bytes.len(), blake3::hash(&bytes).to_hex().as_str()),
        (187, "346d90fe8a6fb421b51a4178c683df2e6a65520a12ba2db6b393c581f4833ee3")
    );
    assert_eq!(Root::decode(&bytes), Ok(root()));
}

/// A head's body of version 1, as a program wrote it on 2026-11-24. How it is compressed may change with the
/// compressor's release; that it is read must not.
const HEAD_BODY: &str = "\
    01e09b2442fe3161ccdcfed25b02622e52370302ec86738c1975b315351c685ded64c5ead625b2366745b38d6a69b6fd0763\
    9c65f707e0d2e5bf98f10f328edd446982f5d877a0897c4db949248e751363fc104f278b450e7fc20b4b6643113fe8fb4e35\
    7eb8c62b8049874bc696c06269968fb28f070a77774d912b4595ec42219edeeeefcedd2ff112e90c0445185295ac41aa9eb6\
    1c6f4edcd4baa7c5b1279d95f42a541f48c744e8bf691b00afc79d70b1143e94cb376043f5a086";

fn head() -> Head {
    let (root, _) = object();
    let point = |n: u64| PointRef {
        created: UnixSeconds(1_800_000_000 + n),
        expires: UnixSeconds(1_807_776_000 + n),
        label: "host /home #daily".into(),
        origin: None,
        tags: Vec::new(),
        totals: totals(),
        root: root.clone(),
        rewritten: None,
    };
    Head { points: vec![point(0), point(3_600)], forgotten: Vec::new() }
}

#[test]
fn a_head_that_was_written_is_read() {
    let (head, (root, _)) = (head(), object());
    assert_eq!(PointId::of(&root).to_string(), hex(&root.shard.address.as_bytes()[..8]));
    let body = data_encoding::HEXLOWER.decode(HEAD_BODY.as_bytes()).unwrap();
    assert_eq!(Head::open(&body, &keys()).unwrap(), head);
}
