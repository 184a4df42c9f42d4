use std::{sync::Arc, time::Duration};

use ioex_base::NodeKind;
use ioex_vault::Holder;

use super::*;

/// What stands still.
const NEVER: Duration = Duration::from_secs(3_600);
const QUICK: Duration = Duration::from_millis(100);

fn uid(n: u8) -> Uid {
    Uid::from_bytes([n; 32])
}

/// Devices 1 to `count`, each of an owner of its own.
fn placer(count: u8) -> Mutex<Placer> {
    let holder = |n: u8| Holder {
        uid: uid(n),
        kind: NodeKind::Peer,
        owner: format!("owner {n}"),
        domain: format!("10.0.{n}.0/24"),
        firmware: String::new(),
        free_bytes: 1 << 40,
        rtt_ms: None,
    };
    Mutex::new(Placer::new(&(1..=count).map(holder).collect::<Vec<_>>(), 5))
}

fn load(redundancy: &str, enough: usize) -> Load {
    Load {
        redundancy: redundancy.parse().unwrap(),
        what: (ContentAddress::of(b"group"), 1 << 20),
        keep: Vec::new(),
        avoid: Vec::new(),
        enough,
    }
}

/// Brings something to devices that take as long as `takes` says; a time without a shard at its end is a
/// refusal. Returns what was placed, what it took, and how often devices were asked.
async fn brought(
    placer: &Mutex<Placer>,
    load: &Load,
    wanted: &[(u16, u8)],
    takes: impl Fn(u8) -> (Duration, bool) + Clone,
) -> (PlacedGroup, Duration, usize) {
    let (begun, asked) = (Instant::now(), Arc::new(Mutex::new(0)));
    let mut out = PlacedGroup::default();
    let wanted = wanted.iter().map(|(at, n)| (*at, uid(*n))).collect();
    let put = |_: u16, uid: Uid| {
        *asked.lock().unwrap() += 1;
        let (time, taken) = takes(uid.as_bytes()[0]);
        async move {
            tokio::time::sleep(time).await; // poll: the clock is virtual
            (!taken).then(|| "no".to_owned())
        }
    };
    bring(placer, load, wanted, put, &mut out).await;
    let asked = *asked.lock().unwrap();
    (out, begun.elapsed(), asked)
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_does_not_come_is_made_elsewhere_and_its_device_comes_last_from_then_on() {
    let (placer, load) = (placer(5), load("replicas=3", 3));
    let takes = |n| (if n == 1 { NEVER } else { QUICK }, true);
    let (out, took, _) = brought(&placer, &load, &[(0, 1), (0, 2), (0, 3)], takes).await;
    assert_eq!(out.copies.len(), 3, "{out:?}");
    assert!(out.copies.iter().all(|(_, by)| *by != uid(1)));
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(placer.lock().unwrap().is_slow(&uid(1)));
    // Known to be slow, it is not waited for at all when enough others have theirs.
    let enough = Load { enough: 2, ..load };
    let (out, took, _) = brought(&placer, &enough, &[(0, 1), (0, 2), (0, 3)], takes).await;
    assert_eq!((out.copies.len(), took), (2, QUICK));
}

#[tokio::test(start_paused = true)]
async fn each_shard_of_a_coded_group_counts_once() {
    let (placer, load) = (placer(8), load("rs=2/3/4/5", 4));
    // Two of five stand still; only one of them has to be replaced.
    let takes = |n| (if n <= 2 { NEVER } else { QUICK }, true);
    let wanted = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)];
    let (out, took, asked) = brought(&placer, &load, &wanted, takes).await;
    let different: HashSet<u16> = out.copies.iter().map(|(at, _)| *at).collect();
    assert_eq!((different.len(), asked), (4, 6), "{out:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_late_one_may_come_first_and_then_the_other_is_not_waited_for() {
    let (placer, load) = (placer(3), load("rs=2/2/2/2", 2));
    let takes = |n| match n {
        1 => (Duration::from_secs(4), true),
        2 => (QUICK, true),
        _ => (NEVER, true),
    };
    let (out, took, asked) = brought(&placer, &load, &[(0, 1), (1, 2)], takes).await;
    assert_eq!((out.copies.len(), asked), (2, 3), "{out:?}");
    assert!((4..6).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_line_on_which_all_take_long_makes_nobody_slow() {
    let (placer, load) = (placer(9), load("replicas=3", 3));
    let takes = |n| (Duration::from_secs(5 + 3 * u64::from(n)), true);
    let (out, took, asked) = brought(&placer, &load, &[(0, 1), (0, 2), (0, 3)], takes).await;
    assert_eq!((out.copies.len(), took.as_secs(), asked), (3, 14, 3), "{out:?}");
    assert!((1..=3).all(|n| !placer.lock().unwrap().is_slow(&uid(n))));
}

#[tokio::test(start_paused = true)]
async fn without_anybody_else_the_slow_one_gets_all_the_time_there_is() {
    let (placer, load) = (placer(2), load("replicas=2", 2));
    let takes = |n| (if n == 1 { Duration::from_secs(25) } else { QUICK }, true);
    let (out, took, asked) = brought(&placer, &load, &[(0, 1), (0, 2)], takes).await;
    assert_eq!((out.copies.len(), took.as_secs(), asked), (2, 25, 2));
    let takes = |n| (if n == 1 { NEVER } else { QUICK }, true);
    let (out, took, _) = brought(&placer, &load, &[(0, 1), (0, 2)], takes).await;
    assert_eq!((out.copies.len(), out.notes.len(), took.as_secs()), (1, 1, 30), "{out:?}");
}

#[tokio::test(start_paused = true)]
async fn who_refuses_is_replaced_at_once() {
    let (placer, load) = (placer(4), load("replicas=2", 2));
    let takes = |n| (QUICK, n != 1);
    let (out, took, _) = brought(&placer, &load, &[(0, 1), (0, 2)], takes).await;
    assert_eq!((out.copies.len(), out.notes.len(), took), (2, 1, 2 * QUICK), "{out:?}");
    let nobody = brought(&placer, &load, &[(0, 2), (0, 3)], |_| (QUICK, false)).await.0;
    assert_eq!((nobody.copies.len(), nobody.notes.len()), (0, 3), "{nobody:?}");
}
