//! What the directory says about a node, signed by the node.
//!
//! A record is a BEP 44 mutable item, so the DHT can store it as it is and every asker, over
//! whichever way the answer came, checks the same signature.

use std::net::SocketAddr;

use ioex_base::{NodeKey, NodeKind, Uid, UnixSeconds, wire};
use serde::{Deserialize, Serialize};

use crate::names::BootstrapAddr;

/// Format version of [`NodeRecord`], the first byte of the value. Readers refuse others.
const VERSION: u8 = 1;
/// BEP 44 salt: keeps our items apart from other uses of the same key.
pub(crate) const SALT: &[u8] = b"ioex-node";
/// Largest encoded record; BEP 44 allows 1,000 bytes.
pub const RECORD_MAX_BYTES: usize = 900;
/// Most addresses in a record: a device with more publishes the first ones.
pub const RECORD_ADDRESSES_MAX: usize = 12;
/// Most bootstraps in a record: home and spares.
pub const RECORD_BOOTSTRAPS_MAX: usize = 3;
/// How long a record is believed after it was signed. Long enough that a device publishes three
/// times before it ends, short enough that addresses are not stale for long.
pub const RECORD_LIFE_SECONDS: u64 = 30 * 60;
/// How far in the future a record may be dated: clocks differ.
pub const RECORD_FUTURE_SECONDS: u64 = 10 * 60;
const _: () = assert!(RECORD_ADDRESSES_MAX * 20 + RECORD_BOOTSTRAPS_MAX * 55 + 200 < RECORD_MAX_BYTES);

/// How to reach a node, and what failure domain it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What it does.
    pub kind: NodeKind,
    /// Direct addresses, private ones included: a friend may be on the same network.
    pub addresses: Vec<SocketAddr>,
    /// Bootstraps over whose relays it can be reached, the home one first. For a bootstrap:
    /// itself.
    pub bootstraps: Vec<BootstrapAddr>,
    /// A name for its owner that says nothing else: devices of one owner share it.
    pub owner: [u8; 8],
    /// Free space it lends, in bytes.
    pub lends_bytes: u64,
}

/// A record with the signature that makes it worth something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecord {
    /// Whose record it is.
    pub uid: Uid,
    /// When it was signed: BEP 44's sequence number, in milliseconds since 1970, so that a later
    /// record always wins.
    pub seq_ms: u64,
    /// `version (1) | postcard record`.
    pub value: Vec<u8>,
    /// Over BEP 44's signable form.
    #[serde(with = "signature_bytes")]
    pub signature: [u8; 64],
}

/// Serde for 64 bytes, which serde itself stops short of.
mod signature_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], s: S) -> Result<S::Ok, S::Error> {
        let (a, b) = bytes.split_at(32);
        (<[u8; 32]>::try_from(a).unwrap_or_default(), <[u8; 32]>::try_from(b).unwrap_or_default())
            .serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 64], D::Error> {
        let (a, b) = <([u8; 32], [u8; 32])>::deserialize(d)?;
        let mut out = [0; 64];
        out[..32].copy_from_slice(&a);
        out[32..].copy_from_slice(&b);
        Ok(out)
    }
}

/// Why a record is not believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// Not signed by the node it is about.
    #[error("the record's signature is not valid")]
    Signature,
    /// Too old, or dated in the future.
    #[error("the record was signed {age_seconds} s ago, which is outside what is believed")]
    Stale {
        /// Age; negative for the future.
        age_seconds: i64,
    },
    /// Signed, but of another version or malformed.
    #[error("the record is malformed or of another version")]
    Format,
}

impl NodeRecord {
    /// Signs this record as of `now_ms` (milliseconds since 1970). Lists that are too long are cut.
    #[must_use]
    pub fn sign(mut self, key: &NodeKey, now_ms: u64) -> SignedRecord {
        self.addresses.truncate(RECORD_ADDRESSES_MAX);
        self.bootstraps.truncate(RECORD_BOOTSTRAPS_MAX);
        let mut value = vec![VERSION];
        value.extend_from_slice(&wire::encode(&self));
        let signature = key.sign(&signable(now_ms, &value));
        SignedRecord { uid: key.uid(), seq_ms: now_ms, value, signature }
    }
}

/// BEP 44, "Signature verification": the bencoded salt, sequence number and value, joined.
fn signable(seq_ms: u64, value: &[u8]) -> Vec<u8> {
    let mut out = format!("4:salt{}:", SALT.len()).into_bytes();
    out.extend_from_slice(SALT);
    out.extend_from_slice(format!("3:seqi{seq_ms}e1:v{}:", value.len()).as_bytes());
    out.extend_from_slice(value);
    out
}

