//! Requests, replies and events. JSON field names are the Rust ones; enums are tagged by `type`
//! (requests by `method`) in kebab-case. Sizes are bytes, durations carry their unit in the name,
//! dates are seconds since 1970.

use std::{net::SocketAddr, path::PathBuf};

use ioex_base::{ContentAddress, NodeKind, Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::{ApiError, DeviceChanges, Event};

/// What a client may ask. The comment names the type of the final [`Reply::Done`] value, and of
/// updates where there are any.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Request {
    /// → [`IdInfo`].
    Id,
    /// → [`Status`].
    Status,
    /// Measures the network from here. → [`Netcheck`].
    Netcheck,
    /// Pings a friend. Updates: [`Update::Pong`]. → [`Empty`].
    Ping {
        /// Whom.
        uid: Uid,
        /// How many pings.
        count: u32,
        /// Pause between them.
        interval_ms: u64,
    },
    /// Sends a friend request; waits until the other node has it. → [`Empty`].
    FriendAdd {
        /// The friend address as typed; checked by the node.
        address: String,
        /// A sentence for the other person.
        greeting: String,
    },
    /// Accepts a request that came in. → [`Empty`].
    FriendAccept {
        /// Who asked.
        uid: Uid,
    },
    /// Refuses a request that came in. → [`Empty`].
    FriendRefuse {
        /// Who asked.
        uid: Uid,
    },
    /// Ends a friendship; open links to that node close at once. → [`Empty`].
    FriendRemove {
        /// Whom.
        uid: Uid,
    },
    /// → [`FriendList`].
    FriendList,
    /// Sets the remark on a friend, kept only here. → [`Empty`].
    FriendLabel {
        /// Whom.
        uid: Uid,
        /// The remark; empty removes it.
        label: String,
    },
    /// Replaces the tag of the own friend address: old copies stop working. → [`IdInfo`].
    RotateTag,
    /// Opens a pairing window. → [`PairCode`].
    PairShow {
        /// How long the code works.
        ttl_seconds: u64,
    },
    /// Uses a pairing code shown by another node. → [`Friend`].
    PairUse {
        /// The `ioex:pair…` link, or the other node's UID.
        target: String,
        /// The code; not needed when the link carries it.
        code: Option<String>,
    },
    /// Queues a message; with `wait_seconds`, waits for its delivery. → [`Message`].
    MessageSend {
        /// Recipient: a friend's UID.
        to: String,
        /// The text.
        text: String,
        /// 0: return as soon as it is queued on disk.
        wait_seconds: u64,
    },
    /// The last messages with one friend or all, oldest first. → [`MessageList`].
    MessageList {
        /// One friend, or all.
        with: Option<Uid>,
        /// At most this many.
        limit: usize,
    },
    /// Offers files to friends. With `wait`, updates: [`Update::Transfer`] until all recipients
    /// have everything. → [`TransferList`].
    Send {
        /// Recipients.
        to: Vec<Uid>,
        /// Absolute paths of files.
        paths: Vec<PathBuf>,
        /// Whether to stay until the transfers end.
        wait: bool,
    },
    /// → [`TransferList`].
    Transfers,
    /// Accepts an offer. → [`Transfer`].
    TransferAccept {
        /// The transfer.
        id: u64,
        /// Folder for the files; the node's default when absent.
        dir: Option<PathBuf>,
    },
    /// → [`Transfer`].
    TransferPause {
        /// The transfer.
        id: u64,
    },
    /// → [`Transfer`].
    TransferResume {
        /// The transfer.
        id: u64,
    },
    /// Cancels; what was received of unfinished files is deleted. → [`Transfer`].
    TransferCancel {
        /// The transfer.
        id: u64,
    },
    /// Follows one transfer until it ends. Updates: [`Update::Transfer`]. → [`Transfer`].
    TransferWatch {
        /// The transfer.
        id: u64,
    },
    /// Opens a local port that leads to a port at a friend. → [`Forward`].
    ForwardOpen {
        /// The friend.
        to: Uid,
        /// TCP or UDP.
        protocol: ForwardProtocol,
        /// Local address to listen on; port 0 picks one.
        listen: SocketAddr,
        /// Address as seen from the friend; it must be on the friend's allow list.
        target: SocketAddr,
    },
    /// → [`ForwardList`].
    Forwards,
    /// → [`Empty`].
    ForwardClose {
        /// Which.
        id: u64,
    },
    /// Replaces the list of targets that friends may be forwarded to. → [`Empty`].
    ForwardAllow {
        /// Addresses on this side.
        targets: Vec<SocketAddr>,
    },
    /// Backs a file up (super nodes). Updates: [`Update::Backup`]. → [`BackupDone`].
    BackupPut {
        /// Absolute path of the file.
        path: PathBuf,
        /// Where to write the manifest.
        manifest: PathBuf,
        /// Copies per shard; 0 takes the default.
        replicas: usize,
        /// Who may restore, beside this node.
        recipients: Vec<Uid>,
    },
    /// Restores a file. Updates: [`Update::Backup`]. → [`RestoreDone`].
    BackupGet {
        /// The manifest file.
        manifest: PathBuf,
        /// Absolute path to write; must not exist.
        out: PathBuf,
        /// Upper bound on the rate in bytes per second; 0 is unlimited.
        rate_limit: u64,
    },
    /// Updates over the air: see there.
    Ota(Box<crate::OtaRequest>),
    /// About the repository of this node's owner; see [`crate::vault`].
    Vault(Box<crate::vault::VaultRequest>),
    /// What this device does for others. → [`DeviceInfo`](crate::DeviceInfo).
    Device,
    /// Changes that, at once and for later starts. → [`DeviceInfo`](crate::DeviceInfo).
    DeviceSet {
        /// What.
        changes: DeviceChanges,
    },
    /// What this device holds for others, page by page. → [`ShardList`](crate::ShardList).
    DeviceShards {
        /// The last address of the page before; the first page when absent.
        after: Option<ContentAddress>,
    },
    /// Deletes what is held and has ended. → [`Deleted`](crate::Deleted).
    DeviceDelete {
        /// This one; all that have ended when absent.
        address: Option<ContentAddress>,
    },
    /// The directory's answer for a content address. → [`HolderList`].
    Lookup {
        /// The content.
        address: ContentAddress,
    },
    /// A phone goes to the background (leaves the mesh) or comes back. → [`Empty`].
    Background {
        /// True: leave. False: join again; the reply comes when it is back.
        on: bool,
    },
    /// Everything that happens from now on. Updates: [`Update::Event`]. Ends with the client.
    Events,
    /// Stops the node in order. → [`Empty`].
    Shutdown,
}

