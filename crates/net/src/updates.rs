//! Updates in the mesh: metadata and matches for whoever may ask, and the exchange of a package's shards
//! between devices.
//!
//! What credentials and receipts mean, who is on a roster, and what is fetched from whom is decided by
//! the program above ([`Updates`]); the mesh lets the door ask it and moves the bytes.

use std::{fs::File, io, pin::Pin, sync::Arc, time::Duration};

use ioex_base::{ContentAddress, Uid, wire};
use iroh::endpoint::{RecvStream, SendStream};
use tokio::sync::mpsc;

use crate::{
    door::Door,
    frame,
    links::{LinkError, PathKind, broken, in_time, path_of},
    mesh::Mesh,
    proto::{
        Answer, BITMAP_MAX_BYTES, CHANNEL_MAX_BYTES, CREDENTIAL_MAX_BYTES, ChannelAsk, ChannelFiles, Join,
        Joined, Match, NEWS_MAX_BYTES, News, No, Open, PACKAGE_MANIFEST_MAX_BYTES, PACKAGE_SHARDS_MAX,
        RECEIPT_MAX_BYTES, Report, ShardAsk, ShardHead,
    },
    throttle::Throttle,
    transfer::fetch::{self, FetchError},
};

/// An exchange says something at least this often, so that its connection does not end as idle.
const ALIVE_EVERY: Duration = Duration::from_secs(20);
/// News on their way to a slow peer.
const NEWS_WAITING_MAX: usize = 64;

/// The program above the mesh. Calls may block on the disk and are made from blocking threads, but for
/// those that the door makes: they are answered from memory.
pub trait Updates: Send + Sync + 'static {
    /// Whether anything is exchanged here at all.
    fn exchanges(&self) -> bool;
    /// Whether a channel or a package's manifest is handed out here.
    fn carries(&self, address: &ContentAddress) -> bool;
    /// Whether this node matches devices for this package, and the caller is on its roster.
    fn on_roster(&self, manifest: &ContentAddress, caller: &Uid) -> bool;
    /// Whether the caller is on the roster of any package for which this node matches.
    fn on_a_roster(&self, caller: &Uid) -> bool;
    /// Whether the caller matches for the same channel as this node.
    fn is_co_matcher(&self, channel: &ContentAddress, caller: &Uid) -> bool;
    /// Whether the credential lets the caller in.
    fn admits(&self, caller: &Uid, join: &Join) -> bool;
    /// Whether the caller has joined the exchange of this package.
    fn has_joined(&self, manifest: &ContentAddress, caller: &Uid) -> bool;
    /// What this node carries and has, for announcing it.
    fn announced(&self) -> Vec<ContentAddress>;
    /// What everything that goes out waits at.
    fn upload(&self) -> &Throttle;
    /// A channel's files.
    ///
    /// # Errors
    /// Why not, as the caller is told.
    fn channel(&self, ask: &ChannelAsk) -> Result<ChannelFiles, No>;
    /// Opens a package's sealed manifest.
    ///
    /// # Errors
    /// When the disk fails.
    fn package(&self, address: &ContentAddress) -> io::Result<Option<(File, u64)>>;
    /// Providers for a device.
    ///
    /// # Errors
    /// Why not, as the caller is told.
    fn matched(&self, caller: &Uid, manifest: &ContentAddress) -> Result<Match, No>;
    /// Takes a report; returns once it is on disk.
    ///
    /// # Errors
    /// Why not, as the caller is told.
    fn report(&self, caller: &Uid, report: Report) -> Result<(), No>;
    /// Somebody joined. `tell` takes what this node has from now on.
    ///
    /// # Errors
    /// Why not, as the caller is told.
    fn joined(
        &self,
        caller: &Uid,
        join: Join,
        path: PathKind,
        tell: mpsc::Sender<News>,
    ) -> Result<Joined, No>;
    /// What one that joined has by now. Answered from memory.
    fn news(&self, caller: &Uid, manifest: &ContentAddress, news: News);
    /// One that joined is gone. Answered from memory.
    fn parted(&self, caller: &Uid, manifest: &ContentAddress);
    /// Waits for the caller's turn and opens the shard.
    fn shard(&self, caller: Uid, ask: ShardAsk) -> Turn;
    /// Takes the caller's signed receipt and signs it.
    ///
    /// # Errors
    /// Why not, as the caller is told.
    fn receipt(&self, caller: &Uid, receipt: Vec<u8>) -> Result<Vec<u8>, No>;
    /// Fetches a channel that changed from the caller; done once this node carries it.
    fn renewed(&self, caller: Uid, channel: ContentAddress) -> Renewal;
}

