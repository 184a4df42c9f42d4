//! Making shards anew that groups lack, and letting go of what devices handed over.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, atomic::Ordering},
};

use bytes::Bytes;
use ioex_api::{ApiError, ErrorCode};
use ioex_base::{ContentAddress, Uid, UnixSeconds};
use ioex_store::LEASE_GRACE_SECONDS;
use ioex_vault::{
    Holder, Placer, ShardRef,
    health::{Assessment, DeviceState, Rules, Standing, Verdict, assess},
    reconstruct,
};

use super::{
    super::{
        book::{Book, BookError, Changes, CopyRecord, GroupRecord, Owed},
        failure::{fail, fresh_seed, internal},
        fetch::Fetcher,
        placing::{Placing, find_holders},
    },
    DeviceRecord, Round,
};

/// Repairs of one round; what is left comes in the next one.
const REPAIRS_MAX: usize = 10_000;

impl Round<'_> {
    /// Looks at a group. What a device wants to be rid of counts as lost: it has to go elsewhere.
    fn assess(&self, group: &GroupRecord) -> Assessment {
        let held = group.copies.iter().map(|copy| {
            let standing = if self.wants_rid(group, copy) { Standing::Lost } else { self.standing_of(copy) };
            (usize::from(copy.shard), standing)
        });
        assess(group.own_redundancy(), held)
    }

    /// Repairs what has to be, and releases what was handed over.
    pub(super) async fn mend(&mut self) -> Result<(), ApiError> {
        self.let_superfluous_go().await?;
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
        let known: HashSet<Uid> = self.devices.keys().copied().collect();
        let found = find_holders(&self.node.mesh, &self.grant, &known).await?;
        // Also of those that hold nothing of these groups: one that failed elsewhere gets nothing here.
        let others: Vec<Uid> =
            found.holders.iter().map(|h| h.uid).filter(|uid| !known.contains(uid)).collect();
        let read = move |book: &Book| {
            let record = |uid: Uid| Ok::<_, BookError>(book.device(&uid)?.map(|record| (uid, record)));
            others.into_iter().filter_map(|uid| record(uid).transpose()).collect::<Result<Vec<_>, _>>()
        };
        let mut devices = self.devices.clone();
        devices.extend(self.charge.book.off(read).await?);
        let fetcher = Fetcher::with_grant(&self.node.mesh, self.charge.read.clone());
        let placer = Arc::new(Mutex::new(Placer::new(
            &usable(&found.holders, &devices, &self.rules, self.now),
            fresh_seed()?,
        )));
        // One at a time: each may need [`ioex_vault::GROUP_MEMORY_BYTES`].
        let (mut tried, mut rest) = (0, work.len() as u64);
        for (at, missing) in work {
            if tried == REPAIRS_MAX || self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                self.report.unrepaired_groups += rest;
                break;
            }
            rest -= 1;
            // What nobody has room for costs no time and is no attempt.
            tokio::task::yield_now().await;
            let Some(group) = self.groups.get(at).cloned() else { continue };
            match self.repair(&fetcher, &placer, &group, &missing).await {
                Ok(copies) if copies.is_empty() && self.lost_nothing(&group) => {
                    self.report.degraded_groups += 1;
                }
                Ok(copies) if copies.is_empty() => self.report.unrepaired_groups += 1,
                Ok(copies) => {
                    tried += 1;
                    self.report.repaired_groups += 1;
                    self.settle(at, copies, Vec::new()).await?;
                    let lacks = self.groups.get(at).map(|g| self.assess(g).verdict);
                    self.report.degraded_groups += u64::from(lacks != Some(Verdict::Healthy));
                }
                Err(e) => {
                    tried += 1;
                    tracing::info!("a group could not be repaired: {e}");
                    self.report.unrepaired_groups += 1;
                }
            }
        }
        Ok(())
    }

    /// Whether a group has everything that it ever had: what it lacks, it never got.
    fn lost_nothing(&self, group: &GroupRecord) -> bool {
        group.copies.iter().all(|c| self.standing_of(c) != Standing::Lost && !self.wants_rid(group, c))
    }

    /// Releases copies that their devices want to be rid of and nobody needs: others have enough.
    async fn let_superfluous_go(&mut self) -> Result<(), ApiError> {
        let mut all = Vec::new();
        for (at, group) in self.groups.iter().enumerate() {
            let mut leaving: Vec<CopyRecord> =
                group.copies.iter().filter(|c| self.wants_rid(group, c)).copied().collect();
            if leaving.is_empty() {
                continue;
            }
            // What only partners say of a copy, or of a device that was never asked, is not relied upon.
            let id = group.id();
            let is_seen = |c: &CopyRecord| {
                let asked = self.devices.get(&c.device).is_some_and(|d| d.asked.is_some());
                asked && id.is_some_and(|id| !self.unseen.contains(&(id, c.shard, c.device)))
            };
            let stays = |c: &&CopyRecord| {
                self.standing_of(c) == Standing::Online && is_seen(c) && !leaving.iter().any(|l| same(c, l))
            };
            let staying: Vec<u16> = group.copies.iter().filter(stays).map(|c| c.shard).collect();
            let redundancy = group.own_redundancy();
            let enough = staying.len() >= usize::from(redundancy.o());
            leaving.retain(
                |c| {
                    if redundancy.is_whole_copies() { enough } else { staying.contains(&c.shard) }
                },
            );
            if !leaving.is_empty() {
                all.push((at, leaving));
            }
        }
        for (at, superfluous) in all {
            self.settle(at, Vec::new(), superfluous).await?;
        }
        Ok(())
    }

    /// Makes shards anew and brings them to further devices, as many as there are. Who failed for this
    /// very group gets something of it again only when no other owner is left, and only while it answers
    /// and is trusted: its disk may be a new one.
    async fn repair(
        &self,
        fetcher: &Fetcher,
        placer: &Arc<Mutex<Placer>>,
        group: &GroupRecord,
        missing: &[usize],
    ) -> Result<Vec<(u16, Uid)>, ApiError> {
        let redundancy = group.own_redundancy();
        let placing = Placing {
            mesh: self.node.mesh.clone(),
            grant: self.grant.clone(),
            reader: group.reader,
            expires: group.expires,
            placer: placer.clone(),
            closed: Arc::default(),
        };
        let living = group.copies.iter().filter(|c| self.standing_of(c) != Standing::Lost);
        let mut keep: Vec<Uid> = living.filter(|c| !self.wants_rid(group, c)).map(|c| c.device).collect();
        let avoid: Vec<Uid> = group.copies.iter().map(|c| c.device).filter(|u| !keep.contains(u)).collect();
        let leaves = |uid: &Uid| group.copies.iter().any(|c| c.device == *uid && self.wants_rid(group, c));
        let never: Vec<Uid> =
            avoid.iter().filter(|uid| leaves(uid) || !self.is_online(uid)).copied().collect();
        let key = group.id().ok_or_else(|| internal("a group without shards"))?;
        let bytes = |at: &usize| group.shard(*at).map_or(0, |s| u64::from(s.bytes));
        let what = (key, missing.iter().map(bytes).max().unwrap_or(0));
        // Nothing is read that nobody would take.
        let room = placing.room(redundancy, what, &keep, &never, missing.len());
        if room == 0 {
            return Ok(Vec::new());
        }
        let missing = missing.get(..room).unwrap_or(missing);
        let mut shards = self.content(fetcher, group, missing).await?;
        let mut done = placing.more(redundancy, what, &shards, &keep, &avoid).await.copies;
        if done.len() < shards.len() && never.len() < avoid.len() {
            if redundancy.is_whole_copies() {
                shards.drain(..done.len());
            } else {
                shards.retain(|(at, ..)| !done.iter().any(|(other, _)| other == at));
            }
            keep.extend(done.iter().map(|(_, uid)| *uid));
            done.extend(placing.more(redundancy, what, &shards, &keep, &never).await.copies);
        }
        Ok(done)
    }

    fn is_online(&self, uid: &Uid) -> bool {
        let state = self.devices.get(uid).map(|d| d.health.state(&self.rules, self.now));
        state.is_none_or(|state| state == DeviceState::Online)
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

    /// Writes down where a group's new shards are, and lets go of what they replace and of what is
    /// `superfluous`.
    async fn settle(
        &mut self,
        at: usize,
        copies: Vec<(u16, Uid)>,
        superfluous: Vec<CopyRecord>,
    ) -> Result<(), ApiError> {
        let Some(group) = self.groups.get(at).cloned() else { return Ok(()) };
        let mut new = group.clone();
        let mut dropped = superfluous;
        new.copies.retain(|c| !dropped.iter().any(|d| same(c, d)));
        let mut placed = Vec::with_capacity(copies.len());
        for (shard, device) in copies {
            let bytes = group.shard(shard.into()).map_or(0, |s| u64::from(s.bytes));
            (self.report.placed_shards, self.report.placed_bytes) =
                (self.report.placed_shards + 1, self.report.placed_bytes + bytes);
            let copy = CopyRecord { shard, device, failed: false };
            placed.push(copy);
            // It has again what it lost.
            if let Some(again) = new.copies.iter_mut().find(|c| same(c, &copy)) {
                again.failed = false;
                continue;
            }
            // Each new one replaces one that leaves, or else one that is lost.
            let leaving = new.copies.iter().position(|c| c.shard == shard && self.wants_rid(&group, c));
            let lost =
                || new.copies.iter().position(|c| c.shard == shard && self.standing_of(c) == Standing::Lost);
            if let Some(gone) = leaving.or_else(lost) {
                dropped.push(new.copies.remove(gone));
            }
            new.copies.push(copy);
        }
        let leaving = dropped.iter().filter(|c| self.wants_rid(&group, c));
        let owed = |c: &CopyRecord| {
            group.shard(c.shard.into()).map(|s| Owed { device: c.device, address: s.address })
        };
        let released: Vec<Owed> = leaving.filter_map(owed).collect();
        let Some(id) = group.id() else { return Ok(()) };
        let (owed, until) = (released.clone(), group.expires.plus(LEASE_GRACE_SECONDS));
        // Into the group as it is now: a partner may have changed it meanwhile.
        let write = move |c: &Changes| {
            c.update_group(&id, |g| {
                g.copies.retain(|k| !dropped.iter().any(|d| same(d, k)));
                for copy in placed {
                    match g.copies.iter_mut().find(|k| same(k, &copy)) {
                        Some(known) => known.failed = false,
                        None => g.copies.push(copy),
                    }
                }
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
}

/// Whether two records are of the same copy.
fn same(a: &CopyRecord, b: &CopyRecord) -> bool {
    a.device == b.device && a.shard == b.shard
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
