//! `ioex authority`: the key that permits placing, and its grants. Needs no node.

use serde_json::json;

use super::Context;
use crate::{authority, cli::AuthorityCommand, render, size};

pub(super) fn run(context: &Context, command: AuthorityCommand) -> anyhow::Result<()> {
    match command {
        AuthorityCommand::Create { file } => {
            let uid = authority::create(&file)?.uid();
            context.out.result(&json!({ "uid": uid, "file": file }), |_| {
                format!("{uid}\nPeers that list this UID under `authorities` accept its grants.")
            })?;
        }
        AuthorityCommand::Grant { key, to, max_bytes_per_device, days, out } => {
            let key = authority::load(&key)?;
            let (grant, signed) =
                authority::grant_place(&key, to, max_bytes_per_device, render::now(), days)?;
            authority::write_grant(&out, &signed)?;
            let id = data_encoding::HEXLOWER.encode(&grant.id.0);
            let value = json!({
                "id": id,
                "issuer": signed.issuer,
                "subject": to,
                "max_bytes_per_device": max_bytes_per_device,
                "not_before": grant.not_before,
                "not_after": grant.not_after,
                "file": out,
            });
            context.out.result(&value, |_| {
                render::fields([
                    ("grant", id.clone()),
                    ("to", to.to_string()),
                    ("per device", size::human(max_bytes_per_device)),
                    ("ends", render::until(grant.not_after, render::now())),
                    ("file", out.display().to_string()),
                ])
            })?;
        }
        AuthorityCommand::Revoke { key, id, out } => {
            let key = authority::load(&key)?;
            let list = authority::revoke(&key, id, &out)?;
            let value = json!({
                "issuer": key.uid(),
                "seq": list.seq,
                "revoked": list.ids.iter().map(|id| data_encoding::HEXLOWER.encode(&id.0)).collect::<Vec<_>>(),
                "file": out,
            });
            context.out.result(&value, |_| {
                format!(
                    "{} grants are revoked in {}.\nDevices that have it under `revocations` refuse them.",
                    list.ids.len(),
                    out.display()
                )
            })?;
        }
    }
    Ok(())
}
