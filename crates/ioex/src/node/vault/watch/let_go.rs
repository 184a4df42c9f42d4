//! Keeping the head at devices, and letting go of what devices need not hold any more.
//!
//! Whoever takes space back hands over what it holds: first each thing is somewhere else, then its lease is
//! given up. A device that is not there in that moment is told when it is back; until then it stands in
//! the book what it is owed.

use std::collections::BTreeMap;

use ioex_api::ApiError;
use ioex_base::limits::SHARD_LIFE_SECONDS;
use ioex_base::{Uid, head_address};
use ioex_store::LEASE_GRACE_SECONDS;

use super::{
    super::{
        book::{Book, Changes, Owed},
        head::holders_of,
        head_write::spread,
        manage,
    },
    Charge, Round,
};

/// The head is brought to devices again when it has been there for so long, in seconds.
const HEAD_EVERY_SECONDS: u64 = 24 * 3_600;

impl Round<'_> {
    /// Whether the head is to be looked after in this round, by this node.
    fn is_head_due(&self) -> Result<bool, ApiError> {
        let Charge { repo, book, own, .. } = &self.charge;
        let last = book.head_kept()?;
        let kept = last.is_some_and(|at| self.now.since(at) < HEAD_EVERY_SECONDS && at <= self.now);
        Ok((self.all || !kept) && (own.is_some() || self.is_mine(repo.as_bytes())))
    }

    /// Devices that have the head and are to be asked; none when nobody can be asked who they are.
    pub(super) async fn head_holders(&self) -> Result<Vec<Uid>, ApiError> {
        if !self.all && !self.is_head_due()? {
            return Ok(Vec::new());
        }
        let holders = holders_of(self.node, &self.charge.repo).await.unwrap_or_default();
        Ok(holders.into_iter().filter(|uid| self.is_mine(uid.as_bytes())).collect())
    }

    /// Brings the head to devices again, which extends its leases, and to others in the place of those
    /// that want to be rid of it.
    pub(super) async fn keep_head(&mut self) -> Result<(), ApiError> {
        let address = head_address(&self.charge.repo);
        let mut leaving: Vec<Uid> =
            self.handed_over.iter().filter(|(_, handed)| *handed == address).map(|(uid, _)| *uid).collect();
        leaving.sort_unstable();
        let Some(head) = self.charge.book.head()? else { return Ok(()) };
        if leaving.is_empty() && !self.is_head_due()? {
            return Ok(());
        }
        let (placing, choice) = manage::placing(self.node, self.charge.reader).await?;
        let spread =
            spread(self.node, &self.charge.repo, &placing, choice.redundancy, (&head, true), &leaving).await;
        let moved = if spread.is_enough() { leaving } else { Vec::new() };
        let moved: Vec<Owed> = moved.into_iter().map(|device| Owed { device, address }).collect();
        let (owed, now) = (moved.clone(), self.now);
        let until = now.plus(SHARD_LIFE_SECONDS + LEASE_GRACE_SECONDS);
        let write = move |c: &Changes| {
            c.put_head_kept(now)?;
            owed.iter().try_for_each(|owed| c.owe(owed, until))
        };
        self.charge.book.off(|book| book.change(write)).await?;
        self.release(moved).await
    }

    /// Gives up leases, and notes of whom it is known.
    pub(super) async fn release(&mut self, released: Vec<Owed>) -> Result<(), ApiError> {
        let mut by_device: BTreeMap<Uid, Vec<Owed>> = BTreeMap::new();
        for owed in released {
            by_device.entry(owed.device).or_default().push(owed);
        }
        for (device, owed) in by_device {
            for part in owed.chunks(ioex_net::proto::LEASES_AT_ONCE_MAX) {
                let addresses = part.iter().map(|owed| owed.address).collect();
                match self.node.mesh.shard_release(device, &self.grant, addresses).await {
                    Ok(_) => {
                        self.report.handed_over += part.len() as u64;
                        self.owe_no_more(part.to_vec()).await?;
                    }
                    Err(e) => {
                        tracing::info!("{} was not told what it may delete: {e}", device.short());
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells devices that answer what could not be told them before.
    pub(super) async fn let_go(&mut self) -> Result<(), ApiError> {
        let read = |book: &Book| {
            let mut all = Vec::new();
            book.each_owed(|entry, until| all.push((entry, until)))?;
            Ok(all)
        };
        let all = self.charge.book.off(read).await?;
        let (over, owed): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, until)| *until < self.now);
        if !over.is_empty() {
            self.owe_no_more(over.into_iter().map(|(entry, _)| entry).collect()).await?;
        }
        let there = |uid: &Uid| self.devices.get(uid).is_none_or(|device| device.asked == Some(self.now));
        let owed = owed.into_iter().map(|(entry, _)| entry).filter(|entry| there(&entry.device)).collect();
        self.release(owed).await
    }

    async fn owe_no_more(&self, owed: Vec<Owed>) -> Result<(), ApiError> {
        let write = move |c: &Changes| owed.iter().try_for_each(|owed| c.owe_no_more(owed));
        Ok(self.charge.book.off(|book| book.change(write)).await?)
    }
}
