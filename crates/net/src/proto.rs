//! What nodes say to each other on a stream.
//!
//! Whoever opens a bidirectional stream writes one [`Open`] frame; the other side lets the door
//! decide and answers with one [`Answer`]. What follows depends on the case and is described
//! there. The order of the cases is the wire format: new ones go to the end, and a change of
//! meaning needs a new ALPN.

mod grants;
mod updates;

use std::net::SocketAddr;

use ioex_base::{ContentAddress, NodeKind, SignedGrant, Tag, Uid, UnixSeconds, limits};
use serde::{Deserialize, Serialize};

pub use self::grants::{
    AUDIT_ASKS_MAX, Audit, AuditAnswer, Capacity, HANDOVER_MAX, HeadAnswer, HeadStart, LEASES_AT_ONCE_MAX,
    PROOF_MAX_BYTES, Place, PlaceAnswer, PutHead, Release, Renew,
};
pub use self::updates::{
    BITMAP_MAX_BYTES, CHANNEL_MAX_BYTES, CHANNEL_ROOTS_MAX, CREDENTIAL_MAX_BYTES, ChannelAsk, ChannelFiles,
    Join, Joined, Match, NEWS_MAX, NEWS_MAX_BYTES, News, PACKAGE_MANIFEST_MAX_BYTES, PACKAGE_SHARDS_MAX,
    PROVIDERS_MAX, Provider, REASON_MAX_BYTES, RECEIPT_MAX_BYTES, RECEIPTS_MAX, Report, ShardAsk, ShardHead,
    ShardWant, Stage,
};
use crate::{directory::HolderRecord, door::Refusal, names::BootstrapAddr, record::SignedRecord};

/// Largest [`Open`] frame in bytes: an offer with its largest number of files.
pub const OPEN_MAX_BYTES: usize = 512 * 1024;
/// Largest [`Answer`] frame in bytes that carries no piece list.
pub const ANSWER_MAX_BYTES: usize = 64 * 1024;
const _: () = assert!(limits::MESSAGE_MAX_BYTES + 1024 < OPEN_MAX_BYTES);
const _: () = assert!(limits::OFFER_FILES_MAX * (limits::FILE_NAME_MAX_BYTES + 64) < OPEN_MAX_BYTES);

/// The first frame of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Open {
    /// Public, at bootstraps. Answer: [`DirectoryAnswer`].
    Directory(DirectoryQuestion),
    /// Public, at devices. Answer: `()` once the request is on disk.
    FriendRequest(FriendRequest),
    /// Public, at devices with an open pairing window; see the module `pairing`.
    Pair(PairMessage),
    /// Friends: who I am. Answer: [`Hello`].
    Hello(Hello),
    /// Friends. Answer: `()`, at once.
    Ping,
    /// Friends. Answer: `()` once the message is on disk.
    Message(TextMessage),
    /// Friends: files to fetch. Answer: `()` once the offer is on disk.
    Offer(Offer),
    /// Friends: what became of an offer. Answer: `()`.
    OfferState(OfferUpdate),
    /// Friends: content that was offered to the caller. Answer: [`Content`], then its bytes.
    FetchOffered(Fetch),
    /// Friends: a stream of a session; see the module `session`. Answer: `()`, then data.
    Session(SessionOpen),
    /// Grant: how much may be placed here. Answer: [`Capacity`].
    Capacity(SignedGrant),
    /// Grant: store a shard. Answer: [`PlaceAnswer`]; when it says send, the opener sends the
    /// bytes, finishes, and gets a second `Answer<()>` once the shard is on disk.
    Place(Place),
    /// Grant: read a shard or a head. Answer: [`Content`], then its bytes.
    Fetch(SignedGrant, Fetch),
    /// Grant: prove that shards are still here. Answer: [`AuditAnswer`].
    Audit(Audit),
    /// Grant: end the caller's leases. Answer: how many there were (`u32`).
    Release(Release),
    /// Grant: keep shards longer. Answer: for each address whether it is held (`Vec<bool>`).
    Renew(Renew),
    /// Grant: store the head of a repository. Answer: [`HeadStart`]; when it says send, the opener
    /// sends the bytes, finishes, and gets a second answer, [`HeadAnswer`], once the head is on disk.
    PutHead(PutHead),
    /// Friends: a question of the program above the mesh. Answer: its reply (`Vec<u8>`).
    Question(Vec<u8>),
    /// Public, at nodes that carry the channel: its metadata. Answer: [`Content`], then [`ChannelFiles`].
    Channel(ChannelAsk),
    /// Public, at nodes that have it: a package's sealed manifest. Answer: [`Content`], then its bytes.
    Package(ContentAddress),
    /// Roster, at matchers: who provides the package with this manifest? Answer: [`Match`].
    Match(ContentAddress),
    /// Roster, at matchers: how a download or an installation went. Answer: `()` once it is on disk.
    Report(Report),
    /// Voucher or pass: begin to exchange a package's shards. Answer: [`Joined`]; then both sides
    /// send [`News`] until one of them ends the stream.
    Join(Join),
    /// After [`Open::Join`]: a shard. Answer: [`ShardHead`], then its bytes.
    Shard(ShardAsk),
    /// After [`Open::Join`]: the requester's signed receipt. Answer: the same, signed by the provider, too
    /// (`Vec<u8>`).
    Receipt(Vec<u8>),
    /// Matchers of the same channel: it changed, and the opener carries it. Answer: `()` once the other one carries it, too.
    Renewed(ContentAddress),
}