/// One line from the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "kebab-case")]
pub enum Reply {
    /// Something on the way.
    Update(Update),
    /// The final value.
    Done(serde_json::Value),
    /// The request failed.
    Failed(ApiError),
}

/// What arrives before the final value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
pub enum Update {
    /// One ping's outcome.
    Pong(Pong),
    /// A transfer's new state.
    Transfer(Transfer),
    /// Progress of a backup or a restore.
    Backup(BackupProgress),
    /// An entry of a restore point.
    Listed(crate::vault::Listed),
    /// A difference between two restore points.
    Changed(crate::vault::Changed),
    /// A device's update moved on.
    Ota(Box<crate::OtaState>),
    /// Progress of packing a version.
    OtaPack(crate::OtaPackProgress),
    /// A version is packed.
    OtaPacked(Box<crate::OtaPacked>),
    /// Something happened.
    Event(Event),
}

/// Nothing to say but that it worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdInfo {
    /// Public key.
    pub uid: Uid,
    /// What it does.
    pub kind: NodeKind,
    /// What others type to ask for friendship (the current tag included).
    pub friend_address: String,
    /// The owner's name for it.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// Process id of the node.
    pub pid: u32,
    /// Absolute path of the data folder.
    pub data: PathBuf,
    /// For bootstraps: the seed entry that others put into their configuration.
    pub seed: Option<String>,
}

