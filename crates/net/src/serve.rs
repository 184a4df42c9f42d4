//! Incoming connections and streams: through the door, to whoever serves them.

mod grants;
mod updates;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use ioex_base::{ContentAddress, Uid};
use iroh::endpoint::{Connection, Incoming, IncomingAddr, RecvStream, SendStream, VarInt};
use serde::Serialize;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    clock,
    door::{Ask, Door, Origin, Refusal},
    forward,
    frame::{self, FrameError},
    links::{CLOSE_DONE, PathKind, path_of, uid_of},
    mesh::Mesh,
    proto::{
        Answer, Audit, DirectoryAnswer, DirectoryQuestion, Fetch, No, OPEN_MAX_BYTES, Open, Release, Renew,
        SessionOpen, SessionTarget, Want,
    },
    session::{self, IncomingStream, Stream, StreamKind},
    transfer::serve::{self as content, Gate, ServeError},
};

/// TLS handshakes under way at once.
const HANDSHAKES_AT_ONCE: usize = 128;
/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first frame of a stream must come within this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection through the public or the grant door without streams ends after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for the public door: shorter than the 5 s after which keep-alives begin.
const PUBLIC_IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// First frame of a stream through a door that strangers reach: the largest list of announcements.
const STRANGER_OPEN_MAX_BYTES: usize = 64 * 1024;
const _: () = assert!(crate::proto::ANNOUNCE_MAX * 160 < STRANGER_OPEN_MAX_BYTES);
/// Streams that a caller through such a door may have open at once.
const STRANGER_STREAMS_MAX: u32 = 16;
/// How long a refusal may take on its way.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Refused streams after which such a connection is closed.
const REFUSALS_MAX: u32 = 8;

/// Why a stream was not served.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Content(#[from] ServeError),
    #[error("no first frame in time")]
    Timeout,
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
}

/// Accepts connections until the endpoint closes.
pub(crate) async fn run(mesh: Mesh, endpoint: iroh::Endpoint) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let mut running = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            Some(_) = running.join_next() => continue,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let origin = match incoming.remote_addr() {
            IncomingAddr::Ip(addr) => Origin::of(addr.ip()),
            _ => Origin::Relay,
        };
        if !mesh.budgets().handshake.take(origin, clock::monotonic_ms()) {
            // No answer at all: the cheapest thing that can be done with a flood.
            incoming.ignore();
            continue;
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let mesh = mesh.clone();
        running.spawn(async move {
            if let Some((door, conn)) = enter(&mesh, incoming).await {
                drop(slot);
                serve_connection(mesh, door, conn).await;
            }
        });
    }
}

/// The handshake, then the door.
async fn enter(mesh: &Mesh, incoming: Incoming) -> Option<(Door, Connection)> {
    let accepting = incoming.accept().ok()?;
    let conn = match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(conn)) => conn,
        Ok(Err(e)) => {
            tracing::debug!("handshake failed: {e:#}");
            return None;
        }
        Err(_) => return None,
    };
    let uid = uid_of(conn.remote_id());
    let door = Door::from_alpn(conn.alpn())?;
    if let Err(refusal) = mesh.authorise(&uid, &Ask::Enter(door)) {
        tracing::debug!("{} refused at the {} door: {refusal}", uid.short(), door.name());
        conn.close(VarInt::from_u32(refusal.code()), b"");
        return None;
    }
    mesh.links().ok()?.keep(uid, door, conn.clone(), false);
    Some((door, conn))
}

/// Serves the streams of one connection, whoever opened it, until it ends.
pub(crate) async fn serve_connection(mesh: Mesh, door: Door, conn: Connection) {
    let uid = uid_of(conn.remote_id());
    let mut running = JoinSet::new();
    if door != Door::Friend {
        conn.set_max_concurrent_bi_streams(VarInt::from_u32(STRANGER_STREAMS_MAX));
    }
    let mut refused = 0;
    let mut quiet_since = (Instant::now(), 0);
    // Each connection costs keep-alives; questions to a bootstrap come rarely and in bursts.
    let idle_timeout = if door == Door::Public { PUBLIC_IDLE_TIMEOUT } else { IDLE_TIMEOUT };
    let mut tick = tokio::time::interval(idle_timeout / 4);
    loop {
        tokio::select! {
            stream = conn.accept_bi() => match stream {
                Ok((send, recv)) => {
                    running.spawn(serve_stream(mesh.clone(), door, uid, conn.clone(), send, recv));
                }
                Err(e) => {
                    tracing::debug!("connection with {} ended: {e}", uid.short());
                    break;
                }
            },
            datagram = conn.read_datagram(), if door == Door::Friend => match datagram {
                Ok(datagram) => mesh.registry().datagram(uid, datagram),
                Err(_) => break,
            },
            _ = tick.tick() => {
                // The friends' connection in use stays open; any other one ends when it is silent.
                let stats = conn.stats();
                let streams = stats.frame_rx.stream + stats.frame_tx.stream;
                let current = door == Door::Friend && mesh.links().is_ok_and(|l| l.is_current(&uid, door, &conn));
                if current || !running.is_empty() || streams != quiet_since.1 {
                    quiet_since = (Instant::now(), streams);
                } else if quiet_since.0.elapsed() >= idle_timeout {
                    conn.close(VarInt::from_u32(CLOSE_DONE), b"");
                    break;
                }
            }
            Some(done) = running.join_next() => {
                refused += u32::from(matches!(done, Ok(true)));
                if refused >= REFUSALS_MAX {
                    conn.close(VarInt::from_u32(Refusal::Busy.code()), b"");
                    break;
                }
            }
        }
    }
    if let Ok(links) = mesh.links() {
        links.ended(uid, door, &conn);
    }
    if door == Door::Friend {
        mesh.parted(uid).await;
    }
}

