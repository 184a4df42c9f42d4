//! The receiver's half of a transfer.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ioex_base::{Uid, limits::OFFER_FILES_MAX};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{FileInfo, Running, TransferError, TransferInfo, TransferState, state_code};
use crate::{
    events::MeshEvent,
    links::LinkError,
    mesh::Mesh,
    proto::{No, Offer, OfferState},
    transfer::{
        fetch::{self, Access, Download, FetchError, Progress},
        names::safe_file_name,
        partial::{Partial, PartialError, check_free},
        pieces::CONTENT_MAX_BYTES,
    },
};

/// Files of one transfer that are fetched at once, so that many small ones do not wait for a
/// round trip each.
const FILES_AT_ONCE: usize = 4;
/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

impl Mesh {
    /// An offer from a friend. Returns once it is on disk.
    pub(crate) async fn take_offer(&self, from: Uid, offer: Offer) -> Result<(), No> {
        let sum = offer.files.iter().try_fold(0u64, |sum, f| sum.checked_add(f.size));
        let bounded = sum.is_some_and(|s| s <= CONTENT_MAX_BYTES);
        if offer.files.is_empty() || offer.files.len() > OFFER_FILES_MAX || !bounded {
            return Err(No::BadRequest);
        }
        let mut names = std::collections::BTreeSet::new();
        for file in &offer.files {
            if let Err(e) = safe_file_name(&file.name) {
                self.warn(format!("an offer from {} was refused: {e}", from.short()));
                return Err(No::BadRequest);
            }
            if !names.insert(file.name.as_str()) {
                return Err(No::BadRequest);
            }
        }
        let _taking = self.offers().taking.lock().await;
        let all = self.offers().all();
        if all.iter().any(|t| t.with.contains(&(from, offer.id))) {
            self.provider_is_back(from);
            return Ok(());
        }
        let same = |t: &&TransferInfo| {
            t.incoming
                && !t.state.ended()
                && t.files.len() == offer.files.len()
                && t.files.iter().zip(&offer.files).all(|(a, b)| a.address == b.address && a.size == b.size)
        };
        if let Some(known) = all.iter().find(same) {
            return self.add_provider(known.id, from, offer.id).await;
        }
        let files = offer.files.into_iter().map(|f| FileInfo {
            name: f.name,
            size: f.size,
            address: f.address,
            path: None,
            modified_ns: 0,
        });
        let info = TransferInfo {
            id: self.offers().next_id(),
            with: vec![(from, offer.id)],
            incoming: true,
            state: TransferState::Offered,
            files: files.collect(),
            done_bytes: 0,
            error: None,
            untold: Vec::new(),
            direct_bytes: 0,
            relayed_bytes: 0,
            bytes_per_second: 0,
        };
        let id = info.id;
        self.offers().put(info.clone()).await.map_err(|_| No::Failed)?;
        self.emit(MeshEvent::Transfer(info));
        if self.config().auto_accept
            && let Err(e) = self.transfer_accept(id, None).await
        {
            self.warn(format!("offer {id} could not be accepted by itself: {e}"));
        }
        Ok(())
    }

    /// Another friend has the same content.
    async fn add_provider(&self, id: u64, from: Uid, offer: [u8; 16]) -> Result<(), No> {
        let info = self.change(id, |t| {
            t.with.retain(|(uid, _)| *uid != from);
            t.with.push((from, offer));
            if t.state == TransferState::Active {
                t.untold.push((from, state_code(OfferState::Accepted)));
            }
        });
        info.await.map_err(|_| No::Failed)?;
        self.provider_is_back(from);
        Ok(())
    }

    /// Wakes transfers that wait for `uid`.
    pub(crate) fn provider_is_back(&self, uid: Uid) {
        let inner = self.offers().lock();
        for (id, running) in &inner.running {
            if inner.all.get(id).is_some_and(|t| t.with.iter().any(|(u, _)| *u == uid)) {
                // A full queue means that the transfer is about to look anyway.
                let _ = running.more.try_send(uid);
            }
        }
    }

