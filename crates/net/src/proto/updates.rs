//! What is said about updates: a maker's channel, who provides a package, and its shards from device to device.
//!
//! What credentials, receipts and metadata mean is the business of the program above the mesh
//! ([`Updates`](crate::updates::Updates)); here they are bytes with a bound.

use std::fmt;

use ioex_base::{ContentAddress, Uid};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::ANSWER_MAX_BYTES;

/// Most shards of one package: at 1 MiB each, 64 GiB.
pub const PACKAGE_SHARDS_MAX: u32 = 65_536;
/// Longest bitmap in bytes, one bit for each shard, the first shard in the lowest bit of the first byte.
pub const BITMAP_MAX_BYTES: usize = (PACKAGE_SHARDS_MAX / 8) as usize;
/// Longest credential (a voucher or a pass) in bytes.
pub const CREDENTIAL_MAX_BYTES: usize = 512;
/// Most providers in one answer of a matcher.
pub const PROVIDERS_MAX: usize = 32;
/// Most shards in one piece of [`News`].
pub const NEWS_MAX: usize = 4_096;
/// Longest [`News`] frame in bytes.
pub const NEWS_MAX_BYTES: usize = NEWS_MAX * 3 + 16;
/// Longest signed receipt or report in bytes.
pub const RECEIPT_MAX_BYTES: usize = 1_024;
/// Most receipts in one report.
pub const RECEIPTS_MAX: usize = PROVIDERS_MAX;
/// Longest text in a report in bytes: why it failed.
pub const REASON_MAX_BYTES: usize = 512;
/// Longest channel in bytes: metadata and the roots that a device may lack.
pub const CHANNEL_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Most roots in one channel: its keys can be replaced that often.
pub const CHANNEL_ROOTS_MAX: usize = 1_024;
/// Longest sealed manifest of a package in bytes.
pub const PACKAGE_MANIFEST_MAX_BYTES: u64 = 16 * 1024 * 1024;

const _: () = assert!(BITMAP_MAX_BYTES + 64 < ANSWER_MAX_BYTES);
const _: () = assert!(PROVIDERS_MAX * (CREDENTIAL_MAX_BYTES + 40) + CREDENTIAL_MAX_BYTES < ANSWER_MAX_BYTES);

/// Asks for a channel's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelAsk {
    /// The channel's address.
    pub channel: ContentAddress,
    /// The newest root that the asker trusts; it gets those after it.
    pub root_version: u64,
}

/// A channel's metadata files; encoded, at most [`CHANNEL_MAX_BYTES`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelFiles {
    /// Roots after the asker's, in order, at most [`CHANNEL_ROOTS_MAX`].
    #[serde(deserialize_with = "few_roots")]
    pub roots: Vec<Vec<u8>>,
    /// `timestamp.json`.
    pub timestamp: Vec<u8>,
    /// The snapshot that it names.
    pub snapshot: Vec<u8>,
    /// The targets metadata that the snapshot names.
    pub targets: Vec<u8>,
}

/// Stops at the first root too many: of empty ones, a few bytes would become a long list.
fn few_roots<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
    struct Few;

    impl<'de> de::Visitor<'de> for Few {
        type Value = Vec<Vec<u8>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {CHANNEL_ROOTS_MAX} roots")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut roots = Vec::new();
            while let Some(root) = all.next_element()? {
                if roots.len() >= CHANNEL_ROOTS_MAX {
                    return Err(de::Error::invalid_length(roots.len() + 1, &self));
                }
                roots.push(root);
            }
            Ok(roots)
        }
    }

    from.deserialize_seq(Few)
}

/// A matcher's answer: from whom a package comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The matcher's word that the device is on the roster.
    pub pass: Vec<u8>,
    /// Providers and a voucher for each, at most [`PROVIDERS_MAX`].
    pub providers: Vec<Provider>,
}

/// One provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Who.
    pub uid: Uid,
    /// Whether it is the maker's, which has everything and is to be spared.
    pub origin: bool,
    /// The matcher's voucher.
    pub voucher: Vec<u8>,
}

/// How a download or an installation went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The package's manifest.
    pub manifest: ContentAddress,
    /// What it is about.
    pub stage: Stage,
    /// The version that the device runs now, as text.
    pub running: String,
    /// Why it failed, at most [`REASON_MAX_BYTES`]; empty when it did not.
    pub reason: String,
    /// Bytes that came from the maker's origin, from the local network, over the internet, and over relays.
    pub bytes: [u64; 4],
    /// Receipts that both ends signed, at most [`RECEIPTS_MAX`].
    pub receipts: Vec<Vec<u8>>,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// The device knows of the version and has begun to fetch it.
    Fetching,
    /// Everything came and verified.
    Fetched,
    /// It is written and starts next.
    Installed,
    /// The device runs it, and its health check passed.
    Confirmed,
    /// It did not come, could not be written, or was unhealthy; the device runs what it ran before.
    Failed,
}

/// Begins an exchange of one package's shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The package's manifest.
    pub manifest: ContentAddress,
    /// Who signed the credential.
    pub issuer: Uid,
    /// A voucher or a pass, at most [`CREDENTIAL_MAX_BYTES`].
    pub credential: Vec<u8>,
    /// What the caller has: a bitmap of at most [`BITMAP_MAX_BYTES`].
    pub have: Vec<u8>,
    /// With which key the caller signs receipts: a certificate of its node's key, at most
    /// [`CREDENTIAL_MAX_BYTES`]; empty when it signs none.
    pub certificate: Vec<u8>,
}

