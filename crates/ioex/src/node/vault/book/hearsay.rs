//! What partners say of copies and this node has not seen itself.
//!
//! A partner's word alone neither makes a copy count nor ends one: the device is asked to prove it, in this
//! node's next round. Only the owner's word stands by itself at those who watch for it, because it is
//! the owner's backup. So a partner that lies costs some questions, and no group.

use ioex_base::{ContentAddress, Uid};
use redb::{ReadableTable as _, ReadableTableMetadata as _};
use serde::{Deserialize, Serialize};

use super::{
    Book, BookError, Changes, CopyRecord, GroupRecord, HEARSAY, copy_key, copy_of, copy_range,
    merge::COPIES_MAX,
};

/// Most entries when a further copy is still taken: what partners tell beyond it, they tell again later.
/// Some 5 MB.
pub(super) const HEARSAY_MAX: u64 = 65_536;

/// What was said of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hearsay {
    /// The device has it. It does not stand in the group, and counts for nothing.
    Told,
    /// It was given up. It stands in the group and counts; partners hear no more of it.
    GivenUp,
    /// The device has it, of a group of which this node knew nothing. It stands in the group and counts.
    Adopted,
}

/// A copy of which something was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) group: ContentAddress,
    pub(crate) shard: u16,
    pub(crate) device: Uid,
    pub(crate) what: Hearsay,
}

/// What came of asking the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Holds,
    Lacks,
    Silent,
}

impl Book {
    /// Everything that was said and not seen.
    pub(crate) fn hearsay(&self) -> Result<Vec<Heard>, BookError> {
        self.hearsay_between(&[0; 32], &[u8::MAX; 32])
    }

    /// Of the groups with these names and all between them.
    pub(super) fn hearsay_between(&self, from: &[u8; 32], to: &[u8; 32]) -> Result<Vec<Heard>, BookError> {
        let (from, _) = copy_range(&ContentAddress::from_bytes(*from));
        let (_, to) = copy_range(&ContentAddress::from_bytes(*to));
        let mut out = Vec::new();
        self.each_between(HEARSAY, &from, &to, |key, what| {
            let group = key.first_chunk().map(|id| ContentAddress::from_bytes(*id));
            if let (Some(group), Some((shard, device))) = (group, copy_of(key)) {
                out.push(Heard { group, shard, device, what });
            }
        })?;
        Ok(out)
    }
}

impl Changes {
    /// Notes what was said of a copy; returns whether that is new. `told` are the copies of its group that
    /// stand there or were told.
    pub(super) fn hear(&self, heard: &Heard, told: usize) -> Result<bool, BookError> {
        let key = copy_key(&heard.group, heard.shard, heard.device.as_bytes());
        if self.known::<Hearsay>(HEARSAY, &key)?.is_some() {
            return Ok(false);
        }
        if heard.what == Hearsay::Told
            && (told >= COPIES_MAX || self.0.open_table(HEARSAY)?.len()? >= HEARSAY_MAX)
        {
            return Ok(false);
        }
        self.put(HEARSAY, &key, &heard.what)?;
        Ok(true)
    }

    /// How many copies of a group were told that do not stand in it.
    pub(super) fn told(&self, id: &ContentAddress) -> Result<usize, BookError> {
        let (from, to) = copy_range(id);
        let mut out = 0;
        for row in self.0.open_table(HEARSAY)?.range(from.as_slice()..=to.as_slice())? {
            out += usize::from(super::decode::<Hearsay>(row?.1.value())? == Hearsay::Told);
        }
        Ok(out)
    }

    /// Whoever told of a copy takes it back; returns whether anything was told.
    pub(super) fn hear_no_more(
        &self,
        id: &ContentAddress,
        (shard, device): (u16, Uid),
    ) -> Result<bool, BookError> {
        let key = copy_key(id, shard, device.as_bytes());
        Ok(self.0.open_table(HEARSAY)?.remove(key.as_slice())?.is_some())
    }

    /// Forgets what was said of copies that come or go now: this node knows it itself.
    pub(super) fn see_copies(
        &self,
        id: &ContentAddress,
        before: Option<&GroupRecord>,
        now: &GroupRecord,
    ) -> Result<(), BookError> {
        let has = |list: &[CopyRecord], c: &CopyRecord| {
            list.iter().any(|k| k.device == c.device && k.shard == c.shard)
        };
        let old = before.map_or(&[][..], |g| &g.copies);
        let came = now.copies.iter().filter(|c| !has(old, c));
        let went = old.iter().filter(|c| !has(&now.copies, c));
        let mut table = self.0.open_table(HEARSAY)?;
        for c in came.chain(went) {
            table.remove(copy_key(id, c.shard, c.device.as_bytes()).as_slice())?;
        }
        Ok(())
    }

    /// Writes down what a device answered. That it lacks something is not held against it: who moved or lost
    /// the copy is known to whoever gave it up, and what was made up it never had.
    pub(crate) fn found(&self, heard: &Heard, finding: Finding) -> Result<(), BookError> {
        let Heard { group: id, shard, device, what } = *heard;
        match (what, finding) {
            (Hearsay::Told, Finding::Holds) => self.update_group(&id, |g| {
                let known = g.copies.iter().any(|c| c.device == device && c.shard == shard);
                if !known {
                    g.copies.push(CopyRecord { shard, device, failed: false });
                }
            }),
            (Hearsay::GivenUp | Hearsay::Adopted, Finding::Lacks) => self.update_group(&id, |g| {
                let copy = g.copies.iter_mut().find(|c| c.device == device && c.shard == shard);
                copy.into_iter().for_each(|c| c.failed = true);
            }),
            // It is told again.
            (Hearsay::Told, Finding::Lacks | Finding::Silent)
            | (Hearsay::GivenUp | Hearsay::Adopted, Finding::Holds) => {
                self.hear_no_more(&id, (shard, device)).map(drop)
            }
            (Hearsay::GivenUp | Hearsay::Adopted, Finding::Silent) => Ok(()),
        }
    }
}
