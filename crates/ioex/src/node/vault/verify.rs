//! Checking that a restore point can be restored: its holders prove what they have, and part of the
//! content is read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use ioex_api::{
    ApiError, BackupProgress, BackupStep, ErrorCode, Sink, Update,
    vault::{PointFilter, PointQuery, Verified},
};
use ioex_base::{ContentAddress, Dice, SignedGrant, Uid};
use ioex_net::Mesh;
use ioex_vault::{
    proof::{Proof, leaves, verify},
    repo::{
        ChunkReader,
        plan::{Plan, Selection, Wanted},
    },
};
use tokio::task::JoinSet;

use super::{
    super::{Node, convert},
    Repo,
    book::GroupRecord,
    failure::{fail, fresh_seed, internal},
    fetch::Fetcher,
    placing::capability,
    points::open_listing,
    restore::plan_error,
};

/// Shards read at once.
const READS_AT_ONCE: usize = 4;
/// Problems that are named; more are counted.
const PROBLEMS_NAMED: usize = 50;
const PERCENT: u64 = 100;

/// A random leaf of a shard.
pub(super) fn leaf_of(shard_bytes: u64, dice: &mut Dice) -> u32 {
    u32::try_from(dice.below(leaves(shard_bytes) as usize)).unwrap_or(0)
}

/// One leaf of one shard that a device is to prove.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) group: ContentAddress,
    /// Which one of the asker's list, such as the copies of the group.
    pub(super) copy: usize,
    pub(super) address: ContentAddress,
    pub(super) bytes: u64,
    pub(super) leaf: u32,
}

/// What a device answered.
pub(super) enum Told {
    /// For each question whether the proof holds; and what the device would give back.
    Answers(Vec<(Ask, bool)>, Vec<ContentAddress>),
    /// It could not be reached.
    Silent,
}

/// Has a device prove leaves, at most as many as one message holds.
pub(super) async fn audit(mesh: &Mesh, grant: &SignedGrant, device: Uid, asks: Vec<Ask>) -> Told {
    let questions = asks.iter().map(|a| (a.address, a.leaf)).collect();
    match mesh.shard_audit(device, grant, questions).await {
        Ok(answer) => {
            let holds = |(ask, proof): (&Ask, &Option<Vec<u8>>)| {
                let proof = proof.as_deref().and_then(|bytes| Proof::decode(bytes).ok());
                proof.is_some_and(|proof| verify(&ask.address, ask.bytes, ask.leaf, &proof))
            };
            let answers = asks.iter().zip(&answer.proofs).map(|pair| (*pair.0, holds(pair))).collect();
            Told::Answers(answers, answer.handover)
        }
        Err(e) => {
            tracing::debug!("{} did not prove anything: {e}", device.short());
            Told::Silent
        }
    }
}

/// A random leaf of every copy of these groups, by device.
fn asks_for(groups: &[GroupRecord], dice: &mut Dice) -> HashMap<Uid, Vec<Ask>> {
    let mut out: HashMap<Uid, Vec<Ask>> = HashMap::new();
    for group in groups {
        let Some(id) = group.id() else { continue };
        for (copy, record) in group.copies.iter().enumerate() {
            let Some(shard) = group.shard(record.shard.into()) else { continue };
            let bytes = u64::from(shard.bytes);
            let leaf = leaf_of(bytes, dice);
            let ask = Ask { group: id, copy, address: shard.address, bytes, leaf };
            out.entry(record.device).or_default().push(ask);
        }
    }
    out
}

/// See [`ioex_api::vault::VaultRequest::Verify`].
pub(super) async fn run(
    node: &Node,
    (query, of): (&PointQuery, &PointFilter),
    read_percent: u8,
    sink: &Sink,
) -> Result<Verified, ApiError> {
    let started = Instant::now();
    if u64::from(read_percent) > PERCENT {
        return Err(fail(ErrorCode::BadRequest, "at most 100 percent can be read"));
    }
    let repo = node.vault.repo()?;
    // What holders prove is written into the book.
    let _work = repo.work.lock().await;
    let opened = repo.open_point(node, query, of).await?;
    let needed = repo.groups_of(&opened.fetcher, &opened.point).await?;
    let mut out = Verified {
        point: opened.described(),
        groups: needed.len() as u64,
        degraded: 0,
        unreadable: 0,
        proven_shards: 0,
        read_bytes: 0,
        problems: Vec::new(),
        seconds: 0.0,
    };
    let groups: Vec<GroupRecord> =
        needed.keys().filter_map(|id| repo.book.group(id).transpose()).collect::<Result<_, _>>()?;
    let (fetcher, listing, index) = (opened.fetcher, opened.listing, opened.index);
    let planning = move || Plan::new(|| open_listing(&listing), &Selection::default(), &index);
    let plan = tokio::task::spawn_blocking(planning).await.map_err(internal)?.map_err(plan_error)?;
    let percent = match capability(node) {
        // Only who may place shards may ask for proofs. Others read something of every shard.
        Ok(grant) if groups.len() == needed.len() => {
            prove(node, &repo, &grant, groups, &mut out, sink).await?;
            u64::from(read_percent)
        }
        _ => {
            sample(&fetcher, &plan, &repo, &mut out, sink).await?;
            u64::from(read_percent)
        }
    };
    if percent > 0 {
        read(&fetcher, plan, &repo, percent, &mut out, sink).await?;
    }
    out.seconds = started.elapsed().as_secs_f64();
    Ok(out)
}

fn problem(out: &mut Verified, text: String) {
    if out.problems.len() < PROBLEMS_NAMED {
        out.problems.push(text);
    }
}

