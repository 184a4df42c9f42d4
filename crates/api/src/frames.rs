//! Bytes through a pipe, with an end that can be told from a break.
//!
//! A database's dump that breaks off must not become a restore point, but a pipe that is closed looks
//! the same either way. So its bytes travel in frames: `length (4, little-endian) | bytes`, and the end
//! is a frame of length zero.

use std::io::{self, Read, Write};

/// How the name of a pipe begins that a command makes in the node's data folder, and how it ends.
const PIPE_NAME: (&str, &str) = ("stream-", ".pipe");

/// The name of a pipe that the process `pid` makes in the node's data folder. `number` is any: in containers each
/// process may have the same `pid`.
#[must_use]
pub fn pipe_name(pid: u32, number: u64) -> String {
    format!("{}{pid}-{number}{}", PIPE_NAME.0, PIPE_NAME.1)
}

/// Whether a file in the data folder has the name of such a pipe.
#[must_use]
pub fn is_pipe_name(name: &str) -> bool {
    let rest = name.strip_prefix(PIPE_NAME.0).and_then(|rest| rest.strip_suffix(PIPE_NAME.1));
    let numbers = rest.and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(pid, number)| pid.parse::<u32>().is_ok() && number.parse::<u64>().is_ok())
}

/// Bytes of a frame at most.
const FRAME_BYTES: usize = 256 * 1024;

/// Reads what a [`FrameWriter`] wrote; a break is an error.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: R,
    left: usize,
    ended: bool,
}

impl<R: Read> FrameReader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self { input, left: 0, ended: false }
    }
}

impl<R: Read> Read for FrameReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut length = [0; 4];
            self.input.read_exact(&mut length).map_err(broken)?;
            self.left = u32::from_le_bytes(length) as usize;
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let most = out.len().min(self.left);
        let read = self.input.read(out.get_mut(..most).unwrap_or_default())?;
        if read == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= read;
        Ok(read)
    }
}

fn broken(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(e.kind(), "the stream broke off before its end: nothing of it is kept")
        }
        _ => e,
    }
}

/// Writes frames. Without [`FrameWriter::finish`] the reader sees a break.
#[derive(Debug)]
pub struct FrameWriter<W> {
    out: W,
}

impl<W: Write> FrameWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(FRAME_BYTES) {
            self.out.write_all(&(part.len() as u32).to_le_bytes())?;
            self.out.write_all(part)?;
        }
        Ok(())
    }

    /// Marks the end.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 4])?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_every_break_is_noticed() {
        let text = vec![7; FRAME_BYTES + 100];
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes);
        writer.write(b"").unwrap();
        writer.write(&text).unwrap();
        writer.finish().unwrap();
        let mut got = Vec::new();
        FrameReader::new(bytes.as_slice()).read_to_end(&mut got).unwrap();
        assert_eq!(got, text);
        for cut in [0, 2, 4, 50, FRAME_BYTES + 4, FRAME_BYTES + 60, bytes.len() - 1] {
            let broken = FrameReader::new(&bytes[..cut]).read_to_end(&mut Vec::new());
            assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
    }
}
