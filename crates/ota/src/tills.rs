//! What a provider remembers of vouchers: each opens one [`Till`], once.
//!
//! A voucher is for a single use. Its serial opens one till at its provider, and all that is served for it is
//! counted there:
//!
//! - **The same requester under the same voucher** (its connection broke, it has another address, the provider
//!   started anew) goes on at the same till. A till for each connection would be an allowance of
//!   [`UNRECEIPTED_MAX_BYTES`](crate::receipts::UNRECEIPTED_MAX_BYTES) for each connection; to refuse would cost a device on a bad line one of the
//!   few matches that it has.
//! - **Another credential of that requester**, a fresh voucher or a pass, closes the till. So does a receipt
//!   for every shard that the voucher covers: it is used up. And so does the bound below, for whom is away longest.
//! - **A closed till stays closed**: its voucher is refused ([`VoucherError::Used`]) until it ends, and its receipt
//!   cannot be replaced by a smaller one. The requester asks the matcher for a fresh voucher, as it does anyway
//!   when it has few neighbours.
//!
//! # Bounds
//! At most [`OPEN_MAX`] are open and [`CLOSED_MAX`] remembered. What ended is forgotten: an ended voucher is
//! refused for that.
//!
//! # A restart
//! Every change is an [`Event`]. Replayed in order they give the same book, without what was sent since the last
//! receipts; [`Till::resume`] says what follows.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use ioex_base::{
    CLOCK_SLACK_SECONDS, ContentAddress, Uid, UnixSeconds,
    receipt::{Address, Domain, ReceiptError, ReceiptKey, SignedReceipt},
};
use serde::{Deserialize, Serialize};

use crate::{
    receipts::Till,
    swarm::REQUESTERS_MAX,
    voucher::{OrderId, Voucher, VoucherError},
};

/// Most open tills: each has about 800 bytes.
pub const OPEN_MAX: usize = 4_096;
const _: () = assert!(OPEN_MAX > 2 * REQUESTERS_MAX, "two full packages fit, with some who are away");

/// Most closed ones that are remembered, each with about 80 bytes: 27 vouchers a second, for an hour.
pub const CLOSED_MAX: usize = 100_000;

/// A voucher among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VoucherName {
    /// The matcher that signed it.
    pub issuer: Uid,
    /// The order that pays: a matcher counts serials for each.
    pub order: OrderId,
    /// The voucher's.
    pub serial: u64,
}

/// What changed, to be kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A voucher opened its till.
    Opened {
        /// Who signed it.
        issuer: Uid,
        /// The voucher.
        voucher: Voucher,
    },
    /// A till was closed.
    Closed {
        /// Its voucher.
        name: VoucherName,
        /// The voucher's end.
        expires: UnixSeconds,
    },
}

/// Why a guest gets no shard just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// A receipt has to come first.
    #[error("a receipt has to come first")]
    Owes,
    /// Its voucher is used up.
    #[error("the voucher is used up")]
    UsedUp,
}

/// Why a receipt is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// Nothing is counted for this guest.
    #[error("nothing is counted for this guest")]
    NoTill,
    /// It does not fit.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
}

/// What a guest may ask for, and at which till that is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Which shards.
    pub shards: Range<u32>,
    /// The voucher; none under a pass.
    pub voucher: Option<VoucherName>,
}

#[derive(Debug)]
struct Open {
    issuer: Uid,
    voucher: Voucher,
    /// None for a guest that signs no receipts: it is served like one with a pass.
    till: Option<Till>,
    /// Whether its requester is connected.
    here: bool,
    /// Everything is receipted: it is closed, and stays here until its requester goes.
    used_up: bool,
    /// It was open before this provider started.
    replayed: bool,
}

impl Open {
    fn name(&self) -> VoucherName {
        VoucherName { issuer: self.issuer, order: self.voucher.order, serial: self.voucher.serial }
    }
}

/// A requester, and the package that it fetches.
type Guest = (Uid, ContentAddress);

/// All tills of a provider.
#[derive(Debug, Default)]
pub struct Tills {
    /// One at most for each requester and package.
    open: HashMap<Guest, Open>,
    /// With the end of their vouchers.
    closed: BTreeMap<VoucherName, UnixSeconds>,
}

impl Tills {
    /// Whether a checked voucher of `issuer` opens a till or has an open one.
    ///
    /// # Errors
    /// [`VoucherError::Used`].
    pub fn admits(&self, issuer: &Uid, voucher: &Voucher) -> Result<(), VoucherError> {
        let name = VoucherName { issuer: *issuer, order: voucher.order, serial: voucher.serial };
        if self.closed.contains_key(&name) { Err(VoucherError::Used) } else { Ok(()) }
    }

    /// The requester of a checked voucher came: its till is opened, or goes on. Returns what is to be kept.
    ///
    /// # Errors
    /// [`VoucherError::Used`], [`VoucherError::Busy`].
    pub fn open(
        &mut self,
        issuer: &Uid,
        voucher: &Voucher,
        now: UnixSeconds,
    ) -> Result<Vec<Event>, VoucherError> {
        self.admits(issuer, voucher)?;
        let guest = (voucher.requester, voucher.manifest);
        let name = VoucherName { issuer: *issuer, order: voucher.order, serial: voucher.serial };
        if let Some(open) = self.open.get_mut(&guest).filter(|open| open.name() == name) {
            open.here = true;
            return Ok(Vec::new());
        }
        if self.open.len() >= OPEN_MAX || self.closed.len() >= CLOSED_MAX {
            self.forget(now);
        }
        let replaces = self.open.contains_key(&guest);
        // One that is closed to make room, or by its successor, is remembered.
        if self.closed.len() >= CLOSED_MAX {
            return Err(VoucherError::Busy);
        }
        let mut events = Vec::new();
        if self.open.len() >= OPEN_MAX && !replaces {
            let away = self.open.iter().filter(|(_, open)| !open.here);
            let oldest = away.min_by_key(|(_, open)| open.voucher.expires).map(|(guest, _)| *guest);
            events.extend(self.close(&oldest.ok_or(VoucherError::Busy)?));
        }
        events.extend(self.close(&guest));
        let (till, here, used_up, replayed) = (None, true, false, false);
        let (issuer, voucher) = (*issuer, voucher.clone());
        events.push(Event::Opened { issuer, voucher: voucher.clone() });
        self.open.insert(guest, Open { issuer, voucher, till, here, used_up, replayed });
        Ok(events)
    }

