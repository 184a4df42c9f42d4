//! The body of a repository's head: which restore points there are.
//!
//! Devices hold the head without being able to read it; around this body stands a signature of the
//! repository and a number that grows (in `ioex_base`). Version 1, frozen:
//!
//! `version (1) = 1 | siv (32) | aead(key, empty, zstd(postcard of Head))`, where
//! `siv` = keyed(derive(`… siv`, head key), the compressed text) and `key` = keyed(head key, siv). As the
//! key follows from the text, one key never meets two texts.

use std::io;

use ioex_base::{UnixSeconds, wire};
use serde::{Deserialize, Serialize};

use super::{
    object::ObjectRef,
    point::{PointId, Totals},
    recovery::RepoKeys,
};
use crate::{aead, bounded::at_most, limits::ZSTD_LEVEL};

const VERSION: u8 = 1;
const SIV_CONTEXT: &str = "ioex 2026 recovery v1 head siv";
const SIV_BYTES: usize = 32;
/// Longest body in bytes, so that with its signature it is a head that devices take.
pub const HEAD_BODY_MAX_BYTES: usize = 255 * 1024;
/// Longest decompressed head in bytes.
const HEAD_PLAIN_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Most restore points: one an hour would be 2,160 in three months.
pub const POINTS_MAX: usize = 2_400;
/// Longest description of a restore point in the head, in bytes.
pub const LABEL_MAX_BYTES: usize = 120;

/// A restore point as the head knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointRef {
    /// When its run began.
    pub created: UnixSeconds,
    /// Until when it is kept; renewing moves this date and nothing else.
    pub expires: UnixSeconds,
    /// The machine, and what was backed up, for people.
    pub label: String,
    /// What was counted.
    pub totals: Totals,
    /// Its root.
    pub root: ObjectRef,
}

impl PointRef {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> PointId {
        PointId::of(&self.root)
    }
}

/// The list of restore points, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The restore points.
    #[serde(deserialize_with = "at_most::<_, _, POINTS_MAX>")]
    pub points: Vec<PointRef>,
}

/// Why a head cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// Written by a newer program.
    #[error("the list of restore points has version {got}, this program reads {VERSION}: update it")]
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
        gone
    }

    /// What two machines that share a repository have made of it: the points of both, the later end
    /// of each. `forgotten` are not brought back.
    pub fn merge(&mut self, other: &Self, forgotten: &[PointId]) {
        for theirs in &other.points {
            match self.points.iter_mut().find(|p| p.id() == theirs.id()) {
                Some(ours) => ours.expires = ours.expires.max(theirs.expires),
                None if forgotten.contains(&theirs.id()) => {}
                // A full list loses nobody's newest points.
                None => drop(self.add(theirs.clone())),
            }
        }
    }

    /// Encrypts it for devices to hold.
    ///
    /// # Errors
    /// [`HeadError::Full`] when it is too long, [`HeadError::Io`].
    pub fn seal(&self, of: &RepoKeys) -> Result<Vec<u8>, HeadError> {
        let mut text = zstd::bulk::compress(&wire::encode(self), ZSTD_LEVEL)?;
        let siv = keys(of, &text);
        let key = *blake3::keyed_hash(&of.head, &siv).as_bytes();
        aead::seal(&key, b"", &mut text, 0).map_err(|_| HeadError::Damaged)?;
        if 1 + SIV_BYTES + text.len() > HEAD_BODY_MAX_BYTES {
            return Err(HeadError::Full);
        }
        Ok([&[VERSION][..], &siv, &text].concat())
    }

    /// Reads a body that devices held.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn open(body: &[u8], of: &RepoKeys) -> Result<Self, HeadError> {
        let (version, rest) = body.split_first().ok_or(HeadError::Damaged)?;
        if *version != VERSION {
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
        wire::decode(&plain, HEAD_PLAIN_MAX_BYTES).map_err(|_| HeadError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{OwnerKey, repo::RecoveryKey, repo::object};

    fn point(n: u8, created: u64, expires: u64) -> PointRef {
        let secrets = OwnerKey::from_bytes([3; 32]).secrets();
        let (root, _) = object::seal(&secrets, &[n]).unwrap();
        PointRef {
            created: UnixSeconds(created),
            expires: UnixSeconds(expires),
            label: format!("host{n} /home"),
            totals: Totals::default(),
            root,
        }
    }

    #[test]
    fn only_the_recovery_key_reads_it() {
        let keys = RecoveryKey::from_bytes([7; 32]).keys();
        let mut head = Head::default();
        head.add(point(2, 20, 200)).unwrap();
        head.add(point(1, 10, 100)).unwrap();
        let body = head.seal(&keys).unwrap();
        assert_eq!(Head::open(&body, &keys).unwrap(), head);
        assert_eq!(head.points[0].created, UnixSeconds(10), "oldest first");
        let other = RecoveryKey::from_bytes([8; 32]).keys();
        assert!(matches!(Head::open(&body, &other), Err(HeadError::Damaged)));
        for at in 1..body.len() {
            let mut bad = body.clone();
            bad[at] ^= 1;
            assert!(Head::open(&bad, &keys).is_err(), "byte {at}");
        }
        let mut newer = body;
        newer[0] = 9;
        assert!(matches!(Head::open(&newer, &keys), Err(HeadError::Version { got: 9 })));
    }

    #[test]
    fn two_machines_lose_nothing_and_forget_together() {
        let (mut a, mut b) = (Head::default(), Head::default());
        a.add(point(1, 10, 100)).unwrap();
        a.add(point(2, 20, 100)).unwrap();
        b.add(point(2, 20, 300)).unwrap();
        b.add(point(3, 30, 100)).unwrap();
        let gone = point(3, 30, 100).id();
        a.merge(&b, &[gone]);
        let dates: Vec<_> = a.points.iter().map(|p| (p.created.0, p.expires.0)).collect();
        assert_eq!(dates, [(10, 100), (20, 300)]);
        assert_eq!(a.expire(UnixSeconds(101)).len(), 1);
        assert_eq!(a.points.len(), 1);
    }

    #[test]
    fn a_full_list_still_fits_a_head() {
        let keys = RecoveryKey::from_bytes([7; 32]).keys();
        let mut head = Head::default();
        let one = point(1, 10, 100);
        let noise = crate::testing::noise(POINTS_MAX * 64, 1);
        for n in 0..POINTS_MAX {
            let mut p = one.clone();
            let address: [u8; 32] = noise[n * 64..][..32].try_into().unwrap();
            p.root.shard.address = ioex_base::ContentAddress::from_bytes(address);
            head.points.push(p);
        }
        assert!(matches!(head.add(point(9, 5, 5)), Err(HeadError::Full)));
        assert!(head.seal(&keys).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let keys = RecoveryKey::from_bytes([7; 32]).keys();
            let _ = Head::open(&tail, &keys);
            let _ = Head::open(&[vec![VERSION], tail].concat(), &keys);
        }
    }
}
