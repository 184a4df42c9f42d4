//! Measurements of packing: each stage alone over the same bytes, and all of them together.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
    time::Instant,
};

use serde::Serialize;
use zstd::bulk::Compressor;

use crate::{
    OwnerKey, aead,
    chunker::Chunker,
    limits::{REPO_CUTS, ZSTD_LEVEL},
    repo::{
        Index, Walk,
        backup::{self, BackupError, Progress, Run, Source},
    },
};

/// Bytes that the stages are measured on; the rest of the files is only packed.
const SAMPLE_BYTES: usize = 256 * 1024 * 1024;
/// Chunks of the sample: what a file is cut into on average.
const CHUNK_BYTES: usize = REPO_CUTS.average_bytes;

/// Bytes of plaintext per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// Finding the cuts.
    pub chunk: f64,
    /// Naming chunks.
    pub hash: f64,
    /// Compressing.
    pub compress: f64,
    /// Encrypting, had nothing been compressed.
    pub encrypt: f64,
    /// All of it, reading files included.
    pub pack: f64,
}

fn rate(bytes: usize, work: impl FnOnce() -> io::Result<()>) -> io::Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64().max(1e-9))
}

fn sample(walk: &Walk) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(SAMPLE_BYTES);
    for path in walk.files() {
        let room = SAMPLE_BYTES.saturating_sub(out.len());
        if room == 0 {
            break;
        }
        fs::File::open(path)?.take(room as u64).read_to_end(&mut out)?;
    }
    Ok(out)
}

/// Measures with the files below `paths`.
///
/// # Errors
/// When they cannot be read.
pub fn rates(paths: &[PathBuf]) -> Result<Rates, BackupError> {
    let walk = Walk::new(paths, &[], false).map_err(io::Error::other)?;
    let (owner, data) = (OwnerKey::from_bytes([1; 32]), sample(&walk)?);
    let secrets = owner.secrets();
    let chunk = rate(data.len(), || {
        let mut chunker = Chunker::new(data.as_slice(), owner.gear(), REPO_CUTS);
        while chunker.next_chunk()?.is_some() {}
        Ok(())
    })?;
    let hash = rate(data.len(), || {
        data.chunks(CHUNK_BYTES).for_each(|part| {
            std::hint::black_box(secrets.chunk_id(part));
        });
        Ok(())
    })?;
    let compress = rate(data.len(), || {
        let mut compressor = Compressor::new(ZSTD_LEVEL)?;
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(CHUNK_BYTES));
        for part in data.chunks(CHUNK_BYTES) {
            out.clear();
            compressor.compress_to_buffer(part, &mut out)?;
        }
        Ok(())
    })?;
    let encrypt = rate(data.len(), || {
        let mut out = Vec::with_capacity(CHUNK_BYTES + 16);
        for part in data.chunks(CHUNK_BYTES) {
            out.clear();
            out.extend_from_slice(part);
            aead::seal(&[1; 32], b"", &mut out, 0).map_err(|_| io::ErrorKind::InvalidData)?;
        }
        Ok(())
    })?;
    drop(data);
    let listing = std::env::temp_dir().join(format!("ioex-lab-pack-{}", std::process::id()));
    let run = Run {
        source: Source::Tree(walk),
        before: None,
        listing: &listing,
        shard_bytes: ioex_base::limits::SHARD_MAX_BYTES as usize,
        shard_chunks: crate::repo::SEGMENT_CHUNKS_MAX,
        encoders: 1,
        inspect: &|_| Ok(()),
    };
    let begun = Instant::now();
    let outcome = backup::run(&owner, &Index::default(), run, &Progress::default(), &|_| Ok(()));
    let seconds = begun.elapsed().as_secs_f64();
    let _ = fs::remove_file(&listing);
    let pack = outcome?.totals.bytes as f64 / seconds;
    Ok(Rates { chunk, hash, compress, encrypt, pack })
}
