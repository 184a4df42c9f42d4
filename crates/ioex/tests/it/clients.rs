//! Client commands against a stand-in for the node: what they ask, print, and exit with.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ioex_api::{
    ApiError, BackupProgress, BackupStep, Client, ErrorCode, Friend, FriendList, FriendState, Handler,
    PairCode, Pong, Request, RestoreDone, SOCKET_NAME, Sink, Update, serve,
};
use ioex_base::{ContentAddress, Uid, UnixSeconds};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{ioex, json_error, stderr, stdout};

/// Answers a few requests and remembers all of them.
#[derive(Default)]
struct StandIn {
    asked: Mutex<Vec<Request>>,
}

fn friend(byte: u8, label: &str) -> Friend {
    Friend {
        uid: Uid::from_bytes([byte; 32]),
        name: "\u{1b}[31mred".to_owned(),
        label: label.to_owned(),
        state: FriendState::Friend,
        greeting: String::new(),
        online: true,
        path: ioex_api::Path::None,
        last_seen: None,
    }
}

impl Handler for StandIn {
    async fn handle(&self, request: Request, sink: Sink) -> Result<Value, ApiError> {
        self.asked.lock().unwrap().push(request.clone());
        match request {
            Request::FriendList => {
                let friends = vec![friend(1, "home"), friend(2, "twin"), friend(3, "twin")];
                Ok(json!(FriendList { friends }))
            }
            Request::Ping { uid, .. } => {
                let address = "10.0.0.1:5".parse().unwrap();
                let silent = uid == Uid::from_bytes([9; 32]);
                for (seq, path) in [
                    (1, ioex_api::Path::Relayed { bootstrap: Uid::from_bytes([4; 32]) }),
                    (2, ioex_api::Path::Direct { address }),
                ] {
                    let rtt_ms = (!silent).then_some(1.5);
                    let _ = sink.update(Update::Pong(Pong { seq, rtt_ms, path })).await;
                }
                Ok(json!({}))
            }
            Request::PairShow { .. } => Ok(json!(PairCode {
                code: "123-456".to_owned(),
                link: "ioex:pair?uid=x&code=123-456".to_owned(),
                expires: UnixSeconds(u64::MAX),
            })),
            Request::BackupGet { out, .. } => {
                let progress = |done_bytes| BackupProgress {
                    step: BackupStep::Fetch,
                    done_bytes,
                    total_bytes: 10,
                    note: None,
                    holder: None,
                };
                for done in [1, 10] {
                    let _ = sink.update(Update::Backup(progress(done))).await;
                }
                Ok(json!(RestoreDone {
                    path: out,
                    bytes: 10,
                    address: ContentAddress::of(b""),
                    holders: Vec::new(),
                    failed: Vec::new(),
                    direct_bytes: 10,
                    relayed_bytes: 0,
                    seconds: 0.1,
                }))
            }
            Request::FriendRemove { .. } | Request::MessageSend { .. } | Request::FriendLabel { .. } => {
                Ok(json!({}))
            }
            _ => Err(ApiError::new(ErrorCode::NotJoined, "not yet")),
        }
    }
}

/// A stand-in that serves in a folder as long as the value lives.
struct Served {
    folder: tempfile::TempDir,
    node: Arc<StandIn>,
    _runtime: Runtime,
}

impl Served {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let node = Arc::new(StandIn::default());
        let (path, handler) = (folder.path().join(SOCKET_NAME), node.clone());
        let serving = runtime.spawn(async move { serve(&path, handler, std::future::pending::<()>()).await });
        let deadline = Instant::now() + Duration::from_secs(10);
        while runtime.block_on(Client::connect(folder.path())).is_err() {
            assert!(Instant::now() < deadline && !serving.is_finished());
            std::thread::yield_now();
        }
        Self { folder, node, _runtime: runtime }
    }

    fn home(&self) -> &Path {
        self.folder.path()
    }

    fn ioex(&self, args: &[&str]) -> std::process::Output {
        let data = self.home().display().to_string();
        ioex(self.home(), &[args, &["--data", &data]].concat())
    }

    fn last(&self) -> Request {
        self.node.asked.lock().unwrap().last().unwrap().clone()
    }
}

