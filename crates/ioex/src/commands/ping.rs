//! `ioex ping`: is the friend there, how far, and over which path.

use ioex_api::{ApiError, Empty, ErrorCode, Pong, Request, Update};

use super::{Context, who};
use crate::{cli::PingArgs, render};

pub(super) async fn run(context: &Context, args: &PingArgs) -> anyhow::Result<()> {
    let client = context.client().await?;
    let uid = who::uid(&client, &args.uid).await?;
    let request = Request::Ping { uid, count: args.count, interval_ms: args.interval };
    let mut updates = client.stream(request).await?;
    let (mut sent, mut times) = (0u32, Vec::new());
    while let Some(update) = updates.next().await? {
        if let Update::Pong(pong) = &update {
            sent += 1;
            times.extend(pong.rtt_ms);
        }
        context.out.update(update, human)?;
    }
    let end: Empty = updates.finish().await?;
    if times.is_empty() {
        let text = format!("none of {sent} pings to {} was answered", uid.short());
        return Err(ApiError::new(ErrorCode::Unreachable, text).into());
    }
    Ok(context.out.done(&end, |_| summary(sent, &times))?)
}

fn human(update: &Update) -> Option<String> {
    let Update::Pong(Pong { seq, rtt_ms, path }) = update else { return None };
    Some(match rtt_ms {
        Some(ms) => format!("reply {seq}: {ms:.2} ms, {}", render::path(path)),
        None => format!("reply {seq}: none in time"),
    })
}

fn summary(sent: u32, times: &[f64]) -> String {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    format!("{} of {sent} answered; least {least:.2} ms, mean {mean:.2} ms, most {most:.2} ms", times.len())
}
