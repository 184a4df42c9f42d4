//! Port forwarding over a session: a local TCP or UDP port leads to a port at a friend.
//!
//! The friend's owner lists the targets that friends may reach; nothing else can be opened.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ioex_base::Uid;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    links::LinkError,
    mesh::Mesh,
    proto::{No, SessionTarget},
    random,
    session::{DatagramStream, PACKET_MAX_BYTES, ReliableStream, Stream, StreamKind, open_stream},
};

/// Connections one forward carries at a time.
const CONNECTIONS_MAX: usize = 256;
/// A UDP client that is silent for so long is forgotten, as routers do.
const UDP_IDLE: Duration = Duration::from_secs(120);
/// Waiting packets per UDP client.
const UDP_WAITING_MAX: usize = 64;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardKind {
    /// Byte streams.
    Tcp,
    /// Packets.
    Udp,
}

/// An open forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardInfo {
    /// Names it.
    pub id: u64,
    /// The friend.
    pub to: Uid,
    /// TCP or UDP.
    pub kind: ForwardKind,
    /// Local address.
    pub listen: SocketAddr,
    /// Address at the friend.
    pub target: SocketAddr,
}

/// Why a forward was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Not a friend.
    #[error("{0} is no friend: add it first with `ioex friend add`")]
    NotFriend(Uid),
    /// The local port cannot be used.
    #[error("{0} cannot be listened on: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// No forward by that number.
    #[error("there is no forward {0}")]
    Unknown(u64),
}

/// All forwards, and what friends may reach here.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    open: Mutex<Vec<(ForwardInfo, CancellationToken)>>,
    allowed: Mutex<Vec<SocketAddr>>,
}

impl Forwards {
    pub(crate) fn allow(&self, targets: Vec<SocketAddr>) {
        *self.allowed.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    pub(crate) fn allows(&self, target: &SocketAddr) -> bool {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).contains(target)
    }
}

impl Mesh {
    /// Opens a local port that leads to `target` at a friend. Port 0 picks one.
    ///
    /// # Errors
    /// When `to` is no friend or the port cannot be used. Whether the friend allows the target
    /// shows when the first connection is made.
    pub async fn forward_open(
        &self,
        to: Uid,
        kind: ForwardKind,
        listen: SocketAddr,
        target: SocketAddr,
    ) -> Result<ForwardInfo, ForwardError> {
        if !self.book().is_friend(&to) {
            return Err(ForwardError::NotFriend(to));
        }
        let failed = |e| ForwardError::Listen(listen, e);
        let stop = self.stop_token();
        let session = u64::from_le_bytes(random::bytes());
        let (listen, mesh, ended) = (listen, self.clone(), stop.clone());
        let bound = match kind {
            ForwardKind::Tcp => {
                let listener = TcpListener::bind(listen).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                self.spawn(async move {
                    let run = mesh.clone().listen_tcp(to, session, listener, target);
                    tokio::select! { () = run => {}, () = ended.cancelled() => {} }
                });
                bound
            }
            ForwardKind::Udp => {
                let socket = UdpSocket::bind(listen).await.map_err(failed)?;
                let bound = socket.local_addr().map_err(failed)?;
                self.spawn(async move {
                    let run = mesh.clone().listen_udp(to, session, socket, target);
                    tokio::select! { () = run => {}, () = ended.cancelled() => {} }
                });
                bound
            }
        };
        let mut open = self.forwards_state().open.lock().unwrap_or_else(PoisonError::into_inner);
        let id = open.last().map_or(1, |(f, _)| f.id + 1);
        let info = ForwardInfo { id, to, kind, listen: bound, target };
        open.push((info.clone(), stop));
        Ok(info)
    }