/// How a connection runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Path {
    /// From device to device.
    Direct {
        /// The other end.
        address: SocketAddr,
    },
    /// Over a bootstrap's relay.
    Relayed {
        /// Which bootstrap.
        bootstrap: Uid,
    },
    /// Not connected now.
    None,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The other node.
    pub uid: Uid,
    /// Which door it came through: `friend`, `grant` or `public`.
    pub door: String,
    /// Direct, or over which bootstrap.
    pub path: Path,
    /// Round-trip time, when measured.
    pub rtt_ms: Option<f64>,
    /// Sent so far.
    pub sent_bytes: u64,
    /// Received so far.
    pub received_bytes: u64,
}

/// A bootstrap as this node knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootstrapInfo {
    /// Its key.
    pub uid: Uid,
    /// Where its relay and directory answer.
    pub address: SocketAddr,
    /// Last measured latency.
    pub latency_ms: Option<f64>,
    /// Whether it is this node's home bootstrap now.
    pub home: bool,
    /// How this node learned of it: `seed`, `table`, `announced` or `self`.
    pub source: String,
}

/// A node's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Who.
    pub id: IdInfo,
    /// Whether it has joined: a home bootstrap or a directory that answers.
    pub joined: bool,
    /// Whether it left the mesh for the background.
    pub background: bool,
    /// The home bootstrap.
    pub home: Option<Uid>,
    /// All known bootstraps.
    pub bootstraps: Vec<BootstrapInfo>,
    /// Open connections.
    pub links: Vec<Link>,
    /// Friends.
    pub friends: usize,
    /// Space lent to the network.
    pub lent_bytes: u64,
    /// Used of it.
    pub held_bytes: u64,
    /// Shards held.
    pub held_shards: u64,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Warnings for the owner, such as a copied data folder.
    pub warnings: Vec<String>,
}

/// What the network looks like from here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Netcheck {
    /// Whether UDP reaches any bootstrap.
    pub udp: bool,
    /// `open`, `endpoint-independent`, `symmetric`, `udp-blocked` or `unknown`.
    pub nat: String,
    /// The public address that bootstraps saw.
    pub public_address: Option<SocketAddr>,
    /// Bootstraps, best first.
    pub bootstraps: Vec<BootstrapInfo>,
}

/// A ping's outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// 1, 2, …
    pub seq: u32,
    /// Round-trip time; absent when no answer came in time.
    pub rtt_ms: Option<f64>,
    /// Path at that moment.
    pub path: Path,
}

/// A friend, or somebody who wants to be one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Friend {
    /// Who.
    pub uid: Uid,
    /// The name that the friend gave itself.
    pub name: String,
    /// The remark kept only here.
    pub label: String,
    /// Where the friendship stands.
    pub state: FriendState,
    /// The greeting of a request.
    pub greeting: String,
    /// Whether a link is open now.
    pub online: bool,
    /// The path now.
    pub path: Path,
    /// When the friend was last connected.
    pub last_seen: Option<UnixSeconds>,
}

/// Where a friendship stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FriendState {
    /// We asked.
    Requested,
    /// They asked.
    Incoming,
    /// Both agreed.
    Friend,
}

/// Friends and requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FriendList {
    /// In order of UID.
    pub friends: Vec<Friend>,
}

/// An open pairing window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairCode {
    /// What to type.
    pub code: String,
    /// `ioex:pair?uid=…&code=…`, also the content of the QR code.
    pub link: String,
    /// When it stops working.
    pub expires: UnixSeconds,
}

/// A text message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Chosen by the sender; makes repeats harmless.
    pub id: String,
    /// The other side.
    pub with: Uid,
    /// Whether it came in.
    pub incoming: bool,
    /// The text.
    pub text: String,
    /// Sender's clock.
    pub sent_at: UnixSeconds,
    /// Where it stands.
    pub state: MessageState,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageState {
    /// On the sender's disk.
    Queued,
    /// On the recipient's disk.
    Delivered,
}

/// Messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageList {
    /// Oldest first.
    pub messages: Vec<Message>,
}

