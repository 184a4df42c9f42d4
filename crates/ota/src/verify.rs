//! What a device makes of metadata that somebody brought.
//!
//! [`check`] follows the client's part of TUF 1.0 (sections 5.3 to 5.6) and then chooses among the
//! releases. It never installs anything and never forgets anything but what the specification says:
//! its outcome carries what the device has to remember from now on, also when it refuses, because
//! a new root counts even if the rest of a mirror's files is stale.
//!
//! # Clocks
//! Many devices start at 1970. A date of expiry helps only with a clock that is roughly right, so
//! the timestamp role also says when it was signed. The latest such date that the device has seen
//! is a floor: a clock before it is wrong, and with a clock that is known to be wrong nothing is
//! installed. A clock that is ahead makes metadata look expired, and again nothing is installed.
//! Neither touches what runs. A floor that a stolen timestamp key pushed into the future falls
//! when the root replaces that key.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use ioex_base::{CLOCK_SLACK_SECONDS, UnixSeconds, wire};
use ring::digest;
use serde::{Deserialize, Serialize};

use crate::{
    release::{InvalidRelease, Release, Version},
    rollout::Course,
    tuf::{
        Date, Envelope, FileMeta, HASH_BLAKE3, HASH_SHA256, MetadataError, Role, Root, Signed, Snapshot,
        Targets, Timestamp,
    },
};

/// Most successive roots that one check takes in: a device that slept through more asks again.
pub const ROOTS_MAX: usize = 32;

/// Longest stored [`Trust`] in bytes: a root and five numbers.
const TRUST_MAX_BYTES: usize = Role::Root.max_bytes() + 64;

/// First byte of a stored [`Trust`].
const TRUST_VERSION: u8 = 1;

/// What a device remembers of its channel between two checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The root's file.
    root: Vec<u8>,
    /// Highest timestamp version seen.
    timestamp: u64,
    /// Highest snapshot version seen.
    snapshot: u64,
    /// Highest version of the targets metadata seen.
    targets: u64,
    /// Date of the firmware that the device came with.
    built: UnixSeconds,
    /// It is certainly not earlier than this.
    floor: UnixSeconds,
}

/// Stored bytes that are no [`Trust`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrustError {
    /// A format that this program does not read.
    #[error("what the device remembers of its channel has format {0:?}, this program reads {TRUST_VERSION}")]
    Version(Option<u8>),
    /// Damaged.
    #[error("what the device remembers of its channel is damaged: {0}")]
    Wire(#[from] wire::WireError),
    /// The root in it, or the one that came with the device, is none.
    #[error("the root of the channel cannot be used: {0}")]
    Root(#[from] MetadataError),
}

impl Trust {
    /// Begins with the root that came with the device. `built` is the date of its firmware: it
    /// is not earlier than that.
    ///
    /// # Errors
    /// [`TrustError::Root`], also when the root is not signed by its own keys.
    pub fn first(root: &[u8], built: UnixSeconds) -> Result<Self, TrustError> {
        let envelope = Envelope::parse(Role::Root, root)?;
        let parsed: Root = envelope.read()?;
        envelope.verify::<Root>(&parsed)?;
        Ok(Self { root: root.to_vec(), timestamp: 0, snapshot: 0, targets: 0, built, floor: built })
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![TRUST_VERSION];
        bytes.extend(wire::encode(self));
        bytes
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        let (Some(&TRUST_VERSION), Some(body)) = (bytes.first(), bytes.get(1..)) else {
            return Err(TrustError::Version(bytes.first().copied()));
        };
        let trust: Self = wire::decode(body, TRUST_MAX_BYTES)?;
        trust.root()?;
        Ok(trust)
    }

    /// Version of the trusted root; the mirror is asked for those after it.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.root().map_or(0, |root| root.version)
    }

    /// Whether this is from later than another trust in the same channel.
    #[must_use]
    pub fn is_later_than(&self, other: &Self) -> bool {
        // A new root may begin to count the others anew.
        (self.root_version(), self.timestamp) > (other.root_version(), other.timestamp)
    }

    fn root(&self) -> Result<Root, MetadataError> {
        Envelope::parse(Role::Root, &self.root)?.read()
    }
}

