//! Vouchers: the matcher's word that one device serves another.
//!
//! A provider that holds an order's package serves strangers, a million of them, and so it needs to
//! know three things without asking anybody: that the requester is on the maker's roster, that this fetch was
//! not served before, and what will be counted. The matcher says all three in one signed value,
//! bound to both ends, to a range of shards and to an end. The pair cannot make one for itself,
//! which is what keeps receipts honest (see `matcher`).

use ioex_base::{CLOCK_SLACK_SECONDS, ContentAddress, NodeKey, SealError, Sealed, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

/// Names an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrderId(pub [u8; 16]);

/// One permission to fetch shards from one provider, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// The order that pays.
    pub order: OrderId,
    /// Unlike any other of this matcher for this order.
    pub serial: u64,
    /// Who fetches.
    pub requester: Uid,
    /// Who serves.
    pub provider: Uid,
    /// The vault manifest of the package.
    pub manifest: ContentAddress,
    /// First shard, by its place in the manifest.
    pub first_shard: u32,
    /// How many shards from there, at least 1.
    pub shards: u32,
    /// Until when it is taken, that second included.
    pub expires: UnixSeconds,
}

impl Sealed for Voucher {
    const CONTEXT: &'static str = "ioex 2026 order voucher";
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 192;
}

/// Why a provider does not serve for a voucher.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VoucherError {
    /// Not the matcher's, damaged, or of an unknown version.
    #[error("the voucher cannot be trusted: {0}")]
    Seal(#[from] SealError),
    /// Shown by another node than the one it names.
    #[error("the voucher is for {0}, not for the node that showed it")]
    Requester(Uid),
    /// Shown to another node than the one it names.
    #[error("the voucher names {0} as provider, not this node")]
    Provider(Uid),
    /// Over.
    #[error("the voucher ended: ask the matcher for a new one")]
    Expired,
    /// Lasts longer than any voucher does, so that its serial could not be remembered.
    #[error("a voucher lasts at most {VOUCHER_LIFE_SECONDS} s")]
    TooLong,
    /// Used before.
    #[error("the voucher was used already: ask the matcher for a new one")]
    Used,
    /// This node took too many vouchers to remember one more.
    #[error("too many vouchers were used here lately: try another provider")]
    Busy,
}

/// Longest life of a voucher, in seconds: the time of a download at the slowest useful rate is
/// covered by asking again, and a provider remembers serials for this long.
pub const VOUCHER_LIFE_SECONDS: u64 = 3_600;

impl Voucher {
    /// Reads a voucher that `bearer` shows to `provider`.
    ///
    /// # Errors
    /// [`VoucherError`], in its order; single use is the part of [`Tills`](crate::tills::Tills).
    pub fn check(
        bytes: &[u8],
        matcher: &Uid,
        bearer: &Uid,
        provider: &Uid,
        now: UnixSeconds,
    ) -> Result<Self, VoucherError> {
        let voucher = Self::unseal(bytes, matcher)?;
        if voucher.requester != *bearer {
            return Err(VoucherError::Requester(voucher.requester));
        }
        if voucher.provider != *provider {
            return Err(VoucherError::Provider(voucher.provider));
        }
        if now > voucher.expires.plus(CLOCK_SLACK_SECONDS) {
            return Err(VoucherError::Expired);
        }
        if voucher.expires.since(now) > VOUCHER_LIFE_SECONDS + CLOCK_SLACK_SECONDS {
            return Err(VoucherError::TooLong);
        }
        Ok(voucher)
    }

    /// Signs it as the matcher.
    #[must_use]
    pub fn sign(&self, matcher: &NodeKey) -> Vec<u8> {
        self.seal(matcher)
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::wire;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn key(n: u8) -> NodeKey {
        NodeKey::from_seed([n; 32])
    }

    fn voucher() -> Voucher {
        Voucher {
            order: OrderId([1; 16]),
            serial: 7,
            requester: key(2).uid(),
            provider: key(3).uid(),
            manifest: ContentAddress::of(b"manifest"),
            first_shard: 10,
            shards: 5,
            expires: NOW.plus(600),
        }
    }

    #[test]
    fn a_voucher_serves_its_pair_and_its_time() {
        let bytes = voucher().sign(&key(1));
        let check = |matcher: u8, bearer: u8, provider: u8, now| {
            Voucher::check(&bytes, &key(matcher).uid(), &key(bearer).uid(), &key(provider).uid(), now)
        };
        assert_eq!(check(1, 2, 3, NOW), Ok(voucher()));
        assert_eq!(check(9, 2, 3, NOW), Err(VoucherError::Seal(SealError::Signature)));
        assert_eq!(check(1, 9, 3, NOW), Err(VoucherError::Requester(key(2).uid())));
        assert_eq!(check(1, 2, 9, NOW), Err(VoucherError::Provider(key(3).uid())));
        assert_eq!(check(1, 2, 3, NOW.plus(1_201)), Err(VoucherError::Expired));
        assert_eq!(check(1, 2, 3, UnixSeconds(NOW.0 - 3_601)), Err(VoucherError::TooLong));
    }

    #[test]
    fn the_bytes_are_frozen_and_bounded() {
        let largest = Voucher {
            serial: u64::MAX,
            first_shard: u32::MAX,
            shards: u32::MAX,
            expires: UnixSeconds(u64::MAX),
            ..voucher()
        };
        assert!(wire::encode(&largest).len() <= Voucher::MAX_BYTES);
        let hash = ContentAddress::of(&voucher().sign(&key(1)));
        assert_eq!(hash.to_string(), GOLDEN, "the format changed: raise VERSION");
    }
    const GOLDEN: &str = "nh2r6uaux5y3dqpwy2rjlnrjph7josouuvvx7skkrorbtnfk6zpq";
}
