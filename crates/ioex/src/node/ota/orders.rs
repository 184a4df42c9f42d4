//! A maker's orders at a super node: whom it matches with whom, and how the fleet is doing.

mod fleet;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, ensure};
use data_encoding::BASE64;
use ioex_api::OtaStage;
use ioex_base::{CLOCK_SLACK_SECONDS, ContentAddress, DAY_SECONDS, NodeKey, Sealed as _, Uid, UnixSeconds};
use ioex_net::proto::{Match, No, Provider, Report, Stage};
use ioex_ota::{
    Release, Version,
    matcher::{End, Match as Found, Matcher, NoMatch, Order, roster_hash},
    rollout::{Course, Results, Rollout, StopRule},
};
use serde::{Deserialize, Serialize};

use super::device::Kept;
use crate::node::lock;
use crate::{channel_folder::read_roster, node::files};

/// Most orders at one node.
const ORDERS_MAX: usize = 1_024;
/// How long the results of an order that ended are shown, in seconds.
const ENDED_KEPT_SECONDS: u64 = 30 * DAY_SECONDS;
/// Pause that a device without a match is told, in ms.
const ASK_AGAIN_MS: u32 = 15_000;
/// How the file of a roster ends whose order is not there yet.
const NEW_ROSTER: &str = "roster-new";

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
    /// When it was taken; absent in those of earlier programs.
    #[serde(default)]
    taken: Option<UnixSeconds>,
}

/// A line of an order's log: its maker went on after failures had stopped it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Resumed {
    resumed: UnixSeconds,
}

/// A line of an order's log: this bound for failures holds from here on, and if it is the first such line, also before.
/// With another one than today's, results of long ago would stop an order that went on, or let one go on that stopped.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bound {
    bound: (u32, u16),
}

/// Adds a line to an order's log. The newline comes first: what a full disk left of the line before ends there.
fn append(log: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = vec![b'\n'];
    serde_json::to_writer(&mut bytes, line)?;
    log.write_all(&bytes)?;
    log.sync_data()
}

/// The lines of an order's log.
fn lines(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>>> {
    Ok(BufReader::new(File::open(path)?).split(b'\n'))
}

/// Any other line of an order's log: a device's word.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    at: UnixSeconds,
    device: Uid,
    stage: OtaStage,
    running: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    bytes: [u64; 4],
    /// Whether the maker went on since.
    #[serde(skip)]
    is_old: bool,
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
    /// Of these, those that came since its maker went on last: they count towards a stop.
    fresh: Results,
    /// When as many devices as ordered ran it. Who fails later begins nothing anew: its package may be gone.
    done: Option<UnixSeconds>,
    /// Failures passed the bound, and its maker did not go on yet.
    stopped: bool,
    /// Whether devices may begin, as the channel says that this node carries.
    course: Course,
    /// When its maker went on last.
    resumed: Option<UnixSeconds>,
    /// Has a lock of its own: whoever waits for the disk holds up no one whom the door asks about.
    log: Arc<Mutex<File>>,
}

impl Running {
    /// When it ended, if it has: by its date, or because as many devices as ordered run the version and are healthy.
    fn ended(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        if let Some(done) = self.done {
            return Some(done.min(self.order.expires));
        }
        (now > self.order.expires).then_some(self.order.expires)
    }

    /// Whether failures stopped it: until its maker goes on, whatever comes meanwhile.
    fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn look_at_stop(&mut self) {
        let (min_results, max_failed_per_myriad) = self.file.stop;
        self.stopped |= StopRule { min_results, max_failed_per_myriad }.tripped(self.fresh);
    }

    /// From here on failures stop it by this bound.
    fn bound(&mut self, stop: (u32, u16)) {
        self.file.stop = stop;
        self.look_at_stop();
    }

    /// Failures are counted anew.
    fn resume(&mut self, at: UnixSeconds) {
        (self.stopped, self.resumed) = (false, Some(at));
        self.fresh = Results::default();
        self.fleet.values_mut().for_each(|told| told.is_old = true);
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
        let at = told.at;
        count(&mut self.results, told.stage, 1);
        count(&mut self.fresh, told.stage, 1);
        if let Some(before) = self.fleet.insert(told.device, Told { bytes, ..told }) {
            count(&mut self.results, before.stage, -1);
            if !before.is_old {
                count(&mut self.fresh, before.stage, -1);
            }
        }
        if self.results.done >= u64::from(self.order.quantity) {
            self.done.get_or_insert(at);
        }
        self.look_at_stop();
    }
}

