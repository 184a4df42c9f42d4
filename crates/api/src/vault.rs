//! Requests and replies about a repository of restore points. The rules of the parent module's types
//! hold here too; dates are seconds since 1970, sizes bytes.

use std::path::PathBuf;

use ioex_base::{Uid, UnixSeconds};
use serde::{Deserialize, Serialize};

/// What may be asked about the repository of this node's owner. `action` names the case. Updates are
/// [`Update::Backup`](crate::Update::Backup) unless another type is named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum VaultRequest {
    /// Puts a backup into the queue and follows it until it ends. → [`BackupReport`].
    Create(CreateBackup),
    /// The queue, and what ended lately. → [`JobList`].
    Jobs,
    /// Follows a job until it ends. → [`BackupReport`].
    Follow {
        /// Which.
        job: u64,
    },
    /// Takes a job out of the queue, or ends it. → [`Job`].
    Cancel {
        /// Which.
        job: u64,
    },
    /// Restore points. → [`PointList`].
    List {
        /// Which.
        #[serde(default)]
        of: PointFilter,
    },
    /// Restores. → [`TreeRestored`].
    Restore(RestoreTree),
    /// What lies in a restore point. Updates: [`Update::Listed`](crate::Update::Listed). → [`crate::Empty`].
    Ls {
        /// Which restore point.
        point: PointQuery,
        /// Of which.
        #[serde(default)]
        of: PointFilter,
        /// Only below these paths, written as [`Listed::path`].
        paths: Vec<PathBuf>,
    },
    /// What changed between two restore points. Updates: [`Update::Changed`](crate::Update::Changed).
    /// → [`DiffTotals`].
    Diff {
        /// The older one.
        old: PointQuery,
        /// The newer one.
        new: PointQuery,
        /// Of which.
        #[serde(default)]
        of: PointFilter,
    },
    /// Checks that everything a restore needs is there. → [`Verified`].
    Verify {
        /// Which restore point.
        point: PointQuery,
        /// Of which.
        #[serde(default)]
        of: PointFilter,
        /// How much of the content is fetched and compared, in percent.
        read_percent: u8,
    },
    /// Keeps restore points for longer. → [`PointList`] of those renewed.
    Renew {
        /// Which; none means all.
        points: Vec<PointQuery>,
        /// For how many days from now.
        days: Option<u32>,
    },
    /// Drops restore points from the list. → [`PointList`] of those dropped.
    Forget {
        /// Which.
        points: Vec<PointQuery>,
        /// Or: what to keep of each source, a source being a machine with the paths that were backed up.
        keep: Keep,
        /// Of which; all others are kept.
        #[serde(default)]
        of: PointFilter,
        /// Only says what would be dropped.
        dry_run: bool,
    },
    /// Gives back what no restore point needs. → [`Pruned`].
    Prune {
        /// Only says what would be given back.
        dry_run: bool,
        /// How much of what is stored may stay unused, in percent; unless it is given, as much as the node
        /// finds right.
        #[serde(default)]
        max_unused: Option<u8>,
    },
    /// Looks after everything that was stored, now: audits, repairs. → [`WatchReport`].
    Repair,
    /// Shows restore points as folders, as long as the client stays. → [`crate::Empty`].
    Mount {
        /// An empty folder.
        dir: PathBuf,
        /// Which.
        #[serde(default)]
        of: PointFilter,
    },
    /// The words of the recovery key. → [`RecoveryWords`].
    ExportKey,
    /// Takes a recovery key over. → [`RecoveryWords`] with the new repository and no words.
    ImportKey {
        /// The words.
        words: String,
        /// Even if this node has a repository of its own, whose key is then lost here.
        replace: bool,
    },
    /// Makes a backup at set times. → [`Schedule`].
    ScheduleAdd(Schedule),
    /// → [`ScheduleList`].
    ScheduleList,
    /// → [`crate::Empty`].
    ScheduleRemove {
        /// Its name.
        name: String,
    },
    /// Lets another super node, a friend, watch over this one's backups, and watches over those that it
    /// brings. → [`PartnerList`].
    PartnerAdd {
        /// Who.
        uid: Uid,
    },
    /// Ends that. → [`crate::Empty`].
    PartnerRemove {
        /// Who.
        uid: Uid,
    },
    /// → [`PartnerList`].
    PartnerList,
}

/// Which restore point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum PointQuery {
    /// The newest.
    #[default]
    Latest,
    /// Its name, or the beginning of it.
    Id {
        /// At least four characters.
        id: String,
    },
    /// The newest one that is no newer than this.
    At {
        /// The date.
        date: UnixSeconds,
    },
}

/// Some of all restore points: those that fit everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointFilter {
    /// Made on the machine with this name.
    pub host: Option<String>,
    /// Made of exactly these paths, in any order.
    pub sources: Vec<PathBuf>,
    /// With all of these words.
    pub tags: Vec<String>,
}

