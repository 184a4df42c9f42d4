//! The local API over a real socket, with a handler of our own behind it.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ioex_api::{
    ApiError, Client, ClientError, Empty, ErrorCode, FriendList, Handler, LINE_MAX_BYTES, Pong, Reply,
    Request, SOCKET_NAME, Sink, Update, serve,
};
use ioex_base::Uid;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{Notify, watch},
    task::JoinHandle,
};

/// Answers as each test needs it.
#[derive(Default)]
struct Node {
    stop: Notify,
    /// Told when the future of an endless request was dropped.
    dropped: Arc<Notify>,
    /// Told when an endless request began.
    began: Notify,
}

struct OnDrop(Arc<Notify>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Handler for Node {
    async fn handle(&self, request: Request, sink: Sink) -> Result<Value, ApiError> {
        match request {
            Request::FriendList => Ok(json!(FriendList::default())),
            Request::Ping { count, .. } => {
                for seq in 1..=count {
                    let pong = Pong { seq, rtt_ms: Some(0.5), path: ioex_api::Path::None };
                    if sink.update(Update::Pong(pong)).await.is_err() {
                        break;
                    }
                }
                Ok(json!(Empty {}))
            }
            Request::Events => {
                let _guard = OnDrop(self.dropped.clone());
                self.began.notify_one();
                std::future::pending().await
            }
            Request::Shutdown => {
                self.stop.notify_one();
                Ok(json!(Empty {}))
            }
            // Longer than any line may be.
            Request::DeviceShards { .. } => Ok(json!("x".repeat(LINE_MAX_BYTES))),
            other => Err(ApiError::new(ErrorCode::NotAllowed, format!("not here: {other:?}"))),
        }
    }
}

struct Running {
    folder: tempfile::TempDir,
    node: Arc<Node>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder).await
    }

    async fn start_in(folder: tempfile::TempDir) -> Self {
        let node = Arc::new(Node::default());
        let (path, handler) = (folder.path().join(SOCKET_NAME), node.clone());
        let stop = node.clone();
        let serving = tokio::spawn(async move { serve(&path, handler, stop.stop.notified()).await });
        let deadline = Instant::now() + Duration::from_secs(10);
        while Client::connect(folder.path()).await.is_err() {
            assert!(Instant::now() < deadline && !serving.is_finished(), "the server does not come up");
            tokio::task::yield_now().await;
        }
        Self { folder, node, serving }
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }

    async fn client(&self) -> Client {
        Client::connect(self.data()).await.unwrap()
    }

    /// Sends raw bytes and reads the one reply.
    async fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = UnixStream::connect(self.data().join(SOCKET_NAME)).await.unwrap();
        // The node may refuse before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn code(reply: &Reply) -> Option<ErrorCode> {
    match reply {
        Reply::Failed(error) => Some(error.code),
        _ => None,
    }
}

fn ping(count: u32) -> Request {
    Request::Ping { uid: Uid::from_bytes([1; 32]), count, interval_ms: 0 }
}

#[tokio::test]
async fn a_call_brings_its_value_or_its_error() {
    let node = Running::start().await;
    let client = node.client().await;
    assert_eq!(client.call::<FriendList>(Request::FriendList).await.unwrap(), FriendList::default());
    let error = client.call::<Empty>(Request::Netcheck).await.unwrap_err();
    assert!(matches!(error, ClientError::Api(e) if e.code == ErrorCode::NotAllowed));
}

#[tokio::test]
async fn updates_come_in_order_and_before_the_end() {
    const COUNT: u32 = 1_000;
    let node = Running::start().await;
    let mut updates = node.client().await.stream(ping(COUNT)).await.unwrap();
    let mut seen = 0;
    while let Some(update) = updates.next().await.unwrap() {
        let Update::Pong(pong) = update else { panic!("{update:?}") };
        seen += 1;
        assert_eq!(pong.seq, seen);
    }
    assert_eq!(seen, COUNT);
    updates.finish::<Empty>().await.unwrap();
    node.client().await.call::<Empty>(ping(3)).await.unwrap();
}

