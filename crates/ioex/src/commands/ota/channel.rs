//! A maker's channel and its roster.

use std::{collections::BTreeSet, fs, io::Write as _, path::Path};

use anyhow::Context as _;
use ioex_api::{OtaRequest, Request};
use ioex_base::{ContentAddress, Uid};
use ioex_ota::{channel::RootDraft, tuf::Role};
use serde::Serialize;

use crate::{
    authority,
    channel_folder::{ChannelFolder, read_roster},
    cli::{ChannelCommand, RoleArg, RosterCommand},
    commands::{Context, absolute},
    render::{self, Table},
    size,
};

#[derive(Serialize)]
struct Shown {
    channel: ContentAddress,
    brand: String,
    model: String,
    root_version: u64,
    expires: Vec<(String, String)>,
    releases: Vec<ShownRelease>,
}

#[derive(Serialize)]
struct ShownRelease {
    version: String,
    manifest: ContentAddress,
    bytes: u64,
    images: usize,
    rollout: String,
}

pub(super) async fn run(context: &Context, command: ChannelCommand) -> anyhow::Result<()> {
    let now = render::now();
    match command {
        ChannelCommand::Create { brand, model, channel, root_keys, threshold } => {
            let folder = ChannelFolder::create(&channel.dir, &brand, &model, root_keys, threshold, now)?;
            let keys = channel.dir.join("keys");
            let shown = show(&folder);
            Ok(context.out.result(&shown, |shown| {
                format!(
                    "channel {} for {brand} {model}\nThe root keys are {}: move them to a safe place; they are needed \
                     again only to replace keys.\nNext: `ioex ota channel bundle`, `ioex ota roster add`, `ioex ota publish`.\n",
                    shown.channel,
                    keys.join("root-*.key").display()
                )
            })?)
        }
        ChannelCommand::Show { channel } => {
            let shown = show(&ChannelFolder::open(&channel.dir)?);
            Ok(context.out.result(&shown, human)?)
        }
        ChannelCommand::Bundle { out, channel, matchers } => {
            let folder = ChannelFolder::open(&channel.dir)?;
            let bytes = folder.bundle(matchers, now)?;
            let mut file =
                fs::File::create_new(&out).with_context(|| format!("cannot make {}", out.display()))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            Ok(context.out.result(&folder.address(), |channel| {
                format!(
                    "{} belongs into the firmware of {} {}: channel {channel}\n",
                    out.display(),
                    folder.brand,
                    folder.model
                )
            })?)
        }
        ChannelCommand::Refresh { channel } => {
            let mut folder = ChannelFolder::edit(&channel.dir)?;
            let keys = folder.online_keys()?;
            folder.channel.refresh(&keys, now)?;
            folder.save()?;
            told(context, &folder).await
        }
        ChannelCommand::Rotate { role, channel, draft, root_keys } => {
            let mut folder = ChannelFolder::edit(&channel.dir)?;
            let made = folder.rotate(role_of(role), &root_keys, now)?;
            match folder.adopt(&made, now) {
                Ok(()) => told(context, &folder).await,
                Err(e) => {
                    let Some(path) = draft else {
                        return Err(e.context("with --draft FILE the draft is written for others to sign"));
                    };
                    fs::write(&path, made.to_bytes()?).with_context(|| path.display().to_string())?;
                    Ok(context.out.result(&path.display().to_string(), |path| {
                        format!("{path} needs more signatures ({e}): `ioex ota channel sign {path} KEY`, then `adopt`\n")
                    })?)
                }
            }
        }
        ChannelCommand::Sign { draft, keys } => {
            let mut made = read_draft(&draft)?;
            for key in &keys {
                made.sign(&authority::load(key)?)?;
            }
            fs::write(&draft, made.to_bytes()?).with_context(|| draft.display().to_string())?;
            Ok(context
                .out
                .result(&keys.len(), |count| format!("{count} keys signed {}\n", draft.display()))?)
        }
        ChannelCommand::Adopt { draft, channel } => {
            let mut folder = ChannelFolder::edit(&channel.dir)?;
            folder.adopt(&read_draft(&draft)?, now)?;
            told(context, &folder).await
        }
    }
}

fn read_draft(path: &Path) -> anyhow::Result<RootDraft> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    RootDraft::from_bytes(&bytes).with_context(|| format!("{} is no draft of a root", path.display()))
}

