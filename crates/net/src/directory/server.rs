//! What a bootstrap remembers for those who ask over QUIC: in memory only, bounded, expiring.

use std::collections::{BTreeMap, HashMap};

use ioex_base::{ContentAddress, Uid, UnixSeconds};

use super::{
    holder::{ANNOUNCE_LIFE_SECONDS, HolderRecord, info_hash},
    own_address,
};
use crate::{
    names::BootstrapAddr,
    proto::{BOOTSTRAPS_MAX, HOLDERS_MAX},
    record::SignedRecord,
};

/// Most node records a bootstrap keeps (about 700 bytes each: 70 MB when full).
pub(crate) const RECORDS_MAX: usize = 100_000;
/// Most contents of which it keeps holders.
pub(crate) const CONTENTS_MAX: usize = 200_000;

/// The memory of a bootstrap.
#[derive(Debug)]
pub(crate) struct Memory {
    records: HashMap<Uid, SignedRecord>,
    holders: HashMap<[u8; 20], Vec<HolderRecord>>,
    bootstraps: BTreeMap<Uid, BootstrapAddr>,
    records_max: usize,
    contents_max: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_bounds(RECORDS_MAX, CONTENTS_MAX)
    }
}

impl Memory {
    pub(crate) fn with_bounds(records_max: usize, contents_max: usize) -> Self {
        Self {
            records: HashMap::new(),
            holders: HashMap::new(),
            bootstraps: BTreeMap::new(),
            records_max,
            contents_max,
        }
    }

    /// Keeps a node's record; false when it is not believed, older than the known one, or there
    /// is no room.
    pub(crate) fn keep_record(&mut self, signed: SignedRecord, now: UnixSeconds) -> bool {
        let Ok(record) = signed.open(&signed.uid, now) else { return false };
        if self.records.get(&signed.uid).is_some_and(|known| known.seq_ms > signed.seq_ms) {
            return false;
        }
        if self.records.len() >= self.records_max && !self.records.contains_key(&signed.uid) {
            self.records.retain(|uid, r| r.open(uid, now).is_ok());
            if self.records.len() >= self.records_max {
                return false;
            }
        }
        if let Some(addr) = own_address(&signed.uid, &record)
            && (self.bootstraps.len() < BOOTSTRAPS_MAX || self.bootstraps.contains_key(&signed.uid))
        {
            self.bootstraps.insert(signed.uid, addr);
        }
        self.records.insert(signed.uid, signed);
        true
    }

    /// A node's record, if it still holds.
    pub(crate) fn record(&self, uid: &Uid, now: UnixSeconds) -> Option<SignedRecord> {
        self.records.get(uid).filter(|r| r.open(uid, now).is_ok()).cloned()
    }

    /// Keeps "the caller holds this". Only the caller's own announcements are taken.
    pub(crate) fn keep_holder(
        &mut self,
        caller: &Uid,
        address: &ContentAddress,
        record: HolderRecord,
        now: UnixSeconds,
    ) -> bool {
        if record.check(address, now) != Some(*caller) {
            return false;
        }
        let hash = info_hash(address);
        if self.holders.len() >= self.contents_max && !self.holders.contains_key(&hash) {
            self.expire(now);
            if self.holders.len() >= self.contents_max {
                return false;
            }
        }
        let holders = self.holders.entry(hash).or_default();
        holders.retain(|h| h.uid != record.uid);
        if holders.len() >= HOLDERS_MAX {
            holders.remove(0);
        }
        holders.push(record);
        true
    }

    fn expire(&mut self, now: UnixSeconds) {
        self.holders.retain(|_, holders| {
            holders.retain(|h| now.since(UnixSeconds(h.at_us / 1_000_000)) <= ANNOUNCE_LIFE_SECONDS);
            !holders.is_empty()
        });
    }

    /// Who announced `address`.
    pub(crate) fn holders(&self, address: &ContentAddress, now: UnixSeconds) -> Vec<HolderRecord> {
        let all = self.holders.get(&info_hash(address)).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|h| h.check(address, now).is_some()).copied().collect()
    }

    /// The bootstraps it met, with their records.
    pub(crate) fn bootstraps(&self, now: UnixSeconds) -> Vec<(BootstrapAddr, Option<SignedRecord>)> {
        self.bootstraps.values().map(|b| (*b, self.record(&b.uid, now))).collect()
    }

    /// Entries held: records and contents.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.records.len(), self.holders.len())
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::{NodeKey, NodeKind};

    use super::*;
    use crate::record::{NodeRecord, RECORD_LIFE_SECONDS};

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn record(n: u8, at: UnixSeconds) -> SignedRecord {
        let key = NodeKey::from_seed([n; 32]);
        let record = NodeRecord {
            kind: NodeKind::Peer,
            addresses: vec![],
            bootstraps: vec![],
            owner: [0; 8],
            lends_bytes: 0,
        };
        record.sign(&key, at.0 * 1000)
    }

    #[test]
    fn memory_is_bounded_and_expires() {
        let mut memory = Memory::with_bounds(3, 2);
        for n in 0..10 {
            memory.keep_record(record(n, NOW), NOW);
        }
        assert_eq!(memory.len().0, 3);
        let later = NOW.plus(RECORD_LIFE_SECONDS + 1);
        assert!(memory.keep_record(record(20, later), later), "expired ones made room");
        assert_eq!(memory.len().0, 1);
        for n in 0..10u8 {
            let key = NodeKey::from_seed([1; 32]);
            let address = ContentAddress::of(&[n]);
            let holder = HolderRecord::sign(&key, &address, NOW.0 * 1_000_000);
            memory.keep_holder(&key.uid(), &address, holder, NOW);
        }
        assert_eq!(memory.len().1, 2);
    }

    #[test]
    fn an_older_record_does_not_replace_a_newer() {
        let mut memory = Memory::default();
        assert!(memory.keep_record(record(1, NOW.plus(5)), NOW));
        assert!(!memory.keep_record(record(1, NOW), NOW));
    }

    #[test]
    fn nobody_announces_for_somebody_else() {
        let mut memory = Memory::default();
        let (a, b) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let address = ContentAddress::of(b"x");
        let holder = HolderRecord::sign(&a, &address, NOW.0 * 1_000_000);
        assert!(!memory.keep_holder(&b.uid(), &address, holder, NOW));
        assert!(memory.keep_holder(&a.uid(), &address, holder, NOW));
        assert_eq!(memory.holders(&address, NOW).len(), 1);
        assert!(memory.holders(&address, NOW.plus(ANNOUNCE_LIFE_SECONDS + 1)).is_empty());
    }
}
