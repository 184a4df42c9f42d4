//! What the mesh needs from the node it runs in: the space that the owner lends.
//!
//! The mesh knows nothing of disks. A node that lends nothing uses [`NoHost`].

use std::fs::File;

use ioex_base::{ContentAddress, GrantId, Uid};

use crate::{
    proto::{HeadAnswer, HeadStart, No, Place, PutHead, Renew},
    throttle::Throttle,
};

/// The node's side of placing, keeping and reading shards and heads. All calls may block on the
/// disk and are made from blocking threads; the questions of the door are answered from memory.
pub trait Host: Send + Sync + 'static {
    /// Whether anything can be placed or read here at all.
    fn lends_space(&self) -> bool;
    /// Whether the owner lets the device do something for others now.
    fn availability(&self) -> Availability;
    /// What everything that is sent out of the lent space waits at.
    fn upload(&self) -> &Throttle;
    /// Whether this key may say which super nodes place shards here.
    fn accepts_authority(&self, issuer: &Uid) -> bool;
    /// Whether `issuer` revoked its grant with this id.
    fn is_revoked(&self, issuer: &Uid, id: &GrantId) -> bool;
    /// Whether this shard or head is held under a lease with this reader key.
    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool;
    /// Space left of what the owner lends, in bytes.
    fn free_bytes(&self) -> u64;
    /// What this super node has placed here already, in bytes.
    fn placed_bytes(&self, placer: &Uid) -> u64;
    /// Opens a held shard or head; `None` when it is not here.
    ///
    /// # Errors
    /// When the disk fails.
    fn open_shard(&self, address: &ContentAddress) -> std::io::Result<Option<(File, u64)>>;
    /// Makes room for a shard that `placer` wants to store.
    ///
    /// # Errors
    /// Why not, as the placer is told.
    fn begin_place(&self, placer: &Uid, place: &Place) -> Result<PlaceStart, No>;
    /// Proves that a leaf of a held shard is here: bytes that whoever asked verifies, at most
    /// [`PROOF_MAX_BYTES`](crate::proto::PROOF_MAX_BYTES). `None` when the shard is not here or has
    /// no such leaf.
    ///
    /// # Errors
    /// When it cannot be told now, such as without the disk.
    fn prove(&self, address: &ContentAddress, leaf: u32) -> Result<Option<Vec<u8>>, No>;
    /// What of this super node's shards the owner wants to be rid of.
    fn handover(&self, placer: &Uid) -> Handover;
    /// Ends the leases of `placer` on these; returns how many there were.
    ///
    /// # Errors
    /// When the disk fails.
    fn release(&self, placer: &Uid, addresses: &[ContentAddress]) -> Result<u32, No>;
    /// Extends the leases of `placer`, or adds them as long as no more than `max_bytes` are leased
    /// by it then. Returns for each address whether it is held under such a lease now.
    ///
    /// # Errors
    /// Why not, as the placer is told.
    fn renew(&self, placer: &Uid, renew: &Renew, max_bytes: u64) -> Result<Vec<bool>, No>;
    /// Whether the bytes of a head are wanted.
    ///
    /// # Errors
    /// Why not, as the placer is told.
    fn begin_head(&self, placer: &Uid, put: &PutHead) -> Result<HeadStart, No>;
    /// Verifies a head and makes it durable.
    ///
    /// # Errors
    /// Why not, as the placer is told.
    fn put_head(&self, placer: &Uid, put: &PutHead, bytes: &[u8]) -> Result<HeadAnswer, No>;
    /// Everything held, for announcing it.
    fn held(&self) -> Vec<ContentAddress>;
}

/// What a device does for others at the moment, as its owner set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Everything.
    Open,
    /// It keeps what it holds, proves it and renews its leases; it takes and sends nothing.
    Paused,
    /// Nothing. What it holds it keeps.
    Off,
}

/// What a device would rather give back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// How many bytes.
    pub excess_bytes: u64,
    /// Which ones, as far as one answer names them.
    pub addresses: Vec<ContentAddress>,
}

/// What [`Host::begin_place`] decided.
pub enum PlaceStart {
    /// It is here already; its lease was extended.
    AlreadyHeld,
    /// Write it here.
    Write(Box<dyn ShardSink>),
}

/// Takes a shard's bytes. Dropping it without a commit leaves nothing behind.
pub trait ShardSink: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// When the disk fails or more came than was announced.
    fn write(&mut self, bytes: &[u8]) -> Result<(), No>;
    /// Verifies the address and makes the shard durable.
    ///
    /// # Errors
    /// When the bytes are not what was announced, or the disk fails.
    fn commit(self: Box<Self>) -> Result<(), No>;
}

/// Lends nothing.
#[derive(Debug, Default)]
pub struct NoHost(Throttle);

impl Host for NoHost {
    fn lends_space(&self) -> bool {
        false
    }
    fn availability(&self) -> Availability {
        Availability::Off
    }
    fn upload(&self) -> &Throttle {
        &self.0
    }
    fn accepts_authority(&self, _issuer: &Uid) -> bool {
        false
    }
    fn is_revoked(&self, _issuer: &Uid, _id: &GrantId) -> bool {
        false
    }
    fn is_reader(&self, _address: &ContentAddress, _reader: &Uid) -> bool {
        false
    }
    fn free_bytes(&self) -> u64 {
        0
    }
    fn placed_bytes(&self, _placer: &Uid) -> u64 {
        0
    }
    fn open_shard(&self, _address: &ContentAddress) -> std::io::Result<Option<(File, u64)>> {
        Ok(None)
    }
    fn begin_place(&self, _placer: &Uid, _place: &Place) -> Result<PlaceStart, No> {
        Err(No::NoSpace)
    }
    fn prove(&self, _address: &ContentAddress, _leaf: u32) -> Result<Option<Vec<u8>>, No> {
        Ok(None)
    }
    fn handover(&self, _placer: &Uid) -> Handover {
        Handover::default()
    }
    fn release(&self, _placer: &Uid, _addresses: &[ContentAddress]) -> Result<u32, No> {
        Ok(0)
    }
    fn renew(&self, _placer: &Uid, renew: &Renew, _max_bytes: u64) -> Result<Vec<bool>, No> {
        Ok(vec![false; renew.addresses.len()])
    }
    fn begin_head(&self, _placer: &Uid, _put: &PutHead) -> Result<HeadStart, No> {
        Err(No::NoSpace)
    }
    fn put_head(&self, _placer: &Uid, _put: &PutHead, _bytes: &[u8]) -> Result<HeadAnswer, No> {
        Err(No::NoSpace)
    }
    fn held(&self) -> Vec<ContentAddress> {
        Vec::new()
    }
}
