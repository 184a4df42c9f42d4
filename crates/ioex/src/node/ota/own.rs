//! What this device runs, as a source of an update's chunks: most of them did not change, also in the first update
//! of a device that comes from the factory and has no shards.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use ioex_ota::swarm::Bits;
use ioex_vault::{ChunkRef, Manifest, OwnerKey, Parts};

/// A stream that runs here.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) path: PathBuf,
    /// No more of it is looked at.
    pub(crate) max_bytes: u64,
}

/// Files for the time of one update; a folder's archive goes with it.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) all: Vec<Stream>,
    pub(crate) archive: Option<PathBuf>,
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(archive) = &self.archive {
            let _ = fs::remove_file(archive);
        }
    }
}

/// The parts of one package that lie here.
pub(crate) struct Own {
    parts: Parts,
    files: Vec<File>,
    spared: Bits,
    _streams: Streams,
}

impl Own {
    /// Reads what runs, once.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn find(key: &OwnerKey, manifest: &Manifest, streams: Streams) -> io::Result<Self> {
        let open = |stream: &Stream| Ok(File::open(&stream.path)?.take(stream.max_bytes));
        let parts = Parts::find(key, manifest, streams.all.iter().map(open))?;
        let files = streams.all.iter().map(|stream| File::open(&stream.path)).collect::<io::Result<_>>()?;
        let mut spared = Bits::none(manifest.shards.len());
        for shard in parts.spared(manifest) {
            spared.insert(shard);
        }
        Ok(Self { parts, files, spared, _streams: streams })
    }

    /// Shards that are not needed.
    pub(crate) fn spared(&self) -> &Bits {
        &self.spared
    }

    /// A chunk, read and compared with its name; `None` when it is not here, or not any more.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn read(&self, chunk: &ChunkRef) -> io::Result<Option<Vec<u8>>> {
        let Some(place) = self.parts.place(chunk) else { return Ok(None) };
        let Some(file) = self.files.get(place.stream) else { return Ok(None) };
        let mut plain = vec![0; chunk.plain_bytes as usize];
        match file.read_exact_at(&mut plain, place.at) {
            Ok(()) => Ok(self.parts.is(chunk, &plain).then_some(plain)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }
}
