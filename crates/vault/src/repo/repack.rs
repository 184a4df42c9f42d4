//! Giving space back inside of groups: which groups hold little that is still needed, and packing that
//! into new shards. Chunks move as they are stored, encrypted; they are not made anew.

use std::{collections::BTreeMap, io};

use ioex_base::{ContentAddress, Uid};

use super::{
    encode::{Filling, PackedShard},
    index::{Found, Index},
    plan::Wanted,
    segment::Group,
};
use crate::{
    manifest::{ChunkId, ChunkRef},
    owner::{OwnerKey, Secrets},
    shard::padded_bytes,
};

/// How much of what is stored may be unused, in percent, unless the owner says otherwise.
/// Moving costs a read and a write of what is still used; below this it is hardly worth it.
pub const MAX_UNUSED_PERCENT: u8 = 10;
/// Moving has to give back this part of the moved groups at least, in percent: otherwise what is only
/// padding would be moved again and again.
const GAIN_MIN_PERCENT: u64 = 20;
/// So much of a group may be padding, in percent of what is used.
const PADDING_PERCENT: u64 = 12;
const PERCENT: u64 = 100;

/// What restore points use of a group.
#[derive(Clone, Debug)]
pub struct Used {
    group: Group,
    hints: Vec<Vec<Uid>>,
    /// By the shard's place in the group and the offset in it.
    chunks: BTreeMap<(usize, u32), ChunkRef>,
}

impl Used {
    /// Bytes of its data shards.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.group.data.iter().map(|s| u64::from(s.bytes)).sum()
    }

    /// Bytes of the chunks that are used.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.chunks.values().map(|c| u64::from(c.stored_bytes)).sum()
    }

    /// What is to be fetched of each data shard to have the used chunks, without those that `skip` names.
    pub fn wanted(&self, skip: impl Fn(&ChunkId) -> bool) -> Vec<Wanted> {
        let alone = self.group.parity.is_empty();
        let mut out: BTreeMap<usize, Wanted> = BTreeMap::new();
        for ((place, _), chunk) in &self.chunks {
            let Some(shard) = self.group.data.get(*place).filter(|_| !skip(&chunk.id)) else { continue };
            let hint = || self.hints.get(*place).cloned().unwrap_or_default();
            let wanted = out.entry(*place).or_insert_with(|| Wanted {
                shard: *shard,
                data: if alone { vec![*shard] } else { self.group.data.clone() },
                parity: self.group.parity.clone(),
                place: if alone { 0 } else { *place },
                hints: if alone { vec![hint()] } else { self.hints.clone() },
                chunks: Vec::new(),
            });
            wanted.chunks.push((chunk.clone(), Vec::new()));
        }
        out.into_values().collect()
    }
}

/// What restore points use of all groups, by the address of each group's first shard.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    groups: BTreeMap<ContentAddress, Used>,
}

impl Usage {
    /// Notes that a chunk is used where `found` says; returns its group's name.
    pub fn add(&mut self, index: &Index, found: &Found<'_>) -> Option<ContentAddress> {
        let first = found.group.data.first()?.address;
        let used = self.groups.entry(first).or_insert_with(|| Used {
            group: found.group.clone(),
            hints: (0..found.group.shards().count()).map(|place| index.hints(found, place)).collect(),
            chunks: BTreeMap::new(),
        });
        used.chunks.entry((found.place, found.chunk.offset)).or_insert_with(|| found.chunk.clone());
        Some(first)
    }

    /// The groups that are used at all.
    pub fn groups(&self) -> impl Iterator<Item = &ContentAddress> {
        self.groups.keys()
    }

    /// What is used of a group.
    #[must_use]
    pub fn get(&self, group: &ContentAddress) -> Option<&Used> {
        self.groups.get(group)
    }

    /// The chunks that are used in a group.
    pub fn ids(&self, group: &ContentAddress) -> impl Iterator<Item = ChunkId> + '_ {
        self.groups.get(group).into_iter().flat_map(|used| used.chunks.values().map(|chunk| chunk.id))
    }

    /// Whether a chunk is used that lies in this data shard of the group.
    #[must_use]
    pub fn uses(&self, group: &Group, place: usize, chunk: &ChunkRef) -> bool {
        let used = group.data.first().and_then(|shard| self.groups.get(&shard.address));
        used.is_some_and(|used| used.chunks.contains_key(&(place, chunk.offset)))
    }

    /// The groups to move, those with the least use first, so that at most `max_unused` percent of what
    /// is stored lies unused in the others; none when that would give hardly anything back. Only groups
    /// for which `movable` holds are moved.
    pub fn half_used(
        &self,
        max_unused: u8,
        movable: impl Fn(&ContentAddress) -> bool,
    ) -> Vec<ContentAddress> {
        let (mut unused, mut used) = (0u64, 0u64);
        let mut rows = Vec::new();
        for (id, group) in &self.groups {
            let (all, needed) = (group.data_bytes(), group.used_bytes());
            (unused, used) = (unused + all.saturating_sub(needed), used + needed);
            if movable(id) && all > 0 {
                rows.push((needed * PERCENT * PERCENT / all, *id, all, needed));
            }
        }
        rows.sort_unstable();
        let (mut out, mut old, mut new) = (Vec::new(), 0, 0usize);
        for (_, id, all, needed) in rows {
            let idle = all.saturating_sub(needed);
            let enough = unused * PERCENT <= (unused + used) * u64::from(max_unused);
            if enough || idle * PERCENT <= needed * PADDING_PERCENT {
                break;
            }
            unused = unused.saturating_sub(idle);
            (old, new) = (old + all, new + needed as usize);
            out.push(id);
        }
        let packed = padded_bytes(new) as u64;
        if old.saturating_sub(packed) * PERCENT >= old * GAIN_MIN_PERCENT { out } else { Vec::new() }
    }
}

