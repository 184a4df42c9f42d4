//! Replacing keys of a channel, also ones that are lost: what is replaced is known by the channel's root, not by its
//! secret.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use ioex_base::{NodeKey, Uid, UnixSeconds};
use ioex_ota::{
    channel::{ChannelError, KeyPlan, RootDraft},
    tuf::Role,
};

use super::{ChannelEdit, ChannelFolder, ONLINE};
use crate::{authority, exit::Usage};

/// The end of the name of a key that waits for its root.
const NEXT: &str = "next";

/// A draft of the next root.
#[derive(Debug)]
pub struct Rotation {
    /// Signed with the root keys that are at hand.
    pub draft: RootDraft,
    /// Files with new keys that were not there before.
    made: Vec<PathBuf>,
}

impl Rotation {
    /// Deletes the new keys: nobody gets the draft.
    pub fn forget(self) {
        for path in self.made {
            let _ = fs::remove_file(path);
        }
    }
}

impl ChannelEdit {
    fn next_key_path(&self, role: Role) -> anyhow::Result<PathBuf> {
        let name = match role {
            // A number of its own: a key elsewhere keeps its name.
            Role::Root => format!("root-{}", self.channel.root_keys_ever()?.len() + 1),
            role => role.to_string(),
        };
        Ok(self.key_path(&name).with_extension(format!("key.{NEXT}")))
    }

    /// Replaces the keys of some roles by a new one each and returns the draft of the next root, signed with what is
    /// here and with the root keys in the files `elsewhere`. Of several root keys, `replaced` goes. The new keys lie in
    /// the folder as `NAME.key.next` until [`ChannelEdit::adopt`].
    ///
    /// # Errors
    /// When it is not clear which root key goes, a key cannot be written or read, or a file `elsewhere` has no root key.
    pub fn rotate(
        &self,
        roles: &[Role],
        replaced: Option<Uid>,
        elsewhere: &[PathBuf],
        now: UnixSeconds,
    ) -> anyhow::Result<Rotation> {
        let mut at_hand = self.root_keys()?;
        for path in elsewhere {
            at_hand.push((path.clone(), authority::load(path)?));
        }
        let mut plan = self.plan()?;
        let root = plan.roles.get_mut(&Role::Root).context("the root names no root keys")?;
        if roles.contains(&Role::Root) {
            let gone = which_root(&root.keys, replaced, &at_hand)?;
            root.keys.retain(|uid| *uid != gone);
        } else if replaced.is_some() {
            return Err(
                Usage("--replace names a root key: write `rotate root --replace UID`".to_owned()).into()
            );
        }
        let mut made = Vec::new();
        let mut new_root = None;
        for role in roles {
            let next = self.next_key_path(*role)?;
            let fresh = !next.exists();
            let new = if fresh { authority::create(&next)? } else { authority::load(&next)? };
            let signers = plan.roles.get_mut(role).context("no such role")?;
            if *role == Role::Root {
                signers.keys.push(new.uid());
                new_root = Some(new);
            } else {
                signers.keys = vec![new.uid()];
            }
            if fresh {
                made.push(next);
            }
        }
        let keys = at_hand
            .iter()
            .enumerate()
            .map(|(n, (path, key))| (path, key, n < at_hand.len() - elsewhere.len()));
        match self.signed(&plan, keys, new_root.as_ref(), now) {
            Ok(draft) => Ok(Rotation { draft, made }),
            Err(e) => {
                made.iter().for_each(|path| drop(fs::remove_file(path)));
                Err(e)
            }
        }
    }

