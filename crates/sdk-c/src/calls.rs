//! The calls. All may be made from any thread.

use std::{
    ffi::{c_char, c_void},
    ptr,
    sync::mpsc,
};

use ioex_sdk::{Answer, ContentAddress, Error, Event, blocking::Node};

use crate::{
    error::{guard, ioex_status},
    event::{ioex_callback, ioex_event},
    files::{self, ioex_channel_files},
    state::{self, ioex_state},
    text::{self, Texts},
};

/// A device's node.
#[allow(non_camel_case_types)]
pub struct ioex_node(Node);

/// What the callback gets back.
struct User(*mut c_void);

// SAFETY: the library never looks at it. It hands it to the callback, on one thread, and the caller of
// `ioex_node_start` was told so.
unsafe impl Send for User {}

impl User {
    /// Taken by a method, a closure captures the whole, which may go to another thread, and not its member.
    fn get(&self) -> *mut c_void {
        self.0
    }
}

/// The node, or why there is none.
///
/// # Safety
/// `node` is `NULL`, or came from `ioex_node_start` and was not freed.
unsafe fn with(node: *const ioex_node, call: impl FnOnce(&Node) -> Result<(), Error>) -> ioex_status {
    guard(|| {
        // SAFETY: `NULL` is none; else the caller's word. Nobody has a `&mut` to it: all calls share it.
        let node = unsafe { node.as_ref() };
        call(&node.ok_or_else(|| Error::Argument("the node is NULL".to_owned()))?.0)
    })
}

/// The library's version, such as `0.1.0`. Good for ever.
#[unsafe(no_mangle)]
pub extern "C" fn ioex_version() -> *const c_char {
    static VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Writes the log to stderr from now on, filtered by the variable `IOEX_LOG` (such as `warn,ioex=debug`). Without
/// this call there is no log.
#[unsafe(no_mangle)]
pub extern "C" fn ioex_log_to_stderr() -> ioex_status {
    guard(|| {
        ioex_sdk::log_to_stderr();
        Ok(())
    })
}

/// Starts a node and returns at once. `config_toml` is the text of a configuration, as `ioex node` has it; it
/// names the folder `data` and has a section `[ota]`. Relative paths in it begin at the working folder.
///
/// `IOEX_EVENT_KIND_STARTED` says when it runs, `IOEX_EVENT_KIND_STOPPED` why it does not; until then other calls
/// answer `IOEX_STATUS_NOT_READY`. `callback` is first called when `*out` is set.
///
/// # Safety
/// `config_toml` ends with a zero byte. `out` points to where the node is put; it is set to `NULL` when there is
/// none. What `user` points to may be used on a thread of the library until `ioex_node_free` has returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_start(
    config_toml: *const c_char,
    callback: ioex_callback,
    user: *mut c_void,
    out: *mut *mut ioex_node,
) -> ioex_status {
    guard(|| {
        if out.is_null() {
            return Err(Error::Argument("`out` is NULL".to_owned()));
        }
        // SAFETY: not `NULL`; that it may be written to is the caller's word.
        unsafe { out.write(ptr::null_mut()) };
        let callback = callback.ok_or_else(|| Error::Argument("the callback is NULL".to_owned()))?;
        // SAFETY: the caller's word.
        let config = ioex_sdk::config(&unsafe { text::read(config_toml, "the configuration") }?)?;
        let user = User(user);
        // The callback may use what it finds at `out`.
        let (is_set, gate) = mpsc::channel::<()>();
        let mut gate = Some(gate);
        let node = Node::start(config, move |event: Event| {
            if let Some(gate) = gate.take() {
                // It ends when the other half is dropped.
                let _ = gate.recv();
            }
            let mut texts = Texts::default();
            let event = ioex_event::of(&event, &mut texts);
            // SAFETY: the event and its texts live until the call has returned; `user` is the caller's.
            unsafe { callback(&raw const event, user.get()) };
        })?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(ioex_node(node)))) };
        drop(is_set);
        Ok(())
    })
}

/// How things stand. `*out` is to be freed with `ioex_state_free`; `NULL` when this fails. Short: it copies what is in memory.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed; `out` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_state(node: *const ioex_node, out: *mut *mut ioex_state) -> ioex_status {
    if !out.is_null() {
        // SAFETY: not `NULL`; that it may be written to is the caller's word.
        unsafe { out.write(ptr::null_mut()) };
    }
    // SAFETY: the caller's word.
    unsafe {
        with(node, |node| {
            if out.is_null() {
                return Err(Error::Argument("`out` is NULL".to_owned()));
            }
            out.write(state::give(&node.state()?));
            Ok(())
        })
    }
}

