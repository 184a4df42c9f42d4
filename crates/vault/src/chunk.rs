//! One chunk: compressed, encrypted, and back.

use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::{
    aead,
    limits::{CHUNK_MAX_BYTES, TAG_BYTES, ZSTD_LEVEL},
    manifest::{ChunkKey, ChunkRef, Codec},
    owner::Secrets,
};

/// Compresses and encrypts chunks; keeps its memory between them.
pub(crate) struct Encoder {
    compressor: Compressor<'static>,
    sealed: Vec<u8>,
}

/// A chunk as it will lie in a shard.
pub(crate) struct Encoded<'a> {
    pub(crate) codec: Codec,
    pub(crate) key: ChunkKey,
    pub(crate) sealed: &'a [u8],
}

impl Encoder {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(ZSTD_LEVEL)?, sealed: Vec::new() })
    }

    /// Encodes `plain`; stores it raw when compression does not shrink it.
    pub(crate) fn encode(&mut self, secrets: &Secrets, plain: &[u8]) -> io::Result<Encoded<'_>> {
        self.sealed.clear();
        self.sealed.reserve(zstd::zstd_safe::compress_bound(plain.len()).saturating_add(TAG_BYTES));
        self.compressor.compress_to_buffer(plain, &mut self.sealed)?;
        let codec = if self.sealed.len() < plain.len() { Codec::Zstd } else { Codec::Raw };
        if codec == Codec::Raw {
            self.sealed.clear();
            self.sealed.extend_from_slice(plain);
        }
        let key = secrets.chunk_key(codec, &self.sealed);
        aead::seal(&key.0, b"", &mut self.sealed, 0).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Encoded { codec, key, sealed: &self.sealed })
    }
}

/// Why a chunk of a verified shard cannot be read: the manifest lies about it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChunkError {
    /// It lies outside of its shard.
    #[error("a chunk lies outside of its shard")]
    Range,
    /// It was not encrypted under the manifest's key.
    #[error("a chunk does not decrypt")]
    Cipher,
    /// It is no compressed data, or longer than the manifest says.
    #[error("a chunk does not decompress to at most {expected} bytes")]
    Compression {
        /// Length by the manifest, in bytes.
        expected: u32,
    },
    /// It is shorter than the manifest says.
    #[error("a chunk has {got} bytes, the manifest says {expected}")]
    Length {
        /// Length by the manifest, in bytes.
        expected: u32,
        /// What came out, in bytes.
        got: usize,
    },
}

