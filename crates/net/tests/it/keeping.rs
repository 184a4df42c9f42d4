//! What becomes of shards after they were placed: audits, renewals, releases; and heads.

use std::sync::Arc;

use bytes::Bytes;
use ioex_base::{
    ContentAddress, GrantId, NodeKey, NodeKind, Right, SealedHead, SignedGrant, Uid, UnixSeconds,
    head_address, limits::HEAD_MAX_BYTES,
};
use ioex_net::{
    Mesh,
    door::Door,
    host::{Availability, Handover},
    proto::{AUDIT_ASKS_MAX, Audit, HeadAnswer, LEASES_AT_ONCE_MAX, No, Open, PutHead, Release, Renew},
    shards::PlaceError,
    transfer::FetchError,
};

use crate::{
    raw::{self, Raw},
    shards::{FOREVER, grant},
    shelf::Shelf,
    support::{Node, bootstrap, content, device, device_with, hosting, until_some},
};

const RIGHT: Right = Right::Place { max_bytes_per_device: 3_000_000 };

/// A holder and two super nodes that may place on it.
struct World {
    _boot: Node,
    seed: ioex_net::names::BootstrapAddr,
    shelf: Arc<Shelf>,
    holder: Node,
    authority: NodeKey,
    reader: NodeKey,
    supers: [(Node, SignedGrant); 2],
}

impl World {
    async fn new() -> Self {
        let boot = bootstrap(&[]).await;
        let (authority, reader) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let shelf = Shelf::new(authority.uid());
        let holder = hosting(&[boot.seed()], shelf.clone(), |_| ()).await;
        let mut supers = Vec::new();
        for _ in 0..2 {
            let node = device_with(&[boot.seed()], |c| c.kind = NodeKind::Super).await;
            node.joined().await;
            let may = grant(node.uid(), RIGHT, &authority);
            supers.push((node, may));
        }
        holder.joined().await;
        let Ok(supers) = supers.try_into() else { unreachable!("two were pushed") };
        Self { seed: boot.seed(), _boot: boot, shelf, holder, authority, reader, supers }
    }

    fn spn(&self, n: usize) -> (&Mesh, &SignedGrant) {
        (&self.supers[n].0.mesh, &self.supers[n].1)
    }

    async fn place(&self, n: usize, bytes: Vec<u8>) -> ContentAddress {
        let (mesh, may) = self.spn(n);
        let (bytes, reader) = (Bytes::from(bytes), self.reader.uid());
        let address = ContentAddress::of(&bytes);
        mesh.shard_place(self.holder.uid(), may, reader, FOREVER, address, &bytes).await.unwrap();
        address
    }
}

