//! Why the store did not do what it was asked.

use std::{io, path::PathBuf};

use ioex_base::{ContentAddress, SealError, UnixSeconds, limits::SHARD_MAX_BYTES};

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused; trying again later may help.
    #[error("cannot {doing} {path}: {source}", path = .path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process has this store open.
    #[error("the store in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A shard without bytes, or longer than any shard may be.
    #[error("a shard has 1 to {SHARD_MAX_BYTES} bytes, this one {got}")]
    TooLarge {
        /// The length that was announced, in bytes.
        got: u64,
    },
    /// The owner's space does not suffice.
    #[error("the shard needs {needed} bytes with its overhead, {free} are free")]
    NoSpace {
        /// Bytes that the shard would take, overhead included.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A lease that ends before it starts, or lives longer than shards may.
    #[error("a lease lasts 1 to {max} seconds, this one {got}")]
    LeaseLength {
        /// Longest life in seconds.
        max: u64,
        /// The life that was asked for, in seconds; 0 when it ends before it starts.
        got: u64,
    },
    /// As many backups as allowed lease this shard already.
    #[error("the shard has {max} leases already, no more are kept")]
    TooManyLeases {
        /// The bound.
        max: usize,
    },
    /// The bytes that came are not as many as the lease said.
    #[error("the shard was announced with {expected} bytes, {got} came")]
    WrongLength {
        /// Bytes announced (or held already under this address).
        expected: u64,
        /// Bytes that came (or were announced for the shard that is held).
        got: u64,
    },
    /// The bytes that came hash to something else.
    #[error("the bytes have the address {got}, expected was {expected}")]
    WrongAddress {
        /// The address announced.
        expected: ContentAddress,
        /// The address of what came.
        got: ContentAddress,
    },
    /// No head, or not one that its repository signed.
    #[error("this is no head of a repository: {0}")]
    NoHead(SealError),
    /// A shard under the address of a head that is held: only one made for that has it.
    #[error("{0} is the address of a repository's head that is held here")]
    IsHead(ContentAddress),
    /// What is held is being moved, or was moved, to another folder.
    #[error("what is held here is being moved to another folder")]
    Closed,
    /// The folder to move to holds something already.
    #[error("the folder {} is not empty: name one of its own", .0.display())]
    NotEmpty(PathBuf),
    /// This shard is not here.
    #[error("the shard {0} is not held here")]
    NotHeld(ContentAddress),
    /// The shard was here, but is damaged; it has been set aside and is no longer held.
    #[error("the shard {0} is damaged and was set aside")]
    Damaged(ContentAddress),
    /// The owner may delete the shard only after its last lease ended.
    #[error("the shard is leased until {} (seconds since 1970)", .until.0)]
    NotYet {
        /// When its last lease ends.
        until: UnixSeconds,
    },
}

impl StoreError {
    /// For `map_err`: an I/O error with what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}