/// Decrypts and decompresses chunks; keeps its memory between them.
pub(crate) struct Decoder {
    decompressor: Decompressor<'static>,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, sealed: Vec::new(), plain: Vec::new() })
    }

    /// The plaintext of `chunk`, which lies in `shard`. Never takes more memory than the longest
    /// chunk, whatever the compressed data says about itself.
    pub(crate) fn decode(&mut self, chunk: &ChunkRef, shard: &[u8]) -> Result<&[u8], ChunkError> {
        let from = chunk.offset as usize;
        let range = from..from.saturating_add(chunk.stored_bytes as usize);
        self.decode_sealed(chunk, shard.get(range).ok_or(ChunkError::Range)?)
    }

    /// The same, given what is stored of the chunk alone.
    pub(crate) fn decode_sealed(&mut self, chunk: &ChunkRef, sealed: &[u8]) -> Result<&[u8], ChunkError> {
        let expected = chunk.plain_bytes;
        self.sealed.clear();
        self.sealed.extend_from_slice(sealed);
        let payload = aead::open(&chunk.key.0, b"", &mut self.sealed).map_err(|_| ChunkError::Cipher)?;
        let plain = match chunk.codec {
            Codec::Raw => payload,
            Codec::Zstd => {
                self.plain.resize((expected as usize).min(CHUNK_MAX_BYTES), 0);
                let len = self
                    .decompressor
                    .decompress_to_buffer(payload, self.plain.as_mut_slice())
                    .map_err(|_| ChunkError::Compression { expected })?;
                self.plain.get(..len).ok_or(ChunkError::Compression { expected })?
            }
        };
        if plain.len() != expected as usize {
            return Err(ChunkError::Length { expected, got: plain.len() });
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;
    use crate::{manifest::ChunkId, owner::OwnerKey, testing::noise};

    fn encode(plain: &[u8]) -> (ChunkRef, Vec<u8>) {
        let secrets = OwnerKey::from_bytes([7; 32]).secrets();
        let mut encoder = Encoder::new().unwrap();
        let encoded = encoder.encode(&secrets, plain).unwrap();
        let chunk = ChunkRef {
            shard: 0,
            offset: 0,
            stored_bytes: encoded.sealed.len() as u32,
            plain_bytes: plain.len() as u32,
            codec: encoded.codec,
            key: encoded.key,
            id: ChunkId([0; 16]),
        };
        (chunk, encoded.sealed.to_vec())
    }

    #[test]
    fn chunks_round_trip_and_shrink_when_they_can() {
        let mut decoder = Decoder::new().unwrap();
        for (plain, codec) in [
            (noise(CHUNK_MAX_BYTES, 1), Codec::Raw),
            (vec![5; CHUNK_MAX_BYTES], Codec::Zstd),
            (vec![5; 1], Codec::Raw),
            (noise(3_000, 2).repeat(9), Codec::Zstd),
        ] {
            let (chunk, shard) = encode(&plain);
            assert_eq!(chunk.codec, codec);
            assert!(decoder.decode(&chunk, &shard).unwrap() == plain);
        }
    }

    /// Frozen: what was stored once must stay readable, whatever compressor wrote it.
    #[test]
    fn golden_chunks_are_read() {
        let (chunk, shard) = encode(b"a raw chunk");
        assert_eq!(
            HEXLOWER.encode(&chunk.key.0),
            "aa746ed9430ae4344978d02e607492242dbf7477bfc1bb517a2890293aff1d60"
        );
        assert_eq!(HEXLOWER.encode(&shard), "f92e56aa110e7b96cc1b22fb110ac2449cd83a33333a23721f4066");

        // Written by zstd 1.5.7; another release may write other bytes, but must read these.
        let unhex = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
        let shard = unhex("425389dc4e08d9e5567e65532cd39216139c38f4ff8de3b7e4bafb882e93817590");
        let key = unhex("0a2232eaae049cc8660f2e6ae624d31f2393bb3e824513a44eebeb456cd06469");
        let chunk = ChunkRef {
            stored_bytes: shard.len() as u32,
            plain_bytes: 100,
            codec: Codec::Zstd,
            key: ChunkKey(key.try_into().unwrap()),
            ..chunk
        };
        assert_eq!(Decoder::new().unwrap().decode(&chunk, &shard), Ok([b'a'; 100].as_slice()));
    }

    #[test]
    fn lies_of_the_manifest_are_found() {
        let mut decoder = Decoder::new().unwrap();
        let (good, shard) = encode(&vec![1; 10_000]);
        let mut decode = |chunk: ChunkRef| decoder.decode(&chunk, &shard).map(<[u8]>::len);
        assert_eq!(decode(good.clone()), Ok(10_000));
        assert_eq!(decode(ChunkRef { offset: 1, ..good.clone() }), Err(ChunkError::Range));
        assert_eq!(
            decode(ChunkRef { offset: u32::MAX, stored_bytes: u32::MAX, ..good.clone() }),
            Err(ChunkError::Range)
        );
        assert_eq!(decode(ChunkRef { stored_bytes: 3, ..good.clone() }), Err(ChunkError::Cipher));
        assert_eq!(decode(ChunkRef { key: ChunkKey([0; 32]), ..good.clone() }), Err(ChunkError::Cipher));
        let short = ChunkRef { plain_bytes: 9_999, ..good.clone() };
        assert_eq!(decode(short), Err(ChunkError::Compression { expected: 9_999 }));
        let long = ChunkRef { plain_bytes: 10_001, ..good.clone() };
        assert_eq!(decode(long), Err(ChunkError::Length { expected: 10_001, got: 10_000 }));
        let absurd = ChunkRef { plain_bytes: u32::MAX, ..good.clone() };
        assert!(decode(absurd).is_err());
        assert!(decode(ChunkRef { codec: Codec::Raw, ..good }).is_err());
    }
}
