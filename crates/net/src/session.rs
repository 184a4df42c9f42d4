//! Sessions between friends (requirement N7): many streams in one session, reliable (like TCP)
//! and datagram (like UDP) ones behind one interface, and port forwarding on top of them.
//!
//! A program opens a [`Session`] to a friend under a service name; the other side receives its
//! streams from [`Mesh::services`]. Reliable streams are QUIC streams. A datagram stream sends a
//! packet as a QUIC datagram when it fits one and as a frame of its stream otherwise, so packets
//! of any size up to [`PACKET_MAX_BYTES`] arrive; datagrams may be lost, as with UDP.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{BufMut, Bytes, BytesMut};
use ioex_base::Uid;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::{io::AsyncReadExt, sync::mpsc};

use crate::{
    door::Door,
    frame,
    links::{LinkError, broken},
    mesh::Mesh,
    proto::{ANSWER_MAX_BYTES, Answer, Open, SessionOpen, SessionTarget},
    random,
};

/// Largest packet of a datagram stream: the largest UDP payload.
pub const PACKET_MAX_BYTES: usize = 65_507;
/// Packets that wait for a slow reader; more are dropped, as UDP drops them.
const PACKETS_WAITING_MAX: usize = 256;
/// Packets kept that overtook the beginning of their stream.
const EARLY_MAX: usize = 64;
/// Longest service name in bytes.
pub const SERVICE_NAME_MAX_BYTES: usize = 64;
/// Each datagram begins with its stream's number.
const DATAGRAM_HEAD_BYTES: usize = 8;

/// How a stream carries data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// In order, nothing lost.
    Reliable,
    /// Packets; some may be lost or overtake each other.
    Datagram,
}

/// A conversation with a friend about one service.
#[derive(Clone, Debug)]
pub struct Session {
    mesh: Mesh,
    with: Uid,
    id: u64,
    service: String,
}

impl Mesh {
    /// Begins a session with a friend. Nothing is sent until a stream is opened.
    #[must_use]
    pub fn session(&self, with: Uid, service: &str) -> Session {
        let id = u64::from_le_bytes(random::bytes());
        Session { mesh: self.clone(), with, id, service: service.to_owned() }
    }

    /// Streams that friends open to the service `name` from now on. Replaces an earlier receiver.
    #[must_use]
    pub fn services(&self, name: &str) -> mpsc::Receiver<IncomingStream> {
        let (tell, told) = mpsc::channel(16);
        self.registry().services.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), tell);
        told
    }
}

/// A stream that a friend opened.
#[derive(Debug)]
pub struct IncomingStream {
    /// Who.
    pub from: Uid,
    /// The session it belongs to; the same number means the same session of that friend.
    pub session: u64,
    /// The stream.
    pub stream: Stream,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    services: Mutex<HashMap<String, mpsc::Sender<IncomingStream>>>,
    /// Datagram streams by the number in front of each datagram, which both ends know.
    packets: Mutex<HashMap<(Uid, u64), mpsc::Sender<Bytes>>>,
    early: Mutex<VecDeque<((Uid, u64), Bytes)>>,
}

impl Registry {
    /// A datagram came in on the friends' door.
    pub(crate) fn datagram(&self, from: Uid, mut datagram: Bytes) {
        let Some(head) = datagram.first_chunk::<DATAGRAM_HEAD_BYTES>() else { return };
        let flow = u64::from_le_bytes(*head);
        let packet = datagram.split_off(DATAGRAM_HEAD_BYTES);
        let packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(to) = packets.get(&(from, flow)) {
            // Full: dropped, as UDP would.
            let _ = to.try_send(packet);
            return;
        }
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if early.len() >= EARLY_MAX {
            early.pop_front();
        }
        early.push_back(((from, flow), packet));
    }

    /// Who serves `name` here.
    pub(crate) fn service(&self, name: &str) -> Option<mpsc::Sender<IncomingStream>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn register(&self, with: Uid, flow: u64) -> mpsc::Receiver<Bytes> {
        let (tell, told) = mpsc::channel(PACKETS_WAITING_MAX);
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        early.retain(|(of, packet)| {
            let ours = *of == (with, flow);
            if ours {
                // Never full: fewer packets are kept than wait here.
                let _ = tell.try_send(packet.clone());
            }
            !ours
        });
        packets.insert((with, flow), tell);
        told
    }

    fn unregister(&self, with: Uid, flow: u64) {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner).remove(&(with, flow));
    }
}

/// One stream of a session: the same calls whichever kind it is.
#[derive(Debug)]
pub enum Stream {
    /// In order, nothing lost.
    Reliable(ReliableStream),
    /// Packets.
    Datagram(DatagramStream),
}

impl Stream {
    /// Sends bytes: some of a stream, or one packet.
    ///
    /// # Errors
    /// When the stream ended, or a packet is too large.
    pub async fn send(&mut self, data: &[u8]) -> Result<(), LinkError> {
        match self {
            Self::Reliable(s) => s.send.write_all(data).await.map_err(|e| LinkError::Broken(e.to_string())),
            Self::Datagram(s) => s.sender.send(data).await,
        }
    }

    /// Receives bytes: what is there of a stream (at most `max`), or one packet. `None` at the end.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn recv(&mut self, max: usize) -> Result<Option<Bytes>, LinkError> {
        match self {
            Self::Reliable(s) => {
                let chunk = s.recv.read_chunk(max).await.map_err(|e| LinkError::Broken(e.to_string()))?;
                Ok(chunk)
            }
            Self::Datagram(s) => s.receiver.recv().await,
        }
    }
}

/// A reliable stream's two halves.
#[derive(Debug)]
pub struct ReliableStream {
    /// To the friend.
    pub send: SendStream,
    /// From the friend.
    pub recv: RecvStream,
}

