//! A maker's orders at a super node: whom it matches with whom, and how the fleet is doing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context as _, ensure};
use data_encoding::BASE64;
use ioex_api::{OtaOrderInfo, OtaStage};
use ioex_base::{ContentAddress, NodeKey, Sealed as _, Uid, UnixSeconds};
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
    log: File,
}

impl Running {
    fn results(&self) -> Results {
        let count = |stage| self.fleet.values().filter(|told| told.stage == stage).count() as u64;
        Results { done: count(OtaStage::Confirmed), failed: count(OtaStage::Failed) }
    }

    fn is_stopped(&self) -> bool {
        let (min_results, max_failed_per_myriad) = self.file.stop;
        StopRule { min_results, max_failed_per_myriad }.tripped(self.results())
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
        self.fleet.insert(told.device, Told { bytes, ..told });
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
        let mut running = Running { file, order, roster, matcher, fleet: HashMap::new(), log };
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
                "this node has {ORDERS_MAX} orders: end old ones first"
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

    pub(super) fn packages(&self) -> Vec<ContentAddress> {
        lock(&self.running).keys().copied().collect()
    }

    /// What this node is an origin of.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let running = lock(&self.running);
        let own = self.key.uid();
        let origin_of = running.iter().filter(|(_, running)| running.file.origins.contains(&own));
        let kept = |(manifest, running): (&ContentAddress, &Running)| Kept {
            manifest: *manifest,
            matchers: running.file.matchers.clone(),
        };
        origin_of.map(kept).collect()
    }

    pub(super) fn on_roster(&self, manifest: &ContentAddress, caller: &Uid) -> bool {
        lock(&self.running).get(manifest).is_some_and(|running| running.roster.contains(caller))
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
        let mut all = lock(&self.running);
        let running = all.get_mut(&report.manifest).ok_or(No::NotFound)?;
        // Said before: the log does not grow by it.
        if running.fleet.get(caller).is_some_and(|last| last.says_the_same(&told)) {
            return Ok(());
        }
        let was_stopped = running.is_stopped();
        running.log.write_all(&line).and_then(|()| running.log.sync_data()).map_err(|_| No::Failed)?;
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
                expires: running.order.expires,
                served_bytes: 0,
            }
        };
        lock(&self.running).iter().map(show).collect()
    }
}
