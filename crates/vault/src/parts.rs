//! Chunks of a package that lie in what a device runs already: found by cutting that as the package's maker does.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use crate::{
    chunker::Chunker,
    limits::PACKAGE_CUTS,
    manifest::{ChunkId, ChunkRef, Manifest},
    owner::{OwnerKey, Secrets},
};

/// Where a chunk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which of the streams.
    pub stream: usize,
    /// At which byte.
    pub at: u64,
}

/// Which chunks of one package lie where. Holds some 50 bytes for each, and nothing of their content.
pub struct Parts {
    secrets: Secrets,
    found: HashMap<ChunkId, Place>,
}

impl Parts {
    /// Reads streams from front to back, with one buffer of half a megabyte, and notes the chunks that the package has.
    ///
    /// # Errors
    /// When a stream cannot be read.
    pub fn find<R: Read>(
        owner: &OwnerKey,
        manifest: &Manifest,
        streams: impl IntoIterator<Item = io::Result<R>>,
    ) -> io::Result<Self> {
        let secrets = owner.secrets();
        let wanted: HashMap<ChunkId, u32> =
            manifest.chunks.iter().map(|chunk| (chunk.id, chunk.plain_bytes)).collect();
        let mut found = HashMap::new();
        for (stream, input) in streams.into_iter().enumerate() {
            let mut chunker = Chunker::new(input?, owner.gear(), PACKAGE_CUTS);
            let mut at = 0;
            while let Some(plain) = chunker.next_chunk()? {
                let id = secrets.chunk_id(plain);
                if wanted.get(&id).is_some_and(|bytes| *bytes as usize == plain.len()) {
                    found.entry(id).or_insert(Place { stream, at });
                }
                at += plain.len() as u64;
            }
        }
        Ok(Self { secrets, found })
    }

    /// Shards of which nothing is needed, because all of their chunks were found; by their indexes.
    #[must_use]
    pub fn spared(&self, manifest: &Manifest) -> Vec<u32> {
        let mut spared = vec![true; manifest.shards.len()];
        for chunk in &manifest.chunks {
            if let Some(shard) = spared.get_mut(chunk.shard as usize) {
                *shard &= self.found.contains_key(&chunk.id);
            }
        }
        (0..).zip(spared).filter_map(|(shard, spared)| spared.then_some(shard)).collect()
    }

    /// Where a chunk was found.
    #[must_use]
    pub fn place(&self, chunk: &ChunkRef) -> Option<Place> {
        self.found.get(&chunk.id).copied()
    }

    /// Whether these bytes are the chunk: to be asked of what is read later, for what runs may have changed.
    #[must_use]
    pub fn is(&self, chunk: &ChunkRef, plain: &[u8]) -> bool {
        plain.len() == chunk.plain_bytes as usize && self.secrets.chunk_id(plain) == chunk.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Packer,
        testing::{noise, package_details},
    };

    fn packed(bytes: &[u8], key: u8) -> Manifest {
        let mut packer = Packer::for_package(&OwnerKey::from_bytes([key; 32]), bytes).unwrap();
        assert!(packer.by_ref().all(|shard| shard.is_ok()));
        packer.finish(package_details()).unwrap()
    }

    #[test]
    fn what_did_not_change_is_found_where_it_lies_and_only_that_counts() {
        let old = noise(8 << 20, 1);
        let mut new = old.clone();
        new[4 << 20..(4 << 20) + 1000].copy_from_slice(&noise(1000, 2));
        let manifest = packed(&new, 7);
        let parts = |key: u8| {
            let owner = OwnerKey::from_bytes([key; 32]);
            // A slot is longer than the image in it.
            let slot = [old.clone(), vec![0; 1 << 20]].concat();
            Parts::find(&owner, &manifest, [Ok(&b"another image"[..]), Ok(&slot[..])]).unwrap()
        };
        let own = parts(7);
        let (spared, all) = (own.spared(&manifest).len(), manifest.shards.len());
        assert!(spared < all && spared + 2 >= all, "{spared} of {all}");
        let mut changed = 0;
        for chunk in &manifest.chunks {
            let Some(place) = own.place(chunk) else {
                changed += 1;
                continue;
            };
            let from = usize::try_from(place.at).unwrap();
            let plain = &old[from..from + chunk.plain_bytes as usize];
            assert!(place.stream == 1 && own.is(chunk, plain));
            let mut other = plain.to_vec();
            other[0] ^= 1;
            assert!(!own.is(chunk, &other) && !own.is(chunk, &plain[1..]));
        }
        assert!((1..=3).contains(&changed), "{changed}");
        // Under another key nothing is found.
        assert!(parts(8).spared(&manifest).is_empty());
    }
}
