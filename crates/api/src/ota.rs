//! Updates over the air: a device's own, and a maker's.

use std::{collections::BTreeMap, path::PathBuf};

use ioex_base::{ContentAddress, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

/// What may be asked about updates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum OtaRequest {
    /// At a device. → [`OtaState`].
    State,
    /// At a device: every change. Updates: [`crate::Update::Ota`]. → [`OtaState`] once the node stops.
    Follow,
    /// At a device: look at the channel at once. → [`OtaState`].
    Check,
    /// At a device: its owner's word on what is offered. → [`OtaState`]. An answer about something else than what is
    /// offered now is [`crate::ErrorCode::Outdated`].
    Consent {
        /// Which version the owner was shown, such as `1.2`.
        version: String,
        /// Its manifest, when that was shown, too.
        manifest: Option<ContentAddress>,
        /// Whether it may be fetched and installed.
        yes: bool,
        /// Install it whatever the hour.
        now: bool,
    },
    /// At a device: what runs on trial is healthy. → [`OtaState`].
    Confirm,
    /// At a device: go back to the version before. → [`OtaState`].
    RollBack,
    /// At a device: let what failed be tried again. → [`OtaState`].
    Forgive,
    /// At a super node: pack a version. Updates: [`crate::Update::OtaPack`], at last [`crate::Update::OtaPacked`]. The
    /// request goes on until its client ends it: until then the package is kept though no order asks for it.
    /// → [`crate::Empty`] once the node stops.
    Pack {
        /// The images, in order.
        images: Vec<OtaImagePath>,
        /// The channel's packing key in hexadecimal: versions under one key share what they have in common.
        pack_key: String,
        /// The public half of the key in the devices.
        recipient: Uid,
        /// Manifests of earlier versions.
        previous: Vec<ContentAddress>,
        /// A name for people.
        name: String,
    },
    /// At a super node: carry a channel; its orders follow what it says of rollouts. → [`OtaCarried`].
    Carry {
        /// The folder with its metadata; absolute.
        dir: PathBuf,
        /// Whether the other matchers of its versions are told.
        tell: bool,
    },
    /// At a super node: match devices for a version. → the manifest's address.
    Order {
        /// The sealed order in base64.
        order: String,
        /// Whose signature it carries.
        signer: Uid,
        /// The channel.
        channel: ContentAddress,
        /// The file with the devices' UIDs, one in each line; absolute.
        roster: PathBuf,
        /// All matchers of this version.
        matchers: Vec<Uid>,
        /// Nodes that have the whole package from the start.
        origins: Vec<Uid>,
        /// When failures end it: fewer results than the first say nothing; more failures than the second, in
        /// ten-thousandths, end it.
        stop: (u32, u16),
    },
    /// At a super node: end the order for a version at once, and forget its results. → whether there was one.
    End {
        /// The version's manifest.
        manifest: ContentAddress,
    },
    /// At a super node. → [`OtaFleet`].
    Fleet,
}

/// Where an update stands at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtaStage {
    /// Nothing to do.
    Idle,
    /// A version is offered.
    Offered,
    /// It is being fetched.
    Fetching,
    /// It is here.
    Fetched,
    /// It is being written.
    Installing,
    /// It is written, and waits for its start or is on trial.
    Installed,
    /// It runs and is healthy.
    Confirmed,
    /// It did not come, could not be written, or was unhealthy.
    Failed,
}

impl OtaStage {
    /// The name that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Offered => "offered",
            Self::Fetching => "fetching",
            Self::Fetched => "fetched",
            Self::Installing => "installing",
            Self::Installed => "installed",
            Self::Confirmed => "confirmed",
            Self::Failed => "failed",
        }
    }
}

/// Why an update waits, why it ended, or why a call about it could not be done. Later versions add to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OtaReason {
    /// None of the others.
    Other,
    /// It waits: the node is not in the network.
    Network,
    /// It waits: nobody has given out the channel, or what came does not hold.
    Channel,
    /// It waits: its owner is asked.
    Owner,
    /// It waits: its owner said no, and may still say yes.
    Declined,
    /// It waits for the owner's hours.
    Hours,
    /// It waits for the battery.
    Battery,
    /// It waits for a link that is not metered.
    Metered,
    /// It waits for the next month: its bytes are used up.
    Cap,
    /// It waits for room on a disk.
    Room,
    /// It waits for the rollout.
    Rollout,
    /// It waits: its maker paused the rollout.
    RolloutPaused,
    /// It waits: its maker ended the rollout.
    RolloutEnded,
    /// It waits: nobody hands the version out any more.
    NoProvider,
    /// It waits for the next try, after one that failed.
    Retry,
    /// It waits for the word that lets it be tried again: it failed on this device.
    FailedBefore,
    /// It waits for the next start of the device or program.
    Start,
    /// It waits for the word of the program that runs it.
    Confirm,
    /// The last step broke off, and is tried again.
    BrokenOff,
    /// It ended: it does not fit this device.
    DoesNotFit,
    /// It ended: it could not be fetched.
    NotFetched,
    /// It ended: it could not be written or put in charge.
    NotInstalled,
    /// It ended: it is unhealthy.
    Unhealthy,
    /// It ended: nobody confirmed it in time.
    NotConfirmed,
    /// It ended: it did not stay up.
    DidNotStay,
    /// It ended: the program, or its owner, went back.
    TakenBack,
    /// The call: the metadata does not hold.
    Refused,
    /// The call: something newer came, or the node stopped.
    Superseded,
    /// The call: nothing is on trial.
    NotOnTrial,
    /// The call: reading or writing failed.
    Disk,
}

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaProgress {
    /// Bytes that are there, or written.
    pub done_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// Length of the package.
    pub package_bytes: u64,
    /// Bytes that came from the maker, the local network, other devices; and of these, over relays.
    pub by_source: [u64; 4],
    /// Nodes connected for it.
    pub neighbours: u64,
}

