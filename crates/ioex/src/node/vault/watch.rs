//! Watching over what was stored: audits, repair, and taking back what devices hand over.
//!
//! In rounds, devices prove that they have random parts of what they took. From the answers, or their
//! absence, follows what every group still has (`ioex_vault::health`, the rules that the simulation
//! runs too); a group that lost too much gets new shards on other devices, computed from ciphertext.

mod ask;
mod charge;
mod let_go;
mod mend;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use ioex_api::{ApiError, vault::WatchReport};
use ioex_base::{ContentAddress, SignedGrant, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_store::LEASE_GRACE_SECONDS;
use ioex_vault::{
    ShardRef,
    health::{DeviceHealth, DeviceState, Rules, Standing, Verdict, assess, responsible, standing, warning},
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use self::{
    ask::find_out,
    charge::{Charge, own_charge, watched_charge},
};
use super::{
    super::{Node, files},
    Repo,
    book::{Book, BookError, Changes, CopyRecord, GroupRecord, Heard},
    failure::internal,
    partner,
    placing::capability,
    points,
    renew::lease_end,
};

/// Pause between two rounds: a device proves something several times a day.
const ROUND_EVERY: Duration = Duration::from_secs(3_600);
/// The first round comes soon after the start: the node may have been off for long.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Leases of a device are extended again after so long, in seconds: one that was away when a backup
/// extended them must not lose what is needed.
const RENEW_EVERY_SECONDS: u64 = 24 * 3_600;
/// For so long it is remembered that a group was removed, in seconds: until every lease on it ended, and
/// every partner that was away has heard of it or dropped the group by itself.
const REMOVED_KEPT_SECONDS: u64 = SHARD_LIFE_SECONDS + 2 * LEASE_GRACE_SECONDS;

/// Pause between two looks whether partners should hear of something.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// What is remembered of a device between rounds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct DeviceRecord {
    pub(super) health: DeviceHealth,
    /// When it was last asked to prove something.
    pub(super) asked: Option<UnixSeconds>,
    /// When its leases were last extended to what is needed.
    pub(super) renewed: Option<UnixSeconds>,
}

impl DeviceRecord {
    /// This record with what another member says of the device. When this node last extended its own leases
    /// only this node knows.
    pub(super) fn told(mut self, theirs: &Self, now: UnixSeconds) -> Self {
        let asked = theirs.asked.map(|at| at.min(now));
        self.health.join(&theirs.health, asked >= self.asked, now);
        self.asked = self.asked.max(asked);
        self
    }
}

/// A copy of a group, by their places, and the address of its shard.
type Held = (usize, usize, ContentAddress);

/// A round over everything in a book.
struct Round<'a> {
    node: &'a Node,
    charge: Charge<'a>,
    /// Those who do a part of it now, this node among them.
    living: Vec<Uid>,
    /// Everything is looked after, whoever would.
    all: bool,
    grant: SignedGrant,
    rules: Rules,
    now: UnixSeconds,
    groups: Vec<GroupRecord>,
    devices: HashMap<Uid, DeviceRecord>,
    /// What came of asking devices.
    mine: Vec<(Uid, DeviceRecord)>,
    /// Copies (group, shard, device) of which partners say something that this node has not seen.
    unseen: HashSet<(ContentAddress, u16, Uid)>,
    /// Devices that lacked something they were to prove.
    faulty: HashSet<Uid>,
    /// Devices that have again what they lacked.
    back: HashSet<Uid>,
    /// Copies that their devices want to be rid of.
    handed_over: HashSet<(Uid, ContentAddress)>,
    report: WatchReport,
    /// Set when enough was done.
    stop: Option<&'a AtomicBool>,
}

/// Rounds, as long as the node runs.
pub(crate) async fn work(node: Arc<Node>) {
    let start = tokio::time::Instant::now();
    let mut tick = tokio::time::interval_at(start + FIRST_AFTER, ROUND_EVERY);
    let mut look = tokio::time::interval_at(start + LOOK_EVERY, LOOK_EVERY);
    let mut told = None;
    loop {
        let due = tokio::select! {
            _ = tick.tick() => true,
            _ = look.tick() => false,
            () = node.vault.wake.notified() => { told = None; false },
            () = node.stop.cancelled() => return,
        };
        let rounds = async {
            // What was stored since the last time must not depend on this node alone.
            let generation = node.vault.existing().map(|repo| repo.book.generation());
            if due || generation != told {
                partner::exchange(&node, false).await;
                told = generation;
            }
            if due {
                rounds(&node).await;
            }
        };
        tokio::select! {
            () = rounds => {}
            () = node.stop.cancelled() => return,
        }
    }
}

