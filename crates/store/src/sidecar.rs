//! The file beside a shard: its length and its leases.
//!
//! Each format version is a frozen module; the first byte of a file names it. A new version gets a
//! module of its own and a conversion from the one before.

mod v1;

use crate::Lease;

/// What stands beside a shard or a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// Length of the shard in bytes; of a head, when these leases were written.
    pub(crate) len_bytes: u64,
    /// At least one lease.
    pub(crate) leases: Vec<Lease>,
}

/// Bytes that are no sidecar of a version that this program reads.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SidecarError {
    #[error("the sidecar has version {0}, this program reads version {want}", want = v1::MARKER)]
    Version(u8),
    #[error("the sidecar is damaged")]
    Damaged,
}

/// Longest sidecar in bytes.
pub(crate) const SIDECAR_MAX_BYTES: u64 = v1::MAX_BYTES as u64;

impl Sidecar {
    /// The bytes of the newest version.
    pub(crate) fn encode(&self) -> Vec<u8> {
        v1::encode(self)
    }

    /// Reads any known version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SidecarError> {
        match bytes.first() {
            Some(&v1::MARKER) => v1::decode(bytes),
            Some(&other) => Err(SidecarError::Version(other)),
            None => Err(SidecarError::Damaged),
        }
    }
}
