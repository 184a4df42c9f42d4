//! `ioex shards`: what this device holds for others.

use ioex_api::{Request, ShardList};

use super::Context;
use crate::{
    render::{self, Table},
    size,
};

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let list: ShardList = context.client().await?.call(Request::Shards).await?;
    Ok(context.out.result(&list, human)?)
}

fn human(list: &ShardList) -> String {
    let now = render::now();
    let mut table = Table::new(["address", "bytes", "placed by", "ends"]).right([1]);
    for shard in &list.shards {
        table.row([
            shard.address.to_string(),
            size::human(shard.bytes),
            shard.placed_by.short(),
            render::until(shard.expires, now),
        ]);
    }
    table.text_or("this device holds no shards")
}
