//! `ioex stop`: ends the running node in order.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ioex_api::{ApiError, Client, ClientError, Empty, ErrorCode, Request};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::time::sleep;

use super::Context;

/// How long a node may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between looks at its socket.
const POLL: Duration = Duration::from_millis(50);

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let client = context.client().await?;
    let process = process(&client).await?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    let done: Empty = client.call(Request::Shutdown).await?;
    // Scripts start the next node in the same folder right after this.
    while !matches!(Client::connect(client.data()).await, Err(ClientError::NotRunning { .. })) {
        if Instant::now() > deadline {
            return Err(still_runs());
        }
        sleep(POLL).await;
    }
    // Its files are free only when the process is gone.
    if let Some(process) = process
        && !ends_until(&process, deadline)?
    {
        return Err(still_runs());
    }
    Ok(context.out.result(&done, |_| "stopped".to_owned())?)
}

fn still_runs() -> anyhow::Error {
    ApiError::new(ErrorCode::Timeout, "the node took the request to stop, but still runs").into()
}

/// The node's process; nothing when it is not of this machine's processes, as behind a container's wall.
async fn process(client: &Client) -> anyhow::Result<Option<OwnedFd>> {
    let number = client.process().await?;
    let pid = number.and_then(|number| i32::try_from(number).ok()).and_then(Pid::from_raw);
    Ok(pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()))
}

/// Whether a process ends until then.
fn ends_until(process: &OwnedFd, deadline: Instant) -> anyhow::Result<bool> {
    let patience = deadline.saturating_duration_since(Instant::now());
    let patience = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    };
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience));
    Ok(ended.context("cannot wait for the node's process")? > 0)
}
