//! What a person hands out so that others can ask for friendship.
//!
//! A [`Uid`] is public: anyone who was ever met knows it. A friend *request* therefore also needs
//! the owner's current [`Tag`], which the owner changes when strangers have it. Text form: 64
//! base32 characters over `uid (32) | tag (4) | checksum (4)`; the checksum is the beginning of a
//! BLAKE3 hash over the first 36 bytes, so that a mistyped address is refused before anything is
//! sent (four random wrong bytes pass with probability 2^-32).

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::Uid;

const CHECKSUM_CONTEXT: &str = "ioex 2026 friend address checksum";
const CHECKSUM_BYTES: usize = 4;
const TAG_BYTES: usize = 4;
const RAW_BYTES: usize = 32 + TAG_BYTES + CHECKSUM_BYTES;
const TEXT_LEN: usize = 64;
const _: () = assert!(RAW_BYTES * 8 == TEXT_LEN * 5, "the text form has no padding bits");

/// Four bytes that a friend request must carry; their owner can replace them at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag(pub [u8; TAG_BYTES]);

/// A [`Uid`] with its current [`Tag`], protected against typing errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FriendAddress {
    /// Whom the address reaches.
    pub uid: Uid,
    /// The tag that a request must carry.
    pub tag: Tag,
}

/// A text that is no friend address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FriendAddressError {
    /// The length is wrong.
    #[error("a friend address has {TEXT_LEN} characters, this one has {0}: copy it whole")]
    Length(usize),
    /// A character outside base32.
    #[error("a friend address is written with the letters a-z and the digits 2-7 only")]
    Alphabet,
    /// The checksum does not fit: at least one character is wrong.
    #[error("this friend address has a typing error: its checksum does not fit")]
    Checksum,
}

impl FriendAddress {
    /// The address of `uid` with `tag`.
    #[must_use]
    pub fn new(uid: Uid, tag: Tag) -> Self {
        Self { uid, tag }
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = blake3::Hasher::new_derive_key(CHECKSUM_CONTEXT);
        hasher.update(self.uid.as_bytes()).update(&self.tag.0);
        let mut out = [0; CHECKSUM_BYTES];
        hasher.finalize_xof().fill(&mut out);
        out
    }
}

impl fmt::Display for FriendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut raw = [0; RAW_BYTES];
        raw[..32].copy_from_slice(self.uid.as_bytes());
        raw[32..36].copy_from_slice(&self.tag.0);
        raw[36..].copy_from_slice(&self.checksum());
        f.write_str(&BASE32_NOPAD.encode(&raw).to_ascii_lowercase())
    }
}

impl FromStr for FriendAddress {
    type Err = FriendAddressError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let s = s.trim();
        if s.len() != TEXT_LEN {
            return Err(FriendAddressError::Length(s.chars().count()));
        }
        let raw: [u8; RAW_BYTES] = BASE32_NOPAD
            .decode(s.to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|raw| raw.try_into().ok())
            .ok_or(FriendAddressError::Alphabet)?;
        let mut uid = [0; 32];
        uid.copy_from_slice(&raw[..32]);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&raw[32..36]);
        let address = Self::new(Uid::from_bytes(uid), Tag(tag));
        if raw[36..] != address.checksum() {
            return Err(FriendAddressError::Checksum);
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(uid: [u8; 32], tag: [u8; 4]) {
            let address = FriendAddress::new(Uid::from_bytes(uid), Tag(tag));
            prop_assert_eq!(address.to_string().parse::<FriendAddress>().unwrap(), address);
        }

        #[test]
        fn one_changed_character_is_noticed(uid: [u8; 32], at in 0usize..TEXT_LEN, by in 1u8..32) {
            let text = FriendAddress::new(Uid::from_bytes(uid), Tag([9; 4])).to_string();
            let mut bytes = text.into_bytes();
            let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
            let old = alphabet.iter().position(|c| *c == bytes[at]).unwrap();
            bytes[at] = alphabet[(old + usize::from(by)) % 32];
            let text = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(text.parse::<FriendAddress>(), Err(FriendAddressError::Checksum));
        }

        #[test]
        fn any_text_is_handled(text in ".{0,80}") {
            let _ = text.parse::<FriendAddress>();
        }
    }
}