    /// The draft of the next root with the signatures of keys that are at hand; those that lie in the folder need not
    /// belong to the root.
    fn signed<'a>(
        &self,
        plan: &KeyPlan,
        keys: impl Iterator<Item = (&'a PathBuf, &'a NodeKey, bool)>,
        new_root: Option<&NodeKey>,
        now: UnixSeconds,
    ) -> anyhow::Result<RootDraft> {
        let mut draft = self.channel.draft_root(plan, now)?;
        for (path, key, here) in keys {
            match draft.sign(key) {
                Ok(()) | Err(ChannelError::Signed(_)) => {}
                Err(ChannelError::NoRootKey(_)) if here => {}
                Err(e) => return Err(e).with_context(|| path.display().to_string()),
            }
        }
        if let Some(key) = new_root {
            draft.sign(key)?;
        }
        Ok(draft)
    }

    /// Makes a draft the root, signs what is below it with the new keys, and puts those in place. New keys that the root
    /// does not name go.
    ///
    /// # Errors
    /// When signatures are missing; nothing has changed then.
    pub fn adopt(&mut self, draft: &RootDraft, now: UnixSeconds) -> anyhow::Result<()> {
        let named = |role: Role| -> Vec<Uid> {
            let signers = draft.root().signers(role).map(|(signers, _)| signers.into_values().collect());
            signers.unwrap_or_default()
        };
        let mut keys = Vec::new();
        for role in Role::ALL {
            let next = self.next_key_path(role)?;
            let new = if next.exists() { Some(authority::load(&next)?) } else { None };
            match new.filter(|key| named(role).contains(&key.uid())) {
                Some(key) => keys.push(key),
                None if ONLINE.contains(&role) => keys.push(self.key(&role.to_string())?),
                None => {}
            }
        }
        self.channel.adopt(draft, &keys, now)?;
        self.save()?;
        // From here on a power cut costs nothing: whoever opens the folder next does the rest.
        self.complete(now)?;
        for path in self.next_keys()? {
            // Its draft was to be the root that is there now, so nobody can adopt it any more.
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Completes a change of keys of which the new root is written: new keys that it names take their places, keys that
    /// it does not name any more are set aside, and what the keys before have signed is signed anew. A new key that it
    /// does not name stays, for it waits for its draft; the next rotation of its role uses it.
    ///
    /// # Errors
    /// When a file cannot be read, renamed or written.
    pub(super) fn complete(&mut self, now: UnixSeconds) -> anyhow::Result<()> {
        if !self.keys_wait()? {
            return Ok(());
        }
        let named = self.named()?;
        let mut renamed = Vec::new();
        let mut new = Vec::new();
        for path in self.next_keys()? {
            let key = authority::load(&path).ok().filter(|key| named.contains(&key.uid()));
            if let Some(key) = key {
                renamed.push(path);
                new.push(key);
            }
        }
        // Before the renaming: as long as a new key waits, whoever opens the folder comes here.
        if !self.channel.is_signed() {
            for role in ONLINE {
                new.extend(self.key(&role.to_string()).ok());
            }
            self.channel.sign_anew(&new, now)?;
            self.save()?;
        }
        let set_aside = |path: &Path| fs::rename(path, path.with_extension(format!("key.until-{}", now.0)));
        for (path, key) in self.root_keys()? {
            if !named.contains(&key.uid()) {
                set_aside(&path)?;
            }
        }
        for next in renamed {
            let place = next.with_extension("");
            if place.exists() {
                set_aside(&place)?;
            }
            fs::rename(&next, &place)?;
        }
        Ok(())
    }
}

impl ChannelFolder {
    /// The files with new keys.
    fn next_keys(&self) -> anyhow::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(self.dir.join("keys")) {
            Ok(entries) => entries,
            // A folder that came to another matcher has no secret keys.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).context("the folder with the keys"),
        };
        let is_next = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(&format!(".key.{NEXT}"))
        };
        let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_next).collect();
        all.sort();
        Ok(all)
    }

    /// The keys of all roles that the root names.
    fn named(&self) -> anyhow::Result<BTreeSet<Uid>> {
        Ok(self.plan()?.roles.into_values().flat_map(|signers| signers.keys).collect())
    }

    /// Whether a change of keys was cut: the root names a new key that is not in its place.
    pub(super) fn keys_wait(&self) -> anyhow::Result<bool> {
        let next = self.next_keys()?;
        if next.is_empty() {
            return Ok(false);
        }
        let named = self.named()?;
        // One that cannot be read, as a cut while it was made may leave it, belongs to no draft.
        Ok(next.iter().filter_map(|path| authority::load(path).ok()).any(|key| named.contains(&key.uid())))
    }
}

