//! A repository: all restore points of one owner.
//!
//! From a [`RecoveryKey`] follow all keys ([`RepoKeys`]). A run ([`backup::run`]) turns folders into
//! shards; what it stored, and where, is a [`Segment`]; everything it saw is a listing (module
//! [`tree`]). The [`Root`] of a restore point says which chunks the listing is made of and which
//! segments are needed; the [`Head`] lists the restore points. The head lies on devices under an
//! address that follows from the repository's name, so whoever has the recovery key finds everything:
//!
//! ```text
//! recovery key ─► head ─► root of a restore point ─► segments ─► groups of shards
//!                                   └─► listing ─► files ─► chunks ┘
//! ```
//!
//! A [`plan::Plan`] says what a restore fetches, a [`TreeWriter`] writes it. The formats are in `docs/formats/vault.md`.

#[cfg(feature = "pack")]
pub mod backup;
#[cfg(feature = "pack")]
mod encode;
mod head;
mod index;
mod object;
pub mod plan;
mod point;
mod recovery;
#[cfg(feature = "pack")]
pub mod repack;
mod restore;
mod segment;
pub mod text;
pub mod tree;
#[cfg(feature = "pack")]
mod walk;
mod xattr;

#[cfg(feature = "pack")]
pub use encode::{PackedShard, Stopped};
pub use head::{
    FORGOTTEN_MAX, Forgotten, HEAD_BODY_MAX_BYTES, Head, HeadError, LABEL_MAX_BYTES, Origin, POINTS_MAX,
    PointRef, Rewritten, Source, TagId,
};
pub use index::{Found, Index};
pub use object::{OBJECT_MAX_BYTES, ObjectError, ObjectRef};
pub use point::{
    LISTING_CHUNKS_MAX, PATHS_MAX, PATHS_MAX_BYTES, PROBLEMS_MAX, PROBLEMS_MAX_BYTES, ParsePointIdError,
    PointId, Problem, Root, RootError, SEGMENTS_MAX, Totals,
};
pub use recovery::{RECOVERY_WORDS, RecoveryKey, RecoveryKeyError, RepoKeys};
pub use restore::{ChunkReader, TreeError, TreeWriter};
pub use segment::{GROUP_SHARDS_MAX, Group, SEGMENT_CHUNKS_MAX, Segment, SegmentError};
#[cfg(feature = "pack")]
pub use walk::{Walk, WalkError};

/// Packs an object (a segment or a root) into a shard of its own.
///
/// # Errors
/// When it is longer than [`OBJECT_MAX_BYTES`].
pub fn seal_object(keys: &RepoKeys, plain: &[u8]) -> std::io::Result<(ObjectRef, Vec<u8>)> {
    object::seal(&keys.owner.secrets(), plain)
}