/// A datagram stream's two halves.
#[derive(Debug)]
pub struct DatagramStream {
    /// To the friend.
    pub sender: PacketSender,
    /// From the friend.
    pub receiver: PacketReceiver,
}

/// Sends packets.
#[derive(Debug)]
pub struct PacketSender {
    conn: Connection,
    send: SendStream,
    flow: u64,
}

impl PacketSender {
    /// Sends one packet.
    ///
    /// # Errors
    /// When it is too large or the connection broke.
    pub async fn send(&mut self, packet: &[u8]) -> Result<(), LinkError> {
        if packet.len() > PACKET_MAX_BYTES {
            return Err(
                ioex_base::wire::WireError::TooLong { max: PACKET_MAX_BYTES, got: packet.len() }.into()
            );
        }
        let fits = self.conn.max_datagram_size().is_some_and(|max| packet.len() + DATAGRAM_HEAD_BYTES <= max);
        if fits {
            let mut datagram = BytesMut::with_capacity(DATAGRAM_HEAD_BYTES + packet.len());
            datagram.put_u64_le(self.flow);
            datagram.put_slice(packet);
            if self.conn.send_datagram(datagram.freeze()).is_ok() {
                return Ok(());
            }
            // The path's limit shrank meanwhile: the stream takes the packet.
        }
        let mut framed = Vec::with_capacity(4 + packet.len());
        framed.extend_from_slice(&u32::try_from(packet.len()).unwrap_or(u32::MAX).to_le_bytes());
        framed.extend_from_slice(packet);
        self.send.write_all(&framed).await.map_err(|e| LinkError::Broken(e.to_string()))
    }
}

/// Receives packets.
#[derive(Debug)]
pub struct PacketReceiver {
    datagrams: mpsc::Receiver<Bytes>,
    large: mpsc::Receiver<Bytes>,
    registry: Arc<Registry>,
    key: (Uid, u64),
}

impl PacketReceiver {
    /// The next packet; `None` when the friend closed the stream.
    ///
    /// # Errors
    /// Never so far; a broken connection ends the stream.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, LinkError> {
        tokio::select! {
            packet = self.large.recv() => Ok(packet),
            Some(packet) = self.datagrams.recv() => Ok(Some(packet)),
        }
    }
}

impl Drop for PacketReceiver {
    fn drop(&mut self) {
        self.registry.unregister(self.key.0, self.key.1);
    }
}

/// Joins a stream and the connection's datagrams to one datagram stream.
fn datagram_stream(
    mesh: &Mesh,
    with: Uid,
    flow: u64,
    conn: Connection,
    send: SendStream,
    mut recv: RecvStream,
) -> DatagramStream {
    let registry = mesh.registry().clone();
    let datagrams = registry.register(with, flow);
    let (tell, large) = mpsc::channel(PACKETS_WAITING_MAX);
    mesh.spawn(async move {
        // Ends with the stream, or when nobody reads any more.
        while let Ok(len) = recv.read_u32_le().await {
            let len = len as usize;
            if len > PACKET_MAX_BYTES {
                return;
            }
            let mut packet = vec![0; len];
            if recv.read_exact(&mut packet).await.is_err() || tell.send(packet.into()).await.is_err() {
                return;
            }
        }
    });
    DatagramStream {
        sender: PacketSender { conn, send, flow },
        receiver: PacketReceiver { datagrams, large, registry, key: (with, flow) },
    }
}

impl Session {
    /// Whom it is with.
    #[must_use]
    pub fn with(&self) -> Uid {
        self.with
    }

    /// Opens a stream to the session's service.
    ///
    /// # Errors
    /// When the friend cannot be reached or does not offer the service.
    pub async fn open(&self, kind: StreamKind) -> Result<Stream, LinkError> {
        let target = SessionTarget::Service(self.service.clone());
        open_stream(&self.mesh, self.with, self.id, target, kind).await
    }
}

/// Opens a stream of a session to any target. The opener's flow number follows the answer.
pub(crate) async fn open_stream(
    mesh: &Mesh,
    with: Uid,
    session: u64,
    target: SessionTarget,
    kind: StreamKind,
) -> Result<Stream, LinkError> {
    let links = mesh.links()?;
    let open = Open::Session(SessionOpen { session, target, datagram: kind == StreamKind::Datagram });
    let (conn, mut send, mut recv) = links.open(with, Door::Friend, &open).await?;
    let answer: Answer<()> = frame::read(&mut recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(&conn, e))?;
    if let Answer::No(no) = answer {
        return Err(LinkError::Broken(no.to_string()));
    }
    match kind {
        StreamKind::Reliable => Ok(Stream::Reliable(ReliableStream { send, recv })),
        StreamKind::Datagram => {
            // Random, so that it meets no other one of the same two nodes, restarts included.
            let flow = u64::from_le_bytes(random::bytes());
            frame::write(&mut send, &flow).await.map_err(|e| broken(&conn, e))?;
            Ok(Stream::Datagram(datagram_stream(mesh, with, flow, conn, send, recv)))
        }
    }
}

/// Takes a stream that a friend opened, after the answer was written.
pub(crate) async fn accepted(
    mesh: &Mesh,
    from: Uid,
    kind: StreamKind,
    conn: Connection,
    send: SendStream,
    mut recv: RecvStream,
) -> Result<Stream, frame::FrameError> {
    match kind {
        StreamKind::Reliable => Ok(Stream::Reliable(ReliableStream { send, recv })),
        StreamKind::Datagram => {
            let flow: u64 = frame::read(&mut recv, ANSWER_MAX_BYTES).await?;
            Ok(Stream::Datagram(datagram_stream(mesh, from, flow, conn, send, recv)))
        }
    }
}
