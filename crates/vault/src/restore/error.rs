//! Why restoring stopped.

use std::{io, path::PathBuf};

use ioex_base::ContentAddress;

use crate::{chunk::ChunkError, manifest::InvalidManifest};

/// Why a restore could not begin, go on, or end.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The operating system refused; trying again later may help.
    #[error("cannot restore to {path}: {source}", path = .path.display())]
    Io {
        /// The file that was worked on.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The manifest contradicts itself.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// Another process restores to the same place.
    #[error("another process is restoring to {}", .0.display())]
    InUse(PathBuf),
    /// There is a file at the temporary place that no restore has made.
    #[error("{} is no unfinished restore; it is left alone", .0.display())]
    NotOurs(PathBuf),
    /// Shards are still missing.
    #[error("{missing} of {total} shards are missing")]
    Missing {
        /// How many are missing.
        missing: usize,
        /// How many there are.
        total: usize,
    },
    /// All shards came, but the file is not the one that was packed. What there was is deleted:
    /// the next attempt starts afresh.
    #[error("the restored file hashes to {got}, the manifest says {expected}")]
    Content {
        /// The manifest's hash.
        expected: ContentAddress,
        /// The hash of what came out.
        got: ContentAddress,
    },
    /// There is a file of the final name already. The finished data stays at the temporary place.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
}

/// Why a shard was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The manifest has no shard of this index.
    #[error("shard {index} does not exist, there are {total}")]
    Unknown {
        /// What was asked for.
        index: u32,
        /// How many shards there are.
        total: usize,
    },
    /// Whoever sent it is at fault: the length is wrong.
    #[error("the shard has {got} bytes, expected were {expected}")]
    Length {
        /// The manifest's length in bytes.
        expected: u32,
        /// What came, in bytes.
        got: usize,
    },
    /// Whoever sent it is at fault: these are other bytes.
    #[error("the shard has the address {got}, expected was {expected}")]
    Address {
        /// The manifest's address.
        expected: ContentAddress,
        /// The address of what came.
        got: ContentAddress,
    },
    /// The manifest's author is at fault: nobody's bytes will fit.
    #[error("chunk {chunk} of the manifest cannot be read: {source}")]
    Chunk {
        /// Which chunk.
        chunk: u32,
        /// Why not.
        source: ChunkError,
    },
    /// The operating system refused; trying again later may help.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Io {
        /// The file that was worked on.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}
