//! `ioex backup partner`: super nodes that watch together.

use ioex_api::{
    Client, Empty, Request,
    vault::{PartnerList, VaultRequest},
};

use super::{Context, who};
use crate::{
    cli::PartnerCommand,
    render::{self, Table},
};

pub(super) async fn run(context: &Context, client: &Client, command: PartnerCommand) -> anyhow::Result<()> {
    let ask = |request| Request::Vault(Box::new(request));
    let list: PartnerList = match command {
        PartnerCommand::Add { uid } => {
            let uid = who::uid(client, &uid).await?;
            client.call(ask(VaultRequest::PartnerAdd { uid })).await?
        }
        PartnerCommand::List => client.call(ask(VaultRequest::PartnerList)).await?,
        PartnerCommand::Remove { uid } => {
            let uid = who::uid(client, &uid).await?;
            let _: Empty = client.call(ask(VaultRequest::PartnerRemove { uid })).await?;
            return Ok(context.out.result(&Empty {}, |_| String::new())?);
        }
    };
    context.out.result(&list, |l| {
        let mut table = Table::new(["partner", "since", "heard", "watched here", "state"]);
        for p in &l.partners {
            let state = match (&p.trouble, p.silent) {
                (Some(why), _) => why.clone(),
                (None, true) => "silent: others do its part".to_owned(),
                (None, false) => "watches".to_owned(),
            };
            table.row([
                p.uid.to_string(),
                render::ago(Some(p.added), render::now()),
                render::ago(p.heard, render::now()),
                format!("{} groups", p.watched_groups),
                state,
            ]);
        }
        table.text_or("no partners: `ioex backup partner add UID` lets a friend's super node watch as well")
    })?;
    Ok(())
}
