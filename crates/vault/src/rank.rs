//! Whom to ask first for a shard. Pure.

use ioex_base::{Uid, limits::SHARD_MAX_BYTES};

/// Rate assumed of a provider that sent nothing yet, in bytes per second: a common home uplink,
/// so that proven fast ones come before strangers and strangers before proven slow ones.
const ASSUMED_DIRECT_BYTES_PER_SECOND: f64 = 2_500_000.0;

/// The same through a relay, whose line many share.
const ASSUMED_RELAYED_BYTES_PER_SECOND: f64 = 500_000.0;

/// Round-trip time assumed when none was measured, in milliseconds: a far continent.
const ASSUMED_RTT_MS: f64 = 250.0;

/// Round trips before the first byte: connecting, the grant, the request.
const ROUND_TRIPS: f64 = 3.0;

/// From this many failures on, more make no difference: 2^16 is last anyway.
const FAILURES_COUNTED_MAX: u32 = 16;

/// A node that says it has the shard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Provider {
    /// Its identity.
    pub uid: Uid,
    /// Round-trip time in milliseconds, if it was measured.
    pub rtt_ms: Option<f64>,
    /// Whether the path to it is direct rather than through a relay.
    pub direct: bool,
    /// What it delivered lately, in bytes per second, if it delivered anything.
    pub recent_bytes_per_second: Option<f64>,
    /// Requests in a row that it did not serve.
    pub failures: u32,
}

/// The providers, best first: by the seconds that a largest shard would take from each, doubled
/// for every failure. Equal ones stand in the order of their identities.
#[must_use]
pub fn rank(providers: &[Provider]) -> Vec<Uid> {
    let mut scored: Vec<(f64, Uid)> = providers.iter().map(|p| (expected_seconds(p), p.uid)).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, uid)| uid).collect()
}

fn expected_seconds(p: &Provider) -> f64 {
    let assumed = if p.direct { ASSUMED_DIRECT_BYTES_PER_SECOND } else { ASSUMED_RELAYED_BYTES_PER_SECOND };
    let rate = p.recent_bytes_per_second.filter(|r| r.is_finite() && *r >= 0.0).unwrap_or(assumed).max(1.0);
    let rtt_ms = p.rtt_ms.filter(|ms| ms.is_finite() && *ms >= 0.0).unwrap_or(ASSUMED_RTT_MS);
    let penalty = f64::from(1u32 << p.failures.min(FAILURES_COUNTED_MAX));
    (ROUND_TRIPS * rtt_ms / 1_000.0 + SHARD_MAX_BYTES as f64 / rate) * penalty
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn provider(n: u8) -> Provider {
        Provider {
            uid: Uid::from_bytes([n; 32]),
            rtt_ms: Some(20.0),
            direct: true,
            recent_bytes_per_second: None,
            failures: 0,
        }
    }

    fn order(providers: &[Provider]) -> Vec<u8> {
        rank(providers).iter().map(|uid| uid.as_bytes()[0]).collect()
    }

    #[test]
    fn the_quickest_comes_first() {
        let fast = Provider { recent_bytes_per_second: Some(5e7), ..provider(9) };
        let slow = Provider { recent_bytes_per_second: Some(1e5), ..provider(1) };
        let relayed = Provider { direct: false, ..provider(2) };
        let far = Provider { rtt_ms: Some(300.0), ..provider(3) };
        assert_eq!(order(&[slow, relayed, far, provider(4), fast]), [9, 4, 3, 2, 1]);
    }

    #[test]
    fn failures_count_and_one_is_forgiven_to_the_much_faster() {
        let failed = |n, failures| Provider { failures, ..provider(n) };
        assert_eq!(order(&[failed(1, 2), failed(2, 0), failed(3, 1)]), [2, 3, 1]);
        let fast = Provider { recent_bytes_per_second: Some(5e7), ..failed(1, 1) };
        assert_eq!(order(&[provider(2), fast]), [1, 2]);
        assert_eq!(order(&[failed(1, u32::MAX), provider(2)]), [2, 1]);
    }

    proptest! {
        #[test]
        fn any_numbers_give_everybody_once_in_one_order(
            numbers in prop::collection::vec((any::<f64>(), any::<f64>(), any::<bool>(), any::<u32>()), 0..20),
        ) {
            let mut providers: Vec<_> = (0..).zip(numbers).map(|(n, (rtt, rate, direct, failures))| Provider {
                rtt_ms: Some(rtt), recent_bytes_per_second: Some(rate), direct, failures, ..provider(n)
            }).collect();
            let got = rank(&providers);
            prop_assert_eq!(got.len(), providers.len());
            providers.reverse();
            prop_assert_eq!(got, rank(&providers));
        }
    }
}