/// Which root key goes.
fn which_root(all: &[Uid], replaced: Option<Uid>, at_hand: &[(PathBuf, NodeKey)]) -> anyhow::Result<Uid> {
    let list = || -> String {
        let line = |uid: &Uid| {
            let place = at_hand.iter().find(|(_, key)| key.uid() == *uid);
            let place =
                place.map_or_else(|| "not at hand".to_owned(), |(path, _)| path.display().to_string());
            format!("\n  {uid}  {place}")
        };
        all.iter().map(line).collect()
    };
    match (replaced, all) {
        (Some(uid), _) => {
            ensure!(all.contains(&uid), "{uid} is no root key of this channel. Its root keys are:{}", list());
            Ok(uid)
        }
        (None, [only]) => Ok(*only),
        (None, _) => {
            bail!(Usage(format!("say which root key goes, with --replace UID. The root keys are:{}", list())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{channel_folder::ChannelFolder, node::files};

    /// A channel with root keys in a safe, and nothing of them in the folder.
    fn channel(parent: &Path, roots: u8, threshold: u8) -> (ChannelEdit, Vec<PathBuf>) {
        let dir = parent.join("channel");
        ChannelFolder::create(&dir, "acme", "box", roots, threshold, files::now()).unwrap();
        let safe = |n: u8| {
            let path = parent.join(format!("safe-{n}.key"));
            fs::rename(dir.join(format!("keys/root-{n}.key")), &path).unwrap();
            path
        };
        let safes = (1..=roots).map(safe).collect();
        (ChannelFolder::edit(&dir).unwrap(), safes)
    }

    fn uid(path: &Path) -> Uid {
        authority::load(path).unwrap().uid()
    }

    #[test]
    fn any_root_key_is_replaced_without_its_secret() {
        let parent = tempfile::tempdir().unwrap();
        let (mut folder, safe) = channel(parent.path(), 3, 2);
        let (now, lost) = (files::now(), uid(&safe[1]));
        fs::remove_file(&safe[1]).unwrap();
        let at_hand = [safe[0].clone(), safe[2].clone()];
        let why = folder.rotate(&[Role::Root], None, &at_hand, now).unwrap_err().to_string();
        assert!(why.contains(&format!("{lost}  not at hand")) && why.contains("safe-3.key"), "{why}");
        let next = folder.key_path("root-4").with_extension("key.next");
        assert!(!next.exists(), "a refusal leaves nothing");
        let rotation = folder.rotate(&[Role::Root], Some(lost), &at_hand, now).unwrap();
        assert!(next.exists());
        folder.adopt(&rotation.draft, now).unwrap();
        let roots = folder.plan().unwrap().roles[&Role::Root].keys.clone();
        let new = uid(&folder.key_path("root-4"));
        assert!(roots.len() == 3 && !roots.contains(&lost) && roots.contains(&new), "{roots:?}");
        // The next one gets another number, and the one before is put aside where it lies.
        let rotation = folder.rotate(&[Role::Root], Some(new), &at_hand, now).unwrap();
        folder.adopt(&rotation.draft, now).unwrap();
        assert!(folder.key_path("root-5").exists() && !folder.key_path("root-4").exists());
        ioex_ota::channel::Channel::load(|name| fs::read(folder.metadata().join(name)).ok()).unwrap();
    }

    #[test]
    fn lost_keys_of_other_roles_are_replaced_together() {
        let parent = tempfile::tempdir().unwrap();
        let (mut folder, safe) = channel(parent.path(), 2, 2);
        let now = files::now();
        for role in ONLINE {
            fs::remove_file(folder.key_path(&role.to_string())).unwrap();
        }
        let few = folder.rotate(&ONLINE, None, &safe[..1], now).unwrap();
        assert!(folder.adopt(&few.draft, now).is_err());
        few.forget();
        assert!(!folder.key_path("targets").with_extension("key.next").exists());
        let rotation = folder.rotate(&ONLINE, None, &safe, now).unwrap();
        folder.adopt(&rotation.draft, now).unwrap();
        let keys = folder.online_keys().unwrap();
        folder.channel.refresh(&keys, now).unwrap();
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }

    /// The power is cut after any file that a change of keys writes or renames: whoever opens the folder next finds keys
    /// and metadata that belong together.
    #[test]
    fn a_change_of_keys_that_a_cut_broke_off_is_completed_by_whoever_opens_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let (mut folder, safe) = channel(parent.path(), 1, 1);
        let (dir, now) = (folder.dir.clone(), files::now());
        let (keys, metadata) = (dir.join("keys"), folder.metadata());
        let all = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];
        let rotation = folder.rotate(&all, None, &safe, now).unwrap();
        let before = [parent.path().join("keys"), parent.path().join("metadata")];
        copy(&keys, &before[0]);
        copy(&metadata, &before[1]);
        folder.adopt(&rotation.draft, now).unwrap();
        drop(folder);
        let after = parent.path().join("after");
        copy(&metadata, &after);
        let written: Vec<_> =
            fs::read_dir(&after).unwrap().flatten().map(|entry| entry.file_name()).collect();
        // In the order in which they are written, but for the timestamp, which is last.
        let mut written: Vec<_> = written.into_iter().filter(|name| name != "timestamp.json").collect();
        written.sort();
        written.push("timestamp.json".into());
        // A key of a draft that nobody adopted yet.
        let other = before[0].join("other.key.next");
        authority::create(&other).unwrap();
        for cut in 1..=written.len() + 1 {
            fs::remove_dir_all(&keys).unwrap();
            fs::remove_dir_all(&metadata).unwrap();
            copy(&before[0], &keys);
            copy(&before[1], &metadata);
            for name in &written[..cut.min(written.len())] {
                fs::copy(after.join(name), metadata.join(name)).unwrap();
            }
            if cut > written.len() {
                // The first of the renamings, halfway.
                fs::rename(keys.join("targets.key"), keys.join("targets.key.until-1")).unwrap();
            }
            let opened = ChannelFolder::open(&dir).unwrap();
            if opened.channel.root().version == 1 {
                continue;
            }
            let plan = opened.plan().unwrap();
            for role in ONLINE {
                let key = opened.key(&role.to_string()).unwrap().uid();
                assert_eq!(plan.roles[&role].keys, [key], "{role} after cut {cut}");
            }
            assert_eq!(plan.roles[&Role::Root].keys, [uid(&opened.key_path("root-2"))]);
            assert!(opened.channel.is_signed(), "cut {cut}");
            let names: Vec<_> =
                fs::read_dir(&keys).unwrap().flatten().map(|entry| entry.file_name()).collect();
            let next = names.iter().filter(|name| name.to_string_lossy().ends_with(".next")).count();
            assert_eq!(next, 1, "the other draft's key stays: {names:?}");
            let mut edit = ChannelFolder::edit(&dir).unwrap();
            let keys = edit.online_keys().unwrap();
            edit.channel.refresh(&keys, now).unwrap();
            assert!(edit.channel.is_signed());
            // The next root makes the other draft impossible.
            let rotation = edit.rotate(&[Role::Timestamp], None, &[], now).unwrap();
            edit.adopt(&rotation.draft, now).unwrap();
            assert!(edit.next_keys().unwrap().is_empty());
        }
    }

    #[test]
    fn only_root_keys_sign_a_draft_and_each_once() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, safe) = channel(parent.path(), 2, 2);
        let mut draft = folder.rotate(&[Role::Targets], None, &safe[..1], files::now()).unwrap().draft;
        for (key, why) in [("targets", "is no root key"), ("snapshot", "is no root key")] {
            let refused = draft.sign(&folder.key(key).unwrap()).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
        let again = draft.sign(&authority::load(&safe[0]).unwrap()).unwrap_err().to_string();
        assert!(again.contains("already"), "{again}");
        // As it comes from elsewhere.
        let mut draft = RootDraft::from_bytes(&draft.to_bytes().unwrap()).unwrap();
        draft.sign(&authority::load(&safe[1]).unwrap()).unwrap();
        let wrong = [folder.key_path("targets")];
        assert!(folder.rotate(&[Role::Snapshot], None, &wrong, files::now()).is_err());
        assert!(!folder.key_path("snapshot").with_extension("key.next").exists());
    }
}
