use ioex_ota::voucher::OrderId;

use super::*;
use crate::node::ota::fixture::release;

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

/// Places an order for devices 2 and 3 at node 1, and returns its manifest.
fn place(orders: &Orders, dir: &Path, origin: u8, quantity: u32, name: &[u8]) -> ContentAddress {
    orders.take(new_order(dir, [2, 3], origin, quantity, name)).unwrap()
}

/// An order for two devices at node 1, of which the node 5 is a matcher, too.
fn new_order(dir: &Path, devices: [u8; 2], origin: u8, quantity: u32, name: &[u8]) -> NewOrder {
    let roster: HashSet<Uid> = devices.map(|n| key(n).uid()).into();
    let order = Order {
        id: OrderId([4; 16]),
        matcher: key(1).uid(),
        version: Version([2, 0, 0, 0]),
        manifest: ContentAddress::of(name),
        shards: 10,
        quantity,
        roster: roster_hash(&roster),
        expires: files::now().plus(DAY_SECONDS),
    };
    let path = dir.join("roster.txt");
    fs::write(&path, roster.iter().map(|uid| format!("{uid}\n")).collect::<String>()).unwrap();
    NewOrder {
        sealed: order.seal(&key(9)),
        signer: key(9).uid(),
        channel: ContentAddress::of(b"channel"),
        roster: path,
        matchers: vec![key(1).uid(), key(5).uid()],
        origins: vec![key(origin).uid()],
        stop: StopRule { min_results: 2, max_failed_per_myriad: 4_000 },
    }
}

/// What a channel says of a rollout.
fn rolled_out(manifest: ContentAddress, min_results: u32, resumed: Option<UnixSeconds>) -> Release {
    let stop = StopRule { min_results, max_failed_per_myriad: 4_000 };
    let rollout = Some(Rollout { stop, resumed, ..Rollout::at_once("2.0", 10_000) });
    Release { manifest, matchers: vec![key(1).uid(), key(5).uid()], rollout, ..release() }
}

fn shown(orders: &Orders) -> Vec<ioex_api::OtaOrderInfo> {
    orders.fleet(|_| Vec::new()).orders
}

fn report(manifest: ContentAddress, stage: Stage) -> Report {
    let (running, reason) = ("2.0".to_owned(), String::new());
    Report { manifest, stage, running, reason, bytes: [0; 4], receipts: Vec::new() }
}

#[test]
fn an_order_ends_by_its_number_or_its_date_and_is_forgotten_later() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let none = |_: &ContentAddress| Vec::new();
    let kept = |now, newest: &[ContentAddress]| {
        let kept = orders.sweep(now, |_| newest.to_vec()).into_iter();
        let mut manifests: Vec<ContentAddress> = kept.map(|kept| kept.manifest).collect();
        manifests.sort_unstable();
        manifests
    };
    let (first, second) =
        (place(&orders, dir.path(), 1, 1, b"first"), place(&orders, dir.path(), 1, 2, b"second"));
    place(&orders, dir.path(), 8, 2, b"another node's");
    let now = files::now();
    let mut both = vec![first, second];
    both.sort_unstable();
    assert_eq!(kept(now, &[]), both, "a matcher that is no origin keeps no package");
    assert_eq!(orders.matched(&key(3).uid(), &first).err(), None);
    orders.report(&key(2).uid(), report(first, Stage::Fetched)).unwrap();
    assert_eq!(
        orders.matched(&key(3).uid(), &first).err(),
        Some(No::Paused),
        "as many as ordered have the package"
    );
    assert_eq!(kept(now, &[]), both, "it may still fail");
    orders.report(&key(2).uid(), report(first, Stage::Failed)).unwrap();
    assert_eq!(orders.matched(&key(3).uid(), &first).err(), None, "it failed: another one has its place");
    orders.report(&key(2).uid(), report(first, Stage::Confirmed)).unwrap();
    assert_eq!(kept(now, &[]), [second], "as many as ordered run it");
    assert_eq!(kept(now, &[first]), both, "the next version is packed against it");
    assert_eq!(orders.matched(&key(3).uid(), &first).err(), Some(No::Paused));
    assert_eq!(shown(&orders).iter().filter(|shown| shown.ended.is_some()).count(), 1);
    let late = now.plus(DAY_SECONDS + 10);
    assert_eq!(kept(late, &[]), [], "its date");
    assert_eq!(shown(&orders).len(), 3, "results are shown for a while");
    assert_eq!(kept(late.plus(ENDED_KEPT_SECONDS), &[second]), [second]);
    assert_eq!(shown(&orders).len(), 1);
    assert!(orders.end(&second).unwrap() && !orders.end(&second).unwrap());
    let again = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    assert!(!again.any() && again.sweep(now, none).is_empty());
    assert_eq!(fs::read_dir(dir.path().join("orders")).unwrap().count(), 0);
}

