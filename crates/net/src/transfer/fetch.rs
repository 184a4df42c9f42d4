//! The fetching side: runs a [`Plan`] over connections into a [`Partial`].

use std::{ops::Range, sync::Arc, time::Duration};

use ioex_base::{ContentAddress, SignedGrant, Uid};
use iroh::endpoint::{Connection, RecvStream};
use tokio::{
    io::AsyncReadExt,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    partial::{Partial, PartialError},
    pieces::{CONTENT_MAX_BYTES, PieceError, PieceList, piece_bytes, piece_count},
    plan::{Plan, Request},
};
use crate::{
    clock,
    door::Door,
    frame,
    links::{CLOSE_DONE, LinkError, Links, PathKind, broken, path_of, window_for},
    proto::{ANSWER_MAX_BYTES, Answer, Content, Fetch, No, Open, ShardHead, Want},
};

/// A provider that sends nothing for so long has failed.
const STALL: Duration = Duration::from_secs(10);
/// A provider that gives no turn for so long has forgotten the question.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes verified and written at a time.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Why content did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The provider cannot be reached or broke off.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The provider said no.
    #[error("the provider refused: {0}")]
    No(#[from] No),
    /// The provider sent something else than asked.
    #[error("the provider sent wrong bytes")]
    WrongBytes,
    /// The piece list is wrong.
    #[error("the provider sent a wrong piece list: {0}")]
    Pieces(#[from] PieceError),
    /// The file on this side cannot be written.
    #[error(transparent)]
    Partial(#[from] PartialError),
    /// No provider is left.
    #[error("no provider is left")]
    NoProviders,
    /// Stopped by the owner.
    #[error("stopped")]
    Stopped,
}

/// By which right content is read.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// A friend offered it.
    Offered,
    /// A fetch grant.
    Granted(SignedGrant),
}

impl Access {
    fn door(&self) -> Door {
        match self {
            Self::Offered => Door::Friend,
            Self::Granted(_) => Door::Grant,
        }
    }

    fn open(&self, fetch: Fetch) -> Open {
        match self {
            Self::Offered => Open::FetchOffered(fetch),
            Self::Granted(grant) => Open::Fetch(grant.clone(), fetch),
        }
    }
}

/// Waits for a step of a stream, but not forever.
async fn within<T, E>(conn: &Connection, step: impl Future<Output = Result<T, E>>) -> Result<T, FetchError>
where
    E: Into<frame::FrameError>,
{
    match tokio::time::timeout(STALL, step).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(broken(conn, e.into()).into()),
        Err(_) => Err(LinkError::Timeout.into()),
    }
}

async fn begin(
    links: &Links,
    from: Uid,
    access: &Access,
    fetch: Fetch,
) -> Result<(Connection, RecvStream, Content), FetchError> {
    begin_with(links, from, access.door(), &access.open(fetch)).await
}

async fn begin_with(
    links: &Links,
    from: Uid,
    door: Door,
    open: &Open,
) -> Result<(Connection, RecvStream, Content), FetchError> {
    let (conn, mut send, mut recv) = links.open(from, door, open).await?;
    // Our half says nothing more; a failed finish shows in the read.
    let _ = send.finish();
    let answer: Answer<Content> = within(&conn, frame::read(&mut recv, ANSWER_MAX_BYTES)).await?;
    match answer {
        Answer::Yes(content) => Ok((conn, recv, content)),
        Answer::No(no) => Err(no.into()),
    }
}

/// Asks one provider for the piece list of a content of `size` bytes.
pub(crate) async fn piece_list(
    links: &Links,
    from: Uid,
    access: &Access,
    address: ContentAddress,
    size: u64,
) -> Result<PieceList, FetchError> {
    if size > CONTENT_MAX_BYTES {
        return Err(PieceError::Size(size).into());
    }
    let want = piece_count(size) * 32;
    let (conn, mut recv, content) = begin(links, from, access, Fetch { address, want: Want::Pieces }).await?;
    if content.size != size || content.follows != want {
        return Err(FetchError::WrongBytes);
    }
    let mut bytes = vec![0; usize::try_from(want).map_err(|_| FetchError::WrongBytes)?];
    within(&conn, recv.read_exact(&mut bytes).map_read()).await?;
    Ok(PieceList::verified(&address, size, &bytes)?)
}

