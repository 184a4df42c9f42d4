//! `ioex id`: who the running node is.

use ioex_api::{IdInfo, Request};

use super::Context;
use crate::{cli::IdArgs, render};

pub(super) async fn run(context: &Context, args: &IdArgs) -> anyhow::Result<()> {
    let request = if args.rotate_tag { Request::RotateTag } else { Request::Id };
    let id: IdInfo = context.client().await?.call(request).await?;
    Ok(context.out.result(&id, human)?)
}

/// Also the head of `ioex status`.
pub(super) fn human(id: &IdInfo) -> String {
    render::fields([
        ("uid", id.uid.to_string()),
        ("kind", id.kind.to_string()),
        ("name", id.name.clone()),
        ("friend address", id.friend_address.clone()),
        ("seed entry", id.seed.clone().unwrap_or_default()),
        ("data", id.data.display().to_string()),
        ("process", id.pid.to_string()),
        ("version", id.version.clone()),
    ])
}
