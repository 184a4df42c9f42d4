//! ioeX: the node and its command line. (Being written.)

pub mod config;
pub mod node;
