//! The device's side of the grant door: what it does for super nodes and for those who restore.

use std::sync::Arc;

use ioex_base::{
    ContentAddress, Right, Uid,
    limits::{HEAD_MAX_BYTES, SHARD_MAX_BYTES},
};
use iroh::endpoint::{RecvStream, SendStream};
use tokio::io::AsyncReadExt;

use super::{OPEN_TIMEOUT, StreamError, reply};
use crate::{
    door::Pass,
    frame::FrameError,
    host::{Host, PlaceStart, ShardSink},
    mesh::Mesh,
    proto::{
        AUDIT_ASKS_MAX, Audit, AuditAnswer, Capacity, Fetch, HANDOVER_MAX, HeadAnswer, HeadStart,
        LEASES_AT_ONCE_MAX, No, PROOF_MAX_BYTES, Place, PlaceAnswer, PutHead, Release, Renew, Want,
    },
    transfer::serve::{self as content, Gate, Source},
};

/// Bytes of an incoming shard read at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// Asks the host, which may wait for the disk.
async fn host<T: Send + 'static>(
    mesh: &Mesh,
    ask: impl FnOnce(&dyn Host) -> Result<T, No> + Send + 'static,
) -> Result<T, No> {
    let host = mesh.host().clone();
    // A panic there was reported already.
    tokio::task::spawn_blocking(move || ask(&*host)).await.unwrap_or(Err(No::Failed))
}

/// How many bytes a placement grant allows.
fn granted(pass: &Pass) -> u64 {
    match pass {
        Pass::Grant(grant) => match grant.right {
            Right::Place { max_bytes_per_device } => max_bytes_per_device,
            Right::Fetch => 0,
        },
        Pass::Friend | Pass::Public => 0,
    }
}

pub(super) fn capacity(mesh: &Mesh, from: Uid, pass: &Pass) -> Capacity {
    let (host, config) = (mesh.host(), mesh.config());
    let left = granted(pass).saturating_sub(host.placed_bytes(&from));
    let free_bytes = if config.kind.stores_for_others() { host.free_bytes().min(left) } else { 0 };
    Capacity { free_bytes, owner: config.owner_tag(), kind: config.kind }
}

pub(super) async fn fetch(mesh: &Mesh, fetch: Fetch, send: &mut SendStream) -> Result<(), StreamError> {
    let opened = host(mesh, move |h| h.open_shard(&fetch.address).map_err(|_| No::Failed)).await;
    let (file, size) = match opened {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(content::refuse(send, No::NotFound).await?),
        Err(no) => return Ok(content::refuse(send, no).await?),
    };
    let source = Source { file: Arc::new(file), size };
    if fetch.want == Want::Pieces {
        // Shards are small enough to be verified whole.
        return Ok(content::refuse(send, No::BadRequest).await?);
    }
    content::range(send, &source, fetch.want, Gate::Owner(&**mesh.host()), |_| ()).await?;
    Ok(())
}

pub(super) async fn place(
    mesh: &Mesh,
    from: Uid,
    place: Place,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), StreamError> {
    if place.bytes > SHARD_MAX_BYTES || !mesh.config().kind.stores_for_others() {
        return Ok(reply::<PlaceAnswer>(send, Err(No::BadRequest)).await?);
    }
    let (address, bytes) = (place.address, place.bytes);
    let sink = match host(mesh, move |h| h.begin_place(&from, &place)).await {
        Ok(PlaceStart::Write(sink)) => sink,
        Ok(PlaceStart::AlreadyHeld) => return Ok(reply(send, Ok(PlaceAnswer::AlreadyHeld)).await?),
        Err(no) => return Ok(reply::<PlaceAnswer>(send, Err(no)).await?),
    };
    reply(send, Ok(PlaceAnswer::Send)).await?;
    let stored = store(sink, bytes, recv).await?;
    if stored.is_ok() {
        mesh.announce_soon(address);
    }
    Ok(reply(send, stored).await?)
}