#[test]
fn results_are_counted_once_for_each_device_also_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let tell = |n, stage| orders.report(&key(n).uid(), report(manifest, stage)).unwrap();
    for _ in 0..3 {
        tell(2, Stage::Failed);
        tell(2, Stage::Fetching);
    }
    tell(2, Stage::Confirmed);
    let results = |orders: &Orders| lock(&orders.running)[&manifest].results;
    assert_eq!(results(&orders), Results { done: 1, failed: 0 });
    assert!(!shown(&orders)[0].stopped);
    tell(3, Stage::Failed);
    let again = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    for orders in [&orders, &again] {
        assert_eq!(results(orders), Results { done: 1, failed: 1 });
        assert!(shown(orders)[0].stopped);
    }
}

#[test]
fn who_waits_for_the_disk_holds_up_no_one_whom_the_door_asks_about() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let log = lock(&orders.running)[&manifest].log.clone();
    let slow = lock(&log);
    std::thread::scope(|scope| {
        scope.spawn(|| orders.report(&key(2).uid(), report(manifest, Stage::Fetched)));
        while Arc::strong_count(&log) < 3 {
            // poll: the other thread tells nobody that it waits
            std::thread::yield_now();
        }
        assert!(orders.on_roster(&manifest, &key(3).uid()));
        assert!(orders.matched(&key(3).uid(), &manifest).is_ok());
        drop(slow);
    });
    assert_eq!(shown(&orders)[0].stages["fetched"], 1);
}

/// A device that looked before the maker paused does not know of it; one that began goes on.
#[test]
fn while_the_maker_pauses_nobody_is_matched_who_has_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let channel = ContentAddress::of(b"channel");
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let says = |course| {
        let mut said = rolled_out(manifest, 2, None);
        said.rollout.as_mut().unwrap().course = course;
        orders.follow(&channel, &[said]).unwrap();
    };
    assert!(orders.matched(&key(2).uid(), &manifest).is_ok());
    for course in [Course::Paused, Course::Aborted] {
        says(course);
        assert!(orders.matched(&key(2).uid(), &manifest).is_ok(), "it began");
        assert_eq!(orders.matched(&key(3).uid(), &manifest).err(), Some(No::Paused));
    }
    says(Course::Running);
    assert!(orders.matched(&key(3).uid(), &manifest).is_ok());
}

#[test]
fn a_maker_goes_on_after_a_stop_and_failures_are_counted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let tell = |n, stage| orders.report(&key(n).uid(), report(manifest, stage)).unwrap();
    let says = |orders: &Orders, min_results, resumed: Option<u64>| {
        let said = rolled_out(manifest, min_results, resumed.map(UnixSeconds));
        orders.follow(&ContentAddress::of(b"channel"), &[said]).unwrap();
    };
    tell(2, Stage::Failed);
    tell(3, Stage::Failed);
    assert_eq!(orders.matched(&key(2).uid(), &manifest).err(), Some(No::Paused));
    // Another rule alone does not help: both have failed.
    says(&orders, 1, None);
    assert!(shown(&orders)[0].stopped);
    // Nor does what another channel says.
    orders.follow(&ContentAddress::of(b"other"), &[rolled_out(manifest, 2, Some(files::now()))]).unwrap();
    assert!(shown(&orders)[0].stopped);
    says(&orders, 2, Some(100));
    let again = || Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    for orders in [&orders, &again()] {
        let now = &shown(orders)[0];
        assert!(!now.stopped && now.stages["failed"] == 2, "{now:?}");
        assert_eq!(orders.matched(&key(2).uid(), &manifest).err(), None);
    }
    for n in [2, 3] {
        assert!(!shown(&orders)[0].stopped);
        tell(n, Stage::Fetching);
        tell(n, Stage::Failed);
    }
    assert!(shown(&orders)[0].stopped && shown(&again())[0].stopped, "and stop it anew");
    let again = again();
    says(&again, 2, Some(100));
    assert!(shown(&again)[0].stopped, "that it went on once is not new, also after a start");
    says(&again, 2, Some(101));
    assert!(!shown(&again)[0].stopped);
}

