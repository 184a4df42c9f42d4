//! What the owner changes while the node runs.

use anyhow::{Context as _, bail};
use ioex_api::DeviceChanges;
use ioex_base::{ContentAddress, UnixSeconds};
use ioex_store::{Certainty, StoreError, certain, holds_store};

use super::{
    Lent, Verdict, Why, clear_old, files, lock, relocate,
    relocate::{is_missing, missing, open},
};

/// Why something held could not be deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    /// Not here.
    #[error("nothing with the address {0} is held here")]
    NotHeld(ContentAddress),
    /// Its term is not over.
    #[error(
        "{address} is promised until then, {days} days from now, and its backup may need it. To have the space \
         earlier, lower it (`ioex device set --space`) or let the device leave (`ioex device leave`): then it \
         is handed over to another device first"
    )]
    NotYet { address: ContentAddress, days: u64 },
    /// Nobody knows what time it is.
    #[error(
        "what time it is cannot be told for certain: {0}. Nothing is deleted, so that a wrong clock loses nothing"
    )]
    Time(String),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Lent {
    /// Changes the settings, durably and at once.
    ///
    /// # Errors
    /// When a value makes no sense, when shards would be left behind, or when the disk fails;
    /// nothing is changed then.
    pub(crate) fn change(&self, changes: &DeviceChanges) -> anyhow::Result<()> {
        let _one = lock(&self.changing);
        if !self.kind.stores_for_others() {
            bail!("a {} node never stores for others", self.kind);
        }
        let now = self.settings();
        let mut new = now.changed(changes)?;
        if new.shards_dir(&self.data) == now.shards_dir(&self.data) {
            new.save(&self.data)?;
        } else {
            self.set_verdict(Verdict::Paused(Why::Moving));
            let held = self.store();
            let moved = relocate(&self.data, &now, &mut new, held.as_ref(), changes.move_shards);
            if let Ok(store) = &moved {
                self.set_store(Some(store.clone()));
                *lock(&self.problem) = None;
            }
            drop(held);
            self.set_verdict(Verdict::Off);
            // Now that the other folder is the one, what is left in the old one only takes space.
            let cleared = moved.and_then(|_| {
                clear_old(&self.data, &mut new).or_else(|e| {
                    tracing::warn!("{e:#}; the next start tries again");
                    Ok(())
                })
            });
            if let Err(e) = cleared {
                self.look();
                return Err(e);
            }
        }
        self.use_settings(new);
        if self.handover_bytes() > 0 || self.settings().leaving {
            self.clear_damaged();
        }
        let (settings, space) = (self.settings(), self.space_bytes(&self.settings()));
        let anew = changes.dir.is_some();
        // A disk that is not there keeps nobody from changing something else.
        let open_now = anew || (space > 0 && !is_missing(&self.data, &settings));
        if self.store().is_none() && open_now {
            let store = open(&self.data, &settings, space, anew).context("the settings are kept")?;
            self.set_store(Some(store));
            *lock(&self.problem) = None;
        }
        Ok(())
    }

    /// Notices that the folder with all that is held went away, or is back: a disk that is not mounted. What
    /// nobody can look at now must not be said to be lost.
    pub(crate) fn look_for_disk(&self) -> Option<String> {
        let Ok(_one) = self.changing.try_lock() else { return None };
        let settings = self.settings();
        match (self.store(), holds_store(&settings.shards_dir(&self.data))) {
            (Some(_), false) => {
                let why = missing(&self.shards_dir());
                *lock(&self.problem) = Some(why.clone());
                self.set_store(None);
                Some(why)
            }
            (None, true) if self.problem().is_some() => {
                match open(&self.data, &settings, self.space_bytes(&settings), false) {
                    Ok(store) => {
                        self.set_store(Some(store));
                        *lock(&self.problem) = None;
                        tracing::info!("what is held for others is back");
                    }
                    Err(e) => tracing::info!("the lent space cannot be used: {e:#}"),
                }
                None
            }
            _ => None,
        }
    }

    /// Deletes what was set aside as damaged: nobody can use it, and the space is wanted back.
    fn clear_damaged(&self) {
        if let Some(Err(e)) = self.store().map(|store| store.clear_damaged()) {
            tracing::warn!("what was set aside as damaged could not be deleted: {e}");
        }
    }

    /// What time it is for the owner's deletions: the earlier of two clocks that agree.
    fn time_to_delete(&self, must_be_certain: bool) -> Result<UnixSeconds, DeleteError> {
        let own = files::now();
        match certain(own, self.network_time()) {
            Certainty::Certain(time) => Ok(time),
            Certainty::Apart(seconds) => Err(DeleteError::Time(format!(
                "this device's clock and the network's are {} days apart: set the clock",
                seconds / ioex_base::DAY_SECONDS
            ))),
            Certainty::Unknown if must_be_certain => {
                Err(DeleteError::Time("the node has not heard from the network yet".to_owned()))
            }
            Certainty::Unknown => Ok(own),
        }
    }

    /// Deletes something whose term is over.
    pub(crate) fn delete(&self, address: &ContentAddress) -> Result<u64, DeleteError> {
        let now = self.time_to_delete(false)?;
        let Some(store) = self.store() else { return Err(DeleteError::NotHeld(*address)) };
        let before = store.usage().used_bytes;
        match store.remove(address, now) {
            Ok(()) => Ok(before.saturating_sub(store.usage().used_bytes)),
            Err(StoreError::NotHeld(address)) => Err(DeleteError::NotHeld(address)),
            Err(StoreError::NotYet { until }) => {
                let days = until.since(now).div_ceil(ioex_base::DAY_SECONDS);
                Err(DeleteError::NotYet { address: *address, days })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Deletes everything whose term is over, and what was set aside as damaged.
    pub(crate) fn delete_ended(&self) -> Result<(Vec<ContentAddress>, u64), DeleteError> {
        let now = self.time_to_delete(true)?;
        let Some(store) = self.store() else { return Ok((Vec::new(), 0)) };
        let before = store.usage().used_bytes;
        self.clear_damaged();
        let ended = store.list().into_iter().filter(|held| held.expires <= now);
        let mut deleted = Vec::new();
        for held in ended {
            match store.remove(&held.address, now) {
                Ok(()) => deleted.push(held.address),
                // Renewed or gone meanwhile.
                Err(StoreError::NotYet { .. } | StoreError::NotHeld(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok((deleted, before.saturating_sub(store.usage().used_bytes)))
    }

    /// The time by which the owner may delete what has ended, if that can be told.
    pub(crate) fn deletable_before(&self) -> Option<UnixSeconds> {
        self.time_to_delete(false).ok()
    }
}