/// Fetching a channel that changed.
pub type Renewal = Pin<Box<dyn Future<Output = Result<(), No>> + Send>>;

/// A turn at being served.
pub type Turn = Pin<Box<dyn Future<Output = Result<Serving, No>> + Send>>;

/// A shard that is about to be sent.
pub struct Serving {
    /// Which.
    pub shard: u32,
    /// Its bytes.
    pub file: File,
    /// How many.
    pub bytes: u32,
    /// Told how many bytes were written. It is dropped, and what it holds is free, when the other side has all of them.
    pub note: Box<dyn FnMut(u64) + Send>,
}

/// One side of an exchange that this node joined. Dropping it ends the exchange.
pub struct Exchange {
    /// What the other side said at the beginning.
    pub joined: Joined,
    /// Over which path.
    pub path: PathKind,
    /// What it has by now; ends with the exchange.
    pub news: mpsc::Receiver<News>,
    /// Takes what this node has by now.
    pub tell: mpsc::Sender<News>,
    task: tokio::task::AbortHandle,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Longest encoded [`Joined`].
const JOINED_MAX_BYTES: usize = BITMAP_MAX_BYTES + CREDENTIAL_MAX_BYTES + 32;

/// Who hears what the other side has by now.
pub(crate) enum Hearer {
    /// This node asked.
    Exchange(mpsc::Sender<News>),
    /// The other side asked.
    Program(Arc<dyn Updates>, Uid, ContentAddress),
}

impl Hearer {
    /// False when nobody listens any more.
    async fn hear(&self, news: News) -> bool {
        match self {
            _ if news.have.is_empty() => true,
            Self::Exchange(to) => to.send(news).await.is_ok(),
            Self::Program(updates, from, manifest) => {
                updates.news(from, manifest, news);
                true
            }
        }
    }
}

/// Both halves of an exchange: `hearer` is told what comes, `tell` says what goes. Ends when either side
/// ends, or `tell` is closed.
pub(crate) async fn converse(
    mut send: SendStream,
    mut recv: RecvStream,
    mut tell: mpsc::Receiver<News>,
    hearer: Hearer,
) {
    let hear = async {
        while let Ok(news) = frame::read::<News>(&mut recv, NEWS_MAX_BYTES).await {
            let known = news.have.iter().all(|shard| *shard < PACKAGE_SHARDS_MAX);
            if !known || !hearer.hear(news).await {
                break;
            }
        }
    };
    let say = async {
        loop {
            let next = tokio::time::timeout(ALIVE_EVERY, tell.recv()).await;
            let said = match next {
                Ok(Some(said)) => said,
                Ok(None) => break,
                Err(_) => News::default(),
            };
            if frame::write(&mut send, &said).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = hear => {}
        () = say => {}
    }
    let _ = send.finish();
}

/// A channel for what one side has to say.
pub(crate) fn telling() -> (mpsc::Sender<News>, mpsc::Receiver<News>) {
    mpsc::channel(NEWS_WAITING_MAX)
}

fn yes<T>(answer: Answer<T>) -> Result<T, FetchError> {
    match answer {
        Answer::Yes(value) => Ok(value),
        Answer::No(no) => Err(no.into()),
    }
}

impl Mesh {
    /// Lets `updates` decide and answer from now on, for as long as somebody else holds it. A second one is not taken;
    /// returns whether this one was.
    pub fn update_with(&self, updates: &Arc<dyn Updates>) -> bool {
        self.updates_slot().set(Arc::downgrade(updates)).is_ok()
    }

    /// Tells the directory soon that this node has something.
    pub fn announce(&self, address: ContentAddress) {
        self.announce_soon(address);
    }

    /// Fetches a channel's files from a node that carries it. They are not verified here.
    ///
    /// # Errors
    /// When the node does not have it, or sends something else.
    pub async fn channel_fetch(&self, from: Uid, ask: ChannelAsk) -> Result<ChannelFiles, FetchError> {
        let open = Open::Channel(ask);
        let bytes =
            fetch::all_of(&*self.links()?, from, Door::Public, &open, CHANNEL_MAX_BYTES as u64).await?;
        wire::decode(&bytes, CHANNEL_MAX_BYTES).map_err(|e| LinkError::Protocol(e).into())
    }

    /// Fetches a package's sealed manifest and compares it with its address.
    ///
    /// # Errors
    /// When the node does not have it, or sends something else.
    pub async fn package_fetch(&self, from: Uid, manifest: ContentAddress) -> Result<Vec<u8>, FetchError> {
        let open = Open::Package(manifest);
        let bytes =
            fetch::all_of(&*self.links()?, from, Door::Public, &open, PACKAGE_MANIFEST_MAX_BYTES).await?;
        if ContentAddress::of(&bytes) != manifest {
            return Err(FetchError::WrongBytes);
        }
        Ok(bytes)
    }

    /// Asks a matcher who provides a package.
    ///
    /// # Errors
    /// When it cannot be reached or says no.
    pub async fn update_match(&self, matcher: Uid, manifest: ContentAddress) -> Result<Match, FetchError> {
        yes(in_time(self.links()?.ask(matcher, Door::Public, &Open::Match(manifest))).await?)
    }

    /// Tells a matcher how it went; returns once the report is on its disk.
    ///
    /// # Errors
    /// When it cannot be reached or says no.
    pub async fn update_report(&self, matcher: Uid, report: Report) -> Result<(), FetchError> {
        yes(in_time(self.links()?.ask(matcher, Door::Public, &Open::Report(report))).await?)
    }

    /// Tells a matcher of the same channel that it changed; returns once that one carries it.
    ///
    /// # Errors
    /// When it cannot be reached or says no.
    pub async fn channel_renewed(&self, matcher: Uid, channel: ContentAddress) -> Result<(), FetchError> {
        yes(in_time(self.links()?.ask(matcher, Door::Public, &Open::Renewed(channel))).await?)
    }

    /// Joins another node's exchange of a package.
    ///
    /// # Errors
    /// When it cannot be reached or does not take the credential.
    pub async fn exchange_join(&self, with: Uid, join: Join) -> Result<Exchange, FetchError> {
        let long = |bytes: &Vec<u8>| bytes.len() > CREDENTIAL_MAX_BYTES;
        if long(&join.credential) || long(&join.certificate) || join.have.len() > BITMAP_MAX_BYTES {
            return Err(No::BadRequest.into());
        }
        let links = self.links()?;
        let (conn, send, mut recv) = links.open(with, Door::Grant, &Open::Join(join)).await?;
        let answer = async { frame::read(&mut recv, JOINED_MAX_BYTES).await.map_err(|e| broken(&conn, e)) };
        let joined: Joined = yes(in_time(answer).await?)?;
        let (heard, news) = mpsc::channel(NEWS_WAITING_MAX);
        let (tell, said) = telling();
        let task = self.spawn_abortable(converse(send, recv, said, Hearer::Exchange(heard)));
        Ok(Exchange { joined, path: path_of(&conn).0, news, tell, task })
    }

    /// Fetches a shard of at most `max` bytes in an exchange that was joined. `begun` is told which one
    /// comes and says whether it is still wanted; `came` is told how many bytes came each time. The bytes are not verified here.
    ///
    /// # Errors
    /// When the provider says no, breaks off, or sends something else; [`FetchError::Stopped`] when it is not wanted.
    pub async fn exchange_shard(
        &self,
        from: Uid,
        ask: ShardAsk,
        max: u32,
        begun: impl FnOnce(ShardHead) -> bool,
        came: impl FnMut(u64),
    ) -> Result<(ShardHead, Vec<u8>, PathKind), FetchError> {
        let links = self.links()?;
        let (conn, mut send, recv) = links.open(from, Door::Grant, &Open::Shard(ask)).await?;
        let _ = send.finish();
        fetch::shard(&conn, recv, max, begun, came).await
    }

    /// Hands a signed receipt to a provider; it comes back signed by both.
    ///
    /// # Errors
    /// When the provider says no or breaks off.
    pub async fn exchange_receipt(&self, with: Uid, receipt: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        let signed: Vec<u8> =
            yes(in_time(self.links()?.ask(with, Door::Grant, &Open::Receipt(receipt))).await?)?;
        if signed.len() > RECEIPT_MAX_BYTES {
            return Err(FetchError::WrongBytes);
        }
        Ok(signed)
    }
}
