//! Placing shards on devices and reading them back, under grants (the super node's and the
//! restorer's side; the device's side is in `serve`).

use ioex_base::{ContentAddress, SignedGrant, Uid, UnixSeconds, limits::SHARD_MAX_BYTES};

use crate::{
    door::Door,
    frame,
    links::{LinkError, PathKind, broken},
    mesh::Mesh,
    proto::{ANSWER_MAX_BYTES, Answer, Capacity, No, Open, Place, PlaceAnswer},
    transfer::fetch::{self, Access, FetchError},
};

/// Why a shard could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The device cannot be reached or broke off.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The device said no.
    #[error("the device refused: {0}")]
    No(#[from] No),
}

impl Mesh {
    /// How much `device` takes under this grant.
    ///
    /// # Errors
    /// When the device cannot be reached or refuses the grant.
    pub async fn shard_capacity(&self, device: Uid, grant: &SignedGrant) -> Result<Capacity, PlaceError> {
        match self.links()?.ask(device, Door::Grant, &Open::Capacity(grant.clone())).await? {
            Answer::Yes(capacity) => Ok(capacity),
            Answer::No(no) => Err(no.into()),
        }
    }

    /// Stores a shard on `device`; returns once it is on the device's disk.
    ///
    /// # Errors
    /// When the device cannot be reached, refuses, or has no space.
    pub async fn shard_place(
        &self,
        device: Uid,
        grant: &SignedGrant,
        reader: Uid,
        expires: UnixSeconds,
        address: ContentAddress,
        bytes: &bytes::Bytes,
    ) -> Result<PlaceAnswer, PlaceError> {
        let place = Place { grant: grant.clone(), address, bytes: bytes.len() as u64, reader, expires };
        let links = self.links()?;
        let (conn, mut send, mut recv) = links.open(device, Door::Grant, &Open::Place(place)).await?;
        let first: Answer<PlaceAnswer> =
            frame::read(&mut recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(&conn, e))?;
        match first {
            Answer::No(no) => return Err(no.into()),
            Answer::Yes(PlaceAnswer::AlreadyHeld) => return Ok(PlaceAnswer::AlreadyHeld),
            Answer::Yes(PlaceAnswer::Send) => {}
        }
        send.write_chunk(bytes.clone()).await.map_err(|e| LinkError::Broken(e.to_string()))?;
        // The answer shows whether the device got everything.
        let _ = send.finish();
        let second: Answer<()> =
            frame::read(&mut recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(&conn, e))?;
        match second {
            Answer::Yes(()) => Ok(PlaceAnswer::Send),
            Answer::No(no) => Err(no.into()),
        }
    }

    /// Reads a shard of `bytes` bytes from `device` and verifies it.
    ///
    /// # Errors
    /// When the device does not have it, refuses the grant, or sends something else.
    pub async fn shard_fetch(
        &self,
        device: Uid,
        grant: &SignedGrant,
        address: ContentAddress,
        bytes: u64,
    ) -> Result<(Vec<u8>, PathKind), FetchError> {
        if bytes > SHARD_MAX_BYTES {
            return Err(FetchError::WrongBytes);
        }
        let links = self.links()?;
        fetch::whole(&links, device, &Access::Granted(grant.clone()), address, bytes).await
    }
}