    /// A provider took its offer back.
    pub(crate) async fn provider_withdrew(
        &self,
        info: &TransferInfo,
        from: Uid,
        state: OfferState,
    ) -> Result<(), No> {
        if state != OfferState::Cancelled || info.state.ended() {
            return Ok(());
        }
        if info.with.len() > 1 {
            let left = self.change(info.id, |t| t.with.retain(|(uid, _)| *uid != from)).await;
            return left.map(|_| ()).map_err(|_| No::Failed);
        }
        self.stop_transfer(info.id);
        let gone = self.change(info.id, |t| {
            t.state = TransferState::Cancelled;
            t.error = Some("the sender took the offer back".into());
        });
        let gone = gone.await.map_err(|_| No::Failed)?;
        self.discard_unfinished(&gone);
        Ok(())
    }

    /// Accepts an offer into `dir`, or into the configured folder.
    ///
    /// # Errors
    /// When a name is taken there, the space does not suffice, or the offer is gone.
    pub async fn transfer_accept(
        &self,
        id: u64,
        dir: Option<PathBuf>,
    ) -> Result<TransferInfo, TransferError> {
        let info = self.transfer(id)?;
        if !info.incoming || info.state != TransferState::Offered {
            return Err(TransferError::State { id, state: info.state });
        }
        let dir = dir.unwrap_or_else(|| self.config().receive_dir.clone());
        let checked = {
            let (dir, files) = (dir.clone(), info.files.clone());
            tokio::task::spawn_blocking(move || prepare(&dir, &files)).await
        };
        checked
            .map_err(|e| TransferError::Read { path: dir.clone(), source: std::io::Error::other(e) })??;
        let info = self
            .change(id, |t| {
                t.state = TransferState::Active;
                for file in &mut t.files {
                    file.path = Some(dir.join(&file.name));
                }
                t.untold = t.with.iter().map(|(uid, _)| (*uid, state_code(OfferState::Accepted))).collect();
            })
            .await?;
        self.start_incoming(id);
        info.with.iter().for_each(|(uid, _)| self.deliver_to(*uid));
        Ok(info)
    }

    /// Goes on with everything that was under way when the node stopped.
    pub(crate) fn start_all_incoming(&self) {
        for info in self.offers().all() {
            if info.incoming && info.state == TransferState::Active {
                self.start_incoming(info.id);
            }
        }
    }

    pub(crate) fn start_incoming(&self, id: u64) {
        let stop = self.child_token();
        let (more, providers) = mpsc::channel(16);
        {
            let mut inner = self.offers().lock();
            if inner.running.contains_key(&id) {
                return;
            }
            inner.running.insert(id, Running { stop: stop.clone(), more });
        }
        let mesh = self.clone();
        self.spawn(async move {
            let turn = mesh.offers().files_turn(id);
            let _turn = turn.lock().await;
            let result = mesh.run_incoming(id, providers, &stop).await;
            if !stop.is_cancelled() {
                mesh.offers().lock().running.remove(&id);
            }
            mesh.end_incoming(id, result).await;
        });
    }

    async fn end_incoming(&self, id: u64, result: Result<(), FetchError>) {
        let ended = match result {
            Ok(()) => {
                let done = self.change(id, |t| {
                    if t.state.ended() {
                        return;
                    }
                    t.state = TransferState::Done;
                    t.done_bytes = t.total_bytes();
                    t.error = None;
                    t.untold = t.with.iter().map(|(uid, _)| (*uid, state_code(OfferState::Done))).collect();
                });
                done.await.map(|info| info.with.iter().for_each(|(uid, _)| self.deliver_to(*uid)))
            }
            Err(FetchError::Stopped) => Ok(()),
            Err(e) => {
                let failed = self.change(id, |t| {
                    if t.state != TransferState::Active {
                        return;
                    }
                    t.state = TransferState::Failed;
                    t.error = Some(e.to_string());
                });
                failed.await.map(|_| ())
            }
        };
        if let Err(e) = ended {
            self.warn(format!("transfer {id}'s end could not be kept: {e}"));
        }
    }

