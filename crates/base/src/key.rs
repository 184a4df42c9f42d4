//! A node's key pair and the identity that follows from it.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Length of a [`Uid`] and of a [`ContentAddress`](crate::ContentAddress) in their text form.
pub(crate) const ID_TEXT_LEN: usize = 52;

/// Who a node is: its ed25519 public key (requirement N2).
///
/// Text form: 52 characters of lower-case RFC 4648 base32 without padding, which also fits one
/// DNS label. Parsing ignores case. The bytes are not checked to be a point of the curve here: a
/// key that is none simply never verifies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid([u8; 32]);

impl Uid {
    /// The identity with these public-key bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 public-key bytes.
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

    /// Whether `signature` was made over `message` by this identity's key.
    ///
    /// Uses strict verification: keys of small order and malleable signatures are refused.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

/// A text that is no identity or content address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseIdError {
    /// The length is wrong.
    #[error("an id has {ID_TEXT_LEN} characters, this one has {0}")]
    Length(usize),
    /// A character outside base32, or trailing bits that are not zero.
    #[error("an id is written with the letters a-z and the digits 2-7 only")]
    Alphabet,
}

pub(crate) fn id_to_text(bytes: &[u8; 32]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

pub(crate) fn id_from_text(s: &str) -> Result<[u8; 32], ParseIdError> {
    if s.len() != ID_TEXT_LEN {
        return Err(ParseIdError::Length(s.chars().count()));
    }
    let bytes = BASE32_NOPAD.decode(s.to_ascii_uppercase().as_bytes()).map_err(|_| ParseIdError::Alphabet)?;
    bytes.try_into().map_err(|_| ParseIdError::Alphabet)
}

/// Gives a 32-byte newtype its text form, and serde: text for people, bytes on the wire.
macro_rules! impl_id_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&crate::key::id_to_text(self.as_bytes()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = crate::key::ParseIdError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                crate::key::id_from_text(s).map(Self::from_bytes)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { self.as_bytes().serialize(s) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(d).map(Self::from_bytes)
                }
            }
        }
    };
}
pub(crate) use impl_id_text;

impl_id_text!(Uid);

/// A node's private key. Never printed; wiped from memory when dropped.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key with this 32-byte seed (RFC 8032).
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut())?;
        Ok(Self::from_seed(*seed))
    }

    /// The seed, for writing the key to a file that only its owner may read.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The identity that belongs to this key.
    #[must_use]
    pub fn uid(&self) -> Uid {
        Uid(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`; deterministic (RFC 8032).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.uid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Public keys of RFC 8032 section 7.1, tests 1 and 2.
    #[test]
    fn uid_is_the_rfc_8032_public_key() {
        let seed = data_encoding::HEXLOWER
            .decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
            .unwrap();
        let uid = NodeKey::from_seed(seed.try_into().unwrap()).uid();
        assert_eq!(
            data_encoding::HEXLOWER.encode(uid.as_bytes()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    #[test]
    fn text_round_trips_and_ignores_case() {
        let uid = NodeKey::from_seed([3; 32]).uid();
        let text = uid.to_string();
        assert_eq!(text.len(), ID_TEXT_LEN);
        assert_eq!(text.parse::<Uid>().unwrap(), uid);
        assert_eq!(text.to_uppercase().parse::<Uid>().unwrap(), uid);
    }

    #[test]
    fn wrong_texts_are_refused() {
        assert_eq!("abc".parse::<Uid>(), Err(ParseIdError::Length(3)));
        assert_eq!("1".repeat(52).parse::<Uid>(), Err(ParseIdError::Alphabet));
        assert_eq!("é".repeat(26).parse::<Uid>(), Err(ParseIdError::Alphabet));
    }

    #[test]
    fn a_signature_holds_for_its_message_and_key_only() {
        let (a, b) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let signature = a.sign(b"m");
        assert!(a.uid().verifies(b"m", &signature));
        assert!(!a.uid().verifies(b"n", &signature));
        assert!(!b.uid().verifies(b"m", &signature));
    }
}
