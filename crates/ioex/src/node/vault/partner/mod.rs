//! Super nodes that watch over each other's backups, so that none of them is needed.
//!
//! Partners are friends that named each other. The owner's super node gives each partner the book of its
//! groups (where which shard lies, nothing of what is in it), a grant to read the encrypted shards, and
//! the encrypted list of restore points. With that a partner audits, renews, repairs and keeps the
//! list, as `super::watch` does for the own repository. Who looks after which device follows from
//! [`ioex_vault::health::responsible`]; a partner that falls silent has its part taken over.
//!
//! Every member of such a group keeps a book. Books are compared in parts by hashes, and only records
//! that differ move. The owner says which groups there are; where their shards lie anybody says who
//! repairs.

mod answer;
mod sync;
mod wire;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use ioex_api::{
    ApiError, Empty, ErrorCode,
    vault::{Partner, PartnerList},
};
use ioex_base::{NodeKind, Sealed as _, Uid, UnixSeconds};
use ioex_net::proto::No;
use serde::{Deserialize, Serialize};

use self::wire::Shown;
use super::{
    super::{Node, files},
    Repo,
    book::{Book, BookError},
    failure::{fail, internal, io_error},
};

pub(super) use self::{
    answer::Answering,
    sync::{exchange, tell_devices},
    wire::Mandate,
};

/// File with the partners, in the repository's folder.
const FILE: &str = "partners.json";
/// Folder with the books of other owners' repositories.
const WATCHED_DIR: &str = "watched";
/// A partner that could not be reached is left alone for so long, unless the owner asks for it.
const TROUBLE_REST: Duration = Duration::from_secs(60);
/// Most partners of a node.
const PARTNERS_MAX: usize = 8;
/// Most repositories that a node watches over for one partner: nobody takes the places of the others.
const WATCHED_EACH_MAX: usize = 8;
/// Most repositories of others that a node watches over.
const WATCHED_MAX: usize = PARTNERS_MAX * WATCHED_EACH_MAX;
/// How the name of a book ends.
const BOOK_ENDING: &str = ".redb";
/// How the name of one ends that is being made.
const NEW_ENDING: &str = ".new";

/// A partner, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    uid: Uid,
    added: UnixSeconds,
}

/// The repository of another owner that this node watches over as well.
pub(super) struct Watched {
    pub(super) repo: Uid,
    pub(super) book: Arc<Book>,
    /// Held by whatever looks after it: one at a time.
    pub(super) work: tokio::sync::Mutex<()>,
}

/// The partners, and what is watched for them.
pub(crate) struct Partners {
    dir: PathBuf,
    started: UnixSeconds,
    list: Mutex<Option<Vec<Kept>>>,
    heard: Mutex<HashMap<Uid, UnixSeconds>>,
    /// When whom last came to the end of a round over a repository.
    rounds: Mutex<HashMap<(Uid, Uid), UnixSeconds>>,
    /// When and why the last exchange failed.
    troubles: Mutex<HashMap<Uid, (Instant, String)>>,
    watched: Mutex<Open>,
}

