//! The sender's half of a transfer.

use std::{
    fs::File,
    io::BufReader,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ioex_base::{ContentAddress, Uid, limits::OFFER_FILES_MAX};

use super::{FileInfo, LISTS_MAX, TransferError, TransferInfo, TransferState, state_code, state_of_code};
use crate::{
    door::Door,
    events::MeshEvent,
    mesh::Mesh,
    proto::{Answer, No, Offer, OfferState, OfferUpdate, OfferedFile, Open},
    random,
    transfer::{names::safe_file_name, pieces::PieceList, serve::Source},
};

/// Progress of an outgoing transfer is shown this often at most.
const SHOW_EVERY: Duration = Duration::from_millis(250);

fn modified_ns(meta: &std::fs::Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

/// Reads and hashes a file. Blocks.
fn hash_file(path: &Path) -> Result<(FileInfo, PieceList), TransferError> {
    let read = |source| TransferError::Read { path: path.to_owned(), source };
    let path = path.canonicalize().map_err(read)?;
    let file = File::open(&path).map_err(|source| TransferError::Read { path: path.clone(), source })?;
    let meta = file.metadata().map_err(|source| TransferError::Read { path: path.clone(), source })?;
    if !meta.is_file() {
        return Err(TransferError::NotAFile(path));
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name = safe_file_name(name)?.to_owned();
    let (address, list) = PieceList::of(BufReader::with_capacity(0, file), |_| (), meta.len())
        .map_err(|source| TransferError::Read { path: path.clone(), source })?;
    let info =
        FileInfo { name, size: meta.len(), address, path: Some(path), modified_ns: modified_ns(&meta) };
    Ok((info, list))
}

impl Mesh {
    /// Offers files to friends: one transfer per friend.
    ///
    /// # Errors
    /// When a file cannot be read or a recipient is no friend; nothing is offered then. Friends
    /// that are not there now get the offer later.
    pub async fn send_files(
        &self,
        to: &[Uid],
        paths: &[PathBuf],
    ) -> Result<Vec<TransferInfo>, TransferError> {
        if to.is_empty() || paths.is_empty() {
            return Err(TransferError::Nothing);
        }
        if paths.len() > OFFER_FILES_MAX {
            return Err(TransferError::TooMany(paths.len()));
        }
        if let Some(stranger) = to.iter().find(|uid| !self.book().is_friend(uid)) {
            return Err(TransferError::NotFriend(*stranger));
        }
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let path = path.clone();
            let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
            let (info, list) = hashed.map_err(|e| TransferError::Read {
                path: PathBuf::new(),
                source: std::io::Error::other(e),
            })??;
            self.remember_list(info.address, list);
            files.push(info);
        }
        let mut out = Vec::new();
        for uid in to {
            let info = TransferInfo {
                id: self.offers().next_id(),
                with: vec![(*uid, random::bytes())],
                incoming: false,
                state: TransferState::Offered,
                files: files.clone(),
                done_bytes: 0,
                error: None,
                untold: vec![(*uid, super::state_code(OfferState::Accepted))],
                direct_bytes: 0,
                relayed_bytes: 0,
                bytes_per_second: 0,
            };
            self.offers().put(info.clone()).await?;
            self.emit(MeshEvent::Transfer(info.clone()));
            self.deliver_to(*uid);
            out.push(info);
        }
        Ok(out)
    }

    fn remember_list(&self, address: ContentAddress, list: PieceList) -> Arc<PieceList> {
        let list = Arc::new(list);
        let mut inner = self.offers().lock();
        if inner.lists.len() >= LISTS_MAX {
            inner.lists.clear();
        }
        inner.lists.insert(address, list.clone());
        list
    }

    /// Brings offers and news about them to a friend that is there now.
    pub(crate) async fn flush_offers(&self, to: Uid) {
        for info in self.offers().all() {
            let Some(at) = info.untold.iter().position(|(uid, _)| *uid == to) else { continue };
            let Some((_, id)) = info.with.iter().find(|(uid, _)| *uid == to) else { continue };
            let state = state_of_code(info.untold[at].1);
            let news = if !info.incoming && state == OfferState::Accepted {
                let files = info.files.iter();
                let files =
                    files.map(|f| OfferedFile { name: f.name.clone(), size: f.size, address: f.address });
                Open::Offer(Offer { id: *id, files: files.collect() })
            } else {
                Open::OfferState(OfferUpdate { id: *id, state })
            };
            let Ok(links) = self.links() else { return };
            match links.ask::<()>(to, Door::Friend, &news).await {
                Ok(Answer::Yes(())) => {
                    let told = self.change(info.id, |t| {
                        t.untold.retain(|(uid, code)| *uid != to || *code != state_code(state))
                    });
                    if let Err(e) = told.await {
                        self.warn(format!("a transfer's state could not be kept: {e}"));
                    }
                }
                Ok(Answer::No(no)) => {
                    let failed = self.change(info.id, |t| {
                        t.untold.retain(|(uid, _)| *uid != to);
                        if !t.incoming && t.state == TransferState::Offered {
                            t.state = TransferState::Failed;
                            t.error = Some(format!("the friend did not take the offer: {no}"));
                        }
                    });
                    if let Err(e) = failed.await {
                        self.warn(format!("a transfer's state could not be kept: {e}"));
                    }
                }
                Err(e) => {
                    tracing::debug!("offer to {} waits: {e}", to.short());
                    return;
                }
            }
        }
    }

    /// What became of an offer of ours, or (cancelled) of one of theirs.
    pub(crate) async fn take_offer_state(&self, from: Uid, update: OfferUpdate) -> Result<(), No> {
        let found = self.offers().all().into_iter().find(|t| t.with.contains(&(from, update.id)));
        let Some(info) = found else { return Err(No::NotFound) };
        if info.incoming {
            return self.provider_withdrew(&info, from, update.state).await;
        }
        let total = info.total_bytes();
        let next = match update.state {
            OfferState::Accepted => TransferState::Active,
            OfferState::Done => TransferState::Done,
            OfferState::Cancelled => TransferState::Cancelled,
        };
        let changed = self.change(info.id, |t| {
            // News may overtake each other: an end stays an end.
            if t.state.ended() || (t.state == TransferState::Paused && next == TransferState::Active) {
                return;
            }
            t.state = next;
            if next == TransferState::Done {
                t.done_bytes = total;
            }
        });
        changed.await.map(|_| ()).map_err(|_| No::Failed)
    }

    /// The file behind an address that was offered to `to`, and the transfer it belongs to.
    pub(crate) fn offered(&self, to: Uid, address: &ContentAddress) -> Result<(u64, FileInfo), No> {
        let live = |s| matches!(s, TransferState::Offered | TransferState::Active | TransferState::Done);
        let inner = self.offers().lock();
        let all = inner.all.values();
        let mut found = all.filter(|t| !t.incoming && live(t.state) && t.with.iter().any(|(u, _)| *u == to));
        let file =
            found.find_map(|t| t.files.iter().find(|f| f.address == *address).map(|f| (t.id, f.clone())));
        file.ok_or(No::NotFound)
    }

    /// Opens an offered file, unless it changed since it was hashed.
    pub(crate) async fn open_offered(&self, file: &FileInfo) -> Result<Source, No> {
        let (path, size, modified) = (file.path.clone().ok_or(No::NotFound)?, file.size, file.modified_ns);
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::open(&path)?;
            let meta = file.metadata()?;
            Ok::<_, std::io::Error>((file, meta.len() == size && modified_ns(&meta) == modified))
        });
        match opened.await {
            Ok(Ok((handle, true))) => Ok(Source { file: Arc::new(handle), size }),
            Ok(Ok((_, false))) => {
                self.warn(format!("{} changed since it was offered: send it again", file.name));
                Err(No::Mismatch)
            }
            Ok(Err(e)) => {
                self.warn(format!("{} cannot be read any more: {e}", file.name));
                Err(No::Failed)
            }
            Err(_) => Err(No::Failed),
        }
    }

    /// The piece list of an offered file; read again when it is not in memory.
    pub(crate) async fn offered_list(&self, file: &FileInfo) -> Result<Arc<PieceList>, No> {
        if let Some(list) = self.offers().lock().lists.get(&file.address) {
            return Ok(list.clone());
        }
        let path = file.path.clone().ok_or(No::NotFound)?;
        let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
        match hashed {
            Ok(Ok((info, list))) if info.address == file.address => {
                Ok(self.remember_list(file.address, list))
            }
            Ok(Ok(_)) => Err(No::Mismatch),
            Ok(Err(_)) | Err(_) => Err(No::Failed),
        }
    }

    /// Counts what left for a receiver and shows it now and then.
    pub(crate) fn note_sent(&self, id: u64, bytes: u64, relayed: bool, shown: &mut std::time::Instant) {
        let info = self.offers().note(id, |t| {
            t.done_bytes = t.done_bytes.saturating_add(bytes).min(t.total_bytes());
            if relayed {
                t.relayed_bytes += bytes;
            } else {
                t.direct_bytes += bytes;
            }
        });
        if let Some(info) = info.filter(|_| shown.elapsed() >= SHOW_EVERY) {
            *shown = std::time::Instant::now();
            self.emit(MeshEvent::Transfer(info));
        }
    }
}
