//! Which pieces are asked from whom next. Pure: time comes in as an argument.
//!
//! Each provider has a few requests in flight at a time, sized by its own measured rate, so that
//! a fast one is never idle and a slow one never holds much. When all missing pieces are asked
//! for, idle providers repeat what the slowest ones still owe (the end game); whoever comes
//! second is told to stop. A provider that fails gives its pieces back.

use std::collections::{BTreeMap, BTreeSet};

use ioex_base::Uid;

/// Requests in flight per provider: the next one starts while the last one drains.
pub const IN_FLIGHT_MAX: usize = 2;
/// A request should last about this long, so that rates are measured often and little is lost
/// when a provider fails.
const REQUEST_TARGET_MS: u64 = 500;
/// Most bytes in one request.
const REQUEST_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// After so many failures in a row a provider is given up.
const FAILURES_MAX: u32 = 3;
/// Pause after a failure, growing with each.
const FAILURE_PAUSE_MS: u64 = 500;
/// In the end game a piece is asked from at most so many providers.
const DUPLICATES_MAX: usize = 2;
/// Weight of the newest measurement in the rate, in percent.
const RATE_NEW_PERCENT: u64 = 40;

/// One request: consecutive pieces from one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names it in the answers to [`Plan::finished`] and [`Plan::failed`].
    pub id: u64,
    /// Whom to ask.
    pub provider: Uid,
    /// First piece.
    pub first: u64,
    /// How many.
    pub count: u64,
}

#[derive(Debug, Default)]
struct Provider {
    in_flight: BTreeSet<u64>,
    /// Bytes per second; 0 while unknown.
    rate: u64,
    failures: u32,
    not_before_ms: u64,
    gone: bool,
}

#[derive(Debug)]
struct Flight {
    request: Request,
    started_ms: u64,
}

/// The state of one download.
#[derive(Debug)]
pub struct Plan {
    piece_bytes: u64,
    /// Not there and not asked for.
    missing: BTreeSet<u64>,
    /// Not there, asked for: by how many requests.
    asked: BTreeMap<u64, usize>,
    providers: BTreeMap<Uid, Provider>,
    flights: BTreeMap<u64, Flight>,
    next_id: u64,
}