/// A backup to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateBackup {
    /// Absolute paths.
    pub paths: Vec<PathBuf>,
    /// A pipe with framed bytes to read instead, and the name to give them.
    pub stream: Option<Stream>,
    /// Patterns of names to leave out.
    pub exclude: Vec<String>,
    /// Whether to stay on the paths' own file systems.
    pub one_file_system: bool,
    /// `auto`, `replicas=N`, or `rs=K/M/O/N`.
    pub policy: String,
    /// For how many days it is kept; at most, and by default, ninety.
    pub days: Option<u32>,
    /// The owner's words.
    pub tags: Vec<String>,
    /// When it runs.
    pub priority: Priority,
    /// Whether to return once it is in the queue.
    pub no_wait: bool,
}

/// Bytes that come through a pipe, in frames (see [`crate::frames`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// The pipe. Whoever asks holds it open for writing from before it asks on: without a writer it counts as gone.
    pub pipe: PathBuf,
    /// The name under which they are stored.
    pub name: String,
}

/// Which of several jobs runs first. Among equals, the one that waits longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// When nothing else is to be done.
    Low,
    /// In turn.
    #[default]
    Normal,
    /// Before all others; a running one waits.
    Urgent,
}

/// A job of the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Names it.
    pub id: u64,
    /// What is backed up.
    pub create: CreateBackup,
    /// Where it stands.
    pub state: JobState,
    /// When it came.
    pub queued: UnixSeconds,
    /// When it ended.
    pub ended: Option<UnixSeconds>,
    /// Why it failed, when it did.
    pub error: Option<crate::ApiError>,
    /// What it came to, when it is done.
    pub report: Option<BackupReport>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Waits.
    Queued,
    /// Runs.
    Running,
    /// Has its restore point.
    Done,
    /// Failed; see the error.
    Failed,
    /// Taken out.
    Cancelled,
}

/// Jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// Those that wait in the order in which they will run, then those that ended.
    pub jobs: Vec<Job>,
}

/// What was counted in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Folders.
    pub dirs: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of chunks that were not stored before.
    pub new_bytes: u64,
    /// Bytes of the shards made of them, one copy, without parity.
    pub stored_bytes: u64,
    /// Files that were read.
    pub read_files: u64,
}

/// A restore point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Names it.
    pub id: String,
    /// When it was made.
    pub created: UnixSeconds,
    /// Until when it is kept.
    pub expires: UnixSeconds,
    /// The machine, and what was backed up.
    pub label: String,
    /// What was counted.
    pub totals: Totals,
    /// How many files are not, or not whole, in it; absent where that was not looked up.
    #[serde(default)]
    pub problems_total: Option<u64>,
}

/// Restore points.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PointList {
    /// The repository.
    pub repo: Option<Uid>,
    /// Oldest first.
    pub points: Vec<Point>,
    /// Names of those that need a group which the last round of the watch found lost; only in a list.
    pub harmed: Vec<String>,
    /// What the owner should know: points that end soon, for example.
    pub warnings: Vec<String>,
}

/// Something that is not in a restore point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its path, written as [`Listed::path`].
    pub path: String,
    /// When `path` is not the name itself but stands for it (a backslash in it may begin an escape): the name's
    /// bytes in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Why.
    pub why: String,
}

/// A finished backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The job.
    pub job: u64,
    /// The restore point.
    pub point: Point,
    /// The redundancy that was used.
    pub policy: String,
    /// What the policy could not give, in words.
    pub notes: Vec<String>,
    /// Groups that were stored.
    pub groups: u64,
    /// Bytes that went to devices, all copies and parity.
    pub placed_bytes: u64,
    /// Groups of earlier restore points that are kept for longer.
    pub renewed_groups: u64,
    /// Who took how much.
    pub holders: Vec<crate::Holding>,
    /// Files that were left out, at most five hundred.
    pub problems: Vec<Problem>,
    /// How many there were.
    pub problems_total: u64,
    /// Sockets, pipes and devices that were met: they are never backed up, and are no problems.
    #[serde(default)]
    pub special_files: u64,
    /// Wall time of the last run.
    pub seconds: f64,
}

/// What to restore, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTree {
    /// Which restore point.
    pub point: PointQuery,
    /// Of which.
    #[serde(default)]
    pub of: PointFilter,
    /// Only these paths: absolute ones as they were, or relative to the restore point's folder; written as
    /// [`Listed::path`].
    pub paths: Vec<PathBuf>,
    /// Absolute path to write; must not exist.
    pub out: PathBuf,
    /// Instead: a pipe that takes one file's bytes in frames.
    pub pipe: Option<PathBuf>,
    /// Upper bound on the rate in bytes per second; 0 is unlimited.
    pub rate_limit: u64,
}

/// A finished restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeRestored {
    /// The restore point.
    pub point: Point,
    /// What was written; absent for a pipe.
    pub path: Option<PathBuf>,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were fetched.
    pub fetched_bytes: u64,
    /// Shards that had to be computed from others of their group.
    pub rebuilt_shards: u64,
    /// Who sent how much.
    pub holders: Vec<crate::Holding>,
    /// Devices that failed on the way.
    pub failed: Vec<Uid>,
    /// Wall time.
    pub seconds: f64,
}

