//! Why, for programs.

use ioex_sdk::Reason;

/// Why an update waits, why it ended, or why a call about it could not be done: `reason` says it for people. Values may be
/// added: take one that you do not know for `IOEX_REASON_OTHER`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ioex_reason {
    /// There is nothing to say.
    None = 0,
    /// None of the others.
    Other = 1,
    /// It waits: the node is not in the network.
    Network = 2,
    /// It waits: nobody has given out the channel, or what came does not hold.
    Channel = 3,
    /// It waits: its owner is asked.
    Owner = 4,
    /// It waits: its owner said no, and may still say yes.
    Declined = 5,
    /// It waits for the owner's hours.
    Hours = 6,
    /// It waits for the battery.
    Battery = 7,
    /// It waits for a link that is not metered.
    Metered = 8,
    /// It waits for the next month: its bytes are used up.
    Cap = 9,
    /// It waits for the rollout.
    Rollout = 10,
    /// It waits: its maker paused the rollout.
    RolloutPaused = 11,
    /// It waits: its maker ended the rollout.
    RolloutEnded = 12,
    /// It waits: nobody hands the version out any more.
    NoProvider = 13,
    /// It waits for the next try, after one that failed.
    Retry = 14,
    /// It waits for the word that lets it be tried again: it failed on this device.
    FailedBefore = 15,
    /// It waits for the next start of the device or program.
    Start = 16,
    /// It waits for the word of the program that runs it.
    Confirm = 17,
    /// The last step broke off, and is tried again.
    BrokenOff = 18,
    /// It ended: it does not fit this device.
    DoesNotFit = 19,
    /// It ended: it could not be fetched.
    NotFetched = 20,
    /// It ended: it could not be written or put in charge.
    NotInstalled = 21,
    /// It ended: it is unhealthy.
    Unhealthy = 22,
    /// It ended: nobody confirmed it in time.
    NotConfirmed = 23,
    /// It ended: it did not stay up.
    DidNotStay = 24,
    /// It ended: the program, or its owner, went back.
    TakenBack = 25,
    /// The call: the metadata does not hold.
    Refused = 26,
    /// The call: something newer came, or the node stopped.
    Superseded = 27,
    /// The call: nothing is on trial.
    NotOnTrial = 28,
    /// The call: reading or writing failed.
    Disk = 29,
    /// It waits for room on a disk.
    Room = 30,
}

impl From<Reason> for ioex_reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Network => Self::Network,
            Reason::Channel => Self::Channel,
            Reason::Owner => Self::Owner,
            Reason::Declined => Self::Declined,
            Reason::Hours => Self::Hours,
            Reason::Battery => Self::Battery,
            Reason::Metered => Self::Metered,
            Reason::Cap => Self::Cap,
            Reason::Room => Self::Room,
            Reason::Rollout => Self::Rollout,
            Reason::RolloutPaused => Self::RolloutPaused,
            Reason::RolloutEnded => Self::RolloutEnded,
            Reason::NoProvider => Self::NoProvider,
            Reason::Retry => Self::Retry,
            Reason::FailedBefore => Self::FailedBefore,
            Reason::Start => Self::Start,
            Reason::Confirm => Self::Confirm,
            Reason::BrokenOff => Self::BrokenOff,
            Reason::DoesNotFit => Self::DoesNotFit,
            Reason::NotFetched => Self::NotFetched,
            Reason::NotInstalled => Self::NotInstalled,
            Reason::Unhealthy => Self::Unhealthy,
            Reason::NotConfirmed => Self::NotConfirmed,
            Reason::DidNotStay => Self::DidNotStay,
            Reason::TakenBack => Self::TakenBack,
            Reason::Refused => Self::Refused,
            Reason::Superseded => Self::Superseded,
            Reason::NotOnTrial => Self::NotOnTrial,
            Reason::Disk => Self::Disk,
            _ => Self::Other,
        }
    }
}
