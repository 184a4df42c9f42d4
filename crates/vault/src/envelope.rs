//! Sealing a manifest to its recipients.
//!
//! Goal: only the recipients read it, everybody can check who wrote it, and nobody who lacks a
//! recipient's key learns who the recipients are (their number shows). A fresh content key
//! encrypts the manifest; for each recipient it is wrapped under a key that X25519 gives for one
//! fresh key pair and the recipient's identity, taken to its Montgomery form (the birational map
//! of RFC 7748; both uses of one key pair are secure together: Thormarker, "On using the same key
//! pair for Ed25519 and an X25519 based KEM", 2021). The author is part of what both ciphers
//! authenticate, so that nobody can put another name on a manifest that they cannot read.
//!
//! Not a goal: secrecy of old manifests after a recipient's key was stolen.
//!
//! Layout of version 1, in `docs/formats/vault.md` in full:
//! `version (1) | author (32) | signature (64) | ephemeral (32) | count (1) | count × wrap (48) | body`.

use ed25519_dalek::{SigningKey, VerifyingKey};
use ioex_base::{NodeKey, Uid};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

use crate::{
    aead,
    limits::{MANIFEST_MAX_BYTES, RECIPIENTS_MAX, TAG_BYTES},
    manifest::{InvalidManifest, Manifest, ManifestError},
};

const VERSION: u8 = 1;
const SIGNATURE_CONTEXT: &[u8] = b"ioex 2026 sealed manifest v1\0";
const WRAP_CONTEXT: &str = "ioex 2026 sealed manifest v1 wrap";
const KEY_BYTES: usize = 32;
const WRAP_BYTES: usize = KEY_BYTES + TAG_BYTES;
const SIGNATURE_BYTES: usize = 64;
const HEAD_BYTES: usize = 1 + 32 + SIGNATURE_BYTES + KEY_BYTES + 1;

/// Longest sealed manifest in bytes.
pub const SEALED_MANIFEST_MAX_BYTES: usize =
    HEAD_BYTES + RECIPIENTS_MAX * WRAP_BYTES + MANIFEST_MAX_BYTES + TAG_BYTES;

/// Why a manifest could not be sealed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealManifestError {
    /// Nobody, or too many.
    #[error("a manifest has 1 to {max} recipients, not {got}")]
    Recipients {
        /// The bound.
        max: usize,
        /// Different recipients that were given.
        got: usize,
    },
    /// An identity that no key can belong to, or a weak one that anybody could read for.
    #[error("nothing can be sealed to {0}: its identity is not a proper key")]
    Recipient(Uid),
    /// The manifest would be refused by every reader.
    #[error(transparent)]
    Invalid(#[from] InvalidManifest),
    /// The operating system gave no randomness.
    #[error("no randomness: {0}")]
    Randomness(getrandom::Error),
    /// The cipher refused, which it does only beyond its length limits.
    #[error("the cipher refused the manifest")]
    Cipher,
}

/// The two secrets that are fresh for every sealed manifest.
pub(crate) struct Fresh {
    pub(crate) content_key: Zeroizing<[u8; KEY_BYTES]>,
    pub(crate) ephemeral: Zeroizing<[u8; KEY_BYTES]>,
}

/// Encrypts `manifest` so that only `recipients` read it, and signs it. An author who wants to
/// read it later is among the recipients. Repeated recipients count once.
///
/// # Errors
/// [`SealManifestError`].
pub fn seal_manifest(
    manifest: &Manifest,
    author: &NodeKey,
    recipients: &[Uid],
) -> Result<Vec<u8>, SealManifestError> {
    let mut fresh = Fresh { content_key: Zeroizing::default(), ephemeral: Zeroizing::default() };
    getrandom::fill(fresh.content_key.as_mut()).map_err(SealManifestError::Randomness)?;
    getrandom::fill(fresh.ephemeral.as_mut()).map_err(SealManifestError::Randomness)?;
    seal_with(manifest, author, recipients, &fresh)
}

/// [`seal_manifest`] with its randomness as an argument.
pub(crate) fn seal_with(
    manifest: &Manifest,
    author: &NodeKey,
    recipients: &[Uid],
    fresh: &Fresh,
) -> Result<Vec<u8>, SealManifestError> {
    manifest.check()?;
    let mut recipients = recipients.to_vec();
    recipients.sort_unstable();
    recipients.dedup();
    if recipients.is_empty() || recipients.len() > RECIPIENTS_MAX {
        return Err(SealManifestError::Recipients { max: RECIPIENTS_MAX, got: recipients.len() });
    }
    let author_uid = author.uid();
    let ephemeral_public = x25519(*fresh.ephemeral, X25519_BASEPOINT_BYTES);
    let mut wraps = Vec::with_capacity(recipients.len());
    for recipient in &recipients {
        let wrapped = montgomery(recipient)
            .and_then(|theirs| wrap_key(&fresh.ephemeral, &theirs, &ephemeral_public, recipient))
            .ok_or(SealManifestError::Recipient(*recipient))?;
        let mut wrap = fresh.content_key.to_vec();
        aead::seal(&wrapped, author_uid.as_bytes(), &mut wrap, 0).map_err(|_| SealManifestError::Cipher)?;
        wraps.push(wrap);
    }
    // The order must not follow the identities: tags are as good as random.
    wraps.sort_unstable();

    let mut tail = ephemeral_public.to_vec();
    tail.push(recipients.len() as u8);
    wraps.iter().for_each(|wrap| tail.extend_from_slice(wrap));
    let from = tail.len();
    tail.append(&mut manifest.encode());
    aead::seal(&fresh.content_key, author_uid.as_bytes(), &mut tail, from)
        .map_err(|_| SealManifestError::Cipher)?;

    let mut out = Vec::with_capacity(HEAD_BYTES + tail.len());
    out.push(VERSION);
    out.extend_from_slice(author_uid.as_bytes());
    out.extend_from_slice(&author.sign(&signable(&author_uid, &tail)));
    out.append(&mut tail);
    Ok(out)
}

