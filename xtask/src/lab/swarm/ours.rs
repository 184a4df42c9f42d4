//! Ours: a super node at the origin that publishes to a channel, and devices that take updates from it.
//!
//! Devices are asked first and have seen the offer when the clock begins, as the other programs know what they are
//! to fetch; the word to all of them is their owners' consent. A device is done when the package lies verified in
//! its place, decrypted and on disk, not when its last shard has come.

use std::{
    fs,
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
    node::{Node, Stream},
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
    told: Option<Instant>,
}

struct Device {
    node: Node,
    follow: Stream,
    /// What it said last.
    state: Value,
    /// When all shards of this version were there.
    fetched: Option<Instant>,
    done: bool,
    place: PathBuf,
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
            let follow = node.stream(&["ota", "follow"])?;
            self.devices.push(Device { node, follow, state: Value::Null, fetched: None, done: false, place });
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
            (device.fetched, device.done) = (None, false);
            device.node.call(&["ota", "check"])?;
        }
        let mut look = || {
            self.devices.iter_mut().try_for_each(Device::read)?;
            let knows = |device: &Device| {
                device.state["offered"] == version.as_str() && device.state["stage"] == "offered"
            };
            Ok(self.devices.iter().all(knows).then_some(()))
        };
        sh::wait_for("all devices to see the offer", OFFER, &mut look)
            .with_context(|| self.devices.first().map(|device| device.state.to_string()).unwrap_or_default())
    }
}

impl Device {
    /// Takes in what it has said since.
    fn read(&mut self) -> Result<()> {
        while let Some(line) = self.follow.next(Duration::ZERO)? {
            let state = &line["value"]["value"];
            if line["type"] != "update" || !state.is_object() {
                bail!("{}: `ioex ota follow` said {line}", self.node.name());
            }
            let past_fetching = matches!(
                state["stage"].as_str(),
                Some("fetched" | "installing" | "installed" | "confirmed" | "idle")
            );
            if past_fetching && self.state["stage"] == "fetching" {
                self.fetched = Some(Instant::now());
            }
            self.state = state.clone();
        }
        Ok(())
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
        self.told = Some(Instant::now());
        let nodes = self.devices.iter().map(|device| &device.node);
        thread::scope(|scope| {
            let agree = |node: &Node| node.call(&["ota", "install", "--now"]).map(drop);
            let calls: Vec<_> = nodes.map(|node| scope.spawn(move || agree(node))).collect();
            calls.into_iter().try_for_each(|call| call.join().unwrap_or_else(|_| bail!("a call panicked")))
        })
    }

    fn next_done(&mut self, limit: Duration) -> Result<(usize, Instant)> {
        let version = Maker::name(self.version);
        let devices = &mut self.devices;
        let look = || {
            for (number, device) in devices.iter_mut().enumerate().filter(|(_, device)| !device.done) {
                device.read()?;
                if device.state["running"] == version.as_str() && device.state["stage"] == "idle" {
                    device.done = true;
                    return Ok(Some((number, Instant::now())));
                }
            }
            Ok(None)
        };
        sh::wait_for("a device to be done", limit, look).with_context(|| {
            let waiting = self.devices.iter().find(|device| !device.done);
            waiting.map(|device| format!("{}: {}", device.node.name(), device.state)).unwrap_or_default()
        })
    }

    fn note(&self) -> Option<String> {
        let told = self.told?;
        let mut fetched: Vec<f64> =
            self.devices.iter().filter_map(|d| Some(d.fetched?.duration_since(told).as_secs_f64())).collect();
        fetched.sort_by(f64::total_cmp);
        let sum = |source: usize| -> u64 {
            self.devices.iter().filter_map(|device| device.state["by_source"][source].as_u64()).sum()
        };
        Some(format!(
            "the last shard came after {:.1} s at half of the devices, {:.1} s at the last; bytes from the maker {}, \
             the local network {}, other devices {}, over relays {}",
            fetched.get(fetched.len().saturating_sub(1) / 2)?,
            fetched.last()?,
            sum(0),
            sum(1),
            sum(2),
            sum(3),
        ))
    }

    fn processes(&self) -> Vec<u32> {
        self.pids.clone()
    }

    fn finish(&mut self) -> Result<()> {
        for device in self.devices.drain(..) {
            drop(device.follow);
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
