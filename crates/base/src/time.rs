//! Wall-clock time as a value that callers pass in.

use serde::{Deserialize, Serialize};

/// Seconds in a day; the paper counts days of 86,400 s.
pub const DAY_SECONDS: u64 = 86_400;

/// Seconds since 1970-01-01 UTC, without leap seconds.
///
/// Additions saturate: a date past the end of the range stays at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This moment `seconds` later, saturating.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` until this moment; 0 when `earlier` is in fact later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
