//! Signed values: who said what, for which purpose, in which format version.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use crate::{NodeKey, Uid, wire};

/// A type that can be signed. `CONTEXT` separates purposes: a signature over one type never
/// passes for another. `MAX_BYTES` bounds the encoded value.
pub trait Sealed: Serialize + DeserializeOwned {
    /// Unique text that goes into the signature, with the format's version number.
    const CONTEXT: &'static str;
    /// Format version, the first byte on the wire. Readers refuse others by name.
    const VERSION: u8;
    /// Upper bound of the encoded value in bytes.
    const MAX_BYTES: usize;

    /// Signs this value: `version (1) | signature (64) | value`.
    fn seal(&self, key: &NodeKey) -> Vec<u8> {
        let body = wire::encode(self);
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.push(Self::VERSION);
        out.extend_from_slice(&key.sign(&signable::<Self>(&body)));
        out.extend_from_slice(&body);
        out
    }

    /// Reads a value that `signer` sealed.
    ///
    /// # Errors
    /// [`SealError`]; nothing of the value is used before its signature held.
    fn unseal(bytes: &[u8], signer: &Uid) -> Result<Self, SealError> {
        Envelope::<Self>::split(bytes)?.verify(signer)
    }
}

const HEADER_BYTES: usize = 1 + 64;

/// Why a sealed value was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// Too short to hold a version and a signature, or longer than the type's bound.
    #[error("a sealed value of {0} bytes is too short or too long")]
    Length(usize),
    /// A format version that this program does not read.
    #[error("format version {got} is unknown, this program reads version {want}: update it")]
    Version {
        /// The version this program reads.
        want: u8,
        /// The version that came.
        got: u8,
    },
    /// The signature is not the expected signer's.
    #[error("the signature is not valid")]
    Signature,
    /// Signed, but no value of the type.
    #[error(transparent)]
    Wire(#[from] wire::WireError),
}

fn signable<T: Sealed>(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(T::CONTEXT.len() + 2 + body.len());
    message.extend_from_slice(T::CONTEXT.as_bytes());
    message.extend_from_slice(&[0, T::VERSION]);
    message.extend_from_slice(body);
    message
}

/// A sealed value whose signature was not looked at yet.
struct Envelope<'a, T> {
    signature: [u8; 64],
    body: &'a [u8],
    kind: PhantomData<T>,
}

impl<'a, T: Sealed> Envelope<'a, T> {
    fn split(bytes: &'a [u8]) -> Result<Self, SealError> {
        let (Some((&version, rest)), true) = (bytes.split_first(), bytes.len() >= HEADER_BYTES) else {
            return Err(SealError::Length(bytes.len()));
        };
        if version != T::VERSION {
            return Err(SealError::Version { want: T::VERSION, got: version });
        }
        let (signature, body) = rest.split_at(64);
        if body.len() > T::MAX_BYTES {
            return Err(SealError::Length(bytes.len()));
        }
        let mut sig = [0; 64];
        sig.copy_from_slice(signature);
        Ok(Self { signature: sig, body, kind: PhantomData })
    }

    fn verify(&self, signer: &Uid) -> Result<T, SealError> {
        if !signer.verifies(&signable::<T>(self.body), &self.signature) {
            return Err(SealError::Signature);
        }
        Ok(wire::decode(self.body, T::MAX_BYTES)?)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note(u32);
    impl Sealed for Note {
        const CONTEXT: &'static str = "test note";
        const VERSION: u8 = 1;
        const MAX_BYTES: usize = 8;
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Other(u32);
    impl Sealed for Other {
        const CONTEXT: &'static str = "test other";
        const VERSION: u8 = 1;
        const MAX_BYTES: usize = 8;
    }

    #[test]
    fn every_change_of_a_byte_is_noticed() {
        let key = NodeKey::from_seed([5; 32]);
        let bytes = Note(77).seal(&key);
        assert_eq!(Note::unseal(&bytes, &key.uid()), Ok(Note(77)));
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(Note::unseal(&bad, &key.uid()).is_err(), "byte {i}");
            assert!(Note::unseal(&bytes[..i], &key.uid()).is_err(), "cut at {i}");
        }
    }

    #[test]
    fn a_signature_for_one_purpose_does_not_serve_another() {
        let key = NodeKey::from_seed([5; 32]);
        let bytes = Note(77).seal(&key);
        assert_eq!(Other::unseal(&bytes, &key.uid()), Err(SealError::Signature));
    }

    #[test]
    fn a_newer_version_is_named() {
        let key = NodeKey::from_seed([5; 32]);
        let mut bytes = Note(77).seal(&key);
        bytes[0] = 9;
        assert_eq!(Note::unseal(&bytes, &key.uid()), Err(SealError::Version { want: 1, got: 9 }));
    }
}
