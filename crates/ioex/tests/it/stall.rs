//! A device that stands still (SIGSTOP) holds nobody up, and is a device like all others when it goes
//! on.

use std::time::{Duration, Instant};

use crate::{
    harm::{Stopped, arriving, begin, folder, held, number, thorough, when, whole},
    net::{Net, noise, same, write},
};

/// A backup waits two seconds for a device that takes much longer than others did (`Patience` in
/// `placing`), once, and then does without it; a few seconds are its own work on a busy machine. It was half a
/// minute once.
const BACKUP_MAX: Duration = Duration::from_secs(15);
/// A restore asks the next holder after a second and a half (`HEDGE_AFTER` in `fetch`).
const RESTORE_MAX: Duration = Duration::from_secs(25);
/// Whoever is asked and is not there has lost its connection after half a minute; an answer is waited
/// for during a minute (`ANSWER_TIMEOUT` in `ioex_net::shards`).
const ROUND_MAX: Duration = Duration::from_secs(75);
const POLICY: &str = "rs=2/4/4/5";

#[test]
fn a_device_that_stands_still_holds_no_backup_up() {
    let net = Net::start(5, "300MB");
    let tree = net.make_tree("tree");
    let args = ["backup", "create", tree.to_str().unwrap(), "--policy", POLICY];
    // It stops while it takes something: its connection stays, and nobody knows.
    let mut job = begin(&net.super_node, &args);
    assert!(when(&mut job, || arriving(&folder(&net.peers[0])).is_some()), "it took nothing");
    let stands = Stopped::new(&net.peers[0]);
    let begun = Instant::now();
    assert!(job.wait().unwrap().success());
    let first = begun.elapsed();
    assert!(first < BACKUP_MAX, "the backup took {first:?}");
    drop(stands);
    whole(&net, &tree, "out");

    // One has shards whose leases the next backup extends.
    let most = net.peers.iter().max_by_key(|peer| held(peer)).unwrap();
    let stands = Stopped::new(most);
    write(&tree.join("new"), &noise(6 << 20, 4));
    let begun = Instant::now();
    net.super_node.ask(&args);
    let second = begun.elapsed();
    assert!(second < BACKUP_MAX, "the second backup took {second:?}");
    eprintln!("beside a device that stands still: {first:.1?}, and again {second:.1?}");
    drop(stands);
    whole(&net, &tree, "again");
}

#[test]
fn a_device_that_stands_still_holds_no_restore_up() {
    let net = Net::start(5, "300MB");
    let tree = net.make_tree("tree");
    net.super_node.ask(&["backup", "create", tree.to_str().unwrap(), "--policy", POLICY]);
    let most = net.peers.iter().max_by_key(|peer| held(peer)).unwrap();
    let stands = Stopped::new(most);

    let (begun, out) = (Instant::now(), net.path("out"));
    let restored = net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
    assert!(begun.elapsed() < RESTORE_MAX, "the restore took {:?}: {restored}", begun.elapsed());
    same(&tree, &out.join("tree"));

    if thorough() {
        let begun = Instant::now();
        let round = net.super_node.ask(&["backup", "repair"]);
        assert!(begun.elapsed() < ROUND_MAX, "the round took {:?}", begun.elapsed());
        assert_eq!((number(&round, "faults"), number(&round, "lost_groups")), (0, 0), "{round}");
        assert_eq!(number(&round, "silent"), 1, "{round}");
    }
    drop(stands);
    whole(&net, &tree, "again");
}
