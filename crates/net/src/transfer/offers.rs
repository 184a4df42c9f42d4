//! Files between friends: offer, accept, pause, resume, cancel (requirement N8).
//!
//! A sender hashes its files and offers their content addresses; the files stay where they are
//! and are served from there. A receiver fetches what it accepted, piece by piece, and goes on
//! after any break. When another friend offers the same content, it becomes one more provider of
//! the same transfer.

mod incoming;
mod outgoing;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use ioex_base::{ContentAddress, Uid};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{NameError, partial::PartialError, pieces::PieceList};
use crate::{
    events::MeshEvent,
    links::LinkError,
    mesh::Mesh,
    proto::OfferState,
    state::{self, State, StateError, TRANSFERS},
};

/// Most transfers kept in the list; the oldest ended ones are forgotten first.
const TRANSFERS_MAX: usize = 10_000;

/// Where a transfer stands. The discriminants are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferState {
    /// Offered; the receiver has not accepted.
    Offered,
    /// Under way, or waiting for a provider.
    Active,
    /// Stopped by its owner.
    Paused,
    /// Complete and verified.
    Done,
    /// Ended by either side.
    Cancelled,
    /// Cannot go on without its owner; the error says why.
    Failed,
}

impl TransferState {
    fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// A file of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Name as offered; one plain path component.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Content address.
    pub address: ContentAddress,
    /// Where it is, or will be, on this node.
    pub path: Option<PathBuf>,
    /// Outgoing: modification time when it was hashed, in nanoseconds since 1970.
    pub modified_ns: i128,
}

/// A transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferInfo {
    /// Names it on this node.
    pub id: u64,
    /// The other sides and the ids of their offers. An outgoing transfer has one.
    pub with: Vec<(Uid, [u8; 16])>,
    /// Whether it comes in.
    pub incoming: bool,
    /// Where it stands.
    pub state: TransferState,
    /// Its files.
    pub files: Vec<FileInfo>,
    /// Bytes there (incoming: verified; outgoing: sent in this run, all when done).
    pub done_bytes: u64,
    /// Why it failed or waits.
    pub error: Option<String>,
    /// What the other sides were not told yet.
    pub untold: Vec<(Uid, u8)>,
    /// Bytes over direct paths in this run.
    #[serde(skip)]
    pub direct_bytes: u64,
    /// Bytes over relays in this run.
    #[serde(skip)]
    pub relayed_bytes: u64,
    /// Rate over the last second or so.
    #[serde(skip)]
    pub bytes_per_second: u64,
}

impl TransferInfo {
    /// Bytes of all files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).fold(0, u64::saturating_add)
    }
}

