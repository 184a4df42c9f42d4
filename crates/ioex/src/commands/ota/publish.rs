//! Publishing a version, and changing who gets it when.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use data_encoding::BASE64;
use ioex_api::{IdInfo, OtaImage, OtaImagePath, OtaMissed, OtaPacked, OtaRequest, Request, Update, Updates};
use ioex_base::{ContentAddress, DAY_SECONDS, NodeKey, Sealed as _, Uid, UnixSeconds};
use ioex_ota::{
    Image, Release, Version,
    channel::target_name,
    install::tree_digest,
    matcher::{Order, roster_hash},
    rollout::{Course, Rollout, Step, StopRule},
    tuf::{Role, TargetMeta},
    voucher::OrderId,
};
use serde::Serialize;

use super::{
    archives::Archives,
    channel::{hand_over, not_told, told},
};
use crate::{
    archive::archive_folder,
    channel_folder::{ChannelFolder, read_roster},
    cli::{OrderArgs, PublishArgs, RolloutArgs},
    commands::{Context, absolute},
    exit::Usage,
    progress::count_bar,
    render::{self, Table},
    size,
};

/// Seconds of an hour.
const HOUR_SECONDS: f64 = 3_600.0;

/// What was published.
#[derive(Serialize)]
struct Published {
    version: String,
    channel: ContentAddress,
    manifest: ContentAddress,
    shards: u64,
    package_bytes: u64,
    stored_bytes: u64,
    new_bytes: u64,
    downloads: Vec<Download>,
    /// Other matchers that do not carry it yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missed: Vec<OtaMissed>,
}

/// What a device with an earlier version downloads.
#[derive(Serialize)]
struct Download {
    version: String,
    bytes: u64,
}

fn per_myriad(percent: f64) -> anyhow::Result<u16> {
    if (0.0..=100.0).contains(&percent) {
        return Ok((percent * 100.0).round() as u16);
    }
    Err(Usage(format!("{percent} is no share: 0 to 100 percent")).into())
}

/// `HOURS:PERCENT`, from now on.
fn steps(texts: &[String], now: UnixSeconds) -> anyhow::Result<Vec<Step>> {
    let parse = |text: &String| {
        let (hours, percent) = text.split_once(':')?;
        let hours: f64 = hours.parse().ok().filter(|hours: &f64| *hours >= 0.0 && *hours < 1e6)?;
        Some((hours, percent.trim_end_matches('%').parse::<f64>().ok()?))
    };
    let mut steps = Vec::new();
    for text in texts {
        let (hours, percent) = parse(text)
            .ok_or_else(|| Usage(format!("'{text}' is no step: write HOURS:PERCENT, such as 24:50")))?;
        let from = now.plus((hours * HOUR_SECONDS) as u64);
        steps.push(Step { from, per_myriad: per_myriad(percent)? });
    }
    Ok(steps)
}

/// `NAME=PATH`.
fn image_arg(text: &str) -> anyhow::Result<(&str, &str)> {
    text.split_once('=').ok_or_else(|| {
        let why = format!("'{text}' names no image: write NAME=PATH, such as rootfs=build/rootfs.img");
        Usage(why).into()
    })
}

/// Files as they are, folders as archives with their digests.
fn images(args: &[String], dir: &Path) -> anyhow::Result<(Vec<OtaImagePath>, Archives)> {
    let mut images = Vec::new();
    let archives = Archives::begin(&absolute(dir)?)?;
    for text in args {
        let (name, path) = image_arg(text)?;
        let path = absolute(Path::new(path))?;
        let meta = fs::metadata(&path).with_context(|| format!("the image {}", path.display()))?;
        ensure!(meta.is_dir() || meta.len() > 0, "the image {} is empty", path.display());
        let (path, tree) = if meta.is_dir() {
            let archive = archives.path(images.len());
            let digest = tree_digest(&path).with_context(|| path.display().to_string())?;
            archive_folder(&path, &archive).with_context(|| path.display().to_string())?;
            (archive, Some(digest))
        } else {
            (path, None)
        };
        images.push(OtaImagePath { name: name.to_owned(), path, tree });
    }
    Ok((images, archives))
}

