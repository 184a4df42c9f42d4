//! The only place of this crate that reads clocks; rules get what it returns as an argument.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ioex_base::UnixSeconds;

/// Milliseconds since 1970; 0 when the clock stands before that.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Seconds since 1970.
pub(crate) fn unix() -> UnixSeconds {
    UnixSeconds(unix_ms() / 1000)
}

/// Microseconds since the program asked first; never goes back.
pub(crate) fn monotonic_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The same in milliseconds.
pub(crate) fn monotonic_ms() -> u64 {
    monotonic_us() / 1000
}
