//! Signed permissions (requirement N5: whoever is no friend needs one).
//!
//! Two rights exist so far:
//! - **place**: the network authority lets a super node put shards on devices (B2). It names the
//!   super node, ends by itself, and can be revoked by its id.
//! - **fetch**: whoever holds a backup's *reader key* (it lies in the manifest) lets a node read
//!   that backup's shards. Holders know the reader's public key from the lease under which they
//!   store, so they can check a fetch grant without asking anybody.

use serde::{Deserialize, Serialize};

use crate::{NodeKey, SealError, Sealed, Uid, UnixSeconds, limits::REVOKED_MAX};

/// Names one grant, so that it can be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GrantId(pub [u8; 16]);

/// What a grant allows. The order of the cases is on the wire; new ones go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// Place up to this many bytes of shards on any one device.
    Place {
        /// Upper bound per device, in bytes.
        max_bytes_per_device: u64,
    },
    /// Read shards that were stored for the backup whose reader key signed this.
    Fetch,
}

/// A permission: `issuer` lets `subject` do something until a date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Name for revocation.
    pub id: GrantId,
    /// Who may use it. The connection must be this node's.
    pub subject: Uid,
    /// What it allows.
    pub right: Right,
    /// From when it holds.
    pub not_before: UnixSeconds,
    /// Until when it holds, that second included.
    pub not_after: UnixSeconds,
}

impl Sealed for Grant {
    const CONTEXT: &'static str = "ioex 2026 grant";
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 128;
}

/// A grant as it travels: its issuer and its sealed bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedGrant {
    /// Who signed it. Nothing is said yet about whether that node may.
    pub issuer: Uid,
    /// See [`Sealed::seal`].
    pub bytes: Vec<u8>,
}

/// Why a grant does not help its bearer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrantError {
    /// Forged, damaged or of an unknown version.
    #[error("the grant cannot be trusted: {0}")]
    Seal(#[from] SealError),
    /// Issued to another node.
    #[error("the grant belongs to {0}, not to the node that showed it")]
    WrongSubject(Uid),
    /// Not yet valid, or valid no more.
    #[error("the grant holds from {from} to {until} (seconds since 1970), now is {now}", from = .from.0, until = .until.0, now = .now.0)]
    OutOfTime {
        /// First second.
        from: UnixSeconds,
        /// Last second.
        until: UnixSeconds,
        /// The holder's clock.
        now: UnixSeconds,
    },
}

/// How far a grant's dates may lie beside the checker's clock: devices without a battery-backed
/// clock are off by minutes until they ask somebody.
pub const CLOCK_SLACK_SECONDS: u64 = 600;

impl SignedGrant {
    /// Signs `grant` with the issuer's key.
    #[must_use]
    pub fn new(grant: &Grant, issuer: &NodeKey) -> Self {
        Self { issuer: issuer.uid(), bytes: grant.seal(issuer) }
    }

    /// The grant inside, if `bearer` may use it now. Says nothing about the issuer's standing.
    ///
    /// # Errors
    /// [`GrantError`], checked in its order.
    pub fn check(&self, bearer: &Uid, now: UnixSeconds) -> Result<Grant, GrantError> {
        let grant = Grant::unseal(&self.bytes, &self.issuer)?;
        if grant.subject != *bearer {
            return Err(GrantError::WrongSubject(grant.subject));
        }
        let early = now.plus(CLOCK_SLACK_SECONDS) < grant.not_before;
        let late = now > grant.not_after.plus(CLOCK_SLACK_SECONDS);
        if early || late {
            return Err(GrantError::OutOfTime { from: grant.not_before, until: grant.not_after, now });
        }
        Ok(grant)
    }
}

/// The grants that an authority takes back before they end, and the number of this list: a higher
/// one holds in place of a lower one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Grows with every change.
    pub seq: u64,
    /// Which grants, at most [`REVOKED_MAX`].
    pub ids: Vec<GrantId>,
}

impl Sealed for Revocations {
    const CONTEXT: &'static str = "ioex 2026 revocations";
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 20 + 16 * REVOKED_MAX;
}

/// Revocations as they are stored and passed on: their issuer and their sealed bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRevocations {
    /// Who signed. They are about grants of this issuer only.
    pub issuer: Uid,
    /// See [`Sealed::seal`].
    pub bytes: Vec<u8>,
}

impl SignedRevocations {
    /// Longest encoded value in bytes.
    pub const MAX_BYTES: usize = 32 + 10 + 65 + Revocations::MAX_BYTES;

    /// Signs `list` with the issuer's key.
    #[must_use]
    pub fn new(list: &Revocations, issuer: &NodeKey) -> Self {
        Self { issuer: issuer.uid(), bytes: list.seal(issuer) }
    }

    /// The list inside, if its issuer signed it.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self) -> Result<Revocations, SealError> {
        Revocations::unseal(&self.bytes, &self.issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(subject: Uid) -> Grant {
        Grant {
            id: GrantId([1; 16]),
            subject,
            right: Right::Place { max_bytes_per_device: 5 },
            not_before: UnixSeconds(10_000),
            not_after: UnixSeconds(20_000),
        }
    }

    #[test]
    fn golden_bytes() {
        let grant = sample(Uid::from_bytes([2; 32]));
        let mut want = vec![1; 16];
        want.extend([2; 32]);
        want.extend([0, 5]); // Place, varint 5
        want.extend([0x90, 0x4e]); // varint 10,000
        want.extend([0xa0, 0x9c, 0x01]); // varint 20,000
        assert_eq!(crate::wire::encode(&grant), want);
    }

    #[test]
    fn revocations_are_their_issuers_word() {
        let list = Revocations { seq: 300, ids: vec![GrantId([7; 16]), GrantId([8; 16])] };
        let mut want = vec![0xac, 2, 2];
        want.extend([7; 16]);
        want.extend([8; 16]);
        assert_eq!(crate::wire::encode(&list), want);
        let (issuer, other) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let signed = SignedRevocations::new(&list, &issuer);
        assert_eq!(signed.open(), Ok(list));
        assert_eq!(SignedRevocations { issuer: other.uid(), ..signed }.open(), Err(SealError::Signature));
        let full = Revocations { seq: u64::MAX, ids: vec![GrantId([9; 16]); REVOKED_MAX] };
        let signed = SignedRevocations::new(&full, &issuer);
        assert_eq!(signed.open(), Ok(full));
        assert!(crate::wire::encode(&signed).len() <= SignedRevocations::MAX_BYTES);
    }

    #[test]
    fn a_grant_serves_its_subject_in_its_time_only() {
        let (issuer, bearer) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]).uid());
        let signed = SignedGrant::new(&sample(bearer), &issuer);
        assert!(signed.check(&bearer, UnixSeconds(15_000)).is_ok());
        assert!(signed.check(&bearer, UnixSeconds(20_000 + CLOCK_SLACK_SECONDS)).is_ok());
        let other = NodeKey::from_seed([3; 32]).uid();
        assert_eq!(signed.check(&other, UnixSeconds(15_000)), Err(GrantError::WrongSubject(bearer)));
        for now in [10_000 - CLOCK_SLACK_SECONDS - 1, 20_000 + CLOCK_SLACK_SECONDS + 1] {
            let got = signed.check(&bearer, UnixSeconds(now));
            assert!(matches!(got, Err(GrantError::OutOfTime { .. })), "{got:?}");
        }
        let forged = SignedGrant { issuer: other, ..signed };
        assert_eq!(forged.check(&bearer, UnixSeconds(15_000)), Err(GrantError::Seal(SealError::Signature)));
    }
}
