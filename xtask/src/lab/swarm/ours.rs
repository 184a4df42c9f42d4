//! Ours: a super node at the origin that publishes to a channel, and devices that take updates from it.
//!
//! Devices are asked first and have seen the offer when the clock begins, as the other programs know what they are
//! to fetch; the word to all of them is their owners' consent. A device is done when the package lies verified in
//! its place, decrypted and on disk, not when its last shard has come: the installer lets it change places with what
//! was there in one moment, and that is what is watched, since following 32 devices costs time that they need.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Program, stage::Stage};
use crate::{
    lab::{
        maker::Maker,
        world::{Bootstrap, seed_flags},
    },
    node::Node,
    sh,
};

/// Its name in the table.
pub(super) const NAME: &str = "ioex";

const MODEL: &str = "swarm";
const IMAGE: &str = "package";
/// What devices have at first: nothing that the package could share.
const FIRST_VERSION: u32 = 1;
/// All devices have seen the offer.
const OFFER: Duration = Duration::from_secs(120);

/// A super node and its fleet.
#[derive(Default)]
pub(super) struct Ours {
    bootstraps: Vec<Bootstrap>,
    maker: Option<Maker>,
    devices: Vec<Device>,
    pids: Vec<u32>,
    version: u32,
}

struct Device {
    node: Node,
    place: PathBuf,
    /// Which file lies there until the update.
    inode: u64,
    done: bool,
}

impl Ours {
    fn maker(&self) -> Result<&Maker> {
        self.maker.as_ref().context("no super node")
    }

    fn start_devices(&mut self, stage: &Stage, bundle: &Path) -> Result<()> {
        let seeds = seed_flags(&self.bootstraps)?;
        let mut nodes = Vec::new();
        for host in &stage.devices {
            let folder = stage.folder(host)?;
            let (place, config) = (folder.join("package"), folder.join("node.toml"));
            fs::write(&place, "the firmware of the factory\n")?;
            fs::write(&config, configuration(bundle, &place))?;
            let mut flags = seeds.clone();
            flags.extend(["--kind", "peer", "--config"].map(String::from));
            flags.push(config.display().to_string());
            nodes.push((stage.world.start(&host.namespace, &format!("{}-node", host.name), flags)?, place));
        }
        for (node, place) in nodes {
            node.wait_joined()?;
            self.pids.push(pid(&node)?);
            self.devices.push(Device { node, inode: 0, done: false, place });
        }
        let uids = self.devices.iter().map(|device| device.node.uid()).collect::<Result<Vec<_>>>()?;
        self.maker()?.add(&uids)
    }

    /// Publishes and waits until every device knows of it.
    fn publish(&mut self, package: &Path) -> Result<()> {
        self.version += 1;
        self.maker()?.publish(self.version, IMAGE, package)?;
        let version = Maker::name(self.version);
        for device in &mut self.devices {
            (device.inode, device.done) = (device.lies()?, false);
            device.node.call(&["ota", "check"])?;
        }
        self.devices.iter().try_for_each(|device| {
            let offered = |state: &Value| state["offered"] == version.as_str() && state["stage"] == "offered";
            let look = || Ok(Some(device.state()?).filter(offered));
            sh::wait_for(&format!("{} to see the offer", device.node.name()), OFFER, look).map(drop)
        })
    }
}

impl Device {
    fn state(&self) -> Result<Value> {
        self.node.call(&["ota", "state"])
    }

    /// Which file lies in the package's place.
    fn lies(&self) -> Result<u64> {
        Ok(fs::metadata(&self.place)?.ino())
    }
}

impl Program for Ours {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&mut self, stage: &mut Stage) -> Result<()> {
        self.version = FIRST_VERSION;
        self.bootstraps = stage.world.bootstraps(1)?;
        let maker = Maker::start(&stage.world, &stage.origin.namespace, &self.bootstraps, MODEL)?;
        self.pids.push(pid(maker.node())?);
        let bundle = maker.bundle().to_owned();
        self.maker = Some(maker);
        self.start_devices(stage, &bundle)?;
        let package = stage.package.clone();
        self.publish(&package)
    }

    fn prepare_second(&mut self, package: &Path) -> Result<bool> {
        self.publish(package)?;
        Ok(true)
    }

    fn tell(&mut self) -> Result<()> {
        let nodes = self.devices.iter().map(|device| &device.node);
        let version = Maker::name(self.version);
        thread::scope(|scope| {
            let agree = |node: &Node| node.call(&["ota", "install", &version, "--now"]).map(drop);
            let calls: Vec<_> = nodes.map(|node| scope.spawn(move || agree(node))).collect();
            calls.into_iter().try_for_each(|call| call.join().unwrap_or_else(|_| bail!("a call panicked")))
        })
    }

    fn next_done(&mut self, limit: Duration) -> Result<(usize, Instant)> {
        let devices = &mut self.devices;
        let look = || {
            for (number, device) in devices.iter_mut().enumerate().filter(|(_, device)| !device.done) {
                if device.lies()? != device.inode {
                    device.done = true;
                    return Ok(Some((number, Instant::now())));
                }
            }
            Ok(None)
        };
        sh::wait_for("a device to be done", limit, look).with_context(|| {
            let waiting = self.devices.iter().find(|device| !device.done);
            waiting.and_then(|device| device.state().ok()).map(|state| state.to_string()).unwrap_or_default()
        })
    }

    fn note(&self) -> Option<String> {
        let mut bytes = [0; 4];
        for device in &self.devices {
            let state = device.state().ok()?;
            for (sum, source) in bytes.iter_mut().zip(state["by_source"].as_array()?) {
                *sum += source.as_u64()?;
            }
        }
        let [maker, local, others, relayed] = bytes;
        Some(format!(
            "bytes from the maker {maker}, the local network {local}, other devices {others}, over relays {relayed}"
        ))
    }

    fn processes(&self) -> Vec<u32> {
        self.pids.clone()
    }

    fn finish(&mut self) -> Result<()> {
        for device in self.devices.drain(..) {
            device.node.stop()?;
        }
        self.maker.take().map_or(Ok(()), Maker::stop)
    }

    fn copy(&self, device: usize) -> Result<PathBuf> {
        Ok(self.devices.get(device).context("no such device")?.place.clone())
    }
}

fn pid(node: &Node) -> Result<u32> {
    let pid = node.call(&["id"])?["pid"].as_u64().context("`ioex id` has no `pid`")?;
    Ok(u32::try_from(pid)?)
}

/// A device that asks its owner, and whose firmware is one file; all else as it comes.
fn configuration(bundle: &Path, place: &Path) -> String {
    format!(
        "[ota]\nbundle = {:?}\ninstalled = \"{FIRST_VERSION}\"\nconsent = \"ask\"\n\n[ota.install.swap]\npath = {:?}\n",
        bundle.display().to_string(),
        place.display().to_string()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_what_it_has_and_where_it_goes() {
        let text = configuration(Path::new("/lab/bundle"), Path::new("/lab/package"));
        for line in ["bundle = \"/lab/bundle\"", "installed = \"1\"", "path = \"/lab/package\""] {
            assert!(text.contains(line), "{text}");
        }
    }
}
