//! A maker's orders at a super node: whom it matches with whom, and how the fleet is doing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, ensure};
use data_encoding::BASE64;
use ioex_api::{OtaOrderInfo, OtaStage};
use ioex_base::{ContentAddress, DAY_SECONDS, NodeKey, Sealed as _, Uid, UnixSeconds};
use ioex_net::proto::{Match, No, Provider, Report, Stage};
use ioex_ota::{
    Version,
    matcher::{End, Match as Found, Matcher, NoMatch, Order},
    rollout::{Results, StopRule},
};
use serde::{Deserialize, Serialize};

use super::device::Kept;
use crate::node::lock;
use crate::{channel_folder::read_roster, node::files};

/// Most orders at one node.
const ORDERS_MAX: usize = 1_024;
/// How long the results of an order that ended are shown, in seconds.
const ENDED_KEPT_SECONDS: u64 = 30 * DAY_SECONDS;
/// Different reasons of failures that are shown.
const REASONS_MAX: usize = 20;
/// Pause that a device without a match is told, in ms.
const ASK_AGAIN_MS: u32 = 15_000;

/// An order as it lies on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OrderFile {
    /// The sealed order, in base64.
    order: String,
    /// Who signed it: a key of the channel's targets role.
    signer: Uid,
    channel: ContentAddress,
    matchers: Vec<Uid>,
    origins: Vec<Uid>,
    stop: (u32, u16),
}

/// One line of an order's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    at: UnixSeconds,
    device: Uid,
    stage: OtaStage,
    running: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    bytes: [u64; 4],
}

impl Told {
    fn says_the_same(&self, other: &Self) -> bool {
        let words = |told: &Self| (told.stage, told.running.clone(), told.reason.clone(), told.bytes);
        words(self) == words(other)
    }
}

/// One order at work.
struct Running {
    file: OrderFile,
    order: Order,
    roster: HashSet<Uid>,
    matcher: Matcher,
    /// The last word of each device.
    fleet: HashMap<Uid, Told>,
    /// How many of them are done and failed.
    results: Results,
    /// When anything was told last.
    last: UnixSeconds,
    /// Has a lock of its own: whoever waits for the disk holds up no one whom the door asks about.
    log: Arc<Mutex<File>>,
}

impl Running {
    /// What of the results a device is counted under.
    fn result(&mut self, stage: OtaStage) -> Option<&mut u64> {
        match stage {
            OtaStage::Confirmed => Some(&mut self.results.done),
            OtaStage::Failed => Some(&mut self.results.failed),
            _ => None,
        }
    }

    /// When it ended, if it has: by its date, or because as many devices as ordered have the version.
    fn ended(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        if self.matcher.done() >= self.order.quantity {
            return Some(self.last.min(self.order.expires));
        }
        (now > self.order.expires).then_some(self.order.expires)
    }

    fn is_stopped(&self) -> bool {
        let (min_results, max_failed_per_myriad) = self.file.stop;
        StopRule { min_results, max_failed_per_myriad }.tripped(self.results)
    }

    fn note(&mut self, told: Told) {
        match told.stage {
            OtaStage::Fetched | OtaStage::Installed | OtaStage::Confirmed => {
                self.matcher.report(&told.device, End::Done);
            }
            OtaStage::Failed => self.matcher.report(&told.device, End::Failed),
            _ => {}
        }
        // What came over the network is counted once, also when the device then says less.
        let bytes = self.fleet.get(&told.device).map_or([0; 4], |before| before.bytes);
        let bytes = std::array::from_fn(|i| bytes[i].max(told.bytes[i]));
        self.last = self.last.max(told.at);
        if let Some(count) = self.result(told.stage) {
            *count += 1;
        }
        if let Some(before) = self.fleet.insert(told.device, Told { bytes, ..told })
            && let Some(count) = self.result(before.stage)
        {
            *count -= 1;
        }
    }
}

/// All orders of this node.
pub(super) struct Orders {
    dir: PathBuf,
    key: NodeKey,
    running: Mutex<BTreeMap<ContentAddress, Running>>,
}

