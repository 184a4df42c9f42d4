//! The listing of a restore point: every file, folder and link, in one order.
//!
//! A listing is a stream of entries, each `length (4, little-endian) | postcard of Entry`. They come
//! in the order of a walk that looks at a folder before its contents and at names in the order of
//! their bytes; an entry says how deep it lies, so that its path follows from the entries before it.
//! Two listings can therefore be compared by reading both once, whatever their size.

use std::{
    cmp::Ordering,
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use ioex_base::wire;
use serde::{Deserialize, Serialize};

use crate::manifest::ChunkId;

/// Longest encoded entry in bytes: a file of two terabytes in chunks of average length.
pub const ENTRY_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Deepest folder. Paths are longer than any system takes long before that.
pub const DEPTH_MAX: usize = 2_048;
/// Longest name in bytes.
const NAME_MAX_BYTES: usize = 255;

/// One file, folder or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How many folders it lies below the listing's root.
    pub depth: u32,
    /// Its name, as the system has it: bytes, not necessarily text.
    pub name: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// When its content last changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When anything of it last changed, in nanoseconds since 1970; tells whether a file is as it was.
    pub ctime_ns: i64,
    /// Its number on its file system; tells whether a file is as it was.
    pub inode: u64,
    /// What it is.
    pub content: Content,
    /// Extended attributes, names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is. The order of the cases is in stored data; new ones go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A folder.
    Dir,
    /// A file: its length in bytes and its chunks in order.
    File {
        /// Length in bytes.
        size: u64,
        /// Names of its chunks.
        chunks: Vec<ChunkId>,
    },
    /// A symbolic link and where it leads.
    Symlink(Vec<u8>),
    /// Another name of the file whose entry has this number, counting from 0.
    HardLink(u64),
}

/// A listing that is no listing.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// It could not be read or written.
    #[error("cannot read a listing: {0}")]
    Io(#[from] io::Error),
    /// It was damaged, or made by a program that does not keep the rules.
    #[error("a listing is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes entries.
pub struct ListingWriter<W> {
    out: W,
    entries: u64,
    bytes: u64,
}

impl<W: Write> ListingWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0, bytes: 0 }
    }

    /// Adds an entry and returns its number.
    ///
    /// # Errors
    /// When the entry is too large or `out` fails.
    pub fn push(&mut self, entry: &Entry) -> io::Result<u64> {
        let body = wire::encode(entry);
        if body.len() > ENTRY_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file has too many chunks"));
        }
        self.out.write_all(&(body.len() as u32).to_le_bytes())?;
        self.out.write_all(&body)?;
        self.bytes = self.bytes.saturating_add(4 + body.len() as u64);
        self.entries += 1;
        Ok(self.entries - 1)
    }

    /// Ends the listing; returns what it was written to.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads entries, checks them, and knows the path of the last one.
pub struct ListingReader<R> {
    input: R,
    path: Vec<Vec<u8>>,
    dirs: Vec<bool>,
    buffer: Vec<u8>,
}

impl<R: Read> ListingReader<R> {
    /// Reads from `input`, which should be buffered.
    pub fn new(input: R) -> Self {
        Self { input, path: Vec::new(), dirs: Vec::new(), buffer: Vec::new() }
    }

    /// The next entry; its path is [`ListingReader::path`] then. `None` at the end.
    ///
    /// # Errors
    /// [`ListingError`]: bytes that are no entry, names that lead elsewhere, a wrong order.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ListingError> {
        let mut length = [0; 4];
        match self.input.read(&mut length[..1])? {
            0 => return Ok(None),
            _ => self.input.read_exact(&mut length[1..])?,
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > ENTRY_MAX_BYTES {
            return Err(ListingError::Damaged("an entry is too long"));
        }
        self.buffer.clear();
        // Memory grows with what really comes.
        (&mut self.input).take(length as u64).read_to_end(&mut self.buffer)?;
        if self.buffer.len() != length {
            return Err(ListingError::Damaged("it ends within an entry"));
        }
        let entry: Entry = wire::decode(&self.buffer, ENTRY_MAX_BYTES)
            .map_err(|_| ListingError::Damaged("an entry cannot be read"))?;
        self.enter(&entry)?;
        Ok(Some(entry))
    }

