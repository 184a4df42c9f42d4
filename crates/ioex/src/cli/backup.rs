//! `backup …`: restore points of files and folders, and single files with a manifest.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::size;

/// `backup …`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Back files and folders up into a new restore point (super nodes)
    #[command(
        after_help = "`-` as the only PATH backs up what comes on stdin: pg_dump shop | ioex backup create - --name shop.sql\n\n\
                      Ctrl-C ends this command, not the backup, which says how to follow or cancel it; one from stdin ends"
    )]
    Create(CreateArgs),
    /// List the restore points
    List(FilterArgs),
    /// Restore a restore point, or some paths of it
    Restore(RestoreArgs),
    /// List what lies in a restore point
    Ls {
        /// Which restore point.
        #[command(flatten)]
        point: PointArgs,
        /// Only below these paths
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Show what changed between two restore points
    Diff {
        /// The older one: a name as in `ioex backup list`
        old: String,
        /// The newer one [default: the newest]
        new: Option<String>,
        /// Of which.
        #[command(flatten)]
        of: FilterArgs,
    },
    /// Check that a restore point can be restored: its holders prove what they have
    Verify {
        /// Which restore point.
        #[command(flatten)]
        point: PointArgs,
        /// Also fetch, decrypt and compare this much of the content
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
        read_percent: u8,
    },
    /// Show all restore points as folders, read-only, until Ctrl-C
    Mount {
        /// An empty folder
        dir: PathBuf,
        /// Which.
        #[command(flatten)]
        of: FilterArgs,
    },
    /// Keep restore points for longer
    Renew {
        /// Names as in `ioex backup list`
        #[arg(value_name = "POINT", required_unless_present = "all")]
        points: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "points")]
        all: bool,
        /// For how many days from now [default: 90]
        #[arg(long, value_name = "N")]
        days: Option<u32>,
    },
    /// Drop restore points from the list; `prune` then gives their space back
    Forget(ForgetArgs),
    /// Give back the space of what no restore point needs
    Prune {
        /// Pack half-used groups again, until at most this much of what is stored is unused, in percent;
        /// 100: never [default: 10]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
        max_unused: Option<u8>,
        /// Only say what would be given back
        #[arg(long)]
        dry_run: bool,
    },
    /// Look after everything that was stored, now: devices prove what they have, and what was lost is made
    /// anew; the super node also does this by itself
    Repair,
    /// Super nodes that watch over each other's backups, so that none of them is needed
    #[command(subcommand)]
    Partner(PartnerCommand),
    /// List backups that wait, run or ended
    Jobs,
    /// Follow a backup until it ends
    Follow {
        /// Its number, as in `ioex backup jobs`
        job: u64,
    },
    /// Take a backup out of the queue, or end it
    Cancel {
        /// Its number, as in `ioex backup jobs`
        job: u64,
    },
    /// Print the words of the recovery key: with them and the network everything can be restored
    ExportKey,
    /// Take a recovery key over, to restore on a new machine; reads the words from stdin
    ImportKey {
        /// Even if this node has a key of its own, which is moved aside
        #[arg(long)]
        replace: bool,
    },
    /// Backups at set times
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Back one file up and write its manifest, for handing it to others (super nodes)
    Put {
        /// The file
        file: PathBuf,
        /// Where to write the manifest
        #[arg(long, value_name = "OUT")]
        manifest: PathBuf,
        /// Copies per shard [default: the node's policy]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
        replicas: Option<u8>,
        /// Who may restore beside this node; a UID or a friend's label
        #[arg(long = "for", value_name = "UID")]
        recipients: Vec<String>,
    },
    /// Restore one file, knowing only its manifest
    Get {
        /// The manifest
        manifest: PathBuf,
        /// The file to write; must not exist
        out: PathBuf,
        /// At most this much per second
        #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
        rate_limit: u64,
    },
}

