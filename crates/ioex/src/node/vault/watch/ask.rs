//! Asking devices: what they hold, and what only partners say of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use ioex_api::ApiError;
use ioex_base::{ContentAddress, Dice, SignedGrant, Uid};
use ioex_net::Mesh;
use ioex_vault::{
    ShardRef,
    health::{AUDITS_PER_ROUND, Audit, DeviceState, Observation, audits, audits_due, round_counts},
};
use tokio::task::JoinSet;

use super::{
    super::{
        super::Node,
        book::{Changes, CopyRecord, Finding, GroupRecord, Heard},
        failure::{fresh_seed, internal},
        verify::{Ask, Told, audit, leaf_of},
    },
    Charge, DeviceRecord, Round,
};

/// Devices asked at once.
const DEVICES_AT_ONCE: usize = 32;
/// Most copies of which only partners say something that one device is asked about in a round: 400 kB.
const HEARSAY_EACH_MAX: usize = 256;
/// Most devices that are asked about such copies in a round: made-up ones cost time.
const HEARSAY_DEVICES_MAX: usize = 256;

/// Who has not answered all that it was asked after this time is asked no more in this round.
const ASKING_MAX: Duration = Duration::from_secs(120);

/// What a device proved or not, and what it would give back; `None` when it could not be reached.
type Answers = Option<(Vec<(Ask, bool)>, Vec<ContentAddress>)>;

/// A copy: the places of its group, and of it among the group's copies.
pub(super) type Place = (usize, usize);

/// A device, a copy, and whether the device proved that it has it.
pub(super) type Proven = (Uid, Place, bool);

/// Asks devices, several at once.
async fn ask_all(
    mesh: &Mesh,
    grant: &SignedGrant,
    asks: Vec<(Uid, Vec<Ask>)>,
) -> Result<Vec<(Uid, Answers)>, ApiError> {
    let mut running = JoinSet::new();
    let mut waiting = asks.into_iter();
    let mut told = Vec::new();
    loop {
        while running.len() < DEVICES_AT_ONCE {
            let Some((uid, asks)) = waiting.next() else { break };
            let (mesh, grant) = (mesh.clone(), grant.clone());
            running.spawn(async move {
                let (mut answers, mut handover) = (Vec::new(), Vec::new());
                let begun = Instant::now();
                let parts = asks.chunks(ioex_net::proto::AUDIT_ASKS_MAX);
                for part in parts.chain(asks.is_empty().then_some(&asks[..])) {
                    match audit(&mesh, &grant, uid, part.to_vec()).await {
                        Told::Answers(more, over) => {
                            answers.extend(more);
                            handover = over;
                        }
                        Told::Silent if answers.is_empty() => return (uid, None),
                        Told::Silent => break,
                    }
                    if begun.elapsed() > ASKING_MAX {
                        break;
                    }
                }
                (uid, Some((answers, handover)))
            });
        }
        let Some(done) = running.join_next().await else { return Ok(told) };
        told.push(done.map_err(internal)?);
    }
}

/// What is asked about copies of which only partners say something: for each device the questions, with
/// their places in `heard`. Devices that are known come first, the others in any order.
fn hearsay_asks(
    heard: &[Heard],
    groups: &[GroupRecord],
    devices: &HashMap<Uid, DeviceRecord>,
    dice: &mut Dice,
) -> Vec<(Uid, Vec<Ask>)> {
    let by_id: HashMap<ContentAddress, &GroupRecord> =
        groups.iter().filter_map(|g| Some((g.id()?, g))).collect();
    let mut out: BTreeMap<Uid, Vec<Ask>> = BTreeMap::new();
    for (copy, said) in heard.iter().enumerate() {
        let Some(group) = by_id.get(&said.group) else { continue };
        let Some(shard) = group.shard(said.shard.into()) else { continue };
        // Found out before.
        let failed = |c: &CopyRecord| c.failed && c.device == said.device && c.shard == said.shard;
        if group.copies.iter().any(failed) {
            continue;
        }
        let bytes = u64::from(shard.bytes);
        let leaf = leaf_of(bytes, dice);
        out.entry(said.device).or_default().push(Ask {
            group: said.group,
            copy,
            address: shard.address,
            bytes,
            leaf,
        });
    }
    let mut out: Vec<(bool, u64, Uid, Vec<Ask>)> =
        out.into_iter().map(|(uid, asks)| (!devices.contains_key(&uid), dice.roll(), uid, asks)).collect();
    out.sort_unstable_by_key(|(unknown, order, ..)| (*unknown, *order));
    out.truncate(HEARSAY_DEVICES_MAX);
    for (.., asks) in &mut out {
        // Not always the same ones first.
        let from = dice.below(asks.len());
        asks.rotate_left(from);
        asks.truncate(HEARSAY_EACH_MAX);
    }
    out.into_iter().map(|(.., uid, asks)| (uid, asks)).collect()
}

