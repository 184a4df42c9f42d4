//! A maker's channel as a folder: keys, signed metadata, the roster.
//!
//! - `channel.json`: brand and model.
//! - `keys/`: `root-1.key`, … (to be moved to a safe place), `targets.key`, `snapshot.key`, `timestamp.key`;
//!   `package.key`, which goes into the firmware; `pack.key`, under which versions share their content.
//! - `metadata/`: what is published.
//! - `shards.json`: how many shards the package of each version has, by manifest.
//! - `roster.txt`: the devices, a UID in each line.
//! - `lock`: locked by the command that changes the folder.

mod rotation;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use ioex_api::{ApiError, ErrorCode};
use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use ioex_ota::{
    channel::{Channel, KeyPlan, RootDraft, Signers},
    channel_address,
    tuf::Role,
};
use serde::{Deserialize, Serialize};

use crate::{
    authority,
    node::{
        files,
        ota::{BUNDLE_FORMAT, BundleFile},
    },
};

/// The format of `channel.json`.
const FORMAT: u8 = 1;
/// Roles whose keys sign where publishing happens.
pub const ONLINE: [Role; 3] = [Role::Targets, Role::Snapshot, Role::Timestamp];

#[derive(Serialize, Deserialize)]
struct About {
    format: u8,
    brand: String,
    model: String,
}

/// An opened channel folder.
#[derive(Debug)]
pub struct ChannelFolder {
    dir: PathBuf,
    /// The devices' brand.
    pub brand: String,
    /// The devices' model.
    pub model: String,
    /// The metadata as it is published.
    pub channel: Channel,
}

/// A channel folder that nobody else changes meanwhile.
#[derive(Debug)]
pub struct ChannelEdit {
    folder: ChannelFolder,
    /// Unlocked when it is closed.
    _lock: File,
}

impl Deref for ChannelEdit {
    type Target = ChannelFolder;
    fn deref(&self) -> &ChannelFolder {
        &self.folder
    }
}

impl DerefMut for ChannelEdit {
    fn deref_mut(&mut self) -> &mut ChannelFolder {
        &mut self.folder
    }
}

/// Locks a channel's folder; nothing when another command has it.
fn try_lock(dir: &Path) -> anyhow::Result<Option<File>> {
    let path = dir.join("lock");
    let at = || format!("cannot lock {}", path.display());
    let lock = File::options().create(true).truncate(false).write(true).open(&path).with_context(at)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e).with_context(at),
    }
}

fn seed_hex(key: &NodeKey) -> String {
    data_encoding::HEXLOWER.encode(key.seed().as_ref())
}

impl ChannelFolder {
    /// Makes keys and an empty channel in a new folder.
    ///
    /// # Errors
    /// When the folder is not empty, or cannot be written.
    pub fn create(
        dir: &Path,
        brand: &str,
        model: &str,
        root_keys: u8,
        threshold: u8,
        now: UnixSeconds,
    ) -> anyhow::Result<Self> {
        ensure!(
            threshold <= root_keys,
            "{threshold} of {root_keys} root keys can never sign: lower --threshold"
        );
        for (what, name) in [("brand", brand), ("model", model)] {
            ensure!(
                ioex_ota::release::is_name(name),
                "{name:?} is no {what}: letters, digits, '-', '_', '.' and spaces"
            );
        }
        if dir.is_dir() && fs::read_dir(dir)?.next().is_some() {
            let why = format!("{} is not empty: a channel gets a folder of its own", dir.display());
            return Err(ApiError::new(ErrorCode::Exists, why).into());
        }
        let keys = dir.join("keys");
        files::private_dir(dir)?;
        files::private_dir(&keys)?;
        let make = |name: &str| authority::create(&keys.join(name));
        let roots: Vec<NodeKey> =
            (1..=root_keys).map(|n| make(&format!("root-{n}.key"))).collect::<Result<_, _>>()?;
        let mut roles = BTreeMap::new();
        let uids = |keys: &[NodeKey]| keys.iter().map(NodeKey::uid).collect();
        roles.insert(Role::Root, Signers { keys: uids(&roots), threshold: u32::from(threshold) });
        let mut online = Vec::new();
        for role in ONLINE {
            let key = make(&format!("{role}.key"))?;
            roles.insert(role, Signers { keys: vec![key.uid()], threshold: 1 });
            online.push(key);
        }
        make("package.key")?;
        make("pack.key")?;
        let mut draft = RootDraft::new(&KeyPlan { roles }, now)?;
        for key in &roots {
            draft.sign(key)?;
        }
        let channel = Channel::create(&draft, &online, now)?;
        let about = About { format: FORMAT, brand: brand.to_owned(), model: model.to_owned() };
        fs::create_dir(dir.join("metadata"))?;
        fs::write(dir.join("roster.txt"), "# One UID in each line.\n")?;
        let folder = Self { dir: dir.to_owned(), brand: brand.to_owned(), model: model.to_owned(), channel };
        folder.save()?;
        // Last, so that a folder with it is whole.
        fs::write(dir.join("channel.json"), serde_json::to_vec_pretty(&about)?)?;
        Ok(folder)
    }

