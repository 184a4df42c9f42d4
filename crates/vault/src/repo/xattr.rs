//! Extended attributes: read and written as far as the file system and the rights allow.

use std::path::Path;

#[cfg(feature = "pack")]
use rustix::fs::{lgetxattr, llistxattr};
use rustix::{
    fs::{XattrFlags, lsetxattr},
    io::Errno,
};

/// Most bytes of attribute names of one file, and of one value: what Linux allows.
#[cfg(feature = "pack")]
const XATTR_MAX_BYTES: usize = 64 * 1024;

/// All attributes of `path`; what cannot be read is left out.
#[cfg(feature = "pack")]
pub(super) fn read(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    // Most files have none, and asking with room for a few costs one call.
    let mut names = vec![0; 256];
    let length = match llistxattr(path, names.as_mut_slice()) {
        Err(Errno::RANGE) => {
            names.resize(XATTR_MAX_BYTES, 0);
            llistxattr(path, names.as_mut_slice())
        }
        other => other,
    };
    let Ok(length) = length else { return Vec::new() };
    names.truncate(length);
    let mut out = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_MAX_BYTES];
        if let Ok(length) = lgetxattr(path, name, value.as_mut_slice()) {
            value.truncate(length);
            out.push((name.to_vec(), value));
        }
    }
    out
}

/// Sets attributes; returns the first failure, after having tried them all.
pub(super) fn write(path: &Path, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Errno> {
    let mut outcome = Ok(());
    for (name, value) in xattrs {
        if let Err(e) = lsetxattr(path, name.as_slice(), value, XattrFlags::empty()) {
            outcome = outcome.and(Err(e));
        }
    }
    outcome
}
