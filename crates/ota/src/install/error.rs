//! Why an installer stops.

use std::io;

use ioex_base::ContentAddress;

use super::state::StateError;
use crate::{Refusal, release::InvalidRelease};

/// Why an installer stops. What runs goes on running in every case.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The device does not take this release (asked again right before installing).
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The release contradicts itself.
    #[error(transparent)]
    Release(#[from] InvalidRelease),
    /// The package failed its trial here before.
    #[error("package {0} failed its trial on this device; it is not installed again unless forgiven")]
    FailedBefore(ContentAddress),
    /// A version is on trial: its slot is running, and the other one is the way back.
    #[error("a version is on trial; confirm it or roll it back first")]
    OnTrial,
    /// There is nothing on trial.
    #[error("nothing is on trial: there is nothing to confirm or roll back")]
    NotOnTrial,
    /// Nothing whole lies there to be activated.
    #[error("nothing is ready to be activated: install a package first")]
    NotReady,
    /// The package's images are not the ones for which this device has slots (partial bundle).
    #[error("the package has images {got:?}, this device needs exactly {want:?}")]
    Images {
        /// The device's slot pairs.
        want: Vec<String>,
        /// The package's images.
        got: Vec<String>,
    },
    /// An image is larger than its slot.
    #[error("image {name:?} has {length} bytes, its slot {capacity}")]
    TooLarge {
        /// Which.
        name: String,
        /// Its length in bytes.
        length: u64,
        /// The slot's length in bytes.
        capacity: u64,
    },
    /// More bytes than the package has (endless data attack).
    #[error("more bytes came than the {0} of the package")]
    TooMuch(u64),
    /// Fewer bytes than the package has.
    #[error("{got} of {want} bytes are here: go on from there")]
    Incomplete {
        /// Length of the package.
        want: u64,
        /// What came.
        got: u64,
    },
    /// What lies in the slot is not what the maker signed (arbitrary package). It is fetched anew.
    #[error("what was written as {name:?} is not what its maker signed: it is fetched anew")]
    Content {
        /// Which image.
        name: String,
    },
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file or device.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl InstallError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what, error }
    }
}
