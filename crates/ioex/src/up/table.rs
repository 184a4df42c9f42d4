//! The end of `ioex up`: who holds what, for people and for programs.

use std::path::Path;

use ioex_api::Holding;
use ioex_base::{ContentAddress, Uid};
use serde::Serialize;

use super::{network::Network, story::Outcome};
use crate::{
    render::{self, Table},
    size,
};

/// What `ioex up --once --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    file: std::path::PathBuf,
    bytes: u64,
    shards: u64,
    holders: Vec<Holder>,
    stopped_holder: Option<Uid>,
    restored_sha256: String,
    restored_path: std::path::PathBuf,
    /// Of the restore.
    seconds: f64,
    /// Bytes over direct paths.
    direct: u64,
    /// Bytes over relays.
    relayed: u64,
    address: ContentAddress,
    packed_bytes: u64,
    replicas: usize,
    backup_seconds: f64,
    manifest: std::path::PathBuf,
    data: std::path::PathBuf,
    shortfalls: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Holder {
    uid: Uid,
    pid: u32,
    /// Placed there by the backup.
    bytes: u64,
    name: String,
    owner: String,
    shards: u64,
    /// Sent by it in the restore.
    sent_bytes: u64,
    running: bool,
}

impl Report {
    pub(super) fn new(outcome: Outcome, network: &Network, data: &Path) -> Self {
        let Outcome { file, backup, restore, stopped, sha256 } = outcome;
        let holders = backup.holders.iter().map(|h| holder(h, &restore.holders, network)).collect();
        Self {
            file,
            bytes: backup.bytes,
            shards: backup.shards,
            holders,
            stopped_holder: stopped,
            restored_sha256: sha256,
            restored_path: restore.path,
            seconds: restore.seconds,
            direct: restore.direct_bytes,
            relayed: restore.relayed_bytes,
            address: backup.address,
            packed_bytes: backup.packed_bytes,
            replicas: backup.replicas,
            backup_seconds: backup.seconds,
            manifest: backup.manifest,
            data: data.to_owned(),
            shortfalls: backup.shortfalls,
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(["device", "uid", "owner", "process", "shards", "holds", "sent", "state"])
            .right([3, 4, 5, 6]);
        for holder in &self.holders {
            table.row([
                holder.name.clone(),
                holder.uid.short(),
                holder.owner.clone(),
                holder.pid.to_string(),
                holder.shards.to_string(),
                size::human(holder.bytes),
                size::human(holder.sent_bytes),
                if holder.running { "runs" } else { "killed in the restore" }.to_owned(),
            ]);
        }
        let fields = render::fields([
            ("file", format!("{} ({})", self.file.display(), size::human(self.bytes))),
            ("address", self.address.to_string()),
            (
                "packed",
                format!(
                    "{} in {} shards, {} copies each, {:.1} s",
                    size::human(self.packed_bytes),
                    self.shards,
                    self.replicas,
                    self.backup_seconds
                ),
            ),
            ("restored", format!("{} in {:.1} s", self.restored_path.display(), self.seconds)),
            ("sha-256", format!("{} (the same)", self.restored_sha256)),
            ("direct", size::human(self.direct)),
            ("relayed", size::human(self.relayed)),
        ]);
        format!("\n{}\n{fields}", table.text_or("no device holds anything\n"))
    }
}

fn holder(holding: &Holding, sent: &[Holding], network: &Network) -> Holder {
    let node = network.by_uid(&holding.uid);
    Holder {
        uid: holding.uid,
        pid: node.map_or(0, |node| node.process.pid),
        bytes: holding.bytes,
        name: node.map_or_else(String::new, |node| node.process.place.name.clone()),
        owner: node.map_or_else(|| holding.owner.clone(), |node| node.process.place.owner.clone()),
        shards: holding.shards,
        sent_bytes: sent.iter().filter(|h| h.uid == holding.uid).map(|h| h.bytes).sum(),
        running: node.is_some_and(|node| node.process.running()),
    }
}
