//! Backups at set times.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ioex_api::{
    ApiError, Empty, ErrorCode,
    vault::{Job, JobState, Keep, LastRun, Schedule, ScheduleList},
};
use ioex_base::{UnixSeconds, limits::LABEL_MAX_BYTES};

use super::{
    super::{Node, files},
    failure::{fail, internal, io_error},
    manage,
    queue::{self, SCHEDULED},
};

const FILE: &str = "schedules.json";
/// Most schedules.
const SCHEDULES_MAX: usize = 100;
/// Shortest pause between two runs, in seconds: restore points beyond the most that a repository
/// holds would be lost.
const EVERY_MIN_SECONDS: u64 = 3_600;
/// How often the node looks whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(20);

fn path(node: &Node) -> PathBuf {
    node.config.data.join(super::VAULT_DIR).join(FILE)
}

fn read(node: &Node) -> Result<Vec<Schedule>, ApiError> {
    let path = path(node);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| fail(ErrorCode::Io, format!("{} is damaged: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(io_error(&path)(e)),
    }
}

/// Held while the list is read and written.
static CHANGING: Mutex<()> = Mutex::new(());

/// Changes the list.
fn change<T>(
    node: &Node,
    work: impl FnOnce(&mut Vec<Schedule>) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = read(node)?;
    let out = work(&mut all)?;
    write(node, &all)?;
    Ok(out)
}

fn write(node: &Node, schedules: &[Schedule]) -> Result<(), ApiError> {
    let (path, bytes) = (path(node), serde_json::to_vec_pretty(schedules).map_err(internal)?);
    let folder = super::super::parent_of(&path).to_owned();
    files::private_dir(&folder).map_err(|e| fail(ErrorCode::Io, format!("{e:#}")))?;
    files::replace(&path, &bytes).map_err(io_error(&path))
}

/// The tag that restore points of a schedule carry.
fn tag(name: &str) -> String {
    format!("schedule:{name}")
}

/// See [`ioex_api::vault::VaultRequest::ScheduleAdd`].
pub(super) fn add(node: &Node, mut schedule: Schedule) -> Result<Schedule, ApiError> {
    let bad = |text: String| fail(ErrorCode::BadRequest, text);
    if schedule.name.is_empty() || schedule.name.len() > LABEL_MAX_BYTES {
        return Err(bad(format!("a schedule needs a name of at most {LABEL_MAX_BYTES} bytes")));
    }
    if schedule.every_seconds < EVERY_MIN_SECONDS {
        return Err(bad("the shortest pause between two backups is an hour".into()));
    }
    if schedule.create.stream.is_some() {
        return Err(bad("a stream cannot be backed up again and again: run the command from a timer".into()));
    }
    schedule.create.priority = SCHEDULED;
    schedule.create.tags.push(tag(&schedule.name));
    queue::check(&schedule.create)?;
    queue::check_patterns(&schedule.create)?;
    (schedule.last, schedule.result) = (None, None);
    change(node, |all| {
        if all.iter().any(|s| s.name == schedule.name) {
            let text = format!("there is a schedule '{}' already: remove it first", schedule.name);
            return Err(fail(ErrorCode::Exists, text));
        }
        if all.len() >= SCHEDULES_MAX {
            return Err(fail(ErrorCode::NoSpace, format!("at most {SCHEDULES_MAX} schedules are possible")));
        }
        all.push(schedule.clone());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(schedule)
    })
}

/// See [`ioex_api::vault::VaultRequest::ScheduleList`].
pub(super) fn list(node: &Node) -> Result<ScheduleList, ApiError> {
    Ok(ScheduleList { schedules: read(node)? })
}

/// See [`ioex_api::vault::VaultRequest::ScheduleRemove`].
pub(super) fn remove(node: &Node, name: &str) -> Result<Empty, ApiError> {
    change(node, |all| {
        let before = all.len();
        all.retain(|s| s.name != name);
        if all.len() == before {
            return Err(fail(ErrorCode::NotFound, format!("no schedule '{name}'")));
        }
        Ok(Empty {})
    })
}

/// Whether a schedule is due. After a clock that was put back it runs rather than waits.
fn is_due(schedule: &Schedule, now: UnixSeconds) -> bool {
    schedule.last.is_none_or(|last| last > now || now.since(last) >= schedule.every_seconds)
}

/// Makes what is due, as long as the node runs.
pub(crate) async fn work(node: Arc<Node>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = node.stop.cancelled() => return,
        }
        let looked = tokio::select! {
            looked = look(&node) => looked,
            () = node.stop.cancelled() => return,
        };
        if let Err(e) = looked {
            node.mesh.warn(format!("a scheduled backup could not be made: {e}"));
        }
    }
}

