//! Walking what is to be backed up, in the order of a listing.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use globset::{Glob, GlobSet, GlobSetBuilder};
use walkdir::WalkDir;

/// What to walk, and what to leave out.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The nearest folder above all paths; a listing's names are relative to it.
    pub base: PathBuf,
    /// The paths, in the order of a listing, none inside another.
    pub paths: Vec<PathBuf>,
    exclude: GlobSet,
    one_file_system: bool,
}

/// Why something cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Nothing was given.
    #[error("nothing to back up: name at least one file or folder")]
    Nothing,
    /// A path is not there, or cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A path that is neither file nor folder.
    #[error("{} is a socket, a pipe or a device, and has no content that could be backed up", .0.display())]
    Special(PathBuf),
    /// A pattern that is none.
    #[error("'{pattern}' is no pattern of names: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
}

/// One step of a walk.
pub(crate) enum Step {
    /// Something that is there. `names` lead to it from the base.
    Found { path: PathBuf, names: Vec<Vec<u8>>, meta: Metadata },
    /// Something that could not be looked at.
    Failed { path: PathBuf, why: io::Error },
}

fn names_below(base: &Path, path: &Path) -> Vec<Vec<u8>> {
    super::tree::split(path.strip_prefix(base).unwrap_or(path))
}

impl Walk {
    /// Prepares a walk over `paths`. Links among them are followed, links below them are not.
    ///
    /// `exclude` are patterns as in a shell, `**` for any number of folders; one without a slash
    /// stands for a name anywhere.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn new(paths: &[PathBuf], exclude: &[String], one_file_system: bool) -> Result<Self, WalkError> {
        let mut all = Vec::with_capacity(paths.len());
        for path in paths {
            let unreadable = |source| WalkError::Path { path: path.clone(), source };
            let found = fs::canonicalize(path).map_err(unreadable)?;
            let kind = fs::metadata(&found).map_err(unreadable)?.file_type();
            if !kind.is_file() && !kind.is_dir() {
                return Err(WalkError::Special(path.clone()));
            }
            all.push(found);
        }
        all.sort_by_key(|path| super::tree::split(path));
        let mut kept: Vec<PathBuf> = Vec::new();
        for path in all {
            // Sorted, so that a folder comes before what it holds.
            if !kept.iter().any(|folder| path.starts_with(folder)) {
                kept.push(path);
            }
        }
        let base = common_folder(&kept).ok_or(WalkError::Nothing)?;
        Ok(Self { base, paths: kept, exclude: patterns(exclude)?, one_file_system })
    }

    fn excluded(&self, path: &Path) -> bool {
        !self.exclude.is_empty() && self.exclude.is_match(path)
    }

    /// Every step, in the order of a listing.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        let mut above: Vec<PathBuf> = Vec::new();
        self.paths.iter().flat_map(move |root| {
            // Folders between the base and this path come once, before it.
            let between: Vec<PathBuf> = root
                .ancestors()
                .skip(1)
                .take_while(|folder| *folder != self.base && folder.starts_with(&self.base))
                .map(Path::to_owned)
                .filter(|folder| !above.contains(folder))
                .collect();
            above.extend(between.iter().cloned());
            let parents = between.into_iter().rev().map(|folder| self.found(folder));
            let skip = usize::from(*root == self.base);
            let walk = WalkDir::new(root)
                .sort_by(|a, b| a.file_name().as_bytes().cmp(b.file_name().as_bytes()))
                .same_file_system(self.one_file_system)
                .min_depth(skip)
                .into_iter()
                .filter_entry(|entry| entry.depth() == 0 || !self.excluded(entry.path()));
            parents.chain(walk.map(|entry| match entry {
                Ok(entry) => self.found(entry.into_path()),
                Err(e) => {
                    let path = e.path().unwrap_or(root).to_owned();
                    Step::Failed { path, why: e.into() }
                }
            }))
        })
    }

    /// All files, in the order of a listing.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.steps().filter_map(|step| match step {
            Step::Found { path, meta, .. } if meta.is_file() => Some(path),
            _ => None,
        })
    }

    fn found(&self, path: PathBuf) -> Step {
        match fs::symlink_metadata(&path) {
            Ok(meta) => Step::Found { names: names_below(&self.base, &path), path, meta },
            Err(why) => Step::Failed { path, why },
        }
    }

    /// Files and their bytes, for showing how much is left; stops when `go_on` says so.
    pub(crate) fn count(&self, mut add: impl FnMut(u64, u64) -> bool) {
        for step in self.steps() {
            if let Step::Found { meta, .. } = step
                && meta.is_file()
                && !add(1, meta.len())
            {
                return;
            }
        }
    }
}

fn patterns(list: &[String]) -> Result<GlobSet, WalkError> {
    let wrong = |pattern: &str| {
        let pattern = pattern.to_owned();
        move |e: globset::Error| WalkError::Pattern { pattern, why: e.kind().to_string() }
    };
    let mut set = GlobSetBuilder::new();
    for pattern in list {
        let anywhere = if pattern.contains('/') { pattern.clone() } else { format!("**/{pattern}") };
        set.add(Glob::new(&anywhere).map_err(wrong(pattern))?);
    }
    set.build().map_err(wrong(&list.join(" ")))
}

/// The nearest folder that holds all of them.
fn common_folder(paths: &[PathBuf]) -> Option<PathBuf> {
    let first = paths.first()?;
    let parents = |path: &Path| path.parent().unwrap_or(path).to_owned();
    let mut base = parents(first);
    for path in paths {
        while !parents(path).starts_with(&base) {
            base.pop();
        }
    }
    debug_assert!(base.components().next() == Some(Component::RootDir), "canonical paths are absolute");
    Some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(walk: &Walk) -> Vec<String> {
        let name = |step| match step {
            Step::Found { names, .. } => super::super::tree::join(&names).display().to_string(),
            Step::Failed { path, why } => format!("{}: {why}", path.display()),
        };
        walk.steps().map(name).collect()
    }

    #[test]
    fn the_order_is_that_of_a_listing_and_folders_come_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for file in ["a/x/1", "a/x/2", "a/y.o", "a-b", "c/z/deep/f", "other"] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        let paths = |list: &[&str]| list.iter().map(|p| root.join(p)).collect::<Vec<_>>();
        let walk = Walk::new(&paths(&["c/z", "a", "a/x"]), &["*.o".into()], false).unwrap();
        assert_eq!(walk.base, root);
        let got = walked(&walk);
        assert_eq!(got, ["a", "a/x", "a/x/1", "a/x/2", "c", "c/z", "c/z/deep", "c/z/deep/f"]);
        let split: Vec<_> = got.iter().map(|p| super::super::tree::split(Path::new(p))).collect();
        assert!(split.is_sorted_by(|a, b| super::super::tree::order(a, b).is_lt()));
        let one = Walk::new(&paths(&["a"]), &["a/**/1".into(), format!("{}/a/x/2", root.display())], true);
        assert_eq!(walked(&one.unwrap()), ["a", "a/x", "a/x/1", "a/y.o"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let missing = Walk::new(&["/nowhere/at all".into()], &[], false).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read /nowhere/at all:"), "{missing}");
        assert!(matches!(Walk::new(&[], &[], false), Err(WalkError::Nothing)));
        let pattern = Walk::new(&["/".into()], &["a[".into()], false).unwrap_err();
        assert!(matches!(pattern, WalkError::Pattern { .. }));
    }
}
