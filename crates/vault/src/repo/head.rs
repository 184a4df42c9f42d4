//! The body of a repository's head: which restore points there are.
//!
//! Devices hold the head without being able to read it; around this body stands a signature of the
//! repository and a number that grows (in `ioex_base`). Version 2, frozen:
//!
//! `version (1) = 2 | siv (32) | aead(key, empty, zstd(postcard of Head))`, where
//! `siv` = keyed(derive(`… siv`, head key), the compressed text) and `key` = keyed(head key, siv). As the
//! key follows from the text, one key never meets two texts.
//!
//! Version 1 (module `v1`) is read, and written anew as version 2 with the next change.

mod v1;

use std::io;

use ioex_base::{UnixSeconds, wire};
use serde::{Deserialize, Serialize};

use super::{
    object::ObjectRef,
    point::{PATHS_MAX, PointId, Root, Totals},
    recovery::RepoKeys,
};
use crate::{aead, bounded::at_most, limits::ZSTD_LEVEL};

const VERSION: u8 = 2;
const SIV_CONTEXT: &str = "ioex 2026 recovery v1 head siv";
const SIV_BYTES: usize = 32;
/// Longest body in bytes, so that with its signature it is a head that devices take.
pub const HEAD_BODY_MAX_BYTES: usize = 255 * 1024;
/// Longest decompressed head in bytes.
const HEAD_PLAIN_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Most restore points: one an hour would be 2,160 in three months.
pub const POINTS_MAX: usize = 2_400;
/// Most dropped restore points that are remembered: as many as there can be.
pub const FORGOTTEN_MAX: usize = POINTS_MAX;
/// Longest description of a restore point in the head, in bytes.
pub const LABEL_MAX_BYTES: usize = 120;

const HOST_CONTEXT: &str = "ioex 2026 vault v2 host";
const PATHS_CONTEXT: &str = "ioex 2026 vault v2 paths";
const TAG_CONTEXT: &str = "ioex 2026 vault v2 tag";

/// The beginning of a hash: two of one owner's are equal by design only.
type Short = [u8; 8];

fn short(context: &str, parts: &[&[u8]]) -> Short {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

/// Where restore points come from: hashes of the machine's name and of all paths that were given to
/// the backup. The head has no room for the paths themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    host: Short,
    paths: Short,
}

impl Origin {
    /// The origin of what is backed up from `paths` of the machine `host`. The order of the paths
    /// makes no difference.
    #[must_use]
    pub fn new(host: &str, paths: &[Vec<u8>]) -> Self {
        let mut paths: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
        paths.sort_unstable();
        paths.dedup();
        Self { host: short(HOST_CONTEXT, &[host.as_bytes()]), paths: short(PATHS_CONTEXT, &paths) }
    }

    /// Whether it is of this machine.
    #[must_use]
    pub fn is_of_host(&self, host: &str) -> bool {
        self.host == short(HOST_CONTEXT, &[host.as_bytes()])
    }

    /// Whether exactly these paths were backed up, on whichever machine.
    #[must_use]
    pub fn has_paths(&self, paths: &[Vec<u8>]) -> bool {
        self.paths == Self::new("", paths).paths
    }
}

/// The hash of one of the owner's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TagId(Short);

impl TagId {
    /// The hash of `tag`.
    #[must_use]
    pub fn of(tag: &str) -> Self {
        Self(short(TAG_CONTEXT, &[tag.as_bytes()]))
    }
}

/// A restore point has another root than at first, because its index was written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewritten {
    /// The name that it keeps: that of its first root.
    pub id: PointId,
    /// How many times. Where two machines disagree, the higher number holds.
    pub times: u32,
}

/// A restore point as the head knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointRef {
    /// When its run began.
    pub created: UnixSeconds,
    /// Until when it is kept; renewing moves this date and nothing else.
    pub expires: UnixSeconds,
    /// The machine, and what was backed up, for people.
    pub label: String,
    /// What it is a restore point of; not known of one that an older program wrote.
    pub origin: Option<Origin>,
    /// The owner's words for it.
    #[serde(deserialize_with = "at_most::<_, _, PATHS_MAX>")]
    pub tags: Vec<TagId>,
    /// What was counted.
    pub totals: Totals,
    /// Its root.
    pub root: ObjectRef,
    /// Whether that is not its first root.
    pub rewritten: Option<Rewritten>,
}

