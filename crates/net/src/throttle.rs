//! The bandwidth that a device's owner gives to others.
//!
//! One token bucket for everything that goes out of the lent space, to whomever: in any span of
//! time no more leaves than the rate allows for it, and a quarter of a second's worth.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// What a full bucket holds, as a part of a second's worth.
const BURST_PART: u64 = 4;
/// Of each packet about this part is headers (IP, UDP, QUIC), which go out as well: the owner's
/// limit is for what the line carries.
const HEADER_PART: u64 = 16;
/// Largest amount that is worth waiting for: more comes in several steps.
const STEP_BYTES: u64 = 64 * 1024;
/// Longest wait until the rate is looked at again: it may have been changed meanwhile.
const WAIT_MAX: Duration = Duration::from_millis(500);
const SECOND_US: u64 = 1_000_000;

/// What [`Bucket::take`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// So many bytes may go now.
    Now(u64),
    /// Ask again after so many microseconds.
    Wait(u64),
}

/// A token bucket. Time is microseconds of any clock that never goes back. Pure.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Bytes per second; `None` is without limit.
    rate: Option<u64>,
    /// Bytes that may go now, in millionths.
    tokens: u128,
    at_us: u64,
}

impl Bucket {
    /// An empty bucket.
    #[must_use]
    pub fn new(rate: Option<u64>, now_us: u64) -> Self {
        Self { rate, tokens: 0, at_us: now_us }
    }

    /// Bytes of content per second: the rate without headers.
    fn content(rate: u64) -> u64 {
        (rate - rate / (HEADER_PART + 1)).max(1)
    }

    fn burst(rate: u64) -> u64 {
        (Self::content(rate) / BURST_PART).max(1)
    }

    /// Changes the rate. What was saved up at the old one is lost.
    pub fn set_rate(&mut self, rate: Option<u64>, now_us: u64) {
        *self = Self::new(rate, now_us);
    }

    /// Takes up to `want` bytes.
    pub fn take(&mut self, want: u64, now_us: u64) -> Take {
        let Some(rate) = self.rate else { return Take::Now(want) };
        let (content, burst) = (Self::content(rate), Self::burst(rate));
        let scale = u128::from(SECOND_US);
        let passed = now_us.saturating_sub(self.at_us);
        self.at_us = self.at_us.max(now_us);
        let more = u128::from(passed) * u128::from(content);
        self.tokens = self.tokens.saturating_add(more).min(u128::from(burst) * scale);
        let step = want.min(burst).min(STEP_BYTES);
        let missing = (u128::from(step) * scale).saturating_sub(self.tokens);
        if missing > 0 {
            let wait = missing.div_ceil(u128::from(content));
            return Take::Wait(u64::try_from(wait).unwrap_or(u64::MAX));
        }
        self.tokens -= u128::from(step) * scale;
        Take::Now(step)
    }
}

/// A bucket that tasks wait at.
#[derive(Debug)]
pub struct Throttle(Mutex<Bucket>);

impl Default for Throttle {
    /// Without limit.
    fn default() -> Self {
        Self(Mutex::new(Bucket::new(None, crate::clock::monotonic_us())))
    }
}

impl Throttle {
    /// Changes the rate, in bytes per second, for all who wait as well; `None` is without limit.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.lock().set_rate(rate, crate::clock::monotonic_us());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until some of `want` bytes may go, and returns how many: at least one, if any were
    /// wanted. `None` when it is not the time yet: ask again.
    pub(crate) async fn step(&self, want: u64) -> Option<u64> {
        let take = self.lock().take(want, crate::clock::monotonic_us());
        match take {
            Take::Now(bytes) => Some(bytes),
            Take::Wait(us) => {
                tokio::time::sleep(Duration::from_micros(us).min(WAIT_MAX)).await;
                None
            }
        }
    }

    /// Waits until all of `bytes` may have gone.
    pub(crate) async fn all(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            left -= self.step(left).await.unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_limit_all_goes_at_once() {
        assert_eq!(Bucket::new(None, 0).take(u64::MAX, 0), Take::Now(u64::MAX));
    }

    #[test]
    fn a_rate_is_used_up_but_for_the_headers() {
        let rate = 2_000_000;
        let mut bucket = Bucket::new(Some(rate), 0);
        let (mut now, mut sent) = (0, 0);
        while now < 10 * SECOND_US {
            match bucket.take(1 << 20, now) {
                Take::Now(bytes) => sent += bytes,
                Take::Wait(us) => now += us,
            }
        }
        assert!(sent <= 10 * rate && sent > 10 * rate * 9 / 10, "{sent}");
    }

    #[test]
    fn the_smallest_rate_still_moves() {
        let mut bucket = Bucket::new(Some(1), 0);
        assert_eq!(bucket.take(100, 0), Take::Wait(SECOND_US));
        assert_eq!(bucket.take(100, SECOND_US), Take::Now(1));
        assert_eq!(bucket.take(0, SECOND_US), Take::Now(0));
    }

    proptest! {
        /// Whoever asks, whenever, however much: in each span of time no more goes than the rate
        /// allows for it, and a second's worth.
        #[test]
        fn the_limit_holds_in_every_span(
            rate in 1u64..50_000_000,
            asks in prop::collection::vec((0u64..3_000_000, 0u64..5_000_000), 1..80),
        ) {
            let mut bucket = Bucket::new(Some(rate), 0);
            let (mut now, mut log) = (0u64, Vec::new());
            for (pause, want) in asks {
                now += pause;
                match bucket.take(want, now) {
                    Take::Now(bytes) => {
                        prop_assert!(bytes <= want && (bytes > 0 || want == 0));
                        log.push((now, bytes));
                    }
                    // Whoever waits as told gets something.
                    Take::Wait(us) => {
                        now += us;
                        let Take::Now(bytes) = bucket.take(want, now) else { panic!("waited in vain") };
                        prop_assert!(bytes > 0);
                        log.push((now, bytes));
                    }
                }
            }
            for (i, (from, _)) in log.iter().enumerate() {
                let mut sum = 0u128;
                for (until, bytes) in &log[i..] {
                    sum += u128::from(*bytes);
                    let span = u128::from(until - from);
                    let allowed = u128::from(rate) * span / u128::from(SECOND_US) + u128::from(rate);
                    prop_assert!(sum <= allowed + 1, "{sum} of {allowed} in {span} us");
                }
            }
        }
    }
}
