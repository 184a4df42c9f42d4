//! Content addresses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::key::impl_id_text;

/// What bytes are called in the network: their BLAKE3 hash.
///
/// Text form as for a [`Uid`](crate::Uid): 52 characters of lower-case base32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentAddress([u8; 32]);

impl ContentAddress {
    /// The address of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The address with these hash bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 hash bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten characters, for tables and logs. Not for decisions.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }
}

impl_id_text!(ContentAddress);

impl From<blake3::Hash> for ContentAddress {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The empty input's hash, from the BLAKE3 specification's test vectors.
    #[test]
    fn address_is_the_blake3_hash() {
        assert_eq!(
            data_encoding::HEXLOWER.encode(ContentAddress::of(b"").as_bytes()),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }
}
