//! Placing shards and heads on devices, keeping them there and reading them back, under grants
//! (the super node's and the restorer's side; the device's side is in `serve`).

use bytes::Bytes;
use ioex_base::{
    ContentAddress, SealError, SealedHead, SignedGrant, Uid, UnixSeconds,
    limits::{HEAD_MAX_BYTES, SHARD_MAX_BYTES},
};
use iroh::endpoint::{Connection, RecvStream};
use serde::de::DeserializeOwned;

use crate::{
    door::Door,
    frame,
    links::{LinkError, PathKind, broken, in_time},
    mesh::Mesh,
    proto::{
        ANSWER_MAX_BYTES, AUDIT_ASKS_MAX, Answer, Audit, AuditAnswer, Capacity, HANDOVER_MAX, HeadAnswer,
        HeadStart, LEASES_AT_ONCE_MAX, No, Open, PROOF_MAX_BYTES, Place, PlaceAnswer, PutHead, Release,
        Renew,
    },
    transfer::fetch::{self, Access, FetchError},
};

/// Why a shard could not be placed, kept or asked after.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The device cannot be reached or broke off.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The device said no.
    #[error("the device refused: {0}")]
    No(#[from] No),
    /// More at once than one question holds.
    #[error("one question holds at most {max} of these, not {got}")]
    TooMany {
        /// The bound.
        max: usize,
        /// How many there were.
        got: usize,
    },
    /// No head to store.
    #[error("this is no head: {0}")]
    Head(#[from] SealError),
    /// The device answered something else than was asked.
    #[error("the device answered something else than it was asked")]
    WrongAnswer,
}

fn yes<T>(answer: Answer<T>) -> Result<T, PlaceError> {
    match answer {
        Answer::Yes(value) => Ok(value),
        Answer::No(no) => Err(no.into()),
    }
}

/// The next answer on a stream.
async fn answer<T: DeserializeOwned>(conn: &Connection, recv: &mut RecvStream) -> Result<T, PlaceError> {
    yes(frame::read(recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(conn, e))?)
}

/// Refuses more than one question holds.
fn at_most(max: usize, got: usize) -> Result<(), PlaceError> {
    if got > max { Err(PlaceError::TooMany { max, got }) } else { Ok(()) }
}

impl Mesh {
    /// How much `device` takes under this grant.
    ///
    /// # Errors
    /// When the device cannot be reached or refuses the grant.
    pub async fn shard_capacity(&self, device: Uid, grant: &SignedGrant) -> Result<Capacity, PlaceError> {
        yes(in_time(self.links()?.ask(device, Door::Grant, &Open::Capacity(grant.clone()))).await?)
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
        bytes: &Bytes,
    ) -> Result<PlaceAnswer, PlaceError> {
        let place = Place { grant: grant.clone(), address, bytes: bytes.len() as u64, reader, expires };
        let links = self.links()?;
        let (conn, mut send, mut recv) = links.open(device, Door::Grant, &Open::Place(place)).await?;
        match answer(&conn, &mut recv).await? {
            PlaceAnswer::AlreadyHeld => return Ok(PlaceAnswer::AlreadyHeld),
            PlaceAnswer::Send => {}
        }
        // The answer shows whether the device got everything, and if not, why: one whose disk is full
        // takes no more bytes and says so.
        let _ = send.write_chunk(bytes.clone()).await;
        let _ = send.finish();
        answer::<()>(&conn, &mut recv).await?;
        Ok(PlaceAnswer::Send)
    }

    /// Has `device` prove that it holds leaves of shards, and hears what it would rather give
    /// back. The proofs are not verified here.
    ///
    /// # Errors
    /// When the device cannot be reached or refuses the grant, with more than
    /// [`AUDIT_ASKS_MAX`] leaves, or when it answers something else.
    pub async fn shard_audit(
        &self,
        device: Uid,
        grant: &SignedGrant,
        asks: Vec<(ContentAddress, u32)>,
    ) -> Result<AuditAnswer, PlaceError> {
        at_most(AUDIT_ASKS_MAX, asks.len())?;
        let asked = asks.len();
        let open = Open::Audit(Audit { grant: grant.clone(), asks });
        let told: AuditAnswer = yes(in_time(self.links()?.ask(device, Door::Grant, &open)).await?)?;
        let short = |proof: &Option<Vec<u8>>| proof.as_ref().is_none_or(|p| p.len() <= PROOF_MAX_BYTES);
        let fits = told.proofs.len() == asked && told.handover.len() <= HANDOVER_MAX;
        (fits && told.proofs.iter().all(short)).then_some(told).ok_or(PlaceError::WrongAnswer)
    }

    /// Ends this node's leases on `device` and returns how many there were. What nobody else
    /// leases is deleted there.
    ///
    /// # Errors
    /// When the device cannot be reached or refuses, and with more than [`LEASES_AT_ONCE_MAX`]
    /// addresses.
    pub async fn shard_release(
        &self,
        device: Uid,
        grant: &SignedGrant,
        addresses: Vec<ContentAddress>,
    ) -> Result<u32, PlaceError> {
        at_most(LEASES_AT_ONCE_MAX, addresses.len())?;
        let open = Open::Release(Release { grant: grant.clone(), addresses });
        yes(in_time(self.links()?.ask(device, Door::Grant, &open)).await?)
    }

    /// Keeps shards and heads on `device` until `expires`, without moving them. Returns for each
    /// whether it is held there: what is not has to be placed anew.
    ///
    /// # Errors
    /// When the device cannot be reached or refuses, with more than [`LEASES_AT_ONCE_MAX`]
    /// addresses, or when it answers something else.
    pub async fn shard_renew(
        &self,
        device: Uid,
        grant: &SignedGrant,
        reader: Uid,
        expires: UnixSeconds,
        addresses: Vec<ContentAddress>,
    ) -> Result<Vec<bool>, PlaceError> {
        at_most(LEASES_AT_ONCE_MAX, addresses.len())?;
        let asked = addresses.len();
        let open = Open::Renew(Renew { grant: grant.clone(), reader, expires, addresses });
        let held: Vec<bool> = yes(in_time(self.links()?.ask(device, Door::Grant, &open)).await?)?;
        (held.len() == asked).then_some(held).ok_or(PlaceError::WrongAnswer)
    }

    /// Stores a head on `device`; returns once it is on the device's disk, or once it is known
    /// that the device has one that is no older.
    ///
    /// # Errors
    /// When `head` is none, when the device cannot be reached, refuses, or has no space.
    pub async fn head_put(
        &self,
        device: Uid,
        grant: &SignedGrant,
        reader: Uid,
        expires: UnixSeconds,
        head: &Bytes,
    ) -> Result<HeadAnswer, PlaceError> {
        let SealedHead { repo, seq, .. } = SealedHead::open(head)?;
        let put = PutHead { grant: grant.clone(), repo, seq, bytes: head.len() as u64, reader, expires };
        let links = self.links()?;
        let (conn, mut send, mut recv) = links.open(device, Door::Grant, &Open::PutHead(put)).await?;
        match answer(&conn, &mut recv).await? {
            HeadStart::Newer(seq) => return Ok(HeadAnswer::Newer(seq)),
            HeadStart::Send => {}
        }
        // As for a shard.
        let _ = send.write_chunk(head.clone()).await;
        let _ = send.finish();
        answer(&conn, &mut recv).await
    }

    /// Reads the head that `device` holds under `address`. Its signature is for the caller to
    /// check ([`SealedHead::open`]).
    ///
    /// # Errors
    /// When the device does not have it, refuses the grant, or sends something else.
    pub async fn head_fetch(
        &self,
        device: Uid,
        grant: &SignedGrant,
        address: ContentAddress,
    ) -> Result<Vec<u8>, FetchError> {
        let (access, max) = (Access::Granted(grant.clone()), HEAD_MAX_BYTES as u64);
        fetch::all(&*self.links()?, device, &access, address, max).await
    }

    /// Reads `len` bytes from `start` of a shard of `shard_len` bytes. They are not verified
    /// here: whoever decrypts them notices.
    ///
    /// # Errors
    /// When the device does not have it, refuses the grant, or sends something else.
    pub async fn shard_fetch_range(
        &self,
        device: Uid,
        grant: &SignedGrant,
        address: ContentAddress,
        shard_len: u64,
        start: u64,
        len: u64,
    ) -> Result<(Vec<u8>, PathKind), FetchError> {
        let inside = start.checked_add(len).is_some_and(|end| end <= shard_len);
        if shard_len > SHARD_MAX_BYTES || !inside {
            return Err(FetchError::WrongBytes);
        }
        let access = Access::Granted(grant.clone());
        fetch::part(&*self.links()?, device, &access, address, shard_len, start..start + len).await
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
