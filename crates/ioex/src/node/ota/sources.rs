//! From whom a device may fetch: matchers' vouchers, holders that the directory names, guests.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ioex_base::Uid;
use ioex_net::{
    LinkError, Mesh,
    door::Refusal,
    proto::{Match, No},
    transfer::FetchError,
};
use ioex_ota::{Release, pass::Pass, policy::Hold};
use tokio::task::JoinSet;

use super::{
    Ota,
    device::Device,
    download::{Candidate, DownloadError, Sources},
};
use crate::node::{files, lock};

/// Holders from the directory that are asked for a manifest.
const MANIFEST_HOLDERS_MAX: usize = 8;
/// How long one node may take for the manifest of a package: of a very large one it has megabytes.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Matchers that are asked at once.
const MATCHERS_AT_ONCE: usize = 2;

/// The sources of one release for this device.
pub(super) struct DeviceSources {
    ota: Arc<Ota>,
    device: Arc<Device>,
    release: Release,
    turn: AtomicUsize,
    /// Whether candidates were looked for before.
    looked: AtomicBool,
    /// Why the last matcher that was asked named nobody.
    refused: Mutex<Option<String>>,
    /// Whether nobody was found, and nobody will be until its maker does something.
    closed: AtomicBool,
    answers: Mutex<Answers>,
}

/// What each matcher said last: whether it is over, until the maker does something.
#[derive(Debug, Default)]
struct Answers(HashMap<Uid, bool>);

impl Answers {
    fn note<T>(&mut self, matcher: Uid, answer: &Result<T, FetchError>) {
        match answer {
            Ok(_) => drop(self.0.insert(matcher, false)),
            // What passes by itself is no end: it is asked again.
            Err(FetchError::No(no)) => drop(self.0.insert(matcher, ends(no))),
            // Silence says nothing: what it said before holds.
            Err(_) => {}
        }
    }

    /// One matcher does not speak for the others: each of them has to say so.
    fn are_over(&self, matchers: &[Uid]) -> bool {
        !matchers.is_empty() && matchers.iter().all(|matcher| self.0.get(matcher) == Some(&true))
    }
}

/// Whether a matcher's no holds until the maker does something: its order is over or stopped, or does not name this
/// device.
fn ends(no: &No) -> bool {
    match no {
        No::NotFound | No::Paused => true,
        No::Refused(code) => *code == Refusal::NoAuthority.code(),
        _ => false,
    }
}

impl DeviceSources {
    pub(super) fn new(ota: Arc<Ota>, device: Arc<Device>, release: Release) -> Self {
        let (turn, looked) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (refused, answers) = (Mutex::default(), Mutex::default());
        let closed = AtomicBool::new(false);
        Self { ota, device, release, turn, looked, refused, closed, answers }
    }

