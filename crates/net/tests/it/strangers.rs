//! Who is no friend gets nothing (requirement N5).

use std::time::Duration;

use ioex_base::{ContentAddress, Grant, GrantId, NodeKey, Right, SignedGrant, Tag, UnixSeconds};
use ioex_net::{
    LinkError, MeshEvent,
    door::{Door, Refusal},
    messages::MessageError,
    proto::{
        Answer, DirectoryQuestion, Fetch, FriendRequest, No, Offer, OfferedFile, Open, Place, SessionOpen,
        SessionTarget, TextMessage, Want,
    },
    session::StreamKind,
};

use crate::{
    raw::{self, Raw},
    support::{DEADLINE, bootstrap, device, two_friends, until},
};

const NOT_FRIEND: u32 = 0x10;

fn friends_only() -> Vec<Open> {
    let address = ContentAddress::of(b"x");
    vec![
        Open::Ping,
        Open::Message(TextMessage { id: [1; 16], sent_at: UnixSeconds(1), text: "psst".into() }),
        Open::Offer(Offer { id: [2; 16], files: vec![OfferedFile { name: "f".into(), size: 1, address }] }),
        Open::FetchOffered(Fetch { address, want: Want::Pieces }),
        Open::Session(SessionOpen {
            session: 1,
            target: SessionTarget::Service("s".into()),
            datagram: false,
        }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_nothing_at_any_door() {
    assert_eq!(Refusal::NotFriend.code(), NOT_FRIEND);
    let boot = bootstrap(&[]).await;
    let mut device = device(&[boot.seed()]).await;
    let _service = device.mesh.services("s");
    let stranger = Raw::new().await;

    let friend_door = stranger.connect(&device.mesh, Door::Friend).await;
    for question in friends_only() {
        assert_eq!(raw::ask::<()>(&friend_door, &question).await, Err(u64::from(NOT_FRIEND)));
    }

    let public = stranger.connect(&device.mesh, Door::Public).await;
    for question in friends_only() {
        assert_eq!(raw::refusal(&public, &question).await, No::Refused(Refusal::NotOffered.code()));
    }

    let grant = |right| Grant {
        id: GrantId([1; 16]),
        subject: stranger.uid(),
        right,
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(u64::MAX / 2),
    };
    let forger = NodeKey::generate().unwrap();
    let address = ContentAddress::of(b"x");
    let fetch = SignedGrant::new(&grant(Right::Fetch), &forger);
    let place = SignedGrant::new(&grant(Right::Place { max_bytes_per_device: u64::MAX }), &forger);
    let questions = [
        Open::Fetch(fetch, Fetch { address, want: Want::Range { start: 0, len: 1 } }),
        Open::Capacity(place.clone()),
        Open::Place(Place {
            grant: place,
            address,
            bytes: 1,
            reader: forger.uid(),
            expires: UnixSeconds(u64::MAX),
        }),
    ];
    // A device that lends nothing has no grant door; one that does is tried in `shards`.
    let grant_door = stranger.connect(&device.mesh, Door::Grant).await;
    for question in &questions {
        let closed = u64::from(Refusal::NotOffered.code());
        assert_eq!(raw::ask::<()>(&grant_door, question).await, Err(closed));
        assert_eq!(raw::refusal(&public, question).await, No::Refused(Refusal::NotOffered.code()));
    }
    // Whoever is refused again and again is cut off.
    let busy = u64::from(Refusal::Busy.code());
    assert_eq!(raw::ask::<()>(&public, &Open::Ping).await, Err(busy));

    let public = stranger.connect(&device.mesh, Door::Public).await;
    let directory = Open::Directory(DirectoryQuestion::Resolve(device.uid()));
    assert_eq!(raw::refusal(&public, &directory).await, No::Refused(Refusal::NotOffered.code()));
    let tag = Tag(device.mesh.friend_address().tag.0.map(|b| b ^ 1));
    let request = Open::FriendRequest(FriendRequest { tag, name: "s".into(), greeting: String::new() });
    assert_eq!(raw::refusal(&public, &request).await, No::Refused(Refusal::WrongTag.code()));

    assert!(device.mesh.friends().is_empty());
    assert!(device.mesh.messages(None, 10).await.unwrap().is_empty());
    assert!(device.mesh.transfers().is_empty());
    while let Ok(event) = device.events.try_recv() {
        assert!(matches!(event, MeshEvent::Joined(_) | MeshEvent::Home(_)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_has_no_friends_and_takes_no_content() {
    let boot = bootstrap(&[]).await;
    let stranger = Raw::new().await;
    let friend_door = stranger.connect(&boot.mesh, Door::Friend).await;
    assert_eq!(raw::ask::<()>(&friend_door, &Open::Ping).await, Err(u64::from(NOT_FRIEND)));
    let public = stranger.connect(&boot.mesh, Door::Public).await;
    let request =
        FriendRequest { tag: boot.mesh.friend_address().tag, name: "s".into(), greeting: String::new() };
    let no = raw::refusal(&public, &Open::FriendRequest(request)).await;
    assert_eq!(no, No::Refused(Refusal::NotOffered.code()));
    let offer = friends_only().remove(2);
    assert_eq!(raw::refusal(&public, &offer).await, No::Refused(Refusal::NotOffered.code()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_cannot_be_guessed() {
    let boot = bootstrap(&[]).await;
    let device = device(&[boot.seed()]).await;
    let stranger = Raw::new().await;
    let mut public = stranger.connect(&device.mesh, Door::Public).await;
    let mut tried = 0;
    for guess in 0..20 {
        let request = FriendRequest { tag: Tag([guess; 4]), name: "s".into(), greeting: String::new() };
        match raw::ask::<()>(&public, &Open::FriendRequest(request)).await {
            Ok(Answer::No(No::Busy { .. })) => {}
            Ok(Answer::No(No::Refused(code))) if code == Refusal::WrongTag.code() => tried += 1,
            // Cut off: another connection does not help.
            Err(code) if code == u64::from(Refusal::Busy.code()) => {
                public = stranger.connect(&device.mesh, Door::Public).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(tried <= 5, "{tried} guesses were answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_friend_is_cut_off_at_once() {
    let (_boot, a, mut b) = two_friends().await;
    let mut service = a.mesh.services("s");
    let mut stream = b.mesh.session(a.uid(), "s").open(StreamKind::Reliable).await.unwrap();
    stream.send(b"hello").await.unwrap();
    let mut at_a = tokio::time::timeout(DEADLINE, service.recv()).await.unwrap().unwrap();
    assert_eq!(at_a.stream.recv(10).await.unwrap().unwrap(), "hello");

    a.mesh.friend_remove(b.uid()).await.unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(1), stream.recv(10)).await.expect("at once");
    assert!(cut.is_err(), "the open stream ends too: {cut:?}");
    let refused = b.mesh.ping(a.uid()).await;
    assert!(matches!(refused, Err(LinkError::Refused(NOT_FRIEND))), "{refused:?}");
    let message =
        b.mesh.message_send(&a.uid().to_string(), "still there?", Duration::from_millis(200)).await.unwrap();
    assert_eq!(message.state, ioex_net::messages::MessageState::Queued);
    assert!(a.mesh.messages(None, 10).await.unwrap().is_empty());

    // Nor does the one who removed talk to it any more, although it would still be let in.
    let own = a.mesh.message_send(&b.uid().to_string(), "bye", Duration::ZERO).await;
    assert!(matches!(own, Err(MessageError::NotFriend(_))), "{own:?}");
    assert!(matches!(a.mesh.ping(b.uid()).await, Err(LinkError::Refused(NOT_FRIEND))));
    b.event("b notices", |e| matches!(e, MeshEvent::FriendConnection { online: false, .. }).then_some(()))
        .await;
    until("no link is left", || {
        a.mesh.link_list().iter().all(|l| l.uid != b.uid() || l.door != Door::Friend)
    })
    .await;
}
