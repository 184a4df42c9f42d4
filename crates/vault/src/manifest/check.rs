//! What makes a manifest one that can be restored, one rule to a function, cheapest first.

use std::collections::HashSet;

use ioex_base::{UnixSeconds, limits::SHARD_MAX_BYTES};

use super::{ChunkRef, Codec, Manifest};
use crate::{
    limits::{CHUNK_MAX_BYTES, CHUNKS_MAX, FILE_MAX_BYTES, ORDER_MAX, REPLICAS_MAX, SHARDS_MAX, TAG_BYTES},
    name::{NameError, safe_file_name},
};

/// How a manifest contradicts itself. Indexes count from 0.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum InvalidManifest {
    /// The file's name would be dangerous.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It ends before it was made.
    #[error("it expires at {} but was made at {} (seconds since 1970)", .expires.0, .created.0)]
    Dates {
        /// When it was made.
        created: UnixSeconds,
        /// When it ends.
        expires: UnixSeconds,
    },
    /// No copies, or too many.
    #[error("{got} copies, between 1 and {REPLICAS_MAX} are possible")]
    Replicas {
        /// What it says.
        got: u8,
    },
    /// A list is too long.
    #[error("{got} {what}, at most {max} are possible")]
    Count {
        /// Which list.
        what: &'static str,
        /// The bound.
        max: usize,
        /// What it has.
        got: usize,
    },
    /// The file is larger than any may be.
    #[error("a file of {got} bytes, at most {max} are possible")]
    FileSize {
        /// The bound in bytes.
        max: u64,
        /// What it says, in bytes.
        got: u64,
    },
    /// A shard is empty or too long.
    #[error("shard {index} has {bytes} bytes, between 1 and {SHARD_MAX_BYTES} are possible")]
    ShardLength {
        /// Which shard.
        index: usize,
        /// What it says, in bytes.
        bytes: u32,
    },
    /// A shard stands in the list twice.
    #[error("shard {index} is listed twice")]
    ShardTwice {
        /// Its second place.
        index: usize,
    },
    /// A shard without chunks: nothing would ever ask for it.
    #[error("shard {index} holds no chunk")]
    ShardUnused {
        /// Which shard.
        index: usize,
    },
    /// A chunk's lengths are impossible for its codec.
    #[error("chunk {index} has impossible lengths")]
    ChunkLength {
        /// Which chunk.
        index: usize,
    },
    /// A chunk lies in no shard or beyond its end.
    #[error("chunk {index} lies outside of its shard")]
    ChunkRange {
        /// Which chunk.
        index: usize,
    },
    /// Two chunks share bytes of a shard.
    #[error("chunk {index} overlaps another one")]
    ChunkOverlap {
        /// One of the two.
        index: usize,
    },
    /// A chunk that the file does not contain.
    #[error("chunk {index} is not part of the file")]
    ChunkUnused {
        /// Which chunk.
        index: usize,
    },
    /// The file's order names a chunk that does not exist.
    #[error("entry {index} of the file names a chunk that is not listed")]
    Order {
        /// Which entry.
        index: usize,
    },
    /// The chunks together are not as long as the file.
    #[error("the chunks have {got} bytes together, the file {expected}")]
    SizeSum {
        /// The file's length in bytes.
        expected: u64,
        /// The chunks' sum in bytes.
        got: u64,
    },
}

pub(super) fn check(m: &Manifest) -> Result<(), InvalidManifest> {
    safe_file_name(&m.details.name)?;
    dates_and_copies(m)?;
    counts(m)?;
    shards(m)?;
    for (index, chunk) in m.chunks.iter().enumerate() {
        chunk_lengths(index, chunk)?;
        chunk_lies_in_its_shard(m, index, chunk)?;
    }
    order_gives_the_size(m)?;
    chunks_share_nothing_and_shards_are_used(m)
}

