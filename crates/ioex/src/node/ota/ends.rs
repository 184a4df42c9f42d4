//! How updates ended, until the program in which the node runs has heard of it: it may be stopped before that.
//!
//! They have a file of their own. The program says that it heard of one when its node may be over, and nothing else is
//! written then.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::host::Moment;
use crate::node::{files, lock};

/// The file.
const ENDS_FILE: &str = "ends.json";
/// So many are kept; the oldest goes when there are more. One that is not heard of for so long is of no interest.
const ENDS_MAX: usize = 8;

/// What the program may not have heard of, the oldest first.
pub(super) struct Ends {
    path: PathBuf,
    kept: Mutex<Vec<Moment>>,
}

impl Ends {
    /// Reads what is kept in this folder.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(ENDS_FILE);
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                // The updates themselves do not depend on it.
                tracing::warn!("{} is damaged and is left aside: {e}", path.display());
                Vec::new()
            }),
            Err(e) => {
                if e.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!("{}: {e}", path.display());
                }
                Vec::new()
            }
        };
        Self { path, kept: Mutex::new(kept) }
    }

    pub(super) fn all(&self) -> Vec<Moment> {
        lock(&self.kept).clone()
    }

    /// Keeps one. Waits for the disk.
    pub(super) fn keep(&self, end: &Moment) {
        let mut kept = lock(&self.kept);
        if kept.contains(end) {
            return;
        }
        kept.push(end.clone());
        let more = kept.len().saturating_sub(ENDS_MAX);
        kept.drain(..more);
        self.save(&kept);
    }

    /// Lets one go. Waits for the disk when it is kept.
    pub(super) fn heard(&self, moment: &Moment) {
        let mut kept = lock(&self.kept);
        let before = kept.len();
        kept.retain(|end| end != moment);
        if kept.len() < before {
            self.save(&kept);
        }
    }

    fn save(&self, kept: &[Moment]) {
        let saved = serde_json::to_vec(kept).map_err(std::io::Error::from);
        if let Err(e) = saved.and_then(|bytes| files::replace(&self.path, &bytes)) {
            tracing::warn!("cannot write {}: {e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirmed(version: usize) -> Moment {
        Moment::Confirmed { version: format!("{version}.0") }
    }

    #[test]
    fn an_end_is_told_until_it_was_heard() {
        let dir = tempfile::tempdir().unwrap();
        let ends = Ends::open(dir.path());
        assert!(ends.all().is_empty());
        for n in [1, 2, 1] {
            ends.keep(&confirmed(n));
        }
        ends.heard(&confirmed(3));
        assert_eq!(Ends::open(dir.path()).all(), [confirmed(1), confirmed(2)]);
        ends.heard(&confirmed(1));
        assert_eq!(Ends::open(dir.path()).all(), [confirmed(2)]);
        (0..2 * ENDS_MAX).for_each(|n| ends.keep(&confirmed(10 + n)));
        assert_eq!((ends.all().len(), ends.all().pop()), (ENDS_MAX, Some(confirmed(9 + 2 * ENDS_MAX))));
        std::fs::write(dir.path().join(ENDS_FILE), b"[{\"Conf").unwrap();
        assert!(Ends::open(dir.path()).all().is_empty(), "a power cut does not stop the device");
    }
}