/// Reads the next bytes of an incoming shard or head.
async fn block(recv: &mut RecvStream, bytes: usize) -> Result<Vec<u8>, StreamError> {
    let mut block = vec![0; bytes];
    let read = tokio::time::timeout(OPEN_TIMEOUT, AsyncReadExt::read_exact(recv, &mut block));
    read.await.map_err(|_| StreamError::Timeout)?.map_err(FrameError::Io)?;
    Ok(block)
}

/// Takes the bytes of a shard. The outer error is a broken stream, the inner one the answer.
async fn store(
    mut sink: Box<dyn ShardSink>,
    bytes: u64,
    recv: &mut RecvStream,
) -> Result<Result<(), No>, StreamError> {
    let mut left = bytes;
    while left > 0 {
        let want = usize::try_from(left.min(BLOCK_BYTES as u64)).unwrap_or(BLOCK_BYTES);
        let block = block(recv, want).await?;
        left -= want as u64;
        let written = tokio::task::spawn_blocking(move || sink.write(&block).map(|()| sink)).await;
        sink = match written {
            Ok(Ok(sink)) => sink,
            Ok(Err(no)) => return Ok(Err(no)),
            Err(_) => return Ok(Err(No::Failed)),
        };
    }
    match tokio::task::spawn_blocking(move || sink.commit()).await {
        Ok(result) => Ok(result),
        Err(_) => Ok(Err(No::Failed)),
    }
}

pub(super) async fn audit(mesh: &Mesh, from: Uid, audit: Audit) -> Result<AuditAnswer, No> {
    if audit.asks.len() > AUDIT_ASKS_MAX {
        return Err(No::BadRequest);
    }
    let told = host(mesh, move |h| {
        let proof = |(address, leaf): &(ContentAddress, u32)| {
            h.prove(address, *leaf).map(|proof| proof.filter(|proof| proof.len() <= PROOF_MAX_BYTES))
        };
        let proofs = audit.asks.iter().map(proof).collect::<Result<_, _>>()?;
        let mut wanted = h.handover(&from);
        wanted.addresses.truncate(HANDOVER_MAX);
        Ok(AuditAnswer { proofs, excess_bytes: wanted.excess_bytes, handover: wanted.addresses })
    })
    .await?;
    let bytes: usize = told.proofs.iter().flatten().map(Vec::len).sum();
    mesh.host().upload().all((bytes + told.handover.len() * 32) as u64).await;
    Ok(told)
}

pub(super) async fn release(mesh: &Mesh, from: Uid, release: Release) -> Result<u32, No> {
    if release.addresses.len() > LEASES_AT_ONCE_MAX {
        return Err(No::BadRequest);
    }
    host(mesh, move |h| h.release(&from, &release.addresses)).await
}

pub(super) async fn renew(mesh: &Mesh, from: Uid, renew: Renew, pass: &Pass) -> Result<Vec<bool>, No> {
    if renew.addresses.len() > LEASES_AT_ONCE_MAX {
        return Err(No::BadRequest);
    }
    let max_bytes = granted(pass);
    host(mesh, move |h| h.renew(&from, &renew, max_bytes)).await
}

pub(super) async fn put_head(
    mesh: &Mesh,
    from: Uid,
    put: PutHead,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), StreamError> {
    let bytes = usize::try_from(put.bytes).ok().filter(|bytes| *bytes <= HEAD_MAX_BYTES);
    let Some(bytes) = bytes.filter(|_| mesh.config().kind.stores_for_others()) else {
        return Ok(reply::<HeadStart>(send, Err(No::BadRequest)).await?);
    };
    let asked = put.clone();
    let start = host(mesh, move |h| h.begin_head(&from, &asked)).await;
    let wanted = start == Ok(HeadStart::Send);
    reply(send, start).await?;
    if !wanted {
        return Ok(());
    }
    let body = block(recv, bytes).await?;
    let address = ioex_base::head_address(&put.repo);
    let kept = host(mesh, move |h| h.put_head(&from, &put, &body)).await;
    if kept == Ok(HeadAnswer::Kept) {
        mesh.announce_soon(address);
    }
    Ok(reply(send, kept).await?)
}
