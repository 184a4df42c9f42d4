//! `ioex backup`: into the network and back.

use std::{
    io::{Read as _, stdin},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use ioex_api::{
    BackupDone, Client, ClientError, Empty, Holding, Request, RestoreDone, Update, Updates,
    vault::{
        BackupReport, CreateBackup, DiffTotals, Job, JobList, JobState, Keep, LastRun, Point, PointList,
        Priority, Pruned, RecoveryWords, RestoreTree, Schedule, ScheduleList, Stream, TreeRestored,
        VaultRequest, Verified, WatchReport,
    },
};

use super::{
    Context, absolute, backup_partner,
    backup_pipe::{Pipe, given},
    backup_words::{filter, inside, named, query, recovery, words},
    unexpected, who,
};
use crate::{
    cli::{BackupCommand, CreateArgs, ForgetArgs, PriorityArg, RestoreArgs, ScheduleCommand},
    exit::{Incomplete, Interrupted, Usage},
    progress,
    render::{self, Table, date},
    size,
};

pub(super) async fn run(context: &Context, command: BackupCommand) -> anyhow::Result<()> {
    let client = context.client().await?;
    let ask = |request| Request::Vault(Box::new(request));
    match command {
        BackupCommand::Create(args) => create(context, &client, &args).await?,
        BackupCommand::List(of) => {
            let list: PointList = client.call(ask(VaultRequest::List { of: filter(&of)? })).await?;
            context.out.result(&list, points)?;
        }
        BackupCommand::Restore(args) => restore(context, &client, args).await?,
        BackupCommand::Ls { point, paths } => {
            let paths = paths.iter().map(|path| inside(path)).collect();
            let (query, of) = query(&point)?;
            let mut updates = client.stream(ask(VaultRequest::Ls { point: query, of, paths })).await?;
            while let Some(update) = updates.next().await? {
                warn(&update);
                context.out.update(update, listed)?;
            }
            let done: Empty = updates.finish().await?;
            if context.out.json() {
                context.out.done(&done, |_| String::new())?;
            }
        }
        BackupCommand::Diff { old, new, of } => {
            let (old, new, of) = (named(Some(&old))?, named(new.as_deref())?, filter(&of)?);
            let mut updates = client.stream(ask(VaultRequest::Diff { old, new, of })).await?;
            while let Some(update) = updates.next().await? {
                context.out.update(update, changed)?;
            }
            let totals: DiffTotals = updates.finish().await?;
            context.out.done(&totals, |t| {
                let (added, removed) = (t.added, t.removed);
                format!(
                    "{added} added, {removed} removed, {} changed, {} with other attributes",
                    t.changed, t.attributes
                )
            })?;
        }
        BackupCommand::Verify { point, read_percent } => {
            let (query, of) = query(&point)?;
            let request = ask(VaultRequest::Verify { point: query, of, read_percent });
            let verified: Verified = follow(context, &client, request).await?.finish().await?;
            context.out.done(&verified, verification)?;
            if verified.unreadable > 0 {
                let text = format!("{} groups cannot be read now", verified.unreadable);
                return Err(Incomplete(text).into());
            }
        }
        BackupCommand::Mount { dir, of } => {
            let request = ask(VaultRequest::Mount { dir: absolute(&dir)?, of: filter(&of)? });
            let showing = async {
                let mut updates = client.stream(request).await?;
                while let Some(update) = updates.next().await? {
                    progress::say(&format!("restore points are shown in {} until Ctrl-C", dir.display()));
                    context.out.update(update, |_| None)?;
                }
                anyhow::Ok(updates.finish::<Empty>().await?)
            };
            let done = until_ctrl_c(showing).await?;
            if context.out.json() {
                context.out.done(&done, |_| String::new())?;
            }
        }
        BackupCommand::Renew { points: names, all: _, days } => {
            let points_named = names.iter().map(|n| named(Some(n))).collect::<Result<_, _>>()?;
            let request = ask(VaultRequest::Renew { points: points_named, days });
            let list: PointList = follow(context, &client, request).await?.finish().await?;
            context.out.done(&list, points)?;
        }
        BackupCommand::Forget(args) => forget(context, &client, &args).await?,
        BackupCommand::Prune { dry_run, max_unused } => {
            let pruned: Pruned = client.call(ask(VaultRequest::Prune { dry_run, max_unused })).await?;
            context.out.result(&pruned, |p| prune(p, dry_run))?;
        }
        BackupCommand::Repair => {
            let report: WatchReport = client.call(ask(VaultRequest::Repair)).await?;
            context.out.result(&report, watched)?;
            if report.lost_groups + report.unrepaired_groups > 0 {
                let text = format!("{} groups need repair", report.lost_groups + report.unrepaired_groups);
                return Err(Incomplete(text).into());
            }
        }
        BackupCommand::Partner(command) => backup_partner::run(context, &client, command).await?,
        BackupCommand::Jobs => {
            let list: JobList = client.call(ask(VaultRequest::Jobs)).await?;
            context.out.result(&list, jobs)?;
        }
        BackupCommand::Follow { job } => {
            finished(context, &followed(context, &client, job, true).await?)?;
        }
        BackupCommand::Cancel { job } => {
            let job: Job = client.call(ask(VaultRequest::Cancel { job })).await?;
            context.out.result(&job, |j| format!("backup {} is {}", j.id, state(j.state)))?;
        }
        BackupCommand::ExportKey => {
            let words: RecoveryWords = client.call(ask(VaultRequest::ExportKey)).await?;
            context.out.result(&words, recovery)?;
        }
        BackupCommand::ImportKey { replace } => {
            let mut text = String::new();
            stdin().read_to_string(&mut text).context("cannot read the words from stdin")?;
            let request = ask(VaultRequest::ImportKey { words: words(&text), replace });
            let taken: RecoveryWords = client.call(request).await?;
            context.out.result(&taken, |t| format!("this node now has the repository {}", t.repo))?;
        }
        BackupCommand::Schedule(command) => schedule(context, &client, command).await?,
        BackupCommand::Put { file, manifest, replicas, recipients } => {
            let request = Request::BackupPut {
                path: absolute(&file)?,
                manifest: absolute(&manifest)?,
                replicas: replicas.map_or(0, usize::from),
                recipients: who::uids(&client, &recipients).await?,
            };
            let done: BackupDone = follow(context, &client, request).await?.finish().await?;
            context.out.done(&done, put)?;
        }
        BackupCommand::Get { manifest, out, rate_limit } => {
            let (manifest, out) = (absolute(&manifest)?, absolute(&out)?);
            let request = Request::BackupGet { manifest, out, rate_limit };
            let done: RestoreDone = follow(context, &client, request).await?.finish().await?;
            context.out.done(&done, get)?;
        }
    }
    Ok(())
}

/// Does this unless Ctrl-C comes first, which ends it.
async fn until_ctrl_c<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        result = work => result,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot wait for Ctrl-C")?;
            Err(Interrupted.into())
        }
    }
}

