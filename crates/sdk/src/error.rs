//! What can go wrong.

use ioex_api::{ApiError, ErrorCode};

/// A call that returns before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Metadata was handed over.
    Take,
    /// What is on trial stays.
    Confirm,
    /// What is on trial goes.
    RollBack,
}

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used: {0}")]
    Config(String),
    /// An argument of a call cannot be used.
    #[error("{0}")]
    Argument(String),
    /// The node did not start.
    #[error("the node did not start: {0}")]
    Start(String),
    /// The node is starting.
    #[error("the node is starting: wait for the event that it has")]
    NotReady,
    /// The node has stopped.
    #[error("the node has stopped: start another one")]
    Stopped,
    /// No version is offered, or none is on trial.
    #[error("{0}")]
    NothingOffered(String),
    /// The answer is about another version, or another package of it, than the one that is offered now.
    #[error("{0}")]
    Outdated(String),
    /// Metadata does not hold.
    #[error("the metadata does not hold: {0}")]
    Refused(String),
    /// Reading or writing failed, or there is nothing on trial.
    #[error("{0}")]
    Io(String),
    /// The end of the node's threads cannot be awaited on one of them.
    #[error(
        "an event is being told: the node cannot be shut down from there; stop it, and shut it down elsewhere"
    )]
    InCallback,
}

impl From<ApiError> for Error {
    fn from(e: ApiError) -> Self {
        match e.code {
            ErrorCode::NotFound => Self::NothingOffered(e.message),
            ErrorCode::Outdated => Self::Outdated(e.message),
            ErrorCode::BadRequest => Self::Argument(e.message),
            ErrorCode::Refused => Self::Refused(e.message),
            _ => Self::Io(e.message),
        }
    }
}
