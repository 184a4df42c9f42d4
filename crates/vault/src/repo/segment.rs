//! A segment: what one run stored, and where. The index of a repository is all its segments.
//!
//! Version 1, frozen: `kind (1) = 1 | version (1) = 1 | postcard of Segment`, stored as an object
//! (module `object`).

use std::collections::BTreeMap;

use ioex_base::{Uid, limits::SHARD_MAX_BYTES, wire};
use serde::{Deserialize, Serialize};

use super::object::OBJECT_MAX_BYTES;
use crate::{
    bounded::at_most,
    limits::{REPO_CUTS, TAG_BYTES},
    manifest::{ChunkRef, ShardRef},
};

const HEADER: [u8; 2] = [1, 1];

/// Most chunks in a segment: with the longest entries they still fit an object.
pub const SEGMENT_CHUNKS_MAX: usize = 24_000;
/// Most groups in a segment: each has at least one chunk.
const GROUPS_MAX: usize = SEGMENT_CHUNKS_MAX;
/// Most shards of either kind in a group.
pub const GROUP_SHARDS_MAX: usize = 128;
/// Most devices that a segment names.
const DEVICES_MAX: usize = 4_096;

/// Shards that protect each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The shards with the chunks, in order.
    #[serde(deserialize_with = "at_most::<_, _, GROUP_SHARDS_MAX>")]
    pub data: Vec<ShardRef>,
    /// The shards from which lost ones are computed; none where whole copies protect. Any
    /// `data.len()` of all the shards suffice.
    #[serde(deserialize_with = "at_most::<_, _, GROUP_SHARDS_MAX>")]
    pub parity: Vec<ShardRef>,
    /// For each shard, data first, the devices that took it when it was stored: indexes into
    /// [`Segment::devices`]. A hint: devices come and go, and the directory knows better.
    #[serde(deserialize_with = "at_most::<_, _, { 2 * GROUP_SHARDS_MAX }>")]
    pub holders: Vec<Vec<u16>>,
}

impl Group {
    /// All shards, data first.
    pub fn shards(&self) -> impl Iterator<Item = &ShardRef> {
        self.data.iter().chain(&self.parity)
    }
}

/// What one run stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The groups.
    #[serde(deserialize_with = "at_most::<_, _, GROUPS_MAX>")]
    pub groups: Vec<Group>,
    /// The chunks; their `shard` counts the data shards of all groups in order.
    #[serde(deserialize_with = "at_most::<_, _, SEGMENT_CHUNKS_MAX>")]
    pub chunks: Vec<ChunkRef>,
    /// The devices.
    #[serde(deserialize_with = "at_most::<_, _, DEVICES_MAX>")]
    pub devices: Vec<Uid>,
}

/// Why bytes are no segment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SegmentError {
    /// Written by a newer program, or something else.
    #[error("an index segment of an unknown version: update this program")]
    Version,
    /// Cut, changed, or contradicting itself.
    #[error("an index segment is damaged: {0}")]
    Damaged(&'static str),
}

