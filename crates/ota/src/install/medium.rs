//! What installers write to.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

/// A file or block device. The second implementation is the test's, which loses power.
pub trait Medium {
    /// Length in bytes.
    ///
    /// # Errors
    /// As the system says.
    fn capacity(&self) -> io::Result<u64>;
    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// As the system says, also when the medium ends before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. Durable only after [`Medium::sync`].
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// As the system says.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file, or a block device under its path in `/dev`.
#[derive(Debug)]
pub struct FileMedium(File);

impl FileMedium {
    /// Opens what exists.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// Opens what exists, for reading alone.
    ///
    /// # Errors
    /// As the system says.
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?))
    }

    /// Opens a file, or makes one of `length` bytes. An existing shorter one is lengthened.
    ///
    /// # Errors
    /// As the system says.
    pub fn create(path: &Path, length: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() < length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        Ok(Self(file))
    }
}

impl Medium for FileMedium {
    fn capacity(&self) -> io::Result<u64> {
        // The length in a block device's metadata is 0; its end is where it is for both.
        (&self.0).seek(SeekFrom::End(0))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}
