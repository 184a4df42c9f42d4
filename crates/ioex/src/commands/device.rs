//! `ioex device`: what this device does for others. Settings can also be seen and changed while no
//! node runs.

use std::path::Path;

use anyhow::Context as _;
use ioex_api::{
    ClientError, Deleted, DeviceChanges, DeviceInfo, DeviceState, HeldShard, Request, ShardList, When,
};
use ioex_base::{ContentAddress, UnixSeconds};
use ioex_store::{SHARD_OVERHEAD_BYTES, ShardStore, holds_store};

use super::{Context, absolute};
use crate::{
    cli::{DeviceCommand, DeviceSetArgs},
    device::DeviceSettings,
    exit::Usage,
    node::{
        DISK_SPARE_BYTES, clear_old, disk_bytes, handover_bytes, is_missing, missing, open_lent, relocate,
    },
    render::{self, Table},
    size,
};

pub(super) async fn run(context: &Context, command: DeviceCommand) -> anyhow::Result<()> {
    let changes = match command {
        DeviceCommand::Shards => return shards(context).await,
        DeviceCommand::Delete(args) => return delete(context, args.address).await,
        DeviceCommand::Show => None,
        DeviceCommand::Set(args) => Some(changes(args)?),
        DeviceCommand::Leave => Some(DeviceChanges { leaving: Some(true), ..DeviceChanges::default() }),
        DeviceCommand::Off => Some(DeviceChanges { enabled: Some(false), ..DeviceChanges::default() }),
        DeviceCommand::On => {
            Some(DeviceChanges { enabled: Some(true), leaving: Some(false), ..DeviceChanges::default() })
        }
    };
    let info = match context.client().await {
        Ok(client) => {
            let request = changes.map_or(Request::Device, |changes| Request::DeviceSet { changes });
            client.call(request).await?
        }
        Err(e) if matches!(e.downcast_ref(), Some(ClientError::NotRunning { .. })) => {
            stopped(&absolute(&context.data()?)?, changes.as_ref())?
        }
        Err(e) => return Err(e),
    };
    Ok(context.out.result(&info, human)?)
}

fn changes(args: DeviceSetArgs) -> anyhow::Result<DeviceChanges> {
    Ok(DeviceChanges {
        space_bytes: args.space,
        dir: args.dir.map(|dir| absolute(&dir)).transpose()?,
        move_shards: args.move_shards,
        upload_bytes_per_second: args.upload,
        hours: args.hours,
        metered: args.metered,
        battery: args.battery,
        ..DeviceChanges::default()
    })
}

/// Shows or changes the settings for the next start.
fn stopped(data: &Path, changes: Option<&DeviceChanges>) -> anyhow::Result<DeviceInfo> {
    if !data.is_dir() {
        return Err(
            Usage(format!("there is no data folder {}: start a node there first", data.display())).into()
        );
    }
    let now = DeviceSettings::load(data)?;
    let mut new = now.clone();
    if let Some(changes) = changes {
        new = now.changed(changes).map_err(|e| Usage(e.to_string()))?;
        if new.shards_dir(data) == now.shards_dir(data) {
            new.save(data)?;
            // Named again, the folder is a new one.
            if changes.dir.is_some() && is_missing(data, &new) {
                drop(open_lent(data, &new, u64::MAX, true)?);
            }
        } else {
            // Its lock keeps a node from starting meanwhile.
            let old = now.shards_dir(data);
            let held = if holds_store(&old) { Some(ShardStore::open(&old, u64::MAX)?) } else { None };
            drop(relocate(data, &now, &mut new, held.as_ref(), changes.move_shards)?);
            drop(held);
            clear_old(data, &mut new)?;
        }
    }
    let dir = new.shards_dir(data);
    let (mut usage, mut held_until) = (None, None);
    // Looking must not make a store where a disk is to be mounted.
    if holds_store(&dir) {
        let store = ShardStore::open(&dir, new.space_bytes.unwrap_or(u64::MAX));
        let store = store.with_context(|| format!("what is held in {} cannot be read", dir.display()))?;
        usage = Some(store.usage());
        held_until = store.list().iter().map(|held| held.expires).max();
    }
    let disk_bytes = disk_bytes(&dir);
    let free = |u: ioex_store::Usage| u.free_bytes().min(disk_bytes.unwrap_or(u64::MAX));
    let excess = usage.map_or(0, |u| handover_bytes(&u, new.leaving));
    Ok(DeviceInfo {
        state: DeviceState::Stopped,
        why: is_missing(data, &new).then(|| missing(&dir)),
        space_bytes: new.space_bytes,
        dir,
        upload_bytes_per_second: new.upload,
        hours: new.hours_text(),
        metered: new.metered,
        metered_now: None,
        battery: new.battery,
        on_battery_now: None,
        enabled: new.enabled,
        leaving: new.leaving,
        used_bytes: usage.map_or(0, |u| u.used_bytes),
        free_bytes: usage.filter(|_| new.space_bytes.is_some()).map_or(0, free),
        disk_bytes,
        damaged_bytes: usage.map_or(0, |u| u.damaged_bytes),
        handover_bytes: excess,
        held_until,
        waiting: Vec::new(),
        shards: usage.map_or(0, |u| u.shards as u64),
        heads: usage.map_or(0, |u| u.heads as u64),
        authorities: Vec::new(),
    })
}

