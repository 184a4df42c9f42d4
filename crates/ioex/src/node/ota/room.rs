//! Room for an update on this device's disks.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::size::human;

/// What an update leaves free on each disk, in bytes: the device notes what it does, and others write there, too.
const SPARE_BYTES: u64 = 1 << 20;

/// What an update writes, in bytes, and below which folder.
pub(super) type Needs = Vec<(PathBuf, u64)>;

/// A disk that is too full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} has {} free, the update needs {}", dir.display(), human(*free), human(*need))]
pub(super) struct NoRoom {
    dir: PathBuf,
    /// In bytes.
    free: u64,
    /// In bytes.
    need: u64,
}

impl NoRoom {
    /// Whether what lies in this folder is on that disk.
    pub(super) fn is_at(&self, dir: &Path) -> bool {
        disk(dir).is_some_and(|own| disk(&self.dir) == Some(own))
    }
}

/// Which disk it is.
fn disk(dir: &Path) -> Option<u64> {
    dir.metadata().ok().map(|meta| meta.dev())
}

/// Whether there is room. What goes to the same disk is added up; a disk that does not say is taken to have room.
///
/// # Errors
/// [`NoRoom`].
pub(super) fn check(needs: &Needs) -> Result<(), NoRoom> {
    for (dir, _) in needs.iter().filter(|(_, bytes)| *bytes > 0) {
        let Some((own, free)) = disk(dir).zip(free_bytes(dir)) else { continue };
        let same = needs.iter().filter(|(other, _)| disk(other) == Some(own));
        let need = same.fold(SPARE_BYTES, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if need > free {
            return Err(NoRoom { dir: dir.clone(), free, need });
        }
    }
    Ok(())
}

/// What whoever runs this may still write there. A file system without a size says nothing.
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok().filter(|stat| stat.f_blocks > 0)?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_one_disk_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        [&a, &b].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let part = free_bytes(&a).unwrap() / 8 * 5;
        check(&vec![(a.clone(), part)]).unwrap();
        let no = check(&vec![(a.clone(), part), (b.clone(), part)]).unwrap_err();
        assert!(no.dir == a && no.need > 2 * part && no.free < no.need, "{no:?}");
        assert!(no.to_string().contains("the update needs"), "{no}");
        assert!(no.is_at(&b) && !no.is_at(Path::new("/proc")));
        assert_eq!(free_bytes(Path::new("/proc")), None, "it has no size");
        check(&vec![(a, 0), (b, 0), (dir.path().join("gone"), u64::MAX)]).unwrap();
    }
}