/// What a mirror brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata<'a> {
    /// Roots after the trusted one, in order; ones that are known already are skipped.
    pub roots: &'a [&'a [u8]],
    /// `timestamp.json`.
    pub timestamp: &'a [u8],
    /// The snapshot.
    pub snapshot: &'a [u8],
    /// The targets metadata.
    pub targets: &'a [u8],
}

/// What the device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its brand.
    pub brand: String,
    /// Its model.
    pub model: String,
    /// Its hardware revision.
    pub hardware: u32,
    /// What it runs.
    pub installed: Version,
}

/// What the device believes about time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Its own clock.
    pub own: UnixSeconds,
    /// Whether others agreed with it since the last start (network time).
    pub vouched: bool,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This release may be fetched and installed.
    Install(Box<Release>),
    /// The metadata is fine; the device runs what it should.
    NothingNew,
    /// Nothing is installed.
    Refuse(Refusal),
}

/// A decision and what to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// To be stored before the decision is acted upon.
    pub trust: Trust,
    /// What to do.
    pub verdict: Verdict,
}

/// Why nothing is installed. Each attack of TUF and Uptane has its own.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// Not metadata, too long (endless data), or not signed by enough of the right keys (arbitrary software).
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// More roots at once than a device looks at.
    #[error("{0} roots at once; ask for at most {ROOTS_MAX}")]
    Roots(usize),
    /// A root that does not follow the trusted one.
    #[error("root {got} cannot follow root {trusted}: the ones between are missing")]
    RootGap {
        /// The trusted root's version.
        trusted: u64,
        /// The version that came.
        got: u64,
    },
    /// Older than what was seen already (rollback attack).
    #[error("{role} metadata of version {got} is older than version {seen}, which was seen already")]
    Rollback {
        /// Whose.
        role: Role,
        /// Seen before.
        seen: u64,
        /// What came.
        got: u64,
    },
    /// No longer valid (freeze attack), or the device's clock is ahead.
    #[error("{role} metadata expired at {expires}, and it is {now}: ask another peer, and look at the clock")]
    Expired {
        /// Whose.
        role: Role,
        /// Until when it held.
        expires: Date,
        /// What the device takes for the time.
        now: Date,
    },
    /// The clock says something earlier than what is certain.
    #[error("the clock says {own}, but it is {floor} at least: set it, or wait for network time")]
    ClockBehind {
        /// The clock.
        own: Date,
        /// It is not earlier than this.
        floor: Date,
    },
    /// Files that do not belong together (mix-and-match attack).
    #[error("the {role} metadata is not the one that the role above it names: {what}")]
    Mismatch {
        /// Whose.
        role: Role,
        /// `version`, `length`, `hash` or `absent`.
        what: &'static str,
    },
    /// A channel of another device (wrong device).
    #[error("the channel has nothing for {brand} {model}")]
    WrongDevice {
        /// This device's brand.
        brand: String,
        /// This device's model.
        model: String,
    },
    /// For other hardware revisions of the same model.
    #[error("the channel has nothing for hardware revision {0}")]
    WrongHardware(u32),
    /// Lower than what is installed, and the maker did not sign that one may go back.
    #[error("version {offered} is lower than {installed}, and its maker signed no way back to it")]
    Downgrade {
        /// What runs.
        installed: Version,
        /// What was offered.
        offered: Version,
    },
    /// Needs a version between.
    #[error("version {offered} can follow {follows} and later, not {installed}")]
    StepMissing {
        /// What runs.
        installed: Version,
        /// What was offered.
        offered: Version,
        /// What it can follow.
        follows: Version,
    },
    /// Signed, and contradicts itself.
    #[error("the release contradicts itself: {0}")]
    Release(#[from] InvalidRelease),
}

