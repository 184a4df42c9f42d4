//! A maker's super node with a channel, for the scenarios about updates.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;

use super::world::{Bootstrap, World, seed_flags};
use crate::{netns::Namespace, node::Node, sh};

const BRAND: &str = "lab";
/// Packing and signing a version.
const PUBLISH: Duration = Duration::from_secs(180);

/// The super node; its channel's folder and bundle lie beside it.
pub(crate) struct Maker {
    node: Node,
    channel: String,
    bundle: PathBuf,
}

impl Maker {
    /// Starts the node on `host`, makes a channel, and what belongs into the devices of `model`.
    pub(crate) fn start(world: &World, host: &Namespace, seeds: &[Bootstrap], model: &str) -> Result<Self> {
        let mut flags = seed_flags(seeds)?;
        flags.extend(["--kind", "super"].map(String::from));
        let node = world.start(host, "maker", flags)?;
        node.wait_joined()?;
        let channel = world.dir().join("channel").display().to_string();
        let bundle = world.dir().join("bundle");
        node.call(&["ota", "channel", "create", BRAND, model, "--channel", &channel])?;
        let out = bundle.display().to_string();
        node.call(&["ota", "channel", "bundle", &out, "--channel", &channel, "--matcher", node.uid()?])?;
        Ok(Self { node, channel, bundle })
    }

    /// The super node.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// What devices have in their firmware.
    pub(crate) fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Puts devices on the roster.
    pub(crate) fn add(&self, uids: &[&str]) -> Result<()> {
        let add = ["ota", "roster", "add", "--channel", &self.channel];
        self.node.call(&[&add, uids].concat()).map(drop)
    }

    /// How `ioex` writes a version.
    pub(crate) fn name(version: u32) -> String {
        format!("{version}.0.0")
    }

    /// Publishes a version that is one image, for everybody at once.
    pub(crate) fn publish(&self, version: u32, image: &str, file: &Path) -> Result<Value> {
        let (version, image) = (Self::name(version), format!("{image}={}", file.display()));
        let args = ["ota", "publish", &image, "--version", &version, "--channel", &self.channel];
        Ok(self.node.call_within(&args, PUBLISH)?["value"].take())
    }

    /// Waits until the super node has heard of one device in this stage of a version, and returns the version's order.
    pub(crate) fn heard(&self, version: u32, stage: &str, limit: Duration) -> Result<Value> {
        let name = Self::name(version);
        let heard = || {
            let fleet = self.node.call(&["ota", "status"])?;
            let mut orders = fleet["orders"].as_array().into_iter().flatten();
            let order = orders.find(|order| order["version"] == name.as_str()).cloned();
            Ok(order.filter(|order| order["stages"][stage] == 1))
        };
        sh::wait_for(&format!("the maker to hear that version {name} {stage}"), limit, heard)
    }

    /// Ends the node in order.
    pub(crate) fn stop(self) -> Result<()> {
        self.node.stop()
    }
}
