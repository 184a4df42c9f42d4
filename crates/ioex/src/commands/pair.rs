//! `ioex pair`: a code on one side, entered on the other.

use ioex_api::{Friend, PairCode, Request};
use qrcode::{QrCode, render::unicode::Dense1x2};

use super::Context;
use crate::{cli::PairCommand, render};

/// Seconds in a minute.
const MINUTE_SECONDS: u64 = 60;

pub(super) async fn run(context: &Context, command: PairCommand) -> anyhow::Result<()> {
    let client = context.client().await?;
    match command {
        PairCommand::Show { minutes } => {
            let request = Request::PairShow { ttl_seconds: minutes * MINUTE_SECONDS };
            let code: PairCode = client.call(request).await?;
            context.out.result(&code, human)?;
        }
        PairCommand::Use { target, code } => {
            let friend: Friend = client.call(Request::PairUse { target, code }).await?;
            context.out.result(&friend, |friend| {
                format!("paired with {} ({})", render::printable(&render::friend_name(friend)), friend.uid)
            })?;
        }
    }
    Ok(())
}

fn human(code: &PairCode) -> String {
    // A link too long for a QR code can still be copied.
    let picture = QrCode::new(code.link.as_bytes())
        .map(|qr| qr.render::<Dense1x2>().quiet_zone(true).build())
        .unwrap_or_default();
    let works = render::until(code.expires, render::now());
    format!(
        "{picture}\n\nCode: {}   (ends {works})\nLink: {}\n\nOn the other device: ioex pair use '{}'",
        code.code, code.link, code.link
    )
}
