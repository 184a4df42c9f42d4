//! The machinery behind a backup: chunks are compressed and encrypted by several threads and packed
//! into shards in the order in which they were read, so that the same run gives the same shards.
//!
//! The reader (module `backup`) sends batches of chunks; encoders take them from one queue; the
//! assembler puts the results back into order. Queues are short, so memory is a few batches per
//! thread whatever the size of the files.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender},
    },
};

use crate::{
    chunk::Encoder,
    manifest::{ChunkId, ChunkKey, ChunkRef, Codec, ShardRef},
    owner::Secrets,
    shard::OpenShard,
};

/// A batch goes to the encoders when it holds so many bytes …
pub(super) const BATCH_BYTES: usize = 1024 * 1024;
/// … or so many chunks.
pub(super) const BATCH_CHUNKS: usize = 128;

/// A shard with what is in it.
#[derive(Clone, Debug)]
pub struct PackedShard {
    /// Address and length.
    pub shard: ShardRef,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its chunks; their `shard` is 0.
    pub chunks: Vec<ChunkRef>,
}

/// Whoever takes the shards wants no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// Chunks as they were read.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) plain: Vec<u8>,
    pub(super) chunks: Vec<(ChunkId, u32)>,
}

/// Chunks as they will be stored.
pub(super) struct Encoded {
    number: u64,
    bytes: Vec<u8>,
    chunks: Vec<Piece>,
}

/// What is known of a chunk before it lies in a shard.
pub(super) struct Piece {
    id: ChunkId,
    plain_bytes: u32,
    stored_bytes: u32,
    codec: Codec,
    key: ChunkKey,
}

impl From<&ChunkRef> for Piece {
    fn from(chunk: &ChunkRef) -> Self {
        Self {
            id: chunk.id,
            plain_bytes: chunk.plain_bytes,
            stored_bytes: chunk.stored_bytes,
            codec: chunk.codec,
            key: chunk.key.clone(),
        }
    }
}

/// Encodes batches until there are no more or nobody wants them.
pub(super) fn encode(
    secrets: &Secrets,
    batches: &Mutex<Receiver<Batch>>,
    encoded: &SyncSender<Encoded>,
) -> io::Result<()> {
    let mut encoder = Encoder::new()?;
    loop {
        let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return Ok(()) };
        let mut out = Encoded {
            number: batch.number,
            bytes: Vec::new(),
            chunks: Vec::with_capacity(batch.chunks.len()),
        };
        let mut rest = batch.plain.as_slice();
        for (id, plain_bytes) in batch.chunks {
            let (plain, left) = rest.split_at_checked(plain_bytes as usize).unwrap_or((rest, &[]));
            rest = left;
            let chunk = encoder.encode(secrets, plain)?;
            out.bytes.extend_from_slice(chunk.sealed);
            let (codec, key, stored_bytes) = (chunk.codec, chunk.key, chunk.sealed.len() as u32);
            out.chunks.push(Piece { id, plain_bytes, stored_bytes, codec, key });
        }
        if encoded.send(out).is_err() {
            return Ok(());
        }
    }
}

/// Fills shards with what the encoders give, in order.
pub(super) fn assemble(
    secrets: &Secrets,
    shard_bytes: usize,
    shard_chunks: usize,
    encoded: &Receiver<Encoded>,
    take: &(dyn Fn(PackedShard) -> Result<(), Stopped> + Sync),
) -> Result<(), Stopped> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    let mut filling = Filling::default();
    while let Ok(batch) = encoded.recv() {
        waiting.insert(batch.number, batch);
        while let Some(batch) = waiting.remove(&next) {
            next += 1;
            let mut rest = batch.bytes.as_slice();
            for piece in batch.chunks {
                let (sealed, left) =
                    rest.split_at_checked(piece.stored_bytes as usize).unwrap_or((rest, &[]));
                rest = left;
                if let Some(full) = filling.push(secrets, (shard_bytes, shard_chunks), piece, sealed) {
                    take(full)?;
                }
            }
        }
    }
    match filling.close(secrets) {
        Some(last) => take(last),
        None => Ok(()),
    }
}

/// The shard that is being filled.
#[derive(Default)]
pub(super) struct Filling {
    open: Option<OpenShard>,
    chunks: Vec<ChunkRef>,
}

impl Filling {
    pub(super) fn push(
        &mut self,
        secrets: &Secrets,
        max: (usize, usize),
        piece: Piece,
        sealed: &[u8],
    ) -> Option<PackedShard> {
        let full = match &self.open {
            Some(open) if !open.has_room_for(sealed) || self.chunks.len() >= max.1 => self.close(secrets),
            _ => None,
        };
        let open = self.open.get_or_insert_with(|| OpenShard::new(0, max.0));
        self.chunks.push(ChunkRef {
            shard: 0,
            offset: open.push(sealed),
            stored_bytes: piece.stored_bytes,
            plain_bytes: piece.plain_bytes,
            codec: piece.codec,
            key: piece.key,
            id: piece.id,
        });
        full
    }

    pub(super) fn close(&mut self, secrets: &Secrets) -> Option<PackedShard> {
        let (shard, reference) = self.open.take()?.finish(secrets);
        Some(PackedShard { shard: reference, bytes: shard.bytes, chunks: std::mem::take(&mut self.chunks) })
    }
}
