//! What partners say of groups, and what of it is taken.
//!
//! Nothing that a partner says can make the book unusable: what no honest one would send is not taken,
//! and every list has an end. Dates only go forward, whoever of several machines with the same words
//! speaks last. What is said of copies is found out first (see [`super::hearsay`]).

use std::{collections::HashSet, sync::atomic::Ordering};

use ioex_base::{ContentAddress, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS, limits::SHARD_MAX_BYTES};
use ioex_store::LEASE_GRACE_SECONDS;
use ioex_vault::REDUNDANCY_MAX;
use redb::{Database, ReadableTableMetadata as _};

use super::{
    ADOPTED, BUCKETS, Book, BookError, Changes, CopyRecord, GROUPS, GroupRecord, LEFT, REMOVED, copy_of,
    copy_range,
    hearsay::{Heard, Hearsay},
};

/// Most copies of a group that are remembered as given up; of more, the oldest are forgotten. One message
/// between partners holds some 1,900 of them, and a group has 96 shards.
pub(crate) const LEFT_MAX: usize = 512;
/// Most copies of a group that are taken from partners: as many as may be given up, so that both lists
/// together fit one message.
pub(super) const COPIES_MAX: usize = LEFT_MAX;
/// Most groups of a book to which a partner may add: so many can be compared.
pub(crate) const GROUPS_MAX: u64 = 390_000;
/// No group is needed for longer than this from now, in seconds: a shard's life, and what clocks may differ.
const EXPIRES_AHEAD_MAX_SECONDS: u64 = SHARD_LIFE_SECONDS + LEASE_GRACE_SECONDS;
/// The date of a group that is being given back.
const GIVEN_BACK: UnixSeconds = UnixSeconds(0);

/// A group with the copies of it that were given up: shard and device.
pub(crate) type Exchanged = (Vec<(u16, Uid)>, GroupRecord);

/// What a partner may say about groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// The owner: which groups there are, and until when.
    Owner,
    /// To an owner: where shards lie, and which groups it does not know of, such as what another machine
    /// with the same words stored, or keeps for longer.
    Adopt,
    /// Whoever watches as well: where the shards of known groups are.
    Copies,
}

/// Of whose groups a partner speaks, and how far its word goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) say: Say,
    /// Public reader key of the repository.
    pub(crate) reader: Uid,
    pub(crate) now: UnixSeconds,
}

impl Word {
    /// Whether a record is one that an honest partner may send.
    fn is_possible(&self, (left, group): &Exchanged) -> bool {
        group.reader == self.reader
            && group.shards().count() <= usize::from(REDUNDANCY_MAX)
            && group.shards().all(|s| (1..=SHARD_MAX_BYTES).contains(&u64::from(s.bytes)))
            && group.expires <= self.now.plus(EXPIRES_AHEAD_MAX_SECONDS)
            && group.copies.len() <= COPIES_MAX
            && left.len() <= LEFT_MAX
    }

    /// Until when a group is needed that both know. An older date is an older book; only giving back
    /// brings a date forward.
    fn expires(&self, ours: UnixSeconds, theirs: UnixSeconds) -> UnixSeconds {
        match self.say {
            Say::Owner if theirs == GIVEN_BACK => GIVEN_BACK,
            Say::Adopt if ours == GIVEN_BACK => GIVEN_BACK,
            Say::Owner | Say::Adopt => ours.max(theirs),
            Say::Copies => ours,
        }
    }
}

impl Book {
    /// For each group its name and a number that follows from what partners have to agree about: its date,
    /// how many copies are wanted, and its copies, without those that a partner gave up and this node keeps for itself. What failed is
    /// each one's own finding. Of one part, or of all.
    pub(crate) fn each_digest(
        &self,
        bucket: Option<u8>,
        mut take: impl FnMut(ContentAddress, u64),
    ) -> Result<(), BookError> {
        let (first, last) = (bucket.unwrap_or(0), bucket.unwrap_or(u8::MAX));
        let (mut from, mut to) = ([0; 32], [u8::MAX; 32]);
        (from[0], to[0]) = (first, last);
        let heard = self.hearsay_between(&from, &to)?;
        let own: HashSet<_> =
            heard.iter().filter(|h| is_own(h)).map(|h| (h.group, h.shard, h.device)).collect();
        self.each_between(GROUPS, &from, &to, |key, group: GroupRecord| {
            let Ok(id) = key.try_into().map(ContentAddress::from_bytes) else { return };
            let mut copies: Vec<_> = group.copies.iter().map(|c| (c.device, c.shard)).collect();
            copies.retain(|(device, shard)| !own.contains(&(id, *shard, *device)));
            copies.sort_unstable();
            let mut hasher = blake3::Hasher::new();
            hasher.update(id.as_bytes()).update(&group.expires.0.to_le_bytes());
            let own = group.own_redundancy();
            hasher.update(&[own.k(), own.m(), own.o(), own.n()]);
            for (device, shard) in copies {
                hasher.update(device.as_bytes()).update(&shard.to_le_bytes());
            }
            let mut first = [0; 8];
            first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
            take(id, u64::from_le_bytes(first));
        })
    }

