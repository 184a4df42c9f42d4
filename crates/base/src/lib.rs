//! The words that every part of ioeX uses.
//!
//! A *node* is known by its [`Uid`], the public half of its [`NodeKey`]. Bytes are known by their
//! [`ContentAddress`]. What a node may do on another one is said by a signed [`Grant`]; what a
//! person types to reach a friend is a [`FriendAddress`]. Time is a [`UnixSeconds`] that the caller
//! passes in: nothing in this crate reads a clock, a file or a socket, and nothing here talks to
//! a chain ([`receipt`] makes what a contract can check).
//!
//! ```
//! use ioex_base::{ContentAddress, FriendAddress, NodeKey, Tag};
//!
//! let key = NodeKey::from_seed([7; 32]);
//! let address = FriendAddress::new(key.uid(), Tag([1, 2, 3, 4]));
//! assert_eq!(address.to_string().parse::<FriendAddress>().unwrap(), address);
//! assert_eq!(ContentAddress::of(b"hello").to_string().len(), 52);
//! ```

mod content;
mod dice;
mod friend_address;
mod grant;
mod head;
mod key;
mod kind;
pub mod limits;
pub mod receipt;
mod seal;
mod time;
pub mod wire;

pub use content::ContentAddress;
pub use dice::Dice;
pub use friend_address::{FriendAddress, FriendAddressError, Tag};
pub use grant::{
    CLOCK_SLACK_SECONDS, Grant, GrantError, GrantId, Revocations, Right, SignedGrant, SignedRevocations,
};
pub use head::{HEAD_BODY_MAX_BYTES, SealedHead, head_address};
pub use key::{NodeKey, ParseIdError, Uid};
pub use kind::{NodeKind, ParseKindError};
pub use seal::{SealError, Sealed};
pub use time::{DAY_SECONDS, UnixSeconds};