/// What a maker's order comes with.
pub(super) struct NewOrder {
    pub(super) sealed: Vec<u8>,
    pub(super) signer: Uid,
    pub(super) channel: ContentAddress,
    pub(super) roster: PathBuf,
    pub(super) matchers: Vec<Uid>,
    pub(super) origins: Vec<Uid>,
    pub(super) stop: StopRule,
}

impl NewOrder {
    /// The package that it is for.
    ///
    /// # Errors
    /// When the order cannot be trusted.
    pub(super) fn manifest(&self) -> anyhow::Result<ContentAddress> {
        Ok(Order::unseal(&self.sealed, &self.signer).context("the order cannot be trusted")?.manifest)
    }
}

impl Orders {
    /// Opens what is on disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(dir: &Path, key: &NodeKey) -> anyhow::Result<Self> {
        files::private_dir(dir)?;
        let orders = Self { dir: dir.to_owned(), key: key.clone(), running: Mutex::default() };
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "json") {
                let begun = orders.begin(&path).with_context(|| format!("the order {}", path.display()))?;
                lock(&orders.running).insert(begun.order.manifest, begun);
            }
        }
        Ok(orders)
    }

    /// Begins with an order's files.
    fn begin(&self, path: &Path) -> anyhow::Result<Running> {
        let file: OrderFile = serde_json::from_slice(&fs::read(path)?)?;
        let order = Order::unseal(&BASE64.decode(file.order.as_bytes())?, &file.signer)?;
        let roster: HashSet<Uid> = read_roster(&path.with_extension("roster"))?.into_iter().collect();
        // Higher than any serial of an earlier start, and apart by more than one start can use.
        let first_serial = files::now().0.saturating_mul(1_000_000);
        let mut matcher = Matcher::new(self.key.clone(), order.clone(), &roster, first_serial)?;
        file.origins.iter().for_each(|uid| matcher.add_origin(*uid));
        let path = path.with_extension("log");
        let log = File::options().append(true).create(true).open(&path)?;
        let (fleet, results, last) = (HashMap::new(), Results { done: 0, failed: 0 }, UnixSeconds(0));
        let log = Arc::new(Mutex::new(log));
        let mut running = Running { file, order, roster, matcher, fleet, results, last, log };
        for line in BufReader::new(File::open(&path)?).split(b'\n') {
            // A last line that a crash or a full disk cut is told again by its device.
            if let Ok(told) = serde_json::from_slice::<Told>(&line?) {
                running.note(told);
            }
        }
        Ok(running)
    }

    /// Takes an order. One for the same package takes the place of the one before, its results stay.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn take(&self, new: NewOrder) -> anyhow::Result<ContentAddress> {
        let order = Order::unseal(&new.sealed, &new.signer).context("the order cannot be trusted")?;
        let roster: HashSet<Uid> = read_roster(&new.roster)?.into_iter().collect();
        // Whatever is wrong with it is said before anything is written.
        Matcher::new(self.key.clone(), order.clone(), &roster, 0)?;
        {
            let running = lock(&self.running);
            ensure!(
                running.len() < ORDERS_MAX || running.contains_key(&order.manifest),
                "this node has {ORDERS_MAX} orders: end old ones with `ioex ota order VERSION --end`"
            );
        }
        let file = OrderFile {
            order: BASE64.encode(&new.sealed),
            signer: new.signer,
            channel: new.channel,
            matchers: new.matchers,
            origins: new.origins,
            stop: (new.stop.min_results, new.stop.max_failed_per_myriad),
        };
        let path = self.dir.join(format!("{}.json", order.manifest));
        let mut text = String::new();
        for uid in &roster {
            text += &format!("{uid}\n");
        }
        let wrote = files::replace(&path.with_extension("roster"), text.as_bytes())
            .and_then(|()| files::replace(&path, &serde_json::to_vec_pretty(&file)?));
        wrote.with_context(|| format!("cannot write {}", path.display()))?;
        let begun = self.begin(&path)?;
        lock(&self.running).insert(order.manifest, begun);
        Ok(order.manifest)
    }

    pub(super) fn any(&self) -> bool {
        !lock(&self.running).is_empty()
    }

    /// Forgets orders whose end is long past, and returns the packages that this node keeps as an origin: those of
    /// orders that run, and of the `newest` versions of a channel, against which the next one is packed.
    pub(super) fn sweep(
        &self,
        now: UnixSeconds,
        newest: impl Fn(&ContentAddress) -> Vec<ContentAddress>,
    ) -> Vec<Kept> {
        let own = self.key.uid();
        // `newest` reads files: not under the lock at which the door asks.
        let (mut kept, mut ended) = (Vec::new(), Vec::new());
        for (manifest, running) in lock(&self.running).iter() {
            let file = &running.file;
            let package = Kept { manifest: *manifest, matchers: file.matchers.clone() };
            let is_origin = file.origins.contains(&own);
            match running.ended(now) {
                Some(at) => ended.push((file.channel, at, package, is_origin)),
                None if is_origin => kept.push(package),
                None => {}
            }
        }
        let mut bases: HashMap<ContentAddress, Vec<ContentAddress>> = HashMap::new();
        let mut over = Vec::new();
        for (channel, at, package, is_origin) in ended {
            let is_base =
                bases.entry(channel).or_insert_with(|| newest(&channel)).contains(&package.manifest);
            if is_base && is_origin {
                kept.push(package);
            } else if !is_base && now.since(at) > ENDED_KEPT_SECONDS {
                over.push(package.manifest);
            }
        }
        for manifest in over {
            match self.end(&manifest) {
                Ok(_) => tracing::info!("the order for {manifest} ended long ago and is forgotten"),
                Err(e) => tracing::warn!("the order for {manifest} cannot be deleted: {e}"),
            }
        }
        kept
    }

    /// Ends an order at once. Returns whether there was one.
    ///
    /// # Errors
    /// When its files cannot be deleted; it begins again at the next start then.
    pub(super) fn end(&self, manifest: &ContentAddress) -> std::io::Result<bool> {
        if lock(&self.running).remove(manifest).is_none() {
            return Ok(false);
        }
        let path = self.dir.join(format!("{manifest}.json"));
        // The first one makes it an order.
        fs::remove_file(&path)?;
        for other in ["roster", "log"] {
            fs::remove_file(path.with_extension(other))?;
        }
        Ok(true)
    }

    pub(super) fn on_roster(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        lock(&self.running).get(manifest).is_some_and(|running| running.roster.contains(caller))
    }

    pub(super) fn on_a_roster(&self, caller: &Uid) -> bool {
        lock(&self.running).values().any(|running| running.roster.contains(caller))
    }

    pub(super) fn matched(&self, caller: &Uid, manifest: &ContentAddress) -> Result<Match, No> {
        let mut all = lock(&self.running);
        let running = all.get_mut(manifest).ok_or(No::NotFound)?;
        if running.is_stopped() {
            return Err(No::Paused);
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| No::Failed)?;
        let found = running.matcher.matched(caller, u64::from_le_bytes(random), files::now());
        // Who was matched often goes on among its peers, and for that needs a pass.
        let found = match (found, running.matcher.pass(caller, files::now())) {
            (Err(NoMatch::Often), Some(pass)) => Ok(Found { providers: Vec::new(), pass }),
            (found, _) => found,
        };
        let found = found.map_err(|why| match why {
            NoMatch::NotOnRoster => No::NotFound,
            NoMatch::Ended | NoMatch::Quantity => No::Paused,
            NoMatch::Often | NoMatch::NoProvider => No::Nothing { after_ms: ASK_AGAIN_MS },
        })?;
        let origins = &running.file.origins;
        let providers = found.providers.into_iter().map(|(uid, voucher)| Provider {
            uid,
            origin: origins.contains(&uid),
            voucher,
        });
        Ok(Match { pass: found.pass, providers: providers.collect() })
    }

    pub(super) fn report(&self, caller: &Uid, report: Report) -> Result<(), No> {
        let stage = match report.stage {
            Stage::Fetching => OtaStage::Fetching,
            Stage::Fetched => OtaStage::Fetched,
            Stage::Installed => OtaStage::Installed,
            Stage::Confirmed => OtaStage::Confirmed,
            Stage::Failed => OtaStage::Failed,
        };
        let told = Told {
            at: files::now(),
            device: *caller,
            stage,
            running: report.running,
            reason: report.reason,
            bytes: report.bytes,
        };
        told.running.parse::<Version>().map_err(|_| No::BadRequest)?;
        let mut line = serde_json::to_vec(&told).map_err(|_| No::BadRequest)?;
        line.push(b'\n');
        let log = {
            let all = lock(&self.running);
            let running = all.get(&report.manifest).ok_or(No::NotFound)?;
            // Said before: the log does not grow by it.
            if running.fleet.get(caller).is_some_and(|last| last.says_the_same(&told)) {
                return Ok(());
            }
            running.log.clone()
        };
        // Kept until it is noted, so that the log has everything in the order in which it counts.
        let mut log = lock(&log);
        log.write_all(&line).and_then(|()| log.sync_data()).map_err(|_| No::Failed)?;
        let mut all = lock(&self.running);
        let running = all.get_mut(&report.manifest).ok_or(No::NotFound)?;
        let was_stopped = running.is_stopped();
        running.note(told);
        if !was_stopped && running.is_stopped() {
            tracing::warn!(
                "too many devices failed with version {}: nobody else is matched",
                running.order.version
            );
        }
        Ok(())
    }

    /// How the fleet is doing.
    pub(super) fn show(&self) -> Vec<OtaOrderInfo> {
        let show = |(manifest, running): (&ContentAddress, &Running)| {
            let mut stages: BTreeMap<String, u64> = BTreeMap::new();
            let mut versions: BTreeMap<String, u64> = BTreeMap::new();
            let mut reasons: HashMap<&str, u64> = HashMap::new();
            let mut bytes = [0_u64; 4];
            for told in running.fleet.values() {
                *stages.entry(told.stage.name().to_owned()).or_default() += 1;
                *versions.entry(told.running.clone()).or_default() += 1;
                for (sum, more) in bytes.iter_mut().zip(told.bytes) {
                    *sum = sum.saturating_add(more);
                }
                if told.stage == OtaStage::Failed {
                    *reasons.entry(&told.reason).or_default() += 1;
                }
            }
            let mut reasons: Vec<(String, u64)> =
                reasons.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
            reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            reasons.truncate(REASONS_MAX);
            OtaOrderInfo {
                channel: running.file.channel,
                manifest: *manifest,
                version: running.order.version.to_string(),
                roster: running.roster.len() as u64,
                quantity: u64::from(running.order.quantity),
                heard: running.fleet.len() as u64,
                stages,
                versions,
                reasons,
                by_source: bytes,
                stopped: running.is_stopped(),
                ended: running.ended(files::now()),
                expires: running.order.expires,
                served_bytes: 0,
            }
        };
        lock(&self.running).iter().map(show).collect()
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(kept(now, &[]), [second], "as many as ordered have it");
        assert_eq!(kept(now, &[first]), both, "the next version is packed against it");
        assert_eq!(orders.matched(&key(3).uid(), &first).err(), Some(No::Paused));
        assert_eq!(orders.show().iter().filter(|shown| shown.ended.is_some()).count(), 1);
        let late = now.plus(DAY_SECONDS + 10);
        assert_eq!(kept(late, &[]), [], "its date");
        assert_eq!(orders.show().len(), 3, "results are shown for a while");
        assert_eq!(kept(late.plus(ENDED_KEPT_SECONDS), &[second]), [second]);
        assert_eq!(orders.show().len(), 1);
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
        assert!(!orders.show()[0].stopped);
        tell(3, Stage::Failed);
        let again = Orders::open(&dir.path().join("orders"), &key(1)).unwrap();
        for orders in [&orders, &again] {
            assert_eq!(results(orders), Results { done: 1, failed: 1 });
            assert!(orders.show()[0].stopped);
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
        assert_eq!(orders.show()[0].stages["fetched"], 1);
    }
}
