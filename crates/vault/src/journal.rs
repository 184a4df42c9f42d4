//! Which shards of a restore are done, so that it goes on after a crash.
//!
//! Version 1, frozen: `version (1) | digest (32)`, then for each finished shard
//! `index (4, little-endian) | check (4)`. The digest is the BLAKE3 hash of the
//! encoded manifest, or names what is restored of a restore point; the check is the beginning of a BLAKE3 hash over digest and index, so that a record which was
//! cut off, or stands after a gap that the file system filled with zeros, ends the reading.
//!
//! A record is written after its data is on disk. The journal itself is not synced: what a crash
//! takes of it is fetched again.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 32;
const RECORD_BYTES: usize = 8;

/// An open journal, locked for this process.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    digest: [u8; 32],
}

/// What a journal said when it was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// These shards of this manifest are done.
    Ours(Vec<u32>),
    /// It belongs to another manifest, or to another version of this program.
    Other,
    /// It is new, or was never finished.
    Nothing,
}

fn record(digest: &[u8; 32], index: u32) -> [u8; RECORD_BYTES] {
    let index = index.to_le_bytes();
    let mut check = [0; 4];
    blake3::Hasher::new().update(digest).update(&index).finalize_xof().fill(&mut check);
    let mut out = [0; RECORD_BYTES];
    out.iter_mut().zip(index.iter().chain(&check)).for_each(|(to, from)| *to = *from);
    out
}

/// Reads as far as the bytes are whole; returns how many of them were.
fn parse(bytes: &[u8], digest: &[u8; 32]) -> (Found, usize) {
    let Some((header, records)) = bytes.split_at_checked(HEADER_BYTES) else { return (Found::Nothing, 0) };
    if header.first() != Some(&VERSION) || header.get(1..) != Some(digest.as_slice()) {
        return (Found::Other, 0);
    }
    let mut done = Vec::new();
    for bytes in records.chunks_exact(RECORD_BYTES) {
        let Some(index) = bytes.first_chunk::<4>().map(|b| u32::from_le_bytes(*b)) else { break };
        if bytes != record(digest, index) {
            break;
        }
        done.push(index);
    }
    let whole = HEADER_BYTES + done.len() * RECORD_BYTES;
    (Found::Ours(done), whole)
}

impl Journal {
    /// Opens or creates the journal at `path` of the work that `digest` names, which has at most
    /// `steps` steps (finished ones are not recorded again). `Ok(None)` when another process has it
    /// open.
    pub(crate) fn open(path: PathBuf, digest: [u8; 32], steps: usize) -> io::Result<Option<(Self, Found)>> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e),
        }
        let mut bytes = Vec::new();
        let longest = HEADER_BYTES.saturating_add(steps.saturating_mul(RECORD_BYTES));
        (&file).take(longest as u64).read_to_end(&mut bytes)?;
        let (found, whole) = parse(&bytes, &digest);
        let mut journal = Self { file, path, digest };
        if let Found::Ours(_) = found {
            journal.file.set_len(whole as u64)?;
            journal.file.seek(SeekFrom::End(0))?;
        }
        Ok(Some((journal, found)))
    }

    /// Forgets all records and belongs to its manifest from now on, durably.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        let mut header = vec![VERSION];
        header.extend_from_slice(&self.digest);
        self.file.write_all(&header)?;
        self.file.sync_all()
    }

    /// Notes that the data of shard `index` is on disk.
    pub(crate) fn add(&mut self, index: u32) -> io::Result<()> {
        self.file.write_all(&record(&self.digest, index))
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(done: &[u32]) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend([7; 32]);
        done.iter().for_each(|index| out.extend(record(&[7; 32], *index)));
        out
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(data_encoding::HEXLOWER.encode(&record(&[7; 32], 258)), "020100001f4c7558");
    }

    #[test]
    fn a_torn_end_is_dropped() {
        let whole = bytes(&[3, 1, 2]);
        for cut in 0..whole.len() {
            let (found, len) = parse(&whole[..cut], &[7; 32]);
            match cut.checked_sub(HEADER_BYTES) {
                None => assert_eq!((found, len), (Found::Nothing, 0)),
                Some(rest) => {
                    let records = rest / RECORD_BYTES;
                    assert_eq!(found, Found::Ours([3, 1, 2][..records].to_vec()));
                    assert_eq!(len, HEADER_BYTES + records * RECORD_BYTES);
                }
            }
        }
        let mut zeros = bytes(&[3]);
        zeros.extend([0; 16]);
        assert_eq!(parse(&zeros, &[7; 32]).0, Found::Ours(vec![3]));
        assert_eq!(parse(&whole, &[8; 32]).0, Found::Other);
    }

    proptest! {
        #[test]
        fn round_trips(done in prop::collection::vec(any::<u32>(), 0..20)) {
            let bytes = bytes(&done);
            prop_assert_eq!(parse(&bytes, &[7; 32]), (Found::Ours(done), bytes.len()));
        }

        #[test]
        fn any_bytes_are_handled(tail in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&tail, &[7; 32]);
            let mut with_header = bytes(&[]);
            with_header.extend(tail);
            let _ = parse(&with_header, &[7; 32]);
        }
    }
}
