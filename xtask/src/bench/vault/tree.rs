//! The tree that is backed up: six parts in ten small sources, three programs and libraries, one noise.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{fresh, remove};
use crate::sh;

/// Larger sources are not taken.
const SOURCE_MAX: u64 = 4 << 20;
/// Smaller programs are not taken, nor larger ones.
const PROGRAM_BYTES: std::ops::Range<u64> = (64 << 10)..(256 << 20);
/// Length of a file of noise.
const NOISE_BYTES: u64 = 8 << 20;
const TEXT: &[&str] =
    &["rs", "c", "h", "js", "py", "md", "toml", "json", "txt", "hpp", "html", "cc", "S", "pl", "map"];
/// Part of all bytes whose files change, by bytes.
const CHANGED: f64 = 0.01;

/// A tree in two states.
pub(super) struct Tree {
    root: PathBuf,
    /// The changed files, as they were and as they are then.
    states: [PathBuf; 2],
}

impl Tree {
    /// Makes it, or takes it as an earlier run made it.
    pub(super) fn make(work: &Path, bytes: u64) -> Result<Self> {
        let dir = work.join(format!("tree-{bytes}"));
        let tree = Self { root: dir.join("tree"), states: [dir.join("first"), dir.join("second")] };
        let made = dir.join("made");
        if !made.exists() {
            fresh(&dir)?;
            tree.fill(bytes)?;
            tree.prepare_change(bytes)?;
            fs::write(made, b"")?;
        }
        Ok(tree)
    }

    pub(super) fn path(&self) -> &str {
        self.root.to_str().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        "tree"
    }

    /// Puts it into its first state.
    pub(super) fn first(&self) -> Result<()> {
        self.put(&self.states[0])
    }

    /// Changes one part in a hundred.
    pub(super) fn second(&self) -> Result<()> {
        self.put(&self.states[1])
    }

    fn put(&self, state: &Path) -> Result<()> {
        for path in files(state)? {
            let target = self.root.join(path.strip_prefix(state)?);
            fs::copy(&path, &target).with_context(|| format!("cannot write {}", target.display()))?;
        }
        Ok(())
    }

    fn fill(&self, bytes: u64) -> Result<()> {
        let home = |name: &str, default: &str| {
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
            std::env::var_os(name).map_or_else(|| home.join(default), PathBuf::from)
        };
        let is_text = |p: &Path| p.extension().and_then(|e| e.to_str()).is_some_and(|e| TEXT.contains(&e));
        let sources = [
            home("CARGO_HOME", ".cargo").join("registry/src"),
            PathBuf::from("/usr/include"),
            PathBuf::from("/usr/share"),
            PathBuf::from("/usr/lib/python3"),
        ];
        let part = |tenths: u64| bytes / 10 * tenths;
        let taken = self.take(&sources, "src", part(6), |p, n| n > 0 && n <= SOURCE_MAX && is_text(p))?;
        let programs = [PathBuf::from("/usr/bin"), PathBuf::from("/usr/lib"), home("RUSTUP_HOME", ".rustup")];
        let fits = |p: &Path, n: u64| PROGRAM_BYTES.contains(&n) && !is_text(p);
        let taken = taken + self.take(&programs, "bin", bytes - part(1) - taken, fits)?;
        let noise = self.root.join("noise");
        fs::create_dir_all(&noise)?;
        let (mut left, mut number) = (bytes.saturating_sub(taken), 0);
        while left > 0 {
            let length = left.min(NOISE_BYTES);
            let mut random = Vec::new();
            fs::File::open("/dev/urandom")?.take(length).read_to_end(&mut random)?;
            fs::write(noise.join(number.to_string()), random)?;
            (left, number) = (left - length, number + 1);
        }
        Ok(())
    }

    fn take(
        &self,
        from: &[PathBuf],
        name: &str,
        want: u64,
        fits: impl Fn(&Path, u64) -> bool,
    ) -> Result<u64> {
        let mut got = 0;
        for root in from.iter().filter(|root| root.is_dir()) {
            for path in files(root)? {
                let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                if got >= want {
                    return Ok(got);
                }
                if !meta.is_file() || !fits(&path, meta.len()) {
                    continue;
                }
                let target = self.root.join(name).join(path.strip_prefix("/").unwrap_or(&path));
                fs::create_dir_all(target.parent().context("a file in no folder")?)?;
                if fs::copy(&path, &target).is_ok() {
                    got += meta.len();
                }
            }
        }
        Ok(got)
    }

    /// Keeps every so manieth file in both states: half of it rewritten, and a little put in front.
    fn prepare_change(&self, bytes: u64) -> Result<()> {
        let all = files(&self.root)?;
        ensure!(!all.is_empty(), "no files for the tree were found");
        let goal = (bytes as f64 * CHANGED) as u64;
        let mut changed = 0;
        // A step that no power of two or ten shares, so that all kinds of files are met.
        let step = 97;
        for path in (0..all.len()).map(|n| &all[n * step % all.len()]) {
            let length = fs::metadata(path)?.len();
            if length > NOISE_BYTES {
                continue;
            }
            let body = fs::read(path)?;
            let name = path.strip_prefix(&self.root)?;
            let (half, quarter) = (body.len() / 2, body.len() / 4);
            let mut new = noise(37, changed);
            new.extend_from_slice(&body[..half]);
            new.extend(noise(quarter, changed + 1));
            new.extend_from_slice(&body[half + quarter..]);
            for (state, bytes) in self.states.iter().zip([&body, &new]) {
                let target = state.join(name);
                fs::create_dir_all(target.parent().context("a file in no folder")?)?;
                fs::write(target, bytes)?;
            }
            changed += length.max(1);
            if changed >= goal {
                break;
            }
        }
        sh::run(&mut sh::system("sync"))?;
        remove(&self.root.join("gone"))
    }
}

/// All files below `root`, in one order.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut out, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => out.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(out)
}

/// Bytes that no compressor shrinks (xorshift).
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}