/// Books of others that are open, by repository.
type Open = HashMap<Uid, Arc<Watched>>;

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partners {
    pub(super) fn new(dir: &Path) -> Self {
        if let Err(e) = remove_unfinished(&dir.join(WATCHED_DIR)) {
            tracing::warn!("what is watched for partners cannot be put in order: {e}");
        }
        Self {
            dir: dir.to_owned(),
            started: files::now(),
            list: Mutex::default(),
            heard: Mutex::default(),
            rounds: Mutex::default(),
            troubles: Mutex::default(),
            watched: Mutex::default(),
        }
    }

    fn read(&self) -> Result<Vec<Kept>, ApiError> {
        let mut list = locked(&self.list);
        if let Some(list) = &*list {
            return Ok(list.clone());
        }
        let path = self.dir.join(FILE);
        let read = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| fail(ErrorCode::Io, format!("{} is damaged: {e}", path.display())))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(io_error(&path)(e)),
        };
        *list = Some(read);
        Ok(list.clone().unwrap_or_default())
    }

    fn write(&self, new: Vec<Kept>) -> Result<(), ApiError> {
        files::private_dir(&self.dir).map_err(|e| fail(ErrorCode::Io, format!("{e:#}")))?;
        let (path, bytes) = (self.dir.join(FILE), serde_json::to_vec_pretty(&new).map_err(internal)?);
        files::replace(&path, &bytes).map_err(io_error(&path))?;
        *locked(&self.list) = Some(new);
        Ok(())
    }

    /// The partners; none when they cannot be read.
    pub(super) fn uids(&self) -> Vec<Uid> {
        self.read().unwrap_or_default().iter().map(|p| p.uid).collect()
    }

    fn note_heard(&self, uid: Uid) {
        locked(&self.heard).insert(uid, files::now());
        locked(&self.troubles).remove(&uid);
    }

    /// Whether an exchange with it failed a moment ago.
    fn is_in_trouble(&self, uid: &Uid) -> bool {
        locked(&self.troubles).get(uid).is_some_and(|(at, _)| at.elapsed() < TROUBLE_REST)
    }

    fn note_round(&self, repo: Uid, uid: Uid) {
        locked(&self.rounds).insert((repo, uid), files::now());
    }

    /// The members that do their part for `repo`. Whoever has not ended a round since this node started
    /// gets the benefit of the doubt for a while.
    pub(super) fn living(&self, repo: Uid, own: Uid, members: &[Uid]) -> Vec<Uid> {
        let rounds = locked(&self.rounds);
        let of = |uid: &Uid| (*uid, rounds.get(&(repo, *uid)).copied().unwrap_or(self.started));
        let others: Vec<_> = members.iter().filter(|uid| **uid != own).map(of).collect();
        ioex_vault::health::living(own, &others, files::now())
    }

    /// The repositories of others, opened when they are first asked for.
    pub(super) fn watched(&self) -> Vec<Arc<Watched>> {
        self.all(&mut locked(&self.watched))
    }

    fn all(&self, open: &mut Open) -> Vec<Arc<Watched>> {
        let folder = match fs::read_dir(self.dir.join(WATCHED_DIR)) {
            Ok(folder) => folder,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                tracing::warn!("what is watched for partners cannot be read: {e}");
                return Vec::new();
            }
        };
        let repo = |name: &str| -> Option<Uid> {
            let bytes = HEXLOWER.decode(name.strip_suffix(BOOK_ENDING)?.as_bytes()).ok()?;
            Some(Uid::from_bytes(bytes.try_into().ok()?))
        };
        let mut repos: Vec<Uid> =
            folder.flatten().filter_map(|e| repo(e.file_name().to_str()?)).take(WATCHED_MAX).collect();
        repos.sort_unstable();
        let opened = |uid: Uid| match self.open_in(open, uid) {
            Ok(watched) => Some(watched),
            Err(e) => {
                tracing::warn!("the book of {} cannot be used: {e}", uid.short());
                None
            }
        };
        repos.into_iter().filter_map(opened).collect()
    }

    /// The repository `repo` of another owner, if it is watched over.
    fn watched_one(&self, repo: &Uid) -> Option<Arc<Watched>> {
        let mut open = locked(&self.watched);
        if self.path_of(repo).exists() { self.open_in(&mut open, *repo).ok() } else { None }
    }

    fn path_of(&self, repo: &Uid) -> PathBuf {
        let name = HEXLOWER.encode(repo.as_bytes());
        self.dir.join(WATCHED_DIR).join(format!("{name}{BOOK_ENDING}"))
    }

    /// Begins to watch over a repository. Its book has its name only when it says on whose behalf: one that
    /// was being made when the node ended is none, and makes way for the next attempt.
    fn begin(&self, repo: Uid, mandate: &Mandate, head: &[u8]) -> Result<(), No> {
        // Held until it is counted with the others.
        let mut open = locked(&self.watched);
        if self.path_of(&repo).exists() {
            // It was asked for twice at once, or cannot be opened now.
            return self.open_in(&mut open, repo).map(drop).map_err(|_| No::Failed);
        }
        let watched = self.all(&mut open);
        let of = |w: &Arc<Watched>| w.mandate().ok().flatten().is_some_and(|m| m.owner == mandate.owner);
        if watched.len() >= WATCHED_MAX || watched.iter().filter(|w| of(w)).count() >= WATCHED_EACH_MAX {
            return Err(No::NoSpace);
        }
        let mut made = || -> Result<(), ApiError> {
            let folder = self.dir.join(WATCHED_DIR);
            files::private_dir(&folder).map_err(|e| fail(ErrorCode::Io, format!("{e:#}")))?;
            let new = folder.join(format!("{}{NEW_ENDING}", HEXLOWER.encode(repo.as_bytes())));
            remove_file(&new).map_err(io_error(&new))?;
            Book::open(&new)?.change(|c| {
                c.put_mandate(mandate)?;
                c.put_head(head)
            })?;
            let kept =
                fs::rename(&new, self.path_of(&repo)).and_then(|()| fs::File::open(&folder)?.sync_all());
            kept.map_err(io_error(&new))?;
            self.open_in(&mut open, repo).map(drop)
        };
        made().map_err(|e| {
            tracing::warn!("a partner's repository cannot be watched over: {}", e.message);
            No::Failed
        })
    }

    /// Opens its book.
    fn open_in(&self, open: &mut Open, repo: Uid) -> Result<Arc<Watched>, ApiError> {
        if let Some(watched) = open.get(&repo) {
            return Ok(watched.clone());
        }
        let book = Arc::new(Book::open(&self.path_of(&repo))?);
        let watched = Arc::new(Watched { repo, book, work: tokio::sync::Mutex::new(()) });
        open.insert(repo, watched.clone());
        Ok(watched)
    }

    /// Stops watching over a repository; its leases end by themselves.
    fn leave(&self, repo: &Uid) -> std::io::Result<()> {
        locked(&self.watched).remove(repo);
        remove_file(&self.path_of(repo))
    }
}