/// Decides. `trust` is what the last check left, or [`Trust::first`].
#[must_use]
pub fn check(trust: &Trust, device: &Device, clock: Clock, metadata: &Metadata<'_>) -> Outcome {
    let mut trust = trust.clone();
    let verdict = match update(&mut trust, clock, metadata) {
        Ok(targets) => choose(&targets, device).unwrap_or_else(Verdict::Refuse),
        Err(refusal) => Verdict::Refuse(refusal),
    };
    Outcome { trust, verdict }
}

/// What whoever carries a channel for others makes of metadata that somebody brought: all that a device does but to
/// choose among the releases. Returns what to trust from now on.
///
/// # Errors
/// Why the metadata does not hold.
pub fn follow(trust: &Trust, clock: Clock, metadata: &Metadata<'_>) -> Result<Trust, Refusal> {
    let mut trust = trust.clone();
    update(&mut trust, clock, metadata)?;
    Ok(trust)
}

/// Those of `roots` that follow `first`, one after the other: each has the next version and is signed as the one
/// before it demands and as it demands itself. Whatever else is among them is left out, so that of roots that somebody
/// brought only these are kept.
///
/// # Errors
/// When `first` is no root.
pub fn root_chain<'a>(
    first: &[u8],
    roots: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Vec<u8>>, TrustError> {
    let mut last = Trust::first(first, UnixSeconds(0))?.root()?;
    let mut chain = Vec::new();
    for bytes in roots {
        let Ok(envelope) = Envelope::parse(Role::Root, bytes) else { continue };
        let Ok(next) = envelope.read::<Root>() else { continue };
        if let Ok(true) = follows(&envelope, &last, &next) {
            chain.push(bytes.to_vec());
            last = next;
        }
    }
    Ok(chain)
}

/// Whether a root has the version after `last`, and then is signed as `last` demands and as it demands itself.
fn follows(envelope: &Envelope, last: &Root, next: &Root) -> Result<bool, MetadataError> {
    if Some(next.version) != last.version.checked_add(1) {
        return Ok(false);
    }
    envelope.verify::<Root>(last)?;
    envelope.verify::<Root>(next)?;
    Ok(true)
}

/// Takes the four roles in, one after the other.
fn update(trust: &mut Trust, clock: Clock, metadata: &Metadata<'_>) -> Result<Targets, Refusal> {
    let root = update_root(trust, metadata.roots)?;
    let now = now(trust, clock)?;
    not_expired(&root, now)?;

    let timestamp: Timestamp = Envelope::parse(Role::Timestamp, metadata.timestamp)?.verify(&root)?;
    not_older(Role::Timestamp, trust.timestamp, timestamp.version)?;
    let snapshot_meta = entry(&timestamp.meta, Role::Snapshot)?;
    not_older(Role::Snapshot, trust.snapshot, snapshot_meta.version)?;
    let issued = timestamp.issued.map_or(UnixSeconds(0), |date| date.0).min(timestamp.expires.0);
    not_expired(&timestamp, now)?;
    trust.timestamp = timestamp.version;
    // With a clock that others agree with, a date in the future is a mistake of the maker's, not the time.
    let certain = if clock.vouched { issued.min(now) } else { issued };
    trust.floor = trust.floor.max(certain);
    if !clock.vouched {
        // An unvouched clock may just have been proved wrong by the date that was signed.
        self::now(trust, clock)?;
    }

    belongs(Role::Snapshot, metadata.snapshot, snapshot_meta)?;
    let snapshot: Snapshot = Envelope::parse(Role::Snapshot, metadata.snapshot)?.verify(&root)?;
    same_version(&snapshot, snapshot_meta)?;
    let targets_meta = entry(&snapshot.meta, Role::Targets)?;
    not_older(Role::Targets, trust.targets, targets_meta.version)?;
    not_expired(&snapshot, now)?;
    trust.snapshot = snapshot.version;

    belongs(Role::Targets, metadata.targets, targets_meta)?;
    let targets: Targets = Envelope::parse(Role::Targets, metadata.targets)?.verify(&root)?;
    same_version(&targets, targets_meta)?;
    not_expired(&targets, now)?;
    trust.targets = targets.version;
    Ok(targets)
}