/// Reads `len` bytes of a stream into memory, which grows with what comes.
async fn bytes_of(
    conn: &Connection,
    recv: RecvStream,
    len: u64,
    mut came: impl FnMut(u64),
) -> Result<Vec<u8>, FetchError> {
    tune(conn);
    let mut bytes = Vec::new();
    let mut recv = recv.take(len);
    while (bytes.len() as u64) < len {
        let read = recv.read_buf(&mut bytes);
        let n = within(conn, read).await?;
        if n == 0 {
            return Err(LinkError::Broken("the stream ended early".into()).into());
        }
        came(n as u64);
    }
    Ok(bytes)
}

/// Reads part of a content of `size` bytes, of at most a shard's size, into memory.
pub(crate) async fn part(
    links: &Links,
    from: Uid,
    access: &Access,
    address: ContentAddress,
    size: u64,
    range: Range<u64>,
) -> Result<(Vec<u8>, PathKind), FetchError> {
    let len = range.end.saturating_sub(range.start);
    let want = Want::Range { start: range.start, len };
    let (conn, recv, content) = begin(links, from, access, Fetch { address, want }).await?;
    if content.size != size || content.follows != len {
        return Err(FetchError::WrongBytes);
    }
    let bytes = bytes_of(&conn, recv, len, |_| ()).await?;
    Ok((bytes, path_of(&conn).0))
}

/// Reads a whole content of at most a shard's size into memory and verifies it.
pub(crate) async fn whole(
    links: &Links,
    from: Uid,
    access: &Access,
    address: ContentAddress,
    size: u64,
) -> Result<(Vec<u8>, PathKind), FetchError> {
    let (bytes, path) = part(links, from, access, address, size, 0..size).await?;
    let checked =
        tokio::task::spawn_blocking(move || (ContentAddress::of(&bytes) == address).then_some(bytes));
    match checked.await {
        Ok(Some(bytes)) => Ok((bytes, path)),
        Ok(None) => Err(FetchError::WrongBytes),
        Err(e) => Err(LinkError::Broken(e.to_string()).into()),
    }
}

/// Reads all of a content whose length only the provider knows, at most `max` bytes, into memory.
pub(crate) async fn all(
    links: &Links,
    from: Uid,
    access: &Access,
    address: ContentAddress,
    max: u64,
) -> Result<Vec<u8>, FetchError> {
    all_of(links, from, access.door(), &access.open(Fetch { address, want: Want::All }), max).await
}

/// The same, whatever was asked for.
pub(crate) async fn all_of(
    links: &Links,
    from: Uid,
    door: Door,
    open: &Open,
    max: u64,
) -> Result<Vec<u8>, FetchError> {
    let (conn, recv, content) = begin_with(links, from, door, open).await?;
    if content.size > max || content.follows != content.size {
        return Err(FetchError::WrongBytes);
    }
    bytes_of(&conn, recv, content.size, |_| ()).await
}

