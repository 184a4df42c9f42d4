//! One JSON value per line, with a bound on what is read.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::LINE_MAX_BYTES;

/// Longest path of a Unix socket in bytes: `sun_path` has 108, one of them ends the text.
const SOCKET_PATH_MAX_BYTES: usize = 107;

/// What came from the other side.
pub(crate) enum Line {
    /// A whole line, without its end.
    Whole(Vec<u8>),
    /// Longer than [`LINE_MAX_BYTES`]; the rest was not read.
    TooLong,
    /// The other side closed. A line without its end counts as nothing.
    End,
}

/// Reads one line. `begun` carries a line that came in part: when this future is dropped, the
/// next call goes on where it stood.
pub(crate) async fn read<R: AsyncBufRead + Unpin>(reader: &mut R, begun: &mut Vec<u8>) -> io::Result<Line> {
    // One more than allowed, so that the end of the line may follow a line of full length.
    let room = (LINE_MAX_BYTES + 1).saturating_sub(begun.len());
    reader.take(room as u64).read_until(b'\n', begun).await?;
    let mut line = std::mem::take(begun);
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Line::Whole(line));
    }
    Ok(if line.len() > LINE_MAX_BYTES { Line::TooLong } else { Line::End })
}

/// The line for `value`; an error when it is longer than a reader takes.
pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    if line.len() > LINE_MAX_BYTES {
        let text = format!("an answer of {} bytes is longer than {LINE_MAX_BYTES}", line.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    line.push(b'\n');
    Ok(line)
}

pub(crate) async fn write<W: AsyncWrite + Unpin>(writer: &mut W, line: &[u8]) -> io::Result<()> {
    writer.write_all(line).await?;
    writer.flush().await
}

/// Unix sockets have short paths; without this check the error would be "invalid argument".
pub(crate) fn check_socket_path(path: &Path) -> io::Result<()> {
    let len = OsStr::as_bytes(path.as_os_str()).len();
    if len <= SOCKET_PATH_MAX_BYTES {
        return Ok(());
    }
    let text = format!(
        "the socket path {} has {len} bytes, the system allows {SOCKET_PATH_MAX_BYTES}: \
         use a data folder with a shorter path",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