/// Shows how it goes until it ends, or Ctrl-C ends this command.
async fn follow(context: &Context, client: &Client, request: Request) -> anyhow::Result<Updates> {
    until_ctrl_c(shown(context, client, request)).await
}

async fn shown(context: &Context, client: &Client, request: Request) -> anyhow::Result<Updates> {
    let mut steps = progress::Steps::new(context.show());
    let mut updates = client.stream(request).await?;
    while let Some(update) = updates.next().await? {
        match &update {
            Update::Backup(progress) => steps.update(progress),
            other => return Err(unexpected(other)),
        }
        context.out.update(update, |_| None)?;
    }
    Ok(updates)
}

fn wish(args: &CreateArgs) -> anyhow::Result<CreateBackup> {
    Ok(CreateBackup {
        paths: args.paths.iter().map(|p| absolute(p)).collect::<Result<_, _>>()?,
        stream: None,
        exclude: args.exclude.clone(),
        one_file_system: args.one_file_system,
        policy: args.policy.clone(),
        days: args.days,
        tags: args.tag.clone(),
        priority: match args.priority {
            PriorityArg::Low => Priority::Low,
            PriorityArg::Normal => Priority::Normal,
            PriorityArg::Urgent => Priority::Urgent,
        },
        no_wait: args.no_wait,
    })
}