/// Follows the chain of roots (5.3). A root has to be signed as the one before it demands and as it
/// demands itself.
fn update_root(trust: &mut Trust, roots: &[&[u8]]) -> Result<Root, Refusal> {
    let mut root = trust.root()?;
    if roots.len() > ROOTS_MAX {
        return Err(Refusal::Roots(roots.len()));
    }
    for bytes in roots {
        let envelope = Envelope::parse(Role::Root, bytes)?;
        let next: Root = envelope.read()?;
        if next.version <= root.version {
            continue;
        }
        if !follows(&envelope, &root, &next)? {
            return Err(Refusal::RootGap { trusted: root.version, got: next.version });
        }
        // 5.3.11: whoever had the old keys may have signed enormous version numbers (fast-forward
        // attack). With new keys the count begins anew; old files no longer verify anyway.
        let renewed = |role| keys(&root, role) != keys(&next, role);
        if renewed(Role::Timestamp) || renewed(Role::Snapshot) {
            (trust.timestamp, trust.snapshot, trust.targets) = (0, 0, 0);
        }
        if renewed(Role::Timestamp) {
            trust.floor = trust.built;
        }
        trust.root = bytes.to_vec();
        root = next;
    }
    Ok(root)
}

fn keys(root: &Root, role: Role) -> Option<Vec<ioex_base::Uid>> {
    root.signers(role).map(|(signers, _)| {
        let mut uids: Vec<_> = signers.into_values().collect();
        uids.sort_unstable();
        uids
    })
}

/// What time it is, as far as the device can know.
fn now(trust: &Trust, clock: Clock) -> Result<UnixSeconds, Refusal> {
    if clock.own.plus(CLOCK_SLACK_SECONDS) < trust.floor {
        return Err(Refusal::ClockBehind { own: Date(clock.own), floor: Date(trust.floor) });
    }
    Ok(clock.own.max(trust.floor))
}

fn not_expired<T: Signed>(metadata: &T, now: UnixSeconds) -> Result<(), Refusal> {
    let expires = metadata.expires();
    if now <= expires.0 {
        return Ok(());
    }
    Err(Refusal::Expired { role: T::ROLE, expires, now: Date(now) })
}

fn not_older(role: Role, seen: u64, got: u64) -> Result<(), Refusal> {
    if got >= seen { Ok(()) } else { Err(Refusal::Rollback { role, seen, got }) }
}

fn entry(meta: &BTreeMap<String, FileMeta>, role: Role) -> Result<&FileMeta, Refusal> {
    meta.get(&format!("{role}.json")).ok_or(Refusal::Mismatch { role, what: "absent" })
}

/// Whether `bytes` is the file that the role above names.
fn belongs(role: Role, bytes: &[u8], meta: &FileMeta) -> Result<(), Refusal> {
    if bytes.len() > role.max_bytes() {
        return Err(MetadataError::TooLong { role, max: role.max_bytes(), got: bytes.len() }.into());
    }
    if meta.length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Refusal::Mismatch { role, what: "length" });
    }
    let differs = |name: &str, hash: String| meta.hashes.get(name).is_some_and(|want| *want != hash);
    if differs(HASH_SHA256, HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref()))
        || differs(HASH_BLAKE3, blake3::hash(bytes).to_hex().to_string())
    {
        return Err(Refusal::Mismatch { role, what: "hash" });
    }
    Ok(())
}