/// A file transfer between friends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Names it on this node.
    pub id: u64,
    /// The friends on the other side (several when more than one provides the same content).
    pub with: Vec<Uid>,
    /// Whether it comes in.
    pub incoming: bool,
    /// Where it stands.
    pub state: TransferState,
    /// Its files.
    pub files: Vec<TransferFile>,
    /// Bytes there so far, verified.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Current rate.
    pub bytes_per_second: u64,
    /// Of the bytes there, over direct paths in this run.
    pub direct_bytes: u64,
    /// Of the bytes there, over relays in this run.
    pub relayed_bytes: u64,
    /// Why it failed or waits.
    pub error: Option<ApiError>,
}

/// One file of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferFile {
    /// Name as offered.
    pub name: String,
    /// Size.
    pub size: u64,
    /// Content address.
    pub address: ContentAddress,
    /// Where it is, or will be, on this node.
    pub path: Option<PathBuf>,
}

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferState {
    /// Offered; the recipient has not accepted.
    Offered,
    /// Under way, or waiting for a provider to come back.
    Active,
    /// Stopped by its owner.
    Paused,
    /// Complete and verified.
    Done,
    /// Ended by either side.
    Cancelled,
    /// Cannot go on; `error` says why.
    Failed,
}

/// Transfers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferList {
    /// Newest last.
    pub transfers: Vec<Transfer>,
}

/// What a forward carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardProtocol {
    /// Byte streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// An open port forward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forward {
    /// Names it.
    pub id: u64,
    /// The friend.
    pub to: Uid,
    /// TCP or UDP.
    pub protocol: ForwardProtocol,
    /// Bound local address.
    pub listen: SocketAddr,
    /// Address on the friend's side.
    pub target: SocketAddr,
}

/// Open forwards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForwardList {
    /// In order of opening.
    pub forwards: Vec<Forward>,
}

/// Steps of a backup or a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupStep {
    /// Cutting, compressing, encrypting.
    Pack,
    /// Asking the network for devices.
    FindHolders,
    /// Moving shards to them.
    Place,
    /// Keeping what earlier restore points stored for longer.
    Renew,
    /// Storing the index and the list of restore points.
    Index,
    /// Asking holders to prove that they have what they took.
    Audit,
    /// Asking the directory who holds what.
    Locate,
    /// Fetching and verifying shards.
    Fetch,
    /// Decrypting, decompressing, joining.
    Join,
}

/// Progress of a backup or a restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupProgress {
    /// The step.
    pub step: BackupStep,
    /// Done in this step.
    pub done_bytes: u64,
    /// All of this step; 0 when not known.
    pub total_bytes: u64,
    /// Something worth a line, such as a holder that failed and was replaced.
    pub note: Option<String>,
    /// The holder this is about.
    pub holder: Option<Uid>,
}

/// A device's part in a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holding {
    /// The device.
    pub uid: Uid,
    /// Its owner, as its record states.
    pub owner: String,
    /// Shards.
    pub shards: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A finished backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupDone {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its content address.
    pub address: ContentAddress,
    /// Distinct shards.
    pub shards: u64,
    /// Bytes of the distinct shards.
    pub packed_bytes: u64,
    /// Copies per shard that were reached.
    pub replicas: usize,
    /// Who holds how much.
    pub holders: Vec<Holding>,
    /// Where the manifest is.
    pub manifest: PathBuf,
    /// When the devices may delete it.
    pub expires: UnixSeconds,
    /// What the policy could not give, in words.
    pub shortfalls: Vec<String>,
    /// Wall time.
    pub seconds: f64,
}

/// A finished restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreDone {
    /// The restored file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its content address, verified.
    pub address: ContentAddress,
    /// Who sent how much.
    pub holders: Vec<Holding>,
    /// Holders that failed on the way.
    pub failed: Vec<Uid>,
    /// Bytes over direct paths.
    pub direct_bytes: u64,
    /// Bytes over relays.
    pub relayed_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Who holds a content address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HolderList {
    /// Holders.
    pub holders: Vec<Uid>,
    /// How long the answer took.
    pub elapsed_ms: f64,
}