/// What a device is to prove of what it holds (group, copy, shard). Copies of which partners say something
/// that this node has not seen are no part of it: that they are missing is no fault of the device.
fn audit_asks(
    held: &[(usize, usize, ShardRef)],
    groups: &[GroupRecord],
    unseen: &HashSet<(ContentAddress, u16, Uid)>,
    due: usize,
    dice: &mut Dice,
) -> Vec<Ask> {
    let mut seen = Vec::new();
    for (at, copy, shard) in held {
        let Some(group) = groups.get(*at) else { continue };
        let (Some(id), Some(record)) = (group.id(), group.copies.get(*copy)) else { continue };
        if !unseen.contains(&(id, record.shard, record.device)) {
            seen.push((id, *copy, shard));
        }
    }
    let bytes: Vec<u64> = seen.iter().map(|(.., s)| u64::from(s.bytes)).collect();
    let ask = |pick: Audit| {
        let (group, copy, shard) = *seen.get(pick.shard)?;
        Some(Ask { group, copy, address: shard.address, bytes: u64::from(shard.bytes), leaf: pick.leaf })
    };
    audits(&bytes, due, || dice.roll()).into_iter().filter_map(ask).collect()
}

/// Finds out what only partners say of copies; returns what devices would give back. That they lack something
/// or are silent says nothing of them: a partner may have made it up.
pub(super) async fn find_out(
    node: &Node,
    charge: &Charge<'_>,
    grant: &SignedGrant,
    (groups, devices): (&[GroupRecord], &HashMap<Uid, DeviceRecord>),
    heard: Vec<Heard>,
) -> Result<HashSet<(Uid, ContentAddress)>, ApiError> {
    let mut dice = Dice::new(fresh_seed()?);
    let asks = hearsay_asks(&heard, groups, devices, &mut dice);
    let asked: HashMap<Uid, BTreeSet<usize>> =
        asks.iter().map(|(uid, asks)| (*uid, asks.iter().map(|ask| ask.copy).collect())).collect();
    let mut handed_over = HashSet::new();
    let mut findings = Vec::new();
    for (uid, answers) in ask_all(&node.mesh, grant, asks).await? {
        let mut open = asked.get(&uid).cloned().unwrap_or_default();
        if let Some((answers, handover)) = answers {
            handed_over.extend(handover.into_iter().map(|address| (uid, address)));
            for (ask, holds) in answers {
                open.remove(&ask.copy);
                findings.push((ask.copy, if holds { Finding::Holds } else { Finding::Lacks }));
            }
        }
        findings.extend(open.into_iter().map(|copy| (copy, Finding::Silent)));
    }
    let write = move |c: &Changes| {
        let found =
            |(copy, finding): &(usize, Finding)| heard.get(*copy).map_or(Ok(()), |h| c.found(h, *finding));
        findings.iter().try_for_each(found)
    };
    charge.book.off(|book| book.change(write)).await?;
    Ok(handed_over)
}

