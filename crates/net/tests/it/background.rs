//! A phone that leaves the network and comes back.

use std::time::{Duration, Instant};

use crate::support::{two_friends, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_is_back_with_its_friends_soon() {
    let (_boot, a, b) = two_friends().await;
    for _ in 0..3 {
        b.mesh.go_offline().await;
        assert!(b.mesh.offline() && !b.mesh.joined() && b.mesh.link_list().is_empty());
        until("a notices", || !a.connected(b.uid())).await;
        let started = Instant::now();
        b.mesh.go_online().await.unwrap();
        until("b is back", || a.connected(b.uid()) && b.connected(a.uid())).await;
        b.joined().await;
        println!("back after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert!(a.mesh.ping(b.uid()).await.is_ok() && b.mesh.ping(a.uid()).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coming_and_going_at_once_ends_in_one_state() {
    let (_boot, a, b) = two_friends().await;
    let (on, off) = (b.mesh.clone(), b.mesh.clone());
    for _ in 0..3 {
        let (came, ()) = tokio::join!(on.go_online(), off.go_offline());
        came.unwrap();
    }
    b.mesh.go_online().await.unwrap();
    until("they meet", || a.connected(b.uid()) && b.connected(a.uid())).await;
}