/// Reads the answer to a question for a shard of at most `max` bytes; see
/// [`Mesh::exchange_shard`](crate::Mesh::exchange_shard).
pub(crate) async fn shard(
    conn: &Connection,
    mut recv: RecvStream,
    max: u32,
    begun: impl FnOnce(ShardHead) -> bool,
    came: impl FnMut(u64),
) -> Result<(ShardHead, Vec<u8>, PathKind), FetchError> {
    // A turn may take its time; the provider says no when there is none.
    let answer = tokio::time::timeout(TURN_TIMEOUT, frame::read(&mut recv, ANSWER_MAX_BYTES)).await;
    let answer: Answer<ShardHead> = match answer {
        Ok(answer) => answer.map_err(|e| broken(conn, e))?,
        Err(_) => return Err(LinkError::Timeout.into()),
    };
    let head = match answer {
        Answer::Yes(head) if head.bytes <= max => head,
        Answer::Yes(_) => return Err(FetchError::WrongBytes),
        Answer::No(no) => return Err(no.into()),
    };
    if !begun(head) {
        return Err(FetchError::Stopped);
    }
    let bytes = bytes_of(conn, recv, u64::from(head.bytes), came).await?;
    Ok((head, bytes, path_of(conn).0))
}

/// Fits the receive window to the path.
fn tune(conn: &Connection) {
    if let (_, Some(rtt)) = path_of(conn) {
        conn.set_receive_window(window_for(rtt).into());
    }
}

/// `read_exact` of the stream type has an error of its own.
trait MapRead {
    fn map_read(self) -> impl Future<Output = Result<(), frame::FrameError>>;
}

impl<F: Future<Output = Result<(), iroh::endpoint::ReadExactError>>> MapRead for F {
    async fn map_read(self) -> Result<(), frame::FrameError> {
        self.await.map_err(|e| frame::FrameError::Io(std::io::Error::other(e)))
    }
}

/// What a running download reports.
#[derive(Debug)]
pub(crate) enum Progress {
    /// A piece of so many bytes is there, over this kind of path.
    Piece { bytes: u64, relayed: bool },
    /// So many bytes were there before.
    Had(u64),
    /// A provider was given up, and why.
    Gone { uid: Uid, why: String },
}

enum Step {
    Piece { piece: u64, relayed: bool },
    Ended { request: Request, result: Result<u64, FetchError> },
}

/// One download.
pub(crate) struct Download {
    pub(crate) links: Arc<Links>,
    pub(crate) access: Access,
    pub(crate) address: ContentAddress,
    pub(crate) partial: Arc<Partial>,
}

