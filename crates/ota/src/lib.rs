//! Over-the-air updates: the rules, without network, clock or randomness of their own.
//!
//! A *maker* has a *channel* for each brand and model: metadata after TUF ([`tuf`]) that lists
//! *releases* ([`Release`]). A release names a package by the address of its vault manifest, says
//! which devices may take it over which versions, and how it is rolled out ([`rollout`]). Peers and
//! super nodes carry metadata and packages, and are trusted with neither. A *device* remembers what
//! it trusted last ([`Trust`]) and decides ([`check`]): install, nothing new, or a refusal with its
//! reason. Whether it downloads, installs or uploads just now is its owner's *policy* ([`policy`]).
//! An *installer* ([`install`]) streams the package into a place that is not running, verifies what
//! lies there, and switches over for a trial; an unhealthy trial goes back by itself. What is asked
//! from whom, and who is served first, is the [`swarm`]'s part. A super node
//! with the maker's order is the *matcher* ([`matcher`], feature `maker`): it hands devices their
//! providers and single-use vouchers.
//!
//! Time comes in as an argument ([`ioex_base::UnixSeconds`]), randomness too. Only the installers
//! touch files, and only the hook starts a process.
//!
//! Without the feature `maker` the crate is what a device needs.

#[cfg(feature = "maker")]
pub mod channel;
pub mod install;
#[cfg(feature = "maker")]
pub mod matcher;
pub mod pass;
pub mod policy;
pub mod receipts;
pub mod release;
pub mod rollout;
#[cfg(feature = "maker")]
pub mod settlement;
pub mod swarm;
pub mod tills;
pub mod tuf;
mod verify;
pub mod voucher;

pub use release::{Image, InvalidRelease, Release, Version};
pub use tuf::channel_address;
pub use verify::{
    Clock, Device, Metadata, Outcome, ROOTS_MAX, Refusal, Trust, TrustError, Verdict, admit, check, follow,
    root_chain,
};
