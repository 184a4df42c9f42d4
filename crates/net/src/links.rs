//! Connections to other nodes: one per node and door, dialled once however many ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ioex_base::{Uid, wire::WireError};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, TransportAddr,
    endpoint::{
        ConnectOptions, Connection, ConnectionError, QuicTransportConfig, QuicTransportConfigBuilder,
        RecvStream, SendStream, VarInt,
    },
};
use serde::de::DeserializeOwned;
use std::net::SocketAddr;

use crate::{
    door::{Door, Refusal},
    frame::{self, FrameError},
    friends::Book,
    names::BootstrapAddr,
    proto::{ANSWER_MAX_BYTES, Answer, Open},
    rest::Rest,
};

/// How long dialling a node may take, relays and hole punching included. A later try asks anew
/// where the node is.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
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
/// When both sides dial at once, two connections come up this close to each other at most.
const CROSSED: Duration = Duration::from_secs(5);
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

/// An open connection that runs over a relay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayedLink {
    pub(crate) uid: Uid,
    pub(crate) door: Door,
    pub(crate) relay: BootstrapAddr,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// The transport settings of a connection that carries data.
pub(crate) fn transport_config() -> QuicTransportConfig {
    transport().build()
}

/// The settings of a connection for a short question: it is over before larger packets pay for the
/// probes that find out whether they pass, and before there is enough to send that bundles of packets pay. In a bundle all
/// are as small as the first, also smaller than what noq 1.4 writes without looking; see [`transport`].
pub(crate) fn brief_config() -> QuicTransportConfig {
    transport().mtu_discovery_config(None).enable_segmentation_offload(false).build()
}

fn transport() -> QuicTransportConfigBuilder {
    // Without `ack_frequency_config`: noq 1.4 writes that frame also into a packet that has no room for it, as small ones
    // at the end of a handshake often have not. That panics, and takes the whole process with it.
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(WINDOW_MAX_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_MIN_BYTES))
        .send_window(u64::from(WINDOW_MAX_BYTES))
        .datagram_receive_buffer_size(Some(256 * 1024))
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

/// The bootstrap over whose relay a connection runs.
fn relay_of(conn: &Connection) -> Option<BootstrapAddr> {
    let paths = conn.paths();
    let chosen = paths.iter().find(|p| p.is_selected()).or_else(|| paths.iter().next())?;
    match chosen.remote_addr() {
        TransportAddr::Relay(url) => BootstrapAddr::from_relay_url(url),
        _ => None,
    }
}

pub(crate) fn uid_of(id: EndpointId) -> Uid {
    Uid::from_bytes(*id.as_bytes())
}

type Key = (Uid, Door);

#[derive(Debug)]
struct Held {
    conn: Connection,
    dialled: bool,
    since: Instant,
}

/// All open connections of this node.
#[derive(Debug)]
pub(crate) struct Links {
    endpoint: Endpoint,
    book: Arc<Book>,
    rest: Arc<Rest>,
    /// Per node and door; the last one is used for new streams.
    open: Mutex<HashMap<Key, Vec<Held>>>,
    dialling: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    /// Told about every connection that this node dialled, so that it serves the streams that
    /// the other side opens on it.
    dialled: tokio::sync::mpsc::Sender<(Door, Connection)>,
}