async fn tell(sink: &Sink, step: BackupStep, done_bytes: u64, total_bytes: u64) {
    let progress = BackupProgress { step, done_bytes, total_bytes, note: None, holder: None };
    let _ = sink.update(Update::Backup(progress)).await;
}

/// Has every holder prove a random leaf of everything that it should have.
async fn prove(
    node: &Node,
    repo: &Repo,
    grant: &SignedGrant,
    mut groups: Vec<GroupRecord>,
    out: &mut Verified,
    sink: &Sink,
) -> Result<(), ApiError> {
    let mut dice = Dice::new(fresh_seed()?);
    let asks = asks_for(&groups, &mut dice);
    let total: usize = asks.values().map(Vec::len).sum();
    let mut proven: HashMap<ContentAddress, HashSet<u16>> = HashMap::new();
    let mut faults: BTreeMap<Uid, u64> = BTreeMap::new();
    let mut done = 0;
    let at: HashMap<ContentAddress, usize> =
        groups.iter().enumerate().filter_map(|(at, g)| g.id().map(|id| (id, at))).collect();
    for (device, list) in asks {
        for part in list.chunks(ioex_net::proto::AUDIT_ASKS_MAX) {
            done += part.len();
            tell(sink, BackupStep::Audit, done as u64, total as u64).await;
            let Told::Answers(answers, _) = audit(&node.mesh, grant, device, part.to_vec()).await else {
                problem(out, format!("{} cannot be reached", device.short()));
                break;
            };
            for (ask, holds) in answers {
                let record = at.get(&ask.group).and_then(|at| groups.get_mut(*at)?.copies.get_mut(ask.copy));
                let Some(record) = record else { continue };
                // What was lacking once may be back: a disk that was not mounted.
                record.failed = !holds;
                if holds {
                    out.proven_shards += 1;
                    proven.entry(ask.group).or_default().insert(record.shard);
                } else {
                    *faults.entry(device).or_default() += 1;
                }
            }
        }
    }
    for (device, count) in faults {
        problem(out, format!("{} lacks {count} shards that it took", device.short()));
    }
    for group in &groups {
        let redundancy = group.own_redundancy();
        let living = group.id().and_then(|id| proven.get(&id)).map_or(0, HashSet::len);
        let copies = if redundancy.is_whole_copies() {
            group.copies.iter().filter(|c| !c.failed).count().min(usize::from(redundancy.o()))
        } else {
            living
        };
        if living < usize::from(redundancy.k()) {
            out.unreadable += 1;
            let name = group.id().map_or_else(String::new, |id| id.short());
            problem(out, format!("group {name} cannot be read: {living} of {} shards", redundancy.k()));
        } else if copies < usize::from(redundancy.o()) {
            out.degraded += 1;
        }
    }
    Ok(repo.book.change(|c| groups.iter().try_for_each(|g| c.note_group(g)))?)
}

/// Reads the shortest wanted chunk of every shard.
async fn sample(
    fetcher: &Fetcher,
    plan: &Plan,
    repo: &Repo,
    out: &mut Verified,
    sink: &Sink,
) -> Result<(), ApiError> {
    let shortest = |wanted: &Wanted| {
        let chunk = wanted.chunks.iter().min_by_key(|(c, _)| c.stored_bytes).cloned();
        Wanted { chunks: chunk.into_iter().collect(), ..wanted.clone() }
    };
    check_all(fetcher, plan.shards.iter().map(shortest).collect(), repo, out, sink).await
}

/// Reads part of the content whole.
async fn read(
    fetcher: &Fetcher,
    plan: Plan,
    repo: &Repo,
    percent: u64,
    out: &mut Verified,
    sink: &Sink,
) -> Result<(), ApiError> {
    let mut dice = Dice::new(fresh_seed()?);
    let all = plan.shards.len();
    let chosen: Vec<Wanted> = plan.shards.into_iter().filter(|_| dice.roll() % PERCENT < percent).collect();
    tracing::debug!("reading {} of {all} shards", chosen.len());
    check_all(fetcher, chosen, repo, out, sink).await
}

async fn check_all(
    fetcher: &Fetcher,
    shards: Vec<Wanted>,
    repo: &Repo,
    out: &mut Verified,
    sink: &Sink,
) -> Result<(), ApiError> {
    fetcher.mesh().directory().map_err(convert::link_error)?;
    let total = shards.len() as u64;
    let mut waiting = shards.into_iter();
    let mut running = JoinSet::new();
    let mut done = 0;
    loop {
        while running.len() < READS_AT_ONCE {
            let Some(wanted) = waiting.next() else { break };
            let (fetcher, keys) = (fetcher.clone(), repo.keys.clone());
            running.spawn(async move {
                let address = wanted.shard.address;
                let parts = fetcher.wanted(&wanted).await?;
                let check = move || {
                    let mut reader = ChunkReader::new(&keys).map_err(internal)?;
                    let checked = reader.check(&wanted, &parts);
                    checked.map_err(|e| fail(ErrorCode::Manifest, format!("shard {}: {e}", address.short())))
                };
                tokio::task::spawn_blocking(check).await.map_err(internal)?
            });
        }
        let Some(ended) = running.join_next().await else { return Ok(()) };
        done += 1;
        match ended.map_err(internal)? {
            Ok(bytes) => {
                out.read_bytes += bytes;
                out.proven_shards += 1;
            }
            Err(e) => {
                out.unreadable += 1;
                problem(out, e.to_string());
            }
        }
        tell(sink, BackupStep::Fetch, done, total).await;
    }
}
