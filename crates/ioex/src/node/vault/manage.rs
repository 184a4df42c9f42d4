//! Keeping restore points longer, and forgetting them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use ioex_api::{
    ApiError, BackupProgress, BackupStep, ErrorCode, Sink, Update,
    vault::{Keep, PointFilter, PointList, PointQuery},
};
use ioex_base::{ContentAddress, DAY_SECONDS, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use ioex_vault::{
    Choice, Placer, Redundancy, ShardRef,
    repo::{Group, Head, Index, PointId, PointRef, Source},
};
use tokio::task::JoinSet;

use super::{
    super::{Node, files},
    Repo,
    book::{CopyRecord, GroupRecord},
    failure::{fail, fresh_seed, internal},
    fetch::Fetcher,
    placing::{Placing, capability, find_holders},
    points, watch,
};

/// Months of this many days, for keeping one a month.
const MONTH_DAYS: u64 = 30;

/// What changing a repository needs.
pub(super) async fn placing(node: &Node, reader: Uid) -> Result<(Placing, Choice), ApiError> {
    let grant = capability(node)?;
    let found = find_holders(&node.mesh, &grant, &HashSet::new()).await?;
    let choice =
        ioex_vault::choose(ioex_vault::Wanted::Auto, &found.holders).ok_or_else(|| found.nobody())?;
    let placing = Placing {
        mesh: node.mesh.clone(),
        grant,
        reader,
        expires: files::now().plus(SHARD_LIFE_SECONDS),
        placer: Arc::new(Mutex::new(Placer::new(&found.holders, fresh_seed()?))),
        closed: found.closed().into(),
    };
    Ok((placing, choice))
}

/// A group that a restore point needs, as its index says.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) group: Group,
    /// For each shard, who took it when it was stored.
    pub(super) holders: Vec<Vec<Uid>>,
}

impl Need {
    /// An object: a segment or a root.
    pub(super) fn object(shard: ShardRef) -> Self {
        Self { group: Group { data: vec![shard], ..Group::default() }, holders: Vec::new() }
    }
}

/// By the address of their first shard.
pub(super) type Needs = BTreeMap<ContentAddress, Need>;

/// The numbers of a group of which only the shards are known: those of `wanted` if they fit, else the
/// cautious ones: it is repaired as soon as half of what it can lose is lost.
fn numbers(group: &Group, wanted: Redundancy) -> Redundancy {
    let (data, parity) = (group.data.len(), group.parity.len());
    if wanted.parity_for(data) == parity && data <= usize::from(wanted.k()) {
        return wanted;
    }
    let number = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let made = number(data + parity);
    let fitting = || Redundancy::new(number(data), number(data + parity.div_ceil(2)), made, made).ok();
    (parity > 0).then(fitting).flatten().unwrap_or_else(|| wanted.for_index())
}

impl Repo {
    /// The groups that a restore point needs: of its files, its listing, its segments and its root.
    pub(super) async fn groups_of(&self, fetcher: &Fetcher, point: &PointRef) -> Result<Needs, ApiError> {
        let root = self.root(fetcher, point).await?;
        let mut index = Index::default();
        self.load_segments(fetcher, &root, &mut index).await?;
        let listing = self.listing(fetcher, point, &root, &index).await?;
        let mut out = Needs::new();
        out.insert(point.root.shard.address, Need::object(point.root.shard));
        out.extend(root.segments.iter().map(|s| (s.shard.address, Need::object(s.shard))));
        let reading = move || {
            let damaged = |e: String| fail(ErrorCode::Manifest, e);
            let mut places = HashSet::new();
            let mut add = |id: &ioex_vault::ChunkId| {
                let found = index.get(id).ok_or_else(|| damaged("the index lacks a part".into()))?;
                places.insert((found.segment, found.group_at));
                Ok::<(), ApiError>(())
            };
            points::each_chunk(&root, &listing, &mut add)?;
            for (segment, group) in places {
                if let Some((group, holders)) = index.group(segment, group)
                    && let Some(first) = group.data.first()
                {
                    out.insert(first.address, Need { group: group.clone(), holders });
                }
            }
            Ok(out)
        };
        tokio::task::spawn_blocking(reading).await.map_err(internal)?
    }

