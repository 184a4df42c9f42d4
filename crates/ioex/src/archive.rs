//! A folder as one stream, in which it travels as an image of an update.

use std::{fs, io, path::Path};

/// Puts what is in a folder into an archive: in order of name, with kind and permission bits as they are, and without
/// owners and dates, so that the same folder is the same archive.
///
/// # Errors
/// When something cannot be read, or the archive cannot be written.
pub(crate) fn archive_folder(folder: &Path, archive: &Path) -> io::Result<()> {
    let mut builder = tar::Builder::new(fs::File::create(archive)?);
    add(&mut builder, folder, Path::new(""))?;
    builder.into_inner()?.sync_all()
}

fn add(builder: &mut tar::Builder<fs::File>, folder: &Path, inside: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), inside.join(entry.file_name()));
        let meta = path.symlink_metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_size(0);
        if meta.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, &name, io::empty())?;
            add(builder, &path, &name)?;
        } else if meta.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else {
            header.set_size(meta.len());
            builder.append_data(&mut header, &name, fs::File::open(&path)?)?;
        }
    }
    Ok(())
}
