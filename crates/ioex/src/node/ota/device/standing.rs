//! How a device stands with its channel: for whoever looks, and for the program in which its node runs.

use std::sync::atomic::Ordering;

use ioex_api::{OtaReason, OtaStage, OtaState};
use ioex_ota::Release;

use super::{ALONE, Device, State, Step};
use crate::{
    config::Consent,
    node::{lock, ota::host::Moment},
};

impl Device {
    /// How things stand.
    pub(crate) fn show(&self) -> OtaState {
        let running = *lock(&self.running);
        let progress = lock(&self.progress).clone();
        let holding = lock(&self.holding).clone();
        let trouble = lock(&self.trouble).clone();
        let alone = self.is_due() && self.alone.load(Ordering::Relaxed);
        let busy = progress.is_some();
        let deciding = self.deciding.load(Ordering::Relaxed);
        let reason = holding.as_ref().map(|held| held.reason).or_else(|| alone.then_some(OtaReason::Network));
        let reason = reason.or_else(|| trouble.as_ref().map(|_| OtaReason::BrokenOff));
        let stuck = holding.as_ref().is_some_and(|held| held.stuck);
        let stage = |state: &State| match (state.step, busy) {
            (Step::Offered, true) => OtaStage::Fetching,
            (Step::Fetched, true) => OtaStage::Installing,
            (Step::Idle, _) => OtaStage::Idle,
            (Step::Offered, false) => OtaStage::Offered,
            (Step::Fetched, false) => OtaStage::Fetched,
            (Step::Installed, _) => OtaStage::Installed,
        };
        self.read(|state| OtaState {
            channel: self.bundle.channel,
            brand: self.bundle.brand.clone(),
            model: self.bundle.model.clone(),
            hardware: self.config.hardware,
            running: running.to_string(),
            stage: stage(state),
            offered: state.release.as_ref().map(|release| release.version.to_string()),
            manifest: state.release.as_ref().map(|release| release.manifest),
            bytes: state.release.as_ref().map(Release::length),
            consent: !self.asks(state),
            holding: holding.map(|held| held.why).or_else(|| alone.then(|| ALONE.to_owned())),
            reason: reason.or_else(|| state.looked.as_ref().map(|_| OtaReason::Channel)),
            stuck,
            problem: trouble.or_else(|| state.looked.clone()).or_else(|| state.problem.clone()),
            last_check: state.last_check.filter(|_| !deciding),
            progress,
            by_source: state.by_source,
            month_bytes: state.month.1,
        })
    }

    /// Whether the owner's word is missing for what comes next.
    pub(super) fn asks(&self, state: &State) -> bool {
        let is_here = matches!(state.step, Step::Fetched | Step::Installed);
        match (self.config.consent, is_here) {
            (Consent::Auto, _) | (Consent::Install, false) => false,
            (Consent::Ask, _) | (Consent::Both, false) => !state.consented,
            (Consent::Install | Consent::Both, true) => !state.agreed,
        }
    }

    /// Tells the program in which the node runs where things stand.
    pub(super) fn tell_standing(&self) {
        let moment = self.read(|state| {
            let release = state.release.as_ref()?;
            if [state.failed, state.declined].contains(&Some(release.version)) {
                return None;
            }
            let (version, consent) = (release.version.to_string(), self.asks(state));
            match state.step {
                Step::Offered => {
                    let (manifest, bytes) = (release.manifest, release.length());
                    Some(Moment::Offered { version, manifest, bytes, consent })
                }
                Step::Fetched => Some(Moment::Fetched { version, manifest: release.manifest, consent }),
                // What failed, or is on trial.
                Step::Idle | Step::Installed => None,
            }
        });
        moment.into_iter().for_each(|moment| self.host.tell(moment));
    }
}
