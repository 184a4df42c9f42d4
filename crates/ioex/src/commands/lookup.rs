//! `ioex lookup`: who holds a content address.

use ioex_api::{HolderList, Request};
use ioex_base::ContentAddress;

use super::Context;

pub(super) async fn run(context: &Context, address: ContentAddress) -> anyhow::Result<()> {
    let list: HolderList = context.client().await?.call(Request::Lookup { address }).await?;
    Ok(context.out.result(&list, human)?)
}

fn human(list: &HolderList) -> String {
    let mut text: String = list.holders.iter().map(|uid| format!("{uid}\n")).collect();
    text += &format!("{} holders, answered in {:.1} ms", list.holders.len(), list.elapsed_ms);
    text
}