/// An entry of a restore point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its path below the restore point's folder. What is no text (UTF-8) in it, and control characters, are
    /// `\xHH`, and a backslash is `\\` where it could be mistaken for the beginning of either.
    pub path: String,
    /// When `path` is not the name itself but stands for it (a backslash in it may begin an escape): the name's
    /// bytes in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// `dir`, `file`, `link` or `hard-link`.
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes, for files.
    pub size: u64,
    /// When it last changed.
    pub modified: i64,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// `added`, `removed`, `changed` or `attributes`.
    pub change: String,
    /// The path below the restore point's folder, written as [`Listed::path`].
    pub path: String,
    /// When `path` is not the name itself but stands for it (a backslash in it may begin an escape): the name's
    /// bytes in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Bytes before, for files.
    pub old_size: Option<u64>,
    /// Bytes after, for files.
    pub new_size: Option<u64>,
}

/// How many differences there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffTotals {
    /// Only in the newer one.
    pub added: u64,
    /// Only in the older one.
    pub removed: u64,
    /// With another content.
    pub changed: u64,
    /// With the same content and other attributes.
    pub attributes: u64,
}

/// The outcome of a verification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The restore point.
    pub point: Point,
    /// Groups that it needs.
    pub groups: u64,
    /// Of these, groups that have lost shards and can be read.
    pub degraded: u64,
    /// Of these, groups that cannot be read now.
    pub unreadable: u64,
    /// Shards whose holders proved to have them.
    pub proven_shards: u64,
    /// Bytes of content that were fetched and compared.
    pub read_bytes: u64,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// Wall time.
    pub seconds: f64,
}

/// What to keep when others are forgotten; zeros keep nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many weeks.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
}

/// What pruning gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Groups that nothing needs, those included that were packed again.
    pub groups: u64,
    /// Bytes of them at devices.
    pub bytes: u64,
    /// Groups that are still needed.
    pub kept_groups: u64,
    /// Groups of which little was needed, which was packed again.
    pub repacked_groups: u64,
    /// Bytes of that, one copy.
    pub repacked_bytes: u64,
    /// Small parts of the index that were joined.
    pub joined_segments: u64,
    /// Devices that could not be told; their leases end by themselves.
    pub unreached: u64,
    /// What the owner should know.
    pub notes: Vec<String>,
}

/// What a round of watching came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WatchReport {
    /// Devices that were asked.
    pub devices: u64,
    /// Of these, devices that could not be reached.
    pub silent: u64,
    /// Parts of shards that were to be proven.
    pub asked: u64,
    /// Of these, parts that were not.
    pub faults: u64,
    /// Groups that are watched over.
    pub groups: u64,
    /// Groups that got new shards.
    pub repaired_groups: u64,
    /// Groups that lost shards and could not get new ones now.
    pub unrepaired_groups: u64,
    /// Groups with fewer shards than their policy wants, which have what the devices with room allow:
    /// they get more as soon as further owners lend space.
    pub degraded_groups: u64,
    /// Groups that cannot be read any more.
    pub lost_groups: u64,
    /// Names of the own restore points that need such groups.
    pub harmed_points: Vec<String>,
    /// New shards.
    pub placed_shards: u64,
    /// Bytes of them.
    pub placed_bytes: u64,
    /// Shards that devices could give back.
    pub handed_over: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Super nodes that watch together with this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartnerList {
    /// In the order in which they were added.
    pub partners: Vec<Partner>,
}

/// A super node that watches over this one's backups, and whose backups are watched over here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    /// Who.
    pub uid: Uid,
    /// Since when.
    pub added: UnixSeconds,
    /// When it was last heard of, since this node started.
    pub heard: Option<UnixSeconds>,
    /// It was not heard of for so long that its part of the work is done by others.
    pub silent: bool,
    /// Groups of its backups that are watched over here.
    pub watched_groups: u64,
    /// Why the last exchange with it failed.
    pub trouble: Option<String>,
}

/// A recovery key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryWords {
    /// The repository that follows from it.
    pub repo: Uid,
    /// The words, separated by blanks.
    pub words: String,
}

impl std::fmt::Debug for RecoveryWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecoveryWords(of {})", self.repo)
    }
}

/// A backup that is made again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Names it.
    pub name: String,
    /// The pause between two runs, in seconds.
    pub every_seconds: u64,
    /// What is backed up.
    pub create: CreateBackup,
    /// Restore points of it beyond this many are forgotten; 0 keeps all until they end.
    pub keep: u32,
    /// When it was last put into the queue.
    pub last: Option<UnixSeconds>,
    /// How its last run ended.
    #[serde(default)]
    pub result: Option<LastRun>,
}

/// How a schedule's run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The job; none when it could not even be put into the queue.
    pub job: Option<u64>,
    /// When it ended.
    pub ended: UnixSeconds,
    /// The restore point that it made.
    pub point: Option<String>,
    /// Why it made none.
    pub error: Option<crate::ApiError>,
    /// Files that are not, or not whole, in the restore point.
    #[serde(default)]
    pub problems_total: u64,
}

/// Schedules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScheduleList {
    /// By name.
    pub schedules: Vec<Schedule>,
}
