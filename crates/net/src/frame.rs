//! Length-prefixed frames on a stream: `length (4, little-endian) | postcard value`.

use ioex_base::wire::{self, WireError};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a frame could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream or its connection ended.
    #[error("the connection ended: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes are no frame of the expected type.
    #[error("the other node broke the protocol: {0}")]
    Wire(#[from] WireError),
}

/// Writes one frame.
///
/// # Errors
/// When the stream ended.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> Result<(), FrameError> {
    let body = wire::encode(value);
    let len = u32::try_from(body.len())
        .map_err(|_| WireError::TooLong { max: u32::MAX as usize, got: body.len() })?;
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&body);
    to.write_all(&out).await?;
    Ok(())
}

/// Reads one frame of at most `max` bytes. Memory grows with what really arrives, not with what
/// the length claims.
///
/// # Errors
/// [`FrameError`]: the stream ended, or the bytes are no such value.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, FrameError> {
    let mut len = [0; 4];
    from.read_exact(&mut len).await?;
    let len = u32::from_le_bytes(len) as usize;
    if len > max {
        return Err(WireError::TooLong { max, got: len }.into());
    }
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body).await?;
    if body.len() != len {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(wire::decode(&body, max)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_bounds_hold() {
        let mut bytes = Vec::new();
        write(&mut bytes, &(7u32, "hi")).await.unwrap();
        assert_eq!(bytes, [4, 0, 0, 0, 7, 2, b'h', b'i']);
        let back: (u32, String) = read(&mut &bytes[..], 16).await.unwrap();
        assert_eq!(back, (7, "hi".to_owned()));
        let short: Result<(u32, String), _> = read(&mut &bytes[..], 3).await;
        assert!(matches!(short, Err(FrameError::Wire(WireError::TooLong { max: 3, got: 4 }))));
        let cut: Result<(u32, String), _> = read(&mut &bytes[..6], 16).await;
        assert!(matches!(cut, Err(FrameError::Io(_))));
    }
}