/// What is said of a version, but for what packing finds out.
fn terms(
    folder: &ChannelFolder,
    args: &PublishArgs,
    own: Uid,
    now: UnixSeconds,
) -> anyhow::Result<(Release, StopRule)> {
    let mut schedule = vec![Step { from: UnixSeconds(0), per_myriad: per_myriad(args.percent)? }];
    schedule.extend(steps(&args.steps, now)?);
    let stop =
        StopRule { min_results: args.stop_after, max_failed_per_myriad: per_myriad(args.stop_percent)? };
    let rollout = Rollout {
        salt: args.version.to_string(),
        steps: schedule,
        first: args.first.clone(),
        course: Course::Running,
        stop,
        resumed: None,
    };
    let mut matchers = vec![own];
    matchers.extend(args.matchers.iter().filter(|uid| **uid != own));
    let mut hardware = args.hardware.clone();
    hardware.sort_unstable();
    hardware.dedup();
    let nothing = ContentAddress::of(b"");
    let names = args.images.iter().map(|text| image_arg(text).map(|(name, _)| name));
    let image = |name: &str| Image { name: name.to_owned(), length: 0, hash: nothing };
    let release = Release {
        brand: folder.brand.clone(),
        model: folder.model.clone(),
        hardware,
        version: args.version,
        follows: args.follows.unwrap_or_default(),
        downgrade_from: args.downgrade_from.clone(),
        manifest: nothing,
        recipient: folder.key("package")?.uid(),
        matchers,
        images: names.map(|name| name.map(image)).collect::<anyhow::Result<_>>()?,
        rollout: Some(rollout),
    };
    Ok((release, stop))
}

/// Shows how packing goes, and returns what came of it. The node keeps the package while `updates` is there.
async fn packed(context: &Context, updates: &mut Updates) -> anyhow::Result<OtaPacked> {
    let bar = count_bar(context.show(), "packing", 0);
    while let Some(update) = updates.next().await? {
        match &update {
            Update::OtaPack(progress) => {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
            }
            Update::OtaPacked(packed) => {
                bar.finish_and_clear();
                return Ok((**packed).clone());
            }
            _ => {}
        }
        if context.out.json() {
            context.out.update(update, |_| None)?;
        }
    }
    bail!("the node stopped before the version was packed")
}

pub(super) async fn run(context: &Context, args: PublishArgs) -> anyhow::Result<()> {
    let now = render::now();
    let folder = ChannelFolder::open(&args.channel.dir)?;
    let keys = folder.online_keys()?;
    let roster: HashSet<Uid> = read_roster(&folder.roster())?.into_iter().collect();
    ensure!(
        !roster.is_empty(),
        "the roster is empty: add the devices with `ioex ota roster add` or `import`"
    );
    let client = context.client().await?;
    let own: IdInfo = client.call(Request::Id).await?;
    let (mut release, stop) = terms(&folder, &args, own.uid, now)?;
    // Packing takes its time: whatever can be refused is refused before.
    folder.channel.may_publish(&release)?;
    let (images, archives) = images(&args.images, &args.channel.dir)?;
    let earlier: Vec<(Version, ContentAddress)> =
        folder.channel.releases().map(|(_, release)| (release.version, release.manifest)).collect();
    let pack = OtaRequest::Pack {
        images,
        pack_key: folder.pack_key()?,
        recipient: release.recipient,
        previous: earlier.iter().map(|(_, manifest)| *manifest).collect(),
        name: format!("{} {} {}", folder.brand, folder.model, args.version),
    };
    let mut updates = client.stream(Request::Ota(Box::new(pack))).await?;
    let packed = packed(context, &mut updates).await?;
    drop(archives);
    // Packing takes its time; the channel may have moved on meanwhile, and a rollout must not wait for it.
    let mut folder = ChannelFolder::edit(&args.channel.dir)?;
    release.manifest = packed.manifest;
    let image = |image: &OtaImage| Image { name: image.name.clone(), length: image.length, hash: image.hash };
    release.images = packed.images.iter().map(image).collect();
    let target = TargetMeta { length: packed.length, hashes: packed.hashes.clone(), custom: None };
    folder.channel.publish(release.clone(), target, &keys, now)?;
    // The node serves first, then devices hear of it.
    let metadata_before = ChannelFolder::open(&args.channel.dir)?;
    hand_over(context, &metadata_before, false).await?;
    let order = OrderDetails {
        matcher: own.uid,
        origins: vec![own.uid],
        shards: u32::try_from(packed.shards)?,
        quantity: args.quantity,
        days: args.days,
        stop,
    };
    place_order(context, &folder, &release, &roster, order, now).await?;
    // The order keeps the package from now on.
    drop(updates);
    folder.save()?;
    folder.note_shards(&packed.manifest, u32::try_from(packed.shards)?)?;
    let folder = folder.into_folder();
    let carried = hand_over(context, &folder, true).await?;
    let by_manifest: BTreeMap<ContentAddress, Version> =
        earlier.into_iter().map(|(version, manifest)| (manifest, version)).collect();
    let version_of =
        |manifest: &ContentAddress| by_manifest.get(manifest).map(ToString::to_string).unwrap_or_default();
    let download =
        |delta: &ioex_api::OtaDelta| Download { version: version_of(&delta.manifest), bytes: delta.bytes };
    let published = Published {
        version: args.version.to_string(),
        channel: folder.address(),
        manifest: packed.manifest,
        shards: packed.shards,
        package_bytes: packed.length,
        stored_bytes: packed.stored_bytes,
        new_bytes: packed.new_bytes,
        downloads: packed.deltas.iter().map(download).collect(),
        missed: carried.map(|carried| carried.missed).unwrap_or_default(),
    };
    if context.out.json() {
        return Ok(context.out.done(&published, |_| String::new())?);
    }
    Ok(context.out.result(&published, human)?)
}