    async fn run_incoming(
        &self,
        id: u64,
        mut back: mpsc::Receiver<Uid>,
        stop: &CancellationToken,
    ) -> Result<(), FetchError> {
        let Ok(info) = self.transfer(id) else { return Err(FetchError::Stopped) };
        let (progress, mut reports) = mpsc::channel(64);
        let mut waiting: Vec<FileInfo> = info.files.clone();
        waiting.reverse();
        let mut running = tokio::task::JoinSet::new();
        let mut more: Vec<mpsc::Sender<Uid>> = Vec::new();
        let mut meter = Meter::new(self, id);
        loop {
            while running.len() < FILES_AT_ONCE {
                let Some(file) = waiting.pop() else { break };
                let (tell, told) = mpsc::channel(16);
                more.retain(|m| !m.is_closed());
                more.push(tell);
                running.spawn(self.clone().receive_file(id, file, told, progress.clone(), stop.clone()));
            }
            if running.is_empty() {
                while let Ok(report) = reports.try_recv() {
                    meter.take(report);
                }
                return Ok(());
            }
            tokio::select! {
                Some(done) = running.join_next() => match done {
                    Ok(result) => result?,
                    Err(e) => return Err(PartialError::Io { path: PathBuf::new(), source: std::io::Error::other(e) }.into()),
                },
                Some(report) = reports.recv() => meter.take(report),
                Some(uid) = back.recv() => {
                    for m in &more {
                        let _ = m.try_send(uid);
                    }
                }
                () = stop.cancelled() => {
                    // The files' tasks see the same token, flush their journals and end; none of
                    // them may wait for its reports to be read.
                    reports.close();
                    while let Some(_ended) = running.join_next().await {}
                    return Err(FetchError::Stopped);
                }
            }
        }
    }

