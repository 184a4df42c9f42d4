//! The authority's key and its grants (requirement B2): the key file is 32 bytes of seed in
//! hexadecimal that only its owner may read.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER_PERMISSIVE;
use ioex_base::{
    DAY_SECONDS, Grant, GrantId, NodeKey, Revocations, Right, SignedGrant, SignedRevocations, Uid,
    UnixSeconds, limits::REVOKED_MAX, wire,
};
use zeroize::Zeroizing;

use crate::node::files;

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
    /// Not a list of revoked grants.
    #[error("{path} holds no list of revoked grants that its authority signed", path = .0.display())]
    NoList(PathBuf),
    /// Another authority's list.
    #[error("{path} is the list of another authority, {1}: choose another file", path = .0.display())]
    OtherList(PathBuf, Uid),
    /// No room for one more.
    #[error(
        "the list is full: it holds {REVOKED_MAX} grants. Leave out those that have ended: begin a new one"
    )]
    ListFull,
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

/// Adds a grant to the list of revoked ones in `path`, which is made when it is not there.
///
/// # Errors
/// When the file is there and holds no list of this authority, when the list is full, or when the
/// file cannot be written; the old list stays then.
pub fn revoke(key: &NodeKey, id: GrantId, path: &Path) -> Result<Revocations, AuthorityError> {
    let mut list = match read_revocations(path) {
        Ok((issuer, _)) if issuer != key.uid() => {
            return Err(AuthorityError::OtherList(path.to_owned(), issuer));
        }
        Ok((_, list)) => list,
        Err(AuthorityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Revocations::default()
        }
        Err(e) => return Err(e),
    };
    if !list.ids.contains(&id) {
        if list.ids.len() >= REVOKED_MAX {
            return Err(AuthorityError::ListFull);
        }
        list.ids.push(id);
        list.seq = list.seq.saturating_add(1);
    }
    let bytes = wire::encode(&SignedRevocations::new(&list, key));
    // Whoever reads the list sees the old or the new one.
    files::replace_private(path, &bytes).map_err(|source| AuthorityError::File {
        what: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(list)
}

/// Reads a list of revoked grants, and says who signed it.
///
/// # Errors
/// When it is not there, or not signed by who it names.
pub fn read_revocations(path: &Path) -> Result<(Uid, Revocations), AuthorityError> {
    let failed = |source| AuthorityError::File { what: "read", path: path.to_owned(), source };
    let no_list = || AuthorityError::NoList(path.to_owned());
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(SignedRevocations::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let signed: SignedRevocations =
        wire::decode(&bytes, SignedRevocations::MAX_BYTES).map_err(|_| no_list())?;
    let list = signed.open().map_err(|_| no_list())?;
    Ok((signed.issuer, list))
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
    fn a_list_of_revoked_grants_grows_and_is_never_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked");
        let (key, other) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let [a, b] = [GrantId([1; 16]), GrantId([2; 16])];
        assert_eq!(revoke(&key, a, &path).unwrap(), Revocations { seq: 1, ids: vec![a] });
        assert_eq!(revoke(&key, a, &path).unwrap().seq, 1, "what is revoked stays so");
        let list = revoke(&key, b, &path).unwrap();
        assert_eq!(list, Revocations { seq: 2, ids: vec![a, b] });
        assert_eq!(read_revocations(&path).unwrap(), (key.uid(), list));
        assert!(matches!(revoke(&other, a, &path), Err(AuthorityError::OtherList(..))));
        fs::write(&path, b"something else").unwrap();
        assert!(matches!(revoke(&key, a, &path), Err(AuthorityError::NoList(_))));
        assert_eq!(fs::read(&path).unwrap(), b"something else");
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
