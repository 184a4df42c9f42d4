//! The four kinds of node (white paper II.A (A) 2, and II.B (C) for the super node).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a node does for the network.
///
/// The discriminants are on the wire; they are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Fixed address: introduces, routes and relays; never stores what users send.
    Bootstrap = 0,
    /// A device that stores and shares.
    Peer = 1,
    /// Connects and controls; never stores for others.
    Phone = 2,
    /// A peer that may place shards on other devices when its capability says so.
    Super = 3,
}

impl NodeKind {
    /// Whether nodes of this kind may hold shards that others placed.
    #[must_use]
    pub fn stores_for_others(self) -> bool {
        matches!(self, Self::Peer | Self::Super)
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bootstrap => "bootstrap",
            Self::Peer => "peer",
            Self::Phone => "phone",
            Self::Super => "super",
        })
    }
}

/// A word that names no node kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no node kind: write bootstrap, peer, phone or super")]
pub struct ParseKindError(String);

impl FromStr for NodeKind {
    type Err = ParseKindError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "bootstrap" => Ok(Self::Bootstrap),
            "peer" => Ok(Self::Peer),
            "phone" => Ok(Self::Phone),
            "super" => Ok(Self::Super),
            other => Err(ParseKindError(other.to_owned())),
        }
    }
}
