//! What calls answer.

use std::{
    cell::RefCell,
    ffi::{CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

use ioex_sdk::Error;

use crate::text::c_text;

/// What a call answers. `ioex_last_error_message` says more.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ioex_status {
    /// It is done, or, where the call's description says so, will be.
    Ok = 0,
    /// An argument or the configuration makes no sense.
    Invalid = 1,
    /// The node or its threads could not be started.
    Start = 2,
    /// The node is starting: wait for `IOEX_EVENT_KIND_STARTED`.
    NotReady = 3,
    /// The node has stopped.
    Stopped = 4,
    /// No version is offered to this device.
    NothingOffered = 5,
    /// The metadata does not hold.
    Refused = 6,
    /// Reading or writing failed.
    Io = 7,
    /// Not from the callback.
    InCallback = 8,
    /// A fault of the library.
    Panic = 9,
    /// The answer is about another version, or another package of it, than the one that is offered now.
    Outdated = 10,
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    LAST.with(|last| *last.borrow_mut() = c_text(message));
}

fn status_of(error: &Error) -> ioex_status {
    match error {
        Error::Config(_) | Error::Argument(_) => ioex_status::Invalid,
        Error::Start(_) => ioex_status::Start,
        Error::NotReady => ioex_status::NotReady,
        Error::Stopped => ioex_status::Stopped,
        Error::NothingOffered(_) => ioex_status::NothingOffered,
        Error::Outdated(_) => ioex_status::Outdated,
        Error::Refused(_) => ioex_status::Refused,
        Error::Io(_) => ioex_status::Io,
        Error::InCallback => ioex_status::InCallback,
    }
}

/// Does what a call is for. No panic gets out.
pub(crate) fn guard(call: impl FnOnce() -> Result<(), Error>) -> ioex_status {
    // What a panic leaves behind is behind locks that do not care.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => ioex_status::Ok,
        Ok(Err(e)) => {
            remember(&e.to_string());
            status_of(&e)
        }
        Err(_) => {
            remember("a fault of the library; it wrote more to stderr");
            ioex_status::Panic
        }
    }
}

/// What the last call on this thread that did not answer `IOEX_STATUS_OK` had to say, for people, in UTF-8. Never
/// `NULL`. Good until the next call on this thread fails, or the thread ends.
#[unsafe(no_mangle)]
pub extern "C" fn ioex_last_error_message() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status_and_each_thread_has_its_message() {
        assert_eq!(guard(|| Err(Error::NotReady)), ioex_status::NotReady);
        let other = std::thread::spawn(|| guard(|| panic!("on purpose")));
        assert_eq!(other.join().unwrap(), ioex_status::Panic);
        let message = LAST.with(|last| last.borrow().to_str().unwrap().to_owned());
        assert_eq!(message, Error::NotReady.to_string());
    }
}