impl Segment {
    /// The bytes of the newest version.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        out.append(&mut wire::encode(self));
        out
    }

    /// Reads and checks a segment.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let body = bytes.strip_prefix(&HEADER).ok_or(SegmentError::Version)?;
        let segment: Self =
            wire::decode(body, OBJECT_MAX_BYTES).map_err(|_| SegmentError::Damaged("it cannot be read"))?;
        segment.check()?;
        Ok(segment)
    }

    fn check(&self) -> Result<(), SegmentError> {
        let damaged = |what| Err(SegmentError::Damaged(what));
        let shards: Vec<&ShardRef> = self.groups.iter().flat_map(|g| &g.data).collect();
        if self.groups.iter().any(|g| g.data.is_empty()) {
            return damaged("a group without shards");
        }
        let lengths = self.groups.iter().flat_map(Group::shards);
        if lengths.map(|s| u64::from(s.bytes)).any(|bytes| bytes == 0 || bytes > SHARD_MAX_BYTES) {
            return damaged("the length of a shard");
        }
        let holders = self.groups.iter().flat_map(|g| &g.holders).flatten();
        if holders.into_iter().any(|at| usize::from(*at) >= self.devices.len()) {
            return damaged("a device that it does not name");
        }
        for chunk in &self.chunks {
            let Some(shard) = shards.get(chunk.shard as usize) else { return damaged("a chunk in no shard") };
            let end = chunk.offset.checked_add(chunk.stored_bytes);
            if end.is_none_or(|end| end > shard.bytes) || chunk.stored_bytes as usize <= TAG_BYTES {
                return damaged("a chunk outside of its shard");
            }
            if chunk.plain_bytes == 0 || chunk.plain_bytes as usize > REPO_CUTS.max_bytes {
                return damaged("the length of a chunk");
            }
        }
        Ok(())
    }

    /// The group of a data shard, and the shard's place in it.
    #[must_use]
    pub fn group_of(&self, shard: u32) -> Option<(&Group, usize)> {
        let mut rest = shard as usize;
        for group in &self.groups {
            if rest < group.data.len() {
                return Some((group, rest));
            }
            rest -= group.data.len();
        }
        None
    }

    /// Adds what another segment says.
    pub fn append(&mut self, other: &Self) {
        let shift: usize = self.groups.iter().map(|g| g.data.len()).sum();
        for group in &other.groups {
            let mut group = group.clone();
            for list in &mut group.holders {
                let uids: Vec<Uid> =
                    list.iter().filter_map(|at| other.devices.get(usize::from(*at)).copied()).collect();
                *list = uids.into_iter().filter_map(|uid| self.device(uid)).collect();
            }
            self.groups.push(group);
        }
        let moved = |c: &ChunkRef| ChunkRef { shard: c.shard.saturating_add(shift as u32), ..c.clone() };
        self.chunks.extend(other.chunks.iter().map(moved));
    }

    /// What is left of it when only some groups and chunks are needed; groups without chunks go too.
    #[must_use]
    pub fn filtered(
        &self,
        group: impl Fn(&Group) -> bool,
        chunk: impl Fn(&Group, usize, &ChunkRef) -> bool,
    ) -> Self {
        let mut out = Self { devices: self.devices.clone(), ..Self::default() };
        let mut chunks: BTreeMap<u32, Vec<&ChunkRef>> = BTreeMap::new();
        for known in &self.chunks {
            chunks.entry(known.shard).or_default().push(known);
        }
        let (mut before, mut kept) = (0u32, 0u32);
        for known in &self.groups {
            let shards = known.data.len() as u32;
            if !group(known) {
                before = before.saturating_add(shards);
                continue;
            }
            let own: Vec<ChunkRef> = (chunks.range(before..before.saturating_add(shards)))
                .flat_map(|(_, list)| list)
                .filter(|c| chunk(known, (c.shard - before) as usize, c))
                .map(|c| ChunkRef { shard: c.shard - before + kept, ..(*c).clone() })
                .collect();
            if !own.is_empty() {
                out.groups.push(known.clone());
                out.chunks.extend(own);
                kept += shards;
            }
            before = before.saturating_add(shards);
        }
        out
    }

    /// Joins segments, in their order, into few that are objects.
    #[must_use]
    pub fn joined(parts: Vec<Self>) -> Vec<Self> {
        let mut out: Vec<(Self, usize)> = Vec::new();
        for part in parts.into_iter().filter(|part| !part.chunks.is_empty()) {
            // Joined they are shorter than the sum: devices are named once.
            let bytes = part.encode().len();
            match out.last_mut() {
                Some((last, sum))
                    if last.chunks.len() + part.chunks.len() <= SEGMENT_CHUNKS_MAX
                        && *sum + bytes <= OBJECT_MAX_BYTES =>
                {
                    last.append(&part);
                    *sum += bytes;
                }
                _ => out.push((part, bytes)),
            }
        }
        out.into_iter().map(|(segment, _)| segment).collect()
    }

    /// The index of a device, added when it is new; `None` when there are too many.
    pub fn device(&mut self, uid: Uid) -> Option<u16> {
        let known = self.devices.iter().position(|known| *known == uid);
        let at = known.unwrap_or(self.devices.len());
        if at >= DEVICES_MAX {
            return None;
        }
        if known.is_none() {
            self.devices.push(uid);
        }
        u16::try_from(at).ok()
    }
}

const CHUNK_ENTRY_MAX_BYTES: usize = 3 + 4 + 4 + 3 + 1 + 32 + 16;
const _: () = assert!(
    SEGMENT_CHUNKS_MAX * CHUNK_ENTRY_MAX_BYTES < OBJECT_MAX_BYTES * 3 / 4,
    "the chunks leave room for groups and devices"
);

#[cfg(test)]
pub(crate) mod tests {
    use ioex_base::ContentAddress;
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::{ChunkId, ChunkKey, Codec};