/// Removes a file if it is there.
fn remove_file(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes what was being made when the node ended.
fn remove_unfinished(watched: &Path) -> std::io::Result<()> {
    let folder = match fs::read_dir(watched) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        folder => folder?,
    };
    for entry in folder {
        let path = entry?.path();
        if path.to_str().is_some_and(|name| name.ends_with(NEW_ENDING)) {
            remove_file(&path)?;
        }
    }
    Ok(())
}

impl Watched {
    /// On whose behalf.
    pub(super) fn mandate(&self) -> Result<Option<Mandate>, BookError> {
        self.book.mandate()
    }
}

fn only_super(node: &Node) -> Result<(), ApiError> {
    if node.config.kind == NodeKind::Super {
        return Ok(());
    }
    Err(fail(ErrorCode::NotAllowed, "only super nodes watch over backups: start one with --kind super"))
}

/// See [`ioex_api::vault::VaultRequest::PartnerAdd`].
pub(super) async fn add(node: &Node, uid: Uid) -> Result<PartnerList, ApiError> {
    only_super(node)?;
    if !node.mesh.friends().iter().any(|f| f.uid == uid) {
        return Err(fail(
            ErrorCode::NotFriend,
            "a partner is a friend: befriend the other super node first with `ioex friend add`",
        ));
    }
    let partners = &node.vault.partners;
    let mut list = partners.read()?;
    if list.iter().all(|p| p.uid != uid) {
        if list.len() >= PARTNERS_MAX {
            return Err(fail(ErrorCode::NoSpace, format!("at most {PARTNERS_MAX} partners are possible")));
        }
        list.push(Kept { uid, added: files::now() });
        partners.write(list)?;
    }
    node.vault.wake.notify_one();
    self::list(node).await
}

/// See [`ioex_api::vault::VaultRequest::PartnerRemove`].
pub(super) async fn remove(node: &Node, uid: Uid) -> Result<Empty, ApiError> {
    let partners = &node.vault.partners;
    let mut list = partners.read()?;
    let before = list.len();
    list.retain(|p| p.uid != uid);
    if list.len() == before {
        return Err(fail(ErrorCode::NotFound, format!("{} is no partner of this node", uid.short())));
    }
    partners.write(list)?;
    if let Some(repo) = node.vault.existing() {
        sync::say_goodbye(node, uid, repo.keys.repo()).await;
    }
    for watched in partners.watched() {
        let theirs = watched.mandate()?.is_some_and(|m| m.owner == uid);
        if theirs {
            partners.leave(&watched.repo).map_err(io_error(&partners.path_of(&watched.repo)))?;
        }
    }
    Ok(Empty {})
}

