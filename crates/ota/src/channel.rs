//! A maker's channel: the metadata of one brand and model, and how it changes.
//!
//! A channel is a handful of files, named as TUF names them with consistent snapshots:
//! `1.root.json`, `2.root.json`, … (all kept, so that a device which slept finds its way), the
//! current `N.targets.json` and `N.snapshot.json`, and `timestamp.json`. Nothing in them is secret;
//! any peer may carry them.
//!
//! The root's keys lie offline, on different machines if its maker wants: [`RootDraft`] is a file
//! that goes round and collects signatures. The keys of the other roles sign where publishing
//! happens. A stolen key of one role is replaced by a new root ([`Channel::draft_root`],
//! [`Channel::adopt`]); replacing the timestamp or snapshot key also lets devices begin counting
//! anew.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use ioex_base::{ContentAddress, DAY_SECONDS, NodeKey, Uid, UnixSeconds};
use ring::digest;

use crate::{
    release::{Custom, Image, InvalidRelease, Release, Version},
    rollout::{InvalidRollout, Rollout},
    tuf::{
        Date, Envelope, FileMeta, HASH_BLAKE3, HASH_SHA256, Key, MetadataError, Role, RoleKeys, Root,
        SPEC_VERSION, Signed, Snapshot, TargetMeta, Targets, Timestamp,
    },
};

/// How long metadata holds, in days. The timestamp's is the longest time for which a mirror can
/// hide a new version from a device; the root's is how often its owners must meet.
pub const LIFE_DAYS: [(Role, u64); 4] =
    [(Role::Root, 366), (Role::Targets, 92), (Role::Snapshot, 31), (Role::Timestamp, 7)];

/// Most versions in a channel: the targets metadata stays below its bound.
pub const RELEASES_MAX: usize = 256;

/// Whose keys sign for a role, and how many of them must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers {
    /// Public keys.
    pub keys: Vec<Uid>,
    /// How many of them must sign.
    pub threshold: u32,
}

/// The keys of all roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlan {
    /// By role.
    pub roles: BTreeMap<Role, Signers>,
}