/// Somebody told the device that there is something new: look at the channel now. Short: it writes a small file.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_check(node: *const ioex_node) -> ioex_status {
    // SAFETY: the caller's word.
    unsafe { with(node, Node::check) }
}

/// The maker's own centre, or its Monitor, handed over the channel's files: what lies in its folder `metadata`, with
/// the newest `N.snapshot.json` and `N.targets.json`. They are verified as if a mirror had sent them, so whoever
/// brings them need not be trusted.
///
/// Returns at once, with the files copied. They are looked at between two steps: not while a package is being
/// fetched or a version is on trial. When they have a new version for this device, `IOEX_EVENT_KIND_OFFERED` follows;
/// when they do not hold, or newer ones came before they were looked at, `IOEX_EVENT_KIND_CALL_FAILED` with `call`
/// `take` says why. `IOEX_STATUS_INVALID`: a pointer is `NULL`, or the files are longer than those of any channel.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed; `files` and its members point to what they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_take(
    node: *const ioex_node,
    files: *const ioex_channel_files,
) -> ioex_status {
    // SAFETY: the caller's word.
    unsafe { with(node, |node| node.take(files::read(files)?)) }
}

/// The owner's word on what is offered or ready: `version` and `manifest` are those of the event that is answered.
/// When something else is offered by now, nothing happens and the answer is `IOEX_STATUS_OUTDATED`: another event
/// tells what. `now` passes over the hours for installing. Short: it writes a small file.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed; `version` and `manifest` end with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_consent(
    node: *const ioex_node,
    version: *const c_char,
    manifest: *const c_char,
    yes: bool,
    now: bool,
) -> ioex_status {
    // SAFETY: the caller's word.
    unsafe {
        with(node, |node| {
            let version = text::read(version, "the version")?;
            let manifest = text::read(manifest, "the manifest")?.parse::<ContentAddress>();
            let manifest =
                manifest.map_err(|e| Error::Argument(format!("the manifest's address is mistyped: {e}")))?;
            node.consent(&Answer { version, manifest: Some(manifest), yes, now })
        })
    }
}

/// What is on trial is healthy, and stays. Returns at once; then comes `IOEX_EVENT_KIND_CONFIRMED`, or, when
/// nothing is on trial, `IOEX_EVENT_KIND_CALL_FAILED`.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_confirm(node: *const ioex_node) -> ioex_status {
    // SAFETY: the caller's word.
    unsafe { with(node, Node::confirm) }
}

/// What is on trial goes, and the version before comes back. `why` is told to the maker. Returns at once; then
/// comes `IOEX_EVENT_KIND_FAILED`, or, when nothing is on trial, `IOEX_EVENT_KIND_CALL_FAILED`.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed; `why` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_roll_back(node: *const ioex_node, why: *const c_char) -> ioex_status {
    // SAFETY: the caller's word.
    unsafe { with(node, |node| node.roll_back(&text::read(why, "the reason")?)) }
}

/// Lets what failed be tried again. Short: it writes small files.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_forgive(node: *const ioex_node) -> ioex_status {
    // SAFETY: the caller's word.
    unsafe { with(node, Node::forgive) }
}

/// Tells the node to end, and returns at once; then comes `IOEX_EVENT_KIND_STOPPED`.
///
/// # Safety
/// `node` came from `ioex_node_start` and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_stop(node: *const ioex_node) -> ioex_status {
    // SAFETY: the caller's word.
    unsafe {
        with(node, |node| {
            node.stop();
            Ok(())
        })
    }
}

/// Ends the node, waits until its threads have ended, the callback included, and frees it; `NULL` is nothing. As a
/// rule that takes less than a second; a package that is just being written is waited for, and a command of yours that
/// runs. After `fork` it does nothing in the child, where the node's threads are not. From the callback it
/// answers `IOEX_STATUS_IN_CALLBACK` and does nothing.
///
/// # Safety
/// `node` is `NULL`, or came from `ioex_node_start` and was not freed, and no other call has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioex_node_free(node: *mut ioex_node) -> ioex_status {
    if node.is_null() {
        return ioex_status::Ok;
    }
    // SAFETY: the caller's word.
    let ended = unsafe { with(node, Node::shutdown) };
    if ended != ioex_status::InCallback {
        // SAFETY: it came out of a box in `ioex_node_start`, and is freed once: the caller's word.
        drop(unsafe { Box::from_raw(node) });
    }
    ended
}
