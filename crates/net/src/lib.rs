//! The mesh: devices that find each other, become friends and talk directly.
//!
//! A [`Mesh`] is a node's place in the network. It binds one QUIC endpoint (the only user of
//! iroh), joins through any bootstrap, publishes where it is, keeps links to friends, and serves
//! what others may ask. Who may ask what is decided by one function, [`door::authorise`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{sync::Arc, time::Duration};
//! use ioex_base::NodeKey;
//! use ioex_net::{Mesh, MeshConfig, NoHost};
//!
//! let mut config = MeshConfig::new(NodeKey::generate()?, "data".into());
//! config.seeds = vec!["<uid>@192.0.2.1:4400".parse()?];
//! let mesh = Mesh::start(config, Arc::new(NoHost::default())).await?;
//! let friend = mesh.friend_add("<friend address>", "Hello!").await?;
//! mesh.message_send(&friend.to_string(), "Hi", Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```
//!
//! - [`door`]: who gets in. [`proto`]: what is said on a stream. [`frame`]: how.
//! - [`names`], [`bootstraps`], [`directory`], [`record`]: finding nodes and contents.
//! - [`friends`], [`messages`], [`session`], [`forward`]: between friends.
//! - [`transfer`]: files. [`shards`]: backups, under grants. [`host`]: what the node provides;
//!   [`throttle`]: the bandwidth that its owner gives.
//! - [`mod@lab`] measures.

pub mod bootstraps;
mod clock;
mod config;
pub mod directory;
pub mod door;
mod events;
pub mod forward;
pub mod frame;
pub mod friends;
pub mod host;
pub mod lab;
mod links;
mod mesh;
pub mod messages;
pub mod names;
mod network_time;
mod online;
pub mod proto;
pub mod questions;
mod random;
pub mod record;
#[cfg(feature = "bootstrap")]
mod relay;
mod relay_tls;
mod relay_watch;
mod rest;
mod serve;
pub mod session;
pub mod shards;
mod state;
pub mod throttle;
pub mod transfer;
pub mod updates;

pub use self::{
    config::{MeshConfig, Timing},
    events::MeshEvent,
    host::{Host, NoHost},
    links::{LinkError, LinkInfo, PathKind},
    mesh::{Mesh, MeshError},
    online::{Netcheck, OnlineError},
    state::StateError,
};
