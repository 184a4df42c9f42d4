//! Finding each other, becoming friends, and being strangers.

use std::time::Instant;

use ioex_net::{MeshEvent, PathKind, friends::FriendState};

use crate::support::{bootstrap, device_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_find_each_other_by_uid_alone() {
    for dht in [true, false] {
        let started = Instant::now();
        let first = bootstrap(&[]).await;
        let second = bootstrap(&[first.seed()]).await;
        let seeds = [first.seed(), second.seed()];
        println!("bootstraps up: {:?}", started.elapsed());
        let started = Instant::now();
        let mut a = device_with(&seeds, |c| c.dht = dht).await;
        println!("a started: {:?}", started.elapsed());
        let mut b = device_with(&seeds, |c| c.dht = dht).await;
        println!("b started: {:?}", started.elapsed());
        a.joined().await;
        b.joined().await;
        println!("joined: {:?} (dht {dht})", started.elapsed());
        let started = Instant::now();
        a.mesh.friend_add(&b.mesh.friend_address().to_string(), "hello B").await.unwrap();
        println!("friend_add: {:?}", started.elapsed());
        let asker = b.event("a request", |e| match e {
            MeshEvent::FriendRequest(f) => Some(f),
            _ => None,
        });
        let asker = asker.await;
        assert_eq!(
            (asker.uid, asker.greeting.as_str(), asker.state),
            (a.uid(), "hello B", FriendState::Incoming)
        );
        b.mesh.friend_accept(a.uid()).await.unwrap();
        println!("accepted: {:?}", started.elapsed());
        a.friend_added(b.uid()).await;
        println!("added at a: {:?}", started.elapsed());
        b.friend_added(a.uid()).await;
        let rtt = a.mesh.ping(b.uid()).await.unwrap();
        println!("pinged ({rtt:?}): {:?} (dht {dht})", started.elapsed());
        assert!(matches!(a.mesh.path_to(&b.uid()), PathKind::Direct(_)), "{:?}", a.mesh.path_to(&b.uid()));
        assert!(b.mesh.ping(a.uid()).await.is_ok());
        for node in [a, b, second, first] {
            let started = Instant::now();
            node.mesh.shutdown().await;
            println!("shutdown {:?}", started.elapsed());
        }
    }
}
