//! Grants that their authority took back, as files that it signed say.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use ioex_base::{GrantId, Uid};

use crate::authority;

/// How often a file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The lists of revoked grants, read again when their files change.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    files: Vec<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    /// What each file looked like when it was read last.
    read: BTreeMap<PathBuf, Stamp>,
    /// Number and grants of the newest list of each issuer.
    lists: BTreeMap<Uid, (u64, HashSet<GrantId>)>,
}

/// When a file was changed, and how long it is.
type Stamp = Option<(SystemTime, u64)>;

impl Revoked {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or is no list: with a list missing, what was revoked would be let in.
    pub(crate) fn open(files: Vec<PathBuf>) -> anyhow::Result<Self> {
        let revoked = Self { files, state: Mutex::default() };
        let mut state = State::default();
        for file in &revoked.files {
            state.read_again(file).with_context(|| "the list of revoked grants cannot be used")?;
        }
        state.looked = Some(Instant::now());
        Ok(Self { state: Mutex::new(state), ..revoked })
    }

    /// Whether `issuer` revoked this grant.
    pub(crate) fn contains(&self, issuer: &Uid, id: &GrantId) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            state.look(&self.files);
        }
        state.lists.get(issuer).is_some_and(|(_, ids)| ids.contains(id))
    }
}

impl State {
    fn look(&mut self, files: &[PathBuf]) {
        self.looked = Some(Instant::now());
        for file in files {
            if self.read.get(file) == Some(&stamp(file)) {
                continue;
            }
            // What was revoked stays so, whatever became of the file.
            if let Err(e) = self.read_again(file) {
                tracing::warn!("the last list of revoked grants stays in use: {e:#}");
            }
        }
    }

    fn read_again(&mut self, file: &PathBuf) -> anyhow::Result<()> {
        self.read.insert(file.clone(), stamp(file));
        let (issuer, list) = authority::read_revocations(file)?;
        let known = self.lists.entry(issuer).or_default();
        if list.seq < known.0 {
            tracing::warn!("{} has an older list than the one in use", file.display());
            return Ok(());
        }
        *known = (list.seq, list.ids.into_iter().collect());
        Ok(())
    }
}

fn stamp(file: &PathBuf) -> Stamp {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

#[cfg(test)]
mod tests {
    use ioex_base::NodeKey;

    use super::*;

    impl Revoked {
        /// Looks at once, as it does after a while.
        fn look(&self) {
            self.state.lock().unwrap().look(&self.files);
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("revoked");
        let (key, other) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let [a, b] = [GrantId([1; 16]), GrantId([2; 16])];
        assert!(Revoked::open(vec![file.clone()]).is_err(), "a list that is missing stops the start");
        authority::revoke(&key, a, &file).unwrap();
        let revoked = Revoked::open(vec![file.clone()]).unwrap();
        assert!(revoked.contains(&key.uid(), &a) && !revoked.contains(&key.uid(), &b));
        assert!(!revoked.contains(&other.uid(), &a), "nobody revokes what others granted");
        let old = std::fs::read(&file).unwrap();
        authority::revoke(&key, b, &file).unwrap();
        revoked.look();
        assert!(revoked.contains(&key.uid(), &a) && revoked.contains(&key.uid(), &b));
        for bad in [&b"junk"[..], &old] {
            std::fs::write(&file, bad).unwrap();
            revoked.look();
            assert!(revoked.contains(&key.uid(), &b));
        }
        std::fs::remove_file(&file).unwrap();
        revoked.look();
        assert!(revoked.contains(&key.uid(), &a));
    }
}