/// Why a channel cannot be changed like that.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChannelError {
    /// Metadata that contradicts itself or is too long.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Too few keys for a role.
    #[error("signing {role} needs {need} of its keys, {got} are here: bring the others")]
    Keys {
        /// Whose.
        role: Role,
        /// How many must sign.
        need: usize,
        /// How many have.
        got: usize,
    },
    /// A plan in which a role can never sign.
    #[error("{role} is to be signed by {threshold} of {keys} different keys, which cannot be")]
    Plan {
        /// Whose.
        role: Role,
        /// How many must sign.
        threshold: u32,
        /// How many there are.
        keys: usize,
    },
    /// A release that no device would take.
    #[error(transparent)]
    Release(#[from] InvalidRelease),
    /// A rollout that contradicts itself.
    #[error(transparent)]
    Rollout(#[from] InvalidRollout),
    /// The version is in the channel already. What was published never changes under its name.
    #[error("version {0} was published already; give the new package a number of its own")]
    Published(String),
    /// A version that may be installed over itself or higher ones only: every device that has those has no use for it.
    #[error("version {version} cannot follow {follows}: name a lower version with --follows")]
    Follows {
        /// The version.
        version: String,
        /// The lowest version over which it was to be installed.
        follows: String,
    },
    /// No such version.
    #[error("the channel has no version {0}")]
    Unknown(String),
    /// Too many.
    #[error("the channel has {RELEASES_MAX} versions: withdraw old ones first")]
    Full,
    /// A root that does not follow the channel's.
    #[error("this draft has version {got}; the channel's next root has version {want}")]
    Draft {
        /// The next version.
        want: u64,
        /// The draft's.
        got: u64,
    },
    /// A key whose signature would not count for a draft.
    #[error("{0} is no root key, neither of the channel nor of this draft: its signature would not count")]
    NoRootKey(Uid),
    /// A key that has signed a draft before.
    #[error("{0} has signed this draft already: bring another root key")]
    Signed(Uid),
    /// A file of the channel is absent.
    #[error("the channel's file {0} is missing")]
    Missing(String),
}

/// Hashes of a package, made while it is read.
pub struct PackageHash {
    sha256: digest::Context,
    blake3: blake3::Hasher,
    length: u64,
}

impl Default for PackageHash {
    fn default() -> Self {
        Self { sha256: digest::Context::new(&digest::SHA256), blake3: blake3::Hasher::new(), length: 0 }
    }
}

impl PackageHash {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.blake3.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The package's entry, without what ioeX says of it.
    #[must_use]
    pub fn finish(self) -> TargetMeta {
        let hashes = BTreeMap::from([
            (HASH_SHA256.to_owned(), HEXLOWER.encode(self.sha256.finish().as_ref())),
            (HASH_BLAKE3.to_owned(), self.blake3.finalize().to_hex().to_string()),
        ]);
        TargetMeta { length: self.length, hashes, custom: None }
    }

    /// The package as its only image.
    #[must_use]
    pub fn image(&self, name: &str) -> Image {
        let hash: ContentAddress = self.blake3.finalize().into();
        Image { name: name.to_owned(), length: self.length, hash }
    }
}

/// A root that collects signatures.
#[derive(Clone, Debug, PartialEq)]
pub struct RootDraft {
    envelope: Envelope,
    root: Root,
}

impl RootDraft {
    /// The root of a new channel.
    ///
    /// # Errors
    /// [`ChannelError::Plan`].
    pub fn new(plan: &KeyPlan, now: UnixSeconds) -> Result<Self, ChannelError> {
        Self::versioned(plan, 1, now)
    }

    fn versioned(plan: &KeyPlan, version: u64, now: UnixSeconds) -> Result<Self, ChannelError> {
        let mut keys = BTreeMap::new();
        let mut roles = BTreeMap::new();
        for role in Role::ALL {
            let signers = plan.roles.get(&role);
            let different: BTreeSet<Uid> =
                signers.iter().flat_map(|signers| &signers.keys).copied().collect();
            let threshold = signers.map_or(0, |signers| signers.threshold);
            if threshold == 0 || (threshold as usize) > different.len() {
                return Err(ChannelError::Plan { role, threshold, keys: different.len() });
            }
            let named: Vec<(String, Key)> =
                different.iter().map(Key::of).map(|key| (key.id(), key)).collect();
            roles.insert(
                role,
                RoleKeys { keyids: named.iter().map(|(id, _)| id.clone()).collect(), threshold },
            );
            keys.extend(named);
        }
        let root = Root {
            kind: Role::Root,
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires: expiry(Role::Root, now),
            consistent_snapshot: true,
            keys,
            roles,
            other: serde_json::Map::new(),
        };
        let mut draft = Self { envelope: Envelope::draft(&root)?, root };
        draft.invite(&draft.root.clone());
        Ok(draft)
    }

    /// Names the keys of a root as those that are to sign.
    fn invite(&mut self, root: &Root) {
        let keys =
            root.signers(Role::Root).map(|(signers, _)| signers.into_values().collect::<BTreeSet<_>>());
        self.envelope.invite(keys.unwrap_or_default());
    }

    /// Reads a draft that was elsewhere.
    ///
    /// # Errors
    /// [`ChannelError::Metadata`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChannelError> {
        let envelope = Envelope::parse(Role::Root, bytes)?;
        Ok(Self { root: envelope.read()?, envelope })
    }

    /// The bytes to carry on.
    ///
    /// # Errors
    /// [`ChannelError::Metadata`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ChannelError> {
        Ok(self.envelope.to_bytes(Role::Root)?)
    }

    /// What it would make the keys.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Adds the signature of a root key, of this root or of the one before.
    ///
    /// # Errors
    /// [`ChannelError::NoRootKey`], [`ChannelError::Signed`], [`ChannelError::Metadata`].
    pub fn sign(&mut self, key: &NodeKey) -> Result<(), ChannelError> {
        match self.envelope.signed_by(&key.uid()) {
            None => Err(ChannelError::NoRootKey(key.uid())),
            Some(true) => Err(ChannelError::Signed(key.uid())),
            Some(false) => Ok(self.envelope.sign(Role::Root, key)?),
        }
    }

    /// The file of the root, with those signatures that there are.
    fn closed(&self) -> Result<Vec<u8>, ChannelError> {
        let mut envelope = self.envelope.clone();
        envelope.close();
        Ok(envelope.to_bytes(Role::Root)?)
    }

    fn signed_for(&self, by: &Root) -> Result<(), ChannelError> {
        let (got, need) = self.envelope.count(Role::Root, by);
        if got < need { Err(ChannelError::Keys { role: Role::Root, need, got }) } else { Ok(()) }
    }
}

fn expiry(role: Role, now: UnixSeconds) -> Date {
    let days = LIFE_DAYS.iter().find(|(of, _)| *of == role).map_or(1, |(_, days)| *days);
    Date(now.plus(days * DAY_SECONDS))
}

