//! Where what is held lies, and bringing it elsewhere.

use std::path::Path;

use anyhow::{Context as _, bail};
use ioex_store::{ShardStore, holds_store, is_store, remove_store};

use crate::device::DeviceSettings;

/// Opens the store that the settings name.
///
/// # Errors
/// When nothing was ever stored in a folder that the owner named, unless `anew`: its disk may not be mounted,
/// and what would be stored below its name would lie somewhere else.
pub(crate) fn open(
    data: &Path,
    settings: &DeviceSettings,
    space_bytes: u64,
    anew: bool,
) -> anyhow::Result<ShardStore> {
    let dir = settings.shards_dir(data);
    if is_missing(data, settings) && !anew {
        bail!(missing(&dir));
    }
    if anew && !is_store(&dir)? {
        bail!("the folder {} is not empty: name one of its own", dir.display());
    }
    ShardStore::open(&dir, space_bytes)
        .with_context(|| format!("the lent space in {} cannot be used", dir.display()))
}

/// What is said of a folder in which no store is.
pub(crate) fn missing(dir: &Path) -> String {
    format!(
        "what is held for others is not in the folder {dir}: is its disk mounted? If the disk is a new one, say so \
         with `ioex device set --dir {dir}`",
        dir = dir.display()
    )
}

/// Whether the owner named a folder in which no store is.
pub(crate) fn is_missing(data: &Path, settings: &DeviceSettings) -> bool {
    settings.dir.is_some() && !holds_store(&settings.shards_dir(data))
}

/// Removes the folder from which everything was moved earlier, and forgets it.
pub(crate) fn clear_old(data: &Path, settings: &mut DeviceSettings) -> anyhow::Result<()> {
    let Some(old) = settings.moved_from.clone() else { return Ok(()) };
    if old != settings.shards_dir(data) {
        remove_store(&old).with_context(|| format!("what was moved away is still in {}", old.display()))?;
    }
    settings.moved_from = None;
    settings.save(data)?;
    Ok(())
}

/// Goes from the folder of `now` to that of `new`, and writes `new` at the moment when that holds:
/// a crash before leaves all as it was, one after leaves all in the new folder. `held` is the store
/// in the old folder, if there is one. Returns the store in the new folder.
///
/// # Errors
/// When something is held and is not to be moved, when the new folder is none of its own, or when
/// it cannot be written. All is as it was then.
pub(crate) fn relocate(
    data: &Path,
    now: &DeviceSettings,
    new: &mut DeviceSettings,
    held: Option<&ShardStore>,
    move_shards: bool,
) -> anyhow::Result<ShardStore> {
    let (from, to) = (now.shards_dir(data), new.shards_dir(data));
    if to.starts_with(&from) || from.starts_with(&to) {
        bail!("{} and {} lie in each other: name a folder beside it", to.display(), from.display());
    }
    let count = held.map_or(0, |store| store.list().len());
    if count == 0 {
        if !is_store(&to)? {
            bail!("the folder {} is not empty: name one of its own", to.display());
        }
        let space = held.map_or(0, |store| store.usage().space_bytes);
        let store = ShardStore::open(&to, space)
            .with_context(|| format!("the folder {} cannot be used", to.display()))?;
        // The empty store that is left, if there is one, is removed.
        new.moved_from = held.map(|_| from);
        new.save(data)?;
        return Ok(store);
    }
    if !move_shards {
        bail!(
            "{count} shards are held for others in {}: add --move to bring them to {}",
            from.display(),
            to.display()
        );
    }
    let Some(held) = held else { bail!("nothing is held") };
    let store = held.move_to(&to)?;
    new.moved_from = Some(from);
    if let Err(e) = new.save(data) {
        drop(store);
        let _ = remove_store(&to);
        held.reopen();
        return Err(e.into());
    }
    Ok(store)
}