/// The answer to an [`Open`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer<T> {
    /// Here it is.
    Yes(T),
    /// No, and why.
    No(No),
}

/// Why not. What a stranger learns is no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum No {
    /// The door refused (its code).
    #[error("refused ({})", refusal_text(*.0))]
    Refused(u32),
    /// Nothing under that name.
    #[error("not there")]
    NotFound,
    /// No space left, or none lent.
    #[error("no space left")]
    NoSpace,
    /// The bytes were not what was announced.
    #[error("the bytes were not what was announced")]
    Mismatch,
    /// The request makes no sense to the other side.
    #[error("not understood")]
    BadRequest,
    /// The other side failed for a reason of its own.
    #[error("the other node failed")]
    Failed,
    /// A wrong pairing code.
    #[error("wrong pairing code")]
    WrongCode,
    /// The pairing code is locked after too many wrong tries.
    #[error("the pairing code is locked")]
    CodeLocked,
    /// The device's owner lets it do nothing for others now.
    #[error("paused by its owner")]
    Paused,
    /// Too much to do.
    #[error("busy, free again in {after_ms} ms")]
    Busy {
        /// When to ask again.
        after_ms: u32,
    },
    /// Nothing for the caller at the moment.
    #[error("nothing at the moment, ask again in {after_ms} ms")]
    Nothing {
        /// When to ask again.
        after_ms: u32,
    },
}

/// When who asked too often is to ask again, in ms.
const BUSY_MS: u32 = 10_000;

fn refusal_text(code: u32) -> &'static str {
    match code {
        0x10 => "not a friend",
        0x11 => "service not offered",
        0x12 => "the grant does not hold",
        0x13 => "no authority there",
        0x14 => "the grant was revoked",
        0x15 => "more than the grant allows",
        0x16 => "the friend address is out of date",
        0x17 => "too many requests",
        _ => "unknown reason",
    }
}

impl From<&Refusal> for No {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Paused => Self::Paused,
            // It passes: who is told so asks again.
            Refusal::Busy => Self::Busy { after_ms: BUSY_MS },
            _ => Self::Refused(refusal.code()),
        }
    }
}

/// Questions that any bootstrap answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DirectoryQuestion {
    /// Keep this record and pass it on to the DHT.
    Publish(SignedRecord),
    /// How is this node reached?
    Resolve(Uid),
    /// The caller holds these; each is signed by the caller.
    Announce(Vec<(ContentAddress, HolderRecord)>),
    /// Who holds this?
    Find(ContentAddress),
    /// Which bootstraps do you know?
    Bootstraps,
}

/// Most entries in one [`DirectoryQuestion::Announce`].
pub const ANNOUNCE_MAX: usize = 256;
/// Most holders in one answer.
pub const HOLDERS_MAX: usize = 64;
/// Most bootstraps in one answer.
pub const BOOTSTRAPS_MAX: usize = 64;

/// Answers to [`DirectoryQuestion`], case by case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DirectoryAnswer {
    /// To `Publish` and `Announce`.
    Kept,
    /// To `Resolve`.
    Record(Option<SignedRecord>),
    /// To `Find`.
    Holders(Vec<HolderRecord>),
    /// To `Bootstraps`: their signed records where known.
    Bootstraps(Vec<(BootstrapAddr, Option<SignedRecord>)>),
}

/// A request for friendship.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FriendRequest {
    /// The tag from the friend address.
    pub tag: Tag,
    /// The asker's name for itself.
    pub name: String,
    /// A sentence to the other person.
    pub greeting: String,
}