    /// Open forwards, in order of opening.
    #[must_use]
    pub fn forwards(&self) -> Vec<ForwardInfo> {
        let open = self.forwards_state().open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(f, _)| f.clone()).collect()
    }

    /// Closes a forward and its connections.
    ///
    /// # Errors
    /// When there is none by that number.
    pub fn forward_close(&self, id: u64) -> Result<(), ForwardError> {
        let mut open = self.forwards_state().open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().position(|(f, _)| f.id == id).ok_or(ForwardError::Unknown(id))?;
        let (_, stop) = open.remove(at);
        stop.cancel();
        Ok(())
    }

    /// Replaces the list of targets here that friends may reach.
    pub fn forward_allow(&self, targets: Vec<SocketAddr>) {
        self.forwards_state().allow(targets);
    }

    async fn listen_tcp(self, to: Uid, session: u64, listener: TcpListener, target: SocketAddr) {
        // The set ends its tasks when this future is dropped.
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = running.join_next() => {}
                accepted = listener.accept(), if running.len() < CONNECTIONS_MAX => {
                    let Ok((tcp, _)) = accepted else { continue };
                    let mesh = self.clone();
                    running.spawn(async move {
                        let opened = open_stream(&mesh, to, session, SessionTarget::Tcp(target), StreamKind::Reliable);
                        match opened.await {
                            Ok(Stream::Reliable(stream)) => splice(tcp, stream).await,
                            Ok(Stream::Datagram(_)) => {}
                            Err(e) => mesh.warn(format!("the forward to {target} at {} failed: {e}", to.short())),
                        }
                    });
                }
            }
        }
    }

    async fn listen_udp(self, to: Uid, session: u64, socket: UdpSocket, target: SocketAddr) {
        let socket = std::sync::Arc::new(socket);
        let mut clients: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut running = JoinSet::new();
        let mut buffer = vec![0; PACKET_MAX_BYTES];
        loop {
            let received = tokio::select! {
                Some(ended) = running.join_next() => {
                    if let Ok(client) = ended {
                        clients.remove(&client);
                    }
                    continue;
                }
                received = socket.recv_from(&mut buffer) => received,
            };
            let Ok((len, client)) = received else { continue };
            let packet = buffer[..len].to_vec();
            if !clients.contains_key(&client) {
                if clients.len() >= CONNECTIONS_MAX {
                    continue;
                }
                let (tell, told) = mpsc::channel(UDP_WAITING_MAX);
                clients.insert(client, tell);
                let (mesh, socket) = (self.clone(), socket.clone());
                running.spawn(async move {
                    let opened =
                        open_stream(&mesh, to, session, SessionTarget::Udp(target), StreamKind::Datagram);
                    match opened.await {
                        Ok(Stream::Datagram(stream)) => client_udp(&socket, client, stream, told).await,
                        Ok(Stream::Reliable(_)) => {}
                        Err(e) => mesh.warn(format!("the forward to {target} at {} failed: {e}", to.short())),
                    }
                    client
                });
            }
            if let Some(tell) = clients.get(&client) {
                // Full: dropped, as UDP would.
                let _ = tell.try_send(packet);
            }
        }
    }

    /// The friend's side: connects to an allowed target and carries the stream there.
    pub(crate) fn check_target(&self, target: &SocketAddr) -> Result<(), No> {
        if self.forwards_state().allows(target) { Ok(()) } else { Err(No::NotFound) }
    }
}

/// Carries bytes both ways until both sides are done.
pub(crate) async fn splice(tcp: TcpStream, stream: ReliableStream) {
    let ReliableStream { mut send, mut recv } = stream;
    let (mut from_tcp, mut to_tcp) = tcp.into_split();
    let out = async {
        let copied = tokio::io::copy(&mut from_tcp, &mut send).await;
        // Either end may be gone already.
        let _ = send.finish();
        copied
    };
    let back = async {
        let copied = tokio::io::copy(&mut recv, &mut to_tcp).await;
        let _ = to_tcp.shutdown().await;
        copied
    };
    let (out, back) = tokio::join!(out, back);
    tracing::debug!("forwarded {out:?} bytes out, {back:?} back");
}

/// One UDP client's packets, until it is silent.
async fn client_udp(
    socket: &UdpSocket,
    client: SocketAddr,
    stream: DatagramStream,
    mut packets: mpsc::Receiver<Vec<u8>>,
) {
    let DatagramStream { mut sender, mut receiver } = stream;
    loop {
        let step = tokio::time::timeout(UDP_IDLE, async {
            tokio::select! {
                packet = packets.recv() => match packet {
                    Some(packet) => sender.send(&packet).await.is_ok(),
                    None => false,
                },
                packet = receiver.recv() => match packet {
                    Ok(Some(packet)) => socket.send_to(&packet, client).await.is_ok(),
                    Ok(None) | Err(_) => false,
                },
            }
        });
        if !matches!(step.await, Ok(true)) {
            return;
        }
    }
}

/// The friend's side of a UDP forward.
pub(crate) async fn serve_udp(target: SocketAddr, stream: DatagramStream) -> Result<(), LinkError> {
    let local: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await.map_err(|e| LinkError::Broken(e.to_string()))?;
    socket.connect(target).await.map_err(|e| LinkError::Broken(e.to_string()))?;
    let DatagramStream { mut sender, mut receiver } = stream;
    let mut buffer = vec![0; PACKET_MAX_BYTES];
    loop {
        let step = tokio::time::timeout(UDP_IDLE, async {
            tokio::select! {
                packet = receiver.recv() => match packet {
                    // A refused packet is as lost as any other.
                    Ok(Some(packet)) => { let _ = socket.send(&packet).await; true }
                    Ok(None) | Err(_) => false,
                },
                got = socket.recv(&mut buffer) => match got {
                    Ok(len) => sender.send(&buffer[..len]).await.is_ok(),
                    // "Connection refused" of an earlier packet: the target may come up later.
                    Err(_) => true,
                },
            }
        });
        if !matches!(step.await, Ok(true)) {
            return Ok(());
        }
    }
}
