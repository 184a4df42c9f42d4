//! The lab's internet: one network of public addresses, bootstraps in it, hosts behind routers.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::nat::Nat;
use crate::{
    netns::{Lab, Namespace},
    node::{Node, Setup},
    probe::Behaviour,
    sh::{self, Process},
};

/// The public network (TEST-NET-2, which no real host has).
const PUBLIC: &str = "198.51.100";

/// Where the internet itself answers: the way to nowhere, and the probe's second address.
const GATEWAY: u8 = 254;
const PROBE: u8 = 253;

/// The bootstraps' first port; each takes three.
const BOOTSTRAP_PORT: u16 = 7000;

/// A probe asks at most a dozen times.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// The three sockets of the probe's server.
fn probe_sockets() -> [String; 3] {
    [format!("{PUBLIC}.{GATEWAY}:3478"), format!("{PUBLIC}.{GATEWAY}:3479"), format!("{PUBLIC}.{PROBE}:3478")]
}

/// Everything outside of the hosts.
pub(crate) struct World {
    ioex: PathBuf,
    internet: Namespace,
    /// Public addresses and bridge ports given out so far.
    attached: u8,
    probe: Option<Process>,
    /// Last, because its end takes the namespaces away from under everything else.
    lab: Lab,
}

impl World {
    /// The internet, with nothing attached.
    pub(crate) fn new(ioex: PathBuf) -> Result<Self> {
        let lab = Lab::open()?;
        let internet = lab.namespace("internet")?;
        internet.ip(&["link", "add", "bridge", "type", "bridge", "forward_delay", "0"])?;
        internet.address("bridge", &format!("{PUBLIC}.{GATEWAY}/24"))?;
        internet.address("bridge", &format!("{PUBLIC}.{PROBE}/24"))?;
        internet.ip(&["link", "set", "bridge", "up"])?;
        // A switch, not a firewall. The parameter is there only where the kernel has filters for bridges loaded.
        let _ = internet.set("net/bridge/bridge-nf-call-iptables", "0");
        Ok(Self { lab, ioex, internet, attached: 0, probe: None })
    }

    /// Files of this run.
    pub(crate) fn dir(&self) -> &Path {
        self.lab.dir()
    }

    /// A new namespace.
    pub(crate) fn namespace(&self, name: &str) -> Result<Namespace> {
        self.lab.namespace(name)
    }

    /// Plugs `device` of a namespace into the internet; returns its public address.
    pub(crate) fn attach(&mut self, namespace: &Namespace, device: &str) -> Result<String> {
        self.attached += 1;
        ensure!(self.attached < PROBE, "the lab's internet is full");
        let port = format!("port{}", self.attached);
        namespace.cable(device, &self.internet, &port)?;
        self.internet.ip(&["link", "set", &port, "master", "bridge"])?;
        let address = format!("{PUBLIC}.{}", self.attached);
        namespace.address(device, &format!("{address}/24"))?;
        namespace.default_route(&format!("{PUBLIC}.{GATEWAY}"))?;
        Ok(address)
    }

    /// Starts bootstraps, each a public host of its own that knows the ones before it.
    pub(crate) fn bootstraps(&mut self, count: usize) -> Result<Vec<Bootstrap>> {
        let mut bootstraps: Vec<Bootstrap> = Vec::new();
        for index in 1..=count {
            let name = format!("bootstrap{index}");
            let namespace = self.namespace(&name)?;
            let address = self.attach(&namespace, "eth0")?;
            let mut flags: Vec<String> =
                ["--kind", "bootstrap", "--public-ip", &address].map(String::from).into();
            flags.extend(["--port".into(), BOOTSTRAP_PORT.to_string()]);
            flags.extend(seed_flags(&bootstraps)?);
            let node = self.start(&namespace, &name, flags.clone())?;
            bootstraps.push(Bootstrap { name, namespace, flags, node: Some(node) });
        }
        Ok(bootstraps)
    }

    /// Starts a node.
    pub(crate) fn start(&self, namespace: &Namespace, name: &str, flags: Vec<String>) -> Result<Node> {
        Node::start(&Setup { ioex: &self.ioex, namespace, dir: self.lab.dir(), name, flags })
    }

    /// Starts a peer and waits until it has joined.
    pub(crate) fn peer(
        &self,
        namespace: &Namespace,
        name: &str,
        seeds: &[Bootstrap],
        flags: &[&str],
    ) -> Result<Node> {
        let mut all = seed_flags(seeds)?;
        all.extend(["--kind", "peer"].map(String::from));
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let node = self.start(namespace, name, all)?;
        node.wait_joined()?;
        Ok(node)
    }

    /// Starts what the probes of [`Host::probe`] ask.
    pub(crate) fn serve_probes(&mut self) -> Result<()> {
        let mut command = self.internet.command(std::env::current_exe()?);
        command.arg("probe-server").args(probe_sockets()).stdin(Stdio::null()).stdout(Stdio::null());
        self.probe = Some(Process::new(command.spawn()?));
        Ok(())
    }
}

