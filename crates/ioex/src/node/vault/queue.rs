//! The queue of backups: durable, by priority, one at a time.
//!
//! A job is a file in the data folder, so a node that is killed finds its jobs again and makes the
//! one that was running anew; what it had stored is used. An urgent job interrupts a running one of
//! lower priority, which waits and then goes on the same way.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ioex_api::{
    ApiError, BackupProgress, ErrorCode, Sink, Update,
    vault::{BackupReport, CreateBackup, Job, JobList, JobState, Priority},
};
use ioex_vault::repo::{PATHS_MAX, PATHS_MAX_BYTES, Walk, backup::Progress};
use tokio::sync::{Notify, broadcast};

use super::{
    super::{Node, files},
    create, done,
    failure::{fail, internal},
    pipe::{self, PipeFile},
    placing::capability,
    schedule,
};

const JOBS_DIR: &str = "jobs";
/// Most jobs that wait.
const WAITING_MAX: usize = 1_000;
/// Ended jobs that are remembered.
const ENDED_KEPT: usize = 100;
/// Updates that wait for a slow follower; older ones are dropped.
const UPDATES_QUEUED: usize = 256;

/// What followers hear.
#[derive(Clone, Debug)]
enum News {
    Progress(BackupProgress),
    /// It ended, or waits again.
    Changed,
}

/// The queue.
pub(crate) struct Queue {
    dir: PathBuf,
    inner: Mutex<Inner>,
    wake: Notify,
    news: broadcast::Sender<(u64, News)>,
}

#[derive(Default)]
struct Inner {
    jobs: BTreeMap<u64, Job>,
    running: Option<Running>,
    next: u64,
}

struct Running {
    id: u64,
    progress: Arc<Progress>,
    /// Told to end for good, not to wait for another one.
    cancelled: Arc<AtomicBool>,
}