async fn rounds(node: &Node) {
    // What is being changed is left to the next round, which is soon enough.
    if let Some(repo) = node.vault.existing()
        && let Ok(_work) = repo.work.try_lock()
    {
        let done = async { round(node, own_charge(node, &repo)?, false).await };
        tell(node, "", done.await);
    }
    for watched in node.vault.partners.watched() {
        if let Ok(_work) = watched.work.try_lock()
            && let Ok(Some(charge)) = watched_charge(&watched)
        {
            tell(node, " of a partner", round(node, charge, false).await);
        }
    }
}

fn tell(node: &Node, whose: &str, done: Result<WatchReport, ApiError>) {
    match done {
        Ok(report) if report.lost_groups > 0 => {
            let mut text = format!("{} groups of backups{whose} cannot be read any more", report.lost_groups);
            if !report.harmed_points.is_empty() {
                text = format!("{text}; restore points that need them: {}", report.harmed_points.join(", "));
            }
            node.mesh.warn(text);
        }
        Ok(report) => tracing::info!("watched over {} groups{whose}: {report:?}", report.groups),
        Err(e) => tracing::info!("could not watch over backups{whose}: {e}"),
    }
}

/// See [`ioex_api::vault::VaultRequest::Repair`].
pub(super) async fn now(node: &Node) -> Result<WatchReport, ApiError> {
    let watched = node.vault.partners.watched();
    partner::exchange(node, true).await;
    let mut report = WatchReport::default();
    if watched.is_empty() || node.vault.existing().is_some() {
        let repo = node.vault.repo()?;
        let _work = repo.work.lock().await;
        report = round(node, own_charge(node, &repo)?, true).await?;
    }
    for watched in watched {
        let _work = watched.work.lock().await;
        if let Some(charge) = watched_charge(&watched)? {
            report = sum(report, round(node, charge, true).await?);
        }
    }
    // What was repaired is known to the others at once.
    partner::exchange(node, false).await;
    Ok(report)
}

fn sum(a: WatchReport, b: WatchReport) -> WatchReport {
    WatchReport {
        devices: a.devices + b.devices,
        silent: a.silent + b.silent,
        asked: a.asked + b.asked,
        faults: a.faults + b.faults,
        groups: a.groups + b.groups,
        repaired_groups: a.repaired_groups + b.repaired_groups,
        unrepaired_groups: a.unrepaired_groups + b.unrepaired_groups,
        degraded_groups: a.degraded_groups + b.degraded_groups,
        harmed_points: [a.harmed_points, b.harmed_points].concat(),
        lost_groups: a.lost_groups + b.lost_groups,
        placed_shards: a.placed_shards + b.placed_shards,
        placed_bytes: a.placed_bytes + b.placed_bytes,
        handed_over: a.handed_over + b.handed_over,
        seconds: a.seconds + b.seconds,
    }
}

/// One round; with `all`, every device is asked now.
async fn round(node: &Node, charge: Charge<'_>, all: bool) -> Result<WatchReport, ApiError> {
    let started = Instant::now();
    let grant = capability(node)?;
    let now = files::now();
    let mut stock = charge.book.off(move |book| take_stock(book, now)).await?;
    let mut handed_over = HashSet::new();
    if !stock.heard.is_empty() {
        let heard = std::mem::take(&mut stock.heard);
        handed_over = find_out(node, &charge, &grant, (&stock.groups, &stock.devices), heard).await?;
        stock = charge.book.off(move |book| take_stock(book, now)).await?;
    }
    let mut round = Round::new(node, charge, grant, now, stock);
    (round.all, round.handed_over) = (all, handed_over);
    round.ask().await?;
    round.look_again().await?;
    round.renew().await?;
    round.mend().await?;
    round.name_lost().await?;
    round.warn_of_ends().await?;
    round.keep_head().await?;
    round.let_go().await?;
    // Only who came to the end of a round counts as doing its part.
    partner::tell_devices(node, round.charge.repo, &round.charge.members, &round.mine).await;
    round.report.seconds = started.elapsed().as_secs_f64();
    Ok(round.report)
}

/// Makes whole what groups of the own repository lack, as far as devices have room now and until `stop`.
/// Nobody is asked what it has.
pub(super) async fn complete(
    node: &Node,
    repo: &Arc<Repo>,
    ids: Vec<ContentAddress>,
    stop: Option<&AtomicBool>,
) -> Result<WatchReport, ApiError> {
    let charge = own_charge(node, repo)?;
    let ids: BTreeSet<ContentAddress> = ids.into_iter().collect();
    let read = move |book: &Book| {
        let groups = ids.iter().filter_map(|id| book.group(id).transpose()).collect::<Result<_, _>>()?;
        with_devices(book, groups)
    };
    let stock = charge.book.off(read).await?;
    let mut round = Round::new(node, charge, capability(node)?, files::now(), stock);
    (round.all, round.stop) = (true, stop);
    round.mend().await?;
    Ok(round.report)
}

