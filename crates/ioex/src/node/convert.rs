//! From the mesh's types to the API's, and its errors to error codes.

use ioex_api as api;
use ioex_api::{ApiError, ErrorCode};
use ioex_net::{
    LinkError, LinkInfo, MeshEvent, PathKind,
    forward::{ForwardError, ForwardInfo, ForwardKind},
    friends::{self, FriendError, pairing::PairError},
    messages::{self, MessageError},
    proto::No,
    transfer::{self, TransferError},
};

use super::Node;

pub(super) fn path(path: &PathKind) -> api::Path {
    match path {
        PathKind::Direct(address) => api::Path::Direct { address: *address },
        PathKind::Relayed(bootstrap) => api::Path::Relayed { bootstrap: *bootstrap },
        PathKind::None => api::Path::None,
    }
}

pub(super) fn link(link: &LinkInfo) -> api::Link {
    api::Link {
        uid: link.uid,
        door: link.door.name().to_owned(),
        path: path(&link.path),
        rtt_ms: link.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        sent_bytes: link.sent_bytes,
        received_bytes: link.received_bytes,
    }
}

pub(super) fn friend(node: &Node, friend: &friends::Friend) -> api::Friend {
    let now = node.mesh.path_to(&friend.uid);
    api::Friend {
        uid: friend.uid,
        name: friend.name.clone(),
        label: friend.label.clone(),
        state: match friend.state {
            friends::FriendState::Requested => api::FriendState::Requested,
            friends::FriendState::Incoming => api::FriendState::Incoming,
            friends::FriendState::Friend => api::FriendState::Friend,
        },
        greeting: friend.greeting.clone(),
        online: now != PathKind::None,
        path: path(&now),
        last_seen: friend.last_seen,
    }
}

pub(super) fn message(m: &messages::Message) -> api::Message {
    api::Message {
        id: data_encoding::HEXLOWER.encode(&m.id),
        with: m.with,
        incoming: m.incoming,
        text: m.text.clone(),
        sent_at: m.sent_at,
        state: match m.state {
            messages::MessageState::Queued => api::MessageState::Queued,
            messages::MessageState::Delivered => api::MessageState::Delivered,
        },
    }
}

pub(super) fn transfer(t: &transfer::TransferInfo) -> api::Transfer {
    api::Transfer {
        id: t.id,
        with: t.with.iter().map(|(uid, _)| *uid).collect(),
        incoming: t.incoming,
        state: match t.state {
            transfer::TransferState::Offered => api::TransferState::Offered,
            transfer::TransferState::Active => api::TransferState::Active,
            transfer::TransferState::Paused => api::TransferState::Paused,
            transfer::TransferState::Done => api::TransferState::Done,
            transfer::TransferState::Cancelled => api::TransferState::Cancelled,
            transfer::TransferState::Failed => api::TransferState::Failed,
        },
        files: t
            .files
            .iter()
            .map(|f| api::TransferFile {
                name: f.name.clone(),
                size: f.size,
                address: f.address,
                path: f.path.clone(),
            })
            .collect(),
        done_bytes: t.done_bytes,
        total_bytes: t.total_bytes(),
        bytes_per_second: t.bytes_per_second,
        direct_bytes: t.direct_bytes,
        relayed_bytes: t.relayed_bytes,
        error: t.error.as_ref().map(|e| ApiError::new(ErrorCode::Unreachable, e.clone())),
    }
}

pub(super) fn forward(f: &ForwardInfo) -> api::Forward {
    api::Forward {
        id: f.id,
        to: f.to,
        protocol: match f.kind {
            ForwardKind::Tcp => api::ForwardProtocol::Tcp,
            ForwardKind::Udp => api::ForwardProtocol::Udp,
        },
        listen: f.listen,
        target: f.target,
    }
}

pub(super) fn event(node: &Node, event: MeshEvent) -> api::Event {
    match event {
        MeshEvent::Joined(joined) => api::Event::Joined { joined },
        MeshEvent::Home(bootstrap) => api::Event::Home { bootstrap },
        MeshEvent::FriendConnection { uid, online, path: p } => {
            api::Event::FriendConnection { uid, online, path: path(&p) }
        }
        MeshEvent::FriendInfo(f) => api::Event::FriendInfo { friend: friend(node, &f) },
        MeshEvent::FriendRequest(f) => api::Event::FriendRequest { friend: friend(node, &f) },
        MeshEvent::FriendAdded(uid) => api::Event::FriendAdded { uid },
        MeshEvent::FriendRemoved(uid) => api::Event::FriendRemoved { uid },
        MeshEvent::Message(m) => api::Event::Message { message: message(&m) },
        MeshEvent::Transfer(t) => api::Event::Transfer { transfer: transfer(&t) },
        MeshEvent::Warning(text) => api::Event::Warning { text },
    }
}