async fn create(context: &Context, client: &Client, args: &CreateArgs) -> anyhow::Result<()> {
    let mut create = wish(args)?;
    let from_stdin = args.paths.iter().any(|p| p == Path::new("-"));
    let pipe = if from_stdin {
        if args.paths.len() > 1 {
            return Err(Usage("`-` stands alone: stdin is one restore point".into()).into());
        }
        if args.no_wait {
            return Err(Usage("stdin cannot be read later: leave --no-wait out".into()).into());
        }
        let input = given()?;
        let pipe = Pipe::make(&context.data()?)?;
        create.paths.clear();
        create.stream = Some(Stream { pipe: pipe.path.clone(), name: args.name.clone() });
        pipe.fill(input)?;
        Some(pipe)
    } else {
        None
    };
    let from_paths = create.stream.is_none();
    // So that the job has a number here when something comes between.
    create.no_wait = true;
    let request = Request::Vault(Box::new(VaultRequest::Create(create)));
    let job: Job = client.call(request).await?;
    if args.no_wait {
        context.out.done(&job, |j| format!("backup {} waits in the queue", j.id))?;
        return Ok(());
    }
    let report = followed(context, client, job.id, from_paths).await;
    drop(pipe);
    finished(context, &report?)
}

/// Follows a job until it ends; says what becomes of it when this command or the node ends before. One
/// that reads stdin does not go on.
async fn followed(
    context: &Context,
    client: &Client,
    job: u64,
    from_paths: bool,
) -> anyhow::Result<BackupReport> {
    let request = Request::Vault(Box::new(VaultRequest::Follow { job }));
    let following = async { anyhow::Ok(shown(context, client, request).await?.finish().await?) };
    let result = tokio::select! {
        result = following => result,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot wait for Ctrl-C")?;
            if from_paths {
                progress::say(&format!(
                    "backup {job} goes on; `ioex backup follow {job}` follows it again, `ioex backup cancel {job}` ends it"
                ));
            } else {
                progress::say(&format!("backup {job} ends without a restore point: stdin was cut off"));
            }
            return Err(Interrupted.into());
        }
    };
    if from_paths && matches!(&result, Err(e) if matches!(e.downcast_ref(), Some(ClientError::Ended))) {
        progress::say(&format!(
            "backup {job} goes on when the node runs again; `ioex backup follow {job}` follows it then"
        ));
    }
    result
}

fn finished(context: &Context, report: &BackupReport) -> anyhow::Result<()> {
    context.out.done(report, created)?;
    if report.problems_total > 0 {
        let text = format!("{} files are not, or not whole, in the restore point", report.problems_total);
        return Err(Incomplete(text).into());
    }
    Ok(())
}

async fn restore(context: &Context, client: &Client, args: RestoreArgs) -> anyhow::Result<()> {
    let (point, of) = query(&args.point)?;
    let mut wish = RestoreTree {
        point,
        of,
        paths: args.path.iter().map(|path| inside(path)).collect(),
        out: PathBuf::new(),
        pipe: None,
        rate_limit: args.rate_limit,
    };
    if args.out != Path::new("-") {
        wish.out = absolute(&args.out)?;
        let request = Request::Vault(Box::new(VaultRequest::Restore(wish)));
        let done: TreeRestored = follow(context, client, request).await?.finish().await?;
        context.out.done(&done, restored)?;
        return Ok(());
    }
    let pipe = Pipe::make(&context.data()?)?;
    wish.pipe = Some(pipe.path.clone());
    let poured = pipe.pour();
    let request = Request::Vault(Box::new(VaultRequest::Restore(wish)));
    let mut steps = progress::Steps::new(context.show());
    let mut updates = client.stream(request).await?;
    let restored = async {
        // stdout belongs to the file.
        while let Some(update) = updates.next().await? {
            if let Update::Backup(progress) = &update {
                steps.update(progress);
            }
        }
        updates.finish::<TreeRestored>().await
    };
    match restored.await {
        Ok(_) => Ok(poured.recv().context("writing to stdout failed")?.context("cannot write to stdout")?),
        Err(e) => match poured.try_recv() {
            Ok(Err(own)) => Err(own).context("cannot write to stdout"),
            _ => Err(e.into()),
        },
    }
}

