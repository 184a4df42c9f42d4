//! The node's own files: keys that only their owner may read.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use data_encoding::HEXLOWER_PERMISSIVE;
use ioex_base::{NodeKey, UnixSeconds};
use ioex_vault::repo::RecoveryKey;
use zeroize::Zeroizing;

const NODE_KEY_FILE: &str = "node.key";
const RECOVERY_KEY_FILE: &str = "recovery.key";

/// The clock, for the rules that take time as an argument.
pub(crate) fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// Makes the data folder, for its owner only.
pub(crate) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => {}
        Err(e) => return Err(e).with_context(|| format!("cannot make the folder {}", dir.display())),
    }
    let meta = fs::metadata(dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot keep others out of {}: chmod 700 it", dir.display()))?;
    }
    Ok(())
}

/// A 32-byte secret in a file: made on first use, refused when others may read it.
fn secret(path: &Path) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => {
            ensure!(meta.is_file(), "{} is not a file", path.display());
            ensure!(
                meta.mode() & 0o077 == 0,
                "{} can be read by others: run `chmod 600 {0}` after making sure that nobody copied it",
                path.display()
            );
            let text = Zeroizing::new(fs::read_to_string(path).with_context(|| path.display().to_string())?);
            let bytes = Zeroizing::new(
                HEXLOWER_PERMISSIVE
                    .decode(text.trim().as_bytes())
                    .with_context(|| format!("{} is damaged: restore it from a copy", path.display()))?,
            );
            let Ok(seed) = <[u8; 32]>::try_from(bytes.as_slice()) else {
                bail!("{} is damaged: it holds {} bytes instead of 32", path.display(), bytes.len())
            };
            Ok(Zeroizing::new(seed))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let mut seed = Zeroizing::new([0; 32]);
            getrandom::fill(seed.as_mut()).context("the operating system gives no randomness")?;
            write_secret(path, &seed)?;
            Ok(seed)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes the secret whole or not at all: a torn key file would be a lost identity.
fn write_secret(path: &Path, seed: &[u8; 32]) -> anyhow::Result<()> {
    let text = Zeroizing::new(data_encoding::HEXLOWER.encode(seed) + "\n");
    replace_private(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// The node's key, made on first run (requirement N2).
pub(crate) fn node_key(data: &Path) -> anyhow::Result<NodeKey> {
    Ok(NodeKey::from_seed(*secret(&data.join(NODE_KEY_FILE))?))
}

/// The key from which all keys of the owner's repository follow, made on first use.
pub(crate) fn recovery_key(data: &Path) -> anyhow::Result<RecoveryKey> {
    Ok(RecoveryKey::from_bytes(*secret(&data.join(RECOVERY_KEY_FILE))?))
}

/// Whether this node has a recovery key.
pub(crate) fn has_recovery_key(data: &Path) -> bool {
    data.join(RECOVERY_KEY_FILE).symlink_metadata().is_ok()
}

/// Makes `key` this node's recovery key. An old one is kept beside it, under its date.
pub(crate) fn replace_recovery_key(data: &Path, key: &RecoveryKey) -> anyhow::Result<()> {
    let path = data.join(RECOVERY_KEY_FILE);
    if path.symlink_metadata().is_ok() {
        let old = data.join(format!("{RECOVERY_KEY_FILE}.until-{}", now().0));
        fs::rename(&path, &old).with_context(|| format!("cannot move {} away", path.display()))?;
    }
    write_secret(&path, &key.to_bytes())
}

/// Puts a file in another's place; after a crash one of the two is there, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)
}

/// The same for a file that its owner alone may read, on disk when this returns.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    // Left over from a crash before the rename: never used.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(super::parent_of(path))?.sync_all()
}

/// Writes a new file for its owner only; an existing one is not replaced.
#[cfg(any(test, feature = "super"))]
pub(crate) fn write_new_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        private_dir(&data).unwrap();
        let uid = node_key(&data).unwrap().uid();
        assert_eq!(node_key(&data).unwrap().uid(), uid);
        let path = data.join(NODE_KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = node_key(&data).unwrap_err().to_string();
        assert!(error.contains("can be read by others"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_an_error_and_not_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NODE_KEY_FILE);
        write_new_private(&path, b"abc\n").unwrap();
        assert!(node_key(dir.path()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"abc\n");
    }
}