/// What the other side has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// A bitmap, as in [`Join`].
    pub have: Vec<u8>,
    /// Whether it chooses itself among what is wanted (see [`ShardWant::Least`]).
    pub origin: bool,
    /// As in [`Join`].
    pub certificate: Vec<u8>,
}

/// What one side of an exchange has since it last said so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Shards, at most [`NEWS_MAX`].
    pub have: Vec<u32>,
}

/// Asks for a shard, after [`Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardAsk {
    /// The package's manifest.
    pub manifest: ContentAddress,
    /// Which one.
    pub want: ShardWant,
}

/// Which shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardWant {
    /// This one.
    One(u32),
    /// Of these (a bitmap), the one that the provider has sent least often.
    Least(Vec<u8>),
}

/// Precedes a shard's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHead {
    /// Which shard it is.
    pub shard: u32,
    /// How many bytes follow.
    pub bytes: u32,
}

#[cfg(test)]
mod tests {
    use ioex_base::wire;

    use super::{super::*, *};

    #[test]
    fn golden_bytes() {
        let address = ContentAddress::from_bytes([3; 32]);
        let ask = Open::Channel(ChannelAsk { channel: address, root_version: 300 });
        assert_eq!(wire::encode(&ask), [vec![18], vec![3; 32], vec![0xac, 2]].concat());
        assert_eq!(wire::encode(&Open::Package(address)), [vec![19], vec![3; 32]].concat());
        assert_eq!(wire::encode(&Open::Match(address)), [vec![20], vec![3; 32]].concat());
        let report = Report {
            manifest: address,
            stage: Stage::Failed,
            running: "1".into(),
            reason: "x".into(),
            bytes: [0, 1, 300, 2],
            receipts: vec![vec![9]],
        };
        let want = [vec![21], vec![3; 32], vec![4, 1, b'1', 1, b'x', 0, 1, 0xac, 2, 2, 1, 1, 9]].concat();
        assert_eq!(wire::encode(&Open::Report(report)), want);
        let issuer = Uid::from_bytes([4; 32]);
        let join =
            Join { manifest: address, issuer, credential: vec![7], have: vec![8, 9], certificate: vec![6] };
        let want = [vec![22], vec![3; 32], vec![4; 32], vec![1, 7, 2, 8, 9, 1, 6]].concat();
        assert_eq!(wire::encode(&Open::Join(join)), want);
        let one = ShardAsk { manifest: address, want: ShardWant::One(300) };
        assert_eq!(wire::encode(&Open::Shard(one)), [vec![23], vec![3; 32], vec![0, 0xac, 2]].concat());
        assert_eq!(wire::encode(&ShardWant::Least(vec![5])), [1, 1, 5]);
        assert_eq!(wire::encode(&Answer::Yes(ShardHead { shard: 1, bytes: 300 })), [0, 1, 0xac, 2]);
        assert_eq!(
            wire::encode(&Answer::Yes(Joined { have: vec![1], origin: true, certificate: vec![2] })),
            [0, 1, 1, 1, 1, 2]
        );
        assert_eq!(wire::encode(&News { have: vec![300] }), [1, 0xac, 2]);
        let provider = Provider { uid: issuer, origin: false, voucher: vec![6] };
        let told = Match { pass: vec![5], providers: vec![provider] };
        assert_eq!(wire::encode(&Answer::Yes(told)), [vec![0, 1, 5, 1], vec![4; 32], vec![0, 1, 6]].concat());
        assert_eq!(wire::encode(&Open::Receipt(vec![1, 2])), [24, 2, 1, 2]);
    }

    /// Millions of empty roots fit the bytes that a channel may have.
    #[test]
    fn a_channel_with_more_roots_than_there_can_be_is_refused_at_once() {
        let of = |count: usize| ChannelFiles { roots: vec![Vec::new(); count], ..ChannelFiles::default() };
        let decode = |count| {
            let files: Result<ChannelFiles, _> = wire::decode(&wire::encode(&of(count)), CHANNEL_MAX_BYTES);
            files.map(|files| files.roots.len())
        };
        assert_eq!(decode(CHANNEL_ROOTS_MAX), Ok(CHANNEL_ROOTS_MAX));
        assert!(decode(CHANNEL_ROOTS_MAX + 1).is_err());
        // A list that ends nowhere: it is refused before its end is missed.
        let mut endless = wire::encode(&(8_000_000_u32));
        endless.resize(CHANNEL_ROOTS_MAX + 64, 0);
        assert!(wire::decode::<ChannelFiles>(&endless, CHANNEL_MAX_BYTES).is_err());
    }

    /// Whoever is told that it asks too often asks again; it is not told that there is nothing for it.
    #[test]
    fn busy_is_not_a_refusal() {
        use crate::door::Refusal;

        assert!(matches!(No::from(&Refusal::Busy), No::Busy { after_ms: 1.. }));
        assert_eq!(No::from(&Refusal::NoAuthority), No::Refused(0x13));
        assert_eq!(No::from(&Refusal::Paused), No::Paused);
    }

    #[test]
    fn the_longest_news_fit_their_frame() {
        let news = News { have: vec![PACKAGE_SHARDS_MAX - 1; NEWS_MAX] };
        assert!(wire::encode(&news).len() <= NEWS_MAX_BYTES);
    }
}
