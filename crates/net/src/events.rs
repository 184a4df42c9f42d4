//! The one stream of everything that happens: the paper's callbacks (friend list, friend
//! connection, friend info, friend added, message) and what transfers and the network do.

use ioex_base::Uid;

use crate::{friends::Friend, links::PathKind, messages::Message, transfer::TransferInfo};

/// Events that a slow listener may fall behind by before it misses some.
pub(crate) const EVENTS_MAX: usize = 1_024;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum MeshEvent {
    /// The node joined the network or lost it.
    Joined(bool),
    /// Another bootstrap became home.
    Home(Option<Uid>),
    /// A friend's link opened or closed.
    FriendConnection {
        /// Who.
        uid: Uid,
        /// Whether it is open now.
        online: bool,
        /// The path.
        path: PathKind,
    },
    /// A friend's name, remark or state changed.
    FriendInfo(Friend),
    /// Somebody asks for friendship.
    FriendRequest(Friend),
    /// A friendship began.
    FriendAdded(Uid),
    /// A friendship ended.
    FriendRemoved(Uid),
    /// A message came in, or one of ours was delivered.
    Message(Message),
    /// A transfer was offered, moved or ended.
    Transfer(TransferInfo),
    /// Something the owner should know.
    Warning(String),
}