fn role_of(role: RoleArg) -> Role {
    match role {
        RoleArg::Root => Role::Root,
        RoleArg::Targets => Role::Targets,
        RoleArg::Snapshot => Role::Snapshot,
        RoleArg::Timestamp => Role::Timestamp,
    }
}

/// Hands the channel to the running node, if there is one, and shows it.
pub(super) async fn told(context: &Context, folder: &ChannelFolder) -> anyhow::Result<()> {
    let carried = hand_over(context, folder).await?;
    let shown = show(folder);
    Ok(context.out.result(&shown, |shown| {
        let note = if carried {
            ""
        } else {
            "\nNo node runs here: devices see the change once a super node carries it (any of these commands with --data).\n"
        };
        human(shown) + note
    })?)
}

/// Hands the channel to the running node; false when none runs.
pub(super) async fn hand_over(context: &Context, folder: &ChannelFolder) -> anyhow::Result<bool> {
    let client = match context.client().await {
        Ok(client) => client,
        Err(e) if matches!(e.downcast_ref(), Some(ioex_api::ClientError::NotRunning { .. })) => {
            return Ok(false);
        }
        Err(e) => return Err(e),
    };
    let dir = absolute(&folder.metadata())?;
    let _: ContentAddress = client.call(Request::Ota(Box::new(OtaRequest::Carry { dir }))).await?;
    Ok(true)
}

fn show(folder: &ChannelFolder) -> Shown {
    let channel = &folder.channel;
    let release = |(_, release): (&str, &ioex_ota::Release)| ShownRelease {
        version: release.version.to_string(),
        manifest: release.manifest,
        bytes: release.length(),
        images: release.images.len(),
        rollout: release.rollout.as_ref().map_or_else(
            || "everybody".to_owned(),
            |rollout| {
                let steps: Vec<String> = rollout
                    .steps
                    .iter()
                    .map(|step| format!("{}%", f64::from(step.per_myriad) / 100.0))
                    .collect();
                format!("{:?}, {}", rollout.course, steps.join(" then ")).to_lowercase()
            },
        ),
    };
    Shown {
        channel: folder.address(),
        brand: folder.brand.clone(),
        model: folder.model.clone(),
        root_version: channel.root().version,
        expires: Role::ALL
            .iter()
            .map(|role| (role.to_string(), channel.expires(*role).to_string()))
            .collect(),
        releases: channel.releases().map(release).collect(),
    }
}

fn human(shown: &Shown) -> String {
    let expires: Vec<String> = shown.expires.iter().map(|(role, date)| format!("{role} {date}")).collect();
    let head = render::fields([
        ("channel", shown.channel.to_string()),
        ("devices", format!("{} {}", shown.brand, shown.model)),
        ("root", format!("version {}", shown.root_version)),
        ("holds until", expires.join(", ")),
    ]);
    let mut table = Table::new(["version", "size", "images", "rollout", "manifest"]).right([1, 2]);
    for release in &shown.releases {
        table.row([
            release.version.clone(),
            size::human(release.bytes),
            release.images.to_string(),
            release.rollout.clone(),
            release.manifest.to_string(),
        ]);
    }
    format!("{head}\n{}", table.text_or("no version yet: `ioex ota publish`\n"))
}

pub(super) fn roster(context: &Context, command: RosterCommand) -> anyhow::Result<()> {
    let (dir, new) = match command {
        RosterCommand::Add { uids, channel } => (channel.dir, uids),
        RosterCommand::Import { file, channel } => (channel.dir, read_roster(&file)?.into_iter().collect()),
        RosterCommand::List { channel } => {
            let all = read_roster(&ChannelFolder::open(&channel.dir)?.roster())?;
            return counted(context, &all, 0);
        }
    };
    let folder = ChannelFolder::edit(&dir)?;
    let mut all = read_roster(&folder.roster())?;
    let added: Vec<Uid> = new.into_iter().filter(|uid| all.insert(*uid)).collect();
    if !added.is_empty() {
        let mut file = fs::File::options().append(true).open(folder.roster())?;
        let text: String = added.iter().map(|uid| format!("{uid}\n")).collect();
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    counted(context, &all, added.len())
}

fn counted(context: &Context, all: &BTreeSet<Uid>, added: usize) -> anyhow::Result<()> {
    Ok(context.out.result(all, |all| {
        let note = if added == 0 { String::new() } else { format!(", {added} of them new") };
        format!("{} devices{note}\n", all.len())
    })?)
}
