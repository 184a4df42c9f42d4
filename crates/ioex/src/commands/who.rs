//! Whom a command means: a UID, or the remark that its user gave a friend.

use ioex_api::{Client, FriendList, Request};
use ioex_base::Uid;

use crate::exit::Usage;

/// The UID that `text` names. Only the user's own remarks count, not the names that friends give
/// themselves: those are not unique, and could be chosen to be mistaken for somebody else.
pub(super) async fn uid(client: &Client, text: &str) -> anyhow::Result<Uid> {
    find(client, text).await?.ok_or_else(|| {
        Usage(format!("'{text}' is no UID (52 characters, a-z and 2-7) and no friend's label")).into()
    })
}

/// As [`uid`], but what is neither UID nor label stays as typed, for requests where the node
/// itself checks the address.
pub(super) async fn address(client: &Client, text: String) -> anyhow::Result<String> {
    Ok(find(client, &text).await?.map_or(text, |uid| uid.to_string()))
}

async fn find(client: &Client, text: &str) -> anyhow::Result<Option<Uid>> {
    if let Ok(uid) = text.parse() {
        return Ok(Some(uid));
    }
    let list: FriendList = client.call(Request::FriendList).await?;
    Ok(labelled(&list, text)?)
}

/// The UIDs of several.
pub(super) async fn uids(client: &Client, texts: &[String]) -> anyhow::Result<Vec<Uid>> {
    let mut uids = Vec::with_capacity(texts.len());
    for text in texts {
        uids.push(uid(client, text).await?);
    }
    Ok(uids)
}

fn labelled(list: &FriendList, text: &str) -> Result<Option<Uid>, Usage> {
    let found: Vec<Uid> =
        list.friends.iter().filter(|f| !text.is_empty() && f.label == text).map(|f| f.uid).collect();
    match found.as_slice() {
        [one] => Ok(Some(*one)),
        [] => Ok(None),
        several => {
            let uids: Vec<String> = several.iter().map(Uid::to_string).collect();
            Err(Usage(format!("'{text}' is the label of several friends: {}", uids.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use ioex_api::{Friend, FriendState, Path};

    use super::*;

    fn friend(byte: u8, label: &str) -> Friend {
        Friend {
            uid: Uid::from_bytes([byte; 32]),
            name: "name".to_owned(),
            label: label.to_owned(),
            state: FriendState::Friend,
            greeting: String::new(),
            online: false,
            path: Path::None,
            last_seen: None,
        }
    }

    #[test]
    fn a_label_stands_for_one_friend_only() {
        let list =
            FriendList { friends: vec![friend(1, "a"), friend(2, "b"), friend(3, "b"), friend(4, "")] };
        assert_eq!(labelled(&list, "a").unwrap(), Some(Uid::from_bytes([1; 32])));
        assert!(labelled(&list, "b").is_err());
        for text in ["name", "", "c"] {
            assert_eq!(labelled(&list, text).unwrap(), None, "{text}");
        }
    }
}
