//! Receipts: what this node got from others and gave to others, signed by both ends, kept for the chain.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use ioex_base::{
    DAY_SECONDS, NodeKey, Uid, UnixSeconds,
    receipt::{Address, Certificate, Domain, ReceiptKey, SIGNED_RECEIPT_MAX_BYTES, SignedReceipt},
    wire,
};

use crate::node::files;

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
}

impl Receipts {
    pub(super) fn open(dir: &Path, node: &NodeKey) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), key: ReceiptKey::of(node), node: node.clone() })
    }

    /// This node's word on its receipt key.
    pub(super) fn certificate(&self) -> Vec<u8> {
        self.key.certify(&self.node, files::now().plus(CERTIFICATE_SECONDS))
    }

    /// With which account another node signs, if it says so itself.
    pub(super) fn account(certificate: &[u8], node: &Uid, now: UnixSeconds) -> Option<Address> {
        Certificate::check(certificate, node, now).ok().map(|certificate| certificate.address)
    }

    /// Keeps the newest receipt of a voucher in the place of the one before.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn keep(&self, side: Side, signed: &SignedReceipt) -> io::Result<()> {
        let side = match side {
            Side::Requester => "got",
            Side::Provider => "gave",
        };
        let receipt = &signed.receipt;
        let order = HEXLOWER.encode(&receipt.order);
        // Each matcher counts serials for itself; the pair makes the name unlike any other.
        let (from, to) = (receipt.provider.short(), receipt.requester.short());
        let name = format!("{side}-{order}-{}-{from}-{to}.receipt", receipt.serial);
        files::replace(&self.dir.join(name), &encode(signed))
    }
}

/// A receipt as it travels.
pub(super) fn encode(signed: &SignedReceipt) -> Vec<u8> {
    wire::encode(signed)
}

/// Reads one that came.
pub(super) fn decode(bytes: &[u8]) -> Option<SignedReceipt> {
    wire::decode(bytes, SIGNED_RECEIPT_MAX_BYTES).ok()
}