fn dates_and_copies(m: &Manifest) -> Result<(), InvalidManifest> {
    let (created, expires) = (m.details.created, m.details.expires);
    if expires <= created {
        return Err(InvalidManifest::Dates { created, expires });
    }
    let got = m.details.policy.replicas();
    if got == 0 || got > REPLICAS_MAX {
        return Err(InvalidManifest::Replicas { got });
    }
    Ok(())
}

fn counts(m: &Manifest) -> Result<(), InvalidManifest> {
    if m.size_bytes > FILE_MAX_BYTES {
        return Err(InvalidManifest::FileSize { max: FILE_MAX_BYTES, got: m.size_bytes });
    }
    for (what, got, max) in [
        ("shards", m.shards.len(), SHARDS_MAX),
        ("chunks", m.chunks.len(), CHUNKS_MAX),
        ("pieces of the file", m.order.len(), ORDER_MAX),
    ] {
        if got > max {
            return Err(InvalidManifest::Count { what, max, got });
        }
    }
    Ok(())
}

fn shards(m: &Manifest) -> Result<(), InvalidManifest> {
    let mut seen = HashSet::with_capacity(m.shards.len());
    for (index, shard) in m.shards.iter().enumerate() {
        if shard.bytes == 0 || u64::from(shard.bytes) > SHARD_MAX_BYTES {
            return Err(InvalidManifest::ShardLength { index, bytes: shard.bytes });
        }
        if !seen.insert(shard.address) {
            return Err(InvalidManifest::ShardTwice { index });
        }
    }
    Ok(())
}

fn chunk_lengths(index: usize, chunk: &ChunkRef) -> Result<(), InvalidManifest> {
    let plain = chunk.plain_bytes as usize;
    let payload = (chunk.stored_bytes as usize).checked_sub(TAG_BYTES);
    let fits = match (chunk.codec, payload) {
        (_, None) => false,
        (Codec::Raw, Some(payload)) => payload == plain,
        (Codec::Zstd, Some(payload)) => (1..plain).contains(&payload),
    };
    if plain == 0 || plain > CHUNK_MAX_BYTES || !fits {
        return Err(InvalidManifest::ChunkLength { index });
    }
    Ok(())
}

fn chunk_lies_in_its_shard(m: &Manifest, index: usize, chunk: &ChunkRef) -> Result<(), InvalidManifest> {
    let shard = m.shards.get(chunk.shard as usize);
    let inside = shard.is_some_and(|s| end(chunk) <= u64::from(s.bytes));
    if inside { Ok(()) } else { Err(InvalidManifest::ChunkRange { index }) }
}

fn end(chunk: &ChunkRef) -> u64 {
    u64::from(chunk.offset) + u64::from(chunk.stored_bytes)
}

fn order_gives_the_size(m: &Manifest) -> Result<(), InvalidManifest> {
    let mut used = vec![false; m.chunks.len()];
    let mut got = 0u64;
    for (index, entry) in m.order.iter().enumerate() {
        let at = *entry as usize;
        let (Some(chunk), Some(used)) = (m.chunks.get(at), used.get_mut(at)) else {
            return Err(InvalidManifest::Order { index });
        };
        *used = true;
        got = got.saturating_add(u64::from(chunk.plain_bytes));
    }
    if got != m.size_bytes {
        return Err(InvalidManifest::SizeSum { expected: m.size_bytes, got });
    }
    match used.iter().position(|used| !used) {
        Some(index) => Err(InvalidManifest::ChunkUnused { index }),
        None => Ok(()),
    }
}