/// `--seed` for each bootstrap that runs.
pub(crate) fn seed_flags(bootstraps: &[Bootstrap]) -> Result<Vec<String>> {
    let running = bootstraps.iter().filter_map(|bootstrap| bootstrap.node.as_ref());
    let mut flags = Vec::new();
    for node in running {
        flags.extend(["--seed".to_owned(), node.seed()?.to_owned()]);
    }
    Ok(flags)
}

/// A bootstrap, which scenarios stop and start.
pub(crate) struct Bootstrap {
    /// Its name in this run.
    pub(crate) name: String,
    /// Its host.
    pub(crate) namespace: Namespace,
    flags: Vec<String>,
    /// The process, while it runs.
    pub(crate) node: Option<Node>,
}

impl Bootstrap {
    /// The node; an error while it is stopped.
    pub(crate) fn node(&self) -> Result<&Node> {
        self.node.as_ref().with_context(|| format!("{} is stopped", self.name))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.node.take().map_or(Ok(()), Node::kill)
    }

    /// Starts it again with the same data and address.
    pub(crate) fn restart(&mut self, world: &World) -> Result<()> {
        self.node = Some(world.start(&self.namespace, &self.name, self.flags.clone())?);
        Ok(())
    }
}

/// A host and its routers.
pub(crate) struct Host {
    /// Its name in this run.
    pub(crate) name: String,
    /// Where its programs run; its uplink is `eth0`.
    pub(crate) namespace: Namespace,
    /// From the host outwards.
    pub(crate) routers: Vec<Namespace>,
}

impl Host {
    /// Builds a host behind its routers. `name` is unique and short.
    pub(crate) fn build(world: &mut World, nat: Nat, name: &str) -> Result<Self> {
        let name = format!("{nat}-{name}");
        let namespace = world.namespace(&name)?;
        let mut routers = Vec::new();
        match nat {
            Nat::Open => {
                world.attach(&namespace, "eth0")?;
            }
            Nat::Double => {
                let carrier = world.namespace(&format!("{name}-carrier"))?;
                let home = world.namespace(&format!("{name}-router"))?;
                world.attach(&carrier, "wan")?;
                behind(&home, "wan", &carrier, "lan", CARRIER, nat)?;
                behind(&namespace, "eth0", &home, "lan", HOME, Nat::PortRestricted)?;
                routers.extend([home, carrier]);
            }
            _ => {
                let router = world.namespace(&format!("{name}-router"))?;
                world.attach(&router, "wan")?;
                behind(&namespace, "eth0", &router, "lan", HOME, nat)?;
                routers.push(router);
            }
        }
        Ok(Self { name, namespace, routers })
    }

    /// A second way out, over a router of its own, not yet in use.
    pub(crate) fn second_uplink(&mut self, world: &mut World, nat: Nat) -> Result<()> {
        let router = world.namespace(&format!("{}-router2", self.name))?;
        world.attach(&router, "wan")?;
        self.namespace.cable("eth1", &router, "lan")?;
        router.address("lan", &format!("{SECOND}.1/24"))?;
        self.namespace.address("eth1", &format!("{SECOND}.2/24"))?;
        self.namespace.ip(&["link", "set", "eth1", "down"])?;
        forward(&router, nat, &format!("{SECOND}.2"))?;
        self.routers.push(router);
        Ok(())
    }

    /// Leaves the first uplink for the second, as a phone leaves the wireless network.
    pub(crate) fn switch_uplink(&self) -> Result<()> {
        self.namespace.ip(&["link", "set", "eth0", "down"])?;
        self.namespace.ip(&["link", "set", "eth1", "up"])?;
        self.namespace.default_route(&format!("{SECOND}.1"))
    }

    /// Measures what the routers do.
    pub(crate) fn probe(&self) -> Result<Behaviour> {
        let mut command = self.namespace.command(std::env::current_exe()?);
        let told = sh::output(command.arg("probe").args(probe_sockets()), PROBE_LIMIT)?;
        Behaviour::parse(&serde_json::from_str(told.trim()).context("the probe printed no JSON")?)
    }

    /// Makes the routers forget all mappings.
    pub(crate) fn forget_mappings(&self) -> Result<()> {
        self.routers.iter().try_for_each(Namespace::flush_connections)
    }
}

/// Private networks: homes may all have the same one, as they do.
const HOME: &str = "192.168.1";
const SECOND: &str = "192.168.2";
const CARRIER: &str = "100.64.0";

/// Connects `inner` to the inside of `router`.
fn behind(
    inner: &Namespace,
    device: &str,
    router: &Namespace,
    port: &str,
    net: &str,
    nat: Nat,
) -> Result<()> {
    inner.cable(device, router, port)?;
    router.address(port, &format!("{net}.1/24"))?;
    inner.address(device, &format!("{net}.2/24"))?;
    inner.default_route(&format!("{net}.1"))?;
    forward(router, nat, &format!("{net}.2"))
}

fn forward(router: &Namespace, nat: Nat, host: &str) -> Result<()> {
    router.set("net/ipv4/ip_forward", "1")?;
    let rules = nat.rules(host).context("an open host has no router")?;
    router.nft(&rules)
}
