//! `ioex friend`: friends and friend requests.

use ioex_api::{Empty, FriendList, Request};

use super::{Context, who};
use crate::{
    cli::FriendCommand,
    render::{self, Table},
};

pub(super) async fn run(context: &Context, command: FriendCommand) -> anyhow::Result<()> {
    let client = context.client().await?;
    let (request, text) = match command {
        FriendCommand::List => {
            let list: FriendList = client.call(Request::FriendList).await?;
            return Ok(context.out.result(&list, human)?);
        }
        FriendCommand::Add { address, greeting } => {
            (Request::FriendAdd { address, greeting }, "the other node has the request")
        }
        FriendCommand::Accept { uid } => {
            (Request::FriendAccept { uid: who::uid(&client, &uid).await? }, "you are friends now")
        }
        FriendCommand::Refuse { uid } => {
            (Request::FriendRefuse { uid: who::uid(&client, &uid).await? }, "refused")
        }
        FriendCommand::Remove { uid } => {
            (Request::FriendRemove { uid: who::uid(&client, &uid).await? }, "removed")
        }
        FriendCommand::Label { uid, label } => {
            (Request::FriendLabel { uid: who::uid(&client, &uid).await?, label }, "labelled")
        }
    };
    let done: Empty = client.call(request).await?;
    Ok(context.out.result(&done, |_| text.to_owned())?)
}

fn human(list: &FriendList) -> String {
    let now = render::now();
    let mut table = Table::new(["uid", "name", "label", "state", "path", "last seen", "greeting"]);
    for friend in &list.friends {
        table.row([
            friend.uid.to_string(),
            friend.name.clone(),
            friend.label.clone(),
            render::friend_state(friend.state).to_owned(),
            render::path(&friend.path),
            if friend.online { "online".to_owned() } else { render::ago(friend.last_seen, now) },
            friend.greeting.clone(),
        ]);
    }
    table.text_or("no friends yet: `ioex id` shows the address to give them, `ioex pair show` a code")
}
