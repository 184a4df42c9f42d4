//! Receipts: what one node got from another, in a form that an EVM contract checks.
//!
//! For each voucher the requester signs a growing amount, each time after it has verified the bytes; the
//! provider signs the last one, too, and keeps it. A receipt is EIP-712 typed data, signed by a secp256k1
//! key that the node's UID certifies ([`Certificate`]). Here is hashing and signing and nothing of a
//! chain: golden tests hold it to what other implementations compute.

mod key;

use serde::{Deserialize, Serialize};

pub use key::{
    Address, Certificate, CertificateError, RECEIPT_SIGNATURE_BYTES, ReceiptKey, ReceiptSignature,
    SignatureError, keccak256,
};

use crate::{ContentAddress, Uid, UnixSeconds};

/// EIP-712's domain type.
const DOMAIN_TYPE: &[u8] =
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
/// Name of ours.
const DOMAIN_NAME: &[u8] = b"ioeX";
/// Version of ours: raised when the receipt's type changes.
const DOMAIN_VERSION: &[u8] = b"1";
/// The receipt's type.
const RECEIPT_TYPE: &[u8] = b"Receipt(bytes16 order,uint64 serial,bytes32 requester,bytes32 provider,\
bytes32 manifest,uint64 total,uint32 shards,bytes32 bitmap,uint64 time)";

/// Where receipts are settled. A signature for one contract does not serve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// EIP-155 number of the chain.
    pub chain: u64,
    /// The contract.
    pub contract: Address,
}

impl Domain {
    /// EIP-712's domain separator.
    #[must_use]
    pub fn separator(&self) -> [u8; 32] {
        let words = [
            keccak256(DOMAIN_TYPE),
            keccak256(DOMAIN_NAME),
            keccak256(DOMAIN_VERSION),
            number(self.chain),
            right(&self.contract.0),
        ];
        keccak256(words.as_flattened())
    }
}

/// What was got under one voucher so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The order that pays.
    pub order: [u8; 16],
    /// The voucher's serial.
    pub serial: u64,
    /// Who got it.
    pub requester: Uid,
    /// Who sent it.
    pub provider: Uid,
    /// The vault manifest of the package.
    pub manifest: ContentAddress,
    /// All bytes of the shards below, verified.
    pub total: u64,
    /// How many shards.
    pub shards: u32,
    /// Keccak-256 of which ones: shard `n` is bit `n % 8` of byte `n / 8`.
    pub bitmap: [u8; 32],
    /// When it was signed.
    pub time: UnixSeconds,
}

/// Longest signed receipt on the wire and on disk, in bytes.
pub const SIGNED_RECEIPT_MAX_BYTES: usize = 340;

/// Why a receipt is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The signature says nothing.
    #[error("the receipt's signature: {0}")]
    Signature(#[from] SignatureError),
    /// Signed by another account than the certified one.
    #[error("the receipt is signed by {got}, certified is {want}")]
    Signer {
        /// The certified account.
        want: Address,
        /// Who signed.
        got: Address,
    },
    /// About something else.
    #[error("the receipt is not for this order, voucher, package or pair")]
    Subject,
    /// Less than the one before.
    #[error("a receipt only grows: {got} bytes follow {had}")]
    Shrinks {
        /// What the one before said, in bytes.
        had: u64,
        /// What this one says, in bytes.
        got: u64,
    },
    /// More than was sent.
    #[error("the receipt says {got} bytes, {sent} were sent")]
    More {
        /// What was sent, in bytes.
        sent: u64,
        /// What it says, in bytes.
        got: u64,
    },
}

impl Receipt {
    /// EIP-712's hash of the struct.
    #[must_use]
    pub fn struct_hash(&self) -> [u8; 32] {
        let mut order = [0; 32];
        order[..16].copy_from_slice(&self.order);
        let words = [
            keccak256(RECEIPT_TYPE),
            order,
            number(self.serial),
            *self.requester.as_bytes(),
            *self.provider.as_bytes(),
            *self.manifest.as_bytes(),
            number(self.total),
            number(u64::from(self.shards)),
            self.bitmap,
            number(self.time.0),
        ];
        keccak256(words.as_flattened())
    }

    /// What is signed.
    #[must_use]
    pub fn digest(&self, domain: &Domain) -> [u8; 32] {
        let mut bytes = [0; 66];
        bytes[..2].copy_from_slice(&[0x19, 0x01]);
        bytes[2..34].copy_from_slice(&domain.separator());
        bytes[34..].copy_from_slice(&self.struct_hash());
        keccak256(&bytes)
    }

    /// Signs it as the requester.
    #[must_use]
    pub fn sign(self, domain: &Domain, requester: &ReceiptKey) -> SignedReceipt {
        let signature = requester.sign(&self.digest(domain));
        SignedReceipt { receipt: self, requester: signature, provider: None }
    }

    /// Whether it may follow `before`, under the same voucher.
    ///
    /// # Errors
    /// [`ReceiptError::Subject`], [`ReceiptError::Shrinks`].
    pub fn follows(&self, before: &Self) -> Result<(), ReceiptError> {
        let subject = |receipt: &Self| {
            (receipt.order, receipt.serial, receipt.requester, receipt.provider, receipt.manifest)
        };
        if subject(self) != subject(before) {
            return Err(ReceiptError::Subject);
        }
        if self.total < before.total || self.shards < before.shards || self.time < before.time {
            return Err(ReceiptError::Shrinks { had: before.total, got: self.total });
        }
        Ok(())
    }
}

/// A receipt with the signatures that it has so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// What was got.
    pub receipt: Receipt,
    /// The requester's signature.
    pub requester: ReceiptSignature,
    /// The provider's, under the last one.
    pub provider: Option<ReceiptSignature>,
}

impl SignedReceipt {
    /// Signs it as the provider, too. The hash is the same; who is who stands in it.
    pub fn countersign(&mut self, domain: &Domain, provider: &ReceiptKey) {
        self.provider = Some(provider.sign(&self.receipt.digest(domain)));
    }

    /// Whether these accounts signed it; the provider only if it has signed already.
    ///
    /// # Errors
    /// [`ReceiptError::Signature`], [`ReceiptError::Signer`].
    pub fn check(
        &self,
        domain: &Domain,
        requester: &Address,
        provider: &Address,
    ) -> Result<(), ReceiptError> {
        let digest = self.receipt.digest(domain);
        let signed = |signature: &ReceiptSignature, want: &Address| {
            let got = signature.signer(&digest)?;
            if got == *want { Ok(()) } else { Err(ReceiptError::Signer { want: *want, got }) }
        };
        signed(&self.requester, requester)?;
        self.provider.iter().try_for_each(|signature| signed(signature, provider))
    }
}

/// A number as the EVM's word: big-endian.
fn number(n: u64) -> [u8; 32] {
    right(&n.to_be_bytes())
}

/// Bytes at the right end of a word.
fn right(bytes: &[u8]) -> [u8; 32] {
    let mut word = [0; 32];
    let free = word.len().saturating_sub(bytes.len());
    word[free..].copy_from_slice(bytes);
    word
}

#[cfg(test)]
mod tests;
