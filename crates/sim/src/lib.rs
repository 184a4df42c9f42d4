//! What the vault's rules come to: a network of simulated devices over a simulated year.
//!
//! Devices switch on and off, travel, leave for good, lose disks and cheat, as published
//! measurements say or assume ([`churn`]). One super node watches, as the real one does: it runs
//! `ioex_vault`'s own [`choose`](ioex_vault::choose), [`Placer`](ioex_vault::Placer) and
//! [`health`](ioex_vault::health), so a changed rule changes the real node and this simulation alike.
//! Only what these rules leave to their callers is simulated: who can be reached, what a transfer
//! moves, and how long a repair waits for its turn.
//!
//! `cargo xtask sim vault` runs it and renders `docs/sim-vault.md`'s figures; this crate knows
//! nothing of tables and drawings. It is a crate of its own, so that `xtask` stays quick to build.
//!
//! - [`scenario`]: the networks and policies that are compared
//! - [`world`]: devices, groups, and the virtual clock
//! - `watch`: the super node's part
//! - [`ota`]: another simulation, of a fleet that fetches an update
//! - [`tally`]: what is counted

pub mod churn;
pub mod ota;
mod queue;
mod rng;
pub mod scenario;
pub mod tally;
mod watch;
pub mod world;

#[cfg(test)]
mod tests;
