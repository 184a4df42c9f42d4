//! Which nodes `ioex up` runs, and at which addresses: chosen once, then remembered, so that a
//! network that was started again is the same one.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use anyhow::Context as _;
use ioex_base::NodeKind;
use serde::{Deserialize, Serialize};

use crate::node::files;

/// The file in the data folder.
const FILE_NAME: &str = "network.json";
/// Version of its format.
const VERSION: u32 = 1;
/// How often other ports are tried when a bootstrap's three are not all free.
const PORT_TRIES: usize = 100;
/// A bootstrap uses this many ports in a row: its port over TCP and UDP, the others over UDP.
const BOOTSTRAP_PORTS: u16 = 3;

/// The network's nodes, in the order in which they are started.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    version: u32,
    pub(super) nodes: Vec<Place>,
}

/// One node's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Also the name of its folder.
    pub(super) name: String,
    pub(super) kind: NodeKind,
    /// Distinct owners are distinct failure domains.
    pub(super) owner: String,
    pub(super) ip: Ipv4Addr,
    pub(super) port: u16,
}

impl Plan {
    /// The plan in `data`, with nodes added where it has too few of them, and written back.
    pub(super) fn load_or_make(data: &Path, bootstraps: u8, peers: u8) -> anyhow::Result<Self> {
        let path = data.join(FILE_NAME);
        let old = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Self>(&bytes)
                .with_context(|| format!("{} makes no sense: remove it to start anew", path.display()))?,
            Err(e) if e.kind() == ErrorKind::NotFound => Self { version: VERSION, nodes: Vec::new() },
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        anyhow::ensure!(old.version == VERSION, "{} has an unknown version", path.display());
        let mut plan = Self { version: VERSION, nodes: Vec::new() };
        let mut unused = old.nodes;
        for wanted in wanted(bootstraps, peers) {
            let known = unused.iter().position(|p| p.name == wanted.name && p.kind == wanted.kind);
            plan.nodes.push(match known {
                Some(at) => unused.swap_remove(at),
                None => {
                    with_free_port(&wanted, &plan.nodes).context("no free ports on the loopback addresses")?
                }
            });
        }
        // Those that this run does not start keep their places for another one.
        let started = plan.nodes.len();
        plan.nodes.append(&mut unused);
        files::replace(&path, &serde_json::to_vec_pretty(&plan)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        plan.nodes.truncate(started);
        Ok(plan)
    }
}

/// All nodes, without ports. Each peer has a /24 of its own: rules that spread copies or limit
/// strangers by network see distinct networks.
fn wanted(bootstraps: u8, peers: u8) -> Vec<Place> {
    let place = |name: String, kind, owner: String, ip| Place { name, kind, owner, ip, port: 0 };
    let mut all = Vec::new();
    for i in 1..=bootstraps {
        // The DHT's socket is bound to all addresses and answers from the main one, so on
        // loopback a bootstrap must have that one.
        let ip = Ipv4Addr::LOCALHOST;
        all.push(place(format!("boot-{i}"), NodeKind::Bootstrap, format!("partner-{i}"), ip));
    }
    for i in 1..=peers {
        let ip = Ipv4Addr::new(127, 20, i, 1);
        all.push(place(format!("peer-{i}"), NodeKind::Peer, format!("owner-{i}"), ip));
    }
    let (spn, phone) = (Ipv4Addr::new(127, 21, 1, 1), Ipv4Addr::new(127, 22, 1, 1));
    all.push(place("super".to_owned(), NodeKind::Super, "operator".to_owned(), spn));
    all.push(place("phone".to_owned(), NodeKind::Phone, "user".to_owned(), phone));
    all
}

/// Gives a place ports that are free and not promised to another place.
fn with_free_port(place: &Place, taken: &[Place]) -> io::Result<Place> {
    let ip = IpAddr::V4(place.ip);
    for _ in 0..PORT_TRIES {
        let port = if place.kind == NodeKind::Bootstrap { free_row(ip)? } else { free_udp(ip)? };
        if taken.iter().all(|p| p.ip != place.ip || p.port.abs_diff(port) >= BOOTSTRAP_PORTS) {
            return Ok(Place { port, ..place.clone() });
        }
    }
    Err(ErrorKind::AddrInUse.into())
}

fn free_udp(ip: IpAddr) -> io::Result<u16> {
    Ok(UdpSocket::bind((ip, 0))?.local_addr()?.port())
}

/// The first of [`BOOTSTRAP_PORTS`] free ports in a row.
fn free_row(ip: IpAddr) -> io::Result<u16> {
    let mut last = io::Error::from(ErrorKind::AddrInUse);
    for _ in 0..PORT_TRIES {
        let tcp = TcpListener::bind((ip, 0))?;
        let first = tcp.local_addr()?.port();
        let row = first.checked_add(BOOTSTRAP_PORTS).map_or(0..0, |end| first..end);
        if row.is_empty() {
            continue;
        }
        let udp: io::Result<Vec<_>> = row.map(|port| UdpSocket::bind(SocketAddr::new(ip, port))).collect();
        match udp {
            Ok(_) => return Ok(first),
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_plan_is_the_same_when_it_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = Plan::load_or_make(folder.path(), 2, 4).unwrap();
        assert_eq!(first.nodes.len(), 2 + 4 + 2);
        assert!(first.nodes.iter().all(|p| p.port != 0));
        assert_eq!(Plan::load_or_make(folder.path(), 2, 4).unwrap(), first);
    }

    #[test]
    fn nodes_of_other_runs_keep_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let large = Plan::load_or_make(folder.path(), 2, 6).unwrap();
        let small = Plan::load_or_make(folder.path(), 1, 4).unwrap();
        assert_eq!(small.nodes.len(), 1 + 4 + 2);
        assert_eq!(Plan::load_or_make(folder.path(), 2, 6).unwrap(), large);
    }

    #[test]
    fn addresses_networks_and_owners_are_distinct() {
        let all = wanted(100, 200);
        let ips: HashSet<_> = all.iter().map(|p| p.ip).collect();
        let owners: HashSet<_> = all.iter().map(|p| &p.owner).collect();
        let devices = all.iter().filter(|p| p.kind != NodeKind::Bootstrap);
        let networks: HashSet<_> = devices.map(|p| p.ip.octets()[..3].to_vec()).collect();
        assert_eq!((ips.len(), owners.len(), networks.len()), (203, 302, 202));
    }

    #[test]
    fn a_damaged_plan_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), "{").unwrap();
        let error = Plan::load_or_make(folder.path(), 1, 4).unwrap_err();
        assert!(error.to_string().contains(FILE_NAME), "{error}");
    }
}
