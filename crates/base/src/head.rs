//! The head of a repository: the small signed record that says what the newest state is.
//!
//! A *repository* (all restore points of one owner) is known by an Ed25519 key, whose public half
//! is a [`Uid`]. Its head changes with every restore point; so devices hold it under an address
//! that follows from the repository's name, and of two heads the one with the higher number holds.
//! What the body says is no business of those who hold it: it is encrypted.

use crate::{ContentAddress, NodeKey, SealError, Uid, limits::HEAD_MAX_BYTES};

/// Separates signatures over heads from all others.
const CONTEXT: &[u8] = b"ioex 2026 vault head";
/// Format version, the first byte.
const VERSION: u8 = 1;
const REPO_AT: usize = 1;
const SEQ_AT: usize = REPO_AT + 32;
const SIGNATURE_AT: usize = SEQ_AT + 8;
const BODY_AT: usize = SIGNATURE_AT + 64;

/// Longest body in bytes.
pub const HEAD_BODY_MAX_BYTES: usize = HEAD_MAX_BYTES - BODY_AT;

/// A head whose signature held:
/// `version (1) | repository (32) | number (8, little-endian) | signature (64) | body`.
///
/// ```
/// use ioex_base::{NodeKey, SealedHead, head_address};
///
/// let repository = NodeKey::from_seed([7; 32]);
/// let bytes = SealedHead::sign(&repository, 3, b"encrypted");
/// let head = SealedHead::open(&bytes)?;
/// assert_eq!((head.repo, head.seq, head.body), (repository.uid(), 3, &b"encrypted"[..]));
/// assert_eq!(head.address(), head_address(&repository.uid()));
/// # Ok::<(), ioex_base::SealError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedHead<'a> {
    /// The repository, which signed this.
    pub repo: Uid,
    /// Grows with every change.
    pub seq: u64,
    /// What the repository's owner reads.
    pub body: &'a [u8],
}

impl<'a> SealedHead<'a> {
    /// The bytes of a head with this body, which has at most [`HEAD_BODY_MAX_BYTES`]: nobody
    /// takes a longer one.
    #[must_use]
    pub fn sign(key: &NodeKey, seq: u64, body: &[u8]) -> Vec<u8> {
        let repo = key.uid();
        let mut out = Vec::with_capacity(BODY_AT + body.len());
        out.push(VERSION);
        out.extend_from_slice(repo.as_bytes());
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&key.sign(&signable(&repo, seq, body)));
        out.extend_from_slice(body);
        out
    }

    /// Reads a head that its repository signed. Whether that is the expected repository is for
    /// the caller to compare.
    ///
    /// # Errors
    /// [`SealError`]; nothing of the head is used before its signature held.
    pub fn open(bytes: &'a [u8]) -> Result<Self, SealError> {
        let length = || SealError::Length(bytes.len());
        if bytes.len() > HEAD_MAX_BYTES {
            return Err(length());
        }
        let (&version, rest) = bytes.split_first().ok_or_else(length)?;
        if version != VERSION {
            return Err(SealError::Version { want: VERSION, got: version });
        }
        let (repo, rest) = rest.split_first_chunk::<32>().ok_or_else(length)?;
        let (seq, rest) = rest.split_first_chunk::<8>().ok_or_else(length)?;
        let (signature, body) = rest.split_first_chunk::<64>().ok_or_else(length)?;
        let (repo, seq) = (Uid::from_bytes(*repo), u64::from_le_bytes(*seq));
        if !repo.verifies(&signable(&repo, seq, body), signature) {
            return Err(SealError::Signature);
        }
        Ok(Self { repo, seq, body })
    }

    /// Under which address it is held and announced.
    #[must_use]
    pub fn address(&self) -> ContentAddress {
        head_address(&self.repo)
    }
}

/// Under which address the head of `repo` is held and announced: BLAKE3 of the text
/// `ioex 2026 vault head`, a zero byte and the repository's key.
#[must_use]
pub fn head_address(repo: &Uid) -> ContentAddress {
    let mut hasher = blake3::Hasher::new();
    hasher.update(CONTEXT).update(&[0]).update(repo.as_bytes());
    hasher.finalize().into()
}

fn signable(repo: &Uid, seq: u64, body: &[u8]) -> Vec<u8> {
    let mut out = CONTEXT.to_vec();
    out.push(VERSION);
    out.extend_from_slice(repo.as_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(blake3::hash(body).as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> NodeKey {
        NodeKey::from_seed([7; 32])
    }

    #[test]
    fn golden_bytes() {
        let bytes = SealedHead::sign(&key(), 0x0102, b"body");
        let mut message = b"ioex 2026 vault head\x01".to_vec();
        message.extend(key().uid().as_bytes());
        message.extend([2, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(blake3::hash(b"body").as_bytes());
        let mut want = vec![1];
        want.extend(key().uid().as_bytes());
        want.extend([2, 1, 0, 0, 0, 0, 0, 0]);
        want.extend(key().sign(&message));
        want.extend(b"body");
        assert_eq!(bytes, want);
        let mut named = b"ioex 2026 vault head\0".to_vec();
        named.extend(key().uid().as_bytes());
        assert_eq!(head_address(&key().uid()), ContentAddress::of(&named));
    }

    #[test]
    fn every_change_of_a_byte_is_noticed() {
        let bytes = SealedHead::sign(&key(), 9, b"what is newest");
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(SealedHead::open(&bad).is_err(), "byte {i}");
            assert!(SealedHead::open(&bytes[..i]).is_err(), "cut at {i}");
        }
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert_eq!(SealedHead::open(&newer), Err(SealError::Version { want: 1, got: 2 }));
        // Another repository cannot pass its signature off as this one's.
        let other = SealedHead::sign(&NodeKey::from_seed([8; 32]), 9, b"what is newest");
        let mut mixed = bytes;
        mixed[SIGNATURE_AT..BODY_AT].copy_from_slice(&other[SIGNATURE_AT..BODY_AT]);
        assert_eq!(SealedHead::open(&mixed), Err(SealError::Signature));
    }

    #[test]
    fn the_longest_head_fits_and_a_longer_one_does_not() {
        let body = vec![5; HEAD_BODY_MAX_BYTES];
        assert_eq!(SealedHead::open(&SealedHead::sign(&key(), 1, &body)).unwrap().body, body);
        let long = SealedHead::sign(&key(), 1, &vec![5; HEAD_BODY_MAX_BYTES + 1]);
        assert_eq!(SealedHead::open(&long), Err(SealError::Length(HEAD_MAX_BYTES + 1)));
        assert!(SealedHead::open(&SealedHead::sign(&key(), 0, b"")).unwrap().body.is_empty());
    }

    proptest! {
        #[test]
        fn round_trips(seq: u64, body in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = SealedHead::sign(&key(), seq, &body);
            let want = SealedHead { repo: key().uid(), seq, body: &body };
            prop_assert_eq!(SealedHead::open(&bytes), Ok(want));
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = SealedHead::open(&bytes);
        }
    }
}