/// Serves one stream; true when the door refused it.
async fn serve_stream(
    mesh: Mesh,
    door: Door,
    from: Uid,
    conn: Connection,
    send: SendStream,
    recv: RecvStream,
) -> bool {
    match stream(&mesh, door, from, conn, send, recv).await {
        Ok(()) => false,
        Err(e) => {
            tracing::debug!("stream of {} ended: {e}", from.short());
            // A device that pauses does not hold that against who asks.
            matches!(e, StreamError::Refused(refusal) if refusal != Refusal::Paused)
        }
    }
}

async fn reply<T: Serialize>(send: &mut SendStream, result: Result<T, No>) -> Result<(), FrameError> {
    let answer = match result {
        Ok(value) => Answer::Yes(value),
        Err(no) => Answer::No(no),
    };
    frame::write(send, &answer).await
}

async fn stream(
    mesh: &Mesh,
    door: Door,
    from: Uid,
    conn: Connection,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), StreamError> {
    let max = if door == Door::Friend { OPEN_MAX_BYTES } else { STRANGER_OPEN_MAX_BYTES };
    let open: Open = match tokio::time::timeout(OPEN_TIMEOUT, frame::read(&mut recv, max)).await {
        Ok(open) => open?,
        Err(_) => return Err(StreamError::Timeout),
    };
    let already = || mesh.host().placed_bytes(&from);
    let ask = match &open {
        Open::Directory(_) => Ask::Directory,
        Open::FriendRequest(request) => Ask::FriendRequest { tag: request.tag },
        Open::Pair(_) => Ask::Pair,
        Open::Capacity(grant) => Ask::Place { grant, bytes: 0, already: &already },
        Open::Place(place) => Ask::Place { grant: &place.grant, bytes: place.bytes, already: &already },
        Open::PutHead(put) => Ask::Place { grant: &put.grant, bytes: put.bytes, already: &already },
        Open::Audit(Audit { grant, .. })
        | Open::Release(Release { grant, .. })
        | Open::Renew(Renew { grant, .. }) => Ask::Keep { grant },
        Open::Fetch(grant, fetch) => Ask::Fetch { grant, address: &fetch.address },
        Open::Channel(wanted) => Ask::Carried { address: &wanted.channel },
        Open::Package(manifest) => Ask::Carried { address: manifest },
        Open::Match(manifest) => Ask::Roster { manifest },
        Open::Report(report) => Ask::Roster { manifest: &report.manifest },
        Open::Join(join) => Ask::Join(join),
        Open::Shard(wanted) => Ask::Exchange { manifest: Some(&wanted.manifest) },
        Open::Receipt(_) => Ask::Exchange { manifest: None },
        Open::Renewed(channel) => Ask::CoMatcher { channel },
        Open::Hello(_)
        | Open::Ping
        | Open::Message(_)
        | Open::Offer(_)
        | Open::OfferState(_)
        | Open::FetchOffered(_)
        | Open::Session(_)
        | Open::Question(_) => Ask::Friend,
    };
    // What belongs behind another door does not exist behind this one.
    let right_door = match ask {
        Ask::Friend => door == Door::Friend,
        Ask::Place { .. } | Ask::Keep { .. } | Ask::Fetch { .. } | Ask::Join(_) | Ask::Exchange { .. } => {
            door == Door::Grant
        }
        _ => door == Door::Public,
    };
    let pass = if right_door { mesh.authorise(&from, &ask) } else { Err(Refusal::NotOffered) };
    let pass = match pass {
        Ok(pass) => pass,
        Err(refusal) => {
            reply::<()>(&mut send, Err((&refusal).into())).await?;
            // The last of too many closes the connection: its answer comes before that.
            let _ = send.finish();
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, send.stopped()).await;
            return Err(refusal.into());
        }
    };
    match open {
        Open::Directory(question) => reply(&mut send, directory(mesh, from, question).await).await?,
        Open::FriendRequest(request) => {
            reply(&mut send, mesh.take_friend_request(from, request).await).await?
        }
        Open::Pair(message) => mesh.serve_pairing(from, message, &mut send, &mut recv).await?,
        Open::Hello(hello) => {
            reply(&mut send, Ok(mesh.hello())).await?;
            mesh.met(from, hello).await;
        }
        Open::Ping => reply(&mut send, Ok(())).await?,
        Open::Message(message) => reply(&mut send, mesh.take_message(from, message).await).await?,
        Open::Offer(offer) => reply(&mut send, mesh.take_offer(from, offer).await).await?,
        Open::OfferState(update) => reply(&mut send, mesh.take_offer_state(from, update).await).await?,
        Open::FetchOffered(fetch) => fetch_offered(mesh, from, &conn, fetch, &mut send).await?,
        Open::Question(question) => reply(&mut send, mesh.take_question(from, question).await).await?,
        Open::Session(open) => return session_stream(mesh, from, conn, open, send, recv).await,
        Open::Capacity(_) => reply(&mut send, Ok(grants::capacity(mesh, from, &pass))).await?,
        Open::Place(place) => grants::place(mesh, from, place, &mut send, &mut recv).await?,
        Open::Fetch(_, fetch) => grants::fetch(mesh, fetch, &mut send).await?,
        Open::Audit(audit) => reply(&mut send, grants::audit(mesh, from, audit).await).await?,
        Open::Release(release) => reply(&mut send, grants::release(mesh, from, release).await).await?,
        Open::Renew(renew) => reply(&mut send, grants::renew(mesh, from, renew, &pass).await).await?,
        Open::PutHead(put) => grants::put_head(mesh, from, put, &mut send, &mut recv).await?,
        Open::Channel(wanted) => updates::channel(mesh, wanted, &mut send).await?,
        Open::Package(manifest) => updates::package(mesh, manifest, &mut send).await?,
        Open::Match(manifest) => reply(&mut send, updates::matched(mesh, from, manifest).await).await?,
        Open::Report(report) => reply(&mut send, updates::report(mesh, from, report).await).await?,
        Open::Join(join) => return updates::join(mesh, from, &conn, join, send, recv).await,
        Open::Shard(wanted) => updates::shard(mesh, from, wanted, &mut send).await?,
        Open::Receipt(receipt) => reply(&mut send, updates::receipt(mesh, from, receipt).await).await?,
        Open::Renewed(channel) => reply(&mut send, updates::renewed(mesh, from, channel).await).await?,
    }
    // The other side may have gone after it had what it wanted.
    let _ = send.finish();
    let _ = tokio::time::timeout(OPEN_TIMEOUT, send.stopped()).await;
    Ok(())
}

