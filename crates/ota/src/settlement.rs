//! What an order pays: each shard once for each device, whatever receipts there are.
//!
//! Vouchers are given out generously, several providers for every device and each for the whole
//! package, so that a swarm is not hindered. Fraud is bounded here instead: two who sign each other
//! anything they like get no more than one fetch of one device, which the maker ordered anyway.

use std::collections::{BTreeMap, HashMap, HashSet};

use ioex_base::{
    Uid,
    receipt::{Address, Domain, ReceiptError, SignedReceipt},
};

use crate::{matcher::Order, receipts::bitmap_hash, swarm::Bits};

/// A receipt as its provider hands it in, with the shards that it names by their hash.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Signed by both.
    pub signed: SignedReceipt,
    /// Which shards.
    pub shards: Bits,
    /// The accounts that requester and provider certified.
    pub accounts: (Address, Address),
}

/// Why a claim is not paid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// For another order or package.
    #[error("the receipt is for another order or package")]
    Order,
    /// The requester is not on the roster.
    #[error("the requester is not on the order's roster")]
    Roster,
    /// Both ends are the same.
    #[error("nobody is paid for serving itself")]
    Self_,
    /// One signature is missing or does not hold.
    #[error("the receipt is not signed by both: {0}")]
    Signature(String),
    /// The shards are not the ones that were signed, or not as many bytes.
    #[error("the shards are not those of the receipt")]
    Shards,
}

impl From<ReceiptError> for ClaimError {
    fn from(error: ReceiptError) -> Self {
        Self::Signature(error.to_string())
    }
}

/// The books of one order.
pub struct Settlement {
    order: Order,
    sizes: Vec<u32>,
    domain: Domain,
    roster: HashSet<Uid>,
    paid: HashMap<Uid, Bits>,
    earned: BTreeMap<Uid, u64>,
}

impl Settlement {
    /// Nothing paid yet. `sizes` are the lengths of the package's shards, in bytes.
    #[must_use]
    pub fn new(order: Order, sizes: Vec<u32>, domain: Domain, roster: HashSet<Uid>) -> Self {
        Self { order, sizes, domain, roster, paid: HashMap::new(), earned: BTreeMap::new() }
    }

    /// Settles a claim. Returns for how many bytes its provider is paid: the shards of it for which nobody
    /// was paid for this device before.
    ///
    /// # Errors
    /// [`ClaimError`], in its order, cheapest first.
    pub fn settle(&mut self, claim: &Claim) -> Result<u64, ClaimError> {
        let receipt = &claim.signed.receipt;
        if receipt.order != self.order.id.0 || receipt.manifest != self.order.manifest {
            return Err(ClaimError::Order);
        }
        if !self.roster.contains(&receipt.requester) {
            return Err(ClaimError::Roster);
        }
        if receipt.requester == receipt.provider {
            return Err(ClaimError::Self_);
        }
        let bytes = |shards: &Bits| shards.iter().map(|n| u64::from(self.sizes[n as usize])).sum::<u64>();
        let right = claim.shards.len() == self.sizes.len()
            && bitmap_hash(&claim.shards) == receipt.bitmap
            && claim.shards.count() == receipt.shards as usize
            && bytes(&claim.shards) == receipt.total;
        if !right {
            return Err(ClaimError::Shards);
        }
        if claim.signed.provider.is_none() {
            return Err(ClaimError::Signature("the provider's is missing".to_owned()));
        }
        claim.signed.check(&self.domain, &claim.accounts.0, &claim.accounts.1)?;
        let none = || Bits::none(self.sizes.len());
        let paid = self.paid.entry(receipt.requester).or_insert_with(none);
        let new = claim.shards.minus(paid);
        paid.add(&new);
        let bytes = new.iter().map(|n| u64::from(self.sizes[n as usize])).sum();
        *self.earned.entry(receipt.provider).or_insert(0) += bytes;
        Ok(bytes)
    }

