//! What a device gives back when its owner takes space back, or takes the device away: never by
//! itself, but by asking the super nodes that placed it to bring it elsewhere.

use ioex_base::{ContentAddress, Uid};
use ioex_net::{host::Handover, proto::HANDOVER_MAX};
use ioex_store::{HeldShard, SHARD_OVERHEAD_BYTES, ShardStore, Usage};

/// What of the shards that `placer` placed should go; all of them when the device is `leaving`.
pub(super) fn propose(store: &ShardStore, placer: &Uid, leaving: bool) -> Handover {
    let usage = store.usage();
    let excess = bytes(&usage, leaving);
    let placed = store.placed_bytes(placer);
    if excess == 0 || placed == 0 {
        return Handover::default();
    }
    // What belongs to another placer is proposed to that one.
    let his = |address: &ContentAddress| store.leases(address).iter().any(|lease| lease.placer == *placer);
    let chosen = choose(store.list(), excess, leaving);
    let addresses = chosen.into_iter().filter(his).take(HANDOVER_MAX).collect();
    Handover { excess_bytes: excess.min(placed), addresses }
}

/// Bytes that are to be handed over. What was set aside as damaged is nobody's any more.
pub(crate) fn bytes(usage: &Usage, leaving: bool) -> u64 {
    let held = usage.used_bytes.saturating_sub(usage.damaged_bytes);
    if leaving { held } else { usage.excess_bytes().min(held) }
}

/// Which shards make up `excess` bytes: those that would stay longest, because the others go soon by
/// themselves. Heads are few and small; they go last, and only when everything does. Pure.
fn choose(mut held: Vec<HeldShard>, excess: u64, all: bool) -> Vec<ContentAddress> {
    held.sort_by_key(|shard| (shard.head.is_some(), std::cmp::Reverse(shard.expires), shard.address));
    let mut sum = 0u64;
    let wanted = |shard: &HeldShard| {
        let more = all || (sum < excess && shard.head.is_none());
        sum = sum.saturating_add(shard.bytes.saturating_add(SHARD_OVERHEAD_BYTES));
        more
    };
    held.iter()
        .take_while({
            let mut wanted = wanted;
            move |shard| wanted(shard)
        })
        .map(|shard| shard.address)
        .collect()
}

#[cfg(test)]
mod tests {
    use ioex_base::{NodeKey, SealedHead, UnixSeconds, head_address};
    use ioex_store::{PutStart, Terms};

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn terms(placer: u8, life: u64) -> Terms {
        let (placer, reader) = (Uid::from_bytes([placer; 32]), Uid::from_bytes([9; 32]));
        Terms { placer, reader, stored: NOW, expires: NOW.plus(life) }
    }

    fn put(store: &ShardStore, n: u8, terms: &Terms) -> ContentAddress {
        let bytes = vec![n; 100_000];
        let address = ContentAddress::of(&bytes);
        match store.begin_put(address, terms.lease(100_000)).unwrap() {
            PutStart::Write(mut put) => {
                put.write(&bytes).unwrap();
                put.commit().unwrap();
            }
            PutStart::AlreadyHeld => {}
        }
        address
    }

    #[test]
    fn what_would_stay_longest_is_proposed_to_who_placed_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = ShardStore::open(dir.path(), 10_000_000).unwrap();
        let soon = put(&store, 1, &terms(1, 1_000));
        let late = put(&store, 2, &terms(1, 3_000));
        let middle = put(&store, 3, &terms(1, 2_000));
        let other = put(&store, 4, &terms(2, 2_500));
        let repository = NodeKey::from_seed([4; 32]);
        store.put_head(&SealedHead::sign(&repository, 1, b"head"), terms(1, 5_000).lease(0)).unwrap();
        let [first, second] = [1, 2].map(|n| Uid::from_bytes([n; 32]));
        assert_eq!(propose(&store, &first, false), Handover::default());

        // Two of four have to go: the two that would stay longest.
        let used = store.usage().used_bytes;
        store.set_space(used - 150_000);
        let excess = store.usage().excess_bytes();
        assert!((150_000..200_000).contains(&excess), "{excess}");
        assert_eq!(propose(&store, &first, false), Handover { excess_bytes: excess, addresses: vec![late] });
        assert_eq!(
            propose(&store, &second, false),
            Handover { excess_bytes: 100_000, addresses: vec![other] }
        );

        // What was proposed is deleted when it is released, and then nothing more is asked for.
        assert_eq!(store.list().len(), 5);
        store.release(&first, &[late]).unwrap();
        store.release(&second, &[other]).unwrap();
        assert_eq!(propose(&store, &first, false), Handover::default());

        // A device that leaves proposes all of it, heads last.
        let head = head_address(&repository.uid());
        let all = propose(&store, &first, true);
        assert_eq!(all.addresses, [middle, soon, head]);
        store.release(&first, &all.addresses).unwrap();
        assert_eq!(store.usage().used_bytes, 0);
        assert_eq!(propose(&store, &first, true), Handover::default());
    }
}
