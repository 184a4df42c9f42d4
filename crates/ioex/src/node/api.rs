//! Answers the local API's requests.

use std::{sync::Arc, time::Duration};

use ioex_api::{
    ApiError, BootstrapInfo, Empty, ErrorCode, Event, ForwardList, ForwardProtocol, FriendList, Handler,
    HolderList, IdInfo, MessageList, Netcheck, PairCode, Pong, Request, Sink, Status, TransferList,
    TransferState, Update,
};
use ioex_base::Uid;
use ioex_net::{MeshEvent, bootstraps::Source, forward::ForwardKind};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

#[cfg(feature = "super")]
use super::backup;
use super::{Node, convert, device, restore};

/// Longest wait for a message's delivery that a client may ask for.
const MESSAGE_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Longest pause between pings.
const PING_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// How long a phone that comes back may take to join before the reply says so.
const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn done<T: Serialize>(value: T) -> Result<serde_json::Value, ApiError> {
    serde_json::to_value(value).map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))
}

impl Handler for Node {
    async fn handle(&self, request: Request, sink: Sink) -> Result<serde_json::Value, ApiError> {
        match request {
            Request::Id => done(self.id()),
            Request::Status => done(self.status()),
            Request::Netcheck => done(self.netcheck().await),
            Request::Ping { uid, count, interval_ms } => self.ping(uid, count, interval_ms, &sink).await,
            Request::FriendAdd { address, greeting } => {
                self.mesh.friend_add(&address, &greeting).await.map_err(convert::friend_error)?;
                done(Empty {})
            }
            Request::FriendAccept { uid } => {
                self.mesh.friend_accept(uid).await.map_err(convert::friend_error)?;
                done(Empty {})
            }
            Request::FriendRefuse { uid } => {
                self.mesh.friend_refuse(uid).await.map_err(convert::friend_error)?;
                done(Empty {})
            }
            Request::FriendRemove { uid } => {
                self.mesh.friend_remove(uid).await.map_err(convert::friend_error)?;
                done(Empty {})
            }
            Request::FriendList => {
                let friends = self.mesh.friends().iter().map(|f| convert::friend(self, f)).collect();
                done(FriendList { friends })
            }
            Request::FriendLabel { uid, label } => {
                self.mesh.friend_label(uid, &label).await.map_err(convert::friend_error)?;
                done(Empty {})
            }
            Request::RotateTag => {
                let rotated = self.mesh.rotate_tag().await;
                rotated.map_err(|e| ApiError::new(ErrorCode::Io, e.to_string()))?;
                done(self.id())
            }
            Request::PairShow { ttl_seconds } => {
                let window = self.mesh.pair_show(ttl_seconds);
                done(PairCode { code: window.code, link: window.link, expires: window.expires })
            }
            Request::PairUse { target, code } => {
                let uid = self.mesh.pair_use(&target, code.as_deref()).await.map_err(convert::pair_error)?;
                let friend = self.mesh.friends().into_iter().find(|f| f.uid == uid);
                done(friend.map(|f| convert::friend(self, &f)))
            }
            Request::MessageSend { to, text, wait_seconds } => {
                let wait = Duration::from_secs(wait_seconds).min(MESSAGE_WAIT_MAX);
                let sent = self.mesh.message_send(&to, &text, wait).await.map_err(convert::message_error)?;
                done(convert::message(&sent))
            }
            Request::MessageList { with, limit } => {
                let found = self.mesh.messages(with, limit).await;
                let found = found.map_err(|e| ApiError::new(ErrorCode::Io, e.to_string()))?;
                done(MessageList { messages: found.iter().map(convert::message).collect() })
            }
            Request::ForwardOpen { to, protocol, listen, target } => {
                let kind = match protocol {
                    ForwardProtocol::Tcp => ForwardKind::Tcp,
                    ForwardProtocol::Udp => ForwardKind::Udp,
                };
                let opened = self.mesh.forward_open(to, kind, listen, target).await;
                done(convert::forward(&opened.map_err(convert::forward_error)?))
            }
            Request::Forwards => {
                done(ForwardList { forwards: self.mesh.forwards().iter().map(convert::forward).collect() })
            }
            Request::ForwardClose { id } => {
                self.mesh.forward_close(id).map_err(convert::forward_error)?;
                done(Empty {})
            }
            Request::ForwardAllow { targets } => {
                self.mesh.forward_allow(targets);
                done(Empty {})
            }
            #[cfg(not(feature = "super"))]
            Request::BackupPut { .. } => Err(ApiError::new(
                ErrorCode::NotAllowed,
                "this program was built for devices: it restores, and backs nothing up",
            )),
            #[cfg(feature = "super")]
            Request::BackupPut { path, manifest, replicas, recipients } => {
                done(backup::put(self, path, manifest, replicas, recipients, &sink).await?)
            }
            Request::BackupGet { manifest, out, rate_limit } => {
                done(restore::get(self, manifest, out, rate_limit, &sink).await?)
            }
            Request::Vault(request) => super::vault::handle(self, *request, &sink).await,
            Request::Ota(request) => super::ota::handle(self, *request, &sink).await,
            Request::Device => done(device::show(&self.lent)),
            Request::DeviceSet { changes } => done(device::set(self, changes).await?),
            Request::DeviceShards { after } => done(device::shards(self, after).await?),
            Request::DeviceDelete { address } => done(device::delete(self, address).await?),
            Request::Lookup { address } => {
                let started = std::time::Instant::now();
                let directory = self.mesh.directory().map_err(convert::link_error)?;
                let found = directory.find(address).await;
                let holders = found.map_err(|e| ApiError::new(ErrorCode::Unreachable, e.to_string()))?;
                done(HolderList { holders, elapsed_ms: started.elapsed().as_secs_f64() * 1000.0 })
            }
            Request::Background { on } => self.background(on).await,
            Request::Events => self.events(&sink).await,
            Request::Shutdown => {
                self.stop.cancel();
                done(Empty {})
            }
            Request::Send { .. }
            | Request::Transfers
            | Request::TransferAccept { .. }
            | Request::TransferPause { .. }
            | Request::TransferResume { .. }
            | Request::TransferCancel { .. }
            | Request::TransferWatch { .. } => self.transfers(request, &sink).await,
        }
    }
}