fn state(info: &DeviceInfo) -> String {
    let because = |text: &str| match &info.why {
        Some(why) => format!("{text}: {why}"),
        None => text.to_owned(),
    };
    match info.state {
        DeviceState::Open if info.leaving => {
            "leaving: it takes nothing, and serves until all is handed over".into()
        }
        DeviceState::Open if info.free_bytes <= SHARD_OVERHEAD_BYTES => {
            "open, but full: it keeps and serves, and takes nothing more".to_owned()
        }
        DeviceState::Open => "open: it takes, keeps and serves".to_owned(),
        DeviceState::Paused => because("paused"),
        DeviceState::Off => because("off, which does nothing for others and keeps what is held"),
        DeviceState::LendsNothing => because("lends nothing"),
        DeviceState::Stopped if info.enabled => because("no node runs"),
        DeviceState::Stopped => because("no node runs, and the device is off"),
    }
}

/// What may still come, and what says so if it is the disk.
fn free(info: &DeviceInfo) -> String {
    let free = size::human(info.free_bytes);
    let lent = info.space_bytes.map_or(0, |space| space.saturating_sub(info.used_bytes));
    if info.disk_bytes.is_some_and(|disk| disk < lent) {
        let spare = size::human(DISK_SPARE_BYTES);
        return format!("{free}: the folder's disk has no more for others; {spare} of it stay free");
    }
    free
}

fn when(when: When, noticed: Option<bool>) -> String {
    match (when, noticed) {
        (When::Pause, _) => "pause: by hand, until that is changed".to_owned(),
        (When::Allow, _) => "allow".to_owned(),
        (When::Auto, Some(true)) => "auto: it is now".to_owned(),
        (When::Auto, Some(false)) => "auto: it is not now".to_owned(),
        (When::Auto, None) => "auto".to_owned(),
    }
}

fn human(info: &DeviceInfo) -> String {
    let space =
        info.space_bytes.map_or_else(|| "not set: the node's own, `lend_bytes`".to_owned(), size::human);
    // Of a disk that is not there, nobody knows.
    let unknown = info.why.is_some() && info.state != DeviceState::Paused;
    let handover = match (info.handover_bytes, info.leaving) {
        (0, true) if unknown => "unknown: what is held cannot be seen".to_owned(),
        (0, true) => "all is handed over: the device can go".to_owned(),
        (0, false) => String::new(),
        (bytes, _) => {
            let until = info.held_until.map(|until| format!(", until {} at the latest", render::date(until)));
            let wait = "wait until super nodes have brought them elsewhere";
            format!("{} {wait}{}", size::human(bytes), until.unwrap_or_default())
        }
    };
    let upload = info.upload_bytes_per_second;
    let mut text = render::fields([
        ("state", state(info)),
        ("space", space),
        (
            "in use",
            format!("{} in {} shards and {} heads", size::human(info.used_bytes), info.shards, info.heads),
        ),
        ("free", free(info)),
        ("damaged", if info.damaged_bytes > 0 { size::human(info.damaged_bytes) } else { String::new() }),
        ("to hand over", handover),
        ("folder", info.dir.display().to_string()),
        ("upload", upload.map_or_else(|| "unlimited".to_owned(), |rate| format!("{}/s", size::human(rate)))),
        ("hours", info.hours.clone()),
        ("metered", when(info.metered, info.metered_now)),
        ("battery", when(info.battery, info.on_battery_now)),
    ]);
    for waiting in &info.waiting {
        let (placer, bytes) = (waiting.placer.short(), size::human(waiting.bytes));
        let why = waiting.asked.map_or_else(
            || "has not asked what is to go since this node started: it may be off, or watch over nothing here".to_owned(),
            |at| format!("was told {}", render::ago(Some(at), render::now())),
        );
        text += &format!("\nSuper node {placer}, {bytes}: {why}.");
    }
    if !info.waiting.is_empty() {
        text += "\nWhat nobody brings elsewhere, such as single files (`ioex backup put`), is kept until its date: \
                 `ioex device shards`.";
    }
    let takes = matches!(info.state, DeviceState::Open | DeviceState::Paused);
    if takes && info.authorities.is_empty() {
        text += "\nNobody may place anything here: list an authority under `authorities`.";
    }
    text
}

async fn shards(context: &Context) -> anyhow::Result<()> {
    let client = context.client().await?;
    let mut all = ShardList::default();
    loop {
        let after = all.shards.last().map(|shard| shard.address);
        let page: ShardList = client.call(Request::DeviceShards { after }).await?;
        let more = page.more && !page.shards.is_empty();
        all.shards.extend(page.shards);
        if !more {
            break;
        }
    }
    Ok(context.out.result(&all, |all| table(&all.shards, render::now()))?)
}

fn table(shards: &[HeldShard], now: UnixSeconds) -> String {
    let mut table =
        Table::new(["address", "what", "bytes", "placed by", "for", "since", "until", ""]).right([2]);
    for shard in shards {
        // All leases of one shard are, as a rule, those of one placer.
        let first = shard.leases.first();
        let others = shard.leases.len().saturating_sub(1);
        let reader = first.map(|lease| lease.reader.short()).unwrap_or_default();
        table.row([
            shard.address.to_string(),
            if shard.head { "head" } else { "shard" }.to_owned(),
            size::human(shard.bytes),
            first.map(|lease| lease.placer.short()).unwrap_or_default(),
            if others > 0 { format!("{reader} +{others}") } else { reader },
            render::ago(Some(shard.since), now),
            render::until(shard.until, now),
            if shard.deletable { "may be deleted" } else { "" }.to_owned(),
        ]);
    }
    table.text_or("this device holds nothing for others")
}

async fn delete(context: &Context, address: Option<ContentAddress>) -> anyhow::Result<()> {
    let deleted: Deleted = context.client().await?.call(Request::DeviceDelete { address }).await?;
    Ok(context.out.result(&deleted, |d| {
        format!("{} deleted, {} are free again", d.addresses.len(), size::human(d.freed_bytes))
    })?)
}
