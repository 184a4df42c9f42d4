//! A small record that survives a power cut: two copies, written in turn.
//!
//! Layout of a copy: `magic (8) | format (1) | length (2) | BLAKE3 (32) | body`, with the number
//! of the record at the body's front. The copy with the highest number that is whole holds. A new
//! record goes over the other one, so one whole copy is there at any moment.

use std::io;

use ioex_base::wire;
use serde::{Serialize, de::DeserializeOwned};

use super::medium::Medium;

/// Room for one copy, in bytes: a page and a sector of every medium.
pub const RECORD_BYTES: usize = 4096;

/// Length of the state file or partition, in bytes.
pub const STATE_BYTES: u64 = 2 * RECORD_BYTES as u64;

const MAGIC: &[u8; 8] = b"ioexSLOT";
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 8 + 1 + 2 + 32;
const BODY_MAX_BYTES: usize = RECORD_BYTES - HEAD_BYTES;

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Neither copy is whole. Power cuts do not do that.
    #[error(
        "neither copy of the slot state is whole; nothing is written until it is set up again, and the boot loader \
         keeps to what it started last"
    )]
    Lost,
    /// A later program wrote it.
    #[error("the slot state has format {0}, this program reads {FORMAT}: use the program that wrote it")]
    Format(u8),
    /// More than fits. A limit that was raised without this one.
    #[error("a slot state of {0} bytes does not fit")]
    TooLong(usize),
    /// The medium.
    #[error("the slot state cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

/// The state's medium and the number of its last record.
#[derive(Debug)]
pub(super) struct Store<M> {
    medium: M,
    number: u64,
}

/// What a copy turned out to be.
enum Copy<T> {
    Whole(u64, T),
    Foreign(u8),
    Broken,
}

impl<M: Medium> Store<M> {
    /// Sets up a medium with a first record, in both copies.
    pub(super) fn format<T: Serialize>(medium: M, first: &T) -> Result<Self, StateError> {
        let mut store = Self { medium, number: 0 };
        store.save(first)?;
        store.save(first)?;
        Ok(store)
    }

    /// Opens a medium that was set up.
    pub(super) fn open<T: DeserializeOwned>(medium: M) -> Result<(Self, T), StateError> {
        let mut best: Option<(u64, T)> = None;
        let mut foreign = None;
        for place in 0..2 {
            match read(&medium, place)? {
                Copy::Whole(number, value) if best.as_ref().is_none_or(|(other, _)| number > *other) => {
                    best = Some((number, value));
                }
                Copy::Foreign(format) => foreign = Some(format),
                Copy::Whole(..) | Copy::Broken => {}
            }
        }
        // A later program's record beside an older whole one is newer: going by the old one could
        // start a slot that is being written.
        if let Some(format) = foreign {
            return Err(StateError::Format(format));
        }
        let (number, value) = best.ok_or(StateError::Lost)?;
        Ok((Self { medium, number }, value))
    }

    /// Writes the next record, durably.
    pub(super) fn save<T: Serialize>(&mut self, value: &T) -> Result<(), StateError> {
        let number = self.number + 1;
        let body = wire::encode(&(number, value));
        if body.len() > BODY_MAX_BYTES {
            return Err(StateError::TooLong(body.len()));
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend_from_slice(blake3::hash(&body).as_bytes());
        bytes.extend_from_slice(&body);
        self.medium.write_at(place(number), &bytes)?;
        self.medium.sync()?;
        self.number = number;
        Ok(())
    }
}

fn place(number: u64) -> u64 {
    (number % 2) * RECORD_BYTES as u64
}

fn read<M: Medium, T: DeserializeOwned>(medium: &M, copy: u64) -> Result<Copy<T>, StateError> {
    let mut bytes = vec![0; RECORD_BYTES];
    medium.read_at(place(copy), &mut bytes)?;
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    if &head[..8] != MAGIC {
        return Ok(Copy::Broken);
    }
    let length = usize::from(u16::from_le_bytes([head[9], head[10]]));
    let Some(body) = rest.get(..length).filter(|body| blake3::hash(body).as_bytes() == &head[11..]) else {
        return Ok(Copy::Broken);
    };
    if head[8] != FORMAT {
        return Ok(Copy::Foreign(head[8]));
    }
    Ok(match wire::decode::<(u64, T)>(body, BODY_MAX_BYTES) {
        Ok((number, value)) => Copy::Whole(number, value),
        Err(_) => Copy::Broken,
    })
}