/// See [`ioex_api::vault::VaultRequest::PartnerList`].
pub(super) async fn list(node: &Node) -> Result<PartnerList, ApiError> {
    let partners = &node.vault.partners;
    let mut watched = Vec::new();
    for w in partners.watched() {
        let groups = w.book.off(Book::groups).await?;
        watched.extend(w.mandate()?.map(|m| (m.owner, groups)));
    }
    let own = node.vault.existing().map(|repo| repo.keys.repo());
    let living = own.map(|repo| partners.living(repo, node.mesh.uid(), &partners.uids()));
    let (heard, troubles) = (locked(&partners.heard), locked(&partners.troubles));
    let partner = |kept: &Kept| Partner {
        uid: kept.uid,
        added: kept.added,
        heard: heard.get(&kept.uid).copied(),
        silent: living.as_ref().is_some_and(|living| !living.contains(&kept.uid)),
        watched_groups: watched.iter().filter(|(owner, _)| *owner == kept.uid).map(|(_, n)| *n).sum(),
        trouble: troubles.get(&kept.uid).map(|(_, why)| why.clone()),
    };
    Ok(PartnerList { partners: partners.read()?.iter().map(partner).collect() })
}

/// All who watch over the own repository.
pub(super) fn own_members(node: &Node) -> Vec<Uid> {
    let mut members = node.vault.partners.uids();
    members.push(node.mesh.uid());
    members.sort_unstable();
    members
}

/// The mandate for `partner` to watch over the own repository.
fn mandate_for(node: &Node, repo: &Repo, partner: Uid) -> Result<Option<Shown>, ApiError> {
    let Some(head) = repo.book.head()? else { return Ok(None) };
    let mandate = Mandate {
        partner,
        owner: node.mesh.uid(),
        reader: repo.keys.reader.uid(),
        read: super::fetch::fetch_grant_for(partner, &repo.keys.reader)?,
        members: own_members(node),
    };
    Ok(Some(Shown { sealed: mandate.seal(&repo.keys.signer), head }))
}

#[cfg(test)]
mod tests {
    use ioex_vault::repo::RecoveryKey;

    use super::*;

    fn uid(n: u8) -> Uid {
        Uid::from_bytes([n; 32])
    }

    fn mandate_of(owner: u8) -> Mandate {
        let reader = RecoveryKey::from_bytes([owner; 32]).keys().reader;
        let read = super::super::fetch::fetch_grant_for(uid(100), &reader).unwrap();
        Mandate {
            partner: uid(100),
            owner: uid(owner),
            reader: reader.uid(),
            read,
            members: vec![uid(owner)],
        }
    }

    #[test]
    fn one_partner_does_not_take_the_places_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let partners = Partners::new(dir.path());
        let each = WATCHED_EACH_MAX as u8;
        for repo in 0..each {
            partners.begin(uid(repo), &mandate_of(1), b"head").unwrap();
        }
        assert_eq!(partners.begin(uid(each), &mandate_of(1), b"head"), Err(No::NoSpace));
        partners.begin(uid(each), &mandate_of(2), b"head").unwrap();
        partners.leave(&uid(0)).unwrap();
        partners.begin(uid(0), &mandate_of(1), b"head").unwrap();
        // As many as there are are there after a start as well.
        drop(partners);
        let watched = Partners::new(dir.path()).watched();
        assert_eq!(watched.len(), WATCHED_EACH_MAX + 1);
        assert!(watched.iter().all(|w| w.book.head().unwrap().unwrap() == b"head"));
    }

    /// The node was killed while it made a book.
    #[test]
    fn a_book_without_a_mandate_takes_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(WATCHED_DIR);
        fs::create_dir(&folder).unwrap();
        let name = HEXLOWER.encode(&[7; 32]);
        let left = |text: &[u8]| {
            let path = folder.join(format!("{name}{NEW_ENDING}"));
            fs::write(&path, text).unwrap();
            path
        };
        let path = left(b"half a book");
        let partners = Partners::new(dir.path());
        assert!(!path.exists() && partners.watched().is_empty());
        // This time a full disk ended it.
        left(b"half a book");
        partners.begin(uid(7), &mandate_of(1), b"head").unwrap();
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [&*format!("{name}{BOOK_ENDING}")]);
        assert_eq!(partners.watched()[0].mandate().unwrap().unwrap().owner, uid(1));
    }
}
