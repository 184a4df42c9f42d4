//! What a device does for others, as its owner sees and sets it.

use std::path::PathBuf;

use ioex_base::{ContentAddress, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

/// What to do on a metered link, or on battery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Pause now: the owner's own switch.
    Pause,
    /// Go on, whatever the device notices.
    Allow,
    /// Pause when the device notices it.
    Auto,
}

/// What to change; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceChanges {
    /// Space for others in bytes.
    pub space_bytes: Option<u64>,
    /// Folder of what is held; absolute.
    pub dir: Option<PathBuf>,
    /// Whether what is held is moved to the new folder.
    pub move_shards: bool,
    /// Bytes per second for others; 0 is without limit.
    pub upload_bytes_per_second: Option<u64>,
    /// `HH:MM-HH:MM` in local time, or `always`.
    pub hours: Option<String>,
    /// What to do on a metered link.
    pub metered: Option<When>,
    /// What to do on battery.
    pub battery: Option<When>,
    /// Whether the device does anything for others.
    pub enabled: Option<bool>,
    /// Whether it gives back all that it holds.
    pub leaving: Option<bool>,
}

/// Whether a device does something for others now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// It takes, keeps and serves.
    Open,
    /// It keeps and proves, but takes and serves nothing; `why` says why.
    Paused,
    /// Its owner switched it off.
    Off,
    /// It lends no space.
    LendsNothing,
    /// No node runs: these are the settings for the next start.
    Stopped,
}

/// A device's settings, and how things stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Whether it does something for others now.
    pub state: DeviceState,
    /// Why it pauses, or lends nothing.
    pub why: Option<String>,
    /// Space for others in bytes; absent when no node runs and the owner set none.
    pub space_bytes: Option<u64>,
    /// Where what is held lies.
    pub dir: PathBuf,
    /// Bytes per second that others may get; absent is without limit.
    pub upload_bytes_per_second: Option<u64>,
    /// `HH:MM-HH:MM` in local time, or `always`.
    pub hours: String,
    /// What to do on a metered link.
    pub metered: When,
    /// Whether the link is noticed to be metered; absent when not known.
    pub metered_now: Option<bool>,
    /// What to do on battery.
    pub battery: When,
    /// Whether it is noticed to run on battery; absent when not known.
    pub on_battery_now: Option<bool>,
    /// Whether the device does anything for others at all.
    pub enabled: bool,
    /// Whether it gives back all that it holds.
    pub leaving: bool,
    /// Of the space, in use.
    pub used_bytes: u64,
    /// Of the space, free for shards; never more than `disk_bytes`.
    pub free_bytes: u64,
    /// What the folder's disk has left for others, in bytes: what is free there, less what the device keeps
    /// free of it. Absent when the disk does not say.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Of what is in use, set aside as damaged.
    pub damaged_bytes: u64,
    /// Bytes that are to be handed over: those beyond the space, or all when the device leaves.
    /// Super nodes bring them elsewhere before they are deleted here.
    pub handover_bytes: u64,
    /// By when everything that is held has ended at the latest, whether or not it is handed over; absent
    /// when nothing is held.
    pub held_until: Option<UnixSeconds>,
    /// While the device leaves: whom it waits for.
    pub waiting: Vec<Waiting>,
    /// Shards held.
    pub shards: u64,
    /// Heads of repositories held.
    pub heads: u64,
    /// Authorities whose grants count here.
    pub authorities: Vec<Uid>,
}

/// What one super node placed here and has not brought elsewhere yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The super node.
    pub placer: Uid,
    /// How much it placed.
    pub bytes: u64,
    /// When it last asked and was told what is to go, since this node started; absent when it did not.
    pub asked: Option<UnixSeconds>,
}

/// A shard, or the head of a repository, that this device holds for others. It cannot be read
/// here: it is compressed, encrypted and cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldShard {
    /// Its address.
    pub address: ContentAddress,
    /// Its size.
    pub bytes: u64,
    /// Whether it is the head of a repository.
    pub head: bool,
    /// Since when it is here.
    pub since: UnixSeconds,
    /// Until when it must be kept.
    pub until: UnixSeconds,
    /// Whether its owner may delete it now.
    pub deletable: bool,
    /// For whom.
    pub leases: Vec<HeldLease>,
}

/// For whom something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// The super node that placed it.
    pub placer: Uid,
    /// The backup, by the public key that says who may read it.
    pub reader: Uid,
    /// Until when.
    pub until: UnixSeconds,
}

/// Held shards and heads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardList {
    /// In order of address.
    pub shards: Vec<HeldShard>,
    /// Whether more follow on another page.
    pub more: bool,
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Which.
    pub addresses: Vec<ContentAddress>,
    /// How much space that gave back, in bytes.
    pub freed_bytes: u64,
}
