//! Keys that sign receipts, as an EVM contract checks them.

use std::fmt;

use data_encoding::HEXLOWER;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Keccak256};

use crate::{CLOCK_SLACK_SECONDS, NodeKey, SealError, Sealed, Uid, UnixSeconds};

/// Keccak-256, the EVM's hash.
#[must_use]
pub fn keccak256(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// An account of the EVM: the last 20 bytes of the hash of a public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address(pub [u8; 20]);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Address {
    fn of(key: &VerifyingKey) -> Self {
        // 4 | x | y (SEC 1, 2.3.3); the EVM hashes the coordinates alone.
        let point = key.to_sec1_point(false);
        let hash = keccak256(point.as_bytes().get(1..).unwrap_or_default());
        let mut address = [0; 20];
        address.copy_from_slice(&hash[12..]);
        Self(address)
    }
}

/// A signature from which the signer's address follows: r, s and v, as `ecrecover` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptSignature {
    r: [u8; 32],
    s: [u8; 32],
    v: u8,
}

/// Length of a signature in bytes: r | s | v.
pub const RECEIPT_SIGNATURE_BYTES: usize = 65;

/// What v of an even y is (Ethereum Yellow Paper, appendix F).
const V_EVEN: u8 = 27;

/// A signature that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No two numbers of the curve's order, a v that is not 27 or 28, or no point belongs to them.
    #[error("this is no signature")]
    Malformed,
    /// The other one of the two signatures that hold equally (EIP-2). A contract that refuses it
    /// would not pay.
    #[error("the signature is the malleable one of two")]
    HighS,
}

impl ReceiptSignature {
    /// r | s | v.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECEIPT_SIGNATURE_BYTES] {
        let mut bytes = [0; RECEIPT_SIGNATURE_BYTES];
        bytes[..32].copy_from_slice(&self.r);
        bytes[32..64].copy_from_slice(&self.s);
        bytes[64] = self.v;
        bytes
    }

    /// Reads r | s | v; whether they are a signature, [`ReceiptSignature::signer`] says.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; RECEIPT_SIGNATURE_BYTES]) -> Self {
        let mut signature = Self { r: [0; 32], s: [0; 32], v: bytes[64] };
        signature.r.copy_from_slice(&bytes[..32]);
        signature.s.copy_from_slice(&bytes[32..64]);
        signature
    }

    /// Who signed this hash.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn signer(&self, digest: &[u8; 32]) -> Result<Address, SignatureError> {
        let malformed = SignatureError::Malformed;
        let odd = self.v.checked_sub(V_EVEN).filter(|odd| *odd < 2).ok_or(malformed)?;
        let recovery = RecoveryId::from_byte(odd).ok_or(malformed)?;
        let signature = Signature::from_scalars(self.r, self.s).map_err(|_| malformed)?;
        if signature.normalize_s() != signature {
            return Err(SignatureError::HighS);
        }
        let key = VerifyingKey::recover_from_prehash(digest, &signature, recovery).map_err(|_| malformed)?;
        Ok(Address::of(&key))
    }
}

/// A key that signs receipts. Never printed; wiped from memory when dropped.
#[derive(Clone)]
pub struct ReceiptKey(SigningKey);

impl ReceiptKey {
    /// The key with this secret number, if it is one below the curve's order and not 0.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        SigningKey::from_slice(secret).ok().map(Self)
    }

    /// The receipt key of a node: derived, so that nothing more has to be kept.
    #[must_use]
    pub fn of(key: &NodeKey) -> Self {
        let seed = key.seed();
        let mut secret = zeroize::Zeroizing::new(blake3::derive_key("ioex 2026 receipt key", seed.as_ref()));
        loop {
            if let Some(key) = Self::from_secret(&secret) {
                return key;
            }
            // One hash in 2^128 is no number of the curve's order.
            *secret = *blake3::hash(secret.as_ref()).as_bytes();
        }
    }

    /// The account that goes with it.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::of(self.0.verifying_key())
    }

    /// Signs a hash; deterministic (RFC 6979), and always the lower of two possible s (EIP-2).
    #[must_use]
    pub fn sign(&self, digest: &[u8; 32]) -> ReceiptSignature {
        let (signature, recovery) = self.0.sign_prehash_recoverable(digest);
        let (r, s) = signature.split_bytes();
        ReceiptSignature { r: r.into(), s: s.into(), v: V_EVEN + u8::from(recovery.is_y_odd()) }
    }

    /// Says, as the node, that this key signs its receipts until `expires`.
    #[must_use]
    pub fn certify(&self, node: &NodeKey, expires: UnixSeconds) -> Vec<u8> {
        Certificate { address: self.address(), expires }.seal(node)
    }
}

impl fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiptKey(of {})", self.address())
    }
}

/// A node's word which account signs its receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The account.
    pub address: Address,
    /// Until when, that second included.
    pub expires: UnixSeconds,
}

impl Sealed for Certificate {
    const CONTEXT: &'static str = "ioex 2026 receipt key";
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 32;
}

/// Why a certificate is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not this node's, damaged, or of an unknown version.
    #[error("the certificate of the receipt key cannot be trusted: {0}")]
    Seal(#[from] SealError),
    /// Over.
    #[error("the certificate of the receipt key ended: the node has to make a new one")]
    Expired,
}

impl Certificate {
    /// Reads what `node` said about its receipt key.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn check(bytes: &[u8], node: &Uid, now: UnixSeconds) -> Result<Self, CertificateError> {
        let certificate = Self::unseal(bytes, node)?;
        if now > certificate.expires.plus(CLOCK_SLACK_SECONDS) {
            return Err(CertificateError::Expired);
        }
        Ok(certificate)
    }
}