    /// For each part, a number that two books share when they agree about its groups.
    pub(crate) fn buckets(&self) -> Result<Vec<u64>, BookError> {
        let mut out = vec![0u64; BUCKETS];
        self.each_digest(None, |id, digest| {
            if let Some(sum) = out.get_mut(usize::from(id.as_bytes()[0])) {
                // The order must not matter.
                *sum = sum.wrapping_add(digest);
            }
        })?;
        Ok(out)
    }

    /// A group as partners get it.
    pub(crate) fn exchanged(&self, id: &ContentAddress) -> Result<Option<Exchanged>, BookError> {
        let Some(mut group) = self.group(id)? else { return Ok(None) };
        let heard = self.hearsay_between(id.as_bytes(), id.as_bytes())?;
        let own =
            |c: &CopyRecord| heard.iter().any(|h| is_own(h) && h.shard == c.shard && h.device == c.device);
        group.copies.retain(|c| !own(c));
        let (from, to) = copy_range(id);
        let mut left = Vec::new();
        self.each_between(LEFT, &from, &to, |key, _: UnixSeconds| left.extend(copy_of(key)))?;
        Ok(Some((left, group)))
    }

    /// Takes a partner's records. When they say nothing new, nothing changes: two books that do not come
    /// to agree must not keep their nodes busy.
    pub(crate) fn merge(&self, records: &[Exchanged], word: Word) -> Result<(), BookError> {
        self.with(Database::begin_write, |write| {
            let changes = Changes(write);
            let mut new = false;
            for record in records {
                new |= changes.merge_group(record, word)?;
            }
            if new {
                changes.0.commit()?;
                self.generation.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    }
}

/// Whether only this node goes on counting a copy.
fn is_own(heard: &Heard) -> bool {
    heard.what == Hearsay::GivenUp
}

impl Changes {
    /// Takes a partner's record of a group; returns whether it said anything new. What the owner says of
    /// copies is so; what another partner says, this node finds out by itself, unless it knows that a
    /// copy failed.
    fn merge_group(&self, told: &Exchanged, word: Word) -> Result<bool, BookError> {
        let (left, theirs) = told;
        let Some(id) = theirs.id().filter(|_| word.is_possible(told)) else { return Ok(false) };
        let ours: Option<GroupRecord> = self.known(GROUPS, id.as_bytes())?;
        let Some(ours) = ours else { return self.take_new(&id, theirs, word) };
        if ours.data != theirs.data || ours.parity != theirs.parity {
            return Ok(false);
        }
        let mut merged = ours.clone();
        merged.expires = word.expires(ours.expires, theirs.expires);
        let is_owner = word.say == Say::Owner;
        // How many copies there are to be is the owner's to say: another partner could raise it without end.
        if is_owner {
            merged.raise_to(theirs.own_redundancy());
        }
        merged.copies.retain(|c| !((is_owner || c.failed) && left.contains(&(c.shard, c.device))));
        let stands = |list: &[CopyRecord], (shard, device): (u16, Uid)| {
            list.iter().any(|c| c.device == device && c.shard == shard)
        };
        let mut new = false;
        for &(shard, device) in left {
            if stands(&merged.copies, (shard, device)) {
                let heard = Heard { group: id, shard, device, what: Hearsay::GivenUp };
                new |= self.hear(&heard, 0)?;
            } else {
                new |= self.hear_no_more(&id, (shard, device))?;
            }
        }
        let mut told = merged.copies.len() + self.told(&id)?;
        for copy in theirs.copies.iter().filter(|c| ours.shard(c.shard.into()).is_some()) {
            let (shard, device) = (copy.shard, copy.device);
            if stands(&merged.copies, (shard, device)) || self.is_left(&id, copy)? {
                continue;
            }
            if !is_owner {
                let heard = Heard { group: id, shard, device, what: Hearsay::Told };
                let taken = self.hear(&heard, told)?;
                (new, told) = (new | taken, told + usize::from(taken));
            } else if merged.copies.len() < COPIES_MAX {
                merged.copies.push(CopyRecord { failed: false, ..*copy });
            }
        }
        Ok(self.write_group(&merged)? | new)
    }

    /// Takes a group that is not known, if the partner may bring it.
    fn take_new(&self, id: &ContentAddress, group: &GroupRecord, word: Word) -> Result<bool, BookError> {
        let may = match word.say {
            Say::Owner => true,
            Say::Adopt => self.known::<UnixSeconds>(REMOVED, id.as_bytes())?.is_none(),
            Say::Copies => false,
        };
        if !may || self.0.open_table(GROUPS)?.len()? >= GROUPS_MAX {
            return Ok(false);
        }
        let mut group = group.clone();
        // What failed is each one's own finding.
        group.copies.iter_mut().for_each(|c| c.failed = false);
        self.put_group(&group)?;
        if word.say != Say::Adopt {
            return Ok(true);
        }
        self.put(ADOPTED, id.as_bytes(), &word.now)?;
        for &CopyRecord { shard, device, .. } in &group.copies {
            self.hear(&Heard { group: *id, shard, device, what: Hearsay::Adopted }, 0)?;
        }
        Ok(true)
    }
}
