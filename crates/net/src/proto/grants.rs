//! What is said through the grant door: placing, keeping, proving and giving back.

use ioex_base::{ContentAddress, NodeKind, SignedGrant, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::ANSWER_MAX_BYTES;

/// Most leaves in one [`Audit`]: their proofs fit one answer.
pub const AUDIT_ASKS_MAX: usize = 16;
/// Longest proof in bytes: a leaf of 1 KiB and the twelve siblings on the way to the root of the
/// largest shard take 1,408, and some for a frame around them.
pub const PROOF_MAX_BYTES: usize = 2_048;
/// Most addresses that one [`AuditAnswer`] proposes to place elsewhere.
pub const HANDOVER_MAX: usize = 256;
/// Most addresses in one [`Release`] or [`Renew`]: each is a write to the holder's disk.
pub const LEASES_AT_ONCE_MAX: usize = 256;
const _: () = assert!(AUDIT_ASKS_MAX * (PROOF_MAX_BYTES + 4) + HANDOVER_MAX * 32 + 64 < ANSWER_MAX_BYTES);

/// What a super node may still place on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Free space in bytes, after the owner's limit and the grant's.
    pub free_bytes: u64,
    /// A name for the owner that says nothing else (see `NodeRecord::owner`).
    pub owner: [u8; 8],
    /// What the device does.
    pub kind: NodeKind,
}

/// A shard to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The placement grant.
    pub grant: SignedGrant,
    /// The shard.
    pub address: ContentAddress,
    /// Its size in bytes.
    pub bytes: u64,
    /// Public reader key of the backup: whoever it signs a fetch grant for may read.
    pub reader: Uid,
    /// Until when it should be kept.
    pub expires: UnixSeconds,
}

/// Whether a shard's bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlaceAnswer {
    /// Send them.
    Send,
    /// Already here; the lease was extended.
    AlreadyHeld,
}

/// Leaves of shards to prove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The placement grant.
    pub grant: SignedGrant,
    /// Shards, and of each the number of a BLAKE3 leaf (1,024 bytes); at most [`AUDIT_ASKS_MAX`].
    pub asks: Vec<(ContentAddress, u32)>,
}

/// What a holder shows, and what it would rather give back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnswer {
    /// For each leaf that was asked for, in order: the proof, at most [`PROOF_MAX_BYTES`], or
    /// nothing when the shard is not held or has no such leaf. What is in it is not the mesh's
    /// business; whoever asked verifies it.
    pub proofs: Vec<Option<Vec<u8>>>,
    /// So many bytes of what the caller placed the holder wants to be rid of: its owner took space
    /// back, or the device leaves. It keeps everything until it is released.
    pub excess_bytes: u64,
    /// Which ones it proposes, at most [`HANDOVER_MAX`]: those that would stay longest first.
    pub handover: Vec<ContentAddress>,
}

/// Ends the leases of the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The placement grant.
    pub grant: SignedGrant,
    /// Shards and heads, at most [`LEASES_AT_ONCE_MAX`]. What is left without a lease is deleted.
    pub addresses: Vec<ContentAddress>,
}

/// Extends the caller's leases, or adds them, for one reader key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// The placement grant.
    pub grant: SignedGrant,
    /// Public reader key of the backup.
    pub reader: Uid,
    /// Until when they should be kept.
    pub expires: UnixSeconds,
    /// Shards and heads, at most [`LEASES_AT_ONCE_MAX`].
    pub addresses: Vec<ContentAddress>,
}

/// A repository's head to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutHead {
    /// The placement grant.
    pub grant: SignedGrant,
    /// The repository.
    pub repo: Uid,
    /// The head's number.
    pub seq: u64,
    /// Its size in bytes, signature included.
    pub bytes: u64,
    /// Public reader key of the repository.
    pub reader: Uid,
    /// Until when it should be kept.
    pub expires: UnixSeconds,
}

/// Whether a head's bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeadStart {
    /// Send them.
    Send,
    /// A head with this number, the same or a higher one, is here; its lease was extended.
    Newer(u64),
}

/// What became of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeadAnswer {
    /// It is on disk.
    Kept,
    /// A head with this number, the same or a higher one, is held in its place; its lease was
    /// extended.
    Newer(u64),
}

#[cfg(test)]
mod tests {
    use ioex_base::wire;

    use super::{super::*, *};

    fn grant() -> SignedGrant {
        SignedGrant { issuer: Uid::from_bytes([1; 32]), bytes: vec![7, 8] }
    }

    fn grant_bytes() -> Vec<u8> {
        [vec![1; 32], vec![2, 7, 8]].concat()
    }

    #[test]
    fn golden_bytes() {
        let address = ContentAddress::from_bytes([3; 32]);
        let (reader, expires) = (Uid::from_bytes([4; 32]), UnixSeconds(300));
        let audit = Open::Audit(Audit { grant: grant(), asks: vec![(address, 300)] });
        let want = [vec![13], grant_bytes(), vec![1], vec![3; 32], vec![0xac, 2]].concat();
        assert_eq!(wire::encode(&audit), want);
        let release = Open::Release(Release { grant: grant(), addresses: vec![address] });
        assert_eq!(wire::encode(&release), [vec![14], grant_bytes(), vec![1], vec![3; 32]].concat());
        let renew = Open::Renew(Renew { grant: grant(), reader, expires, addresses: vec![address] });
        let want = [vec![15], grant_bytes(), vec![4; 32], vec![0xac, 2, 1], vec![3; 32]].concat();
        assert_eq!(wire::encode(&renew), want);
        let repo = Uid::from_bytes([5; 32]);
        let put = Open::PutHead(PutHead { grant: grant(), repo, seq: 6, bytes: 200, reader, expires });
        let want = [vec![16], grant_bytes(), vec![5; 32], vec![6, 0xc8, 1], vec![4; 32], vec![0xac, 2]];
        assert_eq!(wire::encode(&put), want.concat());

        let answer =
            AuditAnswer { proofs: vec![None, Some(vec![9])], excess_bytes: 300, handover: vec![address] };
        let want = [vec![0, 2, 0, 1, 1, 9, 0xac, 2, 1], vec![3; 32]].concat();
        assert_eq!(wire::encode(&Answer::Yes(answer)), want);
        assert_eq!(wire::encode(&Answer::Yes(300u32)), [0, 0xac, 2]);
        assert_eq!(wire::encode(&Answer::Yes(vec![true, false])), [0, 2, 1, 0]);
        assert_eq!(wire::encode(&Answer::Yes(HeadStart::Send)), [0, 0]);
        assert_eq!(wire::encode(&Answer::Yes(HeadStart::Newer(300))), [0, 1, 0xac, 2]);
        assert_eq!(wire::encode(&Answer::Yes(HeadAnswer::Kept)), [0, 0]);
        assert_eq!(wire::encode(&Answer::Yes(HeadAnswer::Newer(300))), [0, 1, 0xac, 2]);
        assert_eq!(wire::encode(&Answer::<()>::No(No::Paused)), [1, 8]);
    }

    #[test]
    fn the_fullest_answer_to_an_audit_fits_its_frame() {
        let answer = AuditAnswer {
            proofs: vec![Some(vec![0; PROOF_MAX_BYTES]); AUDIT_ASKS_MAX],
            excess_bytes: u64::MAX,
            handover: vec![ContentAddress::of(b""); HANDOVER_MAX],
        };
        assert!(wire::encode(&Answer::Yes(answer)).len() <= ANSWER_MAX_BYTES);
    }
}
