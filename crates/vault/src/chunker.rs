//! Cutting a stream where its content says so.
//!
//! FastCDC (Xia et al., 2020) with the owner's gear table: an insertion moves the cuts near it and
//! no others, and without the table nobody can compute where a known file is cut.

use std::io::{self, Read};

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::{limits::Cuts, owner::Gear};

/// Yields the chunks of a stream.
pub(crate) struct Chunker<R> {
    input: R,
    cuts: Cuts,
    gear: Box<Gear>,
    gear_doubled: Box<Gear>,
    masks: (u64, u64),
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl<R: Read> Chunker<R> {
    pub(crate) fn new(input: R, gear: Box<Gear>, cuts: Cuts) -> Self {
        let mut gear_doubled = gear.clone();
        gear_doubled.iter_mut().for_each(|value| *value <<= 1);
        Self {
            input,
            cuts,
            gear,
            gear_doubled,
            // The second level keeps nine chunks in ten between half and one and a half times the
            // average, which says less about the content than a wide spread.
            masks: select_masks(cuts.average_bytes, Normalization::Level2),
            // Twice the longest chunk, so that bytes are moved at most once for each chunk.
            buffer: vec![0; 2 * cuts.max_bytes],
            start: 0,
            end: 0,
            ended: false,
        }
    }

    /// Begins with another stream, keeping the memory.
    #[cfg(feature = "pack")]
    pub(crate) fn restart(&mut self, input: R) {
        self.input = input;
        (self.start, self.end, self.ended) = (0, 0, false);
    }

    /// The next chunk, or `None` at the end of the stream.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        self.fill()?;
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        if waiting.is_empty() {
            return Ok(None);
        }
        let (strict, loose) = self.masks;
        let (_, len) = cut_gear(
            waiting,
            self.cuts.min_bytes,
            self.cuts.average_bytes,
            self.cuts.max_bytes,
            strict,
            loose,
            strict << 1,
            loose << 1,
            self.gear.as_slice(),
            self.gear_doubled.as_slice(),
        );
        let len = len.clamp(1, waiting.len());
        self.start += len;
        Ok(waiting.get(..len))
    }

    /// Reads until a longest chunk is waiting or the stream ends.
    fn fill(&mut self) -> io::Result<()> {
        if self.ended || self.end - self.start >= self.cuts.max_bytes {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < self.buffer.len() {
            match self.input.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                // A reader that claims more than it was given room for does not break the buffer.
                Ok(n) => self.end = self.end.saturating_add(n).min(self.buffer.len()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::{CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, FILE_CUTS},
        owner::OwnerKey,
        testing::noise,
    };

    fn lengths(data: &[u8], key: u8) -> Vec<usize> {
        let mut chunker = Chunker::new(data, OwnerKey::from_bytes([key; 32]).gear(), FILE_CUTS);
        let mut lengths = Vec::new();
        let mut joined = Vec::new();
        while let Some(chunk) = chunker.next_chunk().unwrap() {
            lengths.push(chunk.len());
            joined.extend_from_slice(chunk);
        }
        assert!(joined == data, "the chunks are the stream");
        lengths
    }

    /// Frozen: other cuts would end sharing of chunks with older restore points.
    #[test]
    fn golden_cuts() {
        assert_eq!(
            lengths(&noise(8 << 20, 1), 7),
            [1362300, 1176179, 2009718, 851397, 1103263, 1266872, 618879]
        );
    }

    #[test]
    fn lengths_are_bounded_and_differ_by_owner() {
        let data = noise(24 << 20, 2);
        let ours = lengths(&data, 1);
        assert_ne!(ours, lengths(&data, 2));
        let (last, rest) = ours.split_last().unwrap();
        assert!(rest.iter().all(|len| (CHUNK_MIN_BYTES..=CHUNK_MAX_BYTES).contains(len)), "{ours:?}");
        assert!(*last <= CHUNK_MAX_BYTES);
        assert!((12..48).contains(&ours.len()), "about a megabyte each: {ours:?}");
    }

    #[test]
    fn short_and_monotonous_streams() {
        assert_eq!(lengths(b"", 1), Vec::<usize>::new());
        assert_eq!(lengths(b"x", 1), [1]);
        let zeros = lengths(&vec![0; 5 << 20], 1);
        assert!(zeros.iter().all(|len| *len <= CHUNK_MAX_BYTES), "{zeros:?}");
    }

    /// A reader that gives one byte at a time, and an interruption now and then.
    struct Dripping<'a>(&'a [u8], bool);

    impl Read for Dripping<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let n = out.len().min(777);
            self.0.read(&mut out[..n])
        }
    }

    #[test]
    fn how_the_reader_delivers_does_not_move_the_cuts() {
        let data = noise(6 << 20, 3);
        let mut chunker =
            Chunker::new(Dripping(&data, false), OwnerKey::from_bytes([1; 32]).gear(), FILE_CUTS);
        let mut got = Vec::new();
        while let Some(chunk) = chunker.next_chunk().unwrap() {
            got.push(chunk.len());
        }
        assert_eq!(got, lengths(&data, 1));
    }
}
