//! Errors as clients see them.

use serde::{Deserialize, Serialize};

/// What kind of failure it was. Each has its own exit code in the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request itself makes no sense (a mistyped address, an unknown id).
    BadRequest,
    /// Longer than `MESSAGE_MAX_BYTES`: send it as a file.
    MessageTooLong,
    /// The text is empty.
    MessageEmpty,
    /// The address is mistyped or no address.
    InvalidAddress,
    /// A node does not talk to itself.
    ToSelf,
    /// The node has not joined the network yet.
    NotJoined,
    /// The other node is no friend.
    NotFriend,
    /// The other node refused.
    Refused,
    /// The other node could not be reached.
    Unreachable,
    /// No such transfer, friend request, forward or file.
    NotFound,
    /// The target exists already.
    Exists,
    /// It is about something that has changed since: look again.
    Outdated,
    /// Disk full or the lent space used up.
    NoSpace,
    /// A wrong pairing code.
    WrongCode,
    /// Too many wrong pairing codes: the code is locked.
    CodeLocked,
    /// Too few holders, or too few of them reachable.
    NotEnoughHolders,
    /// The manifest is not for this node, or is damaged.
    Manifest,
    /// This kind of node does not do that, or lacks the authority.
    NotAllowed,
    /// Reading or writing a file failed.
    Io,
    /// Took too long.
    Timeout,
    /// A bug or an unforeseen state; the message says what is known.
    Internal,
}

/// A failed request: the kind, and a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The kind of failure.
    pub code: ErrorCode,
    /// For people: what happened and what helps.
    pub message: String,
}

impl ApiError {
    /// An error of kind `code` with this sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