    /// What the book says of a group; of one that another machine placed, what its index says.
    pub(super) fn known_group(
        &self,
        need: &Need,
        redundancy: Redundancy,
        placing: &Placing,
    ) -> Result<GroupRecord, ApiError> {
        let group = &need.group;
        if let Some(first) = group.data.first()
            && let Some(known) = self.book.group(&first.address)?
        {
            return Ok(known);
        }
        let copy = |(at, list): (usize, &Vec<Uid>)| {
            list.iter()
                .map(move |uid| CopyRecord { shard: at as u16, device: *uid, failed: false })
                .collect::<Vec<_>>()
        };
        Ok(GroupRecord {
            redundancy: numbers(group, redundancy),
            data: group.data.clone(),
            parity: group.parity.clone(),
            reader: placing.reader,
            expires: placing.expires,
            copies: need.holders.iter().enumerate().flat_map(copy).collect(),
        })
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
    let (mut placing, choice) = placing(node, repo.keys.reader.uid()).await?;
    let now = files::now();
    let expires = now.plus(days * DAY_SECONDS);
    placing.expires = expires;
    let known = repo.newest_head(node).await?;
    let points = known.head.points;
    let chosen: Vec<PointRef> = if queries.is_empty() {
        // What has ended may be gone already: it is renewed by its name only.
        points::living(points, now)
    } else {
        queries.iter().map(|q| points::select(&points, q, now).cloned()).collect::<Result<_, _>>()?
    };
    let mut warnings: Vec<String> = known.warning.into_iter().collect();
    warnings.extend(chosen.iter().filter_map(|point| points::ended(point, now)));
    let fetcher = Fetcher::new(&node.mesh, &repo.keys.reader)?;
    let mut needed = Needs::new();
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
    // Groups that another machine placed are found by what the index and the directory say, and are in
    // this machine's book from now on.
    let groups: Vec<GroupRecord> =
        needed.values().map(|n| repo.known_group(n, choice.goal, &placing)).collect::<Result<_, _>>()?;
    let all: Vec<ContentAddress> = groups.iter().filter_map(GroupRecord::id).collect();
    let lost = repo.renew_groups(&placing, groups, expires).await?;
    let ids: HashSet<PointId> = chosen.iter().map(PointRef::id).collect();
    let change = |head: &mut Head| {
        for point in head.points.iter_mut().filter(|p| ids.contains(&p.id())) {
            point.expires = point.expires.max(expires);
        }
        Ok(())
    };
    let written = repo.write_head(node, &placing, choice.redundancy, change).await?;
    // The points stand for longer already: what they lack may be much.
    warnings.extend(watch::completed(watch::complete(node, &repo, all, None).await));
    if !lost.is_empty() {
        warnings.push(format!(
            "{} groups were lost by their holders: `ioex backup verify` says more",
            lost.len()
        ));
    }
    warnings.extend(written.shortage());
    Ok(PointList {
        repo: Some(repo.keys.repo()),
        points: written.head.points.iter().filter(|p| ids.contains(&p.id())).map(points::point).collect(),
        warnings,
        ..PointList::default()
    })
}

/// The points that `keep` does not want, of those in `points` (oldest first). What is kept is counted
/// for each source, which is a machine with the paths that were backed up.
fn superfluous(points: &[PointRef], keep: Keep) -> Vec<PointRef> {
    let mut kept: HashSet<PointId> = HashSet::new();
    let mut by_source: BTreeMap<Source, Vec<&PointRef>> = BTreeMap::new();
    for point in points {
        by_source.entry(point.source()).or_default().push(point);
    }
    for points in by_source.values() {
        kept.extend(points.iter().rev().take(keep.last as usize).map(|p| p.id()));
        for (count, days) in [(keep.daily, 1), (keep.weekly, 7), (keep.monthly, MONTH_DAYS)] {
            let mut seen = BTreeSet::new();
            for point in points.iter().rev() {
                let UnixSeconds(seconds) = point.created;
                if seen.len() < count as usize && seen.insert(seconds / (days * DAY_SECONDS)) {
                    kept.insert(point.id());
                }
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
    of: &PointFilter,
    dry_run: bool,
) -> Result<PointList, ApiError> {
    let repo = node.vault.repo()?;
    let _work = repo.work.lock().await;
    let known = repo.newest_head(node).await?;
    let mut warnings: Vec<String> = known.warning.into_iter().collect();
    let points = points::among(known.head.points, of);
    let gone: Vec<PointRef> = if queries.is_empty() {
        if keep == Keep::default() {
            return Err(fail(
                ErrorCode::BadRequest,
                "name restore points, or say what to keep of the others, such as --keep-daily 7",
            ));
        }
        superfluous(&points, keep)
    } else {
        let now = files::now();
        queries.iter().map(|q| points::select(&points, q, now).cloned()).collect::<Result<_, _>>()?
    };
    if !dry_run && !gone.is_empty() {
        warnings.extend(drop_points(node, &repo, &gone).await?);
    }
    Ok(PointList {
        repo: Some(repo.keys.repo()),
        points: gone.iter().map(points::point).collect(),
        warnings,
        ..PointList::default()
    })
}

/// Forgets what a schedule does not keep.
pub(super) async fn forget_tagged(node: &Node, tag: &str, keep: Keep) -> Result<(), ApiError> {
    let repo = node.vault.repo()?;
    let Some(known) = repo.local_head()? else { return Ok(()) };
    let of = PointFilter { tags: vec![tag.to_owned()], ..PointFilter::default() };
    if superfluous(&points::among(known.head.points, &of), keep).is_empty() {
        return Ok(());
    }
    forget(node, &[], keep, &of, false).await.map(drop)
}

/// Takes restore points out of the list; returns what the owner should know of that.
async fn drop_points(node: &Node, repo: &Repo, gone: &[PointRef]) -> Result<Option<String>, ApiError> {
    let (placing, choice) = placing(node, repo.keys.reader.uid()).await?;
    let ids: Vec<PointId> = gone.iter().map(PointRef::id).collect();
    let change = |head: &mut Head| {
        head.forget(&ids);
        Ok(())
    };
    let written = repo.write_head(node, &placing, choice.redundancy, change).await?;
    let roots: HashSet<ContentAddress> = written.head.points.iter().map(|p| p.root.shard.address).collect();
    repo.book.change(|c| c.keep_roots(|address| roots.contains(address)))?;
    repo.forget_listings(|id| !ids.contains(&id));
    Ok(written.shortage())
}

/// Ends this node's leases on groups; returns how many devices could not be told.
pub(super) async fn release(node: &Node, grant: &ioex_base::SignedGrant, groups: &[GroupRecord]) -> u64 {
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
    use ioex_vault::repo::{Origin, RecoveryKey, Totals, seal_object};

    use super::*;

    fn point(day: u64) -> PointRef {
        point_of("/a", day)
    }

    fn point_of(path: &str, day: u64) -> PointRef {
        let keys = RecoveryKey::from_bytes([1; 32]).keys();
        let name = [path.as_bytes(), &day.to_le_bytes()].concat();
        let (root, _) = seal_object(&keys, &name).unwrap();
        PointRef {
            created: UnixSeconds(day * DAY_SECONDS + 5),
            expires: UnixSeconds(u64::MAX),
            label: "the same for all".into(),
            origin: Some(Origin::new("h", &[path.as_bytes().to_vec()])),
            tags: Vec::new(),
            totals: Totals::default(),
            root,
            rewritten: None,
        }
    }

    #[test]
    fn each_source_keeps_its_own() {
        let mut points: Vec<_> = (1..4).map(|day| point_of("/a", day)).collect();
        points.extend((1..3).map(|day| point_of("/b", day)));
        points.sort_by_key(|p| p.created);
        let gone = superfluous(&points, Keep { last: 1, ..Keep::default() });
        let gone: Vec<_> = gone.iter().map(|p| (p.source(), p.created.0 / DAY_SECONDS)).collect();
        let [a, b] = ["/a", "/b"].map(|path| point_of(path, 1).source());
        assert_eq!(gone, [(a.clone(), 1), (b, 1), (a, 2)]);
    }

    #[test]
    fn a_group_of_another_machine_gets_numbers_that_fit_its_shards() {
        let shard = |n: usize| ShardRef { address: ContentAddress::of(&[n as u8]), bytes: 16_384 };
        let group = |data, parity| Group {
            data: (0..data).map(shard).collect(),
            parity: (data..data + parity).map(shard).collect(),
            holders: Vec::new(),
        };
        let wanted = Redundancy::new(4, 6, 8, 10).unwrap();
        assert_eq!(numbers(&group(4, 6), wanted), wanted);
        assert_eq!(numbers(&group(2, 6), wanted), wanted, "a short one");
        assert_eq!(numbers(&group(4, 2), wanted), Redundancy::new(4, 5, 6, 6).unwrap());
        assert_eq!(numbers(&group(8, 6), wanted), Redundancy::new(8, 11, 14, 14).unwrap());
        assert_eq!(numbers(&group(1, 0), wanted), wanted, "whole copies, as a short group has");
        let copies = Redundancy::replicas(3).unwrap();
        assert_eq!(numbers(&group(1, 0), copies), copies);
        assert_eq!(numbers(&group(2, 2), copies), Redundancy::new(2, 3, 4, 4).unwrap());
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
