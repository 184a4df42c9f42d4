//! The owner's repository at a running node: backups, restores, and the watch over what was stored.
//!
//! `ioex_vault` knows the formats and the rules; here they meet the mesh and the disk. A node opens its
//! repository when it is first asked about it, so a device that never backs anything up has none.

#[cfg_attr(not(feature = "super"), allow(dead_code))]
mod book;
#[cfg(feature = "super")]
mod create;
pub(crate) mod failure;
pub(crate) mod fetch;
#[cfg(feature = "super")]
mod harmed;
mod head;
#[cfg(feature = "super")]
mod head_write;
#[cfg(feature = "super")]
pub(crate) mod inspect;
mod key;
#[cfg(feature = "super")]
mod manage;
#[cfg(feature = "full")]
mod mount;
#[cfg(feature = "super")]
mod partner;
mod pipe;
#[cfg(feature = "super")]
pub(crate) mod placing;
mod points;
#[cfg(feature = "super")]
mod prune;
#[cfg(feature = "super")]
mod queue;
#[cfg(feature = "super")]
mod renew;
mod restore;
#[cfg(feature = "super")]
mod schedule;
#[cfg(feature = "super")]
mod settings;
#[cfg(feature = "super")]
mod stream;
#[cfg(feature = "super")]
mod verify;
#[cfg(feature = "super")]
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ioex_api::{ApiError, ErrorCode, Sink, vault::VaultRequest};
use ioex_vault::repo::RepoKeys;

#[cfg(feature = "super")]
use self::queue::Queue;
#[cfg(feature = "super")]
pub(crate) use self::settings::check;
use self::{
    book::{Book, BookError},
    failure::fail,
};
use super::{Node, files};

/// Folder of the repository inside the data folder.
const VAULT_DIR: &str = "vault";

/// The node's repository, opened when it is needed.
pub(crate) struct Vault {
    data: PathBuf,
    repo: Mutex<Option<Arc<Repo>>>,
    #[cfg(feature = "super")]
    pub(crate) queue: Queue,
    #[cfg(feature = "super")]
    partners: partner::Partners,
    /// Held by an exchange with partners, and while the recovery key becomes another one.
    #[cfg(feature = "super")]
    exchanging: tokio::sync::Mutex<()>,
    /// Something changed that partners should know.
    #[cfg(feature = "super")]
    wake: tokio::sync::Notify,
}

/// An open repository.
pub(crate) struct Repo {
    pub(crate) keys: RepoKeys,
    dir: PathBuf,
    /// The same one also after the recovery key became another one: who still works with the old one, such
    /// as a mount, has the file open.
    book: Arc<Book>,
    /// Held by whatever changes the repository: one change at a time.
    work: tokio::sync::Mutex<()>,
}

impl From<BookError> for ApiError {
    fn from(e: BookError) -> Self {
        fail(ErrorCode::Io, e.to_string())
    }
}

fn key_error(e: &anyhow::Error) -> ApiError {
    fail(ErrorCode::Io, format!("{e:#}"))
}

impl Vault {
    pub(crate) fn new(data: &Path) -> Self {
        pipe::remove_left_over(data);
        Self {
            data: data.to_owned(),
            repo: Mutex::new(None),
            #[cfg(feature = "super")]
            queue: Queue::new(&data.join(VAULT_DIR)),
            #[cfg(feature = "super")]
            partners: partner::Partners::new(&data.join(VAULT_DIR)),
            #[cfg(feature = "super")]
            exchanging: tokio::sync::Mutex::new(()),
            #[cfg(feature = "super")]
            wake: tokio::sync::Notify::new(),
        }
    }

    /// The repository; its key is made on first use.
    pub(crate) fn repo(&self) -> Result<Arc<Repo>, ApiError> {
        let mut open = self.repo.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(repo) = &*open {
            return Ok(repo.clone());
        }
        let keys = files::recovery_key(&self.data).map_err(|e| key_error(&e))?.keys();
        let dir = self.data.join(VAULT_DIR);
        files::private_dir(&dir.join(points::LISTINGS_DIR)).map_err(|e| key_error(&e))?;
        let book = Arc::new(Book::open(&dir.join("book.redb"))?);
        let repo = Arc::new(Repo { keys, dir, book, work: tokio::sync::Mutex::new(()) });
        *open = Some(repo.clone());
        Ok(repo)
    }