/// Checks and decrypts a sealed manifest; returns it with its author. Whether that author is to
/// be trusted is for the caller to say.
///
/// # Errors
/// [`ManifestError::Damaged`] (also for a forged author), [`ManifestError::NotForYou`],
/// [`ManifestError::Version`], [`ManifestError::TooLong`], [`ManifestError::Invalid`].
pub fn open_manifest(bytes: &[u8], reader: &NodeKey) -> Result<(Manifest, Uid), ManifestError> {
    let sealed = Sealed::split(bytes)?;
    if !sealed.author.verifies(&signable(&sealed.author, sealed.tail), sealed.signature) {
        return Err(ManifestError::Damaged);
    }
    let key = sealed.content_key(reader).ok_or(ManifestError::NotForYou)?;
    let mut body = sealed.body.to_vec();
    let plain = aead::open(&key, sealed.author.as_bytes(), &mut body).map_err(|_| ManifestError::Damaged)?;
    Ok((Manifest::decode(plain)?, sealed.author))
}

/// The parts of a sealed manifest, nothing checked but their lengths.
struct Sealed<'a> {
    author: Uid,
    signature: &'a [u8; SIGNATURE_BYTES],
    /// All that follows the signature.
    tail: &'a [u8],
    ephemeral: [u8; KEY_BYTES],
    wraps: &'a [u8],
    body: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn split(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        if bytes.len() > SEALED_MANIFEST_MAX_BYTES {
            return Err(ManifestError::TooLong { max: SEALED_MANIFEST_MAX_BYTES, got: bytes.len() });
        }
        match bytes.split_first() {
            Some((&VERSION, rest)) => Self::split_v1(rest).ok_or(ManifestError::Damaged),
            Some((&got, _)) => Err(ManifestError::Version { want: VERSION, got }),
            None => Err(ManifestError::Damaged),
        }
    }

    fn split_v1(rest: &'a [u8]) -> Option<Self> {
        let (author, rest) = rest.split_first_chunk::<32>()?;
        let (signature, tail) = rest.split_first_chunk::<SIGNATURE_BYTES>()?;
        let (ephemeral, rest) = tail.split_first_chunk::<KEY_BYTES>()?;
        let (count, rest) = rest.split_first()?;
        let count = usize::from(*count);
        if count == 0 || count > RECIPIENTS_MAX {
            return None;
        }
        let (wraps, body) = rest.split_at_checked(count * WRAP_BYTES)?;
        Some(Self { author: Uid::from_bytes(*author), signature, tail, ephemeral: *ephemeral, wraps, body })
    }

    fn content_key(&self, reader: &NodeKey) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
        let secret = Zeroizing::new(SigningKey::from_bytes(&reader.seed()).to_scalar_bytes());
        let wrapped = wrap_key(&secret, &self.ephemeral, &self.ephemeral, &reader.uid())?;
        self.wraps.chunks_exact(WRAP_BYTES).find_map(|wrap| {
            let mut wrap = Zeroizing::new(wrap.to_vec());
            let key = aead::open(&wrapped, self.author.as_bytes(), &mut wrap).ok()?;
            key.try_into().ok().map(Zeroizing::new)
        })
    }
}

/// What the author signs: all bytes but the signature, hashed first because the manifest may be
/// long and the signature reads its message twice.
fn signable(author: &Uid, tail: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[VERSION]).update(author.as_bytes()).update(tail);
    let mut message = SIGNATURE_CONTEXT.to_vec();
    message.extend_from_slice(hasher.finalize().as_bytes());
    message
}

/// The recipient's identity as an X25519 public key; `None` when it is no point of the curve or
/// one of small order.
fn montgomery(recipient: &Uid) -> Option<[u8; KEY_BYTES]> {
    let key = VerifyingKey::from_bytes(recipient.as_bytes()).ok()?;
    (!key.is_weak()).then(|| key.to_montgomery().to_bytes())
}

/// The key that wraps the content key for one recipient; `None` when the agreement gives zero,
/// which happens only for public keys of small order.
fn wrap_key(
    secret: &[u8; KEY_BYTES],
    public: &[u8; KEY_BYTES],
    ephemeral_public: &[u8; KEY_BYTES],
    recipient: &Uid,
) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let shared = Zeroizing::new(x25519(*secret, *public));
    if shared.iter().fold(0, |all, byte| all | byte) == 0 {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key(WRAP_CONTEXT);
    hasher.update(shared.as_ref()).update(ephemeral_public).update(recipient.as_bytes());
    Some(Zeroizing::new(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests;
