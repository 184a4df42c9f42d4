//! `ioex forward`: ports over a session with a friend.

use ioex_api::{Empty, Forward, ForwardList, ForwardProtocol, Request};

use super::{Context, who};
use crate::{cli::ForwardCommand, render::Table};

pub(super) async fn run(context: &Context, command: ForwardCommand) -> anyhow::Result<()> {
    let client = context.client().await?;
    let out = context.out;
    match command {
        ForwardCommand::Open { uid, listen, target, udp } => {
            let protocol = if udp { ForwardProtocol::Udp } else { ForwardProtocol::Tcp };
            let to = who::uid(&client, &uid).await?;
            let forward: Forward = client.call(Request::ForwardOpen { to, protocol, listen, target }).await?;
            out.result(&forward, |f| {
                format!(
                    "forward {}: {} {} leads to {} at {}",
                    f.id,
                    name(f.protocol),
                    f.listen,
                    f.target,
                    f.to
                )
            })?;
        }
        ForwardCommand::List => {
            let list: ForwardList = client.call(Request::Forwards).await?;
            out.result(&list, human)?;
        }
        ForwardCommand::Close { id } => {
            let done: Empty = client.call(Request::ForwardClose { id }).await?;
            out.result(&done, |_| "closed".to_owned())?;
        }
        ForwardCommand::Allow { targets } => {
            let count = targets.len();
            let done: Empty = client.call(Request::ForwardAllow { targets }).await?;
            out.result(&done, |_| format!("friends may be forwarded to {count} addresses here"))?;
        }
    }
    Ok(())
}

fn human(list: &ForwardList) -> String {
    let mut table = Table::new(["id", "protocol", "listen", "friend", "target"]).right([0]);
    for forward in &list.forwards {
        table.row([
            forward.id.to_string(),
            name(forward.protocol).to_owned(),
            forward.listen.to_string(),
            forward.to.to_string(),
            forward.target.to_string(),
        ]);
    }
    table.text_or("no forwards")
}

fn name(protocol: ForwardProtocol) -> &'static str {
    match protocol {
        ForwardProtocol::Tcp => "tcp",
        ForwardProtocol::Udp => "udp",
    }
}