async fn look(node: &Node) -> Result<(), ApiError> {
    let now = files::now();
    for schedule in read(node)? {
        if !is_due(&schedule, now) || node.vault.queue.has(&tag(&schedule.name)) {
            continue;
        }
        let added =
            queue::check(&schedule.create).and_then(|()| node.vault.queue.add(schedule.create.clone()));
        change(node, |all| {
            if let Some(known) = all.iter_mut().find(|s| s.name == schedule.name) {
                known.last = Some(now);
                if let Err(e) = &added {
                    let error = Some(e.clone());
                    known.result =
                        Some(LastRun { job: None, ended: now, point: None, error, problems_total: 0 });
                }
            }
            Ok(())
        })?;
        if let Err(e) = added {
            node.mesh.warn(format!("the backup of the schedule '{}' could not be made: {e}", schedule.name));
            continue;
        }
        if schedule.keep > 0 {
            let keep = Keep { last: schedule.keep, ..Keep::default() };
            if let Err(e) = manage::forget_tagged(node, &tag(&schedule.name), keep).await {
                node.mesh
                    .warn(format!("old restore points of '{}' could not be forgotten: {e}", schedule.name));
            }
        }
    }
    Ok(())
}

/// How a job ended, as its schedule tells it.
fn outcome(job: &Job) -> Option<LastRun> {
    let cancelled = || fail(ErrorCode::Timeout, "it was cancelled");
    let error = match job.state {
        JobState::Queued | JobState::Running => return None,
        JobState::Done => None,
        JobState::Failed => job.error.clone(),
        JobState::Cancelled => Some(cancelled()),
    };
    let point = job.report.as_ref().map(|report| report.point.id.clone());
    let problems_total = job.report.as_ref().map_or(0, |report| report.problems_total);
    Some(LastRun { job: Some(job.id), ended: job.ended.unwrap_or(job.queued), point, error, problems_total })
}

/// Notes how a job ended with the schedule that it belongs to, if there is one.
pub(super) fn note(node: &Node, job: &Job) {
    let Some(outcome) = outcome(job) else { return };
    let of = |s: &&mut Schedule| job.create.tags.contains(&tag(&s.name));
    let ours = |s: &Schedule| job.create.tags.contains(&tag(&s.name));
    if !read(node).is_ok_and(|all| all.iter().any(ours)) {
        return;
    }
    if let Some(error) = &outcome.error {
        node.mesh.warn(format!("the scheduled backup {} failed: {}", job.id, error.message));
    } else if outcome.problems_total > 0 {
        node.mesh.warn(format!(
            "the scheduled backup {} is incomplete: {} files are not, or not whole, in it; `ioex backup follow {0}` \
             names them",
            job.id, outcome.problems_total
        ));
    }
    let noted = change(node, |all| {
        if let Some(schedule) = all.iter_mut().find(of) {
            schedule.result = Some(outcome);
        }
        Ok(())
    });
    if let Err(e) = noted {
        tracing::warn!("how a scheduled backup ended could not be noted: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_is_by_the_pause_and_survives_clocks() {
        let schedule = |last| Schedule {
            name: "s".into(),
            every_seconds: 100,
            create: ioex_api::vault::CreateBackup::default(),
            keep: 0,
            last,
            result: None,
        };
        assert!(is_due(&schedule(None), UnixSeconds(5)));
        assert!(!is_due(&schedule(Some(UnixSeconds(1_000))), UnixSeconds(1_099)));
        assert!(is_due(&schedule(Some(UnixSeconds(1_000))), UnixSeconds(1_100)));
        assert!(is_due(&schedule(Some(UnixSeconds(1_000))), UnixSeconds(900)), "the clock was put back");
    }

    #[test]
    fn a_failed_run_says_when_and_why() {
        let mut job = Job {
            id: 7,
            create: ioex_api::vault::CreateBackup::default(),
            state: JobState::Running,
            queued: UnixSeconds(10),
            ended: None,
            error: None,
            report: None,
        };
        assert_eq!(outcome(&job), None);
        (job.state, job.ended) = (JobState::Failed, Some(UnixSeconds(20)));
        job.error = Some(fail(ErrorCode::NotEnoughHolders, "no devices"));
        let failed = outcome(&job).unwrap();
        assert_eq!((failed.job, failed.ended, failed.point), (Some(7), UnixSeconds(20), None));
        assert_eq!(failed.error.map(|e| e.message), Some("no devices".into()));
        (job.state, job.error) = (JobState::Done, None);
        assert_eq!(outcome(&job).unwrap().error, None);
        // A list that an older program wrote.
        let old = r#"[{"name":"s","every_seconds":3600,"create":{"paths":["/"],"stream":null,"exclude":[],
            "one_file_system":false,"policy":"","days":null,"tags":[],"priority":"low","no_wait":false},
            "keep":0,"last":5}]"#;
        let read: Vec<Schedule> = serde_json::from_str(old).unwrap();
        assert_eq!((read[0].last, &read[0].result), (Some(UnixSeconds(5)), &None));
    }
}