impl Download {
    /// Runs until everything is there, nobody is left to ask, or `stop`. More providers can come
    /// in on the way through `more`.
    pub(crate) async fn run(
        &self,
        providers: &[Uid],
        more: &mut mpsc::Receiver<Uid>,
        progress: &mpsc::Sender<Progress>,
        stop: &CancellationToken,
    ) -> Result<(), FetchError> {
        let list = self.partial.list();
        let mut plan = Plan::new(piece_bytes(list.size()), self.partial.missing());
        providers.iter().for_each(|p| plan.add(*p));
        let mut running = JoinSet::new();
        let mut handles: std::collections::HashMap<u64, AbortHandle> = std::collections::HashMap::new();
        let (steps, mut incoming) = mpsc::channel(64);
        let mut more_open = true;
        while !plan.complete() {
            while let Some(request) = plan.next(clock::monotonic_ms()) {
                let id = request.id;
                handles.insert(id, running.spawn(self.request(request, steps.clone())));
            }
            if running.is_empty() && incoming.is_empty() && !plan.has_providers() {
                return Err(FetchError::NoProviders);
            }
            let wake = plan.next_wake_ms(clock::monotonic_ms());
            let nap = async {
                match wake {
                    Some(at) => {
                        let ms = at.saturating_sub(clock::monotonic_ms()) + 1;
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Err(FetchError::Stopped),
                // The sender half lives in this function, so there is always a next step or a wait.
                Some(step) = incoming.recv() => match step {
                    Step::Piece { piece, relayed } => {
                        if plan.wants(piece) {
                            let bytes = list.range(piece).1;
                            let _ = progress.send(Progress::Piece { bytes, relayed }).await;
                        }
                        for id in plan.arrived(piece) {
                            plan.dropped(id);
                            if let Some(handle) = handles.remove(&id) {
                                handle.abort();
                            }
                        }
                    }
                    Step::Ended { request, result } => {
                        handles.remove(&request.id);
                        self.ended(&mut plan, &request, result, progress).await?;
                    }
                },
                Some(_) = running.join_next() => {}
                uid = more.recv(), if more_open => match uid {
                    Some(uid) => plan.add(uid),
                    None => more_open = false,
                },
                () = nap => {}
            }
        }
        Ok(())
    }

    async fn ended(
        &self,
        plan: &mut Plan,
        request: &Request,
        result: Result<u64, FetchError>,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<(), FetchError> {
        let now = clock::monotonic_ms();
        match result {
            Ok(bytes) => plan.finished(request.id, bytes, now),
            Err(FetchError::Partial(e)) => return Err(e.into()),
            Err(e) => {
                tracing::debug!("{} failed to provide: {e}", request.provider.short());
                // A connection that stays silent may lead over a relay that is gone; the next
                // request looks for the provider anew.
                if matches!(e, FetchError::Link(LinkError::Timeout)) {
                    self.links.close(&request.provider, self.access.door(), CLOSE_DONE);
                }
                let gone = plan.failed(request.id, now);
                let never = matches!(e, FetchError::WrongBytes | FetchError::No(_));
                if never {
                    plan.ban(&request.provider);
                }
                if gone || never {
                    let gone = Progress::Gone { uid: request.provider, why: e.to_string() };
                    let _ = progress.send(gone).await;
                }
            }
        }
        Ok(())
    }

    /// Fetches consecutive pieces from one provider.
    fn request(
        &self,
        request: Request,
        steps: mpsc::Sender<Step>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (links, access, address, partial) =
            (self.links.clone(), self.access.clone(), self.address, self.partial.clone());
        async move {
            let result = pull(&links, &access, address, &partial, &request, &steps).await;
            let _ = steps.send(Step::Ended { request, result }).await;
        }
    }
}

async fn pull(
    links: &Links,
    access: &Access,
    address: ContentAddress,
    partial: &Arc<Partial>,
    request: &Request,
    steps: &mpsc::Sender<Step>,
) -> Result<u64, FetchError> {
    let list = partial.list();
    let (start, _) = list.range(request.first);
    let (last_start, last_len) = list.range(request.first + request.count - 1);
    let len = last_start + last_len - start;
    let fetch = Fetch { address, want: Want::Range { start, len } };
    let (conn, mut recv, content) = begin(links, request.provider, access, fetch).await?;
    if content.follows != len {
        return Err(FetchError::WrongBytes);
    }
    tune(&conn);
    let mut buffer = Vec::new();
    for piece in request.first..request.first + request.count {
        let (mut at, len) = list.range(piece);
        let end = at + len;
        let mut verifier = list.verifier(piece);
        while at < end {
            let want = usize::try_from((end - at).min(BLOCK_BYTES as u64)).unwrap_or(BLOCK_BYTES);
            buffer.resize(want, 0);
            within(&conn, recv.read_exact(&mut buffer).map_read()).await?;
            let partial = partial.clone();
            let mut block = std::mem::take(&mut buffer);
            let work = tokio::task::spawn_blocking(move || {
                verifier.update(&block);
                partial.write_at(&block, at).map(|()| {
                    block.clear();
                    (block, verifier)
                })
            });
            (buffer, verifier) = work.await.map_err(|e| LinkError::Broken(e.to_string()))??;
            at += want as u64;
        }
        if !verifier.holds() {
            return Err(FetchError::WrongBytes);
        }
        let keep = partial.clone();
        tokio::task::spawn_blocking(move || keep.mark(piece))
            .await
            .map_err(|e| LinkError::Broken(e.to_string()))??;
        let relayed = matches!(path_of(&conn).0, PathKind::Relayed(_));
        let _ = steps.send(Step::Piece { piece, relayed }).await;
    }
    Ok(len)
}
