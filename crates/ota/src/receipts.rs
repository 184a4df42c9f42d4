//! What both ends of a voucher keep: the requester a [`Tab`], the provider a [`Till`].

use ioex_base::{
    UnixSeconds,
    receipt::{Address, Domain, Receipt, ReceiptError, ReceiptKey, SignedReceipt, keccak256},
};

use crate::{
    swarm::{ASKS_PER_REQUESTER_MAX, Bits},
    voucher::Voucher,
};

/// How many bytes a provider sends beyond what is receipted, before it waits for a receipt: what a
/// requester can take without ever saying thanks.
pub const UNRECEIPTED_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What part of the receipted bytes a requester may have got besides and cannot give a receipt for: shards that broke
/// off with their connection, and those that another provider sent first.
const LOST_PARTS: u64 = 4;

fn lost(total: u64) -> u64 {
    total / LOST_PARTS
}

/// How many bytes a provider may have sent beyond the last receipt and not know of after a restart: what it trusts,
/// and what was on its way when that was reached.
pub const FORGOTTEN_MAX_BYTES: u64 = UNRECEIPTED_MAX_BYTES + ASKS_PER_REQUESTER_MAX as u64 * 1024 * 1024;

/// The requester's side of a voucher: what it got and verified.
#[derive(Clone, Debug)]
pub struct Tab {
    voucher: Voucher,
    shards: Bits,
    total: u64,
}

impl Tab {
    /// Nothing yet, under a voucher for a package with `shards` shards.
    #[must_use]
    pub fn new(voucher: Voucher, shards: usize) -> Self {
        Self { voucher, shards: Bits::none(shards), total: 0 }
    }

    /// A shard of `bytes` bytes came and was verified. Each counts once.
    pub fn verified(&mut self, shard: u32, bytes: u32) {
        if self.shards.insert(shard) {
            self.total += u64::from(bytes);
        }
    }

    /// Which shards count.
    #[must_use]
    pub fn shards(&self) -> &Bits {
        &self.shards
    }

    /// The receipt as it stands.
    #[must_use]
    pub fn receipt(&self, domain: &Domain, key: &ReceiptKey, now: UnixSeconds) -> SignedReceipt {
        let voucher = &self.voucher;
        Receipt {
            order: voucher.order.0,
            serial: voucher.serial,
            requester: voucher.requester,
            provider: voucher.provider,
            manifest: voucher.manifest,
            total: self.total,
            shards: u32::try_from(self.shards.count()).unwrap_or(u32::MAX),
            bitmap: bitmap_hash(&self.shards),
            time: now,
        }
        .sign(domain, key)
    }
}

/// Keccak-256 of a set of shards, as a receipt names it.
#[must_use]
pub fn bitmap_hash(shards: &Bits) -> [u8; 32] {
    keccak256(&shards.to_bytes())
}

/// The provider's side of a voucher: what it sent, and the last receipt for it.
#[derive(Clone, Debug)]
pub struct Till {
    domain: Domain,
    /// The requester's certified account.
    requester: Address,
    sent: u64,
    /// Bytes that it may have sent besides, and does not know of.
    forgotten: u64,
    last: Receipt,
    signed: Option<SignedReceipt>,
}

impl Till {
    /// Nothing sent yet, to a requester whose receipts this account signs.
    #[must_use]
    pub fn new(voucher: &Voucher, domain: Domain, requester: Address) -> Self {
        let last = Receipt {
            order: voucher.order.0,
            serial: voucher.serial,
            requester: voucher.requester,
            provider: voucher.provider,
            manifest: voucher.manifest,
            total: 0,
            shards: 0,
            bitmap: [0; 32],
            time: UnixSeconds(0),
        };
        Self { domain, requester, sent: 0, forgotten: 0, last, signed: None }
    }

    /// Goes on after a restart of the provider. `before` is the last receipt that it kept; one for another voucher
    /// does not count. What was sent since then is forgotten: a receipt may say up to [`FORGOTTEN_MAX_BYTES`] more than is known, so that
    /// an honest requester is not refused. It may take [`UNRECEIPTED_MAX_BYTES`] anew, once for each restart, which it cannot
    /// bring about.
    #[must_use]
    pub fn resume(
        voucher: &Voucher,
        domain: Domain,
        requester: Address,
        before: Option<SignedReceipt>,
    ) -> Self {
        let mut till = Self::new(voucher, domain, requester);
        till.forgotten = FORGOTTEN_MAX_BYTES;
        if let Some(before) = before.filter(|before| before.receipt.follows(&till.last).is_ok()) {
            till.forgotten += lost(before.receipt.total);
            till.sent = before.receipt.total;
            till.last = before.receipt.clone();
            till.signed = Some(before);
        }
        till
    }

