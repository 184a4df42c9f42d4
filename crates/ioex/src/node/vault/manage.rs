//! Keeping restore points longer, forgetting them, and giving space back.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use ioex_api::{
    ApiError, BackupProgress, BackupStep, ErrorCode, Sink, Update,
    vault::{Keep, PointList, PointQuery, Pruned},
};
use ioex_base::{ContentAddress, DAY_SECONDS, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_vault::{
    Placer, Redundancy,
    repo::{
        Head, Index, PointId, PointRef,
        tree::{Content, ListingReader},
    },
};
use tokio::task::JoinSet;

use super::{
    super::{Node, files},
    Repo,
    book::GroupRecord,
    failure::{fail, fresh_seed, internal},
    fetch::Fetcher,
    placing::{Placing, capability, find_holders},
    points::{self, open_listing},
    schedule,
};

/// Months of this many days, for keeping one a month.
const MONTH_DAYS: u64 = 30;

/// What changing a repository needs.
pub(super) async fn placing(node: &Node, repo: &Repo) -> Result<(Placing, Redundancy), ApiError> {
    let grant = capability(node)?;
    let holders = find_holders(&node.mesh, &grant, &HashSet::new()).await?;
    let redundancy = ioex_vault::choose(ioex_vault::Wanted::Auto, &holders)
        .ok_or_else(|| fail(ErrorCode::NotEnoughHolders, "no device that lends space was found"))?
        .redundancy;
    let placing = Placing {
        mesh: node.mesh.clone(),
        grant,
        reader: repo.keys.reader.uid(),
        expires: files::now().plus(SHARD_LIFE_SECONDS),
        placer: Arc::new(Mutex::new(Placer::new(&holders, fresh_seed()?))),
    };
    Ok((placing, redundancy))
}

impl Repo {
    /// The groups that a restore point needs: of its files, its listing, its segments and its root.
    pub(super) async fn groups_of(
        &self,
        fetcher: &Fetcher,
        point: &PointRef,
    ) -> Result<BTreeSet<ContentAddress>, ApiError> {
        let root = self.root(fetcher, point).await?;
        let mut index = Index::default();
        self.load_segments(fetcher, &root, &mut index).await?;
        let listing = self.listing(fetcher, point, &root, &index).await?;
        let damaged = |e: String| fail(ErrorCode::Manifest, e);
        let mut out: BTreeSet<ContentAddress> = root.segments.iter().map(|s| s.shard.address).collect();
        out.insert(point.root.shard.address);
        let mut add = |id: &ioex_vault::ChunkId| {
            let first = index.get(id).and_then(|found| found.group.data.first().map(|s| s.address));
            out.extend(first);
            first.map(|_| ()).ok_or_else(|| damaged("the index lacks a part".into()))
        };
        root.listing.iter().try_for_each(&mut add)?;
        let mut reader = ListingReader::new(open_listing(&listing).map_err(internal)?);
        while let Some(entry) = reader.next_entry().map_err(|e| damaged(e.to_string()))? {
            if let Content::File { chunks, .. } = &entry.content {
                chunks.iter().try_for_each(&mut add)?;
            }
        }
        Ok(out)
    }
}

/// See [`ioex_api::vault::VaultRequest::Renew`].
pub(super) async fn renew(
    node: &Node,
    queries: &[PointQuery],
    days: Option<u32>,
    sink: &Sink,
) -> Result<PointList, ApiError> {
    let repo = node.vault.repo()?;
    let _work = repo.work.lock().await;
    let longest = SHARD_LIFE_SECONDS / DAY_SECONDS;
    let days = days.map_or(longest, u64::from);
    if !(1..=longest).contains(&days) {
        return Err(fail(
            ErrorCode::BadRequest,
            format!("a restore point is kept for 1 to {longest} days from now"),
        ));
    }
    let (placing, redundancy) = placing(node, &repo).await?;
    let expires = files::now().plus(days * DAY_SECONDS);
    let head = repo.newest_head(node).await?.head;
    let chosen: Vec<PointRef> = if queries.is_empty() {
        head.points.clone()
    } else {
        queries.iter().map(|q| points::select(&head.points, q).cloned()).collect::<Result<_, _>>()?
    };
    let fetcher = Fetcher::new(&node.mesh, &repo.keys.reader)?;
    let mut needed = BTreeSet::new();
    for (at, point) in (0u64..).zip(&chosen) {
        needed.extend(repo.groups_of(&fetcher, point).await?);
        let done = BackupProgress {
            step: BackupStep::Renew,
            done_bytes: at + 1,
            total_bytes: chosen.len() as u64,
            note: None,
            holder: None,
        };
        let _ = sink.update(Update::Backup(done)).await;
    }
    let mut groups = Vec::new();
    for id in &needed {
        groups.extend(repo.book.group(id)?);
    }
    let unknown = needed.len() - groups.len();
    let lost = repo.renew_groups(&placing, groups, expires).await?;
    let ids: HashSet<PointId> = chosen.iter().map(PointRef::id).collect();
    let change = |head: &mut Head| {
        for point in head.points.iter_mut().filter(|p| ids.contains(&p.id())) {
            point.expires = point.expires.max(expires);
        }
        Ok(())
    };
    let head = repo.write_head(node, &placing, redundancy, change).await?;
    let mut warnings = Vec::new();
    if !lost.is_empty() {
        warnings.push(format!(
            "{} groups were lost by their holders: `ioex backup verify` says more",
            lost.len()
        ));
    }
    if unknown > 0 {
        warnings.push(format!("{unknown} groups are not in this node's book; another one keeps them"));
    }
    Ok(PointList {
        repo: Some(repo.keys.repo()),
        points: head.points.iter().filter(|p| ids.contains(&p.id())).map(points::point).collect(),
        warnings,
    })
}

/// The points that `keep` does not want, of those in `points` (oldest first).
fn superfluous(points: &[PointRef], keep: Keep) -> Vec<PointRef> {
    let mut kept: HashSet<PointId> = HashSet::new();
    kept.extend(points.iter().rev().take(keep.last as usize).map(PointRef::id));
    for (count, days) in [(keep.daily, 1), (keep.weekly, 7), (keep.monthly, MONTH_DAYS)] {
        let mut seen = BTreeSet::new();
        for point in points.iter().rev() {
            let UnixSeconds(seconds) = point.created;
            if seen.len() < count as usize && seen.insert(seconds / (days * DAY_SECONDS)) {
                kept.insert(point.id());
            }
        }
    }
    points.iter().filter(|p| !kept.contains(&p.id())).cloned().collect()
}

/// See [`ioex_api::vault::VaultRequest::Forget`].
pub(super) async fn forget(
    node: &Node,
    queries: &[PointQuery],
    keep: Keep,
    dry_run: bool,
) -> Result<PointList, ApiError> {
    let repo = node.vault.repo()?;
    let _work = repo.work.lock().await;
    let head = repo.newest_head(node).await?.head;
    let gone: Vec<PointRef> = if queries.is_empty() {
        if keep == Keep::default() {
            return Err(fail(
                ErrorCode::BadRequest,
                "name restore points, or say what to keep of the others, such as --keep-daily 7",
            ));
        }
        superfluous(&head.points, keep)
    } else {
        queries.iter().map(|q| points::select(&head.points, q).cloned()).collect::<Result<_, _>>()?
    };
    if !dry_run && !gone.is_empty() {
        drop_points(node, &repo, &gone).await?;
    }
    Ok(PointList {
        repo: Some(repo.keys.repo()),
        points: gone.iter().map(points::point).collect(),
        warnings: Vec::new(),
    })
}

/// Forgets what a schedule does not keep.
pub(super) async fn forget_tagged(node: &Node, tag: &str, keep: Keep) -> Result<(), ApiError> {
    let repo = node.vault.repo()?;
    let Some(known) = repo.local_head()? else { return Ok(()) };
    let marked: Vec<PointRef> =
        known.head.points.into_iter().filter(|p| p.label.ends_with(&format!("#{tag}"))).collect();
    let gone = superfluous(&marked, keep);
    if gone.is_empty() {
        return Ok(());
    }
    forget(node, &schedule::ids(&gone), Keep::default(), false).await.map(drop)
}

async fn drop_points(node: &Node, repo: &Repo, gone: &[PointRef]) -> Result<(), ApiError> {
    let (placing, redundancy) = placing(node, repo).await?;
    let ids: HashSet<PointId> = gone.iter().map(PointRef::id).collect();
    let change = |head: &mut Head| {
        head.points.retain(|p| !ids.contains(&p.id()));
        Ok(())
    };
    repo.write_head(node, &placing, redundancy, change).await?;
    repo.book.change(|c| ids.iter().try_for_each(|id| c.remove_root(*id)))?;
    repo.forget_listings(|id| !ids.contains(&id));
    Ok(())
}

/// See [`ioex_api::vault::VaultRequest::Prune`].
pub(super) async fn prune(node: &Node, dry_run: bool) -> Result<Pruned, ApiError> {
    let repo = node.vault.repo()?;
    let grant = capability(node)?;
    let _work = repo.work.lock().await;
    let fetcher = Fetcher::new(&node.mesh, &repo.keys.reader)?;
    let mut head = repo.newest_head(node).await?.head;
    head.expire(files::now());
    let mut needed = BTreeSet::new();
    let mut segments = HashSet::new();
    for point in &head.points {
        // What one restore point needs is not known: nothing may be given back.
        needed.extend(repo.groups_of(&fetcher, point).await?);
        segments.extend(repo.root(&fetcher, point).await?.segments.iter().map(|s| s.shard.address));
    }
    // What an interrupted run stored is used by the next one.
    for pending in repo.book.pending()? {
        needed.extend(pending.groups.iter().filter_map(|g| g.data.first().map(|s| s.address)));
    }
    let (mut out, mut gone) = (Pruned::default(), Vec::new());
    repo.book.each_group(|id, group| {
        if needed.contains(&id) {
            out.kept_groups += 1;
        } else {
            out.groups += 1;
            let size =
                |c: &super::book::CopyRecord| group.shard(c.shard.into()).map_or(0, |s| u64::from(s.bytes));
            out.bytes += group.copies.iter().map(size).sum::<u64>();
            gone.push(group);
        }
    })?;
    if dry_run || gone.is_empty() {
        return Ok(out);
    }
    // Devices delete what is released. If this ends in the middle, that must not look like a loss: from
    // now on nobody watches over these groups, and the next run still knows them.
    let unwatched = |group: &GroupRecord| GroupRecord { expires: UnixSeconds(0), ..group.clone() };
    repo.book.change(|c| gone.iter().try_for_each(|group| c.put_group(&unwatched(group))))?;
    out.unreached = release(node, &grant, &gone).await;
    repo.book.change(|c| {
        c.keep_segments(|address| segments.contains(address))?;
        gone.iter().filter_map(GroupRecord::id).try_for_each(|id| c.remove_group(&id))
    })?;
    Ok(out)
}

/// Ends this node's leases on groups; returns how many devices could not be told.
async fn release(node: &Node, grant: &ioex_base::SignedGrant, groups: &[GroupRecord]) -> u64 {
    let mut by_device: HashMap<Uid, Vec<ContentAddress>> = HashMap::new();
    for group in groups {
        for copy in &group.copies {
            if let Some(shard) = group.shard(copy.shard.into()) {
                by_device.entry(copy.device).or_default().push(shard.address);
            }
        }
    }
    let mut running = JoinSet::new();
    for (device, addresses) in by_device {
        let (mesh, grant) = (node.mesh.clone(), grant.clone());
        running.spawn(async move {
            for part in addresses.chunks(ioex_net::proto::LEASES_AT_ONCE_MAX) {
                if let Err(e) = mesh.shard_release(device, &grant, part.to_vec()).await {
                    tracing::info!("{} was not told what it may delete: {e}", device.short());
                    return false;
                }
            }
            true
        });
    }
    let mut unreached = 0;
    while let Some(told) = running.join_next().await {
        unreached += u64::from(!told.unwrap_or(false));
    }
    unreached
}

#[cfg(test)]
mod tests {
    use ioex_vault::repo::{RecoveryKey, Totals, seal_object};

    use super::*;

    fn point(day: u64) -> PointRef {
        let keys = RecoveryKey::from_bytes([1; 32]).keys();
        let (root, _) = seal_object(&keys, &day.to_le_bytes()).unwrap();
        PointRef {
            created: UnixSeconds(day * DAY_SECONDS + 5),
            expires: UnixSeconds(u64::MAX),
            label: String::new(),
            totals: Totals::default(),
            root,
        }
    }

    #[test]
    fn what_is_kept_is_the_newest_of_each_span() {
        let points: Vec<_> = (1_000..1_070).map(point).collect();
        let left = |keep| {
            let gone: HashSet<_> = superfluous(&points, keep).iter().map(PointRef::id).collect();
            let days = points.iter().filter(|p| !gone.contains(&p.id())).map(|p| p.created.0 / DAY_SECONDS);
            days.collect::<Vec<_>>()
        };
        assert_eq!(left(Keep { last: 2, ..Keep::default() }), [1_068, 1_069]);
        assert_eq!(left(Keep { daily: 3, ..Keep::default() }), [1_067, 1_068, 1_069]);
        assert_eq!(left(Keep { weekly: 3, ..Keep::default() }), [1_056, 1_063, 1_069]);
        assert_eq!(left(Keep { monthly: 9, ..Keep::default() }), [1_019, 1_049, 1_069]);
        assert_eq!(left(Keep { last: 1, monthly: 2, ..Keep::default() }), [1_049, 1_069]);
    }
}