async fn directory(mesh: &Mesh, from: Uid, question: DirectoryQuestion) -> Result<DirectoryAnswer, No> {
    let now = clock::unix();
    let memory = || mesh.memory().lock().unwrap_or_else(PoisonError::into_inner);
    let dht = mesh.directory().ok().and_then(|d| d.dht().cloned());
    match question {
        DirectoryQuestion::Publish(record) => {
            if record.uid != from || !memory().keep_record(record.clone(), now) {
                return Err(No::BadRequest);
            }
            if let Some(dht) = dht {
                mesh.spawn(async move {
                    dht.publish(&record).await;
                });
            }
            Ok(DirectoryAnswer::Kept)
        }
        DirectoryQuestion::Resolve(uid) => {
            let known = memory().record(&uid, now);
            let record = match (known, dht) {
                (Some(record), _) => Some(record),
                (None, Some(dht)) => dht.resolve(uid).await,
                (None, None) => None,
            };
            Ok(DirectoryAnswer::Record(record))
        }
        DirectoryQuestion::Announce(list) => {
            if list.len() > crate::proto::ANNOUNCE_MAX {
                return Err(No::BadRequest);
            }
            let mut memory = memory();
            for (address, record) in list {
                memory.keep_holder(&from, &address, record, now);
            }
            Ok(DirectoryAnswer::Kept)
        }
        DirectoryQuestion::Find(address) => {
            let mut holders = memory().holders(&address, now);
            if let Some(dht) = dht.filter(|_| holders.is_empty()) {
                holders = found_in_dht(&dht, address).await;
            }
            holders.truncate(crate::proto::HOLDERS_MAX);
            Ok(DirectoryAnswer::Holders(holders))
        }
        DirectoryQuestion::Bootstraps => {
            let mut known = memory().bootstraps(now);
            known.truncate(crate::proto::BOOTSTRAPS_MAX);
            Ok(DirectoryAnswer::Bootstraps(known))
        }
    }
}

