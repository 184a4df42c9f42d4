//! Version 1, frozen: `version (1) | postcard of Body`.

use ioex_base::{ContentAddress, Uid, UnixSeconds, wire};
use serde::{Deserialize, Serialize};

use super::{BackupDetails, ChunkRef, Manifest, ManifestError, Policy, ReaderSeed, ShardRef};
use crate::{
    bounded::at_most,
    limits::{CHUNKS_MAX, MANIFEST_MAX_BYTES, ORDER_MAX, SHARDS_MAX},
};

pub(super) const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Body {
    name: String,
    size_bytes: u64,
    content: ContentAddress,
    created: UnixSeconds,
    expires: UnixSeconds,
    policy: Policy,
    placer: Uid,
    reader_seed: ReaderSeed,
    #[serde(deserialize_with = "at_most::<_, _, SHARDS_MAX>")]
    shards: Vec<ShardRef>,
    #[serde(deserialize_with = "at_most::<_, _, CHUNKS_MAX>")]
    chunks: Vec<ChunkRef>,
    #[serde(deserialize_with = "at_most::<_, _, ORDER_MAX>")]
    order: Vec<u32>,
}

pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    let details = manifest.details.clone();
    let body = Body {
        name: details.name,
        size_bytes: manifest.size_bytes,
        content: manifest.content,
        created: details.created,
        expires: details.expires,
        policy: details.policy,
        placer: details.placer,
        reader_seed: details.reader_seed,
        shards: manifest.shards.clone(),
        chunks: manifest.chunks.clone(),
        order: manifest.order.clone(),
    };
    let mut out = vec![VERSION];
    out.append(&mut wire::encode(&body));
    out
}

