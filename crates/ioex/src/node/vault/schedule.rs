//! Backups at set times.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use ioex_api::{
    ApiError, Empty, ErrorCode,
    vault::{Keep, PointQuery, Schedule, ScheduleList},
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

fn write(node: &Node, schedules: &[Schedule]) -> Result<(), ApiError> {
    let (path, bytes) = (path(node), serde_json::to_vec_pretty(schedules).map_err(internal)?);
    let folder = super::super::parent_of(&path).to_owned();
    files::private_dir(&folder).map_err(|e| fail(ErrorCode::Io, format!("{e:#}")))?;
    let new = path.with_extension("new");
    let put = || {
        fs::write(&new, &bytes)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &path)
    };
    put().map_err(io_error(&path))
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
    queue::check(&schedule.create)?;
    let mut all = read(node)?;
    if all.iter().any(|s| s.name == schedule.name) {
        let text = format!("there is a schedule '{}' already: remove it first", schedule.name);
        return Err(fail(ErrorCode::Exists, text));
    }
    if all.len() >= SCHEDULES_MAX {
        return Err(fail(ErrorCode::NoSpace, format!("at most {SCHEDULES_MAX} schedules are possible")));
    }
    schedule.create.priority = SCHEDULED;
    schedule.create.tags.push(tag(&schedule.name));
    schedule.last = None;
    all.push(schedule.clone());
    all.sort_by(|a, b| a.name.cmp(&b.name));
    write(node, &all)?;
    Ok(schedule)
}

/// See [`ioex_api::vault::VaultRequest::ScheduleList`].
pub(super) fn list(node: &Node) -> Result<ScheduleList, ApiError> {
    Ok(ScheduleList { schedules: read(node)? })
}

/// See [`ioex_api::vault::VaultRequest::ScheduleRemove`].
pub(super) fn remove(node: &Node, name: &str) -> Result<Empty, ApiError> {
    let mut all = read(node)?;
    let before = all.len();
    all.retain(|s| s.name != name);
    if all.len() == before {
        return Err(fail(ErrorCode::NotFound, format!("no schedule '{name}'")));
    }
    write(node, &all)?;
    Ok(Empty {})
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
        node.vault.queue.add(schedule.create.clone())?;
        // Read anew: somebody may have changed the list.
        let mut all = read(node)?;
        if let Some(known) = all.iter_mut().find(|s| s.name == schedule.name) {
            known.last = Some(now);
        }
        write(node, &all)?;
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

/// The queries that name these points.
pub(super) fn ids(points: &[ioex_vault::repo::PointRef]) -> Vec<PointQuery> {
    points.iter().map(|p| PointQuery::Id { id: p.id().to_string() }).collect()
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
        };
        assert!(is_due(&schedule(None), UnixSeconds(5)));
        assert!(!is_due(&schedule(Some(UnixSeconds(1_000))), UnixSeconds(1_099)));
        assert!(is_due(&schedule(Some(UnixSeconds(1_000))), UnixSeconds(1_100)));
        assert!(is_due(&schedule(Some(UnixSeconds(1_000))), UnixSeconds(900)), "the clock was put back");
    }
}