fn no<T: std::fmt::Debug>(result: Result<T, PlaceError>) -> No {
    match result {
        Err(PlaceError::No(no)) => no,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_proves_renews_and_gives_back_for_its_placer_only() {
    let world = World::new().await;
    let to = world.holder.uid();
    let (first, may) = world.spn(0);
    let (second, may_too) = world.spn(1);
    let mine = world.place(0, content(1, 5_000)).await;
    let his = world.place(1, content(2, 3_000)).await;
    let none = ContentAddress::of(b"none");

    // Proofs come as the host made them, in order.
    let asks = vec![(mine, 4), (none, 0), (mine, 5), (his, 2)];
    *world.shelf.handover.lock().unwrap() = Handover { excess_bytes: 7, addresses: vec![mine; 300] };
    let told = first.shard_audit(to, may, asks).await.unwrap();
    assert_eq!(
        told.proofs,
        [Some(content(1, 5_000)[4_096..].to_vec()), None, None, Some(content(2, 3_000)[2_048..].to_vec())]
    );
    assert_eq!((told.excess_bytes, told.handover.len()), (7, 256));
    let many = first.shard_audit(to, may, vec![(mine, 0); AUDIT_ASKS_MAX + 1]).await;
    assert!(matches!(many, Err(PlaceError::TooMany { .. })), "{many:?}");

    // Renewing extends, or adds a lease, and says what is not there.
    let (reader, until) = (world.reader.uid(), UnixSeconds(FOREVER.0 + 5));
    let held = first.shard_renew(to, may, reader, until, vec![mine, none, his]).await.unwrap();
    assert_eq!(held, [true, false, true]);
    assert_eq!(world.shelf.kept()[&mine].leases, [(first.uid(), reader, until)]);
    assert_eq!(world.shelf.kept()[&his].leases.len(), 2);
    let many = first.shard_renew(to, may, reader, until, vec![mine; LEASES_AT_ONCE_MAX + 1]).await;
    assert!(matches!(many, Err(PlaceError::TooMany { .. })), "{many:?}");

    // Whoever placed nothing of it gives nothing of it back.
    assert_eq!(second.shard_release(to, may_too, vec![mine, none]).await.unwrap(), 0);
    assert!(world.shelf.kept().contains_key(&mine));
    assert_eq!(first.shard_release(to, may, vec![mine, his]).await.unwrap(), 2);
    assert!(!world.shelf.kept().contains_key(&mine));
    assert_eq!(world.shelf.kept()[&his].leases.len(), 1, "the other one's lease holds");
    let many = first.shard_release(to, may, vec![mine; LEASES_AT_ONCE_MAX + 1]).await;
    assert!(matches!(many, Err(PlaceError::TooMany { .. })), "{many:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_grant_nothing_is_told_kept_or_given_back() {
    let world = World::new().await;
    let mine = world.place(0, content(1, 5_000)).await;
    let (first, may) = world.spn(0);
    let (to, reader) = (world.holder.uid(), world.reader.uid());
    let nobody = NodeKey::generate().unwrap();
    let head = Bytes::from(SealedHead::sign(&nobody, 1, b"head"));
    let try_all = async |may: &SignedGrant| {
        [
            no(first.shard_audit(to, may, vec![(mine, 0)]).await),
            no(first.shard_renew(to, may, reader, FOREVER, vec![mine]).await),
            no(first.shard_release(to, may, vec![mine]).await),
            no(first.head_put(to, may, reader, FOREVER, &head).await),
        ]
    };
    let forged = grant(first.uid(), RIGHT, &nobody);
    assert_eq!(try_all(&forged).await, [No::Refused(0x13); 4]);
    let stolen = grant(nobody.uid(), RIGHT, &world.authority);
    assert_eq!(try_all(&stolen).await, [No::Refused(0x12); 4]);
    // A fresh connection: after some refusals the old one is closed.
    let again = device_with(&[world.seed], |c| c.kind = NodeKind::Super).await;
    again.joined().await;
    let got = again.mesh.shard_audit(to, &grant(again.uid(), Right::Fetch, &world.authority), vec![]).await;
    assert_eq!(no(got), No::Refused(0x15));
    // Revoked.
    world.shelf.revoked.lock().unwrap().push(GrantId([5; 16]));
    let may_too = grant(again.uid(), RIGHT, &world.authority);
    for got in [
        no(again.mesh.shard_audit(to, &may_too, vec![(mine, 0)]).await),
        no(again.mesh.shard_renew(to, &may_too, reader, FOREVER, vec![mine]).await),
        no(again.mesh.shard_release(to, &may_too, vec![mine]).await),
        no(again.mesh.head_put(to, &may_too, reader, FOREVER, &head).await),
    ] {
        assert_eq!(got, No::Refused(0x14));
    }
    let kept = world.shelf.kept().clone();
    assert_eq!((kept.len(), kept[&mine].leases.len()), (1, 1));

    // None of it exists behind the other doors.
    let raw = Raw::new().await;
    let conn = raw.connect(&world.holder.mesh, Door::Public).await;
    let questions = [
        Open::Audit(Audit { grant: may.clone(), asks: vec![(mine, 0)] }),
        Open::Release(Release { grant: may.clone(), addresses: vec![mine] }),
        Open::Renew(Renew { grant: may.clone(), reader, expires: FOREVER, addresses: vec![mine] }),
        Open::PutHead(PutHead {
            grant: may.clone(),
            repo: nobody.uid(),
            seq: 1,
            bytes: 10,
            reader,
            expires: FOREVER,
        }),
    ];
    for question in &questions {
        assert_eq!(raw::refusal(&conn, question).await, No::Refused(0x11));
    }
    // Nor for a stranger, or a friend, behind this one, with somebody else's grant.
    let conn = raw.connect(&world.holder.mesh, Door::Grant).await;
    world.shelf.revoked.lock().unwrap().clear();
    for question in &questions {
        assert_eq!(raw::refusal(&conn, question).await, No::Refused(0x12));
    }
    let (_friend, conn) = Raw::befriended(&world.holder.mesh).await;
    for question in &questions {
        assert_eq!(raw::refusal(&conn, question).await, No::Refused(0x11));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_one_question_holds_is_not_understood() {
    let world = World::new().await;
    let raw = Raw::new().await;
    let may = grant(raw.uid(), RIGHT, &world.authority);
    let conn = raw.connect(&world.holder.mesh, Door::Grant).await;
    let address = ContentAddress::of(b"x");
    let (reader, repo) = (world.reader.uid(), Uid::from_bytes([1; 32]));
    let addresses = vec![address; LEASES_AT_ONCE_MAX + 1];
    for question in [
        Open::Audit(Audit { grant: may.clone(), asks: vec![(address, 0); AUDIT_ASKS_MAX + 1] }),
        Open::Release(Release { grant: may.clone(), addresses: addresses.clone() }),
        Open::Renew(Renew { grant: may.clone(), reader, expires: FOREVER, addresses }),
        Open::PutHead(PutHead {
            grant: may.clone(),
            repo,
            seq: 1,
            bytes: HEAD_MAX_BYTES as u64 + 1,
            reader,
            expires: FOREVER,
        }),
    ] {
        assert_eq!(raw::refusal(&conn, &question).await, No::BadRequest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_put_announced_and_read_by_their_readers() {
    let world = World::new().await;
    let (first, may) = world.spn(0);
    let (to, reader) = (world.holder.uid(), world.reader.uid());
    let repository = NodeKey::generate().unwrap();
    let head = |seq, len| Bytes::from(SealedHead::sign(&repository, seq, &content(seq, len)));
    let put = async |head: &Bytes| first.head_put(to, may, reader, FOREVER, head).await.unwrap();
    assert_eq!(put(&head(3, 200_000)).await, HeadAnswer::Kept);
    assert_eq!(put(&head(2, 100)).await, HeadAnswer::Newer(3));
    assert_eq!(put(&head(4, 150_000)).await, HeadAnswer::Kept);
    let junk = first.head_put(to, may, reader, FOREVER, &Bytes::from_static(b"junk")).await;
    assert!(matches!(junk, Err(PlaceError::Head(_))), "{junk:?}");

    let restorer = device(&[world.seed]).await;
    restorer.joined().await;
    let address = head_address(&repository.uid());
    let directory = restorer.mesh.directory().unwrap();
    let found = until_some("the head is announced", || async {
        Some(directory.find(address).await.unwrap()).filter(|found| !found.is_empty())
    });
    assert_eq!(found.await, [to]);
    let reads = grant(restorer.uid(), Right::Fetch, &world.reader);
    let got = restorer.mesh.head_fetch(to, &reads, address).await.unwrap();
    assert_eq!(got, head(4, 150_000));
    let stranger = grant(restorer.uid(), Right::Fetch, &NodeKey::generate().unwrap());
    assert!(restorer.mesh.head_fetch(to, &stranger, address).await.is_err());
    // A holder that would send more than heads have is not listened to.
    let long = world.place(0, content(9, HEAD_MAX_BYTES + 1)).await;
    assert!(restorer.mesh.head_fetch(to, &reads, long).await.is_err());

    // Parts of shards.
    let shard = world.place(0, content(8, 50_000)).await;
    let part =
        async |start, len| restorer.mesh.shard_fetch_range(to, &reads, shard, 50_000, start, len).await;
    assert_eq!(part(10, 1_000).await.unwrap().0, content(8, 50_000)[10..1_010]);
    assert_eq!(part(0, 50_000).await.unwrap().0, content(8, 50_000));
    for (start, len) in [(0, 50_001), (u64::MAX, 2), (50_000, 1)] {
        assert!(part(start, len).await.is_err());
    }
    let other_length = restorer.mesh.shard_fetch_range(to, &reads, shard, 50_001, 0, 1).await;
    assert!(other_length.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_hears_what_time_the_network_has() {
    let first = bootstrap(&[]).await;
    let second = bootstrap(&[first.seed()]).await;
    for seeds in [vec![first.seed()], vec![first.seed(), second.seed()]] {
        let device = device(&seeds).await;
        let time = until_some("the network's time is heard", || async { device.mesh.network_time() }).await;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(time.0) < 60, "{time:?}, now is {now}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_pauses_says_so_and_still_proves() {
    let world = World::new().await;
    let (first, may) = world.spn(0);
    let (to, reader) = (world.holder.uid(), world.reader.uid());
    let mine = world.place(0, content(1, 5_000)).await;
    let reads = grant(first.uid(), Right::Fetch, &world.reader);
    let other = Bytes::from(content(2, 5_000));
    let set = |to| *world.shelf.availability.lock().unwrap() = to;
    let fetched = async || match first.shard_fetch(to, &reads, mine, 5_000).await {
        Err(FetchError::No(no)) => Some(no),
        Err(e) => panic!("{e}"),
        Ok(_) => None,
    };
    set(Availability::Paused);
    for _ in 0..10 {
        // However often it is asked, it does not close the connection.
        assert_eq!(no(first.shard_capacity(to, may).await), No::Paused);
    }
    let placed = first.shard_place(to, may, reader, FOREVER, ContentAddress::of(&other), &other).await;
    assert_eq!(no(placed), No::Paused);
    assert_eq!(fetched().await, Some(No::Paused));
    assert_eq!(first.shard_audit(to, may, vec![(mine, 0)]).await.unwrap().proofs.len(), 1);
    assert_eq!(first.shard_renew(to, may, reader, FOREVER, vec![mine]).await.unwrap(), [true]);
    set(Availability::Off);
    assert_eq!(no(first.shard_audit(to, may, vec![(mine, 0)]).await), No::Paused);
    assert_eq!(no(first.shard_release(to, may, vec![mine]).await), No::Paused);
    assert_eq!(fetched().await, Some(No::Paused));
    set(Availability::Open);
    assert_eq!(fetched().await, None);
}

/// What arrives at two peers together never exceeds the rate: an upper bound, so that a slow machine
/// passes as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_peers_get_stays_below_the_owners_limit() {
    const RATE: u64 = 400_000;
    let world = World::new().await;
    let (to, len) = (world.holder.uid(), 300_000);
    let [a, b] = [world.place(0, content(1, len)).await, world.place(0, content(2, len)).await];
    let [first, second] = [0, 1].map(|n| world.spn(n).0);
    let [reads, reads_too] = [first, second].map(|mesh| grant(mesh.uid(), Right::Fetch, &world.reader));
    world.shelf.upload.set_rate(Some(RATE));
    let started = std::time::Instant::now();
    let (got, got_too) = tokio::join!(
        first.shard_fetch(to, &reads, a, len as u64),
        second.shard_fetch(to, &reads_too, b, len as u64)
    );
    let seconds = started.elapsed().as_secs_f64();
    let got = (got.unwrap().0.len() + got_too.unwrap().0.len()) as f64;
    let allowed = RATE as f64 * (seconds + 1.0);
    assert!(got <= allowed, "{got} bytes in {seconds} s, {allowed} are allowed");
    // Without the limit the same takes a fraction of that: the limit it was that held.
    world.shelf.upload.set_rate(None);
    let started = std::time::Instant::now();
    first.shard_fetch(to, &reads, a, len as u64).await.unwrap();
    let free = started.elapsed().as_secs_f64() * 2.0;
    assert!(free < seconds, "{free} s without a limit, {seconds} s with it");
}
