//! Several real meshes in one process, on loopback.

mod friends;
mod support;