    /// With which account the guest at this voucher's till signs; nothing changes when that was said before.
    /// `before` is the last receipt for the voucher on this provider's disk.
    pub fn count(
        &mut self,
        voucher: &Voucher,
        domain: Domain,
        account: Address,
        before: Option<SignedReceipt>,
    ) {
        let Some(open) = self.open.get_mut(&(voucher.requester, voucher.manifest)) else { return };
        if open.till.is_none() && open.voucher == *voucher {
            open.till = Some(if open.replayed || before.is_some() {
                Till::resume(voucher, domain, account, before)
            } else {
                Till::new(voucher, domain, account)
            });
        }
    }

    /// A requester's till for a package, if there is one, is closed: it came with a pass. Returns what is to be
    /// kept.
    pub fn close(&mut self, guest: &Guest) -> Option<Event> {
        let open = self.open.remove(guest)?;
        let (name, expires) = (open.name(), open.voucher.expires);
        self.closed.insert(name, expires);
        (!open.used_up).then_some(Event::Closed { name, expires })
    }

    /// A guest went away. It may come again.
    pub fn away(&mut self, guest: &Guest) {
        let Some(open) = self.open.get_mut(guest) else { return };
        open.here = false;
        if open.used_up {
            self.open.remove(guest);
        }
    }

    /// What a guest may ask for now.
    ///
    /// # Errors
    /// [`Withheld`].
    pub fn allows(&self, guest: &Guest) -> Result<Allowed, Withheld> {
        let Some(open) = self.open.get(guest) else {
            return Ok(Allowed { shards: 0..u32::MAX, voucher: None });
        };
        if open.used_up {
            return Err(Withheld::UsedUp);
        }
        if open.till.as_ref().is_some_and(|till| !till.trusts()) {
            return Err(Withheld::Owes);
        }
        let first = open.voucher.first_shard;
        let shards = first..first.saturating_add(open.voucher.shards);
        Ok(Allowed { shards, voucher: Some(open.name()) })
    }

    /// A shard of `bytes` bytes went out whole, asked for under this voucher.
    pub fn sent(&mut self, guest: &Guest, voucher: &VoucherName, bytes: u32) {
        let open = self.open.get_mut(guest).filter(|open| open.name() == *voucher);
        if let Some(till) = open.and_then(|open| open.till.as_mut()) {
            till.sent(bytes);
        }
    }

    /// Takes a guest's receipt. Returns it with both signatures, and what is to be kept.
    ///
    /// # Errors
    /// [`SettleError`]; the receipt before stays.
    pub fn settle(
        &mut self,
        guest: &Guest,
        signed: SignedReceipt,
        key: &ReceiptKey,
    ) -> Result<(SignedReceipt, Option<Event>), SettleError> {
        let open = self.open.get_mut(guest).ok_or(SettleError::NoTill)?;
        let till = open.till.as_mut().ok_or(SettleError::NoTill)?;
        let whole = signed.receipt.shards >= open.voucher.shards;
        till.take(signed)?;
        let both = till.close(key).ok_or(SettleError::NoTill)?;
        if !whole || open.used_up {
            return Ok((both, None));
        }
        open.used_up = true;
        let (name, expires) = (open.name(), open.voucher.expires);
        self.closed.insert(name, expires);
        Ok((both, Some(Event::Closed { name, expires })))
    }

    /// Forgets what ended, but for guests that are here.
    pub fn forget(&mut self, now: UnixSeconds) {
        let over = |expires: UnixSeconds| now > expires.plus(CLOCK_SLACK_SECONDS);
        self.open.retain(|_, open| open.here || !over(open.voucher.expires));
        self.closed.retain(|_, expires| !over(*expires));
    }

    /// What was kept, in its order, before this provider started anew.
    pub fn replay(&mut self, event: Event, now: UnixSeconds) {
        match event {
            Event::Opened { issuer, voucher } => {
                let guest = (voucher.requester, voucher.manifest);
                // Its own events were kept, too.
                let _ = self.open(&issuer, &voucher, now);
                if let Some(open) = self.open.get_mut(&guest) {
                    (open.here, open.replayed) = (false, true);
                }
            }
            Event::Closed { name, expires } => {
                self.open.retain(|_, open| open.name() != name);
                if self.closed.len() < CLOSED_MAX {
                    self.closed.insert(name, expires);
                }
            }
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len() + self.closed.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The events that give this book when they are replayed.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let closed =
            self.closed.iter().map(|(name, expires)| Event::Closed { name: *name, expires: *expires });
        let open = self.open.values().filter(|open| !open.used_up);
        closed.chain(open.map(|open| Event::Opened { issuer: open.issuer, voucher: open.voucher.clone() }))
    }
}

#[cfg(test)]
mod tests;
