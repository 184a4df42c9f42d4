//! How long whoever has not answered yet is waited for, by what others took. Pure.

use std::time::{Duration, Instant};

/// However fast others are, one that is not done gets so much longer: a busy device, a packet sent again.
const SHORTEST: Duration = Duration::from_secs(2);
/// As long as nobody has done it, nobody knows how long it takes: so long, and for what is to be sent at
/// [`FAIR_RATE`].
const NOBODY_YET: Duration = Duration::from_secs(8);
/// Bytes a second of a line on which nobody is in doubt: 8 Mbit/s.
const FAIR_RATE: u64 = 1024 * 1024;
/// Where nobody else can do it, the slow get so long, or [`TIMES_OTHERS`] what others took; as long as
/// nobody has done it, so long and for what is to be sent at [`POOR_RATE`].
const AT_LAST: Duration = Duration::from_secs(30);
/// See [`AT_LAST`].
const TIMES_OTHERS: u32 = 4;
/// Bytes a second of a line that is of some use yet: 1 Mbit/s.
const POOR_RATE: u64 = 128 * 1024;

/// Waiting for several that do the same.
#[derive(Debug)]
pub(crate) struct Patience {
    /// When somebody last began or ended.
    since: Instant,
    /// The longest that anybody took.
    took: Option<Duration>,
    /// What all of them are sent together.
    bytes: u64,
}

impl Patience {
    /// They begin now, and are sent so much together.
    pub(crate) fn new(now: Instant, bytes: u64) -> Self {
        Self { since: now, took: None, bytes }
    }

    /// One more begins.
    pub(crate) fn begun(&mut self, now: Instant) {
        self.since = now;
    }

    /// One that began at `begun` is done. On a line that all share all take long, and nobody is slow.
    pub(crate) fn done(&mut self, begun: Instant, now: Instant) {
        self.since = now;
        let took = now.saturating_duration_since(begun);
        self.took = Some(self.took.map_or(took, |longest| longest.max(took)));
    }

    /// Until when the others are waited for before somebody else is asked.
    pub(crate) fn until(&self) -> Instant {
        let sent = Duration::from_secs(self.bytes / FAIR_RATE);
        self.since + self.took.map_or(NOBODY_YET + sent, |took| took.max(SHORTEST))
    }

    /// Until when they are waited for where there is nobody else.
    pub(crate) fn at_last(&self) -> Instant {
        let sent = Duration::from_secs(self.bytes / POOR_RATE);
        self.since + self.took.map_or(AT_LAST + sent, |took| AT_LAST.max(took.saturating_mul(TIMES_OTHERS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_get_as_long_as_the_others_took() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(start, 12 * FAIR_RATE);
        assert_eq!((patience.until(), patience.at_last()), (at(20), at(30 + 12 * 8)));
        patience.done(start, at(1));
        assert_eq!((patience.until(), patience.at_last()), (at(3), at(31)));
        // A line on which everything takes long makes nobody slow.
        patience.done(start, at(20));
        assert_eq!((patience.until(), patience.at_last()), (at(40), at(100)));
        // One that begins gets its time, too.
        patience.begun(at(40));
        assert_eq!(patience.until(), at(60));
        patience.done(at(40), at(41));
        assert_eq!(patience.until(), at(61));
    }
}
