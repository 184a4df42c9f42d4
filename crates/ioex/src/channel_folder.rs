//! A maker's channel as a folder: keys, signed metadata, the roster.
//!
//! - `channel.json`: brand and model.
//! - `keys/`: `root-1.key`, … (to be moved to a safe place), `targets.key`, `snapshot.key`, `timestamp.key`;
//!   `package.key`, which goes into the firmware; `pack.key`, under which versions share their content.
//! - `metadata/`: what is published.
//! - `roster.txt`: the devices, a UID in each line.
//! - `lock`: locked by the command that changes the folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
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
        let used = dir.is_dir() && fs::read_dir(dir)?.next().is_some();
        ensure!(!used, "{} is not empty: a channel gets a folder of its own", dir.display());
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

    /// Opens a folder.
    ///
    /// # Errors
    /// When it is no channel's.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
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
        Self::open(dir)?;
        let path = dir.join("lock");
        let at = || format!("cannot lock {}", path.display());
        let lock = File::options().create(true).truncate(false).write(true).open(&path).with_context(at)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another command changes the channel {} just now: wait until it has ended, then try again",
                dir.display()
            ),
            Err(TryLockError::Error(e)) => return Err(e).with_context(at),
        }
        // Anew: the one before may have changed it until now.
        Ok(ChannelEdit { folder: Self::open(dir)?, _lock: lock })
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

    /// The root keys that lie here.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn root_keys(&self) -> anyhow::Result<Vec<NodeKey>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(self.dir.join("keys"))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("root-") && name.ends_with(".key") {
                keys.push(authority::load(&entry.path())?);
            }
        }
        Ok(keys)
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

    fn next_key_path(&self, role: Role) -> PathBuf {
        let name = if role == Role::Root { "root-1".to_owned() } else { role.to_string() };
        self.dir.join("keys").join(format!("{name}.key.next"))
    }
}

impl ChannelEdit {
    /// Writes the metadata.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn save(&self) -> anyhow::Result<()> {
        self.folder.save()
    }

    /// Replaces a role's key by a new one and returns the draft of the next root, signed with what is here.
    /// The new key lies in the folder as `ROLE.key.next` until [`ChannelEdit::adopt`].
    ///
    /// # Errors
    /// When a key cannot be written or read.
    pub fn rotate(&self, role: Role, elsewhere: &[PathBuf], now: UnixSeconds) -> anyhow::Result<RootDraft> {
        let mut plan = self.plan()?;
        let next = self.next_key_path(role);
        let new = if next.exists() { authority::load(&next)? } else { authority::create(&next)? };
        let here =
            if role == Role::Root { self.key("root-1")?.uid() } else { self.key(&role.to_string())?.uid() };
        let signers = plan.roles.get_mut(&role).context("no such role")?;
        signers.keys.retain(|uid| *uid != here && *uid != new.uid());
        signers.keys.push(new.uid());
        let mut draft = self.channel.draft_root(&plan, now)?;
        for key in self.root_keys()? {
            draft.sign(&key)?;
        }
        for path in elsewhere {
            draft.sign(&authority::load(path)?)?;
        }
        if role == Role::Root {
            draft.sign(&new)?;
        }
        Ok(draft)
    }

    /// Makes a draft the root, signs what is below it with the new keys, and puts those in place.
    ///
    /// # Errors
    /// When signatures are missing; nothing has changed then.
    pub fn adopt(&mut self, draft: &RootDraft, now: UnixSeconds) -> anyhow::Result<()> {
        let mut keys = Vec::new();
        let mut renamed = Vec::new();
        for role in Role::ALL {
            let next = self.next_key_path(role);
            let named =
                draft.root().signers(role).map(|(signers, _)| signers.into_values().collect::<Vec<_>>());
            let new = if next.exists() { Some(authority::load(&next)?) } else { None };
            let new = new.filter(|key| named.iter().flatten().any(|uid| *uid == key.uid()));
            if new.is_some() {
                renamed.push(next.clone());
            }
            match new {
                Some(key) => keys.push(key),
                None if role == Role::Root => {}
                None => keys.push(self.key(&role.to_string())?),
            }
        }
        self.channel.adopt(draft, &keys, now)?;
        self.save()?;
        for next in renamed {
            let place = next.with_extension("");
            let old = place.with_extension(format!("key.until-{}", now.0));
            if place.exists() {
                fs::rename(&place, &old)?;
            }
            fs::rename(&next, &place)?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

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
        ChannelFolder::edit(&dir).unwrap();
        let nothing = parent.path().join("nothing");
        assert!(ChannelFolder::edit(&nothing).is_err() && !nothing.exists());
    }
}
