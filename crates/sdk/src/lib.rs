//! The Peer Node SDK: a device's node inside its maker's own program.
//!
//! A maker's firmware has a program that looks after updates. With this crate, that program *is* the node: it
//! finds the maker's channel, fetches what is new from the maker and from other devices, installs it, and goes
//! back when it is not healthy. The program is told what happens ([`Event`]) and answers when it wants to.
//!
//! - [`Node`] lives in a tokio runtime that the program has.
//! - [`blocking::Node`] brings threads of its own, and calls a function for each event. No call of it waits for the
//!   network or for a command. The C library (`ioex-sdk-c`, `ioex.h`) is this one.
//!
//! The configuration is that of `ioex node`; its section `[ota]` says which channel the device follows, where a
//! package goes, and who is asked. Nothing is written to stdout, no signal is heeded, no logger is set.
//!
//! ```no_run
//! use ioex_sdk::{Answer, Event, blocking::Node};
//!
//! let text = std::fs::read_to_string("/etc/ioex.toml")?;
//! let (tell, told) = std::sync::mpsc::channel();
//! // The function runs on a thread of the SDK; here it passes everything on.
//! let node = Node::start(ioex_sdk::config(&text)?, move |event| drop(tell.send(event)))?;
//! for event in told {
//!     match event {
//!         Event::Offered { version, manifest, consent: true, .. } => {
//!             println!("version {version} is there");
//!             node.consent(&Answer { version, manifest: Some(manifest), yes: true, now: false })?;
//!         }
//!         // This program is what was replaced: it ends, and whoever looks after it starts the new one.
//!         Event::Installed { .. } => break,
//!         // So this is the new one. It confirms what it has looked at.
//!         Event::Trial { confirm: true, .. } => match healthy() {
//!             Ok(()) => node.confirm()?,
//!             Err(why) => node.roll_back(&why)?,
//!         },
//!         // The version before is in its place again, and is started in the same way.
//!         Event::Failed { rolled_back: true, .. } => break,
//!         other => println!("{other:?}"),
//!     }
//! }
//! node.shutdown()?;
//! # fn healthy() -> Result<(), String> { Ok(()) }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The order of calls, memory and threads are in `docs/sdk.md`.

pub mod blocking;
mod error;
mod event;
mod node;

use std::path::PathBuf;

pub use ioex::{
    config::NodeConfig,
    node::{Answer, CHANNEL_MAX_BYTES, ChannelFiles, log_to_stderr},
};
pub use ioex_api::{OtaReason as Reason, OtaStage as Stage, OtaState as State};
pub use ioex_base::{ContentAddress, Uid};

pub use self::{
    error::{Call, Error},
    event::{Event, Events, Progress},
    node::Node,
};

/// Reads a configuration, as `ioex node` has it in a file. It has to name the folder `data` and to have a
/// section `[ota]`.
///
/// # Errors
/// [`Error::Config`], which names the key.
pub fn config(toml: &str) -> Result<NodeConfig, Error> {
    let config = NodeConfig::from_toml(toml, PathBuf::new()).map_err(|e| Error::Config(e.to_string()))?;
    node::check(&config)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTA: &str = "[ota]\nbundle = \"b\"\ninstalled = \"1.0\"\n[ota.install.swap]\npath = \"p\"\n";

    #[test]
    fn a_configuration_names_its_folder_and_its_channel() {
        let refused = |text: &str| config(text).unwrap_err().to_string();
        assert!(config(&format!("data = \"d\"\n{OTA}")).is_ok());
        assert!(refused(OTA).contains("`data`"), "{}", refused(OTA));
        assert!(refused("data = \"d\"").contains("[ota]"));
        assert!(refused("nonsense").contains("configuration"));
        let seeds = format!("data = \"d\"\nseeds = [\"x\"]\n{OTA}");
        assert!(refused(&seeds).contains("seeds"));
    }
}
