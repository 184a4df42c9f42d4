//! Metadata that a program hands over.

use std::slice;

use ioex_sdk::{CHANNEL_MAX_BYTES, ChannelFiles, Error};

/// No channel has so many roots.
const ROOTS_MAX: usize = 4_096;

/// Bytes of the program's.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ioex_bytes {
    /// Where they are; may be `NULL` when there are none.
    pub data: *const u8,
    /// How many.
    pub len: usize,
}

/// A channel's files, as the maker's own centre or its Monitor has them.
#[allow(non_camel_case_types)]
#[repr(C)]
pub struct ioex_channel_files {
    /// Roots, in order; those that the device knows may be among them, or not. A device takes at most 32 at once.
    /// May be `NULL` when there are none.
    pub roots: *const ioex_bytes,
    /// How many.
    pub roots_len: usize,
    /// `timestamp.json`.
    pub timestamp: ioex_bytes,
    /// The snapshot that it names.
    pub snapshot: ioex_bytes,
    /// The targets metadata that the snapshot names.
    pub targets: ioex_bytes,
}

/// Copies bytes, as long as there are not more than `left`.
///
/// # Safety
/// `bytes.data` points to `bytes.len` bytes.
unsafe fn copy(bytes: ioex_bytes, left: &mut usize) -> Result<Vec<u8>, Error> {
    let too_long = || Error::Argument(format!("a channel's files have at most {CHANNEL_MAX_BYTES} bytes"));
    *left = left.checked_sub(bytes.len).ok_or_else(too_long)?;
    match (bytes.data.is_null(), bytes.len) {
        (_, 0) => Ok(Vec::new()),
        (true, _) => Err(Error::Argument("a file of the channel is NULL".to_owned())),
        // SAFETY: not `NULL`, shorter than a channel; that it points to so many bytes is the caller's word.
        (false, len) => Ok(unsafe { slice::from_raw_parts(bytes.data, len) }.to_vec()),
    }
}

/// Copies a channel's files.
///
/// # Safety
/// `files` is `NULL`, or points to one whose members point to what they say.
pub(crate) unsafe fn read(files: *const ioex_channel_files) -> Result<ChannelFiles, Error> {
    // SAFETY: `NULL` is none; else the caller's word.
    let files = unsafe { files.as_ref() };
    let files = files.ok_or_else(|| Error::Argument("the channel's files are NULL".to_owned()))?;
    let roots = match (files.roots.is_null(), files.roots_len) {
        (_, 0) => &[][..],
        (true, _) => return Err(Error::Argument("the channel's roots are NULL".to_owned())),
        (false, len) if len > ROOTS_MAX => {
            return Err(Error::Argument(format!("a channel has at most {ROOTS_MAX} roots")));
        }
        // SAFETY: not `NULL`, and few; the rest is the caller's word.
        (false, len) => unsafe { slice::from_raw_parts(files.roots, len) },
    };
    let mut left = CHANNEL_MAX_BYTES;
    // SAFETY: each of them points to what it says, by the caller's word.
    unsafe {
        Ok(ChannelFiles {
            roots: roots.iter().map(|root| copy(*root, &mut left)).collect::<Result<_, _>>()?,
            timestamp: copy(files.timestamp, &mut left)?,
            snapshot: copy(files.snapshot, &mut left)?,
            targets: copy(files.targets, &mut left)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    const NONE: ioex_bytes = ioex_bytes { data: ptr::null(), len: 0 };

    #[test]
    fn files_are_copied_and_nonsense_is_refused() {
        let of = |bytes: &'static [u8]| ioex_bytes { data: bytes.as_ptr(), len: bytes.len() };
        let roots = [of(b"one"), NONE];
        let mut files = ioex_channel_files {
            roots: roots.as_ptr(),
            roots_len: 2,
            timestamp: of(b"t"),
            snapshot: NONE,
            targets: of(b"s"),
        };
        // SAFETY: everything points to what it says.
        let read_it = |files: &ioex_channel_files| unsafe { read(files) };
        let copied = read_it(&files).unwrap();
        assert_eq!(copied.roots, [b"one".to_vec(), Vec::new()]);
        assert_eq!((copied.timestamp, copied.snapshot, copied.targets), (vec![b't'], vec![], vec![b's']));
        files.snapshot = ioex_bytes { data: ptr::null(), len: 1 };
        assert!(read_it(&files).is_err());
        // Never read: it is refused for its length.
        files.snapshot = ioex_bytes { data: roots.as_ptr().cast(), len: CHANNEL_MAX_BYTES };
        assert!(read_it(&files).is_err());
        files.snapshot = NONE;
        files.roots_len = usize::MAX;
        assert!(read_it(&files).is_err());
        // SAFETY: `NULL` is allowed.
        assert!(unsafe { read(ptr::null()) }.is_err());
    }
}
