//! From a stream to shards and a manifest.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use ioex_base::{ContentAddress, limits::SHARD_MAX_BYTES};

use crate::{
    chunk::Encoder,
    chunker::Chunker,
    limits::{
        CHUNKS_MAX, Cuts, FILE_CUTS, FILE_MAX_BYTES, ORDER_MAX, PACKAGE_CUTS, PACKAGE_SHARD_BYTES, SHARDS_MAX,
    },
    manifest::{BackupDetails, ChunkId, ChunkRef, InvalidManifest, Manifest, ShardRef},
    owner::{OwnerKey, Secrets},
    shard::{OpenShard, Shard},
};

/// Why a file could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The file could not be read, or the compressor had no memory.
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
    /// The file is too large for one manifest.
    #[error("the file has more than {max} {what}: pack it in parts")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: u64,
    },
    /// `finish` came before the last shard was taken, or after an error.
    #[error("the file was not packed to its end")]
    Unfinished,
    /// The details do not fit: a bad name, dates or number of copies.
    #[error(transparent)]
    Details(#[from] InvalidManifest),
}

/// Packs one stream: an iterator over its finished shards, then [`Packer::finish`].
///
/// Holds some 20 MB whatever the stream's length, and about 100 bytes for each chunk. The same
/// stream under the same key gives the same shards. Equal chunks are stored once.
pub struct Packer<R> {
    secrets: Secrets,
    chunker: Chunker<R>,
    encoder: Encoder,
    previous: Previous,
    progress: Progress,
    open: Option<OpenShard>,
    shard_bytes: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Done,
    Failed,
}

/// Chunks that earlier restore points have stored.
#[derive(Default)]
struct Previous {
    chunks: HashMap<ChunkId, ChunkRef>,
    shards: Vec<ShardRef>,
    /// Where a shard of `shards` stands in the new manifest.
    placed: HashMap<u32, u32>,
}

/// The new manifest as far as it has come.
struct Progress {
    hasher: blake3::Hasher,
    size_bytes: u64,
    seen: HashMap<ChunkId, u32>,
    shards: Vec<ShardRef>,
    reused: Vec<u32>,
    chunks: Vec<ChunkRef>,
    order: Vec<u32>,
}

fn within(what: &'static str, count: usize, max: usize) -> Result<u32, PackError> {
    let error = PackError::TooLarge { what, max: max as u64 };
    if count < max { u32::try_from(count).map_err(|_| error) } else { Err(error) }
}

impl Progress {
    fn new() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            size_bytes: 0,
            seen: HashMap::new(),
            shards: Vec::new(),
            reused: Vec::new(),
            chunks: Vec::new(),
            order: Vec::new(),
        }
    }

    fn read(&mut self, plain: &[u8]) -> Result<(), PackError> {
        self.size_bytes = self.size_bytes.saturating_add(plain.len() as u64);
        if self.size_bytes > FILE_MAX_BYTES {
            return Err(PackError::TooLarge { what: "bytes", max: FILE_MAX_BYTES });
        }
        self.hasher.update(plain);
        Ok(())
    }

    fn push_order(&mut self, chunk: u32) -> Result<(), PackError> {
        within("pieces", self.order.len(), ORDER_MAX)?;
        self.order.push(chunk);
        Ok(())
    }

    fn push_chunk(&mut self, chunk: ChunkRef) -> Result<(), PackError> {
        let index = within("different chunks", self.chunks.len(), CHUNKS_MAX)?;
        self.seen.insert(chunk.id, index);
        self.chunks.push(chunk);
        self.push_order(index)
    }

    /// Room for one more shard, whose reference may still change.
    fn push_shard(&mut self, shard: ShardRef) -> Result<u32, PackError> {
        let index = within("shards", self.shards.len(), SHARDS_MAX)?;
        self.shards.push(shard);
        Ok(index)
    }

    /// Refers to a chunk that an earlier restore point has stored.
    fn reuse(&mut self, previous: &mut Previous, id: ChunkId) -> Result<bool, PackError> {
        let Some(old) = previous.chunks.get(&id) else { return Ok(false) };
        let Some(shard_ref) = previous.shards.get(old.shard as usize) else { return Ok(false) };
        let shard = match previous.placed.get(&old.shard) {
            Some(shard) => *shard,
            None => {
                let shard = self.push_shard(*shard_ref)?;
                self.reused.push(shard);
                previous.placed.insert(old.shard, shard);
                shard
            }
        };
        self.push_chunk(ChunkRef { shard, ..old.clone() })?;
        Ok(true)
    }
}

impl<R: Read> Packer<R> {
    /// Packs `input` under the owner's key.
    ///
    /// # Errors
    /// [`PackError::Io`] when the compressor gets no memory.
    pub fn new(owner: &OwnerKey, input: R) -> Result<Self, PackError> {
        Self::with_cuts(owner, input, FILE_CUTS, SHARD_MAX_BYTES as usize)
    }

