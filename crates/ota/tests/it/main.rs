//! A maker's channel against devices, mirrors that lie, and power cuts.

mod attacks;
mod bytes;
mod fleet;
mod interop;
mod power;
mod swap;
mod swap_power;