    fn enter(&mut self, entry: &Entry) -> Result<(), ListingError> {
        let depth = entry.depth as usize;
        if depth > DEPTH_MAX || depth > self.path.len() {
            return Err(ListingError::Damaged("an entry lies in no folder"));
        }
        if depth > 0 && !self.dirs.get(depth - 1).copied().unwrap_or(false) {
            return Err(ListingError::Damaged("an entry lies in something that is no folder"));
        }
        check_name(&entry.name)?;
        // Names in one folder come in their order, each once: what is read again cannot replace.
        if self.path.get(depth).is_some_and(|before| *before >= entry.name) {
            return Err(ListingError::Damaged("names are out of order"));
        }
        self.path.truncate(depth);
        self.dirs.truncate(depth);
        self.path.push(entry.name.clone());
        self.dirs.push(entry.content == Content::Dir);
        Ok(())
    }

    /// The names that lead to the last entry, its own included.
    pub fn path(&self) -> &[Vec<u8>] {
        &self.path
    }
}

fn check_name(name: &[u8]) -> Result<(), ListingError> {
    let bad = name.is_empty()
        || name.len() > NAME_MAX_BYTES
        || name == b"."
        || name == b".."
        || name.contains(&b'/')
        || name.contains(&0);
    if bad { Err(ListingError::Damaged("a name leads elsewhere")) } else { Ok(()) }
}

/// A path from names. Only of names that a [`ListingReader`] let pass.
#[must_use]
pub fn join(names: &[Vec<u8>]) -> PathBuf {
    names.iter().map(|name| Path::new(OsStr::from_bytes(name))).collect()
}

/// The names of a relative path.
#[must_use]
pub fn split(path: &Path) -> Vec<Vec<u8>> {
    path.components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.as_bytes().to_vec()),
            _ => None,
        })
        .collect()
}

/// How two paths stand in a listing: a folder before what it holds, names by their bytes.
#[must_use]
pub fn order(a: &[Vec<u8>], b: &[Vec<u8>]) -> Ordering {
    a.cmp(b)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn entry(depth: u32, name: &str, content: Content) -> Entry {
        Entry {
            depth,
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime_ns: 3,
            ctime_ns: 4,
            inode: 5,
            content,
            xattrs: vec![],
        }
    }

    fn read(bytes: &[u8]) -> Result<Vec<(PathBuf, Entry)>, ListingError> {
        let mut reader = ListingReader::new(bytes);
        let mut out = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            out.push((join(reader.path()), entry));
        }
        Ok(out)
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut writer = ListingWriter::new(Vec::new());
        entries.iter().for_each(|e| assert!(writer.push(e).is_ok()));
        writer.finish().unwrap()
    }

    #[test]
    fn golden_bytes() {
        let file = Content::File { size: 300, chunks: vec![ChunkId([9; 16])] };
        let mut want = vec![36, 0, 0, 0, 1, 1, b'a', 0xa4, 3, 1, 2, 6, 8, 5, 1, 0xac, 2, 1];
        want.extend([9; 16]);
        want.extend([1, 1, b'x', 2, b'y', b'z']);
        let mut entry = entry(1, "a", file);
        entry.xattrs = vec![(b"x".to_vec(), b"yz".to_vec())];
        let got = written(std::slice::from_ref(&entry));
        assert_eq!(got, want);
    }

    #[test]
    fn paths_follow_from_the_order() {
        let entries = [
            entry(0, "home", Content::Dir),
            entry(1, "a", Content::Dir),
            entry(2, "f", Content::Symlink(b"g".to_vec())),
            entry(1, "b", Content::HardLink(0)),
            entry(0, "tmp", Content::Dir),
        ];
        let paths: Vec<PathBuf> =
            read(&written(&entries)).unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["home", "home/a", "home/a/f", "home/b", "tmp"].map(PathBuf::from));
    }

    #[test]
    fn names_that_lead_elsewhere_and_wrong_orders_are_refused() {
        let dir = || Content::Dir;
        for bad in [
            vec![entry(0, "..", dir())],
            vec![entry(0, "", dir())],
            vec![entry(0, "a/b", dir())],
            vec![entry(0, "a\0", dir())],
            vec![entry(1, "a", dir())],
            vec![entry(0, "b", dir()), entry(0, "a", dir())],
            vec![entry(0, "a", dir()), entry(0, "a", dir())],
            vec![entry(0, "a", Content::Symlink(b"/etc".to_vec())), entry(1, "passwd", dir())],
        ] {
            assert!(read(&written(&bad)).is_err(), "{bad:?}");
        }
        let whole = written(&[entry(0, "a", dir())]);
        assert!((1..whole.len()).all(|cut| read(&whole[..cut]).is_err()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
