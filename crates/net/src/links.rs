//! Connections to other nodes: one per node and door, dialled once however many ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ioex_base::{Uid, wire::WireError};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, TransportAddr,
    endpoint::{Connection, ConnectionError, QuicTransportConfig, RecvStream, SendStream, VarInt},
};
use serde::de::DeserializeOwned;
use std::net::SocketAddr;

use crate::{
    door::Door,
    frame::{self, FrameError},
    names::BootstrapAddr,
    proto::{ANSWER_MAX_BYTES, Answer, Open},
};

/// How long dialling a node may take, relays and hole punching included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Streams that the other side may have open at once on one connection.
const STREAMS_MAX: u32 = 256;
/// Flow-control window of a connection at small round-trip times. Larger ones overrun the socket
/// buffer on a fast local path and the losses cost more than the window gains (measured: 1 MiB
/// moved 604 MB/s over a veth pair, 4 MiB 130 MB/s).
const WINDOW_MIN_BYTES: u32 = 1024 * 1024;
/// Largest window: 16 MiB fill a path of 1 Gbit/s with 130 ms.
const WINDOW_MAX_BYTES: u32 = 16 * 1024 * 1024;
/// Window per millisecond of round trip: 1 Gbit/s.
const WINDOW_BYTES_PER_MS: u32 = 128 * 1024;
/// Close code of an orderly end.
pub(crate) const CLOSE_DONE: u32 = 0;

/// Why another node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Its address is unknown or it does not answer.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(Uid, String),
    /// It closed the door on us, with this refusal code.
    #[error("the other node refused the connection ({0:#x})")]
    Refused(u32),
    /// It took too long.
    #[error("the other node did not answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It broke the protocol.
    #[error("the other node broke the protocol: {0}")]
    Protocol(#[from] WireError),
    /// This node is not in the network at the moment.
    #[error("this node is not in the network now")]
    Offline,
}

impl From<ConnectionError> for LinkError {
    fn from(e: ConnectionError) -> Self {
        match e {
            ConnectionError::ApplicationClosed(close) => {
                Self::Refused(u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX))
            }
            ConnectionError::TimedOut => Self::Timeout,
            other => Self::Broken(other.to_string()),
        }
    }
}

/// How a connection runs at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// From device to device.
    Direct(SocketAddr),
    /// Over this bootstrap's relay.
    Relayed(Uid),
    /// Not known.
    None,
}

/// An open connection, for people.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// The other node.
    pub uid: Uid,
    /// The door.
    pub door: Door,
    /// The path in use.
    pub path: PathKind,
    /// Its round-trip time.
    pub rtt: Option<Duration>,
    /// Bytes sent over all paths.
    pub sent_bytes: u64,
    /// Bytes received over all paths.
    pub received_bytes: u64,
}

/// The transport settings of every connection.
pub(crate) fn transport_config() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(WINDOW_MAX_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_MIN_BYTES))
        .send_window(u64::from(WINDOW_MAX_BYTES))
        .datagram_receive_buffer_size(Some(256 * 1024))
        .build()
}

/// The receive window that fits a round-trip time.
#[must_use]
pub(crate) fn window_for(rtt: Duration) -> u32 {
    let ms = u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX);
    ms.saturating_mul(WINDOW_BYTES_PER_MS).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES)
}

/// The path in use, and its round-trip time.
#[must_use]
pub(crate) fn path_of(conn: &Connection) -> (PathKind, Option<Duration>) {
    let paths = conn.paths();
    let chosen = paths.iter().find(|p| p.is_selected()).or_else(|| paths.iter().next());
    match chosen {
        Some(path) => {
            let kind = match path.remote_addr() {
                TransportAddr::Ip(addr) => PathKind::Direct(*addr),
                TransportAddr::Relay(url) => match BootstrapAddr::from_relay_url(url) {
                    Some(b) => PathKind::Relayed(b.uid),
                    None => PathKind::None,
                },
                _ => PathKind::None,
            };
            (kind, Some(path.rtt()))
        }
        None => (PathKind::None, None),
    }
}

pub(crate) fn uid_of(id: EndpointId) -> Uid {
    Uid::from_bytes(*id.as_bytes())
}

type Key = (Uid, Door);

/// All open connections of this node.
#[derive(Debug)]
pub struct Links {
    endpoint: Endpoint,
    open: Mutex<HashMap<Key, Connection>>,
    dialling: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    /// Told about every connection that this node dialled, so that it serves the streams that
    /// the other side opens on it.
    dialled: tokio::sync::mpsc::Sender<(Door, Connection)>,
}

impl Links {
    pub(crate) fn new(endpoint: Endpoint, dialled: tokio::sync::mpsc::Sender<(Door, Connection)>) -> Self {
        Self { endpoint, open: Mutex::default(), dialling: Mutex::default(), dialled }
    }