/// By what restore points are grouped when some of each group are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Machine and paths.
    Known(Origin),
    /// The label without its tags, for what an older program wrote.
    Label(String),
}

impl PointRef {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> PointId {
        self.rewritten.map_or_else(|| PointId::of(&self.root), |r| r.id)
    }

    /// What it is a restore point of.
    #[must_use]
    pub fn source(&self) -> Source {
        let subject = || self.label.split(" #").next().unwrap_or_default().to_owned();
        self.origin.map_or_else(|| Source::Label(subject()), Source::Known)
    }

    /// Whether the owner gave it this word.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        match self.origin {
            Some(_) => self.tags.contains(&TagId::of(tag)),
            // All that an older program left of the tags; the last one may be cut.
            None => self.label.split(" #").skip(1).any(|known| known == tag),
        }
    }

    /// Adds what an older program did not write, from the restore point's root.
    pub fn describe(&mut self, root: &Root) {
        if self.origin.is_none() {
            self.origin = Some(Origin::new(&root.host, &root.paths));
            self.tags = root.tags.iter().map(|tag| TagId::of(tag)).collect();
        }
    }

    /// Gives it another root, under the same name.
    pub fn rewrite(&mut self, root: ObjectRef) {
        let times = self.rewritten.map_or(0, |r| r.times).saturating_add(1);
        self.rewritten = Some(Rewritten { id: self.id(), times });
        self.root = root;
    }
}

/// A restore point that was dropped: a machine that did not hear of it must not bring it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Which.
    pub id: PointId,
    /// When it would have ended by itself; then it need not be remembered any longer.
    pub until: UnixSeconds,
}

/// The list of restore points, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The restore points.
    #[serde(deserialize_with = "at_most::<_, _, POINTS_MAX>")]
    pub points: Vec<PointRef>,
    /// Those that were dropped before their end.
    #[serde(deserialize_with = "at_most::<_, _, FORGOTTEN_MAX>")]
    pub forgotten: Vec<Forgotten>,
}

/// Why a head cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// Written by a newer program.
    #[error("the list of restore points has version {got}, this program reads up to {VERSION}: update it")]
    Version {
        /// What came.
        got: u8,
    },
    /// Not of this recovery key, or damaged.
    #[error("the list of restore points cannot be read with this recovery key")]
    Damaged,
    /// The list is full.
    #[error("a repository has at most {POINTS_MAX} restore points: forget some, or let some expire")]
    Full,
    /// The compressor failed.
    #[error("cannot write the list of restore points: {0}")]
    Io(#[from] io::Error),
}

fn keys(keys: &RepoKeys, compressed: &[u8]) -> [u8; SIV_BYTES] {
    let siv_key = blake3::derive_key(SIV_CONTEXT, keys.head.as_ref());
    *blake3::keyed_hash(&siv_key, compressed).as_bytes()
}

impl Head {
    /// Adds a restore point; an equal one is replaced.
    ///
    /// # Errors
    /// [`HeadError::Full`].
    pub fn add(&mut self, point: PointRef) -> Result<(), HeadError> {
        self.points.retain(|p| p.id() != point.id());
        if self.points.len() >= POINTS_MAX {
            return Err(HeadError::Full);
        }
        self.points.push(point);
        // Stable: of two that were made in one second, the later one stays behind the other.
        self.points.sort_by_key(|p| p.created);
        Ok(())
    }

    /// Takes out the points that ended before `now`, and returns them.
    pub fn expire(&mut self, now: UnixSeconds) -> Vec<PointRef> {
        let (gone, kept) = std::mem::take(&mut self.points).into_iter().partition(|p| p.expires < now);
        self.points = kept;
        self.forgotten.retain(|f| f.until >= now);
        gone
    }

    /// Drops restore points before their end, and remembers that it did.
    pub fn forget(&mut self, ids: &[PointId]) {
        for point in self.points.iter().filter(|p| ids.contains(&p.id())) {
            self.forgotten.push(Forgotten { id: point.id(), until: point.expires });
        }
        self.tidy();
    }

