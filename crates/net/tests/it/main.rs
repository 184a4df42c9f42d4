//! Several real meshes in one process, on loopback.

#![expect(unreachable_pub, reason = "one crate")]

mod background;
mod directory;
mod files;
mod friends;
mod keeping;
mod messages;
mod pairing;
mod raw;
mod sessions;
mod shards;
mod shelf;
mod strangers;
mod support;
