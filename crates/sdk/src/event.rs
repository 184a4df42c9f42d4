//! What a program is told.

use std::time::{Duration, Instant};

use ioex::node::{DeviceUpdates, Moment};
use ioex_api::{OtaReason as Reason, OtaStage, OtaState};
use ioex_base::{ContentAddress, Uid};
use tokio::sync::{
    broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    watch,
};
use tokio_util::sync::CancellationToken;

use crate::Call;

/// Progress is told at most so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Something that happened. Each update goes `Offered`, `Ready`, `Installed`, `Trial`, and ends with `Confirmed`
/// or, from anywhere, `Failed`. `Trial` comes to the program that was started anew, not to the one before, unless the
/// configuration has a `restart` command: then it comes when that command has returned. An end of which the program may
/// not have heard before it was stopped is told at the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The node runs ([`blocking`](crate::blocking) only).
    Started {
        /// The device's key: its maker puts it on the roster.
        uid: Uid,
    },
    /// A version is there for this device. Told again after each start as long as it is not fetched.
    Offered {
        /// Which.
        version: String,
        /// The address list (manifest).
        manifest: ContentAddress,
        /// Length of the package.
        bytes: u64,
        /// Whether it is fetched only after [`consent`](crate::Node::consent).
        consent: bool,
    },
    /// A package is being fetched, or written.
    Progress(Progress),
    /// All of it is here and verified.
    Ready {
        /// Which.
        version: String,
        /// The address list (manifest).
        manifest: ContentAddress,
        /// Whether it is installed only after [`consent`](crate::Node::consent).
        consent: bool,
    },
    /// It is written, and put in charge or ready for the device's next start. Without a `restart` command in the
    /// configuration the program now starts itself anew, or has the device do so: the trial begins with that start.
    Installed {
        /// Which.
        version: String,
    },
    /// It runs, on trial. Told again after each start as long as it is.
    Trial {
        /// Which.
        version: String,
        /// Whether the program has to [`confirm`](crate::Node::confirm) it or to
        /// [go back](crate::Node::roll_back), before `confirm_minutes` are over.
        confirm: bool,
    },
    /// It runs, and stays.
    Confirmed {
        /// Which.
        version: String,
    },
    /// It could not be fetched, written or kept. It is not tried again by itself.
    Failed {
        /// Which.
        version: String,
        /// Why, for programs.
        code: Reason,
        /// Why, for people.
        reason: String,
        /// Whether it was in charge, or about to be, and the version before is again.
        rolled_back: bool,
    },
    /// What an update waits for, or why the last step has to be tried again. Told when that changes, not when a time
    /// runs down; what failed waits for nothing, and is not told here.
    Waiting {
        /// Which version, if it is about one: with [`Reason::Declined`], a yes may still be said to it.
        version: Option<String>,
        /// Its address list (manifest).
        manifest: Option<ContentAddress>,
        /// For programs.
        code: Reason,
        /// For people.
        reason: String,
    },
    /// A call that had returned could not be done ([`blocking`](crate::blocking) only).
    CallFailed {
        /// Which.
        call: Call,
        /// Why, for programs.
        code: Reason,
        /// Why, for people.
        reason: String,
    },
    /// The program was behind: events were dropped. Ask for the state.
    Missed {
        /// How many.
        count: u64,
    },
    /// The node has ended; the last event ([`blocking`](crate::blocking) only).
    Stopped {
        /// Why, when nobody told it to.
        problem: Option<String>,
    },
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which version.
    pub version: String,
    /// [`OtaStage::Fetching`] or [`OtaStage::Installing`]; at its very end [`OtaStage::Installed`].
    pub stage: OtaStage,
    /// Bytes that are there, or written.
    pub done_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// Bytes of this download that came from the maker.
    pub from_maker: u64,
    /// From devices on the local network.
    pub from_local: u64,
    /// From other devices.
    pub from_others: u64,
    /// Of all these, over relays.
    pub over_relays: u64,
    /// Nodes that are connected for it.
    pub neighbours: u64,
}

impl From<Moment> for Event {
    fn from(moment: Moment) -> Self {
        match moment {
            Moment::Offered { version, manifest, bytes, consent } => {
                Self::Offered { version, manifest, bytes, consent }
            }
            Moment::Fetched { version, manifest, consent } => Self::Ready { version, manifest, consent },
            Moment::Installed { version } => Self::Installed { version },
            Moment::Trial { version, confirm } => Self::Trial { version, confirm },
            Moment::Confirmed { version } => Self::Confirmed { version },
            Moment::Failed { version, code, reason, rolled_back } => {
                Self::Failed { version, code, reason, rolled_back }
            }
        }
    }
}