fn lines(output: &std::process::Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_label_stands_for_its_friend_if_there_is_one_only() {
    let node = Served::start();
    assert!(node.ioex(&["friend", "remove", "home"]).status.success());
    assert!(matches!(node.last(), Request::FriendRemove { uid } if uid == Uid::from_bytes([1; 32])));
    let output = node.ioex(&["friend", "remove", "twin"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("several friends"));
    assert!(matches!(node.last(), Request::FriendList));
}

#[test]
fn a_mistyped_recipient_of_a_message_is_left_to_the_node() {
    let node = Served::start();
    let _ = node.ioex(&["message", "send", "nobody", "hello"]);
    assert!(matches!(node.last(), Request::MessageSend { to, wait_seconds: 0, .. } if to == "nobody"));
}

#[test]
fn every_ping_says_which_path_it_took() {
    let node = Served::start();
    let output = node.ioex(&["ping", "home"]);
    let text = stdout(&output);
    assert!(text.contains("reply 1: 1.50 ms, relayed by ") && text.contains("direct 10.0.0.1:5"), "{text}");
    let json = lines(&node.ioex(&["ping", "home", "--json"]));
    assert_eq!(json.len(), 3);
    assert_eq!((&json[0]["type"], &json[0]["value"]["kind"]), (&json!("update"), &json!("pong")));
    assert_eq!(json[1]["value"]["value"]["path"]["type"], "direct");
    assert_eq!(json[2], json!({ "type": "done", "value": {} }));
}

#[test]
fn a_ping_without_any_answer_fails_as_unreachable() {
    let node = Served::start();
    let silent = Uid::from_bytes([9; 32]).to_string();
    assert_eq!(node.ioex(&["ping", &silent]).status.code(), Some(18));
}

#[test]
fn failures_have_their_own_exit_code_and_object() {
    let node = Served::start();
    let (code, kind, message) = json_error(&node.ioex(&["netcheck", "--json"]));
    assert_eq!((code, kind.as_str(), message.as_str()), (Some(15), "not-joined", "not yet"));
    let output = node.ioex(&["netcheck"]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(15), "error: not yet\n"));
}

#[test]
fn names_from_others_do_not_reach_the_terminal_raw() {
    let node = Served::start();
    let text = stdout(&node.ioex(&["friend", "list"]));
    assert!(text.contains("red") && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_pairing_code_is_shown_as_text_and_picture() {
    let node = Served::start();
    let text = stdout(&node.ioex(&["pair", "show", "--minutes", "2"]));
    assert!(text.contains("Code: 123-456") && text.contains('█'), "{text}");
    assert!(matches!(node.last(), Request::PairShow { ttl_seconds: 120 }));
}

#[test]
fn a_restore_reports_steps_and_absolute_paths_go_to_the_node() {
    let node = Served::start();
    let json = lines(&node.ioex(&["backup", "get", "m", "out", "--rate-limit", "1MB", "--json"]));
    let kinds: Vec<_> = json.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["update", "update", "done"]);
    let Request::BackupGet { manifest, out, rate_limit } = node.last() else { panic!() };
    assert_eq!((manifest, out), (node.home().join("m"), node.home().join("out")));
    assert_eq!(rate_limit, 1_000_000);
    let output = node.ioex(&["backup", "get", "m", "out"]);
    assert!(stdout(&output).contains("(verified)"));
    assert!(stderr(&output).contains("fetch: 10 B"), "{}", stderr(&output));
}

#[test]
fn a_path_that_is_no_text_is_a_usage_error_and_says_what_helps() {
    let node = Served::start();
    let path = std::ffi::OsStr::from_bytes(b"dir\xff");
    let mut command = std::process::Command::new(crate::program());
    let output =
        command.args(["backup", "create"]).arg(path).arg("--data").arg(node.home()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("name a folder above it"), "{}", stderr(&output));
    assert!(node.node.asked.lock().unwrap().is_empty(), "the node was not asked");
}
