//! Bootstraps, the table, the DHT and the relay (requirements N3, N4, N9).

use std::time::{Duration, Instant};

use ioex_base::{ContentAddress, Uid};
use ioex_net::{MeshEvent, PathKind, bootstraps::Source};
use tokio_util::sync::CancellationToken;

use crate::support::{Node, befriend, bootstrap, device, device_with, until, until_some};

fn knows(node: &Node, uid: Uid) -> bool {
    node.mesh.bootstraps().iter().any(|e| e.addr.uid == uid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_bootstrap_is_learnt_by_all() {
    let first = bootstrap(&[]).await;
    let second = bootstrap(&[first.seed()]).await;
    let with_dht = device(&[first.seed()]).await;
    let without = device_with(&[second.seed()], |c| c.dht = false).await;
    let started = Instant::now();
    let third = bootstrap(&[second.seed()]).await;
    for (n, node) in [&first, &second, &with_dht, &without, &third].into_iter().enumerate() {
        for (m, new) in [&first, &second, &third].into_iter().enumerate() {
            until(&format!("node {n} learns bootstrap {m}"), || {
                node.uid() == new.uid() || knows(node, new.uid())
            })
            .await;
        }
    }
    println!("learnt by all after {:?}", started.elapsed());
    let learnt = with_dht.mesh.bootstraps();
    let learnt = learnt.iter().find(|e| e.addr.uid == third.uid()).unwrap();
    assert_eq!((learnt.source, learnt.addr), (Source::Announced, third.seed()));
    until("it is measured", || {
        with_dht.mesh.bootstraps().iter().any(|e| e.addr.uid == third.uid() && e.latency_ms.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_rejoins_from_its_table_when_the_seed_is_gone() {
    let first = bootstrap(&[]).await;
    let second = bootstrap(&[first.seed()]).await;
    let mut a = device_with(&[first.seed()], |c| c.dht = false).await;
    let mut b = device(&[second.seed()]).await;
    until("the second one is learnt", || knows(&a, second.uid())).await;
    b.joined().await;
    a.joined().await;
    befriend(&mut a, &mut b).await;
    a.mesh.shutdown().await;
    first.mesh.shutdown().await;
    let started = Instant::now();
    let a = a.restart_with(|c| c.seeds.clear()).await;
    a.joined().await;
    println!("rejoined after {:?}", started.elapsed());
    assert_eq!(a.mesh.home().map(|h| h.uid), Some(second.uid()));
    until("friends meet again", || a.connected(b.uid())).await;
    println!("friends after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_home_moves_when_a_bootstrap_dies() {
    let first = bootstrap(&[]).await;
    let second = bootstrap(&[first.seed()]).await;
    let seeds = [first.seed(), second.seed()];
    let (mut a, mut b) = (device(&seeds).await, device(&seeds).await);
    a.joined().await;
    b.joined().await;
    befriend(&mut a, &mut b).await;
    first.mesh.shutdown().await;
    assert!(a.mesh.ping(b.uid()).await.is_ok(), "friends talk on without it");
    let c = device(&seeds).await;
    let started = Instant::now();
    c.joined().await;
    println!("joined after {:?} with one of two seeds dead", started.elapsed());
    assert_eq!(c.mesh.home().map(|h| h.uid), Some(second.uid()));
    until("the dead one is seen to be dead", || {
        c.mesh.bootstraps().iter().any(|e| e.addr.uid == first.uid() && e.failures > 0)
    })
    .await;
    assert_eq!(c.mesh.bootstraps().last().map(|e| e.addr.uid), Some(first.uid()), "it ranks last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_udp_reaches_a_friend_over_the_relay() {
    let boot = bootstrap(&[]).await;
    let other = bootstrap(&[boot.seed()]).await;
    let seeds = [boot.seed(), other.seed()];
    let mut a = device_with(&seeds, |c| c.no_udp = true).await;
    let mut b = device_with(&seeds, |c| c.dht = true).await;
    a.joined().await;
    b.joined().await;
    let started = Instant::now();
    befriend(&mut a, &mut b).await;
    let rtt = a.mesh.ping(b.uid()).await.unwrap();
    println!("friends over the relay after {:?}, {rtt:?}", started.elapsed());
    assert!(matches!(a.mesh.path_to(&b.uid()), PathKind::Relayed(_)), "{:?}", a.mesh.path_to(&b.uid()));
    assert!(a.mesh.direct_addresses().is_empty());
    // Records of both, asked by the other.
    let of_a = b.mesh.directory().unwrap().resolve(a.uid()).await.unwrap().unwrap();
    assert!(of_a.addresses.is_empty() && !of_a.bootstraps.is_empty());
    let of_b = a.mesh.directory().unwrap().resolve(b.uid()).await.unwrap().unwrap();
    assert!(!of_b.addresses.is_empty());
    // Two nodes without UDP.
    let mut c = device_with(&seeds, |c| c.no_udp = true).await;
    c.joined().await;
    befriend(&mut c, &mut a).await;
    let text = "over two relays at most";
    c.mesh.message_send(&a.uid().to_string(), text, Duration::ZERO).await.unwrap();
    a.event("the message", |e| {
        matches!(e, MeshEvent::Message(m) if m.incoming && m.text == text).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_are_found_whichever_way_they_announced() {
    let boot = bootstrap(&[]).await;
    let other = bootstrap(&[boot.seed()]).await;
    let seeds = [boot.seed(), other.seed()];
    let udp = device(&seeds).await;
    let udp2 = device(&seeds).await;
    let quic = device_with(&seeds, |c| c.dht = false).await;
    let relay = device_with(&seeds, |c| c.no_udp = true).await;
    let all = [&udp, &udp2, &quic, &relay];
    for node in all {
        node.joined().await;
    }
    for holder in all {
        let address = ContentAddress::of(holder.uid().as_bytes());
        let told = holder.mesh.directory().unwrap().announce(&[address], &CancellationToken::new()).await;
        assert_eq!(told, 1);
        for asker in all.into_iter().filter(|a| a.uid() != holder.uid()) {
            let directory = asker.mesh.directory().unwrap();
            let started = Instant::now();
            let found = directory.find(address).await.unwrap();
            assert_eq!(found, [holder.uid()]);
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        }
    }
    let absent = udp.mesh.directory().unwrap().find(ContentAddress::of(b"nobody has this")).await.unwrap();
    assert!(absent.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dht_alone_knows_what_a_bootstrap_forgot() {
    // The device told only the first bootstrap, which is gone; the second has it from the DHT.
    let first = bootstrap(&[]).await;
    let second = bootstrap(&[first.seed()]).await;
    until("they know each other", || knows(&first, second.uid()) && knows(&second, first.uid())).await;
    let quiet = |c: &mut ioex_net::MeshConfig| {
        c.timing.discover_soon = Duration::from_secs(3600);
        c.no_udp = true;
    };
    let a = device_with(&[first.seed()], quiet).await;
    a.joined().await;
    let b = device_with(&[second.seed()], quiet).await;
    b.joined().await;
    let directory = b.mesh.directory().unwrap();
    let record = until_some("the record comes through the DHT", || async {
        directory.resolve(a.uid()).await.unwrap()
    });
    assert_eq!(record.await.bootstraps, [first.seed()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_folder_is_noticed() {
    let boot = bootstrap(&[]).await;
    let a = device_with(&[boot.seed()], |c| c.timing.publish_every = Duration::from_millis(200)).await;
    a.joined().await;
    let _copy = device_with(&[boot.seed()], |c| {
        c.key = a.config.key.clone();
        c.timing.publish_every = Duration::from_millis(200);
    })
    .await;
    until("one of them is told", || a.mesh.warnings().iter().any(|w| w.contains("copied"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dht_answers_when_four_nodes_in_ten_vanish() {
    let report = ioex_net::lab::dht_swarm(30, 40).await.unwrap();
    println!("{report:?}");
    assert_eq!((report.nodes, report.killed), (30, 12));
    assert_eq!(report.announce.answered, 40);
    assert_eq!((report.before.answered, report.after_kill.answered), (40, 40));
}
