//! What the callback gets.

use std::{
    ffi::{c_char, c_void},
    ptr,
};

use ioex_sdk::{Call, Event};

use crate::{reason::ioex_reason, state::ioex_stage, text::Texts};

/// What happened. Values may be added: leave alone what you do not know.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ioex_event_kind {
    /// Something that this header does not know.
    Other = 0,
    /// The node runs. `uid` is the device's key, which its maker puts on the roster.
    Started = 1,
    /// A version is there for this device: `version`, `manifest`, `total_bytes`. With `asks`, it is fetched
    /// only after `ioex_node_consent`. Told again after each start as long as it is not fetched and was not declined,
    /// and after `ioex_node_forgive`.
    Offered = 2,
    /// A package is being fetched or written (`stage`): `version`, `done_bytes` of `total_bytes`, and where
    /// they came from.
    Progress = 3,
    /// All of it is here and verified: `version`, `manifest`. With `asks`, it is installed only after
    /// `ioex_node_consent`.
    Ready = 4,
    /// `version` is written, and put in charge or ready for the device's next start. Without a `restart` command in
    /// the configuration, start yourself anew now (`pair`: have the device start): the trial begins with the next
    /// `ioex_node_start`.
    Installed = 5,
    /// `version` runs, on trial: you are the one that was started anew, or the `restart` command has returned. With
    /// `asks`, say `ioex_node_confirm` or `ioex_node_roll_back`. Told again after each start as long as it is.
    Trial = 6,
    /// `version` runs, and stays. This and `FAILED` are told again at the next start when the node ended before the
    /// callback had returned from them.
    Confirmed = 7,
    /// `version` could not be fetched, written or kept: `code`, `reason`. With `rolled_back` the version before is in its
    /// place again: start yourself anew, as after `INSTALLED`.
    Failed = 8,
    /// What an update waits for, or why the last step has to be tried again: `code`, `reason`, and `version` and
    /// `manifest` when it is about one. Told when that changes, not when a time runs down. With `IOEX_REASON_DECLINED`
    /// a yes may still be said: `ioex_node_consent` with these.
    Waiting = 9,
    /// A call that had answered `IOEX_STATUS_OK` could not be done: `call`, `code`, `reason`.
    CallFailed = 10,
    /// The callback took too long, and events were dropped: ask `ioex_node_state`.
    Missed = 11,
    /// The node has ended: `reason`, or `NULL` when it was told to. The last event.
    Stopped = 12,
}

/// Something that happened. It and its texts (UTF-8) are good until the callback returns. What an event has
/// nothing to say about is zero or `NULL`. Members may be added at the end.
#[allow(non_camel_case_types)]
#[repr(C)]
pub struct ioex_event {
    /// What.
    pub kind: ioex_event_kind,
    /// During progress: fetching, installing or, at its very end, installed.
    pub stage: ioex_stage,
    /// Whether the program has to answer.
    pub asks: bool,
    /// Whether it was in charge, or about to be, and the version before is again.
    pub rolled_back: bool,
    /// The device's key.
    pub uid: *const c_char,
    /// Which version.
    pub version: *const c_char,
    /// The version's address list.
    pub manifest: *const c_char,
    /// Why.
    pub reason: *const c_char,
    /// The call that failed: `take`, `confirm` or `roll-back`.
    pub call: *const c_char,
    /// Bytes that are there, or written.
    pub done_bytes: u64,
    /// Of so many.
    pub total_bytes: u64,
    /// Bytes of this download that came from the maker.
    pub from_maker: u64,
    /// From devices on the local network.
    pub from_local: u64,
    /// From other devices.
    pub from_others: u64,
    /// Of all these, over relays.
    pub over_relays: u64,
    /// Nodes that are connected for it.
    pub neighbours: u64,
    /// What `reason` is, for programs.
    pub code: ioex_reason,
}

/// Is told what happened. It is called on a thread of the library, never twice at the same time, and may call
/// everything but `ioex_node_free`. `user` is what `ioex_node_start` got. It must return, and not throw.
#[allow(non_camel_case_types)]
pub type ioex_callback = Option<unsafe extern "C" fn(event: *const ioex_event, user: *mut c_void)>;

impl ioex_event {
    fn empty(kind: ioex_event_kind) -> Self {
        Self {
            kind,
            stage: ioex_stage::Idle,
            asks: false,
            rolled_back: false,
            uid: ptr::null(),
            version: ptr::null(),
            manifest: ptr::null(),
            reason: ptr::null(),
            call: ptr::null(),
            done_bytes: 0,
            total_bytes: 0,
            from_maker: 0,
            from_local: 0,
            from_others: 0,
            over_relays: 0,
            neighbours: 0,
            code: ioex_reason::None,
        }
    }

    /// The event in C. Its texts are in `texts`.
    pub(crate) fn of(event: &Event, texts: &mut Texts) -> Self {
        use ioex_event_kind as Kind;
        let of = |kind| Self::empty(kind);
        match event {
            Event::Started { uid } => Self { uid: texts.keep(&uid.to_string()), ..of(Kind::Started) },
            Event::Offered { version, manifest, bytes, consent } => Self {
                version: texts.keep(version),
                manifest: texts.keep(&manifest.to_string()),
                total_bytes: *bytes,
                asks: *consent,
                ..of(Kind::Offered)
            },
            Event::Progress(progress) => Self {
                stage: progress.stage.into(),
                version: texts.keep(&progress.version),
                done_bytes: progress.done_bytes,
                total_bytes: progress.total_bytes,
                from_maker: progress.from_maker,
                from_local: progress.from_local,
                from_others: progress.from_others,
                over_relays: progress.over_relays,
                neighbours: progress.neighbours,
                ..of(Kind::Progress)
            },
            Event::Ready { version, manifest, consent } => Self {
                version: texts.keep(version),
                manifest: texts.keep(&manifest.to_string()),
                asks: *consent,
                ..of(Kind::Ready)
            },
            Event::Installed { version } => Self { version: texts.keep(version), ..of(Kind::Installed) },
            Event::Trial { version, confirm } => {
                Self { version: texts.keep(version), asks: *confirm, ..of(Kind::Trial) }
            }
            Event::Confirmed { version } => Self { version: texts.keep(version), ..of(Kind::Confirmed) },
            Event::Failed { version, code, reason, rolled_back } => Self {
                code: (*code).into(),
                version: texts.keep(version),
                reason: texts.keep(reason),
                rolled_back: *rolled_back,
                ..of(Kind::Failed)
            },
            Event::Waiting { version, manifest, code, reason } => Self {
                version: texts.keep_some(version.as_deref()),
                manifest: texts.keep_some(manifest.map(|manifest| manifest.to_string()).as_deref()),
                code: (*code).into(),
                reason: texts.keep(reason),
                ..of(Kind::Waiting)
            },
            Event::CallFailed { call, code, reason } => {
                let call = match call {
                    Call::Take => "take",
                    Call::Confirm => "confirm",
                    Call::RollBack => "roll-back",
                };
                Self {
                    code: (*code).into(),
                    call: texts.keep(call),
                    reason: texts.keep(reason),
                    ..of(Kind::CallFailed)
                }
            }
            Event::Missed { .. } => of(Kind::Missed),
            Event::Stopped { problem } => {
                Self { reason: texts.keep_some(problem.as_deref()), ..of(Kind::Stopped) }
            }
            _ => of(Kind::Other),
        }
    }
}
