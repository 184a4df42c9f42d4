//! A host that keeps shards and heads in memory.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    sync::{Arc, Mutex, MutexGuard},
};

use ioex_base::{ContentAddress, GrantId, SealedHead, Uid, UnixSeconds, head_address};
use ioex_net::{
    Host,
    host::{Availability, Handover, PlaceStart, ShardSink},
    proto::{HeadAnswer, HeadStart, No, Place, PutHead, Renew},
    throttle::Throttle,
};

/// What is held under an address.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub bytes: Vec<u8>,
    /// Placer, reader, end.
    pub leases: Vec<(Uid, Uid, UnixSeconds)>,
}

impl Kept {
    fn lease(&mut self, placer: Uid, reader: Uid, expires: UnixSeconds) {
        self.leases.retain(|lease| (lease.0, lease.1) != (placer, reader));
        self.leases.push((placer, reader, expires));
    }
}

type Held = Arc<Mutex<HashMap<ContentAddress, Kept>>>;

pub struct Shelf {
    authority: Uid,
    pub revoked: Mutex<Vec<GrantId>>,
    held: Held,
    pub handover: Mutex<Handover>,
    pub availability: Mutex<Availability>,
    pub upload: Throttle,
}

impl Shelf {
    pub fn new(authority: Uid) -> Arc<Self> {
        Arc::new(Self {
            authority,
            revoked: Mutex::default(),
            held: Held::default(),
            handover: Mutex::default(),
            availability: Mutex::new(Availability::Open),
            upload: Throttle::default(),
        })
    }

    pub fn kept(&self) -> MutexGuard<'_, HashMap<ContentAddress, Kept>> {
        self.held.lock().unwrap()
    }
}

struct Sink {
    held: Held,
    place: Place,
    placer: Uid,
    bytes: Vec<u8>,
}

impl ShardSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<(), No> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    fn commit(self: Box<Self>) -> Result<(), No> {
        if ContentAddress::of(&self.bytes) != self.place.address {
            return Err(No::Mismatch);
        }
        let lease = (self.placer, self.place.reader, self.place.expires);
        let kept = Kept { bytes: self.bytes, leases: vec![lease] };
        self.held.lock().unwrap().insert(self.place.address, kept);
        Ok(())
    }
}

impl Host for Shelf {
    fn lends_space(&self) -> bool {
        true
    }
    fn availability(&self) -> Availability {
        *self.availability.lock().unwrap()
    }
    fn upload(&self) -> &Throttle {
        &self.upload
    }
    fn accepts_authority(&self, issuer: &Uid) -> bool {
        *issuer == self.authority
    }
    fn is_revoked(&self, issuer: &Uid, id: &GrantId) -> bool {
        *issuer == self.authority && self.revoked.lock().unwrap().contains(id)
    }
    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool {
        self.kept().get(address).is_some_and(|kept| kept.leases.iter().any(|lease| lease.1 == *reader))
    }
    fn free_bytes(&self) -> u64 {
        10_000_000
    }
    fn placed_bytes(&self, placer: &Uid) -> u64 {
        let his = |kept: &&Kept| kept.leases.iter().any(|lease| lease.0 == *placer);
        self.kept().values().filter(his).map(|kept| kept.bytes.len() as u64).sum()
    }
    fn open_shard(&self, address: &ContentAddress) -> std::io::Result<Option<(File, u64)>> {
        let held = self.kept();
        let Some(kept) = held.get(address) else { return Ok(None) };
        let mut file = tempfile::tempfile()?;
        file.write_all(&kept.bytes)?;
        Ok(Some((file, kept.bytes.len() as u64)))
    }
    fn begin_place(&self, placer: &Uid, place: &Place) -> Result<PlaceStart, No> {
        if let Some(kept) = self.kept().get_mut(&place.address) {
            kept.lease(*placer, place.reader, place.expires);
            return Ok(PlaceStart::AlreadyHeld);
        }
        let sink = Sink { held: self.held.clone(), place: place.clone(), placer: *placer, bytes: Vec::new() };
        Ok(PlaceStart::Write(Box::new(sink)))
    }
    fn prove(&self, address: &ContentAddress, leaf: u32) -> Result<Option<Vec<u8>>, No> {
        let held = self.kept();
        let leaf = held.get(address).and_then(|kept| kept.bytes.chunks(1024).nth(leaf as usize));
        Ok(leaf.map(<[u8]>::to_vec))
    }
    fn handover(&self, _placer: &Uid) -> Handover {
        self.handover.lock().unwrap().clone()
    }
    fn release(&self, placer: &Uid, addresses: &[ContentAddress]) -> Result<u32, No> {
        let mut ended = 0;
        self.kept().retain(|address, kept| {
            if !addresses.contains(address) {
                return true;
            }
            let before = kept.leases.len();
            kept.leases.retain(|lease| lease.0 != *placer);
            ended += before - kept.leases.len();
            !kept.leases.is_empty()
        });
        Ok(u32::try_from(ended).unwrap())
    }
    fn renew(&self, placer: &Uid, renew: &Renew, max_bytes: u64) -> Result<Vec<bool>, No> {
        assert_eq!(max_bytes, 3_000_000, "what the grant says");
        let mut held = self.kept();
        let mut one = |address: &ContentAddress| {
            held.get_mut(address).map(|kept| kept.lease(*placer, renew.reader, renew.expires)).is_some()
        };
        Ok(renew.addresses.iter().map(&mut one).collect())
    }
    fn begin_head(&self, _placer: &Uid, put: &PutHead) -> Result<HeadStart, No> {
        let held = self.kept();
        let known = held.get(&head_address(&put.repo)).map(|kept| SealedHead::open(&kept.bytes).unwrap().seq);
        Ok(known.filter(|seq| *seq >= put.seq).map_or(HeadStart::Send, HeadStart::Newer))
    }
    fn put_head(&self, placer: &Uid, put: &PutHead, bytes: &[u8]) -> Result<HeadAnswer, No> {
        let head = SealedHead::open(bytes).map_err(|_| No::Mismatch)?;
        let mut held = self.kept();
        let kept = held.entry(head.address()).or_default();
        kept.bytes = bytes.to_vec();
        kept.lease(*placer, put.reader, put.expires);
        Ok(HeadAnswer::Kept)
    }
    fn held(&self) -> Vec<ContentAddress> {
        self.kept().keys().copied().collect()
    }
}