async fn forget(context: &Context, client: &Client, args: &ForgetArgs) -> anyhow::Result<()> {
    let keep = Keep {
        last: args.keep_last,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
    };
    let names = args.points.iter().map(|n| named(Some(n))).collect::<Result<_, _>>()?;
    let of = filter(&args.of)?;
    let request = VaultRequest::Forget { points: names, keep, of, dry_run: args.dry_run };
    let list: PointList = client.call(Request::Vault(Box::new(request))).await?;
    context.out.result(&list, |l| {
        let head = if args.dry_run {
            "would be dropped:"
        } else {
            "dropped (`ioex backup prune` gives the space back):"
        };
        format!("{head}\n{}", points(l))
    })?;
    Ok(())
}

async fn schedule(context: &Context, client: &Client, command: ScheduleCommand) -> anyhow::Result<()> {
    let ask = |request| Request::Vault(Box::new(request));
    match command {
        ScheduleCommand::Add { schedule: name, every, keep, create } => {
            let create = wish(&create)?;
            let schedule = Schedule { name, every_seconds: every, create, keep, last: None, result: None };
            let added: Schedule = client.call(ask(VaultRequest::ScheduleAdd(schedule))).await?;
            context.out.result(&added, |s| {
                format!(
                    "'{}' runs every {}, for the first time now",
                    s.name,
                    render::duration(s.every_seconds)
                )
            })?;
        }
        ScheduleCommand::List => {
            let list: ScheduleList = client.call(ask(VaultRequest::ScheduleList)).await?;
            context.out.result(&list, |l| {
                let mut table = Table::new(["name", "every", "last run", "outcome", "paths"]);
                for s in &l.schedules {
                    table.row([
                        s.name.clone(),
                        render::duration(s.every_seconds),
                        render::ago(s.last, render::now()),
                        s.result.as_ref().map_or_else(String::new, last_run),
                        s.create.paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" "),
                    ]);
                }
                table.text_or("no schedules")
            })?;
        }
        ScheduleCommand::Remove { name } => {
            let _: Empty = client.call(ask(VaultRequest::ScheduleRemove { name })).await?;
            context.out.result(&Empty {}, |_| String::new())?;
        }
    }
    Ok(())
}

/// Says what a node notes beside its results, on stderr.
fn warn(update: &Update) {
    if let Update::Backup(progress) = update
        && let Some(note) = &progress.note
    {
        progress::say(&render::printable(note));
    }
}

/// Before what a restore point is of: what is wrong with it.
fn remarks(point: &Point, is_harmed: bool) -> String {
    let mut text = String::new();
    if is_harmed {
        text += "(lost something) ";
    }
    match point.problems_total {
        None | Some(0) => {}
        Some(count) => text += &format!("({count} left out) "),
    }
    text
}

fn points(list: &PointList) -> String {
    let mut table =
        Table::new(["point", "made", "kept until", "files", "size", "new", "what"]).right([3, 4, 5]);
    for p in &list.points {
        table.row([
            p.id.clone(),
            date(p.created),
            date(p.expires),
            p.totals.files.to_string(),
            size::human(p.totals.bytes),
            size::human(p.totals.new_bytes),
            format!("{}{}", remarks(p, list.harmed.contains(&p.id)), p.label),
        ]);
    }
    let mut text = table.text_or("no restore points");
    for warning in &list.warnings {
        text += &format!("\nWarning: {}", render::printable(warning));
    }
    text
}

