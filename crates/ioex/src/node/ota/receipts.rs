//! Receipts: what this node got from others and gave to others, signed by both ends, kept for the chain.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use data_encoding::HEXLOWER;
use ioex_base::{
    DAY_SECONDS, NodeKey, Uid, UnixSeconds,
    receipt::{Address, Certificate, Domain, ReceiptKey, SIGNED_RECEIPT_MAX_BYTES, SignedReceipt},
    wire,
};
use ioex_ota::voucher::Voucher;

use crate::node::{files, lock};

/// Where receipts are settled. There is no contract yet: the chain's issue gives it its address, and receipts made
/// before that are for this place, which settles nothing.
pub(super) const DOMAIN: Domain = Domain { chain: 0, contract: Address([0; 20]) };

/// How long a certificate holds, in seconds: longer than a voucher, so that one of each start suffices.
const CERTIFICATE_SECONDS: u64 = 30 * DAY_SECONDS;

/// On which side of a receipt this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It got the shards.
    Requester,
    /// It sent them.
    Provider,
}

/// This node's receipt key, and the receipts on its disk.
pub(super) struct Receipts {
    dir: PathBuf,
    pub(super) key: ReceiptKey,
    node: NodeKey,
    /// Two receipts of one voucher may come at once: the larger one stays.
    keeping: Mutex<()>,
}

impl Receipts {
    pub(super) fn open(dir: &Path, node: &NodeKey) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            key: ReceiptKey::of(node),
            node: node.clone(),
            keeping: Mutex::default(),
        })
    }

    /// This node's word on its receipt key.
    pub(super) fn certificate(&self) -> Vec<u8> {
        self.key.certify(&self.node, files::now().plus(CERTIFICATE_SECONDS))
    }

    /// With which account another node signs, if it says so itself.
    pub(super) fn account(certificate: &[u8], node: &Uid, now: UnixSeconds) -> Option<Address> {
        Certificate::check(certificate, node, now).ok().map(|certificate| certificate.address)
    }

    /// Where the receipt for a voucher lies. Each matcher counts serials for itself; the pair makes the name unlike any
    /// other.
    fn path(&self, side: Side, order: &[u8; 16], serial: u64, provider: &Uid, requester: &Uid) -> PathBuf {
        let side = match side {
            Side::Requester => "got",
            Side::Provider => "gave",
        };
        let (order, from, to) = (HEXLOWER.encode(order), provider.short(), requester.short());
        self.dir.join(format!("{side}-{order}-{serial}-{from}-{to}.receipt"))
    }

    /// Keeps a receipt in the place of a smaller one for the same voucher. A larger one stays.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn keep(&self, side: Side, signed: &SignedReceipt) -> io::Result<()> {
        let receipt = &signed.receipt;
        let path = self.path(side, &receipt.order, receipt.serial, &receipt.provider, &receipt.requester);
        let _turn = lock(&self.keeping);
        if read(&path).is_some_and(|before| before.receipt.total > receipt.total) {
            return Ok(());
        }
        files::replace(&path, &encode(signed))
    }

    /// The last receipt that was kept for a voucher.
    pub(super) fn last(&self, side: Side, voucher: &Voucher) -> Option<SignedReceipt> {
        let (provider, requester) = (&voucher.provider, &voucher.requester);
        read(&self.path(side, &voucher.order.0, voucher.serial, provider, requester))
    }
}

fn read(path: &Path) -> Option<SignedReceipt> {
    decode(&fs::read(path).ok()?)
}

/// A receipt as it travels.
pub(super) fn encode(signed: &SignedReceipt) -> Vec<u8> {
    wire::encode(signed)
}

/// Reads one that came.
pub(super) fn decode(bytes: &[u8]) -> Option<SignedReceipt> {
    wire::decode(bytes, SIGNED_RECEIPT_MAX_BYTES).ok()
}

#[cfg(test)]
mod tests {
    use ioex_base::ContentAddress;
    use ioex_ota::{receipts::Tab, voucher::OrderId};

    use super::*;

    #[test]
    fn a_smaller_receipt_takes_no_larger_ones_place() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeKey::from_seed([1; 32]);
        let receipts = Receipts::open(&dir.path().join("receipts"), &node).unwrap();
        let voucher = Voucher {
            order: OrderId([4; 16]),
            serial: 1,
            requester: node.uid(),
            provider: NodeKey::from_seed([2; 32]).uid(),
            manifest: ContentAddress::of(b"manifest"),
            first_shard: 0,
            shards: 9,
            expires: files::now(),
        };
        let mut tab = Tab::new(voucher.clone(), 9);
        let signed = [0, 1, 2].map(|shard| {
            tab.verified(shard, 1_000);
            tab.receipt(&DOMAIN, &receipts.key, files::now())
        });
        for (comes, stays) in [(0, 0), (2, 2), (1, 2), (2, 2)] {
            receipts.keep(Side::Provider, &signed[comes]).unwrap();
            assert_eq!(receipts.last(Side::Provider, &voucher).as_ref(), Some(&signed[stays]));
        }
        assert_eq!(receipts.last(Side::Requester, &voucher), None, "each side has its own");
    }
}