/// The two messages of the pairing exchange that the opener sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PairMessage {
    /// SPAKE2 message and name. Answer: [`PairAnswer`]; then the opener writes its proof.
    Start {
        /// SPAKE2 element of the opener.
        spake: Vec<u8>,
        /// The opener's name for itself.
        name: String,
    },
}

/// The device's half of the pairing exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairAnswer {
    /// SPAKE2 element of the device.
    pub spake: Vec<u8>,
}

/// Who a friend is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its name for itself.
    pub name: String,
    /// What it does.
    pub kind: NodeKind,
    /// Random per start: two different ones under one key mean a copied data folder.
    pub instance: [u8; 16],
}

/// A text message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextMessage {
    /// Chosen by the sender at random; a repeat is answered and dropped.
    pub id: [u8; 16],
    /// Sender's clock.
    pub sent_at: UnixSeconds,
    /// The text.
    pub text: String,
}

/// Files that a friend may fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Chosen by the sender at random.
    pub id: [u8; 16],
    /// The files; names and sizes are claims.
    pub files: Vec<OfferedFile>,
}

/// One file of an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedFile {
    /// Suggested name, checked by the receiver.
    pub name: String,
    /// Size in bytes; holds only once the content was verified.
    pub size: u64,
    /// Content address.
    pub address: ContentAddress,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferUpdate {
    /// Which.
    pub id: [u8; 16],
    /// What.
    pub state: OfferState,
}

/// States of an offer, as told to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferState {
    /// The receiver accepted.
    Accepted,
    /// The receiver has everything, verified.
    Done,
    /// The receiver does not want it, or either side ended it.
    Cancelled,
}

/// What to read of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The content.
    pub address: ContentAddress,
    /// Which part.
    pub want: Want,
}

/// Which part of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// The list of piece hashes (see the module `transfer::pieces`), `32 × pieces` bytes.
    Pieces,
    /// Bytes from `start`, `len` of them.
    Range {
        /// First byte.
        start: u64,
        /// How many.
        len: u64,
    },
    /// All bytes, for who does not know how many there are.
    All,
}

/// Precedes the bytes of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Size of the whole content in bytes.
    pub size: u64,
    /// How many bytes follow.
    pub follows: u64,
}

/// Opens a stream of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpen {
    /// Chosen by the opener of the session; with the opener's UID it names the session.
    pub session: u64,
    /// What the stream is for.
    pub target: SessionTarget,
    /// Whether it carries packets; the opener's flow number follows the answer then.
    pub datagram: bool,
}

/// What a session's stream leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionTarget {
    /// A named service that a program registered on the other node.
    Service(String),
    /// A TCP port that the other node's owner allowed.
    Tcp(SocketAddr),
    /// A UDP port that the other node's owner allowed; frames of the stream and datagrams of the
    /// connection carry its packets.
    Udp(SocketAddr),
}

#[cfg(test)]
mod tests {
    use ioex_base::wire;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let address = ContentAddress::from_bytes([3; 32]);
        let fetch = Fetch { address, want: Want::Range { start: 5, len: 300 } };
        let mut want = vec![8];
        want.extend([3; 32]);
        want.extend([1, 5, 0xac, 2]);
        assert_eq!(wire::encode(&Open::FetchOffered(fetch)), want);
        assert_eq!(wire::encode(&Want::All), [2]);
        let message = TextMessage { id: [1; 16], sent_at: UnixSeconds(2), text: "hi".into() };
        let mut want = vec![5];
        want.extend([1; 16]);
        want.extend([2, 2, b'h', b'i']);
        assert_eq!(wire::encode(&Open::Message(message)), want);
        assert_eq!(wire::encode(&Answer::<()>::No(No::NoSpace)), [1, 2]);
        assert_eq!(wire::encode(&Answer::Yes(Content { size: 1, follows: 2 })), [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = wire::decode::<Open>(&bytes, OPEN_MAX_BYTES);
            let _ = wire::decode::<Answer<DirectoryAnswer>>(&bytes, ANSWER_MAX_BYTES);
            let _ = wire::decode::<Answer<Content>>(&bytes, ANSWER_MAX_BYTES);
            let _ = wire::decode::<Answer<AuditAnswer>>(&bytes, ANSWER_MAX_BYTES);
            let _ = wire::decode::<Answer<Vec<bool>>>(&bytes, ANSWER_MAX_BYTES);
            let _ = wire::decode::<Answer<HeadAnswer>>(&bytes, ANSWER_MAX_BYTES);
        }
    }
}