/// A channel as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Files of all roots, the first first.
    roots: Vec<Vec<u8>>,
    root: Root,
    targets: Targets,
    snapshot: Snapshot,
    timestamp: Timestamp,
    /// Signed files of targets, snapshot and timestamp.
    signed: [Vec<u8>; 3],
}

impl Channel {
    /// A new channel without a version, from a root with enough signatures; `keys` sign for the other roles.
    ///
    /// # Errors
    /// [`ChannelError::Keys`].
    pub fn create(draft: &RootDraft, keys: &[NodeKey], now: UnixSeconds) -> Result<Self, ChannelError> {
        draft.signed_for(&draft.root)?;
        if draft.root.version != 1 {
            return Err(ChannelError::Draft { want: 1, got: draft.root.version });
        }
        let mut channel = Self {
            roots: vec![draft.closed()?],
            root: draft.root.clone(),
            targets: Targets {
                kind: Role::Targets,
                spec_version: SPEC_VERSION.to_owned(),
                version: 0,
                expires: Date(now),
                targets: BTreeMap::new(),
                other: serde_json::Map::new(),
            },
            snapshot: Snapshot {
                kind: Role::Snapshot,
                spec_version: SPEC_VERSION.to_owned(),
                version: 0,
                expires: Date(now),
                meta: BTreeMap::new(),
                other: serde_json::Map::new(),
            },
            timestamp: Timestamp {
                kind: Role::Timestamp,
                spec_version: SPEC_VERSION.to_owned(),
                version: 0,
                expires: Date(now),
                issued: None,
                meta: BTreeMap::new(),
                other: serde_json::Map::new(),
            },
            signed: Default::default(),
        };
        channel.sign_from(Role::Targets, keys, now)?;
        Ok(channel)
    }