fn human(published: &Published) -> String {
    let head = render::fields([
        ("version", published.version.clone()),
        ("channel", published.channel.to_string()),
        ("manifest", published.manifest.to_string()),
        ("package", format!("{} in {} shards", size::human(published.package_bytes), published.shards)),
        ("packed", size::human(published.stored_bytes)),
        ("new", size::human(published.new_bytes)),
    ]);
    let mut table = Table::new(["devices on", "download"]).right([1]);
    for download in &published.downloads {
        table.row([download.version.clone(), size::human(download.bytes)]);
    }
    table.row(["none of these".to_owned(), size::human(published.stored_bytes)]);
    format!("{head}\n{}{}", table.text_or(""), not_told(&published.missed))
}

struct OrderDetails {
    matcher: Uid,
    origins: Vec<Uid>,
    shards: u32,
    quantity: Option<u32>,
    days: u16,
    stop: StopRule,
}

async fn place_order(
    context: &Context,
    folder: &ChannelFolder,
    release: &Release,
    roster: &HashSet<Uid>,
    details: OrderDetails,
    now: UnixSeconds,
) -> anyhow::Result<()> {
    let signer: NodeKey = folder.key(&Role::Targets.to_string())?;
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let everybody = u32::try_from(roster.len()).unwrap_or(u32::MAX);
    let order = Order {
        id: OrderId(id),
        matcher: details.matcher,
        version: release.version,
        manifest: release.manifest,
        shards: details.shards,
        quantity: details.quantity.unwrap_or(everybody),
        roster: roster_hash(roster),
        expires: now.plus(u64::from(details.days) * DAY_SECONDS),
    };
    let request = OtaRequest::Order {
        order: BASE64.encode(&order.seal(&signer)),
        signer: signer.uid(),
        channel: folder.address(),
        roster: absolute(&folder.roster())?,
        matchers: release.matchers.clone(),
        origins: details.origins,
        stop: (details.stop.min_results, details.stop.max_failed_per_myriad),
    };
    let _: ContentAddress = context.client().await?.call(Request::Ota(Box::new(request))).await?;
    Ok(())
}

fn release_of(folder: &ChannelFolder, version: Version) -> anyhow::Result<(String, Release)> {
    let mut found = folder.channel.releases().filter(|(_, release)| release.version == version);
    let Some((_, release)) = found.next() else {
        bail!("the channel has no version {version}: `ioex ota channel show` lists them")
    };
    Ok((target_name(release), release.clone()))
}

