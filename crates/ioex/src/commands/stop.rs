//! `ioex stop`: ends the running node in order.

use std::time::Duration;

use ioex_api::{ApiError, Client, ClientError, Empty, ErrorCode, Request};
use tokio::time::{Instant, sleep};

use super::Context;

/// How long a node may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between looks at its socket.
const POLL: Duration = Duration::from_millis(50);

pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let client = context.client().await?;
    let done: Empty = client.call(Request::Shutdown).await?;
    // Scripts start the next node in the same folder right after this.
    let deadline = Instant::now() + STOP_TIMEOUT;
    while !matches!(Client::connect(client.data()).await, Err(ClientError::NotRunning { .. })) {
        if Instant::now() > deadline {
            let text = "the node took the request to stop, but still runs";
            return Err(ApiError::new(ErrorCode::Timeout, text).into());
        }
        sleep(POLL).await;
    }
    Ok(context.out.result(&done, |_| "stopped".to_owned())?)
}