impl Links {
    pub(crate) fn new(
        endpoint: Endpoint,
        book: Arc<Book>,
        rest: Arc<Rest>,
        dialled: tokio::sync::mpsc::Sender<(Door, Connection)>,
    ) -> Self {
        Self { endpoint, book, rest, open: Mutex::default(), dialling: Mutex::default(), dialled }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Vec<Held>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open connection, if there is one.
    pub(crate) fn existing(&self, uid: &Uid, door: Door) -> Option<Connection> {
        let open = self.lock();
        let alive = open.get(&(*uid, door))?.iter().rev().find(|h| h.conn.close_reason().is_none());
        alive.map(|h| h.conn.clone())
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
        // Nothing is exchanged with strangers, whoever would begin.
        if door == Door::Friend && !self.book.admits(&uid) {
            return Err(LinkError::Refused(Refusal::NotFriend.code()));
        }
        let id = EndpointId::from_bytes(uid.as_bytes())
            .map_err(|_| LinkError::Unreachable(uid, "this is no valid key".into()))?;
        let config = if door == Door::Public { brief_config() } else { transport_config() };
        let options = ConnectOptions::new().with_transport_config(config);
        let dial = async {
            let dialling = self.endpoint.connect_with_opts(EndpointAddr::new(id), door.alpn(), options);
            let dialling = dialling.await.map_err(|e| format!("{e:#}"))?;
            dialling.await.map_err(|e| format!("{e:#}"))
        };
        let conn = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(e)) => return Err(LinkError::Unreachable(uid, e)),
            Err(_) => return Err(LinkError::Timeout),
        };
        self.keep(uid, door, conn.clone(), true);
        let _ = self.dialled.send((door, conn.clone())).await;
        Ok(conn)
    }

    /// Keeps a connection, whoever opened it. A newer one is used for new streams, the older one
    /// lives on until its streams are done. When both sides dialled at once, both use the one that
    /// the lower UID dialled.
    pub(crate) fn keep(&self, uid: Uid, door: Door, conn: Connection, dialled: bool) {
        if door != Door::Public {
            // A direct path is looked for, which takes fresh addresses of this node.
            self.rest.stir();
        }
        let own = uid_of(self.endpoint.id());
        let mut open = self.lock();
        let held = open.entry((uid, door)).or_default();
        held.retain(|h| h.conn.close_reason().is_none());
        let crossed = held.last().is_some_and(|h| h.dialled != dialled && h.since.elapsed() < CROSSED);
        let at = if crossed && dialled != (own < uid) { held.len() - 1 } else { held.len() };
        held.insert(at, Held { conn, dialled, since: Instant::now() });
    }

    /// Whether new streams use this connection.
    pub(crate) fn is_current(&self, uid: &Uid, door: Door, conn: &Connection) -> bool {
        self.existing(uid, door).is_some_and(|c| c.stable_id() == conn.stable_id())
    }

    /// Forgets a connection that ended.
    pub(crate) fn ended(&self, uid: Uid, door: Door, conn: &Connection) {
        let mut open = self.lock();
        if let Some(held) = open.get_mut(&(uid, door)) {
            held.retain(|h| h.conn.stable_id() != conn.stable_id());
            if held.is_empty() {
                open.remove(&(uid, door));
            }
        }
    }

    /// Closes everything to `uid` through `door` with a refusal code.
    pub(crate) fn close(&self, uid: &Uid, door: Door, code: u32) {
        let held = self.lock().remove(&(*uid, door)).unwrap_or_default();
        held.iter().for_each(|h| h.conn.close(VarInt::from_u32(code), b""));
    }

    /// Opens a stream and writes its first frame.
    pub(crate) async fn open(
        &self,
        uid: Uid,
        door: Door,
        open: &Open,
    ) -> Result<(Connection, SendStream, RecvStream), LinkError> {
        let conn = self.get(uid, door).await?;
        let (send, recv) = open_on(&conn, open).await?;
        Ok((conn, send, recv))
    }

    /// Asks one question and reads one answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        uid: Uid,
        door: Door,
        question: &Open,
    ) -> Result<Answer<T>, LinkError> {
        Self::ask_on(&self.get(uid, door).await?, question).await
    }

    /// Asks over this very connection.
    pub(crate) async fn ask_on<T: DeserializeOwned>(
        conn: &Connection,
        question: &Open,
    ) -> Result<Answer<T>, LinkError> {
        let (mut send, mut recv) = open_on(conn, question).await?;
        // The answer does not depend on the end of our half, so a failed finish shows in the read.
        let _ = send.finish();
        frame::read(&mut recv, ANSWER_MAX_BYTES).await.map_err(|e| broken(conn, e))
    }

    /// Open connections over relays, those that are used for new streams.
    pub(crate) fn relayed(&self) -> Vec<RelayedLink> {
        let open = self.lock();
        let current = open.iter().filter_map(|((uid, door), held)| {
            let conn = &held.iter().rev().find(|h| h.conn.close_reason().is_none())?.conn;
            let relay = relay_of(conn)?;
            let stats = conn.stats();
            let (sent_bytes, received_bytes) = (stats.udp_tx.bytes, stats.udp_rx.bytes);
            Some(RelayedLink { uid: *uid, door: *door, relay, sent_bytes, received_bytes })
        });
        current.collect()
    }

    /// All open connections, in order of UID.
    pub(crate) fn list(&self) -> Vec<LinkInfo> {
        let open = self.lock();
        let alive = |held: &'_ Vec<Held>| {
            held.iter().rev().find(|h| h.conn.close_reason().is_none()).map(|h| h.conn.clone())
        };
        let mut out: Vec<LinkInfo> = open
            .iter()
            .filter_map(|(key, held)| Some((key, alive(held)?)))
            .map(|((uid, door), conn)| {
                let (path, rtt) = path_of(&conn);
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

/// Whoever was asked something has answered within this. Proofs take longest: the device may
/// have to read some hundred megabytes for them, from a slow disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Opening a stream and writing its first frame takes no longer: that of a device on a bad line has some ten kilobytes.
/// Who keeps the connection alive and lets nobody open a stream is not waited for.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for an answer, not for ever: who keeps the connection alive and says nothing must
/// not hold up whoever looks after all the others.
pub(crate) async fn in_time<T>(
    answer: impl Future<Output = Result<Answer<T>, LinkError>>,
) -> Result<Answer<T>, LinkError> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Err(LinkError::Timeout))
}

async fn open_on(conn: &Connection, open: &Open) -> Result<(SendStream, RecvStream), LinkError> {
    let opening = async {
        let (mut send, recv) = conn.open_bi().await?;
        frame::write(&mut send, open).await.map_err(|e| broken(conn, e))?;
        Ok((send, recv))
    };
    tokio::time::timeout(OPEN_TIMEOUT, opening).await.unwrap_or(Err(LinkError::Timeout))
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

    #[tokio::test(start_paused = true)]
    async fn a_device_that_says_nothing_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        let silent = in_time(std::future::pending::<Result<Answer<u32>, LinkError>>()).await;
        assert!(matches!(silent, Err(LinkError::Timeout)));
        assert_eq!(begun.elapsed(), ANSWER_TIMEOUT);
        let told = in_time(std::future::ready(Ok(Answer::Yes(5)))).await;
        assert!(matches!(told, Ok(Answer::Yes(5))));
    }
}
