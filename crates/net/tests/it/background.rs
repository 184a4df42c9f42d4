//! A phone that leaves the network and comes back.

use std::time::{Duration, Instant};

use ioex_net::{MeshConfig, PathKind};

use crate::support::{befriend, bootstrap, device_with, two_friends, until};

fn rests_soon(config: &mut MeshConfig) {
    config.timing.rest_after = Duration::from_millis(200);
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_at_rest_find_each_other_and_rest_again() {
    let boot = bootstrap(&[]).await;
    let (mut a, mut b) =
        (device_with(&[boot.seed()], rests_soon).await, device_with(&[boot.seed()], rests_soon).await);
    until("both rest", || a.mesh.resting() && b.mesh.resting()).await;
    assert!(a.mesh.joined() && b.mesh.joined(), "the home stays");
    let addresses = a.mesh.direct_addresses();
    befriend(&mut a, &mut b).await;
    until("the path is direct", || matches!(a.mesh.path_to(&b.uid()), PathKind::Direct(_))).await;
    until("both rest again", || a.mesh.resting() && b.mesh.resting()).await;
    assert!(a.mesh.ping(b.uid()).await.is_ok(), "links stay");
    assert_eq!(a.mesh.direct_addresses(), addresses);
    assert!(a.mesh.netcheck().await.unwrap().udp);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_at_rest_leaves_a_dead_home() {
    let first = bootstrap(&[]).await;
    let second = bootstrap(&[first.seed()]).await;
    let a = device_with(&[first.seed(), second.seed()], rests_soon).await;
    a.joined().await;
    until("it rests", || a.mesh.resting() && a.mesh.bootstraps().len() == 2).await;
    let home = a.mesh.home().unwrap().uid;
    let (dead, other) = if home == first.uid() { (first, second) } else { (second, first) };
    dead.mesh.shutdown().await;
    until("it moves", || a.mesh.home().is_some_and(|h| h.uid == other.uid()) && a.mesh.joined()).await;
    until("it rests again", || a.mesh.resting()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_at_rest_learns_of_a_new_bootstrap() {
    let first = bootstrap(&[]).await;
    let phone = device_with(&[first.seed()], |c| {
        rests_soon(c);
        c.kind = ioex_base::NodeKind::Phone;
        c.dht = false;
    })
    .await;
    until("it rests", || phone.mesh.resting()).await;
    let second = bootstrap(&[first.seed()]).await;
    let measured =
        || phone.mesh.bootstraps().iter().any(|e| e.addr.uid == second.uid() && e.latency_ms.is_some());
    until("it is learnt and measured", measured).await;
}
