//! Which restore points a mount shows, while some are made and others forgotten.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fuser::Errno;
use ioex_api::vault::PointFilter;
use ioex_vault::repo::{Head, PointRef};

use super::{
    super::{
        super::{Node, files},
        Repo, points,
    },
    Tree,
};
use crate::node::lock;

/// How often the network is asked for restore points of other machines, while somebody looks.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Within a restore point, what this node made or forgot is looked for again after so long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A restore point's folder.
#[derive(Clone)]
pub(super) struct Folder {
    pub(super) name: String,
    pub(super) point: PointRef,
    /// It was forgotten, or is over: nobody finds it any more.
    pub(super) gone: bool,
}

/// The restore points that there are. A place in the list is for ever: inodes follow from it.
#[derive(Default)]
pub(super) struct Folders {
    list: Vec<Folder>,
    /// Everything that was heard so far, joined: in whatever order news comes, nothing is taken back.
    head: Head,
    /// The bytes of this node's own list that was looked at last.
    seen: Vec<u8>,
    /// When that was.
    looked: Option<Instant>,
}

impl Folders {
    /// Takes over what there is now; returns the places of those whose index is another one, or that are gone.
    fn update(&mut self, points: Vec<PointRef>) -> Vec<usize> {
        let mut stale = Vec::new();
        for (place, folder) in self.list.iter_mut().enumerate() {
            let now = points.iter().find(|p| p.id() == folder.point.id());
            if now.is_none_or(|p| p.root != folder.point.root) {
                stale.push(place);
            }
            folder.gone = now.is_none();
            if let Some(now) = now {
                folder.point = now.clone();
            }
        }
        for point in points {
            if !self.list.iter().any(|folder| folder.point.id() == point.id()) {
                self.list.push(Folder { name: folder_name(&point), point, gone: false });
            }
        }
        stale
    }

    /// All of them by place, also those that are gone.
    pub(super) fn all(&self) -> &[Folder] {
        &self.list
    }

    fn get(&self, place: usize) -> Option<&Folder> {
        self.list.get(place).filter(|folder| !folder.gone)
    }
}

/// What is shown, shared with whoever asks the network for news.
pub(super) struct Shown {
    pub(super) repo: Arc<Repo>,
    of: PointFilter,
    pub(super) folders: Mutex<Folders>,
    /// By the place of the folder.
    pub(super) trees: Mutex<HashMap<usize, Arc<Tree>>>,
    /// Somebody looked since the network was asked last.
    looked: AtomicBool,
}

impl Shown {
    /// Nothing yet, of the restore points that `of` fits.
    pub(super) fn new(repo: Arc<Repo>, of: PointFilter) -> Self {
        let (folders, trees, looked) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Self { repo, of, folders, trees, looked }
    }

    /// Shows what the network says, too.
    pub(super) fn hear(&self, head: &Head) {
        let mut folders = lock(&self.folders);
        folders.head.merge(head);
        self.update(folders);
    }

    /// Shows what the joined list says.
    fn update(&self, mut folders: MutexGuard<'_, Folders>) {
        // What has ended is perhaps deleted already: a folder that cannot be opened helps nobody.
        let all = folders.head.points.clone();
        let points = points::living(points::among(all, &self.of), files::now());
        let stale = folders.update(points);
        drop(folders);
        lock(&self.trees).retain(|place, _| !stale.contains(place));
    }

    /// Somebody looks: shows what this node made or forgot.
    pub(super) fn look(&self) {
        self.looked.store(true, Ordering::Relaxed);
        let mut folders = lock(&self.folders);
        folders.looked = Some(Instant::now());
        match self.repo.changed_head(&mut folders.seen) {
            Ok(Some(own)) => {
                folders.head.merge(&own);
                self.update(folders);
            }
            Ok(None) => {}
            // What was there is still shown.
            Err(e) => tracing::warn!("the list of restore points cannot be read: {e}"),
        }
    }

    /// Somebody is in a restore point and perhaps looks nowhere else.
    pub(super) fn look_now_and_then(&self) {
        let last = lock(&self.folders).looked;
        if last.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.look();
        }
    }

    /// The folder at a place.
    pub(super) fn folder(&self, place: usize) -> Result<Folder, Errno> {
        lock(&self.folders).get(place).cloned().ok_or(Errno::ENOENT)
    }

    /// Asks the network for restore points that other machines made or forgot, for ever.
    pub(super) async fn hear_of_others(&self, node: &Node) {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            if self.looked.swap(false, Ordering::Relaxed) {
                match self.repo.newest_head(node).await {
                    Ok(known) => self.hear(&known.head),
                    Err(e) => tracing::warn!("restore points of other machines are not known now: {e}"),
                }
            }
        }
    }
}

/// When it was made, in a form that sorts, and its name.
fn folder_name(point: &PointRef) -> String {
    let seconds = i64::try_from(point.created.0).unwrap_or(0);
    let date = jiff::Timestamp::from_second(seconds).map(|t| t.strftime("%Y-%m-%d_%H-%M-%S").to_string());
    format!("{}_{}", date.unwrap_or_default(), point.id())
}

#[cfg(test)]
mod tests {
    use ioex_base::UnixSeconds;
    use ioex_vault::repo::{RecoveryKey, Totals, seal_object};

    use super::*;

    fn point(n: u8) -> PointRef {
        let keys = RecoveryKey::from_bytes([1; 32]).keys();
        PointRef {
            created: UnixSeconds(u64::from(n)),
            expires: UnixSeconds(100),
            label: String::new(),
            origin: None,
            tags: Vec::new(),
            totals: Totals::default(),
            root: seal_object(&keys, &[n]).unwrap().0,
            rewritten: None,
        }
    }

    #[test]
    fn restore_points_keep_their_places_while_others_come_and_go() {
        let mut folders = Folders::default();
        assert_eq!(folders.update(vec![point(1), point(2)]), [] as [usize; 0]);
        let shown = |folders: &Folders| -> Vec<Option<u64>> {
            (0..4).map(|place| folders.get(place).map(|f| f.point.created.0)).collect()
        };
        assert_eq!(folders.update(vec![point(2), point(3)]), [0], "its tree is dropped");
        assert_eq!(shown(&folders), [None, Some(2), Some(3), None]);
        let mut rewritten = point(2);
        rewritten.rewrite(point(9).root);
        assert_eq!(folders.update(vec![point(1), rewritten, point(3)]), [1], "another index");
        assert_eq!(shown(&folders), [Some(1), Some(2), Some(3), None]);
    }
}
