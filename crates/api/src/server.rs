//! The node's side of the socket.
//!
//! Every client has one task. It reads one request, runs the handler's future beside a writer
//! that sends the updates, and watches the connection: when the client closes it (also only its
//! sending half), the handler's future is dropped where it stands.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    ApiError, ErrorCode, Reply, Request, Update,
    line::{self, Line},
};

/// Most clients at a time: many terminals and scripts, but no runaway loop that takes the memory.
const CLIENTS_MAX: usize = 64;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Updates that wait for a slow client before [`Sink::update`] waits too.
const UPDATES_QUEUED: usize = 64;

/// How long running requests may go on when the node stops, among them the one that stops it.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// When the node stops, how long answers may take to get through to the clients.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a failed accept (such as too many open files), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers requests: the node.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client is gone, so what must go on
    /// without the client belongs into a task of the node.
    fn handle(
        &self,
        request: Request,
        sink: Sink,
    ) -> impl Future<Output = Result<serde_json::Value, ApiError>> + Send;
}

/// Takes updates to the client of one request.
#[derive(Clone, Debug)]
pub struct Sink(mpsc::Sender<Reply>);

/// The client is gone, or its request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client of the local API is gone")]
pub struct SinkClosed;

impl Sink {
    /// Sends an update; waits while the client is behind.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub async fn update(&self, update: Update) -> Result<(), SinkClosed> {
        self.0.send(Reply::Update(update)).await.map_err(|_| SinkClosed)
    }

    /// Resolves when nobody reads any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Serves the API on a socket at `path` until `shutdown` resolves; then running requests get a
/// short grace, and the socket file is removed.
///
/// The folder of `path` should be the owner's alone (mode 0700); the socket gets mode 0600, and
/// clients that run as another user than this process or root are cut off.
///
/// # Errors
/// When the socket cannot be bound: the path is too long, another node serves there, the folder
/// cannot be written.
pub async fn serve<H: Handler>(
    path: &Path,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = bind(path).await?;
    let (stop, stopping) = watch::channel(false);
    let mut clients = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            // Ended clients are taken out as they end; a panic in one stays with that one.
            Some(_) = clients.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if !may_enter(&stream) => drop(stream),
                Ok((stream, _)) if clients.len() >= CLIENTS_MAX => turn_away(&stream),
                Ok((stream, _)) => {
                    let (handler, stopping) = (handler.clone(), stopping.clone());
                    clients.spawn(async move { serve_client(stream, &*handler, stopping).await });
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let removed = fs::remove_file(path);
    let _ = stop.send(true);
    let all_ended = async { while clients.join_next().await.is_some() {} };
    if timeout(STOP_GRACE + FLUSH_TIMEOUT, all_ended).await.is_err() {
        clients.shutdown().await;
    }
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

async fn bind(path: &Path) -> io::Result<UnixListener> {
    line::check_socket_path(path)?;
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
        Ok(meta) if !meta.file_type().is_socket() => {
            let text = format!("{} exists and is no socket: move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        // Left over from a killed node when nobody answers.
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => {
                let text = format!("another node already serves {}", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(e) => return Err(e),
        },
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Only the owner of this process and root; for folders whose mode somebody loosened.
fn may_enter(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|c| c.uid() == 0 || c.uid() == rustix::process::geteuid().as_raw())
}

/// Says so when there is room in the socket's buffer, which there is on a new connection.
fn turn_away(stream: &UnixStream) {
    let error = ApiError::new(ErrorCode::Refused, "too many clients use this node's local socket");
    if let Ok(bytes) = line::encode(&Reply::Failed(error)) {
        let _ = stream.try_write(&bytes);
    }
}

async fn serve_client<H: Handler>(
    mut stream: UnixStream,
    handler: &H,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut begun = Vec::new();
    let came = tokio::select! {
        came = timeout(REQUEST_TIMEOUT, line::read(&mut reader, &mut begun)) => came,
        _ = stopping.wait_for(|stop| *stop) => return Ok(()),
    };
    let request = match came {
        Err(_) => Err("no request came in time".to_owned()),
        Ok(Err(e)) => return Err(e),
        Ok(Ok(Line::End)) => return Ok(()),
        Ok(Ok(Line::TooLong)) => Err(format!("the request is longer than {} bytes", crate::LINE_MAX_BYTES)),
        Ok(Ok(Line::Whole(bytes))) => {
            serde_json::from_slice::<Request>(&bytes).map_err(|e| format!("the request makes no sense: {e}"))
        }
    };
    let request = match request {
        Ok(request) => request,
        Err(why) => {
            let failed = Reply::Failed(ApiError::new(ErrorCode::BadRequest, why));
            return line::write(&mut writer, &line::encode(&failed)?).await;
        }
    };
    let (replies, queue) = mpsc::channel(UPDATES_QUEUED);
    let work = async {
        let sink = Sink(replies.clone());
        let result = tokio::select! {
            biased;
            result = handler.handle(request, sink) => result,
            () = stopped(&mut stopping) => {
                Err(ApiError::new(ErrorCode::Unreachable, "the node is stopping"))
            }
        };
        let _ = replies.send(result.map_or_else(Reply::Failed, Reply::Done)).await;
    };
    let answer = async { tokio::join!(work, send_replies(&mut writer, queue)).1 };
    tokio::select! {
        sent = answer => sent,
        () = client_gone(&mut reader) => Ok(()),
    }
}

/// Resolves [`STOP_GRACE`] after the node began to stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that `serve` itself was dropped, which stops us as well.
    let _ = stopping.wait_for(|stop| *stop).await;
    sleep(STOP_GRACE).await;
}

/// Sends replies up to and with the final one. Returning closes the queue, and so every sink.
async fn send_replies<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut queue: mpsc::Receiver<Reply>,
) -> io::Result<()> {
    while let Some(reply) = queue.recv().await {
        let last = !matches!(reply, Reply::Update(_));
        let bytes = line::encode(&reply)
            .or_else(|e| line::encode(&Reply::Failed(ApiError::new(ErrorCode::Internal, e.to_string()))))?;
        line::write(writer, &bytes).await?;
        if last {
            break;
        }
    }
    Ok(())
}

/// Resolves when the client closed its side. What it sends after its request is ignored.
async fn client_gone<R: AsyncRead + Unpin>(reader: &mut R) {
    let mut ignored = [0; 512];
    while reader.read(&mut ignored).await.is_ok_and(|n| n > 0) {}
}