/// How long a bootstrap collects holders for somebody who asked over QUIC.
const COLLECT_TIME: Duration = Duration::from_millis(500);

async fn found_in_dht(
    dht: &crate::directory::dht::DhtNode,
    address: ContentAddress,
) -> Vec<crate::directory::HolderRecord> {
    let (tell, mut told) = tokio::sync::mpsc::channel(16);
    let mut out = Vec::new();
    let collect = async {
        let asking = dht.find(&address, tell);
        tokio::pin!(asking);
        loop {
            tokio::select! {
                _ = &mut asking => break,
                Some(found) = told.recv() => out.extend(found),
            }
        }
        while let Ok(found) = told.try_recv() {
            out.extend(found);
        }
    };
    // Whatever came in time is the answer.
    let _ = tokio::time::timeout(COLLECT_TIME, collect).await;
    out
}

async fn fetch_offered(
    mesh: &Mesh,
    from: Uid,
    conn: &Connection,
    fetch: Fetch,
    send: &mut SendStream,
) -> Result<(), StreamError> {
    let (id, file) = match mesh.offered(from, &fetch.address) {
        Ok(found) => found,
        Err(no) => return Ok(content::refuse(send, no).await?),
    };
    if fetch.want == Want::Pieces {
        return {
            let _: () = match mesh.offered_list(&file).await {
                Ok(list) => content::pieces(send, &list).await?,
                Err(no) => content::refuse(send, no).await?,
            };
            Ok(())
        };
    }
    let source = match mesh.open_offered(&file).await {
        Ok(source) => source,
        Err(no) => return Ok(content::refuse(send, no).await?),
    };
    let relayed = matches!(path_of(conn).0, PathKind::Relayed(_));
    let mut shown = Instant::now();
    let note = |n| mesh.note_sent(id, n, relayed, &mut shown);
    content::range(send, &source, fetch.want, Gate::Free, note).await?;
    Ok(())
}

async fn session_stream(
    mesh: &Mesh,
    from: Uid,
    conn: Connection,
    open: SessionOpen,
    mut send: SendStream,
    recv: RecvStream,
) -> Result<(), StreamError> {
    let kind = if open.datagram { StreamKind::Datagram } else { StreamKind::Reliable };
    match open.target {
        SessionTarget::Service(name) if name.len() <= session::SERVICE_NAME_MAX_BYTES => {
            let service = mesh.registry().service(&name);
            let Some(service) = service.filter(|s| !s.is_closed()) else {
                return Ok(reply::<()>(&mut send, Err(No::NotFound)).await?);
            };
            reply(&mut send, Ok(())).await?;
            let stream = session::accepted(mesh, from, kind, conn, send, recv).await?;
            // A program that stopped listening meanwhile closes the stream by dropping it.
            let _ = service.send(IncomingStream { from, session: open.session, stream }).await;
            Ok(())
        }
        SessionTarget::Service(_) => Ok(reply::<()>(&mut send, Err(No::BadRequest)).await?),
        SessionTarget::Tcp(target) => tcp_target(mesh, from, conn, target, send, recv).await,
        SessionTarget::Udp(target) => {
            if let Err(no) = mesh.check_target(&target) {
                return Ok(reply::<()>(&mut send, Err(no)).await?);
            }
            reply(&mut send, Ok(())).await?;
            let stream = session::accepted(mesh, from, StreamKind::Datagram, conn, send, recv).await?;
            if let Stream::Datagram(stream) = stream
                && let Err(e) = forward::serve_udp(target, stream).await
            {
                tracing::debug!("UDP forward to {target} ended: {e}");
            }
            Ok(())
        }
    }
}

async fn tcp_target(
    mesh: &Mesh,
    from: Uid,
    conn: Connection,
    target: SocketAddr,
    mut send: SendStream,
    recv: RecvStream,
) -> Result<(), StreamError> {
    if let Err(no) = mesh.check_target(&target) {
        return Ok(reply::<()>(&mut send, Err(no)).await?);
    }
    let tcp = match tokio::time::timeout(OPEN_TIMEOUT, tokio::net::TcpStream::connect(target)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(_)) | Err(_) => return Ok(reply::<()>(&mut send, Err(No::Failed)).await?),
    };
    reply(&mut send, Ok(())).await?;
    let stream = session::accepted(mesh, from, StreamKind::Reliable, conn, send, recv).await?;
    if let Stream::Reliable(stream) = stream {
        forward::splice(tcp, stream).await;
    }
    Ok(())
}