/// Why a transfer could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// No transfer by that number.
    #[error("there is no transfer {0}")]
    Unknown(u64),
    /// Not a friend.
    #[error("{0} is no friend: add it first with `ioex friend add`")]
    NotFriend(Uid),
    /// Nobody or nothing to send.
    #[error("name at least one file and one friend")]
    Nothing,
    /// Too many files at once.
    #[error("{0} files are too many for one transfer, at most {max}: send an archive", max = ioex_base::limits::OFFER_FILES_MAX)]
    TooMany(usize),
    /// Not a plain file.
    #[error("{0} is not a file")]
    NotAFile(PathBuf),
    /// A file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The state does not allow that.
    #[error("transfer {id} is {state:?}: that is not possible now")]
    State {
        /// Which.
        id: u64,
        /// Its state.
        state: TransferState,
    },
    /// A name that is not used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The place cannot take the file.
    #[error(transparent)]
    Place(#[from] PartialError),
    /// The other side cannot be reached; the offer is kept.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The list could not be written.
    #[error(transparent)]
    Kept(#[from] StateError),
}

/// All transfers of a node.
#[derive(Debug)]
pub(crate) struct Offers {
    state: Arc<State>,
    inner: Mutex<Inner>,
    /// One change at a time: two that read the same transfer would undo each other.
    turn: tokio::sync::Mutex<()>,
    /// One offer at a time, so that a repeated one is seen as such.
    taking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<u64, TransferInfo>,
    last_id: u64,
    /// Held while a transfer's files are written: a resumed one waits for what it was before.
    turns: HashMap<u64, Arc<tokio::sync::Mutex<()>>>,
    running: HashMap<u64, Running>,
    /// Piece lists of files on offer, made when somebody asks first.
    lists: HashMap<ContentAddress, Arc<PieceList>>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    more: mpsc::Sender<Uid>,
}

/// Most piece lists kept in memory (32 bytes per MiB of content each).
const LISTS_MAX: usize = 256;

impl Offers {
    pub(crate) fn open(state: Arc<State>) -> Result<Self, StateError> {
        let all: Vec<(Vec<u8>, TransferInfo)> = state.all(TRANSFERS)?;
        let all: BTreeMap<u64, TransferInfo> = all.into_iter().map(|(_, t)| (t.id, t)).collect();
        let last_id = all.last_key_value().map_or(0, |(id, _)| *id);
        let inner = Mutex::new(Inner { all, last_id, ..Inner::default() });
        Ok(Self { state, inner, turn: tokio::sync::Mutex::default(), taking: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: u64) -> Option<TransferInfo> {
        self.lock().all.get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<TransferInfo> {
        self.lock().all.values().cloned().collect()
    }

    fn next_id(&self) -> u64 {
        let mut inner = self.lock();
        inner.last_id += 1;
        inner.last_id
    }

    /// The right to write a transfer's files.
    fn files_turn(&self, id: u64) -> Arc<tokio::sync::Mutex<()>> {
        self.lock().turns.entry(id).or_default().clone()
    }

    /// Changes a transfer, on disk first. Progress noted meanwhile stays.
    async fn change(
        &self,
        id: u64,
        change: impl FnOnce(&mut TransferInfo),
    ) -> Result<Option<TransferInfo>, StateError> {
        let _turn = self.turn.lock().await;
        let Some(before) = self.get(id) else { return Ok(None) };
        let mut after = before.clone();
        change(&mut after);
        let copy = after.clone();
        state::blocking(&self.state, move |s| s.put(TRANSFERS, &copy.id.to_be_bytes(), &copy)).await?;
        let mut inner = self.lock();
        if let Some(now) = inner.all.get(&id) {
            if after.done_bytes == before.done_bytes {
                after.done_bytes = now.done_bytes;
            }
            (after.direct_bytes, after.relayed_bytes) = (now.direct_bytes, now.relayed_bytes);
            after.bytes_per_second =
                if after.state == TransferState::Active { now.bytes_per_second } else { 0 };
        }
        inner.all.insert(id, after.clone());
        Ok(Some(after))
    }

    /// Keeps a transfer, on disk first.
    async fn put(&self, info: TransferInfo) -> Result<(), StateError> {
        let copy = info.clone();
        state::blocking(&self.state, move |s| s.put(TRANSFERS, &copy.id.to_be_bytes(), &copy)).await?;
        let forget = {
            let mut inner = self.lock();
            inner.all.insert(info.id, info);
            let full = inner.all.len() > TRANSFERS_MAX;
            let oldest = inner.all.values().find(|t| t.state.ended()).map(|t| t.id);
            oldest.filter(|_| full).inspect(|id| {
                inner.all.remove(id);
            })
        };
        if let Some(id) = forget {
            state::blocking(&self.state, move |s| s.remove(TRANSFERS, &id.to_be_bytes())).await?;
        }
        Ok(())
    }

    /// Changes what is shown but not worth a write: progress.
    fn note(&self, id: u64, change: impl FnOnce(&mut TransferInfo)) -> Option<TransferInfo> {
        let mut inner = self.lock();
        let info = inner.all.get_mut(&id)?;
        change(info);
        Some(info.clone())
    }

    /// Stops everything that runs, for the end of the program or the background.
    pub(crate) fn stop_all(&self) {
        for (_, running) in self.lock().running.drain() {
            running.stop.cancel();
        }
    }
}

fn state_code(state: OfferState) -> u8 {
    match state {
        OfferState::Accepted => 0,
        OfferState::Done => 1,
        OfferState::Cancelled => 2,
    }
}

fn state_of_code(code: u8) -> OfferState {
    match code {
        0 => OfferState::Accepted,
        1 => OfferState::Done,
        _ => OfferState::Cancelled,
    }
}

impl Mesh {
    /// All transfers, oldest first.
    #[must_use]
    pub fn transfers(&self) -> Vec<TransferInfo> {
        self.offers().all()
    }

    /// One transfer.
    ///
    /// # Errors
    /// When there is none by that number.
    pub fn transfer(&self, id: u64) -> Result<TransferInfo, TransferError> {
        self.offers().get(id).ok_or(TransferError::Unknown(id))
    }

    /// Changes a transfer, keeps the change and tells everybody here.
    async fn change(
        &self,
        id: u64,
        change: impl FnOnce(&mut TransferInfo),
    ) -> Result<TransferInfo, TransferError> {
        let info = self.offers().change(id, change).await?.ok_or(TransferError::Unknown(id))?;
        self.emit(MeshEvent::Transfer(info.clone()));
        Ok(info)
    }

    /// Pauses a transfer; what is there stays.
    ///
    /// # Errors
    /// When it is not under way.
    pub async fn transfer_pause(&self, id: u64) -> Result<TransferInfo, TransferError> {
        let info = self.transfer(id)?;
        match info.state {
            TransferState::Active | TransferState::Offered if !info.incoming => {}
            TransferState::Active => {}
            state => return Err(TransferError::State { id, state }),
        }
        self.stop_transfer(id);
        self.change(id, |t| t.state = TransferState::Paused).await
    }

    /// Goes on with a paused or failed transfer.
    ///
    /// # Errors
    /// When it is neither.
    pub async fn transfer_resume(&self, id: u64) -> Result<TransferInfo, TransferError> {
        let info = self.transfer(id)?;
        if !matches!(info.state, TransferState::Paused | TransferState::Failed) {
            return Err(TransferError::State { id, state: info.state });
        }
        let info = self
            .change(id, |t| {
                t.state = TransferState::Active;
                t.error = None;
                if !t.incoming {
                    // Offered once more: whoever waits for it learns that it goes on.
                    t.untold =
                        t.with.iter().map(|(uid, _)| (*uid, state_code(OfferState::Accepted))).collect();
                }
            })
            .await?;
        if info.incoming {
            self.start_incoming(id);
        } else {
            info.with.iter().for_each(|(uid, _)| self.deliver_to(*uid));
        }
        Ok(info)
    }

    /// Ends a transfer; unfinished files of an incoming one are deleted, finished ones stay.
    ///
    /// # Errors
    /// When it has ended already.
    pub async fn transfer_cancel(&self, id: u64) -> Result<TransferInfo, TransferError> {
        let info = self.transfer(id)?;
        if info.state.ended() {
            return Err(TransferError::State { id, state: info.state });
        }
        self.stop_transfer(id);
        let with: Vec<Uid> = info.with.iter().map(|(uid, _)| *uid).collect();
        let info = self
            .change(id, |t| {
                t.state = TransferState::Cancelled;
                t.untold = with.iter().map(|uid| (*uid, state_code(OfferState::Cancelled))).collect();
            })
            .await?;
        self.discard_unfinished(&info);
        with.into_iter().for_each(|uid| self.deliver_to(uid));
        Ok(info)
    }

    /// Deletes what was received of unfinished files, once nobody writes there any more.
    fn discard_unfinished(&self, info: &TransferInfo) {
        if !info.incoming {
            return;
        }
        let (files, turn) = (info.files.clone(), self.offers().files_turn(info.id));
        self.spawn(async move {
            let _turn = turn.lock().await;
            let discard = move || {
                for file in files {
                    if let Some(path) = file.path {
                        super::partial::Partial::discard(&path, &file.address);
                    }
                }
            };
            // What cannot be deleted stays as a hidden file.
            let _ = tokio::task::spawn_blocking(discard).await;
        });
    }

    /// `uid` is no friend any more: nothing goes there or comes from there.
    pub(crate) async fn transfers_part(&self, uid: Uid) {
        for info in self.transfers() {
            if info.state.ended() || info.with.iter().all(|(u, _)| *u != uid) {
                continue;
            }
            let last = info.with.len() == 1;
            if last {
                self.stop_transfer(info.id);
            }
            let parted = self.change(info.id, |t| {
                t.untold.retain(|(u, _)| *u != uid);
                if last {
                    t.state = TransferState::Cancelled;
                    t.error = Some("the friendship ended".into());
                } else {
                    t.with.retain(|(u, _)| *u != uid);
                }
            });
            match parted.await {
                Ok(info) if last => self.discard_unfinished(&info),
                Ok(_) => {}
                Err(e) => self.warn(format!("a transfer's state could not be kept: {e}")),
            }
        }
    }

    fn stop_transfer(&self, id: u64) {
        if let Some(running) = self.offers().lock().running.remove(&id) {
            running.stop.cancel();
        }
    }
}