/// Counts a device's result, or takes it back.
fn count(results: &mut Results, stage: OtaStage, by: i64) {
    let count = match stage {
        OtaStage::Confirmed => &mut results.done,
        OtaStage::Failed => &mut results.failed,
        _ => return,
    };
    *count = count.saturating_add_signed(by);
}

/// The devices of an order whose file is `path`. A new roster takes its place here, once the order that names it is
/// there; one without its order, as a cut leaves it, goes.
fn roster_of(path: &Path, order: &Order) -> anyhow::Result<HashSet<Uid>> {
    let (place, new) = (path.with_extension("roster"), path.with_extension(NEW_ROSTER));
    if new.exists() {
        let roster: HashSet<Uid> = read_roster(&new)?.into_iter().collect();
        if roster_hash(&roster) == order.roster {
            fs::rename(&new, &place)?;
            return Ok(roster);
        }
        fs::remove_file(&new)?;
    }
    Ok(read_roster(&place)?.into_iter().collect())
}

/// All orders of this node.
pub(super) struct Orders {
    dir: PathBuf,
    key: NodeKey,
    running: Mutex<BTreeMap<ContentAddress, Running>>,
    /// Held by whoever writes or deletes an order's files: one change after the other.
    writing: Mutex<()>,
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
    /// What is ordered.
    ///
    /// # Errors
    /// When the order cannot be trusted.
    pub(super) fn order(&self) -> anyhow::Result<Order> {
        Order::unseal(&self.sealed, &self.signer).context("the order cannot be trusted")
    }
}

