//! ChaCha20-Poly1305 (RFC 8439) with keys that are used once.
//!
//! Chosen over AES-GCM because it needs no AES instructions: the cheap ARM cores of the smallest
//! devices lack them, and there it is several times as fast and runs in constant time. Where AES
//! instructions exist, both are faster than the compressor before them.
//!
//! Every key here is made for exactly one input (a chunk's is a hash of that input, the others
//! are random), so the nonce carries nothing and is zero.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::limits::TAG_BYTES;

/// Encryption or its check failed. The cipher does not say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CipherError;

const NONCE: [u8; 12] = [0; 12];

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, CipherError> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new).map_err(|_| CipherError)
}

/// Encrypts `text[from..]` in place and appends the tag.
pub(crate) fn seal(key: &[u8; 32], aad: &[u8], text: &mut Vec<u8>, from: usize) -> Result<(), CipherError> {
    let part = text.get_mut(from..).ok_or(CipherError)?;
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(NONCE), Aad::from(aad), part)
        .map_err(|_| CipherError)?;
    debug_assert_eq!(tag.as_ref().len(), TAG_BYTES);
    text.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Checks and decrypts `text` in place; returns the plaintext at its beginning.
pub(crate) fn open<'t>(key: &[u8; 32], aad: &[u8], text: &'t mut [u8]) -> Result<&'t [u8], CipherError> {
    cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(NONCE), Aad::from(aad), text)
        .map(|plain| &*plain)
        .map_err(|_| CipherError)
}
