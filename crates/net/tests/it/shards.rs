//! Placing and reading shards under grants.

use std::{
    collections::HashMap,
    fs::File,
    io::Write,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use ioex_base::{ContentAddress, Grant, GrantId, NodeKey, NodeKind, Right, SignedGrant, Uid, UnixSeconds};
use ioex_net::{
    Host,
    host::{PlaceStart, ShardSink},
    proto::{No, Place, PlaceAnswer},
    shards::PlaceError,
};

use crate::support::{bootstrap, content, device, device_with, hosting, until_some};

const FOREVER: UnixSeconds = UnixSeconds(4_000_000_000);
type Held = Arc<Mutex<HashMap<ContentAddress, (Vec<u8>, Uid, Uid)>>>;

/// Keeps shards in memory.
struct Shelf {
    authority: Uid,
    revoked: Mutex<Vec<GrantId>>,
    held: Held,
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
        self.held.lock().unwrap().insert(self.place.address, (self.bytes, self.place.reader, self.placer));
        Ok(())
    }
}

impl Host for Shelf {
    fn lends_space(&self) -> bool {
        true
    }
    fn accepts_authority(&self, issuer: &Uid) -> bool {
        *issuer == self.authority
    }
    fn is_revoked(&self, id: &GrantId) -> bool {
        self.revoked.lock().unwrap().contains(id)
    }
    fn is_reader(&self, address: &ContentAddress, reader: &Uid) -> bool {
        self.held.lock().unwrap().get(address).is_some_and(|h| h.1 == *reader)
    }
    fn free_bytes(&self) -> u64 {
        10_000_000
    }
    fn placed_bytes(&self, placer: &Uid) -> u64 {
        self.held.lock().unwrap().values().filter(|h| h.2 == *placer).map(|h| h.0.len() as u64).sum()
    }
    fn open_shard(&self, address: &ContentAddress) -> std::io::Result<Option<(File, u64)>> {
        let held = self.held.lock().unwrap();
        let Some((bytes, ..)) = held.get(address) else { return Ok(None) };
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        Ok(Some((file, bytes.len() as u64)))
    }
    fn begin_place(&self, placer: &Uid, place: &Place) -> Result<PlaceStart, No> {
        if self.held.lock().unwrap().contains_key(&place.address) {
            return Ok(PlaceStart::AlreadyHeld);
        }
        let sink = Sink { held: self.held.clone(), place: place.clone(), placer: *placer, bytes: Vec::new() };
        Ok(PlaceStart::Write(Box::new(sink)))
    }
    fn held(&self) -> Vec<ContentAddress> {
        self.held.lock().unwrap().keys().copied().collect()
    }
}

fn grant(subject: Uid, right: Right, issuer: &NodeKey) -> SignedGrant {
    let grant =
        Grant { id: GrantId([5; 16]), subject, right, not_before: UnixSeconds(0), not_after: FOREVER };
    SignedGrant::new(&grant, issuer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_placed_and_read_under_grants_only() {
    let boot = bootstrap(&[]).await;
    let (authority, reader, nobody) =
        (NodeKey::generate().unwrap(), NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let shelf =
        Arc::new(Shelf { authority: authority.uid(), revoked: Mutex::default(), held: Held::default() });
    let holder = hosting(&[boot.seed()], shelf.clone(), |c| c.owner = "holder".into()).await;
    let spn = device_with(&[boot.seed()], |c| c.kind = NodeKind::Super).await;
    let restorer = device(&[boot.seed()]).await;
    for node in [&holder, &spn, &restorer] {
        node.joined().await;
    }
    let right = Right::Place { max_bytes_per_device: 3_000_000 };
    let may = grant(spn.uid(), right, &authority);
    let capacity = spn.mesh.shard_capacity(holder.uid(), &may).await.unwrap();
    assert_eq!(
        (capacity.free_bytes, capacity.owner, capacity.kind),
        (3_000_000, holder.config.owner_tag(), NodeKind::Peer)
    );

    let bytes = Bytes::from(content(1, 1_500_000));
    let address = ContentAddress::of(&bytes);
    let place = |by: &SignedGrant, address, bytes: Bytes| {
        let (mesh, by, to, reader) = (spn.mesh.clone(), by.clone(), holder.uid(), reader.uid());
        async move { mesh.shard_place(to, &by, reader, FOREVER, address, &bytes).await }
    };
    assert_eq!(place(&may, address, bytes.clone()).await.unwrap(), PlaceAnswer::Send);
    assert_eq!(place(&may, address, bytes.clone()).await.unwrap(), PlaceAnswer::AlreadyHeld);
    let refused = |r: Result<PlaceAnswer, PlaceError>| match r {
        Err(PlaceError::No(no)) => no,
        other => panic!("{other:?}"),
    };
    let more = Bytes::from(content(2, 1_400_000));
    let wrong = place(&may, ContentAddress::of(b"other"), more.clone()).await;
    assert_eq!(refused(wrong), No::Mismatch);
    let too_much = Bytes::from(content(3, 1_600_000));
    assert_eq!(
        refused(place(&may, ContentAddress::of(&too_much), too_much.clone()).await),
        No::Refused(0x15)
    );
    let forged = grant(spn.uid(), right, &nobody);
    assert_eq!(refused(place(&forged, ContentAddress::of(&more), more.clone()).await), No::Refused(0x13));
    let stolen = grant(nobody.uid(), right, &authority);
    assert_eq!(refused(place(&stolen, ContentAddress::of(&more), more.clone()).await), No::Refused(0x12));
    shelf.revoked.lock().unwrap().push(GrantId([5; 16]));
    assert_eq!(refused(place(&may, ContentAddress::of(&more), more).await), No::Refused(0x14));
    assert_eq!(shelf.held.lock().unwrap().len(), 1);

    // What was placed is announced by itself, found by its address, and read under a fetch grant.
    let directory = restorer.mesh.directory().unwrap();
    let found = until_some("the shard is announced", || async {
        Some(directory.find(address).await.unwrap()).filter(|f| !f.is_empty())
    });
    assert_eq!(found.await, [holder.uid()]);
    let may_read = grant(restorer.uid(), Right::Fetch, &reader);
    let (got, _) =
        restorer.mesh.shard_fetch(holder.uid(), &may_read, address, bytes.len() as u64).await.unwrap();
    assert_eq!(got, bytes);
    for bad in [grant(restorer.uid(), Right::Fetch, &nobody), grant(nobody.uid(), Right::Fetch, &reader), may]
    {
        assert!(restorer.mesh.shard_fetch(holder.uid(), &bad, address, bytes.len() as u64).await.is_err());
    }
    let short = restorer.mesh.shard_fetch(holder.uid(), &may_read, address, 10).await;
    assert!(short.is_err(), "another size is not this shard");
    let none = restorer.mesh.shard_fetch(holder.uid(), &may_read, ContentAddress::of(b"none"), 10).await;
    assert!(none.is_err());
}