    /// Opens a folder. What a power cut left half done of a change of keys is completed first, unless another command
    /// changes the folder just now.
    ///
    /// # Errors
    /// When it is no channel's, or a change of keys cannot be completed.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let folder = Self::read(dir)?;
        if folder.keys_wait()?
            && let Some(lock) = try_lock(dir)?
        {
            let mut edit = ChannelEdit { folder: Self::read(dir)?, _lock: lock };
            edit.complete(files::now())?;
            return Ok(edit.folder);
        }
        Ok(folder)
    }

    /// Reads what is there.
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("channel.json");
        let bytes = fs::read(&path).with_context(|| {
            format!("{} is no channel: make one with `ioex ota channel create`", dir.display())
        })?;
        let about: About =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
        ensure!(
            about.format == FORMAT,
            "{} has format {}, this program reads {FORMAT}: update the program",
            path.display(),
            about.format
        );
        let metadata = dir.join("metadata");
        let channel = Channel::load(|name| fs::read(metadata.join(name)).ok())
            .with_context(|| format!("the metadata in {} cannot be read", metadata.display()))?;
        Ok(Self { dir: dir.to_owned(), brand: about.brand, model: about.model, channel })
    }

    /// Opens a folder to change it.
    ///
    /// # Errors
    /// When it is no channel's, or another command changes it just now.
    pub fn edit(dir: &Path) -> anyhow::Result<ChannelEdit> {
        // Without this, a wrong path would get a lock file.
        Self::read(dir)?;
        let Some(lock) = try_lock(dir)? else {
            bail!(
                "another command changes the channel {} just now: wait until it has ended, then try again",
                dir.display()
            )
        };
        // Anew: the one before may have changed it until now.
        let mut edit = ChannelEdit { folder: Self::read(dir)?, _lock: lock };
        edit.complete(files::now())?;
        Ok(edit)
    }

    /// Writes the metadata; the timestamp comes last, for it names the others.
    fn save(&self) -> anyhow::Result<()> {
        let files = self.channel.files();
        let (last, first): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == "timestamp.json");
        for (name, bytes) in first.into_iter().chain(last) {
            let path = self.metadata().join(name);
            files::replace(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The folder with the metadata.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.dir.join("metadata")
    }

    /// The file with the devices.
    #[must_use]
    pub fn roster(&self) -> PathBuf {
        self.dir.join("roster.txt")
    }

    /// The file of a key.
    #[must_use]
    pub fn key_path(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(format!("{name}.key"))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it is not here, or others may read it.
    pub fn key(&self, name: &str) -> anyhow::Result<NodeKey> {
        Ok(authority::load(&self.key_path(name))?)
    }

    /// The keys that sign where publishing happens.
    ///
    /// # Errors
    /// When one is missing.
    pub fn online_keys(&self) -> anyhow::Result<Vec<NodeKey>> {
        ONLINE.iter().map(|role| self.key(&role.to_string())).collect()
    }

    /// The root keys that lie here, with their files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn root_keys(&self) -> anyhow::Result<Vec<(PathBuf, NodeKey)>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(self.dir.join("keys"))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("root-") && name.ends_with(".key") {
                keys.push((entry.path(), authority::load(&entry.path())?));
            }
        }
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(keys)
    }

    fn all_shards(&self) -> anyhow::Result<BTreeMap<ContentAddress, u32>> {
        let path = self.dir.join("shards.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    /// How many shards a version's package has; nothing when it was not published from this folder.
    ///
    /// # Errors
    /// When the note cannot be read.
    pub fn shards(&self, manifest: &ContentAddress) -> anyhow::Result<Option<u32>> {
        Ok(self.all_shards()?.get(manifest).copied())
    }

    /// The channel's address.
    #[must_use]
    pub fn address(&self) -> ContentAddress {
        channel_address(&self.first_root())
    }

    fn first_root(&self) -> Vec<u8> {
        self.channel.files().remove("1.root.json").unwrap_or_default()
    }

    /// What goes into the devices' firmware.
    ///
    /// # Errors
    /// When the package key is missing.
    pub fn bundle(&self, matchers: Vec<Uid>, built: UnixSeconds) -> anyhow::Result<Vec<u8>> {
        let bundle = BundleFile {
            format: BUNDLE_FORMAT,
            brand: self.brand.clone(),
            model: self.model.clone(),
            root: String::from_utf8(self.first_root())?,
            package_key: seed_hex(&self.key("package")?),
            pack_key: Some(self.pack_key()?),
            matchers,
            built,
        };
        Ok(serde_json::to_vec_pretty(&bundle)?)
    }

    /// The packing key in hexadecimal, for the super node.
    ///
    /// # Errors
    /// When it is missing.
    pub fn pack_key(&self) -> anyhow::Result<String> {
        Ok(seed_hex(&self.key("pack")?))
    }

    /// The keys of all roles as they are now.
    ///
    /// # Errors
    /// When the root says nothing of a role.
    pub fn plan(&self) -> anyhow::Result<KeyPlan> {
        let root = self.channel.root();
        let mut roles = BTreeMap::new();
        for role in Role::ALL {
            let Some((signers, threshold)) = root.signers(role) else {
                bail!("the root names no {role} keys")
            };
            let threshold = u32::try_from(threshold)?;
            roles.insert(role, Signers { keys: signers.into_values().collect(), threshold });
        }
        Ok(KeyPlan { roles })
    }
}

impl ChannelEdit {
    /// Notes how many shards a version's package has.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn note_shards(&self, manifest: &ContentAddress, shards: u32) -> anyhow::Result<()> {
        let mut all = self.all_shards()?;
        all.insert(*manifest, shards);
        let path = self.dir.join("shards.json");
        files::replace(&path, &serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the metadata.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn save(&self) -> anyhow::Result<()> {
        self.folder.save()
    }

    /// The changes are made: others may change the folder from here on.
    #[must_use]
    pub fn into_folder(self) -> ChannelFolder {
        self.folder
    }
}

/// The devices of a roster: a UID in each line, `#` begins a remark.
///
/// # Errors
/// When it cannot be read, or a line is no UID.
pub fn read_roster(path: &Path) -> anyhow::Result<BTreeSet<Uid>> {
    let text = fs::read_to_string(path).with_context(|| format!("the roster {}", path.display()))?;
    let mut roster = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let uid = line.parse();
            let wrong = |_| anyhow::anyhow!("{}, line {}: '{line}' is no UID", path.display(), number + 1);
            roster.insert(uid.map_err(wrong)?);
        }
    }
    Ok(roster)
}