/// What was told last of what lies between two moments.
#[derive(Default)]
struct Between {
    progress: Option<(Progress, Instant)>,
    waiting: Option<Wait>,
}

/// What makes one reason to wait another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wait {
    code: Reason,
    manifest: Option<ContentAddress>,
    why: Option<String>,
}

impl Wait {
    fn of(state: &OtaState) -> Option<Self> {
        // That it failed was told when it did.
        let code = state.reason.filter(|code| *code != Reason::FailedBefore)?;
        let why = match code {
            // The text has a time that runs down, or what is free just now.
            Reason::Hours | Reason::Rollout | Reason::Retry | Reason::NoProvider | Reason::Room => {
                state.problem.clone()
            }
            _ => text(state),
        };
        Some(Self { code, manifest: state.manifest, why })
    }
}

/// Why it waits, for people.
fn text(state: &OtaState) -> Option<String> {
    state.holding.clone().or_else(|| state.problem.clone())
}

impl Between {
    /// What is to be told of this state, if anything.
    fn news(&mut self, state: &OtaState, now: Instant) -> Option<Event> {
        let waiting = Wait::of(state);
        if waiting != self.waiting {
            self.waiting.clone_from(&waiting);
            if let Some(Wait { code, manifest, .. }) = waiting {
                let reason = text(state).unwrap_or_default();
                return Some(Event::Waiting { version: state.offered.clone(), manifest, code, reason });
            }
        }
        let Some(under_way) = &state.progress else {
            self.progress = None;
            return None;
        };
        let [from_maker, from_local, from_others, over_relays] = under_way.by_source;
        let progress = Progress {
            version: state.offered.clone().unwrap_or_default(),
            stage: state.stage,
            done_bytes: under_way.done_bytes,
            total_bytes: under_way.total_bytes,
            from_maker,
            from_local,
            from_others,
            over_relays,
            neighbours: under_way.neighbours,
        };
        let is_due = match &self.progress {
            Some((last, _)) if *last == progress => false,
            Some((_, at)) => {
                progress.done_bytes == progress.total_bytes || now.duration_since(*at) >= PROGRESS_EVERY
            }
            None => true,
        };
        is_due.then(|| {
            self.progress = Some((progress.clone(), now));
            Event::Progress(progress)
        })
    }
}

/// What a program was told, when the device is to know that it heard of it: how an update ended.
pub(crate) struct Told {
    updates: DeviceUpdates,
    moment: Moment,
}

impl Told {
    /// The program has heard of it. Writes a small file.
    pub(crate) fn heard(self) {
        self.updates.heard(&self.moment);
    }
}

/// What happens at a node, in order.
pub struct Events {
    updates: DeviceUpdates,
    moments: broadcast::Receiver<Moment>,
    changes: watch::Receiver<u64>,
    between: Between,
    stop: CancellationToken,
    /// What was given last.
    given: Option<Told>,
}

impl Events {
    pub(crate) fn new(updates: DeviceUpdates, stop: CancellationToken) -> Self {
        let (moments, mut changes) = (updates.moments(), updates.changes());
        // How it stands at the start is news, too.
        changes.mark_changed();
        Self { updates, moments, changes, between: Between::default(), stop, given: None }
    }