fn error(code: ErrorCode, e: impl std::fmt::Display) -> ApiError {
    ApiError::new(code, e.to_string())
}

fn code_of_no(no: No) -> ErrorCode {
    match no {
        No::Refused(_) => ErrorCode::Refused,
        No::NotFound => ErrorCode::NotFound,
        No::NoSpace => ErrorCode::NoSpace,
        No::WrongCode => ErrorCode::WrongCode,
        No::CodeLocked => ErrorCode::CodeLocked,
        No::BadRequest | No::Mismatch | No::Failed | No::Paused | No::Busy { .. } | No::Nothing { .. } => {
            ErrorCode::Refused
        }
    }
}

fn code_of_link(e: &LinkError) -> ErrorCode {
    match e {
        LinkError::Refused(_) => ErrorCode::Refused,
        LinkError::Timeout => ErrorCode::Timeout,
        LinkError::Offline => ErrorCode::NotJoined,
        LinkError::Unreachable(..) | LinkError::Broken(_) | LinkError::Protocol(_) => ErrorCode::Unreachable,
    }
}

pub(super) fn link_error(e: LinkError) -> ApiError {
    error(code_of_link(&e), e)
}

pub(super) fn friend_error(e: FriendError) -> ApiError {
    let code = match &e {
        FriendError::Address(_) => ErrorCode::InvalidAddress,
        FriendError::Own => ErrorCode::ToSelf,
        FriendError::TooLong { .. } => ErrorCode::BadRequest,
        FriendError::Unknown(_) => ErrorCode::NotFound,
        FriendError::Bootstrap => ErrorCode::NotAllowed,
        FriendError::No(no) => code_of_no(*no),
        FriendError::Later(_, link) => code_of_link(link),
        FriendError::State(_) => ErrorCode::Io,
    };
    error(code, e)
}

pub(super) fn message_error(e: MessageError) -> ApiError {
    let code = match &e {
        MessageError::Empty => ErrorCode::MessageEmpty,
        MessageError::TooLong(_) => ErrorCode::MessageTooLong,
        MessageError::InvalidAddress(_) => ErrorCode::InvalidAddress,
        MessageError::ToSelf => ErrorCode::ToSelf,
        MessageError::NotJoined => ErrorCode::NotJoined,
        MessageError::NotFriend(_) => ErrorCode::NotFriend,
        MessageError::State(_) => ErrorCode::Io,
    };
    error(code, e)
}

pub(super) fn pair_error(e: PairError) -> ApiError {
    let code = match &e {
        PairError::Link | PairError::Code => ErrorCode::BadRequest,
        PairError::Own => ErrorCode::ToSelf,
        // An open window answers with its own words; a closed one is "not offered".
        PairError::No(no) => code_of_no(*no),
        PairError::Unreachable(link) => code_of_link(link),
        PairError::NotProved => ErrorCode::WrongCode,
        PairError::State(_) => ErrorCode::Io,
    };
    error(code, e)
}

pub(super) fn transfer_error(e: TransferError) -> ApiError {
    let code = match &e {
        TransferError::Unknown(_) => ErrorCode::NotFound,
        TransferError::NotFriend(_) => ErrorCode::NotFriend,
        TransferError::Nothing | TransferError::TooMany(_) | TransferError::NotAFile(_) => {
            ErrorCode::BadRequest
        }
        TransferError::Read { .. } | TransferError::Kept(_) => ErrorCode::Io,
        TransferError::State { .. } | TransferError::Name(_) => ErrorCode::BadRequest,
        TransferError::Place(place) => match place {
            transfer::PartialError::Exists(_) => ErrorCode::Exists,
            transfer::PartialError::NoSpace { .. } => ErrorCode::NoSpace,
            transfer::PartialError::Io { .. } => ErrorCode::Io,
        },
        TransferError::Link(link) => code_of_link(link),
    };
    error(code, e)
}

pub(super) fn forward_error(e: ForwardError) -> ApiError {
    let code = match &e {
        ForwardError::NotFriend(_) => ErrorCode::NotFriend,
        ForwardError::Listen(..) => ErrorCode::Io,
        ForwardError::Unknown(_) => ErrorCode::NotFound,
    };
    error(code, e)
}