impl Queue {
    pub(super) fn new(vault: &Path) -> Self {
        let dir = vault.join(JOBS_DIR);
        let mut jobs = BTreeMap::new();
        for mut job in stored(&dir) {
            if matches!(job.state, JobState::Queued | JobState::Running) {
                job.state = JobState::Queued;
                if job.create.stream.is_some() {
                    job.state = JobState::Failed;
                    job.error =
                        Some(fail(ErrorCode::Io, "the node stopped, and a stream cannot be read again"));
                }
            }
            jobs.insert(job.id, job);
        }
        let next = jobs.keys().next_back().map_or(1, |id| id + 1);
        let inner = Mutex::new(Inner { jobs, running: None, next });
        Self { dir, inner, wake: Notify::new(), news: broadcast::channel(UPDATES_QUEUED).0 }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Writes a job so that it survives a crash.
    fn keep(&self, job: &Job) -> Result<(), ApiError> {
        let write = || {
            fs::create_dir_all(&self.dir)?;
            files::replace(&self.path(job.id), &serde_json::to_vec_pretty(job)?)
        };
        write().map_err(|e| fail(ErrorCode::Io, format!("the queue in {}: {e}", self.dir.display())))
    }

    pub(crate) fn add(&self, create: CreateBackup) -> Result<Job, ApiError> {
        let mut inner = self.inner();
        let waiting = inner.jobs.values().filter(|j| j.state == JobState::Queued).count();
        if waiting >= WAITING_MAX {
            return Err(fail(
                ErrorCode::NoSpace,
                format!("{WAITING_MAX} backups wait already: try again later"),
            ));
        }
        let job = Job {
            id: inner.next,
            create,
            state: JobState::Queued,
            queued: files::now(),
            ended: None,
            error: None,
            report: None,
        };
        self.keep(&job)?;
        inner.next += 1;
        inner.jobs.insert(job.id, job.clone());
        // A running one of lower priority makes way and waits.
        if let Some(running) = &inner.running
            && inner.jobs.get(&running.id).is_some_and(|r| r.create.priority < job.create.priority)
            && inner.jobs.get(&running.id).is_some_and(|r| r.create.stream.is_none())
        {
            running.progress.stop.store(true, Ordering::Relaxed);
        }
        drop(inner);
        self.wake.notify_one();
        Ok(job)
    }

    pub(super) fn list(&self) -> JobList {
        let inner = self.inner();
        let mut jobs: Vec<Job> = inner.jobs.values().cloned().collect();
        jobs.sort_by_key(|job| {
            let place = match job.state {
                JobState::Running => 0,
                JobState::Queued => 1,
                _ => 2,
            };
            // Those that ended stand in the order in which they did, whatever their priority was.
            let waits = job.ended.is_none().then_some(job.create.priority);
            (place, std::cmp::Reverse(waits), job.ended, job.id)
        });
        JobList { jobs }
    }

    /// Whether a job with this tag waits or runs.
    pub(super) fn has(&self, tag: &str) -> bool {
        let open = |j: &Job| matches!(j.state, JobState::Queued | JobState::Running);
        self.inner().jobs.values().any(|j| open(j) && j.create.tags.iter().any(|t| t == tag))
    }

    fn get(&self, id: u64) -> Result<Job, ApiError> {
        let found = self.inner().jobs.get(&id).cloned();
        found.ok_or_else(|| fail(ErrorCode::NotFound, format!("no job {id}: see `ioex backup jobs`")))
    }

    pub(super) fn cancel(&self, id: u64) -> Result<Job, ApiError> {
        let mut inner = self.inner();
        if let Some(running) = inner.running.as_ref().filter(|r| r.id == id) {
            running.cancelled.store(true, Ordering::Relaxed);
            running.progress.stop.store(true, Ordering::Relaxed);
        } else if let Some(job) = inner.jobs.get_mut(&id)
            && job.state == JobState::Queued
        {
            (job.state, job.ended) = (JobState::Cancelled, Some(files::now()));
            if let Some(stream) = &job.create.stream {
                pipe::remove(&stream.pipe);
            }
            let job = job.clone();
            self.keep(&job)?;
            let _ = self.news.send((id, News::Changed));
        }
        drop(inner);
        self.get(id)
    }

    /// Takes the next job, if there is one.
    fn take(&self) -> Option<(Job, Arc<Progress>, Arc<AtomicBool>)> {
        let mut inner = self.inner();
        let next = inner
            .jobs
            .values()
            .filter(|j| j.state == JobState::Queued)
            .max_by_key(|j| (j.create.priority, std::cmp::Reverse(j.id)))?
            .id;
        let job = inner.jobs.get_mut(&next)?;
        job.state = JobState::Running;
        let job = job.clone();
        let (progress, cancelled) = (Arc::new(Progress::default()), Arc::new(AtomicBool::new(false)));
        inner.running = Some(Running { id: next, progress: progress.clone(), cancelled: cancelled.clone() });
        Some((job, progress, cancelled))
    }

    fn ended(&self, id: u64, result: Result<BackupReport, ApiError>, stopped: bool, cancelled: bool) {
        let mut inner = self.inner();
        inner.running = None;
        let Some(job) = inner.jobs.get_mut(&id) else { return };
        match result {
            Ok(report) => (job.state, job.report) = (JobState::Done, Some(report)),
            Err(_) if cancelled => job.state = JobState::Cancelled,
            // It made way for another one.
            Err(_) if stopped => job.state = JobState::Queued,
            Err(e) => (job.state, job.error) = (JobState::Failed, Some(e)),
        }
        if job.state != JobState::Queued {
            job.ended = Some(files::now());
        }
        let job = job.clone();
        if let Err(e) = self.keep(&job) {
            tracing::warn!("{e}");
        }
        let over: Vec<u64> = inner.jobs.values().filter(|j| j.ended.is_some()).map(|j| j.id).collect();
        for old in over.iter().rev().skip(ENDED_KEPT) {
            inner.jobs.remove(old);
            let _ = fs::remove_file(self.path(*old));
        }
        drop(inner);
        let _ = self.news.send((id, News::Changed));
    }
}

fn stored(dir: &Path) -> Vec<Job> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut out = Vec::new();
    for path in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        match fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(job)) => out.push(job),
            Ok(Err(e)) => tracing::warn!("{} is no job and is left alone: {e}", path.display()),
            Err(e) => tracing::warn!("{} cannot be read: {e}", path.display()),
        }
    }
    out
}