    /// Why no matcher named anybody, when the last one refused.
    pub(super) fn refused(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    /// Whether nobody hands it out until its maker does something: by what each of its matchers said last, which is asked
    /// of those that said nothing yet.
    pub(super) async fn is_over(&self) -> bool {
        let Some(mesh) = self.ota.mesh() else { return false };
        let unasked: Vec<Uid> = {
            let answers = lock(&self.answers);
            let all = self.release.matchers.iter();
            all.filter(|matcher| !answers.0.contains_key(matcher)).copied().collect()
        };
        for (matcher, answer) in self.ask(mesh, unasked).await {
            lock(&self.answers).note(matcher, &answer);
        }
        lock(&self.answers).are_over(&self.release.matchers)
    }

    /// Gets the sealed manifest, if it is not here.
    ///
    /// # Errors
    /// When nobody has it.
    pub(super) async fn manifest(&self) -> Result<(), DownloadError> {
        let address = self.release.manifest;
        if self.ota.shelf().manifest(&address)?.is_some() {
            return Ok(());
        }
        let Some(mesh) = self.ota.mesh() else { return Err(DownloadError::Alone) };
        let mut nodes = self.release.matchers.clone();
        nodes.extend(self.ota.holders(address).await.into_iter().take(MANIFEST_HOLDERS_MAX));
        let mut asked = HashSet::from([mesh.uid()]);
        for node in nodes {
            if !asked.insert(node) {
                continue;
            }
            let asked = tokio::time::timeout(MANIFEST_TIMEOUT, mesh.package_fetch(node, address)).await;
            match asked.unwrap_or(Err(LinkError::Timeout.into())) {
                Ok(sealed) => {
                    self.ota.shelf().put_manifest(&sealed)?;
                    mesh.announce(address);
                    return Ok(());
                }
                Err(e) => tracing::debug!("{} has no manifest: {e}", node.short()),
            }
        }
        Err(DownloadError::Alone)
    }

    /// Asks some matchers at once: one that is not there, or means harm, must not be the only one. Each device begins
    /// at a place of its own, and goes on from there the next time.
    async fn ask_matchers(&self, mesh: &Mesh) -> Vec<(Uid, Result<Match, FetchError>)> {
        let all = &self.release.matchers;
        let turn = self.turn.fetch_add(MATCHERS_AT_ONCE, Ordering::Relaxed);
        let first = usize::from(mesh.uid().as_bytes()[0]).wrapping_add(turn);
        let places = 0..all.len().min(MATCHERS_AT_ONCE);
        let some = places.map(|place| all[first.wrapping_add(place) % all.len()]).collect();
        self.ask(mesh, some).await
    }

    async fn ask(&self, mesh: &Mesh, matchers: Vec<Uid>) -> Vec<(Uid, Result<Match, FetchError>)> {
        let mut asking = JoinSet::new();
        for matcher in matchers {
            let (mesh, manifest) = (mesh.clone(), self.release.manifest);
            asking.spawn(async move { (matcher, mesh.update_match(matcher, manifest).await) });
        }
        asking.join_all().await
    }

    async fn find(&self, neighbours: usize) -> Vec<Candidate> {
        let Some(mesh) = self.ota.mesh() else { return Vec::new() };
        let manifest = self.release.manifest;
        let mut candidates = Vec::new();
        let answers = self.ask_matchers(mesh).await;
        for (matcher, told) in answers {
            lock(&self.answers).note(matcher, &told);
            match told {
                Ok(told) => {
                    *lock(&self.refused) = told.providers.is_empty().then(|| {
                        format!("the matcher {} named nobody: this device asked it often", matcher.short())
                    });
                    let own = mesh.uid();
                    let good = Pass::check(&told.pass, &matcher, &own, &manifest, files::now()).is_ok();
                    if good && self.device.pass(&manifest).is_none_or(|(issuer, _)| issuer == matcher) {
                        self.device.keep_pass(manifest, matcher, &told.pass).await;
                    }
                    candidates.extend(told.providers.into_iter().map(|provider| Candidate {
                        uid: provider.uid,
                        issuer: matcher,
                        credential: provider.voucher,
                        origin: provider.origin,
                    }));
                }
                Err(e) => {
                    tracing::debug!("{} does not match: {e}", matcher.short());
                    let hint = match e {
                        FetchError::No(No::Refused(code)) if code == Refusal::NoAuthority.code() => {
                            ": this device is not in its order (devices that came to the list later are not), or the order is over"
                        }
                        FetchError::No(No::Paused) => {
                            ": as many devices as were ordered have it, the order's date is past, or its maker or failures stopped it"
                        }
                        _ => "",
                    };
                    *lock(&self.refused) = Some(format!("the matcher {} says: {e}{hint}", matcher.short()));
                }
            }
        }
        // Without a matcher devices go on among themselves; also when none of those whom it named answers.
        let named: HashSet<Uid> = candidates.iter().map(|candidate| candidate.uid).collect();
        let looked = self.looked.swap(true, Ordering::Relaxed);
        // Nobody lets a device in that has neither a voucher nor a pass.
        if named.is_empty() && self.device.pass(&manifest).is_none() && self.is_over().await {
            self.closed.store(true, Ordering::Relaxed);
            return candidates;
        }
        if named.is_empty() || (looked && neighbours == 0) {
            let found = self.ota.holders(manifest).await;
            candidates.extend(
                found.into_iter().filter(|uid| !named.contains(uid)).filter_map(|uid| self.pass_for(uid)),
            );
        }
        candidates
    }
}

impl Sources for DeviceSources {
    fn more(&self, neighbours: usize) -> Pin<Box<dyn Future<Output = Vec<Candidate>> + Send + '_>> {
        Box::pin(self.find(neighbours))
    }

    fn pass_for(&self, uid: Uid) -> Option<Candidate> {
        let (issuer, credential) = self.device.pass(&self.release.manifest)?;
        Some(Candidate { uid, issuer, credential, origin: false })
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn allowed(&self, bytes: u64) -> Result<(), Hold> {
        self.device.may_fetch(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no(no: No) -> Result<(), FetchError> {
        Err(FetchError::No(no))
    }

    /// Each matcher counts for itself, and what passes is no end.
    #[test]
    fn it_is_over_when_every_matcher_said_so_last() {
        let [a, b, c] = [1, 2, 3].map(|n| Uid::from_bytes([n; 32]));
        let mut answers = Answers::default();
        assert!(!answers.are_over(&[]), "nobody said no");
        answers.note(a, &no(No::Paused));
        answers.note(b, &no(No::Refused(Refusal::NoAuthority.code())));
        assert!(answers.are_over(&[a, b]) && !answers.are_over(&[a, b, c]) && !answers.are_over(&[]));
        answers.note::<()>(a, &Err(LinkError::Timeout.into()));
        assert!(answers.are_over(&[a, b]), "silence is no answer");
        let passing = [
            No::Busy { after_ms: 1 },
            No::Nothing { after_ms: 1 },
            No::Failed,
            // Right after a start the package is not open yet.
            No::Refused(Refusal::NotOffered.code()),
        ];
        for later in passing {
            answers.note(b, &no(No::NotFound));
            assert!(answers.are_over(&[a, b]));
            answers.note(b, &no(later));
            assert!(!answers.are_over(&[a, b]), "{later:?}");
        }
        answers.note(b, &no(No::NotFound));
        answers.note(b, &Ok(()));
        assert!(!answers.are_over(&[a, b]));
    }
}