impl Node {
    fn id(&self) -> IdInfo {
        let mesh = &self.mesh;
        IdInfo {
            uid: mesh.uid(),
            kind: mesh.config().kind,
            friend_address: mesh.friend_address().to_string(),
            name: mesh.config().name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            data: self.config.data.clone(),
            seed: mesh.config().own_bootstrap().map(|b| b.to_string()),
        }
    }

    fn bootstraps(&self) -> Vec<BootstrapInfo> {
        let (own, home) = (self.mesh.uid(), self.mesh.home().map(|b| b.uid));
        let known = self.mesh.bootstraps();
        let info = |e: &ioex_net::bootstraps::Entry| BootstrapInfo {
            uid: e.addr.uid,
            address: e.addr.addr,
            latency_ms: e.latency_ms,
            home: home == Some(e.addr.uid),
            source: match e.source {
                Source::Seed => "seed",
                Source::Announced => "announced",
                Source::Own => "self",
            }
            .to_owned(),
        };
        known.iter().filter(|e| e.addr.uid != own).map(info).collect()
    }

    fn status(&self) -> Status {
        let mesh = &self.mesh;
        let usage = self.lent.usage();
        let mut warnings = self.warnings_at_start.clone();
        warnings.extend(mesh.warnings());
        Status {
            id: self.id(),
            joined: mesh.joined(),
            background: mesh.offline(),
            home: mesh.home().map(|b| b.uid),
            bootstraps: self.bootstraps(),
            links: mesh.link_list().iter().map(convert::link).collect(),
            friends: mesh.friends().len(),
            lent_bytes: usage.as_ref().map_or(0, |u| u.space_bytes),
            held_bytes: usage.as_ref().map_or(0, |u| u.used_bytes),
            held_shards: usage.as_ref().map_or(0, |u| u.shards as u64),
            uptime_seconds: self.started.elapsed().as_secs(),
            warnings,
        }
    }

    async fn netcheck(&self) -> Netcheck {
        let seen = self.mesh.netcheck().await;
        let own = self.mesh.direct_addresses();
        let public = seen.as_ref().and_then(|s| s.public);
        let nat = match &seen {
            None => "unknown",
            Some(s) if !s.udp => "udp-blocked",
            Some(s) if s.varies == Some(true) => "symmetric",
            Some(_) if public.is_some_and(|p| self.is_local(&p) && own.contains(&p)) => "open",
            Some(_) => "endpoint-independent",
        };
        Netcheck {
            udp: seen.as_ref().is_some_and(|s| s.udp),
            nat: nat.to_owned(),
            public_address: public,
            bootstraps: self.bootstraps(),
        }
    }

    /// Whether an address belongs to this machine: binding it works only then.
    fn is_local(&self, address: &std::net::SocketAddr) -> bool {
        std::net::UdpSocket::bind((address.ip(), 0)).is_ok()
    }