fn created(report: &BackupReport) -> String {
    let t = &report.point.totals;
    let mut text = render::fields([
        ("restore point", report.point.id.clone()),
        ("files", format!("{} ({} read), {} folders", t.files, t.read_files, t.dirs)),
        ("size", size::human(t.bytes)),
        ("new", format!("{}, {} packed", size::human(t.new_bytes), size::human(t.stored_bytes))),
        ("placed", format!("{} in {} groups", size::human(report.placed_bytes), report.groups)),
        ("shared", format!("{} groups of earlier restore points", report.renewed_groups)),
        ("policy", report.policy.clone()),
        ("kept until", date(report.point.expires)),
        ("time", format!("{:.1} s", report.seconds)),
    ]);
    text += &format!("\n{}", holders(&report.holders));
    for note in &report.notes {
        text += &format!("\nNote: {}", render::printable(note));
    }
    for problem in &report.problems {
        text +=
            &format!("\nLeft out: {}: {}", render::printable(&problem.path), render::printable(&problem.why));
    }
    if report.special_files > 0 {
        text +=
            &format!("\n{} special files (sockets, pipes, devices) are not backed up", report.special_files);
    }
    text
}

fn restored(done: &TreeRestored) -> String {
    let failed: Vec<String> = done.failed.iter().map(ioex_base::Uid::short).collect();
    let rebuilt = if done.rebuilt_shards > 0 { done.rebuilt_shards.to_string() } else { String::new() };
    let head = render::fields([
        ("restored", done.path.as_ref().map_or_else(String::new, |p| p.display().to_string())),
        (
            "restore point",
            format!(
                "{} of {}{}",
                done.point.id,
                date(done.point.created),
                left_out(done.point.problems_total.unwrap_or(0))
            ),
        ),
        ("files", format!("{}, {}", done.files, size::human(done.bytes))),
        ("fetched", size::human(done.fetched_bytes)),
        ("rebuilt shards", rebuilt),
        ("failed holders", failed.join(", ")),
        ("time", format!("{:.1} s", done.seconds)),
    ]);
    format!("{head}\n{}", holders(&done.holders))
}

fn verification(v: &Verified) -> String {
    let mut text = render::fields([
        ("restore point", v.point.id.clone()),
        ("groups", format!("{}, {} degraded, {} unreadable", v.groups, v.degraded, v.unreadable)),
        ("proven", format!("{} shards at their holders", v.proven_shards)),
        ("read", size::human(v.read_bytes)),
        ("time", format!("{:.1} s", v.seconds)),
    ]);
    for problem in &v.problems {
        text += &format!("\nProblem: {}", render::printable(problem));
    }
    text
}

fn prune(p: &Pruned, dry_run: bool) -> String {
    let word = if dry_run { "would be given back" } else { "given back" };
    let mut text = format!(
        "{} in {} groups {word}; {} groups are needed",
        size::human(p.bytes),
        p.groups,
        p.kept_groups
    );
    if p.repacked_groups > 0 {
        let word = if dry_run { "would be packed again" } else { "were packed again" };
        text += &format!(
            "\n{} of these were half used: the {} that are needed of them {word}",
            p.repacked_groups,
            size::human(p.repacked_bytes)
        );
    }
    for note in &p.notes {
        text += &format!("\nNote: {}", render::printable(note));
    }
    if p.unreached > 0 {
        text += &format!("\n{} devices could not be told: their leases end by themselves", p.unreached);
    }
    text
}

