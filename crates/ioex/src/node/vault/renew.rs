//! Keeping groups for longer without moving them.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ioex_api::ApiError;
use ioex_base::{ContentAddress, Uid, UnixSeconds, limits::SHARD_LIFE_SECONDS};
use tokio::task::JoinSet;

use super::{
    Repo,
    book::{CopyRecord, GroupRecord},
    failure::internal,
    placing::Placing,
};

/// A device that does not extend its leases in this time is left to the watch, and for each of them so much
/// longer: it writes them to its disk one by one.
const RENEW_TIMEOUT: Duration = Duration::from_secs(2);
/// See [`RENEW_TIMEOUT`].
const RENEW_EACH: Duration = Duration::from_millis(20);

/// Asks the directory who holds a group of which this node only knows that it exists.
async fn find_copies(placing: &Placing, group: &mut GroupRecord) {
    let Ok(directory) = placing.mesh.directory() else { return };
    let mut found = Vec::new();
    for (at, shard) in (0..).zip(group.shards()) {
        let holders = directory.find(shard.address).await.unwrap_or_default();
        found.extend(holders.into_iter().map(|device| CopyRecord { shard: at, device, failed: false }));
    }
    group.copies = found;
}

/// Until when a lease on something is taken now that is needed until `needed`. A device refuses one that
/// outlives shards, and with it all that is asked for at once: a date may be later only because a clock was
/// ahead when it was set.
pub(super) fn lease_end(needed: UnixSeconds, now: UnixSeconds) -> UnixSeconds {
    needed.min(now.plus(SHARD_LIFE_SECONDS))
}

impl GroupRecord {
    /// Whether so many holders failed, or are not known, that it cannot be read any more.
    pub(super) fn is_lost(&self) -> bool {
        let living: HashSet<u16> = self.copies.iter().filter(|c| !c.failed).map(|c| c.shard).collect();
        living.len() < usize::from(self.own_redundancy().k())
    }
}

impl Repo {
    /// Keeps groups until `expires` without moving them, and writes down what their holders said.
    /// Returns the groups that cannot be read any more.
    pub(super) async fn renew_groups(
        &self,
        placing: &Placing,
        mut groups: Vec<GroupRecord>,
        expires: UnixSeconds,
    ) -> Result<Vec<ContentAddress>, ApiError> {
        for group in groups.iter_mut().filter(|g| g.copies.is_empty()) {
            find_copies(placing, group).await;
        }
        let mut asks: HashMap<Uid, Vec<(usize, usize, ContentAddress)>> = HashMap::new();
        for (at, group) in groups.iter_mut().enumerate() {
            group.expires = group.expires.max(expires);
            for (copy, record) in group.copies.iter().enumerate() {
                if let Some(shard) = group.shard(usize::from(record.shard)) {
                    asks.entry(record.device).or_default().push((at, copy, shard.address));
                }
            }
        }
        let mut running = JoinSet::new();
        for (device, list) in asks {
            let placing = placing.clone();
            running.spawn(async move {
                let mut told = Vec::new();
                for part in list.chunks(ioex_net::proto::LEASES_AT_ONCE_MAX) {
                    let addresses = part.iter().map(|(_, _, address)| *address).collect();
                    let (mesh, grant) = (&placing.mesh, &placing.grant);
                    let renewing = mesh.shard_renew(device, grant, placing.reader, expires, addresses);
                    let time = RENEW_TIMEOUT + RENEW_EACH * part.len() as u32;
                    let why = match tokio::time::timeout(time, renewing).await {
                        Ok(Ok(held)) => {
                            told.extend(part.iter().zip(held).map(|((g, c, _), held)| (*g, *c, held)));
                            continue;
                        }
                        Ok(Err(e)) => e.to_string(),
                        Err(_) => "it does not answer".to_owned(),
                    };
                    // Away for now: its leases go on as they are, and the watch looks after it.
                    tracing::info!("{} did not renew: {why}", device.short());
                    break;
                }
                told
            });
        }
        while let Some(told) = running.join_next().await {
            for (group, copy, held) in told.map_err(internal)? {
                if let Some(record) = groups.get_mut(group).and_then(|g| g.copies.get_mut(copy)) {
                    // What failed once does not count again.
                    record.failed |= !held;
                }
            }
        }
        self.book.change(|c| groups.iter().try_for_each(|g| c.note_group(g)))?;
        Ok(groups.iter().filter(|g| g.is_lost()).filter_map(GroupRecord::id).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_from_a_clock_that_was_ahead_is_no_lease_that_a_device_refuses() {
        let now = UnixSeconds(1_800_000_000);
        let longest = now.plus(SHARD_LIFE_SECONDS);
        assert_eq!(lease_end(now.plus(5), now), now.plus(5));
        assert_eq!(lease_end(longest.plus(10 * ioex_base::DAY_SECONDS), now), longest);
    }
}
