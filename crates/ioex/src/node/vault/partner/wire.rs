//! What super nodes that watch together ask each other.

use ioex_base::{ContentAddress, Sealed, SignedGrant, Uid, wire};
use ioex_net::questions::{QUESTION_MAX_BYTES, REPLY_MAX_BYTES};
use ioex_vault::health::DEVICE_HEALTH_MAX_BYTES;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::{
    book::{BUCKETS, Exchanged, GROUPS_MAX},
    watch::DeviceRecord,
};

/// Version of these messages.
const VERSION: u8 = 1;
/// Bytes of records in one message, with room for what is around them.
pub(super) const RECORDS_MAX_BYTES: usize = REPLY_MAX_BYTES - 1_024;
/// Names of groups in one question.
pub(super) const NAMES_MAX: usize = 1_024;
/// Groups with one first byte of their names that two partners can compare: 64 KiB of names and
/// digests. Times [`BUCKETS`](super::super::book::BUCKETS) these are some 400,000 groups, or 1.6 TB as
/// whole copies, 32 TB with twenty data shards in each.
pub(super) const BUCKET_MAX: usize = REPLY_MAX_BYTES / 42;
/// Devices in one question.
pub(super) const DEVICES_MAX: usize = 1_024;
/// Longest device with its record in bytes: a name, two optional dates, and its health.
const DEVICE_RECORD_MAX_BYTES: usize = 32 + 2 * 11 + DEVICE_HEALTH_MAX_BYTES;

const _: () = {
    assert!(GROUPS_MAX <= (BUCKETS * BUCKET_MAX) as u64, "all groups of a book can be compared");
    assert!(DEVICES_MAX * DEVICE_RECORD_MAX_BYTES + 64 < QUESTION_MAX_BYTES, "any records fit");
};

/// What the owner of a repository gives to a partner with the first question. Signed by the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mandate {
    /// Who is to watch.
    pub(crate) partner: Uid,
    /// The owner's super node.
    pub(crate) owner: Uid,
    /// Public reader key of the repository.
    pub(crate) reader: Uid,
    /// Lets the partner read shards, which are encrypted, to make lost ones anew.
    pub(crate) read: SignedGrant,
    /// All who watch, the owner among them.
    pub(crate) members: Vec<Uid>,
}

impl Sealed for Mandate {
    const CONTEXT: &'static str = "ioex 2026 vault mandate";
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 2_048;
}

/// A mandate as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Shown {
    /// See [`Mandate`].
    pub(super) sealed: Vec<u8>,
    /// The list of restore points, encrypted and signed.
    pub(super) head: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Where do our books differ? Reply: [`Reply::Buckets`].
    Compare {
        repo: Uid,
        /// From the owner only.
        mandate: Option<Shown>,
        buckets: Vec<u64>,
    },
    /// Which groups are in a part? Reply: [`Reply::Entries`].
    List { repo: Uid, bucket: u8 },
    /// Take these. Reply: [`Reply::Done`].
    Put { repo: Uid, records: Vec<Exchanged> },
    /// These are needed no more. From the owner only. Reply: [`Reply::Done`].
    Drop { repo: Uid, groups: Vec<ContentAddress> },
    /// Give me these. Reply: [`Reply::Records`], of as many as fit.
    Get { repo: Uid, groups: Vec<ContentAddress> },
    /// What came of my looking after these devices. Reply: [`Reply::Done`].
    Devices { repo: Uid, devices: Vec<(Uid, DeviceRecord)> },
    /// The owner watches without you from now on. Reply: [`Reply::Done`].
    Leave { repo: Uid },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Buckets(Vec<u8>),
    Entries(Vec<(ContentAddress, u64)>),
    Records(Vec<Exchanged>),
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.append(&mut wire::encode(value));
    out
}

/// `None` for what is damaged, too long or of another version.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&VERSION, body)) => wire::decode(body, QUESTION_MAX_BYTES).ok(),
        _ => None,
    }
}

/// Cuts records into messages.
pub(super) fn pages(records: Vec<Exchanged>) -> Vec<Vec<Exchanged>> {
    let mut out: Vec<Vec<Exchanged>> = Vec::new();
    let mut room = 0;
    for record in records {
        let bytes = wire::encode(&record).len();
        if bytes > room {
            out.push(Vec::new());
            room = RECORDS_MAX_BYTES;
        }
        room = room.saturating_sub(bytes);
        if let Some(page) = out.last_mut() {
            page.push(record);
        }
    }
    out
}
