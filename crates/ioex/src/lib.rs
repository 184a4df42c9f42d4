//! ioeX: the node and its command line.
//!
//! One program, `ioex`. `ioex node` runs a node ([`node`]) from a [`config`] and from what its
//! owner set for what it does for others ([`device`]); every other command
//! ([`cli`] says which there are, [`commands`] what they do) talks to a running node over its local
//! API, and `ioex up` ([`up`]) starts a whole network of them on one machine. Results go to stdout
//! ([`out`]), for people or as JSON; progress goes to stderr ([`progress`]); failures have
//! documented exit codes ([`exit`]).

mod archive;
pub mod authority;
#[cfg(feature = "super")]
pub mod channel_folder;
pub mod cli;
pub mod commands;
pub mod config;
pub mod device;
pub mod exit;
#[cfg(target_env = "gnu")]
mod memory;
pub mod node;
pub mod out;
pub mod progress;
pub mod render;
pub mod size;
#[cfg(feature = "full")]
pub mod up;
