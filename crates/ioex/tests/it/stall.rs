//! A device that stands still (SIGSTOP) holds nobody up, and is a device like all others when it goes
//! on.

use std::time::{Duration, Instant};

use crate::{
    harm::{Stopped, arriving, begin, folder, number, thorough, when, whole},
    net::{Net, same},
};

/// A backup waits two seconds for a device of which it has enough others (`PATIENCE` in `placing`),
/// and half a minute for one of which it has not (`PLACE_TIMEOUT`): for the index all devices count.
const BACKUP_MAX: Duration = Duration::from_secs(50);
/// A restore asks the next holder after a second and a half (`HEDGE_AFTER` in `fetch`).
const RESTORE_MAX: Duration = Duration::from_secs(25);
/// Whoever is asked and is not there has lost its connection after half a minute; an answer is waited
/// for during a minute (`ANSWER_TIMEOUT` in `ioex_net::shards`).
const ROUND_MAX: Duration = Duration::from_secs(75);

#[test]
fn a_device_that_stands_still_holds_nobody_up() {
    let net = Net::start(5, "300MB");
    let tree = net.make_tree("tree");
    let args = ["backup", "create", tree.to_str().unwrap(), "--policy", "rs=2/4/4/5"];
    let stands = if thorough() {
        let mut job = begin(&net.super_node, &args);
        assert!(when(&mut job, || arriving(&folder(&net.peers[0])).is_some()), "it took nothing");
        let stands = Stopped::new(&net.peers[0]);
        let begun = Instant::now();
        assert!(job.wait().unwrap().success());
        assert!(begun.elapsed() < BACKUP_MAX, "the backup took {:?}", begun.elapsed());
        stands
    } else {
        net.super_node.ask(&args);
        Stopped::new(&net.peers[0])
    };

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
