//! What the mesh asks of the lent space.

use std::{fs::File, io};

use ioex_base::{ContentAddress, GrantId, SealedHead, Uid, head_address};
use ioex_net::{
    Host,
    host::{Availability, Handover, PlaceStart, ShardSink},
    proto::{HeadAnswer, HeadStart, No, Place, PutHead, Renew},
    throttle::Throttle,
};
use ioex_store::{HeadPut, Put, PutStart, SHARD_OVERHEAD_BYTES, StoreError};

use super::{super::lenders_topic, Lent};

/// What the placer is told; what happened stays in the log.
fn told(e: StoreError) -> No {
    match e {
        StoreError::NoSpace { .. } | StoreError::TooManyLeases { .. } => No::NoSpace,
        StoreError::TooLarge { .. } | StoreError::LeaseLength { .. } => No::BadRequest,
        StoreError::WrongLength { .. }
        | StoreError::WrongAddress { .. }
        | StoreError::NoHead(_)
        | StoreError::IsHead(_) => No::Mismatch,
        StoreError::Closed => No::Paused,
        StoreError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
        {
            No::NoSpace
        }
        other => {
            tracing::warn!("a shard could not be stored: {other}");
            No::Failed
        }
    }
}

struct Sink(Put);

impl ShardSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), No> {
        self.0.write(bytes).map_err(told)
    }

    fn commit(self: Box<Self>) -> Result<(), No> {
        self.0.commit().map_err(told)
    }
}

impl Host for Lent {
    fn lends_space(&self) -> bool {
        self.store().is_some()
    }

    fn availability(&self) -> Availability {
        self.availability()
    }

    fn upload(&self) -> &Throttle {
        &self.upload
    }

    fn accepts_authority(&self, issuer: &Uid) -> bool {
        // Who cannot look at what it holds must not say that it is lost.
        self.authorities.contains(issuer) && self.store().is_some_and(|store| store.is_there())
    }

    fn is_revoked(&self, issuer: &Uid, id: &GrantId) -> bool {
        self.revoked.contains(issuer, id)
    }

    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool {
        self.store().is_some_and(|store| store.readers(address).contains(reader))
    }

    fn free_bytes(&self) -> u64 {
        if self.availability() != Availability::Open || self.settings().leaving {
            return 0;
        }
        self.usage().map_or(0, |usage| usage.free_bytes().min(self.disk_bytes()))
    }

    fn placed_bytes(&self, placer: &Uid) -> u64 {
        self.store().map_or(0, |store| store.placed_bytes(placer))
    }

    fn open_shard(&self, address: &ContentAddress) -> io::Result<Option<(File, u64)>> {
        match self.store().map(|store| store.open_shard(address)) {
            None | Some(Err(StoreError::NotHeld(_))) => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(e)) => Err(io::Error::other(e)),
        }
    }

    fn begin_place(&self, placer: &Uid, place: &Place) -> Result<PlaceStart, No> {
        let store = self.taking()?;
        if !store.contains(&place.address)
            && self.disk_bytes() < place.bytes.saturating_add(SHARD_OVERHEAD_BYTES)
        {
            return Err(No::NoSpace);
        }
        let lease = self.terms(placer, place.reader, place.expires)?.lease(place.bytes);
        match store.begin_put(place.address, lease).map_err(told)? {
            PutStart::Write(put) => Ok(PlaceStart::Write(Box::new(Sink(put)))),
            PutStart::AlreadyHeld => Ok(PlaceStart::AlreadyHeld),
        }
    }

    fn prove(&self, address: &ContentAddress, leaf: u32) -> Result<Option<Vec<u8>>, No> {
        self.prove(address, leaf)
    }

    fn handover(&self, placer: &Uid) -> Handover {
        self.handover(placer)
    }

    fn release(&self, placer: &Uid, addresses: &[ContentAddress]) -> Result<u32, No> {
        let Some(store) = self.store() else { return Ok(0) };
        store.release(placer, addresses).map(|released| released.leases).map_err(told)
    }

    fn renew(&self, placer: &Uid, renew: &Renew, max_bytes: u64) -> Result<Vec<bool>, No> {
        let Some(store) = self.store() else { return Ok(vec![false; renew.addresses.len()]) };
        let terms = self.terms(placer, renew.reader, renew.expires)?;
        store.renew(&renew.addresses, &terms, max_bytes).map_err(told)
    }

    fn begin_head(&self, placer: &Uid, put: &PutHead) -> Result<HeadStart, No> {
        let store = self.taking()?;
        let address = head_address(&put.repo);
        let Some(seq) = store.head_seq(&address).filter(|seq| *seq >= put.seq) else {
            return Ok(HeadStart::Send);
        };
        // The door has looked at the amount: this head may be leased.
        let terms = self.terms(placer, put.reader, put.expires)?;
        match store.renew(&[address], &terms, u64::MAX).map_err(told)?[..] {
            [true] => Ok(HeadStart::Newer(seq)),
            _ => Ok(HeadStart::Send),
        }
    }

    fn put_head(&self, placer: &Uid, put: &PutHead, bytes: &[u8]) -> Result<HeadAnswer, No> {
        let store = self.taking()?;
        let head = SealedHead::open(bytes).map_err(|_| No::Mismatch)?;
        if (head.repo, head.seq) != (put.repo, put.seq) {
            return Err(No::Mismatch);
        }
        let lease = self.terms(placer, put.reader, put.expires)?.lease(put.bytes);
        match store.put_head(bytes, lease).map_err(told)? {
            HeadPut::Kept => Ok(HeadAnswer::Kept),
            HeadPut::Newer(seq) => Ok(HeadAnswer::Newer(seq)),
        }
    }

    fn held(&self) -> Vec<ContentAddress> {
        let Some(store) = self.store() else { return Vec::new() };
        let mut out = store.addresses();
        // Super nodes look under this name for devices with space.
        if self.has_room() {
            out.push(lenders_topic());
        }
        out
    }
}