impl Plan {
    /// A plan for the `missing` pieces of `piece_bytes` bytes each.
    #[must_use]
    pub fn new(piece_bytes: u64, missing: impl IntoIterator<Item = u64>) -> Self {
        Self {
            piece_bytes: piece_bytes.max(1),
            missing: missing.into_iter().collect(),
            asked: BTreeMap::new(),
            providers: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// Adds a provider, or takes one back that was given up.
    pub fn add(&mut self, uid: Uid) {
        let provider = self.providers.entry(uid).or_default();
        if provider.gone {
            *provider = Provider::default();
        }
    }

    /// Whether everything is there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.missing.is_empty() && self.asked.is_empty()
    }

    /// Whether any provider is left that may be asked now or later.
    #[must_use]
    pub fn has_providers(&self) -> bool {
        self.providers.values().any(|p| !p.gone)
    }

    /// When a provider that pauses may be asked again.
    #[must_use]
    pub fn next_wake_ms(&self, now_ms: u64) -> Option<u64> {
        let waiting = self.providers.values().filter(|p| !p.gone && p.not_before_ms > now_ms);
        waiting.map(|p| p.not_before_ms).min()
    }

    /// The next request to make now, if any. Call until it returns `None`.
    pub fn next(&mut self, now_ms: u64) -> Option<Request> {
        // The provider with the fewest requests in flight goes first, the faster one among equals.
        let ready = |p: &Provider| !p.gone && p.in_flight.len() < IN_FLIGHT_MAX && now_ms >= p.not_before_ms;
        let mut candidates: Vec<(usize, u64, Uid)> = self
            .providers
            .iter()
            .filter(|(_, p)| ready(p))
            .map(|(uid, p)| (p.in_flight.len(), u64::MAX - p.rate, *uid))
            .collect();
        candidates.sort_unstable();
        candidates.into_iter().find_map(|(_, _, uid)| self.request_for(uid, now_ms))
    }

    fn request_for(&mut self, uid: Uid, now_ms: u64) -> Option<Request> {
        let provider = self.providers.get(&uid)?;
        let bytes = (provider.rate.saturating_mul(REQUEST_TARGET_MS) / 1000).min(REQUEST_MAX_BYTES);
        // Near the end, leave something for the others.
        let fair = (self.missing.len() as u64).div_ceil(self.live() as u64 * IN_FLIGHT_MAX as u64);
        let most = (bytes / self.piece_bytes).clamp(1, fair.max(1));
        let pieces = match self.missing.first().copied() {
            Some(first) => {
                let run = (first..).take_while(|p| p - first < most && self.missing.contains(p));
                run.collect::<Vec<_>>()
            }
            None => vec![self.end_game(uid)?],
        };
        let (first, count) = (*pieces.first()?, pieces.len() as u64);
        for piece in pieces {
            self.missing.remove(&piece);
            *self.asked.entry(piece).or_insert(0) += 1;
        }
        let request = Request { id: self.next_id, provider: uid, first, count };
        self.next_id += 1;
        self.flights.insert(request.id, Flight { request: request.clone(), started_ms: now_ms });
        self.providers.get_mut(&uid)?.in_flight.insert(request.id);
        Some(request)
    }

    fn live(&self) -> usize {
        self.providers.values().filter(|p| !p.gone).count().max(1)
    }

    /// A piece that somebody else owes for the longest time and `uid` was not asked for.
    fn end_game(&self, uid: Uid) -> Option<u64> {
        let mut flights: Vec<&Flight> = self.flights.values().collect();
        flights.sort_by_key(|f| f.started_ms);
        let owed_by = |piece: u64, who: &Uid| {
            self.flights.values().any(|f| {
                f.request.provider == *who
                    && (f.request.first..f.request.first + f.request.count).contains(&piece)
            })
        };
        flights.iter().filter(|f| f.request.provider != uid).find_map(|f| {
            (f.request.first..f.request.first + f.request.count).rev().find(|piece| {
                self.asked.get(piece).is_some_and(|n| *n < DUPLICATES_MAX) && !owed_by(*piece, &uid)
            })
        })
    }

    /// A piece arrived and is verified. Returns the other requests that are now useless.
    pub fn arrived(&mut self, piece: u64) -> Vec<u64> {
        self.missing.remove(&piece);
        if self.asked.remove(&piece).is_none() {
            return Vec::new();
        }
        let useless = |f: &Flight| {
            let r = &f.request;
            (r.first..r.first + r.count).contains(&piece)
                && (r.first..r.first + r.count).all(|p| !self.asked.contains_key(&p))
        };
        self.flights.iter().filter(|(_, f)| useless(f)).map(|(id, _)| *id).collect()
    }

    /// Whether a piece is still wanted.
    #[must_use]
    pub fn wants(&self, piece: u64) -> bool {
        self.missing.contains(&piece) || self.asked.contains_key(&piece)
    }

    /// A request ended well after `bytes` in all.
    pub fn finished(&mut self, id: u64, bytes: u64, now_ms: u64) {
        let Some(flight) = self.end(id) else { return };
        let Some(provider) = self.providers.get_mut(&flight.request.provider) else { return };
        provider.failures = 0;
        let took_ms = now_ms.saturating_sub(flight.started_ms).max(1);
        let sample = bytes.saturating_mul(1000) / took_ms;
        // Two requests share the path, so each sees about half of the provider's rate.
        let sample = sample.saturating_mul(IN_FLIGHT_MAX as u64);
        provider.rate = if provider.rate == 0 {
            sample
        } else {
            (provider.rate * (100 - RATE_NEW_PERCENT) + sample.saturating_mul(RATE_NEW_PERCENT)) / 100
        };
    }

    /// A request was given up because its pieces came from elsewhere: nobody's fault.
    pub fn dropped(&mut self, id: u64) {
        self.end(id);
    }

    /// A request failed. Returns whether the provider was given up.
    pub fn failed(&mut self, id: u64, now_ms: u64) -> bool {
        let Some(flight) = self.end(id) else { return false };
        let Some(provider) = self.providers.get_mut(&flight.request.provider) else { return false };
        provider.failures += 1;
        provider.not_before_ms = now_ms + FAILURE_PAUSE_MS * u64::from(provider.failures);
        provider.gone = provider.failures >= FAILURES_MAX;
        provider.gone
    }

    /// A provider sent wrong bytes or is no longer entitled: it is not asked again.
    pub fn ban(&mut self, uid: &Uid) {
        if let Some(provider) = self.providers.get_mut(uid) {
            provider.gone = true;
        }
    }

    fn end(&mut self, id: u64) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if let Some(provider) = self.providers.get_mut(&flight.request.provider) {
            provider.in_flight.remove(&id);
        }
        let r = &flight.request;
        for piece in r.first..r.first + r.count {
            if let Some(n) = self.asked.get_mut(&piece) {
                *n -= 1;
                if *n == 0 {
                    self.asked.remove(&piece);
                    self.missing.insert(piece);
                }
            }
        }
        Some(flight)
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::NodeKey;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn uid(n: u8) -> Uid {
        NodeKey::from_seed([n; 32]).uid()
    }

    /// Runs a plan against providers with these rates (MiB/s); returns the time in ms and the
    /// pieces that each delivered.
    fn simulate(pieces: u64, rates: &[u64], dies: Option<(usize, u64)>) -> (u64, Vec<u64>) {
        let mut plan = Plan::new(MIB, 0..pieces);
        let uids: Vec<Uid> = (0..rates.len()).map(|i| uid(i as u8 + 1)).collect();
        uids.iter().for_each(|u| plan.add(*u));
        let mut delivered = vec![0; rates.len()];
        // Per provider, a queue of (request, next piece); a millisecond moves rate/1000 MiB.
        let mut queues: Vec<Vec<(Request, u64)>> = vec![Vec::new(); rates.len()];
        let mut credit = vec![0u64; rates.len()];
        let mut now = 0;
        while !plan.complete() {
            assert!(now < 3_600_000, "the plan does not end");
            while let Some(request) = plan.next(now) {
                let i = uids.iter().position(|u| *u == request.provider).unwrap();
                queues[i].push((request, 0));
            }
            for i in 0..rates.len() {
                if dies.is_some_and(|(who, at)| who == i && now >= at) {
                    for (request, _) in queues[i].drain(..) {
                        plan.failed(request.id, now);
                    }
                    continue;
                }
                credit[i] += rates[i] * MIB / 1000;
                while credit[i] >= MIB && !queues[i].is_empty() {
                    credit[i] -= MIB;
                    let (request, done) = &mut queues[i][0];
                    let piece = request.first + *done;
                    *done += 1;
                    if plan.wants(piece) {
                        delivered[i] += 1;
                    }
                    let useless = plan.arrived(piece);
                    if *done == request.count {
                        let (request, _) = queues[i].remove(0);
                        plan.finished(request.id, request.count * MIB, now);
                    }
                    for queue in &mut queues {
                        queue.retain(|(r, _)| !useless.contains(&r.id));
                    }
                    useless.iter().for_each(|id| plan.dropped(*id));
                }
                if queues[i].is_empty() {
                    credit[i] = 0;
                }
            }
            now += 1;
        }
        (now, delivered)
    }

    #[test]
    fn four_equal_providers_take_a_quarter_of_the_time() {
        let (one, _) = simulate(400, &[6], None);
        let (four, delivered) = simulate(400, &[6, 6, 6, 6], None);
        assert!(one as f64 / four as f64 > 3.7, "{one} {four} {delivered:?}");
    }

    #[test]
    fn a_slow_provider_does_not_hold_the_others_up() {
        let (fast, _) = simulate(300, &[50], None);
        let (both, delivered) = simulate(300, &[50, 1], None);
        assert!(both <= fast, "{fast} {both} {delivered:?}");
    }

    #[test]
    fn what_a_dying_provider_owed_comes_from_the_others() {
        let (_, delivered) = simulate(200, &[10, 10], Some((0, 3_000)));
        assert_eq!(delivered.iter().sum::<u64>(), 200);
        assert!(delivered[0] < 60);
    }

    #[test]
    fn a_provider_is_given_up_after_failures_and_can_come_back() {
        let mut plan = Plan::new(MIB, 0..10);
        plan.add(uid(1));
        let mut now = 0;
        let mut gone = false;
        while !gone {
            let request = plan.next(now).unwrap();
            gone = plan.failed(request.id, now);
            now += 10_000;
        }
        assert!(!plan.has_providers());
        assert_eq!(plan.next(now), None);
        plan.add(uid(1));
        assert!(plan.next(now).is_some(), "nothing was lost");
    }

    #[test]
    fn without_providers_nothing_is_asked() {
        let mut plan = Plan::new(MIB, 0..3);
        assert_eq!(plan.next(0), None);
        assert!(!plan.complete());
        assert!(Plan::new(MIB, []).complete());
    }
}