#[tokio::test]
async fn hostile_lines_are_refused_and_do_not_stop_the_node() {
    let node = Running::start().await;
    for line in [&b"hello\n"[..], b"{}\n", b"\n", b"\xff\xfe\n", b"{\"method\":\"rob\"}\n", b"[[[[[[\n"] {
        assert_eq!(code(&node.raw(line).await), Some(ErrorCode::BadRequest), "{line:?}");
    }
    let deep = [b"[".repeat(100_000), b"\n".to_vec()].concat();
    assert_eq!(code(&node.raw(&deep).await), Some(ErrorCode::BadRequest));
    let long = vec![b' '; LINE_MAX_BYTES + 2];
    assert_eq!(code(&node.raw(&long).await), Some(ErrorCode::BadRequest));
    node.client().await.call::<FriendList>(Request::FriendList).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_too_long_becomes_an_error() {
    let node = Running::start().await;
    let error = node.client().await.call::<Value>(Request::DeviceShards { after: None }).await.unwrap_err();
    assert!(matches!(error, ClientError::Api(e) if e.code == ErrorCode::Internal));
}

#[tokio::test]
async fn only_the_owner_may_open_the_socket() {
    let node = Running::start().await;
    let mode = std::fs::metadata(node.data().join(SOCKET_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let node = Running::start().await;
    let updates = node.client().await.stream(Request::Events).await.unwrap();
    node.node.began.notified().await;
    drop(updates);
    tokio::time::timeout(Duration::from_secs(10), node.node.dropped.notified()).await.unwrap();
}

#[tokio::test]
async fn an_update_that_was_waited_for_in_vain_is_not_lost() {
    let (release, mut released) = watch::channel(false);
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap();
    let slow = tokio::spawn(async move {
        // The connection that `connect` tries, then the request's.
        let _ = listener.accept().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut line = serde_json::to_vec(&Reply::Done(json!(Empty {}))).unwrap();
        line.push(b'\n');
        let (first, rest) = line.split_at(5);
        stream.write_all(first).await.unwrap();
        released.wait_for(|r| *r).await.unwrap();
        stream.write_all(rest).await.unwrap();
        let _ = stream.read(&mut [0; 64]).await;
    });
    let client = Client::connect(folder.path()).await.unwrap();
    let mut updates = client.stream(Request::FriendList).await.unwrap();
    for _ in 0..3 {
        let waited = tokio::time::timeout(Duration::from_millis(20), updates.next()).await;
        assert!(waited.is_err());
    }
    release.send(true).unwrap();
    updates.finish::<Empty>().await.unwrap();
    slow.abort();
}

#[tokio::test]
async fn stopping_answers_the_stopper_and_ends_the_others() {
    let node = Running::start().await;
    let events = node.client().await.stream(Request::Events).await.unwrap();
    node.node.began.notified().await;
    node.client().await.call::<Empty>(Request::Shutdown).await.unwrap();
    let error = events.finish::<Empty>().await.unwrap_err();
    assert!(matches!(error, ClientError::Api(_)), "{error}");
    node.serving.await.unwrap().unwrap();
    assert!(!node.folder.path().join(SOCKET_NAME).exists());
}

#[tokio::test]
async fn a_socket_left_by_a_killed_node_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SOCKET_NAME);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let node = Running::start_in(folder).await;
    let second = serve(&path, node.node.clone(), std::future::pending()).await.unwrap_err();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SOCKET_NAME);
    std::fs::write(&path, "mine").unwrap();
    assert!(serve(&path, Arc::new(Node::default()), std::future::pending()).await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[tokio::test]
async fn without_a_node_the_error_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::connect(folder.path()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }));
    assert!(error.to_string().contains("ioex node --data"), "{error}");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_named() {
    let long = Path::new("/tmp").join("x".repeat(120));
    let error = Client::connect(&long).await.unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("shorter path"), "{why}");
}