    /// Packs an update: shorter chunks, and shards of at most [`PACKAGE_SHARD_BYTES`].
    ///
    /// # Errors
    /// [`PackError::Io`] when the compressor gets no memory.
    pub fn for_package(owner: &OwnerKey, input: R) -> Result<Self, PackError> {
        Self::with_cuts(owner, input, PACKAGE_CUTS, PACKAGE_SHARD_BYTES)
    }

    fn with_cuts(owner: &OwnerKey, input: R, cuts: Cuts, shard_bytes: usize) -> Result<Self, PackError> {
        Ok(Self {
            secrets: owner.secrets(),
            chunker: Chunker::new(input, owner.gear(), cuts),
            encoder: Encoder::new()?,
            previous: Previous::default(),
            progress: Progress::new(),
            open: None,
            shard_bytes,
            state: State::Reading,
        })
    }

    /// Refers to the chunks of an earlier restore point of the same owner instead of storing them
    /// again. Call it before the first shard is taken, and only with a restore point whose shards
    /// still exist and whose leases the caller extends for the new one (see [`Packer::reused`]).
    #[must_use]
    pub fn with_previous(mut self, manifest: &Manifest) -> Self {
        let known: HashMap<ContentAddress, u32> =
            (0..).zip(&self.previous.shards).map(|(i, s)| (s.address, i)).collect();
        let mut places = Vec::with_capacity(manifest.shards.len());
        for shard in &manifest.shards {
            places.push(known.get(&shard.address).copied().unwrap_or_else(|| {
                self.previous.shards.push(*shard);
                (self.previous.shards.len() - 1) as u32
            }));
        }
        for chunk in &manifest.chunks {
            if let Some(place) = places.get(chunk.shard as usize) {
                self.previous.chunks.entry(chunk.id).or_insert(ChunkRef { shard: *place, ..chunk.clone() });
            }
        }
        self
    }

    /// Bytes of the stream that are packed, for showing progress.
    #[must_use]
    pub fn packed_bytes(&self) -> u64 {
        self.progress.size_bytes
    }

    /// Shards of earlier restore points to which the new one refers so far. They are in its
    /// manifest, are never yielded, and need a lease for the new reader key.
    pub fn reused(&self) -> impl Iterator<Item = ShardRef> + '_ {
        self.progress.reused.iter().filter_map(|i| self.progress.shards.get(*i as usize).copied())
    }

    /// The manifest, once the iterator has ended.
    ///
    /// # Errors
    /// [`PackError::Unfinished`], [`PackError::Details`].
    pub fn finish(self, details: BackupDetails) -> Result<Manifest, PackError> {
        if self.state != State::Done {
            return Err(PackError::Unfinished);
        }
        let manifest = Manifest {
            details,
            size_bytes: self.progress.size_bytes,
            content: ContentAddress::from(self.progress.hasher.finalize()),
            shards: self.progress.shards,
            chunks: self.progress.chunks,
            order: self.progress.order,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn next_shard(&mut self) -> Result<Option<Shard>, PackError> {
        while let Some(plain) = self.chunker.next_chunk()? {
            self.progress.read(plain)?;
            let id = self.secrets.chunk_id(plain);
            if let Some(index) = self.progress.seen.get(&id).copied() {
                self.progress.push_order(index)?;
                continue;
            }
            if self.progress.reuse(&mut self.previous, id)? {
                continue;
            }
            let encoded = self.encoder.encode(&self.secrets, plain)?;
            let full = self.open.take_if(|open| !open.has_room_for(encoded.sealed));
            let open = match &mut self.open {
                Some(open) => open,
                none => {
                    // The address is known only when the shard is full.
                    let unknown = ShardRef { address: ContentAddress::from_bytes([0; 32]), bytes: 0 };
                    none.insert(OpenShard::new(self.progress.push_shard(unknown)?, self.shard_bytes))
                }
            };
            self.progress.push_chunk(ChunkRef {
                shard: open.index(),
                offset: open.push(encoded.sealed),
                stored_bytes: encoded.sealed.len() as u32,
                plain_bytes: plain.len() as u32,
                codec: encoded.codec,
                key: encoded.key,
                id,
            })?;
            if let Some(full) = full {
                return Ok(Some(self.close(full)));
            }
        }
        self.state = State::Done;
        Ok(self.open.take().map(|last| self.close(last)))
    }

    fn close(&mut self, open: OpenShard) -> Shard {
        let (shard, reference) = open.finish(&self.secrets);
        if let Some(place) = self.progress.shards.get_mut(shard.index as usize) {
            *place = reference;
        }
        shard
    }
}

impl<R: Read> Iterator for Packer<R> {
    type Item = Result<Shard, PackError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state != State::Reading {
            return None;
        }
        let next = self.next_shard();
        if next.is_err() {
            self.state = State::Failed;
        }
        next.transpose()
    }
}
