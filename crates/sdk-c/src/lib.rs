//! The Peer Node SDK for firmware written in C. The header is `include/ioex.h`; cbindgen writes it from this
//! crate, and a test holds it to that. How it is used is in `docs/sdk.md`.
//!
//! This is the one crate, beside a call of the C library's allocator in `ioex`, that has unsafe code: whatever
//! crosses the border is read and copied here, and everything behind it is the safe `ioex-sdk`.
//!
//! No panic crosses the border: it becomes `IOEX_STATUS_PANIC`, or, in a library built with
//! `panic = "abort"`, ends the process.

// Pointers from C cannot be used without it.
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod calls;
mod error;
mod event;
mod files;
mod reason;
mod state;
mod text;

pub use self::{calls::*, error::*, event::*, files::*, reason::*, state::*};
