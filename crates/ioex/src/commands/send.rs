//! `ioex send`: files to friends.

use anyhow::Context as _;
use ioex_api::{ApiError, ErrorCode, Request, Transfer, TransferList, TransferState, Update};

use super::{Context, absolute, unexpected, who};
use crate::{cli::SendArgs, progress, render};

pub(super) async fn run(context: &Context, args: &SendArgs) -> anyhow::Result<()> {
    let paths = args.files.iter().map(|file| absolute(file)).collect::<anyhow::Result<Vec<_>>>()?;
    let client = context.client().await?;
    let to = who::uids(&client, &args.to).await?;
    let mut bars = progress::Transfers::new(context.show());
    let mut updates = client.stream(Request::Send { to, paths, wait: !args.no_wait }).await?;
    while let Some(update) = updates.next().await? {
        match &update {
            Update::Transfer(transfer) => bars.update(transfer),
            other => return Err(unexpected(other)),
        }
        context.out.update(update, |_| None)?;
    }
    bars.finish();
    let list: TransferList = updates.finish().await?;
    if let Some(failed) = list.transfers.iter().find_map(failure) {
        return Err(failed).context("not everything arrived");
    }
    Ok(context.out.done(&list, human)?)
}

fn human(list: &TransferList) -> String {
    let lines: Vec<String> = list.transfers.iter().map(render::transfer).collect();
    lines.join("\n")
}

/// Why a transfer ended without its files, if it did.
pub(super) fn failure(transfer: &Transfer) -> Option<ApiError> {
    match transfer.state {
        TransferState::Failed => Some(transfer.error.clone().unwrap_or_else(|| {
            ApiError::new(ErrorCode::Internal, format!("transfer {} failed", transfer.id))
        })),
        TransferState::Cancelled => {
            Some(ApiError::new(ErrorCode::Refused, format!("transfer {} was cancelled", transfer.id)))
        }
        TransferState::Offered | TransferState::Active | TransferState::Paused | TransferState::Done => None,
    }
}
