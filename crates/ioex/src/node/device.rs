//! What the owner asks about, and sets for, what this device does for others.

use std::sync::Arc;

use ioex_api::{
    ApiError, Deleted, DeviceChanges, DeviceInfo, DeviceState, ErrorCode, HeldLease, HeldShard, ShardList,
    Waiting,
};
use ioex_base::ContentAddress;

use super::{
    Node, lenders_topic,
    lent::{DeleteError, Lent, Verdict, disk_bytes},
};
use crate::device::{DeviceError, ValueError};

/// Shards in one answer: with all their leases they stay below what one line may have.
const PAGE: usize = 1_000;

/// Work that waits for the disk, beside the tasks of the node.
async fn blocking<T: Send + 'static>(
    node: &Node,
    work: impl FnOnce(&Lent) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let lent: Arc<Lent> = node.lent.clone();
    let done = tokio::task::spawn_blocking(move || work(&lent)).await;
    done.unwrap_or_else(|e| Err(ApiError::new(ErrorCode::Internal, e.to_string())))
}

pub(super) fn show(lent: &Lent) -> DeviceInfo {
    let (settings, usage, noticed) = (lent.settings(), lent.usage(), lent.conditions());
    let space = lent.space_bytes(&settings);
    let dir = lent.shards_dir();
    let disk_bytes = disk_bytes(&dir);
    let (state, why) = match lent.verdict() {
        Verdict::Off => (DeviceState::Off, lent.problem()),
        _ if usage.is_none() || (space == 0 && usage.is_some_and(|u| u.shards + u.heads == 0)) => {
            (DeviceState::LendsNothing, lent.problem())
        }
        Verdict::Open => (DeviceState::Open, None),
        Verdict::Paused(why) => (DeviceState::Paused, Some(why.text().to_owned())),
    };
    DeviceInfo {
        state,
        why,
        space_bytes: Some(space),
        dir,
        upload_bytes_per_second: settings.upload,
        hours: settings.hours_text(),
        metered: settings.metered,
        metered_now: noticed.metered,
        battery: settings.battery,
        on_battery_now: noticed.on_battery,
        enabled: settings.enabled,
        leaving: settings.leaving,
        used_bytes: usage.map_or(0, |u| u.used_bytes),
        free_bytes: usage.map_or(0, |u| u.free_bytes().min(disk_bytes.unwrap_or(u64::MAX))),
        disk_bytes,
        damaged_bytes: usage.map_or(0, |u| u.damaged_bytes),
        handover_bytes: lent.handover_bytes(),
        held_until: lent.held_until(),
        waiting: lent
            .waiting()
            .into_iter()
            .map(|(placer, bytes, asked)| Waiting { placer, bytes, asked })
            .collect(),
        shards: usage.map_or(0, |u| u.shards as u64),
        heads: usage.map_or(0, |u| u.heads as u64),
        authorities: lent.authorities().to_vec(),
    }
}

pub(super) async fn set(node: &Node, changes: DeviceChanges) -> Result<DeviceInfo, ApiError> {
    let info = blocking(node, move |lent| {
        lent.change(&changes).map_err(change_error)?;
        Ok(show(lent))
    })
    .await?;
    // Whether there is room, and how much, stands in what the node publishes.
    let topics = if node.lent.has_room() { vec![lenders_topic()] } else { Vec::new() };
    node.mesh.space_changed(&topics);
    Ok(info)
}

fn change_error(e: anyhow::Error) -> ApiError {
    let code = if e.is::<ValueError>() {
        ErrorCode::BadRequest
    } else if e.is::<DeviceError>() || e.chain().any(|cause| cause.is::<ioex_store::StoreError>()) {
        ErrorCode::Io
    } else {
        ErrorCode::NotAllowed
    };
    ApiError::new(code, format!("{e:#}"))
}

pub(super) async fn shards(node: &Node, after: Option<ContentAddress>) -> Result<ShardList, ApiError> {
    blocking(node, move |lent| {
        let now = lent.deletable_before();
        let mut list = lent.list(after, PAGE + 1);
        let more = list.len() > PAGE;
        list.truncate(PAGE);
        let shard = |(held, leases): (ioex_store::HeldShard, Vec<ioex_store::Lease>)| HeldShard {
            address: held.address,
            bytes: held.bytes,
            head: held.head.is_some(),
            since: held.stored,
            until: held.expires,
            deletable: now.is_some_and(|now| held.expires <= now),
            leases: leases
                .iter()
                .map(|l| HeldLease { placer: l.placer, reader: l.reader, until: l.expires })
                .collect(),
        };
        Ok(ShardList { shards: list.into_iter().map(shard).collect(), more })
    })
    .await
}

pub(super) async fn delete(node: &Node, address: Option<ContentAddress>) -> Result<Deleted, ApiError> {
    blocking(node, move |lent| {
        let deleted = match address {
            Some(address) => lent.delete(&address).map(|freed| (vec![address], freed)),
            None => lent.delete_ended(),
        };
        let (addresses, freed_bytes) = deleted.map_err(|e| {
            let code = match &e {
                DeleteError::NotHeld(_) => ErrorCode::NotFound,
                DeleteError::NotYet { .. } | DeleteError::Time(_) => ErrorCode::NotAllowed,
                DeleteError::Store(_) => ErrorCode::Io,
            };
            ApiError::new(code, e.to_string())
        })?;
        Ok(Deleted { addresses, freed_bytes })
    })
    .await
}
