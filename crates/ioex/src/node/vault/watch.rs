//! Watching over what was stored: audits, repair, and taking back what devices hand over.
//!
//! In rounds, devices prove that they have random parts of what they took. From the answers, or their
//! absence, follows what every group still has (`ioex_vault::health`, the rules that the simulation
//! runs too); a group that lost too much gets new shards on other devices, computed from ciphertext.

mod ask;
mod charge;
mod let_go;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ioex_api::{ApiError, ErrorCode, vault::WatchReport};
use ioex_base::{ContentAddress, SignedGrant, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_store::LEASE_GRACE_SECONDS;
use ioex_vault::{
    Holder, Placer, ShardRef,
    health::{
        Assessment, DeviceHealth, DeviceState, Rules, Standing, Verdict, assess, responsible, standing,
        warning,
    },
    reconstruct,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use self::{
    ask::find_out,
    charge::{Charge, own_charge, watched_charge},
};
use super::{
    super::{Node, files},
    book::{Book, BookError, Changes, CopyRecord, GroupRecord, Heard, Owed},
    failure::{fail, fresh_seed, internal},
    fetch::Fetcher,
    partner,
    placing::{Placing, capability, find_holders},
    renew::lease_end,
};

/// Pause between two rounds: a device proves something several times a day.
const ROUND_EVERY: Duration = Duration::from_secs(3_600);
/// The first round comes soon after the start: the node may have been off for long.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Leases of a device are extended again after so long, in seconds: one that was away when a backup
/// extended them must not lose what is needed.
const RENEW_EVERY_SECONDS: u64 = 24 * 3_600;
/// Groups repaired at once: each may need [`ioex_vault::GROUP_MEMORY_BYTES`].
const REPAIRS_AT_ONCE: usize = 1;
/// For so long it is remembered that a group was removed, in seconds: until every lease on it ended, and
/// every partner that was away has heard of it or dropped the group by itself.
const REMOVED_KEPT_SECONDS: u64 = SHARD_LIFE_SECONDS + 2 * LEASE_GRACE_SECONDS;
/// Repairs of one round; what is left comes in the next one.
const REPAIRS_MAX: usize = 10_000;

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
    /// Copies that their devices want to be rid of.
    handed_over: HashSet<(Uid, ContentAddress)>,
    report: WatchReport,
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
            node.mesh
                .warn(format!("{} groups of backups{whose} cannot be read any more", report.lost_groups));
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
    let Stock { groups, devices, heard } = stock;
    let living = node.vault.partners.living(charge.repo, node.mesh.uid(), &charge.members);
    let mut round = Round {
        node,
        charge,
        living,
        all,
        grant,
        rules: Rules::default(),
        now,
        groups,
        devices,
        unseen: heard.iter().map(|h| (h.group, h.shard, h.device)).collect(),
        handed_over,
        mine: Vec::new(),
        report: WatchReport::default(),
    };
    round.ask().await?;
    round.renew().await?;
    round.mend().await?;
    round.warn_of_ends().await?;
    round.keep_head().await?;
    round.let_go().await?;
    // Only who came to the end of a round counts as doing its part.
    partner::tell_devices(node, round.charge.repo, &round.charge.members, &round.mine).await;
    round.report.seconds = started.elapsed().as_secs_f64();
    Ok(round.report)
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
    let mut devices = HashMap::new();
    for uid in groups.iter().flat_map(|g| &g.copies).map(|c| c.device) {
        if let std::collections::hash_map::Entry::Vacant(new) = devices.entry(uid) {
            new.insert(book.device(&uid)?.unwrap_or_default());
        }
    }
    Ok(Stock { groups, devices, heard: book.hearsay()? })
}

impl Round<'_> {
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

    /// Extends the leases of devices that are there, up to what each group is needed for.
    async fn renew(&mut self) -> Result<(), ApiError> {
        let mut running = JoinSet::new();
        for (uid, held) in self.held() {
            let Some(record) = self.devices.get(&uid) else { continue };
            // The owner's own leases are the owner's to extend, whoever has the device prove something.
            let owner = self.charge.own.is_some() && !self.is_mine(uid.as_bytes());
            let there = record.asked == Some(self.now) || owner;
            let recently =
                record.renewed.is_some_and(|at| at <= self.now && self.now.since(at) < RENEW_EVERY_SECONDS);
            if !there || recently {
                continue;
            }
            let mut by_end: BTreeMap<(Uid, UnixSeconds), Vec<ContentAddress>> = BTreeMap::new();
            for (at, _, shard) in held {
                if let Some(group) = self.groups.get(at).filter(|g| g.expires > self.now) {
                    let end = lease_end(group.expires, self.now);
                    by_end.entry((group.reader, end)).or_default().push(shard.address);
                }
            }
            let (mesh, grant) = (self.node.mesh.clone(), self.grant.clone());
            running.spawn(async move {
                for ((reader, expires), addresses) in by_end {
                    for part in addresses.chunks(ioex_net::proto::LEASES_AT_ONCE_MAX) {
                        if mesh.shard_renew(uid, &grant, reader, expires, part.to_vec()).await.is_err() {
                            return None;
                        }
                    }
                }
                Some(uid)
            });
        }
        let mut renewed = Vec::new();
        while let Some(done) = running.join_next().await {
            let Some(uid) = done.map_err(internal)? else { continue };
            if let Some(record) = self.devices.get_mut(&uid) {
                record.renewed = Some(self.now);
                renewed.push((uid, record.clone()));
            }
        }
        let write = move |c: &Changes| renewed.iter().try_for_each(|(uid, record)| c.put_device(uid, record));
        Ok(self.charge.book.off(|book| book.change(write)).await?)
    }

    /// Looks at a group. What a device wants to be rid of counts as lost: it has to go elsewhere.
    fn assess(&self, group: &GroupRecord) -> Assessment {
        let held = group.copies.iter().map(|copy| {
            let standing = if self.wants_rid(group, copy) { Standing::Lost } else { self.standing_of(copy) };
            (usize::from(copy.shard), standing)
        });
        assess(group.own_redundancy(), held)
    }

    /// Repairs what has to be, and releases what was handed over.
    async fn mend(&mut self) -> Result<(), ApiError> {
        let mut work = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            let leaves = group.copies.iter().any(|copy| self.wants_rid(group, copy));
            // Only who was told that a copy is to go, or found that it is not there, knows it.
            let knows = leaves || group.copies.iter().any(|copy| copy.failed);
            if !knows && !group.id().is_some_and(|id| self.is_mine(id.as_bytes())) {
                continue;
            }
            self.report.groups += 1;
            let mut missing = match self.assess(group).verdict {
                Verdict::Healthy => Vec::new(),
                Verdict::Repair { missing } => missing,
                Verdict::Lost => {
                    self.report.lost_groups += u64::from(!leaves);
                    Vec::new()
                }
            };
            if leaves {
                // A handover moves each shard, also when the group could bear its loss.
                let moved = group.copies.iter().filter(|copy| self.wants_rid(group, copy));
                let moved: Vec<usize> = moved.map(|copy| usize::from(copy.shard)).collect();
                let whole = group.own_redundancy().is_whole_copies();
                missing
                    .extend(moved.into_iter().filter(|s| whole || !missing.contains(s)).collect::<Vec<_>>());
                if whole {
                    let leaving = group.copies.iter().filter(|copy| self.wants_rid(group, copy)).count();
                    let living =
                        group.copies.iter().filter(|c| self.standing_of(c) != Standing::Lost).count();
                    let most =
                        usize::from(group.own_redundancy().o()).saturating_sub(living - leaving.min(living));
                    missing.truncate(most.max(1));
                }
            }
            if !missing.is_empty() {
                work.push((at, missing));
            }
        }
        if work.is_empty() {
            return Ok(());
        }
        // Fewest living shards first.
        work.sort_by_key(|(at, missing)| {
            let of = self.groups.get(*at).map_or(0, |g| g.own_redundancy().tolerated_losses());
            i64::from(of) - missing.len() as i64
        });
        work.truncate(REPAIRS_MAX);
        let known: HashSet<Uid> = self.devices.keys().copied().collect();
        let holders = find_holders(&self.node.mesh, &self.grant, &known).await?;
        let fetcher = Fetcher::with_grant(&self.node.mesh, self.charge.read.clone());
        let placer = Arc::new(Mutex::new(Placer::new(
            &usable(&holders, &self.devices, &self.rules, self.now),
            fresh_seed()?,
        )));
        for batch in work.chunks(REPAIRS_AT_ONCE) {
            for (at, missing) in batch {
                let Some(group) = self.groups.get(*at).cloned() else { continue };
                match self.repair(&fetcher, &placer, &group, missing).await {
                    Ok(copies) if copies.is_empty() => self.report.unrepaired_groups += 1,
                    Ok(copies) => self.settle(*at, copies).await?,
                    Err(e) => {
                        tracing::info!("a group could not be repaired: {e}");
                        self.report.unrepaired_groups += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes shards anew and brings them to further devices.
    async fn repair(
        &self,
        fetcher: &Fetcher,
        placer: &Arc<Mutex<Placer>>,
        group: &GroupRecord,
        missing: &[usize],
    ) -> Result<Vec<(u16, Uid)>, ApiError> {
        let redundancy = group.own_redundancy();
        let shards = self.content(fetcher, group, missing).await?;
        let placing = Placing {
            mesh: self.node.mesh.clone(),
            grant: self.grant.clone(),
            reader: group.reader,
            expires: group.expires,
            placer: placer.clone(),
        };
        let living = group.copies.iter().filter(|c| self.standing_of(c) != Standing::Lost);
        let keep: Vec<Uid> = living.filter(|c| !self.wants_rid(group, c)).map(|c| c.device).collect();
        let avoid: Vec<Uid> = group.copies.iter().map(|c| c.device).filter(|u| !keep.contains(u)).collect();
        let key = group.id().ok_or_else(|| internal("a group without shards"))?;
        let longest = shards.iter().map(|(_, s, _)| u64::from(s.bytes)).max().unwrap_or(0);
        Ok(placing.more(redundancy, (key, longest), &shards, &keep, &avoid).await.copies)
    }

    /// The bytes of the shards with these indexes.
    async fn content(
        &self,
        fetcher: &Fetcher,
        group: &GroupRecord,
        missing: &[usize],
    ) -> Result<Vec<(u16, ShardRef, Bytes)>, ApiError> {
        let online = |at: usize| -> Vec<Uid> {
            let has = group.copies.iter().filter(|c| usize::from(c.shard) == at && !c.failed);
            has.filter(|c| self.standing_of(c) == Standing::Online).map(|c| c.device).collect()
        };
        let mut out = Vec::new();
        if group.own_redundancy().is_whole_copies() {
            let Some(shard) = group.data.first().copied() else { return Ok(out) };
            let bytes = Bytes::from(fetcher.shard(shard, &online(0)).await?.bytes);
            return Ok(missing.iter().map(|_| (0, shard, bytes.clone())).collect());
        }
        let lens: Vec<usize> = group.data.iter().map(|s| s.bytes as usize).collect();
        let mut present: Vec<(usize, Vec<u8>)> = Vec::new();
        // Those that are to move are read where they are, if they are.
        let order =
            missing.iter().copied().chain((0..group.shards().count()).filter(|at| !missing.contains(at)));
        for at in order {
            if present.len() == lens.len() {
                break;
            }
            let (Some(shard), hints) = (group.shard(at).copied(), online(at)) else { continue };
            if hints.is_empty() {
                continue;
            }
            if let Some(fetched) = fetcher.quick(shard, &hints).await {
                present.push((at, fetched));
            }
        }
        if present.len() < lens.len() {
            return Err(fail(
                ErrorCode::NotEnoughHolders,
                format!("{} of {} needed shards can be read now", present.len(), lens.len()),
            ));
        }
        let (parity, want) = (group.parity.len(), missing.to_vec());
        let made = tokio::task::spawn_blocking(move || reconstruct(&lens, present, parity, &want)).await;
        let made = made.map_err(internal)?.map_err(internal)?;
        for (at, bytes) in missing.iter().zip(made) {
            let Some(shard) = group.shard(*at).copied() else { continue };
            if ContentAddress::of(&bytes) != shard.address {
                return Err(fail(ErrorCode::Manifest, "a shard that was computed is another one"));
            }
            out.push((*at as u16, shard, Bytes::from(bytes)));
        }
        Ok(out)
    }

    /// Writes down where a group's new shards are, and lets go of what they replace.
    async fn settle(&mut self, at: usize, copies: Vec<(u16, Uid)>) -> Result<(), ApiError> {
        let Some(group) = self.groups.get(at).cloned() else { return Ok(()) };
        let mut new = group.clone();
        self.report.repaired_groups += 1;
        let mut released = Vec::new();
        for (shard, device) in copies {
            let bytes = group.shard(shard.into()).map_or(0, |s| u64::from(s.bytes));
            (self.report.placed_shards, self.report.placed_bytes) =
                (self.report.placed_shards + 1, self.report.placed_bytes + bytes);
            // Each new one replaces one that leaves, or else one that is lost.
            let leaving = new.copies.iter().position(|c| c.shard == shard && self.wants_rid(&group, c));
            let lost =
                || new.copies.iter().position(|c| c.shard == shard && self.standing_of(c) == Standing::Lost);
            if let Some(gone) = leaving.or_else(lost) {
                let gone = new.copies.remove(gone);
                if let (Some(s), true) = (group.shard(gone.shard.into()), self.wants_rid(&group, &gone)) {
                    released.push(Owed { device: gone.device, address: s.address });
                }
            }
            new.copies.push(CopyRecord { shard, device, failed: false });
        }
        // Into the group as it is now: a partner may have changed it meanwhile.
        let same = |a: &CopyRecord, b: &CopyRecord| a.device == b.device && a.shard == b.shard;
        let without = move |list: &[CopyRecord], other: &[CopyRecord]| -> Vec<CopyRecord> {
            list.iter().filter(|c| !other.iter().any(|o| same(c, o))).copied().collect()
        };
        let (dropped, added) = (without(&group.copies, &new.copies), without(&new.copies, &group.copies));
        let Some(id) = group.id() else { return Ok(()) };
        let (owed, until) = (released.clone(), group.expires.plus(LEASE_GRACE_SECONDS));
        let write = move |c: &Changes| {
            c.update_group(&id, |g| {
                g.copies.retain(|k| !dropped.iter().any(|d| same(d, k)));
                let more = without(&added, &g.copies);
                g.copies.extend(more);
            })?;
            // A device that is not there to be told is told when it is back.
            owed.iter().try_for_each(|owed| c.owe(owed, until))
        };
        self.charge.book.off(|book| book.change(write)).await?;
        if let Some(known) = self.groups.get_mut(at) {
            *known = new;
        }
        // Only now: until here the device's copy was the only one of its kind.
        self.release(released).await
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

/// Devices that may get something: those that failed too often get nothing more.
fn usable(
    holders: &[Holder],
    devices: &HashMap<Uid, DeviceRecord>,
    rules: &Rules,
    now: UnixSeconds,
) -> Vec<Holder> {
    let distrusted =
        |uid: &Uid| devices.get(uid).is_some_and(|d| d.health.state(rules, now) == DeviceState::Failed);
    let free =
        |h: &Holder| Holder { free_bytes: if distrusted(&h.uid) { 0 } else { h.free_bytes }, ..h.clone() };
    holders.iter().map(free).collect()
}
