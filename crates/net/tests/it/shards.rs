//! Placing and reading shards under grants.

use bytes::Bytes;
use ioex_base::{ContentAddress, Grant, GrantId, NodeKey, NodeKind, Right, SignedGrant, Uid, UnixSeconds};
use ioex_net::{
    proto::{No, PlaceAnswer},
    shards::PlaceError,
};

use crate::{
    shelf::Shelf,
    support::{bootstrap, content, device, device_with, hosting, until_some},
};

pub const FOREVER: UnixSeconds = UnixSeconds(4_000_000_000);

pub fn grant(subject: Uid, right: Right, issuer: &NodeKey) -> SignedGrant {
    let grant =
        Grant { id: GrantId([5; 16]), subject, right, not_before: UnixSeconds(0), not_after: FOREVER };
    SignedGrant::new(&grant, issuer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_placed_and_read_under_grants_only() {
    let boot = bootstrap(&[]).await;
    let (authority, reader, nobody) =
        (NodeKey::generate().unwrap(), NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let shelf = Shelf::new(authority.uid());
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
    assert_eq!(shelf.kept().len(), 1);

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
