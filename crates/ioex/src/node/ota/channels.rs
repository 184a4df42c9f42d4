//! Channels that this node carries: metadata, for whoever asks.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

#[cfg(feature = "super")]
use ioex_base::UnixSeconds;
use ioex_base::{ContentAddress, wire};
use ioex_net::proto::{CHANNEL_MAX_BYTES, ChannelFiles};
#[cfg(feature = "super")]
use ioex_ota::{
    Clock, Metadata, Release, Trust,
    tuf::{Envelope, Role, Targets},
};
use ioex_ota::{ROOTS_MAX, channel_address};

use crate::node::{files, lock};

/// Most channels that one node carries.
const CHANNELS_MAX: usize = 4_096;
/// Of how many versions an origin keeps the packages when their orders have ended: as many as a device keeps.
#[cfg(feature = "super")]
const BASES: usize = 2;

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
        Ok(Trust::first(&root, UnixSeconds(0)).map_err(|e| e.to_string())?.root_version())
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
        let root = old.roots.last().ok_or("this node does not carry the channel")?;
        let mut here = Trust::first(root, UnixSeconds(0)).map_err(|e| e.to_string())?;
        // What is here may have expired: then anything that holds is later.
        if let Ok(trust) = follow(&here, &ChannelFiles { roots: Vec::new(), ..old.clone() }) {
            here = trust;
        }
        let brought = follow(&here, files).map_err(|e| e.to_string())?;
        if !brought.is_later_than(&here) {
            return Ok(false);
        }
        let mut roots = old.roots;
        for root in &files.roots {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
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
        let mut known = lock(&self.known);
        if !known.contains_key(&channel) && known.len() >= CHANNELS_MAX {
            return Err(io::Error::other(format!("a node carries at most {CHANNELS_MAX} channels")));
        }
        files::replace(&self.dir.join(channel.to_string()), &bytes)?;
        known.insert(channel, ());
        Ok(channel)
    }

    /// A device learned what comes after the roots that it has: `files` are those after them.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn learn(
        &self,
        channel: ContentAddress,
        first_root: &[u8],
        files: &ChannelFiles,
    ) -> io::Result<()> {
        let _turn = lock(&self.changing);
        let mut roots = match self.whole(&channel) {
            Ok(Some(old)) => old.roots,
            _ => vec![first_root.to_vec()],
        };
        for root in &files.roots {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        self.put(&ChannelFiles { roots, ..files.clone() }).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_a_root_gets_those_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let channels = Channels::open(dir.path()).unwrap();
        let root = |n: u8| vec![n; 3];
        let files = |roots: &[u8]| ChannelFiles {
            roots: roots.iter().map(|n| root(*n)).collect(),
            timestamp: vec![9],
            ..ChannelFiles::default()
        };
        let channel = channels.carry(&files(&[1])).unwrap();
        channels.learn(channel, &root(1), &files(&[2, 3])).unwrap();
        let channels = Channels::open(dir.path()).unwrap();
        assert_eq!(channels.all(), [channel]);
        let after = |version| channels.files(&channel, version).unwrap().unwrap().roots;
        assert_eq!(after(0), [root(1), root(2), root(3)]);
        assert_eq!(after(2), [root(3)]);
        assert_eq!(after(u64::MAX), [] as [Vec<u8>; 0]);
        assert!(channels.files(&ContentAddress::of(b"other"), 0).unwrap().is_none());
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
        let files = |folder: &crate::channel_folder::ChannelFolder| {
            let all = folder.channel.files();
            let one = |end: &str| all.iter().find(|(name, _)| name.ends_with(end)).unwrap().1.clone();
            ChannelFiles {
                roots: vec![one("1.root.json")],
                timestamp: one("timestamp.json"),
                snapshot: one(".snapshot.json"),
                targets: one(".targets.json"),
            }
        };
        let (mut folder, foreign) = (make("channel"), make("foreign"));
        let keys = folder.online_keys().unwrap();
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let first = files(&folder);
        let channel = channels.carry(&first).unwrap();
        folder.channel.refresh(&keys, now).unwrap();
        let second = files(&folder);
        let clock = Clock { own: now, vouched: true };
        let renew = |files: &ChannelFiles| channels.renew(channel, files, clock);
        let timestamp = || channels.files(&channel, 0).unwrap().unwrap().timestamp;
        assert!(renew(&ChannelFiles { roots: Vec::new(), ..files(&foreign) }).is_err(), "signed by others");
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
        use ioex_ota::{Release, Version, channel::PackageHash};

        let dir = tempfile::tempdir().unwrap();
        let (now, place) = (files::now(), dir.path().join("channel"));
        let mut folder =
            crate::channel_folder::ChannelFolder::create(&place, "acme", "box", 1, 1, now).unwrap();
        let keys = folder.online_keys().unwrap();
        for n in [2, 1, 10] {
            let mut hash = PackageHash::default();
            hash.update(&[n as u8]);
            let image = hash.image("app");
            let release = Release {
                brand: "acme".to_owned(),
                model: "box".to_owned(),
                hardware: Vec::new(),
                version: Version([1, n, 0, 0]),
                follows: Version::default(),
                downgrade_from: Vec::new(),
                manifest: ContentAddress::of(&[n as u8]),
                recipient: keys[0].uid(),
                matchers: Vec::new(),
                images: vec![image],
                rollout: None,
            };
            folder.channel.publish(release, hash.finish(), &keys, now).unwrap();
        }
        let all = folder.channel.files();
        let one = |end: &str| all.iter().find(|(name, _)| name.ends_with(end)).unwrap().1.clone();
        let files = ChannelFiles {
            roots: vec![one("1.root.json")],
            targets: one(".targets.json"),
            ..ChannelFiles::default()
        };
        let channels = Channels::open(&dir.path().join("channels")).unwrap();
        let channel = channels.carry(&files).unwrap();
        assert_eq!(channels.newest(&channel), [ContentAddress::of(&[10]), ContentAddress::of(&[2])]);
        assert_eq!(channels.newest(&ContentAddress::of(b"other")), []);
    }
}
