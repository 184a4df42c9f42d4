//! `ioex receive`: what becomes of file transfers.

use ioex_api::{Client, Request, Transfer, TransferList, Update};

use super::{Context, absolute, send, unexpected};
use crate::{
    cli::ReceiveCommand,
    progress,
    render::{self, Table},
    size,
};

pub(super) async fn run(context: &Context, command: ReceiveCommand) -> anyhow::Result<()> {
    let client = context.client().await?;
    let request = match command {
        ReceiveCommand::List => {
            let list: TransferList = client.call(Request::Transfers).await?;
            return Ok(context.out.result(&list, human)?);
        }
        ReceiveCommand::Watch { id } => return watch(context, &client, id).await,
        ReceiveCommand::Accept { id, dir } => {
            Request::TransferAccept { id, dir: dir.as_deref().map(absolute).transpose()? }
        }
        ReceiveCommand::Pause { id } => Request::TransferPause { id },
        ReceiveCommand::Resume { id } => Request::TransferResume { id },
        ReceiveCommand::Cancel { id } => Request::TransferCancel { id },
    };
    let transfer: Transfer = client.call(request).await?;
    Ok(context.out.result(&transfer, render::transfer)?)
}

async fn watch(context: &Context, client: &Client, id: u64) -> anyhow::Result<()> {
    let mut bars = progress::Transfers::new(context.show());
    let mut updates = client.stream(Request::TransferWatch { id }).await?;
    while let Some(update) = updates.next().await? {
        match &update {
            Update::Transfer(transfer) => bars.update(transfer),
            other => return Err(unexpected(other)),
        }
        context.out.update(update, |_| None)?;
    }
    bars.finish();
    let transfer: Transfer = updates.finish().await?;
    match send::failure(&transfer) {
        Some(failed) => Err(failed.into()),
        None => Ok(context.out.done(&transfer, render::transfer)?),
    }
}

fn human(list: &TransferList) -> String {
    let mut table =
        Table::new(["id", "way", "with", "state", "done", "of", "rate", "files"]).right([0, 4, 5, 6]);
    for transfer in &list.transfers {
        let with: Vec<String> = transfer.with.iter().map(ioex_base::Uid::short).collect();
        table.row([
            transfer.id.to_string(),
            if transfer.incoming { "in" } else { "out" }.to_owned(),
            with.join(","),
            render::transfer_state(transfer.state).to_owned(),
            size::human(transfer.done_bytes),
            size::human(transfer.total_bytes),
            format!("{}/s", size::human(transfer.bytes_per_second)),
            render::files(transfer),
        ]);
    }
    table.text_or("no transfers")
}
