//! Messages between friends (requirement N6).

use std::time::Duration;

use ioex_base::{NodeKey, UnixSeconds, limits::MESSAGE_MAX_BYTES};
use ioex_net::{
    MeshEvent,
    messages::{Message, MessageError, MessageState},
    proto::{Answer, No, Open, TextMessage},
};

use crate::{
    raw::{self, Raw},
    support::{DEADLINE, Node, bootstrap, device, device_with, two_friends, until, until_some},
};

async fn arrived(node: &mut Node, text: &str) -> Message {
    let what = format!("the message '{text}'");
    node.event(&what, |e| match e {
        MeshEvent::Message(m) if m.incoming && m.text == text => Some(m),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mistake_has_its_own_error() {
    let (_boot, a, b) = two_friends().await;
    let friend = b.uid().to_string();
    let send = |to: String, text: String| {
        let mesh = a.mesh.clone();
        async move { mesh.message_send(&to, &text, Duration::ZERO).await }
    };
    let long = "x".repeat(MESSAGE_MAX_BYTES + 1);
    assert!(matches!(send(friend.clone(), String::new()).await, Err(MessageError::Empty)));
    assert!(matches!(send(friend.clone(), long.clone()).await, Err(MessageError::TooLong(_))));
    assert!(matches!(send("bad".into(), "m".into()).await, Err(MessageError::InvalidAddress(_))));
    assert!(matches!(send(a.uid().to_string(), "m".into()).await, Err(MessageError::ToSelf)));
    let stranger = NodeKey::generate().unwrap().uid();
    assert!(matches!(send(stranger.to_string(), "m".into()).await, Err(MessageError::NotFriend(_))));
    a.mesh.go_offline().await;
    assert!(matches!(send(friend.clone(), "m".into()).await, Err(MessageError::NotJoined)));
    a.mesh.go_online().await.unwrap();
    a.joined().await;
    let longest = a.mesh.message_send(&friend, &long[1..], DEADLINE).await.unwrap();
    assert_eq!(longest.state, MessageState::Delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_means_on_the_recipients_disk_and_repeats_are_harmless() {
    let boot = bootstrap(&[]).await;
    let mut device = device(&[boot.seed()]).await;
    let (raw, conn) = Raw::befriended(&device.mesh).await;
    let message = Open::Message(TextMessage { id: [7; 16], sent_at: UnixSeconds(9), text: "once".into() });
    for _ in 0..3 {
        assert_eq!(raw::ask::<()>(&conn, &message).await, Ok(Answer::Yes(())));
        // The answer came: it must be on disk now, not soon.
        let kept = device.mesh.messages(Some(raw.uid()), 10).await.unwrap();
        assert_eq!(kept.iter().map(|m| m.text.as_str()).collect::<Vec<_>>(), ["once"]);
    }
    arrived(&mut device, "once").await;
    while let Ok(event) = device.events.try_recv() {
        assert!(!matches!(event, MeshEvent::Message(_)), "shown twice: {event:?}");
    }
    for text in [String::new(), "x".repeat(MESSAGE_MAX_BYTES + 1)] {
        let bad = Open::Message(TextMessage { id: [8; 16], sent_at: UnixSeconds(9), text });
        assert_eq!(raw::refusal(&conn, &bad).await, No::BadRequest);
    }
    device.mesh.shutdown().await;
    let lost = raw::open(&conn, &message).await;
    if let Ok((_, mut recv)) = lost {
        let answer = ioex_net::frame::read::<Answer<()>>(&mut recv, 100).await;
        assert!(!matches!(answer, Ok(Answer::Yes(()))), "a node that is gone acknowledges nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_in_the_order_they_were_sent() {
    let (_boot, a, b) = two_friends().await;
    let texts: Vec<String> = (0..40).map(|n| format!("message {n}")).collect();
    for text in &texts {
        a.mesh.message_send(&b.uid().to_string(), text, Duration::ZERO).await.unwrap();
    }
    let all = until_some("all arrive", || async {
        let all = b.mesh.messages(Some(a.uid()), 100).await.unwrap();
        (all.len() == texts.len()).then_some(all)
    });
    assert_eq!(all.await.into_iter().map(|m| m.text).collect::<Vec<_>>(), texts);
    // Every one is delivered at the sender too, without another message to push it.
    until_some("all are marked", || async {
        let all = a.mesh.messages(None, 100).await.unwrap();
        all.iter().all(|m| m.state == MessageState::Delivered).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_an_offline_friend_wait_and_survive_a_restart_of_the_sender() {
    let (boot, a, b) = two_friends().await;
    let to = b.uid().to_string();
    b.mesh.shutdown().await;
    until("b is seen to go", || !a.connected(b.uid())).await;
    let first = a.mesh.message_send(&to, "first", Duration::from_millis(50)).await.unwrap();
    assert_eq!(first.state, MessageState::Queued);
    let a = a.restart().await;
    a.joined().await;
    let second = a.mesh.message_send(&to, "second", Duration::from_millis(50)).await.unwrap();
    assert_eq!(second.state, MessageState::Queued);
    let started = std::time::Instant::now();
    let mut b = b.restart().await;
    arrived(&mut b, "first").await;
    arrived(&mut b, "second").await;
    println!("delivered {:?} after the friend came back", started.elapsed());
    until_some("both are marked", || async {
        let all = a.mesh.messages(Some(b.uid()), 10).await.unwrap();
        (all.len() == 2 && all.iter().all(|m| m.state == MessageState::Delivered)).then_some(())
    })
    .await;
    drop(boot);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_an_offline_node_is_delivered_later() {
    let boot = bootstrap(&[]).await;
    let a = device_with(&[boot.seed()], |c| c.name = "Ann".into()).await;
    let b = device(&[boot.seed()]).await;
    a.joined().await;
    b.joined().await;
    b.mesh.shutdown().await;
    let address = b.mesh.friend_address().to_string();
    let later = a.mesh.friend_add(&address, "hi").await;
    assert!(matches!(later, Err(ioex_net::friends::FriendError::Later(..))), "{later:?}");
    let mut b = b.restart().await;
    let mut a = a.restart().await;
    let asker = b.event("a request", |e| match e {
        MeshEvent::FriendRequest(f) => Some(f),
        _ => None,
    });
    assert_eq!(asker.await.name, "Ann");
    b.mesh.friend_accept(a.uid()).await.unwrap();
    a.friend_added(b.uid()).await;
}