    pub(crate) fn sample() -> Segment {
        let shard = |n: u8| ShardRef { address: ContentAddress::from_bytes([n; 32]), bytes: 16_384 };
        let chunk = |shard, offset, n| ChunkRef {
            shard,
            offset,
            stored_bytes: 100,
            plain_bytes: 84,
            codec: Codec::Raw,
            key: ChunkKey([n; 32]),
            id: ChunkId([n; 16]),
        };
        Segment {
            groups: vec![
                Group { data: vec![shard(1)], parity: vec![], holders: vec![vec![0, 1]] },
                Group { data: vec![shard(2), shard(3)], parity: vec![shard(4)], holders: vec![] },
            ],
            chunks: vec![chunk(0, 0, 5), chunk(2, 7, 6)],
            devices: vec![Uid::from_bytes([8; 32]), Uid::from_bytes([9; 32])],
        }
    }

    #[test]
    fn golden_bytes() {
        let mut want = vec![1, 1, 2];
        let shard = |n: u8| [vec![n; 32], vec![0x80, 0x80, 1]].concat();
        want.push(1);
        want.extend(shard(1));
        want.extend([0, 1, 2, 0, 1]);
        want.push(2);
        want.extend([shard(2), shard(3)].concat());
        want.push(1);
        want.extend(shard(4));
        want.extend([0, 2]);
        for (head, n) in [([0, 0, 100, 84, 0], 5), ([2, 7, 100, 84, 0], 6)] {
            want.extend(head);
            want.extend([n; 32]);
            want.extend([n; 16]);
        }
        want.push(2);
        want.extend([[8; 32], [9; 32]].concat());
        assert_eq!(sample().encode(), want);
        assert_eq!(Segment::decode(&want), Ok(sample()));
    }

    #[test]
    fn contradictions_are_refused() {
        let bad = |change: fn(&mut Segment)| {
            let mut segment = sample();
            change(&mut segment);
            Segment::decode(&segment.encode())
        };
        assert!(bad(|_| ()).is_ok());
        assert!(bad(|s| s.chunks[1].shard = 3).is_err());
        assert!(bad(|s| s.chunks[0].offset = 16_300).is_err());
        assert!(bad(|s| s.chunks[0].stored_bytes = 16).is_err());
        assert!(bad(|s| s.chunks[0].plain_bytes = 1 << 20).is_err());
        assert!(bad(|s| s.groups[0].data.clear()).is_err());
        assert!(bad(|s| s.groups[0].data[0].bytes = 0).is_err());
        assert!(bad(|s| s.devices.clear()).is_err());
        assert_eq!(Segment::decode(&[1, 2, 0, 0, 0]), Err(SegmentError::Version));
    }

    #[test]
    fn what_is_left_of_a_segment_stands_in_its_place() {
        let all = sample().filtered(|_| true, |_, _, _| true);
        assert_eq!(all, sample());
        let placed = sample().filtered(|_| true, |_, place, _| place == 1);
        assert_eq!(placed.chunks.iter().map(|c| c.id).collect::<Vec<_>>(), [ChunkId([6; 16])]);
        let second = sample().filtered(|g| !g.parity.is_empty(), |_, _, _| true);
        assert_eq!(second.groups, sample().groups[1..]);
        assert_eq!((second.chunks.len(), second.chunks[0].shard), (1, 1));
        assert_eq!(second.chunks[0].id, sample().chunks[1].id);
        let first = sample().filtered(|_| true, |_, _, c| c.id == ChunkId([5; 16]));
        assert_eq!((first.groups.len(), first.chunks.len()), (1, 1));
        let joined = Segment::joined(vec![second, Segment::default(), first]);
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].chunks.iter().map(|c| c.shard).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(Segment::decode(&joined[0].encode()).as_ref(), Ok(&joined[0]));
    }

    #[test]
    fn appending_moves_shards_and_devices() {
        let mut one = sample();
        let mut other = sample();
        other.devices.reverse();
        one.append(&other);
        assert_eq!(one.chunks[2].shard, 3);
        assert_eq!(one.chunks[3].shard, 5);
        assert_eq!(one.groups[2].holders, [[1, 0]]);
        assert_eq!(one.group_of(5), Some((&sample().groups[1], 1)).filter(|_| true));
        assert!(one.group_of(6).is_none());
        assert_eq!(Segment::decode(&one.encode()), Ok(one));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Segment::decode(&tail);
            let _ = Segment::decode(&[HEADER.to_vec(), tail].concat());
        }
    }
}
