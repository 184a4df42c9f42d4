//! What a node tells whoever listens: the paper's callbacks and more.

use ioex_base::Uid;
use serde::{Deserialize, Serialize};

use crate::{Friend, Message, Path, Transfer};

/// Something that happened; the paper's callbacks and more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The node joined or lost the network.
    Joined {
        /// Whether it is joined now.
        joined: bool,
    },
    /// The home bootstrap changed.
    Home {
        /// The new one.
        bootstrap: Option<Uid>,
    },
    /// A friend came or went (the paper's friend-connection callback).
    FriendConnection {
        /// Who.
        uid: Uid,
        /// Whether connected now.
        online: bool,
        /// The path.
        path: Path,
    },
    /// A friend's name or state changed (friend-info).
    FriendInfo {
        /// The friend now.
        friend: Friend,
    },
    /// Somebody asks for friendship (friend-added, first half).
    FriendRequest {
        /// Who asks.
        friend: Friend,
    },
    /// A friendship began (friend-added).
    FriendAdded {
        /// With whom.
        uid: Uid,
    },
    /// A friendship ended.
    FriendRemoved {
        /// With whom.
        uid: Uid,
    },
    /// A message came, or one of ours was delivered.
    Message {
        /// The message now.
        message: Message,
    },
    /// A transfer was offered, moved or ended.
    Transfer {
        /// The transfer now.
        transfer: Transfer,
    },
    /// Something the owner should know.
    Warning {
        /// In words.
        text: String,
    },
}
