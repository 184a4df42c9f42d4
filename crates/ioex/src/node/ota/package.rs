//! A package that this node has, or is getting.

use std::{collections::HashSet, io};

use ioex_base::{ContentAddress, NodeKey, Uid};
use ioex_ota::swarm::Bits;
use ioex_vault::{JoinError, Joiner, Manifest, ManifestError, ShardRef, open_manifest};

use super::{own::Own, shelf::Shelf};

/// Why a package's manifest is of no use here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackageError {
    /// The disk.
    #[error("the package's files cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not here.
    #[error("the package's manifest is not here")]
    Missing,
    /// It cannot be opened with the channel's key, or makes no sense.
    #[error("the package's manifest cannot be used: {0}")]
    Manifest(#[from] ManifestError),
    /// It runs, and changed since it was looked at.
    #[error("what runs changed while parts of it were taken for the package")]
    Changed,
    /// Its shards do not fit together.
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// What it consists of, and whose vouchers count.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) address: ContentAddress,
    pub(crate) manifest: Manifest,
    /// Super nodes whose vouchers and passes count.
    pub(crate) matchers: HashSet<Uid>,
    /// Whether this node is one that the maker put it on.
    pub(crate) origin: bool,
}

impl Package {
    /// Opens a manifest that is on the shelf.
    ///
    /// # Errors
    /// [`PackageError`].
    pub(crate) fn open(
        shelf: &Shelf,
        address: ContentAddress,
        key: &NodeKey,
        matchers: HashSet<Uid>,
        origin: bool,
    ) -> Result<Self, PackageError> {
        let sealed = shelf.manifest(&address)?.ok_or(PackageError::Missing)?;
        let (manifest, _) = open_manifest(&sealed, key)?;
        Ok(Self { address, manifest, matchers, origin })
    }

    /// Its shards.
    pub(crate) fn shards(&self) -> &[ShardRef] {
        &self.manifest.shards
    }

    /// Their lengths in bytes.
    pub(crate) fn sizes(&self) -> Vec<u32> {
        self.shards().iter().map(|shard| shard.bytes).collect()
    }

    /// Which of them are on the shelf, each read and compared.
    pub(crate) fn held(&self, shelf: &Shelf) -> Bits {
        let mut held = Bits::none(self.shards().len());
        for (number, shard) in (0..).zip(self.shards()) {
            if shelf.is_whole(&shard.address, shard.bytes) {
                held.insert(number);
            }
        }
        held
    }

    /// The package from byte `at` on, chunk by chunk, to `write`: from shards, and where these are not here from `own`.
    ///
    /// # Errors
    /// [`PackageError`], or what `write` says.
    pub(crate) fn join<E: From<PackageError>>(
        &self,
        shelf: &Shelf,
        own: Option<&Own>,
        at: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut joiner = Joiner::new(&self.manifest, at).map_err(PackageError::from)?;
        let read = |shard: u32, range| {
            let known = self.shards().get(shard as usize).ok_or(io::ErrorKind::InvalidData)?;
            shelf.read(&known.address, range)
        };
        while let Some((chunk, skip)) = joiner.coming() {
            let shard = self.shards().get(chunk.shard as usize);
            let own = own.filter(|_| shard.is_some_and(|shard| !shelf.has(&shard.address, shard.bytes)));
            if let Some(own) = own {
                let plain = own.read(chunk).map_err(PackageError::from)?.ok_or(PackageError::Changed)?;
                write(plain.get(skip..).unwrap_or_default())?;
                joiner.pass();
            } else if let Some(plain) = joiner.next(read).map_err(PackageError::from)? {
                write(plain)?;
            }
        }
        Ok(())
    }
}
