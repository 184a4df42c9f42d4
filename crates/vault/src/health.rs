//! The rules for watching over groups: who still has what, whom to ask, when to make shards anew.
//!
//! Pure: time and randomness come in as arguments, and what was observed is kept by the caller. The
//! real node and the simulation (`cargo xtask sim vault`) run the same code; [`Rules`] holds the
//! numbers in which they may differ.
//!
//! - [`DeviceHealth`] is what is known of one device. Being unreachable for hours is no loss: people
//!   switch devices off and travel. Being unreachable for days is ([`GONE_AFTER_SECONDS`]). A wrong
//!   answer is a loss at once.
//! - [`audits_due`] and [`audits`] say how many and which leaves a device is to prove now.
//! - [`assess`] says of a group whether it is well, is to be repaired and how, or is lost.
//! - [`living`] and [`responsible`] share the work among super nodes that watch together.
//! - [`renewal`] and [`warning`] say when leases are to be extended and owners to be warned.

mod audit;
mod dates;
mod device;
mod group;
mod share;

use ioex_base::DAY_SECONDS;

pub use audit::{AUDITS_PER_ROUND, Audit, SUSPECT_FACTOR, audits, audits_due, noticed_per_day};
pub use dates::{RENEW_BEFORE_SECONDS, WARNING_DAYS, Warning, renewal, warning};
pub use device::{DEVICE_HEALTH_MAX_BYTES, DeviceHealth, DeviceState, Observation, round_counts};
pub use group::{Assessment, Standing, Verdict, assess, standing};
pub use share::{PARTNER_SILENT_SECONDS, living, responsible};

/// After how many seconds of being unreachable a device counts as gone: four days.
///
/// Longer than a night, a weekend away or a broken line, so that little is made anew for devices that
/// come back; and no longer than that, because what is lost meanwhile is not known. The simulation
/// (`docs/sim-vault.md`) argues for the short side: from ten days down to four, a sixth as many groups
/// of three copies are lost, for a tenth more traffic; below four the traffic rises faster. Copies that
/// come back count again, as Carbonite (Chun et al., NSDI 2006) showed to matter most.
pub const GONE_AFTER_SECONDS: u64 = 4 * DAY_SECONDS;

/// Leaves that each device proves per day. A device that dropped one shard in a hundred is noticed
/// with probability 1/5 on each day, one that dropped a tenth with 9/10; the answers are some 35 kB
/// a day.
pub const AUDITS_PER_DEVICE_DAY: u16 = 24;

/// With this many faults within [`FAULTS_KEPT_SECONDS`], nothing that a device holds counts any
/// more. A broken sector gives one fault, maybe two; who drops shards to save space, or lost its
/// disk, gives them every day.
pub const FAULTS_MAX: u8 = 3;

/// How long a fault is remembered, in seconds: a month.
pub const FAULTS_KEPT_SECONDS: u64 = 30 * DAY_SECONDS;

/// The numbers of these rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// See [`GONE_AFTER_SECONDS`].
    pub gone_after_seconds: u64,
    /// See [`AUDITS_PER_DEVICE_DAY`].
    pub audits_per_device_day: u16,
    /// See [`FAULTS_MAX`].
    pub faults_max: u8,
    /// See [`FAULTS_KEPT_SECONDS`].
    pub faults_kept_seconds: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            gone_after_seconds: GONE_AFTER_SECONDS,
            audits_per_device_day: AUDITS_PER_DEVICE_DAY,
            faults_max: FAULTS_MAX,
            faults_kept_seconds: FAULTS_KEPT_SECONDS,
        }
    }
}
