//! What the fuzz targets share: signing what a target puts in, so that the parser behind a
//! signature is reached, and changing a valid sample here and there.

use std::path::Path;

use ioex_base::{NodeKey, UnixSeconds};
use tempfile::TempDir;

/// The moment at which all targets check dates.
pub const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// The key that signs what targets put in.
#[must_use]
pub fn signer() -> NodeKey {
    NodeKey::from_seed([1; 32])
}

/// `sample` with some of its bytes changed: each three bytes of `data` are a place and a mask. A
/// last single byte cuts the sample.
#[must_use]
pub fn patched(sample: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = sample.to_vec();
    let mut patches = data.chunks_exact(3);
    for patch in &mut patches {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % out.len().max(1);
        if let Some(byte) = out.get_mut(at) {
            *byte ^= patch[2];
        }
    }
    if let [cut] = patches.remainder() {
        out.truncate(out.len().saturating_sub(usize::from(*cut)));
    }
    out
}

/// A sealed value of a type with this context and version, as `ioex_base::Sealed` writes it, but
/// around any body.
#[must_use]
pub fn sealed(context: &str, version: u8, body: &[u8]) -> Vec<u8> {
    let mut message = context.as_bytes().to_vec();
    message.extend_from_slice(&[0, version]);
    message.extend_from_slice(body);
    let mut out = vec![version];
    out.extend_from_slice(&signer().sign(&message));
    out.extend_from_slice(body);
    out
}

/// A fresh folder, in memory where there is such a file system: targets that sync files wait for a
/// disk otherwise.
///
/// # Panics
/// When no folder can be made: nothing can be tried then.
#[must_use]
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder")
}