/// Packs stored chunks into new shards.
pub struct Repacker {
    secrets: Secrets,
    max: (usize, usize),
    filling: Filling,
}

impl Repacker {
    /// Makes shards of at most `shard_bytes` bytes of chunks and `shard_chunks` chunks.
    #[must_use]
    pub fn new(owner: &OwnerKey, shard_bytes: usize, shard_chunks: usize) -> Self {
        Self { secrets: owner.secrets(), max: (shard_bytes, shard_chunks), filling: Filling::default() }
    }

    /// Adds a chunk, given the bytes that are stored of it; returns the shard that it did not fit.
    ///
    /// # Errors
    /// When the bytes have another length than the chunk.
    pub fn push(&mut self, chunk: &ChunkRef, sealed: &[u8]) -> io::Result<Option<PackedShard>> {
        if sealed.len() != chunk.stored_bytes as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a chunk of another length"));
        }
        Ok(self.filling.push(&self.secrets, self.max, chunk.into(), sealed))
    }

    /// The last shard.
    pub fn finish(&mut self) -> Option<PackedShard> {
        self.filling.close(&self.secrets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifest::{ChunkKey, Codec, ShardRef},
        repo::Segment,
    };

    /// Groups of one shard of 1 MiB with ten chunks of 100,000 bytes.
    fn index(groups: u8) -> Index {
        let mut segment = Segment::default();
        for n in 0..groups {
            let shard = ShardRef { address: ContentAddress::from_bytes([n; 32]), bytes: 1 << 20 };
            segment.groups.push(Group { data: vec![shard], ..Group::default() });
            segment.chunks.extend((0..10).map(|at| chunk(n, at)));
        }
        let mut index = Index::default();
        index.add(None, segment);
        index
    }

    fn chunk(group: u8, at: u8) -> ChunkRef {
        let mut id = [0; 16];
        (id[0], id[1]) = (group, at);
        ChunkRef {
            shard: u32::from(group),
            offset: u32::from(at) * 100_000,
            stored_bytes: 100_000,
            plain_bytes: 99_984,
            codec: Codec::Raw,
            key: ChunkKey([at; 32]),
            id: ChunkId(id),
        }
    }

    fn usage(of: &[u8]) -> Usage {
        let index = index(of.len() as u8);
        let mut usage = Usage::default();
        for (group, count) in (0..).zip(of) {
            for at in 0..*count {
                // Twice, as by two restore points.
                for _ in 0..2 {
                    let found = index.get(&chunk(group, at).id).unwrap();
                    usage.add(&index, &found).unwrap();
                }
            }
        }
        usage
    }

    fn name(n: u8) -> ContentAddress {
        ContentAddress::from_bytes([n; 32])
    }

    #[test]
    fn the_least_used_groups_move_until_little_is_unused() {
        let all = |_: &ContentAddress| true;
        assert_eq!(usage(&[10, 10, 10]).half_used(10, all), []);
        assert_eq!(usage(&[10, 1, 10, 3]).half_used(10, all), [name(1), name(3)]);
        // Padding is allowed for, a single half-used group among many too.
        assert_eq!(usage(&[10, 10, 10, 10, 10, 10, 10, 10, 10, 9]).half_used(10, all), []);
        assert_eq!(usage(&[10, 1, 10, 3]).half_used(10, |id| *id != name(1)), [name(3)]);
        assert_eq!(usage(&[10, 1]).half_used(100, all), []);
        assert_eq!(usage(&[10, 1]).half_used(0, all), [name(1)]);
    }

    #[test]
    fn what_is_only_padding_is_not_moved() {
        let mut small = usage(&[1]);
        let used = small.groups.get_mut(&name(0)).unwrap();
        used.group.data[0].bytes = 16_384;
        used.chunks.values_mut().for_each(|c| c.stored_bytes = 500);
        assert_eq!(small.half_used(0, |_| true), []);
    }

    #[test]
    fn moved_chunks_keep_their_bytes_and_keys() {
        let usage = usage(&[3]);
        let used = usage.get(&name(0)).unwrap();
        assert_eq!((used.used_bytes(), used.data_bytes()), (300_000, 1 << 20));
        let uses = |at| usage.uses(&used.group, 0, &chunk(0, at));
        assert!(uses(2) && !uses(3) && usage.ids(&name(0)).count() == 3);
        let wanted = used.wanted(|id| *id == chunk(0, 1).id);
        assert_eq!(wanted.len(), 1);
        assert_eq!(wanted[0].chunks.iter().map(|(c, _)| c.offset).collect::<Vec<_>>(), [0, 200_000]);
        let mut repacker = Repacker::new(&OwnerKey::from_bytes([3; 32]), 150_000, 100);
        let one = crate::testing::noise(100_000, 1);
        assert!(repacker.push(&wanted[0].chunks[0].0, &one[1..]).is_err());
        assert!(repacker.push(&wanted[0].chunks[0].0, &one).unwrap().is_none());
        let full = repacker.push(&wanted[0].chunks[1].0, &one).unwrap().unwrap();
        assert!(full.bytes.starts_with(&one) && full.chunks.len() == 1);
        let last = repacker.finish().unwrap();
        assert_eq!(last.chunks, [ChunkRef { shard: 0, offset: 0, ..chunk(0, 2) }]);
        assert!(repacker.finish().is_none());
    }
}