    /// A shard of `bytes` bytes went out whole.
    pub fn sent(&mut self, bytes: u32) {
        self.sent += u64::from(bytes);
    }

    /// Whether one more shard goes out before the next receipt.
    #[must_use]
    pub fn trusts(&self) -> bool {
        self.sent - self.last.total < UNRECEIPTED_MAX_BYTES + lost(self.last.total)
    }

    /// Takes the next receipt.
    ///
    /// # Errors
    /// [`ReceiptError`]: subject, shrinking, more than was sent, signature; the one before stays.
    pub fn take(&mut self, signed: SignedReceipt) -> Result<(), ReceiptError> {
        signed.receipt.follows(&self.last)?;
        let unknown = signed.receipt.total.saturating_sub(self.sent);
        if unknown > self.forgotten {
            return Err(ReceiptError::More { sent: self.sent, got: signed.receipt.total });
        }
        let alone = SignedReceipt { provider: None, ..signed };
        alone.check(&self.domain, &self.requester, &self.requester)?;
        // Now it is known again.
        self.forgotten -= unknown;
        self.sent += unknown;
        self.last = alone.receipt.clone();
        self.signed = Some(alone);
        Ok(())
    }

    /// The last receipt with both signatures, to be kept for the chain.
    #[must_use]
    pub fn close(&self, key: &ReceiptKey) -> Option<SignedReceipt> {
        let mut signed = self.signed.clone()?;
        signed.countersign(&self.domain, key);
        Some(signed)
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::{ContentAddress, NodeKey, Uid};

    use super::*;
    use crate::voucher::OrderId;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    const DOMAIN: Domain = Domain { chain: 1, contract: Address([1; 20]) };

    fn voucher() -> Voucher {
        Voucher {
            order: OrderId([4; 16]),
            serial: 1,
            requester: Uid::from_bytes([1; 32]),
            provider: Uid::from_bytes([2; 32]),
            manifest: ContentAddress::of(b"manifest"),
            first_shard: 0,
            shards: 40,
            expires: NOW.plus(3_600),
        }
    }

    fn key(n: u8) -> ReceiptKey {
        ReceiptKey::of(&NodeKey::from_seed([n; 32]))
    }

    #[test]
    fn a_receipt_grows_with_what_was_verified_and_each_shard_counts_once() {
        let mut tab = Tab::new(voucher(), 40);
        let mut till = Till::new(&voucher(), DOMAIN, key(1).address());
        assert_eq!(till.close(&key(2)), None);
        for shard in [3, 4, 4, 39, 40] {
            tab.verified(shard, 1_000);
        }
        (0..3).for_each(|_| till.sent(1_000));
        let receipt = tab.receipt(&DOMAIN, &key(1), NOW);
        assert_eq!((receipt.receipt.total, receipt.receipt.shards), (3_000, 3));
        assert_eq!(till.take(receipt.clone()), Ok(()));
        tab.verified(5, 1_000);
        let more = tab.receipt(&DOMAIN, &key(1), NOW.plus(1));
        assert_eq!(till.take(more.clone()), Err(ReceiptError::More { sent: 3_000, got: 4_000 }));
        till.sent(1_000);
        assert_eq!(till.take(more.clone()), Ok(()));
        assert!(matches!(till.take(receipt), Err(ReceiptError::Shrinks { .. })));
        let forged = tab.receipt(&DOMAIN, &key(3), NOW.plus(2));
        assert!(matches!(till.take(forged), Err(ReceiptError::Signer { .. })));
        let kept = till.close(&key(2)).unwrap();
        assert_eq!(kept.receipt, more.receipt);
        assert_eq!(kept.check(&DOMAIN, &key(1).address(), &key(2).address()), Ok(()));
    }

    #[test]
    fn who_does_not_sign_gets_a_bounded_amount() {
        let mut till = Till::new(&voucher(), DOMAIN, key(1).address());
        let mut shards = 0;
        while till.trusts() {
            till.sent(1 << 20);
            shards += 1;
        }
        assert_eq!(shards, UNRECEIPTED_MAX_BYTES >> 20);
    }

    #[test]
    fn who_signs_for_what_it_got_is_not_refused_for_what_was_lost_on_the_way() {
        let all = Voucher { shards: 1_000, ..voucher() };
        let (mut tab, mut till) = (Tab::new(all.clone(), 1_000), Till::new(&all, DOMAIN, key(1).address()));
        for shard in 0..1_000 {
            assert!(till.trusts(), "after {shard} shards");
            till.sent(1 << 20);
            // Every sixth breaks off.
            if shard % 6 != 0 {
                tab.verified(shard, 1 << 20);
            }
            if shard % 8 == 0 {
                till.take(tab.receipt(&DOMAIN, &key(1), NOW.plus(shard.into()))).unwrap();
            }
        }
    }
}
