//! `ioex events`: everything that happens, until Ctrl-C or the node's end.

use ioex_api::{Empty, Event, Request, Update};

use super::Context;
use crate::render;

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let mut updates = context.client().await?.stream(Request::Events).await?;
    while let Some(update) = updates.next().await? {
        context.out.update(update, human)?;
    }
    let end: Empty = updates.finish().await?;
    Ok(context.out.done(&end, |_| String::new())?)
}

fn human(update: &Update) -> Option<String> {
    let Update::Event(event) = update else { return None };
    Some(match event {
        Event::Joined { joined: true } => "joined the network".to_owned(),
        Event::Joined { joined: false } => "lost the network".to_owned(),
        Event::Home { bootstrap: Some(uid) } => format!("home bootstrap is now {uid}"),
        Event::Home { bootstrap: None } => "no home bootstrap".to_owned(),
        Event::FriendConnection { uid, online: true, path } => {
            format!("friend {uid} is online, {}", render::path(path))
        }
        Event::FriendConnection { uid, online: false, .. } => format!("friend {uid} is offline"),
        Event::FriendInfo { friend } => render::printable(&format!(
            "friend {} is '{}', {}",
            friend.uid,
            friend.name,
            render::friend_state(friend.state)
        )),
        Event::FriendRequest { friend } => {
            render::printable(&format!("{} asks for friendship: '{}'", friend.uid, friend.greeting))
        }
        Event::FriendAdded { uid } => format!("friend {uid} added"),
        Event::FriendRemoved { uid } => format!("friend {uid} removed"),
        Event::Message { message } => format!("message {}", render::message(message, render::now())),
        Event::Transfer { transfer } => render::transfer(transfer),
        Event::Warning { text } => render::printable(&format!("warning: {text}")),
    })
}