/// Another bound says what stops an order from then on; what happened before it stays as it was, also after a start.
#[test]
fn another_bound_changes_nothing_that_was() {
    for (name, bounds, results) in [
        ("stopped, then a wider one", [2, 10], [Stage::Failed, Stage::Failed]),
        ("never stopped, then a narrower one", [10, 1], [Stage::Failed, Stage::Confirmed]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
        let manifest = place(&orders, dir.path(), 1, 2, b"first");
        let says = |orders: &Orders, min_results| {
            orders
                .follow(&ContentAddress::of(b"channel"), &[rolled_out(manifest, min_results, None)])
                .unwrap();
        };
        says(&orders, bounds[0]);
        for stage in results {
            orders.report(&key(2).uid(), report(manifest, Stage::Failed)).unwrap();
            orders.report(&key(2).uid(), report(manifest, stage)).unwrap();
            orders.report(&key(3).uid(), report(manifest, stage)).unwrap();
        }
        says(&orders, bounds[1]);
        let want = results[1] == Stage::Failed;
        let again = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
        let third = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
        assert_eq!([&orders, &again, &third].map(|orders| shown(orders)[0].stopped), [want; 3], "{name}");
        // An earlier program's log has no bounds: it counts by the one of today.
        let log = dir.path().join("orders").join(format!("{manifest}.log"));
        let text = fs::read_to_string(&log).unwrap();
        let old: String =
            text.lines().filter(|line| !line.contains("bound")).map(|l| format!("{l}\n")).collect();
        fs::write(&log, old).unwrap();
        let again = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
        assert_eq!(shown(&again)[0].stopped, !want, "{name}");
    }
}

/// What a full disk left of a line ends where the next one begins.
#[test]
fn half_a_line_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let half = || lock(&lock(&orders.running)[&manifest].log.clone()).write_all(b"\n{\"at\":12").unwrap();
    half();
    orders.report(&key(2).uid(), report(manifest, Stage::Failed)).unwrap();
    half();
    orders
        .follow(&ContentAddress::of(b"channel"), &[rolled_out(manifest, 3, Some(UnixSeconds(100)))])
        .unwrap();
    half();
    orders.report(&key(3).uid(), report(manifest, Stage::Confirmed)).unwrap();
    let again = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let all = lock(&again.running);
    let now = &all[&manifest];
    assert_eq!((now.results, now.resumed), (Results { done: 1, failed: 1 }, Some(UnixSeconds(100))));
}

/// A date that never comes would be the last word of the maker's.
#[test]
fn going_on_in_the_far_future_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let resumed = |at| {
        orders.follow(&ContentAddress::of(b"channel"), &[rolled_out(manifest, 2, Some(at))]).unwrap();
        lock(&orders.running)[&manifest].resumed
    };
    let now = files::now();
    assert_eq!(resumed(UnixSeconds(u64::MAX)), None);
    assert_eq!(resumed(now.plus(CLOCK_SLACK_SECONDS + 1_000)), None);
    assert_eq!(resumed(now), Some(now));
}

#[test]
fn a_roster_that_cannot_be_read_is_not_deleted_and_one_goes_with_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let place_of = dir.path().join("orders");
    let orders = Orders::open(&place_of, &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let new = place_of.join(format!("{manifest}.{NEW_ROSTER}"));
    // Not readable as a file.
    fs::create_dir(&new).unwrap();
    assert!(!Orders::open(&place_of, &key(1)).unwrap().any(), "whether it is the order's is not known");
    fs::remove_dir(&new).unwrap();
    fs::write(&new, format!("{}\n", key(7).uid())).unwrap();
    let again = Orders::open(&place_of, &key(1)).unwrap();
    assert!(again.on_roster(&manifest, &key(2).uid()) && !new.exists(), "another order's");
    fs::write(&new, format!("{}\n", key(7).uid())).unwrap();
    assert!(again.end(&manifest).unwrap());
    assert_eq!(fs::read_dir(&place_of).unwrap().count(), 0);
}

/// What files lie there, and how they look.
fn files_of(dir: &Path) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    let read = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).unwrap());
    fs::read_dir(dir).unwrap().flatten().map(read).collect()
}

