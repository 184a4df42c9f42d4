//! Telling matchers how it went. Each matcher of a release counts for itself, so each is told everything.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use ioex_api::OtaStage;
use ioex_base::{ContentAddress, Uid};
use ioex_net::{
    Mesh,
    proto::{No, REASON_MAX_BYTES, Report, Stage},
    transfer::FetchError,
};
use ioex_ota::Version;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use super::{Device, State, TICK};
use crate::node::{lock, ota::Ota};

/// Reports that wait for matchers; the oldest goes when there are more.
const REPORTS_MAX: usize = 16;
/// How long telling matchers may take, in one step; what is left is told in the next.
const REPORTS_TIMEOUT: Duration = Duration::from_secs(120);
/// After so long no further report is begun in one step, so that what was told is noted before the time is over.
const REPORTS_BEGIN_MAX: Duration = Duration::from_secs(40);
/// Longest pause until a matcher that took no report is asked again.
const SILENT_MAX: Duration = Duration::from_secs(3_600);

/// A report that some matchers were not told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    stage: OtaStage,
    manifest: ContentAddress,
    /// Who was not told yet.
    matchers: Vec<Uid>,
    running: Version,
    reason: String,
    bytes: [u64; 4],
}

impl Waiting {
    fn is(&self, other: &Self) -> bool {
        let words = |w: &Self| (w.stage, w.manifest, w.running, w.reason.clone(), w.bytes);
        words(self) == words(other)
    }

    fn report(&self, receipts: &[Vec<u8>]) -> Report {
        let stage = match self.stage {
            OtaStage::Fetched => Stage::Fetched,
            OtaStage::Installed => Stage::Installed,
            OtaStage::Confirmed => Stage::Confirmed,
            OtaStage::Failed => Stage::Failed,
            _ => Stage::Fetching,
        };
        Report {
            manifest: self.manifest,
            stage,
            running: self.running.to_string(),
            reason: self.reason.clone(),
            bytes: self.bytes,
            receipts: if stage == Stage::Fetched { receipts.to_vec() } else { Vec::new() },
        }
    }
}

/// Matchers that took no report: how long they are left alone, and until when.
#[derive(Debug, Default)]
pub(super) struct Silent(HashMap<Uid, (Duration, Instant)>);

impl Silent {
    fn is_left_alone(&self, matcher: &Uid, now: Instant) -> bool {
        self.0.get(matcher).is_some_and(|(_, until)| now < *until)
    }

    /// Whether it was left alone for as long as that ever is.
    fn is_last(&self, matcher: &Uid) -> bool {
        self.0.get(matcher).is_some_and(|(pause, _)| *pause >= SILENT_MAX)
    }

    /// Each time twice as long.
    fn note(&mut self, matcher: Uid, now: Instant) {
        let before = self.0.get(&matcher).map(|(pause, _)| *pause);
        let pause = before.map_or(TICK, |pause| SILENT_MAX.min(pause * 2));
        self.0.insert(matcher, (pause, now + pause));
    }
}

/// What a matcher's answer means for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// It need not be told again.
    Told,
    /// It has no such order yet, or not any more.
    Unknown,
    /// It is told again later, and so are those after it.
    Later,
}

impl Heard {
    /// `last`: it was asked again for as long as one asks.
    fn of(answer: &Result<(), FetchError>, last: bool) -> Self {
        match answer {
            Ok(()) => Self::Told,
            // It passes.
            Err(FetchError::No(No::Failed | No::Paused | No::Busy { .. } | No::Nothing { .. })) => {
                Self::Later
            }
            Err(FetchError::No(No::Refused(_) | No::NotFound)) if !last => Self::Unknown,
            // Whoever says no will say no again.
            Err(FetchError::No(_)) => Self::Told,
            // It may be away for long, and is told when it is there again.
            Err(_) => Self::Later,
        }
    }
}

/// Tells one matcher all of it, in its order. Returns which of the reports need not be told to it any more. `last`: it
/// was asked again for as long as one asks.
async fn tell(mesh: Mesh, matcher: Uid, reports: Vec<Report>, last: bool) -> (Uid, Vec<usize>) {
    let (mut told, mut unknown, begun) = (Vec::new(), BTreeSet::new(), Instant::now());
    for (place, report) in reports.into_iter().enumerate() {
        if begun.elapsed() > REPORTS_BEGIN_MAX {
            break;
        }
        let manifest = report.manifest;
        if unknown.contains(&manifest) {
            continue;
        }
        let answer = mesh.update_report(matcher, report).await;
        match Heard::of(&answer, last) {
            Heard::Told => told.push(place),
            Heard::Unknown => drop(unknown.insert(manifest)),
            Heard::Later => {
                tracing::debug!("{} took no report: {answer:?}", matcher.short());
                break;
            }
        }
    }
    (matcher, told)
}

