//! Passes: the matcher's word that a device is on the roster.
//!
//! A [`Voucher`](crate::voucher::Voucher) is for one provider, for an hour, and is paid. A pass is for all
//! who have the package, for a week, and is not: with it devices go on among themselves when no matcher
//! answers, and a device may fetch from whoever came to fetch from it.

use ioex_base::{CLOCK_SLACK_SECONDS, ContentAddress, SealError, Sealed, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

/// How long a pass holds, in seconds: a matcher that is away for longer is gone.
pub const PASS_LIFE_SECONDS: u64 = 7 * ioex_base::DAY_SECONDS;

/// Who may fetch a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The vault manifest of the package.
    pub manifest: ContentAddress,
    /// Who fetches.
    pub requester: Uid,
    /// Until when it is taken, that second included.
    pub expires: UnixSeconds,
}

impl Sealed for Pass {
    const CONTEXT: &'static str = "ioex 2026 update pass";
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 80;
}

/// Why a provider does not serve for a pass.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PassError {
    /// Not the matcher's, damaged, or of an unknown version.
    #[error("the pass cannot be trusted: {0}")]
    Seal(#[from] SealError),
    /// Shown by another node than the one it names.
    #[error("the pass is for {0}, not for the node that showed it")]
    Requester(Uid),
    /// For another package.
    #[error("the pass is for the package {0}, not for this one")]
    Manifest(ContentAddress),
    /// Over.
    #[error("the pass ended: ask the matcher for a new one")]
    Expired,
    /// Lasts longer than any pass does.
    #[error("a pass lasts at most {PASS_LIFE_SECONDS} s")]
    TooLong,
}

impl Pass {
    /// Reads a pass that `bearer` shows to fetch the package with this `manifest`.
    ///
    /// # Errors
    /// [`PassError`], in its order.
    pub fn check(
        bytes: &[u8],
        matcher: &Uid,
        bearer: &Uid,
        manifest: &ContentAddress,
        now: UnixSeconds,
    ) -> Result<Self, PassError> {
        let pass = Self::unseal(bytes, matcher)?;
        if pass.requester != *bearer {
            return Err(PassError::Requester(pass.requester));
        }
        if pass.manifest != *manifest {
            return Err(PassError::Manifest(pass.manifest));
        }
        if now > pass.expires.plus(CLOCK_SLACK_SECONDS) {
            return Err(PassError::Expired);
        }
        if pass.expires.since(now) > PASS_LIFE_SECONDS + CLOCK_SLACK_SECONDS {
            return Err(PassError::TooLong);
        }
        Ok(pass)
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::{NodeKey, wire};

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn key(n: u8) -> NodeKey {
        NodeKey::from_seed([n; 32])
    }

    fn pass() -> Pass {
        Pass {
            manifest: ContentAddress::of(b"manifest"),
            requester: key(2).uid(),
            expires: NOW.plus(PASS_LIFE_SECONDS),
        }
    }

    #[test]
    fn a_pass_is_for_one_node_one_package_and_a_week() {
        let bytes = pass().seal(&key(1));
        let check = |matcher, bearer, package: &[u8], now| {
            Pass::check(&bytes, &key(matcher).uid(), &key(bearer).uid(), &ContentAddress::of(package), now)
        };
        assert_eq!(check(1, 2, b"manifest", NOW), Ok(pass()));
        assert_eq!(check(3, 2, b"manifest", NOW), Err(PassError::Seal(SealError::Signature)));
        assert_eq!(check(1, 3, b"manifest", NOW), Err(PassError::Requester(key(2).uid())));
        assert_eq!(check(1, 2, b"other", NOW), Err(PassError::Manifest(pass().manifest)));
        let late = pass().expires.plus(CLOCK_SLACK_SECONDS + 1);
        assert_eq!(check(1, 2, b"manifest", late), Err(PassError::Expired));
        let early = UnixSeconds(NOW.0 - CLOCK_SLACK_SECONDS - 1);
        assert_eq!(check(1, 2, b"manifest", early), Err(PassError::TooLong));
    }

    #[test]
    fn the_bytes_are_frozen_and_bounded() {
        let largest = Pass { expires: UnixSeconds(u64::MAX), ..pass() };
        assert!(wire::encode(&largest).len() <= Pass::MAX_BYTES);
        let hash = ContentAddress::of(&pass().seal(&key(1)));
        assert_eq!(hash.to_string(), GOLDEN, "the format changed: raise VERSION");
    }
    const GOLDEN: &str = "vldlkmwp7ciepb4e2gqp6pphplxaneziuoaskzmtexye24jvnfiq";
}
