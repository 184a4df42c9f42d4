//! The authority's key and its grants (requirement B2): the key file is 32 bytes of seed in
//! hexadecimal that only its owner may read.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER_PERMISSIVE;
use ioex_base::{DAY_SECONDS, Grant, GrantId, NodeKey, Right, SignedGrant, Uid, UnixSeconds, wire};
use zeroize::Zeroizing;

/// Longest key file that is read: 64 digits and a line end, with room for blanks.
const KEY_FILE_MAX_BYTES: u64 = 256;

/// Why a key or a grant could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The system gave no randomness.
    #[error("the system gives no randomness: {0}")]
    Randomness(getrandom::Error),
    /// A file could not be written or read.
    #[error("cannot {what} {path}", path = .path.display())]
    File {
        /// `write` or `read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could read the key.
    #[error("others may read the key file {path}: `chmod 600` it, or make a new key", path = .0.display())]
    Open(PathBuf),
    /// Not a key.
    #[error("{path} holds no key: a key file is 64 hexadecimal digits", path = .0.display())]
    NoKey(PathBuf),
}

/// Makes a key and writes it to a new file.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn create(path: &Path) -> Result<NodeKey, AuthorityError> {
    let key = NodeKey::generate().map_err(AuthorityError::Randomness)?;
    let text = Zeroizing::new(HEXLOWER_PERMISSIVE.encode(key.seed().as_ref()) + "\n");
    write_new(path, text.as_bytes())?;
    Ok(key)
}

/// Reads a key that [`create`] wrote.
///
/// # Errors
/// When it is not there, others may read it, or it is no key.
pub fn load(path: &Path) -> Result<NodeKey, AuthorityError> {
    let failed = |source| AuthorityError::File { what: "read", path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(AuthorityError::Open(path.to_owned()));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(KEY_FILE_MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    let seed = HEXLOWER_PERMISSIVE
        .decode(text.trim_ascii())
        .ok()
        .map(Zeroizing::new)
        .and_then(|seed| <[u8; 32]>::try_from(seed.as_slice()).ok())
        .ok_or_else(|| AuthorityError::NoKey(path.to_owned()))?;
    Ok(NodeKey::from_seed(seed))
}

/// Lets `subject` place up to `max_bytes_per_device` on any one device for `days` from `now`.
///
/// # Errors
/// When the system gives no randomness for the grant's id.
pub fn grant_place(
    key: &NodeKey,
    subject: Uid,
    max_bytes_per_device: u64,
    now: UnixSeconds,
    days: u32,
) -> Result<(Grant, SignedGrant), AuthorityError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(AuthorityError::Randomness)?;
    let grant = Grant {
        id: GrantId(id),
        subject,
        right: Right::Place { max_bytes_per_device },
        not_before: now,
        not_after: now.plus(u64::from(days) * DAY_SECONDS),
    };
    let signed = SignedGrant::new(&grant, key);
    Ok((grant, signed))
}

/// Writes a grant to a new file, in the form that a super node's `capability` takes.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_grant(path: &Path, grant: &SignedGrant) -> Result<(), AuthorityError> {
    write_new(path, &wire::encode(grant))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), AuthorityError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| AuthorityError::File { what: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let uid = create(&path).unwrap().uid();
        assert_eq!(load(&path).unwrap().uid(), uid);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&path), Err(AuthorityError::File { .. })));
        assert_eq!(load(&path).unwrap().uid(), uid);
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, b"00ff").unwrap();
        assert!(matches!(load(&path), Err(AuthorityError::NoKey(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&path), Err(AuthorityError::Open(_))));
    }

    #[test]
    fn a_grant_serves_its_super_node_for_its_days() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capability");
        let (key, subject) = (NodeKey::from_seed([1; 32]), Uid::from_bytes([2; 32]));
        let (_, signed) = grant_place(&key, subject, 5, UnixSeconds(1_000_000), 2).unwrap();
        write_grant(&path, &signed).unwrap();
        let read: SignedGrant = wire::decode(&fs::read(&path).unwrap(), 1_024).unwrap();
        assert_eq!(read.issuer, key.uid());
        let grant = read.check(&subject, UnixSeconds(1_000_000 + DAY_SECONDS)).unwrap();
        assert_eq!(grant.right, Right::Place { max_bytes_per_device: 5 });
        assert!(read.check(&subject, UnixSeconds(1_000_000 + 3 * DAY_SECONDS)).is_err());
    }
}