fn watched(r: &WatchReport) -> String {
    render::fields([
        ("devices", format!("{}, {} not reached", r.devices, r.silent)),
        ("proofs", format!("{}, {} failed", r.asked, r.faults)),
        (
            "groups",
            format!(
                "{}, {} repaired, {} still to repair, {} degraded, {} lost",
                r.groups, r.repaired_groups, r.unrepaired_groups, r.degraded_groups, r.lost_groups
            ),
        ),
        ("harmed points", r.harmed_points.join(", ")),
        (
            "degraded",
            if r.degraded_groups > 0 {
                "fewer copies than the policy wants, until further owners have room".to_owned()
            } else {
                String::new()
            },
        ),
        ("new shards", format!("{}, {}", r.placed_shards, size::human(r.placed_bytes))),
        ("handed over", if r.handed_over > 0 { r.handed_over.to_string() } else { String::new() }),
        ("time", format!("{:.1} s", r.seconds)),
    ])
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "waiting",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// Behind a restore point's name: what is missing in it.
fn left_out(problems: u64) -> String {
    if problems == 0 { String::new() } else { format!(", incomplete: {problems} left out") }
}

/// How a schedule's last run ended.
fn last_run(run: &LastRun) -> String {
    let what = match (&run.error, &run.point) {
        (Some(error), _) => format!("failed: {}", render::printable(&error.message)),
        (None, Some(point)) => format!("{point}{}", left_out(run.problems_total)),
        (None, None) => "done".to_owned(),
    };
    format!("{} {what}", date(run.ended))
}

fn jobs(list: &JobList) -> String {
    let mut table = Table::new(["job", "state", "priority", "queued", "ended", "what", "outcome"]);
    for job in &list.jobs {
        let what = match &job.create.stream {
            Some(stream) => format!("< {}", stream.name),
            None => job.create.paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" "),
        };
        let outcome = match (&job.report, &job.error) {
            (Some(report), _) => format!("{}{}", report.point.id, left_out(report.problems_total)),
            (None, Some(error)) => render::printable(&error.message),
            (None, None) => String::new(),
        };
        table.row([
            job.id.to_string(),
            state(job.state).to_owned(),
            format!("{:?}", job.create.priority).to_lowercase(),
            date(job.queued),
            job.ended.map_or_else(String::new, date),
            what,
            outcome,
        ]);
    }
    table.text_or("no backups wait, and none ended lately")
}

fn listed(update: &Update) -> Option<String> {
    let Update::Listed(entry) = update else { return None };
    let kind = match entry.kind.as_str() {
        "dir" => 'd',
        "link" => 'l',
        "hard-link" => 'h',
        _ => '-',
    };
    let modified =
        u64::try_from(entry.modified).map_or_else(|_| String::new(), |s| date(ioex_base::UnixSeconds(s)));
    Some(format!(
        "{kind}{:04o} {:>10} {modified:16} {}",
        entry.mode,
        size::human(entry.size),
        render::printable(&entry.path)
    ))
}

fn changed(update: &Update) -> Option<String> {
    let Update::Changed(change) = update else { return None };
    let sign = match change.change.as_str() {
        "added" => '+',
        "removed" => '-',
        "changed" => 'M',
        _ => 'a',
    };
    Some(format!("{sign} {}", render::printable(&change.path)))
}

fn put(done: &BackupDone) -> String {
    let mut text = render::fields([
        ("file", done.path.display().to_string()),
        ("size", size::human(done.bytes)),
        ("address", done.address.to_string()),
        ("shards", format!("{}, {} packed", done.shards, size::human(done.packed_bytes))),
        ("copies", done.replicas.to_string()),
        ("kept", render::until(done.expires, render::now()).replacen("in", "for", 1)),
        ("manifest", done.manifest.display().to_string()),
        ("time", format!("{:.1} s", done.seconds)),
    ]);
    text += &format!("\n{}", holders(&done.holders));
    for shortfall in &done.shortfalls {
        text += &format!("\nWarning: {}", render::printable(shortfall));
    }
    text
}

fn get(done: &RestoreDone) -> String {
    let failed: Vec<String> = done.failed.iter().map(ioex_base::Uid::short).collect();
    let head = render::fields([
        ("file", done.path.display().to_string()),
        ("size", size::human(done.bytes)),
        ("address", format!("{} (verified)", done.address)),
        ("direct", size::human(done.direct_bytes)),
        ("relayed", size::human(done.relayed_bytes)),
        ("failed holders", failed.join(", ")),
        ("time", format!("{:.1} s", done.seconds)),
    ]);
    format!("{head}\n{}", holders(&done.holders))
}

fn holders(holders: &[Holding]) -> String {
    let mut table = Table::new(["device", "owner", "shards", "bytes"]).right([2, 3]);
    for holder in holders {
        table.row([
            holder.uid.to_string(),
            holder.owner.clone(),
            holder.shards.to_string(),
            size::human(holder.bytes),
        ]);
    }
    table.text_or("no holders")
}