    async fn ping(
        &self,
        uid: Uid,
        count: u32,
        interval_ms: u64,
        sink: &Sink,
    ) -> Result<serde_json::Value, ApiError> {
        let pause = Duration::from_millis(interval_ms).min(PING_INTERVAL_MAX);
        for seq in 1..=count {
            let answer = self.mesh.ping(uid).await;
            if let (Err(e), 1) = (&answer, count) {
                tracing::debug!("ping: {e}");
            }
            let pong = Pong {
                seq,
                rtt_ms: answer.as_ref().ok().map(|rtt| rtt.as_secs_f64() * 1000.0),
                path: convert::path(&self.mesh.path_to(&uid)),
            };
            if sink.update(Update::Pong(pong)).await.is_err() {
                break;
            }
            if let Err(e) = answer
                && matches!(e, ioex_net::LinkError::Refused(_))
            {
                return Err(convert::link_error(e));
            }
            if seq < count {
                tokio::time::sleep(pause).await;
            }
        }
        done(Empty {})
    }

    async fn background(&self, on: bool) -> Result<serde_json::Value, ApiError> {
        if on {
            self.mesh.go_offline().await;
            return done(Empty {});
        }
        let mut events = self.mesh.events();
        let back = self.mesh.go_online().await;
        back.map_err(|e| ApiError::new(ErrorCode::Io, e.to_string()))?;
        let joined = async {
            while !self.mesh.joined() {
                if let Err(RecvError::Closed) = events.recv().await {
                    return;
                }
            }
        };
        match tokio::time::timeout(RETURN_TIMEOUT, joined).await {
            Ok(()) => done(Empty {}),
            Err(_) => Err(ApiError::new(ErrorCode::NotJoined, "back, but no bootstrap answers yet")),
        }
    }

    async fn events(&self, sink: &Sink) -> Result<serde_json::Value, ApiError> {
        let mut events = self.mesh.events();
        loop {
            let event = match events.recv().await {
                Ok(event) => convert::event(self, event),
                Err(RecvError::Lagged(n)) => Event::Warning { text: format!("{n} events were missed") },
                Err(RecvError::Closed) => return done(Empty {}),
            };
            if sink.update(Update::Event(event)).await.is_err() {
                return done(Empty {});
            }
        }
    }

    async fn transfers(&self, request: Request, sink: &Sink) -> Result<serde_json::Value, ApiError> {
        let mesh = &self.mesh;
        let changed = match request {
            Request::Send { to, paths, wait } => {
                let mut events = mesh.events();
                let sent = mesh.send_files(&to, &paths).await.map_err(convert::transfer_error)?;
                let ids: Vec<u64> = sent.iter().map(|t| t.id).collect();
                if wait {
                    self.follow(&ids, &mut events, sink).await?;
                }
                let list =
                    mesh.transfers().iter().filter(|t| ids.contains(&t.id)).map(convert::transfer).collect();
                return done(TransferList { transfers: list });
            }
            Request::TransferWatch { id } => {
                let mut events = mesh.events();
                let now = mesh.transfer(id).map_err(convert::transfer_error)?;
                // Whoever looks wants to see where it stands, not to wait for the next change.
                let _ = sink.update(Update::Transfer(convert::transfer(&now))).await;
                self.follow(&[id], &mut events, sink).await?;
                mesh.transfer(id)
            }
            Request::TransferAccept { id, dir } => mesh.transfer_accept(id, dir).await,
            Request::TransferPause { id } => mesh.transfer_pause(id).await,
            Request::TransferResume { id } => mesh.transfer_resume(id).await,
            Request::TransferCancel { id } => mesh.transfer_cancel(id).await,
            _ => {
                return done(TransferList {
                    transfers: mesh.transfers().iter().map(convert::transfer).collect(),
                });
            }
        };
        done(convert::transfer(&changed.map_err(convert::transfer_error)?))
    }

    /// Reports transfers until all of them have ended.
    async fn follow(
        &self,
        ids: &[u64],
        events: &mut tokio::sync::broadcast::Receiver<MeshEvent>,
        sink: &Sink,
    ) -> Result<(), ApiError> {
        let ended =
            |state| matches!(state, TransferState::Done | TransferState::Cancelled | TransferState::Failed);
        loop {
            let all: Vec<_> =
                self.mesh.transfers().iter().filter(|t| ids.contains(&t.id)).map(convert::transfer).collect();
            if all.iter().all(|t| ended(t.state)) {
                return Ok(());
            }
            match events.recv().await {
                Ok(MeshEvent::Transfer(t)) if ids.contains(&t.id) => {
                    if sink.update(Update::Transfer(convert::transfer(&t))).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => {
                    return Err(ApiError::new(ErrorCode::Internal, "the node is stopping"));
                }
            }
        }
    }
}

/// The handler is shared by all clients.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Node>>();
};