impl Orders {
    /// Opens what is on disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(dir: &Path, key: &NodeKey) -> anyhow::Result<Self> {
        files::private_dir(dir)?;
        let (running, writing) = (Mutex::default(), Mutex::default());
        let orders = Self { dir: dir.to_owned(), key: key.clone(), running, writing };
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "json") {
                // One that a cut left half written must not keep the node from its other work.
                match orders.begin(&path) {
                    Ok(begun) => drop(lock(&orders.running).insert(begun.order.manifest, begun)),
                    Err(e) => tracing::warn!(
                        "the order {} cannot go on: {e:#}. Give it again with `ioex ota order VERSION`",
                        path.display()
                    ),
                }
            }
        }
        Ok(orders)
    }

    /// Begins with an order's files.
    fn begin(&self, path: &Path) -> anyhow::Result<Running> {
        let file: OrderFile = serde_json::from_slice(&fs::read(path)?)?;
        let order = Order::unseal(&BASE64.decode(file.order.as_bytes())?, &file.signer)?;
        let roster = roster_of(path, &order)?;
        // Higher than any serial of an earlier start, and apart by more than one start can use.
        let first_serial = files::now().0.saturating_mul(1_000_000);
        let mut matcher = Matcher::new(self.key.clone(), order.clone(), &roster, first_serial)?;
        file.origins.iter().for_each(|uid| matcher.add_origin(*uid));
        let path = path.with_extension("log");
        let mut log = File::options().append(true).create(true).open(&path)?;
        // After a line that was cut: what comes next is a line of its own.
        log.write_all(b"\n")?;
        let (results, fresh) = (Results::default(), Results::default());
        let log = Arc::new(Mutex::new(log));
        let (fleet, done, stopped, course, resumed) = (HashMap::new(), None, false, Course::Running, None);
        let mut running = Running {
            file,
            order,
            roster,
            matcher,
            fleet,
            results,
            fresh,
            done,
            stopped,
            course,
            resumed,
            log,
        };
        let stop = running.file.stop;
        let bound_of = |line: &[u8]| serde_json::from_slice::<Bound>(line).ok().map(|line| line.bound);
        // Logs of earlier programs have none: what they say counts by the bound that holds when this one begins.
        let first = lines(&path)?.find_map(|line| line.ok().as_deref().and_then(bound_of));
        running.file.stop = first.unwrap_or(stop);
        for line in lines(&path)? {
            let line = line?;
            // A last line that a crash or a full disk cut is told again by its device.
            if let Ok(told) = serde_json::from_slice::<Told>(&line) {
                // Whoever left the roster since does not count.
                if running.roster.contains(&told.device) {
                    running.note(told);
                }
            } else if let Ok(line) = serde_json::from_slice::<Resumed>(&line) {
                running.resume(line.resumed);
            } else if let Some(bound) = bound_of(&line) {
                running.bound(bound);
            }
        }
        if first.is_none() || running.file.stop != stop {
            append(&mut lock(&running.log), &Bound { bound: stop })?;
            running.bound(stop);
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
            taken: Some(files::now()),
        };
        let path = self.dir.join(format!("{}.json", order.manifest));
        let mut text = String::new();
        for uid in &roster {
            text += &format!("{uid}\n");
        }
        let _turn = lock(&self.writing);
        // The order names its roster: until it is there, the one before and its roster are whole.
        let wrote = files::replace(&path.with_extension(NEW_ROSTER), text.as_bytes())
            .and_then(|()| files::replace(&path, &serde_json::to_vec_pretty(&file)?));
        wrote.with_context(|| format!("cannot write {}", path.display()))?;
        // What devices say meanwhile waits until the new one takes it.
        let log = lock(&self.running).get(&order.manifest).map(|before| before.log.clone());
        let _log = log.as_ref().map(|log| lock(log));
        let mut begun = self.begin(&path)?;
        if let Some(log) = &log {
            begun.log = log.clone();
        }
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
        let _turn = lock(&self.writing);
        if lock(&self.running).remove(manifest).is_none() {
            return Ok(false);
        }
        let path = self.dir.join(format!("{manifest}.json"));
        // The first one makes it an order.
        fs::remove_file(&path)?;
        for other in ["roster", "log", NEW_ROSTER] {
            match fs::remove_file(path.with_extension(other)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Follows what a channel says of its rollouts: when failures stop them, and whether their maker went on; then
    /// failures are counted anew.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn follow(&self, channel: &ContentAddress, releases: &[Release]) -> std::io::Result<()> {
        for release in releases {
            if let Some(rollout) = &release.rollout {
                self.follow_one(channel, &release.manifest, rollout)?;
            }
        }
        Ok(())
    }

    fn follow_one(
        &self,
        channel: &ContentAddress,
        manifest: &ContentAddress,
        rollout: &Rollout,
    ) -> std::io::Result<()> {
        let _turn = lock(&self.writing);
        let stop = (rollout.stop.min_results, rollout.stop.max_failed_per_myriad);
        // One far in the future would be the last: none of its maker's could be later.
        let latest = files::now().plus(CLOCK_SLACK_SECONDS);
        let (mut file, log, resumed) = match lock(&self.running).get_mut(manifest) {
            Some(running) if running.file.channel == *channel => {
                running.course = rollout.course;
                let resumed = rollout.resumed.filter(|at| running.resumed.is_none_or(|before| before < *at));
                let resumed = resumed.filter(|at| {
                    let fits = *at <= latest;
                    if !fits {
                        tracing::warn!(
                            "the maker goes on with version {} at a time that is still to come ({at:?}): not before then",
                            running.order.version
                        );
                    }
                    fits
                });
                if running.file.stop == stop && resumed.is_none() {
                    return Ok(());
                }
                (running.file.clone(), running.log.clone(), resumed)
            }
            _ => return Ok(()),
        };
        // As in `report`: the log has everything in the order in which it counts.
        let mut log = lock(&log);
        if file.stop != stop {
            file.stop = stop;
            // A cut between the two: the next start adds the line.
            files::replace(&self.dir.join(format!("{manifest}.json")), &serde_json::to_vec_pretty(&file)?)?;
            append(&mut log, &Bound { bound: stop })?;
            if let Some(running) = lock(&self.running).get_mut(manifest) {
                running.bound(stop);
            }
        }
        if let Some(resumed) = resumed {
            append(&mut log, &Resumed { resumed })?;
            if let Some(running) = lock(&self.running).get_mut(manifest) {
                running.resume(resumed);
            }
        }
        Ok(())
    }

    /// Whether this node has an order of this channel in which the caller is a matcher, too.
    pub(super) fn is_co_matcher(&self, channel: &ContentAddress, caller: &Uid) -> bool {
        let is = |file: &OrderFile| file.channel == *channel && file.matchers.contains(caller);
        lock(&self.running).values().any(|running| is(&running.file))
    }

    /// The channels of its orders, each with their other matchers.
    pub(super) fn co_matchers(&self) -> BTreeMap<ContentAddress, BTreeSet<Uid>> {
        let own = self.key.uid();
        let mut all: BTreeMap<ContentAddress, BTreeSet<Uid>> = BTreeMap::new();
        for running in lock(&self.running).values() {
            let others = running.file.matchers.iter().filter(|uid| **uid != own);
            all.entry(running.file.channel).or_default().extend(others);
        }
        all
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
        // A device may not have heard of it yet; one that began goes on.
        let began = running.matcher.was_matched(caller) || running.fleet.contains_key(caller);
        if running.course != Course::Running && !began {
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
            is_old: false,
        };
        told.running.parse::<Version>().map_err(|_| No::BadRequest)?;
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
        append(&mut log, &told).map_err(|_| No::Failed)?;
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
}

#[cfg(test)]
mod tests;