/// Runs the jobs, one after the other, as long as the node runs.
pub(crate) async fn work(node: Arc<Node>) {
    loop {
        let queue = &node.vault.queue;
        let Some((job, progress, cancelled)) = queue.take() else {
            tokio::select! {
                () = queue.wake.notified() => continue,
                () = node.stop.cancelled() => return,
            }
        };
        let _pipe = job.create.stream.as_ref().map(|stream| PipeFile(stream.pipe.clone()));
        let tell = |progress: BackupProgress| {
            // Nobody follows: the job goes on.
            let _ = queue.news.send((job.id, News::Progress(progress)));
        };
        let making = async {
            let repo = node.vault.repo()?;
            let (create, progress) = (&job.create, progress.clone());
            let pipe = Mutex::default();
            create::Job { node: &node, repo, create, progress, tell: &tell, pipe }.run(job.id).await
        };
        let result = tokio::select! {
            result = making => result,
            () = node.stop.cancelled() => {
                // The job's file says that it was running: the next start makes it again.
                progress.stop.store(true, Ordering::Relaxed);
                return;
            }
        };
        if let Err(e) = &result {
            tracing::info!("backup {} ended: {e}", job.id);
        }
        let stopped = progress.stop.load(Ordering::Relaxed)
            && matches!(&result, Err(e) if e.code == ErrorCode::Timeout);
        queue.ended(job.id, result, stopped, cancelled.load(Ordering::Relaxed));
        if let Ok(job) = queue.get(job.id) {
            schedule::note(&node, &job);
        }
    }
}

/// See [`ioex_api::vault::VaultRequest::Create`].
pub(super) async fn create(
    node: &Node,
    create: CreateBackup,
    sink: &Sink,
) -> Result<serde_json::Value, ApiError> {
    capability(node)?;
    check(&create)?;
    check_patterns(&create)?;
    let wait = !create.no_wait;
    let mut news = node.vault.queue.news.subscribe();
    let job = node.vault.queue.add(create)?;
    if !wait {
        return done(job);
    }
    done(watch(node, job.id, &mut news, sink).await?)
}

/// Refuses patterns that nothing fits. What was scheduled with one before goes on.
///
/// # Errors
/// The first of them.
pub(super) fn check_patterns(create: &CreateBackup) -> Result<(), ApiError> {
    let bad = |text: String| Err(fail(ErrorCode::BadRequest, text));
    let never =
        |p: &&String| p.ends_with('/') || (p.contains('/') && !p.starts_with(['/', '*', '?', '[', '{']));
    if let Some(pattern) = create.exclude.iter().find(never) {
        return bad(format!(
            "nothing fits the pattern '{pattern}': one with a slash stands for an absolute path, such as \
             /home/anna/cache or **/cache/*.tmp, and none ends with a slash"
        ));
    }
    Ok(())
}

/// Refuses at once what would fail later.
pub(super) fn check(create: &CreateBackup) -> Result<(), ApiError> {
    let bad = |text: String| Err(fail(ErrorCode::BadRequest, text));
    if !create.policy.is_empty()
        && let Err(e) = create.policy.parse::<ioex_vault::Wanted>()
    {
        return bad(e.to_string());
    }
    create::days(create)?;
    match &create.stream {
        Some(_) if !create.paths.is_empty() => {
            return bad("either paths or a stream can be backed up, not both".into());
        }
        Some(stream) => {
            if let Err(e) = ioex_vault::safe_file_name(&stream.name) {
                return bad(format!("'{}' is no name for a stream: {e}", stream.name));
            }
        }
        None if create.paths.is_empty() || create.paths.len() > PATHS_MAX => {
            return bad(format!("1 to {PATHS_MAX} files or folders can be backed up together"));
        }
        None => {}
    }
    if create.tags.len() > PATHS_MAX {
        return bad(format!("at most {PATHS_MAX} tags are possible"));
    }
    let paths: usize = create.paths.iter().map(|p| p.as_os_str().len()).sum();
    if paths + create.tags.iter().map(String::len).sum::<usize>() > PATHS_MAX_BYTES {
        return bad(format!("paths and tags have more than {PATHS_MAX_BYTES} bytes: back fewer up together"));
    }
    if create.stream.is_none() {
        Walk::new(&create.paths, &[], create.one_file_system).map_err(create::walk_error)?;
    }
    Ok(())
}

/// See [`ioex_api::vault::VaultRequest::Follow`].
pub(super) async fn follow(node: &Node, id: u64, sink: &Sink) -> Result<BackupReport, ApiError> {
    let mut news = node.vault.queue.news.subscribe();
    watch(node, id, &mut news, sink).await
}