/// How a device stands with its channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaState {
    /// The channel's address.
    pub channel: ContentAddress,
    /// The device's brand.
    pub brand: String,
    /// The device's model.
    pub model: String,
    /// Its hardware revision.
    pub hardware: u32,
    /// The version that runs.
    pub running: String,
    /// Where an update stands.
    pub stage: OtaStage,
    /// The version that is offered, fetched or installed.
    pub offered: Option<String>,
    /// Its manifest.
    pub manifest: Option<ContentAddress>,
    /// Its length in bytes.
    pub bytes: Option<u64>,
    /// Whether the owner agreed, or is not asked.
    pub consent: bool,
    /// What it waits for.
    pub holding: Option<String>,
    /// What that is, for programs; also when something else is in the way, which `problem` says.
    #[serde(default)]
    pub reason: Option<OtaReason>,
    /// Whether it does not go on by itself: the rollout is paused or over, nobody hands the version out, or it failed here.
    pub stuck: bool,
    /// What went wrong last.
    pub problem: Option<String>,
    /// When the channel was looked at last.
    pub last_check: Option<UnixSeconds>,
    /// What is under way.
    pub progress: Option<OtaProgress>,
    /// Bytes that came for this version from the maker, the local network, other devices; and of these, over relays.
    pub by_source: [u64; 4],
    /// Bytes for updates in this month, both ways.
    pub month_bytes: u64,
}

/// A channel that a super node carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaCarried {
    /// Its address.
    pub channel: ContentAddress,
    /// Other matchers that carry it by now.
    pub told: Vec<Uid>,
    /// Other matchers that do not.
    pub missed: Vec<OtaMissed>,
}

/// A matcher that could not be told of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaMissed {
    /// Which.
    pub matcher: Uid,
    /// Why, for people.
    pub why: String,
}

/// A file to pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaImagePath {
    /// The image's name.
    pub name: String,
    /// The file; absolute.
    pub path: PathBuf,
    /// When the file is a folder's archive: the folder's digest.
    pub tree: Option<ContentAddress>,
}

/// An image as it was packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaImage {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// What a device compares it with.
    pub hash: ContentAddress,
}

/// Progress of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaPackProgress {
    /// Bytes read.
    pub done_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
}

/// What a device with an earlier version downloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaDelta {
    /// The earlier version's manifest.
    pub manifest: ContentAddress,
    /// Bytes.
    pub bytes: u64,
}

/// A packed version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaPacked {
    /// The manifest's address: the content-address list that a maker's own centre can hand out.
    pub manifest: ContentAddress,
    /// How many shards it has.
    pub shards: u64,
    /// Bytes of all its shards: what a device without an earlier version downloads.
    pub stored_bytes: u64,
    /// Bytes of those that no earlier version has.
    pub new_bytes: u64,
    /// What devices with earlier versions download.
    pub deltas: Vec<OtaDelta>,
    /// The images.
    pub images: Vec<OtaImage>,
    /// Length of the package in bytes.
    pub length: u64,
    /// Its hashes, by algorithm, in hexadecimal.
    pub hashes: BTreeMap<String, String>,
}

/// All orders of a super node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaFleet {
    /// The devices of each channel, over all its orders.
    pub channels: Vec<OtaChannelInfo>,
    /// The newest first.
    pub orders: Vec<OtaOrderInfo>,
}

/// The devices of a channel, over all its orders at this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaChannelInfo {
    /// The channel.
    pub channel: ContentAddress,
    /// The devices' brand; empty when the channel has no version any more.
    pub brand: String,
    /// The devices' model; empty when the channel has no version any more.
    pub model: String,
    /// Devices on the rosters of its orders, each once.
    pub roster: u64,
    /// Devices that said anything.
    pub heard: u64,
    /// How many run what, by the last word of each.
    pub versions: BTreeMap<String, u64>,
}

/// How an order is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtaOrderInfo {
    /// The channel.
    pub channel: ContentAddress,
    /// The version's manifest.
    pub manifest: ContentAddress,
    /// The version.
    pub version: String,
    /// The devices' brand; empty when the version was withdrawn.
    pub brand: String,
    /// The devices' model; empty when the version was withdrawn.
    pub model: String,
    /// What the channel says of its rollout: `running`, `paused` or `aborted`; absent when it was withdrawn.
    pub course: Option<String>,
    /// When this node took the order; absent when an earlier program did.
    pub taken: Option<UnixSeconds>,
    /// Devices on the roster.
    pub roster: u64,
    /// Devices to be updated at most.
    pub quantity: u64,
    /// Devices that said anything.
    pub heard: u64,
    /// How many are where.
    pub stages: BTreeMap<String, u64>,
    /// How many ran what when they last spoke about this order.
    pub versions: BTreeMap<String, u64>,
    /// Why devices failed, the most frequent reason first.
    pub reasons: Vec<(String, u64)>,
    /// Bytes that devices got from the maker, the local network, other devices; and of these, over relays.
    pub by_source: [u64; 4],
    /// Whether too many failures keep others from beginning.
    pub stopped: bool,
    /// When it ended: by its date, or because as many devices as ordered run the version and are healthy.
    pub ended: Option<UnixSeconds>,
    /// Until when it runs.
    pub expires: UnixSeconds,
    /// Bytes that this node sent since it started.
    pub served_bytes: u64,
}