    /// Adds what another machine, which shares the repository, made of it at the same time or before:
    /// the points of both, the later end of each, without those that either dropped.
    pub fn merge(&mut self, other: &Self) {
        for theirs in &other.points {
            match self.points.iter_mut().find(|p| p.id() == theirs.id()) {
                Some(ours) => {
                    ours.expires = ours.expires.max(theirs.expires);
                    let times = |p: &PointRef| p.rewritten.map_or(0, |r| r.times);
                    if times(theirs) > times(ours) {
                        (ours.root, ours.rewritten) = (theirs.root.clone(), theirs.rewritten);
                    }
                }
                // A full list loses nobody's newest points.
                None => drop(self.add(theirs.clone())),
            }
        }
        self.forgotten.extend(other.forgotten.iter().copied());
        self.tidy();
    }

    /// What was dropped is not listed, and remembered once; those that end last, if there are too many.
    fn tidy(&mut self) {
        self.forgotten.sort_by_key(|f| (f.id, std::cmp::Reverse(f.until)));
        self.forgotten.dedup_by_key(|f| f.id);
        self.points.retain(|p| self.forgotten.binary_search_by_key(&p.id(), |f| f.id).is_err());
        if self.forgotten.len() > FORGOTTEN_MAX {
            self.forgotten.sort_by_key(|f| std::cmp::Reverse(f.until));
            self.forgotten.truncate(FORGOTTEN_MAX);
            self.forgotten.sort_by_key(|f| f.id);
        }
    }

    /// Encrypts it for devices to hold.
    ///
    /// # Errors
    /// [`HeadError::Full`] when it is too long, [`HeadError::Io`].
    pub fn seal(&self, of: &RepoKeys) -> Result<Vec<u8>, HeadError> {
        let plain = wire::encode(self);
        if plain.len() > HEAD_PLAIN_MAX_BYTES {
            return Err(HeadError::Full);
        }
        let mut text = zstd::bulk::compress(&plain, ZSTD_LEVEL)?;
        let siv = keys(of, &text);
        let key = *blake3::keyed_hash(&of.head, &siv).as_bytes();
        aead::seal(&key, b"", &mut text, 0).map_err(|_| HeadError::Damaged)?;
        if 1 + SIV_BYTES + text.len() > HEAD_BODY_MAX_BYTES {
            return Err(HeadError::Full);
        }
        Ok([&[VERSION][..], &siv, &text].concat())
    }

    /// Whether the program that wrote this body remembered what was dropped: only then can an older
    /// list be told from one that another machine wrote at the same time.
    #[must_use]
    pub fn remembers(body: &[u8]) -> bool {
        body.first().is_some_and(|version| *version >= VERSION)
    }

    /// Reads a body that devices held, of this version or the one before.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn open(body: &[u8], of: &RepoKeys) -> Result<Self, HeadError> {
        let (version, rest) = body.split_first().ok_or(HeadError::Damaged)?;
        if !(v1::VERSION..=VERSION).contains(version) {
            return Err(HeadError::Version { got: *version });
        }
        let (siv, text) = rest.split_first_chunk::<SIV_BYTES>().ok_or(HeadError::Damaged)?;
        if body.len() > HEAD_BODY_MAX_BYTES {
            return Err(HeadError::Damaged);
        }
        let key = *blake3::keyed_hash(&of.head, siv).as_bytes();
        let mut text = text.to_vec();
        let compressed = aead::open(&key, b"", &mut text).map_err(|_| HeadError::Damaged)?;
        let plain =
            zstd::bulk::decompress(compressed, HEAD_PLAIN_MAX_BYTES).map_err(|_| HeadError::Damaged)?;
        let decoded = match *version {
            v1::VERSION => wire::decode::<v1::Head>(&plain, HEAD_PLAIN_MAX_BYTES).map(Self::from),
            _ => wire::decode(&plain, HEAD_PLAIN_MAX_BYTES),
        };
        decoded.map_err(|_| HeadError::Damaged)
    }
}

#[cfg(test)]
mod tests;