impl Round<'_> {
    /// Has devices prove what they have, and notes what came of it.
    pub(super) async fn ask(&mut self) -> Result<(), ApiError> {
        let mut dice = Dice::new(fresh_seed()?);
        let (mut waiting, mut unknown) = (Vec::new(), HashSet::new());
        let held = self.held();
        // Who has nothing but the head is asked what it would give back.
        let others = self.head_holders().await?.into_iter().filter(|uid| !held.contains_key(uid));
        waiting.extend(others.map(|uid| (uid, Vec::new())));
        for (uid, held) in held {
            if !self.is_mine(uid.as_bytes()) {
                continue;
            }
            let record = self.devices.entry(uid).or_default();
            let mut due = audits_due(&self.rules, &record.health, record.asked, self.now);
            if self.all {
                due = due.max(ioex_net::proto::AUDIT_ASKS_MAX);
            }
            if due == 0 {
                continue;
            }
            let asks = audit_asks(&held, &self.groups, &self.unseen, due, &mut dice);
            if asks.is_empty() {
                unknown.insert(uid);
            }
            waiting.push((uid, asks));
        }
        let asked = waiting.len();
        let told = ask_all(&self.node.mesh, &self.grant, waiting).await?;
        let answered = told.iter().filter(|(_, answers)| answers.is_some()).count();
        (self.report.devices, self.report.silent) = (asked as u64, (asked - answered) as u64);
        // Devices that a partner made up say nothing about this node.
        let answered =
            told.iter().filter(|(uid, answers)| answers.is_some() && !unknown.contains(uid)).count();
        let counts = round_counts(asked - unknown.len(), answered);
        let places: HashMap<ContentAddress, usize> =
            self.groups.iter().enumerate().filter_map(|(place, group)| Some((group.id()?, place))).collect();
        for (uid, answers) in told {
            self.note(uid, answers, counts, &places);
        }
        let part = |(uid, _): &(&Uid, &DeviceRecord)| self.is_mine(uid.as_bytes());
        let mine: Vec<(Uid, DeviceRecord)> =
            self.devices.iter().filter(part).map(|(uid, record)| (*uid, record.clone())).collect();
        // Also of groups that need no repair: the same loss must not be another fault next time.
        let mut failed: Vec<(ContentAddress, HashSet<(Uid, u16)>)> = Vec::new();
        for group in self.groups.iter().filter(|g| g.copies.iter().any(|copy| copy.failed)) {
            let lost = group.copies.iter().filter(|c| c.failed).map(|c| (c.device, c.shard)).collect();
            failed.extend(group.id().map(|id| (id, lost)));
        }
        let write = move |c: &Changes| {
            mine.iter().try_for_each(|(uid, record)| c.put_device(uid, record))?;
            failed.iter().try_for_each(|(id, lost)| {
                c.update_group(id, |g| {
                    let lost = |k: &&mut CopyRecord| lost.contains(&(k.device, k.shard));
                    g.copies.iter_mut().filter(lost).for_each(|k| k.failed = true);
                })
            })?;
            Ok(mine)
        };
        self.mine = self.charge.book.off(|book| book.change(write)).await?;
        Ok(())
    }

    /// Asks devices again for what they once lacked: a disk that was not mounted then may be back. What came
    /// back counts again and is no loss.
    pub(super) async fn look_again(&mut self) -> Result<(), ApiError> {
        let mut lacked: BTreeMap<Uid, Vec<Place>> = BTreeMap::new();
        for (at, group) in self.groups.iter().enumerate() {
            for (copy, record) in group.copies.iter().enumerate() {
                // Whoever noted it: nobody else knows of it.
                if record.failed {
                    lacked.entry(record.device).or_default().push((at, copy));
                }
            }
        }
        // Who lacked something a moment ago was asked a moment ago.
        let failed = |uid: &Uid| {
            let state = self.devices.get(uid).map(|d| d.health.state(&self.rules, self.now));
            state == Some(DeviceState::Failed)
        };
        lacked.retain(|uid, _| !self.faulty.contains(uid) && !failed(uid));
        // A few tell whether it is worth asking for all.
        let mut dice = Dice::new(fresh_seed()?);
        let few = lacked.iter().map(|(uid, all)| {
            let mut few = all.clone();
            few.rotate_left(dice.below(all.len()));
            few.truncate(AUDITS_PER_ROUND.into());
            (*uid, few)
        });
        let few = few.collect();
        let back: HashSet<Uid> =
            self.prove(few).await?.into_iter().filter(|(.., holds)| *holds).map(|(uid, ..)| uid).collect();
        lacked.retain(|uid, _| back.contains(uid));
        let found: Vec<Proven> = self.prove(lacked).await?.into_iter().filter(|(.., holds)| *holds).collect();
        // Its leases were not extended meanwhile.
        self.back.extend(found.iter().map(|(uid, ..)| *uid));
        self.mark(found).await
    }

    /// Has devices prove copies, and returns what they proved or not. Who is silent says nothing.
    pub(super) async fn prove(&self, copies: BTreeMap<Uid, Vec<Place>>) -> Result<Vec<Proven>, ApiError> {
        let mut dice = Dice::new(fresh_seed()?);
        let (mut asks, mut places) = (Vec::new(), HashMap::new());
        for (uid, copies) in copies {
            let mut of_one = Vec::new();
            for (at, copy) in copies {
                let Some(group) = self.groups.get(at) else { continue };
                let shard = group.copies.get(copy).and_then(|c| group.shard(c.shard.into()));
                let (Some(id), Some(shard)) = (group.id(), shard) else { continue };
                let bytes = u64::from(shard.bytes);
                places.insert((uid, id, copy), at);
                let leaf = leaf_of(bytes, &mut dice);
                of_one.push(Ask { group: id, copy, address: shard.address, bytes, leaf });
            }
            if !of_one.is_empty() {
                asks.push((uid, of_one));
            }
        }
        let mut out = Vec::new();
        for (uid, answers) in ask_all(&self.node.mesh, &self.grant, asks).await? {
            for (ask, holds) in answers.into_iter().flat_map(|(answers, _)| answers) {
                if let Some(at) = places.get(&(uid, ask.group, ask.copy)) {
                    out.push((uid, (*at, ask.copy), holds));
                }
            }
        }
        Ok(out)
    }

    /// Notes that copies are there or missing.
    pub(super) async fn mark(&mut self, copies: Vec<Proven>) -> Result<(), ApiError> {
        let mut changed = Vec::new();
        for (_, (at, copy), holds) in copies {
            let Some(group) = self.groups.get_mut(at) else { continue };
            let id = group.id();
            if let (Some(id), Some(record)) = (id, group.copies.get_mut(copy)) {
                record.failed = !holds;
                changed.push((id, *record));
            }
        }
        let write = move |c: &Changes| {
            changed.iter().try_for_each(|(id, of)| {
                c.update_group(id, |g| {
                    let known = g.copies.iter_mut().find(|k| k.device == of.device && k.shard == of.shard);
                    known.into_iter().for_each(|known| known.failed = of.failed);
                })
            })
        };
        Ok(self.charge.book.off(|book| book.change(write)).await?)
    }

    /// Notes what a device answered; `places` are those of the groups.
    fn note(&mut self, uid: Uid, told: Answers, counts: bool, places: &HashMap<ContentAddress, usize>) {
        let record = self.devices.entry(uid).or_default();
        let Some((answers, handover)) = told else {
            if counts {
                record.health.observe(&self.rules, Observation::Unreachable, self.now);
            }
            return;
        };
        record.asked = Some(self.now);
        record.health.observe(&self.rules, Observation::Answered, self.now);
        self.handed_over.extend(handover.into_iter().map(|address| (uid, address)));
        self.report.asked += answers.len() as u64;
        let mut faults = 0;
        for (ask, _) in answers.iter().filter(|(_, holds)| !holds) {
            let place = places.get(&ask.group);
            let copy = place.and_then(|place| self.groups.get_mut(*place)?.copies.get_mut(ask.copy));
            if let Some(copy) = copy {
                copy.failed = true;
                faults += 1;
            }
        }
        self.report.faults += faults;
        if faults > 0 {
            // One look is one fault, however many shards it showed: a lost disk is one event.
            record.health.observe(&self.rules, Observation::Fault, self.now);
            self.faulty.insert(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::UnixSeconds;
    use ioex_vault::Redundancy;

    use super::{super::super::book::Hearsay, *};

    fn named(n: usize) -> [u8; 32] {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn group(n: usize) -> GroupRecord {
        GroupRecord {
            redundancy: Redundancy::replicas(3).unwrap(),
            data: vec![ShardRef { address: ContentAddress::from_bytes(named(n)), bytes: 5_000 }],
            parity: Vec::new(),
            reader: Uid::from_bytes([9; 32]),
            expires: UnixSeconds(1),
            copies: Vec::new(),
        }
    }

    fn told(group: &GroupRecord, device: Uid) -> Heard {
        Heard { group: group.id().unwrap(), shard: 0, device, what: Hearsay::Told }
    }

    #[test]
    fn partners_do_not_keep_a_round_busy_without_end() {
        let known = Uid::from_bytes([1; 32]);
        let groups: Vec<_> = (0..HEARSAY_EACH_MAX + 20).map(group).collect();
        let mut heard: Vec<_> = groups.iter().map(|g| told(g, known)).collect();
        let made_up = |n| told(&groups[0], Uid::from_bytes(named(n)));
        heard.extend((0..HEARSAY_DEVICES_MAX + 20).map(made_up));
        heard.push(told(&group(100_000), known));
        let devices = HashMap::from([(known, DeviceRecord::default())]);
        let asks = hearsay_asks(&heard, &groups, &devices, &mut Dice::new(1));
        assert_eq!(asks.len(), HEARSAY_DEVICES_MAX);
        assert_eq!((asks[0].0, asks[0].1.len()), (known, HEARSAY_EACH_MAX), "who is known comes first");
        for (uid, asks) in &asks {
            for ask in asks {
                assert_eq!((heard[ask.copy].device, heard[ask.copy].group), (*uid, ask.group));
                assert!(ask.leaf < 5 && ask.bytes == 5_000);
            }
        }
        let others = |seed| hearsay_asks(&heard, &groups, &devices, &mut Dice::new(seed))[1].0;
        assert!((2..20).any(|seed| others(seed) != others(1)), "nobody is always the last");
    }

    /// A partner that makes copies up must not make devices look bad.
    #[test]
    fn a_device_need_not_prove_what_only_a_partner_says() {
        let device = Uid::from_bytes([1; 32]);
        let mut groups = [group(1), group(2)];
        for group in &mut groups {
            group.copies = vec![CopyRecord { shard: 0, device, failed: false }];
        }
        let held = [(0, 0, groups[0].data[0]), (1, 0, groups[1].data[0])];
        let asks = |unseen: &[usize]| -> Vec<ContentAddress> {
            let unseen = unseen.iter().map(|at| (groups[*at].id().unwrap(), 0, device)).collect();
            let asks = audit_asks(&held, &groups, &unseen, 2, &mut Dice::new(1));
            let mut out: Vec<_> = asks.iter().map(|ask| ask.group).collect();
            out.sort_unstable();
            out.dedup();
            out
        };
        let id = |at: usize| groups[at].id().unwrap();
        assert_eq!(asks(&[]).len(), 2);
        assert_eq!(asks(&[0]), [id(1)]);
        assert!(asks(&[0, 1]).is_empty());
    }

    #[test]
    fn what_was_found_missing_is_not_asked_for_again() {
        let device = Uid::from_bytes([1; 32]);
        let mut group = group(1);
        let heard = [told(&group, device)];
        group.copies = vec![CopyRecord { shard: 0, device, failed: true }];
        let asks = |group: &GroupRecord| {
            hearsay_asks(&heard, std::slice::from_ref(group), &HashMap::new(), &mut Dice::new(1))
        };
        assert!(asks(&group).is_empty());
        group.copies[0].failed = false;
        assert_eq!(asks(&group).len(), 1);
    }
}
