//! `ioex phone`: into the background and back.

use ioex_api::{Empty, Request};

use super::Context;
use crate::cli::PhoneState;

pub(super) async fn run(context: &Context, state: PhoneState) -> anyhow::Result<()> {
    let on = state == PhoneState::Background;
    let done: Empty = context.client().await?.call(Request::Background { on }).await?;
    let text = if on { "left the mesh" } else { "back in the mesh" };
    Ok(context.out.result(&done, |_| text.to_owned())?)
}