fn chunks_share_nothing_and_shards_are_used(m: &Manifest) -> Result<(), InvalidManifest> {
    let mut by_place: Vec<(u32, u32, u64, usize)> =
        m.chunks.iter().enumerate().map(|(i, c)| (c.shard, c.offset, end(c), i)).collect();
    by_place.sort_unstable();
    for (before, after) in by_place.iter().zip(by_place.iter().skip(1)) {
        if before.0 == after.0 && before.2 > u64::from(after.1) {
            return Err(InvalidManifest::ChunkOverlap { index: after.3 });
        }
    }
    let mut used = vec![false; m.shards.len()];
    for chunk in &m.chunks {
        if let Some(used) = used.get_mut(chunk.shard as usize) {
            *used = true;
        }
    }
    match used.iter().position(|used| !used) {
        Some(index) => Err(InvalidManifest::ShardUnused { index }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Policy, sample};

    fn with(change: impl FnOnce(&mut Manifest)) -> Result<(), InvalidManifest> {
        let mut manifest = sample();
        change(&mut manifest);
        let checked = manifest.check();
        // Whatever is refused in memory is refused from bytes too.
        assert_eq!(Manifest::decode(&manifest.encode()).is_ok(), checked.is_ok());
        checked
    }

    #[test]
    fn the_sample_passes() {
        assert_eq!(with(|_| ()), Ok(()));
        let empty = |m: &mut Manifest| {
            (m.shards, m.chunks, m.order, m.size_bytes) = (vec![], vec![], vec![], 0);
        };
        assert_eq!(with(empty), Ok(()), "an empty file");
    }

    #[test]
    fn each_contradiction_is_named() {
        use InvalidManifest as I;
        assert!(matches!(with(|m| m.details.name = "../x".into()), Err(I::Name(_))));
        assert!(matches!(with(|m| m.details.expires = m.details.created), Err(I::Dates { .. })));
        assert_eq!(with(|m| m.details.policy = Policy::Replicas(0)), Err(I::Replicas { got: 0 }));
        assert_eq!(with(|m| m.details.policy = Policy::Replicas(17)), Err(I::Replicas { got: 17 }));
        assert!(matches!(with(|m| m.size_bytes = u64::MAX), Err(I::FileSize { .. })));
        assert_eq!(with(|m| m.size_bytes += 1), Err(I::SizeSum { expected: 451, got: 450 }));
        assert_eq!(with(|m| m.shards[1].bytes = 0), Err(I::ShardLength { index: 1, bytes: 0 }));
        assert!(matches!(with(|m| m.shards[1].bytes = u32::MAX), Err(I::ShardLength { index: 1, .. })));
        assert_eq!(with(|m| m.shards[1].address = m.shards[0].address), Err(I::ShardTwice { index: 1 }));
        assert_eq!(with(|m| m.chunks[2].shard = 2), Err(I::ChunkRange { index: 2 }));
        assert_eq!(with(|m| m.chunks[2].offset = u32::MAX), Err(I::ChunkRange { index: 2 }));
        assert_eq!(with(|m| m.chunks[2].offset = 16_384 - 65), Err(I::ChunkRange { index: 2 }));
        assert_eq!(with(|m| m.chunks[2].stored_bytes += 1), Err(I::ChunkLength { index: 2 }));
        assert_eq!(with(|m| m.chunks[1].stored_bytes = 16), Err(I::ChunkLength { index: 1 }));
        assert_eq!(with(|m| m.chunks[1].stored_bytes = 216), Err(I::ChunkLength { index: 1 }));
        assert_eq!(with(|m| m.chunks[1].plain_bytes = u32::MAX), Err(I::ChunkLength { index: 1 }));
        assert_eq!(with(|m| m.chunks[1].offset = 115), Err(I::ChunkOverlap { index: 1 }));
        assert_eq!(with(|m| m.chunks[1].offset = 0), Err(I::ChunkOverlap { index: 0 }));
        assert_eq!(with(|m| m.order[3] = 3), Err(I::Order { index: 3 }));
        assert_eq!(
            with(|m| m.chunks[2] = ChunkRef { shard: 0, offset: 300, ..m.chunks[2].clone() }),
            Err(I::ShardUnused { index: 1 })
        );
        let unused = with(|m| {
            m.order.remove(2);
            m.size_bytes -= 50;
        });
        assert_eq!(unused, Err(I::ChunkUnused { index: 2 }));
        let many = with(|m| m.order = vec![0; ORDER_MAX + 1]);
        assert!(matches!(many, Err(I::Count { what: "pieces of the file", .. })));
    }
}
