//! The providing side: content goes out as it lies on the disk.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use iroh::endpoint::SendStream;

use super::pieces::PieceList;
use crate::{
    frame::{self, FrameError},
    host::{Availability, Host},
    proto::{Answer, Content, No, Want},
    throttle::Throttle,
};

/// Bytes read from the disk at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the receiver stopped: {0}")]
    Write(#[from] iroh::endpoint::WriteError),
    #[error("reading failed: {0}")]
    Read(#[from] std::io::Error),
    #[error("paused by the owner")]
    Paused,
}

/// What bytes wait at before they go out.
#[derive(Clone, Copy)]
pub(crate) enum Gate<'a> {
    /// Nothing: they go to a friend.
    Free,
    /// What the owner of the lent space allows.
    Owner(&'a dyn Host),
    /// A bandwidth of their own.
    Upload(&'a Throttle),
}

impl Gate<'_> {
    /// How many of `want` bytes may go now.
    async fn wait(self, want: u64) -> Result<u64, ServeError> {
        let host = match self {
            Self::Free => return Ok(want),
            Self::Owner(host) => host,
            Self::Upload(throttle) => loop {
                if let Some(bytes) = throttle.step(want).await {
                    return Ok(bytes);
                }
            },
        };
        loop {
            // A pause that begins ends what is under way.
            if host.availability() != Availability::Open {
                return Err(ServeError::Paused);
            }
            if let Some(bytes) = host.upload().step(want).await {
                return Ok(bytes);
            }
        }
    }
}

/// A content that is there.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<File>,
    pub(crate) size: u64,
}

/// Says no.
pub(crate) async fn refuse(send: &mut SendStream, no: No) -> Result<(), ServeError> {
    frame::write(send, &Answer::<Content>::No(no)).await?;
    Ok(())
}

/// Sends the piece list.
pub(crate) async fn pieces(send: &mut SendStream, list: &PieceList) -> Result<(), ServeError> {
    let bytes = list.to_bytes();
    let head = Content { size: list.size(), follows: bytes.len() as u64 };
    frame::write(send, &Answer::Yes(head)).await?;
    send.write_chunk(Bytes::from(bytes)).await?;
    Ok(())
}

/// Sends a range or all; `sent` is told as bytes leave.
pub(crate) async fn range(
    send: &mut SendStream,
    source: &Source,
    want: Want,
    gate: Gate<'_>,
    mut sent: impl FnMut(u64),
) -> Result<(), ServeError> {
    let (start, len) = match want {
        Want::Range { start, len } => (start, len),
        Want::All => (0, source.size),
        Want::Pieces => return refuse(send, No::BadRequest).await,
    };
    let Some(end) = start.checked_add(len).filter(|end| *end <= source.size) else {
        return refuse(send, No::BadRequest).await;
    };
    frame::write(send, &Answer::Yes(Content { size: source.size, follows: len })).await?;
    span(send, source, start..end, gate, &mut sent).await
}

/// Sends bytes that are in memory.
pub(crate) async fn bytes(send: &mut SendStream, bytes: Vec<u8>) -> Result<(), ServeError> {
    let len = bytes.len() as u64;
    frame::write(send, &Answer::Yes(Content { size: len, follows: len })).await?;
    send.write_chunk(Bytes::from(bytes)).await?;
    Ok(())
}

/// Sends all of a source after its head has gone.
pub(crate) async fn body(
    send: &mut SendStream,
    source: &Source,
    gate: Gate<'_>,
    sent: &mut (dyn FnMut(u64) + Send),
) -> Result<(), ServeError> {
    span(send, source, 0..source.size, gate, sent).await
}

async fn span(
    send: &mut SendStream,
    source: &Source,
    range: Range<u64>,
    gate: Gate<'_>,
    mut sent: impl FnMut(u64),
) -> Result<(), ServeError> {
    let (mut at, end) = (range.start, range.end);
    while at < end {
        let want = gate.wait((end - at).min(BLOCK_BYTES as u64)).await?;
        let want = usize::try_from(want).unwrap_or(BLOCK_BYTES);
        let file = source.file.clone();
        let block = tokio::task::spawn_blocking(move || {
            let mut block = vec![0; want];
            file.read_exact_at(&mut block, at).map(|()| block)
        });
        let block = block.await.map_err(std::io::Error::other)??;
        at += block.len() as u64;
        let n = block.len() as u64;
        send.write_chunk(Bytes::from(block)).await?;
        sent(n);
    }
    Ok(())
}