    /// An open connection, if there is one.
    pub(crate) fn existing(&self, uid: &Uid, door: Door) -> Option<Connection> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let conn = open.get(&(*uid, door))?;
        if conn.close_reason().is_some() {
            open.remove(&(*uid, door));
            return None;
        }
        Some(conn.clone())
    }

    /// A connection to `uid` through `door`; dials when there is none.
    pub(crate) async fn get(&self, uid: Uid, door: Door) -> Result<Connection, LinkError> {
        if let Some(conn) = self.existing(&uid, door) {
            return Ok(conn);
        }
        let turn = {
            let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
            dialling.entry((uid, door)).or_default().clone()
        };
        let _turn = turn.lock().await;
        if let Some(conn) = self.existing(&uid, door) {
            return Ok(conn);
        }
        let result = self.dial(uid, door).await;
        self.dialling.lock().unwrap_or_else(PoisonError::into_inner).remove(&(uid, door));
        result
    }

    async fn dial(&self, uid: Uid, door: Door) -> Result<Connection, LinkError> {
        let id = EndpointId::from_bytes(uid.as_bytes())
            .map_err(|_| LinkError::Unreachable(uid, "this is no valid key".into()))?;
        let dial = self.endpoint.connect(EndpointAddr::new(id), door.alpn());
        let conn = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(e)) => return Err(LinkError::Unreachable(uid, format!("{e:#}"))),
            Err(_) => return Err(LinkError::Timeout),
        };
        self.keep(uid, door, conn.clone());
        let _ = self.dialled.send((door, conn.clone())).await;
        Ok(conn)
    }

    /// Keeps a connection, whoever opened it. A newer one replaces an older one for new streams;
    /// the older one lives on until its streams are done.
    pub(crate) fn keep(&self, uid: Uid, door: Door, conn: Connection) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert((uid, door), conn);
    }

    /// Forgets a connection that ended, unless a newer one took its place.
    pub(crate) fn ended(&self, uid: Uid, door: Door, conn: &Connection) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&(uid, door)).is_some_and(|c| c.stable_id() == conn.stable_id()) {
            open.remove(&(uid, door));
        }
    }

    /// Closes everything to `uid` through `door` with a refusal code.
    pub(crate) fn close(&self, uid: &Uid, door: Door, code: u32) {
        let conn = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&(*uid, door));
        if let Some(conn) = conn {
            conn.close(VarInt::from_u32(code), b"");
        }
    }

    /// Opens a stream and writes its first frame.
    pub(crate) async fn open(
        &self,
        uid: Uid,
        door: Door,
        open: &Open,
    ) -> Result<(Connection, SendStream, RecvStream), LinkError> {
        let conn = self.get(uid, door).await?;
        let opened = async {
            let (mut send, recv) = conn.open_bi().await?;
            frame::write(&mut send, open).await.map_err(|e| broken(&conn, e))?;
            Ok::<_, LinkError>((send, recv))
        };
        match opened.await {
            Ok((send, recv)) => Ok((conn, send, recv)),
            Err(e) => {
                if conn.close_reason().is_some() {
                    self.ended(uid, door, &conn);
                }
                Err(e)
            }
        }
    }

    /// Asks one question and reads one answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        uid: Uid,
        door: Door,
        question: &Open,
    ) -> Result<Answer<T>, LinkError> {
        let (conn, mut send, mut recv) = self.open(uid, door, question).await?;
        // The answer does not depend on the end of our half, so a failed finish shows in the read.
        let _ = send.finish();
        frame::read(&mut recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(&conn, e))
    }

    /// All open connections, in order of UID.
    pub(crate) fn list(&self) -> Vec<LinkInfo> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out: Vec<LinkInfo> = open
            .iter()
            .filter(|(_, c)| c.close_reason().is_none())
            .map(|((uid, door), conn)| {
                let (path, rtt) = path_of(conn);
                let stats = conn.stats();
                LinkInfo {
                    uid: *uid,
                    door: *door,
                    path,
                    rtt,
                    sent_bytes: stats.udp_tx.bytes,
                    received_bytes: stats.udp_rx.bytes,
                }
            })
            .collect();
        out.sort_by_key(|l| (l.uid, l.door));
        out
    }
}

/// Turns a stream's error into the reason why its connection ended, if it did.
pub(crate) fn broken(conn: &Connection, e: FrameError) -> LinkError {
    match (conn.close_reason(), e) {
        (Some(reason), _) => reason.into(),
        (None, FrameError::Wire(e)) => LinkError::Protocol(e),
        (None, FrameError::Io(e)) => LinkError::Broken(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_the_round_trip() {
        assert_eq!(window_for(Duration::from_micros(200)), WINDOW_MIN_BYTES);
        assert_eq!(window_for(Duration::from_millis(50)), 50 * WINDOW_BYTES_PER_MS);
        assert_eq!(window_for(Duration::from_secs(9)), WINDOW_MAX_BYTES);
    }
}