/// What [`complete`] came to, in a sentence for the owner, if there is something to say.
pub(super) fn completed(done: Result<WatchReport, ApiError>) -> Option<String> {
    let report = match done {
        Ok(report) => report,
        Err(e) => return Some(format!("whether shared groups have all their copies was not looked at: {e}")),
    };
    let mut text = Vec::new();
    if report.repaired_groups > 0 {
        text.push(format!(
            "{} shared groups had fewer copies than wanted and got {} more",
            report.repaired_groups, report.placed_shards
        ));
    }
    let short = report.degraded_groups + report.unrepaired_groups;
    if short > 0 {
        text.push(format!("{short} shared groups have fewer copies than wanted until devices have room"));
    }
    (!text.is_empty()).then(|| text.join("; "))
}

/// What is in a book when a round begins.
struct Stock {
    groups: Vec<GroupRecord>,
    /// What is known of the devices that hold them.
    devices: HashMap<Uid, DeviceRecord>,
    /// What only partners say.
    heard: Vec<Heard>,
}

/// What is watched over at `now`. What is over is forgotten.
fn take_stock(book: &Book, now: UnixSeconds) -> Result<Stock, BookError> {
    let mut groups = Vec::new();
    book.each_group(|_, group| groups.push(group))?;
    let (over, groups): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|g| g.expires.plus(LEASE_GRACE_SECONDS) < now);
    book.change(|c| {
        over.iter().filter_map(GroupRecord::id).try_for_each(|id| c.remove_group(&id))?;
        c.forget_removed(UnixSeconds(now.0.saturating_sub(REMOVED_KEPT_SECONDS)))
    })?;
    with_devices(book, groups)
}

/// These groups with what is known of their devices.
fn with_devices(book: &Book, groups: Vec<GroupRecord>) -> Result<Stock, BookError> {
    let mut devices = HashMap::new();
    for uid in groups.iter().flat_map(|g| &g.copies).map(|c| c.device) {
        if let std::collections::hash_map::Entry::Vacant(new) = devices.entry(uid) {
            new.insert(book.device(&uid)?.unwrap_or_default());
        }
    }
    Ok(Stock { groups, devices, heard: book.hearsay()? })
}

impl<'a> Round<'a> {
    /// A round of this node's part over what is in a book.
    fn new(node: &'a Node, charge: Charge<'a>, grant: SignedGrant, now: UnixSeconds, stock: Stock) -> Self {
        let Stock { groups, devices, heard } = stock;
        Self {
            node,
            living: node.vault.partners.living(charge.repo, node.mesh.uid(), &charge.members),
            charge,
            all: false,
            grant,
            rules: Rules::default(),
            now,
            groups,
            devices,
            unseen: heard.iter().map(|h| (h.group, h.shard, h.device)).collect(),
            faulty: HashSet::new(),
            back: HashSet::new(),
            handed_over: HashSet::new(),
            mine: Vec::new(),
            report: WatchReport::default(),
            stop: None,
        }
    }

    /// Whether a device or group is this node's to look after.
    fn is_mine(&self, name: &[u8; 32]) -> bool {
        self.all || responsible(&self.living, name) == Some(self.node.mesh.uid())
    }

    /// What a device should have: group, copy, shard.
    fn held(&self) -> BTreeMap<Uid, Vec<(usize, usize, ShardRef)>> {
        let mut out: BTreeMap<Uid, Vec<(usize, usize, ShardRef)>> = BTreeMap::new();
        for (at, group) in self.groups.iter().enumerate() {
            for (copy, record) in group.copies.iter().enumerate() {
                if let (Some(shard), false) = (group.shard(record.shard.into()), record.failed) {
                    out.entry(record.device).or_default().push((at, copy, *shard));
                }
            }
        }
        out
    }

    fn standing_of(&self, copy: &CopyRecord) -> Standing {
        let state = self
            .devices
            .get(&copy.device)
            .map_or(DeviceState::Online, |d| d.health.state(&self.rules, self.now));
        standing(state, copy.failed)
    }

    fn wants_rid(&self, group: &GroupRecord, copy: &CopyRecord) -> bool {
        group.shard(copy.shard.into()).is_some_and(|s| self.handed_over.contains(&(copy.device, s.address)))
    }

