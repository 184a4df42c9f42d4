//! Channels that this node carries: metadata, for whoever asks.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use ioex_base::{ContentAddress, UnixSeconds, wire};
use ioex_net::proto::{CHANNEL_MAX_BYTES, CHANNEL_ROOTS_MAX, ChannelFiles};
#[cfg(feature = "super")]
use ioex_ota::{
    Clock, Metadata, Release,
    tuf::{Envelope, Role, Targets},
};
use ioex_ota::{ROOTS_MAX, Trust, TrustError, channel_address, root_chain};

use crate::node::{files, lock};

/// Most channels that one node carries.
const CHANNELS_MAX: usize = 4_096;
/// Of how many versions an origin keeps the packages when their orders have ended: as many as a device keeps.
#[cfg(feature = "super")]
const BASES: usize = 2;

/// From the first root on, those that follow one another among what is here and what came. Nothing else is kept: whoever
/// brings a channel can put roots of other signers between them.
fn chain(first: &[u8], here: &[Vec<u8>], came: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, TrustError> {
    let mut roots = root_chain(first, here.iter().chain(came).map(Vec::as_slice))?;
    roots.insert(0, first.to_vec());
    Ok(roots)
}

/// The version of a root.
fn version_of(root: &[u8]) -> Result<u64, TrustError> {
    Ok(Trust::first(root, UnixSeconds(0))?.root_version())
}

/// The folder with one file for each channel: its metadata from the first root on.
pub(super) struct Channels {
    dir: PathBuf,
    known: Mutex<HashMap<ContentAddress, ()>>,
    /// Held by whoever reads a channel in order to change it.
    changing: Mutex<()>,
}

impl Channels {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let entries = fs::read_dir(dir)?.flatten();
        let known = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let known = Mutex::new(known.map(|address| (address, ())).collect());
        Ok(Self { dir: dir.to_owned(), known, changing: Mutex::default() })
    }

    pub(super) fn has(&self, channel: &ContentAddress) -> bool {
        lock(&self.known).contains_key(channel)
    }

    pub(super) fn all(&self) -> Vec<ContentAddress> {
        lock(&self.known).keys().copied().collect()
    }

    /// All files from the first root on.
    fn whole(&self, channel: &ContentAddress) -> io::Result<Option<ChannelFiles>> {
        if !self.has(channel) {
            return Ok(None);
        }
        let bytes = fs::read(self.dir.join(channel.to_string()))?;
        wire::decode(&bytes, CHANNEL_MAX_BYTES).map(Some).map_err(io::Error::other)
    }

    /// The files for whoever trusts the root with this version.
    pub(super) fn files(
        &self,
        channel: &ContentAddress,
        root_version: u64,
    ) -> io::Result<Option<ChannelFiles>> {
        let Some(mut files) = self.whole(channel)? else { return Ok(None) };
        let known = usize::try_from(root_version).unwrap_or(usize::MAX).min(files.roots.len());
        files.roots.drain(..known);
        files.roots.truncate(ROOTS_MAX);
        Ok(Some(files))
    }

    /// All versions in a channel; none when this node does not carry it.
    #[cfg(feature = "super")]
    pub(super) fn releases(&self, channel: &ContentAddress) -> Vec<Release> {
        let targets = self.whole(channel).ok().flatten().and_then(|files| {
            let envelope = Envelope::parse(Role::Targets, &files.targets).ok()?;
            envelope.read::<Targets>().ok()
        });
        let Some(targets) = targets else { return Vec::new() };
        targets.targets.into_values().filter_map(|target| target.custom?.ioex).collect()
    }

    /// The manifests of the newest versions in a channel, which the next one is packed against.
    #[cfg(feature = "super")]
    pub(super) fn newest(&self, channel: &ContentAddress) -> Vec<ContentAddress> {
        let mut releases = self.releases(channel);
        releases.sort_unstable_by_key(|release| std::cmp::Reverse((release.version, release.manifest)));
        releases.truncate(BASES);
        releases.into_iter().map(|release| release.manifest).collect()
    }

    /// The newest root of a channel.
    ///
    /// # Errors
    /// When this node does not carry it, or cannot read it.
    #[cfg(feature = "super")]
    pub(super) fn newest_root(&self, channel: &ContentAddress) -> Result<Vec<u8>, String> {
        let whole = self.whole(channel).map_err(|e| e.to_string())?;
        let root = whole.and_then(|mut files| files.roots.pop());
        root.ok_or_else(|| "this node does not carry the channel".to_owned())
    }

    /// The version of the newest root of a channel.
    ///
    /// # Errors
    /// As [`newest_root`](Self::newest_root).
    #[cfg(feature = "super")]
    pub(super) fn root_version(&self, channel: &ContentAddress) -> Result<u64, String> {
        let root = self.newest_root(channel)?;
        version_of(&root).map_err(|e| e.to_string())
    }

    /// Carries what somebody brought, when it holds and is later than what is here: `files` has the roots after that.
    /// Returns whether it is later.
    ///
    /// # Errors
    /// Why it does not hold, for people; or the disk fails.
    #[cfg(feature = "super")]
    pub(super) fn renew(
        &self,
        channel: ContentAddress,
        files: &ChannelFiles,
        clock: Clock,
    ) -> Result<bool, String> {
        let _turn = lock(&self.changing);
        let old = self.whole(&channel).map_err(|e| e.to_string())?.unwrap_or_default();
        let follow = |trust: &Trust, files: &ChannelFiles| {
            let roots: Vec<&[u8]> = files.roots.iter().map(Vec::as_slice).collect();
            let (timestamp, snapshot, targets) = (&files.timestamp, &files.snapshot, &files.targets);
            ioex_ota::follow(trust, clock, &Metadata { roots: &roots, timestamp, snapshot, targets })
        };
        let gone = || "this node does not carry the channel";
        let first = old.roots.first().ok_or_else(gone)?;
        let roots = chain(first, &old.roots, &[]).map_err(|e| e.to_string())?;
        let root = roots.last().ok_or_else(gone)?;
        let mut here = Trust::first(root, UnixSeconds(0)).map_err(|e| e.to_string())?;
        // What is here may have expired: then anything that holds is later.
        if let Ok(trust) = follow(&here, &ChannelFiles { roots: Vec::new(), ..old.clone() }) {
            here = trust;
        }
        let brought = follow(&here, files).map_err(|e| e.to_string())?;
        if !brought.is_later_than(&here) {
            return Ok(false);
        }
        let roots = chain(first, &roots, &files.roots).map_err(|e| e.to_string())?;
        self.put(&ChannelFiles { roots, ..files.clone() }).map_err(|e| e.to_string())?;
        Ok(true)
    }

    /// Carries these files from now on. The first root is the first of `files.roots`.
    ///
    /// # Errors
    /// When they are too long, or the disk fails.
    #[cfg(any(test, feature = "super"))]
    pub(super) fn carry(&self, files: &ChannelFiles) -> io::Result<ContentAddress> {
        let _turn = lock(&self.changing);
        self.put(files)
    }

    fn put(&self, files: &ChannelFiles) -> io::Result<ContentAddress> {
        let channel = channel_address(files.roots.first().map(Vec::as_slice).unwrap_or_default());
        let bytes = wire::encode(files);
        if bytes.len() > CHANNEL_MAX_BYTES {
            return Err(io::Error::other(format!("a channel has at most {CHANNEL_MAX_BYTES} bytes")));
        }
        if files.roots.len() > CHANNEL_ROOTS_MAX {
            return Err(io::Error::other(format!("a channel has at most {CHANNEL_ROOTS_MAX} roots")));
        }
        let mut known = lock(&self.known);
        if !known.contains_key(&channel) && known.len() >= CHANNELS_MAX {
            return Err(io::Error::other(format!("a node carries at most {CHANNELS_MAX} channels")));
        }
        files::replace(&self.dir.join(channel.to_string()), &bytes)?;
        known.insert(channel, ());
        Ok(channel)
    }

    /// After which root a device asks for more: the newest one here to which the chain from its first root leads, so
    /// that what it hands on has no gap, and at most the one that it trusts.
    pub(super) fn asks_after(&self, channel: &ContentAddress, first_root: &[u8], trusted: u64) -> u64 {
        let here = self.whole(channel).ok().flatten().unwrap_or_default().roots;
        let newest = chain(first_root, &here, &[]).ok().and_then(|roots| version_of(roots.last()?).ok());
        // Of a copy that is further behind, what comes at once would not reach what is trusted.
        newest
            .filter(|newest| trusted.saturating_sub(*newest) < ROOTS_MAX as u64)
            .unwrap_or(trusted)
            .min(trusted)
    }

    /// A device learned what comes after the roots that it has: `files` has those after the root for which it asked, and
    /// holds for whoever trusts the root with the version `trusted`. A copy that lacks roots up to that one is of no use
    /// to others: it gets the roots, and the rest stays.
    ///
    /// # Errors
    /// When the disk fails, or `first_root` is none.
    pub(super) fn learn(
        &self,
        channel: ContentAddress,
        first_root: &[u8],
        files: &ChannelFiles,
        trusted: u64,
    ) -> io::Result<()> {
        let _turn = lock(&self.changing);
        let old = self.whole(&channel).ok().flatten();
        let here = old.as_ref().map_or(&[][..], |old| &old.roots);
        let roots = chain(first_root, here, &files.roots).map_err(io::Error::other)?;
        let newest = roots.last().map_or(Ok(0), |root| version_of(root)).map_err(io::Error::other)?;
        let rest = if newest >= trusted { Some(files.clone()) } else { old };
        rest.map_or(Ok(()), |rest| self.put(&ChannelFiles { roots, ..rest }).map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ota::fixture::files_of;

    /// A channel whose keys were replaced `changes` times, with its files after each change.
    fn rotated(place: &Path, changes: usize) -> Vec<ChannelFiles> {
        use crate::channel_folder::ChannelFolder;

        let now = files::now();
        ChannelFolder::create(place, "acme", "box", 1, 1, now).unwrap();
        let mut all = Vec::new();
        for n in 0..=changes {
            let mut folder = ChannelFolder::edit(place).unwrap();
            if n > 0 {
                let made = folder.rotate(&[ioex_ota::tuf::Role::Timestamp], None, &[], now).unwrap();
                folder.adopt(&made.draft, now).unwrap();
            }
            all.push(files_of(&folder));
        }
        all
    }

    /// What comes for whoever has the first `known` roots.
    fn after(files: &ChannelFiles, known: usize) -> ChannelFiles {
        ChannelFiles { roots: files.roots[known..].to_vec(), ..files.clone() }
    }

    #[test]
    fn who_knows_a_root_gets_those_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let all = rotated(&dir.path().join("channel"), 2);
        let roots = &all[2].roots;
        let channel = channels.carry(&all[0]).unwrap();
        channels.learn(channel, &roots[0], &after(&all[2], 1), 3).unwrap();
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        assert_eq!(channels.all(), [channel]);
        let after = |version| channels.files(&channel, version).unwrap().unwrap().roots;
        assert_eq!(after(0), roots[..]);
        assert_eq!(after(2), roots[2..]);
        assert_eq!(after(u64::MAX), [] as [Vec<u8>; 0]);
        assert!(channels.files(&ContentAddress::of(b"other"), 0).unwrap().is_none());
    }

    /// Roots of a stranger in front of genuine files are signed by themselves, and nobody's here.
    #[test]
    fn roots_of_other_signers_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let genuine = rotated(&dir.path().join("channel"), 1);
        let foreign = rotated(&dir.path().join("foreign"), 1);
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let channel = channels.carry(&genuine[0]).unwrap();
        let first = &genuine[0].roots[0];
        let garbage = vec![7; 9];
        let mixed = |files: &ChannelFiles| {
            let mut roots = vec![foreign[1].roots[0].clone(), garbage.clone()];
            roots.extend(files.roots.clone());
            roots.extend(foreign[1].roots.clone());
            ChannelFiles { roots, ..files.clone() }
        };
        channels.learn(channel, first, &mixed(&after(&genuine[0], 1)), 1).unwrap();
        let kept = |channels: &Channels| channels.files(&channel, 0).unwrap().unwrap().roots;
        assert_eq!(kept(&channels), genuine[0].roots);
        channels.learn(channel, first, &mixed(&after(&genuine[1], 1)), 2).unwrap();
        assert_eq!(kept(&channels), genuine[1].roots);
        // A copy of before, into which such a root came, is mended.
        channels
            .carry(&ChannelFiles { roots: mixed(&genuine[0]).roots[2..].to_vec(), ..genuine[0].clone() })
            .unwrap();
        assert_eq!(channels.asks_after(&channel, first, 1), 1);
        channels.learn(channel, first, &after(&genuine[1], 1), 2).unwrap();
        assert_eq!(kept(&channels), genuine[1].roots);
    }

    /// A matcher that trusted the last of what lay there would follow whoever brought it from then on.
    #[cfg(feature = "super")]
    #[test]
    fn another_matcher_cannot_replace_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let (now, place) = (files::now(), dir.path().join("channel"));
        let genuine = rotated(&place, 1);
        let foreign = rotated(&dir.path().join("foreign"), 0).remove(0);
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let channel = channels.carry(&genuine[0]).unwrap();
        let clock = Clock { own: now, vouched: true };
        let mut brought = after(&genuine[1], 1);
        brought.roots.insert(0, foreign.roots[0].clone());
        assert_eq!(channels.renew(channel, &brought, clock), Ok(true));
        let kept = channels.files(&channel, 0).unwrap().unwrap();
        assert!(kept == genuine[1]);
        let taken_over = ChannelFiles { roots: Vec::new(), ..foreign };
        assert!(channels.renew(channel, &taken_over, clock).is_err());
    }

    /// A device that trusts a root that its copy lacks, because the rest that came with it did not hold.
    #[test]
    fn a_device_hands_on_every_root() {
        let dir = tempfile::tempdir().unwrap();
        let all = rotated(&dir.path().join("channel"), 3);
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let (first, channel) = (&all[0].roots[0], channel_address(&all[0].roots[0]));
        assert_eq!(channels.asks_after(&channel, first, 1), 1);
        channels.learn(channel, first, &after(&all[0], 1), 1).unwrap();
        assert_eq!(channels.asks_after(&channel, first, 3), 1, "the copy lacks two");
        assert_eq!(channels.asks_after(&channel, first, 1 + ROOTS_MAX as u64), 1 + ROOTS_MAX as u64);
        // Somebody brought only what comes after the trusted one: of no use to others, who trust the first.
        channels.learn(channel, first, &after(&all[3], 3), 4).unwrap();
        assert!(channels.files(&channel, 0).unwrap().unwrap() == all[0]);
        channels.learn(channel, first, &after(&all[3], 1), 4).unwrap();
        assert!(channels.files(&channel, 0).unwrap().unwrap() == all[3]);
        assert_eq!(channels.asks_after(&channel, first, 4), 4);
    }

    /// Orders are compared with it, however often the keys changed.
    #[cfg(feature = "super")]
    #[test]
    fn the_newest_root_is_found_after_any_number_of_changes() {
        let dir = tempfile::tempdir().unwrap();
        let channels = Channels::open(dir.path()).unwrap();
        let all: Vec<Vec<u8>> = (0..=ROOTS_MAX as u8).map(|n| vec![n; 3]).collect();
        let files = ChannelFiles { roots: all.clone(), ..ChannelFiles::default() };
        let channel = channels.carry(&files).unwrap();
        assert_eq!(channels.newest_root(&channel).as_ref(), Ok(&all[ROOTS_MAX]));
        assert!(channels.newest_root(&ContentAddress::of(b"other")).is_err());
    }

    /// What another matcher brings counts only when it is signed, and later.
    #[cfg(feature = "super")]
    #[test]
    fn a_channel_is_renewed_by_what_is_signed_and_later() {
        let dir = tempfile::tempdir().unwrap();
        let now = files::now();
        let make = |name: &str| {
            let place = dir.path().join(name);
            crate::channel_folder::ChannelFolder::create(&place, "acme", "box", 1, 1, now).unwrap()
        };
        let (mut folder, foreign) = (make("channel"), make("foreign"));
        let keys = folder.online_keys().unwrap();
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let first = files_of(&folder);
        let channel = channels.carry(&first).unwrap();
        folder.channel.refresh(&keys, now).unwrap();
        let second = files_of(&folder);
        let clock = Clock { own: now, vouched: true };
        let renew = |files: &ChannelFiles| channels.renew(channel, files, clock);
        let timestamp = || channels.files(&channel, 0).unwrap().unwrap().timestamp;
        assert!(
            renew(&ChannelFiles { roots: Vec::new(), ..files_of(&foreign) }).is_err(),
            "signed by others"
        );
        assert!(renew(&first) == Ok(false));
        assert!(timestamp() == first.timestamp);
        assert!(renew(&second) == Ok(true) && timestamp() == second.timestamp);
        assert!(renew(&first).is_err(), "older than what is here");
        assert!(timestamp() == second.timestamp);
        assert!(channels.renew(ContentAddress::of(b"other"), &second, clock).is_err());
    }

    #[cfg(feature = "super")]
    #[test]
    fn the_newest_versions_are_what_the_next_one_is_packed_against() {
        use ioex_ota::{Release, Version};

        use crate::node::ota::fixture::{hash, release};

        let dir = tempfile::tempdir().unwrap();
        let (now, place) = (files::now(), dir.path().join("channel"));
        let mut folder =
            crate::channel_folder::ChannelFolder::create(&place, "acme", "box", 1, 1, now).unwrap();
        let keys = folder.online_keys().unwrap();
        for n in [2, 1, 10] {
            let manifest = ContentAddress::of(&[n as u8]);
            let release = Release { version: Version([1, n, 0, 0]), manifest, ..release() };
            folder.channel.publish(release, hash().finish(), &keys, now).unwrap();
        }
        let files = files_of(&folder);
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let channel = channels.carry(&files).unwrap();
        assert_eq!(channels.newest(&channel), [ContentAddress::of(&[10]), ContentAddress::of(&[2])]);
        assert_eq!(channels.newest(&ContentAddress::of(b"other")), []);
    }
}