/// The same order with another roster; the power is cut between any two of its files.
#[test]
fn an_order_is_the_old_or_the_new_one_wherever_a_cut_comes() {
    let dir = tempfile::tempdir().unwrap();
    let place_of = |name: &str| dir.path().join(name);
    let orders = Orders::open(&place_of("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let before = files_of(&place_of("orders"));
    orders.take(new_order(dir.path(), [3, 4], 1, 2, b"first")).unwrap();
    let after = files_of(&place_of("orders"));
    let name = |end: &str| std::ffi::OsString::from(format!("{manifest}.{end}"));
    let steps: [(&str, &std::ffi::OsString, &std::ffi::OsString); 3] = [
        ("the roster", &name("roster-new"), &name("roster")),
        ("the order", &name("json"), &name("json")),
        ("the roster's place", &name("roster"), &name("roster")),
    ];
    for cut in 0..=steps.len() {
        let cut_dir = place_of(&format!("cut-{cut}"));
        fs::create_dir(&cut_dir).unwrap();
        let mut now = before.clone();
        for (_, place, content) in &steps[..cut] {
            now.insert((*place).clone(), after[*content].clone());
        }
        if cut == steps.len() {
            now.remove(&name("roster-new"));
        }
        now.iter().for_each(|(name, bytes)| fs::write(cut_dir.join(name), bytes).unwrap());
        let again = Orders::open(&cut_dir, &key(1)).unwrap();
        let on = |n: u8| again.on_roster(&manifest, &key(n).uid());
        assert_eq!([on(2), on(3), on(4)], [cut < 2, true, cut >= 2], "cut {cut}");
        assert!(!cut_dir.join(name("roster-new")).exists(), "cut {cut}");
    }
}

/// An order with a new roster, and another bound for failures, at the same moment: nothing of either is lost, nor of what
/// devices say meanwhile.
#[test]
fn orders_and_other_bounds_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let channel = ContentAddress::of(b"channel");
    for round in 0..30_u32 {
        let devices = if round % 2 == 0 { [3, 4] } else { [2, 3] };
        let new = new_order(dir.path(), devices, 1, 2, b"first");
        std::thread::scope(|scope| {
            scope.spawn(|| orders.take(new).unwrap());
            scope.spawn(|| {
                let went_on = Some(UnixSeconds(u64::from(round) + 1));
                orders.follow(&channel, &[rolled_out(manifest, 10 + round, went_on)]).unwrap();
            });
            scope.spawn(|| {
                let stage = if round % 2 == 0 { Stage::Failed } else { Stage::Confirmed };
                orders.report(&key(3).uid(), report(manifest, stage)).unwrap();
            });
        });
        let again = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
        for orders in [&orders, &again] {
            let all = lock(&orders.running);
            let now = &all[&manifest];
            assert!(devices.iter().all(|n| now.roster.contains(&key(*n).uid())), "round {round}");
            assert_eq!(now.resumed, Some(UnixSeconds(u64::from(round) + 1)), "round {round}");
            let told = [OtaStage::Failed, OtaStage::Confirmed][round as usize % 2];
            assert_eq!(now.fleet[&key(3).uid()].stage, told, "round {round}");
        }
        let stops = [&orders, &again].map(|orders| lock(&orders.running)[&manifest].file.stop);
        assert_eq!(stops[0], stops[1], "round {round}: what is known is on the disk");
    }
}

#[test]
fn only_matchers_of_an_order_here_are_co_matchers() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let (channel, other) = (ContentAddress::of(b"channel"), ContentAddress::of(b"other"));
    assert!(!orders.is_co_matcher(&channel, &key(5).uid()));
    place(&orders, dir.path(), 1, 2, b"first");
    assert!(orders.is_co_matcher(&channel, &key(5).uid()));
    assert!(!orders.is_co_matcher(&other, &key(5).uid()));
    // A device on the roster is none.
    assert!(!orders.is_co_matcher(&channel, &key(2).uid()));
    assert_eq!(orders.co_matchers(), [(channel, [key(5).uid()].into())].into());
}

#[test]
fn a_fleet_is_counted_once_by_the_last_word_of_each_device() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let first = place(&orders, dir.path(), 1, 2, b"first");
    let second = place(&orders, dir.path(), 1, 2, b"second");
    for (manifest, device, at) in [(first, 2, 1), (first, 3, 1), (second, 2, 2)] {
        let told = Told {
            at: UnixSeconds(at),
            device: key(device).uid(),
            stage: OtaStage::Confirmed,
            running: if manifest == first { "1.1.0" } else { "1.2.0" }.to_owned(),
            reason: String::new(),
            bytes: [0; 4],
            is_old: false,
        };
        lock(&orders.running).get_mut(&manifest).unwrap().note(told);
    }
    let fleet = orders.fleet(|_| Vec::new());
    let [channel] = &fleet.channels[..] else { panic!("{fleet:?}") };
    let versions: Vec<_> = channel.versions.iter().map(|(version, n)| (version.as_str(), *n)).collect();
    assert_eq!(((channel.roster, channel.heard), versions), ((2, 2), vec![("1.1.0", 1), ("1.2.0", 1)]));
    for (n, manifest) in [first, second].iter().enumerate() {
        lock(&orders.running).get_mut(manifest).unwrap().file.taken = Some(UnixSeconds(n as u64));
    }
    let order: Vec<_> = orders.fleet(|_| Vec::new()).orders.iter().map(|order| order.manifest).collect();
    assert_eq!(order, [second, first], "the newest first");
}
