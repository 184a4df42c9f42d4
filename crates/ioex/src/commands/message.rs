//! `ioex message`: texts between friends.

use ioex_api::{Message, MessageList, MessageState, Request};

use super::{Context, who};
use crate::{cli::MessageCommand, render};

pub(super) async fn run(context: &Context, command: MessageCommand) -> anyhow::Result<()> {
    let client = context.client().await?;
    match command {
        MessageCommand::Send { uid, text, wait } => {
            let to = who::address(&client, uid).await?;
            let request = Request::MessageSend { to, text, wait_seconds: wait };
            let message: Message = client.call(request).await?;
            context.out.result(&message, |message| match message.state {
                MessageState::Queued => "queued: goes out when the friend is reachable".to_owned(),
                MessageState::Delivered => "delivered".to_owned(),
            })?;
        }
        MessageCommand::List { uid, limit } => {
            let with = match uid {
                Some(uid) => Some(who::uid(&client, &uid).await?),
                None => None,
            };
            let list: MessageList = client.call(Request::MessageList { with, limit }).await?;
            context.out.result(&list, human)?;
        }
    }
    Ok(())
}

fn human(list: &MessageList) -> String {
    let now = render::now();
    let lines: Vec<String> = list.messages.iter().map(|message| render::message(message, now)).collect();
    if lines.is_empty() { "no messages".to_owned() } else { lines.join("\n") }
}