    /// Extends the leases of devices that are there, up to what each group is needed for. A device that
    /// lacked something says thereby what else it lacks: a lost disk is found whole in one look, not in
    /// many that each count as a fault.
    async fn renew(&mut self) -> Result<(), ApiError> {
        let mut running = JoinSet::new();
        for (uid, held) in self.held() {
            let Some(record) = self.devices.get(&uid) else { continue };
            // The owner's own leases are the owner's to extend, whoever has the device prove something.
            let owner = self.charge.own.is_some() && !self.is_mine(uid.as_bytes());
            let back = self.back.contains(&uid);
            let there = record.asked == Some(self.now) || owner || back;
            let recently =
                record.renewed.is_some_and(|at| at <= self.now && self.now.since(at) < RENEW_EVERY_SECONDS);
            if !there || (recently && !back && !self.faulty.contains(&uid)) {
                continue;
            }
            let mut by_end: BTreeMap<(Uid, UnixSeconds), Vec<Held>> = BTreeMap::new();
            for (at, copy, shard) in held {
                if let Some(group) = self.groups.get(at).filter(|g| g.expires > self.now) {
                    let end = lease_end(group.expires, self.now);
                    by_end.entry((group.reader, end)).or_default().push((at, copy, shard.address));
                }
            }
            let (mesh, grant) = (self.node.mesh.clone(), self.grant.clone());
            running.spawn(async move {
                let mut lacks = Vec::new();
                for ((reader, expires), list) in by_end {
                    for part in list.chunks(ioex_net::proto::LEASES_AT_ONCE_MAX) {
                        let addresses = part.iter().map(|(.., address)| *address).collect();
                        let Ok(held) = mesh.shard_renew(uid, &grant, reader, expires, addresses).await else {
                            return None;
                        };
                        let not_held = part.iter().zip(held).filter(|(_, held)| !held);
                        lacks.extend(not_held.map(|((at, copy, _), _)| (*at, *copy)));
                    }
                }
                Some((uid, lacks))
            });
        }
        let (mut renewed, mut doubtful) = (Vec::new(), BTreeMap::new());
        while let Some(done) = running.join_next().await {
            let Some((uid, lacks)) = done.map_err(internal)? else { continue };
            if let Some(record) = self.devices.get_mut(&uid) {
                record.renewed = Some(self.now);
                renewed.push((uid, record.clone()));
            }
            if self.faulty.contains(&uid) {
                doubtful.insert(uid, lacks);
            }
        }
        // That a lease is not extended may have other reasons: the device has the last word on each.
        let missing = self.prove(doubtful).await?.into_iter().filter(|(.., holds)| !holds).collect();
        self.mark(missing).await?;
        let write = move |c: &Changes| renewed.iter().try_for_each(|(uid, record)| c.put_device(uid, record));
        Ok(self.charge.book.off(|book| book.change(write)).await?)
    }

    /// Notes which groups of the owner's are lost, and which restore points need them.
    async fn name_lost(&mut self) -> Result<(), ApiError> {
        let Some(repo) = self.charge.own else { return Ok(()) };
        let is_lost = |g: &&GroupRecord| {
            // What a device wants to be rid of is still there.
            let held = g.copies.iter().map(|c| (usize::from(c.shard), self.standing_of(c)));
            assess(g.own_redundancy(), held).verdict == Verdict::Lost
        };
        let lost: Vec<ContentAddress> =
            self.groups.iter().filter(is_lost).filter_map(GroupRecord::id).collect();
        let known = |book: &Book| book.lost();
        if lost.iter().copied().collect::<HashSet<_>>() != repo.book.off(known).await? {
            repo.book.off(move |book| book.change(|c| c.put_lost(&lost))).await?;
        }
        let points = repo.local_head()?.map(|known| points::living(known.head.points, self.now));
        self.report.harmed_points = repo.harmed(points.unwrap_or_default()).await?;
        Ok(())
    }

    /// Warns the owner of restore points that end soon.
    async fn warn_of_ends(&self) -> Result<(), ApiError> {
        let Some(repo) = self.charge.own else { return Ok(()) };
        let Some(known) = repo.local_head()? else { return Ok(()) };
        let (mut warned, now) = (Vec::new(), self.now);
        for point in &known.head.points {
            let id = point.id();
            let last = repo.book.warned(id)?;
            if let Some(warning) = warning(point.expires, last, now) {
                self.node.mesh.warn(format!(
                    "restore point {id} ends within {} days: `ioex backup renew {id}` keeps it",
                    warning.days
                ));
                warned.push(id);
            }
        }
        if warned.is_empty() {
            return Ok(());
        }
        let write = move |c: &Changes| warned.iter().try_for_each(|id| c.put_warned(*id, now));
        Ok(repo.book.off(|book| book.change(write)).await?)
    }
}