impl SignedRecord {
    /// When `uid` signed this, in milliseconds since 1970 by its own clock, if it did. Says
    /// nothing about whether the record still holds.
    pub(crate) fn signed_ms(&self, uid: &Uid) -> Option<u64> {
        let signed = self.uid == *uid && uid.verifies(&signable(self.seq_ms, &self.value), &self.signature);
        signed.then_some(self.seq_ms)
    }

    /// The record inside, if `uid` signed it and it is neither stale nor from the future.
    ///
    /// # Errors
    /// [`RecordError`], checked in its order.
    pub fn open(&self, uid: &Uid, now: UnixSeconds) -> Result<NodeRecord, RecordError> {
        if self.uid != *uid || !uid.verifies(&signable(self.seq_ms, &self.value), &self.signature) {
            return Err(RecordError::Signature);
        }
        let signed = UnixSeconds(self.seq_ms / 1000);
        if now.since(signed) > RECORD_LIFE_SECONDS || signed.since(now) > RECORD_FUTURE_SECONDS {
            let age_seconds =
                i64::try_from(now.0).unwrap_or(i64::MAX) - i64::try_from(signed.0).unwrap_or(i64::MAX);
            return Err(RecordError::Stale { age_seconds });
        }
        let Some((&VERSION, body)) = self.value.split_first() else {
            return Err(RecordError::Format);
        };
        let record: NodeRecord = wire::decode(body, RECORD_MAX_BYTES).map_err(|_| RecordError::Format)?;
        let fits = record.addresses.len() <= RECORD_ADDRESSES_MAX
            && record.bootstraps.len() <= RECORD_BOOTSTRAPS_MAX
            && record.bootstraps.iter().all(|b| BootstrapAddr::new(b.uid, b.addr).is_some());
        fits.then_some(record).ok_or(RecordError::Format)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn sample() -> NodeRecord {
        NodeRecord {
            kind: NodeKind::Peer,
            addresses: vec!["192.0.2.7:4433".parse().unwrap()],
            bootstraps: vec![],
            owner: [9; 8],
            lends_bytes: 300,
        }
    }

    #[test]
    fn golden_bytes() {
        let signed = sample().sign(&NodeKey::from_seed([1; 32]), NOW.0 * 1000);
        let want = [1, 1, 1, 0, 192, 0, 2, 7, 0xd1, 0x22, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0xac, 2];
        assert_eq!(signed.value, want);
    }

    #[test]
    fn a_record_is_believed_from_its_signer_in_its_time() {
        let key = NodeKey::from_seed([1; 32]);
        let signed = sample().sign(&key, NOW.0 * 1000);
        assert_eq!(signed.open(&key.uid(), NOW), Ok(sample()));
        let other = NodeKey::from_seed([2; 32]).uid();
        assert_eq!(signed.open(&other, NOW), Err(RecordError::Signature));
        let late = NOW.plus(RECORD_LIFE_SECONDS + 1);
        assert!(matches!(signed.open(&key.uid(), late), Err(RecordError::Stale { .. })));
        let early = UnixSeconds(NOW.0 - RECORD_FUTURE_SECONDS - 1);
        assert!(matches!(signed.open(&key.uid(), early), Err(RecordError::Stale { .. })));
        let moved = SignedRecord { seq_ms: signed.seq_ms + 1, ..signed };
        assert_eq!(moved.open(&key.uid(), NOW), Err(RecordError::Signature));
    }

    #[test]
    fn the_largest_record_fits() {
        let key = NodeKey::from_seed([1; 32]);
        let v6: SocketAddr = "[2001:db8::1]:65000".parse().unwrap();
        let mut record = sample();
        record.addresses = vec![v6; 50];
        record.bootstraps = vec![BootstrapAddr { uid: key.uid(), addr: v6 }; 9];
        let signed = record.sign(&key, u64::MAX / 2);
        assert!(signed.value.len() <= RECORD_MAX_BYTES, "{}", signed.value.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = wire::decode::<SignedRecord>(&bytes, 4096);
            let key = NodeKey::from_seed([1; 32]);
            let mut value = vec![VERSION];
            value.extend(bytes);
            let signature = key.sign(&signable(NOW.0 * 1000, &value));
            let signed = SignedRecord { uid: key.uid(), seq_ms: NOW.0 * 1000, value, signature };
            let _ = signed.open(&key.uid(), NOW);
        }
    }
}
