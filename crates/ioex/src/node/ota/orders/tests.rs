use ioex_ota::{matcher::roster_hash, voucher::OrderId};

use super::*;

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

/// Places an order for devices 2 and 3 at node 1, and returns its manifest.
fn place(orders: &Orders, dir: &Path, origin: u8, quantity: u32, name: &[u8]) -> ContentAddress {
    let roster: HashSet<Uid> = [key(2).uid(), key(3).uid()].into();
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
    let new = NewOrder {
        sealed: order.seal(&key(9)),
        signer: key(9).uid(),
        channel: ContentAddress::of(b"channel"),
        roster: path,
        matchers: vec![key(1).uid()],
        origins: vec![key(origin).uid()],
        stop: StopRule { min_results: 2, max_failed_per_myriad: 4_000 },
    };
    orders.take(new).unwrap()
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

#[test]
fn a_maker_goes_on_after_a_stop_and_failures_are_counted_anew() {
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
    let manifest = place(&orders, dir.path(), 1, 2, b"first");
    let tell = |n, stage| orders.report(&key(n).uid(), report(manifest, stage)).unwrap();
    let stop = |min_results| StopRule { min_results, max_failed_per_myriad: 4_000 };
    tell(2, Stage::Failed);
    tell(3, Stage::Failed);
    assert_eq!(orders.matched(&key(2).uid(), &manifest).err(), Some(No::Paused));
    // Another rule alone does not help: both have failed.
    assert!(orders.set_stop(&manifest, stop(1), false).unwrap() && shown(&orders)[0].stopped);
    assert!(orders.set_stop(&manifest, stop(2), true).unwrap());
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
    assert!(!orders.set_stop(&ContentAddress::of(b"none"), stop(1), true).unwrap());
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