/// What is backed up, and how.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Files and folders, or - for stdin
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How it is protected: auto, replicas=N, or rs=NEEDED/REPAIR/COMPLETE/MADE
    #[arg(long, value_name = "POLICY", default_value = "auto")]
    pub policy: String,
    /// Leave out names that match this pattern; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Do not go into other file systems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// For how many days it is kept [default: 90]
    #[arg(long, value_name = "N")]
    pub days: Option<u32>,
    /// A word of your own; may be repeated
    #[arg(long, value_name = "WORD")]
    pub tag: Vec<String>,
    /// When it runs, if others wait
    #[arg(long, value_enum, default_value_t = PriorityArg::Normal)]
    pub priority: PriorityArg,
    /// Return once it is in the queue
    #[arg(long)]
    pub no_wait: bool,
    /// The name for what comes on stdin
    #[arg(long, value_name = "NAME", default_value = "stdin")]
    pub name: String,
}

/// When a backup runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PriorityArg {
    /// When nothing else is to be done.
    Low,
    /// In turn.
    Normal,
    /// Before all others; a running one waits.
    Urgent,
}

/// Which restore point.
#[derive(Debug, Args)]
pub struct PointArgs {
    /// A name as in `ioex backup list`, or a date such as 2026-11-24 or 2026-11-24T08:30: the newest
    /// restore point up to then [default: the newest]
    #[arg(long, value_name = "POINT")]
    pub point: Option<String>,
    /// Of which.
    #[command(flatten)]
    pub of: FilterArgs,
}

/// Some of all restore points.
#[derive(Debug, Default, Args)]
pub struct FilterArgs {
    /// Only restore points with this tag; may be repeated, then with all of them
    #[arg(long, value_name = "WORD")]
    pub tag: Vec<String>,
    /// Only restore points of exactly this PATH, as it was given to `create`; may be repeated for those
    /// of several
    #[arg(long, value_name = "PATH")]
    pub source: Vec<PathBuf>,
    /// Only restore points of the machine with this name
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

/// What is restored, and where.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Which restore point.
    #[command(flatten)]
    pub point: PointArgs,
    /// Folder to make; must not exist. - writes the one file that --path names to stdout
    pub out: PathBuf,
    /// Only this file or folder; may be repeated
    #[arg(long, value_name = "PATH")]
    pub path: Vec<PathBuf>,
    /// At most this much per second
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
    pub rate_limit: u64,
}

/// Which restore points are dropped.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Names as in `ioex backup list`
    #[arg(value_name = "POINT")]
    pub points: Vec<String>,
    /// Instead: keep the newest N of each source (a machine with the paths that were backed up)
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "points")]
    pub keep_last: u32,
    /// Keep the newest of each of N days
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "points")]
    pub keep_daily: u32,
    /// Keep the newest of each of N weeks
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "points")]
    pub keep_weekly: u32,
    /// Keep the newest of each of N months of 30 days
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "points")]
    pub keep_monthly: u32,
    /// Of which; all others are kept.
    #[command(flatten)]
    pub of: FilterArgs,
    /// Only say what would be dropped
    #[arg(long)]
    pub dry_run: bool,
}

/// `backup schedule …`.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Back up again and again
    Add {
        /// A name for the schedule
        #[arg(value_name = "NAME")]
        schedule: String,
        /// The pause between two backups: 6h, 1d, 2w
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        every: u64,
        /// Forget all but the newest N of its restore points
        #[arg(long, value_name = "N", default_value_t = 0)]
        keep: u32,
        /// What is backed up.
        #[command(flatten)]
        create: CreateArgs,
    },
    /// List the schedules
    List,
    /// Remove a schedule; its restore points stay until they end
    Remove {
        /// Its name
        name: String,
    },
}

/// `backup partner …`.
#[derive(Debug, Subcommand)]
pub enum PartnerCommand {
    /// Watch together with another super node, a friend; it has to add this one, too
    Add {
        /// Its UID, or your label for it
        uid: String,
    },
    /// List the partners
    List,
    /// Stop watching together
    Remove {
        /// Its UID, or your label for it
        uid: String,
    },
}

/// A length of time as people write it, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no length of time: write a number and h, d or w, such as 6h or 1d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let hours = match unit {
        'h' => 1,
        'd' => 24,
        'w' => 7 * 24,
        _ => return Err(wrong()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    number.checked_mul(hours * 3_600).filter(|s| *s > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(seconds("6h"), Ok(21_600));
        assert_eq!(seconds("1d"), Ok(86_400));
        assert_eq!(seconds("2w"), Ok(1_209_600));
        for bad in ["", "h", "0d", "-1d", "5", "5m", "99999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
