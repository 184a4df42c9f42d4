//! Installers: where a package goes, how it takes over, and how it goes back.
//!
//! - [`Pair`]: two slots for each image, block devices or files. The package streams into the slot
//!   that is not running; a small state file, kept twice, says which slot starts next.
//! - [`Swap`]: one file or folder beside its successor; both change places in one rename.
//! - [`Hook`]: a command of the maker's own, with a timeout; also how a device asks whether it is healthy.
//!
//! # Power
//! Nothing that runs is ever written to. What lies in the other place counts only after it was
//! read back and its hash was the signed one, and that it counts is one record of the state file. A record
//! carries a checksum, and the two copies are written in turn: a torn record leaves the one before.
//! So a cut at any write leaves the old version or the new one, whole. The tests cut at every write, and for [`Swap`] at every
//! change of a name.
//!
//! # Trial
//! A new version starts on trial a bounded number of times. Only [`Pair::confirm`] makes it the one that starts.
//! Without it the old one starts again, and the package that failed is not installed a second time.

mod error;
mod files;
mod hook;
mod medium;
mod pair;
mod state;
mod swap;

pub use error::InstallError;
pub use files::{Entry, Files, Kind, SystemFiles, tree_digest};
pub use hook::{HOOK_TIMEOUT_MAX_SECONDS, Hook, HookError, Phase};
pub use medium::{FileMedium, Medium};
pub use pair::{CHECKPOINT_BYTES, Pair, PairState, Slot, SlotPair, TRIAL_STARTS, Trial, Writer, Writing};
pub use state::{RECORD_BYTES, STATE_BYTES, StateError};
pub use swap::{Swap, SwapWriter};
