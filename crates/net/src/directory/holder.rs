//! Who holds a content, signed by the holder in the form that the DHT stores.

use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

/// How long an announcement is believed. Devices announce again three times in this span.
pub const ANNOUNCE_LIFE_SECONDS: u64 = 90 * 60;
/// How far in the future an announcement may be dated.
const FUTURE_SECONDS: u64 = 10 * 60;

/// "I hold this", in the form of the signed-peers extension of the DHT: an ed25519 signature over
/// `info hash (20) | timestamp in microseconds (8, big-endian)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRecord {
    /// Who says so.
    pub uid: Uid,
    /// When it was signed, in microseconds since 1970.
    pub at_us: u64,
    /// First half of the signature.
    pub signature_r: [u8; 32],
    /// Second half of the signature.
    pub signature_s: [u8; 32],
}

/// The DHT's 20-byte name of a content: the beginning of a hash of its address with our purpose,
/// so that these announcements never meet another use of the same DHT.
pub(crate) fn info_hash(address: &ContentAddress) -> [u8; 20] {
    let mut hasher = blake3::Hasher::new_derive_key("ioex 2026 content holders");
    hasher.update(address.as_bytes());
    let mut out = [0; 20];
    hasher.finalize_xof().fill(&mut out);
    out
}

fn signable(info_hash: &[u8; 20], at_us: u64) -> [u8; 28] {
    let mut out = [0; 28];
    out[..20].copy_from_slice(info_hash);
    out[20..].copy_from_slice(&at_us.to_be_bytes());
    out
}

impl HolderRecord {
    /// Signs "I hold `address`" as of `now_us`.
    #[must_use]
    pub fn sign(key: &NodeKey, address: &ContentAddress, now_us: u64) -> Self {
        let signature = key.sign(&signable(&info_hash(address), now_us));
        Self::from_parts(key.uid(), now_us, &signature)
    }

    /// From the DHT's parts.
    #[must_use]
    pub fn from_parts(uid: Uid, at_us: u64, signature: &[u8; 64]) -> Self {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&signature[..32]);
        s.copy_from_slice(&signature[32..]);
        Self { uid, at_us, signature_r: r, signature_s: s }
    }

    /// The holder, if it signed this for `address` recently.
    #[must_use]
    pub fn check(&self, address: &ContentAddress, now: UnixSeconds) -> Option<Uid> {
        let at = UnixSeconds(self.at_us / 1_000_000);
        if now.since(at) > ANNOUNCE_LIFE_SECONDS || at.since(now) > FUTURE_SECONDS {
            return None;
        }
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&self.signature_r);
        signature[32..].copy_from_slice(&self.signature_s);
        let message = signable(&info_hash(address), self.at_us);
        self.uid.verifies(&message, &signature).then_some(self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_holds_for_its_content_and_time_only() {
        let key = NodeKey::from_seed([1; 32]);
        let (address, other) = (ContentAddress::of(b"a"), ContentAddress::of(b"b"));
        let now = UnixSeconds(1_800_000_000);
        let record = HolderRecord::sign(&key, &address, now.0 * 1_000_000);
        assert_eq!(record.check(&address, now), Some(key.uid()));
        assert_eq!(record.check(&other, now), None);
        assert_eq!(record.check(&address, now.plus(ANNOUNCE_LIFE_SECONDS + 1)), None);
        assert_eq!(record.check(&address, UnixSeconds(now.0 - FUTURE_SECONDS - 1)), None);
        let forged = HolderRecord { uid: NodeKey::from_seed([2; 32]).uid(), ..record };
        assert_eq!(forged.check(&address, now), None);
    }
}