pub(super) async fn rollout(context: &Context, args: RolloutArgs) -> anyhow::Result<()> {
    let now = render::now();
    let mut folder = ChannelFolder::edit(&args.channel.dir)?;
    let (name, release) = release_of(&folder, args.version)?;
    let mut rollout = release.rollout.unwrap_or_else(|| Rollout::at_once(&args.version.to_string(), 10_000));
    if let Some(percent) = args.percent {
        let share = per_myriad(percent)?;
        let before = rollout.steps.iter().filter(|step| step.from <= now).map(|step| step.per_myriad).max();
        ensure!(
            before.is_none_or(|before| share >= before),
            "{} devices in a hundred were told to begin already: a share only grows; --pause keeps others from beginning",
            f64::from(before.unwrap_or(0)) / 100.0
        );
        rollout.share_now(share, now);
    }
    if !args.steps.is_empty() {
        rollout.replace_coming(steps(&args.steps, now)?, now);
    }
    ensure!(
        rollout.course != Course::Aborted || args.abort,
        "this rollout was ended: publish the version under a new number"
    );
    match (args.pause, args.resume, args.abort) {
        (true, _, _) => rollout.course = Course::Paused,
        (_, true, _) => rollout.resume(now),
        (_, _, true) => rollout.course = Course::Aborted,
        _ => {}
    }
    if let Some(percent) = args.stop_percent {
        rollout.stop.max_failed_per_myriad = per_myriad(percent)?;
    }
    rollout.stop.min_results = args.stop_after.unwrap_or(rollout.stop.min_results);
    let keys = folder.online_keys()?;
    folder.channel.set_rollout(&name, Some(rollout), &keys, now)?;
    folder.save()?;
    // All of it is in the channel: matchers follow what they carry, and if one is not told, the same command tells it.
    told(context, &folder.into_folder()).await
}

pub(super) async fn withdraw(context: &Context, version: Version, dir: &Path) -> anyhow::Result<()> {
    let mut folder = ChannelFolder::edit(dir)?;
    let (name, release) = release_of(&folder, version)?;
    let keys = folder.online_keys()?;
    folder.channel.withdraw(&name, &keys, render::now())?;
    folder.save()?;
    // Whatever goes wrong with one of them, the other is done.
    let ended = end(context, release.manifest).await;
    told(context, &folder.into_folder()).await?;
    ended.map(|_| ())
}

/// Ends the order for a version at the running node; false when there is no node or no order.
async fn end(context: &Context, manifest: ContentAddress) -> anyhow::Result<bool> {
    match context.client().await {
        Ok(client) => Ok(client.call(Request::Ota(Box::new(OtaRequest::End { manifest }))).await?),
        Err(e) if matches!(e.downcast_ref(), Some(ioex_api::ClientError::NotRunning { .. })) => Ok(false),
        Err(e) => Err(e),
    }
}

pub(super) async fn order(context: &Context, args: OrderArgs) -> anyhow::Result<()> {
    let now = render::now();
    let folder = ChannelFolder::open(&args.channel.dir)?;
    let (_, release) = release_of(&folder, args.version)?;
    if args.end {
        let ended = end(context, release.manifest).await?;
        return Ok(context.out.result(&ended, |ended| {
            let done = if *ended { "the order has ended" } else { "there is no order at this node" };
            format!("{done}: version {}\n", args.version)
        })?);
    }
    let shards = match (args.shards, folder.shards(&release.manifest)?) {
        (Some(given), Some(noted)) if given != noted => {
            return Err(Usage(format!("version {} has {noted} shards, not {given}", args.version)).into());
        }
        (given, noted) => given.or(noted).context("--shards is missing: `publish` said how many")?,
    };
    let roster: HashSet<Uid> = read_roster(&folder.roster())?.into_iter().collect();
    let own: IdInfo = context.client().await?.call(Request::Id).await?;
    ensure!(
        release.matchers.contains(&own.uid),
        "version {} does not name {} as a matcher: publish with --matcher {}",
        args.version,
        own.uid.short(),
        own.uid
    );
    hand_over(context, &folder, false).await?;
    let details = OrderDetails {
        matcher: own.uid,
        origins: args.origins.clone(),
        shards,
        quantity: args.quantity,
        days: args.days,
        stop: release.rollout.as_ref().map_or_else(StopRule::default, |rollout| rollout.stop),
    };
    place_order(context, &folder, &release, &roster, details, now).await?;
    Ok(context.out.result(&release.manifest, |manifest| {
        format!("{} matches devices for version {} ({manifest})\n", own.uid, args.version)
    })?)
}