    /// Takes the recovery key that is there now into use.
    fn reopen(&self) -> Result<(), ApiError> {
        let mut open = self.repo.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = open.take() {
            let keys = files::recovery_key(&self.data).map_err(|e| key_error(&e))?.keys();
            let (dir, book) = (old.dir.clone(), old.book.clone());
            *open = Some(Arc::new(Repo { keys, dir, book, work: tokio::sync::Mutex::new(()) }));
        }
        Ok(())
    }

    /// The repository if this node has one.
    #[cfg(feature = "super")]
    pub(crate) fn existing(&self) -> Option<Arc<Repo>> {
        if files::has_recovery_key(&self.data) { self.repo().ok() } else { None }
    }
}

impl Repo {
    /// Where a listing that is being written lies.
    #[cfg(feature = "super")]
    fn new_listing(&self) -> PathBuf {
        self.dir.join("listing.new")
    }
}

/// Starts what a node with a repository does by itself: the queue, the schedules and the
/// watch, at super nodes.
pub(super) fn run(node: &Arc<Node>) -> Vec<tokio::task::JoinHandle<()>> {
    #[cfg(feature = "super")]
    if node.config.kind == ioex_base::NodeKind::Super {
        // The first one of this process; there is no second.
        let _ = node.mesh.respond_with(Arc::new(partner::Answering(Arc::downgrade(node))));
        return vec![
            tokio::spawn(queue::work(node.clone())),
            tokio::spawn(schedule::work(node.clone())),
            tokio::spawn(watch::work(node.clone())),
        ];
    }
    // A device restores when it is asked to, and does nothing by itself.
    let _ = node;
    Vec::new()
}

fn done<T: serde::Serialize>(value: T) -> Result<serde_json::Value, ApiError> {
    serde_json::to_value(value).map_err(failure::internal)
}

/// Answers a request about the repository.
pub(super) async fn handle(
    node: &Node,
    request: VaultRequest,
    sink: &Sink,
) -> Result<serde_json::Value, ApiError> {
    match request {
        VaultRequest::List { of } => done(points::list(node, &of).await?),
        VaultRequest::Restore(restore) => done(restore::run(node, restore, sink).await?),
        VaultRequest::Ls { point, of, paths } => done(points::ls(node, (&point, &of), &paths, sink).await?),
        VaultRequest::Diff { old, new, of } => done(points::diff(node, (&old, &new), &of, sink).await?),
        VaultRequest::ExportKey => done(key::export_key(node)?),
        VaultRequest::ImportKey { words, replace } => done(key::import_key(node, &words, replace).await?),
        #[cfg(feature = "full")]
        VaultRequest::Mount { dir, of } => done(mount::run(node, &dir, &of, sink).await?),
        #[cfg(feature = "super")]
        request => handle_super(node, request, sink).await,
        #[cfg(not(feature = "super"))]
        _ => Err(fail(
            ErrorCode::NotAllowed,
            "this program was built for devices: it restores, and backs nothing up",
        )),
    }
}

/// What only super nodes do.
#[cfg(feature = "super")]
async fn handle_super(
    node: &Node,
    request: VaultRequest,
    sink: &Sink,
) -> Result<serde_json::Value, ApiError> {
    match request {
        VaultRequest::Create(create) => queue::create(node, create, sink).await,
        VaultRequest::Jobs => done(node.vault.queue.list()),
        VaultRequest::Follow { job } => done(queue::follow(node, job, sink).await?),
        VaultRequest::Cancel { job } => done(node.vault.queue.cancel(job)?),
        VaultRequest::Verify { point, of, read_percent } => {
            done(verify::run(node, (&point, &of), read_percent, sink).await?)
        }
        VaultRequest::Renew { points, days } => done(manage::renew(node, &points, days, sink).await?),
        VaultRequest::Forget { points, keep, of, dry_run } => {
            done(manage::forget(node, &points, keep, &of, dry_run).await?)
        }
        VaultRequest::Prune { dry_run, max_unused } => done(prune::prune(node, dry_run, max_unused).await?),
        VaultRequest::Repair => done(watch::now(node).await?),
        VaultRequest::PartnerAdd { uid } => done(partner::add(node, uid).await?),
        VaultRequest::PartnerRemove { uid } => done(partner::remove(node, uid).await?),
        VaultRequest::PartnerList => done(partner::list(node).await?),
        VaultRequest::ScheduleAdd(schedule) => done(schedule::add(node, schedule)?),
        VaultRequest::ScheduleList => done(schedule::list(node)?),
        VaultRequest::ScheduleRemove { name } => done(schedule::remove(node, &name)?),
        _ => Err(fail(ErrorCode::NotAllowed, "this program was built without that")),
    }
}
