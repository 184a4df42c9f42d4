//! The Update Framework, version 1.0: four signed roles that tell a device what its maker published.
//!
//! **root** names the keys of all roles and how many of each must sign; its own keys lie offline.
//! **targets** lists packages. **snapshot** says which targets metadata is current. **timestamp**
//! says which snapshot is current, and is signed anew every few days, so that silence is noticed.
//! Peers and super nodes carry these files and hold no key: to TUF they are mirrors, which may be
//! malicious.
//!
//! # Why not the `tough` crate
//! It was the plan, and these files are the ones that it and the reference implementation read
//! and write. Linking it (0.24) is another matter: it verifies with `aws-lc-rs`, and with rustls'
//! default provider, where this program has one provider, ring, also for 32-bit ARM; it needs the
//! tokio runtime for a temporary folder of metadata; it asks the system's clock by itself
//! (`Timestamp::now` in its datastore), whereas what a device with a wrong clock decides has to
//! be a rule that takes time as an argument. What of its family has none of that, the canonical
//! form of JSON (`olpc-cjson`), is used. Metadata that the reference implementation signed stands
//! among the tests as golden bytes.
//!
//! # What is left out
//! Delegations (a channel is one brand and model, its maker is one party) and keys other than
//! ed25519. Metadata with delegations is read, and nothing is found through them.

mod envelope;
mod schema;

pub use envelope::{Envelope, MetadataError};
pub use schema::{
    Date, FileMeta, HASH_BLAKE3, HASH_SHA256, Key, KeyId, KeyValue, Role, RoleKeys, Root, SPEC_VERSION,
    Signed, Snapshot, TargetMeta, Targets, Timestamp,
};

/// Names a channel: BLAKE3 over its first root. Whoever has the device's firmware can compute it, and
/// finds the nodes that carry the channel under it.
#[must_use]
pub fn channel_address(first_root: &[u8]) -> ioex_base::ContentAddress {
    blake3::Hasher::new_derive_key("ioex 2026 update channel").update(first_root).finalize().into()
}