impl Device {
    pub(super) fn queue_report(state: &mut State, stage: OtaStage, running: Version, reason: &str) {
        let Some(release) = state.release.as_ref().filter(|release| !release.matchers.is_empty()) else {
            return;
        };
        let mut reason = reason.to_owned();
        while reason.len() > REASON_MAX_BYTES {
            reason.pop();
        }
        let (manifest, matchers) = (release.manifest, release.matchers.clone());
        if state.reports.len() >= REPORTS_MAX {
            state.reports.remove(0);
        }
        let bytes = state.by_source;
        state.reports.push(Waiting { stage, manifest, matchers, running, reason, bytes });
    }

    /// Tells every matcher what it was not told, all at once: one that is not there keeps nobody waiting but itself.
    ///
    /// # Errors
    /// When that takes too long; what is left is told later.
    pub(super) async fn send_reports(self: &Arc<Self>, ota: &Arc<Ota>) -> anyhow::Result<()> {
        tokio::time::timeout(REPORTS_TIMEOUT, self.tell_matchers(ota)).await.map_err(|_| {
            anyhow::anyhow!(
                "telling the maker how it went took longer than {} s and is tried again; while that repeats, its \
                 matchers or the network are at fault",
                REPORTS_TIMEOUT.as_secs()
            )
        })
    }

    async fn tell_matchers(self: &Arc<Self>, ota: &Arc<Ota>) {
        // Nobody is silent because this node is not in the network.
        let Some(mesh) = ota.mesh().filter(|mesh| mesh.joined()) else { return };
        let waiting = self.read(|state| state.reports.clone());
        let matchers: BTreeSet<Uid> = waiting.iter().flat_map(|report| report.matchers.clone()).collect();
        let for_one = |matcher: &Uid| -> Vec<Waiting> {
            waiting.iter().filter(|report| report.matchers.contains(matcher)).cloned().collect()
        };
        let mut telling = JoinSet::new();
        {
            let (silent, signed) = (lock(&self.silent), lock(&self.signed));
            for matcher in matchers.iter().filter(|uid| !silent.is_left_alone(uid, Instant::now())) {
                let reports = for_one(matcher).iter().map(|report| report.report(&signed)).collect();
                telling.spawn(tell(mesh.clone(), *matcher, reports, silent.is_last(matcher)));
            }
        }
        while let Some(told) = telling.join_next().await {
            let Ok((matcher, told)) = told else { continue };
            let all = for_one(&matcher);
            let own: Vec<Waiting> = told.iter().filter_map(|place| all.get(*place).cloned()).collect();
            if own.is_empty() {
                lock(&self.silent).note(matcher, Instant::now());
            } else {
                lock(&self.silent).0.remove(&matcher);
            }
            let any = !own.is_empty();
            let changed = self.change(move |state| {
                for told in own {
                    let known =
                        state.reports.iter_mut().find(|w| w.is(&told) && w.matchers.contains(&matcher));
                    if let Some(known) = known {
                        known.matchers.retain(|uid| *uid != matcher);
                    }
                }
                state.reports.retain(|report| !report.matchers.is_empty());
            });
            if any && let Err(e) = changed.await {
                tracing::warn!("{e:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ioex_net::LinkError;

    use super::*;

    /// However long it is away: only its own word is an answer.
    #[test]
    fn a_matcher_that_cannot_be_reached_was_not_told() {
        let away =
            [LinkError::Timeout, LinkError::Broken("gone".to_owned())].map(|e| Err(FetchError::from(e)));
        let later = [No::Failed, No::Paused, No::Busy { after_ms: 1 }, No::Nothing { after_ms: 1 }];
        for last in [false, true] {
            for answer in away.iter().chain(&later.map(|no| Err(FetchError::No(no)))) {
                assert_eq!(Heard::of(answer, last), Heard::Later, "{answer:?} {last}");
            }
            assert_eq!(Heard::of(&Ok(()), last), Heard::Told);
            assert_eq!(Heard::of(&Err(FetchError::No(No::BadRequest)), last), Heard::Told);
        }
        for no in [No::Refused(1), No::NotFound] {
            let answer = Err(FetchError::No(no));
            assert_eq!([false, true].map(|last| Heard::of(&answer, last)), [Heard::Unknown, Heard::Told]);
        }
    }

    #[test]
    fn a_matcher_that_is_silent_is_asked_less_and_less_often() {
        let (mut silent, uid, begin) = (Silent::default(), Uid::from_bytes([1; 32]), Instant::now());
        let mut now = begin;
        assert!(!silent.is_left_alone(&uid, now));
        let mut pauses = Vec::new();
        for _ in 0..20 {
            silent.note(uid, now);
            let pause = silent.0[&uid].1 - now;
            assert!(silent.is_left_alone(&uid, now + pause - Duration::from_millis(1)));
            assert!(!silent.is_left_alone(&uid, now + pause));
            now += pause;
            pauses.push(pause);
        }
        assert!(pauses.is_sorted() && pauses[0] == TICK && pauses[19] == SILENT_MAX, "{pauses:?}");
    }
}
