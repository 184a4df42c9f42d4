//! Exit codes: what a script can tell apart without reading text.

use std::{fmt::Write as _, io, process::ExitCode};

use ioex_api::{ClientError, ErrorCode};
use serde_json::{Value, json};

/// All went well.
pub const OK: u8 = 0;
/// Failed in a way that has no code of its own.
pub const FAILED: u8 = 1;
/// The command line or the configuration file makes no sense.
pub const USAGE: u8 = 2;
/// No node runs in the data folder, or it ended meanwhile.
pub const NO_NODE: u8 = 3;
/// Done, but not with everything: files were left out, or parts cannot be read.
pub const INCOMPLETE: u8 = 4;
/// Stopped by Ctrl-C before the end (as shells count it: 128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// Each failure that a node reports: its kind, its exit code and what it means.
pub const NODE_FAILURES: [(ErrorCode, u8, &str); 21] = [
    (ErrorCode::BadRequest, 10, "the request makes no sense"),
    (ErrorCode::MessageTooLong, 11, "the message is too long: send it as a file"),
    (ErrorCode::MessageEmpty, 12, "the message is empty"),
    (ErrorCode::InvalidAddress, 13, "the address is mistyped or no address"),
    (ErrorCode::ToSelf, 14, "a node does not talk to itself"),
    (ErrorCode::NotJoined, 15, "the node has not joined the network yet"),
    (ErrorCode::NotFriend, 16, "the other node is no friend"),
    (ErrorCode::Refused, 17, "the other side refused"),
    (ErrorCode::Unreachable, 18, "the other node could not be reached"),
    (ErrorCode::NotFound, 19, "no such transfer, request, forward or file; nothing on trial"),
    (ErrorCode::Exists, 20, "the target exists already"),
    (ErrorCode::NoSpace, 21, "the disk is full or the lent space is used up"),
    (ErrorCode::WrongCode, 22, "wrong pairing code"),
    (ErrorCode::CodeLocked, 23, "too many wrong pairing codes: the code is locked"),
    (ErrorCode::NotEnoughHolders, 24, "too few devices hold, or could hold, the data"),
    (ErrorCode::Manifest, 25, "the manifest is damaged or not for this node"),
    (ErrorCode::NotAllowed, 26, "this node may not do that"),
    (ErrorCode::Io, 27, "reading or writing a file failed"),
    (ErrorCode::Timeout, 28, "took too long"),
    (ErrorCode::Internal, 29, "a bug or an unforeseen state in the node"),
    (ErrorCode::Outdated, 30, "it is about something that has changed since: look again"),
];

/// Exit codes that do not come from a node: name, code and meaning.
pub const OTHER_CODES: [(&str, u8, &str); 6] = [
    ("ok", OK, "all went well"),
    ("failed", FAILED, "failed in a way that has no code of its own"),
    ("usage", USAGE, "the command line or the configuration file makes no sense"),
    ("no-node", NO_NODE, "no node runs in the data folder, or it ended before it had answered"),
    ("incomplete", INCOMPLETE, "done, but files were left out, or parts cannot be read now"),
    ("interrupted", INTERRUPTED, "stopped by Ctrl-C before the end"),
];

/// What the user typed makes no sense, found only after the command line was parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The command did what it could, and that was not everything.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Incomplete(pub String);

/// Ctrl-C, or a request to end, came before the command was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// How a failed command ends: its exit code, the name of its kind, its sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: u8,
    /// Name of the kind, as in `--json`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// What `error` means for a script; nothing when whoever read our output has just left.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Option<Self> {
        let broken = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
        let from_client = error.chain().any(|cause| cause.is::<ClientError>());
        if !from_client && error.chain().filter_map(|c| c.downcast_ref::<io::Error>()).any(broken) {
            return None;
        }
        let (code, exit) = error.chain().find_map(kind).unwrap_or(("failed".to_owned(), FAILED));
        // The whole chain: what was tried, then why it failed.
        Some(Self { exit, code, message: format!("{error:#}") })
    }

    /// The object that `--json` prints.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({ "error": { "code": self.code, "message": self.message } })
    }

    /// For `main`.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

fn kind(cause: &(dyn std::error::Error + 'static)) -> Option<(String, u8)> {
    if cause.is::<Usage>() || cause.is::<crate::config::ConfigError>() {
        return Some(("usage".to_owned(), USAGE));
    }
    if cause.is::<Incomplete>() {
        return Some(("incomplete".to_owned(), INCOMPLETE));
    }
    if cause.is::<Interrupted>() {
        return Some(("interrupted".to_owned(), INTERRUPTED));
    }
    if let Some(error) = cause.downcast_ref::<ioex_api::ApiError>() {
        return Some(node_failure(error.code));
    }
    match cause.downcast_ref::<ClientError>()? {
        ClientError::NotRunning { .. } | ClientError::Ended => Some(("no-node".to_owned(), NO_NODE)),
        ClientError::Request(_) => Some(("usage".to_owned(), USAGE)),
        ClientError::Api(error) => Some(node_failure(error.code)),
        ClientError::Io(_) | ClientError::Protocol(_) => None,
    }
}

fn node_failure(code: ErrorCode) -> (String, u8) {
    let exit = NODE_FAILURES.iter().find(|(c, ..)| *c == code).map_or(FAILED, |(_, exit, _)| *exit);
    (name(code), exit)
}

/// The name of an error kind as it stands in JSON.
#[must_use]
pub fn name(code: ErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(Value::String(name)) => name,
        _ => "internal".to_owned(),
    }
}

/// All codes: code, name, meaning.
#[must_use]
pub fn all() -> Vec<(u8, String, &'static str)> {
    let other = OTHER_CODES.iter().map(|(name, exit, text)| (*exit, (*name).to_owned(), *text));
    let node = NODE_FAILURES.iter().map(|(code, exit, text)| (*exit, name(*code), *text));
    let mut all: Vec<_> = other.chain(node).collect();
    all.sort_by_key(|(exit, ..)| *exit);
    all
}

/// The list for `ioex help exit-codes`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Exit codes, and the names of the errors in --json:\n\n");
    for (exit, name, meaning) in all() {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "  {exit:>3}  {name:<19} {meaning}");
    }
    text
}
