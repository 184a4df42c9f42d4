//! The devices of a maker's channel.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Context as _;
use ioex_api::{ApiError, ErrorCode};
use ioex_base::Uid;

use crate::{
    channel_folder::{ChannelFolder, read_roster, with, without},
    cli::RosterCommand,
    commands::Context,
    node::files,
};

pub(super) fn run(context: &Context, command: RosterCommand) -> anyhow::Result<()> {
    match command {
        RosterCommand::Add { uids, channel } => add(context, &channel.dir, uids),
        RosterCommand::Import { file, channel } => {
            add(context, &channel.dir, read_roster(&file)?.into_iter().collect())
        }
        RosterCommand::Remove { uids, channel } => remove(context, &channel.dir, &uids),
        RosterCommand::List { channel } => {
            let all = read_roster(&ChannelFolder::open(&channel.dir)?.roster())?;
            Ok(context.out.result(&all, |all| {
                let lines: String = all.iter().map(|uid| format!("{uid}\n")).collect();
                format!("{lines}{} devices\n", all.len())
            })?)
        }
    }
}

fn add(context: &Context, dir: &Path, new: Vec<Uid>) -> anyhow::Result<()> {
    let folder = ChannelFolder::edit(dir)?;
    let mut all = read_roster(&folder.roster())?;
    let added: Vec<Uid> = new.into_iter().filter(|uid| all.insert(*uid)).collect();
    if !added.is_empty() {
        let path = folder.roster();
        let text = with(fs::read_to_string(&path)?, &added);
        files::replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    changed(context, &folder, &all, &format!("{} of them new", added.len()))
}

fn remove(context: &Context, dir: &Path, gone: &[Uid]) -> anyhow::Result<()> {
    let folder = ChannelFolder::edit(dir)?;
    let path = folder.roster();
    let mut all = read_roster(&path)?;
    for uid in gone {
        if !all.remove(uid) {
            let why = format!("{uid} is not on the roster: nothing was removed");
            return Err(ApiError::new(ErrorCode::NotFound, why).into());
        }
    }
    let text = fs::read_to_string(&path)?;
    files::replace(&path, without(&text, gone).as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    changed(context, &folder, &all, &format!("{} removed", gone.len()))
}

/// Says how many there are, and that orders keep theirs.
fn changed(context: &Context, folder: &ChannelFolder, all: &BTreeSet<Uid>, what: &str) -> anyhow::Result<()> {
    let published = folder.channel.releases().next().is_some();
    Ok(context.out.result(all, |all| {
        let note = if published {
            "Versions that were published already keep the devices that they had: `ioex ota order VERSION --origin UID` at \
             the super node UID gives one the new list, also when its order has ended.\n"
        } else {
            ""
        };
        format!("{} devices, {what}\n{note}", all.len())
    })?)
}