    /// For how many bytes each provider is paid.
    #[must_use]
    pub fn earned(&self) -> &BTreeMap<Uid, u64> {
        &self.earned
    }
}

#[cfg(test)]
mod tests {
    use ioex_base::{ContentAddress, NodeKey, UnixSeconds, receipt::ReceiptKey};

    use super::*;
    use crate::{
        Version,
        matcher::roster_hash,
        receipts::Tab,
        voucher::{OrderId, Voucher},
    };

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    const DOMAIN: Domain = Domain { chain: 1, contract: Address([1; 20]) };

    fn node(n: u8) -> NodeKey {
        NodeKey::from_seed([n; 32])
    }

    fn books() -> Settlement {
        let roster: HashSet<Uid> = (1..4).map(|n| node(n).uid()).collect();
        let order = Order {
            id: OrderId([4; 16]),
            matcher: node(9).uid(),
            version: Version([2, 0, 0, 0]),
            manifest: ContentAddress::of(b"manifest"),
            shards: 10,
            quantity: 3,
            roster: roster_hash(&roster),
            expires: NOW.plus(86_400),
        };
        Settlement::new(order, vec![100; 10], DOMAIN, roster)
    }

    fn claim(requester: u8, provider: u8, serial: u64, shards: std::ops::Range<u32>) -> Claim {
        let voucher = Voucher {
            order: OrderId([4; 16]),
            serial,
            requester: node(requester).uid(),
            provider: node(provider).uid(),
            manifest: ContentAddress::of(b"manifest"),
            first_shard: 0,
            shards: 10,
            expires: NOW.plus(3_600),
        };
        let mut tab = Tab::new(voucher, 10);
        shards.for_each(|shard| tab.verified(shard, 100));
        let (key, other) = (ReceiptKey::of(&node(requester)), ReceiptKey::of(&node(provider)));
        let mut signed = tab.receipt(&DOMAIN, &key, NOW);
        signed.countersign(&DOMAIN, &other);
        Claim { signed, shards: tab.shards().clone(), accounts: (key.address(), other.address()) }
    }

    /// The bound on fraud: whatever two of a million devices sign for each other, an order pays no device's
    /// shard twice.
    #[test]
    fn an_order_pays_each_shard_once_for_each_device() {
        let mut books = books();
        assert_eq!(books.settle(&claim(1, 5, 1, 0..6)), Ok(600));
        assert_eq!(books.settle(&claim(1, 6, 2, 4..10)), Ok(400), "two had been paid");
        for serial in 3..50 {
            assert_eq!(books.settle(&claim(1, 5, serial, 0..10)), Ok(0));
        }
        assert_eq!(books.settle(&claim(2, 5, 1, 0..10)), Ok(1_000));
        assert_eq!(books.earned().values().sum::<u64>(), 2_000, "two devices, one fetch each");
    }

    #[test]
    fn what_is_not_right_is_not_paid() {
        let mut books = books();
        assert_eq!(books.settle(&claim(7, 5, 1, 0..6)), Err(ClaimError::Roster));
        assert_eq!(books.settle(&claim(1, 1, 1, 0..6)), Err(ClaimError::Self_));
        let good = claim(1, 5, 1, 0..6);
        let more = Claim { shards: Bits::all(10), ..good.clone() };
        assert_eq!(books.settle(&more), Err(ClaimError::Shards));
        let mut other = good.clone();
        other.signed.receipt.order = [5; 16];
        assert_eq!(books.settle(&other), Err(ClaimError::Order));
        let mut alone = good.clone();
        alone.signed.provider = None;
        assert!(matches!(books.settle(&alone), Err(ClaimError::Signature(_))));
        let mut forged = good.clone();
        forged.accounts.0 = forged.accounts.1;
        assert!(matches!(books.settle(&forged), Err(ClaimError::Signature(_))));
        let mut late = good;
        late.signed.receipt.time = NOW.plus(1);
        assert!(matches!(books.settle(&late), Err(ClaimError::Signature(_))));
        assert!(books.earned().is_empty());
    }
}