pub(super) fn decode(body: &[u8]) -> Result<Manifest, ManifestError> {
    let body: Body = wire::decode(body, MANIFEST_MAX_BYTES).map_err(|_| ManifestError::Damaged)?;
    Ok(Manifest {
        details: BackupDetails {
            name: body.name,
            created: body.created,
            expires: body.expires,
            policy: body.policy,
            placer: body.placer,
            reader_seed: body.reader_seed,
        },
        size_bytes: body.size_bytes,
        content: body.content,
        shards: body.shards,
        chunks: body.chunks,
        order: body.order,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ChunkId, ChunkKey, Codec,
        limits::{REPLICAS_MAX, TAG_BYTES},
    };

    /// A manifest of two shards and three chunks, the first of which comes twice.
    pub(crate) fn sample() -> Manifest {
        let chunk = |shard, offset, stored_bytes, plain_bytes, codec, n| ChunkRef {
            shard,
            offset,
            stored_bytes,
            plain_bytes,
            codec,
            key: ChunkKey([n; 32]),
            id: ChunkId([n + 1; 16]),
        };
        Manifest {
            details: BackupDetails {
                name: "a.txt".into(),
                created: UnixSeconds(1_000),
                expires: UnixSeconds(2_000),
                policy: Policy::Replicas(3),
                placer: Uid::from_bytes([8; 32]),
                reader_seed: ReaderSeed([9; 32]),
            },
            size_bytes: 100 + 200 + 50 + 100,
            content: ContentAddress::from_bytes([7; 32]),
            shards: vec![
                ShardRef { address: ContentAddress::from_bytes([5; 32]), bytes: 16_384 },
                ShardRef { address: ContentAddress::from_bytes([6; 32]), bytes: 16_384 },
            ],
            chunks: vec![
                chunk(0, 0, 116, 100, Codec::Raw, 0x10),
                chunk(0, 116, 90, 200, Codec::Zstd, 0x20),
                chunk(1, 4, 66, 50, Codec::Raw, 0x30),
            ],
            order: vec![0, 1, 2, 0],
        }
    }

    #[test]
    fn golden_bytes() {
        let mut want = vec![1, 5];
        want.extend(b"a.txt");
        want.extend([0xc2, 0x03]); // 450 bytes
        want.extend([7; 32]);
        want.extend([0xe8, 0x07, 0xd0, 0x0f]); // created 1,000, expires 2,000
        want.extend([0, 3]); // Replicas(3)
        want.extend([8; 32]);
        want.extend([9; 32]);
        want.push(2);
        for address in [5, 6] {
            want.extend([address; 32]);
            want.extend([0x80, 0x80, 0x01]); // 16,384 bytes
        }
        want.push(3);
        for (head, n) in [
            (&[0, 0, 116, 100, 0][..], 0x10),
            (&[0, 116, 90, 0xc8, 1, 1][..], 0x20),
            (&[1, 4, 66, 50, 0][..], 0x30),
        ] {
            want.extend(head);
            want.extend([n; 32]);
            want.extend([n + 1; 16]);
        }
        want.extend([4, 0, 1, 2, 0]);
        assert_eq!(sample().encode(), want);
        assert_eq!(Manifest::decode(&want), Ok(sample()));
    }

    #[test]
    fn other_versions_and_lengths_are_named() {
        let mut bytes = sample().encode();
        bytes[0] = 2;
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Version { want: 1, got: 2 }));
        assert_eq!(Manifest::decode(&[]), Err(ManifestError::Damaged));
        let long = vec![1; MANIFEST_MAX_BYTES + 1];
        let got = long.len();
        assert_eq!(Manifest::decode(&long), Err(ManifestError::TooLong { max: MANIFEST_MAX_BYTES, got }));
    }

    #[test]
    fn absurd_counts_are_refused_before_they_are_read() {
        let sample = Manifest { shards: vec![], chunks: vec![], order: vec![], size_bytes: 0, ..sample() };
        let bytes = sample.encode();
        let lists = bytes.len() - 3;
        for list in 0..3 {
            let mut absurd = bytes[..lists + list].to_vec();
            absurd.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
            absurd.extend(vec![0; 100]);
            assert_eq!(Manifest::decode(&absurd), Err(ManifestError::Damaged));
        }
    }

    prop_compose! {
        /// Valid manifests: chunk after chunk in shard after shard.
        fn manifests()(
            name in "[a-zé]{1,20}",
            dates in (0..1u64 << 40, 1..1u64 << 40),
            replicas in 1..=REPLICAS_MAX,
            seeds: [u8; 32],
            shards in prop::collection::vec(prop::collection::vec((1..5_000u32, any::<bool>(), any::<[u8; 32]>()), 1..4), 0..4),
            repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) -> Manifest {
            let mut m = sample();
            m.details.name = name;
            m.details.created = UnixSeconds(dates.0);
            m.details.expires = UnixSeconds(dates.0 + dates.1);
            m.details.policy = Policy::Replicas(replicas);
            m.details.reader_seed = ReaderSeed(seeds);
            (m.shards, m.chunks, m.order) = (vec![], vec![], vec![]);
            for (i, chunks) in shards.iter().enumerate() {
                let mut offset = 0;
                for (plain_bytes, squeezed, key) in chunks {
                    let tag = TAG_BYTES as u32;
                    let (codec, payload) = if *squeezed && *plain_bytes > 1 { (Codec::Zstd, plain_bytes - 1) } else { (Codec::Raw, *plain_bytes) };
                    let stored_bytes = payload + tag;
                    m.order.push(m.chunks.len() as u32);
                    m.chunks.push(ChunkRef { shard: i as u32, offset, stored_bytes, plain_bytes: *plain_bytes, codec, key: ChunkKey(*key), id: ChunkId([1; 16]) });
                    offset += stored_bytes;
                }
                m.shards.push(ShardRef { address: ContentAddress::of(&[i as u8]), bytes: offset });
            }
            if !m.chunks.is_empty() {
                m.order.extend(repeats.iter().map(|r| r.index(m.chunks.len()) as u32));
            }
            m.size_bytes = m.order.iter().map(|i| u64::from(m.chunks[*i as usize].plain_bytes)).sum();
            m
        }
    }

    proptest! {
        #[test]
        fn round_trips(manifest in manifests()) {
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn any_bytes_are_handled(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Manifest::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = Manifest::decode(&bytes);
        }

        #[test]
        fn changed_manifests_are_handled(manifest in manifests(), at: prop::sample::Index, to: u8) {
            let mut bytes = manifest.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(read) = Manifest::decode(&bytes) {
                prop_assert_eq!(read.check(), Ok(()));
            }
            let _ = Manifest::decode(&bytes[..at]);
        }
    }
}