async fn watch(
    node: &Node,
    id: u64,
    news: &mut broadcast::Receiver<(u64, News)>,
    sink: &Sink,
) -> Result<BackupReport, ApiError> {
    loop {
        let job = node.vault.queue.get(id)?;
        match job.state {
            JobState::Done => return job.report.ok_or_else(|| internal("a job without a report")),
            JobState::Failed => return Err(job.error.unwrap_or_else(|| internal("a job without a reason"))),
            JobState::Cancelled => {
                return Err(fail(ErrorCode::NotFound, format!("backup {id} was taken out of the queue")));
            }
            JobState::Queued | JobState::Running => {}
        }
        match news.recv().await {
            Ok((of, News::Progress(progress))) if of == id => {
                // The job goes on without its client.
                let _ = sink.update(Update::Backup(progress)).await;
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return Err(internal("the node is stopping")),
        }
    }
}

/// The priority of what the schedule makes: nobody waits for it.
pub(super) const SCHEDULED: Priority = Priority::Low;

#[cfg(test)]
mod tests {
    use super::*;

    fn job(priority: Priority) -> CreateBackup {
        CreateBackup { paths: vec!["/".into()], priority, ..CreateBackup::default() }
    }

    #[test]
    fn urgent_ones_overtake_and_the_queue_survives() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::new(dir.path());
        for priority in [Priority::Low, Priority::Normal, Priority::Normal] {
            queue.add(job(priority)).unwrap();
        }
        let (first, progress, _) = queue.take().unwrap();
        assert_eq!(first.id, 2, "the older one of normal priority");
        assert!(!progress.stop.load(Ordering::Relaxed));
        queue.add(job(Priority::Urgent)).unwrap();
        assert!(progress.stop.load(Ordering::Relaxed), "it makes way");
        drop(queue);
        // Killed here: the job that ran is there, and waits.
        let queue = Queue::new(dir.path());
        assert_eq!(queue.take().unwrap().0.id, 4);
        queue.ended(4, Err(internal("x")), false, false);
        assert_eq!(queue.get(4).unwrap().state, JobState::Failed);
        assert_eq!(queue.take().unwrap().0.id, 2);
        queue.ended(2, Err(internal("stopped")), true, false);
        assert_eq!(queue.get(2).unwrap().state, JobState::Queued);
        assert_eq!(queue.cancel(3).unwrap().state, JobState::Cancelled);
        assert_eq!(queue.cancel(9).unwrap_err().code, ErrorCode::NotFound);
    }

    #[test]
    fn those_that_ended_are_listed_as_they_ended() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::new(dir.path());
        for priority in [Priority::Low, Priority::Normal, Priority::Urgent, Priority::Low] {
            queue.add(job(priority)).unwrap();
        }
        for (id, ended) in [(3, 20), (1, 30), (2, 40)] {
            let mut inner = queue.inner();
            let job = inner.jobs.get_mut(&id).unwrap();
            (job.state, job.ended) = (JobState::Done, Some(ioex_base::UnixSeconds(ended)));
        }
        let order: Vec<u64> = queue.list().jobs.iter().map(|job| job.id).collect();
        assert_eq!(order, [4, 3, 1, 2]);
    }

    #[test]
    fn nonsense_is_refused_before_it_waits() {
        let refused = |change: fn(&mut CreateBackup)| {
            let mut create = job(Priority::Normal);
            change(&mut create);
            check(&create).map_err(|e| e.code)
        };
        assert_eq!(refused(|_| ()), Ok(()));
        assert_eq!(refused(|c| c.tags.push("t".repeat(PATHS_MAX_BYTES))), Err(ErrorCode::BadRequest));
        assert_eq!(refused(|c| c.paths.clear()), Err(ErrorCode::BadRequest));
        assert_eq!(refused(|c| c.policy = "many".into()), Err(ErrorCode::BadRequest));
        assert_eq!(refused(|c| c.paths = vec!["/no/such".into()]), Err(ErrorCode::NotFound));
        assert_eq!(refused(|c| c.paths = vec!["/dev/null".into()]), Err(ErrorCode::BadRequest));
        assert_eq!(refused(|c| c.paths = vec![format!("/{}", "n".repeat(300)).into()]), Err(ErrorCode::Io));
        for days in [0, 91, u32::MAX] {
            let create = CreateBackup { days: Some(days), ..job(Priority::Normal) };
            assert_eq!(check(&create).map_err(|e| e.code), Err(ErrorCode::BadRequest), "{days}");
        }
        for (pattern, is_good) in [
            ("t/sub", false),
            ("sub/", false),
            ("/t/", false),
            ("*.o", true),
            ("/t/sub", true),
            ("**/t/*.o", true),
        ] {
            let create = CreateBackup { exclude: vec![pattern.into()], ..job(Priority::Normal) };
            assert_eq!(check_patterns(&create).is_ok(), is_good, "{pattern}");
            assert!(check(&create).is_ok(), "one that was scheduled goes on");
        }
    }
}
