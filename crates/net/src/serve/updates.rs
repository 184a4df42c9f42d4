//! The serving side of updates.

use std::{sync::Arc, time::Duration};

use ioex_base::{ContentAddress, Uid, wire};
use iroh::endpoint::{Connection, RecvStream, SendStream};

use super::{StreamError, reply};
use crate::{
    links::path_of,
    mesh::Mesh,
    proto::{
        BITMAP_MAX_BYTES, CHANNEL_MAX_BYTES, CREDENTIAL_MAX_BYTES, ChannelAsk, Join, Joined, Match, No,
        PACKAGE_SHARDS_MAX, PROVIDERS_MAX, REASON_MAX_BYTES, RECEIPT_MAX_BYTES, RECEIPTS_MAX, Report,
        ShardAsk, ShardHead, ShardWant, Want,
    },
    transfer::serve::{self as content, Gate, Source},
    updates::{self, Hearer, Updates},
};

/// How long a shard that was written may be on its way: the longest one at 4.4 kB/s. Who is silent ends earlier, as its
/// connection does.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(120);

/// Asks the program above, which may wait for the disk.
async fn ask<T: Send + 'static>(
    mesh: &Mesh,
    question: impl FnOnce(&dyn Updates) -> Result<T, No> + Send + 'static,
) -> Result<T, No> {
    let Some(updates) = mesh.updates() else { return Err(No::NotFound) };
    // A panic there was reported already.
    tokio::task::spawn_blocking(move || question(&*updates)).await.unwrap_or(Err(No::Failed))
}

pub(super) async fn channel(
    mesh: &Mesh,
    wanted: ChannelAsk,
    send: &mut SendStream,
) -> Result<(), StreamError> {
    let files = ask(mesh, move |u| u.channel(&wanted)).await;
    match files.map(|files| wire::encode(&files)) {
        Ok(bytes) if bytes.len() <= CHANNEL_MAX_BYTES => content::bytes(send, bytes).await?,
        Ok(_) => content::refuse(send, No::Failed).await?,
        Err(no) => content::refuse(send, no).await?,
    }
    Ok(())
}

pub(super) async fn package(
    mesh: &Mesh,
    address: ContentAddress,
    send: &mut SendStream,
) -> Result<(), StreamError> {
    match ask(mesh, move |u| u.package(&address).map_err(|_| No::Failed)).await {
        Ok(Some((file, size))) => {
            let source = Source { file: Arc::new(file), size };
            content::range(send, &source, Want::All, Gate::Free, |_| ()).await?;
        }
        Ok(None) => content::refuse(send, No::NotFound).await?,
        Err(no) => content::refuse(send, no).await?,
    }
    Ok(())
}

pub(super) async fn matched(mesh: &Mesh, from: Uid, manifest: ContentAddress) -> Result<Match, No> {
    let mut told = ask(mesh, move |u| u.matched(&from, &manifest)).await?;
    told.providers.truncate(PROVIDERS_MAX);
    Ok(told)
}

pub(super) async fn report(mesh: &Mesh, from: Uid, report: Report) -> Result<(), No> {
    let long = report.receipts.len() > RECEIPTS_MAX
        || report.receipts.iter().any(|receipt| receipt.len() > RECEIPT_MAX_BYTES)
        || report.reason.len() > REASON_MAX_BYTES
        || report.running.len() > REASON_MAX_BYTES;
    if long {
        return Err(No::BadRequest);
    }
    ask(mesh, move |u| u.report(&from, report)).await
}

pub(super) async fn renewed(mesh: &Mesh, from: Uid, channel: ContentAddress) -> Result<(), No> {
    let Some(updates) = mesh.updates() else { return Err(No::NotFound) };
    updates.renewed(from, channel).await
}

/// Serves an exchange until it ends.
pub(super) async fn join(
    mesh: &Mesh,
    from: Uid,
    conn: &Connection,
    join: Join,
    mut send: SendStream,
    recv: RecvStream,
) -> Result<(), StreamError> {
    let (manifest, path) = (join.manifest, path_of(conn).0);
    let long = |bytes: &Vec<u8>| bytes.len() > CREDENTIAL_MAX_BYTES;
    if long(&join.credential) || long(&join.certificate) || join.have.len() > BITMAP_MAX_BYTES {
        return Ok(reply::<Joined>(&mut send, Err(No::BadRequest)).await?);
    }
    let (tell, said) = updates::telling();
    let Some(updates) = mesh.updates() else {
        return Ok(reply::<Joined>(&mut send, Err(No::NotFound)).await?);
    };
    let asked = updates.clone();
    // However this ends, the guest is taken off again; also when nobody waits for the answer any more.
    let joining = tokio::task::spawn_blocking(move || {
        let joined = asked.joined(&from, join, path, tell)?;
        Ok((joined, Guest { updates: asked, from, manifest }))
    });
    let (joined, _guest) = match joining.await.unwrap_or(Err(No::Failed)) {
        Ok(joined) => joined,
        Err(no) => return Ok(reply::<Joined>(&mut send, Err(no)).await?),
    };
    reply(&mut send, Ok(joined)).await?;
    updates::converse(send, recv, said, Hearer::Program(updates, from, manifest)).await;
    Ok(())
}

/// Somebody who joined; taken off when dropped.
struct Guest {
    updates: Arc<dyn Updates>,
    from: Uid,
    manifest: ContentAddress,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.updates.parted(&self.from, &self.manifest);
    }
}

pub(super) async fn shard(
    mesh: &Mesh,
    from: Uid,
    wanted: ShardAsk,
    send: &mut SendStream,
) -> Result<(), StreamError> {
    let fits = match &wanted.want {
        ShardWant::One(shard) => *shard < PACKAGE_SHARDS_MAX,
        ShardWant::Least(bits) => bits.len() <= BITMAP_MAX_BYTES,
    };
    let Some(updates) = mesh.updates().filter(|_| fits) else {
        return Ok(reply::<ShardHead>(send, Err(No::BadRequest)).await?);
    };
    // Whoever stops waiting ends its half, and with it this one's turn.
    let turn = tokio::select! {
        turn = updates.shard(from, wanted) => turn,
        _ = send.stopped() => return Ok(()),
    };
    let mut serving = match turn {
        Ok(serving) => serving,
        Err(no) => return Ok(reply::<ShardHead>(send, Err(no)).await?),
    };
    reply(send, Ok(ShardHead { shard: serving.shard, bytes: serving.bytes })).await?;
    let source = Source { file: Arc::new(serving.file), size: u64::from(serving.bytes) };
    // Written is not sent: QUIC takes megabytes at once. The place is taken until the other side has them; otherwise
    // one provider would begin with everybody at once, and be slow for all of them while others have nothing to do.
    // What was written counts as sent all the same: who withholds the last acknowledgement has the shard, and owes it.
    content::body(send, &source, Gate::Upload(updates.upload()), &mut serving.note).await?;
    let _ = send.finish();
    let _ = tokio::time::timeout(TAKEN_TIMEOUT, send.stopped()).await;
    Ok(())
}

pub(super) async fn receipt(mesh: &Mesh, from: Uid, receipt: Vec<u8>) -> Result<Vec<u8>, No> {
    if receipt.len() > RECEIPT_MAX_BYTES {
        return Err(No::BadRequest);
    }
    ask(mesh, move |u| u.receipt(&from, receipt)).await
}
