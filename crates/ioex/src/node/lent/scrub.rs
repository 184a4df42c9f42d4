//! Looking, slowly, whether what is held is still what it was: disks lose bits.

use std::time::Duration;

use ioex_base::ContentAddress;
use ioex_store::{ShardStore, StoreError};

/// A round through everything takes so long, if there is not too much.
const ROUND: Duration = Duration::from_secs(14 * 24 * 3600);
/// Shortest pause between two shards: about 400 kB/s from the disk, which nobody notices.
const PAUSE_MIN: Duration = Duration::from_secs(10);
/// Longest pause: soon enough to begin when something comes.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// How long to wait between two of `count`. Pure.
fn pause(count: usize) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    (ROUND / count).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// Where the round is.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    left: Vec<ContentAddress>,
}

impl Scrub {
    /// Verifies the next one. Returns what was damaged, and how long to wait.
    pub(super) fn next(&mut self, store: &ShardStore) -> (Option<ContentAddress>, Duration) {
        if self.left.is_empty() {
            self.left = store.addresses();
        }
        let pause = pause(self.left.len().max(store.usage().shards));
        let Some(address) = self.left.pop() else { return (None, pause) };
        match store.verify(&address) {
            Err(StoreError::Damaged(address)) => (Some(address), pause),
            // It went meanwhile.
            Ok(_) | Err(StoreError::NotHeld(_)) => (None, pause),
            Err(e) => {
                tracing::warn!("a shard could not be verified: {e}");
                (None, pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::{Uid, UnixSeconds};
    use ioex_store::{Lease, PutStart};

    use super::*;

    #[test]
    fn damage_is_found_within_a_round() {
        let dir = tempfile::tempdir().unwrap();
        let store = ShardStore::open(dir.path(), 10_000_000).unwrap();
        let mut scrub = Scrub::default();
        assert_eq!(scrub.next(&store), (None, PAUSE_MAX));
        let mut addresses = Vec::new();
        for n in 0..5u8 {
            let (bytes, uid) = ([n; 1_000], Uid::from_bytes([1; 32]));
            let (stored, expires) = (UnixSeconds(1_000), UnixSeconds(9_000));
            let lease = Lease { placer: uid, reader: uid, bytes: 1_000, stored, expires };
            let address = ContentAddress::of(&bytes);
            let PutStart::Write(mut put) = store.begin_put(address, lease).unwrap() else { panic!("held") };
            put.write(&bytes).unwrap();
            put.commit().unwrap();
            addresses.push(address);
        }
        let text = addresses[2].to_string();
        let path = dir.path().join(&text[..2]).join(&text);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[500] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let found: Vec<_> = (0..5).filter_map(|_| scrub.next(&store).0).collect();
        assert_eq!(found, [addresses[2]]);
        assert!(!store.contains(&addresses[2]));
        assert_eq!((0..8).filter_map(|_| scrub.next(&store).0).count(), 0);
    }

    #[test]
    fn the_pace_is_gentle() {
        assert_eq!(pause(0), PAUSE_MAX);
        assert_eq!(pause(2_016), Duration::from_secs(600));
        assert_eq!(pause(usize::MAX), PAUSE_MIN);
    }
}