    /// Whether a version can be added, as far as it is known before it is packed: whatever [`Release::check_terms`]
    /// looks at, and what is in the channel.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn may_publish(&self, release: &Release) -> Result<(), ChannelError> {
        release.check_terms()?;
        if release.follows >= release.version && release.follows != Version::default() {
            let (version, follows) = (release.version.to_string(), release.follows.to_string());
            return Err(ChannelError::Follows { version, follows });
        }
        if let Some(rollout) = &release.rollout {
            rollout.check()?;
        }
        if self.targets.targets.contains_key(&target_name(release)) {
            return Err(ChannelError::Published(release.version.to_string()));
        }
        if self.targets.targets.len() >= RELEASES_MAX {
            return Err(ChannelError::Full);
        }
        Ok(())
    }

    /// Adds a version. `package` is what [`PackageHash`] found; `keys` are those of targets, snapshot
    /// and timestamp.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is then as it was.
    pub fn publish(
        &mut self,
        release: Release,
        package: TargetMeta,
        keys: &[NodeKey],
        now: UnixSeconds,
    ) -> Result<(), ChannelError> {
        self.may_publish(&release)?;
        release.check(package.length)?;
        let name = target_name(&release);
        self.edit(keys, now, |targets| {
            targets.insert(name, TargetMeta { custom: Some(Custom { ioex: Some(release) }), ..package });
        })
    }

    /// Changes the rollout of a version: another percentage, a pause, an end.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is then as it was.
    pub fn set_rollout(
        &mut self,
        name: &str,
        rollout: Option<Rollout>,
        keys: &[NodeKey],
        now: UnixSeconds,
    ) -> Result<(), ChannelError> {
        if let Some(rollout) = &rollout {
            rollout.check()?;
        }
        if self.release(name).is_none() {
            return Err(ChannelError::Unknown(name.to_owned()));
        }
        self.edit(keys, now, |targets| {
            let custom = targets.get_mut(name).and_then(|target| target.custom.as_mut());
            if let Some(release) = custom.and_then(|custom| custom.ioex.as_mut()) {
                release.rollout = rollout;
            }
        })
    }

    /// Takes a version out.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is then as it was.
    pub fn withdraw(&mut self, name: &str, keys: &[NodeKey], now: UnixSeconds) -> Result<(), ChannelError> {
        if self.release(name).is_none() {
            return Err(ChannelError::Unknown(name.to_owned()));
        }
        self.edit(keys, now, |targets| {
            targets.remove(name);
        })
    }

    /// Signs the timestamp anew, and the snapshot and targets with it when their end is near: a
    /// channel that says nothing for a week looks frozen to its devices.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is then as it was.
    pub fn refresh(&mut self, keys: &[NodeKey], now: UnixSeconds) -> Result<(), ChannelError> {
        let margin = now.plus(LIFE_DAYS[3].1 * DAY_SECONDS);
        let from = if self.targets.expires.0 < margin {
            Role::Targets
        } else if self.snapshot.expires.0 < margin {
            Role::Snapshot
        } else {
            Role::Timestamp
        };
        let mut next = self.clone();
        next.sign_from(from, keys, now)?;
        *self = next;
        Ok(())
    }

    /// The next root, with other keys or a later end, to be signed by the keys of this root and of the next:
    /// the draft names them all.
    ///
    /// # Errors
    /// [`ChannelError::Plan`].
    pub fn draft_root(&self, plan: &KeyPlan, now: UnixSeconds) -> Result<RootDraft, ChannelError> {
        let mut draft = RootDraft::versioned(plan, self.root.version + 1, now)?;
        draft.invite(&self.root);
        Ok(draft)
    }

    /// All root keys that the channel ever had, those of the first root first.
    ///
    /// # Errors
    /// [`ChannelError::Metadata`].
    pub fn root_keys_ever(&self) -> Result<Vec<Uid>, ChannelError> {
        let mut ever: Vec<Uid> = Vec::new();
        for bytes in &self.roots {
            let root: Root = Envelope::parse(Role::Root, bytes)?.read()?;
            let named =
                root.signers(Role::Root).map(|(signers, _)| signers.into_values().collect::<BTreeSet<_>>());
            ever.extend(
                named.unwrap_or_default().into_iter().filter(|uid| !ever.contains(uid)).collect::<Vec<_>>(),
            );
        }
        Ok(ever)
    }

    /// Makes a signed draft the channel's root, and signs everything below it with the new `keys`.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is then as it was.
    pub fn adopt(
        &mut self,
        draft: &RootDraft,
        keys: &[NodeKey],
        now: UnixSeconds,
    ) -> Result<(), ChannelError> {
        let want = self.root.version + 1;
        if draft.root.version != want {
            return Err(ChannelError::Draft { want, got: draft.root.version });
        }
        draft.signed_for(&self.root)?;
        draft.signed_for(&draft.root)?;
        let mut next = self.clone();
        next.roots.push(draft.closed()?);
        next.root = draft.root.clone();
        next.sign_from(Role::Targets, keys, now)?;
        *self = next;
        Ok(())
    }

    /// All files, by name.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let roots = self.roots.iter().enumerate();
        let mut files: BTreeMap<String, Vec<u8>> =
            roots.map(|(i, bytes)| (format!("{}.root.json", i + 1), bytes.clone())).collect();
        let [targets, snapshot, timestamp] = &self.signed;
        files.insert(format!("{}.targets.json", self.targets.version), targets.clone());
        files.insert(format!("{}.snapshot.json", self.snapshot.version), snapshot.clone());
        files.insert("timestamp.json".to_owned(), timestamp.clone());
        files
    }

    /// Reads a channel's own files; `file` gives one by name. They are the maker's: signatures are
    /// not looked at.
    ///
    /// # Errors
    /// [`ChannelError::Missing`], [`ChannelError::Metadata`].
    pub fn load(mut file: impl FnMut(&str) -> Option<Vec<u8>>) -> Result<Self, ChannelError> {
        let mut get = |name: String| file(&name).ok_or(ChannelError::Missing(name));
        let mut roots = vec![get("1.root.json".to_owned())?];
        while let Ok(next) = get(format!("{}.root.json", roots.len() + 1)) {
            roots.push(next);
        }
        let last = roots.last().map(Vec::as_slice).unwrap_or_default();
        let root: Root = Envelope::parse(Role::Root, last)?.read()?;
        let timestamp_bytes = get("timestamp.json".to_owned())?;
        let timestamp: Timestamp = Envelope::parse(Role::Timestamp, &timestamp_bytes)?.read()?;
        let of = |meta: &BTreeMap<String, FileMeta>, role: Role| {
            meta.get(&format!("{role}.json")).map(|m| m.version)
        };
        let version = of(&timestamp.meta, Role::Snapshot).unwrap_or(0);
        let snapshot_bytes = get(format!("{version}.snapshot.json"))?;
        let snapshot: Snapshot = Envelope::parse(Role::Snapshot, &snapshot_bytes)?.read()?;
        let version = of(&snapshot.meta, Role::Targets).unwrap_or(0);
        let targets_bytes = get(format!("{version}.targets.json"))?;
        let targets: Targets = Envelope::parse(Role::Targets, &targets_bytes)?.read()?;
        let signed = [targets_bytes, snapshot_bytes, timestamp_bytes];
        Ok(Self { roots, root, targets, snapshot, timestamp, signed })
    }

    /// The current root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Whether the keys that the root names have signed everything below it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        fn by<T: Signed>(root: &Root, bytes: &[u8]) -> bool {
            Envelope::parse(T::ROLE, bytes).and_then(|envelope| envelope.verify::<T>(root)).is_ok()
        }
        let [targets, snapshot, timestamp] = &self.signed;
        by::<Targets>(&self.root, targets)
            && by::<Snapshot>(&self.root, snapshot)
            && by::<Timestamp>(&self.root, timestamp)
    }

    /// Signs everything below the root anew.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is then as it was.
    pub fn sign_anew(&mut self, keys: &[NodeKey], now: UnixSeconds) -> Result<(), ChannelError> {
        let mut next = self.clone();
        next.sign_from(Role::Targets, keys, now)?;
        *self = next;
        Ok(())
    }

    /// Until when the metadata of a role holds.
    #[must_use]
    pub fn expires(&self, role: Role) -> Date {
        match role {
            Role::Root => self.root.expires,
            Role::Targets => self.targets.expires,
            Role::Snapshot => self.snapshot.expires,
            Role::Timestamp => self.timestamp.expires,
        }
    }

    /// All versions, by target name.
    pub fn releases(&self) -> impl Iterator<Item = (&str, &Release)> {
        self.targets
            .targets
            .iter()
            .filter_map(|(name, target)| Some((name.as_str(), target.custom.as_ref()?.ioex.as_ref()?)))
    }

    /// One version, by target name.
    #[must_use]
    pub fn release(&self, name: &str) -> Option<&Release> {
        self.targets.targets.get(name)?.custom.as_ref()?.ioex.as_ref()
    }

    fn edit(
        &mut self,
        keys: &[NodeKey],
        now: UnixSeconds,
        change: impl FnOnce(&mut BTreeMap<String, TargetMeta>),
    ) -> Result<(), ChannelError> {
        let mut next = self.clone();
        change(&mut next.targets.targets);
        next.sign_from(Role::Targets, keys, now)?;
        *self = next;
        Ok(())
    }

    /// Signs `from` and everything above it anew.
    fn sign_from(&mut self, from: Role, keys: &[NodeKey], now: UnixSeconds) -> Result<(), ChannelError> {
        if from == Role::Targets {
            self.targets.version += 1;
            self.targets.expires = expiry(Role::Targets, now);
            self.signed[0] = signed_file(&self.targets, &self.root, keys)?;
        }
        if from == Role::Targets || from == Role::Snapshot {
            self.snapshot.version += 1;
            self.snapshot.expires = expiry(Role::Snapshot, now);
            self.snapshot.meta = named(Role::Targets, self.targets.version, &self.signed[0]);
            self.signed[1] = signed_file(&self.snapshot, &self.root, keys)?;
        }
        self.timestamp.version += 1;
        self.timestamp.expires = expiry(Role::Timestamp, now);
        self.timestamp.issued = Some(Date(now));
        self.timestamp.meta = named(Role::Snapshot, self.snapshot.version, &self.signed[1]);
        self.signed[2] = signed_file(&self.timestamp, &self.root, keys)?;
        Ok(())
    }
}

