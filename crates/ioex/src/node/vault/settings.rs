//! What a super node is told of its backups and what cannot work is refused at the start, not at the first backup.

use std::path::Path;

use ioex_base::{Grant, NodeKind, Right, Sealed as _, SignedGrant, wire};

use super::inspect;
use crate::config::{ConfigError, Inspection, NodeConfig};

/// Checks the capability and the inspection's command. A capability that is not there yet may come, and one that
/// is over, or another node's, may be replaced while the node runs.
///
/// # Errors
/// [`ConfigError::Value`] for the first key that does not fit.
pub(crate) fn check(config: &NodeConfig) -> Result<(), ConfigError> {
    if config.kind != NodeKind::Super {
        return Ok(());
    }
    if let Some(path) = &config.capability {
        capability(path).map_err(|why| ConfigError::Value { key: "capability", why })?;
    }
    match &config.inspect {
        Inspection::Command(words) => {
            inspect::check_command(words).map_err(|why| ConfigError::Value { key: "inspect", why })
        }
        // A daemon may start later than the node.
        Inspection::None | Inspection::Clamd(_) => Ok(()),
    }
}

fn capability(path: &Path) -> Result<(), String> {
    let none = |why: &dyn std::fmt::Display| {
        format!("{} is no capability ({why}): have one signed with `ioex authority grant`", path.display())
    };
    match path.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(meta) if !meta.is_file() => return Err(none(&"it is no file")),
        _ => {}
    }
    let bytes = std::fs::read(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    let signed: SignedGrant = wire::decode(&bytes, bytes.len()).map_err(|e| none(&e))?;
    let grant = Grant::unseal(&signed.bytes, &signed.issuer).map_err(|e| none(&e))?;
    match grant.right {
        Right::Place { .. } => Ok(()),
        _ => Err(none(&"it does not allow placing shards")),
    }
}
