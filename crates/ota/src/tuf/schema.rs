//! The four roles as the specification writes them (sections 4.3 to 4.6), JSON member by member.

use std::{collections::BTreeMap, fmt};

use data_encoding::HEXLOWER;
use ioex_base::{Uid, UnixSeconds};
use ring::digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::release::Custom;

/// The version of the specification that is written. Any 1.x is read.
pub const SPEC_VERSION: &str = "1.0.31";

/// Name of the hash that tools of the TUF family expect.
pub const HASH_SHA256: &str = "sha256";

/// Name of the hash that devices check: the package's content address.
pub const HASH_BLAKE3: &str = "blake3";

/// Who signs what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Names the keys of all roles.
    Root,
    /// Lists packages.
    Targets,
    /// Says which targets metadata is current.
    Snapshot,
    /// Says which snapshot is current.
    Timestamp,
}

impl Role {
    /// All four, in the order in which a channel signs them.
    pub const ALL: [Self; 4] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp];

    /// The role's name in metadata and file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }

    /// The longest metadata of this role that is looked at, in bytes (endless data). A root has
    /// room for a hundred keys; targets for some hundred versions; the others are a few lines.
    #[must_use]
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Root => 64 * 1024,
            Self::Targets => 1024 * 1024,
            Self::Snapshot | Self::Timestamp => 16 * 1024,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A date in metadata, `2026-11-24T18:00:00Z`, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub UnixSeconds);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_second(seconds) {
            Ok(time) => write!(f, "{}", time.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => f.write_str("9999-12-30T22:00:00Z"),
        }
    }
}

impl Serialize for Date {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(UnixSeconds(u64::try_from(time.as_second()).unwrap_or(0))))
    }
}

/// SHA-256 of a key's canonical JSON, in hexadecimal.
pub type KeyId = String;

/// A public key. Only `ed25519` ones verify here; others are carried and never count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `ed25519`.
    pub keytype: String,
    /// `ed25519`.
    pub scheme: String,
    /// The key itself.
    pub keyval: KeyValue,
    /// Members that this program does not know; they are part of what is hashed and signed.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The bytes of a public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// 32 bytes in hexadecimal for `ed25519`.
    pub public: String,
}

impl Key {
    /// The TUF form of an identity.
    #[must_use]
    pub fn of(uid: &Uid) -> Self {
        Self {
            keytype: "ed25519".to_owned(),
            scheme: "ed25519".to_owned(),
            keyval: KeyValue { public: HEXLOWER.encode(uid.as_bytes()) },
            other: Map::new(),
        }
    }

    /// The identity, when this is a key that we can verify with.
    #[must_use]
    pub fn uid(&self) -> Option<Uid> {
        if self.keytype != "ed25519" || self.scheme != "ed25519" {
            return None;
        }
        let bytes = HEXLOWER.decode(self.keyval.public.as_bytes()).ok()?;
        Some(Uid::from_bytes(bytes.try_into().ok()?))
    }

    /// The key's name (specification 4.2).
    #[must_use]
    pub fn id(&self) -> KeyId {
        let bytes = super::envelope::canonical(self).unwrap_or_default();
        HEXLOWER.encode(digest::digest(&digest::SHA256, &bytes).as_ref())
    }
}

/// Which keys sign for a role, and how many of them must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Names of keys in the root's table.
    pub keyids: Vec<KeyId>,
    /// How many different ones must have signed, at least 1.
    pub threshold: u32,
}

/// What the `signed` part of a role's file is.
pub trait Signed: Serialize + DeserializeOwned {
    /// Which role this is.
    const ROLE: Role;
    /// Version number of this metadata.
    fn version(&self) -> u64;
    /// Until when it holds.
    fn expires(&self) -> Date;
    /// Version of the specification that its writer followed.
    fn spec_version(&self) -> &str;
    /// What `_type` says.
    fn kind(&self) -> Role;
}

macro_rules! signed {
    ($name:ident, $role:expr) => {
        impl Signed for $name {
            const ROLE: Role = $role;
            fn version(&self) -> u64 {
                self.version
            }
            fn expires(&self) -> Date {
                self.expires
            }
            fn spec_version(&self) -> &str {
                &self.spec_version
            }
            fn kind(&self) -> Role {
                self.kind
            }
        }
    };
}

/// The keys of all roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// `root`.
    #[serde(rename = "_type")]
    pub kind: Role,
    /// See [`SPEC_VERSION`].
    pub spec_version: String,
    /// Grows by exactly one with every change.
    pub version: u64,
    /// Until when it holds.
    pub expires: Date,
    /// Whether file names carry version numbers.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// All keys by name.
    pub keys: BTreeMap<KeyId, Key>,
    /// Who signs for which role.
    pub roles: BTreeMap<Role, RoleKeys>,
    /// Members that this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
signed!(Root, Role::Root);

/// What a role's metadata says of another role's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Its version number.
    pub version: u64,
    /// Its length in bytes, when its writer said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Its hashes in hexadecimal by the names of the functions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, String>,
}

/// Which snapshot is current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// `timestamp`.
    #[serde(rename = "_type")]
    pub kind: Role,
    /// See [`SPEC_VERSION`].
    pub spec_version: String,
    /// Grows with every signing.
    pub version: u64,
    /// Until when it holds.
    pub expires: Date,
    /// When it was signed; ours, not the specification's. A device whose clock says something
    /// earlier knows that its clock is wrong.
    #[serde(rename = "ioex_issued", default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Date>,
    /// One entry, `snapshot.json`.
    pub meta: BTreeMap<String, FileMeta>,
    /// Members that this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
signed!(Timestamp, Role::Timestamp);

/// Which targets metadata is current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snapshot`.
    #[serde(rename = "_type")]
    pub kind: Role,
    /// See [`SPEC_VERSION`].
    pub spec_version: String,
    /// Grows with every change.
    pub version: u64,
    /// Until when it holds.
    pub expires: Date,
    /// At least `targets.json`.
    pub meta: BTreeMap<String, FileMeta>,
    /// Members that this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
signed!(Snapshot, Role::Snapshot);

/// One package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetMeta {
    /// Its length in bytes.
    pub length: u64,
    /// Its hashes in hexadecimal by the names of the functions.
    pub hashes: BTreeMap<String, String>,
    /// What ioeX says of it; absent in a package of somebody else's tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Custom>,
}

/// The packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// `targets`.
    #[serde(rename = "_type")]
    pub kind: Role,
    /// See [`SPEC_VERSION`].
    pub spec_version: String,
    /// Grows with every change.
    pub version: u64,
    /// Until when it holds.
    pub expires: Date,
    /// Packages by name.
    pub targets: BTreeMap<String, TargetMeta>,
    /// Members that this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
signed!(Targets, Role::Targets);

impl Root {
    /// The identities that sign for `role`, each once, and how many of them must.
    #[must_use]
    pub fn signers(&self, role: Role) -> Option<(BTreeMap<&str, Uid>, usize)> {
        let keys = self.roles.get(&role)?;
        let threshold = usize::try_from(keys.threshold).ok().filter(|&threshold| threshold > 0)?;
        let known = keys.keyids.iter().filter_map(|id| Some((id.as_str(), self.keys.get(id)?.uid()?)));
        Some((known.collect(), threshold))
    }
}
