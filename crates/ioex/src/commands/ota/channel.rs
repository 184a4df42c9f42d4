//! A maker's channel.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use ioex_api::{
    ApiError, ClientError, ErrorCode, OtaCarried, OtaFleet, OtaMissed, OtaOrderInfo, OtaRequest, Request,
};
use ioex_ota::{
    channel::{ChannelError, RootDraft},
    tuf::Role,
};

use super::shown::{human, root_keys, show};
use crate::{
    authority,
    channel_folder::ChannelFolder,
    cli::{ChannelCommand, RoleArg},
    commands::{Context, absolute},
    render,
};

pub(super) async fn run(context: &Context, command: ChannelCommand) -> anyhow::Result<()> {
    let now = render::now();
    match command {
        ChannelCommand::Create { brand, model, channel, root_keys: roots, threshold } => {
            let folder = ChannelFolder::create(&channel.dir, &brand, &model, roots, threshold, now)?;
            let keys = channel.dir.join("keys");
            let shown = show(&folder, &[])?;
            Ok(context.out.result(&shown, |shown| {
                format!(
                    "channel {} for {brand} {model}\n{}The root keys are {}: move them to a safe place; they are needed \
                     again only to replace keys.\nNext: `ioex ota channel bundle`, `ioex ota roster add`, `ioex ota publish`.\n",
                    shown.channel,
                    root_keys(shown),
                    keys.join("root-*.key").display()
                )
            })?)
        }
        ChannelCommand::Show { channel } => {
            let shown = show(&ChannelFolder::open(&channel.dir)?, &orders(context).await?)?;
            Ok(context.out.result(&shown, human)?)
        }
        ChannelCommand::Bundle { out, channel, matchers } => {
            let folder = ChannelFolder::open(&channel.dir)?;
            let bytes = folder.bundle(matchers, now)?;
            let mut file = fs::File::create_new(&out).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => {
                    let why = format!("{} exists already: a bundle replaces no file", out.display());
                    anyhow::Error::from(ApiError::new(ErrorCode::Exists, why))
                }
                _ => anyhow::Error::from(e).context(format!("cannot make {}", out.display())),
            })?;
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
            told(context, &folder.into_folder()).await
        }
        ChannelCommand::Carry { channel } => told(context, &ChannelFolder::open(&channel.dir)?).await,
        ChannelCommand::Rotate { roles, channel, draft, root_keys, replace } => {
            let mut folder = ChannelFolder::edit(&channel.dir)?;
            let roles: BTreeSet<Role> = roles.into_iter().map(role_of).collect();
            let roles: Vec<Role> = roles.into_iter().collect();
            let made = folder.rotate(&roles, replace, &root_keys, now)?;
            match folder.adopt(&made.draft, now) {
                Ok(()) => told(context, &folder.into_folder()).await,
                // With anything else the new root may be written already, and these are its keys.
                Err(e) if !few_signatures(&e) => Err(e),
                Err(e) => {
                    let Some(path) = draft else {
                        made.forget();
                        return Err(e.context("with --draft FILE the draft is written for others to sign"));
                    };
                    fs::write(&path, made.draft.to_bytes()?).with_context(|| path.display().to_string())?;
                    Ok(context.out.result(&path.display().to_string(), |path| {
                        format!("{path} needs more signatures ({e}): `ioex ota channel sign {path} KEY`, then `adopt`\n")
                    })?)
                }
            }
        }
        ChannelCommand::Sign { draft, keys } => {
            let mut made = read_draft(&draft)?;
            for key in &keys {
                made.sign(&authority::load(key)?).with_context(|| key.display().to_string())?;
            }
            fs::write(&draft, made.to_bytes()?).with_context(|| draft.display().to_string())?;
            Ok(context
                .out
                .result(&keys.len(), |count| format!("{count} keys signed {}\n", draft.display()))?)
        }
        ChannelCommand::Adopt { draft, channel } => {
            let mut folder = ChannelFolder::edit(&channel.dir)?;
            folder.adopt(&read_draft(&draft)?, now)?;
            told(context, &folder.into_folder()).await
        }
    }
}

/// Whether a draft was not made the root only because signatures of root keys are missing.
fn few_signatures(e: &anyhow::Error) -> bool {
    matches!(e.downcast_ref(), Some(ChannelError::Keys { role: Role::Root, .. }))
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

/// Hands the channel to the running node, if there is one, has it tell the other matchers, and shows it.
pub(super) async fn told(context: &Context, folder: &ChannelFolder) -> anyhow::Result<()> {
    let carried = hand_over(context, folder, true).await?;
    let mut shown = show(folder, &orders(context).await?)?;
    let runs = carried.is_some();
    shown.missed = carried.map(|carried| carried.missed).unwrap_or_default();
    Ok(context.out.result(&shown, |shown| {
        let more = if runs { not_told(&shown.missed) } else { NOT_CARRIED.to_owned() };
        human(shown) + &more
    })?)
}

const NOT_CARRIED: &str = "\nNo node runs here: devices see the change once a super node carries it (`ioex ota channel carry --data \
                           SUPER`).\n";

/// What a maker reads about matchers that do not carry the change.
pub(super) fn not_told(missed: &[OtaMissed]) -> String {
    if missed.is_empty() {
        return String::new();
    }
    let line =
        |missed: &OtaMissed| render::printable(&format!("  {}: {}", missed.matcher, missed.why)) + "\n";
    let lines: String = missed.iter().map(line).collect();
    format!(
        "\nThese matchers were not told:\n{lines}One with an order asks the others by itself, within a quarter of an hour \
         once it is in the network; `ioex ota channel carry` at it does so at once.\n"
    )
}

/// The orders of the running node; none when no super node runs here.
async fn orders(context: &Context) -> anyhow::Result<Vec<OtaOrderInfo>> {
    let client = match context.client().await {
        Ok(client) => client,
        Err(e) if matches!(e.downcast_ref(), Some(ClientError::NotRunning { .. })) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    match client.call::<OtaFleet>(Request::Ota(Box::new(OtaRequest::Fleet))).await {
        Ok(fleet) => Ok(fleet.orders),
        // A node that was built for devices has none.
        Err(ClientError::Api(_)) => Ok(Vec::new()),
        Err(e) => Err(e.into()),
    }
}

/// Hands the channel to the running node, and with `tell` to the other matchers; nothing when no node runs.
pub(super) async fn hand_over(
    context: &Context,
    folder: &ChannelFolder,
    tell: bool,
) -> anyhow::Result<Option<OtaCarried>> {
    let client = match context.client().await {
        Ok(client) => client,
        Err(e) if matches!(e.downcast_ref(), Some(ClientError::NotRunning { .. })) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let dir = absolute(&folder.metadata())?;
    Ok(Some(client.call(Request::Ota(Box::new(OtaRequest::Carry { dir, tell }))).await?))
}
