//! `ioex backup`: into the network and back.

use ioex_api::{BackupDone, Client, Holding, Request, RestoreDone, Update, Updates};

use super::{Context, absolute, unexpected, who};
use crate::{
    cli::BackupCommand,
    progress,
    render::{self, Table},
    size,
};

pub(super) async fn run(context: &Context, command: BackupCommand) -> anyhow::Result<()> {
    let client = context.client().await?;
    match command {
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

async fn follow(context: &Context, client: &Client, request: Request) -> anyhow::Result<Updates> {
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