/// A roster's text with further devices, each in a line of its own, whatever the last line ends with.
#[must_use]
pub fn with(mut text: String, new: &[Uid]) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.extend(new.iter().map(|uid| format!("{uid}\n")));
    text
}

/// A roster's text without some devices; remarks stay.
#[must_use]
pub fn without(text: &str, gone: &[Uid]) -> String {
    let stays = |line: &&str| {
        let uid = line.split('#').next().unwrap_or_default().trim().parse::<Uid>();
        !uid.is_ok_and(|uid| gone.contains(&uid))
    };
    text.lines().filter(stays).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_from_a_roster_takes_no_remark_and_nobody_else_along() {
        let [a, b] = [1, 2].map(|n| NodeKey::from_seed([n; 32]).uid());
        let text = format!("# devices\n{a}\n {b} # the second\n{a}\n");
        assert_eq!(without(&text, &[a]), format!("# devices\n {b} # the second\n"));
    }

    #[test]
    fn who_comes_onto_a_roster_gets_a_line_of_its_own() {
        let [a, b] = [1, 2].map(|n| NodeKey::from_seed([n; 32]).uid());
        assert_eq!(with(format!("# devices\n{a}"), &[b]), format!("# devices\n{a}\n{b}\n"));
        assert_eq!(with(format!("{a}\n"), &[b]), format!("{a}\n{b}\n"));
        assert_eq!(with(String::new(), &[b, a]), format!("{b}\n{a}\n"));
    }

    #[test]
    fn how_many_shards_a_package_has_is_noted() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("channel");
        let folder = ChannelFolder::create(&dir, "acme", "box", 1, 1, files::now()).unwrap();
        let [a, b] = [b"a", b"b"].map(|name| ContentAddress::of(name));
        assert_eq!(folder.shards(&a).unwrap(), None);
        let edit = ChannelFolder::edit(&dir).unwrap();
        edit.note_shards(&a, 9).unwrap();
        edit.note_shards(&b, 3).unwrap();
        assert_eq!((folder.shards(&a).unwrap(), folder.shards(&b).unwrap()), (Some(9), Some(3)));
    }

    #[test]
    fn one_command_at_a_time_changes_a_channel() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("channel");
        ChannelFolder::create(&dir, "acme", "box", 1, 1, files::now()).unwrap();
        let first = ChannelFolder::edit(&dir).unwrap();
        let why = ChannelFolder::edit(&dir).unwrap_err().to_string();
        assert!(why.contains("try again"), "{why}");
        // Whoever only looks is not kept out.
        ChannelFolder::open(&dir).unwrap();
        drop(first);
        let made = ChannelFolder::edit(&dir).unwrap().into_folder();
        // What is told of the changes waits for others; the folder does not.
        ChannelFolder::edit(&dir).unwrap();
        drop(made);
        let nothing = parent.path().join("nothing");
        assert!(ChannelFolder::edit(&nothing).is_err() && !nothing.exists());
    }
}