    /// Waits for the next one; none when the node has been told to stop and there is nothing more to tell.
    ///
    /// How an update ended counts as heard when this is called again; else it is told again at the next start.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(told) = self.given.take() {
            // On a thread for files; one that fails leaves it to be told again.
            let _ = tokio::task::spawn_blocking(move || told.heard()).await;
        }
        let (event, told) = self.take().await?;
        self.given = told;
        Some(event)
    }

    /// The same for who says itself when it was heard.
    pub(crate) async fn take(&mut self) -> Option<(Event, Option<Told>)> {
        loop {
            let moment = tokio::select! {
                biased;
                moment = self.moments.recv() => moment,
                () = self.stop.cancelled() => return None,
                changed = self.changes.changed() => {
                    changed.ok()?;
                    if let Some(event) = self.between.news(&self.updates.state(), Instant::now()) {
                        return Some((event, None));
                    }
                    continue;
                }
            };
            return match moment {
                Ok(moment) => Some(self.of(moment)),
                Err(RecvError::Lagged(count)) => Some((Event::Missed { count }, None)),
                Err(RecvError::Closed) => None,
            };
        }
    }

    /// What is left of a node that has ended.
    pub(crate) fn rest(&mut self) -> Option<(Event, Option<Told>)> {
        match self.moments.try_recv() {
            Ok(moment) => Some(self.of(moment)),
            Err(TryRecvError::Lagged(count)) => Some((Event::Missed { count }, None)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    fn of(&self, moment: Moment) -> (Event, Option<Told>) {
        let is_end = matches!(moment, Moment::Confirmed { .. } | Moment::Failed { .. });
        let told = is_end.then(|| Told { updates: self.updates.clone(), moment: moment.clone() });
        (moment.into(), told)
    }
}

#[cfg(test)]
mod tests {
    use ioex_api::OtaProgress;

    use super::*;

    fn state(done_bytes: Option<u64>, holding: Option<&str>) -> OtaState {
        OtaState {
            channel: ContentAddress::of(b"c"),
            brand: "acme".to_owned(),
            model: "box".to_owned(),
            hardware: 0,
            running: "1.0.0".to_owned(),
            stage: OtaStage::Fetching,
            offered: Some("1.1.0".to_owned()),
            manifest: None,
            bytes: Some(100),
            consent: true,
            holding: holding.map(str::to_owned),
            reason: None,
            stuck: false,
            problem: None,
            last_check: None,
            progress: done_bytes.map(|done_bytes| OtaProgress {
                done_bytes,
                total_bytes: 100,
                package_bytes: 100,
                by_source: [1, 2, 3, 4],
                neighbours: 5,
            }),
            by_source: [0; 4],
            month_bytes: 0,
        }
    }

    #[test]
    fn progress_is_told_now_and_then_and_at_the_end() {
        let (mut between, start) = (Between::default(), Instant::now());
        let mut done = |bytes, after: u64| match between
            .news(&state(Some(bytes), None), start + Duration::from_millis(after))
        {
            Some(Event::Progress(progress)) => Some((progress.done_bytes, progress.from_others)),
            _ => None,
        };
        assert_eq!(done(10, 0), Some((10, 3)));
        assert_eq!(done(20, 10), None);
        assert_eq!(done(20, 100), Some((20, 3)));
        assert_eq!(done(20, 900), None, "nothing changed");
        assert_eq!(done(100, 901), Some((100, 3)));
    }

    #[test]
    fn a_reason_to_wait_is_told_once_and_not_as_its_time_runs_down() {
        let (mut between, now) = (Between::default(), Instant::now());
        let mut news = |code: Option<Reason>, holding: Option<&str>, problem: Option<&str>| {
            let state =
                OtaState { reason: code, problem: problem.map(str::to_owned), ..state(None, holding) };
            match between.news(&state, now) {
                None => None,
                Some(Event::Waiting { version, code, reason, .. }) => {
                    assert_eq!(version.as_deref(), Some("1.1.0"));
                    Some((code, reason))
                }
                other => panic!("{other:?}"),
            }
        };
        let waits = |code, why: &str| Some((code, why.to_owned()));
        let hours = |minutes| format!("the hours begin in {minutes} minutes");
        assert_eq!(news(Some(Reason::Hours), Some(&hours(2)), None), waits(Reason::Hours, &hours(2)));
        assert_eq!(news(Some(Reason::Hours), Some(&hours(1)), None), None);
        assert_eq!(news(None, None, None), None);
        assert_eq!(news(Some(Reason::Hours), Some(&hours(9)), None), waits(Reason::Hours, &hours(9)));
        // Another try that failed otherwise is news.
        assert_eq!(news(Some(Reason::Retry), Some("in 9 s"), Some("full")), waits(Reason::Retry, "in 9 s"));
        assert_eq!(news(Some(Reason::Retry), Some("in 8 s"), Some("full")), None);
        assert_eq!(news(Some(Reason::Retry), Some("in 7 s"), Some("gone")), waits(Reason::Retry, "in 7 s"));
        assert_eq!(news(Some(Reason::Channel), None, Some("silent")), waits(Reason::Channel, "silent"));
        // What failed was told, and nothing waits.
        assert_eq!(news(None, None, Some("unhealthy")), None);
        assert_eq!(news(Some(Reason::FailedBefore), Some("forgive it"), Some("unhealthy")), None);
    }
}
