//! The node's local API.
//!
//! A running node listens on a Unix socket in its data folder that only the folder's owner may
//! open. A client connects, writes one [`Request`] as a line of JSON, and reads lines of
//! [`Reply`]: any number of [`Reply::Update`], then exactly one [`Reply::Done`] or
//! [`Reply::Failed`]. Closing the connection ends a request that is still running.

mod client;
mod device;
mod error;
mod event;
pub mod frames;
mod line;
mod ota;
mod server;
mod types;
pub mod vault;

pub use client::{Client, ClientError, Updates};
pub use device::{
    Deleted, DeviceChanges, DeviceInfo, DeviceState, HeldLease, HeldShard, ShardList, Waiting, When,
};
pub use error::{ApiError, ErrorCode};
pub use event::Event;
pub use ota::{
    OtaCarried, OtaChannelInfo, OtaDelta, OtaFleet, OtaImage, OtaImagePath, OtaMissed, OtaOrderInfo,
    OtaPackProgress, OtaPacked, OtaProgress, OtaReason, OtaRequest, OtaStage, OtaState,
};
pub use server::{Handler, Sink, SinkClosed, serve};
pub use types::*;

/// Name of the socket inside a node's data folder.
pub const SOCKET_NAME: &str = "api.sock";

/// Longest line of JSON that either side reads, in bytes: a full friend or shard list of a large
/// node fits, a runaway peer does not exhaust memory.
pub const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;
