//! The index in memory: where every chunk of a repository lies.

use std::collections::{HashMap, HashSet};

use ioex_base::ContentAddress;

use super::{
    object::ObjectRef,
    segment::{Group, Segment},
};
use crate::manifest::{ChunkId, ChunkRef, ShardRef};

/// All known segments. About a hundred bytes for each chunk.
#[derive(Debug, Default)]
pub struct Index {
    segments: Vec<Known>,
    chunks: HashMap<ChunkId, (u32, u32)>,
    lost: HashSet<ContentAddress>,
}

#[derive(Debug)]
struct Known {
    /// Where the segment itself is stored; not yet for one of an unfinished run.
    stored: Option<ObjectRef>,
    segment: Segment,
    /// For each data shard its group and its place in it.
    places: Vec<(u32, u32)>,
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug)]
pub struct Found<'i> {
    /// The chunk; its `shard` counts within the segment.
    pub chunk: &'i ChunkRef,
    /// Its shard.
    pub shard: &'i ShardRef,
    /// The shard's group.
    pub group: &'i Group,
    /// Which group of its segment that is.
    pub group_at: usize,
    /// The shard's place in the group.
    pub place: usize,
    /// Which segment says so.
    pub segment: usize,
}

impl Index {
    /// Adds a segment. Where several say where a chunk lies, the first one counts that does not name
    /// a shard that was lost before: so newer segments are added before older ones.
    pub fn add(&mut self, stored: Option<ObjectRef>, segment: Segment) {
        let at = self.segments.len() as u32;
        let lost: HashSet<ChunkId> = if self.lost.is_empty() {
            HashSet::new()
        } else {
            let known = segment.chunks.iter().map(|chunk| chunk.id);
            known.filter(|id| self.chunks.contains_key(id) && self.get(id).is_none()).collect()
        };
        for (place, chunk) in (0..).zip(&segment.chunks) {
            if lost.contains(&chunk.id) {
                self.chunks.insert(chunk.id, (at, place));
            } else {
                self.chunks.entry(chunk.id).or_insert((at, place));
            }
        }
        let mut places = Vec::new();
        for (group, members) in (0..).zip(&segment.groups) {
            places.extend((0..members.data.len() as u32).map(|place| (group, place)));
        }
        self.segments.push(Known { stored, segment, places });
    }

    /// From now on chunks in this shard count as not stored, because it is lost for good.
    pub fn lose(&mut self, shard: ContentAddress) {
        self.lost.insert(shard);
    }

    /// Where a chunk lies; `None` when it is not stored, or lost.
    #[must_use]
    pub fn get(&self, id: &ChunkId) -> Option<Found<'_>> {
        let (at, place) = self.chunks.get(id).copied()?;
        let known = self.segments.get(at as usize)?;
        let chunk = known.segment.chunks.get(place as usize)?;
        let (group, member) = known.places.get(chunk.shard as usize).copied()?;
        let group_at = group as usize;
        let group = known.segment.groups.get(group_at)?;
        let shard = group.data.get(member as usize)?;
        if !self.lost.is_empty() && self.lost.contains(&shard.address) {
            return None;
        }
        Some(Found { chunk, shard, group, group_at, place: member as usize, segment: at as usize })
    }

    /// A group of a segment, with the devices that took each of its shards.
    #[must_use]
    pub fn group(&self, segment: usize, group: usize) -> Option<(&Group, Vec<Vec<ioex_base::Uid>>)> {
        let known = &self.segments.get(segment)?.segment;
        let group = known.groups.get(group)?;
        let uid = |at: &u16| known.devices.get(usize::from(*at)).copied();
        let holders = group.holders.iter().map(|list| list.iter().filter_map(uid).collect()).collect();
        Some((group, holders))
    }

    /// How many segments are known.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Where a segment is stored.
    #[must_use]
    pub fn stored(&self, segment: usize) -> Option<&ObjectRef> {
        self.segments.get(segment)?.stored.as_ref()
    }

    /// Whether the segment stored at `address` is known.
    #[must_use]
    pub fn knows(&self, address: &ContentAddress) -> bool {
        self.segments.iter().any(|k| k.stored.as_ref().is_some_and(|s| s.shard.address == *address))
    }

    /// A segment's device, for the hints of its groups.
    #[must_use]
    pub fn hints(&self, found: &Found<'_>, place: usize) -> Vec<ioex_base::Uid> {
        let devices =
            self.segments.get(found.segment).map(|k| k.segment.devices.as_slice()).unwrap_or_default();
        let list = found.group.holders.get(place).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|at| devices.get(usize::from(*at)).copied()).collect()
    }

    /// How many chunks are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::segment::tests::sample;

    #[test]
    fn chunks_are_found_with_their_group_and_hints() {
        let mut index = Index::default();
        index.add(None, Segment::default());
        index.add(None, sample());
        let found = index.get(&ChunkId([6; 16])).unwrap();
        assert_eq!((found.place, found.segment, found.shard.bytes), (1, 1, 16_384));
        assert_eq!(found.group.parity.len(), 1);
        assert!(index.hints(&found, 1).is_empty());
        let other = index.get(&ChunkId([5; 16])).unwrap();
        assert_eq!(index.hints(&other, 0), sample().devices);
        let shard = other.shard.address;
        index.lose(shard);
        assert!(index.get(&ChunkId([5; 16])).is_none());
        assert!(index.get(&ChunkId([1; 16])).is_none());
        // It was stored again, elsewhere.
        let mut again = sample();
        again.groups[0].data[0].address = ContentAddress::from_bytes([77; 32]);
        index.add(None, again);
        assert_eq!(index.get(&ChunkId([5; 16])).unwrap().segment, 2);
        assert_eq!(index.get(&ChunkId([6; 16])).unwrap().segment, 1, "the first one counts");
        assert_eq!(index.len(), 2);
    }
}
