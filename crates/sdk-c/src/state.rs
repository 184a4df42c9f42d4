//! How things stand.

use std::ffi::c_char;

use ioex_sdk::{Stage, State};

use crate::{reason::ioex_reason, text::Texts};

/// Where an update stands.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ioex_stage {
    /// Nothing to do.
    Idle = 0,
    /// A version is offered.
    Offered = 1,
    /// It is being fetched.
    Fetching = 2,
    /// It is here.
    Fetched = 3,
    /// It is being written.
    Installing = 4,
    /// It is written, and waits for its start or is on trial.
    Installed = 5,
}

impl From<Stage> for ioex_stage {
    fn from(stage: Stage) -> Self {
        match stage {
            // The last two are told to makers, and no device stands there.
            Stage::Idle | Stage::Confirmed | Stage::Failed => Self::Idle,
            Stage::Offered => Self::Offered,
            Stage::Fetching => Self::Fetching,
            Stage::Fetched => Self::Fetched,
            Stage::Installing => Self::Installing,
            Stage::Installed => Self::Installed,
        }
    }
}

/// How a device stands with its channel. Good until `ioex_state_free`. Members may be added at the end.
#[allow(non_camel_case_types)]
#[repr(C)]
pub struct ioex_state {
    /// Where an update stands.
    pub stage: ioex_stage,
    /// Whether the owner agreed to what comes next, or is not asked.
    pub consent: bool,
    /// The version that runs.
    pub running: *const c_char,
    /// The version that is offered, fetched or installed, or `NULL`.
    pub offered: *const c_char,
    /// Its address list, or `NULL`.
    pub manifest: *const c_char,
    /// What it waits for, or `NULL`.
    pub holding: *const c_char,
    /// What went wrong last, or `NULL`.
    pub problem: *const c_char,
    /// Length of what is offered in bytes.
    pub bytes: u64,
    /// When the channel was looked at last, in seconds since 1970; 0: not yet.
    pub last_check: u64,
    /// Bytes that came for this version from the maker.
    pub from_maker: u64,
    /// From devices on the local network.
    pub from_local: u64,
    /// From other devices.
    pub from_others: u64,
    /// Of all these, over relays.
    pub over_relays: u64,
    /// Bytes for updates in this month, both ways.
    pub month_bytes: u64,
    /// What `holding` is, for programs; without that, what `problem` is.
    pub code: ioex_reason,
}

/// A state and its texts. The state is first, so that a pointer to it is one to the whole.
#[repr(C)]
struct Whole {
    state: ioex_state,
    texts: Texts,
}

/// Gives a state away; `ioex_state_free` takes it back.
pub(crate) fn give(state: &State) -> *mut ioex_state {
    let mut texts = Texts::default();
    let [from_maker, from_local, from_others, over_relays] = state.by_source;
    let given = ioex_state {
        stage: state.stage.into(),
        consent: state.consent,
        running: texts.keep(&state.running),
        offered: texts.keep_some(state.offered.as_deref()),
        manifest: texts.keep_some(state.manifest.map(|manifest| manifest.to_string()).as_deref()),
        holding: texts.keep_some(state.holding.as_deref()),
        problem: texts.keep_some(state.problem.as_deref()),
        bytes: state.bytes.unwrap_or(0),
        last_check: state.last_check.map_or(0, |at| at.0),
        from_maker,
        from_local,
        from_others,
        over_relays,
        month_bytes: state.month_bytes,
        code: state.reason.map_or(ioex_reason::None, Into::into),
    };
    Box::into_raw(Box::new(Whole { state: given, texts })).cast()
}

/// Frees what `ioex_node_state` gave; `NULL` is nothing.
///
/// # Safety
/// `state` is `NULL`, or came from `ioex_node_state` and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_state_free(state: *mut ioex_state) {
    if !state.is_null() {
        // SAFETY: it is the first member of a `Whole` that `give` took out of a box, and is freed once: the
        // caller's word.
        drop(unsafe { Box::from_raw(state.cast::<Whole>()) });
    }
}
