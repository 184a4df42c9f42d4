//! A restore point: everything that was there at one time.
//!
//! Its root is an object (module `object`). Version 1, frozen:
//! `kind (1) = 2 | version (1) = 1 | postcard of Root`.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use ioex_base::{UnixSeconds, wire};
use serde::{Deserialize, Serialize};

use super::object::{OBJECT_MAX_BYTES, ObjectRef};
use crate::{bounded::at_most, manifest::ChunkId};

const HEADER: [u8; 2] = [2, 1];

/// Most chunks of a listing: of some 32 GB.
pub const LISTING_CHUNKS_MAX: usize = 64 * 1024;
/// Most segments that one restore point refers to.
pub const SEGMENTS_MAX: usize = 8_192;
/// Most files that a restore point says were left out; more are only counted.
pub const PROBLEMS_MAX: usize = 500;
/// Most folders and files given to one backup, and most tags.
pub const PATHS_MAX: usize = 256;
/// Most bytes of the paths and tags that are given to one backup.
pub const PATHS_MAX_BYTES: usize = 128 * 1024;
/// Most bytes of what a restore point says was left out; more is only counted.
pub const PROBLEMS_MAX_BYTES: usize = 192 * 1024;

const OBJECT_REF_MAX_BYTES: usize = 32 + 4 + 4 + 4 + 1 + 32;
const REST_MAX_BYTES: usize = 32 * 1024;
const _: () = assert!(
    LISTING_CHUNKS_MAX * 16
        + SEGMENTS_MAX * OBJECT_REF_MAX_BYTES
        + PATHS_MAX_BYTES
        + PROBLEMS_MAX_BYTES
        + REST_MAX_BYTES
        <= OBJECT_MAX_BYTES,
    "a root that keeps to these bounds is an object"
);

/// Names a restore point: the beginning of its root's address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PointId(pub [u8; 8]);

impl PointId {
    /// The name of the restore point with this root.
    #[must_use]
    pub fn of(root: &ObjectRef) -> Self {
        Self(root.shard.address.as_bytes().first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PointId({self})")
    }
}

/// A text that names no restore point.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' names no restore point: `ioex backup list` shows their names")]
pub struct ParsePointIdError(String);

impl FromStr for PointId {
    type Err = ParsePointIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|b| <[u8; 8]>::try_from(b).ok());
        bytes.map(Self).ok_or_else(|| ParsePointIdError(text.to_owned()))
    }
}

/// What a run counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Files, hard links included.
    pub files: u64,
    /// Folders.
    pub dirs: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of chunks that were not stored before.
    pub new_bytes: u64,
    /// Bytes of the shards made of them, one copy, without parity.
    pub stored_bytes: u64,
    /// Files that were read; the others were as in the restore point before.
    pub read_files: u64,
}

/// A file that is not in the restore point, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its path, as the system has it.
    pub path: Vec<u8>,
    /// What happened.
    pub why: String,
}

/// The root of a restore point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// When the run began.
    pub created: UnixSeconds,
    /// The machine.
    pub host: String,
    /// The folder below which everything lies: bytes of an absolute path.
    pub base: Vec<u8>,
    /// What was to be backed up: absolute paths.
    #[serde(deserialize_with = "at_most::<_, _, PATHS_MAX>")]
    pub paths: Vec<Vec<u8>>,
    /// The owner's words for it.
    #[serde(deserialize_with = "at_most::<_, _, PATHS_MAX>")]
    pub tags: Vec<String>,
    /// What was counted.
    pub totals: Totals,
    /// What went wrong on the way.
    #[serde(deserialize_with = "at_most::<_, _, PROBLEMS_MAX>")]
    pub problems: Vec<Problem>,
    /// How many things went wrong in all.
    pub problems_total: u64,
    /// The listing's chunks in order.
    #[serde(deserialize_with = "at_most::<_, _, LISTING_CHUNKS_MAX>")]
    pub listing: Vec<ChunkId>,
    /// Every segment that says where one of its chunks lies.
    #[serde(deserialize_with = "at_most::<_, _, SEGMENTS_MAX>")]
    pub segments: Vec<ObjectRef>,
}

/// Why bytes are no root.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RootError {
    /// Written by a newer program, or something else.
    #[error("a restore point of an unknown version: update this program")]
    Version,
    /// Cut or changed.
    #[error("a restore point is damaged")]
    Damaged,
}

impl Root {
    /// The bytes of the newest version.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        out.append(&mut wire::encode(self));
        out
    }

    /// Reads a root.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RootError> {
        let body = bytes.strip_prefix(&HEADER).ok_or(RootError::Version)?;
        wire::decode(body, OBJECT_MAX_BYTES).map_err(|_| RootError::Damaged)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{OwnerKey, repo::object};

    pub(crate) fn sample() -> Root {
        Root {
            created: UnixSeconds(1_000),
            host: "h".into(),
            base: b"/".to_vec(),
            paths: vec![b"/a".to_vec()],
            tags: vec!["t".into()],
            totals: Totals {
                files: 1,
                dirs: 2,
                links: 3,
                bytes: 4,
                new_bytes: 5,
                stored_bytes: 6,
                read_files: 7,
            },
            problems: vec![Problem { path: b"/b".to_vec(), why: "w".into() }],
            problems_total: 8,
            listing: vec![ChunkId([9; 16])],
            segments: vec![],
        }
    }

    #[test]
    fn golden_bytes() {
        let mut want = vec![2, 1, 0xe8, 7, 1, b'h', 1, b'/', 1, 2, b'/', b'a', 1, 1, b't'];
        want.extend([1, 2, 3, 4, 5, 6, 7]);
        want.extend([1, 2, b'/', b'b', 1, b'w', 8, 1]);
        want.extend([9; 16]);
        want.push(0);
        assert_eq!(sample().encode(), want);
        assert_eq!(Root::decode(&want), Ok(sample()));
        want[1] = 2;
        assert_eq!(Root::decode(&want), Err(RootError::Version));
    }

    #[test]
    fn a_point_is_named_after_its_root() {
        let secrets = OwnerKey::from_bytes([3; 32]).secrets();
        let (root, _) = object::seal(&secrets, &sample().encode()).unwrap();
        let id = PointId::of(&root);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("zz".parse::<PointId>(), Err(ParsePointIdError("zz".into())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Root::decode(&tail);
            let _ = Root::decode(&[HEADER.to_vec(), tail].concat());
        }
    }
}