    /// Receives one file; waits for providers as long as it takes.
    async fn receive_file(
        self,
        id: u64,
        file: FileInfo,
        mut more: mpsc::Receiver<Uid>,
        progress: mpsc::Sender<Progress>,
        stop: CancellationToken,
    ) -> Result<(), FetchError> {
        let Some(target) = file.path.clone() else { return Err(FetchError::Stopped) };
        if is_complete(&target, &file).await {
            let _ = progress.send(Progress::Had(file.size)).await;
            return Ok(());
        }
        let mut partial: Option<Arc<Partial>> = None;
        loop {
            let providers: Vec<Uid> = match self.transfer(id) {
                Ok(info) => info.with.iter().map(|(uid, _)| *uid).collect(),
                Err(_) => return Err(FetchError::Stopped),
            };
            let ready = match &partial {
                Some(ready) => Ok(ready.clone()),
                None => tokio::select! {
                    ready = self.prepare_file(&target, &file, &providers) => ready,
                    () = stop.cancelled() => Err(FetchError::Stopped),
                },
            };
            let attempt = async {
                let ready = ready?;
                if partial.is_none() {
                    let _ = progress.send(Progress::Had(ready.done_bytes())).await;
                    partial = Some(ready.clone());
                }
                let links = self.links()?;
                let download = Download {
                    links,
                    access: Access::Offered,
                    address: file.address,
                    partial: ready.clone(),
                };
                let result = download.run(&providers, &mut more, &progress, &stop).await;
                let done = result.is_ok();
                let flushed =
                    tokio::task::spawn_blocking(move || if done { ready.finish() } else { ready.flush() });
                flushed.await.map_err(|e| PartialError::Io {
                    path: target.clone(),
                    source: std::io::Error::other(e),
                })??;
                result
            };
            match attempt.await {
                Ok(()) => return Ok(()),
                Err(e @ (FetchError::Stopped | FetchError::Partial(_))) => return Err(e),
                Err(e) => {
                    tracing::debug!("transfer {id} waits: {e}");
                    let why = e.to_string();
                    self.offers().note(id, |t| t.error = Some(format!("waiting for a provider: {why}")));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Err(FetchError::Stopped),
                _ = more.recv() => {}
                () = tokio::time::sleep(self.config().timing.transfer_retry) => {}
            }
        }
    }

    /// Gets the piece list, from the journal or any provider, and opens the file so far.
    async fn prepare_file(
        &self,
        target: &Path,
        file: &FileInfo,
        providers: &[Uid],
    ) -> Result<Arc<Partial>, FetchError> {
        let mut list = Partial::known_list(target, &file.address);
        let mut last = FetchError::NoProviders;
        if list.is_none() {
            let links = self.links()?;
            // All are asked at once: one that is gone must not hold up one that is there.
            let mut asking = tokio::task::JoinSet::new();
            for uid in providers.iter().copied() {
                let (links, address, size) = (links.clone(), file.address, file.size);
                asking.spawn(
                    async move { fetch::piece_list(&links, uid, &Access::Offered, address, size).await },
                );
            }
            while let Some(answer) = asking.join_next().await {
                match answer {
                    Ok(Ok(found)) => {
                        list = Some(found);
                        break;
                    }
                    Ok(Err(e)) => last = e,
                    Err(e) => last = LinkError::Broken(e.to_string()).into(),
                }
            }
        }
        let list = list.ok_or(last)?;
        let (target, address) = (target.to_owned(), file.address);
        let opened = tokio::task::spawn_blocking(move || Partial::open(&target, &address, list));
        let opened = opened
            .await
            .map_err(|e| PartialError::Io { path: PathBuf::new(), source: std::io::Error::other(e) })?;
        Ok(Arc::new(opened?))
    }
}

/// Whether an earlier run completed this file before it could write so down.
async fn is_complete(target: &Path, file: &FileInfo) -> bool {
    let (target, size, address) = (target.to_owned(), file.size, file.address);
    let check = tokio::task::spawn_blocking(move || {
        let meta = target.metadata().ok()?;
        if meta.len() != size {
            return None;
        }
        let opened = std::fs::File::open(&target).ok()?;
        let (found, _) = crate::transfer::pieces::PieceList::of(opened, |_| (), size).ok()?;
        (found == address).then_some(())
    });
    matches!(check.await, Ok(Some(())))
}

/// Checks the folder before anything is promised. Blocks.
fn prepare(dir: &Path, files: &[FileInfo]) -> Result<(), TransferError> {
    let io = |source| TransferError::Read { path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(io)?;
    for file in files {
        check_free(&dir.join(&file.name))?;
    }
    let total = files.iter().map(|f| f.size).fold(0, u64::saturating_add);
    let stat = rustix::fs::statvfs(dir).map_err(|e| io(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < total {
        return Err(PartialError::NoSpace { path: dir.to_owned(), needed: total, free }.into());
    }
    Ok(())
}

/// Adds up progress and shows it now and then.
struct Meter<'a> {
    mesh: &'a Mesh,
    id: u64,
    shown: Instant,
    since_bytes: u64,
}

impl<'a> Meter<'a> {
    fn new(mesh: &'a Mesh, id: u64) -> Self {
        mesh.offers().note(id, |t| {
            (t.done_bytes, t.direct_bytes, t.relayed_bytes) = (0, 0, 0);
            t.error = None;
        });
        Self { mesh, id, shown: Instant::now(), since_bytes: 0 }
    }

    fn take(&mut self, report: Progress) {
        let (bytes, relayed) = match report {
            Progress::Piece { bytes, relayed } => (bytes, relayed),
            Progress::Had(bytes) => {
                self.mesh.offers().note(self.id, |t| t.done_bytes += bytes);
                return;
            }
            Progress::Gone { uid, why } => {
                self.mesh.offers().note(self.id, |t| t.error = Some(format!("{}: {why}", uid.short())));
                return;
            }
        };
        self.since_bytes += bytes;
        let elapsed = self.shown.elapsed();
        let show = elapsed >= SHOW_EVERY;
        let rate = (self.since_bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        let info = self.mesh.offers().note(self.id, |t| {
            t.done_bytes += bytes;
            if relayed {
                t.relayed_bytes += bytes;
            } else {
                t.direct_bytes += bytes;
            }
            if show {
                t.bytes_per_second = rate;
                t.error = None;
            }
        });
        if let Some(info) = info.filter(|_| show) {
            self.shown = Instant::now();
            self.since_bytes = 0;
            self.mesh.emit(MeshEvent::Transfer(info));
        }
    }
}
