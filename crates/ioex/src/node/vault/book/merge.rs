//! What partners say of groups, and what of it is taken.
//!
//! Nothing that a partner says can make the book unusable: what no honest one would send is not taken,
//! and every list has an end. Dates only go forward, whoever of several machines with the same words
//! speaks last.

use ioex_base::{ContentAddress, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS, limits::SHARD_MAX_BYTES};
use ioex_store::LEASE_GRACE_SECONDS;
use ioex_vault::REDUNDANCY_MAX;
use redb::ReadableTableMetadata as _;

use super::{BookError, Changes, CopyRecord, GROUPS, GroupRecord, REMOVED};

/// Most copies of a group that are remembered as given up; of more, the oldest are forgotten. One message
/// between partners holds some 1,900 of them, and a group has 96 shards.
pub(crate) const LEFT_MAX: usize = 512;
/// Most copies of a group that are taken from partners: as many as may be given up, so that both lists
/// together fit one message.
const COPIES_MAX: usize = LEFT_MAX;
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

impl Changes {
    /// Takes a partner's record of a group. Copies that either knows hold, unless one of them gave them
    /// up: a copy too many harms nobody, one that nobody knows of is lost.
    pub(crate) fn merge_group(&self, told: &Exchanged, word: Word) -> Result<(), BookError> {
        let (left, theirs) = told;
        let Some(id) = theirs.id().filter(|_| word.is_possible(told)) else { return Ok(()) };
        let ours: Option<GroupRecord> = self.known(GROUPS, id.as_bytes())?;
        let Some(ours) = ours else {
            return if self.takes_new(&id, word.say)? { self.put_group(theirs) } else { Ok(()) };
        };
        if ours.data != theirs.data || ours.parity != theirs.parity {
            return Ok(());
        }
        let mut merged = ours.clone();
        merged.expires = word.expires(ours.expires, theirs.expires);
        merged.copies.retain(|c| !left.contains(&(c.shard, c.device)));
        for new in theirs.copies.iter().filter(|c| ours.shard(c.shard.into()).is_some()) {
            let known = merged.copies.iter().any(|c| c.device == new.device && c.shard == new.shard);
            if !known && merged.copies.len() < COPIES_MAX && !self.is_left(&id, new)? {
                merged.copies.push(CopyRecord { failed: false, ..*new });
            }
        }
        self.put_group(&merged)
    }

    /// Whether a group that is not known becomes known.
    fn takes_new(&self, id: &ContentAddress, say: Say) -> Result<bool, BookError> {
        let may = match say {
            Say::Owner => true,
            Say::Adopt => self.known::<UnixSeconds>(REMOVED, id.as_bytes())?.is_none(),
            Say::Copies => false,
        };
        Ok(may && self.0.open_table(GROUPS)?.len()? < GROUPS_MAX)
    }
}
