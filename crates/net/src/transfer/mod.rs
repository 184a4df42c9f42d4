//! Moving content between nodes: verified piece by piece, resumable, from several providers.
//!
//! - [`pieces`]: how a content is cut for verification, and its piece list.
//! - [`plan`]: which piece is asked from whom next. Pure.
//! - [`partial`]: the file while it is not complete, and what of it is verified.
//! - [`fetch`]: runs a plan over connections. [`serve`]: the other side.
//! - [`offers`]: files between friends: offer, accept, pause, resume, cancel.

pub(crate) mod fetch;
mod names;
mod offers;
pub(crate) mod partial;
pub mod pieces;
pub mod plan;
pub(crate) mod serve;

pub(crate) use self::offers::Offers;
pub use self::{
    fetch::FetchError,
    names::{NameError, safe_file_name},
    offers::{FileInfo, TransferError, TransferInfo, TransferState},
    partial::PartialError,
};