fn same_version<T: Signed>(metadata: &T, meta: &FileMeta) -> Result<(), Refusal> {
    if metadata.version() == meta.version {
        return Ok(());
    }
    Err(Refusal::Mismatch { role: T::ROLE, what: "version" })
}

/// Chooses among the releases that [`admit`] lets in: a signed way back from exactly the installed version comes
/// first, for with it a maker withdraws what it rolled out; then the highest version that can follow, of those whose
/// rollout its maker did not end if there is one.
fn choose(targets: &Targets, device: &Device) -> Result<Verdict, Refusal> {
    let mut fit: Vec<(&Release, u64)> = Vec::new();
    let mut refused: Vec<(Version, Refusal)> = Vec::new();
    for target in targets.targets.values() {
        let Some(release) = target.custom.as_ref().and_then(|custom| custom.ioex.as_ref()) else { continue };
        match admit(release, device) {
            Ok(()) => fit.push((release, target.length)),
            Err(why) => refused.push((release.version, why)),
        }
    }
    let is_back = |release: &Release| release.downgrade_from.contains(&device.installed);
    // A version that the maker calls devices back from is offered to none of them again.
    let mut left: Vec<Version> = Vec::new();
    for target in targets.targets.values() {
        let Some(release) = target.custom.as_ref().and_then(|custom| custom.ioex.as_ref()) else { continue };
        if is_meant(release, device) {
            left.extend(&release.downgrade_from);
        }
    }
    // The way back from a version leads over one that was called back later, too: each step goes down.
    fit.retain(|(release, _)| is_back(release) || !left.contains(&release.version));
    let ended = |release: &Release| release.rollout.as_ref().is_some_and(|r| r.course == Course::Aborted);
    let best = fit.into_iter().max_by_key(|(release, _)| {
        (is_back(release), !left.contains(&release.version), !ended(release), release.version)
    });
    if let Some((release, length)) = best {
        release.check(length)?;
        return Ok(Verdict::Install(Box::new(release.clone())));
    }
    match refused.into_iter().max_by_key(|(version, why)| (nearness(why), *version)) {
        // What it runs, or older: nothing is wrong.
        None | Some((_, Refusal::Downgrade { .. })) => Ok(Verdict::NothingNew),
        Some((_, why)) => Err(why),
    }
}

/// How close a release that [`admit`] refused came: the closest says why there is none for a device.
fn nearness(why: &Refusal) -> u8 {
    match why {
        Refusal::StepMissing { .. } => 3,
        Refusal::Downgrade { .. } => 2,
        Refusal::WrongHardware(_) => 1,
        _ => 0,
    }
}

/// Whether a release is for devices of this kind.
fn is_meant(release: &Release, device: &Device) -> bool {
    release.brand == device.brand && release.model == device.model && release.runs_on(device.hardware)
}

fn step_missing(release: &Release, device: &Device) -> Refusal {
    let (installed, offered, follows) = (device.installed, release.version, release.follows);
    Refusal::StepMissing { installed, offered, follows }
}

/// Whether this device may install this release: asked when one is chosen, and once more right before installing,
/// for days may lie between a check and the owner's consent.
///
/// # Errors
/// [`Refusal::WrongDevice`], [`Refusal::WrongHardware`], [`Refusal::Downgrade`],
/// [`Refusal::StepMissing`].
pub fn admit(release: &Release, device: &Device) -> Result<(), Refusal> {
    if release.brand != device.brand || release.model != device.model {
        return Err(Refusal::WrongDevice { brand: device.brand.clone(), model: device.model.clone() });
    }
    if !release.runs_on(device.hardware) {
        return Err(Refusal::WrongHardware(device.hardware));
    }
    let (installed, offered) = (device.installed, release.version);
    if release.downgrade_from.contains(&installed) {
        return Ok(());
    }
    if offered <= installed {
        return Err(Refusal::Downgrade { installed, offered });
    }
    if release.follows > installed {
        return Err(step_missing(release, device));
    }
    Ok(())
}