/// The name of a release's target: hardware revisions may have packages of their own.
#[must_use]
pub fn target_name(release: &Release) -> String {
    let revisions: String = release.hardware.iter().map(|revision| format!("-r{revision}")).collect();
    format!("{}{revisions}.package", release.version)
}

/// What the role above says of a file.
fn named(role: Role, version: u64, bytes: &[u8]) -> BTreeMap<String, FileMeta> {
    let sha256 = HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref());
    let meta = FileMeta {
        version,
        length: Some(bytes.len() as u64),
        hashes: BTreeMap::from([(HASH_SHA256.to_owned(), sha256)]),
    };
    BTreeMap::from([(format!("{role}.json"), meta)])
}

fn signed_file<T: Signed>(value: &T, root: &Root, keys: &[NodeKey]) -> Result<Vec<u8>, ChannelError> {
    let mut envelope = Envelope::draft(value)?;
    let signers: BTreeSet<Uid> =
        root.signers(T::ROLE).map(|(signers, _)| signers.into_values().collect()).unwrap_or_default();
    for key in keys.iter().filter(|key| signers.contains(&key.uid())) {
        envelope.sign(T::ROLE, key)?;
    }
    let (got, need) = envelope.count(T::ROLE, root);
    if got < need {
        return Err(ChannelError::Keys { role: T::ROLE, need, got });
    }
    let bytes = envelope.to_bytes(T::ROLE)?;
    let max = T::ROLE.max_bytes();
    if bytes.len() > max {
        return Err(MetadataError::TooLong { role: T::ROLE, max, got: bytes.len() }.into());
    }
    Ok(bytes)
}
